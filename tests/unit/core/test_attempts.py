"""Leases: who holds a task, for how long, what a result is worth, and where the task goes when it fails."""

from __future__ import annotations

import msgspec
import pytest

from agentcom import messages as m
from agentcom.core.effects import Put, Send, SendAssign, Timers, key_u64, key_u64x2
from agentcom.core.evidence import LATE
from agentcom.core.lanes import task_of
from agentcom.errors import Refused
from agentcom.model import AgentState, AttemptRecord, FailureClass, Role, State
from tests.core_rig import HostEnd, Rig
from tests.factories import MODEL, endpoint_probe, error, result, settings, shell_task, sighting, task

LEASE_MS = 45_000
BACKOFF_MS = 2_000  # the first one at most
ACCEPT_MS = 15_000
BEAT_MS = 5_000


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def box(rig: Rig) -> HostEnd:
    return rig.host("box")


def attempt(rig: Rig, number: int, n: int) -> AttemptRecord:
    stored = rig.store.get("attempts", key_u64x2(number, n))
    assert stored is not None
    return msgspec.msgpack.decode(stored, type=AttemptRecord)


def keep_alive(rig: Rig, box: HostEnd, ms: int, *assigns: m.Assign) -> None:
    for _ in range(ms // BEAT_MS):
        rig.advance(BEAT_MS)
        box.beat(*assigns)


# --- giving out -----------------------------------------------------------------------------------------


def test_an_assignment_is_stored_as_an_open_attempt_with_its_route_before_it_is_sent(
    rig: Rig, box: HostEnd
) -> None:
    event = rig.admin.event(rig.admin.request(m.Submit(tasks=(shell_task(),))))
    now = rig.clock.now()
    rig.hub.handle(event, now)
    effects = rig.hub.schedule(now)
    puts = [(e.database, e.key) for e in effects if isinstance(e, Put)]
    # Its own record is written when it ends: until then the row and the route tell all of it.
    assert puts == [("tasks", key_u64(1)), ("routes", key_u64x2(1, 1))]
    sends = [e for e in effects if isinstance(e, Send | SendAssign)]
    assert [(type(e), e.peer) for e in sends] == [(SendAssign, box.peer)]
    assign = sends[0].message
    assert isinstance(assign, m.Assign)
    assert (assign.task, assign.attempt, assign.agent, assign.lease_s) == (1, 1, "box-1", 45)
    assert (assign.submitter, assign.submitter_role, assign.route.backend) == ("admin", Role.admin, "shell")


def test_an_accepted_assignment_is_working_and_a_repeat_changes_nothing(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    assert rig.admin.state(number) == "working"
    effects = box.send(m.Accept(session=box.token, task=assign.task, attempt=assign.attempt))
    assert effects == []


def test_a_heartbeat_that_lists_an_assignment_accepts_it(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.beat(box.assigned())
    assert rig.admin.state(number) == "working"


def test_an_agent_has_one_task_at_a_time_and_a_free_one_takes_the_next(rig: Rig, box: HostEnd) -> None:
    first, second = rig.admin.submit(shell_task()), rig.admin.submit(shell_task())
    assign = box.take()
    assert (assign.task, rig.admin.state(second)) == (first, "ready")
    box.complete(assign)
    assert box.assigned().task == second


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


# --- results and fences ---------------------------------------------------------------------------------


def test_a_result_completes_the_task_and_frees_the_agent(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assert box.complete(box.take(), output="done") == "accepted"
    found = rig.admin.task(number)
    assert (found["state"], found["result"]["output"], found["error"]) == ("completed", "done", None)
    agent = rig.hub.fleet.agent_named("box-1")
    assert (agent.state, agent.record.completed_count) == (AgentState.idle, 1)


def test_a_result_for_an_assignment_whose_accept_was_lost_counts(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assert box.complete(box.assigned()) == "accepted"
    assert rig.admin.state(number) == "completed"


def test_a_repeated_result_is_a_duplicate_and_changes_nothing(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    box.complete(assign)
    before = attempt(rig, number, 1)
    effects = box.send(box.ended(assign, "completed", result(output="again")))
    ack = m.ResultAck(task=number, attempt=1, verdict="duplicate")
    assert effects == [Send(box.peer, ack)]
    assert attempt(rig, number, 1) == before


def test_a_result_that_comes_twice_in_one_tick_is_a_duplicate(rig: Rig, box: HostEnd) -> None:
    """The store still had the attempt open: the second was filed as late, over the first."""
    number = rig.admin.submit(shell_task())
    message = box.ended(box.take(), "completed", result())
    rig.tick(box.event(message), box.event(message))
    assert [box.expect(m.ResultAck).verdict for _ in range(2)] == ["accepted", "duplicate"]
    record = attempt(rig, number, 1)
    assert (record.outcome, record.late_outcome) == ("completed", "")


def test_a_late_result_is_acknowledged_kept_as_evidence_and_changes_nothing(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    late = box.take()
    rig.advance(LEASE_MS)
    box.beat()
    rig.advance(BACKOFF_MS)
    assert box.complete(late, output="late") == "stale"
    found = rig.admin.task(number)
    assert (found["state"], found["attempt"], found["result"]) == ("assigned", 2, None)
    record = attempt(rig, number, 1)
    assert (record.outcome, record.late_outcome) == ("lost", "completed")
    assert rig.store.get("reports", key_u64x2(number, 1) + LATE) is not None
    assert box.complete(late, output="later still") == "stale"
    reports = rig.admin.ask(m.TaskReports(task=number))["attempts"]
    assert reports[0]["late_result"]["output"] == "late"


def test_a_late_heartbeat_is_answered_with_kill_and_renews_nothing(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    late = box.take()
    rig.advance(LEASE_MS)
    box.beat()
    rig.advance(BACKOFF_MS)
    assert box.beat(late).kill == (m.AttemptBeat(number, 1, box.beats),)
    rig.advance(ACCEPT_MS)
    assert rig.admin.state(number) == "ready"


def test_a_result_of_another_host_is_unknown_and_changes_nothing(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    other = rig.host("other", agents=0)
    assert other.complete(assign) == "unknown"
    assert rig.admin.state(number) == "working"
    other.send(m.Accept(session=other.token, task=number, attempt=1))
    assert other.expect(m.Cancel).reason == "not leased"
    assert other.beat(assign).kill == (m.AttemptBeat(number, 1, 1),)
    other.send(m.Decline(session=other.token, task=number, attempt=1, code="no"))
    assert rig.admin.state(number) == "working"


@pytest.mark.parametrize("n", [0, 2, 2**31])
def test_a_result_of_an_attempt_that_never_was_is_unknown(rig: Rig, box: HostEnd, n: int) -> None:
    number = rig.admin.submit(shell_task())
    assign = msgspec.structs.replace(box.take(), attempt=n)
    assert box.complete(assign) == "unknown"
    assert rig.admin.state(number) == "working"


def test_a_result_of_a_task_that_never_was_is_unknown(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(shell_task())
    assert box.complete(msgspec.structs.replace(box.take(), task=99)) == "unknown"


def test_a_completion_without_a_result_is_refused_and_changes_nothing(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    refused = box.refusal(box.ended(box.take(), "completed"))
    assert (refused.code, refused.field) == ("invalid", "result")
    assert rig.admin.state(number) == "working"


def test_a_partial_result_of_a_failed_attempt_is_kept(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task(max_retries=0))
    box.report(box.ended(box.take(), "failed", result(output="half"), error()))
    assert rig.admin.task(number)["result"]["output"] == "half"


# --- cancel ---------------------------------------------------------------------------------------------


def test_a_cancelled_task_is_final_at_once_and_its_agent_is_told(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.take()
    assert rig.admin.ask(m.TaskCancel(task=number))["state"] == "cancelled"
    assert box.expect(m.Cancel) == m.Cancel(task=number, attempt=1, reason="cancelled")


def test_the_agent_of_a_cancelled_task_is_free_when_its_host_says_so(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    rig.admin.submit(shell_task())
    assert rig.agent("box-1") == "working"
    assert box.report(box.ended(assign, "cancelled")) == "duplicate"
    assert box.assigned().task == number + 1


def test_the_agent_of_a_cancelled_task_is_free_when_the_lease_ends(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    rig.admin.submit(shell_task())
    keep_alive(rig, box, LEASE_MS - BEAT_MS, assign)
    assert box.received.count(m.Cancel(task=number, attempt=1, reason="cancelled")) == 1
    rig.advance(BEAT_MS)
    assert box.assigned().task == number + 1


def test_a_host_that_missed_the_cancel_is_told_with_each_heartbeat(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    for _ in range(2):
        assert box.beat(assign).kill == (m.AttemptBeat(number, 1, box.beats),)


def test_an_agent_that_declines_what_was_cancelled_is_free(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.assigned()
    rig.admin.ask(m.TaskCancel(task=number))
    box.send(m.Decline(session=box.token, task=assign.task, attempt=assign.attempt, code="busy"))
    assert rig.agent("box-1") == "idle"


def test_a_result_that_crosses_the_cancel_does_not_complete_the_task(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    cancel = rig.admin.request(m.TaskCancel(task=number))
    rig.tick(rig.admin.event(cancel), box.event(box.ended(assign, "completed", result())))
    assert rig.admin.answer(cancel.id)["state"] == "cancelled"
    assert box.expect(m.ResultAck).verdict == "stale"
    record = attempt(rig, number, 1)
    assert (record.outcome, record.late_outcome) == ("cancelled", "completed")
    assert rig.agent("box-1") == "idle"


def test_a_cancel_that_crosses_the_result_is_refused(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    assign = box.take()
    cancel = rig.admin.request(m.TaskCancel(task=number))
    rig.tick(box.event(box.ended(assign, "completed", result())), rig.admin.event(cancel))
    with pytest.raises(Refused, match="already completed"):
        rig.admin.answer(cancel.id)
    assert rig.admin.state(number) == "completed"


def test_a_cancelled_and_retried_task_is_not_confused_with_the_attempt_that_is_being_killed(
    rig: Rig, box: HostEnd
) -> None:
    number = rig.admin.submit(shell_task())
    old = box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    rig.admin.ask(m.TaskRetry(task=number))
    other = rig.host("other")
    new = other.take()
    assert (new.task, new.attempt) == (number, 2)
    box.report(box.ended(old, "cancelled"))
    assert rig.admin.state(number) == "working"
    assert other.complete(new) == "accepted"


# --- failures, by class ---------------------------------------------------------------------------------


def test_a_task_error_spends_a_retry_and_waits_with_jitter(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    box.fail(box.take(), error(FailureClass.task_error, "exit_1"))
    table = rig.hub.tasks.table
    row = table.record(table.slot_of[number])
    assert (row.state, row.retries_used, row.losses) == (State.delayed, 1, 0)
    assert 1_000 <= row.delay_ms <= 2_000
    rig.advance(row.delay_ms - 1)
    assert rig.admin.state(number) == "delayed"
    rig.advance(1)
    assert box.assigned().attempt == 2


def test_backoff_doubles_up_to_its_bound() -> None:
    rig = Rig(settings(max_retries=20, backoff_s=2, backoff_max_s=300))
    box = rig.host()
    number = rig.admin.submit(shell_task())
    delays = []
    for _ in range(12):
        box.fail(box.take())
        table = rig.hub.tasks.table
        delays.append(table.delay_ms[table.slot_of[number]])
        rig.advance(delays[-1])
        box.beat()
    for n, delay in enumerate(delays):
        full = min(2_000 << n, 300_000)
        assert full // 2 <= delay <= full


def test_a_retry_chain_ends_dead_with_the_last_reason_and_its_history(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task(max_retries=2))
    for n in range(3):
        box.fail(box.take(), error(code=f"exit_{n}", message=f"attempt {n} fell"))
        rig.advance(10_000)
    found = rig.admin.task(number)
    assert (found["state"], found["attempt"], found["retries_used"]) == ("dead", 3, 2)
    assert found["error"]["code"] == "exit_2"
    assert found["error"]["message"] == "gave up after 3 attempts; the last: attempt 2 fell"
    history = rig.admin.ask(m.TaskReports(task=number))["attempts"]
    assert [(one["outcome"], one["error"]["code"]) for one in history] == [
        ("failed", f"exit_{n}") for n in range(3)
    ]


def test_no_retries_means_one_attempt(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task(max_retries=0))
    box.fail(box.take())
    assert rig.admin.state(number) == "dead"


def test_infrastructure_is_counted_apart_and_bounded() -> None:
    rig = Rig(settings(max_infrastructure=2))
    box = rig.host()
    number = rig.admin.submit(shell_task(max_retries=0))
    for n in range(3):
        assert rig.admin.task(number)["attempt"] == n + 1
        box.fail(box.take(), error(FailureClass.infrastructure, "endpoint_down"))
        rig.advance(10_000)
    found = rig.admin.task(number)
    assert (found["state"], found["retries_used"]) == ("dead", 0)
    assert found["error"]["code"] == "infrastructure_exhausted"


def test_a_usage_window_parks_the_task_until_it_opens_and_spends_nothing(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task(max_retries=0))
    box.fail(box.take(), error(FailureClass.usage_window, "rate_limited", retry_after_s=3600.0))
    rig.advance(3_599_999)
    found = rig.admin.task(number)
    assert (found["state"], found["parked_count"], found["retries_used"]) == ("delayed", 1, 0)
    rig.advance(1)
    assert rig.admin.state(number) == "ready"


def test_a_configuration_error_holds_the_task_for_a_person(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task(max_retries=0))
    box.fail(box.take(), error(FailureClass.configuration, "key_refused"))
    assert rig.admin.state(number) == "held"
    rig.advance(3_600_000)
    assert rig.admin.state(number) == "held"


def test_a_failure_without_a_reason_is_a_task_error_that_says_so(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task(max_retries=0))
    box.report(box.ended(box.take(), "failed"))
    assert rig.admin.task(number)["error"]["code"] == "no_reason"


def test_a_task_that_kills_its_workers_dies_of_it(rig: Rig) -> None:
    number = rig.admin.submit(shell_task())
    box = rig.host()
    for n in range(1, 4):
        assert rig.admin.task(number)["attempt"] == n
        box.accept(box.assigned())
        rig.advance(LEASE_MS)
        if n < 3:
            box.beat()
            rig.advance(2 * BACKOFF_MS)
    found = rig.admin.task(number)
    assert (found["state"], found["losses"], found["retries_used"]) == ("dead", 3, 0)
    assert found["error"]["code"] == "worker_lost"


@pytest.mark.parametrize("blame", [FailureClass.task_error, FailureClass.verification])
def test_a_decline_spends_no_retry_whatever_it_blames(rig: Rig, box: HostEnd, blame: FailureClass) -> None:
    number = rig.admin.submit(shell_task(max_retries=0))
    assign = box.assigned()
    box.send(
        m.Decline(
            session=box.token, task=number, attempt=assign.attempt, failure_class=blame, code="policy_tier"
        )
    )
    found = rig.admin.task(number)
    assert (found["state"], found["retries_used"], found["error"]["code"]) == ("delayed", 0, "policy_tier")
    assert attempt(rig, number, 1).outcome == "declined"


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


# --- calls in flight ------------------------------------------------------------------------------------


@pytest.fixture
def ollama(rig: Rig) -> HostEnd:
    box = rig.host("gpu", agents=2)
    box.see()
    return box


def in_flight(rig: Rig) -> dict[tuple[int, str], int]:
    return rig.hub.registry.in_flight


def test_a_call_is_in_flight_from_assignment_to_result(rig: Rig, ollama: HostEnd) -> None:
    rig.admin.submit(task(), task())
    assert in_flight(rig) == {(1, MODEL): 1}
    assign = ollama.take()
    assert rig.sent(m.Assign) == []
    ollama.complete(assign)
    assert in_flight(rig) == {(1, MODEL): 1}
    ollama.complete(ollama.take())
    assert in_flight(rig) == {}


@pytest.mark.parametrize("end", ["fail", "lost", "unaccepted", "host", "endpoint"])
def test_no_end_of_an_attempt_leaves_its_call_in_flight(rig: Rig, ollama: HostEnd, end: str) -> None:
    number = rig.admin.submit(task(max_retries=0))
    assert in_flight(rig) == {(1, MODEL): 1}
    if end == "fail":
        ollama.fail(ollama.take())
    elif end == "lost":
        ollama.take()
        rig.advance(LEASE_MS)
    elif end == "unaccepted":
        rig.admin.ask(m.AgentCordon(agent="gpu-1"))
        rig.admin.ask(m.AgentCordon(agent="gpu-2"))
        rig.advance(ACCEPT_MS)
    elif end == "host":
        rig.admin.ask(m.HostRemove(host="gpu", now=True))
    else:
        rig.admin.ask(m.EndpointRemove(endpoint="1"))
        assert rig.admin.state(number) == "assigned"
        ollama.complete(ollama.take())
        ollama.see()
    assert in_flight(rig) == {}


def test_the_call_of_a_cancelled_task_is_in_flight_until_it_is_killed(rig: Rig, ollama: HostEnd) -> None:
    """The server still works on it: another call at once would be one too many."""
    number = rig.admin.submit(task())
    assign = ollama.take()
    rig.admin.ask(m.TaskCancel(task=number))
    rig.admin.ask(m.TaskRetry(task=number))
    assert (in_flight(rig), rig.admin.state(number)) == ({(1, MODEL): 1}, "ready")
    ollama.report(ollama.ended(assign, "cancelled"))
    assert (in_flight(rig), rig.admin.state(number)) == ({(1, MODEL): 1}, "assigned")


def test_calls_are_counted_again_after_a_restart_although_the_endpoint_was_renamed(
    rig: Rig, ollama: HostEnd
) -> None:
    rig.admin.submit(task())
    ollama.take()
    rig.admin.ask(m.EndpointUpdate(endpoint="1", name="renamed"))
    rig.start()
    assert in_flight(rig) == {(1, MODEL): 1}


def test_a_call_that_failed_makes_the_endpoint_worth_less_for_a_while(rig: Rig) -> None:
    one, other = rig.host("one"), rig.host("other")
    one.see()
    other.see(sighting(probe=endpoint_probe()))
    rig.admin.submit(task())
    one.fail(one.take(), error(FailureClass.infrastructure, "connection_refused"))
    rig.advance(2_000)
    assert other.assigned().attempt == 2


# --- logs -----------------------------------------------------------------------------------------------


def test_output_of_an_open_attempt_is_passed_on_and_of_any_other_dropped(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(shell_task())
    assign = box.take()
    piece = m.Log(session=box.token, task=assign.task, attempt=1, offset=0, text="hello")
    assert [type(e).__name__ for e in box.send(piece)] == ["LogPiece"]
    assert box.send(msgspec.structs.replace(piece, attempt=2)) == []
    box.complete(assign)
    assert box.send(piece) == []
