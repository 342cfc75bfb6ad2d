"""`python -m tests.faults --minutes 10 --json`: the long column, one row after the other.

    python -m tests.faults [--minutes M] [--rows I2,I6 | --soak] [--seed N] [--json]

Rows that can run for any length take `--minutes` each; the others run once, at the size of the long column. A row
prints its lines when its runs end; the last line sums up. Status 1 when anything that was promised did not hold, 3 when
nothing did not and a run was too short to tell (`cannot_tell` in its line), 0 when all held.
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

from tests.faults.long import SOAK, Run, rows
from tests.faults.report import Report, status_of


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
        "--minutes", type=float, default=10.0, help="for each row that can run for any length"
    )
    parser.add_argument("--rows", default="", help="only these, as I2,I6")
    parser.add_argument("--soak", action="store_true", help=f"only {', '.join(SOAK)}, unless rows are named")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument(
        "--json", action="store_true", help="the lines are JSON in any case; no summary in words"
    )
    chosen = parser.parse_args()
    named = [row.strip() for row in chosen.rows.split(",") if row.strip()]
    wanted = set(named or (SOAK if chosen.soak else ()))
    begun = time.monotonic()
    reports = [
        attempt(row, run).tell()
        for row, run in rows(chosen.minutes * 60, chosen.seed)
        if not wanted or row in wanted
    ]
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
