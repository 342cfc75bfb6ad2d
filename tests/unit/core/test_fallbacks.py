"""Steps between tiers: only where they are configured and allowed, after a wait, one at a time, never to the shell."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from agentcom import messages as m
from agentcom.config import ModelSettings, QueueSettings, RoutingSettings, Settings
from agentcom.core.fallbacks import PREFIX
from agentcom.model import Allowance, Backend, BudgetPeriod, FailureClass, Iteration, ResultStatus, Role, Tier
from tests.core_rig import HostEnd, Rig
from tests.factories import (
    MODEL,
    agent_offer,
    complex_task,
    endpoint_probe,
    error,
    host_offer,
    shell_task,
    sighting,
    task,
)


def rig_with(fallback: Any, **queue: Any) -> Rig:
    return Rig(
        Settings(
            queue=QueueSettings(**queue),
            models=ModelSettings(standard=MODEL),
            routing=RoutingSettings(fallback=fallback),
        )
    )


def host(rig: Rig, name: str, *backends: Backend) -> HostEnd:
    key = rig.invited(Role.host, name)
    end = HostEnd(rig, key, rig.peer(), offer=host_offer(name, (agent_offer(name, backends=backends),)))
    end.hello()
    return end


def waits(rig: Rig) -> int:
    return len(list(rig.store.scan("meta", PREFIX, PREFIX + b"\xff" * 9)))


def test_without_configuration_a_task_that_nobody_can_run_stays_where_it_is() -> None:
    rig = rig_with("none")
    host(rig, "cloud", Backend.claude)
    number = rig.admin.submit(task(allow=(Allowance.up,)))
    rig.advance(60_000)
    assert (rig.admin.state(number), waits(rig)) == ("ready", 0)


def test_a_standard_task_that_nobody_can_run_goes_up_after_the_wait_and_says_so() -> None:
    rig = rig_with("up")
    cloud = host(rig, "cloud", Backend.claude)
    number = rig.admin.submit(task())
    cloud.beat()
    rig.advance(4_900)
    assert (rig.admin.state(number), waits(rig)) == ("ready", 1)
    rig.advance(100)
    told = rig.published("task")[0]
    told.pop("number")
    assert told == {
        "event": "task_fell_back",
        "task": number,
        "tier": "standard",
        "to": "complex",
        "because": "no_ollama",
    }
    assign = cloud.take()
    route = assign.route
    assert (route.reason, route.tier, route.strategy, assign.tier) == (
        "fallback_up",
        Tier.complex,
        "cloud_llm",
        Tier.complex,
    )
    assert (route.refused, route.model) == ({"no_ollama": 1}, "claude-opus-5-5")
    found = rig.admin.task(number)
    assert (found["tier"], found["route"]["reason"]) == ("standard", "fallback_up")


def test_work_that_will_end_is_waited_for_at_its_own_tier() -> None:
    rig = rig_with("up")
    local = host(rig, "local", Backend.ollama)
    local.see(sighting())
    rig.admin.submit(task())
    running = local.take()
    host(rig, "cloud", Backend.claude)
    number = rig.admin.submit(task())
    for _ in range(4):
        rig.advance(5_000)
        local.beat(running)
        local.see(sighting())
    assert (rig.admin.state(number), waits(rig)) == ("ready", 0)


@pytest.mark.parametrize("allow", [(), (Allowance.up,), (Allowance.network,)])
def test_a_complex_task_is_not_lowered_unless_it_allows_that(allow: tuple[Allowance, ...]) -> None:
    rig = rig_with("both")
    local = host(rig, "local", Backend.ollama)
    local.see(sighting())
    number = rig.admin.submit(complex_task(allow=allow))
    rig.advance(60_000)
    assert rig.admin.state(number) == "ready"


def test_a_complex_task_that_allows_it_goes_down_to_a_local_model() -> None:
    rig = rig_with("down")
    local = host(rig, "local", Backend.ollama)
    local.see(sighting())
    rig.admin.submit(complex_task(model="claude-small", allow=(Allowance.down,)))
    rig.advance(5_000)
    route = local.take().route
    assert (route.reason, route.tier, route.model) == ("fallback_down", Tier.standard, MODEL)


def test_no_fallback_leads_to_the_shell() -> None:
    rig = rig_with("both")
    host(rig, "shells", Backend.shell)
    standard = rig.admin.submit(task(allow=tuple(Allowance)))
    lowered = rig.admin.submit(complex_task(allow=tuple(Allowance)))
    for _ in range(10):
        rig.advance(10_000)
    assert [rig.admin.state(one) for one in (standard, lowered)] == ["ready", "ready"]


def test_a_command_never_goes_to_a_model() -> None:
    rig = rig_with("both")
    host(rig, "cloud", Backend.claude)
    number = rig.admin.submit(shell_task(allow=tuple(Allowance)))
    rig.advance(60_000)
    assert (rig.admin.state(number), waits(rig)) == ("ready", 0)


def test_a_wait_goes_on_where_it_was_when_the_hub_starts_again() -> None:
    rig = rig_with("up")
    cloud = host(rig, "cloud", Backend.claude)
    number = rig.admin.submit(task())
    rig.advance(3_000)
    rig.start()
    rig.admin.hello()
    cloud.hello()
    rig.advance(1_900)
    assert rig.admin.state(number) == "ready"
    rig.advance(100)
    assert cloud.take().route.reason == "fallback_up"


def test_a_wall_clock_that_jumps_makes_no_wait_longer() -> None:
    rig = rig_with("up")
    cloud = host(rig, "cloud", Backend.claude)
    rig.admin.submit(task())
    rig.clock.jump(-86_400_000)
    rig.start()
    rig.admin.hello()
    cloud.hello()
    rig.advance(5_000)
    assert cloud.take().route.reason == "fallback_up"


def test_a_host_that_comes_back_ends_the_wait() -> None:
    rig = rig_with("up")
    host(rig, "cloud", Backend.claude)
    rig.admin.submit(task())
    rig.advance(3_000)
    local = host(rig, "local", Backend.ollama)
    local.see(sighting())
    assert (local.take().route.reason, waits(rig)) == ("inferred_tier", 0)


def test_each_decision_takes_its_own_step() -> None:
    """A task that ran one tier above and failed is tried on its own tier again, where that has become possible."""
    rig = rig_with("up")
    cloud = host(rig, "cloud", Backend.claude)
    rig.admin.submit(task())
    rig.advance(5_000)
    raised = cloud.take()
    local = host(rig, "local", Backend.ollama)
    local.see(sighting())
    cloud.fail(raised, error(FailureClass.infrastructure, "cut"))
    rig.advance(2_000)
    assert local.take().route.reason == "inferred_tier"


def test_a_usage_window_that_a_raised_task_meets_closes_the_cloud_for_its_host() -> None:
    rig = rig_with("up")
    cloud = host(rig, "cloud", Backend.claude)
    rig.admin.submit(task())
    rig.advance(5_000)
    raised = cloud.take()
    cloud.fail(raised, error(FailureClass.usage_window, "rate_limited", retry_after_s=600.0))
    assert rig.agent("cloud") == "blocked"


def test_the_records_of_waits_end_with_their_tasks() -> None:
    rig = rig_with("up")
    number = rig.admin.submit(task())
    host(rig, "shells", Backend.shell)
    assert waits(rig) == 1
    rig.admin.ask(m.TaskCancel(task=number))
    rig.advance(1_000)
    assert waits(rig) == 0


# --- escalation -----------------------------------------------------------------------------------------


def failed_checks(rig: Rig, local: HostEnd, **spec: Any) -> int:
    """A standard task whose checks fail after all rounds."""
    number = rig.admin.submit(task(**spec))
    local.complete(local.take(), status=ResultStatus.partial_pass, backend=Backend.ollama, model=MODEL)
    return number


@pytest.fixture
def both() -> tuple[Rig, HostEnd, HostEnd]:
    rig = rig_with("none")
    local, cloud = host(rig, "local", Backend.ollama), host(rig, "cloud", Backend.claude)
    local.see(sighting(probe=endpoint_probe()))
    return rig, local, cloud


def test_checks_that_fail_to_the_end_take_a_task_one_tier_up_if_it_allows_that(
    both: tuple[Rig, HostEnd, HostEnd],
) -> None:
    rig, local, cloud = both
    number = failed_checks(rig, local, model=MODEL, allow=(Allowance.up,))
    assign = cloud.take()
    assert (assign.task, assign.attempt, assign.tier, assign.route.reason) == (
        number,
        2,
        Tier.complex,
        "escalated",
    )
    found = rig.admin.task(number)
    assert (found["tier"], found["tier_source"], found["retries_used"]) == ("complex", "raised", 0)
    cloud.complete(assign, status=ResultStatus.partial_pass, backend=Backend.claude, model="claude-opus-5-5")
    assert rig.admin.state(number) == "completed", "there is no tier above"


def test_a_task_whose_checks_fail_past_its_time_to_live_expires_and_is_not_escalated_first(
    both: tuple[Rig, HostEnd, HostEnd],
) -> None:
    rig, local, _cloud = both
    number = rig.admin.submit(task(model=MODEL, allow=(Allowance.up,), ttl_s=5))
    assign = local.take()
    rig.clock.advance(6_000)
    local.complete(assign, status=ResultStatus.partial_pass, backend=Backend.ollama, model=MODEL)
    told = rig.admin.ask(m.TaskStory(task=number))["entries"]
    assert [one["event"] for one in told[-2:]] == ["ended", "expired"]
    assert told[-1]["cause"].startswith(
        "its time to live was over before it could be tried again; the last: its checks still failed"
    )


@pytest.mark.parametrize(("status", "state"), [("fail", "assigned"), ("none", "completed")])
def test_a_model_that_changed_nothing_while_checks_fail_is_followed_by_a_better_one(
    both: tuple[Rig, HostEnd, HostEnd], status: Literal["fail", "none"], state: str
) -> None:
    rig, local, _ = both
    number = rig.admin.submit(task(model=MODEL, allow=(Allowance.up,)))
    rounds = (Iteration(n=1, status=status),)
    local.complete(local.take(), status=ResultStatus.no_change, iterations=rounds, backend=Backend.ollama, model=MODEL)
    assert rig.admin.state(number) == state


def test_checks_that_fail_end_a_task_that_does_not_allow_more(both: tuple[Rig, HostEnd, HostEnd]) -> None:
    rig, local, _ = both
    assert rig.admin.state(failed_checks(rig, local)) == "completed"
    assert rig.admin.state(failed_checks(rig, local, allow=(Allowance.down,))) == "completed"


def test_a_task_is_not_raised_where_nobody_could_run_it(both: tuple[Rig, HostEnd, HostEnd]) -> None:
    rig, local, cloud = both
    cloud.leave()
    assert rig.admin.state(failed_checks(rig, local, allow=(Allowance.up,))) == "completed"


def test_an_escalation_survives_a_restart_and_is_told(both: tuple[Rig, HostEnd, HostEnd]) -> None:
    rig, local, cloud = both
    cloud.beat()
    rig.admin.submit(complex_task())
    busy = cloud.take()
    number = failed_checks(rig, local, allow=(Allowance.up,))
    assert rig.admin.state(number) == "ready"
    rig.start()
    rig.admin.hello()
    cloud.hello(attempts=(cloud.held(busy),))
    cloud.complete(busy)
    assert cloud.take().route.reason == "escalated"
    assert "escalated" in [one["event"] for one in rig.admin.ask(m.TaskStory(task=number))["entries"]]


# --- money ----------------------------------------------------------------------------------------------


REPO = "https://git.example/one.git"
CAPS = {  # each of the four, so that one more attempt (2 USD) does not fit it: (budgets, fields of the task)
    "own": ((), {"budget_usd": 0.5}),
    "submitter": (("submitter:admin",), {}),
    "repository": ((f"repo:{REPO}",), {}),
    "hub": (("all",), {}),
}


def spent_to(rig: Rig, cloud: HostEnd, cap: str) -> dict[str, Any]:
    """The fields of a task for which that cap has no room; its own is used up by a first attempt."""
    keys, fields = CAPS[cap]
    for key in keys:
        rig.admin.ask(m.BudgetSet(key=key, usd=1))
    return {"repo": REPO, **fields}


def spend_own(rig: Rig, cloud: HostEnd, number: int) -> None:
    """The task has spent what it may on an attempt before."""
    rig.hub.tasks.table.paid[number] = rig.hub.tasks.table.budgets[number]


@pytest.mark.parametrize("cap", CAPS)
def test_a_step_up_that_a_cap_refuses_is_not_taken_holds_nothing_and_why_names_the_cap(cap: str) -> None:
    rig = rig_with("up")
    cloud = host(rig, "cloud", Backend.claude)
    number = rig.admin.submit(task(**spent_to(rig, cloud, cap)))
    if cap == "own":
        spend_own(rig, cloud, number)
    rig.advance(6_000)
    assert (rig.admin.state(number), cloud.received) == ("ready", [])
    found = rig.admin.ask(m.TaskWhy(task=number))
    assert not found["fallback"]["may_pay"]
    named = {"own": "its own budget is spent: 0.50 of 0.50 USD", "hub": "the hub's budget has 1.00 of 1.00"}
    assert named.get(cap, f"the budget of {CAPS[cap][0][0] if CAPS[cap][0] else ''}") in found["reason"]
    if cap != "own":
        rig.admin.ask(m.BudgetSet(key=CAPS[cap][0][0], usd=10))
        assert cloud.take().route.reason == "fallback_up", "at once when it is raised"


@pytest.mark.parametrize("cap", CAPS)
def test_a_task_ends_with_what_it_has_where_a_cap_refuses_the_tier_above(
    both: tuple[Rig, HostEnd, HostEnd], cap: str
) -> None:
    rig, local, cloud = both
    number = rig.admin.submit(task(allow=(Allowance.up,), **spent_to(rig, cloud, cap)))
    if cap == "own":
        spend_own(rig, cloud, number)
    local.complete(local.take(), status=ResultStatus.partial_pass, backend=Backend.ollama, model=MODEL)
    assert (rig.admin.state(number), rig.admin.task(number)["tier"]) == ("completed", "standard")
    assert cloud.received == []


def test_tasks_behind_one_that_cannot_pay_for_the_step_take_it() -> None:
    rig = rig_with("up")
    cloud = host(rig, "cloud", Backend.claude)
    rig.admin.ask(m.BudgetSet(key="submitter:admin", usd=1))
    poor = [rig.admin.submit(task()) for _ in range(20)]
    rich = rig.member(Role.operate, "rich").submit(task())
    own = rig.admin.submit(task(budget_usd=1))
    rig.advance(6_000)
    assert cloud.take().task == rich
    assert {rig.admin.state(one) for one in (*poor, own)} == {"ready"}


def test_a_task_that_has_to_run_alone_is_not_held_for_a_step_that_it_cannot_pay() -> None:
    rig = rig_with("up", max_losses=2)
    local = host(rig, "local", Backend.ollama)
    local.see(sighting())
    cloud = host(rig, "cloud", Backend.claude)
    rig.admin.ask(m.BudgetSet(key="all", usd=1))
    number = rig.admin.submit(task())
    local.take()
    for _ in range(12):
        rig.advance(10_000)
        cloud.beat()
    assert (list(rig.hub.tasks.alone), rig.admin.state(number)) == ([number], "ready")
    assert (waits(rig), cloud.received) == (1, [])
    rig.admin.ask(m.BudgetSet(key="all", usd=10))
    assert cloud.take().route.reason == "fallback_up"


def test_another_day_pays_for_a_step_up_without_anything_else_happening() -> None:
    rig = rig_with("up")
    cloud = host(rig, "cloud", Backend.claude)
    rig.admin.ask(m.BudgetSet(key="all", usd=3, per=BudgetPeriod.day))
    rig.admin.submit(complex_task())
    cloud.complete(cloud.take(), backend=Backend.claude, model="m", cost_usd=2.0)
    number = rig.admin.submit(task())
    rig.advance(6_000)
    assert rig.admin.state(number) == "ready"
    rig.clock.jump(86_400_000)
    rig.advance(1_000)
    assert cloud.take().task == number
