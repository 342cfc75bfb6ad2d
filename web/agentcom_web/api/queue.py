"""/queue and /stats: counts, pause and resume."""

from __future__ import annotations

from flask import Blueprint, Response

from agentcom import messages as m
from agentcom_web.forwarding import answer, ask, body, described, json_response, query
from agentcom_web.services import services

queue = Blueprint("queue", __name__)


@queue.get("/queue")
@described("view, operate, admin")
def counts() -> Response:
    """Tasks by state and lane, and whether dispatch is paused."""
    return answer(query(m.QueueStats))


@queue.post("/queue/pause")
@described("operate, admin")
def pause() -> Response:
    """Stop dispatch, not submits; survives a restart."""
    return answer(body(m.QueuePause, paused=True))


@queue.post("/queue/resume")
@described("operate, admin")
def resume() -> Response:
    """Dispatch again."""
    return answer(body(m.QueuePause, paused=False))


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
