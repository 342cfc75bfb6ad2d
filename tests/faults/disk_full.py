"""A store without room: new tasks are refused by name, all else goes on, and with room the refusals end.

The hub is real and its store tiny (small_hub.py). Hosts hold running tasks while callers fill the store; then the
running tasks end, tasks are read and cancelled, room is made, and the history is checked.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agentcom import messages as m
from agentcom.auth import load_key
from agentcom.model import State, TaskSpec
from agentcom.upkeep import NEEDED_AGAIN_S
from tests.faults.history import History, check, seen_of
from tests.faults.hosts import Fleet, enrol_all, fleet_of
from tests.faults.load import Wire, address_of
from tests.faults.recorder import compile_shim, watching
from tests.faults.report import Report
from tests.world import Daemon, World, eventually, world

RUNNING = 24
FILL_CHARS = 4000
FILL_S_MAX = 30.0
ANSWER_S = 3.0
HUB = "hub"


def start_small(made: World, **room: str) -> Daemon:
    return made.start_module(HUB, "tests.faults.small_hub", **{"AGENTCOM_QUEUE_LEASE_S": "30", **room})


def fill(
    folder: Path,
    room: dict[str, str],
    make_room: Callable[[Daemon, Wire, History], None],
    chars: int = FILL_CHARS,
    persist_s: float = 0.0,
) -> Report:
    """Fill the store with tasks of `chars`, go on trying for `persist_s` after the first refusal, see what still
    goes, make room, see that all goes again."""
    report = Report("I15", f"a hub with {', '.join(f'{name}={size}' for name, size in room.items())}")
    history, ending = History(), {"run_s": 10**9}
    home = folder / HUB
    pairs = enrol_all(home, ["host"])
    with world(folder) as made:
        hub = start_small(made, **room)
        fleet = Fleet(address_of(home), pairs, agents=RUNNING, run_s=lambda _: ending["run_s"])
        wire = Wire(address_of(home), load_key(home / "keys" / "admin.key"))
        with fleet_of(fleet):
            running = [_submit(wire, history, f"running-{n}") for n in range(RUNNING)]
            eventually("all run", lambda: len(fleet.hosts[0].running) == RUNNING)
            client = made.client()
            client.host_drain("host")  # what comes now stays queued
            refused_after = _fill(wire, history, chars)
            _persist(wire, history, persist_s)
            if refused_after is None:
                report.violations.append("nothing was ever refused with storage_full")
            _still_goes(wire, running[0], report)
            fleet.do(lambda: _end_all(fleet))
            eventually("all that ran is completed", lambda: fleet.counts["results_accepted"] == RUNNING, 30)
            make_room(hub, wire, history)
            # A backup that it waits for may have failed a moment ago, and is then not tried again at once.
            again = eventually("a new task is taken", lambda: _submit(wire, history, "after"), 30 + NEEDED_AGAIN_S)
            ending["run_s"] = 0
            client.host_drain("host", draining=False)
            eventually("it is done", lambda: client.task_get(again)["state"] == "completed", 30)
            seen = seen_of(client)
        wire.close()
        if hub.process.poll() is not None:
            report.violations.append("the hub has ended")
        report.violations += check(history, seen, fleet.started, may_be_open=True)
    report.counts |= {
        "taken_before_full": refused_after or 0,
        "refused_or_unknown": history.fates()["refused"] + history.fates()["unknown"],
        "unknown": history.fates()["unknown"],
        "completed_while_full": RUNNING,
        "tasks": len(seen),
    }
    return report


def fill_small_disk(folder: Path, free_bytes: int) -> Report:
    """`fill` on a disk with so many bytes for store, journal and backups together, until somebody makes room."""
    left = folder / "free-bytes"
    left.write_bytes(free_bytes.to_bytes(8, sys.byteorder))
    disk = watching(compile_shim(folder), folder / HUB, room=left)

    def free_some(_hub: Daemon, _wire: Wire, _history: History) -> None:
        with left.open("r+b", buffering=0) as file:
            file.write((64 * free_bytes).to_bytes(8, sys.byteorder))

    report = fill(folder, disk, free_some)
    report.tried = f"a hub on a disk with {free_bytes} bytes"
    return report


def _submit(wire: Wire, history: History, key: str, chars: int = 0) -> int | None:
    """The id, or None when it was refused or nothing was heard."""
    history.invoke([key], key)
    # The body is in the command: the description is the key.
    spec = TaskSpec(description=key, command=f"true {'x' * chars}", idempotency_key=key)
    answer = _ask(wire, m.Submit(tasks=(spec,)))
    if isinstance(answer, m.Reply):
        task = int(answer.value["tasks"][0]["id"])
        history.acknowledge(key, task)
        return task
    if isinstance(answer, m.Error) and answer.code == "storage_full":
        history.refuse([key])
    return None


def _ask(wire: Wire, op: m.Operation) -> m.Reply | m.Error | None:
    """As `Wire.ask`, and once more with a new session where the hub has forgotten the old one: a failed commit
    makes it start anew from its store."""
    answer = wire.ask(op, ANSWER_S)
    if isinstance(answer, m.Error) and answer.code == "no_session":
        answer = wire.ask(op, ANSWER_S)
    return answer


def _persist(wire: Wire, history: History, seconds: float) -> None:
    """A caller who does not take no for an answer: whatever little fits, goes in."""
    over = time.monotonic() + seconds
    while time.monotonic() < over:
        if _submit(wire, history, f"fill-{len(history.asked)}", 1) is None:
            time.sleep(0.1)


def _fill(wire: Wire, history: History, chars: int) -> int | None:
    """Submit until `storage_full` is the answer; how many were taken, or None when it never came."""
    over = time.monotonic() + FILL_S_MAX
    taken = 0
    while time.monotonic() < over:
        key = f"fill-{len(history.asked)}"
        if _submit(wire, history, key, chars) is not None:
            taken += 1
        elif history.asked[key].fate == "refused":
            return taken
    return None


def _still_goes(wire: Wire, task: int | None, report: Report) -> None:
    assert task is not None, "the store was full before it began"
    for op in (m.TaskGet(task=task), m.QueueStats(), m.TaskList(limit=10), m.HostList()):
        answer = _ask(wire, op)
        if not isinstance(answer, m.Reply):
            report.violations.append(f"{type(op).__name__} was answered with {answer} while full")


def _end_all(fleet: Fleet) -> None:
    for host in fleet.hosts:
        host.running = dict.fromkeys(host.running, 0.0)


def free_disk(hub: Daemon, _wire: Wire, _history: History) -> None:
    """Somebody makes room on the disk."""
    resource.prlimit(hub.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def purge_some(_hub: Daemon, wire: Wire, history: History) -> None:
    """A person cancels and purges tasks: that must work on a full store."""
    filled = [
        (key, task)
        for key, asked in history.asked.items()
        for task in asked.promised
        if key.startswith("fill-")
    ]
    for key, task in filled:  # all: what waits would fill the store again by its results
        answer = _ask(wire, m.TaskCancel(task=task))
        assert isinstance(answer, m.Reply), f"cancel was answered with {answer} while full"
        assert answer.value["state"] == State.cancelled
        answer = _ask(wire, m.DeadPurge(tasks=(task,)))
        assert isinstance(answer, m.Reply), f"purge was answered with {answer} while full"
        del history.asked[key]
