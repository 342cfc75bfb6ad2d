"""A hub without sockets whose scheduler is recorded, and a life for it that is drawn from a seed."""

from __future__ import annotations

import random
from typing import Any

import msgspec

from agentcom import messages as m
from agentcom.config import Settings
from agentcom.core.effects import Effect, Event
from agentcom.core.recording import Start, Turn
from agentcom.model import Allowance, FailureClass, Gpu, Tier
from agentcom.settings import with_values
from tests import factories
from tests.core_rig import HostEnd, Rig
from tests.factories import agent_offer, endpoint_model, endpoint_probe, resources, sighting

MODELS = ("small:1b", "middle:7b", "large:30b")
ENDED = FailureClass.infrastructure


class RecordedRig(Rig):
    """`frames` are what the shell would write, by start."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.frames: list[list[bytes]] = []
        recorded = with_values(settings or factories.settings(), {"scheduler.record": True})
        super().__init__(recorded)
        self.validates = False

    def tick(self, *events: Event) -> list[Effect]:
        done = super().tick(*events)
        recorder = self.hub.board.recorder
        for is_start, frame in recorder.take() if recorder is not None else ():
            if is_start:
                self.frames.append([])
            self.frames[-1].append(frame)
        return done

    def recordings(self) -> list[tuple[Start, list[Turn]]]:
        return [
            (msgspec.msgpack.decode(one[0], type=Start), [msgspec.msgpack.decode(f, type=Turn) for f in one[1:]])
            for one in self.frames
        ]


class Life:
    """Hosts that come, report, fail and go, and tasks of every kind; the same for the same seed."""

    def __init__(self, rig: RecordedRig, seed: int) -> None:
        self.rig, self.rng = rig, random.Random(seed)
        self.hosts: list[HostEnd] = []
        self.open: list[tuple[HostEnd, m.Assign]] = []

    def live(self, steps: int) -> None:
        for n in range(len(self.hosts), 3):
            self._join(n)
        for n in range(steps):
            act = self.rng.choices(
                (self._submit, self._end, self._see, self._report, self._pass, self._rule),
                (6, 6, 3, 2, 3, 1),
            )[0]
            act()
            self._take()
            if n == steps // 2:
                self._join(len(self.hosts))

    def _join(self, n: int) -> None:
        backends: Any = ("shell", "ollama", *(("claude",) if n % 2 else ()))
        agents = tuple(agent_offer(f"a{k}", backends=backends) for k in range(1 + n % 3))
        host = self.rig.host(f"box{n}", agents=agents, preferred=n == 1, capabilities=("big",) if n else ())
        self.hosts.append(host)
        self._see(host)

    def _see(self, host: HostEnd | None = None) -> None:
        host = host or self.rng.choice(self.hosts)
        models = [
            endpoint_model(name, size_bytes=(n + 1) << 32, warm=self.rng.random() < 0.5, context_length=8192)
            for n, name in enumerate(MODELS)
            if self.rng.random() < 0.8
        ]
        probe = endpoint_probe(*models, healthy=self.rng.random() < 0.95, warm_known=True)
        host.see(sighting(probe=probe))

    def _report(self) -> None:
        gpu = Gpu(name="gpu", vram_total_bytes=8 << 30, vram_used_bytes=self.rng.randrange(8 << 30))
        host = self.rng.choice(self.hosts)
        attempts = [assign for end, assign in self.open if end is host]
        host.beat(*attempts, resources=resources(cpu_percent=self.rng.choice((10.0, 95.0)), gpus=(gpu,)))

    def _submit(self) -> None:
        tier = self.rng.choice((Tier.trivial, Tier.standard, Tier.standard, Tier.complex))
        fields: dict[str, Any] = {"tier": tier, "repo": self.rng.choice((None, "https://example.org/one.git"))}
        if tier is Tier.trivial:
            fields["command"] = "true"
        if tier is Tier.standard:
            fields["model"] = self.rng.choice(MODELS)
            fields["allow"] = self.rng.choice(((), (Allowance.up,)))
        fields["prefers"] = self.rng.choice(((), ("big",)))
        self.rig.admin.submit(*(factories.task(**fields) for _ in range(self.rng.randrange(1, 4))))

    def _take(self) -> None:
        for host in self.hosts:
            for assign in [one for one in host.received if isinstance(one, m.Assign)]:
                host.received.remove(assign)
                host.accept(assign)
                self.open.append((host, assign))

    def _end(self) -> None:
        if not self.open:
            return
        host, assign = self.open.pop(self.rng.randrange(len(self.open)))
        if self.rng.random() < 0.2:
            host.fail(assign, factories.error(failure_class=ENDED, code="endpoint_error"))
        else:
            host.complete(assign, tokens_out=900, durations_ms={"first_byte": 200, "generate": 9_000})

    def _pass(self) -> None:
        self.rig.advance(self.rng.choice((500, 4_000, 20_000)))

    def _rule(self) -> None:
        change = self.rng.choice(("scoring.repository_ms", "scoring.wait_percent", "endpoints.retry_min"))
        self.rig.admin.ask(m.ConfigChange(set={change: self.rng.randrange(1, 900)}))
        key = self.rng.choice(("endpoint:ollama-box1", "repo:https://example.org/one.git"))
        self.rig.admin.ask(m.QueueLimit(key=key, number=self.rng.randrange(1, 4)))
