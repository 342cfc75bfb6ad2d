"""When a task must have started, ended, or left the queue, and on which clock.

Moments that people gave (`not_before`, `start_by`, `complete_by`) follow the wall clock, also when it is set. Terms
(time to live, how long a task may be held) run on a clock of their own that only monotonic time moves: setting the
wall clock by ten years expires nothing. The term clock starts at wall time in a new store; where it stands is
noted now and then, and a start goes on from there.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterator, Mapping

from agentcom import limits
from agentcom.clock import Now, rfc3339
from agentcom.core.lanes import key_of, pack, task_of
from agentcom.core.outlet import Outlet
from agentcom.core.rows import STATE_CODE, STATES, TaskTable
from agentcom.core.terms import Terms
from agentcom.model import OPEN_ATTEMPT, ClockNote, FailureClass, State, TaskError

NOTE = b"clock"  # in `meta`
OPEN_CODES = frozenset(STATE_CODE[state] for state in OPEN_ATTEMPT)
PLAIN_CODES = frozenset(range(len(STATES))) - OPEN_CODES - {STATE_CODE[State.held]}  # whose term is their time to live


class TermClock:
    """Time for terms, in ms that are comparable over restarts."""

    def __init__(self, out: Outlet, boot: str) -> None:
        self._out = out
        self._boot = boot
        self._base_ms = 0
        self._offset_ms: int | None = None  # wall less monotonic, as last seen
        self._noted_ms: int | None = None  # monotonic

    def begin(self, now: Now, note: ClockNote | None) -> None:
        """Go on from the last note. Since the same boot of the machine monotonic time tells how long that is ago;
        otherwise the wall clock does, within reason: it may have been set, and nobody could work on anything."""
        term_ms = now.wall_ms
        if note is not None and note.boot == self._boot != "" and note.mono_ms <= now.mono_ms:
            term_ms = note.term_ms + now.mono_ms - note.mono_ms
        elif note is not None:
            term_ms = note.term_ms + min(max(0, now.wall_ms - note.wall_ms), limits.AWAY_MS_MAX)
        self._base_ms = term_ms - now.mono_ms

    def adopt(self, old: TermClock) -> None:
        """Go on as the clock of a core that this one replaces; where it stands is noted anew."""
        self._base_ms, self._offset_ms = old._base_ms, old._offset_ms

    def now_ms(self, now: Now) -> int:
        return self._base_ms + now.mono_ms

    def wall_ms(self, term_ms: int, now: Now) -> int:
        """When a term ends as the wall clock stands now: for people's eyes."""
        return now.wall_ms + term_ms - self.now_ms(now)

    def due_ms(self, term_ms: int) -> int:
        """When a term ends, in monotonic ms."""
        return term_ms - self._base_ms

    def look(self, now: Now) -> int:
        """By how many ms the wall clock was set since the last look, or the machine slept; 0 for less than
        CLOCK_JUMP_MS, which is a clock that is being adjusted."""
        offset_ms, before_ms = now.wall_ms - now.mono_ms, self._offset_ms
        self._offset_ms = offset_ms
        moved_ms = 0 if before_ms is None else offset_ms - before_ms
        return moved_ms if abs(moved_ms) >= limits.CLOCK_JUMP_MS else 0

    def note(self, now: Now) -> None:
        """Write down where the clock stands."""
        self._noted_ms = now.mono_ms
        note = ClockNote(boot=self._boot, mono_ms=now.mono_ms, wall_ms=now.wall_ms, term_ms=self.now_ms(now))
        self._out.put("meta", NOTE, note)

    def next_note_ms(self) -> int:
        """When the next note is due, in monotonic ms."""
        return 0 if self._noted_ms is None else self._noted_ms + limits.CLOCK_NOTE_MS


