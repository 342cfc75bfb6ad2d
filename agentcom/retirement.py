"""The shell's side of retention: read a bounded slice of the oldest, and put what may be due into an event.

Nothing is deleted here: the core decides (core/retention.py) in the tick that the event is for. Two cursors walk the
tasks by number, one for age and one for number, each a page at a time; the second runs only while too much is kept. A
third walks the book of paid attempts.
A slice that found something is followed by the next one at once, else there is a pause: an idle hub reads a page a
second, and under load what comes in is what goes out.
"""

from __future__ import annotations

from typing import Final

import msgspec

from agentcom import limits
from agentcom.clock import Now
from agentcom.core.effects import Kept, Over, RecordKey, Retire, key_u64, key_u64x2
from agentcom.core.hub import Hub
from agentcom.core.retention import RESULTS, STORY, TASK, left
from agentcom.live_records import LiveRecords
from agentcom.model import FINAL, KeptEvent, StoryNote, TaskRow
from agentcom.money import LedgerRecord
from agentcom.store.base import Store, after

PAUSE_MS: Final = 1000
FULL_PAUSE_MS: Final = 10_000  # while no new tasks are taken
_row = msgspec.msgpack.Decoder(TaskRow).decode
_kept = msgspec.msgpack.Decoder(KeptEvent).decode
_note = msgspec.msgpack.Decoder(StoryNote).decode
_paid = msgspec.msgpack.Decoder(LedgerRecord).decode


class Retirement:
    """Owns the cursors. One per store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._live = LiveRecords(store)
        self._cursors = {"age": b"", "number": b"", "ledger": b""}
        self._due_ms = 0
        self._ended = 0

    def turn(self, hub: Hub, now: Now) -> list[Retire]:
        """The event for this tick, if there may be something to retire. Bounded by RETIRE_*."""
        if now.mono_ms < self._due_ms:
            return []
        over = self._over(hub)
        most = self._slice(hub)
        walk, allowed = ("number", over) if over.is_any else ("age", Over())
        rows, kept = self._due_rows(hub, walk, allowed, most, now)
        events = self._due_events(hub, over, now)
        paid = self._due_paid(hub, now)
        if not rows and not events and not paid:
            self._due_ms = now.mono_ms + PAUSE_MS
            return []
        # Deletes make room, but a disk that takes nothing must not be asked in every turn of the loop.
        self._due_ms = now.mono_ms + (FULL_PAUSE_MS if hub.no_submits is not None else 0)
        tasks = tuple(row.id for row in rows)
        ledger = tuple((int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")) for key in paid)
        found = self._found(rows) | {("ledger", key): body for key, body in paid.items()}
        return [Retire(tasks, events, allowed, found, kept, ledger)]

    def _over(self, hub: Hub) -> Over:
        """How many are kept beyond what may be. What belongs to live tasks does not count: it must not drive out what
        others have. While that is not known, nothing goes for its number."""
        terms = hub.settings.retention
        results = self._store.count("reports") - terms.reports_max
        notes = self._store.count("stories") - terms.stories_max
        if results > 0 or notes > 0:
            is_known = self._live.look(hub)
            results = results - self._live.results if is_known else 0
            notes = notes - self._live.notes if is_known else 0
        return Over(
            tasks=hub.retention.finals - terms.tasks_max,
            results=results,
            notes=notes,
            events=self._store.count("feed") - terms.events_max,
        )

    def _slice(self, hub: Hub) -> int:
        """How many tasks may go in this tick: in proportion to what has finished since the last slice."""
        ended = hub.retention.finals + hub.retention.retired
        fresh, self._ended = max(0, ended - self._ended), ended
        return min(max(limits.RETIRE_ROWS_MIN, 2 * fresh), limits.RETIRE_ROWS_MAX)

    def _due_rows(
        self, hub: Hub, walk: str, over: Over, most: int, now: Now
    ) -> tuple[list[TaskRow], dict[int, Kept]]:
        """Final tasks of the next page of which something is due, the oldest first, and how much is kept of each. By
        number no more than are too many: the next slice goes on behind the last one."""
        length = most + limits.RETIRE_SCAN_ROWS_MAX
        page = self._store.scan("tasks", self._cursors[walk], limit=length)
        found: list[TaskRow] = []
        kept: dict[int, Kept] = {}
        for key, body in page:
            if len(found) == most or (walk == "number" and not over.is_any):
                self._cursors[walk] = key
                return found, kept
            row = _row(body)
            if row.state not in FINAL:
                continue
            going = hub.retention.due(row, over, now)
            has = self._kept(key, row) if going else Kept()
            if going and (walk == "age" or _has_any(has, going)):
                found.append(row)
                kept[row.id] = has
                over = left(over, going, has)
        is_last = len(page) < length
        self._cursors[walk] = b"" if is_last else page[-1][0] + b"\0"
        return found, kept

    def _kept(self, key: bytes, row: TaskRow) -> Kept:
        results, notes = (self._store.scan(database, key, after(key)) for database in ("reports", "stories"))
        last = key_u64x2(row.id, row.attempt)
        return Kept(
            results=len(results),
            earlier=sum(not place.startswith(last) for place, _ in results),
            notes=len(notes),
            untold=len(notes) - any(_note(body).event == row.state for _, body in notes),
        )

    def _due_events(self, hub: Hub, over: Over, now: Now) -> tuple[int, ...]:
        due = []
        for key, body in self._store.scan("feed", limit=limits.RETIRE_ROWS_MIN):
            if not hub.retention.event_due(_kept(body), over, now):
                break
            due.append(int.from_bytes(key, "big"))
            over = over._replace(events=over.events - 1)
        return tuple(due)

    def _due_paid(self, hub: Hub, now: Now) -> dict[bytes, bytes]:
        """What paid attempts cost of which nobody needs the record any longer, of the next page of the book."""
        page = self._store.scan("ledger", self._cursors["ledger"], limit=limits.RETIRE_ROWS_MIN)
        self._cursors["ledger"] = page[-1][0] + b"\0" if len(page) == limits.RETIRE_ROWS_MIN else b""
        return {key: body for key, body in page if hub.ledger.due(_paid(body), now)}

    def _found(self, rows: list[TaskRow]) -> dict[RecordKey, bytes]:
        """What the core needs to decide and to let go: row, body, last result."""
        keys = [key_u64(row.id) for row in rows]
        last = [key_u64x2(row.id, row.attempt) for row in rows]
        return {
            (database, place): body
            for database, places in (("tasks", keys), ("bodies", keys), ("reports", last))
            for place, body in zip(places, self._store.get_many(database, places), strict=True)
            if body is not None
        }


def _has_any(kept: Kept, going: int) -> bool:
    """Whether there is any of what is too much: most tasks have no notes, and a slice is for those that have."""
    return bool(going & TASK or (going & RESULTS and kept.results) or (going & STORY and kept.notes))
