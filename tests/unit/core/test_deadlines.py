"""Deadlines: moments that people gave follow the wall clock, terms do not; each says which it was."""

from __future__ import annotations

import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import rfc3339
from agentcom.core.deadlines import NOTE, TermClock
from agentcom.core.effects import Put, Timers
from agentcom.core.outlet import Outlet
from agentcom.errors import Refused
from agentcom.model import FailureClass, State
from tests.core_rig import Rig
from tests.factories import error, settings, shell_task, task

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
TEN_YEARS_MS = 10 * 365 * DAY_MS


@pytest.fixture
def rig() -> Rig:
    return Rig()


def at(rig: Rig, ms: int) -> str:
    """That long from now, on the wall clock."""
    return rfc3339(rig.clock.now().wall_ms + ms) or ""


def ended(rig: Rig, number: int) -> tuple[str, str]:
    found = rig.admin.task(number)
    return found["state"], (found["error"] or {}).get("code", "")


# --- start_by -------------------------------------------------------------------------------------------


def test_a_task_that_nobody_has_started_expires_at_start_by(rig: Rig) -> None:
    number = rig.admin.submit(task(start_by=at(rig, 5_000)))
    rig.advance(4_999)
    assert rig.admin.state(number) == "ready"
    rig.advance(1)
    assert ended(rig, number) == ("expired", "start_by")
    assert rig.admin.ask(m.DeadList())["tasks"][0]["id"] == number


def test_a_host_that_comes_after_start_by_and_before_the_timers_is_given_nothing(rig: Rig) -> None:
    """The timers are up to a second old; the task was started 989 ms after the moment by which it was to start."""
    number = rig.admin.submit(shell_task(start_by=at(rig, 5_000)))
    rig.clock.advance(5_000)
    rig.host()
    assert ended(rig, number) == ("expired", "start_by")


def test_a_task_that_runs_at_start_by_was_started_in_time(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(start_by=at(rig, 5_000)))
    assign = box.take()
    rig.advance(6_000)
    assert rig.admin.state(number) == "working"
    box.fail(assign)
    assert rig.admin.state(number) == "delayed"
    rig.advance(3_000)
    assert box.take().attempt == 2


def test_an_assignment_that_nobody_accepted_is_no_start(rig: Rig) -> None:
    rig.host()
    number = rig.admin.submit(shell_task(start_by=at(rig, 10_000)))
    rig.advance(10_000)
    assert rig.admin.state(number) == "assigned"
    rig.advance(5_000)
    rig.advance(0)
    assert ended(rig, number) == ("expired", "start_by")


def test_that_a_task_was_started_in_time_survives_a_restart(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(start_by=at(rig, 10_000)))
    box.fail(box.take())
    rig.advance(2_000)
    box.take()
    rig.advance(9_000)
    rig.start()
    rig.admin.hello()
    rig.advance(45_000)
    assert rig.admin.state(number) in ("ready", "delayed")


def test_a_held_task_expires_at_start_by_too(rig: Rig) -> None:
    number = rig.admin.submit(task(start_by=at(rig, 5_000)))
    rig.admin.ask(m.TaskHold(task=number))
    rig.advance(5_000)
    assert ended(rig, number) == ("expired", "start_by")


# --- complete_by ----------------------------------------------------------------------------------------


def test_running_work_is_cancelled_at_complete_by_and_its_agent_is_free_when_it_has_ended(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(complete_by=at(rig, 5_000)))
    assign = box.take()
    rig.advance(5_000)
    assert rig.sent(m.Cancel) == [m.Cancel(task=number, attempt=1, reason="complete_by")]
    assert ended(rig, number) == ("expired", "complete_by")
    assert "attempt 1 was running, its worktree is kept" in rig.admin.task(number)["error"]["message"]
    assert rig.agent("box-1") == "working"
    box.report(box.ended(assign, "cancelled"))
    assert rig.agent("box-1") == "idle"
    attempt = rig.admin.ask(m.TaskReports(task=number))["attempts"][0]
    assert (attempt["outcome"], attempt["error"]["code"]) == ("cancelled", "complete_by")


def test_a_result_after_complete_by_is_stale_and_kept_as_evidence(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(complete_by=at(rig, 5_000)))
    assign = box.take()
    rig.advance(5_000)
    assert box.complete(assign) == "stale"
    assert rig.admin.state(number) == "expired"
    assert rig.admin.ask(m.TaskReports(task=number))["attempts"][0]["late_result"] is not None


def test_complete_by_is_kept_when_start_by_came_first_on_running_work(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(start_by=at(rig, 5_000), complete_by=at(rig, 20_000)))
    assign = box.take()
    for _ in range(3):
        rig.advance(5_000)
        box.beat(assign)
    assert rig.admin.state(number) == "working"
    rig.advance(5_000)
    assert ended(rig, number) == ("expired", "complete_by")


