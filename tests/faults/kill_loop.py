"""kill -9 of the real hub under load, again and again: no acknowledged submit is lost, none completes twice.

Callers submit over bare sockets, hosts of the real protocol and one real sidecar take the work, and the hub is
killed at a moment drawn from the seed and started again on the same home and port. Then the callers stop, the
queue drains, and the history is checked against what the hub shows and what really ran.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from agentcom.client import Client
from agentcom.model import FINAL, State, TaskSpec
from tests.faults.history import History, check, effects_of, marking, seen_of
from tests.faults.hosts import Fleet, enrol_all, fleet_of
from tests.faults.load import Caller, address_of, spec_of
from tests.faults.report import Report
from tests.world import World, world

CALLERS = 3
FAST, REAL = "fast", "real"
REAL_SHARE = 0.03  # of the tasks: each is a real process of a real sidecar
ALIVE_S = (0.0, 0.35)  # how long a hub lives after it is ready
DRAIN_S_MAX = 40.0
BACKUPS = {"AGENTCOM_BACKUPS_EVERY_S": "1"}  # so that kills meet one that is being made


def kill_hub(folder: Path, until: Callable[[int], bool], seed: int) -> Report:
    """Kill the hub while `until(kills)` is false."""
    report = Report("I2", "kill -9 of the hub under load", seed)
    history, chance = History(), random.Random(seed)
    effects = folder / "effects"
    effects.mkdir()
    pairs = enrol_all(folder / "hub", ["fast-1", "fast-2"])
    with world(folder) as made:
        hub = made.hub(**BACKUPS)
        port = hub.ready["hub"].rsplit(":", 1)[1]
        made.join("box")
        made.sidecar("box", AGENTCOM_SIDECAR_CAPABILITIES=REAL)
        fleet = Fleet(
            address_of(folder / "hub"),
            pairs,
            agents=8,
            needs=(FAST,),
            run_s=lambda key: zlib.crc32(key.encode()) % 20 / 400,
        )
        with fleet_of(fleet):
            callers = [
                Caller(folder / "hub", history, f"caller-{n}", seed, _mixed(effects)) for n in range(CALLERS)
            ]
            for caller in callers:
                caller.start()
            kills, downs = 0, []
            while not until(kills):
                time.sleep(chance.uniform(*ALIVE_S))
                hub.kill()
                kills += 1
                down = time.monotonic()
                hub = made.hub(AGENTCOM_HUB_PORT=port, **BACKUPS)
                downs.append(time.monotonic() - down)
            for caller in callers:
                caller.stop()
            drain(made)
            ran: Counter[tuple[int, int]] = fleet.started + effects_of(effects)
            seen = seen_of(made.client())
            report.violations += check(history, seen, ran)
            if fleet.counts["keys_refused"]:
                report.violations.append(f"enrolled keys were refused {fleet.counts['keys_refused']} times")
            report.counts |= {
                "kills": kills,
                "submits_ok": history.fates()["ok"],
                "submits_unknown": history.fates()["unknown"],
                "submits_repeated": sum(caller.repeats for caller in callers),
                "tasks": len(seen),
                "attempts": sum(task.attempt for task in seen),
                "ran_in_real_processes": sum(effects_of(effects).values()),
                "backups_left": len(list((folder / "hub" / "backups").glob("*.mdb"))),
                "worst_start_s": round(max(downs), 2),
            }
    return report


def _mixed(effects: Path) -> Callable[[str, random.Random], TaskSpec]:
    def make(key: str, chance: random.Random) -> TaskSpec:
        if chance.random() < REAL_SHARE:
            return spec_of(key, REAL, chance, marking(effects))
        return spec_of(key, FAST, chance)

    return make


def drain(made: World, seconds: float = DRAIN_S_MAX) -> None:
    """Wait until every task is in a final state; says of those that are not why."""
    client = made.client()
    deadline = time.monotonic() + seconds
    while any(count for state, count in client.queue_stats()["by_state"].items() if state not in FINAL):
        if time.monotonic() > deadline:
            raise AssertionError(f"not final within {seconds:g} s: {_open_tasks(client)}")
        time.sleep(0.1)


def _open_tasks(client: Client) -> str:
    states = [state for state in State if state not in FINAL]
    tasks = [task for state in states for task in client.task_list(state=state, limit=3)["tasks"]]
    told = [{name: task[name] for name in ("id", "state", "attempt", "losses", "error")} for task in tasks]
    return f"{told}; {client.task_why(tasks[0]['id'])}; {client.agent_list()}" if tasks else "none any more"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--kills", type=int, default=10**9, help="stop after so many, if that is sooner")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    chosen = parser.parse_args()
    over = time.monotonic() + chosen.minutes * 60
    with tempfile.TemporaryDirectory() as folder:
        report = kill_hub(
            Path(folder), lambda kills: kills >= chosen.kills or time.monotonic() >= over, chosen.seed
        )
    report.tell()
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
