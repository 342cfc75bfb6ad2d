"""Turns by weight: start-time fair queueing among members, in integers.

A member's key rises by SHARE_UNIT / weight whenever something of it starts; the least key is next, equal keys go by
who joined first. One that was away, or that could not be served for a while, comes back at the turn that is on now:
it has lost nothing and saved nothing up. O(log members) a start.
"""

from __future__ import annotations

import heapq
from typing import Final, Generic, Protocol, TypeVar

ID_BITS: Final = 40
ORDER: Final = (1 << ID_BITS) - 1
SHARE_UNIT: Final = 720_720  # divisible by 1 to 16, so usual weights share without a remainder
WEIGHT_MAX: Final = 1000
LEFT_MAX: Final = 64  # entries that no longer count, beyond as many as do, before they are dropped


class Member(Protocol):
    """Who takes turns: `key` is (virtual start << ID_BITS | order of joining), `step` what one start costs."""

    number: int
    key: int
    step: int


M = TypeVar("M", bound=Member)


class Turns(Generic[M]):
    """Members in the order of their turns. `virtual` is the turn that is on: the latest start that was charged.
    With one member, the ordinary case, there is no heap at all."""

    __slots__ = ("_heap", "_left", "by_number", "members", "virtual")

    def __init__(self) -> None:
        self.virtual = 0
        self.by_number: dict[int, M] = {}
        self.members: dict[int, M] = {}  # by order of joining
        self._heap: list[int] = []
        self._left: dict[int, int] = {}

    def join(self, member: M, order: int) -> None:
        start = max(self.virtual, self._left.pop(member.number, 0))
        member.key = start << ID_BITS | order
        self.by_number[member.number] = self.members[order] = member
        if len(self.members) > 1:
            if not self._heap:
                self._heap = sorted(one.key for one in self.members.values())
            else:
                heapq.heappush(self._heap, member.key)

    def leave(self, member: M) -> None:
        """What it has used up is remembered for as long as it matters: until that turn has come."""
        del self.by_number[member.number], self.members[member.key & ORDER]
        if len(self.members) == 1:
            self._heap = []
        if member.key >> ID_BITS > self.virtual:
            self._left[member.number] = member.key >> ID_BITS
            if len(self._left) > len(self.members) + LEFT_MAX:
                self._left = {number: turn for number, turn in self._left.items() if turn > self.virtual}

    def charge(self, member: M) -> None:
        """A task of it has started."""
        start = member.key >> ID_BITS
        if start > self.virtual:
            self.virtual = start
        member.key = max(start + member.step, self.virtual) << ID_BITS | member.key & ORDER
        if len(self.members) > 1:
            heapq.heappush(self._heap, member.key)
            if len(self._heap) > 2 * len(self.members) + LEFT_MAX:
                self._heap = sorted(one.key for one in self.members.values())

    def first(self) -> M:
        """The member whose turn it is."""
        if len(self.members) == 1:
            [member] = self.members.values()
            return member
        heap = self._heap
        while True:
            found = self.members.get(heap[0] & ORDER)
            if found is not None and found.key == heap[0]:
                return found
            heapq.heappop(heap)

    def best(self, count: int) -> list[M]:
        """The members whose turns come first. O(count log members)."""
        if len(self.members) <= count:
            return list(self.members.values())
        heap = self._heap
        found: list[M] = []
        while len(found) < count:
            key = heapq.heappop(heap)
            member = self.members.get(key & ORDER)
            if member is not None and member.key == key:
                found.append(member)
        for member in found:
            heapq.heappush(heap, member.key)
        return found


class TurnsPreview(Generic[M]):
    """The order of members as it would be if each that is advanced had started. Changes nothing."""

    __slots__ = ("_heap", "_virtual")

    def __init__(self, turns: Turns[M], count: int) -> None:
        self._virtual = turns.virtual
        self._heap = [(member.key, member) for member in turns.best(count)]
        heapq.heapify(self._heap)

    def first(self) -> M:
        return self._heap[0][1]

    def advance(self, has_more: bool) -> bool:
        """The first has started; whether any has more."""
        key, member = self._heap[0]
        if not has_more:
            heapq.heappop(self._heap)
            return bool(self._heap)
        start = key >> ID_BITS
        self._virtual = max(self._virtual, start)
        start = max(start + member.step, self._virtual)
        heapq.heapreplace(self._heap, (start << ID_BITS | key & ORDER, member))
        return True


def step_of(weight: int) -> int:
    """What one start costs a member of that weight."""
    return SHARE_UNIT // min(max(weight, 1), WEIGHT_MAX)
