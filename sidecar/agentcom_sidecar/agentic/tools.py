"""The tools that a model may call, and the box that runs them in one worktree.

Rules: a tool never raises because of what a model sent; it answers with a typed observation (see observations.py),
so that the model can correct itself. A tool that this host does not allow is not offered.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from agentcom_sidecar.agentic import arguments as takes
from agentcom_sidecar.agentic.arguments import spec_of, taken
from agentcom_sidecar.agentic.command_tools import CommandTools
from agentcom_sidecar.agentic.file_tools import FileTools
from agentcom_sidecar.agentic.observations import (
    MISTAKES,
    Asked,
    Executed,
    Failed,
    Finished,
    Observation,
    failed,
)
from agentcom_sidecar.backends.base import ToolCall, ToolSpec

NAME_CHARS_MAX = 64
RESULT_CHARS_MAX = 32_000  # of one answer of a tool, where the model's context is large or unknown
RESULT_CHARS_MIN = 2_000
TIMES = re.compile(r"\b\d+(?:\.\d+)?\s?(?:[mµn]?s|sec|seconds?|minutes?)\b")  # as test runners print them


class Tool(NamedTuple):
    """A tool: what the model sees of it, the type of its arguments, what it does."""

    spec: ToolSpec
    takes: type[Struct]
    run: Callable[[Any], Awaitable[Observation]]


def result_chars_max(num_ctx: int | None) -> int:
    """What one answer of a tool may hold: about a quarter of a small model's context, at three characters a token."""
    return RESULT_CHARS_MAX if num_ctx is None else min(RESULT_CHARS_MAX, max(RESULT_CHARS_MIN, num_ctx * 3 // 4))


class Toolbox:
    """The tools of one attempt, at work in one worktree only."""

    def __init__(
        self, files: FileTools, commands: CommandTools | None = None, *, may_ask: bool = False
    ) -> None:
        self.files = files
        found = {
            "read_file": _tool("read_file", takes.ReadFile, _in_thread(files.read)),
            "write_file": _tool("write_file", takes.WriteFile, _in_thread(files.write)),
            "edit_file": _tool("edit_file", takes.EditFile, _in_thread(files.edit)),
            "list_directory": _tool("list_directory", takes.ListDirectory, _in_thread(files.list)),
        }
        if commands is not None:
            found["search_files"] = _tool("search_files", takes.SearchFiles, commands.search)
            if commands.why_not is None:
                found["run_command"] = _tool("run_command", takes.RunCommand, commands.run_command)
        if may_ask:
            found["ask"] = _tool("ask", takes.Ask, _ask)
        found["finish"] = _tool("finish", takes.Finish, _finish)
        self._tools = found
        self.specs = tuple(tool.spec for tool in found.values())
        self.names = frozenset(found)

    async def run(self, call: ToolCall) -> Observation:
        """What the call came to; never raises but asyncio.CancelledError."""
        if call.fault:
            return failed("not_run", call.fault, "call the tool again")
        tool = self._tools.get(call.name)
        if tool is None:
            known = ", ".join(self._tools)
            return failed("unknown_tool", f"there is no tool {call.name[:NAME_CHARS_MAX]!r}", f"there are: {known}")
        try:
            given = taken(call.arguments, tool.takes)
        except (ValueError, RecursionError) as error:
            fields = ", ".join(tool.takes.__struct_fields__)
            return failed("bad_arguments", f"{call.name}: {error}", f"it takes an object with: {fields}")
        return await tool.run(given)


def encoded(observation: Observation) -> str:
    """As it goes back to the model."""
    return msgspec.json.encode(observation).decode()


def essence(observation: Observation) -> str:
    """What it says, without how long things took: a command that runs again is not news by its time alone."""
    if isinstance(observation, Executed):
        output = TIMES.sub("", observation.output)
        observation = msgspec.structs.replace(observation, duration_ms=0, output=output)
    return encoded(observation)


def is_mistake(observation: Observation) -> bool:
    """Whether the call itself made no sense, so that no tool ran."""
    return isinstance(observation, Failed) and observation.code in MISTAKES


async def _finish(given: takes.Finish) -> Observation:
    return Finished(given.summary)


async def _ask(given: takes.Ask) -> Observation:
    return Asked(given.question)


def _tool(name: str, argument: type[Struct], run: Callable[[Any], Awaitable[Observation]]) -> Tool:
    return Tool(spec_of(name, argument), argument, run)


def _in_thread(run: Callable[[Any], Observation]) -> Callable[[Any], Awaitable[Observation]]:
    """Disks may be slow, and files long: never on the loop. A cancel waits for what has begun."""

    async def later(given: Any) -> Observation:
        at_work = asyncio.ensure_future(asyncio.to_thread(run, given))
        try:
            return await asyncio.shield(at_work)
        except asyncio.CancelledError:
            await asyncio.wait({at_work})
            raise

    return later
