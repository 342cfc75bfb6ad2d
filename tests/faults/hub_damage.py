"""Rows I4 and I5 with the real hub: its home, with tasks in every state, a backup and a journal, is damaged while no
hub runs, and then one is started on it.

A hub may start and show all, start and say what is uncertain, or end with status 1 and a line that says why. It may not
die of a signal, end with a traceback, or be content with less than it had.
"""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

from agentcom.model import FINAL
from tests.faults.damage import KINDS, damage_home
from tests.faults.hosts import Fleet, enrol_all, fleet_of
from tests.faults.load import address_of
from tests.faults.report import Report
from tests.world import Daemon, World, eventually, world

HUB, NEEDS = "hub", "fast"
TASKS = 30
Shown = dict[int, tuple[str, int]]


class HubHome:
    """A home as a hub has left it after a clean stop; `shown` is what it showed of every task."""

    def __init__(self, made: World) -> None:
        self._made = made
        self.home = made.home(HUB)
        pairs = enrol_all(self.home, ["host"])
        hub = made.hub(HUB)
        with fleet_of(Fleet(address_of(self.home), pairs, agents=4, needs=(NEEDS,))):
            self._work("first")
            made.client(HUB).backup_now()
            self._work("later")
        self.shown = shown_by(made, HUB)
        assert hub.stop() == 0, hub.text()[-2000:]

    def _work(self, name: str) -> None:
        client = self._made.client(HUB)
        tasks = client.submit_many(
            {"description": f"{name}-{n}", "needs": [NEEDS if n % 3 else "nobody"], "command": "true"}
            for n in range(TASKS)
        )
        client.task_cancel(tasks[0]["id"])
        done = [task["id"] for n, task in enumerate(tasks) if n % 3]
        eventually("the host has done it", lambda: all(client.task_get(task)["finished_at"] for task in done))

    def copy(self, name: str) -> Path:
        place = self._made.home(name)
        shutil.copytree(self.home, place)
        return place


def shown_by(made: World, name: str) -> Shown:
    """State and attempt of every task; the open ones count as open, whatever they wait for."""
    shown: Shown = {}
    client, cursor = made.client(name), None
    while True:
        page: Any = client.task_list(limit=500, cursor=cursor)
        for task in page["tasks"]:
            shown[task["id"]] = (task["state"] if task["state"] in FINAL else "open", task["attempt"])
        cursor = page["next_cursor"]
        if cursor is None:
            return shown


def try_hub_starts(folder: Path, seed: int, count: int) -> Report:
    """Start the real hub on `count` damaged homes."""
    report = Report("I4", "damaged homes, each started by the real hub", seed)
    report.add(whole=0, told=0, refused=0, silent=0, aborts=0)
    rng = random.Random(seed)
    with world(folder) as made:
        sample = HubHome(made)
        for n in range(count):
            name = f"damaged-{n}"
            what = damage_home(sample.copy(name), rng)
            hub = start_or_end(made, name)
            how = _judge(made, name, hub, sample.shown)
            report.add(damages=1, **{how: 1})
            if how in ("silent", "aborts"):
                report.violations.append(f"{n}, {what}: {how}: {hub.process.returncode} {hub.text()[-600:]}")
            else:
                shutil.rmtree(made.home(name))
    return report


def start_or_end(made: World, name: str) -> Daemon:
    """The hub, ready or ended."""
    try:
        return made.hub(name)
    except AssertionError:
        hub = made.daemons[-1]
        assert hub.process.poll() is not None, f"neither ready nor ended: {hub.text()[-2000:]}"
        return hub


def _judge(made: World, name: str, hub: Daemon, wanted: Shown) -> str:
    if not hub.ready:
        clean = hub.process.returncode == 1 and "Traceback" not in hub.text()
        return "refused" if clean else "aborts"
    shown = shown_by(made, name)
    told = bool(hub.ready["store"]["uncertain"])
    status = hub.stop()
    if status != 0 or "Traceback" in hub.text():
        return "aborts"
    if shown == wanted:
        return "whole"
    return "told" if told else "silent"


def try_cli_restores(folder: Path, seed: int, count: int) -> Report:
    """I5: `agentcom backup restore` on `count` homes with a damaged store, then a hub: all tasks are as they were."""
    report = Report("I5", "damaged store of a hub, `agentcom backup restore`, and the hub again", seed)
    report.add(restored=0, tasks_lost=0, batches_replayed=0)
    rng = random.Random(seed)
    with world(folder) as made:
        sample = HubHome(made)
        for n in range(count):
            name, kind = f"restored-{n}", KINDS[n % len(KINDS)]
            file = sample.copy(name) / "store" / "data.mdb"
            content = bytearray(file.read_bytes())
            kind(content, rng)
            file.write_bytes(content)
            told = made.json(name, "backup", "restore")
            hub = made.hub(name)
            shown = shown_by(made, name)
            lost = [task for task in sample.shown if shown.get(task) != sample.shown[task]]
            report.add(restored=1, tasks_lost=len(lost), batches_replayed=told["replayed"])
            if lost or told["uncertain"] or hub.stop() != 0:
                report.violations.append(f"{n}, {kind.__name__}: {lost} are not as they were: {told}")
            shutil.rmtree(made.home(name))
    return report
