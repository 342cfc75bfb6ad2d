"""`python -m tests.sim`: replay one seed, or run many on all cores and print what they covered.

    python -m tests.sim --seed 7 [--alive] [--steps 60] [--trace]
    python -m tests.sim [--seeds 1000] [--hours 24] [--minutes 10] [--first 0] [--alive] [--json]

`--seeds`, `--hours` (simulated) and `--minutes` (real) are each gone on to: the run ends when all that were given
are reached. `--steps` is the length of the safety phase in simulated seconds. `--alive` has agents that live on a
bad network, and asks that none is judged dead. Status 1 at a seed that breaks a rule, with the command that shows
it again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime

from bench.machine import commit, machine
from tests.arguments import length, whole
from tests.sim.budget import FULL_HOURS, FULL_LEASES, Totals
from tests.sim.many import KINDS, guarded, processes, run_many
from tests.sim.world import SimulationFailed, World

SEEDS_AT_ONCE = 40  # where none are asked for; hours and minutes go on from there


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=whole(0), help="replay this one")
    parser.add_argument("--seeds", type=whole(1), default=SEEDS_AT_ONCE, help="how many to run")
    parser.add_argument("--first", type=whole(0), default=0, help="the first of them")
    parser.add_argument("--hours", type=length, default=0.0, help="go on until so many hours are simulated")
    parser.add_argument("--minutes", type=length, default=0.0, help="go on for so long of real time")
    parser.add_argument("--alive", action="store_true", help="agents that live: none may be judged dead")
    parser.add_argument("--jobs", type=whole(0), help="processes; one per core by default, 0 for none")
    parser.add_argument(
        "--steps", type=whole(1), help="seconds of the safety phase, instead of what the seed says"
    )
    parser.add_argument("--trace", action="store_true", help="print every step of --seed")
    parser.add_argument("--json", action="store_true", help="print the counts as one JSON document")
    parser.add_argument("--keep-going", action="store_true", help="run the other seeds after one that fails")
    asked = parser.parse_args()
    if asked.seed is not None:
        return _replay(asked)
    return _run_many(asked)


def _kind(asked: argparse.Namespace) -> str:
    return "alive" if asked.alive else "faults"


def _safety_ms(asked: argparse.Namespace) -> int | None:
    return asked.steps * 1000 if asked.steps else None


def _replay(asked: argparse.Namespace) -> int:
    kind: type[World] = KINDS[_kind(asked)]
    try:
        report = guarded(asked.seed, _safety_ms(asked), asked.trace, kind)
    except SimulationFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    simulated_s = report.simulated_ms / 1000
    print(f"seed {asked.seed}: {report.tasks} tasks, {report.leases} leases, {simulated_s:.0f} s simulated")
    print(f"trace {report.trace_hash}")
    return 0


def _run_many(asked: argparse.Namespace) -> int:
    begun = time.monotonic()

    def goes_on(totals: Totals) -> bool:
        return totals.hours < asked.hours or time.monotonic() - begun < asked.minutes * 60

    with processes(asked.jobs) as pool:
        totals = run_many(
            pool, _kind(asked), asked.first, _safety_ms(asked), asked.seeds, goes_on, asked.keep_going
        )
    for text in totals.failed.values():
        print(text, file=sys.stderr)
    print(json.dumps(_document(asked, totals, begun)) if asked.json else totals.as_text())
    return 1 if totals.failed else 0


def _document(asked: argparse.Namespace, totals: Totals, begun: float) -> dict[str, object]:
    """The counts, and how long the full columns of I6 and I22 would take at this pace."""
    took_s = time.monotonic() - begun
    return {
        "row": "I7" if asked.alive else "I6, I8, I22",
        "first_seed": asked.first,
        **totals.as_json(),
        "took_s": round(took_s, 1),
        "cpu_s": round(totals.cpu_s, 1),
        "simulated_hours_per_core_hour": round(totals.hours / totals.cpu_s * 3600),
        "full_run_core_hours": {
            f"{FULL_HOURS} simulated hours": round(FULL_HOURS / totals.hours * totals.cpu_s / 3600, 2),
            f"{FULL_LEASES} leases": round(FULL_LEASES / max(1, totals.leases) * totals.cpu_s / 3600, 2),
        },
        "jobs": asked.jobs or os.cpu_count(),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": machine(),
    }


if __name__ == "__main__":
    sys.exit(main())
