"""The health check of an Ollama server, against servers that answer well, badly, slowly and without end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agentcom.model import EndpointProbe
from agentcom.ollama_probe import make_client, probe_ollama
from tests.standins.starter import standin

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
VERSION = {"version": "0.33.0"}
TIMEOUT_S = 3.0


def says(body: object, status: str = "200 OK", *headers: str) -> Answer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def answer(writer: asyncio.StreamWriter) -> None:
        head = "\r\n".join(
            [f"HTTP/1.1 {status}", f"Content-Length: {len(raw)}", "Connection: close", *headers]
        )
        writer.write(head.encode() + b"\r\n\r\n" + raw)

    return answer


async def hangs(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def floods(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65_536)
        await writer.drain()


def probed(paths: Mapping[str, Answer], timeout_s: float = TIMEOUT_S) -> EndpointProbe:
    """What a probe says of a server that answers `paths`, and 404 elsewhere."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        try:
            await paths.get(path, says({}, "404 Not Found"))(writer)
            await writer.drain()
        except ConnectionError:
            pass  # the probe has heard enough
        finally:
            writer.close()

    async def run() -> EndpointProbe:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with make_client() as client:
            probe = await probe_ollama(client, f"http://127.0.0.1:{port}/", timeout_s)
        server.close()
        return probe

    return asyncio.run(run())


def with_models(tags: object, loaded: object) -> EndpointProbe:
    return probed({"/api/version": says(VERSION), "/api/tags": says(tags), "/api/ps": says(loaded)})


def test_a_server_shows_its_version_its_models_and_which_are_loaded() -> None:
    script: dict[str, Any] = {
        "models": [{"name": "small:1b", "warm": True, "size": 10}, {"name": "large:9b"}]
    }

    async def run(url: str) -> EndpointProbe:
        async with make_client() as client:
            return await probe_ollama(client, url, TIMEOUT_S)

    with standin("ollama", script=script) as ollama:
        probe = asyncio.run(run(ollama.url))
    assert probe.healthy
    assert probe.warm_known
    assert probe.version
    assert probe.models is not None
    small, large = probe.models
    assert (small.name, small.warm, small.size_bytes, small.vram_bytes) == ("small:1b", True, 10, 10)
    assert (large.name, large.warm, large.vram_bytes) == ("large:9b", False, 0)


def test_a_port_where_nobody_listens_is_ill_with_a_reason() -> None:
    async def run() -> EndpointProbe:
        async with make_client() as client:
            return await probe_ollama(client, "http://127.0.0.1:1", TIMEOUT_S)

    probe = asyncio.run(run())
    assert not probe.healthy
    assert probe.reason


def test_another_program_on_the_port_is_not_taken_for_a_model_server() -> None:
    for answer in (says({"hello": 1}), says(b"<html>"), says([]), says({"version": 3}), says({}, "500 Oops")):
        probe = probed({"/api/version": answer})
        assert not probe.healthy
        assert probe.reason


def test_a_redirect_is_not_followed() -> None:
    probe = probed(
        {
            "/api/version": says({}, "302 Found", "Location: /elsewhere"),
            "/elsewhere": says(VERSION),
        }
    )
    assert (probe.healthy, "302" in probe.reason) == (False, True)


def test_a_server_that_does_not_answer_in_time_is_ill() -> None:
    probe = probed({"/api/version": hangs}, timeout_s=0.3)
    assert not probe.healthy
    assert "0.3 s" in probe.reason


def test_an_answer_without_end_is_cut_off() -> None:
    probe = probed({"/api/version": floods})
    assert not probe.healthy
    assert "bytes" in probe.reason


def test_a_slow_list_of_loaded_models_leaves_what_is_warm_unknown_and_the_server_healthy() -> None:
    probe = probed(
        {"/api/version": says(VERSION), "/api/tags": says({"models": [{"name": "a:1b"}]}), "/api/ps": hangs},
        timeout_s=1.0,
    )
    assert probe.healthy
    assert not probe.warm_known
    assert probe.models is not None
    assert [model.name for model in probe.models] == ["a:1b"]


def test_a_list_of_models_that_cannot_be_read_leaves_them_unknown() -> None:
    for tags in ({"models": 3}, "text"):
        probe = with_models(tags, {"models": []})
        assert probe.healthy
        assert probe.models is None


def test_a_server_without_models_may_say_null() -> None:
    probe = with_models({"models": None}, {"models": None})
    assert (probe.healthy, probe.models, probe.warm_known) == (True, (), True)


def test_one_wrong_value_costs_that_value_only() -> None:
    wrong = {"name": "a:1b", "digest": 7, "size": -1, "details": [], "remote_host": 0}
    unnamed = {"size": 1}
    good = {"name": "b:1b", "size": 5, "details": {"parameter_size": "1B", "quantization_level": "Q4_0"}}
    probe = with_models(
        {"models": [wrong, unnamed, 3, good]}, {"models": [{"name": "b:1b", "size_vram": "much"}]}
    )
    assert probe.models is not None
    first, second = probe.models
    assert (first.name, first.digest, first.size_bytes, first.remote) == ("a:1b", "", 0, False)
    assert (second.size_bytes, second.warm, second.vram_bytes, second.parameter_size) == (5, True, 0, "1B")


def test_a_model_that_runs_elsewhere_is_marked_remote() -> None:
    probe = with_models(
        {"models": [{"name": "big:cloud", "remote_host": "https://example.org"}]}, {"models": []}
    )
    assert probe.models is not None
    assert probe.models[0].remote
