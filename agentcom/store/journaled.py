"""A store whose every commit is written to its journal first: what the hub commits through.

Implements Store, so nothing that uses one has to know. The two carry the same sequence numbers; a commit that
fails is taken out of the journal again.
"""

from __future__ import annotations

from collections.abc import Sequence

from agentcom.errors import StoreError, StoreFull
from agentcom.store.base import Batch, Row, Store, StoreStats
from agentcom.store.journal import Journal


class JournaledStore:
    """Implements Store over another one. `close` closes the store under it, not the journal.

    `may_skip_journal` is for degraded mode: while the disk has no room for the journal, batches that the store
    can still take (completions, cancels, deletes) go on without it, which leaves a hole for a backup to close.
    """

    def __init__(self, store: Store, journal: Journal) -> None:
        self._store = store
        self.journal = journal
        self.may_skip_journal = False

    @property
    def sequence(self) -> int:
        return self._store.sequence

    @property
    def writable(self) -> bool:
        return self._store.writable

    def commit(self, batch: Batch, sequence: int) -> None:
        """Journal, then store. After any error the journal holds nothing of the batch."""
        if sequence != self._store.sequence + 1 or not self._store.writable:
            self._store.commit(batch, sequence)  # refuses, with its own words
        try:
            self.journal.append(batch, sequence)
        except StoreFull:
            if not self.may_skip_journal:
                raise
            self._store.commit(batch, sequence)
            self.journal.skip(sequence)
            return
        try:
            self._store.commit(batch, sequence)
        except StoreError:
            self.journal.cut_back()
            raise

    def exchange(self, store: Store) -> None:
        """Go on with another store that holds the same batches."""
        assert store.sequence == self.journal.last, "the journal follows the store"
        self._store = store

    def get(self, database: str, key: bytes) -> bytes | None:
        return self._store.get(database, key)

    def get_many(self, database: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._store.get_many(database, keys)

    def scan(
        self,
        database: str,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[Row]:
        return self._store.scan(database, start, stop, reverse=reverse, limit=limit)

    def count(self, database: str) -> int:
        return self._store.count(database)

    def stats(self) -> StoreStats:
        return self._store.stats()

    def close(self) -> None:
        self._store.close()
