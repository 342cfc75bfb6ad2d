"""A start that loads while its check still goes on: when it may; it writes nothing before the check is done."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import msgspec
import psutil
import pytest

from agentcom import auth, hub_daemon
from agentcom.config import Home, Settings
from agentcom.errors import ConfigError, StoreDamaged, StoreVersion
from agentcom.store import start
from agentcom.store.backup import make_backup
from agentcom.store.check import CheckReport, Condition, NotChecked, Progress, full_check
from agentcom.store.journal import REACHED_FILE, Reached
from agentcom.store.lmdb_store import OWN, STATE_KEY, LmdbStore, State
from agentcom.store.record import pack, unpack
from agentcom.store.segments import segments
from agentcom.store.start import CheckFailed, OpenedStore, open_store
from tests.contract.homes import MAP_BYTES, Place, crash, end_children
from tests.contract.places import batch_of, raw
from tests.world import eventually

pytest.importorskip("agentcom._datafile", reason="without the quick proof no start goes ahead")


class Beside:
    """In the place of the child: the check itself, when somebody waits for it, and what was there just before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.waits = self.ends = 0
        self.before_answer: Callable[[], None] = lambda: None

    def wait(self, _progress: Progress | None = None) -> CheckReport:
        self.waits += 1
        self.before_answer()
        return full_check(self.path)

    def end(self) -> None:
        self.ends += 1


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Beside]:
    """Each check that was begun beside a start. Every file counts as large."""
    begun: list[Beside] = []

    def begin(path: Path) -> Beside:
        begun.append(Beside(path))
        return begun[-1]

    monkeypatch.setattr(start, "CHECKED_ALWAYS_BYTES", 0)
    monkeypatch.setattr(start, "RunningCheck", begin)
    return begun


def ahead(place: Place) -> OpenedStore:
    return open_store(place.paths, map_bytes=MAP_BYTES, may_go_ahead=True)


def killed(place: Place, *, journal_alone: int = 3) -> None:
    """A hub of five batches, and some that only the journal has."""
    opened = place.begin()
    place.commit(opened, 5)
    for batch in place.script.batches(journal_alone):
        opened.journaled.commit(batch, place.script.sequence)
    assert opened.store.sequence == 5
    crash(opened)


def files_of(place: Place) -> dict[str, bytes]:
    found = [place.file, place.paths.store / "state.json", *place.paths.journal.iterdir()]
    return {one.name: one.read_bytes() for one in found}


def lose_a_body(place: Place) -> None:
    """Records that are sound, each by itself, and do not agree."""
    with raw(place.paths.store) as environment, environment.begin(write=True) as transaction:
        bodies, own = (environment.open_db(name, txn=transaction) for name in (b"bodies", OWN.encode()))
        with transaction.cursor(bodies) as cursor:
            assert cursor.last()
            assert cursor.delete()
        state = msgspec.msgpack.decode(unpack(OWN, STATE_KEY, transaction.get(STATE_KEY, db=own), 1), type=State)
        counts = {**state.counts, "bodies": state.counts["bodies"] - 1}
        body = msgspec.msgpack.encode(State(state.sequence, counts))
        transaction.put(STATE_KEY, pack(OWN, STATE_KEY, body, 1), db=own)


def test_all_is_there_before_the_check_is_done_and_nothing_has_been_written(
    place: Place, checks: list[Beside]
) -> None:
    killed(place)
    before = files_of(place)
    opened = ahead(place)
    assert (opened.is_confirmed, opened.store.sequence, opened.journaled.sequence) == (False, 5, 8)
    assert place.is_whole_of(opened)
    assert (files_of(place), checks[0].waits) == (before, 0)
    assert opened.report.check is None
    opened.confirm()
    assert (opened.is_confirmed, opened.store.sequence, place.is_whole_of(opened)) == (True, 8, True)
    report = opened.report
    assert report.check is not None
    assert (report.how, report.applied, report.sequence, report.check.condition) == ("full", 3, 8, Condition.good)
    assert (report.uncertain, opened.needs_backup) == ((), False)
    opened.close()


@pytest.mark.parametrize("how", ["commit", "begin_commit", "settle", "stats"])
def test_whatever_writes_first_waits_for_the_check(place: Place, checks: list[Beside], how: str) -> None:
    killed(place)
    before = files_of(place)
    opened, seen = ahead(place), []
    checks[0].before_answer = lambda: seen.append(files_of(place))
    batch = place.script.take()
    if how == "commit":
        opened.journaled.commit(batch, 9)
    elif how == "begin_commit":
        opened.journaled.begin_commit(batch, 9)
        opened.journaled.end_commit()
    elif how == "settle":
        assert opened.journaled.settle()
    else:
        assert opened.journaled.stats()["sequence"] == 8
    assert seen == [before]
    opened.confirm()
    assert opened.store.sequence == (9 if how.endswith("commit") else 8)
    assert seen == [before], "it waits once"
    opened.close()


