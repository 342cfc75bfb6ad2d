"""`agentcom backup` on a home whose hub is stopped: what somebody does who is about to restore."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lmdb
import pytest

from agentcom.cli import main
from agentcom.config import Home
from agentcom.store.backup import Backup, make_backup, newest_verified
from agentcom.store.lmdb_store import DATABASES_MAX
from tests.contract.homes import Place, of_newer_version


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A home with a store in it, which AGENTCOM_HOME names."""
    for name in ("AGENTCOM_HUB", "AGENTCOM_BACKUPS_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    Home(home).prepare()
    monkeypatch.setenv("AGENTCOM_HOME", str(home))
    return Place(home)


def stopped_with_backups(place: Place, *sequences: int, then: int = 0) -> list[Backup]:
    opened = place.begin()
    made = []
    for sequence in sequences:
        place.commit(opened, sequence - opened.store.sequence)
        made.append(make_backup(place.paths.store, place.paths.backups))
        opened.backup_made(sequence)
    place.commit(opened, then)
    opened.close()
    return made


def said(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def test_with_the_hub_stopped_the_backups_are_listed_from_the_files(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = stopped_with_backups(place, 10, 20)
    assert main(["backup", "list", "--json"]) == 0
    found = said(capsys)
    assert [one["path"] for one in found["backups"]] == [second.path, first.path]
    assert (found["newest"]["sequence"], found["folder"]) == (20, str(place.paths.backups))
    assert set(found) == {
        "backups", "count", "verified", "unreadable", "newest", "age_s", "needed", "error", "running", "next",
        "every_s", "keep", "folder", "chores",
    }  # fmt: skip
    assert (found["count"], found["verified"], found["unreadable"]) == (2, 2, None)
    assert main(["backup", "list"]) == 0
    told = capsys.readouterr()
    assert Path(second.path).name in told.out
    assert "no hub runs on this home" in told.err


def test_with_the_hub_stopped_no_figure_is_made_up_for_what_may_be_stored_in_its_store(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_with_backups(place, 10)
    assert main(["backup", "list", "--json"]) == 0
    found = said(capsys)
    assert (found["keep"], found["every_s"]) == (None, None), "config set may have changed both in the store"
    assert main(["backup", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"in {place.paths.backups}; how many are kept and when the next is due is known when the hub runs"
    )


def test_with_the_hub_stopped_a_folder_that_cannot_be_read_is_no_folder_without_backups(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_with_backups(place, then=3)
    place.paths.backups.write_text("no folder")
    assert main(["backup", "list"]) == 0
    told = capsys.readouterr().out
    assert "no backups yet" not in told
    assert f"cannot list {place.paths.backups}: a file is where a directory should be; move it away, or set" in told
    assert main(["backup", "list", "--json"]) == 0
    assert "set backups.folder" in said(capsys)["unreadable"]


def test_with_the_hub_stopped_a_backup_is_verified_and_damage_is_written_down(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    _, second = stopped_with_backups(place, 10, 20)
    assert main(["backup", "verify", "--json"]) == 0
    chore = said(capsys)
    assert (chore["kind"], chore["state"], chore["result"]["passes"]) == ("verify", "done", True)
    content = bytearray(Path(second.path).read_bytes())
    content[content.rindex(next(body for (name, _), body in place.script.rows.items() if name == "bodies"))] ^= 4
    Path(second.path).write_bytes(content)
    assert main(["backup", "verify"]) == 1
    told = capsys.readouterr().out
    assert told.startswith(f"{Path(second.path).name}: damaged\n"), "of rows and batch nothing is known"
    assert "its checksum does not fit its content\n" in told
    assert "start the hub again" not in told, "that is for a store"
    assert told.splitlines()[-1] == (
        "  no restore takes this backup; the others are as they were, and `agentcom backup now` makes a new one"
    )
    assert newest_verified(place.paths.backups) == 10
    assert main(["backup", "verify", "nowhere.mdb"]) == 5


def test_what_a_check_of_a_damaged_backup_could_not_read_is_null_and_not_zero(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (made,) = stopped_with_backups(place, 10)
    Path(made.path).write_bytes(bytes(made.bytes))
    assert main(["backup", "verify", "--json"]) == 1
    result = said(capsys)["result"]
    assert (result["condition"], result["file_bytes"], result["problem_count"] > 0) == ("damaged", made.bytes, True)
    assert (result["format"], result["sequence"], result["rows"]) == (None, None, None)


def test_a_batch_that_was_read_of_a_damaged_backup_is_told_without_the_rows_that_were_not(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (made,) = stopped_with_backups(place, 10)
    environment = lmdb.open(made.path, subdir=False, lock=False, max_dbs=DATABASES_MAX)
    with environment, environment.begin(write=True) as transaction:
        transaction.drop(environment.open_db(b"bodies", txn=transaction), delete=False)
    assert main(["backup", "verify"]) == 1
    assert capsys.readouterr().out.startswith(f"{Path(made.path).name}: damaged, batch 10\n")


def test_of_a_backup_without_its_manifest_no_number_of_rows_is_listed(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    (made,) = stopped_with_backups(place, 10)
    Path(made.path).with_suffix(".json").unlink()
    assert main(["backup", "list", "--json"]) == 0
    (found,) = said(capsys)["backups"]
    assert (found["rows"], found["verified"]) == (None, False)
    assert main(["backup", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[-4:] == ["KiB", "10", "not", "verified"]


def test_a_backup_of_a_newer_version_is_listed_as_one_and_left_out_of_a_restore(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older, newest = stopped_with_backups(place, 10, 20)
    of_newer_version(newest, tmp_path, told=False)
    assert main(["backup", "verify"]) == 1
    told = capsys.readouterr().out
    assert told.startswith(f"{Path(newest.path).name}: of a newer version")
    assert main(["backup", "list"]) == 0
    states = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.startswith("backup-")}
    assert states[Path(newest.path).name].endswith("of a newer version")
    assert states[Path(older.path).name].endswith("verified, good")
    assert main(["backup", "restore"]) == 0
    told = capsys.readouterr().out
    assert told.startswith(f"restored from {Path(older.path).name}: batch 20")
    assert f"not taken: {newest.path}: of a newer version" in told


def test_with_the_hub_stopped_the_folder_of_the_settings_is_looked_at(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_with_backups(place, 10)
    monkeypatch.setenv("AGENTCOM_BACKUPS_FOLDER", str(tmp_path / "other"))
    make_backup(place.paths.store, tmp_path / "other")
    assert main(["backup", "list", "--json"]) == 0
    found = said(capsys)
    assert (found["count"], found["folder"]) == (1, str(tmp_path / "other"))


def test_while_a_hub_has_the_store_it_is_asked_and_no_file_is_read(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = place.begin()
    assert main(["backup", "list"]) == 3
    assert "agentcom up" in capsys.readouterr().err
    opened.close()


def test_a_start_after_going_back_by_hand_has_no_second_doubt(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = stopped_with_backups(place, 10, 15, then=5)
    assert main(["backup", "restore", Path(first.path).name, "--without-journal", "--json"]) == 0
    assert len(said(capsys)["uncertain"]) == 1
    opened = place.begin()
    assert (opened.store.sequence, opened.report.uncertain) == (10, ())
    assert len(opened.doubts.found) == 1
    opened.close()


def test_going_back_without_a_backup_says_that_there_is_none_and_what_to_do(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_with_backups(place, then=5)
    before = place.file.read_bytes()
    assert main(["backup", "restore", "--without-journal"]) == 5
    text = capsys.readouterr().err
    assert f"there is no backup in {place.paths.backups}" in text
    assert "leave out --without-journal" in text
    assert "batch 1" not in text
    shutil.rmtree(place.paths.journal)
    assert main(["backup", "restore", "--without-journal"]) == 5
    assert "set backups.folder" in capsys.readouterr().err
    assert place.file.read_bytes() == before


def test_a_restore_of_which_nothing_passes_speaks_of_the_journal_only_where_that_was_asked(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    made, _ = stopped_with_backups(place, 10, 15)
    for one in place.paths.backups.glob("*.mdb"):
        one.write_bytes(bytes(made.bytes))
    assert main(["backup", "restore", "--without-journal"]) == 1
    text = capsys.readouterr().err
    assert "damaged" in text
    assert "batch 1" not in text
    for each in place.paths.journal.iterdir():
        each.unlink()
    assert main(["backup", "restore"]) == 1
    assert "there is no journal" in capsys.readouterr().err
