"""Models that are being loaded ahead of tasks: asked for, answered, failed, given up.

One on an endpoint at a time. Each ends: by an answer, by its time, or with the session of the host that was asked. One
that failed is left alone for a while, longer each time, and forgotten when nobody wants the model any more. In memory:
after a start of the hub what loads on goes on, and the next check says so.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import NamedTuple

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import Now, rfc3339
from agentcom.config import Settings
from agentcom.core.breaker import Breakers
from agentcom.core.effects import LoadModel
from agentcom.core.loads import ModelPlace
from agentcom.core.outlet import Outlet
from agentcom.core.registry import Registry, canonical_model
from agentcom.model import EndpointModel, EndpointRecord, ModelAnswer


class Preload(NamedTuple):
    """One that was asked for. `host` 0: of the hub itself; `task` wanted it; `due_ms`: when it is given up."""

    endpoint: int
    model: str
    host: int
    task: int
    due_ms: int


class Preloads:
    """What is being loaded ahead, by endpoint. `peer_of` gives the address of a host's session."""

    def __init__(
        self, out: Outlet, registry: Registry, peer_of: Callable[[int], int | None], settings: Settings
    ) -> None:
        self._out = out
        self._registry = registry
        self._peer_of = peer_of
        self.settings = settings
        self.open: dict[int, Preload] = {}
        self.failed: Breakers[ModelPlace] = Breakers(
            lambda: (1, limits.PRELOAD_WAIT_MS, limits.PRELOAD_WAIT_MS_MAX)
        )
        registry.on_gone = self.forget

    def adopt(self, old: Preloads) -> None:
        self.failed.adopt(old.failed, lambda place: place[0] in self._registry.endpoints)
        for place, one in old.open.items():
            if place in self._registry.endpoints and self._peer(one.host) is not None:
                self.open[place] = one
            else:
                self._registry.loads.drop((place, one.model))

    def is_left_alone(self, place: ModelPlace, now: Now) -> bool:
        """Whether loading the model there has failed lately."""
        self.failed.look(now)
        return not self.failed.room(place, 1)

    def begin(self, record: EndpointRecord, held: EndpointModel, task: int, now: Now) -> None:
        """Ask whoever sees the endpoint to load the model as tasks will: with their context length."""
        preload, model = self.settings.preload, canonical_model(held.name)
        due_ms = now.mono_ms + int(preload.load_s * 1000) + limits.PRELOAD_GRACE_MS
        self.open[record.id] = Preload(record.id, model, record.seen_from, task, due_ms)
        self._registry.loads.began((record.id, model), now, is_preload=True)
        num_ctx = record.num_ctx or self.settings.models.num_ctx
        if record.seen_from == 0:
            self._out.add(LoadModel(record.id, held.name, num_ctx, preload.keep_s, preload.load_s))
        else:
            peer = self._peer_of(record.seen_from)
            assert peer is not None, f"{record.name} is on a host without a session"
            asked = m.Preload(
                url=record.url, model=held.name, num_ctx=num_ctx, keep_s=preload.keep_s, load_s=preload.load_s
            )
            self._out.send(peer, asked)
        self._tell("model_preloading", record, model, task=task)

    def host_answered(self, host: int, answer: ModelAnswer, now: Now) -> bool:
        """As `answered`, of an endpoint that the host sees."""
        one = next((e for e in self._registry.endpoints.values() if e.seen_from == host and e.url == answer.url), None)
        return one is not None and self.answered(one, answer, now)

    def answered(self, record: EndpointRecord, answer: ModelAnswer, now: Now) -> bool:
        """What came of it: an empty reason says that the model is loaded. False for one that nobody waits for."""
        model = canonical_model(answer.model)
        one = self.open.get(record.id)
        if one is None or one.model != model:
            return False
        if answer.reason:
            self._fail(record, one, answer.reason, now)
            return True
        del self.open[record.id]
        self.failed.forget([(record.id, model)])
        self._registry.preloaded(record, model, answer.duration_ms)
        self._tell("model_preloaded", record, model, load_s=answer.duration_ms / 1000)
        return True

    def expire(self, now: Now) -> None:
        """Give up those of which nothing was heard for too long."""
        for one in [one for one in self.open.values() if one.due_ms <= now.mono_ms]:
            reason = f"nothing was heard of it within {self.settings.preload.load_s:g} s"
            self._fail(self._registry.endpoints[one.endpoint], one, reason, now)

    def host_left(self, host: int) -> None:
        """Its session has ended, and with it what it was asked: that is nobody's fault."""
        for one in [one for one in self.open.values() if one.host == host]:
            self.forget(one.endpoint)

    def forget(self, endpoint: int) -> None:
        """The endpoint is gone, or nobody is left to answer."""
        one = self.open.pop(endpoint, None)
        if one is not None:
            self._registry.loads.drop((endpoint, one.model))
            self._registry.touched.add(endpoint)
        if endpoint not in self._registry.endpoints:
            self.failed.forget([place for place in self.failed.circuits if place[0] == endpoint])

    def forget_unwanted(self, wanted: Container[str]) -> None:
        """Failures with models that no task wants any more count no longer."""
        self.failed.forget([place for place in self.failed.circuits if place[1] not in wanted])

    def _fail(self, record: EndpointRecord, one: Preload, reason: str, now: Now) -> None:
        place = one.endpoint, one.model
        del self.open[one.endpoint]
        self.failed.failed(place, reason, now)
        self._registry.loads.drop(place)
        self._registry.changed(record)
        until = rfc3339(self.failed.circuits[place].until_wall_ms)
        self._tell("model_preload_failed", record, one.model, reason=reason, until=until)

    def _peer(self, host: int) -> int | None:
        return self._peer_of(host) if host else 0

    def _tell(self, event: str, record: EndpointRecord, model: str, **fields: object) -> None:
        host = self._registry.host_name(record.seen_from) if record.seen_from else None
        self._registry.changed(record)
        self._out.publish("endpoint", event, id=record.id, name=record.name, host=host, model=model, **fields)
