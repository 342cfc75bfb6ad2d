"""/endpoints: the LLM servers, with their models and health."""

from __future__ import annotations

from flask import Blueprint, Response

from agentcom import messages as m
from agentcom_web.forwarding import answer, body, described, query

endpoints = Blueprint("endpoints", __name__)


@endpoints.get("/endpoints")
@described("view, operate, admin")
def listed() -> Response:
    """All endpoints with their models, warm and cold."""
    return answer(query(m.EndpointList))


@endpoints.get("/endpoints/<endpoint>")
@described("view, operate, admin")
def show(endpoint: str) -> Response:
    """An endpoint by name or id, with the hosts that may call it."""
    return answer(query(m.EndpointShow, endpoint=endpoint))


@endpoints.post("/endpoints")
@described("operate, admin", body=(m.EndpointAdd,), status=201)
def add() -> Response:
    """Register an LLM server. One on loopback needs `host`, the host that can reach it."""
    return answer(body(m.EndpointAdd), 201)


@endpoints.patch("/endpoints/<endpoint>")
@described("operate, admin", body=(m.EndpointUpdate,), fixed=("endpoint",))
def update(endpoint: str) -> Response:
    """Change an endpoint's name, cap or num_ctx."""
    return answer(body(m.EndpointUpdate, endpoint=endpoint))


@endpoints.delete("/endpoints/<endpoint>")
@described("operate, admin", query=m.EndpointRemove, fixed=("endpoint",))
def remove(endpoint: str) -> Response:
    """Forget an endpoint when the last call has ended; now=true: at once, its work is queued again."""
    return answer(query(m.EndpointRemove, endpoint=endpoint))


@endpoints.post("/endpoints/<endpoint>/probe")
@described("operate, admin")
def probe(endpoint: str) -> Response:
    """Check an endpoint's health and models now."""
    return answer(body(m.EndpointProbeNow, endpoint=endpoint))
