"""The journal: what it gives back, after clean ends, torn ones, damage, full disks and failing ones."""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcom.errors import StoreError, StoreFull, StoreVersion
from agentcom.store import Batch
from agentcom.store.journal import FILL_BYTES, REACHED_FILE, Journal, reached_of
from agentcom.store.segments import RECORD_HEAD, SEGMENT_HEAD, read_segment, segment_name, segments, survey
from tests.contract.places import batch_of

SMALL = 2000  # bytes of a segment, so that a few batches make several


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def numbered(sequence: int) -> Batch:
    """A batch that can be told from all others, with a delete in it."""
    key = sequence.to_bytes(8, "big")
    return batch_of(("tasks", key, b"%d" % sequence * 20), ("lanes", key, b""), ("lanes", b"gone", None))


def rows(batch: Batch) -> list[tuple[str, bytes, bytes | None]]:
    return [(str(database), key, body) for database, key, body in batch]


def filled(folder: Path, last: int, *, segment_bytes: int = SMALL * 1000) -> Journal:
    journal = Journal(folder, segment_bytes=segment_bytes)
    for sequence in range(journal.last + 1, last + 1):
        journal.append(numbered(sequence), sequence)
    return journal


def given_back(folder: Path, after: int = 0) -> list[int]:
    journal = Journal(folder)
    found = []
    for sequence, batch in journal.replay(after):
        assert rows(batch) == rows(numbered(sequence))
        found.append(sequence)
    journal.close()
    return found


def newest(folder: Path) -> Path:
    return segments(folder)[-1][1]


def test_a_new_journal_is_empty_and_private(folder: Path) -> None:
    journal = Journal(folder)
    assert (journal.last, journal.covered_from, list(journal.replay(0))) == (0, 1, [])
    assert folder.stat().st_mode & 0o777 == 0o700
    journal.append(numbered(1), 1)
    assert newest(folder).stat().st_mode & 0o777 == 0o600
    journal.close()


def test_what_was_appended_comes_back_in_order_after_a_new_start(folder: Path) -> None:
    filled(folder, 5).close()
    filled(folder, 9).close()
    assert given_back(folder) == list(range(1, 10))
    assert given_back(folder, after=7) == [8, 9]
    assert given_back(folder, after=9) == []


def test_an_append_tells_how_many_bytes_its_record_has(folder: Path) -> None:
    journal = filled(folder, 1)
    before = journal.stats()["bytes"]
    found = [journal.append(numbered(sequence), sequence) for sequence in (2, 3)]
    assert sum(found) == journal.stats()["bytes"] - before
    assert min(found) > numbered(2).size_bytes
    journal.close()


def test_an_appended_batch_is_there_before_any_sync(folder: Path) -> None:
    journal = filled(folder, 3)
    assert journal.stats()["unsynced_bytes"] > 0
    assert given_back(folder) == [1, 2, 3]
    journal.sync()
    assert journal.stats()["unsynced_bytes"] == 0
    journal.close()


