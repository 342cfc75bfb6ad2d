"""A host loads what the hub asks for on a real server: as tasks would load it, one at a time, within its own policy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from agentcom import limits, messages
from agentcom.config import PolicySettings, Settings, SidecarSettings
from agentcom.model import ModelAnswer
from agentcom_sidecar import policy
from agentcom_sidecar.loader import ModelLoader
from tests.standins.starter import StandIn, standin

TOKEN = b"\0" * limits.SESSION_TOKEN_BYTES
MODEL, BROKEN, SLOW = "wanted:7b", "broken:7b", "slow:7b"
SCRIPT = {
    "models": [
        {"name": MODEL},
        {"name": BROKEN, "load_error": "model requires more system memory"},
        {"name": SLOW, "load_delay_s": 30.0},
    ]
}


def asked(server: StandIn, model: str = MODEL, load_s: float = 20) -> messages.Preload:
    return messages.Preload(url=server.url, model=model, num_ctx=8192, keep_s=60, load_s=load_s)


def answers(
    settings: Settings, *wishes: messages.Preload, loaded: Callable[[str], None] = lambda _url: None
) -> list[ModelAnswer]:
    """What the hub is told, in order, until each wish is answered."""

    async def run() -> list[ModelAnswer]:
        found: asyncio.Queue[ModelAnswer] = asyncio.Queue()

        def send(make: Callable[[bytes], messages.Endpoints]) -> bool:
            for one in make(TOKEN).answers:
                found.put_nowait(one)
            return True

        loader = ModelLoader(settings, send, loaded)
        running = asyncio.create_task(loader.run())
        for wish in wishes:
            loader.load(wish)
        try:
            async with asyncio.timeout(30):
                return [await found.get() for _ in wishes]
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    return asyncio.run(run())


def sidecar(**fields: Any) -> Settings:
    return Settings(sidecar=SidecarSettings(**fields))


def test_a_model_is_loaded_as_tasks_load_it_and_kept_for_the_time_that_was_given() -> None:
    with standin("ollama", SCRIPT) as server:
        loaded: list[str] = []
        [said] = answers(Settings(), asked(server), loaded=loaded.append)
        assert (said.model, said.reason, said.is_load) == (MODEL, "", True)
        assert loaded == [server.url]
        [sent] = [entry["body"] for entry in server.log("/api/generate")]
        assert sent == {"model": MODEL, "stream": False, "keep_alive": 60, "options": {"num_ctx": 8192}}
        assert server.state()["loads"] == {MODEL: 1}


def test_a_load_that_fails_or_takes_too_long_says_why() -> None:
    with standin("ollama", SCRIPT) as server:
        loaded: list[str] = []
        [broken] = answers(Settings(), asked(server, BROKEN), loaded=loaded.append)
        assert loaded == []
        assert "more system memory" in broken.reason
        [slow] = answers(Settings(), asked(server, SLOW, load_s=0.3))
        assert slow.reason == "not loaded within 0.3 s"
        server.wait_for_outcome("client_left", "/api/generate")
        [missing] = answers(Settings(), asked(server, "nobody:1b"))
        assert "not found" in missing.reason


def test_a_server_loads_one_model_at_a_time() -> None:
    with standin("ollama", SCRIPT) as server:
        refused, done = answers(Settings(), asked(server), asked(server, BROKEN))
        assert (refused.model, refused.reason) == (BROKEN, f"{server.url} loads a model already")
        assert (done.model, done.reason) == (MODEL, "")


def test_a_host_loads_nothing_that_its_own_settings_do_not_allow_whatever_the_hub_says() -> None:
    with standin("ollama", SCRIPT) as server:
        for settings, setting in (
            (sidecar(shares_gpu=True), "sidecar.shares_gpu"),
            (sidecar(preload="never"), "sidecar.preload"),
            (Settings(policy=PolicySettings(models=("qwen*",))), "policy.models"),
        ):
            [said] = answers(settings, asked(server))
            assert setting in said.reason
        elsewhere = messages.Preload(url="http://192.0.2.1:11434", model=MODEL, num_ctx=1, keep_s=1, load_s=1)
        [said] = answers(Settings(), elsewhere)
        assert "not on this host's loopback" in said.reason
        assert server.log("/api/generate") == []


def test_whether_a_host_takes_part_follows_from_its_settings() -> None:
    for fields, may in (
        ({}, True),
        ({"shares_gpu": True}, False),
        ({"shares_gpu": True, "preload": "always"}, True),
        ({"preload": "never"}, False),
    ):
        assert policy.may_preload(sidecar(**fields)) is may
