"""The story of one task: every transition with time, cause and attempt, in the order in which the hub saw them.

Most of it is told by what is stored anyway: the row and the body (submitted, with what times), the attempt records
(assigned, accepted, ended how). Only what those do not tell is noted in the database `stories`, so a task that
simply runs writes no note. Key: task u64, number u64; numbers rise over the whole hub and are counted in `meta`,
so that a note needs no look at the store and a task that is retried goes on where it was.

Times are wall times, each as the clock was when it happened, and never written anew. The order is the hub's:
where nobody sets that clock it is the order of the times too, and where somebody does it stays as it was. A
note says after how many attempts it was made, and whether the last of those was still open, and that is where
`tell` puts it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from itertools import takewhile, zip_longest
from typing import Final

from agentcom import limits
from agentcom.clock import Now, rfc3339
from agentcom.core.effects import key_u64x2
from agentcom.core.outlet import Outlet
from agentcom.core.rows import TaskTable
from agentcom.model import (
    FINAL,
    OPEN_ATTEMPT,
    AttemptRecord,
    JsonObject,
    State,
    StoryNote,
    TaskResult,
    TaskRow,
)

NEXT_NOTE = "next_note"
EVER_MS: Final = 2**63


class Noted(StrEnum):
    """What is noted because no record tells it."""

    held = "held"
    released = "released"
    delayed = "delayed"
    due = "due"
    dead = "dead"
    cancelled = "cancelled"
    expired = "expired"
    retried = "retried"
    late_result = "late_result"
    stalled = "stalled"
    dependency_met = "dependency_met"
    worker_lost = "worker_lost"
    escalated = "escalated"
    start_failed = "start_failed"
    report_refused = "report_refused"
    second_host = "second_host"
    shortened = "shortened"


class Story:
    """Writes notes. One per hub; `next_number` is loaded from `meta`. `live` has the live tasks of which a note or a
    result was kept since the start, with a number that rises with each."""

    def __init__(self, out: Outlet, table: TaskTable) -> None:
        self._out = out
        self._table = table
        self.next_number = 1
        self.live: dict[int, int] = {}
        self._stirs = 0

    def stir(self, task: int) -> None:
        """Something more is kept of a live task."""
        self._stirs += 1
        self.live[task] = self._stirs

    def note(
        self,
        task: int,
        event: Noted,
        attempt: int,
        cause: str,
        now: Now,
        *,
        by: str = "",
        until_ms: int = 0,
        about: int = 0,
        progress: int = 0,
    ) -> None:
        """Note what has just become of a task. O(1).

        `attempt` is how many it has had; `about` names another one, where the event is that one's. `by` is who
        asked, `until_ms` (wall) when it goes on by itself. Call it after the state has changed.
        """
        slot = self._table.slot_of.get(task)
        if slot is not None:
            self.stir(task)
        record = StoryNote(
            event=event.value,
            attempt=attempt,
            at_ms=now.wall_ms,
            cause=cause[: limits.REASON_CHARS_MAX],
            by=by,
            until_ms=until_ms,
            about=about,
            is_during=slot is not None and self._table.state_of(slot) in OPEN_ATTEMPT,
            progress=progress,
        )
        self._out.put("stories", key_u64x2(task, self.next_number), record)
        self.next_number += 1
        self._out.number(NEXT_NOTE, self.next_number)

    def back(self, row: TaskRow, now: Now) -> None:
        """A final task of which all notes have gone is about to get more: note first what its row alone told, that they
        have gone and its end. Where nothing but the end was noted there is only that to note again."""
        if row.shortened_by:
            then = Now(now.mono_ms, row.shortened_ms)
            self.note(row.id, Noted.shortened, row.attempt, _gone(row.attempt), then, by=row.shortened_by)
        if row.shortened_ms:
            ended = Now(now.mono_ms, row.finished_ms)
            if row.state is not State.completed:
                self.note(row.id, Noted(row.state.value), row.attempt, row.error_message, ended)
        row.shortened_ms, row.shortened_by = 0, ""

    def failed_starts(self, slot: int, result: TaskResult, now: Now) -> None:
        """Note each start of an agent program that failed, at its own time by the host's stopwatch: the host tells of
        them when the attempt has ended. One that comes without a time was no later than now."""
        table = self._table
        began_ms = table.accepted_ms[slot] or table.assigned_ms[slot]
        for said, after_ms in zip_longest(result.failed_starts, result.failed_starts_ms[: len(result.failed_starts)]):
            at_ms = now.wall_ms if after_ms is None else min(now.wall_ms, began_ms + after_ms)
            self.note(table.id[slot], Noted.start_failed, table.attempt[slot], said, Now(now.mono_ms, at_ms))


def tell(
    row: TaskRow,
    submitter: str,
    not_before: str | None,
    attempts: Sequence[AttemptRecord],
    notes: Sequence[StoryNote],
) -> list[JsonObject]:
    """The story from its records, attempts and notes in key order. An attempt whose record is gone leaves a gap; where
    retention has made it, it is told at its place that it did, and when."""
    told = [_entry("submitted", row.created_ms, 0, by=submitter, until=not_before or "")]
    cut = shortening(row, notes)
    if cut is not None:
        told.append(_entry(cut.event, cut.at_ms, 0, cause=cut.cause, by=cut.by))
    known = {record.attempt: record for record in attempts}
    during: dict[int, list[StoryNote]] = {}
    after: dict[int, list[StoryNote]] = {}
    for note in notes:
        if note.event == Noted.shortened:
            continue
        (during if note.is_during else after).setdefault(note.attempt, []).append(note)
    for number in sorted({0, row.attempt, *known, *during, *after}):
        told += _of_attempt(known.get(number), during.get(number, []))
        if number == row.attempt and _ends_unnoted(row, notes):
            told.append(_entry(row.state.value, row.finished_ms, row.attempt, cause=row.error_message))
        told += map(_noted, after.get(number, []))
    return told


def shortening(row: TaskRow, notes: Sequence[StoryNote]) -> StoryNote | None:
    """When retention took what the story had, and by which setting: a final task's row says so, else the first note."""
    if row.shortened_by:
        return StoryNote(
            event=Noted.shortened.value,
            attempt=row.attempt,
            at_ms=row.shortened_ms,
            cause=_gone(row.attempt),
            by=row.shortened_by,
        )
    return notes[0] if notes and notes[0].event == Noted.shortened else None


