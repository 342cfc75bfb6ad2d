"""/snapshot and /events: the live view, once and as a stream; /events/history: what was kept of it.

A stream costs a thread, so their number is bounded. Each looks after its token again and again; a revoked one
ends it within a second. A reader that takes nothing for STALLED_S is cut off.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response, request
from msgspec import Struct

from agentcom import messages as m
from agentcom.errors import HubUnreachable, Refused
from agentcom.model import TaskId
from agentcom_web.auth import PERSON_AGE_S
from agentcom_web.feed import LogChoice, Position, sse
from agentcom_web.forwarding import answer, bearer, decoded, described, json_response, query
from agentcom_web.services import Services, services

live = Blueprint("live", __name__)
BEAT_S = 5.0
STALLED_S = 20.0
FULL_RETRY_S = 5.0


class EventsQuery(Struct):
    """`log`: which log pieces the stream carries: `all`, `none`, or those of one task."""

    log: str = "all"


@live.get("/snapshot")
@described("view, operate, admin")
def snapshot() -> Response:
    """Counts, agents, hosts, endpoints and the newest tasks as they are now."""
    own = services()
    own.people.reader(bearer())
    if not own.view.live:
        raise HubUnreachable("the live view is not in step with the hub; try again in a moment")
    return json_response(own.view.shown())


@live.get("/events")
@described("view, operate, admin", query=EventsQuery, media="text/event-stream")
def events() -> Response:
    """Server-sent events: first `snapshot`, then `task`, `agent`, `host`, `endpoint`, `queue`, `route`, `log`,
    `hub` as things change, and `event` for each that the hub keeps; another `snapshot` replaces everything. A comment
    comes at least each 5 s. `AgentCom-Wall-Ms` in the head is the hub's clock, which all times here are by."""
    own, token, logs = services(), bearer(), _log_choice()
    own.people.reader(token)
    if not own.streams.take():
        raise Refused(
            "streams_full",
            f"there are already {own.streams.most} open streams; close one or try again later",
            retry_after_s=FULL_RETRY_S,
        )
    connection: Any = request.environ.get("gunicorn.socket")
    if connection is not None:
        connection.settimeout(STALLED_S)
    response = Response(_stream(own, token, logs), content_type="text/event-stream")
    response.call_on_close(own.streams.give_back)
    response.headers["X-Accel-Buffering"] = "no"
    response.headers["AgentCom-Wall-Ms"] = str(int((time.time() + own.link.ahead_s) * 1000))
    return response


@live.get("/events/history")
@described("view, operate, admin", query=m.EventList)
def history() -> Response:
    """The events that the hub keeps, newest first. A page may be short and still have a next_cursor."""
    return answer(query(m.EventList))


def _log_choice() -> LogChoice:
    given = request.args.get("log", "all")
    if given in ("all", "none"):
        return LogChoice(all=given == "all")
    try:
        return LogChoice(all=False, task=decoded(given.encode(), TaskId))
    except Refused:
        raise Refused("invalid", "log: is `all`, `none` or the id of a task", field="log") from None


def _stream(own: Services, token: str, logs: LogChoice) -> Iterator[bytes]:
    position: Position | None = None
    said_at = checked_at = time.monotonic()
    yield b": welcome\n\n"
    while not own.stopping.is_set():
        position, news = own.view.read(position, logs, PERSON_AGE_S)
        now = time.monotonic()
        if now - checked_at >= PERSON_AGE_S:
            checked_at = now
            refused = _refusal_of(own, token)
            if refused is not None:
                yield sse("end", {"event": "end", "code": refused.code, "reason": refused.message})
                return
        if news:
            yield news
            said_at = now
        elif now - said_at >= BEAT_S:
            yield b": beat\n\n"
            said_at = now


def _refusal_of(own: Services, token: str) -> Refused | None:
    """Why the stream must end. While the hub is away nothing is published either, so the stream may stay."""
    try:
        own.people.reader(token)
    except Refused as refused:
        return refused
    except HubUnreachable:
        return None
    return None
