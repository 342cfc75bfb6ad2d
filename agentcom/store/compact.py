"""A compact copy of the live store that takes its place: the file becomes as small as what is in it.

A child copies and checks the store while the hub goes on. The journal then brings the copy forward, slice by slice
between ticks; when little is missing the last batches are applied, the files change places and the new one is
opened, all within one turn. The old file is a second name until that has worked. If the hub writes faster than the
copy follows, or the last turn would take too long, the copy is thrown away: ask again at a quieter time.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from agentcom.errors import StoreError, StoreFull
from agentcom.store.backup import CheckRun
from agentcom.store.check import DATA_FILE, CheckReport, Condition
from agentcom.store.lmdb_store import LmdbStore
from agentcom.store.place import FILES, has_room, sync_directory
from agentcom.store.restore import bring_forward
from agentcom.store.segments import Replay
from agentcom.store.start import OpenedStore

STOP_S_MAX: Final = 1.0  # the longest that the loop may stand still
SLICE_BATCHES: Final = 200  # brought forward in one turn
LAST_BATCHES: Final = 50  # few enough for the turn that changes the files
FOLLOW_S_MAX: Final = 120.0
_BUILDING: Final = "compacting"
_OLD: Final = f"{DATA_FILE}.before-compaction"
_SPARE: Final = 1.1  # of the bytes in use, that the copy may need


class Compacted(msgspec.Struct, frozen=True, kw_only=True):
    """What it won, and for how long the loop stood still."""

    before_bytes: int
    after_bytes: int
    stopped_ms: int


def remove_leftovers(place: Path) -> None:
    """What a process that was killed in the middle has left; the store is open, so it needs none of it."""
    shutil.rmtree(place / _BUILDING, ignore_errors=True)
    (place / _OLD).unlink(missing_ok=True)


class CompactionRun:
    """A Run of chores.py. Raises StoreFull when there is no room for a second copy."""

    def __init__(self, opened: OpenedStore) -> None:
        self._opened = opened
        self._place = opened.paths.store
        self._building = self._place / _BUILDING
        used_bytes = opened.journaled.stats()["used_bytes"]
        if not has_room(self._place, int(used_bytes * _SPARE)):
            raise StoreFull(f"no room beside {self._place} for a copy of {used_bytes} bytes; free disk space")
        shutil.rmtree(self._building, ignore_errors=True)
        opened.journal.rotate()  # what follows the copy is then in a short segment
        self._child: CheckRun | None = CheckRun.of_copy(self._place, self._building)
        self._copy: LmdbStore | None = None
        self._until_s = 0.0
        self._slowest_s = 0.0  # a batch of those brought forward
        self._replay: Replay | None = None
        self._result: Compacted | None = None

    def turn(self) -> bool:
        """One slice; StoreError when it is given up."""
        try:
            if self._child is not None:
                return self._take_copy(self._child)
            return self._follow()
        except BaseException:
            self.stop()
            raise

    def outcome(self) -> Compacted:
        assert self._result is not None, "taken when it has ended"
        return self._result

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
        if self._copy is not None:
            self._copy.close()
        self._child = self._copy = None
        shutil.rmtree(self._building, ignore_errors=True)

    def _take_copy(self, child: CheckRun) -> bool:
        if not child.poll():
            return False
        self._child = None
        report: CheckReport = child.outcome()
        if report.condition not in (Condition.good, Condition.inconsistent):
            raise StoreError(f"the copy of {self._place} is {report.condition}: {'; '.join(report.problems[:3])}")
        self._copy = LmdbStore(self._building, map_bytes=self._opened.map_bytes)
        self._until_s = time.monotonic() + FOLLOW_S_MAX
        return False

    def _follow(self) -> bool:
        assert self._copy is not None
        missing = self._opened.journaled.sequence - self._copy.sequence
        if missing <= LAST_BATCHES and missing * self._slowest_s < STOP_S_MAX / 2:
            self._change_places(self._copy)
            return True
        if time.monotonic() > self._until_s:
            raise StoreError(
                f"the hub is too busy: the copy still lacks {missing} batches after {FOLLOW_S_MAX:.0f} s; "
                "ask for it again at a quieter time"
            )
        begun = time.monotonic()
        done = self._bring_forward(self._copy, SLICE_BATCHES)
        self._slowest_s = max(self._slowest_s, (time.monotonic() - begun) / max(1, done))
        return False

    def _bring_forward(self, copy: LmdbStore, count: int) -> int:
        """As many of the batches that it lacks; how many. What was written since the last look lies in a segment
        of its own, so that no turn reads what another has read."""
        done = bring_forward(copy, islice(self._replay, count)) if self._replay is not None else 0
        if not done:
            self._replay = self._opened.journal.replay(copy.sequence)
            self._opened.journal.rotate()
            done = bring_forward(copy, islice(self._replay, count))
        missing = self._replay.missing if self._replay is not None else ""
        if missing or (not done and copy.sequence < self._opened.journaled.sequence):
            raise StoreError(f"the copy cannot follow the store: {missing or 'the journal ends before it'}")
        return done

    def _change_places(self, copy: LmdbStore) -> None:
        begun = time.monotonic()
        file, old = self._place / DATA_FILE, self._place / _OLD
        if not self._opened.journaled.settle():
            hint = "free disk space, or raise hub.map_gib (hub.map_mib, where that is set)"
            raise StoreFull(f"no room in {self._place} for the last batches; {hint}")
        before_bytes = file.stat().st_size
        while copy.sequence < self._opened.store.sequence:
            self._bring_forward(copy, LAST_BATCHES)
        assert copy.sequence == self._opened.store.sequence, "nothing is committed in between"
        copy.close()
        self._copy = None
        old.unlink(missing_ok=True)
        os.link(file, old)
        self._opened.exchange(lambda: self._put(self._building / DATA_FILE), lambda: self._put(old))
        shutil.rmtree(self._building, ignore_errors=True)
        stopped_ms = int((time.monotonic() - begun) * 1000)
        self._result = Compacted(
            before_bytes=before_bytes, after_bytes=file.stat().st_size, stopped_ms=stopped_ms
        )
        # Giving back the pages of a large file takes long.
        threading.Thread(target=lambda: old.unlink(missing_ok=True), name="unlink", daemon=True).start()

    def _put(self, source: Path) -> None:
        (self._place / FILES[1]).unlink(missing_ok=True)  # its reader table belongs to the file before
        os.replace(source, self._place / DATA_FILE)
        sync_directory(self._place)
