"""A commit that fails: nothing of its tick is sent, the core equals the store, and what can go on goes on.

The broker is real, with its sockets; the store is one that fails when it is told to. Ticks are made by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentcom import messages as m
from agentcom.auth import KeyPair
from agentcom.broker import Broker
from agentcom.clock import ManualClock, rfc3339
from agentcom.config import Home, HubSettings
from agentcom.core.agents import Agent
from agentcom.core.effects import Event, key_u64
from agentcom.errors import Refused, StoreError
from agentcom.model import KeptEvent, TaskRow
from agentcom.store.journal import Journal
from agentcom.store.journaled import JournaledStore
from agentcom.store.memory_store import Failure, MemoryDisk, MemoryStore
from tests import factories
from tests.factories import shell_task
from tests.fake_client import FakeClient
from tests.fake_sidecar import FakeSidecar
from tests.feed_reader import Subscriber
from tests.sim.equality import check_same_after_restart

PUTS_MAX = 40  # above what one message of these tests changes


class FailingHub:
    """One hub whose commits fail on request, and its callers."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        self.disk = MemoryDisk()
        self.store = MemoryStore(self.disk)
        self.journal = Journal(folder / "journal")
        self.settings = msgspec.structs.replace(factories.settings(), hub=HubSettings(port=0, feed_port=0))
        home = Home(folder / "home").prepare()
        journaled = JournaledStore(self.store, self.journal)
        self.broker = Broker(home, self.settings, journaled, self.clock)
        self.callers: list[FakeClient] = []
        self.ann = self._person(self.broker.keys.admin)
        self.box = self._host()

    def close(self) -> None:
        for caller in self.callers:
            caller.close()
        self.broker.close()
        self.journal.close()

    def until(self, caller: FakeClient, kind: type[Any]) -> Any:
        """Tick until the caller has a message of that kind."""
        for _ in range(500):
            self.broker.tick()
            while caller.socket.poll(2):
                caller.received.append(m.decode_from_hub(caller.socket.recv()))
            if any(isinstance(one, kind) for one in caller.received):
                return caller.expect(kind)
        raise AssertionError(f"no {kind.__name__}: {caller.received}")

    def until_so(self, check: Callable[[], bool]) -> None:
        """Tick until it is so."""
        for _ in range(500):
            self.broker.tick()
            if check():
                return
            self.ann.socket.poll(2)
        raise AssertionError("it does not come to be so")

    def wait_s(self, seconds: int) -> None:
        """Let time pass in steps that are no absence of the loop."""
        for _ in range(seconds):
            self.clock.advance(1_000)
            self.broker.tick()

    def agent(self) -> Agent:
        """The first one of the box."""
        return self.broker.hub.fleet.agents[1]

    def tick_over(self, count: int) -> None:
        """One tick over so many messages, however they come in."""
        events: list[Event] = []
        for _ in range(500):
            events += self.broker._drain()[0]
            if len(events) >= count:
                break
            self.ann.socket.poll(2)
        assert len(events) == count
        drains = iter([events])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.broker, "_drain", lambda: (next(drains, []), True))  # nothing joins it
            self.broker.tick()

    def ask(self, op: m.Operation) -> m.Reply | m.Error:
        self.ann.received.clear()
        self.ann.send(self.ann.request(op))
        answer: m.Reply | m.Error = self.until(self.ann, m.Reply | m.Error)  # type: ignore[arg-type]
        assert self.ann.received == [], "it was answered twice"
        return answer

    def state_stored(self, task: int) -> str:
        row = msgspec.msgpack.decode(self.store.get("tasks", key_u64(task)) or b"", type=TaskRow)
        return str(row.state.value)

    @staticmethod
    def sent_to(caller: FakeClient, kind: type[Any]) -> list[Any]:
        """What has come so far, of that kind."""
        while caller.socket.poll(2):
            caller.received.append(m.decode_from_hub(caller.socket.recv()))
        return [one for one in caller.received if isinstance(one, kind)]

    def kept(self, *events: str) -> list[KeptEvent]:
        found = (msgspec.msgpack.decode(body, type=KeptEvent) for _, body in self.store.scan("feed"))
        return [one for one in found if one.event in events]

    def submit(self) -> int:
        answer = self.ask(m.Submit(tasks=(shell_task(),)))
        assert isinstance(answer, m.Reply), answer
        return int(answer.value["tasks"][0]["id"])

    def check(self) -> None:
        """The core fits itself, the store, and the journal."""
        self.broker.hub.validate()
        check_same_after_restart(self.broker.hub, self.store, self.settings, self.clock.now())
        assert self.journal.last == self.store.sequence

    def sessions(self) -> set[bytes]:
        return set(self.broker.hub.sessions.by_token)

    def _person(self, pair: KeyPair) -> FakeClient:
        caller = FakeClient(self.broker.address, pair)
        self.callers.append(caller)
        caller.send(m.Hello(protocol=1, process=f"process-{len(self.callers)}"))
        caller.token = self.until(caller, m.Welcome).session
        return caller

    def _host(self) -> FakeSidecar:
        once, pair = KeyPair.make(), KeyPair.make()
        self.ask(m.HostInvite(key=once.public, name="box"))
        joining = FakeClient(self.broker.address, once)
        joining.send(m.Enrol(name="box", key=pair.public))
        self.until(joining, m.Enrolled)
        joining.close()
        box = FakeSidecar(self.broker.address, pair, factories.host_offer("box", 2))
        self.callers.append(box)
        box.send(m.Hello(protocol=1, process=box.process, host=box.offer))
        box.token = self.until(box, m.Welcome).session
        return box


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FailingHub]:
    made = FailingHub(tmp_path)
    yield made
    made.close()


