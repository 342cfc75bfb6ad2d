"""The store and its journal as one: what each holds after commits that succeed, fail, and find no room."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcom.errors import StoreError, StoreFull
from agentcom.store.journal import Journal
from agentcom.store.journaled import JournaledStore
from agentcom.store.memory_store import Failure, MemoryStore
from tests.contract.places import TASKS, batch_of, commit, commit_letters, rows_of


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def store(memory: MemoryStore, tmp_path: Path) -> JournaledStore:
    return JournaledStore(memory, Journal(tmp_path / "journal"))


def journalled(store: JournaledStore) -> list[int]:
    return [sequence for sequence, _ in store.journal.replay(0)]


def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_descriptor: int, _content: bytes, _offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("agentcom.store.journal.os.pwrite", refuse)


def test_each_commit_is_in_both_under_one_number(store: JournaledStore) -> None:
    for letter in "abc":
        commit_letters(store, letter)
    assert (store.sequence, store.journal.last, journalled(store)) == (3, 3, [1, 2, 3])


@pytest.mark.parametrize("kind", [Failure.PUT, Failure.COMMIT, Failure.FULL, Failure.SYNC])
def test_a_commit_that_fails_is_in_neither(memory: MemoryStore, store: JournaledStore, kind: Failure) -> None:
    commit_letters(store, "ab")
    memory.fail_next(kind)
    with pytest.raises(StoreError):
        commit_letters(store, "cd")
    assert (store.sequence, journalled(store), store.scan(TASKS)) == (1, [1], rows_of("ab"))
    if store.writable:
        commit_letters(store, "c")
        assert (store.sequence, journalled(store)) == (2, [1, 2])


def test_a_number_that_does_not_follow_is_refused_before_the_journal(store: JournaledStore) -> None:
    with pytest.raises(StoreError, match="does not follow"):
        store.commit(batch_of((TASKS, b"a", b"A")), 5)
    assert journalled(store) == []


def test_a_full_disk_refuses_the_batch_as_long_as_the_journal_may_not_be_skipped(
    store: JournaledStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_letters(store, "a")
    no_room(monkeypatch)
    with pytest.raises(StoreFull):
        commit_letters(store, "b")
    assert (store.sequence, store.scan(TASKS)) == (1, rows_of("a"))


def test_in_degraded_mode_the_store_goes_on_and_the_journal_has_a_hole(
    store: JournaledStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_letters(store, "ab")
    no_room(monkeypatch)
    store.may_skip_journal = True
    commit(store, (TASKS, b"a", None))
    monkeypatch.undo()
    assert (store.sequence, store.journal.last, store.journal.covered_from) == (2, 2, 3)
    commit_letters(store, "c")
    assert (store.journal.covered_from, journalled(store)) == (3, [1])
    assert [sequence for sequence, _ in store.journal.replay(2)] == [3]


# A store that follows later.


@pytest.fixture
def late(memory: MemoryStore, tmp_path: Path) -> JournaledStore:
    return JournaledStore(memory, Journal(tmp_path / "journal"), behind_bytes=100)


def test_a_batch_counts_when_the_journal_is_synced_and_reads_see_it_before_the_store_below_has_it(
    memory: MemoryStore, late: JournaledStore
) -> None:
    commit_letters(late, "abc")
    commit(late, (TASKS, b"b", None), (TASKS, b"c", b"C2"))
    assert (late.sequence, memory.sequence, late.journal.reached) == (2, 0, 2)
    assert late.scan(TASKS) == [(b"a", b"A"), (b"c", b"C2")]
    assert late.get_many(TASKS, [b"c", b"b", b"x"]) == [b"C2", None, None]
    assert (late.get(TASKS, b"b"), late.count(TASKS)) == (None, 2)
    assert late.settle()
    assert (memory.sequence, memory.scan(TASKS), late.waiting_bytes) == (2, [(b"a", b"A"), (b"c", b"C2")], 0)


def test_the_store_below_follows_by_itself_when_much_waits(memory: MemoryStore, late: JournaledStore) -> None:
    for number in range(60):
        commit(late, (TASKS, b"%02d" % number, b"x"))
    assert 20 < memory.sequence <= 60
    assert late.waiting_bytes < 100


def test_nothing_waits_where_the_store_below_is_short_of_room(tmp_path: Path) -> None:
    memory = MemoryStore(map_bytes=350)
    late = JournaledStore(memory, Journal(tmp_path / "journal"), behind_bytes=100)
    commit_letters(late, "ab")
    assert (memory.sequence, late.waiting_bytes, late.journal.fills) == (1, 0, False)


@pytest.mark.parametrize("kind", [Failure.FULL, Failure.PUT, Failure.COMMIT])
def test_what_the_store_below_does_not_take_stays_and_the_next_batch_has_to_be_taken_with_it(
    memory: MemoryStore, late: JournaledStore, kind: Failure
) -> None:
    commit_letters(late, "ab")
    memory.fail_next(kind)
    assert not late.settle()
    assert (late.sequence, late.scan(TASKS)) == (1, rows_of("ab"))
    memory.fail_next(kind)
    with pytest.raises(StoreError):
        commit_letters(late, "c")
    assert (late.sequence, late.scan(TASKS), journalled(late)) == (1, rows_of("ab"), [1])
    commit_letters(late, "c")
    assert (late.sequence, memory.sequence, memory.scan(TASKS)) == (2, 2, rows_of("abc"))
    commit_letters(late, "d")
    assert memory.sequence == 2, "it follows later again"


def test_nothing_more_is_taken_when_the_disk_of_the_store_below_has_failed(
    memory: MemoryStore, late: JournaledStore
) -> None:
    commit_letters(late, "ab")
    memory.fail_next(Failure.SYNC)
    with pytest.raises(StoreError):
        late.settle()
    assert not late.writable
    with pytest.raises(StoreError):
        commit_letters(late, "c")
    assert journalled(late) == [1]


def test_a_sync_of_the_journal_that_fails_ends_its_use(
    memory: MemoryStore, late: JournaledStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_letters(late, "a")

    def refuse(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("agentcom.store.journal.os.fdatasync", refuse)
    with pytest.raises(StoreError):
        commit_letters(late, "b")
    assert (late.writable, late.sequence, late.scan(TASKS)) == (False, 1, rows_of("a"))


def test_where_the_journal_has_no_room_the_store_below_takes_all_that_waits_with_the_batch(
    memory: MemoryStore, late: JournaledStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit_letters(late, "ab")
    no_room(monkeypatch)
    with pytest.raises(StoreFull):
        commit_letters(late, "c")
    late.may_skip_journal = True
    commit(late, (TASKS, b"a", None))
    monkeypatch.undo()
    assert (memory.sequence, memory.scan(TASKS), late.journal.covered_from) == (2, rows_of("b"), 3)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_scan_finds_what_lies_behind_more_hidden_rows_than_a_page_holds(
    late: JournaledStore, memory: MemoryStore, reverse: bool
) -> None:
    rows = [(b"%04d" % n, b"below") for n in range(400)]
    commit(late, *[(TASKS, key, body) for key, body in rows])
    assert late.settle()
    wide = JournaledStore(memory, late.journal, behind_bytes=2**20)
    gone = rows[:300] if not reverse else rows[-300:]
    wide.commit(batch_of(*[(TASKS, key, None) for key, _ in gone]), 2)
    left = sorted(set(rows) - set(gone), reverse=reverse)
    assert (wide.scan(TASKS, reverse=reverse, limit=3), memory.count(TASKS)) == (left[:3], 400)


def test_the_scrubber_reads_what_is_stored_and_not_what_waits(late: JournaledStore, memory: MemoryStore) -> None:
    commit_letters(late, "ab")
    assert late.settle()
    commit_letters(late, "c")
    assert (late.scan_stored(TASKS, b"b", limit=9), memory.sequence) == (rows_of("b"), 1)


def test_how_full_the_store_is_can_be_asked_without_settling(late: JournaledStore, memory: MemoryStore) -> None:
    commit_letters(late, "ab")
    assert (late.size().used_bytes, memory.sequence, memory.size().used_bytes) == (late.waiting_bytes, 0, 0)


@given(
    below=st.dictionaries(st.binary(min_size=1, max_size=2), st.binary(max_size=2), max_size=12),
    above=st.dictionaries(st.binary(min_size=1, max_size=2), st.none() | st.binary(max_size=2), max_size=12),
    later=st.dictionaries(st.binary(min_size=1, max_size=2), st.none() | st.binary(max_size=2), max_size=4),
    start=st.binary(max_size=2), stop=st.none() | st.binary(max_size=2),
    reverse=st.booleans(), limit=st.none() | st.integers(0, 6),
)  # fmt: skip
@settings(deadline=None)
def test_a_scan_over_what_waits_is_that_of_a_store_that_has_it_all(
    tmp_path_factory: pytest.TempPathFactory,
    below: dict[bytes, bytes],
    above: dict[bytes, bytes | None],
    later: dict[bytes, bytes | None],
    start: bytes,
    stop: bytes | None,
    reverse: bool,
    limit: int | None,
) -> None:
    late = JournaledStore(MemoryStore(), Journal(tmp_path_factory.mktemp("j")), behind_bytes=2**20)
    whole = MemoryStore()
    for changes in (below, above, later):
        rows = [(TASKS, key, body) for key, body in changes.items()]
        for store in (late, whole):
            store.commit(batch_of(*rows), store.sequence + 1)
        late.count(TASKS)
        if changes is below:
            late.settle()
        wanted = whole.scan(TASKS, start, stop, reverse=reverse, limit=limit)
        assert late.scan(TASKS, start, stop, reverse=reverse, limit=limit) == wanted
    assert late.count(TASKS) == whole.count(TASKS)
    late.journal.close()


@pytest.mark.parametrize(
    ("changes", "is_change"),
    [
        ([("feed", b"1", b"told"), ("meta", b"next_event", b"2")], False),
        ([("hosts", b"1", b"seen just now"), ("meta", b"clock", b"7")], False),
        ([("hosts", b"1", None)], True),
        ([("feed", b"1", b"told"), ("agents", b"1", b"new")], True),
        ([("meta", b"next_task", b"2")], True),
        ([("feed", b"1", b"told"), ("tasks", b"1", b"ready")], True),
    ],
)
def test_what_comes_without_anybody_doing_anything_is_no_change(
    store: JournaledStore, changes: list[tuple[str, bytes, bytes | None]], is_change: bool
) -> None:
    commit(store, (TASKS, b"a", b"first"))
    commit(store, *changes)
    assert store.changed == (2 if is_change else 1)
