"""What `task log` shows of a round: each tool with its arguments and its result in short, then the tokens."""

from __future__ import annotations

from typing import Any

import msgspec

from agentcom_sidecar.agentic.observations import Executed, Failed, Found, Listed, Observation, Read
from agentcom_sidecar.backends.base import ToolCall, Turn

VALUE_CHARS_MAX = 80
ARGUMENTS_SHOWN_MAX = 6
NAME_CHARS_MAX = 64
OUTPUT_CHARS_MAX = 200


def call_line(number: int, call: ToolCall, observation: Observation) -> str:
    name = _line(call.name, NAME_CHARS_MAX) or "(no name)"
    return f"[round {number}] {name}{_arguments(call.arguments)} -> {_result(observation)}\n"


def tokens_line(number: int, turn: Turn) -> str:
    usage = turn.usage
    cached = f" ({usage.cache_read} cached)" if usage.cache_read else ""
    return f"[round {number}] {usage.prompt} tokens in{cached}, {usage.out} out\n"


def _arguments(given: Any) -> str:
    if not isinstance(given, dict):
        return f" {_value(given)}" if given else ""
    shown = [f"{_line(str(key), 40)}={_value(value)}" for key, value in list(given.items())[:ARGUMENTS_SHOWN_MAX]]
    return f" {' '.join(shown)}" if shown else ""


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    is_short = len(text) <= VALUE_CHARS_MAX and "\n" not in text
    return _line(text, VALUE_CHARS_MAX) if is_short else f"({len(text)} characters)"


def _result(observation: Observation) -> str:
    match observation:
        case Failed():
            return f"failed: {observation.code}: {_line(observation.message, OUTPUT_CHARS_MAX)}"
        case Read():
            return f"read {observation.lines} lines"
        case Listed():
            return f"listed {len(observation.entries) + observation.left_out} entries"
        case Found():
            return f"found {len(observation.matches)} lines{' or more' if observation.is_cut else ''}"
        case Executed():
            ended = f"exit code {observation.exit_code}" if observation.exit_code is not None else observation.ended
            return f"{ended}, {observation.duration_ms} ms, {len(observation.output)} characters of output"
        case _:
            fields = msgspec.to_builtins(observation)
            return f"{fields.pop('status')} {_line(' '.join(map(str, fields.values())), OUTPUT_CHARS_MAX)}".strip()


def _line(text: str, chars_max: int) -> str:
    """In one line, without what moves a terminal's cursor."""
    text = "".join(char if char.isprintable() else " " for char in text[: chars_max + 1])
    return text if len(text) <= chars_max else f"{text[: chars_max - 3]}..."
