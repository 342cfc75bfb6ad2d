"""/dead: the dead letters, their retry and their removal, singly and in bulk."""

from __future__ import annotations

from flask import Blueprint, Response

from agentcom import messages as m
from agentcom.errors import Refused
from agentcom.model import Letters, TaskId
from agentcom_web.forwarding import answer, body_object, described, operation, query

dead = Blueprint("dead", __name__)


class DeadChoice(Letters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The dead letters meant: those named, or those that fit the fields given, or all of them when `all` says so."""

    tasks: tuple[TaskId, ...] = ()
    all: bool = False
    cursor: int | None = None


@dead.get("/dead")
@described("view, operate, admin", query=m.DeadList)
def listed() -> Response:
    """One page of tasks that ended without a result, newest first."""
    return answer(query(m.DeadList))


@dead.post("/dead/retry")
@described("operate, admin", body=(DeadChoice,))
def retry() -> Response:
    """Retry the named dead letters, or those that fit (at most 1,000 a call)."""
    return answer(_chosen(m.DeadRetry))


@dead.post("/dead/purge")
@described("operate, admin", body=(DeadChoice,))
def purge() -> Response:
    """Remove the named dead letters for good, or those that fit (at most 1,000 a call)."""
    return answer(_chosen(m.DeadPurge))


def _chosen(kind: type[m.DeadRetry] | type[m.DeadPurge]) -> m.DeadRetry | m.DeadPurge:
    """An empty body must not mean every dead letter: to the hub no names and no fields mean all."""
    fields = body_object()
    everything = fields.pop("all", False)
    if not isinstance(everything, bool):
        raise Refused("invalid", "all: is true or false", field="all")
    in_bulk = everything or bool(fields.keys() - {"tasks", "cursor"})
    if in_bulk == bool(fields.get("tasks")):
        said = 'tasks: name the tasks, or say which by a field as "state", or {"all": true}'
        raise Refused("invalid", said, field="tasks")
    op: m.DeadRetry | m.DeadPurge = operation(kind, fields)
    return op