@pytest.mark.parametrize("hold", [False, True])
def test_a_task_that_waits_expires_at_complete_by(rig: Rig, hold: bool) -> None:
    number = rig.admin.submit(task(not_before=at(rig, 2_000), complete_by=at(rig, 5_000)))
    if hold:
        rig.admin.ask(m.TaskHold(task=number))
    rig.advance(2_000)
    rig.advance(3_000)
    assert ended(rig, number) == ("expired", "complete_by")


def test_complete_by_passes_while_the_hub_is_down(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(complete_by=at(rig, 5_000)))
    assign = box.take()
    rig.clock.advance(6_000)
    rig.start()
    rig.admin.hello()
    rig.advance(0)
    assert ended(rig, number) == ("expired", "complete_by")
    welcome = box.hello(attempts=(box.held(assign),))
    assert [verdict.verdict for verdict in welcome.verdicts] == ["kill"]


def test_moments_follow_a_wall_clock_that_is_set(rig: Rig) -> None:
    first = rig.admin.submit(task(complete_by=at(rig, HOUR_MS)))
    second = rig.admin.submit(task(start_by=at(rig, HOUR_MS)))
    rig.clock.jump(HOUR_MS)
    rig.advance(0)
    assert [ended(rig, number)[1] for number in (first, second)] == ["complete_by", "start_by"]


def test_a_retry_binds_the_task_by_the_moments_that_are_still_to_come(rig: Rig) -> None:
    number = rig.admin.submit(task(start_by=at(rig, 5_000), complete_by=at(rig, 20_000)))
    rig.advance(5_000)
    rig.admin.ask(m.TaskRetry(task=number))
    rig.advance(14_999)
    assert rig.admin.state(number) == "ready"
    rig.advance(1)
    assert ended(rig, number) == ("expired", "complete_by")
    rig.admin.ask(m.TaskRetry(task=number))
    rig.advance(HOUR_MS)
    assert rig.admin.state(number) == "ready"


def test_a_retried_task_has_its_own_time_to_live_again(rig: Rig) -> None:
    number = rig.admin.submit(task(ttl_s=60))
    rig.advance(60_000)
    rig.admin.ask(m.TaskRetry(task=number))
    rig.advance(59_999)
    assert rig.admin.state(number) == "ready"
    rig.advance(1)
    assert ended(rig, number) == ("expired", "ttl")


# --- terms ----------------------------------------------------------------------------------------------


def test_i10_a_jump_of_ten_years_expires_nothing_that_is_queued_or_held(rig: Rig) -> None:
    ready, held = rig.admin.submit(task(), task()), 2
    rig.admin.ask(m.TaskHold(task=held))
    rig.advance(0)
    for years in (1, -1, -1, 1):
        rig.clock.jump(years * TEN_YEARS_MS)
        rig.advance(1_000)
        assert [rig.admin.state(number) for number in (ready, held)] == ["ready", "held"]


