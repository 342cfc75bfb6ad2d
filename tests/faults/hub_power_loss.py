"""Rows I1 and I3 with the real hub: its whole home, recorded under load with a backup, a clean stop and a kill -9, cut
off after any of its changes. A child opens each image as a hub does, loads a core from it and compares it with what
had been promised; on some of the images the real hub is started.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from agentcom import messages as m
from agentcom.auth import load_key
from agentcom.client import Client
from tests.faults.hosts import Fleet, enrol_all, fleet_of
from tests.faults.hub_image_checker import Promised, promised_by
from tests.faults.load import Wire, address_of, spec_of
from tests.faults.recorder import Change, Kind, compile_shim, read_log, watching
from tests.faults.replayer import Disk, Mood, lay_out
from tests.faults.report import Report
from tests.faults.watched_hub import PROMISES
from tests.world import ROOT, Daemon, World, clean_environment, eventually, world

HUB, NEEDS = "hub", "fast"
BATCHES_PER_LIFE = 8
BATCH = 4
LIVES = 3  # the first ends with SIGTERM, the others with SIGKILL


class HubImage(NamedTuple):
    """The files by their place below the home, how many lines of promises had been written, and where it was cut."""

    files: dict[str, bytes]
    promised: int
    mood: Mood
    change: int


def record(folder: Path, seed: int) -> tuple[dict[str, bytes], list[Change]]:
    """What lay in the home before, and every change that the hub and its children made to it."""
    home, log = folder / HUB, folder / "log"
    pairs = enrol_all(home, ["host-1", "host-2"])
    before = {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    environment = watching(compile_shim(folder), home, log=log)
    with world(folder) as made:
        port = "0"
        for life in range(LIVES):
            hub = made.start_module(HUB, "tests.faults.watched_hub", AGENTCOM_HUB_PORT=port, **environment)
            port = hub.ready["hub"].rsplit(":", 1)[1]
            fleet = Fleet(
                address_of(home), pairs, agents=3, needs=(NEEDS,), run_s=lambda key: len(key) % 3 / 50
            )
            with fleet_of(fleet):
                _work(home, f"life-{life}", random.Random(seed + life))
                assert made.client(HUB).backup_now()["state"] == "done"
                _work(home, f"later-{life}", random.Random(seed - life))
            if life == 0:
                assert hub.stop() == 0, hub.text()[-2000:]
            hub.kill()
    return before, list(read_log(log))


def _work(home: Path, name: str, chance: random.Random) -> None:
    """Batches of tasks that hosts complete, with one in each that nobody can do, which is cancelled."""
    wire = Wire(address_of(home), load_key(home / "keys" / "admin.key"))
    tasks = []
    for number in range(BATCHES_PER_LIFE):
        specs = tuple(spec_of(f"{name}-{number}-{n}", NEEDS if n else "nobody", chance) for n in range(BATCH))
        answer = eventually("a submit is answered", partial(wire.ask, m.Submit(tasks=specs), 5))
        assert isinstance(answer, m.Reply), answer
        ids = [task["id"] for task in answer.value["tasks"]]
        wire.ask(m.TaskCancel(task=ids[0]), 5)
        tasks += ids[1:]

    def are_done() -> bool:
        found = [wire.ask(m.TaskGet(task=task), 5) for task in tasks]
        return all(isinstance(one, m.Reply) and one.value["state"] == "completed" for one in found)

    eventually("the hosts have done it", are_done, 30)
    wire.close()


def images(
    before: dict[str, bytes], home: Path, changes: list[Change], seed: int, count: int
) -> Iterator[HubImage]:
    """`count` images, spread evenly over all changes and moods."""
    rng, disk = random.Random(seed), Disk(before)
    notes = str(home / PROMISES)
    moods = list(Mood)
    cuts = [n for n, change in enumerate(changes) if change.path != notes]
    promised = made = 0
    owed = 0.0
    for n, change in enumerate(changes):
        if change.path == notes:
            promised += change.kind is Kind.WRITE
            continue
        disk.begin(change)
        owed += count / len(cuts)
        while made < count and (owed >= 1 or n == cuts[-1]):
            owed -= 1
            mood = moods[made % len(moods)]
            left = disk.image(mood, rng)
            yield HubImage({str(Path(p).relative_to(home)): c for p, c in left.items()}, promised, mood, n)
            made += 1
        disk.finish(change)


def try_hub_images(folder: Path, seed: int, count: int, started: int) -> Report:
    """Record a hub, cut, open, compare; on `started` of the images the real hub is started as well."""
    report = Report("I1 I3", "power cuts of the real hub: store, journal and backups", seed)
    report.add(changes=0, images=0, started_hubs=0, brought_forward=0, needs_backup=0)
    before, changes = record(folder, seed)
    lines = (folder / HUB / PROMISES).read_bytes().splitlines()
    report.add(changes=len(changes), promises=len(lines))
    for change in changes:
        report.add(**{change.kind.name.lower(): 1})
    with _checking_child(folder / HUB / PROMISES) as child, world(folder) as made:
        waiting: list[tuple[Path, HubImage]] = []
        for n, image in enumerate(images(before, folder / HUB, changes, seed, count)):
            place = folder / f"image-{n}"
            lay_out(place, image.files)
            if started and n % (count // started) == count // started - 1:
                report.violations += _start_on(made, place.name, promised_by(lines[: image.promised]))
                report.add(started_hubs=1)
                shutil.rmtree(place)
                lay_out(place, image.files)
            _ask(child, place, image.promised)
            waiting.append((place, image))
            if len(waiting) > 1:  # the next image is written while the child looks at the one before
                _take_answer(child, *waiting.pop(0), report)
        for place, image in waiting:
            _take_answer(child, place, image, report)
    return report


def _take_answer(child: subprocess.Popen[str], place: Path, image: HubImage, report: Report) -> None:
    assert child.stdout is not None
    line = child.stdout.readline()
    assert line, f"the checking process ended at {place}, {image.mood}, change {image.change}"
    answer = json.loads(line)
    report.add(images=1, **{image.mood.replace(" ", "_"): 1, f"opened_{answer['how']}": 1})
    report.add(
        brought_forward=int(answer.get("applied", 0) > 0), needs_backup=int(answer.get("needs_backup", 0))
    )
    where = f"{image.mood}, change {image.change}, {image.promised} promised"
    report.violations += [f"{where}: {each}" for each in answer["violations"]]
    if not answer["violations"]:
        shutil.rmtree(place)


def _start_on(made: World, name: str, promised: Promised) -> list[str]:
    """Start the real hub on an image (its home is `name`): it shows all that was promised."""
    hub: Daemon = made.hub(name)
    client = made.client(name)
    wrong = [each for task in promised.tasks for each in _of_task(client, task, promised)]
    if hub.stop() != 0:
        wrong.append(f"the hub ended with {hub.process.returncode}")
    return [f"hub started on {name}: {each}" for each in wrong]


def _of_task(client: Client, task: int, promised: Promised) -> Iterator[str]:
    try:
        found = client.task_get(task)
    except Exception as error:
        yield f"task {task} was promised: {error}"
        return
    final = promised.final.get(task)
    if final is not None and found["state"] != final:
        yield f"task {task} was promised as {final} and is {found['state']}"


@contextmanager
def _checking_child(promises: Path) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.hub_image_checker", str(promises)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=clean_environment(promises.parent),
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def _ask(child: subprocess.Popen[str], place: Path, promised: int) -> None:
    assert child.stdin is not None
    child.stdin.write(json.dumps({"home": str(place), "promised": promised}) + "\n")
    child.stdin.flush()
