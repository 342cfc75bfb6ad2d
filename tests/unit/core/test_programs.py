"""Tasks that name an agent program: who gets them, what they may cost, and what stands in their story."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from agentcom import messages as m
from agentcom.model import Backend, BudgetPeriod, FailureClass, Strategy, Tier
from tests.core_rig import HostEnd, Rig
from tests.factories import agent_offer, complex_task, error, result, shell_task, task

NEED = "program:claude-code"


@pytest.fixture
def rig() -> Rig:
    return Rig()


def programmed(rig: Rig, name: str = "box", *capabilities: str) -> HostEnd:
    offer = agent_offer(f"{name}-1", backends=(Backend.shell, Backend.program))
    return rig.host(name, (offer,), capabilities=capabilities or ("program:claude-code=2.1.197",))


def why(rig: Rig, number: int, host: str) -> tuple[str, str]:
    found = rig.admin.ask(m.TaskWhy(task=number))
    return next((row["fails"], row["change"]) for row in found["hosts"] if row["host"] == host)


@pytest.mark.parametrize("tier", [Tier.standard, Tier.complex])
def test_a_task_that_names_a_program_goes_to_a_host_that_has_it(rig: Rig, tier: Tier) -> None:
    rig.host("plain")
    box = programmed(rig)
    rig.admin.submit(task(tier=tier, needs=(NEED,), model="opus"))
    route = box.take().route
    assert (route.strategy, route.backend, route.model) == (Strategy.agent_program, Backend.program, "opus")
    assert (route.tier, route.endpoint) == (tier, None)


def test_without_a_model_the_program_takes_its_own(rig: Rig) -> None:
    box = programmed(rig)
    rig.admin.submit(complex_task(needs=(NEED,)))
    assert box.take().route.model == "none"


def test_a_command_stays_a_command(rig: Rig) -> None:
    box = programmed(rig)
    rig.admin.submit(shell_task(needs=(NEED,)))
    assert box.take().route.strategy is Strategy.trivial


def test_a_version_can_be_asked_for(rig: Rig) -> None:
    programmed(rig)
    number = rig.admin.submit(complex_task(needs=("program:claude-code>=3",)))
    assert why(rig, number, "box") == ("need_missing", "update claude-code on box; its sidecar finds it by itself")


def test_why_says_what_to_install_or_to_set(rig: Rig) -> None:
    programmed(rig)
    rig.host("plain")
    number = rig.admin.submit(complex_task(needs=("program:codex",)))
    install = (
        "install codex, and name it in programs.offer, on box; its sidecar finds it by itself, and `agentcom doctor` "
        "there says what is missing"
    )
    assert why(rig, number, "box") == ("need_missing", install)
    fails, change = why(rig, number, "plain")
    assert (fails, "programs.offer" in change) == ("no_program", True)


def test_why_says_where_a_program_is_offered_and_what_the_doctor_there_says(rig: Rig) -> None:
    missing = "codex is not on this host (PATH of its sidecar); install Codex CLI: npm install -g @openai/codex"
    rig.host("plain")
    offer = agent_offer("box-1", backends=(Backend.shell, Backend.program))
    box = rig.host("box", (offer,), program_faults=("claude-code: it ended with 3", f"codex: {missing}"))
    number = rig.admin.submit(complex_task(needs=("program:codex>=1",)))
    found = rig.admin.ask(m.TaskWhy(task=number))
    assert found["reason"].startswith(f"box offers codex and cannot use it: {missing}; mend that on box, where")
    assert {row["host"]: row["fails"] for row in found["hosts"]} == {"plain": "no_program", "box": "program_unusable"}
    [host] = [each for each in rig.admin.ask(m.HostList())["hosts"] if each["name"] == "box"]
    assert host["program_faults"][1] == f"codex: {missing}"
    box.beat(capabilities=("program:codex=1.2",), check_faults=(), program_faults=())
    assert box.take().task == number, "it was mended, and the host has said so"


def test_a_heartbeat_that_leaves_out_the_faults_changes_none(rig: Rig) -> None:
    offer = agent_offer("box-1", backends=(Backend.shell, Backend.program))
    box = rig.host("box", (offer,), program_faults=("codex: it ended with 3",))
    number = rig.admin.submit(complex_task(needs=("program:codex",)))
    box.beat(capabilities=("docker",))
    assert why(rig, number, "box")[0] == "program_unusable"
    box.beat(capabilities=("docker",), program_faults=())
    assert why(rig, number, "box")[0] == "need_missing"


def test_a_program_is_paid_for_like_any_cloud_model(rig: Rig) -> None:
    box = programmed(rig)
    rig.admin.ask(m.BudgetSet(key="all", usd=3, per=BudgetPeriod.ever))
    rig.admin.submit(task(tier=Tier.standard, needs=(NEED,)))
    assign = box.take()
    assert assign.budget_usd == 2
    box.complete(assign, backend=Backend.program, model="m", cost_usd=1.5)
    second = rig.admin.submit(task(tier=Tier.standard, needs=(NEED,)))
    assert rig.admin.state(second) == "held", "1.50 of 3.00 are left, an attempt may cost 2.00"


def test_its_usage_window_keeps_no_claude_from_the_host(rig: Rig) -> None:
    offers = (agent_offer("one", backends=(Backend.shell, Backend.claude, Backend.program)),)
    box = rig.host("box", offers, capabilities=(NEED,))
    rig.admin.submit(complex_task(needs=(NEED,)))
    box.fail(box.take(), error(FailureClass.usage_window, "rate_limited"))
    rig.admin.submit(complex_task())
    assert box.take().route.backend is Backend.claude


def test_it_falls_back_to_no_other_tier(rig: Rig) -> None:
    number = rig.admin.submit(complex_task(needs=(NEED,)))
    assert rig.admin.ask(m.TaskWhy(task=number))["fallback"] is None


@pytest.mark.parametrize("outcome", ["completed", "failed"])
def test_each_start_that_failed_stands_in_the_story(rig: Rig, outcome: Any) -> None:
    box = programmed(rig)
    number = rig.admin.submit(complex_task(needs=(NEED,)))
    assign = box.take()
    tries = ("start 1 of 4: no sign of life within 30 s", "start 2 of 4: it ended with exit code 3")
    message = box.ended(assign, outcome, result(failed_starts=tries), error() if outcome == "failed" else None)
    box.report(message)
    entries = rig.admin.ask(m.TaskStory(task=number))["entries"]
    assert [each["cause"] for each in entries if each["event"] == "start_failed"] == list(tries)
    events = [each["event"] for each in entries]
    assert events.index("start_failed") < events.index("ended")


@pytest.mark.parametrize(
    ("told_ms", "seen_s"),
    [((1_000, 31_500), (1, 31.5)), ((1_000,), (1, 90)), ((), (90, 90)), ((1_000, 2_000_000), (1, 90))],
    ids=["each", "not the last", "none", "later than the end"],
)
def test_each_start_that_failed_has_its_own_time_by_the_hosts_stopwatch(
    rig: Rig, told_ms: tuple[int, ...], seen_s: tuple[float, ...]
) -> None:
    box = programmed(rig)
    number = rig.admin.submit(complex_task(needs=(NEED,)))
    assign = box.take()
    for _ in range(6):  # the host is heard all the while
        rig.advance(15_000)
        box.beat(assign)
    box.report(box.ended(assign, "completed", result(failed_starts=("one", "two"), failed_starts_ms=told_ms)))
    entries = rig.admin.ask(m.TaskStory(task=number))["entries"]
    accepted = next(datetime.fromisoformat(each["at"]) for each in entries if each["event"] == "accepted")
    failed = [datetime.fromisoformat(each["at"]) for each in entries if each["event"] == "start_failed"]
    assert [(each - accepted).total_seconds() for each in failed] == list(seen_s)
