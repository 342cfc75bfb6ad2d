"""What it costs to start a command through the sidecar's door, beside the same command on its own and in bubblewrap.

`bare` is the command as a child process, `bubblewrap` the same with the options of every isolated command and nothing
of ours, `door_off` and `door_bubblewrap` are `run_command` without and with isolation, guard and all. The four take
turns in one run, so that what else the machine does falls on all of them; a row has the median and the 95th of a
hundred of its turns, in milliseconds, and the median of its ratio to `bubblewrap` in the same round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypedDict

from agentcom_sidecar import bubblewrap
from agentcom_sidecar.command import CommandSpec, SandboxMode
from agentcom_sidecar.sandbox import isolation_of, run_command
from bench.goals import Goal, at_most, told
from bench.machine import commit, machine, table

ROUNDS: Final = 200
QUICK_ROUNDS: Final = 5
WARM_ROUNDS: Final = 3
RATIO_MAX: Final = 1.5  # P12
COMMAND: Final = ("sh", "-c", "true")
TIMEOUT_S: Final = 60.0


class Row(TypedDict):
    """One way to start the command. `ratio` is to `bubblewrap`."""

    way: str
    median_ms: float
    p95_ms: float
    ratio: float | None


class Found(TypedDict):
    rows: list[Row]
    isolation: str
    goals: list[Goal]


Start = Callable[[], Awaitable[None]]


def ways(folder: Path, *, isolates: bool) -> dict[str, Start]:
    """The ways to start the command that this machine has, by name."""
    (folder / "place").mkdir()

    def spec(mode: SandboxMode) -> CommandSpec:
        home = folder / "home"
        return CommandSpec(argv=COMMAND, cwd=folder / "place", home=home, timeout_s=TIMEOUT_S, mode=mode)

    async def bare() -> None:
        subprocess.run(COMMAND, cwd=folder / "place", stdin=subprocess.DEVNULL, capture_output=True, check=True)

    async def in_bubblewrap() -> None:
        options = bubblewrap.arguments(spec("require"), {})
        command = [str(bubblewrap.find()), *options, "--", *COMMAND]
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)

    async def door(mode: SandboxMode) -> None:
        result = await run_command(spec(mode))
        assert result.succeeded, result

    found: dict[str, Start] = {"bare": bare, "door_off": lambda: door("off")}
    if isolates:
        found |= {"bubblewrap": in_bubblewrap, "door_bubblewrap": lambda: door("require")}
    return found


async def measure(folder: Path, rounds: int) -> Found:
    isolated_by = await isolation_of("auto")
    every = ways(folder, isolates=isolated_by.holds)
    took_ms: dict[str, list[float]] = {name: [] for name in every}
    for number in range(WARM_ROUNDS + rounds):
        for name, start in every.items():
            started_ns = time.perf_counter_ns()
            await start()
            if number >= WARM_ROUNDS:
                took_ms[name].append((time.perf_counter_ns() - started_ns) / 1e6)
    rows = [_row(name, took_ms) for name in sorted(every)]
    return Found(rows=rows, isolation=isolated_by.name, goals=_goals(rows))


def _row(name: str, took_ms: dict[str, list[float]]) -> Row:
    mine, base = sorted(took_ms[name]), took_ms.get("bubblewrap")
    ratios = [own / other for own, other in zip(took_ms[name], base, strict=True)] if base else None
    return Row(
        way=name,
        median_ms=round(statistics.median(mine), 2),
        p95_ms=round(mine[int(len(mine) * 0.95)], 2),
        ratio=round(statistics.median(ratios), 2) if ratios else None,
    )


def _goals(rows: list[Row]) -> list[Goal]:
    ratios = [row["ratio"] for row in rows if row["way"] == "door_bubblewrap" and row["ratio"] is not None]
    return [at_most("P12 a command through the door, times bubblewrap alone", each, RATIO_MAX) for each in ratios]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sidecar", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--quick", action="store_true", help="a few rounds: only the shape")
    parser.add_argument("--dir", type=Path, help="the disk to work on; the temporary folder by default")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="agentcom-bench-", dir=options.dir) as folder:
        found = asyncio.run(measure(Path(folder), QUICK_ROUNDS if options.quick else ROUNDS))
    if options.json:
        print(json.dumps({**found, "machine": machine(), "commit": commit()}))
        return 0
    print(table(list(Row.__annotations__), [list(row.values()) for row in found["rows"]]))
    print(told(found["goals"]))
    print(f"\nisolation: {found['isolation']}\nmachine: {machine()}\ncommit: {commit()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
