"""Rules of the queue, each with an account of its own: when a task must start or end, what may start, whose turn.

A rule is told of every event and every schedule of the core, and of every row that became durable. It raises
AssertionError at once. What it knows of a task comes from the task's own words, not from the core's figures.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Set
from datetime import datetime
from typing import NamedTuple

import msgspec

from agentcom import messages as m
from agentcom.clock import Now
from agentcom.core.hub import Hub
from agentcom.model import (
    FINAL,
    OPEN_ATTEMPT,
    AttemptRecord,
    Backend,
    FailureClass,
    QueueRule,
    RuleKind,
    RuleScope,
    State,
    TaskRow,
    TaskSpec,
    Tier,
)
from tests.sim.timeline import Timeline

SHARE_STARTS_MORE = (
    2  # of another submitter between two starts of one that waits, beyond what its weight gives
)
UNKNOWN_MS = 1 << 62
_row = msgspec.msgpack.Decoder(TaskRow).decode
_rule = msgspec.msgpack.Decoder(QueueRule).decode
_spec = msgspec.msgpack.Decoder(TaskSpec).decode


class Moments(NamedTuple):
    """What a task's submitter asked for, in ms of the wall clock; 0 for nothing. `ttl_ms` is a term."""

    not_before: int = 0
    start_by: int = 0
    complete_by: int = 0
    ttl_ms: int = 0


