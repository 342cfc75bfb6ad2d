"""Looking at endpoints as time passes: checks in cycles, cooldowns that end, models that are asked for a token.

What the hub sees is asked of the shell; what a host sees goes with the answer to its next heartbeat.
"""

from __future__ import annotations

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import Now
from agentcom.config import Settings
from agentcom.core.effects import AskModel, ProbeEndpoint
from agentcom.core.outlet import Outlet
from agentcom.core.registry import Registry


class EndpointWatch:
    """`turn` is called with each tick of timers; it is True when something may run now that could not before.
    `due_ms`: when the next cycle begins."""

    def __init__(self, out: Outlet, registry: Registry, settings: Settings) -> None:
        self._out = out
        self._registry = registry
        self.settings = settings
        self.due_ms = 0
        self._questions: dict[int, list[m.Question]] = {}  # by host

    def adopt(self, old: EndpointWatch) -> None:
        self.due_ms = old.due_ms
        self._questions = old._questions

    def hurry(self, now: Now) -> None:
        """The cycle may have become shorter."""
        self.due_ms = min(self.due_ms, now.mono_ms + self._every_ms)

    def turn(self, now: Now) -> bool:
        is_open = self._registry.circuits.look(now)
        for record, model, num_ctx in self._registry.questions(now):
            if record.seen_from == 0:
                self._out.add(AskModel(record.id, model, num_ctx))
            else:
                asked = m.Question(kind=record.kind, url=record.url, model=model, num_ctx=num_ctx)
                self._questions.setdefault(record.seen_from, []).append(asked)
        return self._cycle(now) or is_open

    def questions_for(self, host: int) -> tuple[m.Question, ...]:
        """What the host shall ask of its models; it is asked once, and again when no answer comes."""
        waiting = self._questions.get(host)
        if not waiting:
            return ()
        asked, left = waiting[: limits.QUESTIONS_PER_BEAT_MAX], waiting[limits.QUESTIONS_PER_BEAT_MAX :]
        if left:
            self._questions[host] = left
        else:
            del self._questions[host]
        return tuple(asked)

    def host_gone(self, host: int) -> None:
        self._questions.pop(host, None)

    @property
    def _every_ms(self) -> int:
        return int(self.settings.endpoints.probe_every_s * 1000)

    def _cycle(self, now: Now) -> bool:
        """One cycle of checks, when it is time."""
        if now.mono_ms < self.due_ms:
            return False
        self.due_ms = now.mono_ms + self._every_ms
        is_changed = self._registry.expire(self._every_ms, now)
        self._registry.save_measures(now)
        for endpoint in self._registry.hub_seen():
            self._out.add(ProbeEndpoint(endpoint.id))
        return is_changed
