"""A task's life: one table from (state, event) to the state that follows; an unknown pair changes nothing.

Every change writes the row, and a final state leaves the lanes, notifies who waits and releases what the task
held in the same batch of effects. Attempts (leases, results) are in attempts.py, which moves tasks through the
door here.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from agentcom import messages as m
from agentcom.clock import Now
from agentcom.config import Settings
from agentcom.core.admission import Admitted, admit, group_of_row, ttl_ms
from agentcom.core.deadlines import Deadlines, TermClock, too_late
from agentcom.core.effects import RecordKey, key_u64
from agentcom.core.groups import Groups, raised
from agentcom.core.lanes import ReadyQueue, retry_line
from agentcom.core.outlet import Outlet
from agentcom.core.principals import may_touch, owner_of
from agentcom.core.rows import (
    LANES,
    SOURCE_CODE,
    STATE_CODE,
    STATES,
    TIER_CODE,
    TIERS,
    RowPage,
    TaskTable,
)
from agentcom.core.sessions import Sessions
from agentcom.core.story import Noted, Story
from agentcom.core.waiting import Plan, Waiting, final_row
from agentcom.core.waits import Waits
from agentcom.errors import NotFound, Refused
from agentcom.model import (
    FINAL,
    ClockNote,
    JsonObject,
    Lane,
    PrincipalRecord,
    QuestionRecord,
    SecondRecord,
    State,
    TaskError,
    TaskRow,
    TaskSpec,
    Term,
    Tier,
    TierSource,
)
from agentcom.money import micro


class Move(Term):
    """What can happen to a task."""

    assign = "assign"
    start = "start"
    complete = "complete"
    back = "back"
    delay = "delay"
    due = "due"
    hold = "hold"
    release = "release"
    kill = "kill"
    cancel = "cancel"
    expire = "expire"
    retry = "retry"
    wait = "wait"
    met = "met"


QUEUED = (State.waiting, State.delayed, State.ready)
OPEN = (State.assigned, State.working)
ENDED = (State.dead, State.cancelled, State.expired)  # final without a result
LIVE = (*QUEUED, *OPEN, State.held)
QUIET = (State.waiting, State.ready, State.held)  # nothing is known of them that the row does not hold
QUIET_CODES: Final = frozenset(STATE_CODE[state] for state in QUIET)
READY: Final = STATE_CODE[State.ready]
WORKING: Final = STATE_CODE[State.working]
PLACE_BITS: Final = 66  # of group, submitter and lane
TABLE: dict[tuple[State, Move], State] = {
    (State.ready, Move.assign): State.assigned,
    (State.assigned, Move.start): State.working,
    **{(state, Move.complete): State.completed for state in OPEN},
    **{(state, Move.back): State.ready for state in OPEN},
    **{(state, Move.delay): State.delayed for state in OPEN},
    (State.delayed, Move.due): State.ready,
    **{(state, Move.hold): State.held for state in (*QUEUED, *OPEN)},
    (State.held, Move.release): State.ready,
    (State.held, Move.delay): State.delayed,
    (State.held, Move.wait): State.waiting,
    (State.waiting, Move.met): State.ready,
    (State.waiting, Move.delay): State.delayed,
    **{(state, Move.kill): State.dead for state in OPEN},
    **{(state, Move.cancel): State.cancelled for state in LIVE},
    **{(state, Move.expire): State.expired for state in LIVE},
    **{(state, Move.retry): State.ready for state in ENDED},
    **{(state, Move.wait): State.waiting for state in ENDED},
}


NOTED: dict[Move, Noted] = {
    Move.hold: Noted.held,
    Move.release: Noted.released,
    Move.wait: Noted.released,
    Move.delay: Noted.delayed,
    Move.due: Noted.due,
    Move.kill: Noted.dead,
    Move.cancel: Noted.cancelled,
    Move.expire: Noted.expired,
}  # what the attempt records do not tell; see story.py
NOT_BEFORE: Final = "it starts not before then"
LETTERS = {State.dead: "task_dead", State.expired: "task_expired"}  # what nobody asked for is an event

STALE_MAX = 1024  # deadlines that have passed, beyond as many as stand, before they are dropped
CHECK_EVERY = 64  # moves between two looks at how many have passed
LOCAL = TIERS.index(Tier.standard)


class Jitter(Protocol):
    """A seeded source of numbers, passed in."""

    def randrange(self, start: int, /) -> int: ...


class Tasks:
    """The table of live tasks, the ready queue, and every move between states."""

    def __init__(self, out: Outlet, settings: Settings, boot: str = "") -> None:
        self._out = out
        self.settings = settings
        self.table = TaskTable()
        self.groups = Groups(out)
        self.ready = ReadyQueue(self.groups.pool_of)
        self.follows: Mapping[int, int] = {}  # by submitter, of those whose name another had before: see principals.py
        self.lines: dict[int, int] = {}  # by label set: the line of the ready queue, where it is not 0
        self.waits = Waits(out)
        self.story = Story(out, self.table)
        self.clock = TermClock(out, boot)
        self.deadlines = Deadlines(self.table, self.clock)
        self.waiting = Waiting(self, out)
        self.alone: dict[
            int, None
        ] = {}  # live tasks that have to be the only one on their host; see isolation.py
        self.asked: dict[int, QuestionRecord] = {}  # see questions.py
        self.seconds: dict[int, SecondRecord] = {}  # see second_host.py
        self.begun: list[int] = []  # tasks whose attempts were accepted since `save_begun`
        self.on_second_over: Callable[[int], None] = lambda _slot: None
        self.want_second: Callable[[int], None] = lambda _task: None
        self.on_asked_over: Callable[[int], None] = lambda _task: None
        self.resolve_repo: Callable[[TaskSpec, str], TaskSpec] = lambda spec, _at: spec
        self.repo_address: Callable[[str], str] = lambda repo: repo
        self.check_kinds: Callable[[], frozenset[str]] = frozenset
        self._newest_ms = 0
        self._order_base_ms = 0
        self.next_id = 1
        self.changed = True
        self.counts = dict.fromkeys(State, 0)
        self.by_lane = dict.fromkeys(Lane, 0)
        self.disagreements = 0
        self._entered = 0

    # --- at start ---------------------------------------------------------------------------------------

    def load(self, pages: Iterable[RowPage], count: int = 0) -> list[int]:
        """The live tasks of the store, a page at a time; the slots of those that are not just waiting. Open attempts
        get their fresh lease from attempts.py. `count`: how many there are, as far as that is known."""
        slots: list[int] = []
        self.table.reserve(count)
        for page in pages:
            slots += self._load_page(page)
        self.table.use_rest()
        return slots

    def _load_page(self, page: RowPage) -> list[int]:
        columns = page.columns
        of_group = Counter(columns["group"])
        for group, count in of_group.items():
            self.groups.use(group, count)
        alone = {group for group in of_group if self.groups[group].alone}
        if alone:
            for task, group in zip(columns["id"], columns["group"], strict=True):
                if group in alone:
                    self.alone[task] = None
        slots = self.table.add_many(page)
        states = Counter(columns["state"])
        for code, count in states.items():
            self.counts[STATES[code]] += count
        for code, count in Counter(columns["lane"]).items():
            self.by_lane[LANES[code]] += count
        # Not `created_ms`: the order clock may be far from the wall, whose error was mended since.
        newest_ms = [0] * len(LANES)
        for code, key in zip(columns["lane"], columns["order_key"], strict=True):
            if key > newest_ms[code]:
                newest_ms[code] = key
        for code, key in enumerate(newest_ms):
            self._newest_ms = max(self._newest_ms, key - self._lane_delay_ms(LANES[code]))
        self._queue_page(columns, slots)
        self.deadlines.load(columns, slots)
        if QUIET_CODES.issuperset(states):
            return []
        return [slot for slot, code in zip(slots, columns["state"], strict=True) if code not in QUIET_CODES]

    def _queue_page(self, columns: Mapping[str, array[int]], slots: range) -> None:
        """Put those that are ready into the queue, each run of like ones at once."""
        runs: dict[int, tuple[array[int], array[int]]] = {}
        has_lines = bool(self.lines) or any(columns["infra_count"]) or any(columns["retries_used"])
        follows = self.follows
        slot = slots.start
        for state, group, submitter, lane, order_key, task in zip(
            columns["state"], columns["group"], columns["submitter"], columns["lane"], columns["order_key"],
            columns["id"], strict=True,
        ):  # fmt: skip
            if state == READY:
                line = self.line_of(slot) if has_lines else 0
                if follows:
                    submitter = follows.get(submitter, submitter)
                place = line << PLACE_BITS | group << 34 | submitter << 2 | lane
                run = runs.get(place)
                if run is None:
                    run = runs[place] = array("q"), array("q")
                run[0].append(order_key)
                run[1].append(task)
            slot += 1
        for place, (keys, tasks) in runs.items():
            group, submitter = place >> 34 & 0xFFFFFFFF, place >> 2 & 0xFFFFFFFF
            self.ready.push_run(group, submitter, place & 3, place >> PLACE_BITS, keys, tasks)
        self.changed |= bool(runs)

    def begin(self, now: Now, clock: ClockNote | None = None) -> None:
        """Start the clock of terms, and that for the order of tasks: wall time once, then only monotonic time moves
        it, so a jump of the wall clock changes no order."""
        self.clock.begin(now, clock)
        self._order_base_ms = max(now.wall_ms, self._newest_ms) - now.mono_ms

    def adopt(self, old: Tasks, sessions: Sessions) -> None:
        """Take over the clocks, the counts and the waits of a core that this one replaces."""
        self._order_base_ms = old._order_base_ms
        self.clock.adopt(old.clock)
        self.disagreements = old.disagreements
        self.waits.adopt(old.waits, self.table, sessions)
        self.changed = True

    # --- from people ------------------------------------------------------------------------------------

    def submit(
        self, op: m.Submit, caller: PrincipalRecord, now: Now, found: Mapping[RecordKey, bytes]
    ) -> list[JsonObject]:
        """Take all tasks of the batch or none. A known idempotency key returns the first task."""
        admitted = []
        for n, spec in enumerate(op.tasks):
            at = f"tasks[{n}]"
            named = self.resolve_repo(spec, at) if spec.repo is not None else spec
            admitted.append(admit(named, caller.role, self.settings, now, at, self.check_kinds))
        plans = self.waiting.plan(admitted, caller, found)
        taken = [self._take(plan, caller, now, found) for plan in plans]
        self._out.number("next_task", self.next_id)
        return taken

    def are_known(self, op: m.Submit, caller: int, found: Mapping[RecordKey, bytes]) -> bool:
        """Whether every task of the batch was taken before, so that it is answered and nothing is stored."""
        return all(self._known(spec, caller, found) is not None for spec in op.tasks)

    def ids_of(
        self, admitted: Sequence[Admitted], caller: PrincipalRecord, found: Mapping[RecordKey, bytes]
    ) -> list[int]:
        """The id that each entry of a batch has, or will get when the batch is taken."""
        ids: list[int] = []
        fresh: dict[bytes, int] = {}
        next_id, owner = self.next_id, owner_of(caller)
        for one in admitted:
            key = idempotency_key(owner, one.spec) if one.spec.idempotency_key is not None else b""
            known = self._known(one.spec, owner, found) or (fresh.get(key) if key else None)
            if known is None:
                known, next_id = next_id, next_id + 1
                fresh[key] = known
            ids.append(known)
        return ids

    def idempotency_keys(self, op: m.Submit, caller: int) -> list[bytes]:
        return [idempotency_key(caller, s) for s in op.tasks if s.idempotency_key is not None]

    def slot(self, task: int, caller: PrincipalRecord | None = None) -> int:
        """The slot of a live task that the caller may touch; NotFound otherwise (for others' tasks too, so
        that ids tell nothing)."""
        slot = self.table.slot_of.get(task)
        if slot is None or not may_touch(caller, self.table.submitter[slot]):
            raise NotFound(f"there is no live task {task}", field="task")
        return slot

    def hold(self, slot: int, error: TaskError, now: Now, by: str = "") -> None:
        """A person, or an error that only a person can mend, takes the task out of the queue."""
        state = self.table.state_of(slot)
        if (state, Move.hold) not in TABLE:
            raise self.illegal(slot, Move.hold)
        self.table.errors[self.table.id[slot]] = error
        self.table.delay_ms[slot] = self.clock.now_ms(now) + self.settings.queue.held_s * 1000
        self.move(slot, Move.hold, now, by=by)

    def check_release(self, slot: int) -> None:
        """Refused where the task is not held, or what it waits for will not come."""
        if self.table.state_of(slot) is not State.held:
            raise self.illegal(slot, Move.release)
        self.waiting.check_release(self.table.id[slot])

    def release(self, slot: int, now: Now, by: str = "", cause: str = "") -> None:
        """A held task goes on: to its lane, or on waiting for other tasks, or for the time that was given for it."""
        later = self.table.not_before_ms[slot] > now.wall_ms
        self.check_release(slot)
        if self.waiting.unmet(self.table.id[slot]):
            self.waiting.wait_again(slot, now, by)
            return
        self.table.errors.pop(self.table.id[slot], None)  # what held it does so no more; the story keeps it
        self.table.delay_ms[slot] = 0
        if later:
            self.note(slot, Noted.released, cause, now, by=by)
        self.move(slot, Move.delay if later else Move.release, now, by=by, cause=cause)

    def retry(
        self, record: TaskRow, spec: TaskSpec, now: Now, found: Mapping[RecordKey, bytes], by: str = ""
    ) -> None:
        """A dead, cancelled or expired task goes back to its lane with fresh counters and a new time to live; attempts
        rise on. Moments that have passed bind it no more."""
        state = TABLE.get((record.state, Move.retry))
        if state is None:
            raise illegal(record.id, record.state, Move.retry)
        if self.waiting.unmet(record.id):
            state = TABLE[record.state, Move.wait]
        self.story.back(record, now)
        old = record.state
        record.state = state
        record.retries_used = record.losses = record.parked_count = record.infra_count = record.unaccepted = 0
        record.finished_ms = record.agent = record.host = 0
        record.delay_ms = record.due_ms = record.not_before_ms = 0
        record.start_by_ms = record.start_by_ms if record.start_by_ms > now.wall_ms else 0
        record.complete_by_ms = record.complete_by_ms if record.complete_by_ms > now.wall_ms else 0
        record.expires_ms = self.clock.now_ms(now) + ttl_ms(spec.ttl_s, record.tier, self.settings)
        record.order_key = self._order_key(record.lane, now)
        record.error_class = record.error_code = record.error_message = ""
        if spec.repo is not None:  # it may be registered by now, in another spelling
            spec = msgspec.structs.replace(spec, repo=self.repo_address(spec.repo))
        record.group = self.groups.take(group_of_row(spec, record))  # its number may be another's by now
        slot = self.table.add(record)
        self.counts[state] += 1
        self.counts[old] -= 1
        self.by_lane[record.lane] += 1
        self._out.delete("dead", key_u64(record.id))
        self._out.put_bytes("lanes", key_u64(record.id), b"")
        if spec.second_host:
            self.want_second(record.id)
        self._enter(slot, state, now)
        self.save(slot)
        self.note(slot, Noted.retried, "", now, by=by)
        self.waiting.back(slot, now, found)
        self.waiting.retried(record.id, now)

    def set_alone(self, slot: int, alone: bool) -> None:
        """Whether the task has to be the only one on its host. Not while it is ready: the queue knows its group."""
        number = self.table.group[slot]
        group = self.groups[number]
        if group.alone is alone:
            return
        self.table.group[slot] = self.groups.take(msgspec.structs.replace(group, alone=alone))
        self.groups.give(number)
        if alone:
            self.alone[self.table.id[slot]] = None
        else:
            del self.alone[self.table.id[slot]]

    def escalate(self, slot: int, cause: str, now: Now) -> None:
        """From now on the task is of the tier above. Not while it is ready: the queue knows its group."""
        table = self.table
        number = table.group[slot]
        table.group[slot] = self.groups.take(raised(self.groups[number]))
        self.groups.give(number)
        table.tier[slot] = TIER_CODE[Tier.complex]
        table.tier_source[slot] = SOURCE_CODE[TierSource.raised]
        self.note(slot, Noted.escalated, cause, now)
        self._out.publish(
            "task", "task_escalated", task=table.id[slot], tier=Tier.complex.value, because=cause
        )

    def release_to_wait(self, slot: int, now: Now, by: str, cause: str) -> None:
        """From held to waiting for other tasks."""
        self.move(slot, Move.wait, now, cause=cause, by=by)

    def go_on(self, slot: int, now: Now) -> None:
        """All that the task waited for has completed: to its lane, unless its time is still to come."""
        later = self.table.not_before_ms[slot] > now.wall_ms
        self.move(slot, Move.delay if later else Move.met, now)

    # --- moves ------------------------------------------------------------------------------------------

    def move(self, slot: int, what: Move, now: Now, *, cause: str = "", by: str = "") -> State:
        """Move a live task as the table says; raises Refused, with nothing changed, for an unknown pair. The
        story is told `by` whom and why: `cause`, or else the task's error."""
        old = STATES[self.table.state[slot]]
        new = TABLE.get((old, what))
        task = self.table.id[slot]
        if new is None:
            raise self.illegal(slot, what)
        self.table.state[slot] = STATE_CODE[new]
        if what in NOTED:
            self._note_move(slot, what, cause, now, by)
        if old is State.ready:
            self._leave_queue(slot, what)
        if new is State.ready:
            # What it waited for is behind it: a failure later on starts a delay of its own.
            self.table.not_before_ms[slot] = self.table.delay_ms[slot] = self.table.due_ms[slot] = 0
        if self.alone and task in self.alone:
            self.changed = True  # a host may be kept free for it
        self.counts[old] -= 1
        self.counts[new] += 1
        if new in FINAL:
            self._finish(slot, task, new, now)
        else:
            self._enter(slot, new, now)
            if new is State.working:
                self.begun.append(task)
                self._out.task_changed(task)
            else:
                self.save(slot)
        return new

    def note(self, slot: int, event: Noted, cause: str, now: Now, *, by: str = "", until_ms: int = 0) -> None:
        """Tell the story of a live task on, after its state has changed."""
        table = self.table
        self.story.note(table.id[slot], event, table.attempt[slot], cause, now, by=by, until_ms=until_ms)

    def _note_move(self, slot: int, what: Move, cause: str, now: Now, by: str) -> None:
        error = self.table.errors.get(self.table.id[slot])
        until_ms = 0
        if what is Move.delay:
            until_ms = self.table.not_before_ms[slot] or self.table.due_ms[slot]
        if what is Move.delay and self.table.not_before_ms[slot]:
            cause = NOT_BEFORE  # whatever held it until now
        elif not cause and error is not None and what not in (Move.due, Move.release, Move.cancel):
            cause = error.message
        self.note(slot, NOTED[what], cause, now, by=by, until_ms=until_ms)

    def illegal(self, slot: int, what: Move) -> Refused:
        """The refusal of a move that the table does not have, with what is known of the task without a look at
        the store."""
        task = self.table.id[slot]
        error, attempt = self.table.errors.get(task), self.table.attempt[slot]
        known = f"attempt {attempt}" if attempt else "not tried yet"
        state = self.table.state_of(slot)
        # What held a task that was released since says nothing about why it cannot move now.
        is_stopped = state is State.held or (state is State.delayed and not self.table.not_before_ms[slot])
        known += f"; {error.message}" if error is not None and is_stopped else ""
        return illegal(task, self.table.state_of(slot), what, known)

    def sweep(self, now: Now, stop: Callable[[int, TaskError, Now], None]) -> None:
        """Carry out what the clocks say: `not_before`, `start_by`, `complete_by`, terms. `stop` ends the attempt of a
        running task."""
        for task in self.deadlines.due(now):
            slot = self.table.slot_of.get(task)
            if slot is not None:
                self._sweep_one(slot, now, stop)

    def _sweep_one(self, slot: int, now: Now, stop: Callable[[int, TaskError, Now], None]) -> None:
        state = self.table.state_of(slot)
        overdue = self.deadlines.overdue(slot, state, now)
        if overdue is not None:
            if state in OPEN:
                said = (
                    f"{overdue.message}; attempt {self.table.attempt[slot]} was running, its worktree is kept"
                )
                overdue = too_late(overdue.code, said)
                stop(slot, overdue, now)
            self.table.errors[self.table.id[slot]] = overdue
            self.move(slot, Move.expire, now)
        elif state is State.delayed and 0 < self.table.not_before_ms[slot] <= now.wall_ms:
            self.move(slot, Move.due, now)
        else:
            if state not in OPEN and 0 < self.table.start_by_ms[slot] <= now.wall_ms:
                self.table.start_by_ms[slot] = 0  # it was started in time
                self.save(slot)
            self.deadlines.watch(slot, state)

    def _take(
        self, plan: Plan, caller: PrincipalRecord, now: Now, found: Mapping[RecordKey, bytes]
    ) -> JsonObject:
        one, owner = plan.admitted, owner_of(caller)
        known = self._known(one.spec, owner, found)
        if known is not None:
            return self._known_view(known, found)
        task, self.next_id = self.next_id, self.next_id + 1
        spec = one.spec
        state = State.delayed if one.not_before_ms else State.ready
        if plan.unmet:
            state = State.waiting
        record = TaskRow(
            id=task,
            state=state,
            lane=spec.lane,
            group=self.groups.take(one.group),
            submitter=owner,
            tier=one.tier,
            tier_source=one.tier_source,
            inferred_tier=one.inferred_tier,
            created_ms=now.wall_ms,
            order_key=self._order_key(spec.lane, now),
            max_retries=self.settings.queue.max_retries if spec.max_retries is None else spec.max_retries,
            expires_ms=self.clock.now_ms(now) + one.term_ms,
            not_before_ms=one.not_before_ms,
            start_by_ms=one.start_by_ms,
            complete_by_ms=one.complete_by_ms,
            stall_s=one.spec.stall_s or 0,
            labels=tuple(sorted(set(spec.labels))),
            budget=micro(spec.budget_usd) if spec.budget_usd is not None else 0,
        )
        slot = self._store_new(record, spec, now)
        if plan.unmet:
            self.waiting.taken(slot, plan.unmet, now)
            state = self.table.state_of(slot)
        if one.tier is not one.inferred_tier and one.tier_source == "explicit":
            self.disagreements += 1
            self._out.publish(
                "task",
                "tier_disagreement",
                task=task,
                tier=one.tier,
                inferred=one.inferred_tier,
                signals=one.signals,
            )
        return {"id": task, "state": state.value, "tier": one.tier.value, "created": True}

    def _known_view(self, task: int, found: Mapping[RecordKey, bytes]) -> JsonObject:
        """The answer to a key that is known: the first task as it is now, live or final."""
        slot = self.table.slot_of.get(task)
        if slot is not None:
            state, tier = self.table.state_of(slot).value, self.tier_of(slot)
        else:
            record = final_row(self._out, task, found)
            if record is None:
                return {"id": task, "state": None, "tier": None, "created": False}
            state, tier = record.state.value, record.tier.value
        return {"id": task, "state": state, "tier": tier, "created": False}

    def _store_new(self, record: TaskRow, spec: TaskSpec, now: Now) -> int:
        key = key_u64(record.id)
        slot = self.table.add(record)
        self.counts[record.state] += 1
        self.by_lane[record.lane] += 1
        self._out.put_bytes("bodies", key, msgspec.msgpack.encode(spec))
        self._out.put_bytes("lanes", key, b"")
        self._out.put("tasks", key, record)
        if spec.idempotency_key is not None:
            self._out.put_bytes("idempotency", idempotency_key(record.submitter, spec), key)
        if spec.second_host:
            self.want_second(record.id)
        self._enter(slot, record.state, now)
        self._out.task_changed(record.id)
        return slot

    def _known(self, spec: TaskSpec, caller: int, found: Mapping[RecordKey, bytes]) -> int | None:
        if spec.idempotency_key is None:
            return None
        stored = self._out.latest(("idempotency", idempotency_key(caller, spec)), found)
        return int.from_bytes(stored, "big") if stored is not None else None

    def _order_key(self, lane: Lane, now: Now) -> int:
        return self._order_base_ms + now.mono_ms + self._lane_delay_ms(lane)

    def waited_ms(self, slot: int, now: Now) -> int:
        """For how long the task has had its place in the queue."""
        lane_ms = self._lane_delay_ms(LANES[self.table.lane[slot]])
        return max(0, self._order_base_ms + now.mono_ms + lane_ms - self.table.order_key[slot])

    def _lane_delay_ms(self, lane: Lane) -> int:
        queue = self.settings.queue
        if lane is Lane.urgent:
            return 0
        if lane is Lane.high:
            return queue.high_delay_s * 1000
        return (queue.normal_delay_s if lane is Lane.normal else queue.low_delay_s) * 1000

    def _enter(self, slot: int, state: State, now: Now) -> None:
        """What being in a state means for the queue and the deadlines."""
        task = self.table.id[slot]
        if state is State.ready:
            table = self.table
            self.ready.push(
                table.group[slot],
                table.order_key[slot],
                task,
                self.turn_of(slot),
                table.lane[slot],
                self.line_of(slot),
            )
            self.changed = True
        self.deadlines.enter(slot, state)
        self._entered += 1
        if self._entered % CHECK_EVERY == 0:
            self.deadlines.keep_within(STALE_MAX)

    def _leave_queue(self, slot: int, what: Move) -> None:
        table, ready = self.table, self.ready
        leave = ready.started if what is Move.assign else ready.remove
        leave(
            table.group[slot],
            table.order_key[slot],
            table.id[slot],
            self.turn_of(slot),
            table.lane[slot],
            self.line_of(slot),
        )

    def turn_of(self, slot: int) -> int:
        """Whose turn in the ready queue the task takes: that of its submitter's name, whichever key or token had it."""
        submitter = self.table.submitter[slot]
        return self.follows.get(submitter, submitter) if self.follows else submitter

    def line_of(self, slot: int) -> int:
        """The line of the ready queue for the task: 0 unless a limit concerns one of its labels, or the budget of
        retries its next attempt."""
        line = self.lines.get(self.table.labels[slot], 0) if self.lines else 0
        return retry_line(line, self.table.group[slot]) if self.is_retry(slot) else line

    def is_retry(self, slot: int) -> bool:
        """Whether the task has failed before and calls an endpoint when it runs."""
        table = self.table
        return bool(table.infra_count[slot] or table.retries_used[slot]) and table.tier[slot] == LOCAL

    def _finish(self, slot: int, task: int, state: State, now: Now) -> None:
        key = key_u64(task)
        if self.seconds and task in self.seconds:
            self.on_second_over(slot)
        self._out.put_bytes("tasks", key, self.table.encoded(slot, now.wall_ms, self.clock.now_ms(now)))
        self._out.delete("lanes", key)
        if state in ENDED:
            error = self.table.errors.get(task)
            code, message = (error.code, error.message) if error else ("", "")
            self._out.put_bytes("dead", key, code.encode())
            if state in LETTERS:
                self._out.publish("task", LETTERS[state], task=task, code=code, message=message)
        self.by_lane[LANES[self.table.lane[slot]]] -= 1
        self.groups.give(self.table.group[slot])
        self.alone.pop(task, None)
        if task in self.asked:
            self.on_asked_over(task)
        self.table.remove(task)
        self.story.live.pop(task, None)
        self.waits.finish(task)
        self._out.task_changed(task)
        self.waiting.ended(task, state, now)

    def save(self, slot: int) -> None:
        task = self.table.id[slot]
        self._out.put_bytes("tasks", key_u64(task), self.table.encoded(slot))
        self._out.task_changed(task)

    def save_begun(self) -> None:
        """Write down which attempts were accepted in this tick, and when: so a restart forgets neither. One
        that has ended by now is told by its record; its row would be 5% of what a short task costs."""
        for task in self.begun:
            slot = self.table.slot_of.get(task)
            if slot is not None and self.table.state[slot] == WORKING:
                self._out.put_bytes("tasks", key_u64(task), self.table.encoded(slot))
        self.begun.clear()

    def tier_of(self, slot: int) -> str:
        return TIERS[self.table.tier[slot]].value


def idempotency_key(caller: int, spec: TaskSpec) -> bytes:
    """Keys are per submitter: nobody can learn of another's task by guessing its key. Hashed, because a key of
    200 characters may have more bytes than a store's key can hold."""
    text = (spec.idempotency_key or "").encode("utf-8", "surrogatepass")
    return key_u64(caller) + hashlib.blake2b(text, digest_size=16).digest()


def illegal(task: int, state: State, what: Move, known: str = "") -> Refused:
    """`known` is what the core holds of the task's story; the whole of it is in the store."""
    said = f" ({known})" if known else ""
    told = f"agentcom task story {task}"
    return Refused("wrong_state", f"task {task} is {state}{said}: it cannot {what} now; see {told}")
