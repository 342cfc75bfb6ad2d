"""The interface of every store: named databases of ordered keys, changed by atomic, numbered batches.

Rules that every implementation keeps: a batch is durable when `commit` returns and wholly absent when it
raises; each commit carries the next sequence number, stored with it, so that a file can be compared with
whatever else has seen the batches; reads verify checksums and leave no transaction open. A store belongs to
one thread of one process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol, TypedDict

from agentcom.errors import StoreDamaged, StoreError

KEY_BYTES_MAX: Final = 511  # LMDB's limit; a longer key is a ValueError at Batch.put
UNDER_ROWS: Final = 64  # the same where rows are as large as results
PAGE_ROWS: Final = 1000  # rows that `pages` takes from the store at a time: bounds its memory

Row = tuple[bytes, bytes]
RESTORED_AT_START: Final = "start the hub again, it restores the store"
_NO_ROWS: Final[Mapping[bytes, bytes | None]] = {}


class Database(StrEnum):
    """The databases of a store. Add at the end; a name that was ever released is never used for another."""

    META = "meta"
    TASKS = "tasks"
    LANES = "lanes"
    DEAD = "dead"
    ATTEMPTS = "attempts"
    AGENTS = "agents"
    HOSTS = "hosts"
    ENDPOINTS = "endpoints"
    ROUTES = "routes"
    REPORTS = "reports"
    LEDGER = "ledger"
    PRINCIPALS = "principals"
    LIMITS = "limits"
    FEED = "feed"
    CONFIG = "config"
    IDEMPOTENCY = "idempotency"
    BODIES = "bodies"
    STORIES = "stories"
    DEPENDS = "depends"


_MEMBERS: Final = {str(member): member for member in Database}


def in_use(error: StoreDamaged) -> StoreDamaged:
    """Of a record of the store that the hub works on, in a backup the same says something else: with what to do."""
    return StoreDamaged(f"{error.message}; {RESTORED_AT_START}")


def _member(database: str) -> Database:
    """The enum's own call takes ten times as long, and says what is wrong where there is none."""
    found = _MEMBERS.get(database)
    return Database(database) if found is None else found


class Batch:
    """Puts and deletes that are carried out together. The last word on a key counts.

    Databases are given by member or by name. Iterating yields (database, key, body), the body None for a
    delete: what a journal has to write down.
    """

    __slots__ = ("_heads", "_rows")

    def __init__(self) -> None:
        self._rows: dict[str, dict[bytes, bytes | None]] = {}
        self._heads: dict[str, tuple[int, set[bytes]]] = {}

    def put(self, database: str, key: bytes, body: bytes) -> None:
        """Store the body under the key. ValueError for an unknown database or a key of 0 or above
        KEY_BYTES_MAX bytes."""
        rows = self._rows.get(database)
        if rows is None or not 0 < len(key) <= KEY_BYTES_MAX:
            rows = self._checked(database, key)
        rows[key] = body

    def table(self, database: str) -> dict[bytes, bytes | None]:
        """The rows of one database, for who puts many: its keys have 1 to KEY_BYTES_MAX bytes."""
        rows = self._rows.get(database)
        return self._rows.setdefault(_member(database), {}) if rows is None else rows

    def delete(self, database: str, key: bytes) -> None:
        """Remove the key; none is missing to a delete. Errors as of `put`."""
        rows = self._rows.get(database)
        if rows is None or not 0 < len(key) <= KEY_BYTES_MAX:
            rows = self._checked(database, key)
        rows[key] = None

    def delete_under(self, database: str, prefix: bytes) -> None:
        """Remove the keys of this batch that begin with the prefix. O(keys) for the first of many that begin with
        as many bytes, then O(1) where there are none: one batch may retire a thousand tasks."""
        rows = self._rows.get(database)
        if not rows:
            return
        size, heads = self._heads.get(database, (0, set()))
        if size != len(rows):
            heads = {key[: len(prefix)] for key in rows}
            self._heads[database] = len(rows), heads
        if prefix in heads:
            for key in [key for key in rows if key.startswith(prefix)]:
                rows[key] = None

    def merge(self, other: Batch) -> None:
        """Add all of another batch, whose word is the last. O(rows)."""
        for database, rows in other._rows.items():
            mine = self._rows.get(database)
            if mine is None:
                self._rows[database] = rows.copy()
            else:
                mine.update(rows)

    def rows(self, database: str) -> Mapping[bytes, bytes | None]:
        """What it says of one database, in the order in which the keys came; None for a delete."""
        return self._rows.get(database, _NO_ROWS)

    def deleted(self, database: str) -> None:
        """Deletes were added under prefixes that are done with: what is known of the others still holds."""
        if database in self._heads:
            self._heads[database] = len(self._rows[database]), self._heads[database][1]

    def _checked(self, database: str, key: bytes) -> dict[bytes, bytes | None]:
        if not 0 < len(key) <= KEY_BYTES_MAX:
            raise ValueError(f"a key of {len(key)} bytes in '{database}': 1 to {KEY_BYTES_MAX} are allowed")
        return self._rows.setdefault(_member(database), {})

    @property
    def size_bytes(self) -> int:
        """Bytes of all keys and bodies. O(rows)."""
        return sum(
            sum(map(len, rows)) + sum(map(len, filter(None, rows.values()))) for rows in self._rows.values()
        )

    def changes(self) -> Iterator[tuple[str, dict[bytes, bytes | None]]]:
        """Per touched database the body by key, None for a delete; not to be changed."""
        return iter(self._rows.items())

    def clear(self) -> None:
        self._rows.clear()
        self._heads.clear()

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def __iter__(self) -> Iterator[tuple[str, bytes, bytes | None]]:
        for database, rows in self._rows.items():
            for key, body in rows.items():
                yield database, key, body


