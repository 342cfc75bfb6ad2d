"""Rows I1 and I3: a recorded run of store and journal, cut off after any of its changes, started again each time."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from tests.faults.image_checker import checking_child
from tests.faults.recorder import Change, Kind, compile_shim, read_log, run_watched
from tests.faults.replayer import Disk, Mood, lay_out
from tests.faults.report import Report
from tests.faults.store_writer import MARKS

BATCHES = 60


class Image(NamedTuple):
    """The files by their place below the home, and the last batch that had been acknowledged."""

    files: dict[str, bytes]
    acknowledged: int
    mood: Mood
    change: int


def record(folder: Path, seed: int, *, unsafe: bool = False) -> tuple[Path, list[Change]]:
    """The home that was recorded, and every change to it."""
    home, log = folder / "home", folder / "log"
    home.mkdir()
    arguments = [home, seed, BATCHES, *(["--unsafe"] if unsafe else [])]
    run = run_watched(compile_shim(folder), home, "tests.faults.store_writer", *arguments, log=log)
    assert run.stdout == "done\n", run.stdout + run.stderr
    return home, list(read_log(log))


def images(home: Path, changes: list[Change], seed: int, count: int) -> Iterator[Image]:
    """`count` images, spread evenly over all changes and moods."""
    rng = random.Random(seed)
    disk = Disk()
    acknowledged = 0
    moods = list(Mood)
    cuts = [n for n, change in enumerate(changes) if not change.path.endswith(f"/{MARKS}")]
    per_cut = count / len(cuts)
    owed = 0.0
    made = 0
    for n, change in enumerate(changes):
        if change.path.endswith(f"/{MARKS}"):
            if change.kind is Kind.WRITE:
                acknowledged = int(change.content)
            continue
        disk.begin(change)
        owed += per_cut
        while owed >= 1 or (n == cuts[-1] and made < count):
            owed -= 1
            mood = moods[made % len(moods)]
            left = disk.image(mood, rng)
            yield Image({str(Path(p).relative_to(home)): c for p, c in left.items()}, acknowledged, mood, n)
            made += 1
        disk.finish(change)


def try_images(folder: Path, seed: int, count: int, *, unsafe: bool = False) -> Report:
    """Record, cut, start, compare. The next image is written while the child looks at the one before."""
    report = Report("I1 I3", "power cuts: store and journal, images checked by starting on them", seed)
    home, changes = record(folder, seed, unsafe=unsafe)
    report.counts.update(changes=len(changes), **{kind.name.lower(): 0 for kind in Kind})
    for change in changes:
        report.add(**{change.kind.name.lower(): 1})
    waiting: list[tuple[Image, Path]] = []
    with checking_child(seed, BATCHES) as child:
        for n, image in enumerate(images(home, changes, seed, count)):
            place = folder / f"image-{n}"
            lay_out(place, image.files)
            _ask(child, place, image)
            waiting.append((image, place))
            if len(waiting) > 1:
                _take_answer(child, *waiting.pop(0), report)
        for image, place in waiting:
            _take_answer(child, image, place, report)
    return report


def _ask(child: subprocess.Popen[str], place: Path, image: Image) -> None:
    _pipe(child.stdin).write(json.dumps({"home": str(place), "acknowledged": image.acknowledged}) + "\n")
    _pipe(child.stdin).flush()


def _take_answer(child: subprocess.Popen[str], image: Image, place: Path, report: Report) -> None:
    line = _pipe(child.stdout).readline()
    assert line, f"the checking process ended at {place}, {image.mood}, change {image.change}"
    answer = json.loads(line)
    report.add(images=1, **{image.mood.replace(" ", "_"): 1, answer["how"]: 1})
    report.add(
        brought_forward=int(answer.get("applied", 0) > 0), needs_backup=int(answer.get("needs_backup", 0))
    )
    for violation in answer["violations"]:
        report.violations.append(
            f"{image.mood}, change {image.change}, {image.acknowledged} acked: {violation}"
        )
    if not answer["violations"]:
        shutil.rmtree(place)


def _pipe(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
