"""Rows of live tasks turned into columns, a page at a time: how a start fills the table of tasks.

`page_of` makes a page from rows. Where it was built, `_records.pyx` makes the same from their bytes, in a tenth of the
time, by `KINDS`, `REQUIRED` and `NAMES`, and `page_read` takes over what it gives.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from agentcom.core.rows import CODES, COLUMNS, NOT_STORED, RowPage
from agentcom.model import FailureClass, Lane, State, TaskError, TaskRow, Tier, TierSource

COLUMN_OF: Final[Mapping[str, str]] = {"inferred_tier": "inferred"}  # by field, where the two have different names
TEXTS: Final = ("error_class", "error_code", "error_message", "status", "shortened_by")
ENUMS: Final[Mapping[str, type[State] | type[Lane] | type[Tier] | type[TierSource]]] = {
    "state": State, "lane": Lane, "tier": Tier, "tier_source": TierSource, "inferred_tier": Tier,
}  # fmt: skip
_column_kinds = {**{name: kind for name, kind in COLUMNS if name not in NOT_STORED}, "budget": "q"}
_fields = msgspec.structs.fields(TaskRow)


def _kind(field: str) -> str:
    if field in ENUMS:
        return "e"
    if field in TEXTS:
        return "t"
    return "l" if field == "labels" else _column_kinds.get(field, "x")


KINDS: Final = "".join(_kind(field.name) for field in _fields).encode()
REQUIRED: Final = sum(field.required for field in _fields)
NAMES: Final = [[value.encode() for value in ENUMS.get(field.name, ())] for field in _fields]


def page_of(rows: Sequence[TaskRow]) -> RowPage:
    """Live tasks as they are in the store."""
    values = dict(zip(TaskRow.__struct_fields__, zip(*map(msgspec.structs.astuple, rows), strict=True), strict=True))
    sets = list(dict.fromkeys(values["labels"]))
    number_of = {labels: number for number, labels in enumerate(sets)}
    columns: dict[str, array[int]] = {}
    for field in TaskRow.__struct_fields__:
        name = COLUMN_OF.get(field, field)
        if field == "labels":
            columns[name] = array("i", [number_of[labels] for labels in values[field]])
        elif field in ENUMS:
            codes: Mapping[Any, int] = CODES[name]
            columns[name] = array("b", [codes[value] for value in values[field]])
        elif field in _column_kinds:
            columns[name] = array(_column_kinds[field], values[field])
    errors = {row.id: _error_of(row) for row in rows if row.error_class}
    return RowPage(columns, sets, errors)


def page_read(found: tuple[Sequence[array[int] | None], Sequence[tuple[str, ...]]]) -> RowPage:
    """What the reader gave for rows without errors."""
    columns = {
        COLUMN_OF.get(field.name, field.name): column
        for field, column in zip(_fields, found[0], strict=True)
        if column is not None
    }
    return RowPage(columns, found[1], {})


def _error_of(row: TaskRow) -> TaskError:
    return TaskError(
        failure_class=FailureClass(row.error_class), code=row.error_code, message=row.error_message
    )
