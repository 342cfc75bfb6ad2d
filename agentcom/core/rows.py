"""The compact table of live tasks: one fixed-width row per non-final task.

200 bytes a task at most, struct of arrays, so that a million queued tasks fit in memory and the compiled
scheduler can read columns in place. Bodies (description, files, checks) stay in the store. Slots are reused;
an id is never.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from agentcom.core.interned import Interned
from agentcom.model import Lane, State, TaskError, TaskRow, Tier, TierSource

try:
    from agentcom import _records
except ImportError:  # not built here: value by value, below
    _records = None  # type: ignore[assignment]

STATES = tuple(State)
LANES = tuple(Lane)
TIERS = tuple(Tier)
SOURCES = tuple(TierSource)
STATE_NAMES = tuple(state.value for state in State)
LANE_NAMES = tuple(lane.value for lane in Lane)
TIER_NAMES = tuple(tier.value for tier in Tier)
SOURCE_NAMES = tuple(source.value for source in TierSource)
STATE_CODE = {state: code for code, state in enumerate(STATES)}
LANE_CODE = {lane: code for code, lane in enumerate(LANES)}
TIER_CODE = {tier: code for code, tier in enumerate(TIERS)}
SOURCE_CODE = {source: code for code, source in enumerate(SOURCES)}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(TaskRow).decode

# Name and array type of each column, in the order in which `TaskTable.add` fills them.
COLUMNS = (
    ("id", "q"), ("state", "b"), ("lane", "b"), ("group", "i"), ("submitter", "i"), ("tier", "b"),
    ("tier_source", "b"), ("inferred", "b"), ("created_ms", "q"), ("order_key", "q"), ("max_retries", "h"),
    ("attempt", "i"), ("retries_used", "h"), ("losses", "h"), ("parked_count", "i"), ("infra_count", "h"),
    ("agent", "i"), ("host", "i"), ("assigned_ms", "q"), ("delay_ms", "q"), ("expires_ms", "q"),
    ("lease_ms", "q"), ("accept_ms", "q"), ("not_before_ms", "q"), ("due_ms", "q"), ("accepted_ms", "q"),
    ("start_by_ms", "q"), ("complete_by_ms", "q"), ("labels", "i"), ("unaccepted", "h"),
    ("stall_s", "i"),
)  # fmt: skip
NOT_STORED = frozenset({"lease_ms", "accept_ms"})  # 0 until an attempt is open in this process
CODES: Mapping[str, Mapping[Any, int]] = {
    "state": STATE_CODE, "lane": LANE_CODE, "tier": TIER_CODE, "tier_source": SOURCE_CODE, "inferred": TIER_CODE,
}  # fmt: skip
ROW_BYTES = sum(array(kind).itemsize for _, kind in COLUMNS)
assert ROW_BYTES <= 200
GROWTH_ROWS = 1024  # slots made at once: a slot that is there is filled in half the time of 31 appends


class RowPage(NamedTuple):
    """Some live tasks, at least one, by column: the stored ones of COLUMNS, and `budget`. `labels` are numbers of
    `sets`; `errors` are by task, of those that have one."""

    columns: Mapping[str, array[int]]
    sets: Sequence[tuple[str, ...]]
    errors: Mapping[int, TaskError]


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
    start_by_ms: array[int]
    complete_by_ms: array[int]
    labels: array[int]
    unaccepted: array[int]
    stall_s: array[int]

    def __init__(self) -> None:
        self._columns: list[array[int]] = []
        for name, kind in COLUMNS:
            column = array(kind)
            setattr(self, name, column)
            self._columns.append(column)
        self.slot_of: dict[int, int] = {}
        self.errors: dict[int, TaskError] = {}
        self.stepped: dict[int, Tier] = {}  # by task: the tier of its open attempt, where that is not its own
        self.budgets: dict[int, int] = {}  # by task: its own budget, of those that have one
        self.paid: dict[int, int] = {}  # by task: what its paid attempts have cost, and may cost still
        self.label_sets: Interned[tuple[str, ...]] = Interned()
        self._free: list[int] = []
        self._filled = 0  # slots before this one are in use, or free; those behind wait for `add_many`

    def __len__(self) -> int:
        return len(self.slot_of)

    def __contains__(self, task: object) -> bool:
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
            record.accepted_ms, record.start_by_ms, record.complete_by_ms,
            self.label_sets.take(record.labels), record.unaccepted, record.stall_s,
        )  # fmt: skip
        if not self._free:
            self._grow()
        slot = self._free.pop()
        if _records is not None:
            _records.fill(self._columns, slot, values)
        else:
            for column, value in zip(self._columns, values, strict=True):
                column[slot] = value
        self.slot_of[record.id] = slot
        if record.budget:
            self.budgets[record.id] = record.budget
        return slot

    def add_many(self, page: RowPage) -> range:
        """The slots of live tasks, filled column by column, in a tenth of the time of `add`. They lie behind all slots
        that are in use or free; `use_rest` comes after the last page."""
        tasks = page.columns["id"]
        first, count = self._filled, len(tasks)
        if first + count > len(self.id):
            self.reserve(first + count - len(self.id))
        for (name, _), column in zip(COLUMNS, self._columns, strict=True):
            if name == "labels":
                column[first : first + count] = self._take_labels(page)
            elif name not in NOT_STORED:
                column[first : first + count] = page.columns[name]
        self._filled = first + count
        slots = range(first, first + count)
        live = len(self.slot_of) + count
        self.slot_of.update(zip(tasks, slots, strict=True))
        assert len(self.slot_of) == live, "a task is live already, or twice in the store"
        budgets = page.columns["budget"]
        if any(budgets):
            self.budgets.update({task: budget for task, budget in zip(tasks, budgets, strict=True) if budget})
        self.errors.update(page.errors)
        return slots

    def reserve(self, rows: int) -> None:
        """Slots for so many rows that `add_many` will bring, made at once: columns that grow side by side would be
        copied again and again."""
        for column in self._columns:
            column.frombytes(bytes(column.itemsize * rows))

    def use_rest(self) -> None:
        """What was reserved and not filled is free."""
        self._free.extend(range(len(self.id) - 1, self._filled - 1, -1))
        self._filled = len(self.id)

    def _take_labels(self, page: RowPage) -> array[int]:
        """The numbers of the label sets of a page."""
        labels = page.columns["labels"]
        uses = Counter(labels)
        number_of = [self.label_sets.take_for(one, uses[n]) for n, one in enumerate(page.sets)]
        if len(number_of) == 1:
            return array("i", number_of) * len(labels)
        return array("i", [number_of[n] for n in labels])

    def _grow(self) -> None:
        """Room for GROWTH_ROWS more, the lowest slot to be used first."""
        first = len(self.id)
        for column in self._columns:
            column.frombytes(bytes(column.itemsize * GROWTH_ROWS))
        self._free.extend(range(first + GROWTH_ROWS - 1, first - 1, -1))
        self._filled = first + GROWTH_ROWS

    def remove(self, task: int) -> None:
        slot = self.slot_of.pop(task)
        self.label_sets.give(self.labels[slot])
        self.errors.pop(task, None)
        if self.stepped:
            self.stepped.pop(task, None)
        if self.paid:
            self.paid.pop(task, None)
        if self.budgets:
            self.budgets.pop(task, None)
        self.id[slot] = 0
        self._free.append(slot)

    def state_of(self, slot: int) -> State:
        return STATES[self.state[slot]]

    def encoded(self, slot: int, finished_ms: int = 0, finished_term_ms: int = 0) -> bytes:
        """The row as it is stored: a `TaskRow`, written down field by field, since this runs several times a task
        and the struct with its enums would cost twice as much."""
        if _records is not None:
            values = _records.values_at(self._columns, slot)
        else:
            values = tuple([column[slot] for column in self._columns])
        (
            task, state, lane, group, submitter, tier, tier_source, inferred, created_ms, order_key, max_retries,
            attempt, retries_used, losses, parked_count, infra_count, agent, host, assigned_ms, delay_ms, expires_ms,
            _lease_ms, _accept_ms, not_before_ms, due_ms, accepted_ms, start_by_ms, complete_by_ms, labels,
            unaccepted, stall_s,
        ) = values  # fmt: skip
        error = self.errors.get(task)
        fields = (
            task, STATE_NAMES[state], LANE_NAMES[lane], group, submitter, TIER_NAMES[tier], SOURCE_NAMES[tier_source],
            TIER_NAMES[inferred], created_ms, order_key, max_retries, attempt, retries_used, losses, parked_count,
            agent, host, assigned_ms, finished_ms, delay_ms, expires_ms, infra_count, not_before_ms,
            error.failure_class.value if error else "",
            error.code if error else "",
            error.message if error else "",
            due_ms, start_by_ms, complete_by_ms, self.label_sets[labels], unaccepted, stall_s, finished_term_ms,
        )  # fmt: skip
        budget = self.budgets.get(task, 0) if self.budgets else 0
        if accepted_ms:
            return _encode((*fields, "", 0, budget, accepted_ms))
        return _encode((*fields, "", 0, budget) if budget else fields)

    def record(self, slot: int) -> TaskRow:
        """The row as a struct. For what happens now and then."""
        return _decode(self.encoded(slot))
