"""Whether the store has room for new tasks: the quota, and what a full disk leaves possible.

New tasks are refused from QUOTA of the map on; the rest of it is for what is under way, so that completions and
cancels never meet a full store. After a commit that failed for want of room, and where the disk has next to none left,
they are refused until there is room again; after such a commit nothing new is given out for a moment either.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from agentcom.clock import Now
from agentcom.core.succession import NoSubmits
from agentcom.errors import StoreFull
from agentcom.limits import MIB
from agentcom.store.base import Store
from agentcom.store.place import has_room
from agentcom.store.start import OpenedStore

QUOTA: Final = 0.85  # of the map, live pages: up to there new tasks are taken
DISPATCH_QUOTA: Final = 0.92  # up to there tasks are given out; the rest is for what then runs to end
LOOK_MS: Final = 1000
LOOK_SHARE: Final = 0.005  # of the map: looked at again after so much was committed
FULL_MS: Final = 10_000  # after a full disk, before it is asked again whether there is room
DISPATCH_MS: Final = 1000  # after a full disk, before something is given out again
FREE_BYTES: Final = 4 * MIB  # on the disk: a few ticks' batches, in the store and in the journal
LEAST_BYTES: Final = FREE_BYTES // 2  # on the disk: with less no new tasks, though no commit has failed yet
RETRY_S: Final = 30.0
LESS_KEPT: Final = (  # what people can do about a store that holds much
    "remove dead letters (`agentcom dead purge --all`) or keep less of what is over "
    "(`agentcom config set retention.tasks_max N`)"
)

# A commit needs pages beside those that it replaces: of a map that is small, more has to be kept free.
_QUOTA_BYTES: Final = MIB // 2
_DISPATCH_BYTES: Final = MIB // 4


def quota_of(map_bytes: int) -> float:
    """The share of a map up to which new tasks are taken: QUOTA, less where it has but a few MiB."""
    return 1 - min(0.5, max(1 - QUOTA, _QUOTA_BYTES / map_bytes))


def dispatch_quota_of(map_bytes: int) -> float:
    """The share up to which tasks are given out."""
    return 1 - min(0.25, max(1 - DISPATCH_QUOTA, _DISPATCH_BYTES / map_bytes))


class Room:
    """One store's room. `opened` says where it lies; without it only the map counts."""

    def __init__(self, store: Store, opened: OpenedStore | None = None) -> None:
        self._store, self._opened = store, opened
        self._looked_ms = -LOOK_MS
        self._committed_bytes = 0
        self._full_until_ms = 0
        self._dispatch_from_ms = 0
        self._full = ""
        self.is_full = False  # a commit found no room, and none was seen since; not where little is left
        self._map_bytes = 1
        self.used_share = 0.0

    def committed(self, size_bytes: int) -> None:
        self._committed_bytes += size_bytes

    def may_dispatch(self, now: Now) -> bool:
        """Whether tasks may be given out: each costs records, and its result more."""
        return now.mono_ms >= self._dispatch_from_ms and self.used_share < dispatch_quota_of(self._map_bytes)

    def was_full(self, error: StoreFull, now: Now) -> None:
        """A commit found no room."""
        self._full, self.is_full = error.message, True
        self._full_until_ms = now.mono_ms + FULL_MS
        self._dispatch_from_ms = now.mono_ms + DISPATCH_MS
        if self._opened is not None:
            # A hole in the journal is closed by a backup; a completion that is not stored is lost work.
            self._opened.journaled.may_skip_journal = True

    def no_submits(self, now: Now) -> NoSubmits | None:
        """Why no new tasks are taken, if they are not. Cheap: it looks once a second, or after much was
        committed."""
        is_much = self._committed_bytes > LOOK_SHARE * self._map_bytes
        if is_much or now.mono_ms - self._looked_ms >= LOOK_MS:
            self._look(now)
        if self._full:
            text = f"no room for new tasks: {self._full}; running tasks go on"
            return NoSubmits("storage_full", text, RETRY_S)
        quota, given_out = quota_of(self._map_bytes), dispatch_quota_of(self._map_bytes)
        if self.used_share >= quota:
            text = (
                f"the store holds {self.used_share:.0%} of what hub.map_gib allows (or hub.map_mib, where that is "
                f"set); new tasks are taken up to {quota:.0%} and given out up to {given_out:.0%}: "
                f"{LESS_KEPT}, or raise that setting and start the hub again"
            )
            return NoSubmits("storage_full", text, RETRY_S)
        return None

    def _look(self, now: Now) -> None:
        used_bytes, self._map_bytes = self._store.size()
        self._looked_ms, self._committed_bytes = now.mono_ms, 0
        self.used_share = used_bytes / self._map_bytes
        if not self._full and self._opened is not None:
            self._look_at_disk(self._opened.paths.store, now)
        elif self._full and now.mono_ms >= self._full_until_ms:
            if self._opened is None or has_room(self._opened.paths.store, FREE_BYTES):
                self._full, self.is_full = "", False
                if self._opened is not None:
                    self._opened.journaled.may_skip_journal = False
            else:
                self._full_until_ms = now.mono_ms + FULL_MS

    def _look_at_disk(self, place: Path, now: Now) -> None:
        """Whether it is as good as full: then who submits is told before somebody's result is the first to find none.
        The figure costs nothing, and only a small one is put to the test: reserved blocks are room for some. A quota
        shows in no figure, so that one is still met by a commit."""
        if shutil.disk_usage(place).free < LEAST_BYTES and not has_room(place, LEAST_BYTES):
            self._full = f"less than {LEAST_BYTES // MIB} MiB are free on the disk of {place}; free disk space"
            self._full_until_ms = now.mono_ms + FULL_MS
