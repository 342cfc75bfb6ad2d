"""Rows I4 and I5: a store that was closed, damaged, and started again.

Each damage is tried by a real start in a child that checks many (a start that dies is caught and counted). A
start may find the damage, or the content may be untouched (a page that nothing refers to), or the journal may
have brought a rolled-back file forward. What must never happen: a start that is content with other rows than
were committed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentcom.errors import StoreDamaged, StoreError
from agentcom.store.backup import make_backup
from agentcom.store.check import full_check_here
from agentcom.store.start import OpenedStore, StorePaths, open_store
from tests.faults.recorder import ROOT
from tests.faults.report import Report
from tests.faults.store_workload import digest, rows_of
from tests.faults.store_writer import MAP_BYTES, workload

PAGE = 4096
SECTOR = 512
BATCHES_BEFORE_BACKUP = 60
BATCHES = 90

Damage = Callable[[bytearray, random.Random], None]


def flip_bits(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 3, 20))):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def zero_sectors(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2, 8))):
        start = rng.randrange(-(-len(content) // SECTOR)) * SECTOR
        content[start : start + SECTOR] = bytes(len(content[start : start + SECTOR]))


def swap_pages(content: bytearray, rng: random.Random) -> None:
    first, second = (n * PAGE for n in rng.sample(range(2, len(content) // PAGE), 2))
    one, other = content[first : first + PAGE], content[second : second + PAGE]
    content[first : first + PAGE], content[second : second + PAGE] = other, one


def copy_page(content: bytearray, rng: random.Random) -> None:
    """A write that went to the wrong place."""
    source, target = (n * PAGE for n in rng.sample(range(2, len(content) // PAGE), 2))
    content[target : target + PAGE] = content[source : source + PAGE]


def truncate(content: bytearray, rng: random.Random) -> None:
    del content[rng.randrange(1, len(content)) :]


def damage_meta(content: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 2))):
        content[rng.randrange(2) * PAGE + rng.randrange(152)] ^= 1 << rng.randrange(8)


def lose_meta(content: bytearray, rng: random.Random) -> None:
    """The newer meta page is gone: the file looks like the one before the last batch, whole."""
    slot = max((0, 1), key=lambda n: int.from_bytes(content[n * PAGE + 144 : n * PAGE + 152], "little"))
    content[slot * PAGE + 144 : slot * PAGE + 152] = bytes(8)


KINDS: tuple[Damage, ...] = (flip_bits, zero_sectors, swap_pages, copy_page, truncate, damage_meta, lose_meta)


class Sample:
    """A home with a store that was closed cleanly, a backup of two thirds of it, and its journal."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.home = folder / "sample"
        script = workload(seed)
        paths = StorePaths.of_home(self.home)
        opened = open_store(paths, map_bytes=MAP_BYTES)
        for batch in script.batches(BATCHES):
            opened.journal.append(batch, script.sequence)
            opened.store.commit(batch, script.sequence)
            if script.sequence == BATCHES_BEFORE_BACKUP:
                opened.backup_made(make_backup(paths.store, paths.backups).sequence)
        opened.close()
        self.rows = script.rows
        self.digest = digest(script.rows)
        self.content = (paths.store / "data.mdb").read_bytes()

    def copy(self, place: Path, kind: Damage, rng: random.Random, *, backups: bool) -> StorePaths:
        """The home again, with a damaged store."""
        ignored = () if backups else ("backups",)
        shutil.copytree(self.home, place, ignore=lambda _folder, names: [n for n in names if n in ignored])
        damaged = bytearray(self.content)
        while damaged == self.content:
            kind(damaged, rng)
        paths = StorePaths.of_home(place)
        (paths.store / "data.mdb").write_bytes(damaged)
        return paths


def try_damages(folder: Path, seed: int, count: int) -> Report:
    """I4: without a backup and with a journal of the last batches only, so that nothing hides the damage."""
    report = Report("I4", "damaged store files, each tried by a start", seed)
    report.add(found=0, untouched=0, brought_forward=0, silent=0, child_aborts=0)
    sample, rng = Sample(folder, seed), random.Random(seed)
    (sample.home / "store" / "journal" / f"journal-{1:020}.log").unlink()
    child = _child()
    for n in range(count):
        kind = KINDS[n % len(KINDS)]
        place = folder / f"damage-{n}"
        sample.copy(place, kind, rng, backups=False)
        answer = ask(child, place)
        report.add(damages=1, **{kind.__name__: 1})
        if answer is None:
            report.add(child_aborts=1, found=1)
            child.wait()
            child = _child()
        elif answer["how"] == "found":
            report.add(found=1)
        elif answer["digest"] != sample.digest:
            report.add(silent=1)
            report.violations.append(f"{kind.__name__} {n}: silent, {answer}")
        else:
            report.add(**{"brought_forward" if answer["applied"] else "untouched": 1})
        shutil.rmtree(place)
    child.kill()
    child.communicate()
    return report


