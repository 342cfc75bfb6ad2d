"""Backups of a live store: what is kept, what is verified, and what a restore brings back and says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from agentcom.errors import StoreDamaged, StoreError, StoreLocked, StoreVersion
from agentcom.store import backup
from agentcom.store.backup import (
    Backup,
    BackupRun,
    list_backups,
    make_backup,
    newest_verified,
    note_check,
    verify_backup,
)
from agentcom.store.check import Condition, NotChecked
from agentcom.store.restore import RestoreReport, restore
from tests.contract.homes import MAP_BYTES, Place, crash, end_children, of_newer_version


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def with_backups(place: Place, *sequences: int, then: int = 0) -> list[Backup]:
    """A home that was closed, with a backup at each of the batches and some batches after the last."""
    opened = place.begin()
    made = []
    for sequence in sequences:
        place.commit(opened, sequence - opened.store.sequence)
        made.append(make_backup(place.paths.store, place.paths.backups))
        opened.backup_made(made[-1].sequence)
    place.commit(opened, then)
    opened.close()
    return made


def restored(place: Place, **options: object) -> RestoreReport:
    paths = place.paths
    return restore(paths.store, paths.backups, paths.journal, map_bytes=MAP_BYTES, **options)  # type: ignore[arg-type]


def next_task(place: Place) -> int:
    return int.from_bytes(place.script.rows["meta", b"next_task"], "big")


def test_a_backup_of_an_open_store_is_verified_and_named_after_its_batch(place: Place) -> None:
    opened = place.begin()
    place.commit(opened, 12)
    made = make_backup(place.paths.store, place.paths.backups)
    place.commit(opened, 1)
    opened.close()
    file = Path(made.path)
    assert (made.sequence, made.verified, made.condition) == (12, True, Condition.good)
    assert file.name.startswith(f"backup-{12:020}-")
    assert (made.bytes, file.stat().st_mode & 0o777) == (file.stat().st_size, 0o600)
    assert list_backups(place.paths.backups) == [made]
    assert verify_backup(file).condition is Condition.good
    manifest = json.loads(file.with_suffix(".json").read_text())
    assert (manifest["sequence"], manifest["verified"], len(manifest["checksum"])) == (12, True, 32)


def test_backups_made_while_the_hub_commits_are_whole(place: Place, tmp_path: Path) -> None:
    opened = place.begin()
    place.commit(opened, 5)
    made: list[Backup] = []
    maker = threading.Thread(
        target=lambda: made.extend(make_backup(place.paths.store, place.paths.backups) for _ in range(3))
    )
    maker.start()
    while maker.is_alive():
        place.commit(opened, 1)
    opened.close()
    assert len(made) == 3
    for one in made:
        assert verify_backup(one.path).condition is Condition.good
        alone = Place(tmp_path / Path(one.path).stem)
        alone.paths.store.mkdir(parents=True)
        shutil.copyfile(one.path, alone.file)
        again = alone.begin()
        assert again.store.sequence == one.sequence
        assert place.is_whole(again)
        again.close()


def test_the_newest_are_kept_and_the_rest_goes(place: Place) -> None:
    with_backups(place, 3, 5, 8, 13, 21)
    known = list_backups(place.paths.backups)
    assert [one.sequence for one in known] == [21, 13, 8]
    assert newest_verified(place.paths.backups) == 21
    assert len(list(place.paths.backups.iterdir())) == 6


def test_a_store_gone_wrong_does_not_push_out_the_last_backup_from_before(place: Place) -> None:
    with_backups(place, 4)
    opened = place.begin()
    for _ in range(3):
        batch = place.script.take()
        batch.put("lanes", (2**40).to_bytes(8, "big"), b"")
        opened.journal.append(batch, place.script.sequence)
        opened.store.commit(batch, place.script.sequence)
        make_backup(place.paths.store, place.paths.backups, keep=2)
    opened.close()
    known = [(one.sequence, one.condition) for one in list_backups(place.paths.backups)]
    assert known == [(7, "inconsistent"), (6, "inconsistent"), (4, "good")]


def test_a_backup_that_was_cut_short_has_no_name_and_is_removed_by_the_next(place: Place) -> None:
    place.paths.backups.mkdir()
    (place.paths.backups / "unfinished-99999999").write_bytes(b"half")
    ours = place.paths.backups / f"unfinished-{os.getpid()}"
    ours.write_bytes(b"somebody is at it")
    with_backups(place, 3)
    assert [one.sequence for one in list_backups(place.paths.backups)] == [3]
    assert {file.name for file in place.paths.backups.glob("unfinished-*")} == {ours.name}


def test_a_damaged_store_gives_no_backup_and_the_earlier_ones_stay(place: Place) -> None:
    with_backups(place, 30)
    place.damage()
    with pytest.raises(StoreError):
        make_backup(place.paths.store, place.paths.backups)
    assert [one.sequence for one in list_backups(place.paths.backups)] == [30]


def test_a_folder_that_cannot_be_written_is_named_in_the_error(place: Place, tmp_path: Path) -> None:
    with_backups(place, 2)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match=r"cannot back up .* to .*file"):
        make_backup(place.paths.store, tmp_path / "file" / "backups")


IN_THE_WAY = "a file is where a directory should be; move it away, or set backups.folder to another place"


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_where_the_backups_should_lie_is_told_in_words(place: Place, below: str) -> None:
    with_backups(place, 2)
    place.paths.backups.rename(place.paths.backups.with_name("away"))
    place.paths.backups.write_bytes(b"")
    with pytest.raises(StoreError) as refused:
        make_backup(place.paths.store, place.paths.backups / below)
    folder = place.paths.backups / below
    assert refused.value.message == f"cannot back up {place.paths.store} to {folder}: {IN_THE_WAY}"


def test_what_else_the_system_refuses_is_told_in_words_with_what_to_do(place: Place) -> None:
    with_backups(place, 2)
    odd = place.paths.backups / "unfinished-999999999"
    odd.mkdir()
    with pytest.raises(StoreError, match=r"9999: Is a directory; see that .* set backups.folder") as refused:
        make_backup(place.paths.store, place.paths.backups)
    assert "Errno" not in refused.value.message


def test_a_file_that_an_earlier_process_of_the_same_number_has_left_is_in_nobodys_way(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_backups(place, 2)
    left = place.paths.backups / f"unfinished-{os.getpid()}"
    left.write_bytes(b"half a copy")
    monkeypatch.setattr(os, "nice", lambda _by: 0)
    assert backup.main([str(place.paths.store), str(place.paths.backups)]) == 0
    assert len(list_backups(place.paths.backups)) == 2
    assert not left.exists()


def test_a_run_is_polled_and_can_be_stopped(place: Place) -> None:
    opened = place.begin()
    place.commit(opened, 2)
    run = BackupRun(place.paths.store, place.paths.backups)
    run.stop()
    assert run.poll()
    assert list_backups(place.paths.backups) == []
    run = BackupRun(place.paths.store, place.paths.backups)
    run.wait()
    assert (run.poll(), run.outcome().sequence) == (True, 2)
    opened.close()


@pytest.mark.parametrize("change", ["bit", "cut", "swap"])
def test_a_backup_that_was_changed_does_not_verify(place: Place, change: str) -> None:
    first, second = with_backups(place, 20, 40)
    file = Path(second.path)
    content = bytearray(file.read_bytes())
    if change == "bit":
        content[len(content) // 2] ^= 1
    elif change == "cut":
        del content[len(content) // 2 :]
    else:
        content[:] = Path(first.path).read_bytes()
    file.write_bytes(content)
    assert verify_backup(file).condition is Condition.damaged


def test_a_backup_that_was_found_damaged_counts_again_once_it_passes(place: Place) -> None:
    first, second = with_backups(place, 20, 40)
    file = Path(second.path)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    note_check(file, verify_backup(file))
    found = list_backups(place.paths.backups)[0]
    assert (found.is_damaged, found.verified, newest_verified(place.paths.backups)) == (True, False, 20)
    file.write_bytes(whole)
    assert newest_verified(place.paths.backups) == 20, "nobody has looked yet"
    note_check(file, verify_backup(file))
    assert list_backups(place.paths.backups)[0] == second
    assert first.verified


def test_two_backups_of_one_batch_in_one_second_are_two(place: Place) -> None:
    [first] = with_backups(place, 6)
    second = make_backup(place.paths.store, place.paths.backups)
    assert first.path != second.path
    assert len(list_backups(place.paths.backups)) == 2


def test_without_its_manifest_a_backup_is_listed_and_not_called_verified(place: Place) -> None:
    [made] = with_backups(place, 6)
    Path(made.path).with_suffix(".json").unlink()
    [found] = list_backups(place.paths.backups)
    assert (found.sequence, found.verified, found.bytes) == (6, False, made.bytes)
    assert newest_verified(place.paths.backups) == 0
    assert verify_backup(made.path).condition is Condition.good


def test_a_restore_takes_the_newest_backup_and_the_journal_and_keeps_the_old_file(place: Place) -> None:
    _, newest = with_backups(place, 10, 20, then=7)
    place.damage()
    damaged = place.file.read_bytes()
    report = restored(place)
    assert (report.backup, report.replayed, report.sequence) == (newest.path, 7, 27)
    assert (report.uncertain, report.rejected, report.condition) == ((), (), Condition.good)
    assert Path(report.quarantined).read_bytes() == damaged
    opened = place.begin()
    assert (opened.store.sequence, place.is_whole(opened), opened.needs_backup) == (27, True, False)
    opened.close()


def test_a_damaged_backup_is_passed_over_and_told(place: Place) -> None:
    first, second = with_backups(place, 10, 20, then=5)
    Path(second.path).write_bytes(b"\0" * second.bytes)
    place.damage()
    report = restored(place)
    assert (report.backup, report.replayed, report.sequence) == (first.path, 15, 25)
    assert second.path in report.rejected[0]
    assert newest_verified(place.paths.backups) == 10, "it counts no longer"


def test_restoring_a_named_damaged_backup_says_that_this_one_does_not_pass(place: Place) -> None:
    _, second = with_backups(place, 10, 20, then=5)
    Path(second.path).write_bytes(b"\0" * second.bytes)
    before = place.file.read_bytes()
    with pytest.raises(StoreDamaged, match=r"this backup does not pass: .*damaged.*without a name") as caught:
        restored(place, chosen=second.path)
    assert "no backup" not in str(caught.value)
    assert place.file.read_bytes() == before


def test_without_any_backup_a_journal_from_the_first_batch_is_enough(place: Place) -> None:
    with_backups(place, then=9)
    place.file.unlink()
    report = restored(place)
    assert (report.backup, report.replayed, report.sequence, report.quarantined) == ("", 9, 9, "")


def test_what_lies_behind_a_hole_in_the_journal_is_said_and_set_aside(place: Place) -> None:
    opened = place.begin()
    place.commit(opened, 10)
    make_backup(place.paths.store, place.paths.backups)
    place.commit(opened, 3)
    first = next_task(place)
    place.commit(opened, 1, journal=False)
    opened.journal.skip(14)
    place.commit(opened, 4)
    last = next_task(place) - 1
    opened.close()
    place.damage()
    report = restored(place, known_sequence=20)
    assert (report.sequence, report.replayed) == (13, 3)
    assert "batches 14 to 18 are not in the store: the journal has no batch 14" in report.uncertain[0]
    assert "batches 19 to 20 were acknowledged and are nowhere to be found" in report.uncertain[1]
    assert report.uncertain[1].endswith(f"; tasks {first} to {last} are missing")
    again = place.begin()
    assert (again.store.sequence, place.is_whole(again)) == (13, True)
    assert list(place.paths.journal.glob("*.set-aside-*"))
    again.close()


def test_going_back_to_a_chosen_backup_leaves_the_journal_out_and_keeps_it(place: Place) -> None:
    first, _ = with_backups(place, 10, 20, then=5)
    report = restored(place, chosen=Path(first.path).name, replay=False)
    assert (report.backup, report.sequence, report.condition) == (first.path, 10, Condition.good)
    assert "batches 11 to 25 are not in the store: going back was asked for" in report.uncertain[0]
    opened = place.begin()
    assert (opened.store.sequence, place.is_whole(opened)) == (10, True)
    opened.close()
    # The later backup holds batches whose numbers are taken anew now.
    assert [one.path for one in list_backups(place.paths.backups)] == [first.path]
    assert len(list(place.paths.backups.glob("*.mdb.set-aside-*"))) == 1


def test_a_backup_that_does_not_exist_is_refused(place: Place) -> None:
    with_backups(place, 3)
    before = place.file.read_bytes()
    with pytest.raises(StoreError, match=r"there is no backup nowhere\.mdb"):
        restored(place, chosen="nowhere.mdb")
    assert place.file.read_bytes() == before


def test_a_restore_onto_a_running_hub_is_refused(place: Place) -> None:
    opened = place.begin()
    place.commit(opened, 3)
    with pytest.raises(StoreLocked, match=f"a hub runs on it.*process {os.getpid()}"):
        restored(place)
    place.commit(opened, 1)
    opened.close()


def test_with_nothing_to_restore_from_the_store_stays_where_it_is(place: Place) -> None:
    with_backups(place, 8, then=2)
    shutil.rmtree(place.paths.backups)
    next(place.paths.journal.glob("journal-*1.log")).unlink()
    place.damage()
    before = place.file.read_bytes()
    with pytest.raises(StoreDamaged, match="nothing to restore from"):
        restored(place)
    assert place.file.read_bytes() == before


def test_backups_that_only_a_newer_program_can_read_are_told_as_such(place: Place, tmp_path: Path) -> None:
    [made] = with_backups(place, 5)
    shutil.rmtree(place.paths.journal)
    of_newer_version(made, tmp_path, told=False)
    assert verify_backup(made.path).condition is Condition.newer
    with pytest.raises(StoreError, match="run the newer AgentCom") as caught:
        restored(place)
    assert caught.value.code == "store_version"


@pytest.mark.parametrize("told", [True, False])
def test_a_restore_takes_the_backup_before_one_of_a_newer_version(place: Place, tmp_path: Path, told: bool) -> None:
    older, newest = with_backups(place, 5, 9, then=3)
    of_newer_version(newest, tmp_path, told=told)
    report = restored(place)
    assert (report.backup, report.replayed, report.sequence) == (older.path, 7, 12)
    assert report.rejected == (f"{newest.path}: of a newer version (format 9, this program knows up to 1)",)
    shown, _ = list_backups(place.paths.backups)
    assert (shown.path, shown.verified, shown.condition, shown.is_damaged) == (
        newest.path, False, Condition.newer, False
    )  # fmt: skip
    assert newest_verified(place.paths.backups) == 5
    manifest = json.loads(Path(newest.path).with_suffix(".json").read_text())
    assert (manifest["verified"], manifest["condition"], manifest["format"]) == (True, "good", 9), "as it was for them"
    opened = place.begin()
    assert place.is_whole(opened)
    opened.close()


@pytest.mark.parametrize("told", [True, False])
def test_a_backup_of_a_newer_version_that_was_named_is_refused_by_its_name(
    place: Place, tmp_path: Path, told: bool
) -> None:
    _, newest = with_backups(place, 5, 9)
    of_newer_version(newest, tmp_path, told=told)
    before = place.file.read_bytes()
    with pytest.raises(StoreVersion) as caught:
        restored(place, chosen=Path(newest.path).name)
    assert caught.value.message == (
        f"this backup does not pass: {newest.path}: of a newer version (format 9, this program knows up to 1); "
        "without a name the newest that passes is taken; run the newer AgentCom"
    )
    assert (place.file.read_bytes(), (place.paths.store / "restoring").exists()) == (before, False)


def test_a_backup_of_a_newer_version_pushes_out_none_of_ours(place: Place, tmp_path: Path) -> None:
    first, newest = with_backups(place, 5, 9)
    of_newer_version(newest, tmp_path, told=True)
    make_backup(place.paths.store, place.paths.backups, 2)
    assert {Path(one.path).name for one in list_backups(place.paths.backups)} >= {
        Path(first.path).name, Path(newest.path).name
    }  # fmt: skip


def test_a_restore_that_was_cut_off_between_the_two_files_is_finished_by_the_next_start(place: Place) -> None:
    with_backups(place, 10, then=4)
    place.file.rename(place.file.with_name("data.mdb.set-aside"))  # the crash came right after this
    opened = place.begin()
    assert (opened.report.how, opened.store.sequence, place.is_whole(opened)) == ("restored", 14, True)
    crash(opened)


@pytest.mark.parametrize(("name", "says"), [("SIGKILL", "from outside"), ("SIGBUS", "the store may be damaged")])
def test_a_copying_process_that_is_ended_from_outside_has_found_no_damage(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    with_backups(place, then=4)
    end_children(tmp_path, f"os.kill(os.getpid(), signal.{name})", monkeypatch)
    with pytest.raises(StoreError, match=f"ended by {name}.*{says}") as caught:
        make_backup(place.paths.store, place.paths.backups)
    assert ("damaged" in caught.value.message) == (name == "SIGBUS")


def test_a_restore_whose_check_of_a_backup_is_ended_from_outside_changes_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [_, newest] = with_backups(place, 5, 9)
    Path(newest.path).with_suffix(".json").unlink()  # so it has to be checked
    before = {file: file.read_bytes() for file in place.paths.store.parent.rglob("*") if file.is_file()}
    end_children(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", monkeypatch)
    with pytest.raises(NotChecked, match=f"cannot check {newest.path}"):
        restored(place)
    after = {file: file.read_bytes() for file in place.paths.store.parent.rglob("*") if file.is_file()}
    assert {file: after[file] for file in before} == before
    assert not (place.paths.store / "restoring").exists()


def test_the_command_says_what_it_made(place: Place) -> None:
    with_backups(place, then=4)
    command = [sys.executable, "-m", "agentcom.store.backup"]
    run = subprocess.run(
        [*command, str(place.paths.store), str(place.paths.backups)], capture_output=True, text=True
    )
    assert (run.returncode, json.loads(run.stdout)["sequence"]) == (0, 4)
    assert subprocess.run(command, capture_output=True).returncode == 2
