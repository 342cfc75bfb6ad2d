"""Row I19: decoders never crash, on wrong inputs made from right ones.

    python -m tests.faults.fuzz [--inputs N | --minutes M] [--seed S] [--only NAME] [--json]

The inputs are tried in a child process, which leaves the one that it is about to try in a file: an input that kills
it is found there. `fuzz_atheris.py` drives the same targets by coverage.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.faults.fuzz_core import core
from tests.faults.fuzz_targets import Target, targets
from tests.faults.mutate import mutated
from tests.faults.recorder import ROOT
from tests.faults.report import Report

CURRENT = "current-input"
ACCEPTED_KEPT = 0.05  # of the accepted inputs: they become seeds
SEEDS_MAX = 2000
TOLD_MAX = 5
CHILD_S_MAX = 3600.0
SHARES = {
    "wire to the hub": 0.36,
    "wire from the hub": 0.14,
    "stored records": 0.2,
    "journal segments": 0.08,
    "config.toml": 0.07,
    "keys and codes": 0.03,
    "scheduler calls": 0.1,
    "messages to the core": 0.02,
}


def try_inputs(folder: Path, seed: int, count: int, only: str = "") -> Report:
    """Try `count` inputs over all targets; what was tried, refused and accepted of each."""
    report = Report("I19", "wrong inputs to every decoder", seed)
    arguments = ["--child", str(folder), "--inputs", str(count), "--seed", str(seed), "--only", only]
    child = subprocess.run(
        [sys.executable, "-m", "tests.faults.fuzz", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=CHILD_S_MAX,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "sidecar", ROOT / "web")))},
    )  # fmt: skip
    if child.returncode:
        current = folder / CURRENT
        found = current.read_bytes().hex() if current.exists() else "before the first input"
        report.violations.append(
            f"the process ended with {child.returncode} at {found[:2000]}: {child.stderr[-3000:]}"
        )
        return report
    answer = json.loads(child.stdout)
    report.violations += answer["violations"]
    report.counts.update(answer["counts"])
    return report


def run(folder: Path, seed: int, count: int, only: str) -> dict[str, Any]:
    """What the child does."""
    counts: dict[str, int] = {"inputs": 0}
    violations: list[str] = []
    for target in (*targets(random.Random(seed), folder), core(seed)):
        if only and target.name != only:
            continue
        share = count if only else round(count * SHARES[target.name])
        tried, accepted, wrong = _try_target(target, random.Random(f"{seed}-{target.name}"), share, folder)
        counts["inputs"] += tried
        counts |= {f"{target.name}: tried": tried, f"{target.name}: accepted": accepted}
        violations += wrong
    return {"counts": counts, "violations": violations}


def _try_target(target: Target, rng: random.Random, count: int, folder: Path) -> tuple[int, int, list[str]]:
    current = os.open(folder / CURRENT, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    seeds = list(target.seeds)
    begun_with = len(seeds)
    accepted, wrong = 0, []
    for seed in seeds:
        assert target.accepts(seed) or target.name not in MUST_BE_VALID, (
            f"{target.name}: a seed is refused: {seed!r}"
        )
    for _ in range(count):
        content = mutated(rng.choice(seeds), seeds, rng)
        os.pwrite(current, content, 0)
        os.ftruncate(current, len(content))
        try:
            is_accepted = target.accepts(content)
        except Exception as error:
            wrong.append(
                f"{target.name}: {type(error).__name__}: {str(error)[:200]} at {content.hex()[:1000]}"
            )
            if len(wrong) > TOLD_MAX:
                break
            continue
        accepted += is_accepted
        if is_accepted and len(content) < 4096 and rng.random() < ACCEPTED_KEPT:
            if len(seeds) < SEEDS_MAX:
                seeds.append(content)
            else:
                seeds[rng.randrange(begun_with, SEEDS_MAX)] = content
    os.close(current)
    return count, accepted, wrong


MUST_BE_VALID = ("wire to the hub", "stored records", "journal segments")


def fuzz_for(folder: Path, seconds: float, seed: int) -> Report:
    """Rounds of 100,000 inputs with rising seeds until the time is over."""
    over, report = (
        time.monotonic() + seconds,
        Report("I19", f"wrong inputs to every decoder for {seconds:.0f} s", seed),
    )
    rounds = 0
    while not rounds or time.monotonic() < over:
        one = folder / f"round-{rounds}"
        one.mkdir()
        found = try_inputs(one, seed + rounds, 100_000)
        rounds += 1
        report.add(**{name: int(count or 0) for name, count in found.counts.items()})
        report.violations += found.violations
    report.counts["rounds"] = rounds
    return report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--minutes", type=float, default=0.0, help="instead of a number of inputs")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--only", default="", choices=["", *SHARES])
    parser.add_argument("--json", action="store_true", help="for symmetry: the line is JSON in any case")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        print(json.dumps(run(Path(chosen.child), chosen.seed, chosen.inputs, chosen.only)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if chosen.minutes:
            report = fuzz_for(Path(folder), chosen.minutes * 60, chosen.seed)
        else:
            report = try_inputs(Path(folder), chosen.seed, chosen.inputs, chosen.only)
    return 1 if report.tell().violations else 0


if __name__ == "__main__":
    sys.exit(main())