@given(
    st.dictionaries(st.sampled_from(["tasks", "lanes", "meta"]),
                    st.dictionaries(st.binary(min_size=1, max_size=64), st.none() | st.binary(max_size=200)))
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_any_batch_comes_back_as_it_was(tmp_path_factory: pytest.TempPathFactory, content: dict) -> None:
    batch = batch_of(*((name, key, body) for name, keys in content.items() for key, body in keys.items()))
    journal = Journal(tmp_path_factory.mktemp("any"))
    journal.append(batch, 1)
    [(sequence, found)] = list(journal.replay(0))
    assert (sequence, rows(found)) == (1, rows(batch))
    journal.close()


def test_a_record_can_be_read_with_the_layout_and_msgpack_alone(folder: Path) -> None:
    filled(folder, 1).close()
    content = newest(folder).read_bytes()
    assert content[:12] == b"agentcom-jrn"
    magic, length, sequence, _ = struct.unpack_from(">4sIQI", content, 16)
    assert (magic, sequence) == (b"\xacJR\n", 1)
    body = msgpack.unpackb(content[36 : 36 + length])
    assert body == {"tasks": {bytes(7) + b"\1": b"1" * 20}, "lanes": {bytes(7) + b"\1": b"", b"gone": None}}


def test_the_last_append_can_be_taken_back_and_written_anew(folder: Path) -> None:
    journal = filled(folder, 3)
    journal.cut_back()
    assert (journal.last, given_back(folder)) == (2, [1, 2])
    journal.append(numbered(3), 3)
    journal.close()
    assert given_back(folder) == [1, 2, 3]


def test_the_first_batch_of_a_segment_can_be_taken_back(folder: Path) -> None:
    journal = filled(folder, 3)
    journal.rotate()
    journal.append(numbered(4), 4)
    journal.cut_back()
    assert (journal.last, given_back(folder)) == (3, [1, 2, 3])
    journal.append(numbered(4), 4)
    journal.close()
    assert given_back(folder) == [1, 2, 3, 4]


def test_segments_are_bounded_and_named_after_their_first_batch(folder: Path) -> None:
    journal = filled(folder, 60, segment_bytes=SMALL)
    found = segments(folder)
    assert len(found) > 2
    for first, path in found:
        assert path.name == segment_name(first)
        if path != found[-1][1]:  # the last one is filled with zeros ahead
            assert path.stat().st_size < SMALL + 300
        assert next(read_segment(path)).sequence == first
    assert journal.stats()["segments"] == len(found)
    assert journal.stats()["records"] == 60
    told = journal.stats()["bytes"]
    journal.close()
    assert told == sum(path.stat().st_size for _, path in found), "what is filled ahead does not count"
    assert given_back(folder, after=1) == list(range(2, 61))


def test_segments_that_every_backup_covers_are_dropped_and_no_others(folder: Path) -> None:
    journal = filled(folder, 10)
    journal.rotate()
    journal.append(numbered(11), 11)
    assert journal.drop_through(9) == 0
    assert journal.drop_through(10) == 1
    assert (journal.covered_from, journal.last) == (11, 11)
    journal.close()
    assert given_back(folder, after=10) == [11]
    assert given_back(folder, after=5) == []


@pytest.mark.parametrize("left", range(1, 60, 7))
def test_a_torn_tail_is_cut_off_and_told(folder: Path, left: int) -> None:
    filled(folder, 3).close()
    whole = newest(folder).stat().st_size
    filled(folder, 4).close()
    os.truncate(newest(folder), whole + left)
    journal = Journal(folder)
    assert (journal.found.torn_bytes, journal.found.holes, journal.last) == (left, (), 3)
    journal.append(numbered(4), 4)
    journal.close()
    assert given_back(folder) == [1, 2, 3, 4]


def test_zeros_after_the_last_record_are_its_end_and_no_tail_that_was_torn(folder: Path) -> None:
    filled(folder, 3).close()
    with newest(folder).open("ab") as file:
        file.write(bytes(5000))
    assert survey(folder).torn_bytes == 0
    assert given_back(folder) == [1, 2, 3]


def test_the_open_segment_is_filled_ahead_and_ends_with_its_last_record_when_it_is_left(folder: Path) -> None:
    journal = filled(folder, 3)
    journal.sync()
    assert newest(folder).stat().st_size > FILL_BYTES
    assert (journal.reached, reached_of(folder)) == (3, 3)
    journal.rotate()
    assert newest(folder).stat().st_size < 1000
    journal.append(numbered(4), 4)
    journal.close()
    assert survey(folder).torn_bytes == 0
    assert given_back(folder) == [1, 2, 3, 4]


def test_what_lies_behind_the_note_of_what_was_synced_takes_nothing_from_it(folder: Path) -> None:
    filled(folder, 3).close()
    with (folder / REACHED_FILE).open("ab") as file:
        file.write(b"x")
    assert reached_of(folder) == 3
    journal = Journal(folder)
    journal.append(numbered(4), 4)
    journal.sync()
    journal.close()
    assert reached_of(folder) == 4


def counted(task: int, event: int) -> Batch:
    return batch_of(
        ("meta", b"next_task", task.to_bytes(8, "big")), ("meta", b"next_event", event.to_bytes(8, "big"))
    )


def test_the_note_has_how_far_the_counters_had_come_also_in_batches_that_are_lost(folder: Path) -> None:
    journal = filled(folder, 3)
    assert journal.given == {"next_task": 0, "next_event": 0}
    journal.append(counted(8, 20), 4)
    journal.append(batch_of(("meta", b"next_task", (9).to_bytes(8, "big"))), 5)
    journal.append(batch_of(("meta", b"next_event", None)), 6)
    journal.close()
    assert Journal(folder).given == {"next_task": 9, "next_event": 20}
    newest(folder).unlink()
    journal = Journal(folder)
    assert (journal.last, journal.reached, journal.given) == (0, 6, {"next_task": 9, "next_event": 20})
    journal.go_back(0)
    journal.append(counted(2, 2), 1)
    journal.close()
    journal = Journal(folder)
    assert (journal.reached, journal.given) == (1, {"next_task": 9, "next_event": 20})
    journal.close()


@pytest.mark.parametrize("at", range(12, 32, 3))
def test_counters_of_the_note_that_cannot_be_read_say_nothing_and_take_nothing_from_the_rest(
    folder: Path, at: int
) -> None:
    journal = filled(folder, 3)
    journal.append(counted(8, 20), 4)
    journal.close()
    note = folder / REACHED_FILE
    whole = note.read_bytes()
    for content in (whole[:at], whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :]):
        note.write_bytes(content)
        journal = Journal(folder)
        assert (journal.reached, journal.given) == (4, {"next_task": 0, "next_event": 0})
        journal.close()