class Deadlines:
    """No task starts before or after it may, none lives on past its end, none is expired before its time; terms
    do not follow a wall clock that is set."""

    def __init__(self, line: Timeline) -> None:
        self._line = line
        self._moments: dict[int, Moments] = {}
        self._bound: set[int] = set()  # tasks whose start or end has a moment
        self._began_ms: dict[int, int] = {}  # the time to live counts from here, monotonic
        self._held_ms: dict[int, int] = {}
        self._ended_ms: dict[int, int] = {}
        self._tried: set[int] = set()
        self._unsure: set[int] = (
            set()
        )  # the wall clock was set while no hub ran: terms may be shorter by a day
        self._vague: set[int] = set()  # retried by a batch told late: which moments had passed then is not known
        self._noted_offset_ms: int | None = None
        self.is_told_late = False  # of a batch that was stored some time ago, by another wall clock

    def core_started(self, tasks: Iterable[int]) -> None:
        if self._noted_offset_ms is None:
            self._noted_offset_ms = self._line.wall_offset_ms
        if self._line.wall_offset_ms != self._noted_offset_ms:
            self.unsure(tasks)  # the wall clock was set while no hub ran

    def unsure(self, tasks: Iterable[int]) -> None:
        self._unsure.update(tasks)

    def clock_noted(self) -> None:
        """The store knows how the two clocks stand now, or stood when a batch was made that is told late."""
        self._noted_offset_ms = UNKNOWN_MS if self.is_told_late else self._line.wall_offset_ms

    def took_body(self, task: int, spec: TaskSpec) -> None:
        asked = (spec.not_before, spec.start_by, spec.complete_by)
        moments = [round(datetime.fromisoformat(text).timestamp() * 1000) if text else 0 for text in asked]
        self._moments[task] = Moments(*moments, ttl_ms=(spec.ttl_s or 0) * 1000)
        if spec.start_by or spec.complete_by:
            self._bound.add(task)
        self._began_ms[task] = self._line.now_ms

    def retried(self, task: int) -> None:
        """Moments that have passed bind it no more, and its time to live begins again."""
        wall_ms = self._line.now().wall_ms
        old = self._moments[task]
        start_by, complete_by = (ms if ms > wall_ms else 0 for ms in (old.start_by, old.complete_by))
        if self.is_told_late:
            start_by = complete_by = 0
            self._vague.add(task)
        self._moments[task] = Moments(0, start_by, complete_by, old.ttl_ms)
        self._began_ms[task] = self._line.now_ms
        self._tried.discard(task)
        self._unsure.discard(task)

    def spent(self, task: int) -> None:
        """A worker has been on it: it was started."""
        self._tried.add(task)

    def was_tried(self, task: int) -> bool:
        """Whether a worker has been on it: then a sick endpoint may keep it waiting."""
        return task in self._tried

    def looked_at_clock(self, hub: Hub, changed: Set[int], now: Now) -> None:
        """After the timers nothing that is still alive is past its end; what was tried or retried in this tick
        is judged when that is durable."""
        table = hub.tasks.table
        for task in self._bound - changed:
            slot = table.slot_of.get(task)
            if slot is None:
                continue
            moments, state = self._moments[task], table.state_of(slot)
            is_late = 0 < moments.complete_by <= now.wall_ms
            assert not is_late, f"task {task} is {state} after its complete_by {moments.complete_by}"
            if state not in OPEN_ATTEMPT and task in self._tried and moments.start_by <= now.wall_ms:
                self._moments[task] = moments._replace(start_by=0)  # it was started in time
            is_unstarted = state not in OPEN_ATTEMPT and task not in self._tried
            is_late = is_unstarted and 0 < moments.start_by <= now.wall_ms
            assert not is_late, f"task {task} is {state} after its start_by {moments.start_by}"

    def started(self, task: int, changed: Set[int], now: Now) -> None:
        if task in changed:
            return
        moments = self._moments.get(task, Moments())
        if task not in self._tried:
            is_late = 0 < moments.start_by <= now.wall_ms
            assert not is_late, f"task {task} started at {now.wall_ms}, to be started by {moments.start_by}"
        is_late = 0 < moments.complete_by <= now.wall_ms
        assert not is_late, f"task {task} started at {now.wall_ms}, to be complete by {moments.complete_by}"

    def took_row(self, old: TaskRow | None, new: TaskRow) -> None:
        now = self._line.now()
        moments = self._moments.get(new.id, Moments())
        was_due = old is not None and old.state is State.delayed and old.not_before_ms > 0
        if was_due and new.state is State.ready and not self.is_told_late:
            assert moments.not_before <= now.wall_ms, f"task {new.id} is ready before {moments.not_before}"
            self._line.reach("not_before_came")
        if new.state in FINAL and (old is None or old.state not in FINAL):
            self._ended_ms[new.id] = now.mono_ms
        if new.state is State.held and (old is None or old.state is not State.held):
            self._held_ms[new.id] = now.mono_ms
        if new.state is State.expired and (old is None or old.state is not State.expired):
            self._check_expired(new, moments, now)

    def retired(self, row: TaskRow, term_ms: int, is_one_too_many: bool) -> None:
        """A task is deleted because it ended long ago, or because too many have."""
        assert row.state in FINAL, f"task {row.id} is {row.state} and was deleted as if it were over"
        self._line.reach("retired_one_too_many" if is_one_too_many else "retired_by_age")
        kept_ms = self._line.now_ms - self._ended_ms.get(row.id, self._line.now_ms)
        is_due = is_one_too_many or row.id in self._unsure or kept_ms >= term_ms
        assert is_due, f"task {row.id} was deleted {kept_ms} ms after its end, {term_ms} it is to be kept"

    def _check_expired(self, row: TaskRow, moments: Moments, now: Now) -> None:
        self._line.reach(f"expired_{row.error_code}")
        if self.is_told_late or (row.id in self._vague and row.error_code != "ttl"):
            return
        what = f"task {row.id} was expired by {row.error_code} before its time"
        if row.error_code in ("start_by", "complete_by"):
            due_ms = getattr(moments, row.error_code)
            assert 0 < due_ms <= now.wall_ms, f"{what}: {due_ms}, it is {now.wall_ms}"
        elif row.error_code == "ttl":
            lived_ms = now.mono_ms - self._began_ms[row.id]
            assert row.id in self._unsure or 0 < moments.ttl_ms <= lived_ms, f"{what}: {lived_ms} ms"


