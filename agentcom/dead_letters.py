"""The dead letters: tasks that ended without a result (dead, expired, cancelled), and which of them a request means.

They lie in the database `dead` under the task's number, with the code of the reason. The core has no list of final
tasks, so the shell names them before an operation in bulk reaches it. Each call reads a bounded number of rows; what
is left is behind `next_cursor`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import Now
from agentcom.core.effects import Incoming, key_u64
from agentcom.model import Letters, TaskRow, TaskSpec
from agentcom.store.base import Row, Store

IN_BULK: Final = (m.DeadRetry, m.DeadPurge)
_row = msgspec.msgpack.Decoder(TaskRow).decode
_spec = msgspec.msgpack.Decoder(TaskSpec).decode


class Page(NamedTuple):
    """What is shown, and where the next page begins."""

    shown: list[object]
    next_cursor: int | None


def name_letters(event: Incoming, store: Store, now: Now) -> Incoming:
    """A request in bulk with its tasks named, oldest first, and the cursor of what comes after them; any other event as
    it is."""
    request = event.message
    op = request.op if type(request) is m.Request else None
    if type(request) is not m.Request or not isinstance(op, IN_BULK) or op.tasks:
        return event
    after = key_u64(op.cursor + 1) if op.cursor is not None else b""
    rows = store.scan("dead", after, limit=limits.SCAN_ROWS_MAX)
    named, last = [], None
    for task in _matching(rows, op, store, now):
        named.append(task)
        last = task
        if len(named) == limits.BATCH_TASKS_MAX:
            break
    else:
        last = _number(rows[-1]) if len(rows) == limits.SCAN_ROWS_MAX else None
    # A choice without a field is given the age that all have, so that the core can tell it from tasks that were named.
    older_than_s = op.older_than_s or 0
    named_op = msgspec.structs.replace(op, tasks=tuple(named), cursor=last, older_than_s=older_than_s)
    return event._replace(message=msgspec.structs.replace(request, op=named_op))


def page(op: m.DeadList, store: Store, now: Now, show: Callable[[int], object | None]) -> Page:
    """One page, newest first. `show` gives what is answered for a task, None for one that the caller may not see."""
    before = key_u64(op.cursor) if op.cursor is not None else None
    rows = store.scan("dead", b"", before, reverse=True, limit=limits.SCAN_ROWS_MAX)
    shown: list[object] = []
    for task in _matching(rows, op, store, now):
        if (one := show(task)) is not None:
            shown.append(one)
        if len(shown) == op.limit:
            is_last = task == _number(rows[-1]) and len(rows) < limits.SCAN_ROWS_MAX
            return Page(shown, None if is_last else task)
    return Page(shown, _number(rows[-1]) if len(rows) == limits.SCAN_ROWS_MAX else None)


def _matching(rows: list[Row], wanted: Letters, store: Store, now: Now) -> Iterator[int]:
    for key, code in rows:
        if wanted.code is not None and wanted.code.encode() != code:
            continue
        if _matches(key, wanted, store, now):
            yield int.from_bytes(key, "big")


def _matches(key: bytes, wanted: Letters, store: Store, now: Now) -> bool:
    if (wanted.state, wanted.older_than_s, wanted.label, wanted.repo) == (None, None, None, None):
        return True
    stored = store.get("tasks", key)
    assert stored is not None, f"dead letter {key.hex()} has no task"
    row = _row(stored)
    if wanted.state not in (None, row.state.value):
        return False
    if wanted.older_than_s is not None and now.wall_ms - row.finished_ms < wanted.older_than_s * 1000:
        return False
    if wanted.label is not None and wanted.label not in row.labels:
        return False
    return wanted.repo is None or _repo(key, store) == wanted.repo


def _repo(key: bytes, store: Store) -> str | None:
    body = store.get("bodies", key)
    return _spec(body).repo if body is not None else None


def _number(row: Row) -> int:
    return int.from_bytes(row[0], "big")
