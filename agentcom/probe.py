"""Health checks of the endpoints that the hub itself reaches: off the loop, in a thread of their own.

The loop asks, the thread probes with bounded concurrency, the loop takes what has come: it never waits. Names
are resolved before the call and refused where an address may not be reached.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from agentcom.model import EndpointProbe
from agentcom.ollama_probe import make_client, probe_ollama

CONCURRENCY_MAX: Final = 64
Wake = Callable[[], None]


class Prober:
    """`ask` starts a probe unless one of that endpoint is running; `take` returns what has ended. `timeout_s` may
    be changed: it holds for probes that start then."""

    def __init__(self, wake: Wake, timeout_s: float) -> None:
        self._wake, self.timeout_s = wake, timeout_s
        self._done: deque[tuple[int, EndpointProbe]] = deque()
        self._running: set[int] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)
        self._thread.start()

    def ask(self, endpoint: int, url: str) -> None:
        if endpoint not in self._running:
            self._running.add(endpoint)
            self._loop.call_soon_threadsafe(self._start, endpoint, url)

    def take(self) -> list[tuple[int, EndpointProbe]]:
        taken = []
        while self._done:
            taken.append(self._done.popleft())
            self._running.discard(taken[-1][0])
        return taken

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=2)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._slots = asyncio.Semaphore(CONCURRENCY_MAX)
        self._client = make_client()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop.run_forever()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.run_until_complete(self._client.aclose())
        self._loop.close()

    def _start(self, endpoint: int, url: str) -> None:
        task = self._loop.create_task(self._probe(endpoint, url))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe(self, endpoint: int, url: str) -> None:
        async with self._slots:
            refused = await self._refused(url)
            if refused is not None:
                found = EndpointProbe(healthy=False, reason=refused)
            else:
                found = await probe_ollama(self._client, url, self.timeout_s)
        self._done.append((endpoint, found))
        self._wake()

    async def _refused(self, url: str) -> str | None:
        """Why the address behind the name may not be reached, or None."""
        parts = urlsplit(url)
        try:
            async with asyncio.timeout(self.timeout_s):
                found = await self._loop.getaddrinfo(
                    parts.hostname, parts.port or 80, type=socket.SOCK_STREAM
                )
        except TimeoutError:
            return f"the name {parts.hostname} was not resolved within {self.timeout_s:g} s"
        except OSError as error:
            return f"the name {parts.hostname} cannot be resolved: {error.strerror}"
        for *_, address in found:
            one = ipaddress.ip_address(str(address[0]).partition("%")[0])
            if one.is_link_local or one.is_multicast or one.is_unspecified or one.is_loopback:
                return f"{parts.hostname} resolves to {one}, which the hub may not call"
        return None
