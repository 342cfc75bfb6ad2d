"""The compact table of live tasks: one fixed-width row per non-final task.

200 bytes a task at most, struct of arrays, so that a million queued tasks fit in memory and the compiled
scheduler can read columns in place. Bodies (description, files, checks) stay in the store. Slots are reused;
an id is never.
"""

from __future__ import annotations

from array import array

from agentcom.model import Lane, State, TaskError, TaskRow, Tier, TierSource

STATES = tuple(State)
LANES = tuple(Lane)
TIERS = tuple(Tier)
SOURCES = tuple(TierSource)
STATE_CODE = {state: code for code, state in enumerate(STATES)}
LANE_CODE = {lane: code for code, lane in enumerate(LANES)}
TIER_CODE = {tier: code for code, tier in enumerate(TIERS)}
SOURCE_CODE = {source: code for code, source in enumerate(SOURCES)}

# Name and array type of each column, in the order in which `TaskTable.add` fills them.
COLUMNS = (
    ("id", "q"), ("state", "b"), ("lane", "b"), ("group", "i"), ("submitter", "i"), ("tier", "b"),
    ("tier_source", "b"), ("inferred", "b"), ("created_ms", "q"), ("order_key", "q"), ("max_retries", "h"),
    ("attempt", "i"), ("retries_used", "h"), ("losses", "h"), ("parked_count", "i"), ("infra_count", "h"),
    ("agent", "i"), ("host", "i"), ("assigned_ms", "q"), ("delay_ms", "q"), ("expires_ms", "q"),
    ("lease_ms", "q"), ("accept_ms", "q"), ("not_before_ms", "q"), ("due_ms", "q"), ("accepted_ms", "q"),
)  # fmt: skip
ROW_BYTES = sum(array(kind).itemsize for _, kind in COLUMNS)
assert ROW_BYTES <= 200


class TaskTable:
    """Columns by name; `slot_of` maps a live task's id to its slot."""

    id: array[int]
    state: array[int]
    lane: array[int]
    group: array[int]
    submitter: array[int]
    tier: array[int]
    tier_source: array[int]
    inferred: array[int]
    created_ms: array[int]
    order_key: array[int]
    max_retries: array[int]
    attempt: array[int]
    retries_used: array[int]
    losses: array[int]
    parked_count: array[int]
    infra_count: array[int]
    agent: array[int]
    host: array[int]
    assigned_ms: array[int]
    delay_ms: array[int]
    expires_ms: array[int]
    lease_ms: array[int]
    accept_ms: array[int]
    not_before_ms: array[int]
    due_ms: array[int]
    accepted_ms: array[int]

    def __init__(self) -> None:
        self._columns: list[array[int]] = []
        for name, kind in COLUMNS:
            column = array(kind)
            setattr(self, name, column)
            self._columns.append(column)
        self.slot_of: dict[int, int] = {}
        self.errors: dict[int, TaskError] = {}
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self.slot_of)

    def __contains__(self, task: int) -> bool:
        return task in self.slot_of

    def add(self, record: TaskRow) -> int:
        """A slot for a live task, filled from its record. O(1)."""
        assert record.id not in self.slot_of, f"task {record.id} is already live"
        values = (
            record.id, STATE_CODE[record.state], LANE_CODE[record.lane], record.group, record.submitter,
            TIER_CODE[record.tier], SOURCE_CODE[record.tier_source], TIER_CODE[record.inferred_tier],
            record.created_ms, record.order_key, record.max_retries, record.attempt, record.retries_used,
            record.losses, record.parked_count, record.infra_count, record.agent, record.host,
            record.assigned_ms, record.delay_ms, record.expires_ms, 0, 0, record.not_before_ms, record.due_ms,
            0,
        )  # fmt: skip
        if self._free:
            slot = self._free.pop()
            for column, value in zip(self._columns, values, strict=True):
                column[slot] = value
        else:
            slot = len(self.id)
            for column, value in zip(self._columns, values, strict=True):
                column.append(value)
        self.slot_of[record.id] = slot
        return slot

    def remove(self, task: int) -> None:
        slot = self.slot_of.pop(task)
        self.errors.pop(task, None)
        self.id[slot] = 0
        self._free.append(slot)

    def state_of(self, slot: int) -> State:
        return STATES[self.state[slot]]

    def record(self, slot: int, finished_ms: int = 0) -> TaskRow:
        """The row as it is stored."""
        task = self.id[slot]
        error = self.errors.get(task)
        return TaskRow(
            id=task,
            state=STATES[self.state[slot]],
            lane=LANES[self.lane[slot]],
            group=self.group[slot],
            submitter=self.submitter[slot],
            tier=TIERS[self.tier[slot]],
            tier_source=SOURCES[self.tier_source[slot]],
            inferred_tier=TIERS[self.inferred[slot]],
            created_ms=self.created_ms[slot],
            order_key=self.order_key[slot],
            max_retries=self.max_retries[slot],
            attempt=self.attempt[slot],
            retries_used=self.retries_used[slot],
            losses=self.losses[slot],
            parked_count=self.parked_count[slot],
            agent=self.agent[slot],
            host=self.host[slot],
            assigned_ms=self.assigned_ms[slot],
            finished_ms=finished_ms,
            delay_ms=self.delay_ms[slot],
            expires_ms=self.expires_ms[slot],
            not_before_ms=self.not_before_ms[slot],
            infra_count=self.infra_count[slot],
            error_class=error.failure_class.value if error else "",
            error_code=error.code if error else "",
            error_message=error.message if error else "",
            due_ms=self.due_ms[slot],
        )