def failures() -> list[tuple[Failure, int]]:
    """A failure at every put of a batch, and at its commit."""
    return [(Failure.PUT, n) for n in range(PUTS_MAX)] + [(Failure.COMMIT, 0)]


def is_spent(hub: FailingHub) -> bool:
    """Whether the failure that was asked for has happened; else it waits for a larger batch: take it back."""
    spent = not hub.store._failures
    hub.store._failures.clear()
    return spent


def test_after_a_failure_at_every_put_and_at_commit_the_core_equals_the_store_and_the_tick_is_done_again(
    hub: FailingHub,
) -> None:
    """A whole life of a task per failure: submit with its assignment, accept, result; each answered once."""
    met = 0
    for kind, after in failures():
        sessions = hub.sessions()
        hub.box.received.clear()
        hub.store.fail_next(kind, after)
        number = hub.submit()
        met += is_spent(hub)
        hub.check()
        assign = hub.until(hub.box, m.Assign)
        assert (assign.task, assign.attempt) == (number, 1)
        hub.store.fail_next(kind, after)
        hub.box.send(hub.box.ended(assign, result=factories.result(output="done")))
        assert hub.until(hub.box, m.ResultAck).verdict == "accepted"
        met += is_spent(hub)
        hub.check()
        answer = hub.ask(m.TaskGet(task=number))
        assert isinstance(answer, m.Reply)
        assert (answer.value["state"], answer.value["attempt"]) == ("completed", 1)
        assert hub.sessions() == sessions
    assert met >= 8


@pytest.mark.sources
def test_while_the_disk_is_full_submits_are_refused_and_all_else_of_the_same_tick_goes_on(
    hub: FailingHub,
) -> None:
    first, second = hub.submit(), hub.submit()
    assigns = [hub.until(hub.box, m.Assign), hub.until(hub.box, m.Assign)]
    sessions = hub.sessions()
    hub.store.fail_next(Failure.FULL)
    hub.box.send(hub.box.ended(assigns[0], result=factories.result(output="done")))
    hub.ann.send(hub.ann.request(m.TaskCancel(task=second)))
    hub.ann.send(hub.ann.request(m.Submit(tasks=(shell_task(),))))
    hub.tick_over(3)
    assert hub.until(hub.box, m.ResultAck).verdict == "accepted"
    refused = hub.until(hub.ann, m.Error)
    assert (refused.code, refused.retry_after_s) == ("storage_full", 30)
    hub.check()
    assert hub.sessions() == sessions
    table = hub.broker.hub.tasks.table
    assert first not in table
    assert second not in table
    assert hub.broker.hub.degraded
    hub.clock.advance(11_000)
    hub.broker.tick()
    hub.broker.tick()
    assert not hub.broker.hub.degraded
    hub.submit()
    hub.check()


def test_an_event_that_is_kept_waits_until_there_is_room(hub: FailingHub) -> None:
    hub.store.fail_next(Failure.FULL)
    with pytest.raises(Refused):
        hub.submit()
    batches = hub.store.sequence
    for _ in range(3):
        hub.broker.tick()
    assert hub.store.sequence == batches
    began_ms = hub.clock.now().wall_ms
    hub.clock.advance(11_000)
    hub.until_so(lambda: not hub.broker.hub.degraded)
    hub.broker.tick()
    told = hub.kept("hub_degraded", "hub_recovered")
    assert [one.event for one in told] == ["hub_degraded", "hub_recovered"]
    assert [one.at_ms - began_ms for one in told] == [0, 11_000]
    assert [one.term_ms - told[0].term_ms for one in told] == [0, 11_000]
    hub.check()


