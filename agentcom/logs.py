"""Structured logs: one JSON object a line on stderr; event names are constants, fields are not sentences.

Secrets are redacted here, in the processor, so that no call site has to remember it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

SECRET_FIELDS = re.compile(r"(token|secret|password|authorization|api_?key|bearer|cookie)", re.IGNORECASE)
SECRET_VALUES = re.compile(
    r"(sk-[A-Za-z0-9_-]{8,}|ac[tsl]_[A-Za-z0-9_-]{16,}|acj1\.[A-Za-z0-9_.-]+|gh[pousr]_\w{16,})"
)
COUNT_FIELDS = {"tokens_in", "tokens_out", "tokens_cached"}


def redact_text(text: str) -> str:
    """`text` with everything that looks like a key or token of ours or a vendor's replaced."""
    return SECRET_VALUES.sub("[redacted]", text)


def redact(_logger: object, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for field, value in event.items():
        if SECRET_FIELDS.search(field) and field not in COUNT_FIELDS:
            event[field] = "[redacted]"
        elif isinstance(value, str):
            event[field] = redact_text(value)
    return event


def configure(component: str, level: str = "info") -> None:
    """Send this process's logs to stderr as JSON lines with `component` bound; call once at start."""
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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(component=component)


def get(**fields: object) -> Any:
    """A logger with `fields` bound."""
    return structlog.get_logger().bind(**fields)
