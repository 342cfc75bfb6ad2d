"""What the tasks of a group ask for: a model, capabilities, and an endpoint that holds the model."""

from __future__ import annotations

from agentcom.config import Settings
from agentcom.core.agents import Agent
from agentcom.core.capabilities import OF_CLAUDE, first_unmet, of_model, unmet
from agentcom.core.registry import canonical_model
from agentcom.model import (
    BACKENDS_OF,
    Allowance,
    Backend,
    EndpointKind,
    EndpointModel,
    EndpointRecord,
    Group,
    Strategy,
    strategy_of,
)

Wanted = tuple[Group, bool]  # what a task asks for, and whether it has failed before


def model_of(group: Group, settings: Settings) -> str:
    """The model a task of the group runs on; empty for shell work."""
    strategy = strategy_of(group)
    if strategy is Strategy.trivial:
        return ""
    if strategy is Strategy.cloud_llm:
        return group.model or settings.models.complex
    if strategy is Strategy.agent_program:
        return group.model  # by the program's own name for it, or its own choice
    return canonical_model(group.model or settings.models.standard)


def is_offered(group: Group, agent: Agent) -> bool:
    """Whether the agent offers a backend for such tasks that its host can use now, and may use for their repository."""
    if group.repo and not agent.host.may_work_on(group.repo):
        return False
    offered, blocks = agent.record.backends, agent.host.blocks
    for backend in BACKENDS_OF[strategy_of(group)]:
        if backend in offered and backend not in blocks:
            return backend is not Backend.claude or not agent.host.account_shut
    return False


def missing_need(group: Group, agent: Agent) -> str | None:
    """The first capability that the group needs and neither the agent nor its host has."""
    if not group.needs:
        return None
    return first_unmet(group.needs, agent.can, agent.host.record.name, agent.record.name)


def missing_needs(group: Group, agents: list[Agent]) -> tuple[Agent, list[str]]:
    """Of the agents the one that lacks least, and what it lacks."""
    lacks = [(a, unmet(group.needs, a.can, a.host.record.name, a.record.name)) for a in agents]
    return min(lacks, key=lambda each: len(each[1]))


def model_lacks(group: Group, model: EndpointModel) -> str:
    """What the group needs of its model and this one is known not to do; empty where nothing is known of it."""
    if not group.needs or not model.capabilities:
        return ""
    return next((each for each in of_model(group.needs) if each not in model.capabilities), "")


def claude_lacks(group: Group) -> str:
    """The same for the models of the cloud. What an agent program calls is its own affair."""
    if not group.needs or strategy_of(group) is Strategy.agent_program:
        return ""
    return next((each for each in of_model(group.needs) if each not in OF_CLAUDE), "")


def missing_preferences(group: Group, agent: Agent, model: EndpointModel | None) -> int:
    """How much of what the group prefers is not there."""
    lacks = len(unmet(group.prefers, agent.can, agent.host.record.name, agent.record.name))
    return lacks + (model_misses(group, model) if model is not None else 0)


def model_misses(group: Group, model: EndpointModel) -> int:
    """How much of what the group prefers this model is known not to do."""
    if not model.capabilities:
        return 0
    return sum(each not in model.capabilities for each in of_model(group.prefers))


def held_model(endpoint: EndpointRecord, model: str) -> EndpointModel | None:
    """The model as the endpoint has it, by its canonical name."""
    return next(
        (
            one
            for one in endpoint.models
            if canonical_model(one.name) == model and not one.fault
        ),
        None,
    )


def may_leave(group: Group, settings: Settings) -> bool:
    """Whether tasks of the group may be sent to a third party that runs their model behind a local server."""
    return Allowance.cloud in group.allow or group.tier.value in settings.models.cloud_tiers


def is_warm(endpoint: EndpointRecord, held: EndpointModel, num_ctx: int) -> bool:
    """Whether a call that asks for this context finds the weights loaded for it. One runner serves all names of the
    same weights; another context than it was loaded with makes it load anew. What a third party runs needs none."""
    if held.remote:
        return True
    loaded = held if held.warm else _same_weights(endpoint, held)
    if loaded is None:
        return False
    gets = min(num_ctx, loaded.context_max or num_ctx)
    return endpoint.kind is not EndpointKind.ollama or loaded.context_length in (0, gets)


def _same_weights(endpoint: EndpointRecord, held: EndpointModel) -> EndpointModel | None:
    if not held.digest:
        return None
    return next((one for one in endpoint.models if one.warm and one.digest == held.digest), None)
