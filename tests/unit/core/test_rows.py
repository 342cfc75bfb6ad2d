"""The table of live tasks: what is filled page by page at a start is what each task alone would have got."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from agentcom.core.rows import COLUMNS, TaskTable
from agentcom.model import FINAL, Lane, State, TaskRow, Tier, TierSource

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
    at_once.add_many(rows[first:])
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
