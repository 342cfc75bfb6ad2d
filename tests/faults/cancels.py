"""Cancels of commands that resist, and what is left of them (R8, the long column of I18).

`python -m tests.faults.cancels --count 1000` cancels so many, several at once, each at a moment of its own from the
seed, and counts the processes that are left by a word among their arguments. Exit status 1 when there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from agentcom_sidecar import guard
from agentcom_sidecar.command import SandboxMode
from agentcom_sidecar.sandbox import CommandSpec, run_command

AT_ONCE = 4
CANCEL_S_MAX = 0.15
GRACE_S = 0.02
COMMANDS = (
    "sleep {word}",
    "trap '' TERM INT HUP; while :; do sleep {word}; done",
    "setsid sh -c 'trap \"\" TERM HUP; sleep {word}; sleep {word}' & sleep {word}",
    "(setsid setsid -f sh -c 'trap \"\" TERM; sleep {word}; sleep {word}' &); sleep {word}",
    "for i in 1 2 3 4 5 6 7 8; do (env -i setsid sleep {word} &); done; sleep {word}",
    "f() {{ sleep {word} & [ $1 -gt 0 ] && f $(($1 - 1)) & sleep {word}; }}; f 6",
    "kill -STOP $$; sleep {word}",
    "yes {word}",
)


class Counts(TypedDict):
    mode: str
    seed: int
    cancelled: int
    ended_before: int
    survivors: int
    slowest_ms: int


def left(word: str) -> int:
    """Living processes with that word among their arguments, this one apart."""
    return sum(1 for each in guard.processes().values() if each.runs and word.encode() in _arguments(each.pid))


def _arguments(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


async def cancels(count: int, mode: SandboxMode, seed: int, folder: Path) -> Counts:
    chance = random.Random(seed)
    word = f"9{seed % 10**8:08d}.5"
    counts = Counts(mode=mode, seed=seed, cancelled=0, ended_before=0, survivors=0, slowest_ms=0)
    plan = [(chance.choice(COMMANDS), chance.uniform(0, CANCEL_S_MAX)) for _ in range(count)]

    async def worker(number: int) -> None:
        place = folder / str(number)
        place.mkdir()
        for text, delay_s in plan[number::AT_ONCE]:
            spec = CommandSpec(
                argv=("sh", "-c", text.format(word=word)), cwd=place, home=place / "home", timeout_s=600.0,
                grace_s=GRACE_S, mode=mode,
            )  # fmt: skip
            run = asyncio.ensure_future(run_command(spec))
            await asyncio.sleep(delay_s)
            run.cancel()
            started = time.monotonic()
            await asyncio.wait({run})
            counts["slowest_ms"] = max(counts["slowest_ms"], round((time.monotonic() - started) * 1000))
            counts["cancelled" if run.cancelled() else "ended_before"] += 1

    await asyncio.gather(*(worker(number) for number in range(AT_ONCE)))
    counts["survivors"] = left(word)
    return counts


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--mode", choices=("require", "off"), default="require")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 10**8)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="agentcom-cancels-") as folder:
        counts = asyncio.run(cancels(given.count, given.mode, given.seed, Path(folder)))
    print(json.dumps(counts))
    return 1 if counts["survivors"] else 0


if __name__ == "__main__":
    sys.exit(main())
