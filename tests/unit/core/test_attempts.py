"""Attempts: what is given out, what a result is worth, and where the task goes when it is cancelled or fails."""

from __future__ import annotations

import msgspec
import pytest

from agentcom import messages as m
from agentcom.core.effects import Put, Send, SendAssign, key_u64, key_u64x2
from agentcom.core.evidence import LATE
from agentcom.errors import Refused
from agentcom.model import AgentState, FailureClass, Role, State
from tests.core_rig import ACCEPT_MS, BACKOFF_MS, BEAT_MS, LEASE_MS, HostEnd, Rig, attempt, keep_alive
from tests.factories import error, result, settings, shell_task


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def box(rig: Rig) -> HostEnd:
    return rig.host("box")


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


# --- logs -----------------------------------------------------------------------------------------------


def test_output_of_an_open_attempt_is_passed_on_and_of_any_other_dropped(rig: Rig, box: HostEnd) -> None:
    rig.admin.submit(shell_task())
    assign = box.take()
    piece = m.Log(session=box.token, task=assign.task, attempt=1, offset=0, text="hello")
    assert [type(e).__name__ for e in box.send(piece)] == ["LogPiece"]
    assert box.send(msgspec.structs.replace(piece, attempt=2)) == []
    box.complete(assign)
    assert box.send(piece) == []
