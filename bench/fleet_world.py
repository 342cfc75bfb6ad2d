"""The fleet's run: the hub's real core, driven by a clock of its own, with simulated hosts at the other end.

No socket, no store and no real time: messages are handed to `Hub.handle` and effects to the hosts. All that falls due
within one step of the clock is one tick, as in the hub's loop. Reports, health checks and leases run as they do in a
fleet, at the product's own pace.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import ManualClock
from agentcom.config import Settings
from agentcom.core.effects import Effect, Event, Incoming, Send, SendAssign, Timers
from agentcom.core.hub import Hub, Loaded
from agentcom.figures import Gpu, Resources
from agentcom.model import (
    Backend,
    EndpointKind,
    PrincipalRecord,
    ResultStatus,
    Role,
    TaskResult,
    TaskSpec,
    Tier,
)
from agentcom.recordings import Recordings
from bench import fleet_policies
from bench.fleet_machine import Call, Machine
from bench.fleet_trace import SimHost, SimTask, Trace

STEP_MS: Final = 200
TIMER_MS: Final = 1_000
REPORT_S: Final = 10
PROBE_MS: Final = 10_000
URL: Final = "http://127.0.0.1:11434"
SUBMIT_MAX: Final = 500
END_MS_MAX: Final = 48 * 3600 * 1000  # a fleet that is not done by then never is


@dataclass
class Story:
    """What became of a task; times from its arrival's clock."""

    arrived_ms: int
    begun_ms: int = -1
    ended_ms: int = -1


@dataclass
class End:
    """A host's end of its connection."""

    host: SimHost
    machine: Machine
    peer: int
    key: str
    token: bytes = b""
    held: dict[tuple[int, int], Call | None] = field(default_factory=dict)


