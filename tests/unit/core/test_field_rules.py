"""Rules that come from what users of queues for agents suffer from, each by its number; what it takes beside the core
(the sidecar's outbox, process trees, sockets) has its test where that part is tested."""

from __future__ import annotations

import msgspec
import pytest

from agentcom import messages as m
from agentcom.core.effects import key_u64x2
from agentcom.errors import Refused
from agentcom.model import AttemptRecord
from tests.core_rig import HostEnd, Rig
from tests.factories import error, result, shell_task

LEASE_MS = 45_000
BEAT_MS = 20_000
HOURS = 6


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def box(rig: Rig) -> HostEnd:
    return rig.host("box")


def shown(rig: Rig, number: int) -> object:
    """A task as people see it, with all its attempts, and what lies in the store of it."""
    task = rig.admin.task(number)
    return task, rig.admin.ask(m.TaskReports(task=number)), rig.store.get("tasks", number.to_bytes(8, "big"))


def test_r1_a_result_is_acknowledged_by_task_and_attempt_each_time_it_comes_and_taken_once(
    rig: Rig, box: HostEnd
) -> None:
    number = rig.admin.submit(shell_task())
    done = box.ended(box.take(), "completed", result(output="once"))
    assert box.report(done) == "accepted"
    before = shown(rig, number)
    for _ in range(5):
        box.hello()
        again = msgspec.structs.replace(done, session=box.token)
        box.send(again)
        acknowledged = box.expect(m.ResultAck)
        assert (acknowledged.task, acknowledged.attempt, acknowledged.verdict) == (number, 1, "duplicate")
    rig.start()
    rig.admin.hello()
    box.hello()
    assert box.report(msgspec.structs.replace(done, session=box.token)) == "duplicate", "also after a restart"
    assert shown(rig, number) == before


def test_r2_whatever_an_old_attempt_says_late_changes_nothing_and_its_result_is_kept(rig: Rig) -> None:
    box, den = rig.host("box"), rig.host("den")
    rig.admin.ask(m.HostDrain(host="den"))
    number = rig.admin.submit(shell_task())
    old = box.take()
    rig.admin.ask(m.HostDrain(host="den", draining=False))
    rig.admin.ask(m.HostDrain(host="box"))
    rig.advance(LEASE_MS)
    den.hello()
    rig.advance(2_000)  # the backoff after a lost worker
    new = den.take()
    assert (new.task, new.attempt) == (number, 2)
    task = rig.admin.task(number)
    assert box.beat(old).kill == (m.AttemptBeat(number, 1, box.beats),)
    box.accept(old)
    box.send(m.Log(session=box.token, task=number, attempt=1, offset=0, text="late"))
    box.send(m.Decline(session=box.token, task=number, attempt=1, code="late", message="late"))
    assert box.fail(old, error()) == "stale"
    assert rig.admin.task(number) == task
    assert den.complete(new, output="new") == "accepted"
    assert rig.admin.task(number)["result"]["output"] == "new"
    stored = rig.store.get("attempts", key_u64x2(number, 1))
    assert stored is not None
    kept = msgspec.msgpack.decode(stored, type=AttemptRecord)
    assert (kept.outcome, kept.late_outcome) == ("lost", "failed")


def test_r3_a_job_of_hours_is_run_once_while_its_heartbeats_come(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task(timeout_s=HOURS * 3600 + 60))
    rig.host("idle")
    assign = box.take()
    for _ in range(HOURS * 3600 * 1000 // BEAT_MS):
        rig.advance(BEAT_MS)
        assert box.beat(assign).kill == ()
    task = rig.admin.task(number)
    assert (task["state"], task["attempt"], task["losses"]) == ("working", 1, 0)
    assert box.complete(assign) == "accepted"


def test_r3_a_heartbeat_does_nothing_but_renew(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(shell_task())
    assign = box.take()
    box.beat(assign)
    rig.advance(5_000)
    sequence = rig.store.sequence
    box.beat(assign)
    assert rig.store.sequence == sequence, "a heartbeat writes nothing"
    assert [type(each.message).__name__ for each in rig.effects if hasattr(each, "message")] == ["Beat"]


def test_r4_on_every_connect_a_host_says_what_it_runs_and_is_told_keep_kill_or_report(rig: Rig) -> None:
    box = rig.host("box", agents=3)
    runs, ended, cancelled = (rig.admin.submit(shell_task()) for _ in range(3))
    by_task = {each.task: each for each in (box.take(), box.take(), box.take())}
    rig.admin.ask(m.TaskCancel(task=cancelled))
    hosts = rig.admin.ask(m.HostList())["hosts"]
    for _ in range(3):
        held = (
            box.held(by_task[runs], "running"),
            box.held(by_task[ended], "finished"),
            box.held(by_task[cancelled], "running"),
        )
        welcome = box.hello(attempts=held)
        assert {each.task: each.verdict for each in welcome.verdicts} == {
            runs: "keep",
            ended: "report",
            cancelled: "kill",
        }
    assert [each["name"] for each in rig.admin.ask(m.HostList())["hosts"]] == [each["name"] for each in hosts]
    assert rig.admin.task(runs)["attempt"] == 1


def test_r4_a_host_is_its_key_and_no_start_makes_another_of_it(rig: Rig, box: HostEnd) -> None:
    agents = rig.admin.ask(m.AgentList())["agents"]
    for number in range(4):
        box.move()
        rig.advance(20_000)
        box.process = f"process-{number}-of-box"
        box.hello()
        if number == 2:
            rig.start()
            with pytest.raises(Refused, match="session"):
                rig.admin.ask(m.HostList())
            rig.admin.hello()
            box.hello()
    assert [each["name"] for each in rig.admin.ask(m.HostList())["hosts"]] == ["box"]
    assert [each["name"] for each in rig.admin.ask(m.AgentList())["agents"]] == [each["name"] for each in agents]
