"""`python -m tests.faults --minutes 10 --json`: the long column, one row after the other.

    python -m tests.faults [--minutes M] [--rows I2,I6] [--seed N] [--json]

Rows that can run for any length take `--minutes` each; the others run once, at the size of the long column. A row
prints its line when it ends; the last line sums up. Status 1 when anything that was promised did not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults.bad_network import hold_each_way, live_through
from tests.faults.disk_full import fill, free_disk, purge_some
from tests.faults.kill_loop import kill_hub
from tests.faults.poison import beside_on_one_host, poison_real, poison_wire
from tests.faults.report import Report
from tests.faults.sidecar_kills import crash_at_each_step, kill_at_random
from tests.faults.slow_peer import late_reader, slow, stuck
from tests.faults.soak import soak
from tests.faults.storm import storm
from tests.faults.zombies import for_seconds, freeze_real, freeze_wire

Run = Callable[[Path], Report]
POISON_S = 5.0  # what one real poison takes: three deaths and three starts
POISON_WIRE_S = 0.35


def rows(seconds: float, seed: int) -> list[tuple[str, Run]]:
    """What is run, in order, by the row that it tries."""
    real_poisons = max(1, round(seconds / 2 / POISON_S))
    wire_poisons = min(1000, max(10, round(seconds / 2 / POISON_WIRE_S)))
    return [
        ("I2", lambda folder: kill_hub(folder, for_seconds(seconds / 2), seed)),
        ("I2", partial(crash_at_each_step, seed=seed)),
        ("I2", partial(kill_at_random, seconds=seconds / 2, seed=seed)),
        ("I6", lambda folder: freeze_real(folder, for_seconds(seconds / 2))),
        ("I6", lambda folder: freeze_wire(folder, for_seconds(seconds / 2), seed=seed)),
        ("I7", partial(live_through, seconds=seconds / 2, latency_s=0.01, reset_every_s=2)),
        (
            "I7",
            partial(live_through, seconds=seconds / 2, latency_s=5, reset_every_s=0, settings=DEFAULT_LEASES),
        ),
        ("I7", partial(hold_each_way, held_s=10)),
        ("I9", partial(poison_real, poisons=real_poisons, neighbours=8)),
        ("I9", partial(poison_wire, poisons=wire_poisons, neighbours=wire_poisons)),
        ("I9", partial(beside_on_one_host, run_s=8)),
        ("I11", partial(soak, seconds=seconds, seed=seed, settings={})),
        ("I12", partial(slow, messages=1_000_000 if seconds >= 600 else 100_000)),
        ("I12", stuck),
        ("I12", late_reader),
        ("I13", partial(storm, hosts=500, restarts=3)),
        ("I15", partial(fill, room={"FAULTS_MAP_BYTES": str(2 << 20)}, make_room=purge_some)),
        (
            "I15",
            partial(
                fill, room={"FAULTS_MAP_BYTES": str(1 << 20)}, make_room=purge_some, chars=1, persist_s=30
            ),
        ),
        ("I15", partial(fill, room={"FAULTS_FILE_BYTES": str(2 << 20)}, make_room=free_disk)),
    ]


DEFAULT_LEASES = {
    "AGENTCOM_QUEUE_HEARTBEAT_S": "5",
    "AGENTCOM_QUEUE_LEASE_S": "45",
    "AGENTCOM_QUEUE_OFFLINE_S": "15",
}


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
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument(
        "--json", action="store_true", help="the lines are JSON in any case; no summary in words"
    )
    chosen = parser.parse_args()
    wanted = {row.strip() for row in chosen.rows.split(",") if row.strip()}
    begun = time.monotonic()
    reports = [
        attempt(row, run).tell()
        for row, run in rows(chosen.minutes * 60, chosen.seed)
        if not wanted or row in wanted
    ]
    failed = sorted({report.row for report in reports if report.violations})
    summary = {
        "runs": len(reports),
        "failed": failed,
        "seed": chosen.seed,
        "took_s": round(time.monotonic() - begun),
    }
    print(
        json.dumps(summary) if chosen.json else f"{len(reports)} runs, rows that failed: {failed or 'none'}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