class Fleet:
    """One hub under one policy, and all hosts."""

    def __init__(
        self, trace: Trace, policy: str, seed: int, settings: Settings | None = None, record: Path | None = None
    ) -> None:
        self.trace = trace
        self.settings = settings or Settings()
        self._recordings = Recordings(record) if record is not None else None
        self.clock = ManualClock()
        self.begun_ms = self.clock.now().mono_ms
        self.stories: list[Story] = []
        self.open = len(trace.tasks)
        self.ticks = 0
        self._task_of: dict[int, int] = {}  # the hub's number -> the trace's
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._events: list[Event] = []
        self._fresh = count(1)
        self.hub = Hub(self.settings, random.Random(seed), "bench")
        ends = [self._end(n, host) for n, host in enumerate(trace.hosts, 2)]
        self.ends = {end.peer: end for end in ends}
        self._client = End(trace.hosts[0], ends[0].machine, 1, _key(1))
        self.ends[1] = self._client
        principals = [PrincipalRecord(id=1, name="client", role=Role.admin, key=_key(1))]
        principals += [PrincipalRecord(id=e.peer, name=e.host.name, role=Role.host, key=e.key) for e in ends]
        self.hub.load(_loaded(principals), self.clock.now())
        fleet_policies.use(self.hub, policy, seed)
        self._join(ends)

    @property
    def now_ms(self) -> int:
        """Since the begin."""
        return self.clock.now().mono_ms - self.begun_ms

    def run(self) -> None:
        """Until every task has ended."""
        self._arrivals()
        self._repeat(TIMER_MS, lambda: self._events.append(Timers(drained=True)))
        while self.open:
            due_ms = self._due[0][0]
            until_ms = -(-max(due_ms, self.now_ms + 1) // STEP_MS) * STEP_MS
            assert until_ms < END_MS_MAX, f"{self.open} tasks are not done after {until_ms} ms"
            self.clock.advance(until_ms - self.now_ms)
            while self._due and self._due[0][0] <= until_ms:
                heapq.heappop(self._due)[2]()
            self._tick()

    def loads(self) -> int:
        return sum(end.machine.loads for end in self.ends.values() if end is not self._client)

    # --- time -------------------------------------------------------------------------------------------

    def after(self, ms: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now_ms + max(int(ms), 1), next(self._order), act))

    def _repeat(self, every_ms: int, act: Callable[[], None], first_ms: int = 0) -> None:
        def again() -> None:
            act()
            self.after(every_ms, again)

        self.after(first_ms or every_ms, again)

    def _tick(self) -> None:
        self.ticks += 1
        now = self.clock.now()
        events, self._events = self._events, []
        effects: list[Effect] = []
        for event in events:
            effects += self.hub.handle(event, now)
        effects += self.hub.schedule(now)
        self.hub.end_tick()
        if self._recordings is not None:
            self._recordings.turn(self.hub.board.recorder, self.settings.scheduler, now.wall_ms)
        for effect in effects:
            if isinstance(effect, Send | SendAssign):
                self._received(self.ends[effect.peer], effect.message)

    # --- messages ---------------------------------------------------------------------------------------

    def _say(self, end: End, message: m.ToHub) -> None:
        fresh = next(self._fresh).to_bytes(limits.SESSION_TOKEN_BYTES, "big")
        self._events.append(Incoming(end.peer, end.key, message, fresh))

    def _received(self, end: End, message: object) -> None:
        match message:
            case m.Welcome():
                end.token = message.session
            case m.Assign():
                self._assigned(end, message)
            case m.Reply() if end is self._client and isinstance(message.value, dict):
                for number, made in enumerate(message.value.get("tasks", ()), message.id):
                    self._task_of[made["id"]] = number
            case m.Error():
                raise AssertionError(f"{end.host.name} was refused: {message}")

    def _join(self, ends: list[End]) -> None:
        self._say(self._client, m.Hello(protocol=limits.PROTOCOL_VERSION, process="client-1"))
        for end in ends:
            offer = m.HostOffer(name=end.host.name, agents=_agents(end.host), resources=_resources(end))
            self._say(
                end, m.Hello(protocol=limits.PROTOCOL_VERSION, process=f"process-{end.peer}", host=offer)
            )
        self._tick()
        for end in ends:
            self._probe(end)
        self._tick()
        for record in self.hub.registry.endpoints.values():
            cap = self.ends[self.hub.fleet.hosts[record.seen_from].record.principal].host.cap
            op = m.EndpointUpdate(endpoint=str(record.id), cap=cap)
            self._say(self._client, m.Request(session=self._client.token, id=0, op=op))
        self._tick()
        for n, end in enumerate(ends):
            self._repeat(REPORT_S * 1000, lambda end=end: self._beat(end), first_ms=1 + n * 37 % 9_000)
            self._repeat(PROBE_MS, lambda end=end: self._probe(end), first_ms=1 + n * 53 % 9_000)

    def _probe(self, end: End) -> None:
        sighting = m.EndpointSighting(kind=EndpointKind.ollama, url=URL, probe=end.machine.probe())
        self._say(end, m.Endpoints(session=end.token, sightings=(sighting,)))

    def _beat(self, end: End) -> None:
        now_ms = self.now_ms
        attempts = tuple(
            m.AttemptBeat(
                task, attempt, now_ms, call is not None and 0 < call.begun_ms + call.first_byte_ms < now_ms
            )
            for (task, attempt), call in end.held.items()
        )
        self._say(
            end, m.Heartbeat(session=end.token, beat=now_ms, attempts=attempts, resources=_resources(end))
        )

    # --- tasks ------------------------------------------------------------------------------------------

    def _arrivals(self) -> None:
        """Those of one step of the clock are submitted together."""
        steps: dict[int, list[int]] = {}
        for number, task in enumerate(self.trace.tasks):
            self.stories.append(Story(task.at_ms))
            steps.setdefault(task.at_ms // STEP_MS, []).append(number)
        for step, numbers in steps.items():
            for at in range(0, len(numbers), SUBMIT_MAX):
                self.after(step * STEP_MS + 1, lambda part=numbers[at : at + SUBMIT_MAX]: self._submit(part))

    def _submit(self, numbers: list[int]) -> None:
        op = m.Submit(tasks=tuple(_spec(self.trace.tasks[number]) for number in numbers))
        self._say(self._client, m.Request(session=self._client.token, id=numbers[0], op=op))

    def _assigned(self, end: End, assign: m.Assign) -> None:
        key = (assign.task, assign.attempt)
        number = self._task_of[assign.task]
        task = self.trace.tasks[number]
        self._say(end, m.Accept(session=end.token, task=assign.task, attempt=assign.attempt))
        if task.model is None:
            end.held[key] = None
            self.stories[number].begun_ms = self.now_ms
            self.after(task.run_ms * task.stretch, lambda: self._ended(end, key, number, {}))
            return
        call = Call(task, lambda call: self._called(end, key, number, call))
        end.held[key] = call
        end.machine.call(call)

    def _called(self, end: End, key: tuple[int, int], number: int, call: Call) -> None:
        self.stories[number].begun_ms = call.begun_ms
        first_ms = call.begun_ms - call.called_ms - call.load_ms + call.first_byte_ms
        durations = {"first_byte": first_ms, "generate": call.generate_ms}
        if call.load_ms:
            durations["load"] = call.load_ms
        self._ended(end, key, number, durations)

    def _ended(self, end: End, key: tuple[int, int], number: int, durations_ms: dict[str, int]) -> None:
        task = self.trace.tasks[number]
        result = TaskResult(
            status=ResultStatus.unchecked,
            backend=Backend.ollama if task.model else Backend.shell,
            model=task.model.name if task.model else "none",
            tokens_in=task.tokens_in,
            tokens_out=task.tokens_out,
            cost_usd=0.0,
            durations_ms=durations_ms,
        )
        del end.held[key]
        self.stories[number].ended_ms = self.now_ms
        self.open -= 1
        self._say(
            end, m.Result(session=end.token, task=key[0], attempt=key[1], outcome="completed", result=result)
        )

    def _end(self, peer: int, host: SimHost) -> End:
        machine = Machine(host, self.after, lambda: self.now_ms)
        return End(host, machine, peer, _key(peer))


def _key(peer: int) -> str:
    return f"key-of-{peer}".ljust(40, "-")


def _agents(host: SimHost) -> tuple[m.AgentOffer, ...]:
    backends = (Backend.shell, Backend.ollama, *((Backend.claude,) if host.has_cloud else ()))
    return tuple(m.AgentOffer(name=f"{host.name}-{n}", backends=backends) for n in range(host.agents))


def _resources(end: End) -> Resources:
    host = end.host
    used = end.machine.used_bytes()
    gpu = Gpu(vram_total_bytes=host.vram_bytes, vram_used_bytes=min(used, host.vram_bytes), source="nvml")
    return Resources(
        cpu_percent=20.0,
        ram_total_bytes=host.ram_bytes,
        ram_available_bytes=max(
            host.ram_bytes * 3 // 4 - max(0, used - host.vram_bytes), host.ram_bytes // 10
        ),
        gpus=(gpu,) if host.vram_bytes else (),
        every_s=REPORT_S,
    )


def _spec(task: SimTask) -> TaskSpec:
    if task.tier == "trivial":
        return TaskSpec(description="Say that the build is green", command="true")
    return TaskSpec(
        description="Write a function and say what it does",
        tier=Tier(task.tier),
        model=task.model.name if task.model else None,
    )


def _loaded(principals: Iterable[PrincipalRecord]) -> Loaded:
    """A store with these callers and nothing else."""
    return Loaded(
        groups=[],
        principals=list(principals),
        invites=[],
        hosts=[],
        agents=[],
        endpoints=[],
        rules=[],
        pages=(),
        routes={},
        numbers={},
        finals={},
        config={},
    )
