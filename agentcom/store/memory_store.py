"""The store in memory, for tests and the simulator: the same contract as LMDB, and faults on request.

The contents live in a MemoryDisk, which outlives the store as a file would: a simulated crash drops the store
and opens another one on the same disk. Keys are kept sorted, bodies in their envelopes, so that damage is
noticed as it is on disk.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from agentcom.errors import StoreDamaged, StoreError, StoreFull, StoreLocked
from agentcom.store.base import (
    Batch,
    Database,
    DatabaseStats,
    Row,
    StoreSize,
    StoreStats,
    in_use,
    require_next,
)
from agentcom.store.record import pack, unpack

MAP_BYTES: Final = 1 << 36
_PATH: Final = "memory"


class Failure(StrEnum):
    """What can be made to go wrong once."""

    PUT = "put"  # the n-th put or delete raises
    COMMIT = "commit"  # all were taken, the commit raises
    FULL = "full"  # there is no room: StoreFull, the store goes on
    SYNC = "sync"  # the disk did not confirm: the store takes no further commit


class Table:
    """One database: records by key, and the keys in order."""

    __slots__ = ("keys", "records", "size")

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.records: dict[bytes, bytes] = {}
        self.size = 0

    def put(self, key: bytes, record: bytes) -> None:
        known = self.records.get(key)
        if known is not None:
            self.size -= len(key) + len(known)
        elif not self.keys or self.keys[-1] < key:  # the common case: numbers rise
            self.keys.append(key)
        else:
            insort(self.keys, key)
        self.size += len(key) + len(record)
        self.records[key] = record

    def delete(self, key: bytes) -> None:
        record = self.records.pop(key, None)
        if record is not None:
            self.size -= len(key) + len(record)
            del self.keys[bisect_left(self.keys, key)]


class MemoryDisk:
    """What is kept between two stores, and who has it open."""

    def __init__(self) -> None:
        self.sequence = 0
        self.tables: dict[str, Table] = {database: Table() for database in Database}
        self.holder: MemoryStore | None = None

    def damage(self, database: str, key: bytes) -> None:
        """Flip the lowest bit of the last byte of a record."""
        record = bytearray(self.tables[database].records[key])
        record[-1] ^= 1
        self.tables[database].records[key] = bytes(record)


class MemoryStore:
    """Implements Store. `map_bytes` bounds keys and records together."""

    def __init__(self, disk: MemoryDisk | None = None, *, map_bytes: int = MAP_BYTES) -> None:
        self._disk = disk or MemoryDisk()
        if self._disk.holder is not None:
            raise StoreLocked("cannot open the memory store: another one has this disk open; close it first")
        self._disk.holder = self
        self._map_bytes = map_bytes
        self._refusal: str | None = None
        self._commit_refusal: str | None = None
        self._failures: list[tuple[Failure, int]] = []

    @property
    def sequence(self) -> int:
        self._require_usable("read the sequence")
        return self._disk.sequence

    @property
    def writable(self) -> bool:
        return not (self._refusal or self._commit_refusal)

    def fail_next(self, kind: Failure | str, after: int = 0) -> None:
        """Let the next commit fail (called twice: the one after it too).

        `after` is how many changes go through before the failing one, with Failure.PUT; a batch with no more
        than that many changes does not fail and leaves the failure for the next commit.
        """
        self._failures.append((Failure(kind), after))

    def commit(self, batch: Batch, sequence: int) -> None:
        self._require_usable("commit to")
        if self._commit_refusal:
            raise StoreError(f"cannot commit to {_PATH}: {self._commit_refusal}")
        require_next(sequence, self._disk.sequence, _PATH)
        self._apply(batch, sequence)

    def bring_forward(self, batch: Batch, sequence: int) -> None:
        """Commit in one what several batches changed. Same errors as `commit`."""
        self._require_usable("bring forward")
        if self._commit_refusal:
            raise StoreError(f"cannot commit to {_PATH}: {self._commit_refusal}")
        if sequence <= self._disk.sequence:
            raise StoreError(f"{_PATH} is at batch {self._disk.sequence}, {sequence} is not ahead of it")
        self._apply(batch, sequence)

    def _apply(self, batch: Batch, sequence: int) -> None:
        self._fail_if_asked(len(batch))
        self._require_room(batch)
        for database, rows in batch.changes():
            table = self._disk.tables[database]
            for key, body in sorted(rows.items()):
                if body is None:
                    table.delete(key)
                else:
                    table.put(key, pack(database, key, body))
        self._disk.sequence = sequence

    def has_room(self, size_bytes: int) -> bool:
        used, of = self.size()
        return used + size_bytes < of

    def size(self) -> StoreSize:
        stats = self.stats()
        return StoreSize(stats["used_bytes"], stats["map_bytes"])

    def get(self, database: str, key: bytes) -> bytes | None:
        self._require_usable("read")
        record = self._disk.tables[database].records.get(key)
        return None if record is None else _body(database, key, record)

    def get_many(self, database: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.get(database, key) for key in keys]

    def scan(
        self,
        database: str,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[Row]:
        self._require_usable("scan")
        table = self._disk.tables[database]
        low = bisect_left(table.keys, start)
        high = len(table.keys) if stop is None else max(low, bisect_left(table.keys, stop))
        if limit is not None:
            low, high = (max(low, high - limit), high) if reverse else (low, min(high, low + limit))
        keys = table.keys[low:high]
        if reverse:
            keys.reverse()
        return [(key, _body(database, key, table.records[key])) for key in keys]

    def count(self, database: str) -> int:
        self._require_usable("count")
        return len(self._disk.tables[database].keys)

    def stats(self) -> StoreStats:
        self._require_usable("measure")
        used = sum(table.size for table in self._disk.tables.values())
        return StoreStats(
            sequence=self._disk.sequence,
            used_bytes=used,
            file_bytes=used,
            map_bytes=self._map_bytes,
            databases={
                str(database): DatabaseStats(rows=len(table.keys), bytes=table.size)
                for database, table in self._disk.tables.items()
            },
        )

    def close(self) -> None:
        if self._disk.holder is self:
            self._disk.holder = None
        self._refusal = "it is closed"

    def _require_usable(self, operation: str) -> None:
        if self._refusal:
            raise StoreError(f"cannot {operation} {_PATH}: {self._refusal}")

    def _fail_if_asked(self, changes: int) -> None:
        if not self._failures:
            return
        kind, after = self._failures[0]
        if kind is Failure.PUT and after >= changes:
            return
        self._failures.pop(0)
        if kind is Failure.FULL:
            raise StoreFull(f"cannot commit to {_PATH}: no room, as asked for; nothing was changed")
        if kind is Failure.SYNC:
            self._commit_refusal = "an earlier sync failed, as asked for; open the disk again"
        raise StoreError(f"cannot commit to {_PATH}: {kind} fails, as asked for; nothing was changed")

    def _require_room(self, batch: Batch) -> None:
        if not any(body is not None for _, _, body in batch):
            return  # deletes work in a full store
        used = sum(table.size for table in self._disk.tables.values())
        if used + batch.size_bytes > self._map_bytes:
            raise StoreFull(
                f"cannot commit to {_PATH}: {used} bytes and a batch of {batch.size_bytes} are above "
                f"{self._map_bytes}; delete something"
            )


def _body(database: str, key: bytes, record: bytes) -> bytes:
    try:
        return unpack(database, key, record)
    except StoreDamaged as error:
        raise in_use(error) from None
