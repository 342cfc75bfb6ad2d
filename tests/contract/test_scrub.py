"""The scrubber reads every record of a store in use, a few at a time, and tells of those that changed."""

from __future__ import annotations

from pathlib import Path

from agentcom.store import Database
from agentcom.store.lmdb_store import LmdbStore
from agentcom.store.scrub import Scrubber
from tests.contract.places import MAP_BYTES, TASKS, InMemory, OnDisk, batch_of, commit, commit_letters

LETTERS = "abcdefghij"


def a_round(scrubber: Scrubber, rows: int) -> list[str]:
    """The complaints of one round over all databases."""
    before = scrubber.stats()["rounds"]
    complaints = []
    while scrubber.stats()["rounds"] == before:
        complaint = scrubber.step(rows)
        if complaint:
            complaints.append(complaint)
    return complaints


def test_a_round_reads_every_row_of_every_database_in_slices() -> None:
    store = InMemory().open()
    commit_letters(store, LETTERS)
    commit(store, (Database.LANES, b"a", b""), (Database.BODIES, b"z", b"last"))
    scrubber = Scrubber(store.scan)
    assert a_round(scrubber, 3) == []
    assert scrubber.stats() == {"rounds": 1, "rows": len(LETTERS) + 2, "damaged": ""}


def test_a_damaged_record_is_told_once_a_round_and_the_rest_is_still_read() -> None:
    place = InMemory()
    store = place.open()
    commit_letters(store, LETTERS)
    commit(store, (Database.BODIES, b"z", b"last"))
    place.disk.damage(TASKS, b"f")
    scrubber = Scrubber(store.scan)
    for _ in range(2):
        [complaint] = a_round(scrubber, 3)
        assert "66 of 'tasks'" in complaint
        assert scrubber.stats()["damaged"] == complaint


def test_rows_that_come_and_go_between_slices_disturb_nothing(tmp_path: Path) -> None:
    store = OnDisk(tmp_path / "store").open()
    commit_letters(store, LETTERS)
    scrubber = Scrubber(store.scan)
    for n, letter in enumerate(LETTERS):
        assert scrubber.step(2) == ""
        store.commit(
            batch_of((TASKS, letter.encode(), None), (TASKS, b"z%d" % n, b"new")), store.sequence + 1
        )
    assert a_round(scrubber, 2) == []
    store.close()


def test_damage_on_the_disk_is_found_while_the_store_is_in_use(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path / "store", map_bytes=MAP_BYTES)
    commit(store, *[(TASKS, b"%03d" % n, b"body of %d" % n * 30) for n in range(50)])
    file = tmp_path / "store" / "data.mdb"
    with file.open("r+b") as content:
        place = file.read_bytes().rindex(b"body of 17" * 3)
        content.seek(place)
        content.write(b"B")
    [complaint] = a_round(Scrubber(store.scan), 7)
    assert b"017".hex() in complaint
    store.close()
