"""Where a task can run, what that would cost, and why it cannot run elsewhere.

The cost of a candidate (agent, endpoint, model) is its expected finish time in integer microseconds: wait for a
slot + load time if the model is cold + expected tokens / rate, raised by the host's load and by recent failures
of the endpoint. The scheduler picks the cheapest; ties go to the agent idle longest, then to the lowest
endpoint. `explain` says for each host which condition fails first and the smallest change that would mend it.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import Struct

from agentcom import limits
from agentcom.clock import Now, rfc3339
from agentcom.config import Settings
from agentcom.core.agents import Agent, Fleet, Host, offers
from agentcom.core.registry import NO_ENDPOINT, Registry, canonical_model
from agentcom.core.retries import RetryBudgets
from agentcom.model import (
    BACKEND_OF,
    STRATEGY_OF,
    EndpointModel,
    EndpointRecord,
    Group,
    JsonObject,
    Route,
    ScorePart,
    Strategy,
)

S_US = 1_000_000
SHELL_US = 1 * S_US  # expected time of a shell task, until there is a measured one
TOKENS_EXPECTED = 1_000  # of a standard task's answer
TOKENS_PER_S = 30  # of a local model, until there is a measured rate
CLOUD_US = 30 * S_US
LOAD_BYTES_PER_S = 500_000_000  # a cold model is read from disk at about this speed
LOAD_US_MIN = 2 * S_US
PENALTY_US = 60 * S_US  # an endpoint, or a host without one, that failed in the last minute
BUSY_CPU_PERCENT = 90.0


Wanted = tuple[Group, bool]  # what a task asks for, and whether it has failed before


class Candidate(Struct, frozen=True, gc=False):
    """One way to run a task now."""

    agent: Agent
    endpoint: EndpointRecord | None
    model: str
    cost_us: int
    parts: dict[str, int]


class Choices(NamedTuple):
    """The best ways in which tasks of one group could run in this tick, and the hosts that were refused, counted
    by failing condition."""

    group: Group
    best: list[tuple[Candidate, ScorePart]]
    refused: dict[str, int]


@dataclass
class Board:
    """One tick's input to the scheduler: its arrays, and what their indexes stand for."""

    agents: list[Agent] = field(default_factory=list)
    slots: list[tuple[int, str]] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    cand_start: array[int] = field(default_factory=lambda: array("i", [0]))
    cand_agent: array[int] = field(default_factory=lambda: array("i"))
    cand_endpoint: array[int] = field(default_factory=lambda: array("i"))
    cand_cost_us: array[int] = field(default_factory=lambda: array("q"))
    agent_rank: array[int] = field(default_factory=lambda: array("q"))
    agent_free: array[int] = field(default_factory=lambda: array("i"))
    endpoint_free: array[int] = field(default_factory=lambda: array("i"))
    endpoint_step_us: array[int] = field(default_factory=lambda: array("q"))


