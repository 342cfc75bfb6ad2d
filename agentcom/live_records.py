"""How many results and notes in the store belong to tasks that are not over, which retention neither counts nor takes.

Found by counting under the numbers of live tasks: at first all of them, a bounded slice at a time, then those of which
the core says that something was written (`Story.live`). A task that runs through at once is never among them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from agentcom.core.effects import key_u64
from agentcom.core.hub import Hub
from agentcom.store.base import Store, after

SLICE: Final = 500  # tasks that are counted at a time


class Counted(NamedTuple):
    version: int
    results: int
    notes: int


class LiveRecords:
    """Owns the counts. For one thread, between ticks: what the core has decided is in the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hub: Hub | None = None
        self._unseen: list[int] = []
        self._seen: dict[int, Counted] = {}
        self.results = 0
        self.notes = 0

    def look(self, hub: Hub) -> bool:
        """Count what has changed; False while there are tasks that have not been counted yet."""
        if hub is not self._hub:
            self._hub = hub
            self._unseen, self._seen, self.results, self.notes = list(hub.tasks.table.slot_of), {}, 0, 0
        live, versions = hub.tasks.table.slot_of, hub.tasks.story.live
        for task in [task for task in self._seen if task not in live]:
            self._forget(task)
        left = SLICE
        for task, version in versions.items():
            known = self._seen.get(task)
            if known is None or known.version != version:
                if not left:
                    return False
                left -= 1
                self._count(task, version)
        while self._unseen and left:
            task = self._unseen.pop()
            if task in live and task not in self._seen:
                left -= 1
                self._count(task, versions.get(task, 0))
        return not self._unseen

    def _count(self, task: int, version: int) -> None:
        self._forget(task)
        key = key_u64(task)
        results, notes = (len(self._store.scan(name, key, after(key))) for name in ("reports", "stories"))
        if results or notes or version:
            self._seen[task] = Counted(version, results, notes)
            self.results += results
            self.notes += notes

    def _forget(self, task: int) -> None:
        known = self._seen.pop(task, None)
        if known is not None:
            self.results -= known.results
            self.notes -= known.notes
