"""What a task's assignment says of the tasks that it waited for: what came of each, as its host needs it.

Put together from the store when the assignment is sent; bounded, for it goes into a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agentcom import limits
from agentcom.core.effects import key_u64, key_u64x2
from agentcom.messages import Predecessor
from agentcom.model import AttemptRecord, TaskRow, TaskSpec
from agentcom.results import found_at
from agentcom.store.base import Store

_row = msgspec.msgpack.Decoder(TaskRow).decode
_spec = msgspec.msgpack.Decoder(TaskSpec).decode
_attempt = msgspec.msgpack.Decoder(AttemptRecord).decode
SUBJECT_CHARS_MAX = 200


class OwnTerms(msgspec.Struct):
    """What of a task's body overrides a default in its assignment; the rest is passed on as it is."""

    max_fix_attempts: int | None = None
    timeout_s: int | None = None
    depends_on: tuple[int, ...] = ()
    base: int | str | None = None


def predecessors(store: Store, tasks: Sequence[int], first: object = None) -> tuple[Predecessor, ...]:
    """Those of the tasks that are still known, in their order; `first` among them whatever their number."""
    ordered = sorted(tasks, key=lambda task: task != first)
    found = (_one(store, task) for task in ordered[: limits.PREDECESSORS_MAX])
    return tuple(one for one in found if one is not None)


def _one(store: Store, task: int) -> Predecessor | None:
    row_body, spec_body = (store.get(database, key_u64(task)) for database in ("tasks", "bodies"))
    if row_body is None or spec_body is None:
        return None
    row, spec = _row(row_body), _spec(spec_body)
    place = key_u64x2(task, row.attempt)
    found, attempt_body = found_at(store, task, row.attempt), store.get("attempts", place)
    host = _attempt(attempt_body).host if attempt_body is not None else ""
    subject = spec.description.strip().splitlines()[0][:SUBJECT_CHARS_MAX]
    if found is None:
        return Predecessor(task=task, subject=subject, repo=spec.repo or "", host=host, status=row.status)
    result = found.work
    checks = result.iterations[-1].checks if result.iterations else ()
    return Predecessor(
        task=task,
        subject=subject,
        status=result.status.value,
        summary=_cut(result.output.strip(), limits.PREDECESSOR_CHARS_MAX),
        checks=tuple(_cut(f"{one.kind} {one.target}", 200) + f": {one.status}" for one in checks[: limits.CHECKS_MAX]),
        repo=spec.repo or "",
        branch=result.branch or "" if result.commit else "",
        commit=result.commit or "",
        pushed=result.pushed,
        host=host,
    )


def _cut(text: str, chars_max: int) -> str:
    """Its end: there a worker says what came of it."""
    return text if len(text) <= chars_max else "[...] " + text[-chars_max:]