class Deadlines:
    """The next moment and the next term of each live task. Entries that no longer hold stay until they come up or
    `keep_within` drops them: who takes one from `due` looks at the task again."""

    def __init__(self, table: TaskTable, clock: TermClock) -> None:
        self._table = table
        self.clock = clock
        self._moments: list[int] = []
        self._terms = Terms(self._term_now)

    def __len__(self) -> int:
        return max(len(self._moments), len(self._terms))

    def enter(self, slot: int, state: State) -> None:
        """The task is in this state now: remember what ends it. O(log n)."""
        task = self._table.id[slot]
        self.watch(slot, state)
        if state not in OPEN_ATTEMPT:
            self._terms.add(self.term_ms(slot, state), task)

    def watch(self, slot: int, state: State) -> None:
        """Remember its next moment only."""
        moment_ms = self.moment_ms(slot, state)
        if moment_ms:
            heapq.heappush(self._moments, pack(moment_ms, self._table.id[slot]))

    def due(self, now: Now) -> Iterator[int]:
        """Tasks that the clock may be about to move, one at a time; the caller moves each before the next."""
        term_ms = self.clock.now_ms(now)
        while self._moments and key_of(self._moments[0]) <= now.wall_ms:
            yield task_of(heapq.heappop(self._moments))
        yield from self._terms.due(term_ms)

    def moment_ms(self, slot: int, state: State) -> int:
        """The next moment on the wall clock that matters to a task in this state; 0 for none."""
        table = self._table
        first_ms = table.complete_by_ms[slot]
        if state not in OPEN_ATTEMPT:
            first_ms = _earlier(first_ms, table.start_by_ms[slot])
        if state is State.delayed:
            first_ms = _earlier(first_ms, table.not_before_ms[slot])
        return first_ms

    def term_ms(self, slot: int, state: State) -> int:
        """When the term of a task that no agent holds ends."""
        expires_ms = self._table.expires_ms[slot]
        return min(expires_ms, self._table.delay_ms[slot]) if state is State.held else expires_ms

    def overdue(
        self, slot: int, state: State, now: Now, when: str = "while it waited"
    ) -> TaskError | None:
        """Why the task expires now, if it does. `start_by` binds until a worker has been on the task; the time to live
        leaves running work to end, and is looked at again when it comes back to the queue: `when` says in words that
        it was over."""
        table = self._table
        if 0 < table.complete_by_ms[slot] <= now.wall_ms:
            return too_late("complete_by", f"it was to be complete by {rfc3339(table.complete_by_ms[slot])}")
        if state in OPEN_ATTEMPT:
            return None
        if 0 < table.start_by_ms[slot] <= now.wall_ms and not self._was_started(slot):
            return too_late("start_by", f"it was to be started by {rfc3339(table.start_by_ms[slot])}")
        term_ms = self.clock.now_ms(now)
        if state is State.held and table.delay_ms[slot] <= term_ms:
            return too_late("held_too_long", "it was held for longer than queue.held_s allows")
        if table.expires_ms[slot] <= term_ms:
            return too_late("ttl", f"its time to live was over {when}")
        return None

    def _was_started(self, slot: int) -> bool:
        table = self._table
        return bool(
            table.retries_used[slot]
            or table.losses[slot]
            or table.parked_count[slot]
            or table.infra_count[slot]
        )

    def next_due_ms(self, now: Now) -> int | None:
        """In monotonic ms. Moments are looked at once a second at least: the wall clock may be set."""
        due = []
        if self._moments:
            left_ms = max(0, key_of(self._moments[0]) - now.wall_ms)
            due.append(now.mono_ms + min(left_ms, limits.CLOCK_LOOK_MS))
        next_ms = self._terms.next_ms()
        if next_ms is not None:
            due.append(self.clock.due_ms(next_ms))
            due.append(self.clock.next_note_ms())
        return min(due, default=None)

    def keep_within(self, spare: int) -> None:
        """Drop what no longer holds once there is `spare` more of it than there are tasks. O(n) then."""
        if len(self) > 2 * len(self._table) + spare:
            self.build()

    def build(self) -> None:
        """Remember what ends each live task, and nothing else. O(live tasks)."""
        self._moments = []
        self._terms.clear()
        for slot in self._table.slot_of.values():
            self.enter(slot, STATES[self._table.state[slot]])

    def load(self, columns: Mapping[str, array[int]], slots: range) -> None:
        """Remember what ends these tasks, of which none is remembered yet: columns of a page, at these slots."""
        if any(columns["complete_by_ms"]) or any(columns["start_by_ms"]) or any(columns["not_before_ms"]):
            for slot, code in zip(slots, columns["state"], strict=True):
                self.watch(slot, STATES[code])
        if PLAIN_CODES.issuperset(columns["state"]):
            self._terms.add_many(columns["expires_ms"], columns["id"])
            return
        for slot, task, code in zip(slots, columns["id"], columns["state"], strict=True):
            if code not in OPEN_CODES:
                self._terms.add(self.term_ms(slot, STATES[code]), task)

    def _term_now(self, task: int) -> int | None:
        """When the term of a task ends, if it is live and no agent holds it: otherwise it is entered again later."""
        slot = self._table.slot_of.get(task)
        if slot is None or self._table.state[slot] in OPEN_CODES:
            return None
        return self.term_ms(slot, STATES[self._table.state[slot]])

    def unwatched(self) -> list[int]:
        """Tasks that come up later than they must, or never. O(live tasks): for checks."""
        moments, terms = _firsts(self._moments), self._terms.firsts()
        found = []
        for task, slot in self._table.slot_of.items():
            state = self._table.state_of(slot)
            moment_ms = self.moment_ms(slot, state)
            is_late = moment_ms > 0 and moments.get(task, moment_ms + 1) > moment_ms
            if state not in OPEN_ATTEMPT:
                term_ms = self.term_ms(slot, state)
                is_late |= terms.get(task, term_ms + 1) > term_ms
            if is_late:
                found.append(task)
        return found


def _earlier(a_ms: int, b_ms: int) -> int:
    """The earlier of two moments, of which 0 is none."""
    return min(a_ms, b_ms) if a_ms and b_ms else a_ms or b_ms


def too_late(code: str, message: str) -> TaskError:
    return TaskError(failure_class=FailureClass.configuration, code=code, message=message)


def _firsts(heap: list[int]) -> dict[int, int]:
    """By task when it first comes up."""
    firsts: dict[int, int] = {}
    for entry in heap:
        task, due_ms = task_of(entry), key_of(entry)
        if due_ms < firsts.get(task, due_ms + 1):
            firsts[task] = due_ms
    return firsts
