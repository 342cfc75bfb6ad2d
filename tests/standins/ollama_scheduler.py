"""How the Ollama stand-in keeps models in memory, after the real server's scheduler.

One loop takes requests that need a load from a bounded queue, so a cold load holds up every other load
(and only a full queue answers 503). Requests for a loaded model pass it by and wait, silently and without
a bound, for one of `num_parallel` slots. A model is in the table only after its load has ended. All state
is under one condition.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import threading
import time
from collections.abc import Iterator

from tests.standins.ollama_models import Model, duration_s
from tests.standins.serving import ClientLeft, Exchange, JsonObject

FOREVER_S = 292 * 365.25 * 86_400.0  # what the real server reports for "keep it for ever"


class QueueFull(Exception):
    """The queue of pending loads is full."""


class LoadFailed(Exception):
    """The model could not be loaded; the text says why."""


@dataclasses.dataclass
class Runner:
    """A loaded model. `users`: requests that hold or await a slot; `line`: those that await, in order."""

    model: Model
    options: JsonObject
    slots: int
    keep_alive_s: float
    expires_at: float = 0.0
    users: int = 0
    running: int = 0
    running_peak: int = 0
    line: collections.deque[object] = dataclasses.field(default_factory=collections.deque)

    @property
    def lasting_s(self) -> float:
        return FOREVER_S if self.keep_alive_s < 0 else min(self.keep_alive_s, FOREVER_S)

    def rest(self) -> None:
        """Notes that it is idle from now on; only then does the real server move the expiry."""
        self.expires_at = time.time() + self.lasting_s

    def entry(self) -> JsonObject:
        """Its entry in /api/ps."""
        size_vram = self.model.size if self.model.size_vram is None else self.model.size_vram
        return {
            "name": self.model.name,
            "model": self.model.name,
            "size": self.model.size,
            "digest": self.model.digest,
            "details": self.model.all_details(),
            "expires_at": datetime.datetime.fromtimestamp(self.expires_at, datetime.UTC).isoformat(),
            "size_vram": size_vram,
            "context_length": self.options["num_ctx"],
        }


@dataclasses.dataclass
class Ticket:
    """A request in the queue of pending loads."""

    model: Model
    options: JsonObject
    keep_alive_s: float | None
    runner: Runner | None = None
    error: str = ""
    cancelled: bool = False

    @property
    def settled(self) -> bool:
        return self.runner is not None or bool(self.error)


class Scheduler:
    """The table of loaded models and the loop that fills it."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.num_parallel = 1
        self.queue_max = 512
        self.loaded_max = 3
        self.keep_alive_s = 300.0
        self.loads: collections.Counter[str] = collections.Counter()
        self._runners: dict[str, Runner] = {}
        self._pending: collections.deque[Ticket] = collections.deque()
        self._loading = ""
        self._is_closed = False
        threading.Thread(target=self._loop, daemon=True).start()

    def close(self) -> None:
        """Ends the loop. Requests still in the queue end when their clients leave."""
        with self.condition:
            self._is_closed = True
            self.condition.notify_all()

    def reset(self, warm: list[tuple[Model, JsonObject]]) -> None:
        """Forgets what is loaded and starts with `warm`: models with the options they were loaded with."""
        with self.condition:
            self._runners.clear()
            for model, options in warm:
                keep_alive_s = None if model.keep_alive is None else duration_s(model.keep_alive)
                self._add(model, options, keep_alive_s).rest()
            self.condition.notify_all()

    def loaded(self) -> list[JsonObject]:
        """The models of /api/ps, the one that stays longest first."""
        with self.condition:
            self._expire()
            runners = sorted(self._runners.values(), key=lambda runner: runner.expires_at, reverse=True)
            return [runner.entry() for runner in runners]

    def state(self) -> JsonObject:
        with self.condition:
            self._expire()
            runners = {runner.model.name: runner for runner in self._runners.values()}
            return {
                "loaded": sorted(runners),
                "loading": self._loading or None,
                "pending": len(self._pending),
                "loads": dict(self.loads),
                "running": {name: runner.running for name, runner in runners.items()},
                "peak_running": {name: runner.running_peak for name, runner in runners.items()},
                "waiting": {name: len(runner.line) for name, runner in runners.items()},
            }

    def unload(self, model: Model) -> None:
        """Unloads the model when it is idle, at once or at the end of its last request."""
        with self.condition:
            if runner := self._runners.get(model.digest):
                runner.keep_alive_s = 0.0
                self._end_if_idle(runner)

    @contextlib.contextmanager
    def hold(
        self, exchange: Exchange, model: Model, options: JsonObject, keep_alive_s: float | None
    ) -> Iterator[Runner]:
        """The loaded model, loading it first where needed. QueueFull, LoadFailed, ClientLeft."""
        runner = self._acquire(exchange, Ticket(model, options, keep_alive_s))
        try:
            yield runner
        finally:
            with self.condition:
                self._release(runner)

    @contextlib.contextmanager
    def slot(self, exchange: Exchange, runner: Runner) -> Iterator[None]:
        """One of the runner's parallel slots, first come first served, after a wait of any length."""
        place = object()
        with self.condition:
            runner.line.append(place)
            try:
                exchange.wait_until(
                    self.condition, lambda: runner.line[0] is place and runner.running < runner.slots
                )
            finally:
                runner.line.remove(place)
                self.condition.notify_all()
            runner.running += 1
            runner.running_peak = max(runner.running_peak, runner.running)
        try:
            yield
        finally:
            with self.condition:
                runner.running -= 1
                self.condition.notify_all()

    def _acquire(self, exchange: Exchange, ticket: Ticket) -> Runner:
        with self.condition:
            self._expire()
            runner = self._runners.get(ticket.model.digest)
            if runner and runner.options == ticket.options:
                self._grant(ticket, runner)
                return runner
            if len(self._pending) >= self.queue_max:
                raise QueueFull
            self._pending.append(ticket)
            self.condition.notify_all()
            try:
                exchange.wait_until(self.condition, lambda: ticket.settled)
            except ClientLeft:
                self._cancel(ticket)
                raise
        if ticket.runner is None:
            raise LoadFailed(ticket.error)
        return ticket.runner

    def _cancel(self, ticket: Ticket) -> None:
        ticket.cancelled = True
        if ticket.runner:
            self._release(ticket.runner)
        self.condition.notify_all()

    def _grant(self, ticket: Ticket, runner: Runner) -> None:
        runner.users += 1
        if ticket.keep_alive_s is not None:
            runner.keep_alive_s = ticket.keep_alive_s  # the latest request's value wins
        ticket.runner = runner
        self.condition.notify_all()

    def _release(self, runner: Runner) -> None:
        runner.users -= 1
        if not runner.users:
            runner.rest()
        self._end_if_idle(runner)
        self.condition.notify_all()

    def _end_if_idle(self, runner: Runner) -> None:
        if not runner.users and runner.keep_alive_s == 0:
            self._remove(runner)

    def _remove(self, runner: Runner) -> None:
        if self._runners.get(runner.model.digest) is runner:
            del self._runners[runner.model.digest]
            self.condition.notify_all()

    def _expire(self) -> None:
        for runner in list(self._runners.values()):
            if not runner.users and runner.expires_at <= time.time():
                self._remove(runner)

    def _add(self, model: Model, options: JsonObject, keep_alive_s: float | None) -> Runner:
        slots = model.num_parallel or self.num_parallel
        runner = Runner(model, options, slots, self.keep_alive_s if keep_alive_s is None else keep_alive_s)
        self._runners[model.digest] = runner
        return runner

    # The loop: the only place that loads and evicts.

    def _loop(self) -> None:
        with self.condition:
            while not self._is_closed:
                self.condition.wait_for(lambda: self._pending or self._is_closed)
                if self._pending:
                    self._settle(self._pending.popleft())

    def _settle(self, ticket: Ticket) -> None:
        while not ticket.cancelled:
            self._expire()
            runner = self._runners.get(ticket.model.digest)
            if runner and runner.options == ticket.options:
                self._grant(ticket, runner)
                return
            if runner or len(self._runners) >= self.loaded_max:
                self._make_room(runner)
            else:
                self._load(ticket)
                return

    def _make_room(self, stale: Runner | None) -> None:
        """Removes `stale`, or else the idle model of the shortest keep-alive; waits while all are busy."""
        candidates = [stale] if stale else list(self._runners.values())
        idle = [runner for runner in candidates if not runner.users]
        if idle:
            self._remove(min(idle, key=lambda runner: runner.lasting_s))
        else:
            self.condition.wait()

    def _load(self, ticket: Ticket) -> None:
        self._loading = ticket.model.name
        self.condition.notify_all()
        self.condition.wait_for(lambda: ticket.cancelled, timeout=ticket.model.load_delay_s)
        self._loading = ""
        self.condition.notify_all()
        if ticket.cancelled:
            return  # the client left: the load is abandoned
        if ticket.model.load_error:
            ticket.error = ticket.model.load_error
            return
        self.loads[ticket.model.name] += 1
        self._grant(ticket, self._add(ticket.model, ticket.options, ticket.keep_alive_s))