@pytest.mark.parametrize("years", [-1, 1])
def test_i10_a_term_ends_when_it_would_have_without_the_jump(years: int) -> None:
    rig = Rig(settings(ttl_s=3600, held_s=1800))
    ready, held = rig.admin.submit(task(), task()), 2
    rig.admin.ask(m.TaskHold(task=held))
    rig.advance(0)
    rig.clock.jump(years * TEN_YEARS_MS)
    rig.advance(HOUR_MS // 2 - 1)
    assert rig.admin.state(held) == "held"
    rig.advance(1)
    assert ended(rig, held) == ("expired", "held_too_long")
    rig.advance(HOUR_MS // 2 - 1)
    assert rig.admin.state(ready) == "ready"
    rig.advance(1)
    assert ended(rig, ready) == ("expired", "ttl")


@pytest.mark.parametrize("years", [-1, 1])
def test_i10_a_term_goes_on_over_a_restart_after_a_jump(years: int) -> None:
    rig = Rig(settings(ttl_s=3600))
    number = rig.admin.submit(task())
    rig.advance(0)
    rig.clock.jump(years * TEN_YEARS_MS)
    rig.advance(HOUR_MS // 2 - 60_000)
    rig.clock.advance(60_000)
    rig.clock.jump(years * TEN_YEARS_MS)
    rig.start()
    rig.admin.hello()
    rig.advance(HOUR_MS // 2 - 1)
    assert rig.admin.state(number) == "ready"
    rig.advance(1)
    assert ended(rig, number) == ("expired", "ttl")


def test_a_clock_that_was_set_while_the_machine_was_down_costs_a_day_of_a_term_at_most(rig: Rig) -> None:
    number = rig.admin.submit(task(ttl_s=2 * 24 * 3600))
    rig.advance(0)
    rig.clock.jump(TEN_YEARS_MS)
    rig.boot = "boot 2"
    rig.start()
    rig.admin.hello()
    rig.advance(DAY_MS - 1)
    assert rig.admin.state(number) == "ready"
    rig.advance(1)
    assert ended(rig, number) == ("expired", "ttl")


def test_people_are_told_that_the_wall_clock_jumped(rig: Rig) -> None:
    rig.advance(0)
    rig.clock.jump(90_000)
    rig.advance(1_000)
    assert rig.published("queue") == []  # a batch of its own would move what else is due
    rig.admin.submit(task())
    assert rig.published("queue") == [{"event": "clock_jumped", "number": 1, "by_s": 90.0}]
    rig.clock.jump(limits.CLOCK_JUMP_MS - 1)
    rig.advance(1_000)
    rig.admin.submit(task())
    assert rig.published("queue") == []


def test_when_a_term_ends_is_shown_by_the_clock_as_it_stands(rig: Rig) -> None:
    number = rig.admin.submit(task(ttl_s=60))
    assert rig.admin.task(number)["expires_at"] == at(rig, 60_000)
    rig.advance(0)
    rig.clock.jump(TEN_YEARS_MS)
    assert rig.admin.task(number)["expires_at"] == at(rig, 60_000)
    rig.advance(60_000)
    assert rig.admin.task(number)["expires_at"] is None


def test_when_a_task_is_tried_again_is_shown_by_the_clock_as_it_stands(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    assert rig.admin.task(number)["retry_at"] is None
    box.fail(box.take(), error(FailureClass.usage_window, retry_after_s=100.0))
    assert rig.admin.task(number)["retry_at"] == at(rig, 100_000)
    rig.advance(30_000)
    rig.clock.jump(TEN_YEARS_MS)
    assert rig.admin.task(number)["retry_at"] == at(rig, 70_000)
    rig.clock.jump(-TEN_YEARS_MS)
    rig.start()
    rig.admin.hello()
    assert rig.admin.task(number)["retry_at"] == at(rig, 70_000)
    rig.advance(70_000)
    assert (rig.admin.state(number), rig.admin.task(number)["retry_at"]) == ("ready", None)


def test_a_task_that_is_for_later_is_not_tried_again(rig: Rig) -> None:
    number = rig.admin.submit(task(not_before=at(rig, HOUR_MS)))
    assert (rig.admin.state(number), rig.admin.task(number)["retry_at"]) == ("delayed", None)


def test_the_clock_of_terms_is_noted_every_ten_minutes_while_there_are_tasks(rig: Rig) -> None:
    def notes() -> list[Put]:
        effects = rig.hub.handle(Timers(drained=True), rig.clock.now())
        return [e for e in effects if isinstance(e, Put) and e.key == NOTE]

    assert notes() == []
    rig.admin.submit(task())
    assert len(notes()) == 1
    rig.clock.advance(limits.CLOCK_NOTE_MS - 1)
    assert notes() == []
    rig.clock.advance(1)
    assert len(notes()) == 1


def test_a_store_that_has_no_note_yet_takes_its_terms_as_wall_time(rig: Rig) -> None:
    clock = TermClock(Outlet(), "")
    now = rig.clock.now()
    clock.begin(now, None)
    assert clock.now_ms(now) == now.wall_ms


# --- R22 ------------------------------------------------------------------------------------------------


def test_r22_every_state_that_is_not_final_ends_by_itself() -> None:
    """Nobody does anything after the task has reached the state: it is final within the terms of the settings."""
    for state in (State.delayed, State.ready, State.assigned, State.working, State.held):
        rig = Rig(settings(ttl_s=600, held_s=300, lease_s=45))
        number = rig.admin.submit(
            shell_task(not_before=at(rig, 60_000)) if state is State.delayed else shell_task()
        )
        if state is State.held:
            rig.admin.ask(m.TaskHold(task=number))
        if state in (State.assigned, State.working):
            box = rig.host()
            if state is State.working:
                box.take()
            box.leave()
        assert rig.admin.state(number) == state.value
        for _ in range(80):
            rig.advance(10_000)
        assert rig.admin.state(number) == "expired", state


def test_a_wrong_deadline_names_its_field(rig: Rig) -> None:
    with pytest.raises(Refused) as refused:
        rig.admin.submit(task(), task(complete_by="2001-01-01T00:00:00Z"))
    assert (refused.value.code, refused.value.field) == ("deadline_passed", "tasks[1].complete_by")
