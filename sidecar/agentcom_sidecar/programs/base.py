"""What an adapter is: the command line of a program, its environment, and how what it prints is read.

A command line is a list of arguments in which `{task_id}`, `{prompt}` and the other PLACES are filled in, each once and
never read again, so that nothing that a task says becomes a place or a further argument. No shell sees it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentcom.model import FailureClass
from agentcom_sidecar.backends.base import Usage, clean, count_of

PLACES: Final = frozenset(
    {
        "task_id", "attempt", "prompt", "prompt_file", "task_json_file", "result_file", "model", "session",
        "budget_usd", "worktree",
    }
)  # fmt: skip
PROMPT_ARGUMENT_BYTES_MAX: Final = (
    100_000  # an argument may have 128 KiB; a longer prompt is read from its file
)
TEXT_CHARS_MAX: Final = 256 * 1024  # of what a program says at last
ERROR_CHARS_MAX: Final = 2000
SAID_CHARS_MAX: Final = 2000  # of one line of progress
_PLACE = re.compile(r"\{([a-z_]+)\}")


@dataclass(slots=True)
class Heard:
    """What a program has told so far of one run. `cost_usd` None: it does not say."""

    session: str = ""
    model: str = ""
    text: str = ""
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    stop_reason: str | None = None
    failure: tuple[FailureClass, str, str] | None = None  # class, code, message
    notices: list[str] = field(default_factory=list)
    is_over: bool = False  # it has said that it is done

    def say(self, text: object) -> None:
        if isinstance(text, str) and text.strip():
            self.text = clean(text)[:TEXT_CHARS_MAX]

    def fail(self, failure_class: FailureClass, code: str, message: object) -> None:
        self.failure = failure_class, code, clean(str(message or "it did not say why"))[:ERROR_CHARS_MAX]


# Takes one event of a program, and gives what there is to show of it as progress; empty for nothing.
Read = Callable[[dict[str, Any], Heard], str]


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """One program. `command` and `resume` (going on in a session) are templates, of which the first argument is looked
    for in PATH; `model` and `budget` come after the first `lead` arguments where they apply. `read` takes each JSON
    object that it prints on a line of its own; without it, it is a generic program and writes a result file.
    `takes_base_url`: it gets this host's `anthropic.base_url`."""

    name: str
    install: str
    command: tuple[str, ...]
    resume: tuple[str, ...] = ()
    model: tuple[str, ...] = ()  # added when the task names a model
    budget: tuple[str, ...] = ()  # added when a budget concerns the task
    env: Mapping[str, str] = field(default_factory=dict)
    env_isolated: Mapping[str, str] = field(default_factory=dict)  # added where something isolates it
    read: Read | None = None
    lead: int = 1
    takes_base_url: bool = False

    @property
    def program(self) -> str:
        return self.command[0] if self.command else ""

    def mentions(self, place: str) -> bool:
        wanted = f"{{{place}}}"
        return any(wanted in each for each in (*self.command, *self.model, *self.budget))

    def argv(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """The arguments for one run. `session` among the values asks for going on in it, where that is possible."""
        parts = list(self.resume if values.get("session") and self.resume else self.command)
        extra = (self.model if values.get("model") else ()) + (
            self.budget if values.get("budget_usd") else ()
        )
        return tuple(filled(each, values) for each in (*parts[: self.lead], *extra, *parts[self.lead :]))


def filled(argument: str, values: Mapping[str, str]) -> str:
    """The argument with its places filled in, in one pass."""
    return _PLACE.sub(lambda found: values.get(found[1], found[0]), argument)


def unknown_place(arguments: tuple[str, ...]) -> str:
    """The first place that nothing fills; empty for none."""
    for argument in arguments:
        for found in _PLACE.finditer(argument):
            if found[1] not in PLACES:
                return found[1]
    return ""


def event_of(line: bytes) -> dict[str, Any] | None:
    """The JSON object of a line; None for any other text."""
    stripped = line.strip()
    if not stripped.startswith(b"{"):
        return None
    try:
        found = json.loads(stripped)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def word(value: object, chars_max: int = 200) -> str:
    return clean(value)[:chars_max] if isinstance(value, str) else ""


def dollars(value: object) -> float | None:
    """A cost that a program gave; None where it is none."""
    is_figure = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_figure and 0 <= value <= 1_000_000 else None  # type: ignore[operator,arg-type]


def usage_of(fresh: object, cached: object, out: object, written: object = 0) -> Usage:
    return Usage(
        fresh=count_of(fresh),
        cache_read=count_of(cached),
        cache_write_5m=count_of(written),
        out=count_of(out),
    )


def short(value: object) -> str:
    """Arguments of a tool, as a line of progress shows them."""
    try:
        return str(clean(json.dumps(value, ensure_ascii=False, default=str)))[:200]
    except (ValueError, RecursionError):
        return ""
