"""Phase 19, model-aware scheduler: its success criteria, and how work moves between two servers with one model."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from agentcom.client import Client
from tests.standins import standin
from tests.world import World, eventually

MODEL = "qwen2.5-coder:7b"
KEY = "sk-ant-test-key-of-the-host"
OUR_CONTEXT = 8192  # what a call asks for; a server whose own is another would have to load anew


def server(warm: bool = True, **script: Any) -> dict[str, Any]:
    replies = script.pop("replies", [{"content": "Done."}])
    return {
        "models": [{"name": MODEL, "warm": warm, **script}],
        "num_ctx_default": OUR_CONTEXT,
        "replies": replies,
    }


def see(client: Client, count: int) -> None:
    def healthy() -> bool:
        found = client.endpoint_list()["endpoints"]
        return sum(each["healthy"] for each in found if each["kind"] == "ollama") == count

    eventually(f"{count} Ollama servers are healthy", healthy)


def host(world: World, name: str, url: str, agents: int = 2) -> None:
    world.join(name)
    world.sidecar(name, AGENTCOM_ENDPOINTS_DISCOVER=url, AGENTCOM_SIDECAR_AGENTS=str(agents))


def test_phase_19_1_a_trivial_task_runs_directly_and_uses_no_model(world: World) -> None:
    world.hub()
    world.join("box")
    world.sidecar("box")
    client = world.client()
    done = client.wait(client.submit(description="say hello", command="echo hello")["id"], timeout_s=30)
    assert (done["route"]["strategy"], done["route"]["backend"]) == ("trivial", "shell")
    assert (done["result"]["tokens_in"], done["result"]["tokens_out"]) == (0, 0)


def test_phase_19_2_a_standard_task_goes_to_a_healthy_endpoint_that_has_its_model(world: World) -> None:
    world.hub()
    other = {"models": [{"name": "other:1b", "warm": True}], "num_ctx_default": OUR_CONTEXT}
    with standin("ollama", server()) as able, standin("ollama", other) as unable:
        host(world, "able", able.url)
        host(world, "unable", unable.url)
        client = world.client()
        see(client, 2)
        done = client.wait(client.submit(description="say something")["id"], timeout_s=30)
        assert (done["route"]["host"], done["route"]["endpoint_url"]) == ("able", able.url)
        assert done["route"]["refused"] == {"model_missing": 1}
        assert unable.log("/api/chat") == []


def test_phase_19_3_a_complex_task_goes_to_an_agent_with_claude(world: World) -> None:
    with standin("anthropic", {"replies": [{"content": "Sound."}]}, key=KEY) as cloud:
        world.hub()
        world.join("plain")
        world.sidecar("plain")
        world.join("keyed")
        world.sidecar("keyed", ANTHROPIC_API_KEY=KEY, ANTHROPIC_BASE_URL=cloud.url)
        client = world.client()
        done = client.wait(client.submit(description="judge it", tier="complex")["id"], timeout_s=30)
    assert (done["route"]["host"], done["route"]["strategy"]) == ("keyed", "cloud_llm")


def test_phase_19_4_two_hosts_with_the_same_model_the_less_loaded_gets_more(world: World) -> None:
    """One answers at once, the other takes seconds for each: it is busy most of the time."""
    slow = [{"content": "At last.", "first_byte_delay_s": 3.0}]
    world.hub()
    with standin("ollama", server(replies=slow)) as loaded, standin("ollama", server()) as idle:
        host(world, "loaded", loaded.url)
        host(world, "idle", idle.url)
        client = world.client()
        see(client, 2)
        tasks = [client.submit(description=f"say {n}")["id"] for n in range(8)]
        ran = Counter(client.wait(task, timeout_s=60)["route"]["host"] for task in tasks)
    assert ran["idle"] > ran["loaded"], ran
    assert sum(ran.values()) == 8


def test_phase_19_5_every_decision_is_logged_with_model_endpoint_and_reason(world: World) -> None:
    cloud_script = {"replies": [{"content": "Sound."}]}
    world.hub()
    with standin("ollama", server()) as local, standin("anthropic", cloud_script, key=KEY) as cloud:
        world.join("box")
        world.sidecar(
            "box", AGENTCOM_ENDPOINTS_DISCOVER=local.url, ANTHROPIC_API_KEY=KEY, ANTHROPIC_BASE_URL=cloud.url
        )
        client = world.client()
        see(client, 1)
        decided = []
        for fields in (
            {"description": "say hello", "command": "true"},
            {"description": "say something"},
            {"description": "judge it", "tier": "complex"},
        ):
            task = client.submit(**fields)["id"]
            client.wait(task, timeout_s=30)
            found = client.task_why(task)
            route = found["route"]
            assert found["shows"] == "decision"
            assert route["score"]["cost_us"] == sum(route["score"]["parts"].values())
            decided.append((route["model"], route.get("endpoint"), route["reason"]))
    assert decided == [
        ("none", None, "command"),
        (MODEL, "ollama-box", "inferred_tier"),
        ("claude-opus-5-5", None, "explicit_tier"),
    ]


def test_a_cold_idle_endpoint_gets_work_when_the_warm_one_is_busy_for_longer_than_a_load(
    world: World,
) -> None:
    held = {"/api/chat": {"held": True}}
    world.hub()
    with standin("ollama", {**server(), "routes": held}) as warm, standin("ollama", server(warm=False)) as cold:
        host(world, "warm", warm.url)
        host(world, "cold", cold.url)
        client = world.client()
        see(client, 2)
        first = client.submit(description="take your time")["id"]
        eventually("the first one runs", lambda: client.task_get(first)["state"] == "working")
        assert client.task_get(first)["route"]["host"] == "warm", "a warm model goes before a cold one"
        second = client.wait(client.submit(description="and this")["id"], timeout_s=30)
        assert second["route"]["host"] == "cold"
        assert second["route"]["score"]["parts"]["load"] > 0
        assert client.task_get(first)["state"] == "working", "it did not wait for the first"
        warm.set_script({"routes": {}})
        assert client.wait(first, timeout_s=30)["state"] == "completed"


def test_an_endpoint_that_dies_mid_stream_costs_no_retry_and_the_task_finishes_elsewhere(
    world: World,
) -> None:
    dies = [{"content": "This is as far as it", "fault": "cut", "chunks": 5}]
    world.hub()
    with standin("ollama", server(replies=dies)) as sick, standin("ollama", server(warm=False)) as well:
        host(world, "sick", sick.url)
        host(world, "well", well.url)
        client = world.client()
        see(client, 2)
        done = client.wait(client.submit(description="say something", max_retries=0)["id"], timeout_s=60)
        assert (done["state"], done["retries_used"]) == ("completed", 0)
        assert (done["route"]["host"], done["attempt"]) == ("well", 2)
        attempts = client.task_reports(done["id"])["attempts"]
        assert attempts[0]["error"]["class"] == "infrastructure"
        assert len(sick.log("/api/chat")) == 1


def test_a_model_that_a_third_party_runs_gets_only_tasks_that_allow_it_and_its_cost_is_unknown(
    world: World,
) -> None:
    cloud = "gpt-oss:120b-cloud"
    listed = {"models": [{"name": cloud, "size": 384, "remote_host": "https://cloud.invalid:443"}]}
    world.hub()
    with standin("ollama", {**listed, "replies": [{"content": "Done."}]}) as one:
        host(world, "box", one.url)
        client = world.client()
        see(client, 1)
        kept = client.submit(description="say something", model=cloud)["id"]
        why = client.task_why(kept)
        assert [each["fails"] for each in why["hosts"]] == ["cloud_model"]
        assert "--allow cloud" in why["reason"]
        sent = world.json("hub", "submit", "say it", "--model", cloud, "--allow", "cloud", "--wait")
        assert (sent["state"], sent["route"]["remote"], sent["result"]["cost_usd"]) == ("completed", True, None)
        assert client.task_get(kept)["state"] == "ready"
        assert len(one.log("/api/chat")) == 1


def test_phase_19_a_recorded_hub_decides_again_as_it_did_and_says_what_another_policy_would(
    world: World,
) -> None:
    world.hub(AGENTCOM_SCHEDULER_RECORD="true")
    with standin("ollama", server()) as model:
        host(world, "box", model.url)
        client = world.client()
        see(client, 1)
        tasks = [client.submit(description=f"say {n}")["id"] for n in range(3)]
        tasks += [client.submit(description=f"run {n}", command="true")["id"] for n in range(3)]
        ran = [client.wait(task, timeout_s=30)["state"] for task in tasks]
    listed = json.loads(world.run("hub", "scheduler", "list", "--json").stdout)
    policy = world.folder / "other.toml"
    policy.write_text("[scoring]\nload_percent = 0\nbusy_step_ms = 60000\n")
    found = world.run("hub", "scheduler", "replay", listed[-1]["file"], "--policy", str(policy), "--json")
    told = json.loads(found.stdout)
    assert (found.returncode, told["difference"], told["cut"]) == (0, None, None)
    assert told["starts"] == told["comparison"]["starts"] == len(ran) == 6
    assert told["figures"]["recorded"]["tasks"] == told["figures"]["other"]["tasks"] == 6
    assert told["policy"] == {"load_percent": [100, 0], "busy_step_ms": [250, 60_000]}
