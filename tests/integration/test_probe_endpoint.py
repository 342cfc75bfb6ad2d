"""The health check of an endpoint, against servers that answer well, badly, slowly and without end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from agentcom import limits
from agentcom.model import EndpointKind, EndpointProbe
from agentcom.probe_endpoint import Prober, Target
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


async def check(url: str, kind: EndpointKind = EndpointKind.ollama, timeout_s: float = TIMEOUT_S) -> EndpointProbe:
    prober = Prober(may_be_loopback=True)
    try:
        return await prober.check(Target(kind, url), timeout_s)
    finally:
        await prober.close()


def probed(
    paths: Mapping[str, Answer], timeout_s: float = TIMEOUT_S, kind: EndpointKind = EndpointKind.ollama
) -> EndpointProbe:
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
        probe = await check(f"http://127.0.0.1:{port}/", kind, timeout_s)
        server.close()
        return probe

    return asyncio.run(run())


def with_models(tags: object, loaded: object) -> EndpointProbe:
    return probed({"/api/version": says(VERSION), "/api/tags": says(tags), "/api/ps": says(loaded)})


def test_a_server_shows_its_version_its_models_and_which_are_loaded() -> None:
    script: dict[str, Any] = {
        "models": [{"name": "small:1b", "warm": True, "size": 10}, {"name": "large:9b"}]
    }

    with standin("ollama", script=script) as ollama:
        probe = asyncio.run(check(ollama.url))
    assert probe.healthy
    assert probe.warm_known
    assert probe.version
    assert probe.models is not None
    small, large = probe.models
    assert (small.name, small.warm, small.size_bytes, small.vram_bytes) == ("small:1b", True, 10, 10)
    assert (small.loaded_bytes, small.context_length, small.context_max) == (10, 4096, 131_072)
    assert (small.capabilities, small.quantization) == (("completion", "tools"), "Q4_K_M")
    assert (large.name, large.warm, large.vram_bytes, large.context_length) == ("large:9b", False, 0, 131_072)


def test_a_port_where_nobody_listens_is_ill_with_a_reason() -> None:
    probe = asyncio.run(check("http://127.0.0.1:1"))
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


def test_a_list_that_is_longer_than_what_is_kept_says_of_how_many() -> None:
    names = [f"m{n}:7b" for n in range(limits.MODELS_PER_ENDPOINT_MAX + 2)]
    ollama = with_models({"models": [{"name": name} for name in [*names, names[0]]]}, {"models": []})
    listed = says({"data": [{"id": name} for name in names]})
    other = probed({"/v1/models": listed, "/health": says({})}, kind=EndpointKind.openai)
    for found in (ollama, other):
        assert found.models is not None
        assert [model.name for model in found.models] == names[:-2]
        assert (found.healthy, found.list_fault) == (True, "the first 500 of its 502 models are kept")
    names = names[:-2]
    assert with_models({"models": [{"name": name} for name in names]}, {"models": []}).list_fault == ""


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


def test_what_older_servers_tell_only_when_asked_is_asked_once_per_digest() -> None:
    shown = []

    async def show(writer: asyncio.StreamWriter) -> None:
        shown.append(1)
        info = {"general.architecture": "llama", "llama.context_length": 8192}
        await says({"capabilities": ["completion", "vision"], "model_info": info})(writer)

    paths = {
        "/api/version": says(VERSION),
        "/api/tags": says({"models": [{"name": "a:1b", "digest": "d1"}, {"name": "b:1b", "digest": "d1"}]}),
        "/api/ps": says({"models": []}),
        "/api/show": show,
    }
    probe = probed(paths)
    assert probe.models is not None
    assert [(m.capabilities, m.context_max) for m in probe.models] == [(("completion", "vision"), 8192)] * 2
    assert len(shown) == 1


def test_a_server_that_cannot_show_its_models_keeps_its_health() -> None:
    tags = {"models": [{"name": f"m{n}:1b", "digest": f"d{n}"} for n in range(9)]}
    probe = with_models(tags, {"models": []})
    assert probe.healthy
    assert probe.models is not None
    assert len(probe.models) == 9


# --- OpenAI-compatible servers ----------------------------------------------------------------------------


def openai(script: dict[str, Any], key: str = "") -> EndpointProbe:
    async def run(url: str) -> EndpointProbe:
        prober = Prober(may_be_loopback=True, key_of=lambda _url: key)
        try:
            return await prober.check(Target(EndpointKind.openai, url), TIMEOUT_S)
        finally:
            await prober.close()

    with standin("openai", script=script) as server:
        return asyncio.run(run(server.url))


def test_vllm_is_known_by_its_models_and_tells_its_load_in_its_metrics() -> None:
    probe = openai({"flavour": "vllm", "waiting": 3, "models": [{"id": "Qwen/Q-7B", "context": 4096}]})
    assert (probe.healthy, probe.flavour, probe.version) == (True, "vllm", "0.33.0")
    assert (probe.running, probe.waiting) == (0, 3)
    assert probe.models is not None
    assert [(m.name, m.warm, m.context_length) for m in probe.models] == [("Qwen/Q-7B", True, 4096)]


def test_llama_cpp_tells_its_slots_its_context_and_what_it_can_see() -> None:
    models = [{"id": "a.gguf", "context": 8192, "size": 77, "capabilities": ["vision"]}]
    probe = openai({"flavour": "llama.cpp", "slots": 3, "models": models})
    assert (probe.flavour, probe.version, probe.slots, probe.running) == ("llama.cpp", "b10488-abcdef", 3, 0)
    assert probe.models is not None
    [model] = probe.models
    assert (model.warm, model.context_length, model.context_max, model.size_bytes) == (True, 8192, 32_768, 77)
    assert model.capabilities == ("vision",)


def test_llama_cpp_without_metrics_tells_its_load_by_its_slots_and_without_those_not_at_all() -> None:
    assert openai({"flavour": "llama.cpp", "metrics": False}).running == 0
    assert openai({"flavour": "llama.cpp", "metrics": False, "slots_route": False}).running is None


def test_a_server_that_still_loads_is_not_healthy_and_says_so() -> None:
    probe = openai({"flavour": "llama.cpp", "loading": True})
    assert (probe.healthy, "Loading model" in probe.reason) == (False, True)


def test_a_router_tells_of_each_model_whether_it_is_loaded_or_failed() -> None:
    models = [{"id": "a"}, {"id": "b", "state": "unloaded"}, {"id": "c", "state": "failed"}]
    probe = openai({"flavour": "router", "models": models})
    assert probe.models is not None
    assert [(m.name, m.warm, bool(m.fault)) for m in probe.models] == [
        ("a", True, False), ("b", False, False), ("c", False, True),
    ]  # fmt: skip


def test_lm_studio_tells_more_of_its_models_on_its_own_route() -> None:
    models = [
        {"id": "a", "context": 4096, "capabilities": ["tool_use"]},
        {"id": "b", "state": "not-loaded", "kind": "vlm", "quantization": "Q8_0"},
        {"id": "c", "kind": "embeddings"},
    ]
    probe = openai({"flavour": "lmstudio", "models": models})
    assert probe.flavour == "lmstudio"
    assert probe.models is not None
    first, second = probe.models
    assert (first.warm, first.context_length, first.context_max, first.capabilities) == (True, 2048, 4096, ("tools",))
    assert (second.warm, second.quantization, second.capabilities) == (False, "Q8_0", ("vision",))


def test_a_server_that_asks_for_a_key_says_where_to_name_it_and_is_healthy_with_it() -> None:
    without = openai({"key": "sesame"})
    assert (without.healthy, "endpoints.key_files" in without.reason) == (False, True)
    assert openai({"key": "sesame"}, key="sesame").healthy


def test_an_openai_server_that_answers_rubbish_is_ill_with_a_reason() -> None:
    good = says({"object": "list", "data": [{"id": "a"}]})
    for paths in (
        {},
        {"/v1/models": says(b"<html>")},
        {"/v1/models": says({"data": 3})},
        {"/v1/models": says([])},
        {"/v1/models": says({}, "302 Found", "Location: /elsewhere"), "/elsewhere": good},
        {"/health": says({}, "500 Oops"), "/v1/models": good},
        {"/v1/models": floods},
    ):
        probe = probed(paths, kind=EndpointKind.openai)
        assert (probe.healthy, bool(probe.reason)) == (False, True), paths
    probe = probed({"/v1/models": hangs}, timeout_s=0.3, kind=EndpointKind.openai)
    assert "0.3 s" in probe.reason


def test_one_wrong_value_of_an_openai_server_costs_that_value_only() -> None:
    entries = [{"id": "a", "max_model_len": "long", "owned_by": "vllm"}, {"id": 3}, {"id": "b" * 500}, 7]
    metrics = says(b"vllm:num_requests_running{} nan\nvllm:num_requests_waiting{} -4\nrubbish\n")
    probe = probed({"/v1/models": says({"data": entries}), "/metrics": metrics}, kind=EndpointKind.openai)
    assert probe.models is not None
    assert [(m.name, m.context_length) for m in probe.models] == [("a", 0)]
    assert (probe.running or 0, probe.waiting or 0) == (0, 0)
