"""A host made of a bare DEALER: it takes, accepts, beats and reports when a test says so, and never by itself."""

from __future__ import annotations

from typing import Any

from agentcom import messages as m
from agentcom.auth import HubAddress, KeyPair
from agentcom.model import TaskError, TaskResult
from tests import factories
from tests.fake_client import FakeClient


class FakeSidecar(FakeClient):
    """One host. `offer` is what it says of itself in hello."""

    def __init__(
        self,
        address: HubAddress,
        pair: KeyPair,
        offer: m.HostOffer | None = None,
        *,
        routing_id: bytes | None = None,
    ) -> None:
        super().__init__(address, pair, routing_id=routing_id)
        self.offer = offer or factories.host_offer()
        self.beats = 0

    def hello(self, *held: m.AttemptHeld, **fields: Any) -> m.Welcome:
        offer = m.HostOffer(
            name=self.offer.name,
            agents=self.offer.agents,
            capabilities=self.offer.capabilities,
            attempts=held,
        )
        self.welcome = super().hello(host=offer, **fields)
        return self.welcome

    def assigned(self) -> m.Assign:
        return self.expect(m.Assign)

    def accept(self, assign: m.Assign) -> m.Assign:
        self.send(m.Accept(session=self.token, task=assign.task, attempt=assign.attempt))
        return assign

    def take(self) -> m.Assign:
        """The next assignment, accepted, and the hub's word that it has read that."""
        assign = self.accept(self.assigned())
        self.beat(assign)
        return assign

    def beat(self, *assigns: m.Assign) -> m.Beat:
        self.beats += 1
        attempts = tuple(m.AttemptBeat(one.task, one.attempt) for one in assigns)
        self.send(m.Heartbeat(session=self.token, beat=self.beats, attempts=attempts))
        return self.expect(m.Beat)

    def is_silent(self) -> bool:
        self.beat()
        return self.received == []

    def held(self, assign: m.Assign, state: Any = "running") -> m.AttemptHeld:
        return m.AttemptHeld(task=assign.task, attempt=assign.attempt, state=state)

    def ended(
        self,
        assign: m.Assign,
        outcome: Any = "completed",
        result: TaskResult | None = None,
        error: TaskError | None = None,
    ) -> m.Result:
        """The report, not sent."""
        return m.Result(
            session=self.token,
            task=assign.task,
            attempt=assign.attempt,
            outcome=outcome,
            result=result,
            error=error,
        )

    def report(self, message: m.Result) -> str:
        self.send(message)
        return self.expect(m.ResultAck).verdict

    def complete(self, assign: m.Assign, **result: Any) -> str:
        return self.report(self.ended(assign, result=factories.result(**result)))

    def fail(self, assign: m.Assign, error: TaskError | None = None) -> str:
        return self.report(self.ended(assign, "failed", error=error or factories.error()))
