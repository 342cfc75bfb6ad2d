"""The tools that a model may call, and the box that runs them in one worktree.

Rules: a tool never raises because of what a model sent; it answers with a typed observation (JSON with
`status` and, where it failed, a stable `code`), so that the model can correct itself. Every path goes through
confined.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from agentcom import limits
from agentcom_sidecar.agentic import confined
from agentcom_sidecar.backends.base import ToolAnswer, ToolCall, ToolSpec

CONTENT_BYTES_MAX = limits.MIB  # one written file: beyond the output limit of any model
WRITTEN_BYTES_MAX = 64 * limits.MIB  # all that one attempt writes with tools; then it is told to stop


class WriteArguments(Struct, frozen=True):
    """What write_file takes."""

    path: Annotated[str, Meta(min_length=1, max_length=limits.PATH_CHARS_MAX)]
    content: str


class Written(Struct, frozen=True, tag_field="status", tag="written"):
    path: str
    bytes: int
    created: bool


class Failed(Struct, frozen=True, tag_field="status", tag="failed"):
    """`code`: bad_arguments, unknown_tool, path_refused, too_large, not_run, file_system."""

    code: str
    message: str


Observation = Written | Failed

WRITE_FILE = ToolSpec(
    name="write_file",
    description="Create a file, or replace one that exists. Missing directories are made.",
    parameters={
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "Relative to the root of the working directory."},
            "content": {"type": "string", "description": "The whole new content of the file."},
        },
        "required": ["path", "content"],
    },
)


class Toolbox:
    """The tools of one attempt, at work in `root` only."""

    specs = (WRITE_FILE,)

    def __init__(self, root: Path) -> None:
        self._root = root
        self._written_bytes = 0

    def run(self, call: ToolCall) -> ToolAnswer:
        observation = self._observe(call)
        content = msgspec.json.encode(observation).decode()
        return ToolAnswer(call, content, is_error=isinstance(observation, Failed))

    def _observe(self, call: ToolCall) -> Observation:
        if call.fault:
            return Failed("not_run", call.fault)
        if call.name != WRITE_FILE.name:
            return Failed("unknown_tool", f"there is no tool {call.name[:64]!r}; there is {WRITE_FILE.name}")
        try:
            arguments = _arguments(call.arguments)
            content = arguments.content.encode()
        except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
            return Failed("bad_arguments", f"{WRITE_FILE.name} takes path and content: {error}"[:500])
        if len(content) > CONTENT_BYTES_MAX:
            return Failed("too_large", f"{len(content)} bytes; a file may have {CONTENT_BYTES_MAX}")
        if self._written_bytes + len(content) > WRITTEN_BYTES_MAX:
            return Failed("too_large", f"this attempt has written {WRITTEN_BYTES_MAX} bytes, its limit")
        return self._write(arguments.path, content)

    def _write(self, path: str, content: bytes) -> Observation:
        try:
            created = confined.write(self._root, path, content)
        except confined.PathRefused as error:
            return Failed("path_refused", str(error)[:500])
        except OSError as error:
            return Failed("file_system", f"{path[:200]}: {error.strerror or error}")
        self._written_bytes += len(content)
        return Written(path, len(content), created)


def _arguments(given: object) -> WriteArguments:
    """Also from a JSON text: some models write the object as a string."""
    if isinstance(given, str):
        return msgspec.json.decode(given, type=WriteArguments)
    return msgspec.convert(given, WriteArguments)
