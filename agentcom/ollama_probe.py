"""One health check of an Ollama server: is it there, which models does it have, which are loaded.

Used by the hub and by sidecars. It never raises for what a server does: an answer that is late, too large or
not what it should be makes the endpoint unhealthy, or that list unknown, with the reason in words.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import httpx2
import msgspec

from agentcom import limits
from agentcom.model import EndpointModel, EndpointProbe

WARM_S_MAX = 2.0  # /api/ps waits while a model loads: then what is warm is unknown, not the server ill
VERSION_BYTES_MAX = 64 * 1024


class _Unusable(Exception):
    """The server's answer cannot be used; the text says why."""


def make_client() -> httpx2.AsyncClient:
    """A client for probes: no proxies, no redirects, no credentials from the environment."""
    return httpx2.AsyncClient(trust_env=False, follow_redirects=False, headers={"Accept": "application/json"})


async def probe_ollama(client: httpx2.AsyncClient, url: str, timeout_s: float) -> EndpointProbe:
    """What `url` (the server's base address) is and has now. Takes `timeout_s` at most."""
    started = time.monotonic()
    base = url.rstrip("/")
    try:
        async with asyncio.timeout(timeout_s):
            version = await _version(client, base)
            found = await _models(client, base, min(WARM_S_MAX, timeout_s / 2))
    except TimeoutError:
        return _ill(f"no answer within {timeout_s:g} s", started)
    except (_Unusable, httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        return _ill(str(error) or type(error).__name__, started)
    models, is_warm_known = found
    return EndpointProbe(
        healthy=True, version=version, models=models, warm_known=is_warm_known, duration_ms=_since_ms(started)
    )


def _ill(reason: str, started: float) -> EndpointProbe:
    return EndpointProbe(
        healthy=False, reason=reason[: limits.REASON_CHARS_MAX], duration_ms=_since_ms(started)
    )


def _since_ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)


async def _version(client: httpx2.AsyncClient, base: str) -> str:
    answer = await _get(client, f"{base}/api/version", VERSION_BYTES_MAX)
    version = answer.get("version")
    if not isinstance(version, str) or not version:
        raise _Unusable("/api/version names no version: this is not an Ollama server")
    return version[:100]


async def _models(
    client: httpx2.AsyncClient, base: str, warm_s: float
) -> tuple[tuple[EndpointModel, ...] | None, bool]:
    """(the models on disk, whether what is warm is known); None for a list that could not be read."""
    try:
        tags = await _entries(client, f"{base}/api/tags")
    except _Unusable:
        return None, False
    loaded: dict[str, Mapping[str, Any]] | None
    try:
        async with asyncio.timeout(warm_s):
            loaded = {_text(each, "name"): each for each in await _entries(client, f"{base}/api/ps")}
    except (TimeoutError, _Unusable, httpx2.HTTPError):
        loaded = None
    models = [_model(each, (loaded or {}).get(_text(each, "name"))) for each in tags]
    named = [model for model in models if model is not None]
    return tuple(named[: limits.MODELS_PER_ENDPOINT_MAX]), loaded is not None


async def _entries(client: httpx2.AsyncClient, url: str) -> list[Mapping[str, Any]]:
    models = (await _get(client, url, limits.PROBE_ANSWER_BYTES_MAX)).get("models")
    if models is None:
        return []  # a server without models says null
    if not isinstance(models, list):
        raise _Unusable(f"{url}: `models` is not a list")
    return [each for each in models if isinstance(each, dict)]


async def _get(client: httpx2.AsyncClient, url: str, bytes_max: int) -> dict[str, Any]:
    body = bytearray()
    async with client.stream("GET", url, timeout=None) as response:
        if response.status_code != 200:
            raise _Unusable(f"{url} answered {response.status_code}")
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > bytes_max:
                raise _Unusable(f"{url} answered more than {bytes_max} bytes")
    try:
        answer = msgspec.json.decode(bytes(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Unusable(f"{url} did not answer with JSON: {error}") from error
    if not isinstance(answer, dict):
        raise _Unusable(f"{url} did not answer with a JSON object")
    return answer


def _model(entry: Mapping[str, Any], loaded: Mapping[str, Any] | None) -> EndpointModel | None:
    """One model, value by value: a wrong one costs that value only. None for an entry without a name."""
    name = _text(entry, "name")
    if not name or len(name) > 400:
        return None
    details = entry.get("details")
    details = details if isinstance(details, dict) else {}
    return EndpointModel(
        name=name,
        digest=_text(entry, "digest")[:100],
        size_bytes=_count(entry, "size"),
        warm=loaded is not None,
        vram_bytes=_count(loaded, "size_vram") if loaded else 0,
        context_length=_count(loaded, "context_length") if loaded else _count(details, "context_length"),
        remote=bool(_text(entry, "remote_host")),
        parameter_size=_text(details, "parameter_size")[:40],
        quantization=_text(details, "quantization_level")[:40],
    )


def _text(entry: Mapping[str, Any], field: str) -> str:
    value = entry.get(field)
    return value if isinstance(value, str) else ""


def _count(entry: Mapping[str, Any], field: str) -> int:
    value = entry.get(field)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 2**62
    return value if is_count and isinstance(value, int) else 0