def test_who_listens_is_told_of_a_full_disk_at_once(hub: FailingHub) -> None:
    reader = Subscriber(hub.broker.address, hub.broker.keys.web)
    hub.until_so(lambda: hub.broker.hub.out.is_read)
    hub.store.fail_next(Failure.FULL)
    with pytest.raises(Refused):
        hub.submit()
    hub.broker.tick()
    at_once = reader.next("hub", "hub_degraded")
    assert at_once["number"] is None
    assert at_once["at"] == rfc3339(hub.clock.now().wall_ms)
    assert "no room for new tasks" in at_once["reason"]
    for _ in range(3):
        hub.broker.tick()
    hub.clock.advance(11_000)
    hub.until_so(lambda: not hub.broker.hub.degraded)
    hub.broker.tick()
    again = reader.next("hub", "hub_degraded")
    assert again["number"] >= 1
    assert {**again, "number": None} == at_once
    recovered = reader.next("hub", "hub_recovered")
    assert recovered["number"] == again["number"] + 1
    assert recovered["at"] == rfc3339(hub.clock.now().wall_ms)
    reader.close()


def test_an_event_that_finds_no_room_among_others_waits_as_well(hub: FailingHub) -> None:
    task = hub.submit()
    assign = hub.until(hub.box, m.Assign)
    hub.broker.notice("hub", "backup_verified", name="1-2", passes=True)
    ended = hub.box.ended(assign, result=factories.result(output="done"))
    hub.box.send(ended)
    for _ in range(3):  # the batch, the batch without submits, and the first of them alone
        hub.store.fail_next(Failure.FULL)
    hub.until_so(lambda: hub.store._failures == [])
    assert not hub.kept("backup_verified")
    hub.clock.advance(11_000)
    hub.until_so(lambda: bool(hub.kept("backup_verified")))
    hub.box.send(ended)  # it was not answered
    assert hub.until(hub.box, m.ResultAck).task == task
    assert len(hub.kept("backup_verified")) == 1
    hub.check()


@pytest.mark.sources
def test_what_does_not_fit_together_is_stored_one_by_one_until_one_does_not_fit(hub: FailingHub) -> None:
    tasks = [hub.submit(), hub.submit()]
    assigns = [hub.until(hub.box, m.Assign), hub.until(hub.box, m.Assign)]
    for assign in assigns:
        hub.box.send(hub.box.ended(assign, result=factories.result(output="done")))
    for _ in range(2):
        hub.store.fail_next(Failure.FULL)
    hub.tick_over(2)
    assert {hub.until(hub.box, m.ResultAck).task for _ in assigns} == set(tasks)
    assert hub.store._failures == []
    hub.check()


def test_a_caller_that_waits_is_answered_though_the_tick_that_would_have_answered_failed(
    hub: FailingHub,
) -> None:
    number = hub.submit()
    assign = hub.until(hub.box, m.Assign)
    waits = [hub.ann.request(m.TaskWait(task=number)) for _ in range(2)]
    for wait in waits:
        hub.ann.send(wait)
    hub.until_so(lambda: hub.broker.hub.tasks.waits.count == 2)
    hub.store.fail_next(Failure.COMMIT)
    hub.box.send(hub.box.ended(assign, result=factories.result(output="done")))
    answers = [hub.until(hub.ann, m.Reply) for _ in waits]
    assert {answer.id for answer in answers} == {wait.id for wait in waits}
    assert {answer.value["state"] for answer in answers} == {"completed"}
    hub.check()


def test_deadlines_and_agents_are_as_they_were_before_the_tick_that_failed(hub: FailingHub) -> None:
    running, cancelled = hub.submit(), hub.submit()
    assigns = {one.task: one for one in (hub.until(hub.box, m.Assign), hub.until(hub.box, m.Assign))}
    assign = assigns[running]
    hub.box.send(m.Accept(session=hub.box.token, task=running, attempt=assign.attempt))
    hub.ask(m.TaskCancel(task=cancelled))
    hub.clock.advance(900)
    before = hub.broker.hub
    hub.store.fail_next(Failure.COMMIT)
    hub.submit()
    after = hub.broker.hub
    assert after is not before
    slots = before.tasks.table.slot_of[running], after.tasks.table.slot_of[running]
    assert before.tasks.table.lease_ms[slots[0]] == after.tasks.table.lease_ms[slots[1]]
    assert after.tasks.table.state_of(slots[1]).value == "working"
    assert before.tasks.table.accepted_ms[slots[0]] == after.tasks.table.accepted_ms[slots[1]]
    assert before.attempts.closing.keys() == after.attempts.closing.keys()
    states = [{name: a.state for name, a in hub.fleet.agent_by_name.items()} for hub in (before, after)]
    assert states[0] == states[1]
    hub.check()