class Starts:
    """Nothing starts that a pause or a limit stops, or before what it depends on has completed."""

    def __init__(self, line: Timeline) -> None:
        self._line = line
        self.specs: dict[
            int, TaskSpec
        ] = {}  # those of a tick that failed too, until their ids are given again
        self.rules: dict[bytes, QueueRule | None] = {}
        self.completed: set[int] = set()
        self.is_paused = False
        self._durable: tuple[dict[bytes, QueueRule | None], bool] = {}, False
        self._completed_now: set[int] = set()

    def committed(self) -> None:
        self._durable = dict(self.rules), self.is_paused
        self._completed_now.clear()

    def forget_tick(self) -> None:
        """What was put since the last commit is not durable."""
        self.rules, self.is_paused = dict(self._durable[0]), self._durable[1]
        self.completed -= self._completed_now
        self._completed_now.clear()

    def put(self, database: str, key: bytes, body: bytes | None) -> None:
        """A record that the core wants written, or one that is durable."""
        if database == "bodies" and body is not None:
            self.specs[int.from_bytes(key, "big")] = _spec(body)
        elif database == "limits":
            self.rules[key] = _rule(body) if body is not None else None
        elif database == "meta" and key == b"paused" and body is not None:
            self.is_paused = bool(int.from_bytes(body, "big"))
        elif database == "tasks" and body is not None:
            row = _row(body)
            if row.state is State.completed and row.id not in self.completed:
                self.completed.add(row.id)
                self._completed_now.add(row.id)

    def weight(self, submitter: int) -> int:
        return self._number(RuleKind.weight, RuleScope.submitter, str(submitter)) or 1

    def is_plain(self, task: int, tier: str) -> bool:
        """Whether only the turn of its submitter decides when it starts."""
        spec = self.specs[task]
        is_closed = self._number(RuleKind.pause, RuleScope.tier, tier)
        return not spec.repo and not spec.labels and not is_closed

    def scheduled(self, hub: Hub, started: list[m.Assign]) -> None:
        """`started` in the order in which they were given out."""
        table = hub.tasks.table
        new = {one.task for one in started}
        running = [
            self.specs[task]
            for task, slot in table.slot_of.items()
            if task not in new and table.state_of(slot) in OPEN_ATTEMPT
        ]
        for one in started:
            spec = self.specs[one.task]
            self._check_pauses(one, spec, table.host[table.slot_of[one.task]])
            self._check_limits(one.task, spec, running)
            missing = [task for task in spec.depends_on if task not in self.completed]
            assert not missing, f"task {one.task} started and {missing}, which it waits for, did not complete"
            if spec.depends_on:
                self._line.reach("dependant_started")
            running.append(spec)

    def _check_pauses(self, one: m.Assign, spec: TaskSpec, host: int) -> None:
        assert not self.is_paused, f"task {one.task} started while the queue was paused"
        for scope, key in ((RuleScope.tier, one.tier), (RuleScope.repo, spec.repo), (RuleScope.host, host)):
            is_closed = self._number(RuleKind.pause, scope, str(key))
            assert not is_closed, f"task {one.task} started while {scope}:{key} was paused"

    def _check_limits(self, task: int, spec: TaskSpec, running: list[TaskSpec]) -> None:
        for scope, key in ((RuleScope.repo, spec.repo), *((RuleScope.label, label) for label in spec.labels)):
            allowed = self._number(RuleKind.limit, scope, str(key))
            if not allowed:
                continue
            of = [one for one in running if key == one.repo or key in one.labels]
            assert len(of) < allowed, f"task {task} started, {len(of)} of {scope}:{key} ran, {allowed} may"
            self._line.reach("limit_met" if len(of) == allowed - 1 else "limit_had_room")

    def _number(self, kind: RuleKind, scope: RuleScope, key: str) -> int:
        found = (rule for rule in self.rules.values() if rule is not None)
        return next((r.number for r in found if (r.kind, r.scope, r.key) == (kind, scope, key)), 0)


class Progress:
    """A worker that gets nowhere is taken back after twice its time, and no other is. On the clock of leases."""

    def __init__(self, line: Timeline, starts: Starts) -> None:
        self._line, self._starts = line, starts
        self._moved: dict[tuple[int, int], tuple[int, int]] = {}  # by attempt: progress, since when

    def core_started(self, open_keys: Iterable[tuple[int, int]], clock_ms: int) -> None:
        """What a worker did before is not known to a core that begins."""
        self._moved = {key: (0, clock_ms) for key in open_keys if key in self._moved}

    def begins(self, key: tuple[int, int], clock_ms: int) -> None:
        self._moved[key] = 0, clock_ms

    def heard(self, key: tuple[int, int], progress: int | None, clock_ms: int) -> None:
        """The hub takes the attempt for one that works; `progress` is None without a heartbeat."""
        known = self._moved.setdefault(key, (0, clock_ms))
        if progress is not None and progress != known[0]:
            self._moved[key] = progress, clock_ms

    def taken_back(self, key: tuple[int, int], hub: Hub, clock_ms: int) -> None:
        silent_ms, patience_ms = clock_ms - self._moved[key][1], self._patience_ms(key[0], hub)
        self._line.reach("stalled_taken_back")
        assert silent_ms >= 2 * patience_ms > 0, (
            f"{key} was stalled after {silent_ms} ms of {2 * patience_ms}"
        )

    def overdue(self, open_keys: Iterable[tuple[int, int]], hub: Hub, clock_ms: int, late_ms: int) -> None:
        """`late_ms`: how much later than due it may be seen."""
        for key in open_keys:
            if key in self._moved:
                silent_ms, patience_ms = clock_ms - self._moved[key][1], self._patience_ms(key[0], hub)
                is_late = 0 < 2 * patience_ms + late_ms < silent_ms
                assert not is_late, f"{key} got nowhere for {silent_ms} ms, {2 * patience_ms} are allowed"

    def _patience_ms(self, task: int, hub: Hub) -> int:
        return (self._starts.specs[task].stall_s or hub.settings.queue.stall_s) * 1000


