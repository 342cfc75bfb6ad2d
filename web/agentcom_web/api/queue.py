"""/queue and /stats: counts, pause and resume, limits and weights."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from agentcom import messages as m
from agentcom.errors import Refused
from agentcom_web.forwarding import answer, ask, body, body_object, described, json_response, operation, query
from agentcom_web.services import services

queue = Blueprint("queue", __name__)


@queue.get("/queue")
@described("view, operate, admin")
def counts() -> Response:
    """Tasks by state and lane, and whether dispatch is paused."""
    return answer(query(m.QueueStats))


@queue.post("/queue/pause")
@described("operate, admin", body=(m.QueuePause,), fixed=("paused",))
def pause() -> Response:
    """Stop dispatch, not submits; survives a restart. With repo, tier or host only there."""
    return answer(body(m.QueuePause, paused=True))


@queue.post("/queue/resume")
@described("operate, admin", body=(m.QueuePause,), fixed=("paused",))
def resume() -> Response:
    """Dispatch again: everything, or one repository, tier or host that was paused by itself."""
    return answer(body(m.QueuePause, paused=False))


@queue.get("/queue/rules")
@described("view, operate, admin")
def rules() -> Response:
    """All pauses, limits and weights, with who set them and what runs under each limit."""
    return answer(query(m.QueueRules))


@queue.put("/queue/limits")
@described("operate, admin", body=(m.QueueLimit,), required=("number",))
def limit() -> Response:
    """Set how many may run at once of repo:URL, label:LABEL or endpoint:NAME; number null takes it back."""
    return answer(_with_number(m.QueueLimit))


@queue.put("/queue/weights")
@described("operate, admin", body=(m.QueueWeight,), required=("number",))
def weight() -> Response:
    """Set the share of submitter:NAME or repo:URL; number null takes it back."""
    return answer(_with_number(m.QueueWeight))


def _with_number(kind: type[Any]) -> Any:
    """The operation; a number that was forgotten must not take anything back."""
    fields = body_object()
    if "number" not in fields:
        raise Refused("invalid", "number: is missing; give one, or null to take it back", field="number")
    return operation(kind, fields)


@queue.get("/stats")
@described("view, operate, admin")
def stats() -> Response:
    """The queue's counts, the hub's own status, and the open streams of this web process."""
    own = services()
    return json_response(
        {
            "queue": ask(query(m.QueueStats)),
            "hub": ask(m.HubStatus()),
            "web": {"streams": own.streams.taken, "streams_max": own.streams.most, "live": own.view.live},
        }
    )
