"""A reconnect storm: the hub is killed while every host works, and all come back at once.

The hosts are real-protocol DEALERs in one process, each with a key of its own. Measured is the time from the new
hub's ready line to the last welcome; counted is whether any attempt was started or accepted twice.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from agentcom.client import Client
from tests.faults.history import History, check, seen_of
from tests.faults.hosts import Fleet, enrol_all, fleet_of
from tests.faults.kill_loop import drain
from tests.faults.load import address_of
from tests.faults.report import Report
from tests.world import eventually, world

BACK_S_MAX = 30.0
RUN_S = 4.0
STARTED_S = 0.3  # a hub welcomes hosts this long before its ready line is read
LEASES = {
    "AGENTCOM_QUEUE_HEARTBEAT_S": "2",
    "AGENTCOM_QUEUE_LEASE_S": "20",
    "AGENTCOM_QUEUE_OFFLINE_S": "6",
}


def storm(folder: Path, hosts: int, restarts: int, seed: int = 0) -> Report:
    """Kill the hub `restarts` times under `hosts` working hosts."""
    report = Report("I13", f"hub restart under {hosts} hosts", seed)
    history = History()
    pairs = enrol_all(folder / "hub", [f"host-{n:03d}" for n in range(hosts)])
    back_s = []
    with world(folder) as made:
        hub = made.hub(**LEASES)
        port = hub.ready["hub"].rsplit(":", 1)[1]
        fleet = Fleet(address_of(folder / "hub"), pairs, agents=1, run_s=lambda _: RUN_S)
        with fleet_of(fleet):
            eventually("every host is there", lambda: all(h.welcomes for h in fleet.hosts), 60)
            for round_number in range(restarts):
                _submit(made.client(), history, round_number, hosts)
                eventually("every host works", lambda: all(h.running or h.outbox for h in fleet.hosts), 60)
                hub.kill()
                hub = made.hub(AGENTCOM_HUB_PORT=port, **LEASES)
                ready = time.monotonic()
                eventually(
                    "every host is back",
                    partial(_are_back, fleet, ready),
                    2 * BACK_S_MAX,
                )
                back_s.append(max(h.welcomed_at for h in fleet.hosts) - ready)
                drain(made)
            seen = seen_of(made.client())
        report.violations += check(history, seen, fleet.started)
        report.violations += [
            f"task {task.id} needed {task.attempt} attempts" for task in seen if task.attempt > 1
        ]
        report.violations += [
            f"task {task}: {count} results were accepted"
            for task, count in fleet.completed.items()
            if count > 1
        ]
        if fleet.counts["keys_refused"]:
            report.violations.append(f"enrolled keys were refused {fleet.counts['keys_refused']} times")
    if max(back_s) > BACK_S_MAX:
        report.violations.append(
            f"the last host was back after {max(back_s):.1f} s, {BACK_S_MAX:g} are allowed"
        )
    report.counts |= {
        "hosts": hosts,
        "restarts": restarts,
        "back_s_max": round(max(0.0, *back_s, 0.0), 2),
        "tasks": len(seen),
        "duplicates": sum(1 for count in fleet.started.values() if count > 1),
        "results_sent_again": fleet.counts["results_duplicate"],
        "keys_refused": fleet.counts["keys_refused"],
    }
    return report


def _are_back(fleet: Fleet, ready: float) -> bool:
    return all(host.session and host.welcomed_at > ready - STARTED_S for host in fleet.hosts)


def _submit(client: Client, history: History, round_number: int, hosts: int) -> None:
    keys = [f"storm-{round_number}-{n}" for n in range(hosts)]
    history.invoke(keys, f"storm-{round_number}")
    made = client.submit_many({"description": key, "command": "true"} for key in keys)
    for key, task in zip(keys, made, strict=True):
        history.acknowledge(key, task["id"])
