"""Writes docs/protocol.md from messages.py: `python -m agentcom.protocol_doc > docs/protocol.md`.

The prose at the head is here; the tables of fields come from the Structs, so they cannot drift. A test compares
the file with what this prints.
"""

from __future__ import annotations

import inspect
import sys
import typing
from types import UnionType
from typing import Any

import msgspec
from msgspec import Struct

from agentcom import figures, limits, messages, model, operations, second, servers, signed_report, worktrees

HEAD = f"""# The wire protocol, version {limits.PROTOCOL_VERSION}

Generated from `agentcom/messages.py` by `make docs`; do not edit by hand. Any client in any language can join:
the bytes are plain MessagePack.

## Connections

* One ZeroMQ DEALER per caller, connected to the hub's ROUTER. CURVE is always on: set the hub's public key as
  `curve_serverkey` and your own pair as `curve_publickey` and `curve_secretkey` (z85 text). Your public key is who
  you are; do not set a routing id.
* One message is one frame: a MessagePack map with a `type`. A message of more ZeroMQ frames is refused (`multi_frame`).
  A caller with much to say may put several messages into one frame (`many`); the hub does so only to callers whose
  `hello` said `takes_many`.
* To the hub a frame has {limits.REQUEST_BYTES_MAX:,} bytes at most (`too_large`), also a batch of at most
  {limits.BATCH_TASKS_MAX:,} tasks; from the hub {limits.FRAME_BYTES_MAX:,}. A frame above {limits.FRAME_BYTES_MAX:,}
  bytes makes the transport close the connection without an answer: check before you send.
* Unknown fields are ignored, except inside a task, where they are refused. An unknown `type` is answered with
  `error`. After an `error` the connection goes on.
* Bytes are MessagePack `bin`, text is `str` (UTF-8), sets of values are arrays. A field marked optional may be left
  out and then has the default.

## Joining

`agentcom host invite` prints a join code: `acj1.` and then base64url (without padding) of a MessagePack array
`[address, hub public key, one-time secret key, role]`. Connect with the pair of the one-time secret key, send
`enrol` with the public key of a pair of your own, wait for `enrolled`, and connect again with your own pair. A
one-time key may only enrol, enrols one key, and ends after an hour. Sending the same `enrol` again is safe.

## A host's life

1. Send `hello` with `host`: a `name` (the hub shows the one that was enrolled), your agents, and every attempt that you
   still know of. Any key but a host's leaves `host` out. `process` is random per start.
2. The answer is `welcome`. Put its `session` into every later message. Obey `verdicts`: `keep` goes on with the
   attempt, `kill` ends it and forgets it, `report` sends its `result`.
3. Send `heartbeat` every `heartbeat_s`, listing each attempt that a worker is on: that renews the leases. The
   answer is `beat`; end the attempts in its `kill`. An attempt that is in no heartbeat for `lease_s` is given to
   another agent.
   Raise an attempt's `progress` with each output, tool round and token: without any for `stall_s` (the task's, or
   `queue.stall_s`) it is shown as stalled, and after twice that it is cancelled and given to another agent.
4. On `assign`: write it down, send `accept`, do the work on the named agent. `spec` is the task as it was submitted,
   nested MessagePack of the `TaskSpec` below; `route` says how to run it.
5. Send pieces of output as `log` while it works, if you like.
6. Write the `result` down before you send it, and send it again until `result_ack` comes, also over restarts of
   either side. A completed one needs `status`, `backend` and `model` at least (`none` for a command).
   Whatever the verdict is, you may then forget the result.
7. On `cancel`: end every process of the attempt, then send `result` with outcome `cancelled`.
8. On `error` with code `no_session` (the hub was restarted, or you left too much unread): say `hello` again. On
   `replaced` or `revoked`: stop.

## Requests

People and programs send `request` with an `id` of their own and one operation; the answer is `reply` or `error` with
that `id`. Who may do what is in [roles](roles.md). `retry_after_s` in an error says when to try again.

## The feed

A SUB socket with CURVE to `feed` of `welcome` (server key `feed_key`). Three frames: topic, MessagePack array
`[epoch, sequence]`, MessagePack map of the event. Topics: `task`, `agent`, `host`, `endpoint`, `queue`, `log`, `route`.
The sequence rises by one per topic; a beat comes on each topic every second. Subscribe first, then ask for
`snapshot`; after a gap, or when the epoch changes, ask for a new one.
"""


