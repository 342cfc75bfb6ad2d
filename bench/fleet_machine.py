"""One simulated host of the fleet: its LLM server, as Ollama behaves, and the agents that use it.

The server takes calls in order. A call whose model is loaded and has room starts; one whose model is cold first makes
room by unloading idle models, longest unused first, and then loads, from disk at the disk's speed; while it waits for
room or loads, the calls behind it wait too. Calls that run at once share the machine. Nothing here decides anything
that the hub decides.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from agentcom.model import EndpointModel, EndpointProbe
from bench.fleet_trace import SimHost, SimModel, SimTask, rate_of

After = Callable[[float, Callable[[], None]], None]  # in ms of simulated time
LOAD_MS_MIN: Final = 800  # a runner's start, whatever the size
PROMPT_SPEEDUP: Final = 20  # prompt tokens are read by so much faster than new ones are made
SHARED: Final = (
    0.5  # what a call at once costs the others: with n calls each has 1 / (1 + SHARED (n - 1)) of the rate
)


@dataclass
class Call:
    """A model call. `begun_ms`: when the model began to work on it; `load_ms`: what its own load took."""

    task: SimTask
    done: Callable[[Call], None]
    called_ms: int = 0
    begun_ms: int = 0
    load_ms: int = 0
    first_byte_ms: int = 0
    generate_ms: int = 0


@dataclass
class Machine:
    host: SimHost
    after: After
    now_ms: Callable[[], int]
    waiting: deque[Call] = field(default_factory=deque)
    loaded: dict[str, SimModel] = field(default_factory=dict)  # the longest unused first
    running: dict[str, int] = field(default_factory=dict)
    loading: str = ""
    loads: int = 0

    def call(self, call: Call) -> None:
        call.called_ms = self.now_ms()
        self.waiting.append(call)
        self._go_on()

    def probe(self) -> EndpointProbe:
        """What a health check finds."""
        return EndpointProbe(
            healthy=True,
            version="0.11.0",
            warm_known=True,
            models=tuple(
                EndpointModel(
                    name=one.name,
                    digest=f"sha256:{one.name}",
                    size_bytes=one.size_bytes,
                    warm=one.name in self.loaded,
                )
                for one in self.host.models
            ),
        )

    def used_bytes(self) -> int:
        return sum(one.size_bytes for one in self.loaded.values())

    def _go_on(self) -> None:
        while self.waiting and not self.loading:
            call = self.waiting[0]
            model = call.task.model
            assert model is not None
            if model.name in self.loaded:
                if self.running.get(model.name, 0) >= self.host.cap:
                    return
                self._start(self.waiting.popleft(), model)
            elif not self._make_room(model):
                return
            else:
                self._load(call, model)

    def _make_room(self, model: SimModel) -> bool:
        """Whether the model fits now, idle ones unloaded as need be."""
        memory = max(self.host.vram_bytes, model.size_bytes)
        for name in list(self.loaded):
            if self.used_bytes() + model.size_bytes <= memory:
                break
            if not self.running.get(name):
                del self.loaded[name]
        return self.used_bytes() + model.size_bytes <= memory

    def _load(self, call: Call, model: SimModel) -> None:
        self.loading, self.loads = model.name, self.loads + 1
        call.load_ms = int((LOAD_MS_MIN + model.size_bytes * 1000 / self.host.disk_bps) * call.task.stretch)
        self.after(call.load_ms, lambda: self._has_loaded(model))

    def _has_loaded(self, model: SimModel) -> None:
        self.loading = ""
        self.loaded[model.name] = model
        self._go_on()

    def _start(self, call: Call, model: SimModel) -> None:
        self.loaded[model.name] = self.loaded.pop(model.name)
        self.running[model.name] = self.running.get(model.name, 0) + 1
        at_once = sum(self.running.values())
        rate = rate_of(self.host, model) / (1 + SHARED * (at_once - 1)) / call.task.stretch
        call.begun_ms = self.now_ms()
        call.first_byte_ms = int(call.task.tokens_in * 1000 / (rate * PROMPT_SPEEDUP)) + 1
        call.generate_ms = int(call.task.tokens_out * 1000 / rate) + 1
        self.after(call.first_byte_ms + call.generate_ms, lambda: self._end(call, model))

    def _end(self, call: Call, model: SimModel) -> None:
        self.running[model.name] -= 1
        if not self.running[model.name]:
            del self.running[model.name]
        call.done(call)
        self._go_on()
