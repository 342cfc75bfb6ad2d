"""Watching LLM servers from here: those on this host's loopback that nobody else can reach.

Looks at the addresses of `endpoints.discover` and at those that the hub asks for. An address that was only
guessed (discover) and never answered is not reported: most hosts have no server there.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

import httpx2

from agentcom import messages
from agentcom.config import EndpointSettings
from agentcom.messages import EndpointSighting
from agentcom.model import EndpointKind, EndpointProbe
from agentcom.ollama_probe import make_client, probe_ollama

SIGHTINGS_MAX = 64  # of one message; further addresses are not watched
PROBES_AT_ONCE = 8

Send = Callable[[Callable[[bytes], messages.Endpoints]], bool]


def is_loopback(url: str) -> bool:
    """Whether `url` is http(s) on this machine's own loopback: nothing else is called at the hub's word."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if parts.scheme not in ("http", "https") or parts.username is not None:
            return False
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class EndpointWatch:
    """Probes in cycles and sends what it found; `run` ends only when it is cancelled."""

    def __init__(self, settings: EndpointSettings, send: Send) -> None:
        self._settings = settings
        self._send = send
        self._asked: tuple[str, ...] = ()
        self._every_s = settings.probe_every_s
        self._seen: set[str] = set()
        self._now = asyncio.Event()

    def ask(self, urls: Iterable[str], every_s: float | None = None) -> None:
        """The hub's wishes; an address that is new is looked at at once."""
        wanted = tuple(dict.fromkeys(url.rstrip("/") for url in urls))[:SIGHTINGS_MAX]
        if set(wanted) - set(self._asked):
            self._now.set()
        self._asked = wanted
        self._every_s = every_s or self._every_s

    def hurry(self) -> None:
        """A new session: the hub wants to know now."""
        self._now.set()

    async def run(self) -> None:
        async with make_client() as client:
            while True:
                self._now.clear()
                found = await self.look(client)
                if found:
                    self._send(lambda token, found=found: messages.Endpoints(session=token, sightings=found))  # type: ignore[misc]
                try:
                    async with asyncio.timeout(self._every_s):
                        await self._now.wait()
                except TimeoutError:
                    continue

    async def look(self, client: httpx2.AsyncClient) -> tuple[EndpointSighting, ...]:
        """One cycle: a sighting of each address asked for, and of each guessed one that ever answered."""
        guessed = [url.rstrip("/") for url in self._settings.discover]
        urls = list(dict.fromkeys([*self._asked, *guessed]))[:SIGHTINGS_MAX]
        gate = asyncio.Semaphore(PROBES_AT_ONCE)
        probes = await asyncio.gather(*(self._probe(client, gate, url) for url in urls))
        found = []
        for url, probe in zip(urls, probes, strict=True):
            if probe.healthy:
                self._seen.add(url)
            if url in self._asked or url in self._seen:
                found.append(EndpointSighting(kind=EndpointKind.ollama, url=url, probe=probe))
        return tuple(found)

    async def _probe(self, client: httpx2.AsyncClient, gate: asyncio.Semaphore, url: str) -> EndpointProbe:
        if not is_loopback(url):
            return EndpointProbe(
                healthy=False, reason=f"{url} is not on this host's loopback: not probed from here"
            )
        async with gate:
            return await probe_ollama(client, url, self._settings.probe_timeout_s)
