"""Where a task can run: the ways for the scheduler to choose from, and the decision as it is stored.

The scheduler picks the cheapest way (core/score.py); ties go to the agent idle longest, then to the lowest endpoint.
Why a host cannot take a task is said in core/refusal.py.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from agentcom import limits
from agentcom.clock import Now
from agentcom.config import Settings
from agentcom.core.agents import Agent, Fleet
from agentcom.core.fallbacks import Fallbacks
from agentcom.core.groups import raised
from agentcom.core.outlet import Outlet
from agentcom.core.refusal import ENDPOINT_FULL, Refusals
from agentcom.core.registry import Registry
from agentcom.core.retries import RetryBudgets
from agentcom.core.score import Candidate, EndpointCost, Scores, score_part
from agentcom.core.tasks import Tasks
from agentcom.core.wanted import Wanted, claude_lacks, held_model, is_offered, missing_need, model_of
from agentcom.model import (
    BACKEND_OF,
    BACKEND_OF_KIND,
    BACKENDS_OF,
    STRATEGY_OF,
    Allowance,
    EndpointKind,
    EndpointRecord,
    Group,
    Route,
    ScorePart,
    Strategy,
    strategy_of,
)


class Choices(NamedTuple):
    """The best ways in which tasks of one group could run in this tick, and the hosts that were refused, counted
    by failing condition."""

    group: Group
    best: list[tuple[Candidate, ScorePart]]
    refused: dict[str, int]


class Router:
    """Costs and refusals, from the fleet and the registry as they are now."""

    def __init__(
        self,
        out: Outlet,
        tasks: Tasks,
        fleet: Fleet,
        registry: Registry,
        retries: RetryBudgets,
        settings: Settings,
    ) -> None:
        self._fleet = fleet
        self._retries = retries
        self._registry = registry
        self.scores = Scores(fleet, registry, settings)
        self.refusals = Refusals(fleet, registry, retries, settings)
        self.fallbacks = Fallbacks(out, tasks.groups, self.refusals, settings)
        self.settings = settings

    def adopt(self, settings: Settings) -> None:
        """Let these settings apply."""
        for part in (self, self.scores, self.refusals, self.fallbacks):
            part.settings = settings

    def ways_of(self, wanted: Wanted, agents: list[Agent], now: Now) -> list[Candidate]:
        """How a task could start on one of these agents, which are free, or one step between tiers on where nobody can
        run it at all."""
        found = self._ways(*wanted, agents, now)
        if self.fallbacks.is_on:
            step = self.fallbacks.look(*wanted, bool(found), now)
            if step is not None:
                found = [
                    msgspec.structs.replace(way, stepped=step.tier)
                    for way in self._ways(step, wanted[1], agents, now)
                ]
        return [way for way in found if way.has_slot]

    def ways(self, group: Group, is_retry: bool, now: Now) -> list[Candidate]:
        """How a task of the group could run now, or what it could wait for, the best first. Changes nothing."""
        free = [agent for agent in self._fleet.agents.values() if agent.takes_work]
        found = self._ways(group, is_retry, free, now)
        return sorted(found, key=lambda way: (way.cost_us, way.agent.record.id))

    def may_escalate(self, group: Group) -> bool:
        """Whether tasks of the group may go on one tier above now: they allow it, and somebody could run them."""
        if strategy_of(group) is not Strategy.local_llm or Allowance.up not in group.allow:
            return False
        return not self.fallbacks.is_stranded(raised(group))

    def _ways(self, group: Group, is_retry: bool, agents: list[Agent], now: Now) -> list[Candidate]:
        agents = sorted(agents, key=lambda agent: (agent.since_ms, agent.record.id))
        if strategy_of(group) is Strategy.local_llm:
            return self._local_ways(group, is_retry, agents, now)
        return self._plain_ways(group, agents, now)

    def is_able(self, group: Group, agent: Agent) -> bool:
        """Whether the agent offers what the group needs, endpoints and other work aside."""
        offered = agent.record.backends
        has_backend = any(backend in offered for backend in BACKENDS_OF[strategy_of(group)])
        if group.repo and not agent.host.may_work_on(group.repo):
            return False
        return has_backend and missing_need(group, agent) is None

    def _able(self, group: Group, agents: list[Agent]) -> list[Agent]:
        """Those that offer what the group needs, endpoints aside."""
        return [one for one in agents if is_offered(group, one) and missing_need(group, one) is None]

    def _plain_ways(self, group: Group, agents: list[Agent], now: Now) -> list[Candidate]:
        """Work that calls no endpoint: one way per agent."""
        if claude_lacks(group):
            return []
        return [self.scores.without_endpoint(group, agent, now) for agent in self._able(group, agents)]

    def _local_ways(self, group: Group, is_retry: bool, agents: list[Agent], now: Now) -> list[Candidate]:
        """Work on a local model: one way per agent and endpoint that can take it, and one per full endpoint for tasks
        to wait for."""
        by_place = self._endpoint_costs(group, is_retry)
        found = [
            self.scores.with_endpoint(agent, group, at, now)
            for agent in (self._able(group, agents) if by_place else ())
            for place in (0, agent.host.record.id)
            for at in by_place.get(place, ())
            if at.has_slot and self._may_call(agent, at)
        ]
        if not found:
            return found  # nobody waits where none can run
        for place, costs in by_place.items():
            for at in costs:
                agent = None if at.has_slot else self._one_at(group, place, agents)
                if agent is not None:
                    found.append(self.scores.with_endpoint(agent, group, at, now))
        return found

    def _may_call(self, agent: Agent, at: EndpointCost) -> bool:
        """Whether the agent speaks the endpoint's language and its host reaches it."""
        endpoint = at.endpoint
        return BACKEND_OF_KIND[
            endpoint.kind
        ] in agent.record.backends and self._registry.circuits.is_way_open(endpoint.id, agent.host.record.id)

    def _endpoint_costs(self, group: Group, is_retry: bool) -> dict[int, list[EndpointCost]]:
        """The endpoints that can take the group's model, and those that lack a slot alone, by where they are seen."""
        model = model_of(group, self.settings)
        by_place: dict[int, list[EndpointCost]] = {}
        for endpoint in self._registry.endpoints.values():
            if endpoint.kind is EndpointKind.anthropic:
                continue
            home = self._fleet.hosts.get(endpoint.seen_from)
            refused = self.refusals.of_endpoint(endpoint, home, group, model, is_retry)
            if refused is None or refused[0] == ENDPOINT_FULL:
                cost = self.scores.of_endpoint(endpoint, model, home)
                by_place.setdefault(endpoint.seen_from, []).append(cost)
        return by_place

    def _one_at(self, group: Group, place: int, agents: list[Agent]) -> Agent | None:
        """Somebody who could use a full endpoint there later stands for all, busy or not."""
        host = self._fleet.hosts.get(place)
        near = host.agents.values() if host is not None else agents
        return next((one for one in near if one.is_open and self.is_able(group, one)), None)

    def choices(self, wanted: Wanted, ways: list[Candidate], refused: dict[str, int]) -> Choices:
        """What every decision for the group in this tick has in common; made once per group and tick. Of the ways
        the best come first, and one more than is shown counts, since the chosen one is left out of its own
        alternatives."""
        best = [(way, score_part(way)) for way in ways[: limits.HISTORY_OTHERS_MAX + 1]]
        return Choices(wanted[0], best, refused)

    def route(self, choices: Choices, chosen: Candidate, reason: str) -> Route:
        """The decision as it is stored, sent and published."""
        group = choices.group
        tier = chosen.stepped or group.tier
        strategy = strategy_of(group) if tier is group.tier else STRATEGY_OF[tier]
        endpoint = chosen.endpoint
        # The ways that were open at the start of the tick: some of them may have been taken by tasks before this.
        others = [
            score
            for way, score in choices.best
            if way.agent is not chosen.agent or way.endpoint is not chosen.endpoint
        ]
        return Route(
            strategy=strategy,
            backend=BACKEND_OF_KIND[endpoint.kind] if endpoint else BACKEND_OF[strategy],
            agent=chosen.agent.record.name,
            host=chosen.agent.host.record.name,
            model=chosen.model,
            endpoint=endpoint.name if endpoint else None,
            endpoint_url=endpoint.url if endpoint else None,
            num_ctx=self._num_ctx(endpoint, chosen.model) if endpoint else None,
            reason=reason,
            tier=tier,
            score=score_part(chosen),
            others=tuple(others[: limits.HISTORY_OTHERS_MAX]),
            refused=choices.refused,
            remote=chosen.remote,
        )

    def _num_ctx(self, endpoint: EndpointRecord, model: str) -> int | None:
        """The context that calls get there: what is asked for, or what a server of the other kind gives and says; None
        where it does not say."""
        if endpoint.num_ctx or endpoint.kind is EndpointKind.ollama:
            return endpoint.num_ctx or self.settings.models.num_ctx
        held = held_model(endpoint, model)
        return (held.context_length if held is not None else 0) or None

    def may_retry(self, group: Group) -> bool:
        """Whether some endpoint that a task of the group could use still gets retries."""
        if not self._retries.spent or strategy_of(group) is not Strategy.local_llm:
            return True
        model = model_of(group, self.settings)
        return any(
            endpoint.id not in self._retries.spent
            and endpoint.healthy
            and held_model(endpoint, model) is not None
            for endpoint in self._registry.endpoints.values()
        )
