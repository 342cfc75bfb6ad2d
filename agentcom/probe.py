"""Health checks of the endpoints that the hub itself reaches: off the loop, in a thread of their own.

The loop asks, the thread checks with bounded concurrency, the loop takes what has come: it never waits. A question to
a model takes as long as a load may take, so those have slots of their own and keep no check waiting.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import msgspec

from agentcom.model import EndpointProbe, ModelAnswer
from agentcom.probe_endpoint import KeyOf, Prober, Target

CONCURRENCY_MAX: Final = 64
QUESTIONS_MAX: Final = 16
Wake = Callable[[], None]
Found = EndpointProbe | ModelAnswer


class ProbeThread:
    """`ask` starts a check, or with a model in its target a question, unless the same is running; `take` returns what
    has ended. The time-outs may be changed: they hold for what starts then. `may_be_loopback` is for tests and
    benchmarks: the hub itself calls no address of its own machine."""

    def __init__(
        self,
        wake: Wake,
        timeout_s: float,
        question_s: float,
        key_of: KeyOf,
        *,
        may_be_loopback: bool = False,
    ) -> None:
        self._wake, self.timeout_s, self.question_s = wake, timeout_s, question_s
        self._key_of, self._may_be_loopback = key_of, may_be_loopback
        self._done: deque[tuple[int, Target, Found]] = deque()
        self._running: set[tuple[int, str]] = set()
        self._loads: Counter[int] = Counter()  # questions that were answered, by endpoint: they load the model
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)
        self._thread.start()

    def ask(self, endpoint: int, target: Target) -> None:
        place = endpoint, target.model
        if place not in self._running:
            self._running.add(place)
            self._loop.call_soon_threadsafe(self._start, endpoint, target)

    def take(self) -> list[tuple[int, Target, Found]]:
        taken = []
        while self._done:
            endpoint, target, found = self._done.popleft()
            taken.append((endpoint, target, found))
            self._running.discard((endpoint, target.model))
        return taken

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=2)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._slots = asyncio.Semaphore(CONCURRENCY_MAX)
        self._questions = asyncio.Semaphore(QUESTIONS_MAX)
        self._prober = Prober(may_be_loopback=self._may_be_loopback, key_of=self._key_of)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop.run_forever()
        for task in self._tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.run_until_complete(self._prober.close())
        self._loop.close()

    def _start(self, endpoint: int, target: Target) -> None:
        task = self._loop.create_task(self._probe(endpoint, target))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _probe(self, endpoint: int, target: Target) -> None:
        found: Found
        if target.model:
            async with self._questions:
                found = await self._prober.ask(target, target.load_s or self.question_s)
            self._loads[endpoint] += not found.reason
        else:
            async with self._slots:
                loads = self._loads[endpoint]
                found = await self._prober.check(target, self.timeout_s)
            if loads != self._loads[endpoint]:  # it may have looked before, and is told after
                found = msgspec.structs.replace(found, warm_known=False)
        self._done.append((endpoint, target, found))
        self._wake()
