"""Watching LLM servers from here: those on this host's loopback that nobody else can reach.

Looks at the addresses of `endpoints.discover` and at those that the hub asks for. An address that was only
guessed (discover) and never answered is not reported: most hosts have no server there. What kind of server is at a
guessed address shows in what it answers.

Each address has a clock of its own: its next check begins one interval after its last one began, never beside it, and
what was found is told when that check ends. A server that hangs delays nobody else's check.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import math
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

import msgspec

from agentcom import messages
from agentcom.config import EndpointSettings
from agentcom.endpoint_keys import key_for
from agentcom.messages import EndpointSighting, Question
from agentcom.model import EndpointKind, EndpointProbe, ModelAnswer
from agentcom.probe_endpoint import Prober, Target

SIGHTINGS_MAX = 64  # of one message; further addresses are not watched
PROBES_AT_ONCE = 8
QUESTIONS_MAX = 64  # that wait for their turn
TOGETHER_S = 0.05  # what ends within this goes in one message

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


def _without_warm(sighting: EndpointSighting) -> EndpointSighting:
    return msgspec.structs.replace(
        sighting, probe=msgspec.structs.replace(sighting.probe, warm_known=False)
    )


class EndpointWatch:
    """Checks each address every so often and sends what it found; `run` ends only when it is cancelled."""

    def __init__(self, settings: EndpointSettings, send: Send) -> None:
        self._settings = settings
        self._send = send
        self._asked: tuple[str, ...] = ()
        self._guessed = [url.rstrip("/") for url in settings.discover]
        self._kinds: dict[str, EndpointKind] = {}  # of guessed addresses, as they answered last
        self._asked_kinds: Mapping[str, EndpointKind] = {}
        self._every_s = settings.probe_every_s
        self._seen: set[str] = set()
        self._began_s: dict[str, float] = {}  # when the last check of each address began
        self._running: set[str] = set()
        self._found: dict[str, EndpointSighting] = {}  # not told yet
        self._overtaken: set[str] = set()  # where a model was loaded while a check ran
        self._turn = asyncio.Event()
        self._has_found = asyncio.Event()
        self._questions: asyncio.Queue[Question] = asyncio.Queue(QUESTIONS_MAX)

    def ask(
        self, urls: Iterable[str], kinds: Mapping[str, EndpointKind], every_s: float | None = None
    ) -> None:
        """The hub's wishes; an address that is new is looked at at once. `kinds` has those that are no Ollama."""
        wanted = tuple(dict.fromkeys(url.rstrip("/") for url in urls))[:SIGHTINGS_MAX]
        for url in set(wanted) - set(self._asked):
            self._began_s.pop(url, None)
        self._asked = wanted
        self._asked_kinds = {url.rstrip("/"): kind for url, kind in kinds.items()}
        self._every_s = every_s or self._every_s
        self._turn.set()

    def ask_models(self, asks: Iterable[Question]) -> None:
        """Models that the hub thinks hang; what it asks beyond the bound it asks again."""
        for one in asks:
            if not self._questions.full():
                self._questions.put_nowait(one)

    def loaded(self, url: str) -> None:
        """A model has just been loaded there, which the hub is told at once: what a check has seen before that, and
        tells later, says nothing of what is loaded."""
        url = url.rstrip("/")
        if url in self._running:
            self._overtaken.add(url)
        if url in self._found:
            self._found[url] = _without_warm(self._found[url])

    async def answer(self) -> None:
        """Asks the models one after the other and sends what they said."""
        prober = self.prober()
        try:
            while True:
                one = await self._questions.get()
                if is_loopback(one.url):
                    target = Target(one.kind, one.url, one.model, one.num_ctx)
                    said = await prober.ask(target, self._settings.question_s)
                    self._tell(said)
        finally:
            await prober.close()

    def _tell(self, said: ModelAnswer) -> None:
        self._send(lambda token: messages.Endpoints(session=token, sightings=(), answers=(said,)))

    def hurry(self) -> None:
        """A new session: the hub wants to know now. What a check finds that runs already is told to it as well."""
        self._began_s = {url: at for url, at in self._began_s.items() if url in self._running}
        self._turn.set()

    async def run(self) -> None:
        prober = self.prober()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tell_found())
                await self._keep_looking(group, prober)
        finally:
            await prober.close()

    async def _keep_looking(self, group: asyncio.TaskGroup, prober: Prober) -> None:
        loop, gate = asyncio.get_running_loop(), asyncio.Semaphore(PROBES_AT_ONCE)
        while True:
            self._turn.clear()
            now_s = loop.time()
            for url in self._due(now_s):
                self._began_s[url] = now_s
                self._running.add(url)
                group.create_task(self._look_at(prober, gate, url))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._next_s()):
                    await self._turn.wait()

    def _watched(self) -> list[str]:
        return list(dict.fromkeys([*self._asked, *self._guessed]))[:SIGHTINGS_MAX]

    def _due(self, now_s: float) -> list[str]:
        """The addresses whose next check begins now; what nobody asks for any more is forgotten."""
        watched = self._watched()
        self._began_s = {url: self._began_s[url] for url in watched if url in self._began_s}
        waiting = [url for url in watched if url not in self._running]
        return [url for url in waiting if self._began_s.get(url, -math.inf) + self._every_s <= now_s]

    def _next_s(self) -> float | None:
        """When the next check is due; the end of one that runs is a turn by itself."""
        waiting = [at for url, at in self._began_s.items() if url not in self._running]
        return min(waiting) + self._every_s if waiting else None

    async def _tell_found(self) -> None:
        while True:
            await self._has_found.wait()
            await asyncio.sleep(TOGETHER_S)
            self._has_found.clear()
            self._report()

    def _report(self) -> None:
        known = [one for one in self._found.values() if one.url in self._asked or one.url in self._seen]
        self._found = {}
        if known:
            found = tuple(known[:SIGHTINGS_MAX])
            self._send(lambda token: messages.Endpoints(session=token, sightings=found))

    def prober(self) -> Prober:
        """What checks servers with the keys of this host's own settings."""
        key_files = self._settings.key_files
        return Prober(may_be_loopback=True, key_of=lambda url: key_for(url, key_files))

    async def _look_at(self, prober: Prober, gate: asyncio.Semaphore, url: str) -> None:
        """One check: what it finds is told if somebody asks for it, or if the address ever answered."""
        try:
            found = await self._check(prober, gate, url)
        finally:
            self._running.discard(url)
            self._turn.set()
        if found.probe.healthy:
            self._seen.add(url)
        self._found[url] = _without_warm(found) if url in self._overtaken else found
        self._overtaken.discard(url)
        self._has_found.set()

    async def _check(self, prober: Prober, gate: asyncio.Semaphore, url: str) -> EndpointSighting:
        if not is_loopback(url):
            reason = f"{url} is not on this host's loopback: not probed from here"
            return self._sighting(url, EndpointProbe(healthy=False, reason=reason))
        async with gate:
            if url in self._asked or url in self._kinds:
                kind = self._kind(url)
                probe = await prober.check(Target(kind, url), self._settings.probe_timeout_s)
                return self._sighting(url, probe)
            return await self._guess(prober, url)

    async def _guess(self, prober: Prober, url: str) -> EndpointSighting:
        """Nobody has said what is there: the first kind whose check it passes."""
        for kind in (EndpointKind.ollama, EndpointKind.openai):
            probe = await prober.check(Target(kind, url), self._settings.probe_timeout_s)
            if probe.healthy:
                self._kinds[url] = kind
                break
        return self._sighting(url, probe)

    def _kind(self, url: str) -> EndpointKind:
        if url in self._asked:
            return self._asked_kinds.get(url, EndpointKind.ollama)
        return self._kinds[url]

    def _sighting(self, url: str, probe: EndpointProbe) -> EndpointSighting:
        is_known = url in self._asked or url in self._kinds
        kind = self._kind(url) if is_known else EndpointKind.ollama
        return EndpointSighting(kind=kind, url=url, probe=probe, found=url in self._guessed)
