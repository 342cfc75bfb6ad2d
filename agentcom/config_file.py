"""Changing one setting in a config.toml that a person wrote: all else in the file stays as it is.

Lines are changed, and what comes out is read again: unless it says exactly what was meant, nothing is written and
the error says what to write by hand. (Writing the whole file anew would lose the comments.)
"""

from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from agentcom.config import write_private
from agentcom.errors import ConfigError
from agentcom.settings import NAMES, Value


def holds(path: Path, name: str) -> bool:
    """Whether the file says what this setting is worth. ConfigError where it cannot be read."""
    at = NAMES[name]
    section = _parsed(_read(path), path).get(at.section)
    return isinstance(section, dict) and at.key in section


def put(path: Path, values: dict[str, Value]) -> None:
    """Set these in the file, which is made where there is none. ConfigError with nothing changed."""
    _change(path, dict(values))


def remove(path: Path, names: list[str]) -> None:
    """Take these out of the file, where they stand in it. ConfigError with nothing changed."""
    _change(path, dict.fromkeys(names))


def _change(path: Path, values: dict[str, Value | None]) -> None:
    text = _read(path)
    changed = text
    for name, value in values.items():
        changed = _edited(changed, name, value)
    wanted = _parsed(text, path)
    for name, value in values.items():
        _apply(wanted, name, value)
    try:
        is_meant = _without_empty(tomllib.loads(changed)) == _without_empty(wanted)
    except tomllib.TOMLDecodeError:
        is_meant = False
    if not is_meant:
        told = "; ".join(f"{name} = {_toml(value)}" for name, value in values.items() if value is not None)
        raise ConfigError(
            f"{path} cannot be changed by line, edit it by hand: {told or 'take out ' + ', '.join(values)}"
        )
    if changed != text:
        write_private(path, changed.encode())


def _read(path: Path) -> str:
    try:
        return path.read_text() if path.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return copy.deepcopy(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error


def _apply(tables: dict[str, Any], name: str, value: Value | None) -> None:
    at = NAMES[name]
    if value is None:
        tables.get(at.section, {}).pop(at.key, None)
    else:
        tables.setdefault(at.section, {})[at.key] = list(value) if isinstance(value, tuple) else value


def _without_empty(tables: dict[str, Any]) -> dict[str, Any]:
    return {name: table for name, table in tables.items() if table != {}}


def _edited(text: str, name: str, value: Value | None) -> str:
    """The text with that one statement changed, added at the end of its section, or taken out."""
    at = NAMES[name]
    lines = text.splitlines()
    statement = [] if value is None else [f"{at.key} = {_toml(value)}"]
    head = next((n for n, line in enumerate(lines) if _is_head(line, at.section)), None)
    if head is None:
        added = [*([""] if lines else []), f"[{at.section}]", *statement] if statement else []
        return "\n".join([*lines, *added]) + "\n" if lines or added else ""
    end = next((n for n in range(head + 1, len(lines)) if lines[n].lstrip().startswith("[")), len(lines))
    found = next((n for n in range(head + 1, end) if re.match(rf"\s*{at.key}\s*=", lines[n])), None)
    if found is None:
        while end > head + 1 and not lines[end - 1].strip():
            end -= 1
        lines[end:end] = statement
    else:
        stop = _statement_end(lines, found)
        lines[found:stop] = statement
        end += len(statement) - (stop - found)
    if not statement and not any(line.strip() for line in lines[head + 1 : end]):
        del lines[head:end]  # nothing is left in its section
        while lines and head == len(lines) and not lines[-1].strip():
            lines.pop()
            head -= 1
        if not lines:
            return ""
    return "\n".join(lines) + "\n"


def _is_head(line: str, section: str) -> bool:
    return re.match(rf"\s*\[\s*{section}\s*\]\s*(#.*)?$", line) is not None


def _statement_end(lines: list[str], start: int) -> int:
    """Behind the last line of the statement that begins there: a list may go over several."""
    for end in range(start + 1, len(lines) + 1):
        try:
            tomllib.loads("\n".join(lines[start:end]))
        except tomllib.TOMLDecodeError:
            continue
        return end
    return start + 1


def _toml(value: Value | None) -> str:
    """As TOML: for the types that settings have, JSON's way of writing them is TOML's too."""
    return msgspec.json.encode(value).decode()
