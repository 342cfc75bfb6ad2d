"""The long column: each row for as long as it is given, with what a full run of it would take.

A run that has a size of its own is repeated with rising seeds until the time is over, and its counts are added up.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.faults.bad_network import hold_each_way, live_through
from tests.faults.damage import try_damages, try_home_damages, try_restores
from tests.faults.disk_full import fill, free_disk, purge_some
from tests.faults.fuzz import fuzz_for
from tests.faults.hub_damage import try_cli_restores, try_hub_starts
from tests.faults.hub_power_loss import try_hub_images
from tests.faults.kill_loop import kill_hub
from tests.faults.poison import beside_on_one_host, poison_real, poison_wire
from tests.faults.power_loss import try_images
from tests.faults.recorder import ROOT
from tests.faults.report import Report
from tests.faults.restore_cuts import try_restore_cuts
from tests.faults.sidecar_kills import crash_at_each_step, kill_at_random
from tests.faults.slow_peer import late_reader, slow, stuck
from tests.faults.soak import soak
from tests.faults.storm import storm
from tests.faults.stuck_reader import stuck_reader
from tests.faults.zombies import for_seconds, freeze_real, freeze_wire

Run = Callable[[Path], Report]
One = Callable[[Path, int], Report]
SOAK = ("I1", "I2", "I4", "I6", "I9", "I11", "I22")  # what `make soak` runs when no rows are named
DEFAULT_LEASES = {
    "AGENTCOM_QUEUE_HEARTBEAT_S": "5",
    "AGENTCOM_QUEUE_LEASE_S": "45",
    "AGENTCOM_QUEUE_OFFLINE_S": "15",
}


def rows(seconds: float, seed: int) -> list[tuple[str, Run]]:
    """What is run, in order, by the row that it tries. A row's runs share its time."""
    half, third = seconds / 2, seconds / 3
    store_images = again(half, seed, lambda at, n: try_images(at, n, 2000), images=(100_000, "images"))
    hub_images = again(half, seed, lambda at, n: try_hub_images(at, n, 500, 5), images=(100_000, "images"))
    damages = again(third, seed, lambda at, n: try_damages(at, n, 500), damages=(10_000, "damages"))
    homes = again(third, seed, lambda at, n: try_home_damages(at, n, 500), damages=(10_000, "damages"))
    starts = again(third, seed, lambda at, n: try_hub_starts(at, n, 50), damages=(10_000, "damages"))
    real_poison = again(half, seed, lambda at, _: poison_real(at, 4, 8), poisons=(1_000, "poisons"))
    wire_poison = again(half, seed, lambda at, n: poison_wire(at, 50, 50, n), poisons=(1_000, "poisons"))
    return [
        ("I1", store_images),
        ("I1", hub_images),
        ("I2", once(lambda at: kill_hub(at, for_seconds(half), seed), kills=(10_000, "kills"))),
        ("I2", partial(crash_at_each_step, seed=seed)),
        ("I2", once(lambda at: kill_at_random(at, for_seconds(half), seed), kills=(1_000, "kills"))),
        ("I4", damages),
        ("I4", homes),
        ("I4", starts),
        ("I5", partial(try_restores, seed=seed, count=200)),
        ("I5", partial(try_restore_cuts, seed=seed, count=1000)),
        ("I5", partial(try_cli_restores, seed=seed, count=50)),
        ("I6", once(lambda at: freeze_real(at, for_seconds(half)), zombie_leases=(1_000, "leases"))),
        (
            "I6",
            once(lambda at: freeze_wire(at, for_seconds(half), seed=seed), zombie_leases=(10_000, "leases")),
        ),
        ("I7", partial(live_through, seconds=half, latency_s=0.01, reset_every_s=2)),
        ("I7", partial(live_through, seconds=half, latency_s=5, reset_every_s=0, settings=DEFAULT_LEASES)),
        ("I7", partial(hold_each_way, held_s=10)),
        ("I9", real_poison),
        ("I9", wire_poison),
        ("I9", partial(beside_on_one_host, run_s=8)),
        ("I11", once(partial(soak, seconds=seconds, seed=seed), tasks_through=(1_000_000, "tasks"))),
        ("I12", partial(slow, messages=1_000_000 if seconds >= 600 else 100_000)),
        ("I12", stuck),
        ("I12", late_reader),
        ("I13", partial(storm, hosts=500, restarts=3)),
        ("I14", partial(stuck_reader, readers=50, asks=5_000)),
        ("I15", partial(fill, room={"FAULTS_MAP_BYTES": str(2 << 20)}, make_room=purge_some)),
        (
            "I15",
            partial(
                fill, room={"FAULTS_MAP_BYTES": str(1 << 20)}, make_room=purge_some, chars=1, persist_s=30
            ),
        ),
        ("I15", partial(fill, room={"FAULTS_FILE_BYTES": str(2 << 20)}, make_room=free_disk)),
        ("I19", partial(fuzz_for, seconds=seconds, seed=seed)),
        ("I22", partial(simulate, seconds=seconds, seed=seed)),
    ]


def once(run: Run, **full: tuple[int, str]) -> Run:
    """The run, with what a full one would take: `count=(wanted, in words)`."""

    def extrapolated(folder: Path) -> Report:
        report = run(folder)
        for name, (wanted, what) in full.items():
            report.extrapolate(name, wanted, what)
        return report

    return extrapolated


def again(seconds: float, seed: int, one: One, **full: tuple[int, str]) -> Run:
    """`one` with the seeds from `seed` on until the time is over, as one report."""

    def repeated(folder: Path) -> Report:
        over, total = time.monotonic() + seconds, Report("", "", seed)
        total.counts["rounds"] = 0
        while not total.row or time.monotonic() < over:
            place = folder / f"round-{total.counts['rounds']}"
            place.mkdir()
            found = one(place, seed + int(total.counts["rounds"] or 0))
            total.row, total.tried = found.row, found.tried
            total.merge(found)
            total.add(rounds=1)
            if total.violations:
                break  # what is left on the disk shows it
            shutil.rmtree(place, ignore_errors=True)
        return total

    return once(repeated, **full)


def simulate(_folder: Path, seconds: float, seed: int) -> Report:
    """I22: the simulator's own command, for so much real time."""
    report = Report("I22", "simulated hubs and sidecars under every fault", seed)
    command = [
        sys.executable,
        "-m",
        "tests.sim",
        "--json",
        "--minutes",
        f"{seconds / 60:g}",
        "--first",
        str(seed),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds * 2 + 600)
    try:
        told = json.loads(done.stdout)
    except ValueError:
        told = {}
    report.counts |= {name: count for name, count in told.items() if isinstance(count, int | float)}
    report.full = {name: float(hours) for name, hours in told.get("full_run_core_hours", {}).items()}
    if done.returncode or not told:
        report.violations.append(f"status {done.returncode}: {done.stderr[-2000:]}")
    return report
