"""What must hold, checked from outside the core: from events, committed batches, and messages that were sent.

The checker keeps its own account of every task: the rows and attempts as committed, what was spent, when each
lease was last renewed. It trusts none of the core's own figures and compares them with its own. A violation is
an AssertionError at once; what only the end can show (nothing lost, nothing invented) is in history.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from agentcom import messages as m
from agentcom.clock import Now
from agentcom.config import Settings
from agentcom.core.effects import (
    Delete,
    Effect,
    Event,
    Incoming,
    Put,
    Retire,
    Send,
    SendAssign,
    SettingsChanged,
    Timers,
)
from agentcom.core.hub import Hub
from agentcom.model import FINAL, OPEN_ATTEMPT, AttemptRecord, FailureClass, Route, State, TaskRow, TaskSpec
from agentcom.store.base import Batch, Store
from tests.sim.equality import LEASE_MS_MAX, check_core, check_same_after_restart
from tests.sim.money import Money
from tests.sim.rules import Deadlines, Progress, Shares, Starts, Windows, check_alone
from tests.sim.timeline import Timeline

LATE_MS_MAX = 2500  # a deadline is seen by the next tick whose drain emptied the socket, within this
STALL_LATE_MS_MAX = (
    LEASE_MS_MAX + 15_000
)  # after a start the first look is at a lease's end; a core made anew begins anew
PERSON_RETRIES = (State.dead, State.cancelled, State.expired)
Key = tuple[int, int]

_row = msgspec.msgpack.Decoder(TaskRow).decode
_attempt = msgspec.msgpack.Decoder(AttemptRecord).decode
_route = msgspec.msgpack.Decoder(Route).decode
_spec = msgspec.msgpack.Decoder(TaskSpec).decode


@dataclass
class Spent:
    """What a task has used since it was submitted or retried by a person."""

    errors: int = 0
    losses: int = 0
    infrastructure: int = 0
    unaccepted: int = 0  # in a row


class Lease(NamedTuple):
    """When it was last renewed, on the clock of leases, and for how long."""

    begun_ms: int
    length_ms: int


class Checker:
    """`rows` and `attempts` are what is durable; `marks` says which task each submitted item became."""

    def __init__(self, line: Timeline, settings: Settings, check_every: int, equality_every: int) -> None:
        self.rows: dict[int, TaskRow] = {}
        self.attempts: dict[Key, AttemptRecord] = {}
        self._holders: dict[Key, str] = {}
        self.marks: dict[str, int] = {}
        self.issued: set[str] = set()
        self.purged: set[int] = set()
        self.live: set[int] = set()
        self.retried: set[int] = set()
        self.ticks = 0
        self.may_lose_living = True
        self.deadlines, self.starts = Deadlines(line), Starts(line)
        self.progress = Progress(line, self.starts)
        self.windows = Windows(line)
        self.shares = Shares(line, self.starts, self.deadlines.was_tried)
        self.money = Money(line, self.starts.specs, self.attempts, self.rows)
        self.running: Callable[[], Hub]
        self.is_running: Callable[[Key], bool] = lambda _key: False
        self._line, self._settings = line, settings
        self._check_every, self._equality_every = check_every, equality_every
        self._spent: dict[int, Spent] = {}
        self._sent_attempt: dict[int, int] = {}
        self._completed: dict[int, int] = {}
        self._away_ms = 0
        self._renewed: dict[Key, Lease] = {}
        self._given: dict[Key, int] = {}  # when it was assigned, on the clock of leases
        self._lease_ms = int(settings.queue.lease_s * 1000)
        self._accept_ms_min = min(self._lease_ms, int(settings.queue.accept_s * 1000))
        self._retries: set[int] = set()
        self._purges: set[int] = set()
        self._accepted: list[tuple[Key, str]] = []
        self._written: dict[int, bytes] = {}
        self._ended: set[int] = set()  # tasks of which this tick ended an attempt, or said more of one

    # --- a core begins, a tick begins -------------------------------------------------------------------

    def core_started(self, hub: Hub) -> None:
        """Every open attempt has a fresh lease."""
        self._lease_ms = int(hub.settings.queue.lease_s * 1000)
        self._pace = hub.settings.queue.lease_s, hub.settings.queue.heartbeat_s
        lease = self._fresh(self._line.now())
        open_keys = [(r.id, r.attempt) for r in self.rows.values() if r.state in OPEN_ATTEMPT]
        self._renewed = dict.fromkeys(open_keys, lease)
        self._given = dict.fromkeys(open_keys, lease.begun_ms)
        self.progress.core_started(open_keys, lease.begun_ms)
        self.deadlines.core_started(self.rows)
        self.windows.core_started()
        self.shares.core_started()
        if open_keys:
            self._line.reach("hub_restarted_with_open_attempts")
        self.forget_tick()

    def core_replaced(self, old: Hub, new: Hub) -> None:
        """Leases went over to it, but for those that the failed tick had ended, and those of a length that it had
        set: these are fresh."""
        now = self._line.now()
        is_same_lease = old.settings.queue.lease_s == new.settings.queue.lease_s
        self._lease_ms = int(new.settings.queue.lease_s * 1000)
        self._pace = new.settings.queue.lease_s, new.settings.queue.heartbeat_s
        for task, slot in new.tasks.table.slot_of.items():
            before = old.tasks.table.slot_of.get(task)
            attempt = new.tasks.table.attempt[slot]
            is_same = before is not None and old.tasks.table.attempt[before] == attempt
            is_kept = before is not None and old.tasks.table.state_of(before) in OPEN_ATTEMPT
            is_adopted = is_same and is_kept and is_same_lease
            if new.tasks.table.state_of(slot) in OPEN_ATTEMPT and not is_adopted:
                self._renewed[task, attempt] = self._fresh(now)
                if not (is_same and is_kept):
                    self._given[task, attempt] = self._awake_ms(now)
                    self.progress.begins((task, attempt), self._awake_ms(now))
        self.shares.core_started()
        self.forget_tick()

    def tick_began(self, now: Now, gap_ms: int) -> None:
        self._away_ms += gap_ms
        self.ticks += 1

    def came_through(self, batch: Batch) -> None:
        """The batch of a process that ended in its commit is stored after all."""
        self.deadlines.is_told_late = self.money.is_told_late = True
        self.committed(batch)
        self.deadlines.is_told_late = self.money.is_told_late = False
        self.deadlines.unsure(int.from_bytes(key, "big") for database, key, _ in batch if database == "tasks")

    def forget_tick(self) -> None:
        """The tick was not committed: nothing of it has happened."""
        self._retries, self._purges, self._accepted, self._written = set(), set(), [], {}
        self._ended = set()
        self.starts.forget_tick()
        self.windows.tick_ended()

    def _awake_ms(self, now: Now) -> int:
        """Monotonic time less the time that the hub was away."""
        return now.mono_ms - self._away_ms

    def _fresh(self, now: Now) -> Lease:
        return Lease(self._awake_ms(now), self._lease_ms)

    # --- events -----------------------------------------------------------------------------------------

    def handled(self, event: Event, effects: list[Effect], now: Now) -> None:
        """What one event led to: renewals, people's retries and purges, results, deadlines."""
        if isinstance(event, Timers):
            self._deadlines(effects, now)
        elif isinstance(event, Retire):
            self._retired(event, effects)
        elif isinstance(event, Incoming):
            self._message(event.message, event.key, effects, now)
        for effect in effects:
            if isinstance(effect, Put | Delete):
                self.starts.put(effect.database, effect.key, getattr(effect, "body", None))
            if isinstance(effect, Put) and effect.database == "tasks":
                self._written[int.from_bytes(effect.key, "big")] = effect.body
            elif isinstance(effect, Put) and effect.database == "attempts":
                self._ended.add(int.from_bytes(effect.key[:8], "big"))
            elif isinstance(effect, SettingsChanged):
                self._settings_changed(effect.settings, now)
        if isinstance(event, Timers):
            self.deadlines.looked_at_clock(self.running(), self._retries | self._ended, now)

    def _retired(self, event: Retire, effects: list[Effect]) -> None:
        """What retention deletes is over, and nobody who is alive waits for it."""
        gone = [
            int.from_bytes(e.key, "big") for e in effects if isinstance(e, Delete) and e.database == "tasks"
        ]
        terms = self.running().settings.retention
        for n, task in enumerate(gone):
            row = self._latest(task)
            over = len(self.rows) - len(self.live) - n > terms.tasks_max or event.over.tasks > 0
            self.deadlines.retired(row, int(terms.tasks_s * 1000), over)
            self._purges.add(task)
            waiting = [one for one in self.live if task in self.starts.specs[one].depends_on]
            if row.state is not State.completed:
                live = self.running().tasks.table.slot_of
                waiting = [one for one in waiting if one in live]
                assert not waiting, f"task {task} was deleted, and {waiting} wait for it"

    def _settings_changed(self, settings: Settings, now: Now) -> None:
        """Where the pace has changed every open attempt has a lease of the new length."""
        self._line.reach("settings_changed")
        self._accept_ms_min = min(self._accept_ms_min, int(settings.queue.accept_s * 1000))
        pace, self._pace = self._pace, (settings.queue.lease_s, settings.queue.heartbeat_s)
        if pace == self._pace:
            return
        self._lease_ms = int(settings.queue.lease_s * 1000)
        self._accept_ms_min = min(self._accept_ms_min, self._lease_ms, int(settings.queue.accept_s * 1000))
        self._renewed = dict.fromkeys(self._renewed, self._fresh(now))

    def _message(self, message: m.ToHub, key: str, effects: list[Effect], now: Now) -> None:
        sent = [effect.message for effect in effects if isinstance(effect, Send)]
        for error in (s for s in sent if isinstance(s, m.Error)):
            self._line.reach(f"refused_{error.code}")
        match message:
            case m.Heartbeat():
                for beat in (s for s in sent if isinstance(s, m.Beat)):
                    killed = {(k.task, k.attempt) for k in beat.kill}
                    self._renew({(a.task, a.attempt) for a in message.attempts} - killed, now)
                    for one in message.attempts:
                        if (one.task, one.attempt) not in killed:
                            self.progress.heard((one.task, one.attempt), one.progress, self._awake_ms(now))
                    self._line.reach("beat_kills", len(killed))
            case m.Accept() if not any(isinstance(s, m.Cancel | m.Error) for s in sent):
                self._renew({(message.task, message.attempt)}, now)
            case m.Accept() if any(isinstance(s, m.Cancel) for s in sent):
                self._line.reach("late_accept_refused")
            case m.Hello():
                for welcome in (s for s in sent if isinstance(s, m.Welcome)):
                    self.windows.hello(name_of(key))
                    self._verdicts(welcome, now)
            case m.Result():
                if message.result is not None and self._holders.get((message.task, message.attempt)) == name_of(key):
                    self.money.said((message.task, message.attempt), message.result.cost_usd)
                for ack in (s for s in sent if isinstance(s, m.ResultAck)):
                    self._line.reach(f"result_{ack.verdict}")
                    if ack.verdict == "accepted":
                        self._check_fence(message, key)
                        self._accepted.append(((ack.task, ack.attempt), message.outcome))
            case m.Request(op=m.TaskRetry(task=task)) if not any(isinstance(s, m.Error) for s in sent):
                self._retries.add(task)
            case m.Request(op=m.DeadRetry(tasks=tasks)) if not any(isinstance(s, m.Error) for s in sent):
                self._retries.update(tasks)
            case m.Request(op=m.DeadPurge(tasks=tasks)) if not any(isinstance(s, m.Error) for s in sent):
                self._purge(tasks)
            case _:
                pass

    def _check_fence(self, message: m.Result, key: str) -> None:
        """Only the open attempt of a task, and only the host that holds it, has a result."""
        row = self._latest(message.task)
        is_open = row.state in OPEN_ATTEMPT and row.attempt == message.attempt
        what = f"a result of attempt {message.attempt} from {name_of(key)} was accepted"
        assert is_open, f"{what}: task {row.id} was {row.state}, attempt {row.attempt}"
        holder = self._holders[message.task, message.attempt]
        assert holder == name_of(key), f"{what}: {holder} holds task {row.id}"

    def _latest(self, task: int) -> TaskRow:
        """The row as the tick has left it so far."""
        body = self._written.get(task)
        assert body is not None or task in self.rows, f"task {task} was purged or retried, and has no row"
        return _row(body) if body is not None else self.rows[task]

    def _purge(self, tasks: tuple[int, ...]) -> None:
        for task in tasks:
            row = self._latest(task)
            assert row.state in PERSON_RETRIES, f"task {task} was purged while {row.state}"
            self._purges.add(task)

    def _verdicts(self, welcome: m.Welcome, now: Now) -> None:
        for one in welcome.verdicts:
            self._line.reach(f"verdict_{one.verdict}")
            if one.verdict != "kill":
                self._renew({(one.task, one.attempt)}, now)

    def _renew(self, keys: Iterable[Key], now: Now) -> None:
        for key in keys:
            if key in self._renewed:
                self._renewed[key] = self._fresh(now)
                self.progress.heard(key, None, self._awake_ms(now))

    def _deadlines(self, effects: list[Effect], now: Now) -> None:
        """Attempts that ended because time passed: not before their time, whatever the wall clock says."""
        for effect in effects:
            if not isinstance(effect, Put) or effect.database != "attempts":
                continue
            record = _attempt(effect.body)
            key = record.task, record.attempt
            lease = self._renewed.get(key, Lease(0, self._lease_ms))
            silent_ms = self._awake_ms(now) - lease.begun_ms
            what = f"task {record.task} attempt {record.attempt} was {record.outcome} after {silent_ms} ms"
            if record.outcome == "lost":
                self._line.reach("lease_ran_out")
                assert silent_ms >= lease.length_ms, f"{what} of silence; the lease is {lease.length_ms}"
            elif record.outcome == "stalled":
                self.progress.taken_back(key, self.running(), self._awake_ms(now))
            elif record.outcome == "unaccepted":
                self._line.reach("assignment_unaccepted")
                waited_ms = self._awake_ms(now) - self._given.get(key, 0)
                assert waited_ms >= self._accept_ms_min, f"{what}: too early"

    def scheduled(self, hub: Hub, effects: list[Effect]) -> None:
        """First in, first out: nobody of the same kind, lane and submitter was passed over."""
        table = hub.tasks.table
        newest: dict[tuple[int, ...], int] = {}
        turns = []
        for effect in effects:
            if isinstance(effect, SendAssign):
                self._check_assignment(effect.message)
                self.windows.started(effect.message, self._awake_ms(self._line.now()))
                self.deadlines.started(effect.message.task, self._retries | self._ended, self._line.now())
                slot = table.slot_of[effect.message.task]
                kind = (table.group[slot], table.lane[slot], table.submitter[slot], table.labels[slot])
                turns.append((hub.tasks.groups.pool_of(kind[0]), kind[1], kind[2]))
                if effect.message.task not in self.retried:
                    newest[kind] = max(newest.get(kind, 0), effect.message.task)
        for task, slot in table.slot_of.items() if newest else ():
            kind = (table.group[slot], table.lane[slot], table.submitter[slot], table.labels[slot])
            moved = task in self.retried or task in self._retries or self.deadlines.was_tried(task)
            passed = table.state_of(slot) is State.ready and not moved
            assert not (passed and task < newest.get(kind, 0)), f"task {newest[kind]} went before {task}"
        if turns:
            self.starts.scheduled(hub, [e.message for e in effects if isinstance(e, SendAssign)])
            self.shares.scheduled(hub, turns)
            if check_alone(hub, self._must_be_alone):
                self._line.reach("ran_alone")

    def _must_be_alone(self, task: int) -> bool:
        losses_max = self._settings.queue.max_losses
        spent = Spent() if task in self._retries else self._spent.get(task, Spent())
        return spent.losses >= max(1, losses_max - 1) and losses_max > 1

    def _check_assignment(self, message: m.Assign) -> None:
        last = self._sent_attempt.get(message.task, 0)
        row = self.rows.get(message.task)
        highest = max(last, row.attempt if row is not None else 0)
        assert message.attempt > highest, f"task {message.task}: attempt {message.attempt} follows {highest}"

    # --- what became durable ----------------------------------------------------------------------------

    def committed(self, batch: Batch) -> None:
        """Take over a batch that lies on disk, and check every step that it made."""
        changes = {str(database): rows for database, rows in batch.changes()}
        for database, key, body in batch:
            self.starts.put(database, key, body)
        self.starts.committed()
        for place, body in changes.get("attempts", {}).items():
            self._take_attempt((int.from_bytes(place[:8], "big"), int.from_bytes(place[8:], "big")), body)
        for place, body in changes.get("routes", {}).items():
            if body is not None:
                key = int.from_bytes(place[:8], "big"), int.from_bytes(place[8:], "big")
                self._holders[key] = _route(body).host
        for task in self._retries:
            self._spent[task] = Spent()
        if b"clock" in changes.get("meta", {}):
            self.deadlines.clock_noted()
        for place, body in changes.get("bodies", {}).items():
            self._take_body(int.from_bytes(place, "big"), body)
        for task in self._retries:
            self.deadlines.retried(task)
        touched = []
        for place, body in changes.get("tasks", {}).items():
            task = int.from_bytes(place, "big")
            if body is None:
                self._take_purge(task)
            else:
                row = _row(body)
                self._take_row(row)
                if row.state in OPEN_ATTEMPT:
                    lease = self._renewed.setdefault((task, row.attempt), self._fresh(self._line.now()))
                    self._given.setdefault((task, row.attempt), lease.begun_ms)
                touched.append(task)
        self._check_agents(touched)
        self._check_accepted(touched)
        self.money.committed(changes)
        self.retried |= self._retries
        self.forget_tick()

    def _take_attempt(self, key: Key, body: bytes | None) -> None:
        if body is None:
            assert key[0] in self._purges, f"the history of task {key[0]} was deleted and nobody asked"
            self.attempts.pop(key, None)
            return
        new, old = _attempt(body), self.attempts.get(key)
        if old is not None and old.outcome:
            assert new.outcome == old.outcome, (
                f"attempt {key} was {old.outcome} and became {new.outcome or 'open'}"
            )
        assert new.outcome or not new.late_outcome, f"attempt {key} is open and has a late result"
        if new.outcome and (old is None or not old.outcome):
            self._check_living(key, new)
            row = self.rows.get(key[0])
            if row is not None and row.state is State.working and row.attempt == key[1]:
                assert new.accepted_ms == row.accepted_ms, f"attempt {key} was accepted at another time"
            self._spend(key[0], new)
        self.attempts[key] = new

    def _check_living(self, key: Key, record: AttemptRecord) -> None:
        """Whether an attempt was taken from a host that has it and works on it."""
        if record.outcome in TAKEN_BACK and self.is_running(key):
            self._line.reach("living_attempt_taken_back")
            assert self.may_lose_living, (
                f"attempt {key} was {record.outcome} while {record.host} worked on it"
            )

    def _spend(self, task: int, record: AttemptRecord) -> None:
        spent = self._spent.setdefault(task, Spent())
        self._line.reach(f"attempt_{record.outcome}")
        spent.unaccepted = spent.unaccepted + 1 if record.outcome == "unaccepted" else 0
        if record.outcome not in ("unaccepted", "cancelled"):
            self.deadlines.spent(task)
        code = record.error.code if record.error is not None else ""
        if code == "sidecar_stopped":
            spent.infrastructure += 1
        elif record.outcome in ("lost", "interrupted", "stalled"):
            spent.losses += 1
        elif record.outcome in ("failed", "declined"):
            assert record.error is not None, (
                f"attempt {record.attempt} of task {task} failed without a reason"
            )
            kind = record.error.failure_class
            self._line.reach(f"failure_{kind}")
            self.windows.failed(record, self.rows[task].tier, self._awake_ms(self._line.now()))
            spent.infrastructure += kind is FailureClass.infrastructure
            spent.errors += kind in (FailureClass.task_error, FailureClass.verification)
            if record.outcome == "failed":
                spent.losses = 0  # its worker survived: losses count in a row

    def _take_body(self, task: int, body: bytes | None) -> None:
        if body is None:
            assert task in self._purges, f"the body of task {task} was deleted and nobody asked"
            return
        spec = _spec(body)
        mark = mark_of(spec.description)
        if task not in self.rows:
            self.deadlines.took_body(task, spec)
        assert mark in self.issued, f"task {task} is '{mark}', which nobody submitted"
        first = self.marks.get(mark, task)
        assert first == task or first in self.purged | self._purges, (
            f"'{mark}' became tasks {first} and {task}"
        )
        self.marks[mark] = task

    def _take_purge(self, task: int) -> None:
        assert task in self._purges, f"task {task} was deleted and nobody asked"
        self.rows.pop(task, None)
        self.live.discard(task)
        self.purged.add(task)
        self._line.reach("dead_purged")

    def _take_row(self, new: TaskRow) -> None:
        old, task = self.rows.get(new.id), new.id
        assert task not in self.purged, f"task {task} was purged and is back as {new.state}"
        if old is None:
            assert new.attempt <= 1, f"a new task begins as {new}"
            assert new.state is not State.completed, f"a new task begins as {new}"
        else:
            self._check_step(old, new)
        self._check_spent(new)
        self.deadlines.took_row(old, new)
        self.rows[task] = new
        if new.state in FINAL:
            self.live.discard(task)
        else:
            self.live.add(task)
        self._reach_state(old, new)

    def _check_step(self, old: TaskRow, new: TaskRow) -> None:
        what = f"task {new.id}: {old.state} attempt {old.attempt} became {new.state} attempt {new.attempt}"
        assert new.attempt >= old.attempt, what
        if old.state in FINAL:
            asked = new.id in self._retries and old.state in PERSON_RETRIES
            assert asked or new.state is old.state, f"{what}, and nobody asked for a retry"
        if new.state in OPEN_ATTEMPT and new.attempt == old.attempt:
            assert (old.agent, old.host) == (new.agent, new.host), f"{what}: another agent, the same attempt"
            assert (old.state, new.state) != (State.working, State.assigned), what
            assert old.state in OPEN_ATTEMPT, f"{what}: a lease came back"
            assert old.accepted_ms in (0, new.accepted_ms), f"{what}: it was accepted at another time"
        assert new.attempt <= old.attempt + 1, what

    def _check_spent(self, row: TaskRow) -> None:
        """The row's counters are right, and dead means: exactly the budget is spent."""
        queue, spent = self._settings.queue, self._spent.get(row.id, Spent())
        over = spent.errors > row.max_retries
        figures = (row.retries_used, row.losses, row.infra_count)
        mine = (min(spent.errors, row.max_retries), spent.losses, spent.infrastructure)
        assert figures == mine, f"task {row.id} counts {figures}, {mine} happened"
        over |= spent.losses >= queue.max_losses or spent.infrastructure > queue.max_infrastructure
        over |= spent.unaccepted >= queue.max_unaccepted
        if row.state is State.dead:
            assert over, f"task {row.id} is dead ({row.error_code}) with budget left: {spent}"
            is_lost = spent.losses >= queue.max_losses
            assert is_lost == (row.error_code == "worker_lost"), f"task {row.id} is dead ({row.error_code}): {spent}"
        else:
            was_alive = row.state not in FINAL
            assert not (over and was_alive), (
                f"task {row.id} is {row.state} though its budget is spent: {spent}"
            )
        exact = (queue.max_losses, queue.max_infrastructure + 1, row.max_retries + 1)
        bounds = zip((spent.losses, spent.infrastructure, spent.errors), exact, strict=True)
        assert all(used <= most for used, most in bounds), f"task {row.id} went past its budget: {spent}"

    def _reach_state(self, old: TaskRow | None, new: TaskRow) -> None:
        if old is None or old.state is not new.state:
            self._line.note("row", f"{new.id}.{new.attempt}", new.state, new.error_code)
            self._line.reach(f"became_{new.state}")
            if new.state is State.dead:
                self._line.reach(f"dead_{new.error_code if new.error_code in DEATHS else 'retries'}")
            if new.state is State.cancelled and old is not None and old.state in OPEN_ATTEMPT:
                self._line.reach("cancelled_while_running")

    def _check_agents(self, touched: list[int]) -> None:
        """An agent has at most one open attempt; an attempt has a record exactly when it has ended."""
        for task in touched:
            row = self.rows[task]
            record = self.attempts.get((task, row.attempt))
            is_open = row.state in OPEN_ATTEMPT
            assert not row.attempt or (record is None) == is_open, (
                f"task {task} is {row.state}, its attempt {row.attempt} is {record}"
            )
        busy: dict[int, int] = {}
        for row in map(self.rows.__getitem__, self.live):
            if row.state in OPEN_ATTEMPT:
                other = busy.setdefault(row.agent, row.id)
                assert other == row.id, f"agent {row.agent} has tasks {other} and {row.id}"

    def _check_accepted(self, touched: list[int]) -> None:
        for (task, attempt), outcome in self._accepted:
            if outcome == "completed":
                first = self._completed.setdefault(task, attempt)
                assert first == attempt, f"task {task} was completed by attempts {first} and {attempt}"
                assert self.rows[task].state is State.completed, (
                    f"task {task}: accepted, {self.rows[task].state}"
                )
        for row in map(self.rows.__getitem__, touched):
            if row.state is State.completed:
                assert self._completed.get(row.id) == row.attempt, f"task {row.id} completed without a result"

    # --- what was sent ----------------------------------------------------------------------------------

    def sent(self, message: m.FromHub) -> None:
        """Whatever the hub says is already durable."""
        if isinstance(message, m.Assign):
            self._check_sent_assignment(message)
        elif isinstance(message, m.ResultAck) and message.verdict == "accepted":
            record = self.attempts.get((message.task, message.attempt))
            if record is None and message.task in self.purged:
                return  # it ended and its task was purged in the same batch: that it was over is checked there
            assert record is not None, f"a result of task {message.task} was acknowledged and is not stored"
            assert record.outcome, f"the result of {record} was acknowledged before it was stored"
        elif isinstance(message, m.Reply) and isinstance(message.value, dict):
            told = message.value.get("tasks") if "tasks" in message.value else [message.value]
            for one in told or ():
                self._check_told(one)

    def _check_sent_assignment(self, message: m.Assign) -> None:
        row = self.rows[message.task]
        is_leased = row.state in OPEN_ATTEMPT and row.attempt == message.attempt
        assert is_leased, f"attempt {message.attempt} of task {row.id} was sent: {row.state} {row.attempt}"
        last = self._sent_attempt.get(message.task, 0)
        assert message.attempt > last, f"task {row.id}: attempt {message.attempt} was sent after {last}"
        self._sent_attempt[message.task] = message.attempt

    def _check_told(self, told: object) -> None:
        if not isinstance(told, dict) or "id" not in told or "state" not in told:
            return
        row = self.rows.get(told["id"])
        if row is None:
            assert told["id"] in self.purged, f"task {told['id']} was acknowledged and is not stored"
        elif "created" not in told:
            assert told["state"] == row.state, f"task {row.id} was shown {told['state']}, it is {row.state}"

    # --- between ticks ----------------------------------------------------------------------------------

    def tick_ended(self, hub: Hub, store: Store, now: Now, drained: bool) -> None:
        """Leases that should have ended; now and then the core against itself and against the store."""
        if self.ticks % 5 == 0 and drained:
            self._overdue(now)
            self.money.look(hub, self._awake_ms(now))
        if self.ticks % self._check_every == 0:
            self.money.compare(hub)
            check_core(hub, now)
        if self.ticks % self._equality_every == 0:
            self._line.reach("restart_compared")
            check_same_after_restart(hub, store, self._settings, now)

    def run_ended(self, hub: Hub, store: Store, now: Now) -> None:
        """The last word, whatever ticks were looked at."""
        self.money.ended()
        self.money.compare(hub)
        check_core(hub, now)
        check_same_after_restart(hub, store, self._settings, now)

    def _overdue(self, now: Now) -> None:
        keys = [(r.id, r.attempt) for r in map(self.rows.__getitem__, self.live) if r.state in OPEN_ATTEMPT]
        self.progress.overdue(keys, self.running(), self._awake_ms(now), STALL_LATE_MS_MAX)
        for row in map(self.rows.__getitem__, self.live):
            if row.state in OPEN_ATTEMPT:
                lease = self._renewed[row.id, row.attempt]
                silent_ms = self._awake_ms(now) - lease.begun_ms
                late = f"attempt {row.attempt} of task {row.id} has a lease {silent_ms} ms after its last renewal"
                assert silent_ms <= lease.length_ms + LATE_MS_MAX, late


TAKEN_BACK = ("lost", "unaccepted", "interrupted", "stalled")
DEATHS = ("worker_lost", "infrastructure_exhausted", "never_accepted")


def mark_of(description: str) -> str:
    """The item that a description was submitted as: its first word."""
    return description.split(" ", 1)[0]


def key_of(name: str) -> str:
    """A public key as text; what matters is that each has its own."""
    return f"{name}-".ljust(40, "0")


def name_of(key: str) -> str:
    return key.split("-", 1)[0]
