"""A scripted life of tasks as batches: what the store holds after each is known, record by record.

Batch after batch tasks are submitted, leased, completed, lost, killed, cancelled, retried and purged, so that
rows, lanes, dead letters, bodies, attempts, routes and reports change together, as the core changes them.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import msgspec

from agentcom.model import AttemptRecord, Group, Lane, State, TaskRow, Tier, TierSource
from agentcom.store.base import Batch, Store, pages
from agentcom.store.base import Database as D
from agentcom.store.record import key_u64, key_u64x2

Rows = dict[tuple[str, bytes], bytes]

_encode = msgspec.msgpack.Encoder().encode


class Workload:
    """Batches from a seed. `rows` is what the store must hold after the last batch that was taken."""

    def __init__(self, seed: int, *, body_bytes: int = 400, tasks_per_batch: int = 3) -> None:
        self._random = random.Random(seed)
        self._body_bytes = body_bytes
        self._tasks_per_batch = tasks_per_batch
        self._live: dict[int, TaskRow] = {}
        self._final: dict[int, TaskRow] = {}
        self._next = 1
        self.rows: Rows = {}
        self.sequence = 0

    def batches(self, count: int) -> Iterator[Batch]:
        for _ in range(count):
            yield self.take()

    def take(self) -> Batch:
        """The next batch; `rows` and `sequence` are then as after its commit."""
        batch = Batch()
        if not self.sequence:
            batch.put(D.META, b"group" + key_u64(0), _encode(Group(Tier.standard, "", (), "")))
        for _ in range(self._random.randint(1, self._tasks_per_batch)):
            self._submit(batch)
        for row in self._pick(self._live, 3):
            self._move(batch, row)
        for row in self._pick(self._final, 1):
            self._revive_or_purge(batch, row)
        self.sequence += 1
        apply(self.rows, batch)
        return batch

    def _pick(self, rows: dict[int, TaskRow], count: int) -> list[TaskRow]:
        return self._random.sample(list(rows.values()), min(count, len(rows)))

    def _submit(self, batch: Batch) -> None:
        row = TaskRow(
            id=self._next, state=State.ready, lane=Lane.normal, group=0, submitter=1, tier=Tier.standard,
            tier_source=TierSource.inferred, inferred_tier=Tier.standard, created_ms=self.sequence,
            order_key=self._next, max_retries=3,
        )  # fmt: skip
        self._next += 1
        key = key_u64(row.id)
        size = self._random.choice((40, self._body_bytes, self._body_bytes, 12 * self._body_bytes))
        batch.put(D.BODIES, key, self._random.randbytes(size))
        batch.put(D.META, b"next_task", key_u64(self._next))
        self._live[row.id] = row
        self._put_live(batch, row)

    def _move(self, batch: Batch, row: TaskRow) -> None:
        if row.state is State.ready:
            if self._random.random() < 0.1:
                self._finish(batch, row, State.cancelled)
                return
            row.state, row.attempt = State.assigned, row.attempt + 1
            batch.put(D.ROUTES, key_u64x2(row.id, row.attempt), b"a route of task %d" % row.id)
            self._put_attempt(batch, row, "")
            self._put_live(batch, row)
        elif row.state is State.assigned:
            row.state = State.working
            self._put_live(batch, row)
        else:
            self._end(batch, row)

    def _end(self, batch: Batch, row: TaskRow) -> None:
        how = self._random.random()
        self._put_attempt(batch, row, "completed" if how < 0.6 else "lost")
        if how < 0.6:
            batch.put(D.REPORTS, key_u64x2(row.id, row.attempt), b"a report of task %d" % row.id)
            self._finish(batch, row, State.completed)
        elif how < 0.8:
            row.state = State.ready
            self._put_live(batch, row)
        else:
            self._finish(batch, row, State.dead)

    def _revive_or_purge(self, batch: Batch, row: TaskRow) -> None:
        if row.state is State.completed:
            return
        key = key_u64(row.id)
        del self._final[row.id]
        batch.delete(D.DEAD, key)
        if self._random.random() < 0.5:
            row.state = State.ready
            self._live[row.id] = row
            self._put_live(batch, row)
            return
        for database in (D.TASKS, D.BODIES):
            batch.delete(database, key)
        for attempt in range(1, row.attempt + 1):
            for database in (D.ATTEMPTS, D.ROUTES, D.REPORTS):
                batch.delete(database, key_u64x2(row.id, attempt))

    def _finish(self, batch: Batch, row: TaskRow, state: State) -> None:
        row.state = state
        key = key_u64(row.id)
        batch.put(D.TASKS, key, _encode(row))
        batch.delete(D.LANES, key)
        if state is State.dead:
            batch.put(D.DEAD, key, b"worker_lost")
        del self._live[row.id]
        self._final[row.id] = row

    def _put_live(self, batch: Batch, row: TaskRow) -> None:
        batch.put(D.LANES, key_u64(row.id), b"")
        batch.put(D.TASKS, key_u64(row.id), _encode(row))

    def _put_attempt(self, batch: Batch, row: TaskRow, outcome: str) -> None:
        record = AttemptRecord(
            task=row.id, attempt=row.attempt, agent="a", host="h", host_id=1, started_ms=1, outcome=outcome
        )
        batch.put(D.ATTEMPTS, key_u64x2(row.id, row.attempt), _encode(record))


def apply(rows: Rows, batch: Batch) -> None:
    for database, key, body in batch:
        if body is None:
            rows.pop((str(database), key), None)
        else:
            rows[str(database), key] = body


def rows_of(store: Store) -> Rows:
    """Everything that a store holds."""
    return {
        (str(database), key): body for database in D for page in pages(store, database) for key, body in page
    }


def digest(rows: Rows) -> str:
    """Of all rows, in whatever order they were put."""
    total = hashlib.blake2b(digest_size=16)
    for (database, key), body in sorted(rows.items()):
        total.update(b"%s:%d:%s:%d:" % (database.encode(), len(key), key, len(body)))
        total.update(body)
    return total.hexdigest()