def try_home_damages(folder: Path, seed: int, count: int) -> Report:
    """I4: one to three files of a home at once (store, journal, backups, manifests, the note of the last stop)."""
    report = Report("I4", "damaged homes: store, journal, backups and notes together, each tried by a start", seed)
    report.add(found=0, whole=0, silent=0, child_aborts=0)
    sample, rng = Sample(folder, seed), random.Random(seed)
    child = _child()
    for n in range(count):
        place = folder / f"home-{n}"
        shutil.copytree(sample.home, place)
        what = damage_home(place, rng)
        report.add(damages=1, **{f"in_{name}": 1 for name in sorted({each.partition(":")[0] for each in what})})
        answer = ask(child, place)
        if answer is None:
            report.add(child_aborts=1, found=1)
            child.wait()
            child = _child()
        elif answer["how"] == "found":
            report.add(found=1)
        elif answer["digest"] != sample.digest:
            report.add(silent=1)
            report.violations.append(f"{n}, {what}: silent, {answer}")
        else:
            report.add(whole=1)
        shutil.rmtree(place)
    child.kill()
    child.communicate()
    return report


ANY_FILE: tuple[Damage, ...] = (flip_bits, zero_sectors, truncate)


def damage_home(home: Path, rng: random.Random) -> list[str]:
    """Damage one to three files; which and how."""
    groups = {
        "store": [home / "store" / "data.mdb"],
        "journal": sorted((home / "store" / "journal").glob("*.log")),
        "backup": sorted((home / "backups").glob("*.mdb")),
        "manifest": sorted((home / "backups").glob("*.json")),
        "note": [home / "store" / "state.json", home / "store" / "journal" / "reached"],
    }
    told = []
    for name in rng.sample(sorted(groups), rng.choice((1, 2, 2, 3))):
        file = rng.choice(groups[name])
        kind = rng.choice(KINDS if file.suffix == ".mdb" else ANY_FILE)
        if rng.random() < 0.15:
            file.unlink()
            told.append(f"{name}: gone")
            continue
        content = bytearray(file.read_bytes())
        kind(content, rng)
        file.write_bytes(content)
        told.append(f"{name}: {kind.__name__}")
    return told


def try_restores(folder: Path, seed: int, count: int) -> Report:
    """I5: every start ends with all batches, from the newest backup and the journal."""
    report = Report("I5", "damaged store, newest backup that passes, journal", seed)
    report.add(restored=0, untouched=0, batches_replayed=0, batches_lost=0)
    sample, rng = Sample(folder, seed), random.Random(seed)
    n = 0
    while report.counts["restored"] != count:
        kind = KINDS[n % len(KINDS)]
        place = folder / f"restore-{n}"
        n += 1
        opened = open_store(sample.copy(place, kind, rng, backups=True), map_bytes=MAP_BYTES)
        try:
            _judge(opened, sample, report, f"{kind.__name__} {n}")
        finally:
            opened.close()
        shutil.rmtree(place)
    return report


def _judge(opened: OpenedStore, sample: Sample, report: Report, which: str) -> None:
    restored = opened.report.restored
    report.add(**{"restored" if restored is not None else "untouched": 1})
    report.add(batches_lost=BATCHES - opened.store.sequence)
    if digest(rows_of(opened.store)) != sample.digest:
        report.violations.append(f"{which}: other rows than were committed")
    if opened.report.uncertain or opened.needs_backup:
        report.violations.append(f"{which}: uncertain {opened.report.uncertain}")
    if restored is not None:
        report.add(batches_replayed=restored.replayed)
        if not Path(restored.quarantined).exists():
            report.violations.append(f"{which}: the damaged file was not kept")


def _child() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.damage"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@contextmanager
def checking_child() -> Iterator[subprocess.Popen[str]]:
    """A process that starts on one home after the other; `ask` it. One that a damaged file kills answers no more."""
    child = _child()
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def ask(child: subprocess.Popen[str], place: Path) -> dict[str, Any] | None:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(f"{place}\n")
    child.stdin.flush()
    line = child.stdout.readline()
    return json.loads(line) if line else None


def start(home: Path) -> dict[str, Any]:
    try:
        opened = open_store(StorePaths.of_home(home), map_bytes=MAP_BYTES, checker=full_check_here)
    except StoreDamaged as error:
        return {"how": "found", "error": str(error)}
    try:
        if opened.report.uncertain:
            return {"how": "found", "error": opened.report.uncertain}
        return {
            "how": opened.report.how,
            "applied": opened.report.applied,
            "digest": digest(rows_of(opened.store)),
        }
    except StoreError as error:
        return {"how": "found", "error": str(error)}
    finally:
        opened.store.close()


if __name__ == "__main__":
    for asked in sys.stdin:
        print(json.dumps(start(Path(asked.strip()))), flush=True)
