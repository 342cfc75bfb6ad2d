"""What it costs to run a task somewhere: its expected finish time, in integer microseconds.

Wait for a slot + load time if the model is cold + expected tokens / rate, raised by the host's load and by recent
failures of the endpoint. The parts are kept by name, for people.
"""

from __future__ import annotations

from msgspec import Struct

from agentcom.clock import Now
from agentcom.core.agents import Agent, Host
from agentcom.core.registry import NO_ENDPOINT, Registry
from agentcom.core.wanted import held_model
from agentcom.model import STRATEGY_OF, EndpointRecord, Group, ScorePart, Strategy

S_US = 1_000_000
SHELL_US = 1 * S_US  # expected time of a shell task, until there is a measured one
TOKENS_EXPECTED = 1_000  # of a standard task's answer
TOKENS_PER_S = 30  # of a local model, until there is a measured rate
CLOUD_US = 30 * S_US
LOAD_BYTES_PER_S = 500_000_000  # a cold model is read from disk at about this speed
LOAD_US_MIN = 2 * S_US
PENALTY_US = 60 * S_US  # an endpoint, or a host without one, that failed in the last minute
BUSY_CPU_PERCENT = 90.0


class Candidate(Struct, frozen=True, gc=False):
    """One way to run a task now."""

    agent: Agent
    endpoint: EndpointRecord | None
    model: str
    cost_us: int
    parts: dict[str, int]


class Scores:
    """Costs of candidates, from the registry as it is now."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def plain(self, group: Group, host: Host, now: Now) -> tuple[int, dict[str, int]]:
        """The cost of work that needs no endpoint, and its parts; the agents of a host share it."""
        run_us = SHELL_US if STRATEGY_OF[group.tier] is Strategy.trivial else CLOUD_US
        load_us = host_load_us(host)
        failed_us = PENALTY_US if self._registry.penalised(NO_ENDPOINT, host.record.id, now) else 0
        parts = {"run": run_us, "host_load": load_us}
        if failed_us:
            parts["recent_failure"] = failed_us
        return run_us + load_us + failed_us, parts

    def with_endpoint(
        self, agent: Agent, endpoint: EndpointRecord, model: str, host_us: int, now: Now
    ) -> Candidate:
        """The cost of the model on the endpoint for the agent; `host_us` is what its host adds."""
        held = held_model(endpoint, model)
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


def host_load_us(host: Host) -> int:
    """What the work that a host already does adds to the expected time of more."""
    return host.busy_count * S_US // 4


def score_part(candidate: Candidate) -> ScorePart:
    """The candidate as it is stored and shown."""
    return ScorePart(
        agent=candidate.agent.record.name,
        host=candidate.agent.host.record.name,
        endpoint=candidate.endpoint.name if candidate.endpoint else None,
        cost_us=candidate.cost_us,
        parts=candidate.parts,
    )
