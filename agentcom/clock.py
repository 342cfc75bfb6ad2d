"""Time as a value. The core never reads a clock: the shell reads one and passes `Now` in.

Monotonic time is for leases and timeouts (CLOCK_MONOTONIC: a suspend does not count), wall time for records
and for times that people give.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol


class Now(NamedTuple):
    """One reading: `mono_ms` since an arbitrary start, `wall_ms` since the Unix epoch."""

    mono_ms: int
    wall_ms: int


class Clock(Protocol):
    def now(self) -> Now: ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> Now:
        return Now(time.monotonic_ns() // 1_000_000, time.time_ns() // 1_000_000)


class ManualClock:
    """A clock that tests move by hand; both readings move together unless `jump` moves the wall alone."""

    def __init__(self, mono_ms: int = 1_000_000, wall_ms: int = 1_800_000_000_000) -> None:
        self._now = Now(mono_ms, wall_ms)

    def now(self) -> Now:
        return self._now

    def advance(self, ms: int) -> Now:
        self._now = Now(self._now.mono_ms + ms, self._now.wall_ms + ms)
        return self._now

    def jump(self, ms: int) -> Now:
        self._now = Now(self._now.mono_ms, self._now.wall_ms + ms)
        return self._now


def boot_id() -> str:
    """Names this start of the machine, from which monotonic time counts; empty where it cannot be had."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def rfc3339(wall_ms: int | None) -> str | None:
    """`wall_ms` as RFC 3339 in UTC with milliseconds, or None."""
    if wall_ms is None:
        return None
    text = datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def lasting(seconds: float) -> str:
    """A duration in the largest unit that fits: 850 ms, 12 s, 5 min, 3 h, 2 d."""
    if seconds < 1:
        return f"{round(seconds * 1000)} ms"
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{round(seconds, 1):g} s" if seconds < 10 else f"{round(seconds)} s"
