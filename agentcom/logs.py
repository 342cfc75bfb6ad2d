"""Structured logs: one JSON object a line on stderr; event names are constants, fields are not sentences.

Secrets are redacted here (redaction.py), in the processor, so that no call site has to remember it. Nothing raises here
where a line cannot be written: a log on a full disk must not end what it tells of.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, TextIO, cast

import msgspec
import structlog

from agentcom.redaction import learn_environment, redact_keys, redact_nested, redact_text

SECRET_FIELDS = re.compile(r"(token|secret|password|authorization|api_?key|bearer|cookie)", re.IGNORECASE)
_json = msgspec.json.Encoder().encode
_component = ""
_threshold = logging.INFO
COUNT_FIELDS = {"tokens_in", "tokens_out", "tokens_cached"}


class Sink:
    """stderr as far as it takes lines. Once it does again, the first line says how many it did not take, or took late:
    what was in its buffer is written then."""

    def __init__(self) -> None:
        self._lost = 0

    def write(self, text: str) -> None:
        """Whole lines, at once."""
        lost = self._lost
        self._lost += text.count("\n")
        with contextlib.suppress(OSError, ValueError, AttributeError):  # full, closed, or none
            sys.stderr.write(_lines_lost(lost) + text if lost else text)
            sys.stderr.flush()
            self._lost = 0

    def flush(self) -> None:
        """Nothing is kept back."""


_sink = Sink()


def say(text: str) -> None:
    """A line for people, as why a daemon ends."""
    _sink.write(f"{text}\n")


def redact(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for field, value in event.items():
        if SECRET_FIELDS.search(field) and field not in COUNT_FIELDS:
            event[field] = "[redacted]"
        elif isinstance(value, str):
            event[field] = redact_text(value)
        elif isinstance(value, dict | list | tuple):
            event[field] = redact_nested(value)
    return event


def configure(component: str, level: str = "info") -> None:
    """Send this process's logs to stderr as JSON lines with `component` bound, without the secrets of its environment;
    call once at start."""
    learn_environment(os.environ)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, _sink)),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(component=component)
    global _component, _threshold
    _component, _threshold = component, logging.getLevelName(level.upper())


class Lines:
    """Log lines of one level, kept and written together: for events that come with every task.

    A line through the chain of processors costs 20 us, one of these 3. The same redaction applies, to the line as
    it is written. Field names are ours here and name no secret.
    """

    def __init__(self, level: str = "info") -> None:
        self._level, self._number = level, int(logging.getLevelName(level.upper()))
        self._kept: list[dict[str, object]] = []

    def add(self, event: str, **fields: object) -> None:
        fields["event"] = event
        self._kept.append(fields)

    def flush(self) -> None:
        """Write what was kept, in one write and with one time."""
        if not self._kept:
            return
        kept, self._kept = self._kept, []
        if self._number >= _threshold:
            common = {"component": _component, "level": self._level, "timestamp": _now()}
            tail = b"," + _json(common)[1:] + b"\n"
            lines = b"".join([_json(fields)[:-1] + tail for fields in kept])
            _sink.write(redact_keys(lines.decode()))


def _lines_lost(count: int) -> str:
    said = {"event": "log_lines_lost", "count": count, "component": _component, "level": "warning"}
    return f"{_json({**said, 'timestamp': _now()}).decode()}\n"


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def get(**fields: object) -> Any:
    """A logger with `fields` bound."""
    return structlog.get_logger().bind(**fields)