def damage_record(path: Path, wanted: int) -> None:
    content = bytearray(path.read_bytes())
    position = SEGMENT_HEAD.size
    for record in read_segment(path):
        if getattr(record, "sequence", 0) == wanted:
            content[position + RECORD_HEAD.size + 3] ^= 1
            path.write_bytes(content)
            return
        position = record.end


def test_a_batch_that_cannot_be_read_ends_a_replay_that_needs_it_and_no_other(folder: Path) -> None:
    filled(folder, 9).close()
    damage_record(newest(folder), 4)
    journal = Journal(folder)
    replay = journal.replay(0)
    assert ([sequence for sequence, _ in replay], replay.last) == ([1, 2, 3], 3)
    assert "no batch 4" in replay.missing
    assert [sequence for sequence, _ in journal.replay(4)] == [5, 6, 7, 8, 9]
    assert (journal.covered_from, journal.last) == (5, 9)
    assert journal.found.holes
    journal.close()


def test_a_damaged_segment_is_not_written_to_again(folder: Path) -> None:
    filled(folder, 9).close()
    damage_record(newest(folder), 4)
    before = newest(folder).read_bytes()
    filled(folder, 10).close()
    assert [first for first, _ in segments(folder)] == [1, 10]
    assert segments(folder)[0][1].read_bytes() == before
    assert given_back(folder, after=4) == [5, 6, 7, 8, 9, 10]


def test_a_missing_segment_is_a_hole(folder: Path) -> None:
    filled(folder, 60, segment_bytes=SMALL).close()
    second, third = segments(folder)[1:3]
    second[1].unlink()
    journal = Journal(folder)
    assert journal.covered_from == third[0]
    replay = journal.replay(0)
    assert list(replay)[-1][0] == second[0] - 1
    assert f"no batch {second[0]}" in replay.missing
    journal.close()


