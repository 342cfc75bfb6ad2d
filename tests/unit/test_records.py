"""What was built for many records at once says what the way in Python says."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcom.core import rows
from agentcom.core.rows import COLUMNS, TaskTable
from agentcom.model import Lane, State, TaskRow, Tier, TierSource
from agentcom.store import record
from agentcom.store.record import key_u64, pack, pack_all, unpack_all

_records = pytest.importorskip("agentcom._records")
LIMITS = {"b": 2**7, "h": 2**15, "i": 2**31, "q": 2**63}
VALUES = st.tuples(*(st.integers(-LIMITS[kind], LIMITS[kind] - 1) for _, kind in COLUMNS))
PAGE = st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.none() | st.binary(max_size=300)))


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(PAGE)
def test_records_that_are_made_at_once_are_those_made_one_by_one(page: list[tuple[bytes, bytes | None]]) -> None:
    made = pack_all("tasks", page)
    assert made == [(key, pack("tasks", key, body)) for key, body in page if body is not None]
    assert unpack_all("tasks", made) == [row for row in page if row[1] is not None]


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(VALUES, st.integers(0, 2))
def test_a_row_of_columns_is_read_as_it_was_filled(values: tuple[int, ...], slot: int) -> None:
    columns = [array(kind, [0, 0, 0]) for _, kind in COLUMNS]
    _records.fill(columns, slot, values)
    assert _records.values_at(columns, slot) == values == tuple(column[slot] for column in columns)
    assert sum(len(set(column)) - 1 for column in columns) == sum(value != 0 for value in values)  # no other place


@pytest.mark.parametrize("kind", LIMITS)
def test_a_value_that_a_column_cannot_hold_is_refused(kind: str) -> None:
    for value in (LIMITS[kind], -LIMITS[kind] - 1):
        with pytest.raises(OverflowError):
            _records.fill([array(kind, [0])], 0, (value,))


def test_a_place_that_is_not_there_and_a_value_too_few_are_refused() -> None:
    for slot in (1, -1):
        with pytest.raises(IndexError):
            _records.fill([array("q", [0])], slot, (1,))
        with pytest.raises(IndexError):
            _records.values_at([array("q", [0])], slot)
    with pytest.raises(ValueError, match="1 values for 2 columns"):
        _records.fill([array("q", [0]), array("q", [0])], 0, (1,))


@pytest.mark.sources
def test_without_what_was_built_a_table_and_its_records_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    built = _told()
    monkeypatch.setattr(rows, "_records", None)
    monkeypatch.setattr(record, "_records", None)
    assert _told() == built


def _told() -> list[object]:
    table = TaskTable()
    row = TaskRow(
        id=7, state=State.ready, lane=Lane.low, group=3, submitter=2, tier=Tier.complex, tier_source=TierSource.raised,
        inferred_tier=Tier.standard, created_ms=2**40, order_key=2**41, max_retries=3, labels=("gpu",), budget=5,
    )  # fmt: skip
    slot = table.add(row)
    page = [(key_u64(n), bytes([n]) * n or None) for n in range(5)]
    return [pack_all("tasks", page), slot, table.encoded(slot, 8, 9), table.record(slot) == row]
