"""Lost workers and workers that get nowhere: counted in a row, after a backoff, the last one alone on its host."""

from __future__ import annotations

import pytest

from agentcom import messages as m
from agentcom.core import invariants
from agentcom.model import FailureClass
from tests.core_rig import HostEnd, Rig
from tests.factories import error, settings, shell_task

LEASE_MS = 45_000
STALL_MS = 300_000


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def box(rig: Rig) -> HostEnd:
    return rig.host()


def crash(box: HostEnd) -> None:
    """The sidecar dies and comes back with nothing."""
    box.received.clear()
    box.hello()


def next_turn(rig: Rig, *hosts: HostEnd) -> None:
    """The first two backoffs are over."""
    rig.advance(4_000)
    for host in hosts:
        host.beat()


def taken(box: HostEnd) -> list[m.Assign]:
    found = [one for one in box.received if isinstance(one, m.Assign)]
    for one in found:
        box.received.remove(one)
        box.accept(one)
    return found


def keep_silent(rig: Rig, box: HostEnd, ms: int, *assigns: m.Assign) -> None:
    """Heartbeats without progress."""
    for _ in range(ms // 5_000):
        rig.advance(5_000)
        box.beat(*assigns, progress=7)


# --- losses ---------------------------------------------------------------------------------------------


def test_r18_a_task_that_loses_n_workers_in_a_row_is_dead_with_worker_lost(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    for n in (1, 2, 3):
        assert box.take().attempt == n
        crash(box)
        found = rig.admin.task(number)
        assert found["losses"] == n
        if n < 3:
            assert found["state"] == "delayed"
            next_turn(rig, box)
    assert (found["state"], found["error"]["code"]) == ("dead", "worker_lost")
    assert found["error"]["message"].startswith("gave up after 3 lost workers in a row; the last: ")
    assert rig.admin.ask(m.DeadList())["tasks"][0]["id"] == number


def test_the_wait_after_a_lost_worker_grows(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    waits = []
    for _ in range(2):
        box.take()
        crash(box)
        waits.append(rig.hub.tasks.table.delay_ms[rig.hub.tasks.table.slot_of[number]])
        next_turn(rig, box)
    assert 1_000 <= waits[0] <= 2_000 <= waits[1] <= 4_000


def test_a_worker_that_survives_ends_the_row_of_losses(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task(max_retries=9))
    for _ in range(2):
        box.take()
        crash(box)
        next_turn(rig, box)
    assert rig.hub.tasks.alone
    box.fail(box.take())
    assert rig.admin.task(number)["losses"] == 0
    assert not rig.hub.tasks.alone
    next_turn(rig, box)
    box.take()
    crash(box)
    assert rig.admin.state(number) == "delayed"


def test_a_sidecar_that_is_stopped_in_order_has_lost_nobody_and_yet_has_an_end() -> None:
    rig = Rig(settings(max_infrastructure=2))
    box = rig.host()
    number = rig.admin.submit(shell_task())
    stopped = error(FailureClass.infrastructure, "sidecar_stopped")
    for _ in range(2):
        box.report(box.ended(box.take(), "interrupted", error=stopped))
        assert (rig.admin.task(number)["losses"], rig.admin.state(number)) == (0, "delayed")
        next_turn(rig, box)
    box.report(box.ended(box.take(), "interrupted", error=stopped))
    found = rig.admin.task(number)
    assert (found["state"], found["error"]["code"]) == ("dead", "infrastructure_exhausted")


# --- alone ----------------------------------------------------------------------------------------------


def test_r18_a_task_beside_a_poison_on_the_only_host_is_not_dead_with_it(rig: Rig) -> None:
    box = rig.host(agents=4)
    poison, *neighbours = [rig.admin.submit(shell_task()) for _ in range(4)]
    deaths = 0
    for _ in range(20):
        held = taken(box)
        if any(one.task == poison for one in held):
            deaths += 1
            crash(box)
        else:
            for one in held:
                box.complete(one)
        next_turn(rig, box)
        if all(rig.admin.state(n) == "completed" for n in neighbours):
            break
    assert deaths == 3
    assert rig.admin.task(poison)["error"]["code"] == "worker_lost"
    assert [rig.admin.task(n)["losses"] for n in neighbours] == [2, 2, 2]


def test_a_task_that_has_to_run_alone_gets_an_idle_host_at_once(rig: Rig) -> None:
    box = rig.host(agents=2)
    number = suspect(rig, box)
    other = rig.host("other", agents=2)
    next_turn(rig, box, other)
    [assign] = [*taken(box), *taken(other)]
    assert assign.task == number
    here, there = (box, other) if assign.agent.startswith("box") else (other, box)
    more = rig.admin.submit(shell_task(), shell_task(), shell_task())
    rig.advance(0)
    assert [one.task for one in taken(there)] == [more, more + 1]
    assert taken(here) == []
    why = rig.admin.ask(m.TaskWhy(task=more + 2))["hosts"]
    assert sorted(one["fails"] for one in why) == ["agents_busy", "host_reserved"]
    here.complete(assign)
    assert [one.task for one in taken(here)] == [more + 2]


def test_a_busy_host_is_kept_free_for_a_task_that_has_to_run_alone(rig: Rig) -> None:
    box = rig.host(agents=2)
    number = suspect(rig, box)
    busy = rig.admin.submit(shell_task())
    [running] = taken(box)
    assert running.task == busy
    for _ in range(30):
        rig.advance(10_000)
        box.beat(running)
    later = rig.admin.submit(shell_task())
    assert taken(box) == []
    assert [one["fails"] for one in rig.admin.ask(m.TaskWhy(task=later))["hosts"]] == ["host_reserved"]
    assert [one["fails"] for one in rig.admin.ask(m.TaskWhy(task=number))["hosts"]] == ["host_not_idle"]
    box.complete(running)
    [alone] = taken(box)
    assert alone.task == number
    box.complete(alone)
    assert [one.task for one in taken(box)] == [later]


def test_a_host_is_kept_free_no_longer_when_the_task_is_cancelled(rig: Rig) -> None:
    box = rig.host(agents=2)
    number = suspect(rig, box)
    rig.admin.submit(shell_task())
    [running] = taken(box)
    for _ in range(30):
        rig.advance(10_000)
        box.beat(running)
    later = rig.admin.submit(shell_task())
    rig.admin.ask(m.TaskCancel(task=number))
    assert [one.task for one in taken(box)] == [later]


def test_that_a_task_has_to_run_alone_survives_a_restart(rig: Rig) -> None:
    box = rig.host(agents=2)
    number = suspect(rig, box)
    next_turn(rig, box)
    [assign] = taken(box)
    assert assign.task == number
    rig.start()
    rig.admin.hello()
    box.hello(attempts=(box.held(assign),))
    rig.admin.submit(shell_task())
    assert taken(box) == []
    box.complete(assign)
    assert len(taken(box)) == 1


def test_a_pause_holds_for_a_task_that_has_to_run_alone(rig: Rig) -> None:
    box = rig.host(agents=2)
    number = suspect(rig, box)
    rig.admin.ask(m.QueuePause(paused=True))
    next_turn(rig, box)
    assert rig.admin.state(number) == "ready"
    assert taken(box) == []
    rig.admin.ask(m.QueuePause(paused=False))
    assert [one.task for one in taken(box)] == [number]


def test_with_one_loss_allowed_there_is_no_second_chance() -> None:
    rig = Rig(settings(max_losses=1))
    box = rig.host(agents=2)
    one, other = rig.admin.submit(shell_task()), rig.admin.submit(shell_task())
    taken(box)
    crash(box)
    assert [rig.admin.state(number) for number in (one, other)] == ["dead", "dead"]


def test_the_walk_finds_a_task_alone_that_is_not_known(rig: Rig) -> None:
    suspect(rig, rig.host(agents=2))
    rig.hub.validate()
    rig.hub.tasks.alone.clear()
    with pytest.raises(AssertionError):
        invariants.check(rig.hub)


def suspect(rig: Rig, box: HostEnd) -> int:
    """A task that has lost all workers but the last that it may lose, and waits for its turn."""
    number = rig.admin.submit(shell_task())
    for _ in range(2):
        if rig.admin.state(number) == "delayed":
            next_turn(rig, box)
        taken(box)
        crash(box)
    assert rig.admin.task(number)["losses"] == 2
    return number


# --- progress -------------------------------------------------------------------------------------------


def test_a_worker_without_progress_is_marked_stalled_and_people_are_told(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    keep_silent(rig, box, 20_000, assign)
    keep_silent(rig, box, STALL_MS - 20_000, assign)
    assert not agent(rig)["stalled"]
    rig.advance(5_000)
    told = [one for one in rig.published("task") if one["event"] == "attempt_stalled"]
    assert [(one["task"], one["attempt"], one["silent_s"]) for one in told] == [(number, 1, 300)]
    assert rig.admin.task(number)["stalled"]
    box.beat(assign, progress=7)
    assert agent(rig)["stalled"]
    assert rig.admin.state(number) == "working"
    story = rig.admin.ask(m.TaskStory(task=number))["entries"]
    assert [one["cause"] for one in story if one["event"] == "stalled"] == [
        "no output, tool round or token for 300 s; a task that is silent for long has --stall, all have queue.stall_s"
    ]
    box.beat(assign, progress=8)
    assert [one["event"] for one in rig.published("task")] == ["attempt_moves"]
    assert not agent(rig)["stalled"]
    assert not rig.admin.task(number)["stalled"]


def stalls(rig: Rig, number: int) -> int:
    """How often the story says that it stalled."""
    return [one["event"] for one in rig.admin.ask(m.TaskStory(task=number))["entries"]].count("stalled")


def restart(rig: Rig, box: HostEnd, assign: m.Assign) -> None:
    rig.start()
    rig.admin.hello()
    assert [one.verdict for one in box.hello(attempts=(box.held(assign),)).verdicts] == ["keep"]


def test_a_stalled_attempt_is_still_stalled_after_a_restart_and_is_not_told_again(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    keep_silent(rig, box, STALL_MS + 5_000, assign)
    for _ in range(2):
        restart(rig, box, assign)
        keep_silent(rig, box, STALL_MS + 5_000, assign)
        assert agent(rig)["stalled"]
    assert stalls(rig, number) == 1
    events = [one["event"] for one in rig.admin.ask(m.EventList())["events"]]
    assert events.count("attempt_stalled") == 1
    keep_silent(rig, box, STALL_MS, assign)
    assert rig.admin.task(number)["error"]["code"] == "stalled"


def test_an_attempt_that_moved_while_the_hub_was_away_is_stalled_no_more_and_told_when_it_stalls_again(
    rig: Rig, box: HostEnd
) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    keep_silent(rig, box, STALL_MS + 5_000, assign)
    restart(rig, box, assign)
    box.beat(assign, progress=8)
    assert not agent(rig)["stalled"]
    keep_silent(rig, box, STALL_MS + 5_000, assign)
    assert (agent(rig)["stalled"], stalls(rig, number)) == (True, 2)


def test_an_attempt_after_one_that_stalled_begins_anew_after_a_restart(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    keep_silent(rig, box, 2 * STALL_MS + 5_000, assign)
    box.report(box.ended(assign, "cancelled"))
    rig.advance(2_000)
    assign = box.take()
    restart(rig, box, assign)
    assert (assign.attempt, agent(rig)["stalled"], stalls(rig, number)) == (2, False, 1)


def test_r3_a_worker_without_progress_for_twice_as_long_is_cancelled_and_its_task_taken_back(
    rig: Rig, box: HostEnd
) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    keep_silent(rig, box, 2 * STALL_MS, assign)
    assert rig.admin.state(number) == "working"
    rig.advance(5_000)
    assert rig.sent(m.Cancel) == [m.Cancel(task=number, attempt=1, reason="stalled")]
    found = rig.admin.task(number)
    assert (found["state"], found["losses"], found["error"]["code"]) == ("delayed", 1, "stalled")
    assert found["error"]["message"].endswith("has --stall, all have queue.stall_s")
    assert rig.agent("box-1") == "working"  # until it has ended
    assert outcome(rig, number, 1) == "stalled"
    assert box.report(box.ended(assign, "cancelled")) == "duplicate"
    assert rig.agent("box-1") == "idle"
    rig.advance(2_000)
    assert box.take().attempt == 2


def test_a_result_of_a_stalled_attempt_that_was_taken_back_is_stale(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    keep_silent(rig, box, 2 * STALL_MS, assign)
    rig.advance(5_000)
    assert box.complete(assign) == "stale"
    assert rig.admin.state(number) == "delayed"
    assert rig.agent("box-1") == "idle"


def test_r3_a_job_of_hours_that_makes_progress_runs_once(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    for _ in range(6 * 3600 // 30):
        rig.advance(30_000)
        box.beat(assign)
    assert (rig.admin.state(number), rig.admin.task(number)["attempt"]) == ("working", 1)


def test_a_task_that_stalls_again_and_again_is_dead_with_worker_lost(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    for _ in range(3):
        next_turn(rig, box)
        stall(rig, box)
    error = rig.admin.task(number)["error"]
    assert (rig.admin.state(number), error["code"]) == ("dead", "worker_lost")
    assert error["message"].startswith("gave up after 3 lost workers in a row; the last: the attempt stalled and was ")
    found = rig.admin.ask(m.DeadList(code="worker_lost"))["tasks"]
    assert [one["id"] for one in found] == [number]


@pytest.mark.parametrize("last", ["lease", "stall", "new process", "interrupted"])
def test_however_the_last_worker_is_lost_its_task_is_dead_with_worker_lost(rig: Rig, box: HostEnd, last: str) -> None:
    number = rig.admin.submit(shell_task())
    stall(rig, box)
    next_turn(rig, box)
    box.take()
    crash(box)
    next_turn(rig, box)
    if last == "stall":
        stall(rig, box)
    else:
        assign = box.take()
        if last == "lease":
            rig.advance(60_000)
        elif last == "new process":
            crash(box)
        else:
            box.report(box.ended(assign, "interrupted", None, error(code="sidecar_restarted")))
    found = rig.admin.task(number)
    assert (found["state"], found["losses"], found["error"]["code"]) == ("dead", 3, "worker_lost")


@pytest.mark.parametrize(
    ("given", "own_s", "expected_s"),
    [({}, 60, 60), ({"stall_trivial_s": 90}, None, 90), ({"stall_s": 120}, None, 120)],
)
def test_the_patience_is_the_tasks_the_tiers_or_that_of_all(
    given: dict[str, int], own_s: int | None, expected_s: int
) -> None:
    rig = Rig(settings(**given))
    box = rig.host()
    rig.admin.submit(shell_task(stall_s=own_s))
    assign = box.take()
    keep_silent(rig, box, expected_s * 1000, assign)
    assert not agent(rig)["stalled"]
    keep_silent(rig, box, 5_000, assign)
    assert agent(rig)["stalled"]


def test_a_task_whose_stall_is_shorter_than_the_time_to_accept_is_marked_stalled_before_it_is_taken_back(
    rig: Rig, box: HostEnd
) -> None:
    """It was looked at only when the time to accept was over, and then taken back without an event."""
    number = rig.admin.submit(shell_task(stall_s=3))  # in effect two heartbeats: progress comes with these
    assign = box.take()
    rig.advance(5_000)
    box.beat(assign, progress=0)
    rig.advance(4_999)
    assert not agent(rig)["stalled"]
    rig.advance(1)
    assert "attempt_stalled" in [one["event"] for one in rig.published("task")]
    assert agent(rig)["stalled"]
    box.beat(assign, progress=0)
    rig.advance(10_000)
    assert rig.admin.task(number)["error"]["code"] == "stalled"


def test_a_shorter_patience_that_is_set_at_run_time_counts_at_once(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(shell_task())
    box.take()
    rig.advance(20_000)
    rig.admin.ask(m.ConfigChange(set={"queue.stall_s": 15}))
    assert agent(rig)["stalled"]


def test_nothing_is_stalled_where_the_patience_is_without_end() -> None:
    rig = Rig(settings(stall_s=0))
    box = rig.host()
    number = rig.admin.submit(shell_task())
    keep_silent(rig, box, 10 * STALL_MS, box.take())
    assert rig.admin.state(number) == "working"


def test_what_the_hub_did_not_listen_to_is_no_stall(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.take()
    rig.advance(10 * STALL_MS, gap=True)
    assert not agent(rig)["stalled"]
    assert rig.admin.state(number) == "working"


def test_i10_a_wall_clock_that_is_set_stalls_nobody(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    rig.clock.jump(10 * 365 * 24 * 3_600_000)
    keep_silent(rig, box, 60_000, assign)
    assert rig.admin.state(number) == "working"
    assert not agent(rig)["stalled"]


# --- a kill that is awaited -----------------------------------------------------------------------------


def test_r5_an_agent_that_still_kills_after_a_restart_of_the_hub_gets_nothing(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    rig.start()
    rig.admin.hello()
    rig.admin.submit(shell_task())
    welcome = box.hello(attempts=(m.AttemptHeld(task=number, attempt=1, state="running", agent="box-1"),))
    assert [one.verdict for one in welcome.verdicts] == ["kill"]
    assert rig.agent("box-1") == "working"
    assert taken(box) == []
    box.report(box.ended(assign, "cancelled"))
    assert [one.task for one in taken(box)] == [number + 1]


def test_r5_an_agent_whose_kill_is_never_confirmed_is_free_after_a_lease(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    rig.start()
    rig.admin.hello()
    box.hello(attempts=(m.AttemptHeld(task=number, attempt=1, state="running", agent="box-1"),))
    for _ in range(9):
        rig.advance(5_000)
        box.beat()
    assert rig.agent("box-1") == "idle"


def stall(rig: Rig, box: HostEnd) -> None:
    """What the host takes gets nowhere, and is ended."""
    assign = box.take()
    keep_silent(rig, box, 2 * STALL_MS, assign)
    rig.advance(5_000)
    box.report(box.ended(assign, "cancelled"))


def agent(rig: Rig) -> dict[str, object]:
    found: dict[str, object] = rig.admin.ask(m.AgentList())["agents"][0]
    return found


def outcome(rig: Rig, number: int, attempt: int) -> str:
    return str(rig.admin.ask(m.TaskReports(task=number))["attempts"][attempt - 1]["outcome"])
