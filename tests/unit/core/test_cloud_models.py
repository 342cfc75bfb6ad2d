"""Models that a third party runs behind a local server: no task goes there that does not allow it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentcom import messages as m
from agentcom.config import ModelSettings, RoutingSettings, Settings
from agentcom.core.estimates import USUAL
from agentcom.core.score import local_run_us
from agentcom.model import Allowance, Backend, BudgetPeriod, JsonObject, Tier
from tests.core_rig import HostEnd, Rig
from tests.factories import (
    agent_offer,
    complex_task,
    endpoint_model,
    endpoint_probe,
    resources,
    sighting,
    task,
)

CLOUD = "gpt-oss:120b-cloud"
LOCAL = "qwen2.5-coder:7b"


def rig_with(*tiers: Any, fallback: Any = "none", standard: str = CLOUD) -> Rig:
    models = ModelSettings(standard=standard, cloud_tiers=tiers)
    return Rig(Settings(models=models, routing=RoutingSettings(fallback=fallback, wait_s=0)))


def box(rig: Rig, **offer: Any) -> HostEnd:
    """A host whose server lists a model of its own, warm, and one of the cloud."""
    end = rig.host("box", **offer)
    end.see(sighting(probe=endpoint_probe(endpoint_model(LOCAL, warm=True, context_length=8192), cloud_model())))
    return end


def cloud_model() -> Any:
    return endpoint_model(CLOUD, digest="sha256:2", size_bytes=384, remote=True, context_max=131_072)


def why(rig: Rig, number: int) -> JsonObject:
    return dict(rig.admin.ask(m.TaskWhy(task=number)))


def test_a_task_that_does_not_allow_it_stays_away_from_a_cloud_model_and_says_what_would_help() -> None:
    rig = rig_with()
    box(rig)
    number = rig.admin.submit(task())
    found = why(rig, number)
    assert (rig.admin.state(number), found["refused"]) == ("ready", {"cloud_model": 1})
    [host] = found["hosts"]
    assert host["message"].startswith(f"{CLOUD} on ollama-box is a cloud model: a third party would get the task")
    assert "--allow cloud" in host["change"]
    assert "models.cloud_tiers standard" in host["change"]
    assert host["change"] in found["reason"]


def test_a_task_that_allows_it_runs_on_a_cloud_model_which_is_never_loaded() -> None:
    rig = rig_with()
    end = box(rig)
    rig.admin.submit(task(allow=(Allowance.cloud,)))
    route = end.take().route
    assert (route.model, route.remote, route.backend) == (CLOUD, True, Backend.ollama)
    assert route.score is not None
    assert (route.score.parts["load"], route.score.parts["run"]) == (0, local_run_us(USUAL))
    assert rig.hub.registry.loads.view(1) == []


def test_the_allowance_of_one_task_is_not_that_of_others() -> None:
    rig = rig_with()
    box(rig, agents=2)
    numbers = [rig.admin.submit(task()), rig.admin.submit(task(allow=(Allowance.cloud,)))]
    assert [rig.admin.state(number) for number in numbers] == ["ready", "assigned"]


def test_all_tasks_of_a_tier_may_be_let_go_there_at_run_time() -> None:
    rig = rig_with()
    end = box(rig)
    number = rig.admin.submit(task())
    assert rig.admin.state(number) == "ready"
    rig.admin.ask(m.ConfigChange(set={"models.cloud_tiers": ("standard",)}))
    assert end.take().route.remote


def test_a_local_model_is_used_without_asking_and_costs_what_it_did() -> None:
    rig = rig_with(standard=LOCAL)
    end = box(rig)
    rig.admin.submit(task())
    assert not end.take().route.remote


def test_a_complex_task_that_goes_down_takes_its_allowance_along() -> None:
    agents = (agent_offer("one", backends=(Backend.shell, Backend.ollama)),)
    for spec, tiers, state in (
        (complex_task(allow=(Allowance.down,)), (), "ready"),
        (complex_task(allow=(Allowance.down, Allowance.cloud)), (), "assigned"),
        (complex_task(allow=(Allowance.down,)), ("complex",), "assigned"),
        (complex_task(allow=(Allowance.down,)), ("standard",), "assigned"),
    ):
        rig = rig_with(*tiers, fallback="down")
        box(rig, agents=agents)
        number = rig.admin.submit(spec)
        rig.advance(1_000)
        rig.advance(1_000)
        assert rig.admin.state(number) == state, (spec.allow, tiers)


def test_a_cloud_model_counts_neither_as_memory_nor_as_a_measure_for_others() -> None:
    rig = rig_with("standard")
    end = box(rig, resources=resources(ram_total_bytes=8 << 30, ram_available_bytes=1 << 30))
    rig.admin.submit(task())
    end.complete(end.take(), durations_ms={"generate": 1_000, "first_byte": 10}, tokens_out=500)
    rig.admin.submit(task(model=LOCAL))
    score = end.take().route.score
    assert score is not None
    assert score.parts["run"] == local_run_us(USUAL), "the cloud's rate says nothing of the machine"


def test_r10_a_task_that_a_budget_concerns_calls_no_model_of_unknown_price() -> None:
    """A budget is checked on the model that will really run."""
    rig = rig_with("standard")
    end = box(rig, agents=2)
    rig.admin.ask(m.BudgetSet(key="all", usd=5.0, per=BudgetPeriod.day))
    number = rig.admin.submit(task())
    assert rig.admin.task(number)["error"]["code"] == "price_unknown"
    assert rig.admin.state(number) == "held"
    local = rig.admin.submit(task(model=LOCAL))
    assert rig.admin.state(local) == "assigned"
    end.take()
    rig.admin.ask(m.BudgetSet(key="all", usd=None, per=BudgetPeriod.day))
    assert end.take().route.remote, "it goes on by itself when the budget is taken back"


def test_a_task_of_unknown_price_stays_held_while_any_budget_concerns_it_also_over_a_restart() -> None:
    rig = rig_with("standard")
    box(rig)
    for key in ("all", "submitter:admin"):
        rig.admin.ask(m.BudgetSet(key=key, usd=5.0, per=BudgetPeriod.day))
    number = rig.admin.submit(task())
    rig.admin.ask(m.BudgetSet(key="all", usd=50.0, per=BudgetPeriod.day))
    rig.admin.ask(m.BudgetSet(key="all", usd=None, per=BudgetPeriod.day))
    assert rig.admin.state(number) == "held", "room in a budget gives its model no price"
    release = rig.admin.ask(m.TaskWhy(task=number))["release"]
    assert (release["by_itself"], release["command"]) == (True, None)
    rig.start()
    rig.admin.hello()
    assert rig.admin.state(number) == "held"
    rig.admin.ask(m.BudgetSet(key="submitter:admin", usd=None, per=BudgetPeriod.day))
    assert rig.admin.state(number) == "ready"


def test_a_task_with_a_budget_of_its_own_is_held_too_and_its_neighbours_are_not() -> None:
    rig = rig_with("standard")
    box(rig, agents=2)
    numbers = [rig.admin.submit(task(budget_usd=1.0)), rig.admin.submit(task())]
    assert [rig.admin.state(number) for number in numbers] == ["held", "assigned"]


def test_the_route_of_an_older_store_is_of_no_cloud_model() -> None:
    rig = rig_with(standard=LOCAL)
    end = box(rig)
    rig.admin.submit(task())
    fields = msgspec.to_builtins(end.take().route)
    fields.pop("remote")
    assert not msgspec.convert(fields, m.Route).remote


@pytest.mark.parametrize("tier", [Tier.trivial, Tier.standard, Tier.complex])
def test_only_tasks_that_may_call_a_local_model_are_told_apart_by_it(tier: Tier) -> None:
    rig = rig_with()
    command = "true" if tier is Tier.trivial else None
    for allow in ((), (Allowance.cloud,)):
        rig.admin.submit(task(tier=tier, command=command, allow=allow))
    assert len(rig.hub.tasks.groups) == (1 if tier is Tier.trivial else 2)
