"""The words for a lost worker, and for how often something went wrong."""

from __future__ import annotations

from agentcom.model import FailureClass, TaskError


def lost(what: str) -> TaskError:
    return TaskError(
        failure_class=FailureClass.infrastructure, code="worker_lost", message=f"the worker was lost: {what}"
    )


def times(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"
