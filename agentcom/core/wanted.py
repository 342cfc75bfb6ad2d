"""What the tasks of a group ask for: a model, capabilities, and an endpoint that holds the model."""

from __future__ import annotations

from agentcom.config import Settings
from agentcom.core.agents import Agent
from agentcom.core.registry import canonical_model
from agentcom.model import STRATEGY_OF, EndpointModel, EndpointRecord, Group, Strategy

Wanted = tuple[Group, bool]  # what a task asks for, and whether it has failed before


def model_of(group: Group, settings: Settings) -> str:
    """The model a task of the group runs on; empty for shell work."""
    strategy = STRATEGY_OF[group.tier]
    if strategy is Strategy.trivial:
        return ""
    if strategy is Strategy.cloud_llm:
        return group.model or settings.models.complex
    return canonical_model(group.model or settings.models.standard)


def missing_need(group: Group, agent: Agent) -> str | None:
    """The first capability that the group needs and neither the agent nor its host has."""
    if not group.needs:
        return None
    have = {*agent.record.capabilities, *agent.host.record.capabilities}
    have |= {f"agent:{agent.record.name}", f"host:{agent.host.record.name}"}
    return next((need for need in group.needs if need not in have), None)


def held_model(endpoint: EndpointRecord, model: str) -> EndpointModel | None:
    """The model as the endpoint has it, by its canonical name."""
    return next(
        (one for one in endpoint.models if canonical_model(one.name) == model and not one.remote), None
    )
