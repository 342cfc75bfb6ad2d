"""The envelope of a stored value: what is not exactly what was stored, where it was stored, is noticed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcom.errors import StoreDamaged, StoreVersion
from agentcom.store.record import ENVELOPE_BYTES, key_u64, key_u64x2, pack, pack_all, unpack, unpack_all

keys = st.binary(min_size=1, max_size=40)
numbers = st.integers(0, 2**64 - 1)


def unpack_last(database: str, key: bytes, record: bytes) -> bytes:
    """The record read as the last of several."""
    sound = b"sound", pack(database, b"sound", b"body")
    return unpack_all(database, [sound, (key, record)])[-1][1]


Read = Callable[[str, bytes, bytes], bytes]
both_ways = pytest.mark.parametrize("read", [unpack, unpack_last])


@both_ways
@given(key=keys, body=st.binary(max_size=400))
def test_a_body_comes_back_as_it_was_stored(read: Read, key: bytes, body: bytes) -> None:
    stored = pack("tasks", key, body)
    assert len(stored) == len(body) + ENVELOPE_BYTES
    assert read("tasks", key, stored) == body


@both_ways
@pytest.mark.parametrize("body", [b"", b"\x00", b"a task of some bytes"])
def test_every_single_flipped_bit_is_noticed(read: Read, body: bytes) -> None:
    stored = pack("tasks", b"key", body)
    for position in range(len(stored) * 8):
        damaged = bytearray(stored)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(StoreDamaged):
            read("tasks", b"key", bytes(damaged))


@both_ways
def test_every_truncation_is_noticed(read: Read) -> None:
    stored = pack("tasks", b"key", b"a task of some bytes")
    for length in range(len(stored)):
        with pytest.raises(StoreDamaged):
            read("tasks", b"key", stored[:length])


def test_zeros_and_text_in_place_of_a_record_are_noticed() -> None:
    for content in (b"", bytes(64), b"plain text that something else has written here"):
        with pytest.raises(StoreDamaged):
            unpack("tasks", b"key", content)


@given(keys, keys, st.binary(max_size=64))
def test_a_record_under_another_key_is_noticed(key: bytes, other: bytes, body: bytes) -> None:
    if key == other:
        assert unpack("tasks", other, pack("tasks", key, body)) == body
        return
    with pytest.raises(StoreDamaged):
        unpack("tasks", other, pack("tasks", key, body))


@both_ways
def test_a_record_in_another_database_is_noticed(read: Read) -> None:
    with pytest.raises(StoreDamaged):
        read("dead", b"key", pack("tasks", b"key", b"body"))


def test_a_byte_that_moves_from_the_key_to_the_body_is_noticed() -> None:
    stored = pack("tasks", b"key", b"body")
    with pytest.raises(StoreDamaged):
        unpack("tasks", b"ke", stored[:ENVELOPE_BYTES] + b"y" + stored[ENVELOPE_BYTES:])


def test_the_error_names_the_database_and_the_key() -> None:
    with pytest.raises(StoreDamaged, match=r"of task 7 in 'tasks'.*checksum") as caught:
        unpack("tasks", key_u64(7), pack("tasks", key_u64(7), b"body")[:-1])
    assert caught.value.code == "store_damaged"


def test_an_intact_record_of_a_newer_program_is_refused_as_such() -> None:
    newer = pack("tasks", b"key", b"body", version=2)
    with pytest.raises(StoreVersion, match=r"records of version 2.*up to 1; run the newer AgentCom"):
        unpack("tasks", b"key", newer)


def test_an_intact_record_of_an_older_program_says_which_it_is() -> None:
    older = pack("tasks", b"key", b"body", version=1)
    with pytest.raises(StoreVersion, match=r"6b6579 of 'tasks': it has schema version 1, and version 2"):
        unpack("tasks", b"key", older, version=2)


@given(numbers, numbers)
def test_keys_sort_as_their_numbers(first: int, second: int) -> None:
    assert (key_u64(first) < key_u64(second)) == (first < second)


@given(st.tuples(numbers, numbers), st.tuples(numbers, numbers))
def test_pairs_sort_by_the_first_number_then_the_second(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    assert (key_u64x2(*first) < key_u64x2(*second)) == (first < second)


def test_a_pair_lies_behind_the_key_of_its_first_number() -> None:
    assert key_u64(7) < key_u64x2(7, 0) < key_u64x2(7, 2**64 - 1) < key_u64(8)


@pytest.mark.parametrize("number", [-1, 2**64])
def test_a_number_that_has_no_key_is_refused(number: int) -> None:
    with pytest.raises(OverflowError):
        key_u64(number)


def test_many_rows_are_packed_as_each_alone_and_those_without_a_body_are_left_out() -> None:
    rows = [(b"a", b"one"), (b"b", None), (b"c", b""), (key_u64(7), b"\x00" * 300)]
    alone = [(key, pack("tasks", key, body)) for key, body in rows if body is not None]
    assert pack_all("tasks", rows) == alone
    assert unpack_all("tasks", alone) == [row for row in rows if row[1] is not None]


@pytest.mark.parametrize(
    ("database", "key", "named"),
    [
        ("bodies", key_u64(355), "of task 355 in 'bodies'"),
        ("lanes", key_u64(355), "of task 355 in 'lanes'"),
        ("stories", key_u64x2(355, 9), "of task 355 in 'stories'"),
        ("attempts", key_u64x2(355, 2), "of attempt 2 of task 355 in 'attempts'"),
        ("reports", key_u64x2(355, 2) + b"late", "of attempt 2 of task 355 in 'reports'"),
        ("hosts", key_u64(3), "0000000000000003 of 'hosts'"),
        ("tasks", b"odd", "6f6464 of 'tasks'"),
    ],
)
def test_a_damaged_record_is_named_as_people_know_it(database: str, key: bytes, named: str) -> None:
    with pytest.raises(StoreDamaged) as caught:
        unpack(database, key, pack(database, key, b"body")[:-1])
    assert caught.value.message == f"cannot read the record {named}: its checksum does not fit its content"
