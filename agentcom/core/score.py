"""What it costs to run a task somewhere: its expected finish time, in integer microseconds.

Wait for a slot + load time if the model is cold + expected tokens / rate, raised by the host's load, by memory in which
the model hardly fits, by a repository that is not there and by recent failures of the endpoint. The parts are kept by
name, for people. Each is bounded, so that no figure that a host or a server gives can be more than a bad score.
What nobody measures, and how much the parts weigh, is the policy: the settings of [scoring].
"""

from __future__ import annotations

from typing import Final, NamedTuple

from msgspec import Struct

from agentcom.clock import Now
from agentcom.config import ScoringSettings, Settings
from agentcom.core import estimates
from agentcom.core.agents import Agent, Fleet, Host
from agentcom.core.estimates import MS_US, S_US
from agentcom.core.registry import NO_ENDPOINT, Registry
from agentcom.core.wanted import held_model, is_warm, missing_preferences, model_misses, model_of
from agentcom.model import (
    EndpointModel,
    EndpointRecord,
    Group,
    ScorePart,
    Strategy,
    Tier,
    strategy_of,
)

WAIT_US_MAX: Final = 7 * 24 * 3600 * S_US


class Candidate(Struct, frozen=True, gc=False):
    """One way to run a task now."""

    agent: Agent
    endpoint: EndpointRecord | None
    model: str
    cost_us: int
    parts: dict[str, int]
    has_slot: bool = True  # else it can only be waited for
    stepped: Tier | None = None  # the tier that it is on, where that is not the task's own
    remote: bool = False  # a third party runs the model, behind the endpoint


class EndpointCost(NamedTuple):
    """What the endpoint's side of a way costs, whoever uses it."""

    endpoint: EndpointRecord
    model: EndpointModel
    run_us: int
    load_us: int
    wait_us: int
    has_slot: bool


