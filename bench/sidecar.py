"""What it costs to start a command through the sidecar's door, beside the same command on its own and in bubblewrap.

`bare` is the command as a child process, `bubblewrap` the same with the options of every isolated command and nothing
of ours, `door_off` and `door_bubblewrap` are `run_command` without and with isolation, guard and all. The four take
turns in one run, so that what else the machine does falls on all of them; a row has the median and the 95th of a
hundred of its turns, in milliseconds, the median of its ratio to `bubblewrap` in the same round, and the processor time
that it took, here and in its processes: that hardly moves when others use the machine.

Then the worktree of an attempt (fetched, on its branch) beside a clone of the same repository by git's protocol, in
turns: `new` is written for the attempt, `spare` was made before, between two rounds, as on a host that waits between
two tasks (to make it takes `make_ms`, which is in no other figure). And what one sidecar with 8 agents gets done: tasks
that are one isolated command each, from a hub of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final, TypedDict

from agentcom.client import Client
from agentcom.config import Home, Settings, SidecarSettings
from agentcom.model import Role, TaskSpec
from agentcom_sidecar import bubblewrap, guards, spares, trees, workspace
from agentcom_sidecar.command import CommandSpec, SandboxMode
from agentcom_sidecar.sandbox import isolation_of, run_command
from bench.goals import Goal, at_least, at_most, told
from bench.machine import commit, machine, table
from bench.stage import Stage

ROUNDS: Final = 200
QUICK_ROUNDS: Final = 5
WARM_ROUNDS: Final = 3
RATIO_MAX: Final = 1.5  # P12
WORKTREE_RATIO_MIN: Final = 5.0  # P12
FILES, QUICK_FILES = 10_000, 100
TREES, QUICK_TREES = 5, 1
AGENTS: Final = 8
TASKS, QUICK_TASKS = 400, 16
COMMAND: Final = ("sh", "-c", "true")
TIMEOUT_S: Final = 60.0


class Row(TypedDict):
    """One way to start the command. `ratio` is to `bubblewrap`."""

    way: str
    median_ms: float
    p95_ms: float
    ratio: float | None
    cpu_ms: float


class Trees(TypedDict):
    """A directory to work in, of a repository with so many files. A ratio is of the clone to that in the same round,
    the median of all rounds."""

    files: int
    clone_ms: float
    new_ms: float
    spare_ms: float
    new_ratio: float
    spare_ratio: float
    make_ms: float


class Throughput(TypedDict):
    """What one sidecar gets done."""

    agents: int
    tasks: int
    tasks_per_s: float


class Found(TypedDict):
    rows: list[Row]
    worktree: Trees
    throughput: Throughput
    isolation: str
    guard: str
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


async def measure(folder: Path, rounds: int) -> tuple[list[Row], str]:
    """The rows, and what isolates commands here."""
    isolated_by = await isolation_of("auto")
    every = ways(folder, isolates=isolated_by.holds)
    took_ms: dict[str, list[float]] = {name: [] for name in every}
    cpu_ms = dict.fromkeys(every, 0.0)
    for number in range(WARM_ROUNDS + rounds):
        for name, start in every.items():
            started_ns, cpu_before_ms = time.perf_counter_ns(), _cpu_ms()
            await start()
            if number >= WARM_ROUNDS:
                took_ms[name].append((time.perf_counter_ns() - started_ns) / 1e6)
                cpu_ms[name] += (_cpu_ms() - cpu_before_ms) / rounds
    return [_row(name, took_ms, cpu_ms[name]) for name in sorted(every)], isolated_by.name


def _cpu_ms() -> float:
    """Of this process and of those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used) * 1000


def _row(name: str, took_ms: dict[str, list[float]], cpu_ms: float) -> Row:
    mine, base = sorted(took_ms[name]), took_ms.get("bubblewrap")
    ratios = [own / other for own, other in zip(took_ms[name], base, strict=True)] if base else None
    return Row(
        way=name,
        median_ms=round(statistics.median(mine), 2),
        p95_ms=round(mine[int(len(mine) * 0.95)], 2),
        ratio=round(statistics.median(ratios), 2) if ratios else None,
        cpu_ms=round(cpu_ms, 2),
    )


async def measure_trees(folder: Path, files: int, rounds: int) -> Trees:
    """In turns. Nothing is removed meanwhile: a disk that removes makes slowly. The numbers of the tasks are new, as in
    a hub: the name of a worktree decides where it lies, and one that had it before may just have been removed there."""
    origin, home = _origin(folder, files), Home(folder / "worktrees").prepare()
    spec = TaskSpec(description="a change", repo=str(origin))
    ways = {"new": Settings(sidecar=SidecarSettings(spare_worktrees=0)), "spare": Settings()}
    took_ms: dict[str, list[float]] = {"make": [], "clone": [], **{way: [] for way in ways}}
    # The mirror is there by then, as on a host that knows the repository.
    first = await workspace.prepare(spec, 1, 1, ways["new"], home, submitter_role=Role.admin)
    assert first.mirror is not None
    task = secrets.randbelow(1 << 30)
    for number in range(rounds):
        with _timed(took_ms["make"]):
            await spares.make(first.mirror, first.base_commit, home, trees.git_for(home, ways["spare"]))
        with _timed(took_ms["clone"]):
            _git(folder, "clone", "--quiet", f"file://{origin}", f"clone-{number}")
        for way, settings in ways.items():
            task += 1
            with _timed(took_ms[way]):
                await workspace.prepare(spec, task, 1, settings, home, submitter_role=Role.admin)
        assert spares.of(first.mirror, home) is None, "the spare was taken"
    median = {name: round(statistics.median(each), 1) for name, each in took_ms.items()}
    return Trees(
        files=files,
        clone_ms=median["clone"],
        new_ms=median["new"],
        spare_ms=median["spare"],
        new_ratio=_ratio(took_ms["clone"], took_ms["new"]),
        spare_ratio=_ratio(took_ms["clone"], took_ms["spare"]),
        make_ms=median["make"],
    )


