"""The table of live tasks: what is filled page by page at a start is what each task alone would have got."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcom.core.rowpage import KINDS, NAMES, REQUIRED, page_of, page_read
from agentcom.core.rows import COLUMNS, TaskTable
from agentcom.model import FINAL, Lane, State, TaskRow, Tier, TierSource
from agentcom.store.record import SCHEMA_VERSION, pack, seed_of

MOMENTS = st.integers(0, 2**62)
COUNTS = st.integers(0, 2**15 - 1)
ROWS = st.builds(
    TaskRow,
    id=st.integers(1, 10**6),
    state=st.sampled_from([state for state in State if state not in FINAL]),
    lane=st.sampled_from(Lane),
    group=st.integers(0, 2**31 - 1),
    submitter=st.integers(0, 2**31 - 1),
    tier=st.sampled_from(Tier),
    tier_source=st.sampled_from(TierSource),
    inferred_tier=st.sampled_from(Tier),
    created_ms=MOMENTS,
    order_key=MOMENTS,
    max_retries=COUNTS,
    attempt=st.integers(0, 2**31 - 1),
    retries_used=COUNTS,
    losses=COUNTS,
    parked_count=st.integers(0, 2**31 - 1),
    agent=st.integers(0, 2**31 - 1),
    host=st.integers(0, 2**31 - 1),
    assigned_ms=MOMENTS,
    delay_ms=MOMENTS,
    expires_ms=MOMENTS,
    infra_count=COUNTS,
    not_before_ms=MOMENTS,
    due_ms=MOMENTS,
    start_by_ms=MOMENTS,
    complete_by_ms=MOMENTS,
    labels=st.sampled_from([(), ("gpu",), ("gpu", "nightly")]),
    unaccepted=COUNTS,
    stall_s=st.integers(0, 2**31 - 1),
    budget=st.integers(0, 2**62),
)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(st.lists(ROWS, min_size=1, max_size=8, unique_by=lambda row: row.id), st.integers(0, 8))
def test_rows_that_are_added_at_once_are_those_that_are_added_one_by_one(
    rows: list[TaskRow], first: int
) -> None:
    at_once, one_by_one = TaskTable(), TaskTable()
    for row in rows[:first]:
        at_once.add(row)
    if rows[first:]:
        at_once.add_many(page_of(rows[first:]))
    for row in rows:
        one_by_one.add(row)
        slot, alone = at_once.slot_of[row.id], one_by_one.slot_of[row.id]
        assert at_once.encoded(slot) == one_by_one.encoded(alone)
        for name, _ in COLUMNS:
            if name != "labels":
                assert getattr(at_once, name)[slot] == getattr(one_by_one, name)[alone]
    assert {at_once.label_sets[n]: at_once.label_sets.uses(n) for n in at_once.label_sets} == {
        one_by_one.label_sets[n]: one_by_one.label_sets.uses(n) for n in one_by_one.label_sets
    }
    fresh = at_once.add(
        TaskRow(0, State.ready, Lane.low, 1, 1, Tier.complex, TierSource.command, Tier.complex, 1, 1, 3)
    )
    assert fresh not in {at_once.slot_of[row.id] for row in rows}


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(st.lists(ROWS, min_size=1, max_size=8), st.integers(0, 4))
def test_rows_that_are_read_from_their_bytes_make_the_same_page(rows: list[TaskRow], shorter: int) -> None:
    """Also those of an older version, which had fewer fields."""
    reader = pytest.importorskip("agentcom._records").RowReader(KINDS, REQUIRED, NAMES)
    fields = [msgspec.structs.astuple(row) for row in rows]
    bodies = [msgspec.msgpack.encode(one[: len(one) - shorter * (n % 2)]) for n, one in enumerate(fields)]
    decoded = [msgspec.msgpack.decode(body, type=TaskRow) for body in bodies]
    if any(row.error_class or row.error_code or row.error_message or row.status for row in decoded):
        assert reader.read(bodies) is None
    else:
        assert page_read(reader.read(bodies)) == page_of(decoded)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xdc\x00",
        b"\xdc\x00\x24\x01",
        msgspec.msgpack.encode([1, "ready"]),
        msgspec.msgpack.encode([1, "no such state", "normal", 1, 1, "trivial", "command", "trivial", 1, 1, 1]),
        msgspec.msgpack.encode([2**63, "ready", "normal", 1, 1, "trivial", "command", "trivial", 1, 1, 1]),
        msgspec.msgpack.encode([1, "ready", "normal", 2**31, 1, "trivial", "command", "trivial", 1, 1, 1]),
        msgspec.msgpack.encode([1, "ready", "normal", 1, 1, "trivial", "command", "trivial", 1, 1, 2**15]),
        msgspec.msgpack.encode([1, "ready", "normal", 1, 1, "trivial", "command", "trivial", 1, 1, 1]) + b"\x00",
        msgspec.msgpack.encode([1, "ready", "normal", 1, 1, "trivial", "command", "trivial", 1, 1, 1, *[0] * 40]),
        msgspec.msgpack.encode({"id": 1}),
    ],
)
def test_what_is_no_row_of_this_version_is_left_to_the_decoder(body: bytes) -> None:
    reader = pytest.importorskip("agentcom._records").RowReader(KINDS, REQUIRED, NAMES)
    assert reader.read([body]) is None


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(ROWS, st.data())
def test_a_row_that_is_cut_or_changed_anywhere_is_read_as_the_decoder_reads_it_or_not_at_all(
    row: TaskRow, data: st.DataObject
) -> None:
    reader = pytest.importorskip("agentcom._records").RowReader(KINDS, REQUIRED, NAMES)
    body = bytearray(msgspec.msgpack.encode(row))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] = data.draw(st.integers(0, 255))
    for changed in (bytes(body), bytes(body[:at])):
        found = reader.read([changed])
        if found is not None:
            assert page_read(found) == page_of([msgspec.msgpack.decode(changed, type=TaskRow)])


def test_a_page_of_records_is_verified_as_one_by_one() -> None:
    records = pytest.importorskip("agentcom._records")
    rows = [(b"key%d" % n, b"\x00body" * n) for n in range(300)]
    packed = [(key, pack("tasks", key, body)) for key, body in rows]
    seed = seed_of("tasks", SCHEMA_VERSION)
    assert records.unpack_all(packed, seed, SCHEMA_VERSION) == rows
    assert records.unpack_all(packed, seed, SCHEMA_VERSION + 1) is None
    assert records.unpack_all(packed, seed_of("lanes", SCHEMA_VERSION), SCHEMA_VERSION) is None
    for n, (key, record) in enumerate(packed):
        damaged = bytearray(record)
        damaged[n % len(record)] ^= 1
        assert records.unpack_all([(key, bytes(damaged))], seed, SCHEMA_VERSION) is None
        assert records.unpack_all([(key + b"x", record)], seed, SCHEMA_VERSION) is None
        assert records.unpack_all([(key, record[:6])], seed, SCHEMA_VERSION) is None
