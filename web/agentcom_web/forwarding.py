"""From an HTTP request to an operation for the hub, and from its reply to JSON.

What people give is checked against the bounds of the operation's own type before it is sent, and a misspelt
field is refused by name; the rights are the hub's to check. Views call `answer`, `query` and `body`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from flask import Response, request

from agentcom import messages as m
from agentcom.client import refusal_of_fields
from agentcom.errors import Refused
from agentcom_web.auth import bearer_of
from agentcom_web.services import services

FORWARD_WAIT_S = 0.5
View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True)
class Described:
    """What openapi.json says of a view: the type of its query, the types its body may have, its answer, who
    may ask. `fixed` are fields of them that the path gives, `required` those of the body that may not
    be left out though the operation has a default."""

    roles: str
    query: type[msgspec.Struct] | None = None
    body: tuple[type[msgspec.Struct], ...] = ()
    fixed: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    status: int = 200
    media: str = "application/json"
    answer: type[msgspec.Struct] | None = None


def described(roles: str, **rest: Any) -> Callable[[View], View]:
    """Attach a description to a view."""

    def attach(view: View) -> View:
        view.described = Described(roles, **rest)  # type: ignore[attr-defined]
        return view

    return attach


def json_response(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status=status, content_type="application/json")


def bearer() -> str:
    return bearer_of(request.headers.get("Authorization"))


def ask(op: m.Operation) -> Any:
    """The hub's reply to `op` with the caller's rights; Refused(`busy`) when too many wait already."""
    token = bearer()
    own = services()
    if not own.forwards.acquire(timeout=FORWARD_WAIT_S):
        raise Refused("busy", "too many requests wait for the hub; try again", retry_after_s=1)
    try:
        return own.link.call(op, token)
    finally:
        own.forwards.release()


def answer(op: m.Operation, status: int = 200) -> Response:
    return json_response(ask(op), status)


def operation(kind: type[Any], fields: Mapping[str, Any], *, strict: bool = True, **fixed: Any) -> Any:
    """The operation of `kind` from what a person gave and what the path says."""
    known = {f.encode_name for f in msgspec.structs.fields(kind)} - set(fixed)
    for name in fields:
        if name not in known:
            raise Refused("invalid", f"{name}: there is no such field here", field=name)
    tag = kind.__struct_config__.tag
    try:
        return msgspec.convert({"op": tag, **fields, **fixed}, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise refusal_of_fields(error, kind=kind) from error


def query(kind: type[Any], **fixed: Any) -> Any:
    """The operation of `kind` from the query string; a field given twice is refused."""
    fields: dict[str, str] = {}
    for name, values in request.args.lists():
        if len(values) > 1:
            raise Refused("invalid", f"{name}: is given {len(values)} times", field=name)
        fields[name] = values[0]
    return operation(kind, fields, strict=False, **fixed)


def body(kind: type[Any], **fixed: Any) -> Any:
    """The operation of `kind` from the JSON body; no body means no fields."""
    return operation(kind, body_object(), **fixed)


def body_object() -> dict[str, Any]:
    raw = request.get_data(cache=False)
    if not raw.strip():
        return {}
    value = decoded(raw, Any)
    if not isinstance(value, dict):
        raise Refused("invalid", "the body must be a JSON object")
    return value


def decoded(raw: bytes | msgspec.Raw, kind: Any, where: str = "") -> Any:
    """`raw` JSON as `kind`; Refused with the field's path below `where`."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise refusal_of_fields(error, where) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused("malformed", f"the body is not JSON: {error}") from error
