"""One health check of an OpenAI-compatible server: vLLM, llama.cpp's server, LM Studio, or another of the kind.

Which of them it is shows in its answers; each tells its models, context lengths and load in places of its own. What
only some builds have (metrics, slots, properties) is asked for and may be missing: then it is unknown.
Warm is what is listed and serving; a server that loads on demand says of each model whether it is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import httpx2
import msgspec

from agentcom.model import EndpointModel, EndpointProbe
from agentcom.probe_http import (
    VERSION_BYTES_MAX,
    Server,
    Unusable,
    as_object,
    count_of,
    entries_of,
    error_text,
    named,
    object_of,
    text_of,
    words_of,
)

VLLM: Final = "vllm"
LLAMA_CPP: Final = "llama.cpp"
LM_STUDIO: Final = "lmstudio"
PLAIN: Final = "openai"
METRICS_BYTES_MAX = 1024 * 1024
NEEDS_KEY = "it asks for a key: name the file that holds it in endpoints.key_files, as URL=PATH, where it is called"
# Metric of running calls, of waiting calls, by flavour.
GAUGES: Mapping[str, tuple[str, str]] = {
    VLLM: ("vllm:num_requests_running", "vllm:num_requests_waiting"),
    LLAMA_CPP: ("llamacpp:requests_processing", "llamacpp:requests_deferred"),
}
_GAUGE = re.compile(r"^([a-z]+:\w+)(?:\{[^}]*\})?\s+([0-9.eE+-]+)\s*$", re.MULTILINE)


async def probe_openai(server: Server) -> EndpointProbe:
    """What the server is and has now. Raises what its answers raise; the caller bounds the time."""
    is_known_healthy = await _health(server)
    answer = await _list(server)
    listed = entries_of("/v1/models", answer, "data")
    flavour, native = await _flavour(server, listed, is_known_healthy)
    if flavour == LM_STUDIO:
        return _probe(flavour, "", [_lm_studio_model(each) for each in native])
    if flavour == VLLM:
        version = await _optional(server, "/version")
        running, waiting = await _gauges(server, flavour)
        models = [_vllm_model(each) for each in listed]
        return _probe(flavour, text_of(version, "version", 100), models, running, waiting)
    if flavour == LLAMA_CPP:
        return await _llama_cpp(server, listed)
    return _probe(flavour, "", [_plain_model(each) for each in listed])


async def generate_openai(server: Server, model: str) -> None:
    """One token of the model, or an exception."""
    messages = [{"role": "user", "content": "Hi"}]
    sent = {"model": model, "messages": messages, "max_tokens": 1, "stream": False}
    answer = await server.post_object("/v1/chat/completions", sent)
    if not isinstance(answer.get("choices"), list):
        raise Unusable("/v1/chat/completions answered without choices")


def _probe(
    flavour: str,
    version: str,
    models: list[EndpointModel | None],
    running: int | None = None,
    waiting: int | None = None,
    slots: int = 0,
) -> EndpointProbe:
    kept, fault = named(models)
    return EndpointProbe(
        healthy=True,
        version=version,
        models=kept,
        list_fault=fault,
        warm_known=True,
        flavour=flavour,
        running=running,
        waiting=waiting,
        slots=slots,
    )


async def _health(server: Server) -> bool:
    """Whether /health says that it serves; False where there is no such route. Unusable while it loads."""
    status, body = await server.get("/health", VERSION_BYTES_MAX)
    if status == 503:
        raise Unusable(f"/health answered 503: {error_text(body)}", status)
    if status in (401, 403):
        raise Unusable(f"/health answered {status}: {NEEDS_KEY}", status)
    if status not in (200, 404, 405, 501):
        raise Unusable(f"/health answered {status}", status)
    return status == 200


async def _list(server: Server) -> dict[str, Any]:
    status, body = await server.get("/v1/models")
    if status in (401, 403):
        raise Unusable(f"/v1/models answered {status}: {NEEDS_KEY}", status)
    if status != 200:
        raise Unusable(f"/v1/models answered {status}: {error_text(body)}", status)
    answer = as_object("/v1/models", body)
    if not isinstance(answer.get("data"), list):
        raise Unusable("/v1/models has no list `data`: this is not an OpenAI-compatible server")
    return answer


async def _flavour(
    server: Server, listed: list[Mapping[str, Any]], is_known_healthy: bool
) -> tuple[str, list[Mapping[str, Any]]]:
    """Which server it is, and the list of models in LM Studio's own form."""
    owners = {text_of(each, "owned_by", 40) for each in listed}
    if "vllm" in owners or any(count_of(each, "max_model_len") for each in listed):
        return VLLM, []
    if "llamacpp" in owners or any(object_of(each, "status") for each in listed):
        return LLAMA_CPP, []
    if not is_known_healthy:
        native = await _optional(server, "/api/v0/models")
        if isinstance(native.get("data"), list):
            return LM_STUDIO, entries_of("/api/v0/models", native, "data")
    return PLAIN, []


