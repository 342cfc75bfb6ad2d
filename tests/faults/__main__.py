"""`python -m tests.faults --minutes 10 --json`: the long column, one row after the other.

    python -m tests.faults [--minutes M] [--rows I2,I6 | --soak] [--seed N] [--json]

Rows that can run for any length take `--minutes` each; the others run once, at the size of the long column. A row
prints its lines when its runs end; the last line sums up. Status 1 when anything that was promised did not hold, 3 when
nothing did not and a run was too short to tell (`cannot_tell` in its line), 2 for a row that is not run here, 0 when
all held.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.arguments import length, whole
from tests.faults.long import SOAK, Run, rows
from tests.faults.report import Report, status_of

ALSO_BY = {"I3": "I1", "I8": "I22", "I10": "I22"}  # these have no runs of their own: the others try them as well


def wanted_rows(named: str, known: list[str]) -> set[str]:
    """The rows that are named, or those that try them; ValueError where one is not there."""
    rows = [row.strip() for row in named.split(",")]
    unknown = [row for row in rows if row not in known and row not in ALSO_BY]
    if unknown:
        also = ", ".join(f"{row} by way of {by}" for row, by in ALSO_BY.items())
        there = f"there are {', '.join(dict.fromkeys(known))}, and {also}"
        raise ValueError(f"there is no row '{unknown[0]}' to run: {there}; the other rows are tried with every merge")
    return {ALSO_BY.get(row, row) for row in rows}


def attempt(row: str, run: Run) -> Report:
    """The report of one run; one that breaks is a violation of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            return run(Path(folder))
        except Exception as error:
            traceback.print_exc()
            return Report(row, "the run broke", violations=[f"{type(error).__name__}: {str(error)[:1000]}"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument(
        "--minutes", type=length, default=10.0, help="for each row that can run for any length"
    )
    parser.add_argument("--rows", default="", help="only these, as I2,I6")
    parser.add_argument("--soak", action="store_true", help=f"only {', '.join(SOAK)}, unless rows are named")
    parser.add_argument("--seed", type=whole(0), default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument(
        "--json", action="store_true", help="the lines are JSON in any case; no summary in words"
    )
    chosen = parser.parse_args()
    runs = rows(chosen.minutes * 60, chosen.seed)
    wanted = set(SOAK if chosen.soak else ())
    if chosen.rows:
        try:
            wanted = wanted_rows(chosen.rows, [row for row, _ in runs])
        except ValueError as error:
            parser.error(str(error))
    begun = time.monotonic()
    reports = [attempt(row, run).tell() for row, run in runs if not wanted or row in wanted]
    failed = sorted({report.row for report in reports if report.violations})
    untold = sorted({report.row for report in reports if report.cannot_tell})
    summary = {
        "runs": len(reports),
        "failed": failed,
        "cannot_tell": untold,
        "seed": chosen.seed,
        "took_s": round(time.monotonic() - begun),
    }
    words = f"{len(reports)} runs, rows that failed: {failed or 'none'}, that cannot be told: {untold or 'none'}"
    print(json.dumps(summary) if chosen.json else words)
    return status_of(reports)


if __name__ == "__main__":
    sys.exit(main())