def test_a_start_after_one_that_went_ahead_and_stopped_in_order_looks_at_the_file_only(
    place: Place, checks: list[Beside]
) -> None:
    killed(place)
    opened = ahead(place)
    opened.confirm()
    opened.close()
    opened = ahead(place)
    assert (opened.report.how, len(checks), place.is_whole_of(opened)) == ("quick", 1, True)
    opened.close()


def test_records_that_disagree_are_found_before_anything_is_written(place: Place, checks: list[Beside]) -> None:
    killed(place)
    lose_a_body(place)
    before = files_of(place)
    opened = ahead(place)
    for write in (
        opened.confirm,
        opened.journaled.settle,
        lambda: opened.journaled.commit(batch_of(("meta", b"x", b"y")), 9),
        opened.confirm,
    ):
        with pytest.raises(CheckFailed, match=r"inconsistent: task \d+ has no body"):
            write()
    opened.close()
    assert (files_of(place), checks[0].ends) == (before, 1)
    again = place.begin()
    assert (again.report.how, again.report.uncertain, place.is_whole_of(again)) == ("restored", (), True)
    again.close()


def test_closed_before_the_check_is_done_it_leaves_all_as_it_was(place: Place, checks: list[Beside]) -> None:
    killed(place)
    before = files_of(place)
    ahead(place).close()
    assert (files_of(place), checks[0].ends, checks[0].waits) == (before, 1, 0)
    opened = ahead(place)
    opened.confirm()
    assert place.is_whole_of(opened)
    opened.close()


def tear_the_journal(place: Place) -> None:
    with segments(place.paths.journal)[-1][1].open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")


def make_a_hole(place: Place) -> None:
    path = segments(place.paths.journal)[-1][1]
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)


def lose_the_journal(place: Place) -> None:
    for _, path in segments(place.paths.journal):
        path.unlink()


def reach_further(place: Place) -> None:
    assert (place.paths.journal / REACHED_FILE).exists()
    note = Reached(place.paths.journal)
    note.note(99)
    note.close()


def tell_of_more(place: Place) -> None:
    start.note_going_back(place.paths.store, 99)


def put_an_older_file(place: Place) -> None:
    """There is a backup of more than the file has."""
    older = place.file.read_bytes()
    opened = place.begin()
    make_backup(place.paths.store, place.paths.backups)
    crash(opened)
    place.file.write_bytes(older)


def damage_a_record(place: Place) -> None:
    content = place.file.read_bytes()
    with raw(place.paths.store) as environment, environment.begin(write=True) as transaction:
        bodies = environment.open_db(b"bodies", txn=transaction)
        with transaction.cursor(bodies) as cursor:
            assert cursor.first()
            key, record = cursor.item()
        transaction.put(key, record[:-1] + bytes([record[-1] ^ 1]), db=bodies)
    assert place.file.read_bytes() != content


def have_another_schema(place: Place) -> None:
    with raw(place.paths.store) as environment, environment.begin(write=True) as transaction:
        own = environment.open_db(OWN.encode(), txn=transaction)
        transaction.put(b"format", pack(OWN, b"format", (0).to_bytes(4, "big"), 1), db=own)


def miscount(place: Place) -> None:
    with raw(place.paths.store) as environment, environment.begin(write=True) as transaction:
        bodies = environment.open_db(b"bodies", txn=transaction)
        with transaction.cursor(bodies) as cursor:
            assert cursor.first()
            assert cursor.delete()


def lose_the_file(place: Place) -> None:
    place.file.unlink()


@pytest.mark.parametrize(
    "what",
    [
        tear_the_journal, make_a_hole, lose_the_journal, reach_further, tell_of_more, put_an_older_file,
        damage_a_record, have_another_schema, miscount, lose_the_file,
    ],
)  # fmt: skip
def test_where_not_all_is_plain_the_check_comes_first(
    place: Place, checks: list[Beside], what: Callable[[Place], None]
) -> None:
    killed(place)
    what(place)
    before = files_of(place) if place.file.exists() else {}
    for check in checks:
        check.waits = 0

    def unchanged() -> None:
        assert files_of(place) == before

    begin, begun = start.RunningCheck, []

    def begin_watched(path: Path) -> object:
        begun.append(begin(path))
        begun[-1].before_answer = unchanged  # type: ignore[attr-defined]
        return begun[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "RunningCheck", begin_watched)
        with contextlib.suppress(StoreDamaged, StoreVersion):
            opened = ahead(place)
            assert opened.is_confirmed
            opened.close()
    assert [one.waits for one in checks] == ([1] if before else [])  # nothing to check where there is no file


