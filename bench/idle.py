"""What idle sidecars cost a hub: one process with a connection and a key for each, which beats every 5 s.

Once with bare heartbeats, once with a host's figures in each, as a sidecar sends them. `cpu_percent` is CPU time of the
hub's whole process, network threads included, in percent of one core; `main_percent` that of its loop.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Final, TypedDict

import psutil

from bench import gauges
from bench.consumer import HEARTBEAT_MS, enrol
from bench.goals import Goal, at_most
from bench.stage import HubAt, Stage

SIDECARS: Final = 500
SETTLE_S: Final = 2.0
CORE_PERCENT: Final = 5.0  # P10


class IdleRow(TypedDict):
    sidecars: int
    carries: str
    cpu_percent: float
    main_percent: float
    us_per_beat: float
    over_s: float


def measure(folder: Path, sidecars: int, run_s: float) -> list[IdleRow]:
    """A row for bare beats and one for beats with figures, each on a hub of its own."""
    return [_row(folder, sidecars, run_s, tells=tells) for tells in (False, True)]


def _row(folder: Path, sidecars: int, run_s: float, *, tells: bool) -> IdleRow:
    with contextlib.ExitStack() as stack:
        stage = Stage(folder, stack)
        hub = stage.hub("idle-figures" if tells else "idle")
        order = {
            "hub": hub.address,
            "hub_key": hub.key,
            "secrets": [_enrolled(stage, hub, f"idle{n}") for n in range(sidecars)],
            "tells": tells,
        }
        stage.start("-m", "bench.consumer", "crowd", order=order)
        time.sleep(min(SETTLE_S, run_s))
        process = psutil.Process(hub.pid)
        main_ns, whole_s, begun = gauges.main_thread_ns(hub.pid), _cpu_s(process), time.monotonic()
        time.sleep(run_s)
        took_s = time.monotonic() - begun
        main_s = (gauges.main_thread_ns(hub.pid) - main_ns) / 1e9
        whole_s = _cpu_s(process) - whole_s
    return IdleRow(
        sidecars=sidecars,
        carries="figures" if tells else "nothing",
        cpu_percent=round(100 * whole_s / took_s, 2),
        main_percent=round(100 * main_s / took_s, 2),
        us_per_beat=round(1e6 * whole_s / took_s / (sidecars * 1000 / HEARTBEAT_MS), 1),
        over_s=round(took_s, 1),
    )


def _enrolled(stage: Stage, hub: HubAt, name: str) -> str:
    """The secret of a host's key, enrolled one after the other: a hub keeps 200 open invitations at most."""
    return enrol(stage.context, hub.address, hub.key, name, stage.invite(hub, name)).secret


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def goals(rows: list[IdleRow]) -> list[Goal]:
    """Of a full crowd only: fewer would hold it too easily."""
    return [
        at_most(
            f"P10 % of a core, {row['sidecars']} idle, beats with {row['carries']}",
            row["cpu_percent"],
            CORE_PERCENT,
        )
        for row in rows
        if row["sidecars"] >= SIDECARS
    ]