class Router:
    """Costs and refusals, from the fleet and the registry as they are now."""

    def __init__(self, fleet: Fleet, registry: Registry, retries: RetryBudgets, settings: Settings) -> None:
        self._fleet = fleet
        self._retries = retries
        self._registry = registry
        self.settings = settings

    def model_of(self, group: Group) -> str:
        """The model a task of the group runs on; empty for shell work."""
        strategy = STRATEGY_OF[group.tier]
        if strategy is Strategy.trivial:
            return ""
        if strategy is Strategy.cloud_llm:
            return group.model or self.settings.models.complex
        return canonical_model(group.model or self.settings.models.standard)

    def board(self, groups: list[Wanted], agents: list[Agent], now: Now) -> Board:
        """The scheduler's input for these groups, in their order, over the agents that are free now."""
        board = Board()
        board.agents = sorted(agents, key=lambda a: (a.since_ms, a.record.id))
        board.agent_rank = array("q", range(len(agents)))
        board.agent_free = array("i", [1] * len(agents))
        slots: dict[tuple[int, str], int] = {}
        for group, is_retry in groups:
            if STRATEGY_OF[group.tier] is Strategy.local_llm:
                self._add_local(board, group, is_retry, slots, now)
            else:
                self._add_plain(board, group, now)
            board.cand_start.append(len(board.candidates))
        return board

    def is_able(self, group: Group, agent: Agent) -> bool:
        """Whether the agent offers what the group needs, endpoints and other work aside."""
        backend = BACKEND_OF[STRATEGY_OF[group.tier]]
        return backend in agent.record.backends and self._missing_need(group, agent) is None

    def _able(self, board: Board, group: Group) -> Iterator[tuple[int, Agent]]:
        """Index and agent of those that offer what the group needs, endpoints aside."""
        backend = BACKEND_OF[STRATEGY_OF[group.tier]]
        for index, agent in enumerate(board.agents):
            if backend not in agent.record.backends or backend in agent.host.blocks:
                continue
            if self._missing_need(group, agent) is None:
                yield index, agent

    def _add_plain(self, board: Board, group: Group, now: Now) -> None:
        """Work that needs no endpoint: one way per agent, at a cost that the agents of a host share."""
        run_us = SHELL_US if STRATEGY_OF[group.tier] is Strategy.trivial else CLOUD_US
        model = self.model_of(group) or "none"
        costs: dict[int, tuple[int, dict[str, int]]] = {}
        for index, agent in self._able(board, group):
            host = agent.host
            cost = costs.get(host.record.id)
            if cost is None:
                load_us = _host_load_us(host)
                failed_us = PENALTY_US if self._registry.penalised(NO_ENDPOINT, host.record.id, now) else 0
                parts = {"run": run_us, "host_load": load_us}
                if failed_us:
                    parts["recent_failure"] = failed_us
                cost = run_us + load_us + failed_us, parts
                costs[host.record.id] = cost
            board.candidates.append(Candidate(agent, None, model, *cost))
            board.cand_agent.append(index)
            board.cand_endpoint.append(-1)
            board.cand_cost_us.append(cost[0])

    def _add_local(
        self, board: Board, group: Group, is_retry: bool, slots: dict[tuple[int, str], int], now: Now
    ) -> None:
        """Work on a local model: one way per agent and endpoint that can take it."""
        model = self.model_of(group)
        for index, agent in self._able(board, group):
            load_us = _host_load_us(agent.host)
            for endpoint in self._registry.endpoints.values():
                if self._endpoint_refusal(endpoint, agent.host, model, is_retry) is not None:
                    continue
                candidate = self._endpoint_candidate(agent, endpoint, model, load_us, now)
                board.candidates.append(candidate)
                board.cand_agent.append(index)
                board.cand_endpoint.append(self._slot(board, slots, candidate))
                board.cand_cost_us.append(candidate.cost_us)

    def choices(self, wanted: Wanted, ways: list[Candidate]) -> Choices:
        """What every decision for the group in this tick has in common; made once per group and tick."""
        ranked = sorted(ways, key=lambda c: (c.cost_us, c.agent.record.id))
        # One more than is shown, since the chosen one is left out of its own alternatives.
        best = [(way, _score(way)) for way in ranked[: limits.HISTORY_OTHERS_MAX + 1]]
        return Choices(wanted[0], best, self._refused_counts(*wanted))

    def route(self, choices: Choices, chosen: Candidate, reason: str) -> Route:
        """The decision as it is stored, sent and published."""
        group = choices.group
        strategy = STRATEGY_OF[group.tier]
        endpoint = chosen.endpoint
        # The ways that were open at the start of the tick: some of them may have been taken by tasks before this.
        others = [score for way, score in choices.best if way is not chosen]
        return Route(
            strategy=strategy,
            backend=BACKEND_OF[strategy],
            agent=chosen.agent.record.name,
            host=chosen.agent.host.record.name,
            model=chosen.model,
            endpoint=endpoint.name if endpoint else None,
            endpoint_url=endpoint.url if endpoint else None,
            num_ctx=(endpoint.num_ctx or self.settings.models.num_ctx) if endpoint else None,
            reason=reason,
            tier=group.tier,
            score=_score(chosen),
            others=tuple(others[: limits.HISTORY_OTHERS_MAX]),
            refused=choices.refused,
        )

    def explain(self, group: Group, is_retry: bool = False) -> list[JsonObject]:
        """Per host: the first condition that fails, and the smallest change that would let the task run."""
        return [self._explain_host(group, host, is_retry) for _, host in sorted(self._fleet.hosts.items())]

    def may_retry(self, group: Group) -> bool:
        """Whether some endpoint that a task of the group could use still gets retries."""
        if not self._retries.spent or STRATEGY_OF[group.tier] is not Strategy.local_llm:
            return True
        model = self.model_of(group)
        return any(
            endpoint.id not in self._retries.spent
            and endpoint.healthy
            and self._find(endpoint, model) is not None
            for endpoint in self._registry.endpoints.values()
        )

    def _refused_counts(self, group: Group, is_retry: bool) -> dict[str, int]:
        counts: dict[str, int] = {}
        for explained in self.explain(group, is_retry):
            if explained["fails"]:
                counts[explained["fails"]] = counts.get(explained["fails"], 0) + 1
        return counts

    def _explain_host(self, group: Group, host: Host, is_retry: bool) -> JsonObject:
        fails, message, change = self._host_refusal(group, host, is_retry) or ("", "it can run here now", "")
        return {"host": host.record.name, "fails": fails, "message": message, "change": change}

    def _host_refusal(self, group: Group, host: Host, is_retry: bool) -> tuple[str, str, str] | None:
        name = host.record.name
        if not host.online:
            return "host_offline", f"{name} is not connected", f"start `agentcom sidecar` on {name}"
        if host.record.draining:
            return "host_draining", f"{name} is draining", f"agentcom host drain {name} --undo"
        if host.paused:
            return "host_paused", f"{name} is paused", f"agentcom queue resume --host {name}"
        kept = _kept_free(group, host)
        if kept is not None:
            return kept
        agents = [a for a in self._fleet.agents_of(host) if a.offered]
        backend = BACKEND_OF[STRATEGY_OF[group.tier]]
        able = [a for a in agents if offers(a, backend)]
        if not able:
            return f"no_{backend}", f"no agent on {name} offers {backend}", _backend_remedy(backend, name)
        block = host.blocks.get(backend)
        if block is not None:
            return (
                "backend_blocked",
                f"{backend} on {name} cannot be used until {rfc3339(block.until_wall_ms)}: {block.reason}",
                "wait, or give another host a key",
            )
        fitting = [a for a in able if self._missing_need(group, a) is None]
        if not fitting:
            need = self._missing_need(group, able[0])
            return (
                "need_missing",
                f"no agent on {name} has {need}",
                f"add {need} to sidecar.capabilities on {name}",
            )
        if STRATEGY_OF[group.tier] is Strategy.local_llm:
            refused = self._host_endpoint_refusal(group, host, is_retry)
            if refused is not None:
                return refused
        return self._agents_refusal(name, fitting)

    @staticmethod
    def _agents_refusal(host: str, agents: list[Agent]) -> tuple[str, str, str] | None:
        if any(a.takes_work for a in agents):
            return None
        open_agents = [a for a in agents if not a.record.cordoned]
        if not open_agents:
            first = agents[0].record.name
            return (
                "agent_cordoned",
                f"every fitting agent on {host} is cordoned",
                f"agentcom agent uncordon {first}",
            )
        if all(a.unresponsive for a in open_agents):
            return (
                "agent_unresponsive",
                f"the agents on {host} do not take assignments",
                f"restart the sidecar on {host}",
            )
        tasks = ", ".join(str(a.task) for a in open_agents if a.task)
        return (
            "agents_busy",
            f"every fitting agent on {host} is busy (tasks {tasks})",
            "wait, or add agents (sidecar.agents)",
        )

    def _host_endpoint_refusal(self, group: Group, host: Host, is_retry: bool) -> tuple[str, str, str] | None:
        model = self.model_of(group)
        refusals = [
            refused
            for endpoint in self._registry.endpoints.values()
            if (refused := self._endpoint_refusal(endpoint, host, model, is_retry))
            != ("endpoint_elsewhere", "", "")
        ]
        if not refusals:
            add = f"agentcom endpoint add URL --host {host.record.name}, or start Ollama there"
            return "no_endpoint", f"{host.record.name} reaches no LLM endpoint", add
        if any(r is None for r in refusals):
            return None
        # The endpoint that comes nearest speaks for the host: a full one has all but a slot.
        nearest = ("endpoint_full", "limit_reached", "retry_budget", "model_missing", "endpoint_unhealthy")
        return min((r for r in refusals if r is not None), key=lambda r: nearest.index(r[0]))

    def _endpoint_refusal(
        self, endpoint: EndpointRecord, host: Host, model: str, is_retry: bool
    ) -> tuple[str, str, str] | None:
        if endpoint.seen_from not in (0, host.record.id):
            return "endpoint_elsewhere", "", ""
        if not endpoint.healthy:
            return (
                "endpoint_unhealthy",
                f"{endpoint.name} is not healthy: {endpoint.reason}",
                f"start the server at {endpoint.url}",
            )
        if self._find(endpoint, model) is None:
            return (
                "model_missing",
                f"{endpoint.name} does not have {model}",
                f"ollama pull {model} at {endpoint.url}",
            )
        if is_retry and endpoint.id in self._retries.spent:
            used, allowed = self._retries.used(endpoint.id)
            return (
                "retry_budget",
                f"{endpoint.name} had {used} retries of {allowed} in {self.settings.endpoints.retry_window_s:g} s",
                f"mend the server at {endpoint.url}, or wait; see endpoints.retry_percent",
            )
        if self._registry.in_flight.get((endpoint.id, model), 0) >= endpoint.cap:
            return (
                "endpoint_full",
                f"{endpoint.name} already runs {endpoint.cap} of {model}",
                f"wait, or agentcom endpoint update {endpoint.name} --cap {endpoint.cap + 1}",
            )
        if self._registry.is_full(endpoint.id):
            allowed = self._registry.limits[endpoint.id]
            return (
                "limit_reached",
                f"{endpoint.name} already runs {allowed}, its limit",
                f"wait, or agentcom queue limit set endpoint:{endpoint.name} {allowed + 1}",
            )
        return None

    @staticmethod
    def _missing_need(group: Group, agent: Agent) -> str | None:
        if not group.needs:
            return None
        have = {*agent.record.capabilities, *agent.host.record.capabilities}
        have |= {f"agent:{agent.record.name}", f"host:{agent.host.record.name}"}
        return next((need for need in group.needs if need not in have), None)

    @staticmethod
    def _find(endpoint: EndpointRecord, model: str) -> EndpointModel | None:
        return next(
            (one for one in endpoint.models if canonical_model(one.name) == model and not one.remote), None
        )

    def _endpoint_candidate(
        self, agent: Agent, endpoint: EndpointRecord, model: str, host_us: int, now: Now
    ) -> Candidate:
        held = self._find(endpoint, model)
        assert held is not None, f"{endpoint.name} lost {model} within one tick"
        run_us = TOKENS_EXPECTED * S_US // TOKENS_PER_S
        load_us = 0 if held.warm else max(LOAD_US_MIN, held.size_bytes * S_US // LOAD_BYTES_PER_S)
        wait_us = self._registry.in_flight.get((endpoint.id, model), 0) * run_us // endpoint.cap
        busy_us = sum(
            n for (e, other), n in self._registry.in_flight.items() if e == endpoint.id and other != model
        )
        failed_us = PENALTY_US if self._registry.penalised(endpoint.id, agent.host.record.id, now) else 0
        resources = agent.host.record.resources
        if (
            resources is not None
            and resources.cpu_percent is not None
            and resources.cpu_percent >= BUSY_CPU_PERCENT
        ):
            # One step, not a slope: two readings a moment apart must not decide between equal hosts.
            host_us += run_us // 2
        parts = {
            "run": run_us,
            "load": load_us,
            "wait": wait_us + busy_us * run_us,
            "recent_failure": failed_us,
            "host_load": host_us,
        }
        return Candidate(agent, endpoint, held.name, sum(parts.values()), parts)

    def _slot(self, board: Board, index: dict[tuple[int, str], int], candidate: Candidate) -> int:
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


def _host_load_us(host: Host) -> int:
    """What the work that a host already does adds to the expected time of more."""
    return host.busy_count * S_US // 4


def _kept_free(group: Group, host: Host) -> tuple[str, str, str] | None:
    """What tasks that have to run alone mean for the host."""
    name, wait = host.record.name, "wait, or add a host"
    if group.alone:
        if host.busy_count:
            said = f"the task has lost workers and has to run alone, {name} runs others"
            return "host_not_idle", said, wait
        return None
    if host.alone:
        return "host_reserved", f"{name} runs a task that has lost workers, alone", wait
    if host.reserved_for:
        said = (
            f"{name} is kept free for task {host.reserved_for}, which has lost workers and has to run alone"
        )
        return "host_reserved", said, wait
    return None


def _score(candidate: Candidate) -> ScorePart:
    return ScorePart(
        agent=candidate.agent.record.name,
        host=candidate.agent.host.record.name,
        endpoint=candidate.endpoint.name if candidate.endpoint else None,
        cost_us=candidate.cost_us,
        parts=candidate.parts,
    )


def _backend_remedy(backend: str, host: str) -> str:
    if backend == "claude":
        return f"set ANTHROPIC_API_KEY or anthropic.key_file on {host} and restart its sidecar"
    return f"restart the sidecar on {host}; it offers {backend} by default"
