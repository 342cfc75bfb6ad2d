"""What every store promises, on LMDB and in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentcom.errors import StoreDamaged, StoreError, StoreFull, StoreLocked
from agentcom.store import Batch, Database, Store, pages
from agentcom.store.base import delete_under
from agentcom.store.memory_store import Failure, MemoryDisk, MemoryStore
from agentcom.store.record import key_u64
from tests.contract.places import (
    DEAD,
    MAP_BYTES,
    TASKS,
    Behind,
    InMemory,
    Journaled,
    OnDisk,
    Place,
    batch_of,
    commit,
    commit_letters,
    rows_of,
)


@pytest.fixture(params=["lmdb", "memory", "journaled", "behind"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    kinds = {"lmdb": OnDisk, "journaled": Journaled, "behind": Behind}
    kind = kinds.get(request.param)
    return kind(tmp_path / "store") if kind is not None else InMemory()


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    opened = place.open()
    yield opened
    opened.close()


# A batch.


def test_a_batch_is_what_was_put_and_deleted_in_order() -> None:
    batch = batch_of((TASKS, b"b", b"1"), (TASKS, b"a", None), (DEAD, b"c", b"22"))
    assert list(batch) == [("tasks", b"b", b"1"), ("tasks", b"a", None), ("dead", b"c", b"22")]
    assert len(batch) == 3
    assert batch.size_bytes == 6


def test_the_last_word_on_a_key_counts() -> None:
    batch = batch_of((TASKS, b"a", b"long body"), (TASKS, b"a", None))
    batch.delete(TASKS, b"b")
    batch.put(TASKS, b"b", b"x")
    assert list(batch) == [("tasks", b"a", None), ("tasks", b"b", b"x")]
    assert batch.size_bytes == 3


def test_a_cleared_batch_is_empty() -> None:
    batch = batch_of((TASKS, b"a", b"1"))
    batch.clear()
    assert list(batch) == []
    assert (len(batch), batch.size_bytes) == (0, 0)


@pytest.mark.parametrize("key", [b"", bytes(512)])
def test_a_key_that_no_store_can_hold_is_refused_at_once(key: bytes) -> None:
    batch = Batch()
    with pytest.raises(ValueError, match="1 to 511"):
        batch.put(TASKS, key, b"")
    with pytest.raises(ValueError, match="1 to 511"):
        batch.delete(TASKS, key)
    assert len(batch) == 0


def test_a_database_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="tusks"):
        Batch().put("tusks", b"a", b"")


# Commit and read.


def test_a_new_store_is_empty(store: Store) -> None:
    assert store.sequence == 0
    assert store.writable
    for database in Database:
        assert (store.count(database), store.scan(database)) == (0, [])


def test_what_is_committed_is_read_back(store: Store) -> None:
    commit(store, (TASKS, b"a", b"one"), (DEAD, b"a", b"two"), (TASKS, b"empty", b""))
    assert store.get(TASKS, b"a") == b"one"
    assert store.get(DEAD, b"a") == b"two"
    assert store.get(TASKS, b"empty") == b""
    assert store.get(TASKS, b"b") is None
    assert store.sequence == 1


def test_databases_are_named_by_member_or_by_string(store: Store) -> None:
    commit(store, ("tasks", b"a", b"one"))
    assert store.get(TASKS, b"a") == store.get("tasks", b"a") == b"one"
    assert store.count("tasks") == 1


def test_a_body_may_be_large_and_a_key_as_long_as_allowed(store: Store) -> None:
    commit(store, (TASKS, bytes(511), bytes(300_000)))
    assert store.get(TASKS, bytes(511)) == bytes(300_000)


def test_a_batch_can_be_committed_after_it_was_cleared_and_filled_anew(store: Store) -> None:
    batch = batch_of((TASKS, b"a", b"one"))
    store.commit(batch, 1)
    batch.clear()
    batch.put(TASKS, b"b", b"two")
    store.commit(batch, 2)
    assert store.scan(TASKS) == [(b"a", b"one"), (b"b", b"two")]


def test_a_body_is_replaced_and_a_key_deleted(store: Store) -> None:
    commit_letters(store)
    commit(store, (TASKS, b"b", b"new"), (TASKS, b"c", None), (TASKS, b"never there", None))
    assert store.get(TASKS, b"b") == b"new"
    assert store.get(TASKS, b"c") is None
    assert store.count(TASKS) == 4


def test_an_empty_batch_moves_the_sequence_only(store: Store) -> None:
    commit_letters(store)
    commit(store)
    assert (store.sequence, store.count(TASKS)) == (2, 5)


def test_many_bodies_come_in_the_order_of_their_keys(store: Store) -> None:
    commit_letters(store)
    assert store.get_many(TASKS, [b"d", b"missing", b"a", b"d"]) == [b"D", None, b"A", b"D"]
    assert store.get_many(TASKS, []) == []


@pytest.mark.parametrize(
    ("start", "stop", "letters"),
    [
        (b"", None, "abcde"),
        (b"b", None, "bcde"),
        (b"", b"d", "abc"),
        (b"b", b"d", "bc"),
        (b"bb", b"dd", "cd"),
        (b"f", None, ""),
        (b"", b"a", ""),
        (b"", b"", ""),
        (b"d", b"b", ""),
        (b"", b"z", "abcde"),
    ],
)
def test_a_scan_takes_the_start_and_leaves_the_stop(
    store: Store, start: bytes, stop: bytes | None, letters: str
) -> None:
    commit_letters(store)
    assert store.scan(TASKS, start, stop) == rows_of(letters)
    assert store.scan(TASKS, start, stop, reverse=True) == rows_of(letters[::-1])
    assert store.scan(TASKS, start, stop, limit=2) == rows_of(letters[:2])
    assert store.scan(TASKS, start, stop, limit=2, reverse=True) == rows_of(letters[::-1][:2])
    assert store.scan(TASKS, start, stop, limit=0) == []


def test_numbers_are_scanned_in_their_order(store: Store) -> None:
    numbers = [2**40, 0, 255, 256, 65_535, 1]
    commit(store, *[(TASKS, key_u64(number), str(number).encode()) for number in numbers])
    assert [int(body) for _, body in store.scan(TASKS)] == sorted(numbers)


def test_pages_visit_every_row_once(store: Store) -> None:
    commit_letters(store, "abcdefg")
    found = list(pages(store, TASKS, rows=3))
    assert [len(page) for page in found] == [3, 3, 1]
    assert list(chain(*found)) == rows_of("abcdefg")
    assert list(chain(*pages(store, TASKS, b"b", b"f", rows=2))) == rows_of("bcde")


def test_what_lies_under_a_prefix_goes_from_the_store_and_from_the_batch(store: Store) -> None:
    stored = [(TASKS, key_u64(n) + bytes([m]), b"old") for n in (1, 2, 3) for m in range(70)]
    commit(store, *stored)
    batch = batch_of((TASKS, key_u64(2) + b"new", b"x"), (TASKS, key_u64(4), b"y"), (DEAD, key_u64(2), b"z"))
    delete_under(store, batch, TASKS, key_u64(2))
    batch.put(TASKS, key_u64(5) + b"1", b"later")
    delete_under(store, batch, TASKS, key_u64(5))
    delete_under(store, batch, TASKS, key_u64(9))
    store.commit(batch, store.sequence + 1)
    kept = [(key, body) for _, key, body in stored if not key.startswith(key_u64(2))]
    assert store.scan(TASKS) == [*kept, (key_u64(4), b"y")]
    assert store.scan(DEAD) == [(key_u64(2), b"z")]


def test_the_last_prefix_of_all_has_no_end(store: Store) -> None:
    last = b"\xff" * 8
    commit(store, (TASKS, last + b"1", b"a"), (TASKS, key_u64(1), b"b"))
    batch = Batch()
    delete_under(store, batch, TASKS, last)
    store.commit(batch, store.sequence + 1)
    assert store.scan(TASKS) == [(key_u64(1), b"b")]


def test_a_commit_between_two_pages_neither_repeats_nor_hides_a_row(store: Store) -> None:
    commit_letters(store, "abcd")
    walk = pages(store, TASKS, rows=2)
    first = next(walk)
    commit(store, (TASKS, b"b", None), (TASKS, b"e", b"E"), (TASKS, b"aa", b"too late"))
    assert first + list(chain(*walk)) == rows_of("abcde")


def test_statistics_tell_rows_and_bytes_of_each_database(store: Store) -> None:
    commit(store, *[(TASKS, key_u64(number), bytes(1000)) for number in range(100)])
    figures = store.stats()
    assert figures["sequence"] == 1
    assert figures["databases"]["tasks"]["rows"] == 100
    assert figures["databases"]["dead"] == {"rows": 0, "bytes": 0}
    assert 100_000 < figures["databases"]["tasks"]["bytes"] <= figures["used_bytes"] <= figures["file_bytes"]
    assert figures["file_bytes"] < figures["map_bytes"] == MAP_BYTES
    assert set(figures["databases"]) == set(Database)


def test_used_bytes_fall_when_rows_are_deleted(store: Store) -> None:
    commit(store, *[(TASKS, key_u64(number), bytes(1000)) for number in range(200)])
    full = store.stats()["used_bytes"]
    commit(store, *[(TASKS, key_u64(number), None) for number in range(200)])
    assert store.stats()["used_bytes"] < full / 2


# Sequence, closing, damage.


@pytest.mark.parametrize("sequence", [0, 1, 3, -1])
def test_a_sequence_that_does_not_follow_is_refused(store: Store, sequence: int) -> None:
    commit_letters(store)
    with pytest.raises(StoreError, match=f"batch {sequence} does not follow batch 1"):
        store.commit(batch_of((TASKS, b"z", b"Z")), sequence)
    assert (store.sequence, store.get(TASKS, b"z")) == (1, None)
    commit(store, (TASKS, b"z", b"Z"))
    assert (store.sequence, store.get(TASKS, b"z")) == (2, b"Z")


def test_a_closed_store_opens_again_with_everything_in_it(place: Place) -> None:
    store = place.open()
    commit_letters(store)
    commit(store, (DEAD, b"x", b"X"), (TASKS, b"c", None))
    store.close()
    store = place.open()
    assert store.sequence == 2
    assert store.scan(TASKS) == rows_of("abde")
    assert (store.count(TASKS), store.count(DEAD), store.count(Database.META)) == (4, 1, 0)
    commit(store, (TASKS, b"c", b"C"))
    assert store.sequence == 3
    store.close()


def test_a_closed_store_refuses_everything_but_closing(place: Place) -> None:
    store = place.open()
    store.close()
    store.close()
    uses: list[Callable[[], object]] = [
        lambda: store.sequence,
        lambda: store.commit(Batch(), 1),
        lambda: store.get(TASKS, b"a"),
        lambda: store.get_many(TASKS, [b"a"]),
        lambda: store.scan(TASKS),
        lambda: store.count(TASKS),
        lambda: store.stats(),
    ]
    for use in uses:
        with pytest.raises(StoreError, match="it is closed"):
            use()
    assert not store.writable


def test_a_store_is_opened_once(place: Place) -> None:
    store = place.open()
    with pytest.raises(StoreLocked):
        place.open()
    commit_letters(store)
    store.close()
    place.open().close()


def test_a_damaged_record_is_refused_and_its_neighbours_are_not(place: Place) -> None:
    store = place.open()
    commit_letters(store)
    store.close()
    place.damage(TASKS, b"c")
    store = place.open()
    reads: list[Callable[[], object]] = [
        lambda: store.get(TASKS, b"c"),
        lambda: store.get_many(TASKS, [b"a", b"c"]),
        lambda: store.scan(TASKS),
        lambda: store.scan(TASKS, reverse=True),
    ]
    for read in reads:
        with pytest.raises(StoreDamaged, match="63 of 'tasks'"):
            read()
    assert store.get_many(TASKS, [b"b", b"d"]) == [b"B", b"D"]
    assert store.scan(TASKS, stop=b"c") == rows_of("ab")
    commit(store, (TASKS, b"c", b"C"))
    assert store.scan(TASKS) == rows_of("abcde")
    store.close()


def test_a_batch_that_does_not_fit_leaves_no_trace_and_the_store_goes_on(place: Place) -> None:
    store = place.open()
    commit_letters(store)
    large = [(TASKS, b"a", b"changed"), (TASKS, b"b", None)]
    large += [(DEAD, key_u64(number), bytes(10_000)) for number in range(400)]
    with pytest.raises(StoreFull) as refused:
        commit(store, *large)
    assert (store.sequence, store.count(TASKS), store.count(DEAD)) == (1, 5, 0)
    assert store.scan(TASKS) == rows_of("abcde")
    assert store.writable
    commit(store, (TASKS, b"f", b"F"))
    assert refused.value.code == "storage_full"  # and whoever keeps the error keeps no transaction open
    store.close()
    store = place.open()
    assert (store.sequence, store.count(DEAD)) == (2, 0)
    assert store.scan(TASKS) == rows_of("abcdef")
    store.close()


def fill(store: Store) -> None:
    for number in range(1000):
        commit(store, (TASKS, key_u64(number), bytes(100_000)))


def test_a_full_store_takes_deletes_and_then_puts_again(store: Store) -> None:
    with pytest.raises(StoreFull):
        fill(store)
    stored = store.count(TASKS)
    assert 10 < stored < 1000
    commit(store, *[(TASKS, key_u64(number), None) for number in range(stored)])
    commit(store)  # LMDB keeps the state before the last commit, so freed pages come back one commit later
    store.stats()  # a store that follows its journal has that commit by now
    for number in range(5):
        commit(store, (TASKS, key_u64(number), bytes(100_000)))
    assert store.count(TASKS) == 5


# A plain dict beside the store, through random histories.

some_keys = st.sampled_from([bytes([letter]) * length for letter in b"abc\x00\xff" for length in (1, 2, 9)])
some_databases = st.sampled_from(["tasks", "dead", "meta"])
some_bodies = st.one_of(st.none(), st.binary(max_size=30), st.binary(min_size=5000, max_size=5001))


class StoreHistory(RuleBasedStateMachine):
    """Random batches, refusals and restarts; after each step the store shows what a dict would."""

    place: Place
    store: Store

    def make_place(self) -> Place:
        return InMemory()

    @initialize()
    def start(self) -> None:
        self.place = self.make_place()
        self.store = self.place.open()
        self.model: dict[str, dict[bytes, bytes]] = {"tasks": {}, "dead": {}, "meta": {}}
        self.sequence = 0

    @rule(changes=st.lists(st.tuples(some_databases, some_keys, some_bodies), max_size=12))
    def commit(self, changes: list[tuple[str, bytes, bytes | None]]) -> None:
        commit(self.store, *changes)
        self.sequence += 1
        for database, key, body in changes:
            if body is None:
                self.model[database].pop(key, None)
            else:
                self.model[database][key] = body

    @rule(key=some_keys)
    def commit_too_much(self, key: bytes) -> None:
        with pytest.raises(StoreFull):
            commit(self.store, ("tasks", key, b"small"), ("dead", key, bytes(2 * MAP_BYTES)))

    @rule(key=some_keys, step=st.sampled_from([-1, 0, 2]))
    def commit_out_of_order(self, key: bytes, step: int) -> None:
        with pytest.raises(StoreError):
            self.store.commit(batch_of(("tasks", key, b"wrong")), self.sequence + step)

    @rule()
    def restart(self) -> None:
        self.store.close()
        self.store = self.place.open()

    @rule(
        database=some_databases,
        start=st.one_of(st.just(b""), some_keys),
        stop=st.one_of(st.none(), some_keys),
        reverse=st.booleans(),
        limit=st.one_of(st.none(), st.integers(0, 20)),
    )
    def scan(self, database: str, start: bytes, stop: bytes | None, reverse: bool, limit: int | None) -> None:
        rows = [
            row for row in self.model[database].items() if start <= row[0] and (stop is None or row[0] < stop)
        ]
        expected = sorted(rows, reverse=reverse)[:limit]
        assert self.store.scan(database, start, stop, reverse=reverse, limit=limit) == expected

    @rule(database=some_databases, keys=st.lists(some_keys, max_size=5))
    def read(self, database: str, keys: list[bytes]) -> None:
        expected = [self.model[database].get(key) for key in keys]
        assert self.store.get_many(database, keys) == expected
        assert [self.store.get(database, key) for key in keys] == expected

    @invariant()
    def shows_what_the_model_has(self) -> None:
        assert self.store.sequence == self.sequence
        for database, rows in self.model.items():
            assert self.store.scan(database) == sorted(rows.items())
            assert self.store.count(database) == len(rows)

    def teardown(self) -> None:
        self.store.close()


class LmdbHistory(StoreHistory):
    def make_place(self) -> Place:
        self.directory = tempfile.TemporaryDirectory()
        return OnDisk(Path(self.directory.name) / "store")

    def teardown(self) -> None:
        super().teardown()
        self.directory.cleanup()


_bounded = settings(max_examples=30, stateful_step_count=20, deadline=None)
TestMemoryHistory: Any = StoreHistory.TestCase
TestMemoryHistory.settings = _bounded
TestLmdbHistory: Any = LmdbHistory.TestCase
TestLmdbHistory.settings = _bounded


# Faults on request, in memory.


@pytest.mark.parametrize("failing", range(5))
def test_a_failure_at_any_put_leaves_nothing_of_the_batch(failing: int) -> None:
    store = MemoryStore()
    store.fail_next(Failure.PUT, after=failing)
    with pytest.raises(StoreError, match="put fails"):
        commit_letters(store)
    assert (store.sequence, store.scan(TASKS)) == (0, [])
    commit_letters(store)
    assert store.scan(TASKS) == rows_of("abcde")


def test_a_failure_at_a_put_that_the_batch_does_not_reach_waits_for_a_longer_one() -> None:
    store = MemoryStore()
    store.fail_next("put", after=3)
    commit_letters(store, "abc")
    with pytest.raises(StoreError):
        commit_letters(store, "defg")
    assert store.scan(TASKS) == rows_of("abc")


@pytest.mark.parametrize(("kind", "error"), [("commit", StoreError), ("full", StoreFull)])
def test_a_failure_at_commit_leaves_nothing_of_the_batch(kind: str, error: type[StoreError]) -> None:
    store = MemoryStore()
    store.fail_next(kind)
    with pytest.raises(error):
        commit_letters(store)
    assert store.writable
    assert (store.sequence, store.scan(TASKS)) == (0, [])
    commit_letters(store)
    assert store.sequence == 1


def test_after_a_failed_sync_nothing_is_committed_until_the_disk_is_opened_again() -> None:
    disk = MemoryDisk()
    store = MemoryStore(disk)
    commit_letters(store, "a")
    store.fail_next("sync")
    for _ in range(2):
        with pytest.raises(StoreError, match="sync fail"):
            commit_letters(store, "b")
        assert not store.writable
    assert store.scan(TASKS) == rows_of("a")
    store.close()
    store = MemoryStore(disk)
    commit_letters(store, "b")
    assert store.scan(TASKS) == rows_of("ab")