async def _optional(server: Server, path: str) -> dict[str, Any]:
    """The answer of a route that some builds have; nothing where it is missing or makes no sense."""
    try:
        return await server.get_object(path)
    except (Unusable, httpx2.HTTPError):
        return {}


async def _gauges(server: Server, flavour: str) -> tuple[int | None, int | None]:
    """(calls that run, calls that wait), over all models; None where the server keeps no such figure."""
    try:
        status, body = await server.get("/metrics", METRICS_BYTES_MAX)
    except (Unusable, httpx2.HTTPError):
        return None, None
    if status != 200:
        return None, None
    sums: dict[str, int] = {}
    for name, value in _GAUGE.findall(body.decode("utf-8", "replace")):
        if name in GAUGES[flavour]:
            sums[name] = sums.get(name, 0) + _whole(value)
    running, waiting = (sums.get(name) for name in GAUGES[flavour])
    return running, waiting


def _whole(value: str) -> int:
    try:
        found = float(value)
    except ValueError:
        return 0
    return int(found) if 0 <= found < 1_000_000 else 0


async def _llama_cpp(server: Server, listed: list[Mapping[str, Any]]) -> EndpointProbe:
    props = await _optional(server, "/props")
    running, waiting = await _gauges(server, LLAMA_CPP)
    if running is None:
        running = await _busy_slots(server)
    context = count_of(object_of(props, "default_generation_settings"), "n_ctx")
    modalities = object_of(props, "modalities")
    senses = tuple(word for word in ("vision", "audio") if modalities.get(word) is True)
    models = [_llama_cpp_model(each, context, senses) for each in listed]
    slots = min(count_of(props, "total_slots"), 1000)
    return _probe(LLAMA_CPP, text_of(props, "build_info", 100), models, running, waiting, slots)


async def _busy_slots(server: Server) -> int | None:
    try:
        status, body = await server.get("/slots")
        slots = msgspec.json.decode(body) if status == 200 else None
    except (Unusable, httpx2.HTTPError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if not isinstance(slots, list):
        return None
    return sum(1 for slot in slots if isinstance(slot, dict) and slot.get("is_processing") is True)


def _id(entry: Mapping[str, Any]) -> str:
    name = text_of(entry, "id", 401)
    return name if len(name) <= 400 else ""


def _vllm_model(entry: Mapping[str, Any]) -> EndpointModel | None:
    context = count_of(entry, "max_model_len")
    if not _id(entry):
        return None
    return EndpointModel(name=_id(entry), warm=True, context_length=context, context_max=context)


def _llama_cpp_model(
    entry: Mapping[str, Any], context: int, senses: tuple[str, ...]
) -> EndpointModel | None:
    if not _id(entry):
        return None
    meta, status = object_of(entry, "meta"), object_of(entry, "status")
    state = text_of(status, "value", 40)
    is_failed = state == "failed" or status.get("failed") is True
    return EndpointModel(
        name=_id(entry),
        size_bytes=count_of(meta, "size"),
        warm=not state or state == "loaded",
        context_length=context if not state else 0,
        context_max=count_of(meta, "n_ctx_train"),
        capabilities=senses,
        fault="the server could not load it" if is_failed else "",
    )


def _lm_studio_model(entry: Mapping[str, Any]) -> EndpointModel | None:
    kind = text_of(entry, "type", 40)
    if not _id(entry) or kind == "embeddings":
        return None
    context = count_of(entry, "max_context_length")
    words = {"tool_use": "tools"}
    able = tuple(words.get(word, word) for word in words_of(entry, "capabilities"))
    return EndpointModel(
        name=_id(entry),
        warm=text_of(entry, "state", 40) == "loaded",
        context_length=count_of(entry, "loaded_context_length") or context,
        context_max=context,
        quantization=text_of(entry, "quantization", 40),
        capabilities=able + (("vision",) if kind == "vlm" else ()),
    )


def _plain_model(entry: Mapping[str, Any]) -> EndpointModel | None:
    return EndpointModel(name=_id(entry), warm=True) if _id(entry) else None