class Scores:
    """Costs of candidates, from the registry as it is now."""

    def __init__(self, fleet: Fleet, registry: Registry, settings: Settings) -> None:
        self._fleet = fleet
        self._registry = registry
        self.settings = settings

    @property
    def policy(self) -> ScoringSettings:
        return self.settings.scoring

    @property
    def busy_step_us(self) -> int:
        """What each task that a host runs adds to the time of the next."""
        return self.settings.scoring.busy_step_ms * MS_US

    def busy_us(self, host: Host) -> int:
        """What the tasks that the host runs add to the time of the next: a step for each."""
        return host.busy_count * self.busy_step_us

    def plain(self, group: Group, host: Host, now: Now) -> tuple[int, dict[str, int]]:
        """The cost of work that needs no endpoint, and its parts; the agents of a host share it."""
        policy = self.settings.scoring
        run_us = plain_run_us(group, policy)
        load_us = self.busy_us(host) + load_us_of(host, run_us, policy)
        parts = {"run": run_us, "host_load": load_us}
        cost_us = run_us + load_us
        if self._registry.failed_ms and self._registry.penalised(NO_ENDPOINT, host.record.id, now):
            parts["recent_failure"] = policy.recent_failure_ms * MS_US
            cost_us += parts["recent_failure"]
        if group.repo and group.repo not in host.repos:
            parts["repository"] = policy.repository_ms * MS_US
            cost_us += parts["repository"]
        if self._fleet.preferred and host.record.id not in self._fleet.preferred:
            parts["not_preferred"] = policy.not_preferred_ms * MS_US
            cost_us += parts["not_preferred"]
        return cost_us, parts

    def preferring(
        self, group: Group, agent: Agent, cost: tuple[int, dict[str, int]]
    ) -> tuple[int, dict[str, int]]:
        """The cost of work without an endpoint for this agent, with what it lacks of what the group prefers."""
        missed_us = missing_preferences(group, agent, None) * self.policy.preference_ms * MS_US
        return cost[0] + missed_us, {**cost[1], "preference": missed_us}

    def without_endpoint(self, group: Group, agent: Agent, now: Now) -> Candidate:
        """The cost of work without an endpoint for the agent."""
        cost = self.plain(group, agent.host, now)
        if group.prefers:
            cost = self.preferring(group, agent, cost)
        return Candidate(agent, None, model_of(group, self.settings) or "none", *cost)

    def of_endpoint(self, endpoint: EndpointRecord, model: str, home: Host | None) -> EndpointCost:
        """The endpoint's side; it has the model. `home` is the host that it is on, where that is known."""
        held = held_model(endpoint, model)
        assert held is not None, f"{endpoint.name} lost {model} within one tick"
        policy = self.settings.scoring
        run_us = estimates.run_us(endpoint, held, home, policy)
        load_us = 0
        num_ctx = endpoint.num_ctx or self.settings.models.num_ctx
        if not is_warm(endpoint, held, num_ctx):
            load_us = estimates.load_us(endpoint, held, policy)
            if self._registry.loads and self._registry.loads.is_preloading((endpoint.id, model)):
                # Begun some time ago, and what had to leave has left.
                load_us = load_us * policy.load_percent // 200
            else:
                load_us = (load_us + _eviction_us(held, home, policy)) * policy.load_percent // 100
                load_us += estimates.displaced_us(endpoint, held, home, policy) * policy.displaced_percent // 100
        calls = self._registry.calls.get(endpoint.id, {})
        mine = calls.get(model, 0)
        others = sum(calls.values()) - mine
        # Another model's calls end before this one's begin: one loop of the server does all the loading.
        wait_us = min(mine * run_us // endpoint.cap + others * run_us, WAIT_US_MAX)
        wait_us = wait_us * policy.wait_percent // 100
        return EndpointCost(endpoint, held, run_us, load_us, wait_us, mine < endpoint.cap)

    def step_us(self, at: EndpointCost) -> int:
        """What each task that begins on the endpoint adds to the wait of the next."""
        return at.run_us * self.settings.scoring.wait_percent // 100 // at.endpoint.cap

    def with_endpoint(self, agent: Agent, group: Group, at: EndpointCost, now: Now) -> Candidate:
        """The cost of a model call for the agent."""
        host, policy = agent.host, self.settings.scoring
        # A busy host slows the rounds of calls that go elsewhere down, whatever these cost there.
        slowed_us = at.run_us if at.endpoint.seen_from else local_run_us(policy)
        failed = self._registry.failed_ms and self._registry.penalised(at.endpoint.id, host.record.id, now)
        parts = {
            "run": at.run_us,
            "load": at.load_us,
            "wait": at.wait_us,
            "recent_failure": policy.recent_failure_ms * MS_US if failed else 0,
            "host_load": self.busy_us(host) + load_us_of(host, slowed_us, policy),
        }
        if host.load.gpu_percent and at.endpoint.seen_from and not at.wait_us and not at.model.remote:
            # No call of ours keeps the GPU busy.
            gpu_us = at.run_us * host.load.gpu_percent // 100
            parts["host_load"] += gpu_us * policy.host_load_percent // 100
        if group.repo and group.repo not in host.repos:
            parts["repository"] = policy.repository_ms * MS_US
        if group.prefers:
            parts["preference"] = missing_preferences(group, agent, at.model) * policy.preference_ms * MS_US
        if self._fleet.preferred and host.record.id not in self._fleet.preferred:
            parts["not_preferred"] = policy.not_preferred_ms * MS_US
        cost_us = sum(parts.values())
        name, remote = at.model.name, at.model.remote
        return Candidate(agent, at.endpoint, name, cost_us, parts, at.has_slot, remote=remote)


def load_us_of(host: Host, run_us: int, policy: ScoringSettings) -> int:
    """What else the host is busy with adds to the expected time of work there."""
    return run_us * host.load.work_percent * policy.host_load_percent // 10_000


def plain_run_us(group: Group, policy: ScoringSettings) -> int:
    """The expected time of work that calls no endpoint of the registry."""
    is_shell = strategy_of(group) is Strategy.trivial
    return (policy.shell_ms if is_shell else policy.cloud_ms) * MS_US


def local_run_us(policy: ScoringSettings) -> int:
    """The expected time of an answer of a model of which nothing is known."""
    return policy.tokens_expected * S_US // policy.tokens_per_s


def model_preference_us(group: Group, model: EndpointModel, policy: ScoringSettings) -> int:
    """What the model lacks of what the group prefers, whoever calls it."""
    return model_misses(group, model) * policy.preference_ms * MS_US if group.prefers else 0


def _eviction_us(model: EndpointModel, home: Host | None, policy: ScoringSettings) -> int:
    """Until other models have left the memory that a cold one needs."""
    if home is None or not model.size_bytes or not home.load.memory_bytes:
        return policy.unknown_fit_ms * MS_US
    return policy.eviction_ms * MS_US if 0 <= home.load.free_bytes < model.size_bytes else 0


def score_part(candidate: Candidate) -> ScorePart:
    """The candidate as it is stored and shown."""
    return ScorePart(
        agent=candidate.agent.record.name,
        host=candidate.agent.host.record.name,
        endpoint=candidate.endpoint.name if candidate.endpoint else None,
        cost_us=candidate.cost_us,
        parts=candidate.parts,
    )
