"""`task why`: the stored decision, or the present state of every host with the smallest change that would help."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom import messages as m
from agentcom.clock import rfc3339
from agentcom.config import ModelSettings, RoutingSettings, Settings
from agentcom.model import Backend, EndpointProbe, FailureClass, JsonObject, TaskSpec
from tests.core_rig import HostEnd, Rig
from tests.factories import (
    MODEL,
    agent_offer,
    complex_task,
    endpoint_model,
    endpoint_probe,
    error,
    resources,
    shell_task,
    sighting,
    task,
)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def gpu(rig: Rig, host: str, **model: Any) -> HostEnd:
    box = rig.host(host)
    box.see(sighting(probe=endpoint_probe(endpoint_model(**model))))
    return box


def why(rig: Rig, number: int, **fields: Any) -> JsonObject:
    found: JsonObject = rig.admin.ask(m.TaskWhy(task=number, **fields))
    return found


def test_a_routed_task_shows_its_decision_with_the_reason_of_its_tier(rig: Rig) -> None:
    gpu(rig, "box")
    found = why(rig, rig.admin.submit(task("Fix a typo")))
    assert (found["shows"], found["hosts"]) == ("decision", [])
    assert (found["route"]["model"], found["route"]["endpoint"]) == (MODEL, "ollama-box")
    assert (found["route"]["reason"], found["route"]["refused"]) == ("no_command", {})
    assert found["route"]["score"]["cost_us"] == sum(found["route"]["score"]["parts"].values())
    assert found["classification"]["inferred"] == "trivial"
    assert found["classification"]["signals"] != []


def test_a_task_that_waits_for_its_next_try_says_how_long_still_and_when_that_is(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    box.fail(box.take(), error(FailureClass.usage_window, retry_after_s=600.0))
    at = rfc3339(rig.clock.now().wall_ms + 600_000)
    rig.advance(420_000)
    box.beat()
    found = why(rig, number)
    assert found["reason"] == f"it is tried again in 3 min, at {at}, after: it ended with 1"
    assert found["ready_at"] == at == rig.admin.task(number)["retry_at"]


def test_a_task_that_is_for_later_says_how_long_still_and_when_that_is(rig: Rig) -> None:
    at = rfc3339(rig.clock.now().wall_ms + 7_200_000)
    number = rig.admin.submit(shell_task(not_before=at))
    rig.advance(7_150_000)
    found = why(rig, number)
    assert found["reason"] == f"it starts not before {at}, in 50 s"
    assert found["ready_at"] == at


def test_a_task_that_waits_for_no_time_has_none(rig: Rig) -> None:
    assert why(rig, rig.admin.submit(shell_task()))["ready_at"] is None


def test_the_present_state_of_a_routed_task_is_computed_on_demand(rig: Rig) -> None:
    rig.host("box")
    found = why(rig, rig.admin.submit(shell_task()), now=True)
    assert (found["shows"], [one["fails"] for one in found["hosts"]]) == ("present", ["agents_busy"])
    assert found["route"]["host"] == "box"


@pytest.mark.parametrize("spec", [shell_task(not_before="2027-12-31T00:00:00Z"), shell_task()])
def test_what_waits_or_is_held_shows_who_could_run_it(rig: Rig, spec: TaskSpec) -> None:
    rig.admin.ask(m.QueuePause())
    number = rig.admin.submit(spec)
    if spec.not_before is None:
        rig.admin.ask(m.TaskHold(task=number))
    rig.host("box")
    found = why(rig, number)
    assert found["shows"] == "present"
    assert [(one["host"], one["fails"]) for one in found["hosts"]] == [("box", "")]
    assert [one["host"] for one in found["ways"]] == ["box"]


def test_the_hosts_come_in_pages_and_the_counts_are_of_all(rig: Rig) -> None:
    for n in range(7):
        rig.host(f"box{n}")
    number = rig.admin.submit(task())
    names, cursor = [], None
    for _ in range(3):
        page = why(rig, number, limit=3, cursor=cursor)
        names += [one["host"] for one in page["hosts"]]
        cursor = page["next_cursor"]
        assert page["refused"] == {"no_endpoint": 7}
    assert (names, cursor) == ([f"box{n}" for n in range(7)], None)


def test_an_unknown_model_is_said_with_the_command_that_fetches_it(rig: Rig) -> None:
    gpu(rig, "box")
    number = rig.admin.submit(task(model="nobody/has:this"))
    found = why(rig, number)
    assert [one["fails"] for one in found["hosts"]] == ["model_missing"]
    assert "ollama pull nobody/has:this at http://127.0.0.1:11434" in found["reason"]
    number = rig.admin.submit(shell_task())
    assert rig.admin.state(number) == "assigned", "the tasks behind it go on"


def test_a_server_whose_list_cannot_be_read_is_not_said_to_lack_the_model(rig: Rig) -> None:
    box = rig.host("box")
    box.see(sighting(probe=EndpointProbe(healthy=True, version="1", list_fault="/api/tags answered 500")))
    number = rig.admin.submit(task())
    found = why(rig, number)
    assert [one["fails"] for one in found["hosts"]] == ["models_unknown"]
    assert "is not known: /api/tags answered 500; mend that at http" in found["reason"]
    box.see(sighting(probe=endpoint_probe(endpoint_model())))
    assert rig.admin.state(number) == "assigned"


def test_a_model_that_is_not_among_those_kept_of_a_long_list_is_not_said_to_be_missing(rig: Rig) -> None:
    box = rig.host("box")
    fault = "the first 500 of its 5000 models are kept"
    box.see(sighting(probe=endpoint_probe(endpoint_model("other:1b"), list_fault=fault)))
    found = why(rig, rig.admin.submit(task(model=MODEL)))
    assert [one["fails"] for one in found["hosts"]] == ["models_unknown"]
    assert f"has {MODEL} is not known: {fault}; mend that at http" in found["reason"]
    assert "ollama pull" not in found["reason"]
    number = rig.admin.submit(task(model="other:1b"))
    assert rig.admin.state(number) == "assigned"


def test_a_server_that_had_the_model_and_is_down_comes_before_one_without_it(rig: Rig) -> None:
    box = gpu(rig, "box")
    box.see(sighting("http://127.0.0.1:2", endpoint_probe(endpoint_model("other:1b"))))
    box.see(sighting("http://127.0.0.1:11434", endpoint_probe(healthy=False, reason="connection refused")))
    box.see(sighting("http://127.0.0.1:2", endpoint_probe(endpoint_model("other:1b"))))
    found = why(rig, rig.admin.submit(task(model=MODEL)))
    assert [one["fails"] for one in found["hosts"]] == ["endpoint_unhealthy"]
    assert found["hosts"][0]["change"] == "start the server at http://127.0.0.1:11434"
    box.see(sighting("http://127.0.0.1:2", endpoint_probe(healthy=False)))
    found = why(rig, rig.admin.submit(task(model=MODEL)))
    assert found["hosts"][0]["change"] == "start the server at http://127.0.0.1:11434"


def test_a_model_that_fits_no_host_is_said_with_both_sizes(rig: Rig) -> None:
    box = gpu(rig, "box", size_bytes=40 << 30)
    box.beat(resources=resources(ram_total_bytes=16 << 30))
    found = why(rig, rig.admin.submit(task()))
    assert found["reason"].startswith(f"no host can hold {MODEL}: ")
    assert "40.0 GiB" in found["reason"]
    assert "16.0 GiB" in found["reason"]


def test_a_task_that_waits_for_a_warm_endpoint_says_for_which_and_how_much_sooner_that_is(rig: Rig) -> None:
    gpu(rig, "warm", warm=True)
    rig.admin.submit(task())
    gpu(rig, "cold", size_bytes=20_000_000_000)
    found = why(rig, rig.admin.submit(task()))
    assert (found["state"], found["waits_for"]["endpoint"]) == ("ready", "ollama-warm")
    assert found["waits_for"]["instead_of"] == "ollama-cold"
    assert found["waits_for"]["which_takes_longer_by_s"] > 0
    assert "it waits for" in found["reason"]


def test_why_tells_when_a_stranded_task_goes_to_another_tier() -> None:
    rig = Rig(Settings(models=ModelSettings(standard=MODEL), routing=RoutingSettings(fallback="both")))
    rig.host("box", (agent_offer("box-1", backends=(Backend.shell,)),))
    number = rig.admin.submit(task())
    rig.advance(2_000)
    found = why(rig, number)
    assert found["fallback"] == {"to": "complex", "in_s": 3.0, "may_pay": True, "shortage": None}
    assert found["reason"].endswith("it may run as complex in 3.0 s (routing.fallback)")


def test_why_says_what_a_complex_task_would_have_to_allow() -> None:
    rig = Rig(Settings(models=ModelSettings(standard=MODEL), routing=RoutingSettings(fallback="down")))
    rig.host("box", (agent_offer("box-1", backends=(Backend.ollama,)),))
    found = why(rig, rig.admin.submit(complex_task()))
    assert "--allow lower" in found["reason"]


def test_asking_why_changes_nothing(rig: Rig) -> None:
    gpu(rig, "box", warm=True)
    number = rig.admin.submit(task(model="nobody/has:this"))
    before = list(rig.store.scan("tasks")), list(rig.store.scan("meta"))
    why(rig, number)
    why(rig, number, now=True)
    assert (list(rig.store.scan("tasks")), list(rig.store.scan("meta"))) == before


def test_a_dead_task_says_why_it_died(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(max_retries=0))
    box.fail(box.take(), error())
    assert why(rig, number)["reason"].startswith("it is dead: ")


# --- what is not ready ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "is_held", "message"),
    [
        ({}, True, "it could run here once it is released"),
        ({"not_before": "2027-12-31T00:00:00Z"}, False, "it could run here once its time has come"),
    ],
)
def test_why_of_a_task_that_is_not_ready_says_when_a_host_could_run_it(
    rig: Rig, fields: dict[str, Any], is_held: bool, message: str
) -> None:
    rig.admin.ask(m.QueuePause())
    number = rig.admin.submit(shell_task(**fields))
    if is_held:
        rig.admin.ask(m.TaskHold(task=number))
    rig.host("box")
    rig.admin.ask(m.QueuePause(paused=False))
    found = why(rig, number)
    assert [one["message"] for one in found["hosts"]] == [message]
    expected = {"by_itself": False, "command": f"agentcom task release {number}", "change": None} if is_held else None
    assert found["release"] == expected


def dead_dependency(rig: Rig, box: HostEnd) -> tuple[int, int]:
    """A dead task, and one that waits for it."""
    first = rig.admin.submit(shell_task(max_retries=0))
    second = rig.admin.submit(shell_task(depends_on=(first,)))
    box.fail(box.take(), error())
    assert (rig.admin.state(first), rig.admin.state(second)) == ("dead", "held")
    return first, second


def test_why_of_a_task_whose_dependency_is_dead_names_no_release_that_would_be_refused(rig: Rig) -> None:
    first, second = dead_dependency(rig, rig.host("box"))
    found = why(rig, second)
    assert [one["message"] for one in found["hosts"]] == ["it could run here once what it waits for has completed"]
    assert found["release"] == {"by_itself": True, "command": None, "change": f"agentcom task retry {first}"}
    assert found["reason"] == (
        f"task {first}, which it waits for, is dead; retry that one (agentcom task retry {first}), or cancel this one"
    )


def test_why_of_a_held_task_that_has_something_to_wait_for_says_both(rig: Rig) -> None:
    box = rig.host("box", agents=2)
    first, other = rig.admin.submit(shell_task(max_retries=0), shell_task(not_before="2027-12-31T00:00:00Z")), 2
    second = rig.admin.submit(shell_task(depends_on=(first, other)))
    rig.admin.ask(m.TaskHold(task=second, reason="not yet"))
    both = ["it could run here once what it waits for has completed and it is released"]
    found = why(rig, second)
    assert [one["message"] for one in found["hosts"]] == both
    assert found["release"] == {"by_itself": False, "command": f"agentcom task release {second}", "change": None}
    box.fail(box.take(), error())
    rig.admin.ask(m.TaskCancel(task=other))
    found = why(rig, second)
    assert [one["message"] for one in found["hosts"]] == both
    assert found["release"] == {
        "by_itself": False,
        "command": f"agentcom task release {second}",
        "change": f"agentcom dead retry {first} {other}",
    }
    assert found["reason"].endswith(
        f"not yet; it waits for tasks {first}, {other}, which did not complete: agentcom dead retry {first} {other}; "
        f"then: agentcom task release {second}"
    )


def test_why_of_a_task_that_a_budget_holds_has_the_releasing_figure_as_a_field(rig: Rig) -> None:
    rig.host("box", (agent_offer(backends=(Backend.claude,)),))
    rig.admin.ask(m.BudgetSet(key="all", usd=0.5))
    number = rig.admin.submit(complex_task())
    found = why(rig, number)
    assert found["release"] == {
        "by_itself": True, "command": None,
        "change": "agentcom budget set all 2.00 --per day, or wait until the next day (UTC)",
        "budget": "all", "per": "day", "needs_usd": 2.0, "left_usd": 0.5, "raise_to_usd": 2.0,
    }  # fmt: skip
    rig.admin.ask(m.BudgetSet(key="all", usd=found["release"]["raise_to_usd"]))
    assert rig.admin.state(number) == "assigned"


def test_why_of_a_task_whose_own_budget_pays_no_call_says_that_a_release_would_not_help(rig: Rig) -> None:
    found = _too_small(rig, budget_usd=0.0001)
    has = "it has 0.0001 USD, and the budget of a task cannot be raised"
    change = f"cancel it, and submit it again with a larger --budget ({has})"
    assert found["reason"] == f"a call may cost 0.03 USD; {change}"
    assert found["release"] == {"by_itself": False, "command": None, "change": change}


def test_why_of_a_task_whose_attempts_pay_no_call_names_the_setting(rig: Rig) -> None:
    rig.admin.ask(m.BudgetSet(key="all", usd=50))
    found = _too_small(rig)
    change, command = "raise budgets.attempt_usd, which is 2.00 USD", f"agentcom task release {found['id']}"
    assert found["reason"] == f"a call may cost 0.03 USD; {change}; then: {command}"
    assert found["release"] == {"by_itself": False, "command": command, "change": change}


def _too_small(rig: Rig, **fields: Any) -> JsonObject:
    box = rig.host("box", (agent_offer(backends=(Backend.claude,)),))
    number = rig.admin.submit(complex_task(**fields))
    said = "a call may cost 0.03 USD"
    box.fail(box.take(), error(FailureClass.configuration, "budget_too_small", message=said))
    return why(rig, number)
