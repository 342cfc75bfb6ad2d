"""Bytes that cannot be read as a message, in words: which field, what is wrong with it, and whose request it was."""

from __future__ import annotations

import re
from typing import Annotated, Final, get_args

import msgspec
from msgspec import Meta, Struct

from agentcom.errors import UNREADABLE, Refused
from agentcom.fields import CheckName, Name
from agentcom.signed_report import Signature, SigningKey

_PATH = re.compile(r" - at `(.+)`$", re.DOTALL)
# What a text that has a form looks like, in place of the pattern that msgspec tells.
_FORMS: Final = {
    f"Expected `str` matching regex {get_args(form)[1].pattern!r}": words
    for form, words in {
        Name: "a name begins with a letter or a digit, and has after it letters, digits, spaces and . _ ' - only",
        CheckName: "the name of a check begins with a small letter, and has after it at most 39 of a-z, 0-9, _ . -",
        SigningKey: "a signing key has 64 hex digits (0-9, a-f), more than its fingerprint",
        Signature: "a signature has 128 hex digits (0-9, a-f)",
    }.items()
}


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
    reason = _FORMS.get(reason, reason)
    if path is not None and path.split(".")[-1] in ("type", "op") and reason.startswith("Invalid value"):
        return Refused("unknown_type", f"{reason}: this hub does not know that {path}", field=path)
    return Refused("invalid", f"{path or 'message'}: {reason}", field=path)


def _field_path(path: str) -> str:
    """msgspec's `$.op.tasks[...].lane` as `tasks[...].lane`."""
    for prefix in ("$.op.", "$."):
        if path.startswith(prefix):
            return path[len(prefix) :]
    return path.removeprefix("$") or "message"
