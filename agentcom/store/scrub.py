"""The background scrubber: every record of a store that is in use, verified slice by slice, round after round.

A slice is bounded in rows, so it fits between two ticks; nothing is kept open between slices. It finds records
that no longer fit their checksum. The order of keys and the structure of pages are checked by each backup,
which walks the whole file in a child process.
"""

from __future__ import annotations

from typing import Final, Protocol, TypedDict

from agentcom.errors import StoreDamaged
from agentcom.store.base import Database, Row

SLICE_ROWS: Final = 200  # about 0.2 ms of a tick


class ScrubStats(TypedDict):
    """`rounds` were completed; `rows` were verified since the start; `damaged` is what was found last."""

    rounds: int
    rows: int
    damaged: str


class Scan(Protocol):
    """How the rows of a database are read and verified, from a key on: `scan` of a store."""

    def __call__(self, database: str, start: bytes = b"", *, limit: int) -> list[Row]: ...


class Scrubber:
    """Walks one store for as long as it is open."""

    def __init__(self, scan: Scan) -> None:
        self._scan = scan
        self._databases = list(Database)
        self._at = 0
        self._start = b""
        self._stats = ScrubStats(rounds=0, rows=0, damaged="")

    def step(self, rows: int = SLICE_ROWS) -> str:
        """Verify the next rows; what is wrong with them, or an empty text.

        After damage it goes on with the next database: the rest of this one is checked by the full check that
        a damaged store gets at its next start.
        """
        try:
            found = self._scan(self._databases[self._at], self._start, limit=rows)
        except StoreDamaged as error:
            self._stats["damaged"] = error.message
            self._next_database()
            return error.message
        self._stats["rows"] += len(found)
        if len(found) < rows:
            self._next_database()
        else:
            self._start = found[-1][0] + b"\x00"
        return ""

    @property
    def rounds(self) -> int:
        """How many were completed."""
        return self._stats["rounds"]

    def stats(self) -> ScrubStats:
        return self._stats.copy()

    def _next_database(self) -> None:
        self._at, self._start = self._at + 1, b""
        if self._at == len(self._databases):
            self._at = 0
            self._stats["rounds"] += 1
