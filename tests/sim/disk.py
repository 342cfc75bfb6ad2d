"""The simulated disk: full for a while, a sync that fails, a sync that takes long.

What was committed is there after any crash: the store's batches are atomic and synced. A crash during a commit
leaves all of the batch or nothing of it, which the hub's kill points on both sides of the commit stand for.
"""

from __future__ import annotations

import random

from agentcom.store.base import Batch
from agentcom.store.memory_store import Failure, MemoryDisk, MemoryStore
from tests.sim.timeline import Timeline

IO_FAILURES = (Failure.SYNC, Failure.COMMIT, Failure.PUT)


class SimDisk:
    """What outlives the hub's process."""

    def __init__(self, line: Timeline, rng: random.Random) -> None:
        self._line = line
        self._rng = rng
        self._medium = MemoryDisk()
        self.full_until_ms = 0
        self.slow_until_ms = 0
        self._is_broken_next = False

    def open(self) -> MemoryStore:
        return MemoryStore(self._medium)

    def commit(self, store: MemoryStore, batch: Batch) -> int:
        """Commit the batch; returns how long the sync took in ms. StoreFull or StoreError as the faults say."""
        if self._is_broken_next:
            self._is_broken_next = False
            kind = self._rng.choice(IO_FAILURES)
            store.fail_next(kind, after=self._rng.randrange(len(batch)) if kind is Failure.PUT else 0)
        elif self._line.now_ms < self.full_until_ms and any(body is not None for _, _, body in batch):
            store.fail_next(Failure.FULL)
        store.commit(batch, store.sequence + 1)
        if self._line.now_ms < self.slow_until_ms:
            self._line.reach("slow_sync")
            return self._rng.choice((20, 400, 1500, 8000))
        return self._rng.randrange(1, 4)

    def misbehave(self) -> None:
        kind = self._rng.choice(("full", "io", "slow"))
        self._line.note("disk", kind)
        if kind == "full":
            self.full_until_ms = self._line.now_ms + self._rng.randrange(500, 30_000)
        elif kind == "io":
            self._is_broken_next = True
        else:
            self.slow_until_ms = self._line.now_ms + self._rng.randrange(1000, 30_000)

    def heal(self) -> None:
        self.full_until_ms = self.slow_until_ms = 0
        self._is_broken_next = False