def test_a_skipped_batch_is_a_hole_from_there_on_also_after_a_start(folder: Path) -> None:
    journal = filled(folder, 3)
    journal.skip(4)
    assert (journal.last, journal.covered_from) == (4, 5)
    journal.append(numbered(5), 5)
    assert (journal.last, journal.covered_from) == (5, 5)
    journal.close()
    again = Journal(folder)
    assert (again.last, again.covered_from) == (5, 5)
    again.close()


def test_what_cannot_be_applied_is_set_aside_and_its_numbers_are_used_anew(folder: Path) -> None:
    filled(folder, 9).close()
    damage_record(newest(folder), 4)
    journal = Journal(folder)
    kept = journal.forget_after(3, "aside")
    assert [path.name for path in kept] == [segment_name(1) + ".aside"]
    assert (journal.last, journal.covered_from) == (3, 1)
    journal.append(numbered(4), 4)
    journal.close()
    assert given_back(folder) == [1, 2, 3, 4]


@pytest.mark.parametrize(("place", "said"), [(15, "journal version 2"), (13, "records of format 3")])
def test_a_journal_of_a_newer_program_is_refused(folder: Path, place: int, said: str) -> None:
    filled(folder, 1).close()
    content = bytearray(newest(folder).read_bytes())
    content[place] = 2
    newest(folder).write_bytes(content)
    with pytest.raises(StoreVersion, match=f"{said}.*run the newer AgentCom, or go back.*--without-journal"):
        Journal(folder)


def failing_write(monkeypatch: pytest.MonkeyPatch, number: int, kept_bytes: int) -> None:
    """The disk takes some bytes, then fails."""
    real = os.pwrite

    def write(descriptor: int, content: bytes, offset: int) -> int:
        if kept_bytes and len(content) > kept_bytes:
            return real(descriptor, content[:kept_bytes], offset)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("agentcom.store.journal.os.pwrite", write)


@pytest.mark.parametrize("kept_bytes", [0, 25])
def test_a_full_disk_refuses_the_batch_and_leaves_the_journal_as_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> None:
    journal = filled(folder, 3)
    before = newest(folder).read_bytes()
    failing_write(monkeypatch, errno.ENOSPC, kept_bytes)
    with pytest.raises(StoreFull, match="free disk space"):
        journal.append(numbered(4), 4)
    monkeypatch.undo()
    assert newest(folder).read_bytes() == before.rstrip(b"\0")
    journal.append(numbered(4), 4)
    journal.close()
    assert given_back(folder) == [1, 2, 3, 4]


def test_an_error_of_the_disk_ends_the_use_of_the_journal(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = filled(folder, 3)
    failing_write(monkeypatch, errno.EIO, 25)
    with pytest.raises(StoreError, match="check the disk"):
        journal.append(numbered(4), 4)
    monkeypatch.undo()
    with pytest.raises(StoreError, match="stop and start again"):
        journal.append(numbered(4), 4)
    journal.close()
    assert given_back(folder) == [1, 2, 3]


def test_an_error_at_a_sync_ends_the_use_of_the_journal(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = filled(folder, 3)

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("agentcom.store.journal.os.fdatasync", refuse)
    with pytest.raises(StoreError, match="cannot sync"):
        journal.sync()
    monkeypatch.undo()
    for use in (journal.sync, lambda: journal.append(numbered(4), 4)):
        with pytest.raises(StoreError, match="earlier sync failed"):
            use()
    journal.close()


@given(st.binary(max_size=600), st.integers(min_value=0))
@settings(max_examples=150, deadline=None)
def test_whatever_the_bytes_are_reading_ends_and_gives_whole_batches_only(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, where: int
) -> None:
    folder = tmp_path_factory.mktemp("noise")
    filled(folder, 6).close()
    path = newest(folder)
    content = bytearray(path.read_bytes())
    start = where % len(content)
    content[start : start + len(noise)] = noise
    path.write_bytes(content)
    try:
        found = list(Journal(folder).replay(0))
    except StoreVersion:
        return  # the noise has made a newer segment of it
    for sequence, batch in found:
        assert rows(batch) == rows(numbered(sequence))
