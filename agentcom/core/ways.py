"""All ways in which tasks of some groups could run now, found anew: for tasks that run alone, and for checks."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from agentcom.core.agents import Agent
from agentcom.core.score import Candidate


@dataclass
class Ways:
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
