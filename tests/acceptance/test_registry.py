"""The registry of LLM endpoints as people meet it: `agentcom up`, real servers' stand-ins, HTTP and the command line.

The first four tests are named after what the registry has to do: registering, health, warm and cold, restarts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2

from tests.standins import StandIn, standin
from tests.world import Daemon, World, eventually

MODEL = "qwen2.5-coder:7b"
OTHER = "llama3.2:3b"
WARM_AND_COLD = {"models": [{"name": MODEL, "warm": True, "size": 100}, {"name": OTHER, "size": 50}]}


class Up:
    """`agentcom up` on a home, and a client of its HTTP API."""

    def __init__(self, world: World, **environment: str) -> None:
        self.daemon: Daemon = world.start(
            "home", "up", "--json", "--http", "127.0.0.1:0", "--hub-port", "0", **environment
        )
        token = Path(self.daemon.ready["token_file"]).read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        self.http = httpx2.Client(
            base_url=self.daemon.ready["http"] + "/api/v1", headers=headers, trust_env=False, timeout=30
        )

    @property
    def host(self) -> str:
        found = self.http.get("/hosts").json()["hosts"]
        return str(found[0]["name"])

    def endpoints(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.http.get("/endpoints").json()["endpoints"]
        return found

    def endpoint(self, name: str) -> dict[str, Any]:
        return next(one for one in self.endpoints() if one["name"] == name)

    def add(self, url: str, **fields: Any) -> dict[str, Any]:
        eventually("the host is there", lambda: self.http.get("/hosts").json()["hosts"])
        made = self.http.post("/endpoints", json={"url": url, "host": self.host, **fields})
        assert made.status_code == 201, made.text
        return dict(made.json())

    def healthy(self, name: str) -> dict[str, Any]:
        return eventually(f"{name} is healthy", lambda: one if (one := self.endpoint(name))["healthy"] else None)

    def submit(self, **fields: Any) -> int:
        made = self.http.post("/tasks", json={"description": "Say hello in the log", **fields})
        assert made.status_code == 201, made.text
        return int(made.json()["id"])

    def task(self, number: int) -> dict[str, Any]:
        return dict(self.http.get(f"/tasks/{number}").json())

    def completed(self, number: int, seconds: float = 40) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            shown = self.task(number)
            return shown if shown["state"] in ("completed", "dead", "cancelled", "expired") else None

        found = eventually(f"task {number} is final", ended, seconds=seconds)
        assert found["state"] == "completed", found
        return found


@contextmanager
def up(world: World, **environment: str) -> Iterator[Up]:
    made = Up(world, **environment)
    try:
        yield made
    finally:
        made.http.close()


def later(one: str, other: str) -> float:
    return (datetime.fromisoformat(one) - datetime.fromisoformat(other)).total_seconds()


def warmth(endpoint: dict[str, Any]) -> dict[str, bool]:
    return {model["name"]: model["warm"] for model in endpoint["models"]}


# --- what the registry has to do --------------------------------------------------------------------------


def test_phase_18_1_an_admin_registers_an_endpoint_over_http_and_sees_its_host_port_and_models(world: World) -> None:
    with standin("ollama", WARM_AND_COLD) as server, up(world) as hub:
        made = hub.add(server.url, name="gpu", cap=2)
        assert (made["url"], made["host"], made["kind"]) == (server.url, hub.host, "ollama")
        shown = hub.healthy("gpu")
        assert (shown["url"].rsplit(":", 1)[1], shown["host"]) == (str(server.port), hub.host)
        assert {model["name"] for model in shown["models"]} == {MODEL, OTHER}
        first = shown["models"][0]
        assert (first["quantization"], first["capabilities"]) == ("Q4_K_M", ["completion", "tools"])
        assert (first["digest"], first["size_bytes"], first["context_max"]) == (first["digest"], 100, 131_072)
        listed = world.run("home", "endpoint", "list")
        assert "gpu" in listed.stdout
        assert MODEL in listed.stdout
        alone = world.run("home", "endpoint", "show", "gpu").stdout
        assert f"healthy, since {shown['since']}" in alone
        assert first["digest"].removeprefix("sha256:")[:12] in alone
        assert hub.http.get("/endpoints/gpu").json()["reached_from"] == [hub.host]
        refused = hub.http.post("/endpoints", json={"url": "http://169.254.169.254"})
        assert (refused.status_code, refused.json()["code"]) == (422, "address_refused")
        refused = hub.http.post("/endpoints", json={"url": hub.daemon.ready["http"], "host": hub.host})
        assert (refused.status_code, refused.json()["code"]) == (422, "address_refused")


def test_phase_18_2_an_endpoint_that_goes_offline_is_unhealthy_within_a_cycle_and_healthy_when_it_returns(
    world: World,
) -> None:
    """A cycle is two seconds here; what is shown says when the change was seen."""
    cycle_s = 2.0
    with standin("ollama", WARM_AND_COLD) as server, up(world, AGENTCOM_ENDPOINTS_PROBE_EVERY_S="2") as hub:
        hub.add(server.url, name="gpu")
        before = hub.healthy("gpu")
        server.kill()
        gone = eventually(
            "it is unhealthy",
            lambda: one if not (one := hub.endpoint("gpu"))["healthy"] else None,
            seconds=cycle_s + 3,
        )
        assert gone["reason"]
        assert gone["since"] > before["since"]
        waiting = hub.submit()
        why = hub.http.get(f"/tasks/{waiting}/why").json()
        assert [row["fails"] for row in why["hosts"]] == ["endpoint_unhealthy"]
        server.restart()
        hub.healthy("gpu")
        assert hub.completed(waiting)["route"]["endpoint"] == "gpu"


def test_phase_18_3_warm_models_are_told_from_cold_ones_per_host(world: World) -> None:
    with standin("ollama", WARM_AND_COLD) as server, up(world) as hub:
        hub.add(server.url, name="gpu")
        shown = hub.healthy("gpu")
        assert warmth(shown) == {MODEL: True, OTHER: False}
        warm, cold = shown["models"]
        assert (warm["vram_percent"], cold["vram_percent"]) == (100, None)
        hub.completed(hub.submit(model=OTHER))
        eventually("the other is warm too", lambda: warmth(hub.endpoint("gpu")) == {MODEL: True, OTHER: True})


def test_registered_endpoints_and_what_was_measured_of_them_survive_a_restart(world: World) -> None:
    reply = {"content": "ok", "tokens_out": 100, "tokens_in": 10}
    with standin("ollama", {**WARM_AND_COLD, "replies": [reply]}) as server:
        with up(world) as hub:
            hub.add(server.url, name="gpu", cap=3, num_ctx=4096)
            hub.healthy("gpu")
            hub.completed(hub.submit())
            measured = eventually("it is measured", lambda: hub.endpoint("gpu")["measured"].get(MODEL))
            assert (measured["tokens_per_s"], measured["rate_samples"]) == (100.0, 1)
            seen = hub.endpoint("gpu")["checked"]  # figures are saved with the cycle of checks
            eventually("two cycles have passed", lambda: later(hub.endpoint("gpu")["checked"], seen) > 1.5)
            hub.daemon.stop()
        server.kill()
        with up(world) as hub:
            again = hub.endpoint("gpu")
            assert (again["url"], again["cap"], again["num_ctx"]) == (server.url, 3, 4096)
            assert {model["name"] for model in again["models"]} == {MODEL, OTHER}
            hosts = hub.http.get("/hosts").json()["hosts"]
            assert len(hosts) == 1
            assert again["measured"] == {MODEL: measured}


# --- further kinds, faults and removals -------------------------------------------------------------------


def test_a_standard_task_runs_on_an_openai_compatible_server_with_its_key(world: World, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("sesame\n")
    key.chmod(0o600)
    script = {"flavour": "llama.cpp", "models": [{"id": "Coder-7B.gguf"}], "slots": 3, "key": "sesame"}
    with standin("openai", script) as server:
        named = f"{server.url}={key}"
        with up(world, AGENTCOM_ENDPOINTS_KEY_FILES=named) as hub:
            hub.add(server.url, name="cpp", kind="openai")
            shown = hub.healthy("cpp")
            assert (shown["flavour"], shown["load"]["slots"]) == ("llama.cpp", 3)
            done = hub.completed(hub.submit(model="coder-7b.gguf"))
            assert (done["route"]["backend"], done["result"]["model"]) == ("openai", "Coder-7B.gguf")
            assert done["result"]["tokens_out"] > 0
            assert "sesame" not in hub.daemon.text()


def test_a_model_that_hangs_is_quarantined_alone_and_released_when_it_answers(world: World) -> None:
    hangs = {"model": OTHER, "fault": "hang"}
    environment = {
        "AGENTCOM_SIDECAR_FIRST_BYTE_S": "1",
        "AGENTCOM_ENDPOINTS_COOLDOWN_S": "0.5",
        "AGENTCOM_ENDPOINTS_COOLDOWN_MAX_S": "1",
        "AGENTCOM_ENDPOINTS_QUESTION_S": "1",
    }
    with (
        standin("ollama", {**WARM_AND_COLD, "replies": [hangs, {"content": "ok"}]}) as server,
        up(world, **environment) as hub,
    ):
        hub.add(server.url, name="gpu")
        hub.healthy("gpu")
        stuck = hub.submit(model=OTHER)
        quarantined = eventually("it is quarantined", lambda: hub.endpoint("gpu")["quarantined"])
        assert [one["model"] for one in quarantined] == [OTHER]
        assert hub.endpoint("gpu")["healthy"]
        hub.completed(hub.submit())
        eventually("it is asked for a token", lambda: server.log("/api/generate"))
        asked = server.log("/api/generate")[0]["body"]
        assert asked["options"] == {"num_ctx": 8192, "num_predict": 1}
        assert hub.task(stuck)["state"] in ("ready", "delayed")
        server.set_script({"replies": [{"content": "ok"}]})
        assert hub.completed(stuck)["result"]["output"] == "ok"
        assert hub.endpoint("gpu")["quarantined"] == []
        told = world.json("home", "events", "--topic", "endpoint")["events"]
        assert {"model_quarantined", "model_released"} <= {one["event"] for one in told}


def test_an_endpoint_is_drained_before_it_goes_and_goes_at_once_when_asked(world: World) -> None:
    held = {"/api/chat": {"held": True}}
    with standin("ollama", {**WARM_AND_COLD, "routes": held}) as server, up(world) as hub:
        hub.add(server.url, name="gpu")
        hub.healthy("gpu")
        running = hub.submit()
        eventually("it runs", lambda: hub.task(running)["state"] == "working")
        assert hub.http.delete("/endpoints/gpu").json() == {"endpoint": "gpu", "removed": False, "draining": True}
        assert hub.endpoint("gpu")["draining"]
        server.set_script({"routes": {}})
        assert hub.completed(running)["attempt"] == 1
        eventually("it has gone", lambda: not hub.endpoints())
        hub.add(server.url, name="again")
        hub.healthy("again")
        server.set_script({"routes": held})
        taken_back = hub.submit(max_retries=0)
        eventually("it runs", lambda: hub.task(taken_back)["state"] == "working")
        assert world.json("home", "endpoint", "remove", "again", "--now")["removed"]
        eventually("it waits again", lambda: hub.task(taken_back)["state"] == "ready")
        assert hub.task(taken_back)["retries_used"] == 0


def test_servers_that_answer_badly_stop_nothing(world: World) -> None:
    """A server that redirects, one that is silent, one without its list: each says why, and the rest runs."""

    def scripted(script: dict[str, Any]) -> StandIn:
        return StandIn("ollama", {**WARM_AND_COLD, **script})

    bad = [
        scripted({"routes": {"/api/version": {"status": 302}}}),
        scripted({"routes": {"/api/version": {"hang": True}}}),
        scripted({"routes": {"/api/tags": {"status": 500}}}),
    ]
    try:
        with (
            standin("ollama", WARM_AND_COLD) as good,
            up(world, AGENTCOM_ENDPOINTS_PROBE_TIMEOUT_S="1") as hub,
        ):
            for n, server in enumerate(bad):
                hub.add(server.url, name=f"bad-{n}")
            hub.add(good.url, name="good")
            hub.healthy("good")
            assert hub.completed(hub.submit())["route"]["endpoint"] == "good"
            for name in ("bad-0", "bad-1"):
                eventually(f"{name} says why", lambda name=name: hub.endpoint(name)["checked"])  # type: ignore[misc]
                shown = hub.endpoint(name)
                assert not shown["healthy"]
                assert shown["reason"]
            eventually("bad-2 says what is wrong with its list", lambda: hub.endpoint("bad-2")["list_fault"])
            assert hub.endpoint("bad-2")["healthy"]
            assert "500" in hub.endpoint("bad-2")["list_fault"]
    finally:
        for server in bad:
            server.kill()
