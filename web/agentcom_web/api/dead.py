"""/dead: the dead letters, their retry and their removal."""

from __future__ import annotations

from flask import Blueprint, Response
from msgspec import Struct

from agentcom import messages as m
from agentcom.errors import Refused
from agentcom.model import TaskId
from agentcom_web.forwarding import answer, body_object, described, operation, query

dead = Blueprint("dead", __name__)


class DeadChoice(Struct, forbid_unknown_fields=True):
    """The dead tasks meant: those named, or all of them when `all` says so."""

    tasks: list[TaskId] = []
    all: bool = False


@dead.get("/dead")
@described("view, operate, admin", query=m.DeadList)
def listed() -> Response:
    """One page of dead tasks, newest first."""
    return answer(query(m.DeadList))


@dead.post("/dead/retry")
@described("operate, admin", body=(DeadChoice,))
def retry() -> Response:
    """Retry the named dead tasks, or all (at most 1,000 a call)."""
    return answer(_chosen(m.DeadRetry))


@dead.post("/dead/purge")
@described("operate, admin", body=(DeadChoice,))
def purge() -> Response:
    """Remove the named dead tasks for good, or all (at most 1,000 a call)."""
    return answer(_chosen(m.DeadPurge))


def _chosen(kind: type[m.DeadRetry] | type[m.DeadPurge]) -> m.DeadRetry | m.DeadPurge:
    """An empty body must not mean every dead task: to the hub no names mean all."""
    fields = body_object()
    everything = fields.pop("all", False)
    if not isinstance(everything, bool):
        raise Refused("invalid", "all: is true or false", field="all")
    if everything == bool(fields.get("tasks")):
        raise Refused("invalid", 'tasks: name the tasks, or say {"all": true}', field="tasks")
    op: m.DeadRetry | m.DeadPurge = operation(kind, fields)
    return op
