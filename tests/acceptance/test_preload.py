"""Loading ahead, end to end: two Ollama stand-ins, a hub, two sidecars, all of them processes of their own."""

from __future__ import annotations

from typing import Any

from agentcom.client import Client
from tests.standins import StandIn, standin
from tests.world import World, eventually

WANTED, OTHER = "wanted:7b", "other:1b"
OUR_CONTEXT = 8192  # what a call asks for; a server whose own is another would have to load anew



def server() -> dict[str, Any]:
    """A server with one model loaded, which takes longer than the test, and one on disk only."""
    return {
        "models": [
            {"name": OTHER, "warm": True, "size": 1 << 20},
            {"name": WANTED, "size": 1 << 20, "load_delay_s": 0.5},
        ],
        "num_ctx_default": OUR_CONTEXT,
        "replies": [{"content": "Late.", "model": OTHER, "first_byte_delay_s": 120.0}, {"content": "Done."}],
    }


def start(world: World, name: str, one: StandIn, **environment: str) -> None:
    world.join(name)
    world.sidecar(name, AGENTCOM_ENDPOINTS_DISCOVER=one.url, AGENTCOM_SIDECAR_AGENTS="1", **environment)


def keep_busy(client: Client, *hosts: str) -> dict[str, int]:
    """A task for each host on the model that is warm there, by host."""

    def seen() -> bool:
        found = client.endpoint_list()["endpoints"]
        return sum(one["healthy"] and len(one["models"]) == 2 for one in found) == len(hosts)

    eventually("the servers are seen", seen)
    numbers = [client.submit(description="take your time", model=OTHER)["id"] for _ in hosts]
    eventually("all hosts are busy", lambda: all(working(client, number) for number in numbers))
    return {client.task_get(number)["route"]["host"]: number for number in numbers}


def working(client: Client, number: int) -> bool:
    return bool(client.task_get(number)["state"] == "working")


def loads(one: StandIn) -> dict[str, int]:
    return dict(one.state()["loads"])


def test_a_cold_model_is_loaded_before_its_host_is_free_and_not_on_one_that_shares_its_gpu_with_people(
    world: World,
) -> None:
    """Both hosts are about to be idle; one of them shares its GPU with people."""
    world.hub(AGENTCOM_PRELOAD_AHEAD_S="600")
    with standin("ollama", server()) as own, standin("ollama", server()) as shared:
        start(world, "shared", shared, AGENTCOM_SIDECAR_SHARES_GPU="true")
        start(world, "own", own)
        client = world.client()
        running = keep_busy(client, "shared", "own")
        number = client.submit(description="say something", model=WANTED)["id"]
        said = eventually("it says what is loading", lambda: client.task_why(number)["loading"])
        assert (said[0]["model"], said[0]["host"], said[0]["ahead"]) == (WANTED, "own", True)
        eventually("it is loaded", lambda: loads(own) == {WANTED: 1})
        assert client.task_get(number)["state"] == "ready", "no agent is free yet"
        assert all(working(client, each) for each in running.values())
        eventually("the hub knows", lambda: not client.task_why(number)["loading"])
        client.task_cancel(running["own"])
        done = client.wait(number, timeout_s=30)
        assert (done["state"], done["route"]["host"]) == ("completed", "own")
        assert done["route"]["score"]["parts"]["load"] == 0, "it started warm"
        assert (loads(own), loads(shared)) == ({WANTED: 1}, {}), "as the task asks for it, and only there"
        assert shared.log("/api/generate") == [], "its people have the GPU to themselves"
        told = [one["event"] for one in client.event_list(topic="endpoint")["events"]]
        assert {"model_preloading", "model_preloaded"} <= set(told)
