"""What knowing a host costs: its sidecar for a sample and for finding tools, and the hub for taking a report.

A row has CPU and wall microseconds of one, the median over rounds, and CPU as a share of one core at the pace of the
defaults. `sample` is this machine as it is; `sample, 8 GPUs` asks a driver's library that answers at once, so it is
what the sidecar itself adds; a real driver's own time is not in it. Children count for `tools`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from agentcom import messages as m
from agentcom.config import SidecarSettings
from agentcom_sidecar.capabilities import Tools
from agentcom_sidecar.daemon import SAMPLES_PER_REPORT
from agentcom_sidecar.resources import ResourceProbe
from bench.machine import commit, machine, table
from tests.core_rig import Rig
from tests.fake_nvml import LIBRARY_NOT_FOUND, FakeNvml

ROUNDS: Final = 7
SAMPLES: Final = 100
REPORTS: Final = 500
LATER_LOOKS: Final = 20


def measured(name: str, work: Callable[[], None], count: int, every_s: float | None) -> dict[str, Any]:
    """The median of rounds; `work` does it `count` times."""
    cpu, wall = [], []
    for _ in range(ROUNDS):
        before, began = _cpu_s(), time.perf_counter()
        work()
        cpu.append((_cpu_s() - before) / count * 1e6)
        wall.append((time.perf_counter() - began) / count * 1e6)
    cpu_us = statistics.median(cpu)
    share = None if every_s is None else cpu_us / 1e6 / every_s * 100
    return {
        "what": name,
        "cpu_us": cpu_us,
        "wall_us": statistics.median(wall),
        "every_s": every_s,
        "core_percent": share,
    }


def rows() -> list[dict[str, Any]]:
    paces = SidecarSettings()
    none = ResourceProbe(Path.cwd(), nvml=FakeNvml({("nvmlInit", None): LIBRARY_NOT_FOUND}))
    eight = ResourceProbe(Path.cwd(), nvml=FakeNvml(count=8))
    known = Tools()
    asyncio.run(known.look())
    rig = Rig()
    rig.validates = False
    box = rig.host("box")
    report = eight.sample()

    def first_look() -> None:
        asyncio.run(Tools().look())

    def later_looks() -> None:
        for _ in range(LATER_LOOKS):
            asyncio.run(known.look())

    def take_reports() -> None:
        for beat in range(REPORTS):
            event = box.event(m.Heartbeat(session=box.token, beat=beat, resources=report))
            rig.hub.handle(event, rig.clock.now())
            rig.hub.end_tick()

    every_s = float(paces.resources_s)
    return [
        measured("sample", lambda: _repeat(none.sample), SAMPLES, every_s / SAMPLES_PER_REPORT),
        measured("sample, 8 GPUs", lambda: _repeat(eight.sample), SAMPLES, every_s / SAMPLES_PER_REPORT),
        measured(f"tools, {len(known.known)} asked for their version", first_look, 1, None),
        measured("tools, all known", later_looks, LATER_LOOKS, float(paces.tools_s)),
        measured("hub: a report with 8 GPUs is taken", take_reports, REPORTS, every_s),
    ]


def _repeat(call: Callable[[], object]) -> None:
    for _ in range(SAMPLES):
        call()


def _share(percent: float | None) -> str:
    return "-" if percent is None else f"{percent:.4f}"


def _cpu_s() -> float:
    """Of this process and the children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sampling", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--json", action="store_true", help="one JSON document")
    options = parser.parse_args(arguments)
    found = rows()
    if options.json:
        print(json.dumps({"rows": found, "machine": machine(), "commit": commit()}))
        return
    head = ("what", "CPU us", "wall us", "every s", "% of a core")
    body = [
        (
            r["what"],
            round(r["cpu_us"], 1),
            round(r["wall_us"], 1),
            r["every_s"] or "start",
            _share(r["core_percent"]),
        )
        for r in found
    ]
    print(table(head, body))
    print(f"{machine()}, commit {commit()}")


if __name__ == "__main__":
    main(sys.argv[1:])
