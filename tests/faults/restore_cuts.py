"""Row I5: power cuts while a damaged store is restored. Whatever is left of a restore that was cut off, the next start
ends with every batch, from the same backup and journal."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

from agentcom.store.check import Condition, full_check
from agentcom.store.start import StorePaths
from tests.faults.damage import Sample, ask, checking_child, start, zero_sectors
from tests.faults.recorder import compile_shim, read_log, run_watched
from tests.faults.replayer import Disk, Mood, lay_out
from tests.faults.report import Report

TRIES_MAX = 20


def try_restore_cuts(folder: Path, seed: int, count: int) -> Report:
    """Record one restore, cut it off after `count` of its changes, start on what is left."""
    report = Report("I5", "power cuts during a restore, each followed by a start", seed)
    report.add(images=0, restored_again=0, not_whole=0)
    sample, rng = Sample(folder, seed), random.Random(seed)
    home, log = folder / "restoring", folder / "log"
    paths = _damaged(sample, home, rng)
    before = {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file()}
    run = run_watched(compile_shim(folder), home, "tests.faults.restore_cuts", home, log=log)
    assert run.stdout == "restored\n", f"the damage was not found: {run.stdout}{run.stderr}"
    assert (paths.store / "data.mdb").exists()
    changes = list(read_log(log))
    report.add(changes=len(changes))
    disk, moods, owed, made = Disk(before), list(Mood), 0.0, 0
    with checking_child() as child:
        for n, change in enumerate(changes):
            disk.begin(change)
            owed += count / len(changes)
            while made < count and (owed >= 1 or n == len(changes) - 1):
                owed -= 1
                place, mood = folder / f"cut-{made}", moods[made % len(moods)]
                lay_out(place, {str(Path(p).relative_to(home)): c for p, c in disk.image(mood, rng).items()})
                answer = ask(child, place)
                made += 1
                is_whole = answer is not None and answer.get("digest") == sample.digest
                again = answer is not None and answer["how"] == "restored"
                report.add(images=1, restored_again=int(again), not_whole=int(not is_whole))
                if not is_whole:
                    report.violations.append(f"{mood}, change {n} of {len(changes)}: {answer}")
                shutil.rmtree(place)
            disk.finish(change)
    return report


def _damaged(sample: Sample, home: Path, rng: random.Random) -> StorePaths:
    """The sample, damaged in what the check reads: such a file has pages that nothing refers to, too."""
    for _ in range(TRIES_MAX):
        paths = sample.copy(home, zero_sectors, rng, backups=True)
        if full_check(paths.store).condition is Condition.damaged:
            return paths
        shutil.rmtree(home)
    raise AssertionError(f"none of {TRIES_MAX} damages was found")


if __name__ == "__main__":
    print(start(Path(sys.argv[1]))["how"])
