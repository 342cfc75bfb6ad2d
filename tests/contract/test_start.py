"""Starting on whatever the last run left: what is checked, repaired, brought forward, and said."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from agentcom.errors import StoreDamaged, StoreFull, StoreLocked, StoreVersion
from agentcom.store import Batch, repairs, start
from agentcom.store.backup import make_backup
from agentcom.store.check import CheckReport, Condition, NotChecked
from agentcom.store.journal import REACHED_FILE
from agentcom.store.lmdb_store import LmdbStore
from agentcom.store.record import NEWER_REMEDY, pack
from agentcom.store.repairs import set_aside_in
from agentcom.store.segments import segments
from agentcom.store.start import open_store
from tests.contract.homes import MAP_BYTES, Place, crash, end_children
from tests.contract.places import raw


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def closed_after(place: Place, count: int) -> None:
    opened = place.begin()
    place.commit(opened, count)
    opened.close()


def test_a_new_home_starts_empty_and_needs_no_backup(place: Place) -> None:
    opened = place.begin()
    assert (opened.report.how, opened.report.sequence, opened.needs_backup) == ("new", 0, False)
    assert (opened.report.uncertain, opened.report.is_degraded) == ((), False)
    opened.close()


def test_after_a_clean_stop_a_small_store_is_checked_and_a_large_one_looked_at(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_after(place, 5)
    opened = place.begin()
    assert (opened.report.how, opened.store.sequence) == ("full", 5)
    opened.close()
    monkeypatch.setattr(start, "CHECKED_ALWAYS_BYTES", 0)

    def no_check(_path: Path) -> CheckReport:
        raise AssertionError("a large store that was closed cleanly is not read at start")

    opened = open_store(place.paths, map_bytes=MAP_BYTES, checker=no_check)
    assert (opened.report.how, opened.store.sequence, place.is_whole(opened)) == ("quick", 5, True)
    opened.close()


def test_after_a_run_that_has_met_a_damaged_record_the_check_is_full(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "CHECKED_ALWAYS_BYTES", 0)
    closed_after(place, 5)
    opened = place.begin()
    assert opened.report.how == "quick"
    opened.found_damaged()
    opened.close()
    opened = place.begin()
    assert opened.report.how == "full"
    opened.close()
    opened = place.begin()
    assert opened.report.how == "quick"
    opened.close()


@pytest.mark.parametrize("difference", ["crash", "meta", "version", "garbled note", "no note"])
def test_anything_but_a_clean_stop_asks_for_the_full_check(
    place: Place, monkeypatch: pytest.MonkeyPatch, difference: str
) -> None:
    monkeypatch.setattr(start, "CHECKED_ALWAYS_BYTES", 0)
    closed_after(place, 5)
    note = place.paths.store / "state.json"
    if difference == "crash":
        crash(place.begin())
    elif difference == "meta":
        content = bytearray(place.file.read_bytes())
        content[4096 + 144] ^= 2
        place.file.write_bytes(content)
    elif difference == "version":
        note.write_text(json.dumps({**json.loads(note.read_text()), "version": "0.0.9"}))
    elif difference == "garbled note":
        note.write_bytes(b"\0" * 50)
    else:
        note.unlink()
    opened = place.begin()
    assert opened.report.how in ("full", "restored")
    assert (opened.store.sequence, place.is_whole(opened)) == (5, True)
    opened.close()


def test_a_batch_that_was_written_down_and_not_committed_is_applied(place: Place) -> None:
    opened = place.begin()
    place.commit(opened, 4)
    opened.journal.append(place.script.take(), 5)
    place.digests.append("")
    crash(opened)
    opened = place.begin()
    assert (opened.report.applied, opened.store.sequence, opened.journal.last) == (1, 5, 5)
    assert opened.report.uncertain == ()
    opened.close()


def test_a_file_that_was_rolled_back_is_brought_forward(place: Place) -> None:
    closed_after(place, 6)
    older = place.file.read_bytes()
    opened = place.begin()
    place.commit(opened, 9)
    opened.close()
    place.file.write_bytes(older)
    opened = place.begin()
    assert (opened.report.applied, opened.store.sequence, place.is_whole(opened)) == (9, 15, True)
    assert any("9 batches were in the journal" in note for note in opened.report.notes)
    assert not opened.needs_backup
    opened.close()


def test_a_store_without_a_journal_waits_for_a_backup(place: Place) -> None:
    closed_after(place, 6)
    shutil.rmtree(place.paths.journal)
    opened = place.begin()
    assert (opened.store.sequence, opened.needs_backup) == (6, True)
    place.commit(opened, 2)
    assert opened.needs_backup
    made = make_backup(place.paths.store, place.paths.backups)
    opened.backup_made(made.sequence)
    assert not opened.needs_backup
    place.commit(opened, 2)
    opened.close()
    opened = place.begin()
    assert not opened.needs_backup
    opened.close()


def test_a_journal_that_does_not_reach_the_store_waits_for_a_backup(place: Place) -> None:
    closed_after(place, 6)
    segment = next(place.paths.journal.iterdir())
    os.truncate(segment, segment.stat().st_size - 5)
    opened = place.begin()
    assert (opened.store.sequence, opened.journal.last, opened.needs_backup) == (6, 6, True)
    assert any("cut short" in note for note in opened.report.notes)
    opened.close()


def test_a_hole_in_the_journal_before_the_newest_backup_does_not_matter(place: Place) -> None:
    opened = place.begin()
    place.commit(opened, 3)
    place.commit(opened, 1, journal=False)
    opened.journal.skip(4)
    assert opened.needs_backup
    opened.backup_made(make_backup(place.paths.store, place.paths.backups).sequence)
    place.commit(opened, 2)
    opened.close()
    opened = place.begin()
    assert not opened.needs_backup
    opened.close()


def test_damage_is_repaired_in_a_child_and_the_hub_starts(place: Place) -> None:
    opened = place.begin()
    place.commit(opened, 30)
    opened.backup_made(make_backup(place.paths.store, place.paths.backups).sequence)
    place.commit(opened, 10)
    opened.close()
    place.damage()
    told: list[str] = []
    opened = open_store(place.paths, map_bytes=MAP_BYTES, tell=told.append)
    assert (opened.report.how, opened.store.sequence, place.is_whole(opened)) == ("restored", 40, True)
    assert not opened.report.is_degraded
    assert told[0].startswith("checking ")
    assert "restoring" in told[1]
    place.commit(opened, 1)
    opened.close()


def test_a_start_whose_check_is_ended_from_outside_is_refused_and_changes_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = place.begin()
    place.commit(opened, 6)
    opened.backup_made(make_backup(place.paths.store, place.paths.backups).sequence)
    crash(opened)
    before = {file: file.read_bytes() for file in place.paths.store.rglob("*") if file.is_file()}
    with monkeypatch.context() as patch:
        end_children(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", patch)
        with pytest.raises(NotChecked, match="ended by SIGKILL"):
            place.begin(in_child=True)
    assert {file: file.read_bytes() for file in place.paths.store.rglob("*") if file.is_file()} == before
    opened = place.begin(in_child=True)
    assert (opened.report.how, opened.report.uncertain, place.is_whole(opened)) == ("full", (), True)
    opened.close()


def test_a_repair_is_told_over_restarts_until_the_file_that_was_set_aside_is_gone(place: Place) -> None:
    opened = place.begin()
    place.commit(opened, 30)
    backup = make_backup(place.paths.store, place.paths.backups)
    opened.backup_made(backup.sequence)
    place.commit(opened, 10)
    opened.close()
    place.damage()
    for _ in range(3):
        opened = place.begin()
        [repair] = opened.repairs.view()
        assert repair["why"].startswith("the store is damaged: ")
        assert (repair["backup"], repair["replayed"], repair["sequence"]) == (Path(backup.path).name, 10, 40)
        assert not repair["missing"]
        assert repair["at"].endswith("Z")
        opened.close()
    aside = Path(repair["set_aside"])
    kept = {"path": str(aside), "bytes": aside.stat().st_size}
    assert set_aside_in(place.paths.store, place.paths.journal) == [kept]
    opened = place.begin()
    aside.unlink()
    assert opened.repairs.view() == []
    assert set_aside_in(place.paths.store) == []
    opened.close()


def test_the_repair_of_a_store_that_was_gone_is_told_until_the_next_start(place: Place) -> None:
    closed_after(place, 5)
    place.file.unlink()
    opened = place.begin()
    [repair] = opened.repairs.view()
    assert (repair["backup"], repair["replayed"], repair["set_aside"]) == ("", 5, "")
    opened.close()
    opened = place.begin()
    assert opened.repairs.view() == []
    opened.close()


def test_what_a_repair_could_not_get_back_stands_with_it(place: Place) -> None:
    opened = place.begin()
    place.commit(opened, 3)
    opened.backup_made(make_backup(place.paths.store, place.paths.backups).sequence)
    place.commit(opened, 2, journal=False)
    opened.journal.skip(5)
    place.commit(opened, 2)
    opened.close()
    place.damage()
    opened = place.begin()
    [repair] = opened.repairs.view()
    assert (repair["sequence"], tuple(repair["missing"])) == (3, opened.report.uncertain)
    assert "batches 4 to 7" in repair["missing"][0]
    assert len(set_aside_in(place.paths.store, place.paths.journal)) > 1
    opened.close()


def test_a_repair_that_was_seen_stays_seen_and_a_later_one_is_not(place: Place) -> None:
    closed_after(place, 5)
    place.damage()
    opened = place.begin()
    assert [one["seen"] for one in opened.repairs.view()] == [False]
    assert opened.repairs.acknowledge() == 1
    assert [one["seen"] for one in opened.repairs.view()] == [True]
    assert opened.repairs.acknowledge() == 0
    opened.close()
    place.damage(seed=2)
    opened = place.begin()
    assert [one["seen"] for one in opened.repairs.view()] == [True, False]
    opened.close()


def test_a_list_of_repairs_that_cannot_be_read_or_written_keeps_no_store_from_starting(place: Place) -> None:
    closed_after(place, 5)
    note = place.paths.store / repairs.FILE
    note.mkdir()
    place.damage()
    opened = place.begin()
    assert (opened.report.how, opened.store.sequence, opened.repairs.view()) == ("restored", 5, [])
    assert opened.repairs.acknowledge() == 0
    opened.close()


def test_after_a_stop_of_the_machine_a_damaged_store_is_restored_whole(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = place.begin()
    place.commit(opened, 30)
    crash(opened)
    place.damage()
    monkeypatch.setattr(start, "_boot", lambda: "another boot")
    opened = place.begin()
    assert (opened.report.how, opened.report.uncertain, opened.store.sequence) == ("restored", (), 30)
    opened.close()


def test_a_damaged_store_with_nothing_to_restore_from_is_refused_and_left(place: Place) -> None:
    closed_after(place, 30)
    shutil.rmtree(place.paths.journal)
    place.damage()
    before = place.file.read_bytes()
    for _ in range(2):
        with pytest.raises(StoreDamaged, match="nothing to restore from"):
            place.begin()
    assert place.file.read_bytes() == before


def test_a_store_whose_making_was_cut_off_is_set_aside_and_made_anew(place: Place) -> None:
    place.paths.store.mkdir()
    place.file.write_bytes(bytes(8192))
    opened = place.begin()
    assert (opened.report.how, opened.store.sequence) == ("new", 0)
    assert len(list(place.paths.store.glob("data.mdb.set-aside-*"))) == 1
    opened.close()


def test_records_that_disagree_from_the_first_batch_on_are_shown_and_not_restored_over_and_over(
    place: Place,
) -> None:
    opened = place.begin()
    batch = place.script.take()
    batch.put("lanes", (2**40).to_bytes(8, "big"), b"")
    opened.journal.append(batch, 1)
    opened.store.commit(batch, 1)
    opened.close()
    for _ in range(2):
        opened = place.begin()
        assert (opened.report.how, opened.store.sequence) == ("full", 1)
        assert opened.report.check is not None
        assert opened.report.check.condition is Condition.inconsistent
        assert "records disagree: 'lanes' has 0000010000000000" in opened.report.uncertain[0]
        opened.close()
    assert not list(place.paths.store.glob("data.mdb.set-aside-*"))


@pytest.mark.parametrize(
    ("number", "envelope", "words"),
    [
        (9, 1, "the store has format 9, this program knows formats 1 to 1"),
        (9, 2, "the store has records of version 2, this program knows versions up to 1"),
    ],
)
def test_a_store_of_a_newer_version_is_refused_and_neither_moved_nor_restored(
    place: Place, number: int, envelope: int, words: str
) -> None:
    closed_after(place, 3)
    with raw(place.paths.store) as environment, environment.begin(write=True) as transaction:
        own = environment.open_db(b"store", txn=transaction)
        transaction.put(b"format", pack("store", b"format", number.to_bytes(4, "big"), envelope), db=own)
    before = place.file.read_bytes()
    text = f"{words}; {NEWER_REMEDY}"
    with pytest.raises(StoreVersion) as refused:
        place.begin()
    assert refused.value.message == text
    with pytest.raises(StoreVersion) as refused:
        LmdbStore(place.paths.store, map_bytes=MAP_BYTES)
    assert refused.value.message == f"cannot open {place.paths.store}: {text}"
    assert place.file.read_bytes() == before
    assert place.paths.journal.exists()


def test_a_second_hub_on_the_same_home_is_refused(place: Place) -> None:
    opened = place.begin()
    with pytest.raises(StoreLocked):
        place.begin()
    opened.close()


def test_a_start_that_failed_leaves_the_home_unlocked(place: Place) -> None:
    closed_after(place, 30)
    shutil.rmtree(place.paths.journal)
    good = place.file.read_bytes()
    place.damage()
    with pytest.raises(StoreDamaged):
        place.begin()
    place.file.write_bytes(good)
    opened = place.begin()
    assert place.is_whole(opened)
    opened.close()


def test_segments_go_once_every_kept_backup_is_newer(place: Place) -> None:
    opened = place.begin()
    for _ in range(6):
        place.commit(opened, 4)
        opened.backup_made(make_backup(place.paths.store, place.paths.backups).sequence)
    firsts = [first for first, _ in segments(place.paths.journal)]
    assert firsts == [17, 21]  # backups 16, 20 and 24 are kept; the segment that follows 24 has no batch yet
    place.commit(opened, 1)
    opened.close()
    place.damage()
    opened = place.begin()
    assert (opened.store.sequence, place.is_whole(opened), opened.needs_backup) == (25, True, False)
    opened.close()


def test_the_journal_is_not_cut_by_backups_in_a_folder_that_was_changed(place: Place, tmp_path: Path) -> None:
    opened = place.begin()
    for _ in range(2):
        place.commit(opened, 5)
        opened.backup_made(make_backup(place.paths.store, place.paths.backups).sequence)
    opened.close()
    moved = place.paths = place.paths._replace(backups=tmp_path / "other")
    opened = place.begin()
    covered = opened.journal.covered_from
    assert (covered, opened.needs_backup) == (6, True), "no listed backup has the batches before"
    opened.backup_made(0)
    assert opened.journal.covered_from == covered, "no backup is listed, so nothing may go"
    opened.backup_made(make_backup(place.paths.store, moved.backups).sequence)
    assert not opened.needs_backup
    opened.close()


@pytest.mark.parametrize("is_large", [False, True], ids=["checked", "looked at"])
def test_an_old_file_that_the_journal_does_not_reach_back_to_gives_way_to_the_newest_backup(
    place: Place, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    closed_after(place, 6)
    older = {file: (place.paths.store / file).read_bytes() for file in ("data.mdb", "state.json")}
    opened = place.begin()
    for count in (4, 4):
        place.commit(opened, count)
        opened.backup_made(make_backup(place.paths.store, place.paths.backups).sequence)
    place.commit(opened, 3)
    opened.close()
    next(place.paths.journal.glob("journal-*1.log")).unlink()
    for file, content in older.items():
        (place.paths.store / file).write_bytes(content)
    if is_large:
        monkeypatch.setattr(start, "CHECKED_ALWAYS_BYTES", 0)
    opened = place.begin()
    assert (opened.report.how, opened.store.sequence, place.is_whole(opened)) == ("restored", 17, True)
    assert opened.report.uncertain == ()
    opened.close()


def test_a_sound_file_is_not_given_up_for_a_backup_that_does_not_pass(place: Place) -> None:
    closed_after(place, 6)
    older = place.file.read_bytes()
    opened = place.begin()
    place.commit(opened, 4)
    made = make_backup(place.paths.store, place.paths.backups)
    opened.close()
    shutil.rmtree(place.paths.journal)
    place.file.write_bytes(older)
    Path(made.path).write_bytes(bytes(made.bytes))
    opened = place.begin()
    assert (opened.report.how, opened.store.sequence, place.is_whole(opened)) == ("full", 6, True)
    assert any("there is a backup of batch 10" in note for note in opened.report.notes)
    opened.close()


def test_disagreeing_records_are_not_exchanged_for_fewer_batches(place: Place) -> None:
    opened = place.begin()
    place.commit(opened, 5)
    opened.backup_made(make_backup(place.paths.store, place.paths.backups).sequence)
    place.commit(opened, 1, journal=False)
    opened.journal.skip(6)
    batch = place.script.take()
    batch.put("lanes", (2**40).to_bytes(8, "big"), b"")
    opened.journal.append(batch, 7)
    opened.store.commit(batch, 7)
    opened.close()
    opened = place.begin()
    assert (opened.report.how, opened.store.sequence) == ("full", 7)
    assert opened.report.is_degraded
    opened.close()


def lose_the_newest_meta_page(place: Place) -> None:
    """The file then looks like a whole one from before the last batch."""
    content = bytearray(place.file.read_bytes())
    slot = max((0, 1), key=lambda n: int.from_bytes(content[n * 4096 + 144 : n * 4096 + 152], "little"))
    content[slot * 4096 + 144 : slot * 4096 + 152] = bytes(8)
    place.file.write_bytes(content)


def cut_the_journal(place: Place) -> None:
    _, segment = segments(place.paths.journal)[-1]
    segment.write_bytes(segment.read_bytes()[:-1])


def test_a_whole_file_that_is_older_than_at_the_last_stop_is_told_when_the_journal_cannot_help(
    place: Place,
) -> None:
    closed_after(place, 5)
    lose_the_newest_meta_page(place)
    cut_the_journal(place)
    opened = place.begin()
    assert opened.store.sequence == 4
    assert [text[:14] for text in opened.report.uncertain] == ["batches 5 to 5"]
    opened.close()
    opened = place.begin()
    assert opened.report.uncertain == (), "the next start begins from what is there now"
    opened.close()


def test_an_acknowledged_batch_that_only_the_unreadable_end_of_the_journal_had_is_told_once(place: Place) -> None:
    opened = place.begin()
    for batch in place.script.batches(4):
        opened.journaled.commit(batch, place.script.sequence)
    first = opened.journal.given["next_task"]
    opened.journaled.commit(place.script.take(), 5)
    last = opened.journal.given["next_task"] - 1
    assert last > first
    crash(opened)
    _, segment = segments(place.paths.journal)[-1]
    content = segment.read_bytes()
    end = len(content.rstrip(b"\0"))
    segment.write_bytes(content[: end - 20] + bytes(len(content) - end + 20))
    opened = place.begin()
    assert opened.store.sequence == 4
    [told] = opened.report.uncertain
    assert told.startswith("batches 5 to 5 were acknowledged")
    assert told.endswith(f"; tasks {first} to {last} are missing")
    opened.close()
    opened = place.begin()
    assert opened.report.uncertain == (), "the next start begins from what is there now"
    opened.close()


def test_batches_that_only_the_journal_had_when_the_hub_was_killed_are_applied(place: Place) -> None:
    opened = place.begin()
    for batch in place.script.batches(5):
        opened.journaled.commit(batch, place.script.sequence)
    assert opened.store.sequence == 0, "the store was to follow later"
    crash(opened)
    opened = place.begin()
    assert (opened.store.sequence, opened.report.applied, opened.report.uncertain) == (5, 5, ())
    assert place.is_whole_of(opened)
    opened.close()


def test_without_a_note_a_store_that_the_journal_does_not_reach_is_uncertain(place: Place) -> None:
    closed_after(place, 5)
    (place.paths.store / "state.json").write_bytes(b"\0")
    cut_the_journal(place)
    (place.paths.journal / REACHED_FILE).unlink()
    opened = place.begin()
    assert opened.store.sequence == 5
    assert opened.report.is_degraded
    opened.close()


def test_a_start_that_finds_no_room_for_what_the_journal_has_keeps_it_and_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = place.begin()
    for batch in place.script.batches(5):
        opened.journaled.commit(batch, place.script.sequence)
    crash(opened)

    def refuse(_store: LmdbStore, _batch: Batch, _sequence: int) -> None:
        raise StoreFull("no room")

    monkeypatch.setattr(LmdbStore, "bring_forward", refuse)
    opened = place.begin()
    assert (opened.report.sequence, opened.store.sequence, opened.journaled.sequence) == (5, 0, 5)
    assert place.is_whole_of(opened)
    with pytest.raises(StoreFull):
        opened.journaled.commit(place.script.take(), 6)
    monkeypatch.undo()
    assert opened.journaled.settle()
    assert opened.store.sequence == 5
    opened.close()
