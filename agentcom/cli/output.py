"""What commands print: one JSON document, or aligned text for people.

Texts of others (descriptions, outputs, names) go through `plain`, so that no escape sequence reaches a
terminal. Colours appear on a terminal only, never with NO_COLOR, and never carry meaning alone.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from agentcom.clock import lasting

_ahead_s: ContextVar[float] = ContextVar("ahead_s", default=0.0)
PIPED_COLUMNS = 240  # a table that goes to a file or a pipe: wide, but a line stays a line
STATE_COLOURS = {
    "completed": "green", "working": "cyan", "assigned": "cyan", "ready": "blue", "held": "yellow",
    "delayed": "yellow", "waiting": "yellow", "dead": "red", "expired": "red", "cancelled": "bright_black",
    "online": "green", "idle": "green", "offline": "bright_black", "blocked": "yellow",
    "verified": "green", "already_done": "green", "partial_pass": "red", "no_change": "yellow",
    "pass": "green", "fail": "red", "ok": "green", "warn": "yellow",
}  # fmt: skip


now_option = click.option("--now", is_flag=True, help="At once; its work goes back to the queue.")


def removal(name: str, found: dict[str, Any], is_now: bool) -> str:
    """What became of a removal, in a line."""
    if found.get("removed"):
        return f"{plain(name)} is removed"
    if is_now:
        return f"{plain(name)} gets no new work; what it does goes back to the queue, and it goes when that has stopped"
    return f"{plain(name)} gets no new work, and goes when what it does has ended (--now: at once)"


def document(value: object) -> None:
    """The one JSON document of a command with --json."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def line(text: str = "") -> None:
    click.echo(text)


def note(text: str) -> None:
    """A line for people beside the result: on stderr, so that scripts never read it."""
    click.echo(text, err=True)


def coloured(text: str, colour: str | None = None) -> str:
    """`text` in the colour of the state that it names, or in `colour`; plain where colours do not belong."""
    chosen = colour or STATE_COLOURS.get(text)
    if chosen is None or not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return text
    return click.style(text, fg=chosen)


def plain(text: object, keep_lines: bool = False) -> str:
    """`text` without control characters; in one line unless `keep_lines`."""
    kept = {"\n", "\t"} if keep_lines else set()
    return "".join(c if c.isprintable() or c in kept else " " for c in str(text))


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """Aligned columns; the last one is cut to the width of the terminal. `empty` is said when there are no
    rows."""
    cells = [[plain("" if cell is None else cell) for cell in row] for row in rows]
    if not cells:
        line(empty)
        return
    widths = [max(len(header), *(len(row[n]) for row in cells)) for n, header in enumerate(headers)]
    room = shutil.get_terminal_size((120, 24)).columns if sys.stdout.isatty() else PIPED_COLUMNS
    last = max(16, room - sum(widths[:-1]) - 2 * (len(widths) - 1))
    line("  ".join(header.ljust(width) for header, width in zip(headers, widths, strict=True)).rstrip())
    for row in cells:
        row[-1] = row[-1] if len(row[-1]) <= last else row[-1][: last - 1] + "…"
        padded = [coloured(cell) + " " * (width - len(cell)) for cell, width in zip(row, widths, strict=True)]
        line("  ".join(padded).rstrip())


def pairs(values: Iterable[tuple[str, object]]) -> None:
    """Labelled values, those that are empty left out."""
    shown = [(label, plain(value)) for label, value in values if value not in (None, "", [], {})]
    width = max((len(label) for label, _ in shown), default=0)
    for label, value in shown:
        line(f"  {label.ljust(width)}  {coloured(value)}")


def block(text: str, indent: str = "    ") -> None:
    """Text of many lines, indented, its control characters taken out."""
    for part in plain(text, keep_lines=True).rstrip("\n").split("\n"):
        line(f"{indent}{part}")


def seconds(value: float | None) -> str:
    """A duration in the largest unit that fits; nothing where none is known."""
    return "" if value is None else lasting(value)


def go_by(ahead_s: float) -> None:
    """Ages and what is left of a time go by a clock that is so far ahead of this machine's: that of the hub."""
    _ahead_s.set(ahead_s)


def _now() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=_ahead_s.get())


def since(moment: str | None) -> str:
    """How long ago an RFC 3339 time was."""
    if not moment:
        return ""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    return seconds(max(0.0, (_now() - then).total_seconds()))


def moment(text: str | None) -> str:
    """An RFC 3339 time, and how far it is from now: `2027-01-15T08:00:00.000Z (5 min ago)`, `(in 12 s)`."""
    if not text:
        return ""
    try:
        left_s = (datetime.fromisoformat(text) - _now()).total_seconds()
    except ValueError:
        return text
    return f"{text} (in {seconds(left_s)})" if left_s > 0 else f"{text} ({seconds(-left_s)} ago)"


def size(count: int | None) -> str:
    """Bytes as KiB, MiB or GiB; what is more than nothing is at least 1 KiB."""
    if not count:
        return ""
    if count < 2**20:
        return f"{max(1, round(count / 2**10))} KiB"
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
