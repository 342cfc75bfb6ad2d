"""The ready queue: per requirement group a heap of tasks, ordered across lanes by one fixed key.

The key is the time at which a task became ready plus a delay by lane (urgent none, low the most). A task of a
lower lane that has waited longer than the difference goes first: lanes age and nothing starves, while the key
never changes, so no queue is sorted again as time passes. Equal keys go by id, so a submitter's tasks of one
lane stay first in, first out. A task that leaves is removed lazily when it comes to the top, or by `compact`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

ID_BITS = 40


class ReadyQueue:
    """`is_ready(entry, group)` tells whether a packed entry still stands: the task is ready, in that group, under
    that very key. It is the only thing this asks of the table. `size` counts entries, fallen ones too."""

    def __init__(self, is_ready: Callable[[int, int], bool]) -> None:
        self._is_ready = is_ready
        self._heaps: dict[int, list[int]] = {}
        self.size = 0

    def push(self, group: int, order_key: int, task: int) -> None:
        """O(log n). `order_key` in ms; at most 2**63 with the id beneath it in one integer."""
        heapq.heappush(self._heaps.setdefault(group, []), pack(order_key, task))
        self.size += 1

    def groups(self) -> list[int]:
        """Groups that may have a ready task, in order of their number."""
        return sorted(self._heaps)

    def first(self, group: int, count: int) -> list[int]:
        """Up to `count` packed entries of the group, best first. They stay queued. O(count log n)."""
        heap = self._heaps.get(group)
        if heap is None:
            return []
        kept: list[int] = []
        while heap and len(kept) < count:
            entry = heapq.heappop(heap)
            self.size -= 1
            if (not kept or kept[-1] != entry) and self._is_ready(entry, group):
                kept.append(entry)
        for entry in kept:
            heapq.heappush(heap, entry)
        self.size += len(kept)
        if not heap:
            del self._heaps[group]
        return kept

    def compact(self) -> None:
        """Drop every entry that has fallen. O(n log n)."""
        for group in self.groups():
            standing = sorted({entry for entry in self._heaps[group] if self._is_ready(entry, group)})
            if standing:
                self._heaps[group] = standing  # a sorted list is a heap
            else:
                del self._heaps[group]
        self.size = sum(map(len, self._heaps.values()))


def pack(order_key: int, task: int) -> int:
    return order_key << ID_BITS | task


def task_of(entry: int) -> int:
    return entry & ((1 << ID_BITS) - 1)


def key_of(entry: int) -> int:
    return entry >> ID_BITS
