"""The flows of the ready queue: tasks of one submitter for one requirement group in one lane, first come first.

A flow keeps its tasks in lines: one for those that no limit concerns, and one for each set of limits that concerns
some. A line that is closed stands still, and the rest of its flow goes on past it. A flow takes part in turns while
it has a head: its least entry in an open line. `Preview` tells in which order tasks would start.
"""

from __future__ import annotations

import heapq
from array import array
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from itertools import chain
from typing import Final

from agentcom.core.tail import Tail
from agentcom.core.turns import ID_BITS, LEFT_MAX, ORDER, SHARE_UNIT, Turns, TurnsPreview

HEAD_ROWS: Final = 1024  # of a line that lie in memory as they are handled; those behind are few bytes each


class Line:
    """Entries in order. What comes in order, nearly all, lies in `entries`, and beyond HEAD_ROWS of them in `tail`;
    what comes back with an older key in the heap `early`. `gone` are entries that left from the middle; the least
    entry always stands. `last` is the greatest of `entries` and `tail` while there are any."""

    __slots__ = ("early", "entries", "last", "number", "tail")

    def __init__(self, number: int) -> None:
        self.number = number
        self.entries: deque[int] = deque()
        self.tail: Tail | None = None  # never empty, and `entries` is not while there is one
        self.last = 0
        self.early: list[int] = []

    def add(self, entry: int) -> None:
        if not self.entries or entry > self.last:
            self.append(entry)
        else:
            heapq.heappush(self.early, entry)

    def append(self, entry: int) -> None:
        """One that comes after all in order."""
        self.last = entry
        if self.tail is None:
            if len(self.entries) < HEAD_ROWS:
                self.entries.append(entry)
                return
            self.tail = Tail()
        self.tail.halves.extend((entry >> ID_BITS, entry & ORDER))

    def extend(self, keys: array[int], tasks: array[int]) -> None:
        """Some that come after all in order, at least one."""
        if self.tail is None:
            free = max(0, HEAD_ROWS - len(self.entries))
            self.entries.extend([k << ID_BITS | task for k, task in zip(keys[:free], tasks[:free], strict=True)])
            if len(keys) > free:
                self.tail = Tail()
                self.tail.extend(keys[free:], tasks[free:])
        else:
            self.tail.extend(keys, tasks)
        self.last = keys[-1] << ID_BITS | tasks[-1]

    def replace(self, entries: Iterable[int]) -> None:
        """Have these, in order, and no others."""
        self.early.clear()
        self.entries.clear()
        self.tail = None
        for entry in entries:
            self.append(entry)

    def least(self) -> int:
        """0 when there is none."""
        early, entries = self.early, self.entries
        if early and not (entries and entries[0] < early[0]):
            return early[0]
        return entries[0] if entries else 0

    def drop_least(self, gone: dict[int, int]) -> int:
        """Drop the least entry, and what is gone after it; the least that is left then."""
        while True:
            if not self.early or (self.entries and self.entries[0] < self.early[0]):
                self.entries.popleft()
                if self.tail is not None and not self.entries:
                    self._refill()
            else:
                heapq.heappop(self.early)
            least = self.least()
            if not gone or least not in gone:
                return least
            del gone[least]

    def remove(self, entry: int) -> None:
        """Take out any entry. O(entries)."""
        if entry in self.early:
            self.early.remove(entry)
            heapq.heapify(self.early)
        else:
            early = self.early.copy()
            self.replace([one for one in self._in_order() if one != entry])
            self.early = early

    def walk(self) -> Iterator[int]:
        """All entries in order; O(1) each, O(early log early) at the start."""
        return heapq.merge(self._in_order(), sorted(self.early)) if self.early else self._in_order()

    def _in_order(self) -> Iterator[int]:
        return iter(self.entries) if self.tail is None else chain(self.entries, self.tail)

    def _refill(self) -> None:
        assert self.tail is not None, "asked for where there is one"
        self.entries.extend(self.tail.take())
        if not len(self.tail):
            self.tail = None


class Flow:
    """Tasks of one submitter for one requirement group (`number`) in one lane. `head` is its least entry in an open
    line, 0 while it waits for a line to open; then it takes no part in turns."""

    __slots__ = ("head", "key", "lane", "lines", "number", "share", "step", "submitter")

    def __init__(self, group: int, submitter: int, lane: int) -> None:
        self.number = group
        self.submitter = submitter
        self.lane = lane
        self.key = 0
        self.step = SHARE_UNIT
        self.head = 0
        self.lines: dict[int, Line] = {}
        self.share: Share | None = None

    def least(self, closed: set[int]) -> int:
        """The least entry in an open line, 0 when there is none."""
        found = 0
        for number, line in self.lines.items():
            if number not in closed:
                least = line.least()
                if not found or least < found:
                    found = least
        return found

    def walk(self, closed: set[int]) -> Iterator[int]:
        """The entries of open lines in order."""
        lines = [line.walk() for number, line in self.lines.items() if number not in closed]
        return lines[0] if len(lines) == 1 else heapq.merge(*lines)


