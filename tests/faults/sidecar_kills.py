"""kill -9 of the real sidecar: at each named step of the protocol, and at random moments under load.

After each kill the same home gets a new sidecar, as a supervisor would do. Nothing of the old process tree may
be left, each task must complete, and no attempt may have run twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from agentcom.config import Home
from tests.faults.crashing_sidecar import STEPS
from tests.faults.history import History, check, effects_of, marking, seen_of
from tests.faults.kill_loop import drain
from tests.faults.report import Report
from tests.world import Daemon, World, eventually, processes_with, world

RUNNING = "running"  # the step that is seen from outside: the command has begun
LOSSES_MAX = 100
QUICK = {"AGENTCOM_QUEUE_MAX_LOSSES": str(LOSSES_MAX), "AGENTCOM_QUEUE_OFFLINE_S": "0.6"}


def start_crashing(made: World, name: str, step: str, once: Path) -> Daemon:
    """A sidecar that will crash at `step`; see crashing_sidecar.py."""
    return made.start_module(
        name,
        "tests.faults.crashing_sidecar",
        FAULTS_CRASH_AT=step,
        FAULTS_CRASH_ONCE=str(once),
        AGENTCOM_SIDECAR_AGENTS="1",
    )


def crash_at_each_step(folder: Path, seed: int = 0) -> Report:
    """One task and one crash for each step. The steps share a hub and a host."""
    report = Report("I2", "kill -9 of the sidecar at each step of the protocol", seed)
    history, effects = History(), folder / "effects"
    effects.mkdir()
    outcomes = {}
    with world(folder) as made:
        made.hub(**QUICK)
        made.join("box")
        client = made.client()
        steps = (*STEPS, RUNNING)
        sidecar = start_crashing(made, "box", steps[0], folder / f"crashed-{steps[0]}")
        for step, following in zip(steps, (*steps[1:], "none"), strict=True):
            mark = f"36{random.Random(step).randrange(10**8)}"
            once, next_once = folder / f"crashed-{step}", folder / f"crashed-{following}"
            history.invoke([step], step)
            begun = folder / f"begun-{step}"
            # The first run outlives its sidecar's death unless it is killed; later ones end at once.
            long = f"if [ ! -e {begun} ]; then : > {begun}; setsid sleep {mark} & sleep {mark}; fi"
            slow = step == RUNNING
            command = f"{marking(effects)}; {long if slow else 'true'}"
            task = client.submit(description=step, command=command)["id"]
            history.acknowledge(step, task)
            if slow:
                eventually("the command runs", partial(_runs, mark))
                once.touch()
                sidecar.kill()
            eventually(f"it has crashed at {step}", partial(_has_ended, sidecar))
            next_once.touch()  # the one that comes back does not crash before it is its turn
            sidecar = start_crashing(made, "box", following, next_once)
            if not once.exists():
                report.violations.append(f"{step}: the sidecar ended without reaching it")
            done = client.wait(task, timeout_s=30)
            outcomes[step] = (done["state"], done["attempt"], done["losses"])
            if done["state"] != "completed":
                report.violations.append(f"{step}: the task is {done['state']}: {done['error']}")
            if processes_with(mark):
                report.violations.append(f"{step}: processes of the killed sidecar are left")
            report.violations += _left_on_disk(made, step)
            next_once.unlink()
        hosts = [host["name"] for host in client.host_list()["hosts"]]
        if hosts != ["box"]:
            report.violations.append(f"one home was {hosts} over its starts")
        report.violations += check(history, seen_of(client), effects_of(effects), LOSSES_MAX)
    report.counts |= {"kills": len(outcomes), "completed": len(outcomes)}
    report.counts |= {f"attempts_{step}": attempt for step, (_, attempt, _) in outcomes.items()}
    report.counts |= {f"losses_{step}": losses for step, (_, _, losses) in outcomes.items() if losses}
    return report


def _runs(mark: str) -> bool:
    return len(processes_with(mark)) >= 2


def _has_ended(sidecar: Daemon) -> bool:
    return sidecar.process.poll() is not None


def _left_on_disk(made: World, step: str) -> list[str]:
    """Nothing of an attempt may stay behind once its task is done and acknowledged."""
    place = Home(made.home("box")).sidecar
    found: list[str] = []

    def is_clean() -> bool:
        found[:] = [
            f"{step}: {path.name} stays in {folder}"
            for folder in ("attempts", "outbox")
            for path in (place / folder).iterdir()
        ]
        return not found

    over = time.monotonic() + 5
    while not is_clean() and time.monotonic() < over:
        time.sleep(0.02)
    return found


def kill_at_random(folder: Path, until: Callable[[int], bool], seed: int) -> Report:
    """Two sidecars work on a stream of short tasks; one or the other is killed at random moments, while
    `until(kills)` is false."""
    report = Report("I2", "kill -9 of the sidecar at random moments", seed)
    chance, history, effects = random.Random(seed), History(), folder / "effects"
    effects.mkdir()
    names = ("box-a", "box-b")
    mark = f"3603.{seed % 100_000:05d}"
    with world(folder) as made:
        made.hub(**QUICK)
        for name in names:
            made.join(name)
        sidecars = {name: made.sidecar(name) for name in names}
        client = made.client()
        kills = submitted = 0
        while not until(kills):
            for _ in range(4):
                submitted += 1
                key = f"random-{submitted}"
                history.invoke([key], key)
                # Each leaves a process in a session of its own: the next to hold the tree must end it.
                command = f"{marking(effects)}; setsid sleep {mark} & sleep {chance.uniform(0, 0.3):.2f}"
                history.acknowledge(key, client.submit(description=key, command=command)["id"])
            time.sleep(chance.uniform(0, 0.4))
            name = chance.choice(names)
            sidecars[name].kill()
            kills += 1
            sidecars[name] = made.sidecar(name)
        drain(made)
        eventually("nothing of killed sidecars is left", lambda: not processes_with(mark), 10)
        seen = seen_of(client)
        report.violations += check(history, seen, effects_of(effects), LOSSES_MAX)
    report.counts |= {
        "kills": kills,
        "tasks": len(seen),
        "attempts": sum(task.attempt for task in seen),
        "losses": sum(task.losses for task in seen),
    }
    return report
