"""Leases: who holds a task and for how long, whether nobody takes it, its host comes back, or the hub starts again."""

from __future__ import annotations

import pytest

from agentcom import messages as m
from agentcom.core.effects import Timers
from agentcom.core.lanes import task_of
from agentcom.model import FailureClass
from tests.core_rig import ACCEPT_MS, BACKOFF_MS, BEAT_MS, LEASE_MS, HostEnd, Rig, attempt, keep_alive
from tests.factories import error, settings, shell_task, task


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def box(rig: Rig) -> HostEnd:
    return rig.host("box")


# --- leases ---------------------------------------------------------------------------------------------


def test_a_task_whose_lease_runs_out_goes_back_to_its_lane(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.take()
    rig.advance(LEASE_MS - 1)
    assert rig.admin.state(number) == "working"
    rig.advance(1)
    found = rig.admin.task(number)
    assert (found["state"], found["losses"], found["retries_used"]) == ("delayed", 1, 0)
    assert found["error"]["code"] == "worker_lost"
    assert attempt(rig, number, 1).outcome == "lost"
    rig.advance(BACKOFF_MS)
    assert rig.admin.state(number) == "ready"


def test_heartbeats_keep_a_lease_for_hours(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    keep_alive(rig, box, 2 * 3_600_000, assign)
    assert (rig.admin.state(number), rig.admin.task(number)["attempt"]) == ("working", 1)


def test_a_heartbeat_renews_only_what_it_lists(rig: Rig) -> None:
    box = rig.host(agents=2)
    one, other = rig.admin.submit(shell_task()), rig.admin.submit(shell_task())
    first, _ = box.take(), box.take()
    keep_alive(rig, box, LEASE_MS, first)
    assert [rig.admin.state(number) for number in (one, other)] == ["working", "delayed"]
    rig.advance(BACKOFF_MS)
    assert rig.admin.task(other)["attempt"] == 2


def test_an_unread_heartbeat_counts(rig: Rig, box: HostEnd) -> None:
    """A lease runs out only in a tick whose drain emptied the socket; timers come after its messages."""
    number = rig.admin.submit(shell_task())
    assign = box.take()
    rig.clock.advance(LEASE_MS + 10)
    beats = (m.AttemptBeat(assign.task, assign.attempt),)
    rig.tick(Timers(drained=False))
    assert rig.admin.state(number) == "working"
    rig.tick(box.event(m.Heartbeat(session=box.token, beat=1, attempts=beats)), Timers(drained=True))
    assert rig.admin.state(number) == "working"


def test_a_lease_moves_by_the_time_that_the_loop_was_away(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.take()
    rig.advance(10 * LEASE_MS, gap=True)
    assert rig.admin.state(number) == "working"
    rig.advance(LEASE_MS)
    assert rig.admin.state(number) == "delayed"


def test_a_lease_that_is_renewed_as_the_loop_comes_back_is_no_longer_than_a_lease(
    rig: Rig, box: HostEnd
) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    rig.clock.advance(3_600_000)
    beats = (m.AttemptBeat(assign.task, assign.attempt),)
    rig.tick(
        Timers(drained=False, gap_ms=3_600_000),
        box.event(m.Heartbeat(session=box.token, beat=1, attempts=beats)),
        Timers(drained=True),
    )
    rig.advance(LEASE_MS)
    assert rig.admin.state(number) == "delayed"


@pytest.mark.parametrize("ms", [10 * 365 * 86_400_000, -10 * 365 * 86_400_000])
def test_a_jump_of_the_wall_clock_moves_no_lease_no_backoff_and_no_order(ms: int) -> None:
    rig = Rig(settings(ttl_s=40 * 365 * 86_400))
    box = rig.host(agents=2)
    running, failing = rig.admin.submit(shell_task()), rig.admin.submit(shell_task())
    box.take()
    box.fail(box.take())
    first, second = rig.admin.submit(task()), rig.admin.submit(task())
    rig.clock.jump(ms)
    third = rig.admin.submit(task())
    rig.advance(0)
    assert [rig.admin.state(n) for n in (running, failing)] == ["working", "delayed"]
    assert [task_of(entry) for entry, _ in rig.hub.tasks.ready.next(9)] == [first, second, third]
    rig.advance(2_000)
    assert rig.admin.task(failing)["attempt"] == 2


# --- assignments that nobody takes ----------------------------------------------------------------------


def test_an_assignment_that_is_not_accepted_goes_back_and_its_agent_is_pinged(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.assigned()
    for _ in range(ACCEPT_MS // BEAT_MS):
        rig.advance(BEAT_MS)
        box.beat()
    found = rig.admin.task(number)
    assert (found["state"], found["losses"], found["retries_used"]) == ("ready", 0, 0)
    assert attempt(rig, number, 1).outcome == "unaccepted"
    assert box.expect(m.Ping).agent == "box-1"
    assert [agent.unresponsive for agent in rig.hub.fleet.agents.values()] == [True]


def test_an_assignment_that_no_agent_accepts_is_no_lost_worker_where_leases_are_short() -> None:
    """A host died; until it counted as offline each of its agents was given tasks, and each cost a task a loss."""
    rig = Rig(settings=settings(heartbeat_s=1, lease_s=4, accept_s=15, max_losses=1))
    box = rig.host("box")
    number = rig.admin.submit(shell_task())
    box.assigned()
    rig.advance(4_000)
    found = rig.admin.task(number)
    assert (found["state"], found["losses"], attempt(rig, number, 1).outcome) == ("ready", 0, "unaccepted")
    assert [agent.unresponsive for agent in rig.hub.fleet.agents.values()] == [True]


def test_an_attempt_of_before_a_restart_is_lost_with_its_lease_when_leases_become_longer_meanwhile(
    rig: Rig, box: HostEnd
) -> None:
    number = rig.admin.submit(shell_task())
    box.take()
    rig.start()
    rig.admin.hello()
    rig.admin.ask(m.ConfigChange(set={"queue.lease_s": 60}))
    rig.advance(59_999)
    assert rig.admin.state(number) == "working"
    rig.advance(1)
    assert (rig.admin.state(number), rig.admin.task(number)["losses"]) == ("delayed", 1)


def test_an_unresponsive_agent_gets_work_again_when_it_answers(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(shell_task())
    box.assigned()
    rig.advance(ACCEPT_MS)
    assert rig.sent(m.Assign) == []
    box.send(m.Pong(session=box.token, agent="box-1"))
    assert box.assigned().attempt == 2


def test_a_lost_ping_is_repeated_with_the_next_heartbeat(rig: Rig, box: HostEnd) -> None:
    """Lost with its connection it was never answered, and the agent never worked again."""
    rig.admin.submit(shell_task())
    rig.advance(ACCEPT_MS)
    box.received.clear()
    box.beat()
    assert box.expect(m.Ping).agent == "box-1"


def test_an_answer_of_another_agent_does_not_count(rig: Rig) -> None:
    box = rig.host(agents=2)
    rig.admin.ask(m.AgentCordon(agent="box-2"))
    rig.admin.submit(shell_task())
    rig.advance(ACCEPT_MS)
    box.send(m.Pong(session=box.token, agent="box-2"))
    assert [agent.unresponsive for agent in rig.hub.fleet.agents.values()] == [True, False]


def ignore(rig: Rig, box: HostEnd) -> m.Assign:
    """Let the time to accept pass; then the agent answers its ping."""
    assign = box.assigned()
    for _ in range(ACCEPT_MS // BEAT_MS):
        rig.advance(BEAT_MS)
        box.beat()
    box.send(m.Pong(session=box.token, agent="box-1"))
    return assign


def test_r22_an_assignment_that_nobody_ever_accepts_has_an_end(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    waits = []
    for count in range(1, 6):
        ignore(rig, box)
        found = rig.admin.task(number)
        assert (found["losses"], found["retries_used"]) == (0, 0)
        if 1 < count < 5:
            assert (found["state"], found["error"]["code"]) == ("delayed", "not_accepted")
            waits.append(rig.hub.tasks.table.delay_ms[rig.hub.tasks.table.slot_of[number]])
            rig.advance(waits[-1])
    assert all(low <= wait <= 2 * low for wait, low in zip(waits, (1_000, 2_000, 4_000), strict=True))
    assert (found["state"], found["error"]["code"]) == ("dead", "never_accepted")
    assert "5 assignments in a row were not accepted; the last by box-1 on box" in found["error"]["message"]
    neighbour = rig.admin.submit(shell_task())
    assert box.take().task == neighbour


def test_i9_a_task_that_kills_its_sidecar_before_it_can_accept_kills_five_and_no_more(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    deaths = 0
    while rig.admin.state(number) != "dead":
        if rig.admin.state(number) == "delayed":
            rig.advance(9_000)
        assert box.assigned().task == number
        box.received.clear()
        box.leave()
        deaths += 1
        box.process = f"start-number-{deaths}"
        box.hello()
    assert deaths == 5
    assert rig.admin.task(number)["error"]["code"] == "never_accepted"


def test_an_attempt_that_is_accepted_begins_the_count_anew_and_a_restart_keeps_it(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    ignore(rig, box)
    ignore(rig, box)
    rig.start()
    rig.admin.hello()
    assert rig.hub.tasks.table.unaccepted[rig.hub.tasks.table.slot_of[number]] == 2
    box.received.clear()
    box.hello()
    rig.advance(10_000)
    box.fail(box.take())
    assert rig.hub.tasks.table.unaccepted[rig.hub.tasks.table.slot_of[number]] == 0


def test_accepting_what_was_taken_back_is_answered_with_a_cancel(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(shell_task())
    late = box.assigned()
    rig.advance(ACCEPT_MS)
    box.accept(late)
    assert box.expect(m.Cancel) == m.Cancel(task=late.task, attempt=1, reason="not leased")


# --- hello again ----------------------------------------------------------------------------------------


def test_a_host_that_comes_back_keeps_what_it_still_runs(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    welcome = box.hello(attempts=(box.held(assign),))
    assert [v.verdict for v in welcome.verdicts] == ["keep"]
    assert (rig.admin.state(number), rig.admin.task(number)["attempt"]) == ("working", 1)
    assert box.complete(assign) == "accepted"


def test_a_host_that_comes_back_without_its_task_has_lost_it(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.take()
    box.hello()
    rig.advance(BACKOFF_MS)
    found = rig.admin.task(number)
    assert (found["state"], found["attempt"], found["losses"]) == ("assigned", 2, 1)


def test_an_assignment_that_never_arrived_is_given_out_again_without_a_loss(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.move()
    box.hello()
    found = rig.admin.task(number)
    assert (found["state"], found["attempt"], found["losses"]) == ("assigned", 2, 0)


def test_an_assignment_that_crossed_a_repeated_hello_is_not_taken_back(rig: Rig, box: HostEnd) -> None:
    """The host said hello again before it could know of the assignment: it worked for nothing."""
    number = rig.admin.submit(shell_task())
    assign = box.assigned()
    box.hello()
    assert (rig.admin.state(number), rig.admin.task(number)["attempt"]) == ("assigned", 1)
    box.accept(assign)
    assert box.complete(assign) == "accepted"


def test_a_host_that_comes_back_is_told_to_kill_what_is_no_longer_its(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    old = box.take()
    rig.advance(LEASE_MS)
    welcome = box.hello(attempts=(box.held(old),))
    assert [(v.task, v.attempt, v.verdict) for v in welcome.verdicts] == [(number, 1, "kill")]


@pytest.mark.parametrize("state", ["finished", "interrupted", "unknown"])
def test_what_ended_on_the_host_is_to_be_reported(rig: Rig, box: HostEnd, state: str) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    welcome = box.hello(attempts=(box.held(assign, state),))
    assert [v.verdict for v in welcome.verdicts] == ["report"]
    assert rig.admin.task(number)["attempt"] == 1


def test_a_finished_result_is_wanted_even_when_the_attempt_is_closed(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(shell_task())
    assign = box.take()
    rig.advance(LEASE_MS)
    welcome = box.hello(attempts=(box.held(assign, "finished"),))
    assert [v.verdict for v in welcome.verdicts] == ["report"]


def test_a_finished_attempt_whose_accept_was_lost_is_not_taken_back_before_it_is_reported(
    rig: Rig, box: HostEnd
) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.assigned()
    rig.advance(ACCEPT_MS - 100)
    box.hello(attempts=(box.held(assign, "finished"),))
    rig.advance(1_000)
    assert box.complete(assign) == "accepted"
    assert rig.admin.state(number) == "completed"


def test_an_interrupted_attempt_counts_as_a_lost_worker(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.report(box.ended(box.take(), "interrupted"))
    rig.advance(BACKOFF_MS)
    found = rig.admin.task(number)
    assert (found["losses"], found["attempt"]) == (1, 2)


def test_a_cancelled_attempt_that_the_host_no_longer_has_frees_its_agent(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    box.hello()
    assert rig.agent("box-1") == "idle"


def test_a_cancelled_attempt_that_the_host_still_runs_is_killed_and_its_agent_stays_taken(
    rig: Rig, box: HostEnd
) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    welcome = box.hello(attempts=(box.held(assign),))
    assert [v.verdict for v in welcome.verdicts] == ["kill"]
    assert rig.hub.fleet.agent_named("box-1").task == number


# --- restart of the hub ---------------------------------------------------------------------------------


def test_a_running_task_survives_a_restart_and_completes_once(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    rig.start()
    assert box.refusal(m.Heartbeat(session=box.token, beat=9)).code == "no_session"
    welcome = box.hello(attempts=(box.held(assign),))
    assert [v.verdict for v in welcome.verdicts] == ["keep"]
    assert box.complete(assign) == "accepted"
    rig.admin.hello()
    assert (rig.admin.state(number), rig.admin.task(number)["attempt"]) == ("completed", 1)


def test_an_open_attempt_has_a_whole_lease_after_a_restart(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.take()
    rig.advance(LEASE_MS - 1)
    rig.start()
    rig.advance(LEASE_MS - 1)
    rig.admin.hello()
    assert rig.admin.state(number) == "working"
    rig.advance(1)
    assert rig.admin.state(number) == "delayed"


def test_a_backoff_goes_on_where_it_was_after_a_restart(rig: Rig, box: HostEnd) -> None:
    """It began anew with each start: a hub that is restarted often never retried."""
    number = rig.admin.submit(shell_task())
    box.fail(box.take(), error(FailureClass.usage_window, retry_after_s=100.0))
    for _ in range(4):
        rig.advance(24_000)
        rig.start()
    rig.admin.hello()
    rig.advance(3_999)
    assert rig.admin.state(number) == "delayed"
    rig.advance(1)
    assert rig.admin.state(number) == "ready"


@pytest.mark.parametrize("ms", [10 * 365 * 86_400_000, -10 * 365 * 86_400_000])
def test_a_backoff_is_never_longer_than_it_was_however_the_clock_jumped_meanwhile(ms: int) -> None:
    rig = Rig(settings(ttl_s=40 * 365 * 86_400))
    box = rig.host()
    number = rig.admin.submit(shell_task())
    box.fail(box.take(), error(FailureClass.usage_window, retry_after_s=100.0))
    rig.clock.jump(ms)
    rig.start()
    rig.advance(100_000)
    rig.admin.hello()
    assert rig.admin.state(number) == "ready"


def test_a_result_made_while_the_hub_was_down_counts(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    rig.start()
    box.hello(attempts=(box.held(assign, "finished"),))
    assert box.complete(assign) == "accepted"
    rig.admin.hello()
    assert rig.admin.state(number) == "completed"