def test_an_attempt_that_was_taken_back_in_a_tick_that_failed_has_its_time_again(hub: FailingHub) -> None:
    """The new core took over that it had stalled, and took it back with its lease, whatever its host said."""
    answer = hub.ask(m.Submit(tasks=(shell_task(stall_s=10),)))
    assert isinstance(answer, m.Reply)
    assign = hub.until(hub.box, m.Assign)
    accept = m.Accept(session=hub.box.token, task=assign.task, attempt=1)
    hub.box.send(accept)
    hub.until_so(lambda: hub.agent().working)
    hub.wait_s(10)
    assert hub.agent().stalled
    hub.wait_s(9)
    before = hub.broker.hub
    hub.store.fail_next(Failure.COMMIT)
    hub.wait_s(1)
    assert hub.broker.hub is not before
    assert (hub.agent().task, hub.agent().stalled) == (assign.task, True)
    hub.wait_s(5)
    hub.box.send(accept)
    hub.ask(m.QueueStats())
    hub.wait_s(19)
    assert hub.agent().task == assign.task
    assert hub.sent_to(hub.box, m.Cancel) == []
    hub.wait_s(1)
    assert hub.until(hub.box, m.Cancel).reason == "stalled"
    hub.check()


def test_a_lease_of_a_length_that_could_not_be_stored_is_as_long_as_the_settings_say(hub: FailingHub) -> None:
    """The new core took over the deadline of the shorter lease, and judged a host dead after 15 s of its 45."""
    running = hub.submit()
    assign = hub.until(hub.box, m.Assign)
    hub.box.send(m.Accept(session=hub.box.token, task=running, attempt=assign.attempt))
    hub.ask(m.QueueStats())
    for _ in range(3):
        hub.store.fail_next(Failure.FULL)
    hub.ann.send(hub.ann.request(m.ConfigChange(set={"queue.lease_s": 15})))
    before = hub.broker.hub
    while hub.broker.hub is before:
        hub.broker.tick()
    core = hub.broker.hub
    assert core.settings.queue.lease_s == 45
    table, clock_ms = core.tasks.table, core.attempts.clock_ms(hub.clock.now())
    assert table.lease_ms[table.slot_of[running]] - clock_ms == 45_000
    hub.check()


def test_who_waits_for_another_task_waits_on(hub: FailingHub) -> None:
    number = hub.submit()
    assign = hub.until(hub.box, m.Assign)
    wait = hub.ann.request(m.TaskWait(task=number))
    hub.ann.send(wait)
    hub.until_so(lambda: hub.broker.hub.tasks.waits.count == 1)
    places = hub.broker.hub.tasks.waits.places().keys()
    hub.store.fail_next(Failure.COMMIT)
    hub.submit()
    assert hub.broker.hub.tasks.waits.places().keys() == places != set()
    hub.box.send(hub.box.ended(assign, result=factories.result(output="done")))
    assert hub.until(hub.ann, m.Reply).id == wait.id
    hub.check()


def test_a_disk_that_does_not_confirm_ends_the_hub_and_nothing_is_sent(hub: FailingHub) -> None:
    hub.store.fail_next(Failure.SYNC)
    hub.ann.received.clear()
    hub.ann.send(hub.ann.request(m.Submit(tasks=(shell_task(),))))
    with pytest.raises(StoreError):
        hub.until(hub.ann, m.Reply)
    assert not hub.ann.socket.poll(50)
    assert hub.journal.last == hub.store.sequence


@pytest.mark.sources
@pytest.mark.parametrize("failures", [1, 2])
def test_what_is_told_of_a_tick_that_is_handled_again_is_stored(hub: FailingHub, failures: int) -> None:
    """A task was shown as working while the store had it as assigned."""
    number = hub.submit()
    hub.until(hub.box, m.Assign)
    for _ in range(failures):  # the batch, and the batch without submits
        hub.store.fail_next(Failure.FULL)
    hub.box.send(m.Accept(session=hub.box.token, task=number, attempt=1))
    hub.ann.send(hub.ann.request(m.TaskGet(task=number)))
    hub.tick_over(2)
    stored = hub.state_stored(number)
    assert hub.until(hub.ann, m.Reply).value["state"] == stored
    hub.check()
