"""The order of a simulated run: a heap of what is due, one clock, one trace.

Nothing here reads a clock of the machine. What is due at the same moment happens in the order in which it was
asked for, so one seed gives one run. The trace is hashed as it grows: equal hashes mean equal runs.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable

from agentcom.clock import Now

Act = Callable[[], None]
TRUE_WALL_MS = 1_800_000_000_000  # what an unmoved wall clock shows when a run begins
START_MS = 1_000_000


class Timeline:
    """Simulated time. `wall_offset_ms` is how far the hub's wall clock is from the truth."""

    def __init__(self, shows: bool = False) -> None:
        self.now_ms = START_MS
        self.wall_offset_ms = 0
        self.seen: Counter[str] = Counter()
        self.steps = 0
        self._shows = shows
        self._due: list[tuple[int, int, Act]] = []
        self._asked = 0
        self._hash = hashlib.blake2b(digest_size=16)

    def now(self) -> Now:
        """The hub's reading of both clocks."""
        return Now(self.now_ms, self.true_wall_ms + self.wall_offset_ms)

    @property
    def true_wall_ms(self) -> int:
        return TRUE_WALL_MS + self.now_ms - START_MS

    def at(self, due_ms: int, act: Act) -> None:
        """Have `act` called at `due_ms`, or now if that is past."""
        self._asked += 1
        heapq.heappush(self._due, (max(due_ms, self.now_ms), self._asked, act))

    def after(self, ms: int, act: Act) -> None:
        self.at(self.now_ms + ms, act)

    def step(self, until_ms: int) -> bool:
        """Do the next thing that is due by `until_ms`; False, with the clock there, when there is none."""
        if not self._due or self._due[0][0] > until_ms:
            self.now_ms = max(self.now_ms, until_ms)
            return False
        self.now_ms, _, act = heapq.heappop(self._due)
        self.steps += 1
        act()
        return True

    def note(self, what: str, *parts: object) -> None:
        """One line of the trace."""
        line = f"{self.now_ms - START_MS:>9} {what} {' '.join(map(str, parts))}"
        self._hash.update(line.encode())
        if self._shows:
            print(line)

    def reach(self, point: str, count: int = 1) -> None:
        """Count a named point that the whole budget of seeds must reach sometimes."""
        self.seen[point] += count

    @property
    def trace_hash(self) -> str:
        return self._hash.hexdigest()
