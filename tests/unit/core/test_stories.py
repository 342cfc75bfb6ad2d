"""Stories that hypothesis makes up: no order of events breaks a promise.

Hosts accept, beat, finish, vanish and come back late; people submit, cancel, hold, retry and purge; the hub stops
and starts. After every step the indexes are walked, and every acknowledged task is in one state, its attempts have
risen, at most one of them completed it. At each restart the core made from the store is the core that ran.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import msgspec
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentcom import messages as m
from agentcom.clock import rfc3339
from agentcom.config import RetentionSettings
from agentcom.core.effects import PeerGone, key_u64, key_u64x2
from agentcom.core.hub import Hub
from agentcom.errors import Refused
from agentcom.model import (
    FINAL,
    OPEN_ATTEMPT,
    AgentRecord,
    AttemptRecord,
    FailureClass,
    HostRecord,
    State,
    TaskRow,
    Tier,
)
from agentcom.store.crosscheck import cross_check, walk_store
from tests import factories
from tests.core_rig import HostEnd, Rig
from tests.factories import endpoint_probe, error, result, shell_task, task

STEPS = 40
REPOS = ["https://git.example/one.git", "https://git.example/two.git"]
LIMITED = ["label:a", "label:b", f"repo:{REPOS[0]}"]
STORIES = 150
TASKS_KEPT = 2  # final ones


class Story(RuleBasedStateMachine):
    """Three hosts of two agents, one submitter, a hub that stops now and then."""

    def __init__(self) -> None:
        super().__init__()
        retention = RetentionSettings(tasks_max=TASKS_KEPT)
        chosen = factories.settings(max_losses=4, max_retries=2, backoff_s=1, held_s=600, ttl_s=3600)
        self.rig = Rig(msgspec.structs.replace(chosen, retention=retention))
        self.hosts = [self.rig.host(f"host{n}", agents=2) for n in range(3)]
        self.hosts[0].see()
        self.working: dict[tuple[int, int], tuple[HostEnd, m.Assign]] = {}
        self.outbox: list[tuple[HostEnd, m.Result]] = []
        self.acknowledged: set[int] = set()
        self.accepted: dict[int, int] = {}
        self.attempts: dict[int, int] = {}
        self.purged: set[int] = set()
        self.keys = 0
        self.ceilings: dict[str, int] = {}
        endpoints = msgspec.structs.replace(self.rig.settings.endpoints, retry_min=1, retry_percent=0)
        self.rig.settings = msgspec.structs.replace(self.rig.settings, endpoints=endpoints)
        self.rig.hub.adopt(self.rig.settings, self.rig.clock.now())

    # --- people -----------------------------------------------------------------------------------------

    @rule(
        count=st.integers(1, 3),
        is_model=st.booleans(),
        is_late=st.booleans(),
        is_repeat=st.booleans(),
        labels=st.sets(st.sampled_from(["a", "b", "c"]), max_size=2),
        repo=st.sampled_from([None, *REPOS]),
    )
    def submit(
        self, count: int, is_model: bool, is_late: bool, is_repeat: bool, labels: set[str], repo: str | None
    ) -> None:
        self.keys += not is_repeat
        soon = self.rig.clock.now().wall_ms + 20_000 if is_late else 0
        when = rfc3339(soon) if is_late else None
        make = task if is_model else shell_task
        more = {"not_before": when, "labels": tuple(sorted(labels)), "repo": repo}
        specs = tuple(make(idempotency_key=f"{self.keys}-{n}", **more) for n in range(count))
        made = self.ask(m.Submit(tasks=specs))
        self.acknowledged |= {one["id"] for one in made["tasks"]}

    @precondition(lambda self: self.acknowledged)
    @rule(
        op=st.sampled_from([m.TaskCancel, m.TaskRetry, m.TaskHold, m.TaskRelease]),
        pick=st.integers(0, 30),
    )
    def operate(self, op: Any, pick: int) -> None:
        self.is_done(op(task=self.chosen(pick)))

    @precondition(lambda self: self.acknowledged)
    @rule(pick=st.integers(0, 30))
    def purge(self, pick: int) -> None:
        number = self.chosen(pick)
        if self.is_done(m.DeadPurge(tasks=(number, number))):
            self.purged.add(number)

    @precondition(lambda self: self.acknowledged)
    @rule(pick=st.integers(0, 30))
    def wait(self, pick: int) -> None:
        self.rig.admin.send(self.rig.admin.request(m.TaskWait(task=self.chosen(pick), timeout_s=10)))
        self.rig.admin.received.clear()

    @rule(paused=st.booleans())
    def pause(self, paused: bool) -> None:
        self.ask(m.QueuePause(paused=paused))

    @rule(
        where=st.sampled_from([{"repo": REPOS[0]}, {"tier": Tier.trivial}, {"host": "host1"}]),
        paused=st.booleans(),
    )
    def pause_part(self, where: dict[str, Any], paused: bool) -> None:
        self.ask(m.QueuePause(paused=paused, **where))

    @rule(key=st.sampled_from(LIMITED), number=st.sampled_from([None, 1, 2]))
    def limit(self, key: str, number: int | None) -> None:
        """What runs already may go on above a limit; nothing more starts."""
        if number is None:
            self.is_done(m.QueueLimit(key=key))
            self.ceilings.pop(key, None)
        else:
            self.ask(m.QueueLimit(key=key, number=number))
            self.ceilings[key] = max(number, self.running(key))

    @rule(key=st.sampled_from(["submitter:admin", f"repo:{REPOS[1]}"]), number=st.sampled_from([None, 3]))
    def weight(self, key: str, number: int | None) -> None:
        self.is_done(m.QueueWeight(key=key, number=number))

    # --- hosts ------------------------------------------------------------------------------------------

    @rule(n=st.integers(0, 2))
    def accept(self, n: int) -> None:
        host = self.hosts[n]
        for one in [one for one in host.received if isinstance(one, m.Assign)]:
            host.received.remove(one)
            self.working[one.task, one.attempt] = (host, one)
            host.accept(one)

    @rule(n=st.integers(0, 2), is_whole=st.booleans())
    def beat(self, n: int, is_whole: bool) -> None:
        host = self.hosts[n]
        assigns = [assign for owner, assign in self.working.values() if owner is host]
        host.received = [one for one in host.received if not isinstance(one, m.Beat | m.Error)]
        message = m.Heartbeat(
            session=host.token,
            beat=1,
            attempts=tuple(m.AttemptBeat(a.task, a.attempt) for a in assigns[: None if is_whole else 1]),
        )
        host.send(message)

    @precondition(lambda self: self.working)
    @rule(
        pick=st.integers(0, 30),
        how=st.sampled_from(["completed", "failed", "interrupted", "cancelled", "declined"]),
        blame=st.sampled_from(FailureClass),
        times=st.integers(0, 2),
    )
    def end(self, pick: int, how: Any, blame: FailureClass, times: int) -> None:
        """It is in the outbox from now on; `times` it is sent in one tick, the first time or again."""
        host, assign = sorted(self.working.items())[pick % len(self.working)][1]
        if how == "declined":
            host.send(m.Decline(session=host.token, task=assign.task, attempt=assign.attempt, code="no_room"))
        else:
            del self.working[assign.task, assign.attempt]
            made = result() if how == "completed" else None
            message = host.ended(assign, how, made, error(blame) if how == "failed" else None)
            self.outbox.append((host, message))
            self.deliver(len(self.outbox) - 1, times)

    @precondition(lambda self: self.outbox)
    @rule(pick=st.integers(0, 30), times=st.integers(1, 2))
    def deliver(self, pick: int, times: int) -> None:
        host, message = self.outbox[pick % len(self.outbox)]
        stamped = msgspec.structs.replace(message, session=host.token)
        before = self.state_in_store(message.task)
        host.received = [one for one in host.received if not isinstance(one, m.ResultAck)]
        if times:
            self.rig.tick(*(host.event(stamped) for _ in range(times)))
        verdicts = [one.verdict for one in host.received if isinstance(one, m.ResultAck)]
        assert verdicts[1:].count("accepted") == 0
        if verdicts[:1] == ["accepted"] and message.outcome == "completed":
            assert before in OPEN_ATTEMPT
            assert message.task not in self.accepted
            self.accepted[message.task] = message.attempt

    @rule(n=st.integers(0, 2), keeps=st.integers(0, 4), is_new=st.booleans())
    def hello(self, n: int, keeps: int, is_new: bool) -> None:
        """It comes back, knowing of some of what it ran; a new process may not be let in yet."""
        host = self.hosts[n]
        mine = sorted(place for place, (owner, _) in self.working.items() if owner is host)
        for place in mine[keeps:]:
            del self.working[place]
        held = tuple(host.held(self.working[place][1]) for place in mine[:keeps])
        finished = tuple(
            m.AttemptHeld(task=r.task, attempt=r.attempt, state="finished")
            for h, r in self.outbox
            if h is host
        )
        host.received.clear()
        host.peer = self.rig.peer()
        self.rig.listen(host)
        if is_new:
            host.process = f"process-{self.rig.peer()}"
        offer = msgspec.structs.replace(host.offer, attempts=held + finished)
        host.send(m.Hello(protocol=1, process=host.process, host=offer))
        for one in host.received:
            if isinstance(one, m.Welcome):
                host.token = one.session
                for verdict in one.verdicts:
                    if verdict.verdict == "kill":
                        self.working.pop((verdict.task, verdict.attempt), None)

    @rule(n=st.integers(0, 2))
    def vanish(self, n: int) -> None:
        self.rig.tick(PeerGone(self.hosts[n].peer))

    @rule(n=st.integers(0, 2))
    def pong(self, n: int) -> None:
        host = self.hosts[n]
        self.rig.tick(*(host.event(m.Pong(session=host.token, agent=a.name)) for a in host.offer.agents))

    @rule(healthy=st.booleans())
    def endpoint(self, healthy: bool) -> None:
        self.hosts[0].see(factories.sighting(probe=endpoint_probe(healthy=healthy)))

    @rule()
    def good_day(self) -> None:
        """Everybody is there, answers, takes what is given and completes it: rare among steps that are drawn alone."""
        for n in range(3):
            self.hello(n, 4, False)
            self.pong(n)
        for n in range(3):
            self.accept(n)
        while self.working:
            self.end(0, "completed", FailureClass.task_error, 1)

    # --- time and the hub's process ---------------------------------------------------------------------

    @rule(ms=st.sampled_from([1, 999, 4_000, 14_999, 15_001, 45_000, 610_000]), gap=st.booleans())
    def time(self, ms: int, gap: bool) -> None:
        self.rig.advance(ms, gap=gap)

    @rule()
    def retire(self) -> None:
        """Final tasks beyond their number go, and are gone as if they had been purged."""
        self.rig.retire()
        for event in self.rig.published("task"):
            if event["event"] == "tasks_retired":
                self.purged |= set(event["tasks"])
        # Those that live ones wait for stay: no more than there are live ones' dependencies.
        assert self.rig.hub.retention.finals <= TASKS_KEPT + len(self.rig.hub.tasks.table)

    @rule()
    def restart(self) -> None:
        self.compare_with_store()
        self.rig.start()
        self.rig.admin.hello()
        self.rig.admin.received.clear()

    # --- promises ---------------------------------------------------------------------------------------

    @invariant()
    def every_acknowledged_task_is_in_one_state(self) -> None:
        for number in self.acknowledged - self.purged:
            state = self.state_in_store(number)
            assert state is not None, f"task {number} was acknowledged and is lost"
            assert (number in self.rig.hub.tasks.table) == (state not in FINAL)
            assert (self.rig.store.get("lanes", key_u64(number)) is not None) == (state not in FINAL)
        assert self.rig.store.count("tasks") == len(self.acknowledged - self.purged)

    @invariant()
    def attempts_rise_and_at_most_one_completes(self) -> None:
        for number in self.acknowledged - self.purged:
            row = self.row(number)
            assert row is not None
            assert row.attempt >= self.attempts.get(number, 0), f"attempts of task {number} fell"
            self.attempts[number] = row.attempt
            is_open = row.state in OPEN_ATTEMPT
            outcomes = [self.outcome(number, n) for n in range(1, row.attempt + 1 - is_open)]
            assert None not in outcomes, f"task {number} has an attempt without a record: {outcomes}"
            assert outcomes.count("completed") == (row.state is State.completed)
            assert "" not in outcomes, f"task {number} has an open record: {outcomes}"
            assert not is_open or self.outcome(number, row.attempt) is None
            if row.state is State.completed:
                assert self.accepted[number] == row.attempt

    @invariant()
    def no_more_run_than_a_limit_allows(self) -> None:
        for key, ceiling in self.ceilings.items():
            assert self.running(key) <= ceiling, f"{self.running(key)} of {key} run, {ceiling} may"
            self.ceilings[key] = max(self.running(key), min(ceiling, self.number_of(key)))

    def running(self, key: str) -> int:
        """How many open attempts there are under that key."""
        scope, _, name = key.partition(":")
        table = self.rig.hub.tasks.table
        return sum(
            name in table.label_sets[table.labels[slot]]
            if scope == "label"
            else name == self.rig.hub.tasks.groups[table.group[slot]].repo
            for slot in table.slot_of.values()
            if table.state_of(slot) in OPEN_ATTEMPT
        )

    def number_of(self, key: str) -> int:
        rules = self.rig.hub.gates.view()["limits"]
        return next(one["number"] for one in rules if one["key"] == key)

    def compare_with_store(self) -> None:
        """What a hub that started now would know is what this one knows."""
        running, twin = self.rig.hub, self.rig.twin()
        assert rows(running) == rows(twin)
        assert running.tasks.counts == twin.tasks.counts
        assert running.tasks.by_lane == twin.tasks.by_lane
        assert queued(running) == queued(twin)
        assert running.gates.rules == twin.gates.rules
        assert running.tasks.groups.used() == twin.tasks.groups.used()
        assert (running.tasks.next_id, running.paused) == (twin.tasks.next_id, twin.paused)
        assert running.tasks.story.next_number == twin.tasks.story.next_number
        assert running.out.next_event == twin.out.next_event
        assert cross_check(walk_store(self.rig.store)) == (0, [])
        assert running.principals.by_id == twin.principals.by_id
        assert hosts(running) == hosts(twin)
        assert agents(running) == agents(twin)
        open_calls = {
            place: call
            for place, call in running.attempts.calls.items()
            if place not in running.attempts.closing
        }
        assert open_calls == twin.attempts.calls

    # --- looking ----------------------------------------------------------------------------------------

    def ask(self, op: m.Operation) -> Any:
        self.rig.admin.received.clear()
        return self.rig.admin.ask(op)

    def is_done(self, op: m.Operation) -> bool:
        """False when the task's state does not allow it; any other refusal is a failure."""
        try:
            self.ask(op)
        except Refused as refused:
            if refused.code in ("wrong_state", "not_found"):
                return False
            raise
        return True

    def chosen(self, pick: int) -> int:
        known = sorted(self.acknowledged)
        return known[pick % len(known)]

    def row(self, number: int) -> TaskRow | None:
        stored = self.rig.store.get("tasks", key_u64(number))
        return msgspec.msgpack.decode(stored, type=TaskRow) if stored is not None else None

    def state_in_store(self, number: int) -> State | None:
        row = self.row(number)
        return row.state if row else None

    def outcome(self, number: int, attempt: int) -> str | None:
        stored = self.rig.store.get("attempts", key_u64x2(number, attempt))
        return msgspec.msgpack.decode(stored, type=AttemptRecord).outcome if stored is not None else None


def rows(hub: Hub) -> dict[int, TaskRow]:
    return {number: hub.tasks.table.record(slot) for number, slot in hub.tasks.table.slot_of.items()}


def agents(hub: Hub) -> dict[int, AgentRecord]:
    """What an agent has done is written with its host's resources, not with every task."""
    return {
        n: msgspec.structs.replace(a.record, completed_count=0, failed_count=0)
        for n, a in hub.fleet.agents.items()
    }


def hosts(hub: Hub) -> dict[int, HostRecord]:
    """When a host was last seen is written with its resources, not with every heartbeat."""
    return {n: msgspec.structs.replace(h.record, last_seen_ms=0) for n, h in hub.fleet.hosts.items()}


def queued(hub: Hub) -> list[int]:
    return hub.tasks.ready.entries()


Story.TestCase.settings = settings(
    max_examples=STORIES,
    stateful_step_count=STEPS,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
test_no_story_breaks_a_promise = Story.TestCase
