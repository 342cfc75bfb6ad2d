"""Row I16 with the real hub under load: from the n-th call of a kind on its disk answers with an I/O error.

The hub must stop loudly, and what is on the disk then, without anything that was not synced, must hold all that it
had promised: nothing was acknowledged after the error.
"""

from __future__ import annotations

import contextlib
import errno
import random
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from agentcom.auth import KeyPair
from tests.faults.history import History
from tests.faults.hosts import Fleet, enrol_all, fleet_of
from tests.faults.hub_image_checker import check as check_home
from tests.faults.hub_image_checker import promised_by
from tests.faults.load import Caller, address_of, spec_of
from tests.faults.recorder import Kind, compile_shim, read_log, watching
from tests.faults.replayer import Disk, Mood, lay_out
from tests.faults.report import Report
from tests.faults.watched_hub import PROMISES
from tests.world import Daemon, World, eventually, world

HUB, NEEDS = "hub", "fast"
ENDS_S_MAX = 30.0
WATCHED = "tests.faults.watched_hub"


@contextlib.contextmanager
def load_on(home: Path, pairs: dict[str, KeyPair], history: History, seed: int) -> Iterator[Fleet]:
    """A caller who submits and hosts that work, for as long as the block lasts."""
    fleet = Fleet(address_of(home), pairs, agents=4, needs=(NEEDS,), run_s=lambda key: len(key) % 3 / 100)
    caller = Caller(home, history, f"caller-{seed}", seed, lambda key, chance: spec_of(key, NEEDS, chance))
    with fleet_of(fleet):
        caller.start()
        try:
            yield fleet
        finally:
            caller.stop()


def fail_for_good(folder: Path, kind: str, calls: Iterable[int], seed: int) -> Report:
    """One hub for each of `calls`: from that call of its kind on the disk answers EIO."""
    report = Report("I16", f"EIO at every {kind} of the real hub from the n-th on", seed)
    report.add(faults=0, stopped=0, refused_to_start=0, promises=0)
    shim = compile_shim(folder)
    for n in calls:
        _fail_once(folder / f"{kind}-{n}", shim, f"{kind}:{n}:{errno.EIO}", seed + n, report)
    return report


def _fail_once(folder: Path, shim: Path, fail: str, seed: int, report: Report) -> None:
    folder.mkdir()
    home, log = folder / HUB, folder / "log"
    pairs = enrol_all(home, ["host"])
    before = {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    environment = watching(shim, home, log=log, fail=f"{fail}:{home / 'store'}")
    report.add(faults=1)
    with world(folder) as made:
        hub = _start(made, environment)
        if hub is None:
            report.add(refused_to_start=1)
        else:
            with load_on(home, pairs, History(), seed):
                eventually(f"{fail}: the hub stops", lambda: hub.process.poll() is not None, ENDS_S_MAX)
            report.add(stopped=1)
            if hub.process.returncode != 1:
                report.violations.append(
                    f"{fail}: the hub ended with {hub.process.returncode}: {hub.text()[-500:]}"
                )
    report.violations += [f"{fail}: {each}" for each in _left_by(home, log, before, folder / "image", report)]
    if not report.violations:
        shutil.rmtree(folder)


def _start(made: World, environment: dict[str, str]) -> Daemon | None:
    """None where the disk fails so early that the hub says so and ends, as it should."""
    try:
        return made.start_module(HUB, WATCHED, **environment)
    except AssertionError:
        hub = made.daemons[-1]
        assert hub.process.poll() == 1, f"{hub.process.poll()}: {hub.text()[-2000:]}"
        return None


def _left_by(home: Path, log: Path, before: dict[str, bytes], image: Path, report: Report) -> list[str]:
    """What does not hold of a disk that kept only what was synced before it failed."""
    disk, notes, promised = Disk(before), str(home / PROMISES), []
    for change in read_log(log):
        if change.path == notes:
            promised += [change.content] if change.kind is Kind.WRITE else []
            continue
        disk.begin(change)
        disk.finish(change)
    report.add(promises=len(promised))
    left = disk.image(Mood.UNSYNCED_LOST, random.Random(0))
    lay_out(image, {str(Path(path).relative_to(home)): content for path, content in left.items()})
    return list(check_home(image, promised_by(promised))["violations"])
