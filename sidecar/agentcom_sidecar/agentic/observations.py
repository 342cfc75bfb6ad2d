"""What a tool answers: typed, small, as JSON with a `status`, so that a model can go on from it.

`status` is `failed` where nothing was done; then `code` is stable and `remedy` says what to do instead. Every
text that can grow has its bound where it is made.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from agentcom_sidecar.agentic.confined import Kind

FailedCode = Literal[
    "bad_arguments", "unknown_tool", "path_refused", "not_found", "not_text", "no_match", "not_unique", "unchanged",
    "too_large", "not_run", "refused", "file_system",
]  # fmt: skip
MISTAKES = frozenset({"bad_arguments", "unknown_tool", "not_run"})  # no call at all: its words made no sense
MESSAGE_CHARS_MAX = 500


class Failed(Struct, frozen=True, tag_field="status", tag="failed", omit_defaults=True):
    code: FailedCode
    message: str
    remedy: str = ""


class Read(Struct, frozen=True, tag_field="status", tag="read", omit_defaults=True):
    """`next_line` is where to go on; 0 when the file ends here."""

    path: str
    first_line: int
    lines: int
    content: str
    next_line: int = 0


class Written(Struct, frozen=True, tag_field="status", tag="written"):
    path: str
    bytes: int
    created: bool


class Edited(Struct, frozen=True, tag_field="status", tag="edited"):
    path: str
    replaced: int
    bytes: int


class Entry(Struct, frozen=True, omit_defaults=True):
    path: str
    kind: Kind = "file"
    bytes: int = 0


class Listed(Struct, frozen=True, tag_field="status", tag="listed", omit_defaults=True):
    path: str
    entries: tuple[Entry, ...]
    left_out: int = 0


class Match(Struct, frozen=True):
    path: str
    line: int
    text: str


class Found(Struct, frozen=True, tag_field="status", tag="found", omit_defaults=True):
    """`is_cut`: there may be more than was looked at or shown."""

    matches: tuple[Match, ...]
    is_cut: bool = False
    note: str = ""


class Executed(Struct, frozen=True, tag_field="status", tag="executed", omit_defaults=True):
    """`ended` is `exited`, `timed_out`, `silent`, `cancelled` or `failed_to_start`."""

    exit_code: int | None
    ended: str
    duration_ms: int
    output: str
    output_left_out_bytes: int = 0
    note: str = ""


class Finished(Struct, frozen=True, tag_field="status", tag="finished"):
    summary: str


class Asked(Struct, frozen=True, tag_field="status", tag="asked"):
    question: str


Observation = Read | Written | Edited | Listed | Found | Executed | Finished | Asked | Failed


def failed(code: FailedCode, message: object, remedy: str = "") -> Failed:
    said = str(message)[:MESSAGE_CHARS_MAX].encode("utf-8", "replace").decode()
    return Failed(code, said, remedy)
