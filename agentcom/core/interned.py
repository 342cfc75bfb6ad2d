"""Values that many tasks have in common, each kept once under a small number.

A number belongs to its value while something uses it, and a little longer: values that nothing uses stay until
there are more than `spare` of them, so one that comes back soon costs nothing. Then the number is free for another
value. So memory grows with what is live, not with what ever was.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Interned(Generic[T]):
    """Values by number, and how often each is used. `on_new(number, value)` is called when a number gets its value,
    `on_gone(number, value)` when it loses it."""

    def __init__(self, spare: int = 64) -> None:
        self.number_of: dict[T, int] = {}
        self.on_new: Callable[[int, T], None] = lambda _number, _value: None
        self.on_gone: Callable[[int, T], None] = lambda _number, _value: None
        self._spare = spare
        self._values: dict[int, T] = {}
        self._uses: dict[int, int] = {}
        self._idle: dict[int, None] = {}  # unused, the longest so first
        self._free: list[int] = []
        self._next = 0

    def __getitem__(self, number: int) -> T:
        return self._values[number]

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)

    def __contains__(self, number: int) -> bool:
        return number in self._values

    def used(self) -> dict[int, T]:
        """What is used, by number."""
        return {number: value for number, value in self._values.items() if self._uses[number]}

    def uses(self, number: int) -> int:
        return self._uses[number]

    def load(self, number: int, value: T) -> None:
        """A value under the number that it had, before any is taken. It is unused until it is taken."""
        assert number not in self._values, f"two values have the number {number}"
        assert value not in self.number_of, f"{value} has the numbers {number} and {self.number_of[value]}"
        for skipped in range(self._next, number):
            heapq.heappush(self._free, skipped)
        if number < self._next:
            self._free.remove(number)
            heapq.heapify(self._free)
        self._next = max(self._next, number + 1)
        self._add(number, value)
        self._idle[number] = None

    def take(self, value: T) -> int:
        """The number of the value, used once more. O(1), O(log free) for a new one."""
        number = self.number_of.get(value)
        if number is not None:
            if not self._uses[number]:
                del self._idle[number]
            self._uses[number] += 1
            return number
        if self._free:
            number = heapq.heappop(self._free)
        else:
            number, self._next = self._next, self._next + 1
        self._add(number, value)
        self._uses[number] = 1
        self.on_new(number, value)
        return number

    def take_for(self, value: T, uses: int) -> int:
        """The number of the value, used so many times more, at least once."""
        number = self.take(value)
        self._uses[number] += uses - 1
        return number

    def give(self, number: int) -> None:
        """One use less."""
        self._uses[number] -= 1
        if not self._uses[number]:
            self._idle[number] = None
            if len(self._idle) > self._spare:
                self._drop(next(iter(self._idle)))

    def trim(self, at_most: int) -> None:
        """Drop unused values beyond the spare ones, `at_most` of them."""
        for _ in range(min(at_most, len(self._idle) - self._spare)):
            self._drop(next(iter(self._idle)))

    def _add(self, number: int, value: T) -> None:
        self._values[number] = value
        self._uses[number] = 0
        self.number_of[value] = number

    def _drop(self, number: int) -> None:
        del self._idle[number], self._uses[number]
        value = self._values.pop(number)
        del self.number_of[value]
        heapq.heappush(self._free, number)
        self.on_gone(number, value)