@contextlib.contextmanager
def _timed(took_ms: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    took_ms.append((time.perf_counter() - started) * 1000)


def _ratio(theirs: list[float], ours: list[float]) -> float:
    return round(statistics.median(each / own for each, own in zip(theirs, ours, strict=True)), 2)


def _origin(folder: Path, files: int) -> Path:
    """A bare repository with so many files of 400 bytes, a hundred in each directory."""
    checkout, bare = folder / "checkout", folder / "origin.git"
    for number in range(files):
        path = checkout / f"part-{number // 100}" / f"file-{number}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number:019}\n" * 20)
    for arguments in (("init", "--quiet", "-b", "main"), ("add", "--all"), ("commit", "--quiet", "-m", "first")):
        _git(checkout, *arguments)
    _git(folder, "clone", "--quiet", "--bare", str(checkout), str(bare))
    shutil.rmtree(checkout)
    return bare


def _git(place: Path, *arguments: str) -> None:
    who = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
    subprocess.run(["git", *who, *arguments], cwd=place, check=True, capture_output=True)


def measure_throughput(folder: Path, tasks: int) -> Throughput:
    """A hub and a sidecar with AGENTS agents; the queue opens when all tasks lie in it."""
    with contextlib.ExitStack() as stack:
        home = Home(folder / "up").prepare()
        (home.path / "config.toml").write_text(f"[sidecar]\nagents = {AGENTS}\n[http]\nport = 0\n")
        Stage(folder, stack).start("-m", "agentcom.cli", "up", "--json", home=home.path)
        client = Client.connect(home, timeout_s=TIMEOUT_S)
        stack.callback(client.close)
        while len(client.agent_list()["agents"]) < AGENTS:
            time.sleep(0.05)
        client.wait(client.submit(description="warm", command="true")["id"], timeout_s=TIMEOUT_S)
        client.queue_pause()
        made = client.submit_many({"description": "a command", "command": "true"} for _ in range(tasks))
        started = time.monotonic()
        client.queue_pause(False)
        while client.queue_stats()["by_state"].get("completed", 0) <= tasks:  # one was to warm up
            time.sleep(0.02)
        took_s = time.monotonic() - started
        assert len(made) == tasks
    return Throughput(agents=AGENTS, tasks=tasks, tasks_per_s=round(tasks / took_s, 1))


def _goals(rows: list[Row], found: Trees) -> list[Goal]:
    ratios = [row["ratio"] for row in rows if row["way"] == "door_bubblewrap" and row["ratio"] is not None]
    door = [at_most("P12 a command through the door, times bubblewrap alone", each, RATIO_MAX) for each in ratios]
    what = f"P12 a worktree of {found['files']} files, times faster than a clone"
    ways = ((f"{what}: from a spare", found["spare_ratio"]), (f"{what}: new", found["new_ratio"]))
    return [*door, *(at_least(name, ratio, WORKTREE_RATIO_MIN) for name, ratio in ways)]


def run(folder: Path, *, quick: bool) -> Found:
    rows, isolation = asyncio.run(measure(folder, QUICK_ROUNDS if quick else ROUNDS))
    worktree = asyncio.run(
        measure_trees(folder, QUICK_FILES if quick else FILES, QUICK_TREES if quick else TREES)
    )
    return Found(
        rows=rows,
        worktree=worktree,
        throughput=measure_throughput(folder, QUICK_TASKS if quick else TASKS),
        isolation=isolation,
        guard=guards.kind(),
        goals=_goals(rows, worktree),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sidecar", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--quick", action="store_true", help="a few rounds: only the shape")
    parser.add_argument("--dir", type=Path, help="the disk to work on; the temporary folder by default")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="agentcom-bench-", dir=options.dir) as folder:
        found = run(Path(folder), quick=options.quick)
    if options.json:
        print(json.dumps({**found, "machine": machine(), "commit": commit()}))
        return 0
    print(table(list(Row.__annotations__), [list(row.values()) for row in found["rows"]]))
    for each in (found["worktree"], found["throughput"]):
        print("\n" + table(list(each), [list(each.values())]))
    print("\n" + told(found["goals"]))
    print(f"\nisolation: {found['isolation']}, guard: {found['guard']}\nmachine: {machine()}\ncommit: {commit()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