class Share:
    """A submitter in one pool and lane, with its flows."""

    __slots__ = ("flows", "key", "number", "pool", "step")

    def __init__(self, submitter: int, pool: Pool, step: int) -> None:
        self.number = submitter
        self.key = 0
        self.step = step
        self.pool = pool
        self.flows: Turns[Flow] = Turns()


class Pool:
    """The tasks of one lane that ask the same of a place to run. `heads` has the first entry of each flow; `ages`
    is a heap of them, kept while there are several flows."""

    __slots__ = ("ages", "heads", "key", "number", "shares", "step")

    def __init__(self, number: int) -> None:
        self.number = number
        self.key = 0
        self.step = SHARE_UNIT
        self.shares: Turns[Share] = Turns()
        self.heads: dict[int, Flow] = {}
        self.ages: list[int] = []

    def add_head(self, flow: Flow) -> None:
        self.heads[flow.head] = flow
        if len(self.heads) == 1:
            self.ages = []
        elif not self.ages or len(self.ages) > 2 * len(self.heads) + LEFT_MAX:
            self.ages = sorted(self.heads)
        else:
            heapq.heappush(self.ages, flow.head)

    def claim(self) -> int:
        """The oldest task."""
        if len(self.heads) == 1:
            [head] = self.heads
            return head
        while self.ages[0] not in self.heads:
            heapq.heappop(self.ages)
        return self.ages[0]

    def first(self) -> tuple[int, int]:
        """The task whose turn it is, and its group."""
        flow = self.shares.first().flows.first()
        return flow.head, flow.number

    def oldest(self, count: int) -> list[int]:
        """The least heads of flows, in order. O(count log flows)."""
        if len(self.heads) <= count:
            return sorted(self.heads)
        found: list[int] = []
        while len(found) < count:
            head = heapq.heappop(self.ages)
            if head in self.heads and (not found or found[-1] != head):
                found.append(head)
        for head in found:
            heapq.heappush(self.ages, head)
        return found


class Preview:
    """The order of one pool's tasks in one lane as it would be if each that is taken from here started. Changes
    nothing in the queue. `claim` is its oldest task not taken, 0 when there is none."""

    __slots__ = (
        "_ages",
        "_closed",
        "_count",
        "_current",
        "_flows",
        "_gone",
        "_only",
        "_shares",
        "_walk",
        "_walks",
        "claim",
        "pool",
    )

    def __init__(self, pool: Pool, count: int, gone: Collection[int], closed: set[int]) -> None:
        self.pool = pool
        self._count = count
        self._gone = gone
        self._closed = closed
        self._shares: TurnsPreview[Share] | None = None
        self._flows: dict[int, TurnsPreview[Flow]] = {}  # by submitter
        self._walks: dict[
            int, tuple[int, Iterator[int]]
        ] = {}  # by order of joining: next entry, those after it
        self._current: set[int] = set()  # the next entries of flows in `_walks`
        self._ages: list[int] = []
        self._only = next(iter(pool.heads.values())) if len(pool.heads) == 1 else None
        if self._only is not None:  # nobody shares the pool: its entries are the order
            self._walk = self._entries(self._only)
            self.claim = next(self._walk)
        else:
            self._ages = pool.oldest(count + 1)
            self.claim = self._ages[0]

    def all(self) -> list[tuple[int, int]]:
        """Its first `count`, with their group."""
        found: list[tuple[int, int]] = []
        while self.claim and len(found) < self._count:
            found.append(self.take())
        return found

    def take(self) -> tuple[int, int]:
        """The next entry and its group."""
        if self._only is not None:
            entry, self.claim = self.claim, next(self._walk, 0)
            return entry, self._only.number
        shares = self._shares
        if shares is None:
            shares = self._shares = TurnsPreview(self.pool.shares, self._count)
        share = shares.first()
        if len(share.flows.members) == 1:
            flow = share.flows.first()
            entry, after = self._step(flow)
            shares.advance(after != 0)
        else:
            flows = self._flows.get(share.number)
            if flows is None:
                flows = self._flows[share.number] = TurnsPreview(share.flows, self._count)
            flow = flows.first()
            entry, after = self._step(flow)
            shares.advance(flows.advance(after != 0))
        ages = self._ages
        while ages and not self._stands(ages[0]):
            heapq.heappop(ages)
        self.claim = ages[0] if ages else 0
        return entry, flow.number

    def _step(self, flow: Flow) -> tuple[int, int]:
        """Take the flow's next entry; it and the one after it, 0 when there is none."""
        order = flow.key & ORDER
        known = self._walks.get(order)
        if known is None:
            walk = self._entries(flow)
            known = next(walk), walk
        entry, walk_on = known
        after = next(walk_on, 0)
        self._walks[order] = after, walk_on
        self._current.discard(entry)
        if after:
            self._current.add(after)
            heapq.heappush(self._ages, after)
        return entry, after

    def _entries(self, flow: Flow) -> Iterator[int]:
        """Those that are queued, in order."""
        walk, gone = flow.walk(self._closed), self._gone
        return (entry for entry in walk if entry not in gone) if gone else iter(walk)

    def _stands(self, entry: int) -> bool:
        """Whether the entry is the next of a flow."""
        if entry in self._current:
            return True
        flow = self.pool.heads.get(entry)
        return flow is not None and flow.key & ORDER not in self._walks