def document() -> str:
    """The whole page."""
    parts = [HEAD, "## Messages to the hub\n"]
    parts += [_section(kind, "type") for kind in typing.get_args(messages.ToHub)]
    parts.append(_section(messages.ManyToHub, "type"))
    parts.append("## Operations of a request\n")
    parts += [_section(kind, "op") for kind in typing.get_args(messages.Operation)]
    parts.append("## Messages from the hub\n")
    parts += [_section(kind, "type") for kind in typing.get_args(messages.FromHub)]
    parts.append(_section(messages.ManyFromHub, "type").replace("### `many`", "### `many` from the hub"))
    parts.append("## Parts\n")
    parts += [_section(kind, "") for kind in _parts()]
    parts.append("## Values\n")
    parts += [_values(kind) for kind in _enumerations()]
    return "\n".join(parts)


def _parts() -> list[type[Struct]]:
    found = [
        kind
        for module in (messages, model, figures, second, servers, signed_report, worktrees)
        for _, kind in inspect.getmembers(module, inspect.isclass)
        if issubclass(kind, Struct) and kind.__module__ == module.__name__ and not kind.__struct_config__.tag
    ]
    stored = {"TaskRow", "Group", "AttemptRecord", "EndpointRecord", "HostRecord", "AgentRecord", "TrendRecord"}
    stored |= {"PrincipalRecord", "InviteRecord", "StoryNote", "ClockNote", "KeptEvent", "SettingRecord"}
    stored.add("SecondRecord")
    return sorted({k for k in found if k.__name__ not in stored}, key=lambda kind: kind.__name__)


def _enumerations() -> list[type[Any]]:
    classes = {kind for module in (model, operations) for _, kind in inspect.getmembers(module, inspect.isclass)}
    found = (kind for kind in classes if issubclass(kind, model.Term) and kind is not model.Term)
    return sorted(found, key=lambda kind: kind.__name__)


def _section(kind: type[Struct], tag_field: str) -> str:
    config = kind.__struct_config__
    title = f"### `{config.tag}`" if config.tag else f"### {kind.__name__}"
    lines = [title, ""]
    own = kind.__doc__ or ""
    if own and not own.startswith(f"{kind.__name__}("):
        lines += [inspect.cleandoc(own), ""]
    if config.array_like:
        lines += ["A MessagePack array in this order.", ""]
    fields = msgspec.structs.fields(kind)
    if fields or config.tag:
        lines += ["| field | type | default |", "| --- | --- | --- |"]
        if config.tag:
            lines.append(f'| `{tag_field}` | `"{config.tag}"` | required |')
        lines += [f"| `{f.encode_name}` | {_type(f.type)} | {_default(f)} |" for f in fields]
    return "\n".join([*lines, ""])


def _values(kind: Any) -> str:
    return f"### {kind.__name__}\n\n" + ", ".join(f"`{one.value}`" for one in kind) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return "null"
    return f"`{getattr(value, 'value', value)!r}`".replace("()", "[]").replace("'", '"')


def _type(kind: Any) -> str:
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        base, *metas = typing.get_args(kind)
        bounds = ", ".join(b for meta in metas if isinstance(meta, msgspec.Meta) for b in _bounds(meta))
        return f"{_type(base)} ({bounds})" if bounds else _type(base)
    if origin in (typing.Union, UnionType):
        return " or ".join(_type(one) for one in typing.get_args(kind))
    if origin is typing.Literal:
        return ", ".join(f"`{one}`" for one in typing.get_args(kind))
    if origin is tuple:
        return f"array of {_type(typing.get_args(kind)[0])}"
    if origin is dict:
        key, value = typing.get_args(kind)
        return f"map of {_type(key)} to {_type(value)}"
    names = {int: "int", float: "number", str: "str", bytes: "bin", bool: "bool", type(None): "null", Any: "any"}
    names |= {msgspec.Raw: "nested MessagePack"}
    if kind in names:
        return names[kind]
    tag = kind.__struct_config__.tag if issubclass(kind, Struct) else None
    return f"[{tag or kind.__name__}](#{(tag or kind.__name__).lower()})"


def _bounds(meta: msgspec.Meta) -> list[str]:
    found = []
    for attribute, text in (("ge", "at least {}"), ("gt", "above {}"), ("le", "at most {}"), ("lt", "below {}")):
        value = getattr(meta, attribute)
        if value is not None:
            found.append(text.format(f"{value:,}" if isinstance(value, int) else value))
    if meta.min_length is not None and meta.min_length == meta.max_length:
        found.append(f"length {meta.max_length}")
    elif meta.max_length is not None:
        found.append(f"length {meta.min_length or 0} to {meta.max_length:,}")
    if meta.pattern is not None:
        found.append(f"pattern `{meta.pattern}`".replace("|", "\\|"))
    return found


if __name__ == "__main__":
    sys.stdout.write(document())
