"""Zombies: a sidecar is frozen past its leases, its tasks go to others, then it wakes and brings its results.

`freeze_real` stops real sidecar processes (SIGSTOP, SIGCONT): their commands run on and end meanwhile. `freeze_wire`
does the same to hosts that only speak the protocol, hundreds of leases at a time. In both the late results must
change nothing at all.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from agentcom.client import Client
from agentcom.config import Home
from tests.faults.history import History, check, effects_of, marking, seen_of
from tests.faults.hosts import FakeHost, Fleet, enrol_all, fleet_of
from tests.faults.load import address_of
from tests.faults.report import Report
from tests.world import World, eventually, world

AGENTS = 6
QUICK = {
    "AGENTCOM_QUEUE_HEARTBEAT_S": "0.4",
    "AGENTCOM_QUEUE_LEASE_S": "3",
    "AGENTCOM_QUEUE_OFFLINE_S": "1",
    "AGENTCOM_QUEUE_ACCEPT_S": "2",
}


def freeze_real(folder: Path, until: Callable[[int], bool]) -> Report:
    """Rounds with two real sidecars, each in turn the one that is frozen, while `until(leases)` is false."""
    report = Report("I6", "SIGSTOP of the sidecar past its leases, SIGCONT")
    history, effects = History(), folder / "effects"
    effects.mkdir()
    with world(folder) as made:
        made.hub(**QUICK)
        names = ["one", "two"]
        for name in names:
            made.join(name)
        pids = {name: made.sidecar(name, AGENTCOM_SIDECAR_AGENTS=str(AGENTS)).pid for name in names}
        client = made.client()
        rounds = leases = 0
        while not until(leases):
            rounds += 1
            frozen, awake = names if rounds % 2 else names[::-1]
            tasks = _leased_to(client, history, effects, f"round-{rounds}", frozen, awake)
            os.kill(pids[frozen], signal.SIGSTOP)
            try:
                before = _completed(client, tasks)
            finally:
                os.kill(pids[frozen], signal.SIGCONT)
            leases += len(tasks)
            _delivered(made, frozen)
            for task, was in before.items():
                if _lasting(client.task_get(task)) != was:
                    report.violations.append(f"task {task} changed after its zombie woke")
            eventually(f"{frozen} is back", partial(_is_idle, client, frozen))
        seen = seen_of(client)
        late = [_late(client, task.id) for task in seen]
        report.violations += check(history, seen, effects_of(effects), 100)
    report.counts |= {
        "rounds": rounds,
        "zombie_leases": leases,
        "late_results": sum(1 for each in late if each),
        "late_completed": late.count("completed"),
        "attempts": sum(task.attempt for task in seen),
    }
    return report


def _leased_to(
    client: Client, history: History, effects: Path, name: str, wanted: str, other: str
) -> list[int]:
    """Tasks that all run on `wanted`."""
    client.host_drain(other)
    tasks = []
    for number in range(AGENTS):
        key = f"{name}-{number}"
        history.invoke([key], key)
        task = client.submit(description=key, command=f"{marking(effects)}; sleep 0.8")["id"]
        history.acknowledge(key, task)
        tasks.append(task)
    eventually("all run", lambda: all((effects / f"{task}-1").exists() for task in tasks))
    client.host_drain(other, draining=False)
    assert all(client.task_get(task)["route"]["host"] == wanted for task in tasks)
    return tasks


def _completed(client: Client, tasks: list[int]) -> dict[int, Mapping[str, Any]]:
    done: dict[int, Mapping[str, Any]] = {}
    for task in tasks:
        found = client.wait(task, timeout_s=30)
        assert (found["state"], found["attempt"]) == ("completed", 2), found
        done[task] = _lasting(found)
    return done


def _lasting(task: Mapping[str, Any]) -> dict[str, Any]:
    return {name: task[name] for name in ("state", "attempt", "losses", "result", "error", "finished_at")}


def _delivered(made: World, name: str) -> None:
    place = Home(made.home(name)).sidecar
    eventually(
        f"{name} has told all that it held",
        lambda: not any(any((place / folder).iterdir()) for folder in ("attempts", "outbox")),
    )


def _is_idle(client: Client, host: str) -> bool:
    return all(a["state"] == "idle" for a in client.agent_list()["agents"] if a["host"] == host)


def _late(client: Client, task: int) -> str | None:
    first = client.task_reports(task)["attempts"][0]
    return first.get("late_outcome") or None


def freeze_wire(
    folder: Path, until: Callable[[int], bool], hosts: int = 8, agents: int = 16, seed: int = 0
) -> Report:
    """Rounds in which half of the hosts are frozen in the middle of their work, while `until(leases)` is false."""
    report = Report("I6", "hosts that speak the protocol, frozen past their leases", seed)
    history = History()
    pairs = enrol_all(folder / "hub", [f"host-{n}" for n in range(hosts)])
    with world(folder) as made:
        made.hub(**QUICK)
        fleet = Fleet(address_of(folder / "hub"), pairs, agents=agents, run_s=lambda _: 0.5)
        client = made.client()
        leases = rounds = 0
        with fleet_of(fleet):
            eventually("all hosts are there", lambda: all(host.welcomes for host in fleet.hosts))
            while not until(leases):
                rounds += 1
                zombies = fleet.hosts[rounds % 2 :: 2]
                keys = [f"round-{rounds}-{n}" for n in range(hosts * agents)]
                history.invoke(keys, f"round-{rounds}")
                tasks = client.submit_many({"description": k, "command": "true"} for k in keys)
                for key, task in zip(keys, tasks, strict=True):
                    history.acknowledge(key, task["id"])
                eventually(
                    "the zombies hold their leases",
                    partial(_hold_at_least, zombies, len(zombies) * agents // 2),
                )
                fleet.freeze(zombies)
                held = sum(len(host.running) + len(host.outbox) for host in zombies)
                leases += held
                _all_final(client)
                fleet.freeze(zombies, frozen=False)
                eventually("the zombies have told", partial(_have_told, zombies))
            seen = seen_of(client)
        report.violations += check(history, seen, fleet.started, 100)
        report.violations += [
            f"task {task}: {count} results were accepted"
            for task, count in fleet.completed.items()
            if count > 1
        ]
    report.counts |= {
        "rounds": rounds,
        "zombie_leases": leases,
        "results_stale": fleet.counts["results_stale"],
        "results_accepted": fleet.counts["results_accepted"],
        "tasks": len(seen),
    }
    return report


def _hold_at_least(hosts: list[FakeHost], count: int) -> bool:
    return sum(len(host.running) for host in hosts) >= count


def _have_told(hosts: list[FakeHost]) -> bool:
    return not any(host.outbox for host in hosts)


def _all_final(client: Client) -> None:
    def is_over() -> bool:
        by_state = client.queue_stats()["by_state"]
        return not any(by_state.get(state) for state in ("ready", "assigned", "working", "delayed"))

    eventually("the others have done it all", is_over, 60)


def for_seconds(seconds: float) -> Callable[[int], bool]:
    """An end for the loops here: when the time is over."""
    over = time.monotonic() + seconds
    return lambda _: time.monotonic() >= over
