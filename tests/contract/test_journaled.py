"""The store and its journal as one: what each holds after commits that succeed, fail, and find no room."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

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
