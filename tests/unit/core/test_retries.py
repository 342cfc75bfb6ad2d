"""The budget of retries that an endpoint has, so that a sick one is not hammered."""

from __future__ import annotations

import pytest

from agentcom import messages as m
from agentcom.clock import Now
from agentcom.config import EndpointSettings, Settings
from agentcom.core.retries import PARTS, RetryBudgets
from agentcom.model import FailureClass
from tests.core_rig import HostEnd, Rig
from tests.factories import (
    endpoint_model,
    endpoint_probe,
    error,
    settings,
    shell_task,
    sighting,
    task,
)

SICK = error(FailureClass.infrastructure, "endpoint_error", message="the server failed")


def at(ms: int) -> Now:
    return Now(ms, ms)


def budgets(**endpoints: float) -> RetryBudgets:
    return RetryBudgets(Settings(endpoints=EndpointSettings(**endpoints)))  # type: ignore[arg-type]


# --- the count ------------------------------------------------------------------------------------------


def test_retries_may_be_a_share_of_all_calls_and_a_few_more() -> None:
    retries = budgets(retry_percent=20, retry_min=2)
    for _ in range(10):
        retries.called(1, False, at(0))
    for used in range(1, 5):
        assert retries.spent == set(), f"{used - 1} of {retries.used(1)}"
        retries.called(1, True, at(0))
    assert (retries.spent, retries.used(1)) == ({1}, (4, 4))
    for _ in range(20):
        retries.called(1, False, at(0))
    assert retries.spent == set(), "more calls allow more retries"
    assert retries.used(2) == (0, 2)


def test_what_was_used_comes_back_as_the_window_moves_on() -> None:
    retries = budgets(retry_min=1, retry_percent=0, retry_window_s=60)
    retries.called(1, True, at(3_000))
    assert (retries.spent, retries.next_due_ms()) == ({1}, 60_000)
    assert not retries.look(at(59_999))
    assert retries.look(at(60_000))
    assert (retries.spent, retries.next_due_ms()) == (set(), None)


def test_an_endpoint_that_is_gone_or_quiet_costs_no_memory() -> None:
    retries = budgets()
    for endpoint in range(100):
        retries.called(endpoint, True, at(0))
    retries.forget(0)
    retries.look(at(60_000))
    assert retries._windows == {}
    for ms in range(0, 600_000, 100):
        retries.called(1, False, at(ms))
    assert len(retries._windows[1].parts) <= PARTS


# --- in the queue ---------------------------------------------------------------------------------------


@pytest.fixture
def rig() -> Rig:
    rig = Rig(settings(backoff_s=1, backoff_max_s=1, max_infrastructure=100))
    rig.hub.retries.settings = rig.hub.router.settings = Settings(
        queue=rig.settings.queue,
        models=rig.settings.models,
        endpoints=EndpointSettings(retry_min=2, retry_percent=0, retry_window_s=60),
    )
    return rig


def sick_box(rig: Rig, name: str = "box", agents: int = 1) -> HostEnd:
    """A host whose endpoint looks healthy, and fails."""
    box = rig.host(name, agents)
    box.see(sighting(probe=endpoint_probe(endpoint_model())))
    return box


def spend(rig: Rig, box: HostEnd, number: int) -> None:
    """Let the task use up the retries of its endpoint."""
    for _ in range(3):
        box.fail(box.take(), SICK)
        rig.advance(1_000)
        box.beat()
    assert rig.admin.state(number) == "ready"


def test_r9_retries_over_the_budget_wait_while_first_calls_go_on(rig: Rig) -> None:
    box = sick_box(rig)
    number = rig.admin.submit(task())
    spend(rig, box, number)
    assert rig.sent(m.Assign) == []
    fresh = rig.admin.submit(task())
    assert box.take().task == fresh
    found = rig.admin.ask(m.TaskWhy(task=number))
    assert [one["condition"] for one in found["conditions"]] == ["retry_budget"]
    assert found["reason"].startswith("it has failed before, and every endpoint that has its model")
    assert found["hosts"][0]["fails"] == "retry_budget"
    assert found["hosts"][0]["message"] == "ollama-box had 2 retries of 2 in 60 s"


def test_a_retry_goes_on_when_the_window_has_moved_and_nothing_else_happens(rig: Rig) -> None:
    box = sick_box(rig)
    number = rig.admin.submit(task())
    spend(rig, box, number)
    due_ms = rig.hub.next_due_ms(rig.clock.now())
    assert due_ms is not None
    for _ in range(100):
        rig.advance(1_000)
        box.see(sighting(probe=endpoint_probe(endpoint_model())))
        if rig.admin.state(number) != "ready":
            break
    assert box.take().task == number


def test_a_retry_goes_to_an_endpoint_that_has_budget_left(rig: Rig) -> None:
    box = sick_box(rig)
    number = rig.admin.submit(task())
    spend(rig, box, number)
    other = sick_box(rig, "other")
    assert other.take().task == number


def test_retries_that_meet_on_an_endpoint_in_one_tick_stay_within_its_budget(rig: Rig) -> None:
    box = sick_box(rig, agents=4)
    rig.admin.ask(m.EndpointUpdate(endpoint="ollama-box", cap=4))
    numbers = [rig.admin.submit(task()) for _ in range(4)]
    assigns = [box.take() for _ in numbers]
    rig.tick(*[box.event(box.ended(assign, "failed", error=SICK)) for assign in assigns])
    box.received.clear()
    rig.advance(2_000)
    assert len([one for one in box.received if isinstance(one, m.Assign)]) == 2
    assert sorted(map(rig.admin.state, numbers)) == ["assigned", "assigned", "ready", "ready"]


def test_work_without_an_endpoint_has_no_budget(rig: Rig) -> None:
    box = sick_box(rig)
    number = rig.admin.submit(shell_task(max_retries=50))
    for _ in range(10):
        box.fail(box.take(), SICK)
        rig.advance(1_000)
        box.beat()
    assert rig.admin.task(number)["attempt"] == 11


def test_r9_an_infrastructure_failure_is_tried_on_another_endpoint_first(rig: Rig) -> None:
    box, other = sick_box(rig, "box"), sick_box(rig, "other")
    number = rig.admin.submit(task())
    box.fail(box.take(), SICK)
    rig.advance(1_000)
    assert other.take().task == number


def test_r9_an_infrastructure_failure_without_an_endpoint_is_tried_on_another_host_first() -> None:
    rig = Rig(settings(backoff_s=2))
    box, other = rig.host("box"), rig.host("other")
    other_task = rig.admin.submit(shell_task(needs=("host:other",)))
    number = rig.admin.submit(shell_task())
    box.fail(box.take(), SICK)
    rig.advance(900)
    other.complete(other.take())  # so box is idle longer
    assert rig.admin.state(other_task) == "completed"
    rig.advance(1_100)
    assert other.take().task == number
