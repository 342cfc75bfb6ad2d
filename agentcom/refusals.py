"""Bytes that cannot be read as a message, in words: which field, what is wrong with it, and whose request it was."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agentcom.errors import UNREADABLE, Refused

_PATH = re.compile(r" - at `(.+)`$", re.DOTALL)


class _Envelope(Struct):
    type: str = ""
    id: Annotated[int, Meta(ge=0, le=2**62)] | None = None


_envelope = msgspec.msgpack.Decoder(_Envelope)


def request_id_of(body: bytes | memoryview) -> int | None:
    """The id of a request that could not be decoded whole, so that the refusal can name it."""
    try:
        return _envelope.decode(body).id
    except UNREADABLE:
        return None


def refusal_of(error: Exception) -> Refused:
    """A decode error as people should see it: `malformed`, `unknown_type`, or `invalid` with the field."""
    text = str(error)
    match = _PATH.search(text)
    if not isinstance(error, msgspec.ValidationError):
        return Refused("malformed", f"not a MessagePack message: {text}")
    path = _field_path(match.group(1)) if match else None
    reason = text[: match.start()] if match else text
    if path is not None and path.split(".")[-1] in ("type", "op") and reason.startswith("Invalid value"):
        return Refused("unknown_type", f"{reason}: this hub does not know that {path}", field=path)
    return Refused("invalid", f"{path or 'message'}: {reason}", field=path)


def _field_path(path: str) -> str:
    """msgspec's `$.op.tasks[...].lane` as `tasks[...].lane`."""
    for prefix in ("$.op.", "$."):
        if path.startswith(prefix):
            return path[len(prefix) :]
    return path.removeprefix("$") or "message"
