"""Poison: a task that kills its worker. It gets as many workers as `queue.max_losses` says, and no more.

`poison_real`: commands that kill -9 their own sidecar, under a supervisor that starts it again. `poison_wire`:
hundreds of such tasks on hosts that only speak the protocol. Tasks beside a poisoned one must come through.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from agentcom.client import Client
from tests.faults.history import History, check, effects_of, marking, seen_of
from tests.faults.hosts import Fleet, enrol_all, fleet_of
from tests.faults.kill_loop import drain
from tests.faults.load import address_of
from tests.faults.report import Report
from tests.world import Daemon, World, eventually, world

LOSSES_MAX = 3
POISON = "poison"
# The sidecar writes its process id into its lock; a command works in HOME/sidecar/work/TASK-ATTEMPT.
KILL_OWN_SIDECAR = 'kill -9 "$(cat "$PWD/../../lock")"; sleep 60'
QUICK = {"AGENTCOM_QUEUE_OFFLINE_S": "0.6", "AGENTCOM_QUEUE_MAX_LOSSES": str(LOSSES_MAX)}


class Supervisor:
    """Starts sidecars again when they have died, as systemd would; counts their deaths by host."""

    def __init__(self, made: World, names: list[str], agents: int) -> None:
        self._made, self._agents = made, agents
        self.deaths: Counter[str] = Counter()
        self._running = {name: self._start(name) for name in names}

    def look(self) -> None:
        for name, sidecar in list(self._running.items()):
            if sidecar.process.poll() is not None:
                self.deaths[name] += 1
                self._running[name] = self._start(name)

    def _start(self, name: str) -> Daemon:
        # Isolated from the machine's processes a command could not kill its sidecar at all.
        return self._made.sidecar(
            name, AGENTCOM_SANDBOX_MODE="off", AGENTCOM_SIDECAR_AGENTS=str(self._agents)
        )


def poison_real(folder: Path, poisons: int, neighbours: int) -> Report:
    """One poison after the other on two hosts of one agent each, short tasks beside each."""
    report = Report("I9", "commands that kill -9 their own sidecar")
    history, effects = History(), folder / "effects"
    effects.mkdir()
    with world(folder) as made:
        made.hub(**QUICK)
        names = ["box-a", "box-b"]
        for name in names:
            made.join(name)
        supervisor = Supervisor(made, names, agents=1)
        client = made.client()
        for number in range(poisons):
            deaths = supervisor.deaths.total()
            poisoned = _submit(
                client, history, f"{POISON}-{number}", f"{marking(effects)}; {KILL_OWN_SIDECAR}"
            )
            beside = [
                _submit(client, history, f"beside-{number}-{n}", f"{marking(effects)}; sleep 0.1")
                for n in range(neighbours)
            ]
            _until_final(client, supervisor, [poisoned, *beside])
            report.violations += _as_poison(client.task_get(poisoned))
            supervisor.look()
            if supervisor.deaths.total() - deaths != LOSSES_MAX:
                report.violations.append(
                    f"task {poisoned}: {supervisor.deaths.total() - deaths} deaths instead of {LOSSES_MAX}"
                )
            report.violations += [
                f"task {task}, beside a poison, is {client.task_get(task)['state']}"
                for task in beside
                if client.task_get(task)["state"] != "completed"
            ]
        seen = seen_of(client)
        report.violations += check(history, seen, effects_of(effects), LOSSES_MAX)
    report.counts |= {
        "poisons": poisons,
        "deaths": supervisor.deaths.total(),
        "neighbours": poisons * neighbours,
        "neighbours_lost_with_it": sum(t.losses for t in seen if not t.key.startswith(POISON)),
    }
    return report


def _submit(client: Client, history: History, key: str, command: str) -> int:
    history.invoke([key], key)
    task = int(client.submit(description=key, command=command)["id"])
    history.acknowledge(key, task)
    return task


def _until_final(client: Client, supervisor: Supervisor, tasks: list[int]) -> None:
    def is_over() -> bool:
        supervisor.look()
        return all(client.task_get(task)["finished_at"] for task in tasks)

    eventually("the poison is dead and its neighbours are done", is_over, 60)


def _as_poison(task: dict[str, object]) -> list[str]:
    error = task["error"]
    code = error.get("code") if isinstance(error, dict) else None
    expected = ("dead", LOSSES_MAX, LOSSES_MAX, "worker_lost")
    found = (task["state"], task["losses"], task["attempt"], code)
    return [] if found == expected else [f"task {task['id']}: {found} instead of {expected}"]


def beside_on_one_host(folder: Path, run_s: float) -> Report:
    """A long task on the one host where a poison kills the sidecar: it shares each death, and must survive them."""
    report = Report("I9", f"a neighbour of {run_s:g} s on the only host")
    with world(folder) as made:
        made.hub(**QUICK)
        made.join("box")
        supervisor = Supervisor(made, ["box"], agents=2)
        client = made.client()
        history = History()
        beside = _submit(client, history, "beside", f"sleep {run_s}")
        eventually("the neighbour runs", lambda: client.task_get(beside)["state"] == "working")
        poisoned = _submit(client, history, POISON, KILL_OWN_SIDECAR)
        _until_final(client, supervisor, [poisoned, beside])
        found = client.task_get(beside)
        report.violations += _as_poison(client.task_get(poisoned))
        if found["state"] != "completed":
            report.violations.append(f"the neighbour is {found['state']} after {found['losses']} losses")
    report.counts |= {"deaths": supervisor.deaths.total(), "neighbour_losses": found["losses"]}
    return report


def poison_wire(folder: Path, poisons: int, neighbours: int, seed: int = 0) -> Report:
    """Many poisons among many short tasks, on hosts that die of each poison and come back."""
    report = Report("I9", "poisons on hosts that speak the protocol", seed)
    history = History()
    pairs = enrol_all(folder / "hub", [f"host-{n}" for n in range(8)])
    with world(folder) as made:
        made.hub(**(QUICK | {"AGENTCOM_QUEUE_OFFLINE_S": "0.2"}))
        fleet = Fleet(address_of(folder / "hub"), pairs, agents=1, kills=lambda key: key.startswith(POISON))
        client = made.client()
        with fleet_of(fleet):
            eventually("all hosts are there", lambda: all(host.welcomes for host in fleet.hosts))
            keys = [f"{POISON}-{n}" for n in range(poisons)]
            keys += [f"beside-{n}" for n in range(neighbours)]
            keys.sort(key=lambda key: key[::-1])  # mixed
            for start in range(0, len(keys), 500):
                some = keys[start : start + 500]
                history.invoke(some, f"some-{start}")
                made_tasks = client.submit_many({"description": k, "command": "true"} for k in some)
                for key, task in zip(some, made_tasks, strict=True):
                    history.acknowledge(key, task["id"])
            drain(made, 60 + poisons)
            seen = seen_of(client)
        report.violations += check(history, seen, fleet.started, LOSSES_MAX)
    for shown in seen:
        is_poison = shown.key.startswith(POISON)
        found = (shown.state.value, shown.losses, shown.attempt)
        expected = ("dead", LOSSES_MAX, LOSSES_MAX) if is_poison else ("completed", 0, 1)
        if found != expected:
            report.violations.append(f"{shown.key}: {found} instead of {expected}")
    if fleet.counts["deaths"] != LOSSES_MAX * poisons:
        report.violations.append(f"{fleet.counts['deaths']} deaths of {poisons} poisons")
    report.counts |= {"poisons": poisons, "deaths": fleet.counts["deaths"], "neighbours": neighbours}
    return report
