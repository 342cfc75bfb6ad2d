"""`python -m tests.sim`: replay one seed, or run many and print what they covered.

    python -m tests.sim --seed 7 [--steps 60] [--trace]
    python -m tests.sim --seeds 1000 [--first 0] [--hours 24] [--json]

`--steps` is the length of the safety phase in simulated seconds. A run ends with status 1 at the first seed that
breaks a rule, and prints the command that shows it again.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from types import FrameType

from tests.sim.budget import Totals
from tests.sim.world import Report, SimulationFailed, simulate

SEED_S_MAX = 120  # a run that takes longer of real time goes round in circles


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one")
    parser.add_argument("--seeds", type=int, default=100, help="how many to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--hours", type=float, default=0.0, help="go on until so many hours are simulated")
    parser.add_argument(
        "--steps", type=int, help="seconds of the safety phase, instead of what the seed says"
    )
    parser.add_argument("--trace", action="store_true", help="print every step")
    parser.add_argument("--json", action="store_true", help="print the counts as one JSON document")
    parser.add_argument("--keep-going", action="store_true", help="run the other seeds after one that fails")
    asked = parser.parse_args()
    safety_ms = asked.steps * 1000 if asked.steps else None
    signal.signal(signal.SIGALRM, _stuck)
    if asked.seed is not None:
        return _replay(asked.seed, safety_ms, asked.trace)
    return _run_many(asked, safety_ms)


def _replay(seed: int, safety_ms: int | None, shows: bool) -> int:
    try:
        report = _guarded(seed, safety_ms, shows)
    except SimulationFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    print(
        f"seed {seed}: {report.tasks} tasks, {report.leases} leases, {report.simulated_ms / 1000:.0f} s simulated"
    )
    print(f"trace {report.trace_hash}")
    return 0


def _run_many(asked: argparse.Namespace, safety_ms: int | None) -> int:
    totals, seed, status = Totals(), asked.first, 0
    while totals.seeds < asked.seeds or totals.hours < asked.hours:
        try:
            totals.add(_guarded(seed, safety_ms, False))
        except SimulationFailed as failure:
            print(failure, file=sys.stderr)
            totals.failed.append(seed)
            totals.seeds += 1
            status = 1
            if not asked.keep_going:
                break
        seed += 1
    print(json.dumps(totals.as_json()) if asked.json else totals.as_text())
    return status


def _guarded(seed: int, safety_ms: int | None, shows: bool) -> Report:
    signal.alarm(SEED_S_MAX)
    try:
        return simulate(seed, safety_ms, shows)
    finally:
        signal.alarm(0)


def _stuck(_number: int, _frame: FrameType | None) -> None:
    raise TimeoutError(
        f"the run did not end within {SEED_S_MAX} s of real time: something goes round in circles"
    )


if __name__ == "__main__":
    sys.exit(main())
