"""The far end of a long line: packed entries in order, at 16 bytes each instead of 56."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from agentcom.core.turns import ID_BITS

TAKEN_ROWS: Final = 256  # that leave it at a time


class Tail:
    """A queue of entries that only grow. `halves` has key and task of each in turn; the next one goes to its end."""

    __slots__ = ("_at", "halves")

    def __init__(self) -> None:
        self.halves = array("q")
        self._at = 0  # of the first that is left

    def __len__(self) -> int:
        return (len(self.halves) - self._at) // 2

    def __iter__(self) -> Iterator[int]:
        for n in range(self._at, len(self.halves), 2):
            yield self.halves[n] << ID_BITS | self.halves[n + 1]

    def extend(self, keys: array[int], tasks: array[int]) -> None:
        halves = array("q", bytes(2 * keys.itemsize * len(keys)))
        halves[::2], halves[1::2] = keys, tasks
        self.halves.extend(halves)

    def take(self) -> list[int]:
        """The first TAKEN_ROWS, which leave it. Amortised O(those)."""
        stop = min(self._at + 2 * TAKEN_ROWS, len(self.halves))
        found = [self.halves[n] << ID_BITS | self.halves[n + 1] for n in range(self._at, stop, 2)]
        self._at = stop
        if 2 * stop >= len(self.halves):
            del self.halves[:stop]
            self._at = 0
        return found
