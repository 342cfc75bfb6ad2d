"""What a check says of a sound store, of each way to damage one, and of a process that dies while it looks."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from agentcom.errors import StoreDamaged
from agentcom.store import check
from agentcom.store.backup import make_backup
from agentcom.store.check import (
    Condition,
    NotChecked,
    RunningCheck,
    full_check,
    full_check_here,
    imprint,
    quick_check,
)
from agentcom.store.record import key_u64, pack
from tests.contract.homes import Place, end_children
from tests.contract.places import raw

ROOT = Path(__file__).parents[2]
BATCHES = 40


@pytest.fixture(params=["compiled", "python"])
def place(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Place:
    """With the quick proof of pages and records, and without; a child has it where it was built."""
    if request.param == "python":
        monkeypatch.setattr(check, "_datafile", None)
    place = Place(tmp_path)
    opened = place.begin()
    place.commit(opened, BATCHES)
    opened.close()
    return place


def test_a_sound_store_is_good_with_its_sequence_and_rows(place: Place) -> None:
    report = full_check_here(place.paths.store)
    assert (report.condition, report.sequence, report.problems) == (Condition.good, BATCHES, ())
    tasks = sum(1 for name, _ in place.script.rows if name == "tasks")
    assert report.rows["tasks"] == report.rows["bodies"] == tasks
    assert report.file_bytes == place.file.stat().st_size


def test_the_check_in_a_child_says_the_same(place: Place) -> None:
    progress: list[tuple[int, int]] = []
    report = full_check(place.paths.store, progress=lambda done, of: progress.append((done, of)))
    here = full_check_here(place.paths.store)
    assert report == type(report)(
        **{name: getattr(here, name) for name in here.__struct_fields__ if name != "duration_ms"},
        duration_ms=report.duration_ms,
    )


def test_the_check_changes_nothing(place: Place) -> None:
    before = {file.name: file.read_bytes() for file in place.paths.store.iterdir() if file.is_file()}
    full_check(place.paths.store)
    assert {file.name: file.read_bytes() for file in place.paths.store.iterdir() if file.is_file()} == before


def test_a_flipped_bit_in_a_record_is_damage_that_names_the_record(place: Place) -> None:
    content = bytearray(place.file.read_bytes())
    body = next(body for (name, _), body in place.script.rows.items() if name == "bodies" and len(body) > 50)
    content[content.rindex(body) + 30] ^= 4
    place.file.write_bytes(content)
    report = full_check_here(place.paths.store)
    assert report.condition is Condition.damaged
    assert report.problems[0].startswith("cannot read the record of task ")
    assert report.problems[0].endswith(" in 'bodies': its checksum does not fit its content")


def test_a_truncated_file_is_damage_found_without_mapping_it(place: Place) -> None:
    os.truncate(place.file, place.file.stat().st_size // 2)
    report = full_check(place.paths.store)
    assert report.condition is Condition.damaged
    assert "beyond" in " ".join(report.problems)


def test_a_row_that_is_gone_is_damage_by_the_counts(place: Place) -> None:
    with raw(place.paths.store) as environment, environment.begin(write=True) as transaction:
        handle = environment.open_db(b"reports", txn=transaction)
        cursor = transaction.cursor(handle)
        assert cursor.first()
        transaction.delete(cursor.key(), db=handle)
    report = full_check_here(place.paths.store)
    assert report.condition is Condition.damaged
    assert report.problems[0].startswith("'reports' has ")


def test_records_that_do_not_agree_are_told_apart_from_damage(place: Place) -> None:
    opened = place.begin()
    batch = place.script.take()
    batch.put("dead", key_u64(2**40), b"nobody's")
    opened.journal.append(batch, place.script.sequence)
    opened.store.commit(batch, place.script.sequence)
    opened.close()
    report = full_check_here(place.paths.store)
    assert (report.condition, report.problem_count) == (Condition.inconsistent, 1)
    assert "there is no such task" in report.problems[0]


def test_a_newer_store_is_not_called_damaged(place: Place) -> None:
    with raw(place.paths.store) as environment, environment.begin(write=True) as transaction:
        own = environment.open_db(b"store", txn=transaction)
        transaction.put(b"format", pack("store", b"format", (9).to_bytes(4, "big"), 1), db=own)
    report = full_check_here(place.paths.store)
    assert report.condition is Condition.newer
    assert "format 9" in report.problems[0]


def test_no_store_and_no_database_are_told(tmp_path: Path) -> None:
    assert full_check_here(tmp_path).condition is Condition.missing
    (tmp_path / "data.mdb").write_bytes(b"something else entirely" * 1000)
    assert full_check_here(tmp_path).condition is Condition.damaged
    (tmp_path / "data.mdb").write_bytes(b"")
    assert full_check_here(tmp_path).condition is Condition.damaged


@pytest.mark.parametrize("name", ["SIGBUS", "SIGSEGV", "SIGABRT", "SIGXCPU"])
def test_a_checking_process_that_dies_of_what_it_reads_has_found_damage(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    begun = end_children(tmp_path, f"os.kill(os.getpid(), signal.{name})", monkeypatch)
    report = full_check(place.paths.store)
    assert (report.condition, len(begun.read_text().splitlines())) == (Condition.damaged, 1)
    assert report.problems[0].startswith(f"the checking process was ended by {name}")


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_check_that_is_ended_from_outside_twice_says_nothing_of_the_file(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    begun = end_children(tmp_path, f"os.kill(os.getpid(), signal.{name})", monkeypatch)
    running = RunningCheck(place.paths.store)
    with pytest.raises(NotChecked) as caught:
        running.wait()
    assert caught.value.message.startswith(
        f"cannot check {place.paths.store}: the checking process was ended by {name}, twice; that came from outside"
    )
    assert "nothing was changed" in caught.value.message
    with pytest.raises(NotChecked):
        running.wait()
    assert len(begun.read_text().splitlines()) == 2


def test_a_check_that_fails_by_itself_is_told_with_its_reason(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_children(tmp_path, "raise MemoryError('no more')", monkeypatch)
    with pytest.raises(NotChecked, match=r"ended with exit code 1 \(MemoryError: no more\), twice; ") as caught:
        full_check(place.paths.store)
    assert not isinstance(caught.value, StoreDamaged)


def test_a_check_that_is_ended_from_outside_once_is_begun_again(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = tmp_path / "once"
    how = f"""if not os.path.exists({str(once)!r}):
        open({str(once)!r}, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*_arguments, **_options)"""
    begun = end_children(tmp_path, how, monkeypatch)
    assert full_check(place.paths.store).condition is Condition.good
    assert len(begun.read_text().splitlines()) == 2


def test_no_file_of_the_working_directory_stands_in_for_a_module_of_the_child(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "msgspec.py").write_text("raise SystemExit('shadowed')\n")
    monkeypatch.chdir(tmp_path)
    assert full_check(place.paths.store).problems == ()
    assert make_backup(place.paths.store, place.paths.backups).sequence == BATCHES


def test_the_command_prints_one_document_and_its_status(place: Place) -> None:
    command = [sys.executable, "-m", "agentcom.store.check", str(place.paths.store)]
    good = subprocess.run([*command, "--json"], capture_output=True, text=True, cwd=ROOT)
    assert (good.returncode, json.loads(good.stdout)["condition"]) == (0, "good")
    place.damage()
    bad = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert bad.returncode == 1
    assert ": damaged, batch" in bad.stdout.splitlines()[0]
    assert subprocess.run(command[:-1], capture_output=True, cwd=ROOT).returncode == 2


def test_a_file_is_recognised_by_its_size_and_meta_pages(place: Place) -> None:
    noted = imprint(place.paths.store)
    assert quick_check(place.paths.store, noted) == ""
    content = bytearray(place.file.read_bytes())
    struct.pack_into("<Q", content, 4096 + 144, 0)
    place.file.write_bytes(content)
    assert "meta pages" in quick_check(place.paths.store, noted)
    place.file.write_bytes(content[:-4096])
    assert "bytes" in quick_check(place.paths.store, noted)
    place.file.unlink()
    assert "cannot read" in quick_check(place.paths.store, noted)