class Windows:
    """A host whose cloud account is out of its usage window gets no more work for it until the window opens, it says
    hello, or the hub starts. On the clock of leases."""

    def __init__(self, line: Timeline) -> None:
        self._line = line
        self._closed: dict[str, int] = {}  # by host, until when
        self._greeted: set[str] = set()  # hosts that said hello in this tick, before or after it failed

    def core_started(self) -> None:
        self._closed.clear()

    def hello(self, host: str) -> None:
        self._closed.pop(host, None)
        self._greeted.add(host)

    def tick_ended(self) -> None:
        self._greeted.clear()

    def failed(self, record: AttemptRecord, tier: Tier, clock_ms: int) -> None:
        error = record.error
        if error is None or error.failure_class is not FailureClass.usage_window or tier is not Tier.complex:
            return
        if record.host in self._greeted:
            return
        until_ms = clock_ms + int((error.retry_after_s or 0) * 1000)
        self._closed[record.host] = max(until_ms, self._closed.get(record.host, 0))

    def started(self, one: m.Assign, clock_ms: int) -> None:
        if one.route.backend is not Backend.claude or one.route.host not in self._closed:
            return
        left_ms = self._closed[one.route.host] - clock_ms
        self._line.reach("window_opened_again")
        assert left_ms <= 0, f"task {one.task} was given to {one.route.host}, closed for {left_ms} ms more"


def check_alone(hub: Hub, must_be_alone: Callable[[int], bool]) -> bool:
    """A task that the next loss would kill has its host for itself. Whether there was one."""
    table = hub.tasks.table
    on_host: dict[int, list[int]] = defaultdict(list)
    for task, slot in table.slot_of.items():
        if table.state_of(slot) in OPEN_ATTEMPT:
            on_host[table.host[slot]].append(task)
    found = False
    for host, tasks in on_host.items():
        alone = [task for task in tasks if must_be_alone(task)]
        assert not alone or len(tasks) == 1, f"tasks {tasks} share host {host}, and {alone} must run alone"
        found |= bool(alone)
    return found


class Shares:
    """Submitters take turns: nobody who has a task that could run waits while another gets more than its share
    and a few. Kept per pool and lane, for tasks whose start only the turn of their submitter decides."""

    def __init__(self, line: Timeline, starts: Starts, was_tried: Callable[[int], bool]) -> None:
        self._line, self._starts, self._was_tried = line, starts, was_tried
        self._weights: dict[int, int] = {}
        self._passed: dict[tuple[int, int, int], Counter[int]] = defaultdict(Counter)

    def core_started(self) -> None:
        """Turns are not stored."""
        self._passed.clear()

    def scheduled(self, hub: Hub, started: list[tuple[int, int, int]]) -> None:
        """`started` is (pool, lane, submitter) of each task that was given out, in order."""
        waiting = self._waiting(hub)
        weights = {place[2]: self._starts.weight(place[2]) for place in (*waiting, *started)}
        if any(self._weights.get(one, weight) != weight for one, weight in weights.items()):
            self._passed.clear()  # they count from the next start on
        self._weights |= weights
        for place in [place for place in self._passed if place not in waiting]:
            del self._passed[place]
        for pool, lane, submitter in started:
            self._passed.pop((pool, lane, submitter), None)
            for place in waiting:
                if place[:2] == (pool, lane) and place[2] != submitter:
                    self._pass_over(place, submitter)

    def _pass_over(self, place: tuple[int, int, int], submitter: int) -> None:
        passed = self._passed[place]
        passed[submitter] += 1
        self._line.reach("submitters_took_turns")
        share = -(-self._weights[submitter] // self._weights[place[2]])
        assert passed[submitter] <= share + SHARE_STARTS_MORE, (
            f"submitter {place[2]} waits in pool {place[0]} and lane {place[1]} while {submitter} had "
            f"{passed[submitter]} starts"
        )

    def _waiting(self, hub: Hub) -> set[tuple[int, int, int]]:
        table, groups = hub.tasks.table, hub.tasks.groups
        return {
            (groups.pool_of(table.group[slot]), table.lane[slot], table.submitter[slot])
            for task, slot in table.slot_of.items()
            if table.state_of(slot) is State.ready
            and not self._was_tried(task)
            and self._starts.is_plain(task, hub.tasks.tier_of(slot))
        }
