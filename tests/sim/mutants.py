"""Rules of the core broken on purpose, one at a time: the checker must notice each, else it checks nothing.

Each mutant is a context manager that breaks one rule while it is entered. `NOTICED_BY` says which kind of run is
to notice; without an entry it is the run with every fault.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal
from weakref import WeakKeyDictionary

import msgspec

from agentcom import messages as m
from agentcom import retirement
from agentcom.clock import Now
from agentcom.core import aftermath as core_aftermath
from agentcom.core import progress
from agentcom.core import retention as core_retention
from agentcom.core.agents import Agent, Fleet, Host
from agentcom.core.attempts import Attempts
from agentcom.core.deadlines import Deadlines as CoreDeadlines
from agentcom.core.deadlines import TermClock
from agentcom.core.effects import RecordKey, key_u64
from agentcom.core.gates import Gates
from agentcom.core.lanes import Turns
from agentcom.core.ledger import Ledger
from agentcom.core.requests import Requests
from agentcom.core.tasks import OPEN, Tasks
from agentcom.core.waiting import Waiting
from agentcom.errors import StoreFull
from agentcom.model import State, TaskError, TaskRow
from agentcom.store import memory_store
from agentcom.store.base import Batch
from agentcom.store.memory_store import MemoryStore
from agentcom.store.record import ENVELOPE_BYTES
from tests.sim.alive import AliveWorld
from tests.sim.disk import SimDisk
from tests.sim.world import SimulationFailed, World, simulate

Mutant = Callable[[], contextlib.AbstractContextManager[None]]


@contextlib.contextmanager
def _patched(owner: Any, name: str, made: Any) -> Iterator[None]:
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
    rows: WeakKeyDictionary[Attempts, dict[tuple[int, int], Any]] = WeakKeyDictionary()  # of one run, not of the next

    def remembering(self: Attempts, slot: int, *how: Any) -> None:
        row = self._table.record(slot)
        cancel(self, slot, *how)
        rows.setdefault(self, {})[row.id, row.attempt] = row

    def reviving(
        self: Attempts, host: Host, message: m.Result, now: Now, found: Mapping[RecordKey, bytes]
    ) -> Literal["accepted", "duplicate", "stale", "unknown"]:
        row = rows.get(self, {}).get((message.task, message.attempt))
        if row is None or message.outcome != "completed":
            return late(self, host, message, now, found)
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
def acceptances_are_not_written() -> Iterator[None]:
    """A restart forgets that an attempt was accepted, and when."""

    def forgetting(self: Tasks) -> None:
        self.begun.clear()

    with _patched(Tasks, "save_begun", forgetting):
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


@contextlib.contextmanager
def start_by_ignored() -> Iterator[None]:
    with _patched(CoreDeadlines, "_was_started", lambda _self, _slot: True):
        yield


@contextlib.contextmanager
def complete_by_ignored() -> Iterator[None]:
    overdue, moment_ms = CoreDeadlines.overdue, CoreDeadlines.moment_ms

    def blind(look: Callable[..., Any], self: CoreDeadlines, slot: int, *rest: Any) -> Any:
        column = self._table.complete_by_ms
        asked, column[slot] = column[slot], 0
        found = look(self, slot, *rest)
        column[slot] = asked
        return found

    def overdue_blindly(self: CoreDeadlines, *rest: Any) -> Any:
        return blind(overdue, self, *rest)

    def moment_blindly(self: CoreDeadlines, *rest: Any) -> Any:
        return blind(moment_ms, self, *rest)

    with (
        _patched(CoreDeadlines, "overdue", overdue_blindly),
        _patched(CoreDeadlines, "moment_ms", moment_blindly),
    ):
        yield


@contextlib.contextmanager
def terms_by_wall_clock() -> Iterator[None]:
    look = TermClock.look

    def following(self: TermClock, now: Now) -> int:
        self._base_ms = now.wall_ms - now.mono_ms
        return look(self, now)

    with _patched(TermClock, "look", following):
        yield


@contextlib.contextmanager
def turns_never_charged() -> Iterator[None]:
    """Whoever is first in a pool stays first."""
    with _patched(Turns, "charge", lambda _self, _member: None):
        yield


@contextlib.contextmanager
def time_away_counts_as_silence() -> Iterator[None]:
    with _patched(Attempts, "away", lambda _self, _gap_ms: None):
        yield


@contextlib.contextmanager
def hello_forgets_what_runs() -> Iterator[None]:
    """Whatever a host says it runs, its attempts are taken back when it says hello."""
    reconcile = Attempts.reconcile

    def deaf(self: Attempts, host: Host, _held: Any, _is_repeat: bool, now: Now) -> Any:
        return reconcile(self, host, (), False, now)

    with _patched(Attempts, "reconcile", deaf):
        yield


@contextlib.contextmanager
def agent_takes_two_tasks() -> Iterator[None]:
    takes_work = Agent.takes_work.fget
    assert takes_work is not None

    def greedy(self: Agent) -> bool:
        task, self.task = self.task, 0
        found = takes_work(self)
        self.task = task
        return found

    with _patched(Agent, "takes_work", property(greedy)):
        yield


@contextlib.contextmanager
def dead_one_loss_early() -> Iterator[None]:
    """Poison is judged one death too soon."""
    take_back = Attempts._take_back

    def hasty(self: Attempts, slot: int, outcome: Any, error: TaskError | None, now: Now) -> None:
        if error is not None:
            self._table.losses[slot] += 1
        take_back(self, slot, outcome, error, now)

    with _patched(Attempts, "_take_back", hasty):
        yield


@contextlib.contextmanager
def flipped_bits_go_unnoticed() -> Iterator[None]:
    """Records are read without a look at their checksum."""

    def trusting(_database: str, _key: bytes, envelope: bytes) -> bytes:
        return envelope[ENVELOPE_BYTES:]

    with _patched(memory_store, "unpack", trusting):
        yield


@contextlib.contextmanager
def journal_not_applied() -> Iterator[None]:
    """A restored backup is taken for the store as it was."""

    def nothing(_self: SimDisk) -> list[Any]:
        return []

    with _patched(SimDisk, "_run", nothing):
        yield


@contextlib.contextmanager
def live_tasks_can_be_purged() -> Iterator[None]:
    def taken(self: Requests, tasks: tuple[int, ...], _caller: Any, found: Any) -> list[TaskRow]:
        bodies = (self._out.latest(("tasks", key_u64(task)), found) for task in dict.fromkeys(tasks))
        return [msgspec.msgpack.decode(body, type=TaskRow) for body in bodies if body is not None]

    with _patched(Requests, "_ended", taken):
        yield


@contextlib.contextmanager
def limits_not_asked() -> Iterator[None]:
    with (
        _patched(Gates, "_is_full", lambda _self, _one: False),
        _patched(Gates, "may_start", lambda _s, _t: True),
    ):
        yield


@contextlib.contextmanager
def pauses_of_a_key_forgotten() -> Iterator[None]:
    with _patched(Gates, "_is_paused", lambda _self, _scope, _key: False):
        yield


@contextlib.contextmanager
def dependants_go_when_one_ends_anyhow() -> Iterator[None]:
    """A task that failed counts as one that completed."""
    ended = Waiting.ended

    def careless(self: Waiting, task: int, _state: State, now: Now) -> None:
        ended(self, task, State.completed, now)

    with _patched(Waiting, "ended", careless):
        yield


@contextlib.contextmanager
def never_accepted_has_no_end() -> Iterator[None]:
    """An assignment that nobody accepts is given out for ever."""
    not_accepted = Attempts._not_accepted

    def patient(self: Attempts, slot: int, when: str, now: Now) -> None:
        self._table.unaccepted[slot] = 0
        not_accepted(self, slot, when, now)

    with _patched(Attempts, "_not_accepted", patient):
        yield


@contextlib.contextmanager
def retention_takes_what_lives() -> Iterator[None]:
    every = frozenset(State)
    with _patched(core_retention, "FINAL", every), _patched(retirement, "FINAL", every):
        yield


@contextlib.contextmanager
def stalled_workers_are_left() -> Iterator[None]:
    with _patched(progress, "RECLAIM", 1000):
        yield


@contextlib.contextmanager
def neighbours_of_a_poison_stay() -> Iterator[None]:
    """A task that the next loss kills shares its host."""
    with _patched(core_aftermath, "must_run_alone", lambda _losses, _most: False):
        yield


@contextlib.contextmanager
def closed_windows_are_forgotten() -> Iterator[None]:
    with _patched(Fleet, "block", lambda _self, _host, _block, _now: None):
        yield


@contextlib.contextmanager
def reservations_are_lost_at_a_start() -> Iterator[None]:
    load = Ledger.load

    def forgetful(self: Ledger, budgets: Any, records: Any, *rest: Any) -> None:
        load(self, budgets, [record for record in records if record.settled is not None], *rest)

    with _patched(Ledger, "load", forgetful):
        yield


@contextlib.contextmanager
def payments_are_booked_twice() -> Iterator[None]:
    reserve = Ledger.reserve

    def generous(self: Ledger, slot: int, attempt: int, *rest: Any) -> float | None:
        given = reserve(self, slot, attempt, *rest)
        record = self.open[self._tasks.table.id[slot], attempt]
        self.sums.count(record, record.reserved)
        return given

    with _patched(Ledger, "reserve", generous):
        yield


@contextlib.contextmanager
def budgets_of_submitters_are_not_asked() -> Iterator[None]:
    scopes = Ledger._scopes
    with _patched(Ledger, "_scopes", lambda self, slot: scopes(self, slot)[:-1]):
        yield


@contextlib.contextmanager
def held_for_a_budget_for_ever() -> Iterator[None]:
    def idle(self: Ledger, _now: Now) -> bool:
        self.changed = False
        return False

    with _patched(Ledger, "turn", idle):
        yield


@contextlib.contextmanager
def retried_tasks_have_paid_nothing() -> Iterator[None]:
    with _patched(Ledger, "back", lambda _self, _row, _found: None):
        yield


MUTANTS: dict[str, Mutant] = {
    made.__name__: made
    for made in (
        fencing_off,
        no_attempt_bump,
        result_after_cancel_accepted,
        leases_by_wall_clock,
        leases_half_as_long,
        acceptances_are_not_written,
        losses_not_counted,
        idempotency_forgotten,
        full_disk_says_done,
        start_by_ignored,
        complete_by_ignored,
        terms_by_wall_clock,
        turns_never_charged,
        time_away_counts_as_silence,
        hello_forgets_what_runs,
        agent_takes_two_tasks,
        dead_one_loss_early,
        flipped_bits_go_unnoticed,
        journal_not_applied,
        live_tasks_can_be_purged,
        limits_not_asked,
        pauses_of_a_key_forgotten,
        dependants_go_when_one_ends_anyhow,
        never_accepted_has_no_end,
        retention_takes_what_lives,
        stalled_workers_are_left,
        neighbours_of_a_poison_stay,
        closed_windows_are_forgotten,
        reservations_are_lost_at_a_start,
        payments_are_booked_twice,
        budgets_of_submitters_are_not_asked,
        held_for_a_budget_for_ever,
        retried_tasks_have_paid_nothing,
    )
}


SEEDS_MAX = 120  # within so many runs a broken rule is noticed, or it counts as missed
NOTICED_BY: dict[str, type[World]] = {"hello_forgets_what_runs": AliveWorld}
# A seed that is known to notice goes first: what needs a rare meeting takes dozens of runs to come by.
NOTICED_AT = {
    "result_after_cancel_accepted": 12,
    "turns_never_charged": 17,
    "flipped_bits_go_unnoticed": 4,
    "journal_not_applied": 13,
    "limits_not_asked": 11,
    "neighbours_of_a_poison_stay": 8,
    "closed_windows_are_forgotten": 41,
    "held_for_a_budget_for_ever": 2,
    "retried_tasks_have_paid_nothing": 8,
}


def first_seed_that_notices(name: str) -> str:
    """What the first failing seed says while the rule is broken; that none failed, otherwise."""
    with MUTANTS[name]():
        for seed in sorted(range(SEEDS_MAX), key=lambda one: one != NOTICED_AT.get(name)):
            try:
                simulate(seed, kind=NOTICED_BY.get(name, World))
            except SimulationFailed as failure:
                return str(failure)
    return f"none of {SEEDS_MAX} seeds noticed"
