"""Results that come after their attempt was closed: kept once, as evidence. They change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from agentcom import messages as m
from agentcom.clock import Now
from agentcom.core.agents import Host
from agentcom.core.effects import RecordKey, key_u64, key_u64x2
from agentcom.core.outlet import Outlet
from agentcom.core.story import Noted
from agentcom.core.tasks import Tasks
from agentcom.model import AttemptRecord, TaskError, TaskRow

LATE: Final = b"late"
REFUSED: Final = "refused"  # the `late_outcome` of an attempt whose report was not believed
Found = Mapping[RecordKey, bytes]


def keep(
    out: Outlet, tasks: Tasks, host: Host, message: m.Result, now: Now, found: Found
) -> Literal["duplicate", "stale", "unknown"]:
    """What to answer to a result whose attempt is not open."""
    place = key_u64x2(message.task, message.attempt)
    stored = out.latest(("attempts", place), found)
    if stored is None:
        return "unknown"
    record = msgspec.msgpack.decode(stored, type=AttemptRecord)
    if record.host_id != host.record.id:
        return "unknown"
    if record.late_outcome == REFUSED:
        return "duplicate"
    if message.outcome == record.outcome or (record.outcome, message.outcome) == ("stalled", "cancelled"):
        return "duplicate"
    if not record.late_outcome:
        record.late_outcome = message.outcome
        out.put("attempts", place, record)
        if message.result is not None:
            out.put("reports", place + LATE, message.result)
        _note(out, tasks, message, now, found)
        out.publish(
            "task", "late_result", task=message.task, attempt=message.attempt, outcome=message.outcome
        )
    return "stale"


def keep_refused(out: Outlet, message: m.Result, error: TaskError) -> None:
    """A report that is not believed lies beside its attempt, which has just been closed; as a late one would."""
    assert message.result is not None
    place = key_u64x2(message.task, message.attempt)
    stored = out.latest(("attempts", place), {})
    assert stored is not None, "the attempt was closed in this tick"
    record = msgspec.msgpack.decode(stored, type=AttemptRecord)
    record.late_outcome = REFUSED
    out.put("attempts", place, record)
    out.put("reports", place + LATE, message.result)
    fields = {"host": record.host, "code": error.code, "message": error.message}
    out.publish("task", "report_refused", task=message.task, attempt=message.attempt, **fields)


def _note(out: Outlet, tasks: Tasks, message: m.Result, now: Now, found: Found) -> None:
    slot = tasks.table.slot_of.get(message.task)
    if slot is None:
        stored = out.latest(("tasks", key_u64(message.task)), found)
        row = msgspec.msgpack.decode(stored, type=TaskRow) if stored else None
        attempt = row.attempt if row is not None else message.attempt
        if row is not None and row.retired:
            row.retired = 0  # there is something again for retention to take
            tasks.story.back(row, now)
            out.put("tasks", key_u64(row.id), row)
    else:
        attempt = tasks.table.attempt[slot]
    cause = f"{message.outcome}, after the attempt had ended: kept as evidence, changes nothing"
    tasks.story.note(message.task, Noted.late_result, attempt, cause, now, about=message.attempt)