def test_a_small_file_is_checked_first(place: Place, checks: list[Beside], monkeypatch: pytest.MonkeyPatch) -> None:
    killed(place)
    monkeypatch.undo()
    opened = ahead(place)
    assert (opened.is_confirmed, checks, place.is_whole_of(opened)) == (True, [], True)
    opened.close()


def test_more_batches_than_memory_should_hold_are_applied_after_the_check(
    place: Place, checks: list[Beside], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed(place)
    monkeypatch.setattr("agentcom.store.ahead.MERGED_BYTES_MAX", 100)
    opened = ahead(place)
    assert (opened.is_confirmed, checks[0].waits, opened.report.applied) == (True, 1, 3)
    assert place.is_whole_of(opened)
    opened.close()


@pytest.mark.parametrize("is_good", [True, False])
def test_what_fails_before_the_check_has_spoken_counts_only_where_the_store_is_good(
    place: Place, checks: list[Beside], monkeypatch: pytest.MonkeyPatch, is_good: bool
) -> None:
    killed(place)
    if not is_good:
        lose_a_body(place)
    before = files_of(place)

    def refuse(_store: LmdbStore) -> None:
        raise StoreDamaged("it does not open")

    monkeypatch.setattr(LmdbStore, "_load", refuse)
    with pytest.raises(StoreDamaged, match="does not open") as raised:
        ahead(place)
    assert (type(raised.value) is CheckFailed, checks[0].waits, files_of(place)) == (not is_good, 1, before)


@pytest.fixture
def home(place: Place) -> Home:
    found = Home(place.paths.store.parent).prepare()
    auth.load_or_make_key(found.keys / "admin.key")
    return found


@pytest.mark.parametrize("is_good", [True, False])
def test_a_hub_that_cannot_load_goes_by_what_the_check_says(
    place: Place, checks: list[Beside], monkeypatch: pytest.MonkeyPatch, home: Home, is_good: bool
) -> None:
    killed(place)
    if not is_good:
        lose_a_body(place)
    before = files_of(place)

    def refuse(*_arguments: object, **_options: object) -> None:
        raise ConfigError("cannot listen")

    monkeypatch.setattr(hub_daemon, "Broker", refuse)
    opened = ahead(place)
    with pytest.raises(ConfigError if is_good else CheckFailed):
        hub_daemon._loaded(home, Settings(), opened)
    assert checks[0].waits >= 1
    if is_good:
        assert not opened.store.writable, "it was closed in order"
    else:
        assert files_of(place) == before
        opened.close()


@pytest.mark.parametrize("fails", ["to load", "the check alone"])
def test_a_hub_whose_check_is_ended_from_outside_leaves_all_as_it_is(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: Home, fails: str
) -> None:
    killed(place)
    before = files_of(place)
    monkeypatch.setattr(start, "CHECKED_ALWAYS_BYTES", 0)
    broker = Mock(side_effect=ConfigError("cannot listen") if fails == "to load" else None)
    monkeypatch.setattr(hub_daemon, "Broker", broker)
    with monkeypatch.context() as patch:
        end_children(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", patch)
        opened = ahead(place)
        assert not opened.is_confirmed
        with pytest.raises(NotChecked, match="ended by SIGKILL"):
            hub_daemon._loaded(home, Settings(), opened)
    assert files_of(place) == before
    opened = place.begin()
    assert (opened.report.how, place.is_whole_of(opened)) == ("full", True)
    opened.close()


BEGIN = "import sys, time; from agentcom.store.check import RunningCheck; RunningCheck(sys.argv[1]); time.sleep(60)"


def test_the_checking_process_ends_with_the_one_that_began_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "data.mdb")  # to open it waits for ever
    parent = subprocess.Popen([sys.executable, "-c", BEGIN, str(tmp_path)])
    try:
        child = eventually("it checks", lambda: next(iter(_checking(parent.pid)), None))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait(10)
    eventually("it has ended", lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def _checking(pid: int) -> list[psutil.Process]:
    return [one for one in psutil.Process(pid).children() if "agentcom.store.check" in one.cmdline()]
