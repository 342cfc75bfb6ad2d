"""A store whose every commit is written to its journal first: what the hub commits through.

Implements Store, so nothing that uses one has to know. With `behind_bytes` a batch is durable by the journal alone,
one flush for each, and the store below takes many of them in one commit of its own, later: by `settle`, or with the
batch that would make it more bytes than that. What waits lies over the store, so that a read sees every batch that
was committed. A start applies what the journal has beyond the store, as it does after any stop.

`hold` puts off all that it would write until somebody has said that it may: a start loads from the store while that is
still being checked.

Where the store below is nearly full, or finds no room for what waits, each batch has to be taken by it before it
counts, with all that waits; a commit that fails then is taken out of the journal again. So it is, too, without
`behind_bytes`. What waits is never lost by that: it stays here and in the journal.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Final, Protocol

from agentcom.errors import StoreDamaged, StoreError, StoreFull
from agentcom.store.base import Batch, Row, Store, StoreSize, StoreStats, require_next
from agentcom.store.journal import Journal

OF_EVENTS: Final = frozenset({b"next_event", b"clock"})  # of "meta": written where nobody does anything, as events are
HIDDEN_ROWS: Final = 64  # that a page of a scan has beyond what was asked for
_NO_KEYS: Final[list[bytes]] = []
ROOM_TIMES: Final = 4  # so many times the bytes that may wait have to find room: pages are copied


def tells_only(batch: Batch) -> bool:
    """Whether it holds nothing but what comes without anybody doing anything: what the hub tells of itself, such as
    that a backup was made, and what hosts say of themselves as long as they are there. What a person changes of a host
    has a row of `meta` beside it."""
    for name, rows in batch.changes():
        if name == "meta":
            comes_by_itself = rows.keys() <= OF_EVENTS
        else:
            comes_by_itself = name == "feed" or (name == "hosts" and None not in rows.values())
        if not comes_by_itself:
            return False
    return True


class Follower(Store, Protocol):
    """A store that can take several batches at once."""

    def bring_forward(self, batch: Batch, sequence: int) -> None:
        """Commit in one what several batches changed, up to and with batch `sequence`."""

    def has_room(self, size_bytes: int) -> bool:
        """Whether it could take so much more now, and is far from being full."""


class JournaledStore:
    """Implements Store over another one. `close` settles, and closes the store under it, not the journal.

    `changed` is the last batch of which somebody may want a backup: one that does more than to tell.

    `may_skip_journal` is for degraded mode: while the disk has no room for the journal, batches that the store
    can still take (completions, cancels, deletes) go on without it, which leaves a hole for a backup to close.
    """

    def __init__(self, store: Follower, journal: Journal, behind_bytes: int = 0) -> None:
        self._store = store
        self.journal = journal
        self._place = str(journal.folder.parent)  # for what is said of errors
        self.may_skip_journal = False
        self._behind_bytes = behind_bytes
        self._look_for_room()
        self._waiting = Batch()
        self._waiting_bytes = 0
        self._last = 0  # the last batch of those that wait
        self.last_bytes = 0  # of the last record in the journal
        self.changed = 0
        self._looked: dict[str, tuple[int, int]] = {}  # by database: waiting keys looked up, and how many it has
        self._ordered: dict[str, list[bytes]] = {}  # by database: the waiting keys, sorted when they were asked for
        self._until: Callable[[], None] | None = None

    @property
    def sequence(self) -> int:
        below = self._store.sequence
        return self._last if self._waiting_bytes else below

    @property
    def writable(self) -> bool:
        return self._store.writable and self.journal.is_usable

    @property
    def waiting_bytes(self) -> int:
        """Of batches that are committed and that the store below does not have yet."""
        return self._waiting_bytes

    def hold(self, until: Callable[[], None]) -> None:
        """Write nothing before `until` has returned: whatever has to write calls it, and fails as it does."""
        self._until = until

    def let_write(self) -> None:
        """Wait, if it is held, until it may write. Errors as of what `hold` was given; it is held then as before."""
        if self._until is not None:
            self._until()
            self._until = None

    def commit(self, batch: Batch, sequence: int) -> None:
        """Journal, then store, now or later. After an error that leaves it writable the journal holds nothing of the
        batch."""
        if self._write(batch, sequence):
            self.journal.sync()
            self._wait(batch, sequence, self.last_bytes)

    def begin_commit(self, batch: Batch, sequence: int) -> bool:
        """As `commit`, but where the journal alone makes the batch durable that is only begun: True then, and until
        `end_commit` has returned nobody may be told of it. Reads see it at once. Errors as of `commit`."""
        if not self._write(batch, sequence):
            return False
        under_way = self.journal.begin_sync()
        self._wait(batch, sequence, self.last_bytes)
        return under_way

    @property
    def is_committed(self) -> bool:
        """Whether `end_commit` would not have to wait."""
        return self.journal.is_synced

    def end_commit(self) -> None:
        """Wait until what `begin_commit` began is durable. StoreError where the disk failed, which ends the use; also
        where somebody else has waited for it."""
        self.journal.end_sync()
        if not self.journal.is_usable:
            raise StoreError(f"cannot commit to {self._place}: an earlier sync of the journal failed")

    def _write(self, batch: Batch, sequence: int) -> bool:
        """Into the journal. True where it may wait there, once that is synced; False where all is done."""
        self.let_write()
        if not self._store.writable:
            self._store.commit(batch, sequence)  # refuses, with its own words
        require_next(sequence, self.sequence, self._place)
        if batch.rows("tasks") or not tells_only(batch):  # most change a task
            self.changed = sequence
        try:
            self.last_bytes = self.journal.append(batch, sequence)
        except StoreFull:
            if not self.may_skip_journal:
                raise
            self._pass_on(batch, sequence)
            self.journal.skip(sequence)
            return False
        if self._has_room and self._waiting_bytes + self.last_bytes < self._behind_bytes:
            return True
        try:
            self._pass_on(batch, sequence)
        except StoreError:
            self.journal.cut_back()
            raise
        return False

    def wait(self, batch: Batch, sequence: int) -> None:
        """The journal has it, synced; the store below gets it when it settles."""
        self._wait(batch, sequence, batch.size_bytes)

    def _wait(self, batch: Batch, sequence: int, size_bytes: int) -> None:
        self._waiting.merge(batch)
        self._waiting_bytes += max(1, size_bytes)
        self._last = sequence

    def settle(self) -> bool:
        """Let the store below take what waits; False where it does not, for want of room. StoreError when it takes
        nothing any more: the disk failed."""
        self.let_write()
        self.journal.end_sync()
        if not self._waiting_bytes:
            return True
        try:
            self._store.bring_forward(self._waiting, self._last)
        except StoreError:
            if not self._store.writable:
                raise
            self._has_room = self.journal.fills = False  # the next batch is told why
            return False
        self._settled()
        return True

    def _pass_on(self, batch: Batch, sequence: int) -> None:
        """The store below takes the batch now, and with it what waits; all or nothing."""
        if not self._waiting_bytes:
            self._store.commit(batch, sequence)
        else:
            together = Batch()
            together.merge(self._waiting)
            together.merge(batch)
            self._store.bring_forward(together, sequence)
        self._settled()

    def _settled(self) -> None:
        self._waiting, self._waiting_bytes = Batch(), 0
        self._looked.clear()
        self._ordered.clear()
        self._look_for_room()

    def _look_for_room(self) -> None:
        """A batch may wait only where it will find room. Asked after each commit of the store below."""
        size = ROOM_TIMES * self._behind_bytes
        self._has_room = self.journal.fills = bool(size) and self._store.has_room(size)

    def has_room(self, size_bytes: int) -> bool:
        return self._store.has_room(size_bytes)

    def exchange(self, store: Follower) -> None:
        """Go on with another store that holds the same batches."""
        assert not self._waiting_bytes, "settled before"
        assert store.sequence == self.journal.last, "the journal follows the store"
        self._store = store

    # --- reads see what waits ---------------------------------------------------------------------------

    def get(self, database: str, key: bytes) -> bytes | None:
        rows = self._waiting.rows(database)
        return rows[key] if key in rows else self._store.get(database, key)

    def get_many(self, database: str, keys: Sequence[bytes]) -> list[bytes | None]:
        rows = self._waiting.rows(database)
        left = [key for key in keys if key not in rows]
        if len(left) == len(keys):
            return self._store.get_many(database, keys)
        below = dict(zip(left, self._store.get_many(database, left), strict=True)) if left else {}
        return [rows[key] if key in rows else below[key] for key in keys]

    def scan(
        self,
        database: str,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[Row]:
        rows = self._waiting.rows(database)
        keys = self._sorted(database, rows)
        first, end = bisect_left(keys, start), len(keys) if stop is None else bisect_left(keys, stop)
        if first >= end:
            return self._store.scan(database, start, stop, reverse=reverse, limit=limit)
        try:
            found = self._beside(rows, end - first, database, start, stop, reverse, limit)
        except StoreDamaged:
            if not self.settle():  # it may be one that was written anew
                raise
            return self._store.scan(database, start, stop, reverse=reverse, limit=limit)
        if limit is not None and 0 < limit <= len(found):  # what lies behind the last of them is not asked for
            last = found[limit - 1][0]
            if reverse:
                first = bisect_left(keys, last, first, end)
            else:
                end = bisect_right(keys, last, first, end)
        for key in keys[first:end]:
            body = rows[key]
            if body is not None:
                found.append((key, body))
        return sorted(found, reverse=reverse)[:limit]

    def _sorted(self, database: str, rows: Mapping[bytes, bytes | None]) -> list[bytes]:
        """The keys of the waiting rows in order. O(1) where none has come since the last call: a start reads thousands
        of pages over the same ones."""
        if not rows:
            return _NO_KEYS
        keys = self._ordered.setdefault(database, [])
        if len(keys) < len(rows):
            keys.extend(islice(rows, len(keys), None))
            keys.sort()
        return keys

    def _beside(
        self,
        rows: Mapping[bytes, bytes | None],
        hidden: int,
        database: str,
        start: bytes,
        stop: bytes | None,
        reverse: bool,
        limit: int | None,
    ) -> list[Row]:
        """Rows of the store below that no waiting one takes the place of, `limit` of them if there are. In pages: each
        of the `hidden` that wait in this range hides one at most, and most hide none."""
        size = None if limit is None else limit + min(hidden, HIDDEN_ROWS)
        found: list[Row] = []
        while True:
            page = self._store.scan(database, start, stop, reverse=reverse, limit=size)
            found += [row for row in page if row[0] not in rows]
            if limit is None or size is None or len(page) < size or len(found) >= limit:
                return found
            if reverse:
                stop = page[-1][0]
            else:
                start = page[-1][0] + b"\x00"

    def scan_stored(self, database: str, start: bytes = b"", *, limit: int) -> list[Row]:
        """Rows as the store below has them, without a look at what waits: for who verifies what is stored."""
        try:
            return self._store.scan(database, start, limit=limit)
        except StoreDamaged:
            if not self.settle():  # it may be one that was written anew
                raise
            return self._store.scan(database, start, limit=limit)

    def count(self, database: str) -> int:
        """O(1) but for the keys that have come since the last call."""
        below = self._store.count(database)
        rows = self._waiting.rows(database)
        if not rows:
            return below
        looked, known = self._looked.get(database, (0, 0))
        if looked < len(rows):
            fresh = list(islice(rows, looked, None))
            known += len(fresh) - self._store.get_many(database, fresh).count(None)
            self._looked[database] = len(rows), known
        return below - known + len(rows) - list(rows.values()).count(None)

    def stats(self) -> StoreStats:
        """As of the last commit; where the store below has no room, its figures with the bytes that wait."""
        self.settle()
        found = self._store.stats()
        if self._waiting_bytes:
            found["sequence"] = self._last
            found["used_bytes"] += self._waiting_bytes
        return found

    def size(self) -> StoreSize:
        """As the store below is now, with the bytes that wait: settling for it would cost more than all else."""
        below = self._store.size()
        return below._replace(used_bytes=below.used_bytes + self._waiting_bytes)

    def close(self) -> None:
        # With a journal that failed, what it did not confirm stays out of the store; it has all that counts.
        try:
            if self.writable and self._until is None:
                self.settle()
        finally:
            self._waiting, self._waiting_bytes = Batch(), 0
            self._ordered.clear()
            self._store.close()
