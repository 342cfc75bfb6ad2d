"""When the terms of waiting tasks end: near ones in order, far ones only by the stretch of time in which they do.

Nearly every term is days away and is over before it ends, since the task has run by then. Until its stretch comes up a
task costs eight bytes here, instead of an integer of 48 and its place in a heap.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable, Iterator
from typing import Final

from agentcom.core.lanes import key_of, pack, task_of

STRETCH_BITS: Final = 12  # of the milliseconds of a stretch, 4 s: its tasks are looked at in one go when it comes up


class Terms:
    """Tasks by the ends of their terms. One may be there several times; entries that no longer hold stay until they
    come up. `term_of(task)` is when its term ends now, None where it has none: asked when a stretch is opened."""

    def __init__(self, term_of: Callable[[int], int | None]) -> None:
        self._term_of = term_of
        self.clear()

    def clear(self) -> None:
        self._near: list[int] = []  # a heap of packed terms and tasks
        self._far: dict[int, array[int]] = {}  # tasks, by stretch
        self._first_ms: dict[int, int] = {}  # of each stretch
        self._order: list[int] = []  # a heap of the stretches
        self._far_count = 0

    def __len__(self) -> int:
        return len(self._near) + self._far_count

    def add(self, term_ms: int, task: int) -> None:
        """O(1), O(log stretches) for the first of a stretch."""
        stretch = term_ms >> STRETCH_BITS
        tasks = self._far.get(stretch)
        if tasks is None:
            self._far[stretch] = array("q", (task,))
            self._first_ms[stretch] = term_ms
            heapq.heappush(self._order, stretch)
        else:
            tasks.append(task)
            if term_ms < self._first_ms[stretch]:
                self._first_ms[stretch] = term_ms
        self._far_count += 1

    def add_many(self, terms_ms: array[int], tasks: array[int]) -> None:
        """Some at once, at least one, which most often are of one stretch."""
        first_ms = min(terms_ms)
        stretch = first_ms >> STRETCH_BITS
        if stretch != max(terms_ms) >> STRETCH_BITS:
            for term_ms, task in zip(terms_ms, tasks, strict=True):
                self.add(term_ms, task)
            return
        self.add(first_ms, tasks[0])
        self._far[stretch].extend(tasks[1:])
        self._far_count += len(tasks) - 1

    def due(self, term_ms: int) -> Iterator[int]:
        """Tasks whose term may have ended, in order, one at a time; the caller moves each before the next."""
        while True:
            while self._order and self._first_ms[self._order[0]] <= term_ms:
                self._open()
            if not self._near or key_of(self._near[0]) > term_ms:
                return
            yield task_of(heapq.heappop(self._near))

    def next_ms(self) -> int | None:
        """When the first one ends."""
        near_ms = key_of(self._near[0]) if self._near else None
        if not self._order:
            return near_ms
        far_ms = self._first_ms[self._order[0]]
        return far_ms if near_ms is None else min(near_ms, far_ms)

    def firsts(self) -> dict[int, int]:
        """By task when it is looked at first; for checks."""
        found: dict[int, int] = {}
        for entry in self._near:
            found[task_of(entry)] = min(key_of(entry), found.get(task_of(entry), key_of(entry)))
        for stretch, tasks in self._far.items():
            first_ms = self._first_ms[stretch]
            for task in tasks:
                found[task] = min(first_ms, found.get(task, first_ms))
        return found

    def _open(self) -> None:
        """The first stretch is near now: its tasks by the terms that they have by now."""
        stretch = heapq.heappop(self._order)
        tasks = self._far.pop(stretch)
        del self._first_ms[stretch]
        self._far_count -= len(tasks)
        for task in tasks:
            term_ms = self._term_of(task)
            if term_ms is not None:
                self._near.append(pack(term_ms, task))
        heapq.heapify(self._near)
