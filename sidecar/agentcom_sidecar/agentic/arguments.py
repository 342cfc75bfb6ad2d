"""What each tool takes, as types; the schema that a model sees is made from them, so that the two cannot differ."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from agentcom import limits
from agentcom_sidecar.backends.base import ToolSpec

LINES_MAX = 1_000_000_000
PATTERN_CHARS_MAX = 500
QUESTION_CHARS_MAX = limits.REASON_CHARS_MAX
COMMAND_TIMEOUT_S = 120
COMMAND_TIMEOUT_S_MAX = 1800
DEPTH_MAX = 8
SHOWN_OF_SCHEMA = ("type", "description", "enum")  # bounds are ours to check: some servers compile them for minutes

FilePath = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=limits.PATH_CHARS_MAX,
        description="Relative to the root of the working directory.",
    ),
]


class ReadFile(Struct, frozen=True):
    """Read a text file, or a part of it by lines."""

    path: FilePath
    first_line: Annotated[int, Meta(ge=1, le=LINES_MAX, description="Counts from 1.")] = 1
    lines: Annotated[int, Meta(ge=0, le=LINES_MAX, description="At most; 0 for as many as fit.")] = 0


class WriteFile(Struct, frozen=True):
    """Create a file, or replace one that exists. Missing directories are made."""

    path: FilePath
    content: Annotated[str, Meta(description="The whole new content of the file.")]


class EditFile(Struct, frozen=True):
    """Replace a piece of a text file. The old text must stand there exactly once, unless all are to be replaced."""

    path: FilePath
    old_text: Annotated[str, Meta(min_length=1, description="Exactly as in the file, white space included.")]
    new_text: Annotated[str, Meta(description="What shall stand there instead.")]
    replace_all: bool = False


class ListDirectory(Struct, frozen=True):
    """List the files and directories in a directory."""

    path: Annotated[FilePath, Meta(description="Relative to the root; '.' is the root.")] = "."
    depth: Annotated[int, Meta(ge=1, le=DEPTH_MAX, description="How many levels; 1 for this directory only.")] = 1


class SearchFiles(Struct, frozen=True):
    """Find lines that hold a text, in all text files below a directory."""

    pattern: Annotated[str, Meta(min_length=1, max_length=PATTERN_CHARS_MAX)]
    path: Annotated[FilePath, Meta(description="Where to look; '.' is everywhere.")] = "."
    is_regex: Annotated[bool, Meta(description="Whether the pattern is an extended regular expression.")] = False
    file_names: Annotated[str, Meta(max_length=PATTERN_CHARS_MAX, description="As *.py; empty for all files.")] = ""


class RunCommand(Struct, frozen=True):
    """Run a shell command in the working directory. It gets no input."""

    command: Annotated[str, Meta(min_length=1, max_length=limits.COMMAND_CHARS_MAX)]
    timeout_s: Annotated[int, Meta(ge=1, le=COMMAND_TIMEOUT_S_MAX)] = COMMAND_TIMEOUT_S


class Ask(Struct, frozen=True):
    """Ask the person whose task this is, when it cannot be done without an answer. Work stops until they answer."""

    question: Annotated[str, Meta(min_length=1, max_length=QUESTION_CHARS_MAX)]


class Finish(Struct, frozen=True):
    """Say that the task is done, or that nothing is to be done."""

    summary: Annotated[str, Meta(description="What was done, in a few sentences.")]


Arguments = ReadFile | WriteFile | EditFile | ListDirectory | SearchFiles | RunCommand | Ask | Finish


def spec_of(name: str, takes: type[Struct]) -> ToolSpec:
    """The tool as a model sees it."""
    _, parts = msgspec.json.schema_components([takes])
    schema = parts[takes.__name__]
    fields = {field: _shown(each) for field, each in schema["properties"].items()}
    parameters = {"type": "object", "properties": fields, "required": schema.get("required", [])}
    return ToolSpec(name, schema["description"], parameters)


def _shown(field: dict[str, Any]) -> dict[str, Any]:
    return {key: field[key] for key in SHOWN_OF_SCHEMA if key in field}


def taken(given: object, takes: type[Struct]) -> Any:
    """The arguments as their type. Also from a JSON text: some models write the object as a string; and figures as
    texts. Raises ValueError (msgspec's errors are) that says which field is wrong."""
    if isinstance(given, str):
        given = msgspec.json.decode(given)
    found = msgspec.convert(given, takes, strict=False)
    for name in takes.__struct_fields__:
        value = getattr(found, name)
        if isinstance(value, str) and value.encode("utf-8", "replace").decode() != value:
            raise ValueError(f"{name} holds half a character, which UTF-8 cannot hold")
    return found
