"""A simulated fleet under four policies: the product's expected finish time against what is usual elsewhere.

The same trace of mixed tasks goes through the hub's real core once per policy, in simulated time: see fleet_trace.py
for hosts, models and tasks, fleet_machine.py for a host, fleet_policies.py for the policies. `wait` is from a task's
arrival until a model, or a shell, works on it, cold loads and the server's own queue included; `turnaround` until it
has ended; `makespan` until all have. `took_s` is real time, the only figure that depends on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Final, TypedDict

from agentcom import compiled
from agentcom.config import SchedulerSettings, ScoringSettings, Settings
from agentcom.policy_file import read_policy
from bench.fleet_policies import OWN, POLICIES
from bench.fleet_trace import Trace, trace
from bench.fleet_world import Fleet
from bench.goals import Goal, at_most, told
from bench.machine import commit, machine, table

HOSTS: Final = 200
MODELS: Final = 20
TASKS: Final = 20_000
SEED: Final = 7
QUICK: Final = (20, 8, 1_000)


class Row(TypedDict):
    """One policy on one trace; seconds of simulated time, `took_s` apart."""

    policy: str
    seed: int
    makespan_s: float
    wait_mean_s: float
    wait_p95_s: float
    turnaround_mean_s: float
    loads: int
    ticks: int
    took_s: float


def measure(
    work: Trace, policy: str, seed: int, settings: Settings | None = None, record: Path | None = None
) -> Row:
    begun = time.perf_counter()
    fleet = Fleet(work, policy, seed, settings, record)
    fleet.run()
    stories = fleet.stories
    waits = sorted((one.begun_ms - one.arrived_ms) / 1000 for one in stories)
    return Row(
        policy=policy,
        seed=seed,
        makespan_s=round(max(one.ended_ms for one in stories) / 1000, 1),
        wait_mean_s=round(statistics.fmean(waits), 2),
        wait_p95_s=round(waits[len(waits) * 95 // 100], 2),
        turnaround_mean_s=round(statistics.fmean(one.ended_ms - one.arrived_ms for one in stories) / 1000, 2),
        loads=fleet.loads(),
        ticks=fleet.ticks,
        took_s=round(time.perf_counter() - begun, 1),
    )


def goals(rows: list[Row]) -> list[Goal]:
    """Per trace: the product's figures, and the best of the others as their ceiling."""
    found = []
    for seed in dict.fromkeys(row["seed"] for row in rows):
        own = next((row for row in rows if row["seed"] == seed and row["policy"] == OWN), None)
        others = [row for row in rows if row["seed"] == seed and row["policy"] != OWN]
        if own is not None and others:
            makespan_s = min(row["makespan_s"] for row in others)
            wait_s = min(row["wait_mean_s"] for row in others)
            found.append(at_most(f"P13 makespan, seed {seed}, s", own["makespan_s"], makespan_s))
            found.append(at_most(f"P13 mean wait, seed {seed}, s", own["wait_mean_s"], wait_s))
    return found


def settings_of(scoring: Path | None, record: Path | None) -> Settings:
    usual = ScoringSettings()
    return Settings(
        scoring=read_policy(scoring, usual) if scoring is not None else usual,
        scheduler=SchedulerSettings(record=record is not None),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.fleet", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--quick", action="store_true", help="a small fleet: only the shape")
    parser.add_argument("--seed", type=int, default=SEED, help="of the first trace")
    parser.add_argument("--seeds", type=int, default=1, help="how many traces, each with the next seed")
    parser.add_argument("--hosts", type=int)
    parser.add_argument("--models", type=int)
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--policy", choices=POLICIES, help="only this one")
    parser.add_argument("--scoring", type=Path, metavar="TOML", help="figures of the product's own policy, [scoring]")
    parser.add_argument("--record", type=Path, metavar="FOLDER", help="record the scheduler there; see docs/replay.md")
    options = parser.parse_args(arguments)
    settings = settings_of(options.scoring, options.record)
    hosts, models, tasks = QUICK if options.quick else (HOSTS, MODELS, TASKS)
    rows = []
    for seed in range(options.seed, options.seed + options.seeds):
        work = trace(seed, options.hosts or hosts, options.models or models, options.tasks or tasks)
        policies = [one for one in POLICIES if options.policy in (None, one)]
        rows += [measure(work, one, seed, settings, options.record if one == OWN else None) for one in policies]
    found = goals(rows)
    if options.json:
        document = {
            "rows": rows,
            "goals": found,
            "machine": machine(),
            "commit": commit(),
            "seed": options.seed,
        }
        print(json.dumps(document))
        return 0
    print(table(list(Row.__annotations__), [list(row.values()) for row in rows]))
    print(f"\n{told(found)}\n\nmachine: {machine()}\ncommit: {commit()}\nseed: {options.seed}")
    return 0


def use_sources() -> None:
    """Begin again where the core is compiled: the other policies derive from its classes, which needs the sources."""
    if compiled.IMPLEMENTATION == "compiled":
        os.execve(sys.executable, sys.orig_argv, os.environ | {compiled.SETTING: "python"})


if __name__ == "__main__":
    use_sources()
    sys.exit(main())