class DatabaseStats(TypedDict):
    """Rows of one database, and the bytes that they take in the file (whole pages on disk)."""

    rows: int
    bytes: int


class StoreStats(TypedDict):
    """`used_bytes` counts what is live, so it falls after deletes: on a disk, what a compact copy would take.
    `file_bytes` does not fall; writes are refused with StoreFull at `map_bytes`."""

    sequence: int
    used_bytes: int
    file_bytes: int
    map_bytes: int
    databases: dict[str, DatabaseStats]


class StoreSize(NamedTuple):
    """The bytes that are live, and at how many writes are refused."""

    used_bytes: int
    map_bytes: int


class Store(Protocol):
    """An open store. Each method may raise StoreError; after close and in a forked child all but close do."""

    @property
    def sequence(self) -> int:
        """The number of the last commit; 0 in a new store."""

    @property
    def writable(self) -> bool:
        """False after the disk failed to confirm a commit: what later syncs say is worth nothing, so further
        commits are refused. Stop, and start again from what is on disk."""

    def commit(self, batch: Batch, sequence: int) -> None:
        """Carry out the batch; durable when it returns, and the batch is left as it was.

        After StoreFull, and after any StoreError that leaves the store `writable`, nothing of the batch was
        done and the store goes on; a full store still takes deletes. A sequence other than the last plus one
        is refused with nothing changed.
        """

    def get(self, database: str, key: bytes) -> bytes | None:
        """The body, or None. StoreDamaged when the record does not fit its checksum."""

    def get_many(self, database: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The bodies in the order of the keys, all from one moment."""

    def scan(
        self,
        database: str,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[Row]:
        """The rows with start <= key < stop by rising key (falling with `reverse`), at most `limit`.

        O(rows returned). Without a limit it is for databases that are known to be small; see `pages`.
        """

    def count(self, database: str) -> int:
        """Rows of the database; O(1)."""

    def stats(self) -> StoreStats:
        """Sizes as of the last commit; O(databases)."""

    def size(self) -> StoreSize:
        """How full it is, of `stats`, for who asks each second. A bound from above while batches wait for the file."""

    def close(self) -> None:
        """Let go of the store; what was committed stays. A second close does nothing."""


def pages(
    store: Store, database: str, start: bytes = b"", stop: bytes | None = None, rows: int = PAGE_ROWS
) -> Iterator[list[Row]]:
    """All rows of a range in pages of at most `rows`, each read by itself: memory stays bounded, and a commit
    may come between two pages (rows that it adds behind the last key read are seen)."""
    while page := store.scan(database, start, stop, limit=rows):
        yield page
        start = page[-1][0] + b"\x00"  # the first key that can follow


def delete_under(store: Store, batch: Batch, database: str, prefix: bytes) -> None:
    """Add to the batch the delete of every row whose key begins with the prefix, in the store or in the batch."""
    batch.delete_under(database, prefix)
    start, stop = prefix, after(prefix)
    while page := store.scan(database, start, stop, limit=UNDER_ROWS):
        for key, _ in page:
            batch.delete(database, key)
        if len(page) < UNDER_ROWS:
            break
        start = page[-1][0] + b"\0"
    batch.deleted(database)


def after(prefix: bytes) -> bytes | None:
    """The first key behind all that begin with the prefix; None where there is none."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else None


def require_next(sequence: int, last: int, path: str) -> None:
    """Refuse a commit whose sequence does not follow the last one."""
    if sequence != last + 1:
        raise StoreError(
            f"cannot commit to {path}: batch {sequence} does not follow batch {last}, the last one stored; "
            "a batch was lost or is being written twice, nothing was changed"
        )
