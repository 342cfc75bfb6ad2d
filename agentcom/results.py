"""What came of a task, put together from its reports: that of the attempt that did the work and, where a second host
has verified it, what that one found.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from agentcom.core.effects import key_u64x2
from agentcom.core.hub import Hub
from agentcom.model import AttemptRecord, JsonObject, SecondRecord, State, TaskResult, TaskRow
from agentcom.report_statement import signature_view
from agentcom.store.base import Store

_result = msgspec.msgpack.Decoder(TaskResult).decode
_attempt = msgspec.msgpack.Decoder(AttemptRecord).decode


class Found(NamedTuple):
    """`work` is the report of who did it; `second` that of who verified it, in attempt `attempt` on `host`."""

    work: TaskResult
    second: TaskResult | None = None
    attempt: int = 0
    host: str = ""


class Results:
    """Reports by task, from the store."""

    def __init__(self, store: Store, hub: Hub) -> None:
        self._store, self._hub = store, hub

    def of(self, row: TaskRow) -> Found | None:
        """What a task has to show that no agent has now: of its last attempt, or of the one that waits for a second
        host."""
        waits = self._hub.tasks.seconds.get(row.id)
        return self.at(row.id, waits.attempt if waits is not None and waits.attempt else row.attempt)

    def at(self, task: int, attempt: int) -> Found | None:
        return found_at(self._store, task, attempt)


def found_at(store: Store, task: int, attempt: int) -> Found | None:
    stored = store.get("reports", key_u64x2(task, attempt))
    if stored is None:
        return None
    result = _result(stored)
    if result.second is None:
        return Found(result)
    work = store.get("reports", key_u64x2(task, result.second.attempt))
    record = store.get("attempts", key_u64x2(task, attempt))
    host = _attempt(record).host if record is not None else ""
    return Found(_result(work), result, attempt, host) if work is not None else Found(result)


def result_view(found: Found, state: State) -> JsonObject:
    """A result as JSON. Of a task that did not complete it is partial, and has no status."""
    view = whole_result(found.work, is_taken=True)
    del view["signed"]  # by `signature` in short; all of it stands in the reports
    del view["second"]
    view["second_host"] = second_view(found)
    if found.second is not None:
        view["pull_request"] = found.second.pull_request or view["pull_request"]
        view["warnings"] = [*view["warnings"], *found.second.warnings]
    return view if state is State.completed else {**view, "status": None}


def all_fields(struct: msgspec.Struct) -> JsonObject:
    """Every field, defaults too, which its messages and records leave out: people should not have to guess."""
    return {field: getattr(struct, field) for field in struct.__struct_fields__}


def whole_result(result: TaskResult, *, is_taken: bool) -> JsonObject:
    """A signature of one that was taken was verified then, against the key that was known."""
    view: JsonObject = msgspec.to_builtins(all_fields(result))
    view["signature"] = signature_view(result.signed, is_verified=is_taken)
    return view


def second_view(found: Found) -> JsonObject | None:
    """What the second host found; None where none has looked."""
    result = found.second
    if result is None or result.second is None:
        return None
    checks = result.iterations[-1].checks if result.iterations else ()
    return {
        "host": found.host,
        "attempt": found.attempt,
        "verdict": result.second.verdict,
        "why": result.second.why,
        "commit": result.commit,
        "tree": result.tree,
        "sandbox": result.sandbox,
        "duration_ms": result.duration_ms,
        "checks": msgspec.to_builtins(checks),
        "signature": signature_view(result.signed, is_verified=True),
    }


def look_view(record: SecondRecord | None) -> JsonObject | None:
    """What a live task waits for, once its work is verified: a second host."""
    if record is None or not record.attempt:
        return None
    return {
        "attempt": record.attempt,
        "host": record.host_name,
        "commit": record.commit,
        "tries": record.tries,
        "excluded": list(record.excluded),
        "last": record.last or None,
    }
