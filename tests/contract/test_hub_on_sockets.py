"""A real hub on real sockets: a task's way, reconnects, restarts, and a death between each two steps of a tick."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import msgspec
import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.auth import KeyPair, load_key, read_hub_address
from agentcom.broker import Broker
from agentcom.clock import ManualClock
from agentcom.config import Home, HubSettings
from agentcom.errors import ConfigError, Refused, StoreLocked
from agentcom.model import Role
from agentcom.store.lmdb_store import LmdbStore
from tests import factories
from tests.contract.dying_hub import FATAL, STATUS
from tests.factories import shell_task, task
from tests.fake_client import FakeClient
from tests.fake_sidecar import FakeSidecar
from tests.feed_reader import Subscriber
from tests.live_hub import LiveHub, live_hub

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LiveHub]:
    with live_hub(tmp_path) as made:
        yield made


# --- a task's way ---------------------------------------------------------------------------------------


def test_a_task_goes_from_a_submit_to_a_result(hub: LiveHub) -> None:
    ann, box = hub.admin(), hub.host("box")
    number = ann.submit(shell_task("echo hi"))
    assign = box.take()
    assert msgpack.unpackb(bytes(assign.spec))["command"] == "echo hi"
    assert ann.task(number)["state"] == "working"
    assert box.complete(assign, output="hi") == "accepted"
    found = ann.task(number)
    assert (found["state"], found["result"]["output"], found["route"]["host"]) == ("completed", "hi", "box")


def test_who_waits_is_told_when_it_is_done(hub: LiveHub) -> None:
    ann, bob, box = hub.admin(), hub.member(Role.view), hub.host()
    number = ann.submit(shell_task())
    wait = bob.request(m.TaskWait(task=number))
    bob.send(wait)
    box.complete(box.take())
    assert bob.answer(wait.id)["state"] == "completed"


def test_a_batch_that_is_sent_at_once_is_answered_in_order_and_spread_over_all_agents(hub: LiveHub) -> None:
    ann = hub.admin()
    boxes = [hub.host(f"box{n}", agents=2) for n in range(2)]
    requests = [ann.request(m.Submit(tasks=(shell_task(),))) for _ in range(100)]
    for request in requests:
        ann.send(request)
    assert [ann.answer(r.id)["tasks"][0]["id"] for r in requests] == list(range(1, 101))
    for n in range(100):
        box = boxes[n % 2]
        assert box.complete(box.take()) == "accepted"
    counts = ann.ask(m.QueueStats())["by_state"]
    assert (counts["completed"], counts["ready"]) == (100, 0)
    assert [one["attempt"] for one in ann.ask(m.TaskList(limit=500))["tasks"]] == [1] * 100


def test_a_cancel_reaches_the_host_and_its_late_result_changes_nothing(hub: LiveHub) -> None:
    ann, box = hub.admin(), hub.host()
    number = ann.submit(shell_task())
    assign = box.take()
    ann.ask(m.TaskCancel(task=number))
    assert box.expect(m.Cancel).task == number
    assert box.complete(assign) == "stale"
    assert ann.task(number)["state"] == "cancelled"


def test_a_log_is_followed_while_the_task_runs(hub: LiveHub) -> None:
    ann, box = hub.admin(), hub.host()
    number = ann.submit(shell_task())
    assign = box.take()
    for offset, text in ((0, "one\n"), (4, "two\n")):
        box.send(m.Log(session=box.token, task=number, attempt=1, offset=offset, text=text))
    box.beat(assign)
    found = ann.ask(m.TaskLog(task=number, offset=4))
    assert (found["text"], found["next_offset"], found["complete"]) == ("two\n", 8, False)


def test_the_log_of_an_attempt_that_a_task_has_not_had_is_not_found(hub: LiveHub) -> None:
    ann, box = hub.admin(), hub.host()
    number = ann.submit(shell_task())
    assert ann.ask(m.TaskLog(task=number))["text"] == "", "none has begun"
    box.complete(box.take())
    assert ann.ask(m.TaskLog(task=number, attempt=1))["attempt"] == 1
    with pytest.raises(Refused, match=f"there is no attempt 99 of task {number}, which has had 1") as refused:
        ann.ask(m.TaskLog(task=number, attempt=99))
    assert (refused.value.code, refused.value.field) == ("not_found", "attempt")


# --- connections ----------------------------------------------------------------------------------------


def test_a_host_whose_connection_broke_goes_on_in_its_session(hub: LiveHub) -> None:
    ann, box = hub.admin(), hub.host()
    number = ann.submit(shell_task())
    assign = box.take()
    again = hub.sidecar(box.pair, box.offer)
    again.token = box.token
    box.close()
    assert again.beat(assign).kill == ()
    assert again.complete(assign) == "accepted"
    assert (ann.task(number)["state"], ann.task(number)["attempt"]) == ("completed", 1)


def test_a_second_process_of_a_host_is_refused_and_the_first_goes_on(hub: LiveHub) -> None:
    box = hub.host()
    with pytest.raises(Refused) as refused:
        hub.sidecar(box.pair, box.offer).hello()
    assert refused.value.code == "busy"
    assert refused.value.retry_after_s is not None
    assert box.is_silent()


def test_the_same_process_reconnects_at_once_and_is_told_what_to_keep(hub: LiveHub) -> None:
    ann, box = hub.admin(), hub.host("box", agents=2)
    kept, lost = ann.submit(shell_task()), ann.submit(shell_task())
    assign = box.take()
    box.take()
    again = hub.sidecar(box.pair, box.offer)
    welcome = again.hello(box.held(assign), process=box.process)
    assert [(v.task, v.verdict) for v in welcome.verdicts] == [(kept, "keep")]
    assert (again.take().task, ann.task(lost)["losses"]) == (lost, 1)


def test_a_host_that_left_has_no_part_in_the_next_decision(hub: LiveHub) -> None:
    ann, gone, here = hub.admin(), hub.host("gone"), hub.host("here")
    gone.send(m.Bye(session=gone.token))
    with pytest.raises(Refused):
        gone.beat()
    ann.submit(shell_task())
    assert here.take().route.host == "here"


def test_a_revoked_keys_feed_ends_and_the_others_go_on(hub: LiveHub) -> None:
    ann, eve, bob = hub.admin(), hub.member(Role.view, "eve"), hub.member(Role.view, "bob")
    feeds = {who: Subscriber(hub.address, one.pair) for who, one in (("eve", eve), ("bob", bob))}
    for feed in feeds.values():
        feed.next("task")
    ann.ask(m.TokenRevoke(name="eve"))
    feeds["eve"].drain_until_silent_for_beats(feeds["bob"], beats=2)
    assert feeds["bob"].next("task")["event"]
    for feed in feeds.values():
        feed.close()


def test_the_feed_tells_what_happened_to_a_task(hub: LiveHub) -> None:
    ann, box = hub.admin(), hub.host()
    feed = Subscriber(hub.address, hub.broker.keys.web)
    feed.next("task")  # connected
    number = ann.submit(shell_task())
    box.complete(box.take())
    states = []
    while "completed" not in states:
        event = feed.next("task")
        if event["event"] == "task_changed":
            assert event["task"]["id"] == number
            states.append(event["task"]["state"])
    feed.close()


def test_who_may_not_read_the_feed_is_not_let_in(hub: LiveHub) -> None:
    pairs = (hub.enrolled(Role.submit, "ann"), hub.host().pair, KeyPair.make())
    shut_out = [Subscriber(hub.address, pair) for pair in pairs]
    reader = Subscriber(hub.address, hub.broker.keys.web)
    for _ in range(2):
        reader.next("queue")
    assert [feed.socket.poll(0) for feed in shut_out] == [0, 0, 0]
    for feed in (reader, *shut_out):
        feed.close()


# --- restarts -------------------------------------------------------------------------------------------


def test_a_restart_in_order_keeps_everything(hub: LiveHub) -> None:
    ann, box = hub.admin(), hub.host("box", agents=2)
    ann.ask(m.EndpointAdd(url="http://10.255.255.1:11434", name="far"))
    running, waiting = ann.submit(shell_task()), ann.submit(task(idempotency_key="k"))
    assign = box.take()
    ann.ask(m.QueuePause())
    ann.ask(m.QueuePause(host="box"))
    ann.ask(m.QueueLimit(key="label:deploy", number=2))
    ann.ask(m.QueueWeight(key="submitter:admin", number=3))
    hub.stop()
    hub.start()
    ann = hub.admin()
    again = hub.sidecar(box.pair, box.offer)
    assert [v.verdict for v in again.hello(box.held(assign)).verdicts] == ["keep"]
    assert again.complete(assign) == "accepted"
    assert [ann.task(n)["state"] for n in (running, waiting)] == ["completed", "ready"]
    assert ann.ask(m.Submit(tasks=(task(idempotency_key="k"),)))["tasks"][0]["id"] == waiting
    assert [one["name"] for one in ann.ask(m.EndpointList())["endpoints"]] == ["far"]
    counts, rules = ann.ask(m.QueueStats()), ann.ask(m.QueueRules())
    assert (counts["paused"], counts["pauses"]) == (True, ["host:box"])
    assert [(one["key"], one["number"]) for one in rules["limits"] + rules["weights"]] == [
        ("label:deploy", 2),
        ("submitter:admin", 3),
    ]


def test_a_setting_that_was_set_applies_at_once_and_after_a_restart(hub: LiveHub) -> None:
    hub.home.path.joinpath("config.toml").write_text("[queue]\nlease_s = 45\n")
    admin = hub.admin()
    changed = admin.ask(m.ConfigChange(set={"queue.lease_s": 60, "endpoints.probe_timeout_s": 2}))
    assert {name: view["value"] for name, view in changed["settings"].items()} == {
        "queue.lease_s": 60,
        "endpoints.probe_timeout_s": 2,
    }
    assert hub.host("box").hello().lease_s == 60
    assert hub.broker._prober.timeout_s == 2
    hub.stop()
    hub.start()
    admin = hub.admin()
    view = admin.ask(m.ConfigGet(name="queue.lease_s"))["settings"]["queue.lease_s"]
    assert (view["value"], view["source"], view["by"]) == (60, "stored", "admin")
    assert hub.broker._prober.timeout_s == 2
    back = admin.ask(m.ConfigChange(unset=("queue.lease_s",)))["settings"]["queue.lease_s"]
    assert (back["value"], back["source"]) == (45, "config.toml")


def test_a_second_hub_on_the_same_home_is_refused(hub: LiveHub) -> None:
    with pytest.raises(StoreLocked, match=str(os.getpid())):
        LmdbStore(hub.home.store, map_bytes=1 << 28)


def test_a_home_that_others_can_read_is_refused_with_the_remedy(hub: LiveHub) -> None:
    hub.home.keys.chmod(0o755)
    try:
        with pytest.raises(ConfigError, match="chmod 700"):
            Home(hub.home.path).check()
    finally:
        hub.home.keys.chmod(0o700)


# --- time that the loop was away ------------------------------------------------------------------------


class Stepped:
    """A hub whose clock and ticks a test moves by hand."""

    def __init__(self, folder: Path) -> None:
        self.clock = ManualClock()
        home = Home(folder / "stepped").prepare()
        settings = msgspec.structs.replace(factories.settings(), hub=HubSettings(port=0, feed_port=0))
        self.broker = Broker(home, settings, LmdbStore(home.store, map_bytes=1 << 28), self.clock)

    def until(self, caller: FakeClient, count: int = 1) -> None:
        """Tick until the caller has that many messages."""
        for _ in range(1_000):
            self.broker.tick()
            if caller.socket.poll(10):
                caller.received.append(m.decode_from_hub(caller.socket.recv()))
            if len(caller.received) >= count:
                return
        raise AssertionError(f"the hub does not answer: {caller.received}")

    def hello(self, caller: FakeClient, offer: m.HostOffer | None = None) -> None:
        caller.send(m.Hello(protocol=1, process="process-1", host=offer))
        self.until(caller)
        caller.token = caller.expect(m.Welcome).session


@pytest.fixture
def stepped(tmp_path: Path) -> Iterator[Stepped]:
    made = Stepped(tmp_path)
    yield made
    made.broker.close()


@pytest.fixture
def running(stepped: Stepped) -> Iterator[tuple[FakeSidecar, m.Assign]]:
    """A host in the middle of task 1."""
    ann = FakeClient(stepped.broker.address, stepped.broker.keys.admin)
    stepped.hello(ann)
    once, pair = KeyPair.make(), KeyPair.make()
    ann.send(ann.request(m.HostInvite(key=once.public, name="box")))
    stepped.until(ann)
    joining = FakeClient(stepped.broker.address, once)
    joining.send(m.Enrol(name="box", key=pair.public))
    stepped.until(joining)
    box = FakeSidecar(stepped.broker.address, pair)
    stepped.hello(box, box.offer)
    ann.send(ann.request(m.Submit(tasks=(shell_task(),))))
    stepped.until(box)
    yield box, box.assigned()
    for caller in (ann, joining, box):
        caller.close()


def beat(box: FakeSidecar, assign: m.Assign) -> m.Heartbeat:
    return m.Heartbeat(session=box.token, beat=1, attempts=(m.AttemptBeat(assign.task, assign.attempt),))


def state(stepped: Stepped) -> str:
    table = stepped.broker.hub.tasks.table
    return table.state_of(table.slot_of[1]).value


def test_a_lease_outlives_the_time_in_which_the_hub_did_not_run_though_it_comes_back_to_a_full_socket(
    stepped: Stepped, running: tuple[FakeSidecar, m.Assign], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tick that does not empty the socket knew of the time, and forgot it before the one that did."""
    box, assign = running
    box.send(beat(box, assign))
    stepped.until(box)
    box.received.clear()
    other = [m.Log(session=box.token, task=1, attempt=1, offset=n, text="x") for n in range(3)]
    for message in other:
        box.send(message)
    box.socket.poll(100)
    stepped.clock.advance(3_600_000)
    monkeypatch.setattr(limits, "TICK_MESSAGES_MAX", 1)
    for _ in range(8):
        stepped.broker.tick()
    assert state(stepped) == "working"


