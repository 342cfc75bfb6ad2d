"""Where a task goes, what that costs, and the sentence that says why it cannot go elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import rfc3339
from agentcom.core.estimates import LOAD_US_MAX, MS_US, USUAL
from agentcom.model import Backend, EndpointKind, FailureClass, Gpu, ModelMeasure, Role, Strategy, Tier
from tests.core_rig import HostEnd, Rig
from tests.factories import (
    MODEL,
    agent_offer,
    complex_task,
    endpoint_model,
    endpoint_probe,
    error,
    host_offer,
    resources,
    shell_task,
    sighting,
    task,
)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def gpu(rig: Rig, host: str, agents: int = 1, **model: Any) -> HostEnd:
    """A host with an endpoint of its own on loopback, which has one model."""
    box = rig.host(host, agents)
    box.see(sighting(probe=endpoint_probe(endpoint_model(**model))))
    return box


def loads_in(rig: Rig, endpoint: str, load_ms: int) -> None:
    """A load of the usual model was measured there."""
    record = rig.hub.registry.named(endpoint)
    record.measures[MODEL] = ModelMeasure(load_ms=load_ms, load_samples=1)
    rig.hub.registry.touched.add(record.id)


def one_backend(rig: Rig, name: str, *backends: Backend) -> HostEnd:
    key = rig.invited(Role.host, name)
    end = HostEnd(rig, key, rig.peer(), offer=host_offer(name, (agent_offer(name, backends=backends),)))
    end.hello()
    return end


def why(rig: Rig, number: int, host: str) -> tuple[str, str]:
    found = rig.admin.ask(m.TaskWhy(task=number))
    assert found["shows"] == "present"
    row = next(one for one in found["hosts"] if one["host"] == host)
    return row["fails"], row["change"]


# --- strategies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "strategy", "backend", "model", "reason"),
    [
        (shell_task(), "trivial", "shell", "none", "command"),
        (task(), "local_llm", "ollama", MODEL, "inferred_tier"),
        (task("Fix a typo"), "local_llm", "ollama", MODEL, "no_command"),
        (task(tier=Tier.standard), "local_llm", "ollama", MODEL, "explicit_tier"),
        (complex_task(), "cloud_llm", "claude", "claude-opus-5-5", "explicit_tier"),
        (complex_task(model="claude-small"), "cloud_llm", "claude", "claude-small", "explicit_tier"),
    ],
)
def test_each_tier_has_its_strategy(
    rig: Rig, spec: Any, strategy: str, backend: str, model: str, reason: str
) -> None:
    gpu(rig, "box")
    number = rig.admin.submit(spec)
    (assign,) = rig.sent(m.Assign)
    route = assign.route
    assert (route.strategy, route.backend, route.model, route.reason) == (strategy, backend, model, reason)
    assert route.score is not None
    assert route.score.cost_us == sum(route.score.parts.values())
    stored = rig.admin.task(number)["route"]
    assert (stored["strategy"], stored["host"], stored["agent"]) == (strategy, "box", "box-1")


def test_only_a_call_to_an_endpoint_names_one(rig: Rig) -> None:
    gpu(rig, "box")
    rig.admin.submit(task())
    local = rig.sent(m.Assign)[0].route
    assert (local.endpoint, local.endpoint_url, local.num_ctx) == (
        "ollama-box",
        "http://127.0.0.1:11434",
        8192,
    )
    rig.host("other")
    rig.admin.submit(shell_task())
    shell = rig.sent(m.Assign)[0].route
    assert (shell.endpoint, shell.endpoint_url, shell.num_ctx) == (None, None, None)


def test_a_wanted_model_goes_where_it_is(rig: Rig) -> None:
    gpu(rig, "one")
    gpu(rig, "other", name="llama3:8b")
    rig.admin.submit(task(model="LLAMA3:8B"))
    assert [one.route.host for one in rig.sent(m.Assign)] == ["other"]


def test_a_model_that_the_server_only_passes_on_is_not_used_unasked(rig: Rig) -> None:
    gpu(rig, "box", remote=True)
    assert why(rig, rig.admin.submit(task()), "box")[0] == "cloud_model"


# --- costs ----------------------------------------------------------------------------------------------


def test_a_warm_model_goes_before_a_cold_one(rig: Rig) -> None:
    gpu(rig, "cold")
    gpu(rig, "warm", warm=True)
    rig.admin.submit(task())
    (assign,) = rig.sent(m.Assign)
    assert assign.route.host == "warm"
    assert assign.route.score is not None
    assert assign.route.score.parts["load"] == 0
    (other,) = assign.route.others
    assert other.host == "cold"
    assert other.parts["load"] >= USUAL.load_min_ms * MS_US


def test_a_warm_host_that_is_busy_loses_to_an_idle_one(rig: Rig) -> None:
    gpu(rig, "warm", agents=2, warm=True)
    rig.admin.ask(m.EndpointUpdate(endpoint="1", cap=2))
    rig.admin.submit(task())
    gpu(rig, "cold")
    rig.admin.submit(task())
    assert [one.route.host for one in rig.sent(m.Assign)] == ["cold"]


def test_tasks_wait_for_a_warm_endpoint_until_a_cold_one_is_sooner_for_those_behind(rig: Rig) -> None:
    """The cold one loads for 40 s and a task runs for 33 s, so one of them waits for the first, and one does not. They
    are alike, so the one that came earlier starts."""
    gpu(rig, "warm", warm=True)
    gpu(rig, "cold")
    loads_in(rig, "ollama-cold", 40_000)
    rig.admin.submit(task(), task(), task())
    assert [(one.task, one.route.host) for one in rig.sent(m.Assign)] == [(1, "warm"), (2, "cold")]
    assert rig.admin.state(3) == "ready"


def test_equal_agents_take_turns(rig: Rig) -> None:
    """The agent idle longest: four equal ones get five tasks each."""
    boxes = [rig.host(f"box{n}") for n in range(4)]
    taken: dict[str, int] = {}
    for _ in range(20):
        rig.advance(100)
        rig.admin.submit(shell_task())
        (assign,) = rig.sent(m.Assign)
        taken[assign.route.agent] = taken.get(assign.route.agent, 0) + 1
        box = next(box for box in boxes if box.offer.name == assign.route.host)
        box.complete(box.take())
    assert sorted(taken.values()) == [5, 5, 5, 5]


def test_work_spreads_over_hosts_before_it_piles_up_on_one(rig: Rig) -> None:
    rig.host("one", agents=2)
    rig.host("other", agents=2)
    rig.admin.submit(shell_task())
    rig.admin.submit(shell_task())
    hosts = {agent.host.record.name for agent in rig.hub.fleet.agents.values() if agent.task}
    assert hosts == {"one", "other"}


def test_a_host_with_a_busy_cpu_is_worth_less(rig: Rig) -> None:
    hot, cool = gpu(rig, "hot"), gpu(rig, "cool")
    hot.beat(resources=resources(cpu_percent=99.0))
    cool.beat(resources=resources(cpu_percent=5.0))
    rig.admin.submit(task())
    assert [one.route.host for one in rig.sent(m.Assign)] == ["cool"]


def test_an_endpoint_that_failed_is_worth_less(rig: Rig) -> None:
    first = gpu(rig, "first", warm=True)
    gpu(rig, "second")
    rig.admin.submit(task())
    first.fail(first.take(), error(FailureClass.infrastructure, "cut"))
    rig.advance(2_000)
    (assign,) = rig.sent(m.Assign)
    assert assign.route.host == "second"
    assert [one.parts["recent_failure"] for one in assign.route.others] == [USUAL.recent_failure_ms * MS_US]


def test_a_decision_keeps_eight_others_and_counts_who_was_refused(rig: Rig) -> None:
    for n in range(12):
        rig.host(f"box{n}")
    one_backend(rig, "claudes", Backend.claude)
    rig.admin.submit(shell_task())
    (assign,) = rig.sent(m.Assign)
    assert len(assign.route.others) == limits.HISTORY_OTHERS_MAX
    assert assign.route.agent not in [one.agent for one in assign.route.others]
    assert assign.route.refused == {"no_shell": 1}


# --- conditions and why ---------------------------------------------------------------------------------


def test_a_need_is_met_by_agent_or_host(rig: Rig) -> None:
    number = rig.admin.submit(shell_task(needs=("docker", "gpu")))
    rig.host("plain")
    assert why(rig, number, "plain") == ("need_missing", "add docker to sidecar.capabilities on plain")
    key = rig.invited(Role.host, "able")
    offer = host_offer("able", (agent_offer("able", capabilities=("gpu",)),), capabilities=("docker",))
    HostEnd(rig, key, rig.peer(), offer=offer).hello()
    assert [one.route.host for one in rig.sent(m.Assign)] == ["able"]


@pytest.mark.parametrize("need", ["host:two", "agent:two-1"])
def test_a_task_may_name_its_host_or_its_agent(rig: Rig, need: str) -> None:
    rig.host("one")
    rig.host("two")
    rig.admin.submit(shell_task(needs=(need,)))
    assert [one.route.agent for one in rig.sent(m.Assign)] == ["two-1"]


def test_why_says_what_fails_on_each_host_and_what_would_mend_it(rig: Rig) -> None:
    one_backend(rig, "shells", Backend.shell)
    one_backend(rig, "none", Backend.ollama)
    down = one_backend(rig, "down", Backend.ollama)
    down.see(sighting("http://127.0.0.1:1"))
    down.see(sighting("http://127.0.0.1:1", endpoint_probe(healthy=False)))
    lacks = one_backend(rig, "lacks", Backend.ollama)
    lacks.see(sighting("http://127.0.0.1:2", endpoint_probe(endpoint_model("other"))))
    full = one_backend(rig, "full", Backend.ollama)
    full.see(sighting("http://127.0.0.1:3"))
    rig.admin.submit(task())
    gone = one_backend(rig, "gone", Backend.ollama)
    gone.leave()
    drained = one_backend(rig, "drained", Backend.ollama)
    rig.admin.ask(m.HostDrain(host=drained.offer.name))
    number = rig.admin.submit(task())
    assert {one["host"]: one["fails"] for one in rig.admin.ask(m.TaskWhy(task=number))["hosts"]} == {
        "shells": "no_ollama",
        "none": "no_endpoint",
        "down": "endpoint_unhealthy",
        "lacks": "model_missing",
        "full": "endpoint_full",
        "gone": "host_offline",
        "drained": "host_draining",
    }
    assert why(rig, number, "full")[1] == "wait, or agentcom endpoint update ollama-full --cap 2"
    assert why(rig, number, "lacks")[1] == f"ollama pull {MODEL} at http://127.0.0.1:2"
    assert why(rig, number, "down")[1] == "start the server at http://127.0.0.1:1"


def test_why_names_busy_cordoned_and_unresponsive_agents(rig: Rig) -> None:
    rig.host("busy")
    rig.admin.submit(shell_task())
    rig.host("shut")
    rig.admin.ask(m.AgentCordon(agent="shut-1"))
    number = rig.admin.submit(shell_task())
    assert why(rig, number, "busy") == ("agents_busy", "wait, or add agents (sidecar.agents)")
    assert why(rig, number, "shut") == ("agent_cordoned", "agentcom agent uncordon shut-1")
    rig.advance(15_000)
    assert why(rig, number, "busy")[0] == "agent_unresponsive"


def test_a_cordoned_agent_and_a_draining_host_get_nothing_until_that_is_taken_back(rig: Rig) -> None:
    rig.host("box", agents=2)
    rig.admin.ask(m.AgentCordon(agent="box-1"))
    rig.admin.ask(m.HostDrain(host="box"))
    rig.admin.submit(shell_task(), shell_task())
    assert rig.sent(m.Assign) == []
    rig.admin.ask(m.HostDrain(host="box", draining=False))
    assert [one.route.agent for one in rig.sent(m.Assign)] == ["box-2"]
    rig.admin.ask(m.AgentCordon(agent="box-1", cordoned=False))
    assert [one.route.agent for one in rig.sent(m.Assign)] == ["box-1"]


def test_draining_lets_running_work_end(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    assign = box.take()
    rig.admin.send(rig.admin.request(m.HostDrain(host="box")))
    assert [one["agent"]["draining"] for one in rig.published("agent")] == [True]
    assert box.complete(assign) == "accepted"
    assert rig.admin.state(number) == "completed"


def test_why_of_a_decided_task_shows_the_decision(rig: Rig) -> None:
    rig.host()
    number = rig.admin.submit(shell_task())
    found = rig.admin.ask(m.TaskWhy(task=number))
    assert (found["shows"], found["route"]["agent"]) == ("decision", "box-1")


def test_no_task_is_assigned_while_the_queue_is_paused_and_submits_go_on(rig: Rig) -> None:
    box = rig.host()
    rig.admin.ask(m.QueuePause())
    number = rig.admin.submit(shell_task())
    assert rig.admin.state(number) == "ready"
    rig.start()
    assert rig.hub.paused
    rig.admin.hello()
    box.hello()
    assert rig.sent(m.Assign) == []
    rig.admin.ask(m.QueuePause(paused=False))
    assert box.assigned().task == number


def test_a_task_that_nobody_can_run_does_not_stop_the_ones_behind_it(rig: Rig) -> None:
    box = rig.host()
    rig.admin.submit(*[task() for _ in range(50)])
    number = rig.admin.submit(shell_task())
    assert box.assigned().task == number


# --- warm keys, memory, load ----------------------------------------------------------------------------


def test_a_model_that_is_loaded_with_another_context_is_cold(rig: Rig) -> None:
    gpu(rig, "other-context", warm=True, context_length=4096)
    gpu(rig, "same-context", warm=True, context_length=8192)
    rig.admin.submit(task())
    (assign,) = rig.sent(m.Assign)
    assert assign.route.host == "same-context"
    (other,) = assign.route.others
    assert (other.host, other.parts["load"] > 0) == ("other-context", True)


def test_a_context_that_the_model_cannot_have_more_of_is_the_same(rig: Rig) -> None:
    gpu(rig, "box", warm=True, context_length=2048, context_max=2048)
    rig.admin.submit(task())
    (assign,) = rig.sent(m.Assign)
    assert assign.route.score is not None
    assert assign.route.score.parts["load"] == 0


def test_weights_that_are_loaded_under_another_name_are_warm(rig: Rig) -> None:
    box = rig.host("box")
    alias = endpoint_model("alias:7b", warm=True, digest="sha256:1")
    box.see(sighting(probe=endpoint_probe(endpoint_model(digest="sha256:1"), alias)))
    rig.admin.submit(task())
    (assign,) = rig.sent(m.Assign)
    assert assign.route.score is not None
    assert assign.route.score.parts["load"] == 0


def test_no_host_is_picked_that_cannot_hold_the_model(rig: Rig) -> None:
    small = gpu(rig, "small", size_bytes=40 << 30)
    small.beat(resources=resources(ram_total_bytes=16 << 30))
    number = rig.admin.submit(task())
    assert rig.sent(m.Assign) == []
    assert why(rig, number, "small") == (
        "model_too_large",
        "a smaller model or quantisation, or a host with 40.0 GiB of memory",
    )
    large = gpu(rig, "large", size_bytes=40 << 30)
    assert large.assigned().task == number


def test_a_model_that_hardly_fits_goes_where_it_fits_well(rig: Rig) -> None:
    for name, vram in (("spills", 8), ("fits", 24)):
        box = gpu(rig, name, size_bytes=16 << 30)
        box.beat(resources=resources(gpus=(Gpu(name="gpu", vram_total_bytes=vram << 30),)))
    rig.admin.submit(task())
    (assign,) = rig.sent(m.Assign)
    assert assign.route.host == "fits"
    assert [one.parts["run"] // assign.route.score.parts["run"] for one in assign.route.others] == [  # type: ignore[union-attr]
        USUAL.spill_factor
    ]


def test_figures_older_than_three_reports_are_unknown_and_not_idle(rig: Rig) -> None:
    silent, talks = gpu(rig, "silent"), gpu(rig, "talks")
    silent.beat(resources=resources(cpu_percent=0.0))
    for _ in range(4):
        rig.advance(5_000)
        silent.beat()
        silent.see()
        talks.beat(resources=resources(cpu_percent=40.0))
        talks.see()
    rig.admin.submit(task())
    (assign,) = rig.sent(m.Assign)
    assert assign.route.host == "talks"


def test_a_gpu_that_somebody_else_uses_is_worth_less(rig: Rig) -> None:
    for name, utilisation in (("games", 99.0), ("idle", 1.0)):
        box = gpu(rig, name)
        card = Gpu(name="gpu", utilisation_percent=utilisation, vram_total_bytes=24 << 30)
        box.beat(resources=resources(gpus=(card,)))
    rig.admin.submit(task())
    assert [one.route.host for one in rig.sent(m.Assign)] == ["idle"]


def test_a_host_that_has_the_repository_goes_before_one_that_has_not(rig: Rig) -> None:
    spec = shell_task(repo="https://example.org/one.git")
    hosts = [rig.host(f"box{n}") for n in range(3)]
    for _ in range(3):
        rig.admin.submit(spec)
        (assign,) = rig.sent(m.Assign)
        assert assign.route.host == "box0"
        hosts[0].complete(hosts[0].take())
        rig.advance(100)
    rig.admin.submit(shell_task(repo="https://example.org/other.git"))
    assert [one.route.host for one in rig.sent(m.Assign)] == ["box1"]


def test_a_task_waits_for_a_full_endpoint_whose_only_agent_is_busy(rig: Rig) -> None:
    """The cold one would load for 40 s; the warm one is free in 33 s, and then its agent is too."""
    warm = gpu(rig, "warm", warm=True)
    first = rig.admin.submit(task())
    gpu(rig, "cold")
    loads_in(rig, "ollama-cold", 40_000)
    second = rig.admin.submit(task())
    assert rig.admin.state(second) == "ready"
    third = rig.admin.submit(task())
    assert (rig.admin.state(second), rig.admin.state(third)) == ("assigned", "ready")
    running = warm.take()
    assert running.task == first
    warm.complete(running)
    assert warm.take().task == third


def test_a_task_with_nobody_to_wait_for_goes_to_the_cold_host(rig: Rig) -> None:
    """A full warm endpoint whose host takes no more work is no way at all."""
    gpu(rig, "warm", warm=True)
    rig.admin.submit(task())
    rig.admin.ask(m.HostDrain(host="warm"))
    gpu(rig, "cold")
    loads_in(rig, "ollama-cold", 40_000)
    rig.admin.submit(task())
    assert [one.route.host for one in rig.sent(m.Assign)] == ["cold"]


def test_absurd_figures_are_a_bad_score_and_no_more(rig: Rig) -> None:
    box = gpu(rig, "box", size_bytes=2**62, context_length=2**62)
    card = Gpu(name="gpu", vram_total_bytes=2**62, vram_used_bytes=2**62, utilisation_percent=100_000.0)
    figures = resources(gpus=(card,) * 64, cpu_percent=100_000.0, ram_total_bytes=None, ram_available_bytes=0)
    box.beat(resources=figures)
    rig.admin.submit(task())
    (assign,) = rig.sent(m.Assign)
    assert assign.route.score is not None
    assert assign.route.score.parts["load"] <= LOAD_US_MAX + USUAL.eviction_ms * MS_US


# --- kinds of endpoints -----------------------------------------------------------------------------------


def test_a_standard_task_goes_to_whichever_kind_of_local_server_has_its_model(rig: Rig) -> None:
    box = rig.host("box", agents=2)
    box.see(sighting(probe=endpoint_probe(endpoint_model("Qwen/Q-7B")), kind=EndpointKind.openai))
    rig.admin.submit(task(model="qwen/q-7b"))
    route = box.assigned().route
    assert (route.backend, route.model, route.strategy) == (Backend.openai, "Qwen/Q-7B", Strategy.local_llm)


def test_an_agent_that_does_not_speak_an_endpoints_language_gets_nothing_for_it(rig: Rig) -> None:
    old = one_backend(rig, "old", Backend.shell, Backend.ollama)
    old.see(sighting(kind=EndpointKind.openai))
    number = rig.admin.submit(task())
    assert rig.admin.state(number) == "ready"


def test_a_model_that_its_server_cannot_load_is_not_there(rig: Rig) -> None:
    box = rig.host()
    box.see(sighting(probe=endpoint_probe(endpoint_model(fault="the server could not load it"))))
    number = rig.admin.submit(task())
    assert why(rig, number, "box")[0] == "model_missing"


# --- wishes, pins and hours -----------------------------------------------------------------------------


def test_what_a_task_prefers_decides_where_it_is_there_and_stops_nothing_where_it_is_not(rig: Rig) -> None:
    rig.host("plain")
    rig.host("docked", capabilities=("docker",))
    rig.admin.submit(shell_task(prefers=("docker",)))
    assert [one.route.host for one in rig.sent(m.Assign)] == ["docked"]
    rig.admin.submit(shell_task(prefers=("docker",)))
    (assign,) = rig.sent(m.Assign)
    assert (assign.route.host, assign.route.score.parts["preference"]) == ("plain", USUAL.preference_ms * MS_US)  # type: ignore[union-attr]


def test_a_preferred_model_ability_decides_between_endpoints(rig: Rig) -> None:
    gpu(rig, "blunt", capabilities=("completion",))
    gpu(rig, "handy", capabilities=("completion", "tools"))
    rig.admin.submit(task(prefers=("model:tools",)))
    assert [one.route.host for one in rig.sent(m.Assign)] == ["handy"]


def test_a_model_that_cannot_do_what_is_needed_is_refused_and_an_unknown_one_is_tried(rig: Rig) -> None:
    gpu(rig, "blunt", capabilities=("completion",))
    number = rig.admin.submit(task(needs=("model:tools",)))
    assert why(rig, number, "blunt")[0] == "model_lacks"
    gpu(rig, "unknown")
    assert [(one.task, one.route.host) for one in rig.sent(m.Assign)] == [(number, "unknown")]


def test_a_need_of_the_model_that_no_cloud_model_meets_is_said(rig: Rig) -> None:
    rig.host("box")
    number = rig.admin.submit(complex_task(needs=("model:smell",)))
    assert why(rig, number, "box")[0] == "model_lacks"
    rig.admin.submit(complex_task(needs=("model:vision",)))
    assert [one.route.host for one in rig.sent(m.Assign)] == ["box"]


def test_a_pin_to_a_host_that_has_not_joined_is_taken_and_explained(rig: Rig) -> None:
    rig.host("one")
    number = rig.admin.submit(shell_task(needs=("host:two",)))
    assert why(rig, number, "one")[0] == "pinned_elsewhere"
    rig.host("two")
    assert [(one.task, one.route.host) for one in rig.sent(m.Assign)] == [(number, "two")]


def test_a_preferred_host_takes_the_work_while_it_is_online(rig: Rig) -> None:
    rig.host("spare")
    best = rig.host("best", agents=3, preferred=True)
    rig.admin.submit(shell_task(), shell_task())
    assert {one.route.host for one in rig.sent(m.Assign)} == {"best"}
    best.leave()
    rig.admin.submit(shell_task())
    (assign,) = rig.sent(m.Assign)
    assert assign.route.host == "spare"
    assert "not_preferred" not in assign.route.score.parts  # type: ignore[union-attr]


def test_a_host_over_its_quota_gets_nothing_and_why_says_what_makes_room(rig: Rig) -> None:
    box = rig.host("box", agents=2)
    rig.admin.submit(shell_task())
    assign = box.take()
    box.beat(assign, no_room="its worktrees take 12 MiB of sidecar.quota_mib 10")
    task = rig.admin.submit(shell_task())
    assert rig.sent(m.Assign) == []
    fails, change = why(rig, task, "box")
    (host,) = rig.admin.ask(m.HostList())["hosts"]
    assert (fails, host["no_room"]) == ("disk_quota", "its worktrees take 12 MiB of sidecar.quota_mib 10")
    assert "agentcom git status" in change
    box.beat(assign)
    assert box.take().task == task


def test_a_host_in_its_quiet_hours_gets_nothing_and_goes_on_with_what_it_has(rig: Rig) -> None:
    box = rig.host("box", agents=2)
    first = rig.admin.submit(shell_task())
    assign = box.take()
    until_ms = rig.clock.now().wall_ms + 3_600_000
    box.beat(assign, quiet_until_ms=until_ms)
    second = rig.admin.submit(shell_task())
    assert rig.sent(m.Assign) == []
    fails, _ = why(rig, second, "box")
    (host,) = rig.admin.ask(m.HostList())["hosts"]
    assert (fails, host["quiet_until"]) == ("quiet_hours", rfc3339(until_ms))
    box.complete(assign)
    assert rig.admin.state(first) == "completed"
    box.beat()
    assert box.take().task == second
