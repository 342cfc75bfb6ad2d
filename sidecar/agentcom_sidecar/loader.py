"""Models that the hub wants loaded here ahead of a task, on servers of this host's own loopback.

Servers side by side, one model at a time on each. What is asked is answered, also where this host's settings do not
allow it; a session that ends takes no answer, and the hub asks again if it still wants it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from agentcom import limits, logs, messages
from agentcom.config import Settings
from agentcom.endpoint_keys import key_for
from agentcom.model import EndpointKind, ModelAnswer
from agentcom.probe_endpoint import Prober, Target
from agentcom_sidecar import policy
from agentcom_sidecar.endpoints import Send, is_loopback


class ModelLoader:
    """Loads what `load` is told, until `run` is cancelled. `loaded` hears of each server that has, before the hub."""

    def __init__(self, settings: Settings, send: Send, loaded: Callable[[str], None]) -> None:
        self._settings = settings
        self._send = send
        self._loaded = loaded
        self._asked: asyncio.Queue[messages.Preload] = asyncio.Queue()
        self._busy: set[str] = set()  # the addresses of servers that are loading, or are to

    def load(self, asked: messages.Preload) -> None:
        """Takes it on, or answers at once why not."""
        refusal = self._refusal(asked)
        if refusal is not None:
            self._tell(ModelAnswer(url=asked.url, model=asked.model, reason=refusal, is_load=True))
            return
        self._busy.add(asked.url)
        self._asked.put_nowait(asked)

    async def run(self) -> None:
        prober = Prober(may_be_loopback=True, key_of=lambda url: key_for(url, self._settings.endpoints.key_files))
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    group.create_task(self._carry(prober, await self._asked.get()))
        finally:
            await prober.close()

    def _refusal(self, asked: messages.Preload) -> str | None:
        if not is_loopback(asked.url):
            return f"{asked.url} is not on this host's loopback: not called from here"
        if asked.url in self._busy:
            return f"{asked.url} loads a model already"
        if len(self._busy) >= limits.PRELOADS_PER_HOST_MAX:
            return f"{limits.PRELOADS_PER_HOST_MAX} models are being loaded here"
        return policy.preload_refusal(asked.model, self._settings)

    async def _carry(self, prober: Prober, asked: messages.Preload) -> None:
        try:
            target = Target(
                EndpointKind.ollama, asked.url, asked.model, asked.num_ctx, max(1, asked.keep_s), asked.load_s
            )
            said = await prober.ask(target, asked.load_s)
        finally:
            self._busy.discard(asked.url)
        logs.get().info(
            "model_preloaded" if not said.reason else "model_not_preloaded",
            url=said.url,
            model=said.model,
            reason=said.reason,
            duration_ms=said.duration_ms,
        )
        if not said.reason:
            self._loaded(said.url)
        self._tell(said)

    def _tell(self, said: ModelAnswer) -> None:
        self._send(lambda token: messages.Endpoints(session=token, sightings=(), answers=(said,)))
