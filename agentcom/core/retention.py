"""How long what is over is kept: finished tasks, their results, their stories, and the events of the feed.

Each has a term and a number (`retention.*`); what is beyond either goes, the oldest first, in bounded slices. A task's
results go at once, and so does its story: of no more tasks than brings what is kept back within its number. The core
has no list of what is final: the shell reads a slice of the oldest (agentcom/retirement.py) and puts it into a
`Retire`; here it is decided, on the state as it is then. So a task that was retried meanwhile stays, and one that live
tasks wait for does too. Ages run on the term clock: a wall clock that is set deletes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from agentcom import messages as m
from agentcom.clock import Now
from agentcom.core.effects import Kept, Over, RecordKey, Retire, key_u64, key_u64x2
from agentcom.core.evidence import LATE
from agentcom.core.outlet import Outlet
from agentcom.core.tasks import Tasks, idempotency_key
from agentcom.errors import Refused
from agentcom.model import FINAL, KeptEvent, State, TaskResult, TaskRow

_row = msgspec.msgpack.Decoder(TaskRow).decode
_event = msgspec.msgpack.Decoder(KeptEvent).decode
_result = msgspec.msgpack.Decoder(TaskResult).decode


# What of a final task is kept no longer, as bits (`TaskRow.retired`). Plain numbers: to combine two members of a flag
# takes twenty times as long, and each task that goes is asked about twice.
NOTHING: Final = 0
RESULTS: Final = 1
STORY: Final = 2
TASK: Final = 4


def left(over: Over, going: int, kept: Kept) -> Over:
    """What is too much still when that goes of a task of which so much is kept. With a story the results of earlier
    attempts go."""
    if going & TASK:
        return Over(over.tasks - 1, over.results - kept.results, over.notes - kept.notes, over.events)
    is_short = bool(going & STORY)
    results = kept.results if going & RESULTS else kept.earlier if is_short else 0
    return Over(over.tasks, over.results - results, over.notes - (kept.notes if is_short else 0), over.events)


class Retention:
    """Decides what goes, and lets it go. `retired` counts tasks since the hub's start."""

    def __init__(self, out: Outlet, tasks: Tasks) -> None:
        self._out = out
        self._tasks = tasks
        self.retired = 0

    @property
    def finals(self) -> int:
        """How many final tasks are kept."""
        return sum(self._tasks.counts[state] for state in FINAL)

    def due(self, row: TaskRow, over: Over, now: Now) -> int:
        """What of a final task has to go: by its age, or because so many are kept beyond what may be."""
        terms = self._tasks.settings.retention
        age_ms = self._row_age_ms(row, now)
        if over.tasks > 0 or age_ms >= terms.tasks_s * 1000:
            return TASK
        going = NOTHING
        if over.results > 0 or age_ms >= terms.reports_s * 1000:
            going |= RESULTS
        if over.notes > 0 or age_ms >= terms.stories_s * 1000:
            going |= STORY
        return going & ~row.retired if going else going

    def event_due(self, kept: KeptEvent, over: Over, now: Now) -> bool:
        return (
            over.events > 0
            or self._age_ms(kept.term_ms, now) >= self._tasks.settings.retention.events_s * 1000
        )

    def retire(self, event: Retire, now: Now) -> None:
        """Let go what is due of a slice: the shell's reading may be older than this tick. The shell says how many
        results, notes and events are too many, and how many of them a task has; the tasks are counted here."""
        over = event.over._replace(tasks=self.finals - self._tasks.settings.retention.tasks_max)
        gone = []
        for task in event.tasks:
            stored = self._out.latest(("tasks", key_u64(task)), event.found)
            row = _row(stored) if stored is not None else None
            if row is None or row.state not in FINAL:
                continue
            going, kept = self.due(row, over, now), event.kept.get(task, Kept())
            if going & TASK and self._may_go(task):
                self.purge(row, event.found)
                gone.append(task)
            elif going and not going & TASK:
                self._shorten(row, going, kept, event.found, now)
            else:
                continue
            over = left(over, going, kept)
        if gone:
            self.retired += len(gone)
            self._out.publish("task", "tasks_retired", tasks=gone)
        for number in event.events:
            self._out.delete("feed", key_u64(number))

    def purge(self, row: TaskRow, found: Mapping[RecordKey, bytes]) -> None:
        """Remove a final task with all that is kept of it."""
        key = key_u64(row.id)
        body = self._out.latest(("bodies", key), found)
        spec = m.decode_spec(body) if body is not None else None
        if spec is not None and spec.idempotency_key is not None:
            # Its key is free again: a later submit must not be answered with a task that is no more.
            self._out.delete("idempotency", idempotency_key(row.submitter, spec))
        for database in ("tasks", "bodies", "dead"):
            self._out.delete(database, key)
        for database in ("attempts", "routes", "reports", "stories"):
            self._out.delete_task(database, row.id)
        self._tasks.waiting.depends.purged(row.id)
        self._tasks.counts[row.state] -= 1

    def _may_go(self, task: int) -> bool:
        try:
            self._tasks.waiting.check_purge(task)
        except Refused:
            return False  # it goes with a later slice, when nobody waits for it
        return True

    def _shorten(
        self, row: TaskRow, going: int, kept: Kept, found: Mapping[RecordKey, bytes], now: Now
    ) -> None:
        """Results or story go, the task stays with what it came to."""
        place = key_u64x2(row.id, row.attempt)
        if going & RESULTS:
            stored = found.get(("reports", place))
            if stored is not None and row.state is State.completed:
                row.status = _result(stored).status.value
            self._out.delete_task("reports", row.id)
        if going & STORY:
            self._out.delete_task("stories", row.id)
            for attempt in range(1, row.attempt):
                earlier = key_u64x2(row.id, attempt)
                for database in ("attempts", "routes", "reports"):
                    self._out.delete(database, earlier)
                self._out.delete("reports", earlier + LATE)
            if kept.notes or row.attempt > 1:
                row.shortened_ms = now.wall_ms
            if kept.untold or row.attempt > 1:
                is_old = self._row_age_ms(row, now) >= self._tasks.settings.retention.stories_s * 1000
                row.shortened_by = "retention.stories_s" if is_old else "retention.stories_max"
        row.retired = row.retired | going
        self._out.put("tasks", key_u64(row.id), row)
        self._out.task_changed(row.id)

    def _row_age_ms(self, row: TaskRow, now: Now) -> int:
        return self._age_ms(row.finished_term_ms or row.finished_ms, now)

    def _age_ms(self, then_ms: int, now: Now) -> int:
        return self._tasks.clock.now_ms(now) - then_ms
