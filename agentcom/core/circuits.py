"""What calls teach about endpoints: which are left alone for a while, as seen by all or by one host, and which models
hang.

Each failure has one culprit. The endpoint itself; the way to it from one host, where the hub finds it healthy; or one
model, when nothing comes although the server is well: a runner hangs, and the other models of that server do not.
A model that hangs gets no work until it has given a token again: it is asked for one after each cooldown, by the hub or
by the host that sees the endpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agentcom.clock import Now
from agentcom.config import Settings
from agentcom.core.breaker import Breakers
from agentcom.core.outlet import Outlet
from agentcom.model import EndpointKind, EndpointRecord, JsonObject

HANGS: Final = "no_first_byte"
UNREACHABLE: Final = "endpoint_unreachable"
# Failures that are the server's own; of others (the sidecar's, the model's name) it is not to blame.
BLAMED: Final = frozenset({
    UNREACHABLE, "endpoint_busy", "endpoint_error", "endpoint_timeout", "stream_cut", "stream_error", "stream_stalled",
    "bad_answer", "overloaded", "request_timeout",
})  # fmt: skip
QUESTION_GRACE_MS: Final = 30_000  # for the answer to travel, beyond the time that the model has
Place = tuple[int, int]  # endpoint, host
ModelPlace = tuple[int, str]  # endpoint, canonical model


class Circuits:
    """The circuits of endpoints, ways and models."""

    def __init__(self, out: Outlet, host_name: Callable[[int], str | None], settings: Settings) -> None:
        self._out = out
        self._host_name = host_name
        self.settings = settings
        self.endpoints: Breakers[int] = Breakers(self._bounds)
        self.ways: Breakers[Place] = Breakers(lambda: (1, *self._bounds()[1:]))
        self.models: Breakers[ModelPlace] = Breakers(lambda: (1, *self._bounds()[1:]))
        self.asked_ms: dict[ModelPlace, int] = {}  # models that were asked for a token, and when

    def adopt(self, old: Circuits, live: Callable[[int], bool]) -> None:
        self.endpoints.adopt(old.endpoints, live)
        self.ways.adopt(old.ways, lambda place: live(place[0]))
        self.models.adopt(old.models, lambda place: live(place[0]))
        self.asked_ms = {place: ms for place, ms in old.asked_ms.items() if live(place[0])}

    def failed(self, record: EndpointRecord, model: str, host: int, code: str, reason: str, now: Now) -> bool:
        """A call of an agent on the host has failed; True when a circuit opened."""
        if code == HANGS and record.healthy and record.kind is not EndpointKind.anthropic:
            if not self.models.failed((record.id, model), reason, now):
                return False
            self._tell("model_quarantined", record, model=model, reason=reason)
            return True
        if code == UNREACHABLE and record.healthy and record.seen_from != host:
            if not self.ways.failed((record.id, host), reason, now):
                return False
            self._tell("endpoint_unreachable_from", record, host=self._host_name(host) or "", reason=reason)
            return True
        if code not in BLAMED and code != HANGS:
            return False
        if not self.endpoints.failed(record.id, reason, now):
            return False
        self._tell("endpoint_tripped", record, reason=reason)
        return True

    def succeeded(self, record: EndpointRecord, model: str, host: int) -> bool:
        """The endpoint has answered a call; True when that closed a circuit."""
        if not (self.endpoints.circuits or self.ways.circuits or self.models.circuits):
            return False
        is_closed = self.endpoints.succeeded(record.id)
        if is_closed:
            self._tell("endpoint_restored", record)
        if self.ways.succeeded((record.id, host)):
            self._tell("endpoint_reached_from", record, host=self._host_name(host) or "")
            is_closed = True
        return self.released(record, model) or is_closed

    def released(self, record: EndpointRecord, model: str) -> bool:
        """The model has given a token; True when it was thought to hang."""
        self.asked_ms.pop((record.id, model), None)
        if not self.models.succeeded((record.id, model)):
            return False
        self._tell("model_released", record, model=model)
        return True

    def answered(self, record: EndpointRecord, model: str, reason: str, now: Now) -> bool:
        """A model that was asked for a token: an empty reason says that it gave one. True when its circuit changed."""
        place = record.id, model
        self.asked_ms.pop(place, None)
        if not reason:
            return self.released(record, model)
        if place in self.models.circuits:
            self.models.failed(place, reason, now)
        return False

    def due_questions(self, now: Now) -> list[ModelPlace]:
        """Models that are to be asked for a token now; each is asked again when no answer has come for long."""
        if not self.models.count_shut:
            return []
        patience_ms = int(self.settings.endpoints.question_s * 1000) + QUESTION_GRACE_MS
        due = [
            place
            for place in self.models.circuits
            if self.models.room(place, 1) and now.mono_ms - self.asked_ms.get(place, -patience_ms) >= patience_ms
        ]
        for place in due:
            self.asked_ms[place] = now.mono_ms
        return due

    def look(self, now: Now) -> bool:
        """Let time pass; True when something may be tried again."""
        if not (self.endpoints.count_shut or self.ways.count_shut or self.models.count_shut):
            return False
        self.models.look(now)
        ended: list[object] = [*self.endpoints.look(now), *self.ways.look(now)]
        return bool(ended)

    def next_due_ms(self) -> int | None:
        due = (self.endpoints.next_due_ms(), self.ways.next_due_ms(), self.models.next_due_ms())
        return min((one for one in due if one is not None), default=None)

    def began(self, endpoint: int, host: int) -> None:
        if self.endpoints.count_shut:
            self.endpoints.began(endpoint)
        if self.ways.count_shut:
            self.ways.began((endpoint, host))

    def ended(self, endpoint: int, host: int) -> None:
        if self.endpoints.count_shut:
            self.endpoints.ended(endpoint)
        if self.ways.count_shut:
            self.ways.ended((endpoint, host))

    def is_way_open(self, endpoint: int, host: int) -> bool:
        return not self.ways.count_shut or self.ways.room((endpoint, host), 1) > 0

    def is_quarantined(self, endpoint: int, model: str) -> bool:
        return self.models.count_shut > 0 and (endpoint, model) in self.models.circuits

    def forget(self, endpoint: int) -> None:
        """The endpoint is gone."""
        self.endpoints.forget([endpoint])
        self.ways.forget([place for place in self.ways.circuits if place[0] == endpoint])
        self.models.forget([place for place in self.models.circuits if place[0] == endpoint])
        for place in [place for place in self.asked_ms if place[0] == endpoint]:
            del self.asked_ms[place]

    def host_gone(self, host: int) -> None:
        self.ways.forget([place for place in self.ways.circuits if place[1] == host])

    def view(self, endpoint: int) -> JsonObject:
        """As people see them: of the endpoint, of the hosts that cannot reach it, of its models that hang."""
        circuit = self.endpoints.circuits.get(endpoint)
        return {
            "breaker": circuit.view() if circuit is not None else {"state": "closed"},
            "unreachable_from": [
                {"host": self._host_name(host), **one.view()}
                for (number, host), one in sorted(self.ways.circuits.items())
                if number == endpoint
            ],
            "quarantined": [
                {"model": model, **one.view()}
                for (number, model), one in sorted(self.models.circuits.items())
                if number == endpoint
            ],
        }

    def _bounds(self) -> tuple[int, int, int]:
        endpoints = self.settings.endpoints
        first_ms = int(endpoints.cooldown_s * 1000)
        return endpoints.breaker_failures, first_ms, max(first_ms, int(endpoints.cooldown_max_s * 1000))

    def _tell(self, event: str, record: EndpointRecord, **fields: str) -> None:
        self._out.publish("endpoint", event, id=record.id, name=record.name, **fields)
