"""One health check of an endpoint, whatever its kind, and the one-token question that tells a hung model.

Used by the hub and by sidecars. Never raises for what a server does: an answer that is late, too large or not what
it should be makes the endpoint unhealthy, or that part of it unknown, with the reason in words.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

import httpx2
import msgspec

from agentcom import limits
from agentcom.addresses import places
from agentcom.errors import AgentComError
from agentcom.model import EndpointKind, EndpointProbe, ModelAnswer
from agentcom.probe_http import Server, Unusable, make_client
from agentcom.probe_ollama import Cards, generate_ollama, load_ollama, probe_ollama
from agentcom.probe_openai import generate_openai, probe_openai
from agentcom.redaction import redact_text

KeyOf = Callable[[str], str]


class Target(NamedTuple):
    """An endpoint to be checked, or with `model` one of its models to be asked for a token; with `keep_s` that one is
    to be loaded within `load_s`, and kept for so long."""

    kind: EndpointKind
    url: str
    model: str = ""
    num_ctx: int = 0
    keep_s: int = 0
    load_s: float = 0


class Prober:
    """Checks endpoints from here, in one event loop. `may_be_loopback`: whether this machine's own addresses may be
    called. `key_of` gives the key for a URL, or nothing."""

    def __init__(self, *, may_be_loopback: bool, key_of: KeyOf = lambda _url: "") -> None:
        self._client = make_client()
        self._cards = Cards()
        self._may_be_loopback, self._key_of = may_be_loopback, key_of

    async def close(self) -> None:
        await self._client.aclose()

    async def check(self, target: Target, timeout_s: float) -> EndpointProbe:
        """What the server is and has now. Takes `timeout_s` at most."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                found = await self._check(target, timeout_s)
        except TimeoutError:
            return ill(f"no answer within {timeout_s:g} s", started)
        except AgentComError as error:
            return ill(error.message, started)
        except (Unusable, httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            return ill(str(error) or type(error).__name__, started)
        return msgspec.structs.replace(found, duration_ms=_since_ms(started))

    async def ask(self, target: Target, timeout_s: float) -> ModelAnswer:
        """Whether the model gives a token, or is loaded, within `timeout_s`."""
        started = time.monotonic()
        reason = ""
        try:
            async with asyncio.timeout(timeout_s):
                server = await self._server(target.url)
                if target.keep_s:
                    await load_ollama(server, target.model, target.num_ctx, target.keep_s)
                elif target.kind is EndpointKind.openai:
                    await generate_openai(server, target.model)
                else:
                    await generate_ollama(server, target.model, target.num_ctx)
        except TimeoutError:
            reason = f"{'not loaded' if target.keep_s else 'no token'} within {timeout_s:g} s"
        except AgentComError as error:
            reason = error.message
        except (Unusable, httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
            reason = str(error) or type(error).__name__
        return ModelAnswer(
            url=target.url,
            model=target.model,
            reason=redact_text(reason)[: limits.REASON_CHARS_MAX],
            duration_ms=_since_ms(started),
            is_load=target.keep_s > 0,
        )

    async def _check(self, target: Target, timeout_s: float) -> EndpointProbe:
        server = await self._server(target.url)
        if target.kind is EndpointKind.openai:
            return await probe_openai(server)
        return await probe_ollama(server, timeout_s, self._cards)

    async def _server(self, url: str) -> Server:
        found = await places(url, may_be_loopback=self._may_be_loopback)
        return Server(self._client, found, self._key_of(url))


def ill(reason: str, started: float) -> EndpointProbe:
    return EndpointProbe(
        healthy=False, reason=redact_text(reason)[: limits.REASON_CHARS_MAX], duration_ms=_since_ms(started)
    )


def _since_ms(started: float) -> int:
    return round((time.monotonic() - started) * 1000)
