"""The policies that the fleet is given to: the product's own, and what is usual elsewhere, as costs of the same ways.

Only the order of preference differs: queue, fair shares, leases, refusals and the scheduling core are the product's
under each. The others wait for no full endpoint: a call costs them no time.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from agentcom.clock import Now
from agentcom.core.agents import Agent, Host
from agentcom.core.hub import Hub
from agentcom.core.registry import Registry
from agentcom.core.score import Candidate, EndpointCost, Scores, plain_run_us
from agentcom.model import EndpointRecord, Group

Judge = Callable[[Registry, EndpointCost], int]
COLD_US: Final = 10**9  # beyond any count of calls
CALL_US: Final = 1_000
TASK_US: Final = 1  # of two equal places the one whose host runs less
OWN: Final = "expected_finish_time"


def least_connections(registry: Registry, at: EndpointCost) -> int:
    """The endpoint with the fewest calls."""
    return registry.calls_on(at.endpoint.id) * CALL_US


def warm_first(registry: Registry, at: EndpointCost) -> int:
    """One that has the model loaded, else any; of those the one with the fewest calls."""
    return (COLD_US if at.load_us else 0) + least_connections(registry, at)


class PolicyScores(Scores):
    """Costs by another rule."""

    def __init__(self, hub: Hub, judge: Judge) -> None:
        super().__init__(hub.fleet, hub.registry, hub.settings)
        self._judge = judge

    @property
    def busy_step_us(self) -> int:
        return TASK_US

    def step_us(self, at: EndpointCost) -> int:
        return 0

    def plain(self, group: Group, host: Host, now: Now) -> tuple[int, dict[str, int]]:
        parts = {"run": plain_run_us(group, self.policy), "host_load": self.busy_us(host)}
        return sum(parts.values()), parts

    def of_endpoint(self, endpoint: EndpointRecord, model: str, home: Host | None) -> EndpointCost:
        at = super().of_endpoint(endpoint, model, home)
        cost_us = self._judge(self._registry, at)
        return at._replace(run_us=0, load_us=0, wait_us=cost_us)

    def with_endpoint(self, agent: Agent, group: Group, at: EndpointCost, now: Now) -> Candidate:
        parts = {"wait": at.wait_us, "host_load": self.busy_us(agent.host)}
        return Candidate(agent, at.endpoint, at.model.name, sum(parts.values()), parts, at.has_slot)


def use(hub: Hub, policy: str, seed: int) -> None:
    """Let the hub prefer by that policy from now on."""
    if policy == OWN:
        return
    rng = random.Random(seed)
    judges: dict[str, Judge] = {
        "least_connections": least_connections,
        "warm_first": warm_first,
        "random": lambda _registry, _at: rng.randrange(COLD_US),
    }
    hub.router.scores = hub.board.scores = PolicyScores(hub, judges[policy])
    hub.board.reset()


POLICIES: Final = (OWN, "least_connections", "warm_first", "random")