def test_a_lease_that_was_renewed_as_the_hub_came_back_is_as_long_as_any(
    stepped: Stepped, running: tuple[FakeSidecar, m.Assign]
) -> None:
    """What was renewed in that very tick was moved by the time as well: an hour more for a dead worker."""
    box, assign = running
    stepped.clock.advance(3_600_000)
    box.send(beat(box, assign))
    box.socket.poll(100)
    stepped.until(box)
    assert state(stepped) == "working"
    for _ in range(50):
        stepped.clock.advance(950)
        stepped.broker.tick()
    assert state(stepped) != "working"


# --- a death between each two steps ---------------------------------------------------------------------


class Mortal:
    """A hub in a process of its own, which ends after one step of the tick of a marked message."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "mortal")
        self.pairs: dict[str, KeyPair] = {}
        self._callers: list[FakeClient] = []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, step: str = "0") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.contract.dying_hub", str(self.home.path), step],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if b'"ready"' in line:
                break
        else:
            raise AssertionError(self._process.communicate()[1].decode())
        address = read_hub_address(self.home)
        assert address is not None
        self.address = address

    def died(self) -> None:
        """Wait for it to end as it was told to."""
        assert self._process is not None
        assert self._process.wait(20) == STATUS
        self._close_pipes()

    def close(self) -> None:
        for caller in self._callers:
            caller.close()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait(10)
        self._close_pipes()

    def admin(self) -> FakeClient:
        caller = FakeClient(self.address, load_key(self.home.keys / "admin.key"))
        self._callers.append(caller)
        caller.hello()
        return caller

    def box(self, *held: m.AttemptHeld) -> FakeSidecar:
        """The one host of these tests, enrolled the first time."""
        if "box" not in self.pairs:
            once, self.pairs["box"] = KeyPair.make(), KeyPair.make()
            self.admin().ask(m.HostInvite(key=once.public, name="box"))
            joining = FakeClient(self.address, once)
            self._callers.append(joining)
            joining.send(m.Enrol(name="box", key=self.pairs["box"].public))
            joining.expect(m.Enrolled)
        sidecar = FakeSidecar(self.address, self.pairs["box"], factories.host_offer("box"))
        self._callers.append(sidecar)
        sidecar.hello(*held)
        return sidecar

    def _close_pipes(self) -> None:
        if self._process is not None:
            for pipe in (self._process.stdout, self._process.stderr):
                if pipe is not None:
                    pipe.close()


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[Mortal]:
    made = Mortal(tmp_path)
    yield made
    made.close()


# In the order of a tick. From `journal` on the batch is kept, though the store may not have it yet.
STEPS = {
    "1": "after the drain",
    "2": "after the core, before the commit",
    "torn": "in the middle of writing to the journal",
    "journal": "after the journal, before the store commits",
    "3": "after the commit, before anything is sent",
    "4": "after the sends",
    "housekeeping": "after the tick",
}
KEPT = frozenset({"journal", "3", "4", "housekeeping"})
SENT = frozenset({"4", "housekeeping"})
by_step = pytest.mark.parametrize("step", STEPS, ids=lambda step: STEPS[step].replace(" ", "_"))


def is_answered(caller: FakeClient, kind: type[Any]) -> bool:
    """Whether an answer of that kind got through before the end."""
    while caller.socket.poll(0):
        caller.received.append(m.decode_from_hub(caller.socket.recv()))
    return any(isinstance(one, kind) for one in caller.received)


@by_step
def test_a_submit_is_there_after_a_death_if_it_was_acknowledged_and_can_be_repeated_if_not(
    mortal: Mortal, step: str
) -> None:
    mortal.start(step)
    ann = mortal.admin()
    first = ann.submit(task("the first"))
    doomed = ann.request(
        m.Submit(tasks=(task(f"the second, {FATAL}", idempotency_key="k"), task("the third")))
    )
    ann.send(doomed)
    mortal.died()
    acknowledged = is_answered(ann, m.Reply)
    assert not acknowledged or step in SENT
    mortal.start()
    ann = mortal.admin()
    there = [one["description"] for one in ann.ask(m.TaskList())["tasks"]]
    whole = ["the third", f"the second, {FATAL}", "the first"]
    assert there == (["the first"] if step not in KEPT else whole)
    again = ann.ask(m.Submit(tasks=(task("the second", idempotency_key="k"),)))["tasks"][0]
    assert (again["id"], again["created"]) == (first + 1, step not in KEPT)
    assert ann.ask(m.QueueStats())["by_state"]["ready"] == len(there) + (step not in KEPT)


@by_step
def test_a_result_is_taken_once_whenever_the_hub_dies(mortal: Mortal, step: str) -> None:
    mortal.start(step)
    ann, box = mortal.admin(), mortal.box()
    number = ann.submit(shell_task())
    assign = box.take()
    box.send(box.ended(assign, result=factories.result(output=FATAL)))
    mortal.died()
    assert not is_answered(box, m.ResultAck) or step in SENT
    mortal.start()
    again = mortal.box(box.held(assign, "finished"))
    verdict = again.report(again.ended(assign, result=factories.result(output="the same")))
    assert verdict == ("accepted" if step not in KEPT else "duplicate")
    found = mortal.admin().task(number)
    assert (found["state"], found["attempt"], found["losses"]) == ("completed", 1, 0)
    assert found["result"]["output"] == ("the same" if step not in KEPT else FATAL)


@by_step
def test_a_cancel_is_final_if_it_was_acknowledged_and_undone_if_it_was_not_written(
    mortal: Mortal, step: str
) -> None:
    mortal.start(step)
    ann, box = mortal.admin(), mortal.box()
    number = ann.submit(shell_task())
    assign = box.take()
    cancel = ann.request(m.TaskCancel(task=number, reason=FATAL))
    ann.send(cancel)
    mortal.died()
    assert not is_answered(ann, m.Reply) or step in SENT
    mortal.start()
    again = mortal.box(box.held(assign))
    verdict = "keep" if step not in KEPT else "kill"
    assert [v.verdict for v in again.welcome.verdicts] == [verdict]
    assert mortal.admin().task(number)["state"] == ("working" if step not in KEPT else "cancelled")


@by_step
def test_an_assignment_that_was_not_sent_is_given_again(mortal: Mortal, step: str) -> None:
    """The attempt is on disk before the host hears of it, so its number is never used twice."""
    mortal.start(step)
    mortal.admin()
    box = mortal.box()
    ann = mortal.admin()
    ann.send(ann.request(m.Submit(tasks=(shell_task(description=FATAL, idempotency_key="k"),))))
    mortal.died()
    arrived = is_answered(box, m.Assign)
    assert not arrived or step in SENT
    mortal.start()
    again = mortal.box()
    ann = mortal.admin()
    ann.submit(shell_task(description="once more", idempotency_key="k"))
    assert again.take().attempt == (1 if step not in KEPT else 2)
