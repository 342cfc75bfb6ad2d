"""/session and /whoami: trade a link's one-time secret for a page token; say whose token this is."""

from __future__ import annotations

from flask import Blueprint, Response, request
from msgspec import Struct

from agentcom import messages as m
from agentcom.auth import make_token, sha256_hex
from agentcom_web.forwarding import answer, decoded, described, json_response, query
from agentcom_web.services import services

session = Blueprint("session", __name__)


class Trade(Struct, forbid_unknown_fields=True):
    """The secret behind `#link=` in a link that `up` or `agentcom token link` printed."""

    secret: m.Secret


class PageSession(Struct):
    """A token for the page: valid 12 hours, and only with the web process that made it."""

    token: str
    role: str
    name: str
    expires: str | None


@session.post("/session")
@described("anyone with a link", body=(Trade,), status=201, answer=PageSession)
def trade() -> Response:
    """Trade a link's one-time secret for a page token. The hub learns the hashes of both only."""
    wish: Trade = decoded(request.get_data(cache=False), Trade)
    token = make_token("s")
    made = services().link.call(
        m.LinkTrade(secret_sha256=sha256_hex(wish.secret), token_sha256=sha256_hex(token))
    )
    return json_response(PageSession(token, made["role"], made["name"], made.get("expires")), 201)


@session.get("/whoami")
@described("view, submit, operate, admin")
def whoami() -> Response:
    """The name and the role of the token."""
    return answer(query(m.Whoami))
