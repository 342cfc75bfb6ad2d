"""Rules of the core broken on purpose, one at a time: the checker must notice each, else it checks nothing.

Each mutant is a context manager that breaks one rule while it is entered. `NOTICED_BY` says which kind of run is
to notice; without an entry it is the run with every fault.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from agentcom import messages as m
from agentcom.clock import Now
from agentcom.core.agents import Host
from agentcom.core.attempts import Attempts
from agentcom.core.effects import RecordKey, key_u64
from agentcom.core.tasks import OPEN, Tasks
from agentcom.errors import StoreFull
from agentcom.model import State, TaskError
from agentcom.store.base import Batch
from agentcom.store.memory_store import MemoryStore
from tests.sim.disk import SimDisk
from tests.sim.world import SimulationFailed, World, simulate

Mutant = Callable[[], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _patched(owner: type, name: str, made: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, made)
    try:
        yield
    finally:
        setattr(owner, name, original)


@contextlib.contextmanager
def fencing_off() -> Iterator[None]:
    """Any host may speak for any attempt of a task that is open."""

    def held_by(self: Attempts, _host: Host, task: int, _attempt: int) -> int | None:
        slot = self._table.slot_of.get(task)
        return slot if slot is not None and self._table.state_of(slot) in OPEN else None

    with _patched(Attempts, "held_by", held_by):
        yield


@contextlib.contextmanager
def no_attempt_bump() -> Iterator[None]:
    """A new lease keeps the number of the one before."""
    assign = Attempts.assign

    def without_bump(self: Attempts, slot: int, *rest: Any) -> None:
        if self._table.attempt[slot]:
            self._table.attempt[slot] -= 1
        assign(self, slot, *rest)

    with _patched(Attempts, "assign", without_bump):
        yield


@contextlib.contextmanager
def result_after_cancel_accepted() -> Iterator[None]:
    """A completion that comes after the cancel completes the task all the same."""
    cancel, late = Attempts.cancel, Attempts._late
    rows: dict[tuple[int, int], Any] = {}

    def remembering(self: Attempts, slot: int, now: Now) -> None:
        row = self._table.record(slot)
        cancel(self, slot, now)
        rows[row.id, row.attempt] = row

    def reviving(
        self: Attempts, host: Host, message: m.Result, found: Mapping[RecordKey, bytes]
    ) -> Literal["accepted", "duplicate", "stale", "unknown"]:
        row = rows.get((message.task, message.attempt))
        if row is None or message.outcome != "completed":
            return late(self, host, message, found)
        done = msgspec.structs.replace(row, state=State.completed)
        self._out.put("tasks", key_u64(row.id), done)
        return "accepted"

    with _patched(Attempts, "cancel", remembering), _patched(Attempts, "_late", reviving):
        yield


@contextlib.contextmanager
def leases_by_wall_clock() -> Iterator[None]:
    def by_wall(self: Attempts, now: Now) -> int:
        return now.wall_ms

    with _patched(Attempts, "clock_ms", by_wall):
        yield


@contextlib.contextmanager
def leases_half_as_long() -> Iterator[None]:
    renew = Attempts._renew

    def too_short(self: Attempts, slot: int, now: Now) -> None:
        renew(self, slot, now)
        self._table.lease_ms[slot] -= int(self._tasks.settings.queue.lease_s * 500)

    with _patched(Attempts, "_renew", too_short):
        yield


@contextlib.contextmanager
def losses_not_counted() -> Iterator[None]:
    take_back = Attempts._take_back

    def forgetting(self: Attempts, slot: int, outcome: Any, _error: TaskError | None, now: Now) -> None:
        take_back(self, slot, outcome, None, now)

    with _patched(Attempts, "_take_back", forgetting):
        yield


@contextlib.contextmanager
def idempotency_forgotten() -> Iterator[None]:
    def unknown(*_: Any) -> None:
        return None

    with _patched(Tasks, "_known", unknown):
        yield


@contextlib.contextmanager
def full_disk_says_done() -> Iterator[None]:
    """A commit that failed is taken for one that was done."""
    commit = SimDisk.commit

    def lying(self: SimDisk, store: MemoryStore, batch: Batch) -> int:
        try:
            return commit(self, store, batch)
        except StoreFull:
            return 1

    with _patched(SimDisk, "commit", lying):
        yield


MUTANTS: dict[str, Mutant] = {
    made.__name__: made
    for made in (
        fencing_off,
        no_attempt_bump,
        result_after_cancel_accepted,
        leases_by_wall_clock,
        leases_half_as_long,
        losses_not_counted,
        idempotency_forgotten,
        full_disk_says_done,
    )
}


SEEDS_MAX = 60  # within so many runs a broken rule is noticed, or it counts as missed
NOTICED_BY: dict[str, type[World]] = {}


def first_seed_that_notices(name: str) -> str:
    """What the first failing seed says while the rule is broken; that none failed, otherwise."""
    with MUTANTS[name]():
        for seed in range(SEEDS_MAX):
            try:
                simulate(seed, kind=NOTICED_BY.get(name, World))
            except SimulationFailed as failure:
                return str(failure)
    return f"none of {SEEDS_MAX} seeds noticed"
