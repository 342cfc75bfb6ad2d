"""Rows I15 and I16 with the real hub under load: its disk fails or has no room, at call after call.

`fail_for_good`: from the n-th call of a kind on the disk answers with an I/O error. The hub must stop loudly, and what
is on the disk then, without anything that was not synced, must hold all that it had promised: nothing was acknowledged
after the error. `fill_again_and_again`: the disk takes nothing more while a gate is open. The hub must live, refuse
submits by name and answer what only reads; with room again it goes on, and nothing that it promised is lost.
`fill_small_disk`: the whole home has so many bytes. Running tasks must still be able to end.
"""

from __future__ import annotations

import contextlib
import errno
import random
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from agentcom import messages as m
from agentcom.auth import KeyPair, load_key
from tests.faults.history import History, check, seen_of
from tests.faults.hosts import Fleet, enrol_all, fleet_of
from tests.faults.hub_image_checker import check as check_home
from tests.faults.hub_image_checker import promised_by
from tests.faults.kill_loop import drain
from tests.faults.load import Caller, Wire, address_of, spec_of
from tests.faults.recorder import Kind, compile_shim, read_log, watching
from tests.faults.replayer import Disk, Mood, lay_out
from tests.faults.report import Report
from tests.faults.watched_hub import PROMISES
from tests.world import Daemon, World, eventually, world

HUB, NEEDS = "hub", "fast"
ENDS_S_MAX = 60.0  # a backup that closes a hole in the journal is tried again after 30 s
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


FULL = (
    ("write", "store/data.mdb"),
    ("write", "store/journal"),
    ("create", "store/journal"),
    ("write", "store"),
)


def fill_again_and_again(folder: Path, seed: int, rounds: int = 1) -> Report:
    """Each part of the store in turn takes nothing more, `rounds` times, under load."""
    report = Report("I15", "ENOSPC at every operation of a part of the store, and room again", seed)
    report.add(times_full=0, times_refused=0)
    shim, home = compile_shim(folder), folder / HUB
    pairs = enrol_all(home, ["host"])
    history, started = History(), Counter[tuple[int, int]]()
    with world(folder) as made:
        port = "0"
        for kind, part in FULL * rounds:
            gate = folder / "gate"
            fail = f"{kind}:1:{errno.ENOSPC}:{home / part}"
            environment = watching(shim, home, fail=fail, gate=gate)
            hub = made.start_module(HUB, WATCHED, AGENTCOM_HUB_PORT=port, **environment)
            port = hub.ready["hub"].rsplit(":", 1)[1]
            with load_on(home, pairs, history, seed + int(report.counts["times_full"] or 0)) as fleet:
                _until_more(history, 20, f"work before {fail}")
                gate.touch()
                report.add(times_full=1, times_refused=_while_full(home, kind, history))
                gate.unlink()
                _until_more(history, 20, f"work after {fail}")
            started += fleet.started
            if hub.process.poll() is not None:
                report.violations.append(f"{fail}: the hub ended with {hub.process.returncode}")
            hub.kill()
        made.hub(HUB, AGENTCOM_HUB_PORT=port)
        with fleet_of(Fleet(address_of(home), pairs, agents=8, needs=(NEEDS,))) as fleet:
            drain(made, 60)
        seen = seen_of(made.client())
        report.violations += check(history, seen, started + fleet.started, 100)
    report.counts |= {
        "tasks": len(seen),
        "unknown": history.fates()["unknown"],
        "refused": history.fates()["refused"],
    }
    return report


def _until_more(history: History, tasks: int, what: str) -> None:
    target = history.promised() + tasks
    eventually(what, lambda: history.promised() >= target, ENDS_S_MAX)


def _is_answered(wire: Wire, op: m.Operation) -> bool:
    return isinstance(wire.ask(op, 3), m.Reply)


def _while_full(home: Path, kind: str, history: History) -> int:
    """Submits are refused by name as soon as something was tried in vain, and reads are answered. How many were refused
    before it came to that; a part that is only made anew now and then may never be asked, and what the journal has
    taken may wait for the rest."""
    wire = Wire(address_of(home), load_key(home / "keys" / "admin.key"))
    answers: Counter[str] = Counter()

    def is_refused() -> bool:
        key = f"probe-{secrets.token_hex(4)}"
        history.invoke([key], key)
        answer = wire.ask(m.Submit(tasks=(spec_of(key, NEEDS, random.Random(key)),)), 3)
        if isinstance(answer, m.Reply):
            history.acknowledge(key, answer.value["tasks"][0]["id"])
        elif isinstance(answer, m.Error):
            history.refuse([key])
        answers[answer.code if isinstance(answer, m.Error) else type(answer).__name__] += 1
        return bool(answers["storage_full"])

    try:
        if kind == "write":
            try:
                eventually("a submit is refused with storage_full", is_refused, ENDS_S_MAX)
            except AssertionError as error:
                raise AssertionError(f"{error}; answers: {dict(answers)}") from None
        for op in (m.QueueStats(), m.TaskList(limit=5), m.HostList()):
            eventually(f"{type(op).__name__} is answered", partial(_is_answered, wire, op), ENDS_S_MAX)
    finally:
        wire.close()
    return int(kind == "write")
