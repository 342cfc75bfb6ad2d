"""Calls of models that are in flight: which endpoint and model each attempt uses, so that the registry counts them.

The hub is the only dispatcher, so this is exact. A call ends with its attempt, or, where that was cancelled, when its
host has killed what was left of it.
"""

from __future__ import annotations

from agentcom.clock import Now
from agentcom.core.agents import Host
from agentcom.core.registry import Call, Registry, canonical_model
from agentcom.model import TaskResult

Place = tuple[int, int]  # task, attempt


class Calls(dict[Place, Call]):
    """(task, attempt) -> (endpoint, model, host)."""

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry = registry

    def began(self, place: Place, call: Call) -> None:
        self[place] = call
        self._registry.started(*call)

    def on_endpoint(self, place: Place, endpoint: int, model: str, host: int) -> None:
        call = self[place] = (endpoint, canonical_model(model), host)
        self._registry.started(*call)

    def on_account(self, place: Place, host: Host, model: str) -> None:
        """The call goes to the host's cloud account, where it is known."""
        if host.record.account in self._registry.endpoints:
            self.began(place, (host.record.account, model, host.record.id))

    def heard(self, place: Place) -> None:
        """Its model has begun to answer."""
        call = self.get(place)
        if call is not None:
            self._registry.heard(call)

    def answered(self, place: Place, result: TaskResult, now: Now) -> None:
        """What a complete call says of its endpoint and its model."""
        call = self.get(place)
        if call is not None:
            self._registry.call_answered(call, now)
            self._registry.measured(call, result)

    def end(self, place: Place) -> bool:
        """Whether there was one."""
        call = self.pop(place, None)
        if call is None:
            return False
        self._registry.ended(*call)
        return True