def _gone(attempts: int) -> str:
    """What a shortened story lacks of a task that has had so many attempts."""
    if attempts < 2:
        kept = "the last attempt and the end are kept" if attempts else "the end is kept"
        return f"what was noted until then has gone; {kept}"
    earlier = "attempt 1" if attempts == 2 else f"attempts 1 to {attempts - 1}"
    return f"{earlier} and what was noted until then have gone; the last attempt and the end are kept"


def _of_attempt(record: AttemptRecord | None, notes: Sequence[StoryNote]) -> Iterator[JsonObject]:
    """From its assignment to its end, with what was noted while it was open."""
    if record is not None:
        yield _assigned(record)
    # What came of an earlier attempt before this one was accepted; when that was is all that is known of it.
    before_ms = record.accepted_ms if record is not None else EVER_MS
    early = list(takewhile(lambda note: note.about and note.at_ms < before_ms, notes))
    yield from map(_noted, early)
    if record is not None and record.accepted_ms:
        yield _entry("accepted", record.accepted_ms, record.attempt)
    yield from map(_noted, _with_starts_placed(notes[len(early) :]))
    if record is not None and record.outcome:
        yield _ended(record)


def _with_starts_placed(notes: Sequence[StoryNote]) -> list[StoryNote]:
    """Starts that failed were noted when their attempt ended, with their own times: before what is later."""
    placed = [note for note in notes if note.event != Noted.start_failed]
    for start in notes:
        if start.event == Noted.start_failed:
            later = (n for n, other in enumerate(placed) if other.at_ms > start.at_ms)
            placed.insert(next(later, len(placed)), start)
    return placed


def _ends_unnoted(row: TaskRow, notes: Sequence[StoryNote]) -> bool:
    """Whether the row alone tells the task's end: it has completed, or its notes are gone by their term. What
    was noted after its last attempt, and is left, then came after its end."""
    return row.state in FINAL and not any(note.event == row.state.value for note in notes)


def _assigned(record: AttemptRecord) -> JsonObject:
    where = f"{record.agent} on {record.host}" if record.agent else ""
    return _entry("assigned", record.started_ms, record.attempt, cause=where)


def _ended(record: AttemptRecord) -> JsonObject:
    error = record.error
    code = error.code if error is not None else ""
    cause = f"{error.failure_class.value}: {error.message}" if error is not None else ""
    return _entry("ended", record.ended_ms, record.attempt, cause=cause, code=code, outcome=record.outcome)


def _noted(note: StoryNote) -> JsonObject:
    until = rfc3339(note.until_ms) if note.until_ms else ""
    return _entry(
        note.event, note.at_ms, note.about or note.attempt, cause=note.cause, by=note.by, until=until or ""
    )


def _entry(
    event: str,
    at_ms: int,
    attempt: int,
    *,
    cause: str = "",
    by: str = "",
    until: str = "",
    code: str = "",
    outcome: str = "",
) -> JsonObject:
    """`attempt` 0 stands for before the first one; what is not known or does not apply is null."""
    return {
        "at": rfc3339(at_ms),
        "event": event,
        "attempt": attempt or None,
        "outcome": outcome or None,
        "cause": cause or None,
        "code": code or None,
        "by": by or None,
        "until": until or None,
    }
