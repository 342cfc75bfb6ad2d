"""What hosts can do and how busy they are, by real daemons: ROADMAP phase 18, criterion 5, and capabilities."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from agentcom.client import Client
from tests.standins import standin
from tests.standins.gpu import GIB, StandInGpu
from tests.world import World, eventually

EACH_SECOND = {"AGENTCOM_SIDECAR_RESOURCES_S": "1", "AGENTCOM_QUEUE_HEARTBEAT_S": "1"}


def shown(client: Client, name: str = "box") -> dict[str, Any]:
    host: dict[str, Any] = client.host_show(name)
    return host


def has_points(client: Client, count: int) -> bool:
    return len(shown(client)["trend"]["cpu"]) >= count


def test_phase_18_5_endpoints_and_resource_metrics_survive_a_hub_restart(world: World) -> None:
    gpu = StandInGpu(world.folder / "gpu")
    hub = world.hub(**EACH_SECOND)
    world.join("box")
    with standin("ollama", {"models": [{"name": "qwen2.5-coder:7b", "warm": True}]}) as server:
        sidecar = world.sidecar(
            "box", AGENTCOM_ENDPOINTS_DISCOVER=server.url, **EACH_SECOND, **gpu.environment
        )
        client = world.client()
        eventually(
            "the endpoint is known", lambda: [e for e in client.endpoint_list()["endpoints"] if e["models"]]
        )
        eventually("there is a history", lambda: has_points(client, 2))
        eventually("a GPU is known", lambda: (shown(client)["resources"] or {}).get("gpus"))
        sidecar.stop()
        eventually("the host has left", lambda: shown(client)["state"] == "offline")
        before, endpoints = shown(client), client.endpoint_list()["endpoints"]
        hub.kill()

        world.hub(AGENTCOM_HUB_PORT=hub.ready["hub"].rsplit(":", 1)[1], **EACH_SECOND)

        client = world.client()
        after = shown(client)
        assert after["state"] == "offline"
        assert after["last_resources"] == before["last_resources"]
        assert after["last_resources"]["gpus"][0]["vram_total_bytes"] == 24 * GIB
        assert after["trend"] == before["trend"]
        assert after["resources_age_s"] > 0
        kept = client.endpoint_list()["endpoints"]
        assert [(e["name"], e["url"], e["models"]) for e in kept] == [
            (e["name"], e["url"], e["models"]) for e in endpoints
        ]

        world.sidecar("box", AGENTCOM_ENDPOINTS_DISCOVER=server.url, **EACH_SECOND, **gpu.environment)

        eventually("it reports again", lambda: shown(client)["resources"])


def test_figures_of_a_host_that_stops_reporting_are_unknown_with_their_age(world: World) -> None:
    world.hub(AGENTCOM_QUEUE_OFFLINE_S="60", **EACH_SECOND)
    world.join("box")
    sidecar = world.sidecar("box", **EACH_SECOND)
    client = world.client()
    eventually("it has reported", lambda: shown(client)["resources"])
    try:
        os.kill(sidecar.pid, signal.SIGSTOP)
        eventually("its figures are unknown", lambda: shown(client)["resources"] is None)
        host = shown(client)
        assert host["state"] == "online"
        assert host["resources_age_s"] > 3
        assert host["last_resources"]["ram_total_bytes"] > 0
        assert "unknown now; the last ones are" in world.run("hub", "host", "show", "box").stdout
        assert " old" in world.run("hub", "host", "list").stdout
    finally:
        os.kill(sidecar.pid, signal.SIGCONT)
    eventually("they are known again", lambda: shown(client)["resources"])


def test_a_task_that_needs_a_version_runs_where_it_is_and_why_says_what_is_there_instead(
    world: World,
) -> None:
    world.hub(**EACH_SECOND)
    world.join("box")
    world.sidecar("box", **EACH_SECOND)
    client = world.client()
    eventually(
        "git was asked for its version",
        lambda: [each for each in shown(client)["capabilities"] if each.startswith("tool:git=")],
    )

    done = client.submit(
        description="old enough", command="true", needs=["tool:git>=1.8", "os:linux", "host:box"]
    )
    assert client.wait(done["id"], timeout_s=30)["state"] == "completed"
    waits = client.submit(description="from the future", command="true", needs=["tool:git>=999"])["id"]

    (host,) = client.task_why(waits)["hosts"]
    assert host["fails"] == "need_missing"
    assert "has tool:git=" in host["message"]
    assert host["change"].startswith("update git on box")


def test_a_tool_that_is_installed_while_a_task_waits_for_it_lets_it_run(world: World, tmp_path: Path) -> None:
    world.hub(**EACH_SECOND)
    world.join("box")
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    world.sidecar("box", PATH=path, AGENTCOM_SIDECAR_TOOLS_S="1", **EACH_SECOND)
    client = world.client()
    waits = client.submit(description="needs dotnet", command="true", needs=["tool:dotnet>=8"])["id"]
    assert client.task_get(waits)["state"] == "ready"

    (tmp_path / "dotnet.new").write_text("#!/bin/sh\necho 8.0.100\n")
    (tmp_path / "dotnet.new").chmod(0o755)
    (tmp_path / "dotnet.new").rename(tmp_path / "dotnet")

    assert client.wait(waits, timeout_s=30)["state"] == "completed"
