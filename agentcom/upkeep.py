"""What a hub does for its store beside the tick: each turn is a bounded slice that changes no task.

The journal is synced once a second, stale readers of the file are cleared each minute. An error at the disk
while it syncs ends the hub: what was acknowledged is in the store, and nothing further may be.
"""

from __future__ import annotations

from typing import Final

from agentcom.clock import Now
from agentcom.store.start import OpenedStore

SYNC_MS: Final = 1000
READERS_MS: Final = 60_000


class Upkeep:
    """Owns the opened store of a hub; `turn` is called after every tick."""

    def __init__(self, opened: OpenedStore) -> None:
        self.opened = opened
        self._synced_ms = 0
        self._readers_ms = 0

    def turn(self, now: Now) -> None:
        """One slice. StoreError when the disk failed: the hub must stop."""
        if now.mono_ms - self._synced_ms >= SYNC_MS:
            self._synced_ms = now.mono_ms
            self.opened.journal.sync()
        if now.mono_ms - self._readers_ms >= READERS_MS:
            self._readers_ms = now.mono_ms
            self.opened.store.clear_stale_readers()

    def close(self) -> None:
        """Close store and journal, and note that it was done in order. StoreError as of `OpenedStore.close`."""
        self.opened.close()
