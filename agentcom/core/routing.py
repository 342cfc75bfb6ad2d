"""Where a task can run: the ways for the scheduler to choose from, and the decision as it is stored.

The scheduler picks the cheapest way (core/score.py); ties go to the agent idle longest, then to the lowest endpoint.
Why a host cannot take a task is said in core/refusal.py.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
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
from agentcom.core.registry import Registry, canonical_model
from agentcom.core.retries import RetryBudgets
from agentcom.core.score import Candidate, EndpointCost, Scores, score_part
from agentcom.core.tasks import Tasks
from agentcom.core.wanted import Wanted, claude_lacks, held_model, is_offered, missing_need, model_of
from agentcom.core.ways import Ways
from agentcom.model import (
    BACKEND_OF,
    BACKEND_OF_KIND,
    BACKENDS_OF,
    STRATEGY_OF,
    Allowance,
    EndpointKind,
    Group,
    Route,
    ScorePart,
    Strategy,
    Tier,
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

    def board(self, groups: list[Wanted], agents: list[Agent], now: Now) -> Ways:
        """The scheduler's input for these groups, in their order, over the agents that are free now."""
        board = Ways()
        board.agents = sorted(agents, key=lambda a: (a.since_ms, a.record.id))
        board.agent_rank = array("q", range(len(agents)))
        board.agent_free = array("i", [1] * len(agents))
        slots: dict[tuple[int, str], int] = {}
        for group, is_retry in groups:
            start = len(board.candidates)
            self._add(board, group, is_retry, slots, now)
            if self.fallbacks.is_on:
                step = self.fallbacks.look(group, is_retry, len(board.candidates) > start, now)
                if step is not None:
                    self._add(board, step, is_retry, slots, now)
                    board.candidates[start:] = [
                        msgspec.structs.replace(way, stepped=step.tier) for way in board.candidates[start:]
                    ]
            board.cand_start.append(len(board.candidates))
        return board

    def ways(self, group: Group, is_retry: bool, now: Now) -> list[Candidate]:
        """How a task of the group could run now, or what it could wait for, the best first. Changes nothing."""
        board = Ways()
        free = [agent for agent in self._fleet.agents.values() if agent.takes_work]
        board.agents = sorted(free, key=lambda agent: (agent.since_ms, agent.record.id))
        board.agent_rank = array("q", range(len(free)))
        board.agent_free = array("i", [1] * len(free))
        self._add(board, group, is_retry, {}, now)
        return sorted(board.candidates, key=lambda way: (way.cost_us, way.agent.record.id))

    def may_escalate(self, group: Group) -> bool:
        """Whether tasks of the group may go on one tier above now: they allow it, somebody could run them, and a budget
        would pay."""
        if group.tier is not Tier.standard or Allowance.up not in group.allow:
            return False
        above = raised(group)
        return self.fallbacks.may_pay(above) and not self.fallbacks.is_stranded(above)

    def _add(
        self, board: Ways, group: Group, is_retry: bool, slots: dict[tuple[int, str], int], now: Now
    ) -> None:
        if STRATEGY_OF[group.tier] is Strategy.local_llm:
            self._add_local(board, group, is_retry, slots, now)
        else:
            self._add_plain(board, group, now)

    def is_able(self, group: Group, agent: Agent) -> bool:
        """Whether the agent offers what the group needs, endpoints and other work aside."""
        offered = agent.record.backends
        has_backend = any(backend in offered for backend in BACKENDS_OF[STRATEGY_OF[group.tier]])
        return has_backend and missing_need(group, agent) is None

    def _able(self, board: Ways, group: Group) -> Iterator[tuple[int, Agent]]:
        """Index and agent of those that offer what the group needs, endpoints aside."""
        for index, agent in enumerate(board.agents):
            if is_offered(group, agent) and missing_need(group, agent) is None:
                yield index, agent

    def _add_plain(self, board: Ways, group: Group, now: Now) -> None:
        """Work that needs no endpoint: one way per agent, at a cost that the agents of a host share."""
        model = model_of(group, self.settings) or "none"
        if claude_lacks(group):
            return
        costs: dict[int, tuple[int, dict[str, int]]] = {}
        for index, agent in self._able(board, group):
            cost = costs.get(agent.host.record.id)
            if cost is None:
                cost = costs[agent.host.record.id] = self.scores.plain(group, agent.host, now)
            if group.prefers:
                cost = self.scores.preferring(group, agent, cost)
            board.candidates.append(Candidate(agent, None, model, *cost))
            board.cand_agent.append(index)
            board.cand_endpoint.append(-1)
            board.cand_cost_us.append(cost[0])

    def _add_local(
        self, board: Ways, group: Group, is_retry: bool, slots: dict[tuple[int, str], int], now: Now
    ) -> None:
        """Work on a local model: one way per agent and endpoint that can take it, and one per full endpoint for tasks
        to wait for."""
        by_place = self._endpoint_costs(group, is_retry)
        if not by_place:
            return
        start = len(board.candidates)
        for index, agent in self._able(board, group):
            for place in (0, agent.host.record.id):
                for at in by_place.get(place, ()):
                    if at.has_slot and self._may_call(agent, at):
                        self._add_call(board, slots, index, self.scores.with_endpoint(agent, group, at, now))
        if len(board.candidates) == start:
            return  # nobody waits where none can run
        for place, costs in by_place.items():
            for at in costs:
                if not at.has_slot:
                    self._add_wait(board, group, slots, place, at, now)

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

    def _add_wait(
        self,
        board: Ways,
        group: Group,
        slots: dict[tuple[int, str], int],
        place: int,
        at: EndpointCost,
        now: Now,
    ) -> None:
        """A full endpoint: somebody who could use it later stands for all, busy or not."""
        host = self._fleet.hosts.get(place)
        agents = host.agents.values() if host is not None else board.agents
        agent = next((one for one in agents if one.is_open and self.is_able(group, one)), None)
        if agent is None:
            return
        index = next((n for n, one in enumerate(board.agents) if one is agent), len(board.agents))
        if index == len(board.agents):
            board.agents.append(agent)
            board.agent_rank.append(index)
            board.agent_free.append(0)
        self._add_call(board, slots, index, self.scores.with_endpoint(agent, group, at, now))

    def _add_call(
        self, board: Ways, slots: dict[tuple[int, str], int], index: int, candidate: Candidate
    ) -> None:
        board.candidates.append(candidate)
        board.cand_agent.append(index)
        board.cand_endpoint.append(self._slot(board, slots, candidate))
        board.cand_cost_us.append(candidate.cost_us)

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
        strategy = STRATEGY_OF[tier]
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
            num_ctx=(endpoint.num_ctx or self.settings.models.num_ctx) if endpoint else None,
            reason=reason,
            tier=tier,
            score=score_part(chosen),
            others=tuple(others[: limits.HISTORY_OTHERS_MAX]),
            refused=choices.refused,
        )

    def may_retry(self, group: Group) -> bool:
        """Whether some endpoint that a task of the group could use still gets retries."""
        if not self._retries.spent or STRATEGY_OF[group.tier] is not Strategy.local_llm:
            return True
        model = model_of(group, self.settings)
        return any(
            endpoint.id not in self._retries.spent
            and endpoint.healthy
            and held_model(endpoint, model) is not None
            for endpoint in self._registry.endpoints.values()
        )

    def _slot(self, board: Ways, index: dict[tuple[int, str], int], candidate: Candidate) -> int:
        if candidate.endpoint is None:
            return -1
        model = canonical_model(candidate.model)
        slot = (candidate.endpoint.id, model)
        if slot not in index:
            index[slot] = len(board.slots)
            board.slots.append(slot)
            free = candidate.endpoint.cap - self._registry.in_flight.get(slot, 0)
            board.endpoint_free.append(self._registry.room(candidate.endpoint.id, free))
            board.endpoint_step_us.append(candidate.parts["run"] // candidate.endpoint.cap)
        return index[slot]
