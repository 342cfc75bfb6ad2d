"""A lease as others see it: the assignment that a host gets, and the record that stays when the attempt has ended."""

from __future__ import annotations

from typing import Final

import msgspec

from agentcom import messages as m
from agentcom.core.agents import Agent, Fleet
from agentcom.core.rows import TaskTable
from agentcom.core.tasks import Tasks
from agentcom.model import AttemptRecord, PrincipalRecord, Role, Route, Strategy, TaskError
from agentcom.repos import RepoRecord

NO_BODY: Final = msgspec.Raw(b"\xc0")  # the shell puts the task's bytes in when it sends the assignment


def assignment_of(
    tasks: Tasks,
    slot: int,
    agent: Agent,
    route: Route,
    submitter: PrincipalRecord | None,
    repo: RepoRecord | None,
) -> m.Assign:
    """What the agent's host is told of the attempt that begins."""
    table, settings = tasks.table, tasks.settings
    return m.Assign(
        task=table.id[slot],
        attempt=table.attempt[slot],
        agent=agent.record.local_name,
        lease_s=settings.queue.lease_s,
        spec=NO_BODY,
        route=route,
        tier=route.tier,
        submitter=submitter.name if submitter else "",
        submitter_role=submitter.role if submitter else Role.submit,
        max_fix_attempts=settings.queue.max_fix_attempts,
        timeout_s=settings.queue.task_timeout_s,
        cloud_model=settings.models.compare if route.strategy is Strategy.local_llm else "",
        repo_checks=repo.checks if repo is not None else (),
        base_branch=repo.default_branch if repo is not None else "",
    )


def record_of(
    table: TaskTable, fleet: Fleet, slot: int, outcome: str, error: TaskError | None, ended_ms: int
) -> AttemptRecord:
    """The task's present attempt as it ends at that time, or is open (`outcome` empty)."""
    agent = fleet.agents.get(table.agent[slot])
    host = fleet.hosts.get(table.host[slot])
    return AttemptRecord(
        task=table.id[slot],
        attempt=table.attempt[slot],
        agent=agent.record.name if agent else "",
        host=host.record.name if host else "",
        host_id=table.host[slot],
        started_ms=table.assigned_ms[slot],
        ended_ms=ended_ms,
        outcome=outcome,
        error=error,
        accepted_ms=table.accepted_ms[slot],
    )
