"""The store on LMDB: one file, one writer, durable when commit returns.

sync and metasync stay on: without metasync acknowledged commits were lost in 792 of 2,000 power cuts,
without sync the file broke. writemap stays off: it turns a full disk into SIGBUS. One environment per path
and process, never used across a fork; `hub.lock` beside the file keeps a second process out, since LMDB
itself would let it write. What belongs to the store itself (format, sequence, row counts) has a database of
its own, written in the transaction of the batch.
"""

from __future__ import annotations

import errno
import os
import sys
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from agentcom.errors import StoreDamaged, StoreError, StoreFull, StoreVersion
from agentcom.store import migrations
from agentcom.store.base import (
    RESTORED_AT_START,
    Batch,
    Database,
    DatabaseStats,
    Row,
    StoreSize,
    StoreStats,
    in_use,
    require_next,
)
from agentcom.store.place import NO_ROOM, file_system, has_room, require_local, sync_directories, take_lock
from agentcom.store.record import SCHEMA_VERSION, pack, pack_all, unpack, unpack_all

FORMAT: Final = SCHEMA_VERSION  # of databases, keys and bodies: one number, which migrations.py leads up to
MAP_BYTES: Final = 64 * 2**30 if sys.maxsize > 2**32 else 2**30  # sparse: address space, not disk
READERS_MAX: Final = 16  # this thread, a backup's child, a person with a tool; 126 by default

OWN: Final = "store"  # the store's own database; no member of Database may have this name
OWN_VERSION: Final = 1  # of its records, for ever: every program must be able to read the format
ROOM_SHARE: Final = 0.75  # of the map: beyond that it is nearly full
DATABASES_MAX: Final = 64  # room for later versions; LMDB scans this table when it opens one
_ENGINE: Final = 0  # LMDB 0.9: what the measurements behind the rules above were made on
_META_PAGES: Final = 2
_ROOM_BYTES: Final = 2**20  # beyond the batch itself: pages that a commit copies
_ROOM_HINT: Final = "free disk space, or raise hub.map_gib (hub.map_mib, where that is set)"
_DAMAGE: Final = (lmdb.CorruptedError, lmdb.PageNotFoundError, lmdb.InvalidError)
STATE_KEY: Final = b"state"
FORMAT_KEY: Final = b"format"
_MIGRATION_ROWS: Final = 1000  # that a migration holds in memory at a time

assert OWN not in list(Database)
assert len(Database) < DATABASES_MAX


class State(msgspec.Struct, frozen=True):
    """What the store writes with every batch. `counts` are rows by database: a page that was exchanged for an
    older one brings an older count with it, and is found by that."""

    sequence: int
    counts: dict[str, int]


class LmdbStore:
    """Implements Store in the directory `path`, which is made (0700) when it is missing.

    Raises StoreLocked (naming the process) when it is open elsewhere, StoreVersion when a newer program wrote
    it, StoreDamaged when its parts do not fit together, StoreError on a network file system; in each case the
    file is left as it was. `lock` is what `take_lock` gave, when the caller has it; it passes to the store in
    any case. `file_system_of` is for tests.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        map_bytes: int = MAP_BYTES,
        file_system_of: Callable[[Path], str | None] | None = None,
        lock: int | None = None,
    ) -> None:
        self._path = Path(path)
        self._refusal: str | None = None
        self._commit_refusal: str | None = None
        self._state: State
        self._handles: dict[str, lmdb._Database]
        if lock is None:
            require_local(self._path, (file_system_of or file_system)(self._path))
            lock = take_lock(self._path)
        self._lock: int | None = lock
        try:
            self._environment = self._open_environment(map_bytes)
        except BaseException:
            self._release_lock()
            raise
        try:
            self._load()
        except BaseException:
            self._environment.close()
            self._release_lock()
            raise
        _open_stores.add(self)

    @property
    def sequence(self) -> int:
        self._require_usable("read the sequence of")
        return self._state.sequence

    @property
    def writable(self) -> bool:
        return not (self._refusal or self._commit_refusal)

    def commit(self, batch: Batch, sequence: int) -> None:
        self._require_usable("commit to")
        require_next(sequence, self._state.sequence, str(self._path))
        self._commit(batch, sequence)

    def bring_forward(self, batch: Batch, sequence: int) -> None:
        """Commit in one what several batches changed, up to and with batch `sequence`: the journal's way to
        make up for what a store lacks, thousands of batches a second. Same errors as `commit`."""
        self._require_usable("bring forward")
        if sequence <= self._state.sequence:
            raise StoreError(
                f"{self._path} is at batch {self._state.sequence}, {sequence} is not ahead of it"
            )
        self._commit(batch, sequence)

    def _commit(self, batch: Batch, sequence: int) -> None:
        if self._commit_refusal:
            raise StoreError(f"cannot commit to {self._path}: {self._commit_refusal}")
        try:
            transaction = self._environment.begin(write=True)
            state = self._apply(transaction, batch, sequence)
        except lmdb.Error as error:
            raise self._error("commit to", error) from error
        try:
            transaction.commit()
        except lmdb.Error as error:
            raise self._commit_failed(error, batch) from error
        self._state = state

    def get(self, database: str, key: bytes) -> bytes | None:
        self._require_usable("read")
        try:
            with self._environment.begin() as transaction:
                record = transaction.get(key, db=self._handles[database])
            return None if record is None else unpack(database, key, record)
        except (lmdb.Error, StoreDamaged) as error:
            raise self._error("read", error) from error

    def get_many(self, database: str, keys: Sequence[bytes]) -> list[bytes | None]:
        self._require_usable("read")
        try:
            with self._environment.begin() as transaction:
                found = transaction.cursor(self._handles[database]).getmulti(keys)
            bodies = {key: unpack(database, key, record) for key, record in found}
        except (lmdb.Error, StoreDamaged) as error:
            raise self._error("read", error) from error
        return [bodies.get(key) for key in keys]

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
        walk = _walk_down if reverse else _walk_up
        try:
            with self._environment.begin() as transaction:
                cursor = transaction.cursor(self._handles[database])
                records = list(islice(walk(cursor, start, stop), limit))
            return unpack_all(database, records)
        except (lmdb.Error, StoreDamaged) as error:
            raise self._error("scan", error) from error

    def count(self, database: str) -> int:
        self._require_usable("count")
        return self._state.counts[database]

    def stats(self) -> StoreStats:
        self._require_usable("measure")
        try:
            with self._environment.begin() as transaction:
                pages = {name: _pages(transaction, handle) for name, handle in self._handles.items()}
                # A compact copy has them too: the own database, the tree of all names, the meta pages.
                other_pages = _pages(transaction, self._own) + _pages(transaction) + _META_PAGES
        except lmdb.Error as error:
            raise self._error("measure", error) from error
        page_bytes = self._environment.stat()["psize"]
        file = self._environment.info()
        return StoreStats(
            sequence=self._state.sequence,
            used_bytes=(sum(pages.values()) + other_pages) * page_bytes,
            file_bytes=(file["last_pgno"] + 1) * page_bytes,
            map_bytes=file["map_size"],
            databases={
                name: DatabaseStats(rows=self._state.counts[name], bytes=pages[name] * page_bytes)
                for name in self._handles
            },
        )

    def size(self) -> StoreSize:
        stats = self.stats()
        return StoreSize(stats["used_bytes"], stats["map_bytes"])

    def has_room(self, size_bytes: int) -> bool:
        """Whether map and disk have room for so much more, and the map is not nearly full."""
        used, of = self.size()
        return used + size_bytes < of and used < ROOM_SHARE * of and has_room(self._path, size_bytes)

    def clear_stale_readers(self) -> int:
        """Free the reader slots of processes that died; how many. A stale one lets the file grow for good, so
        this runs when the store is opened and is worth repeating each minute."""
        self._require_usable("check the readers of")
        try:
            return self._environment.reader_check()
        except lmdb.Error as error:
            raise self._error("check the readers of", error) from error

    def share_lock(self) -> int:
        """A descriptor of its own that holds the store's lock too, for as long as the caller keeps it open."""
        assert self._lock is not None
        return os.dup(self._lock)

    def close(self) -> None:
        if self._refusal:
            return
        self._refusal = "it is closed"
        _open_stores.discard(self)
        self._environment.close()
        self._release_lock()

    def _open_environment(self, map_bytes: int) -> lmdb.Environment:
        try:
            return lmdb.open(
                str(self._path),
                map_size=map_bytes,
                subdir=True,
                sync=True,
                metasync=True,
                writemap=False,
                lock=True,
                mode=0o600,
                max_dbs=DATABASES_MAX,
                max_readers=READERS_MAX,
                max_spare_txns=1,  # a read then renews the last transaction: no lock, no allocation
                lib_version=_ENGINE,
            )
        except lmdb.Error as error:
            raise self._error("open", error) from error

    def _load(self) -> None:
        """Read what the store says of itself. All in one transaction, the format first: a newer store is left
        as it is."""
        try:
            self._environment.reader_check()
            with self._environment.begin(write=True) as transaction:
                fresh = transaction.stat()["entries"] == 0
                self._own = self._open_own(transaction, create=fresh)
                steps = [] if fresh else self._steps(transaction)
                self._handles = {
                    str(database): self._environment.open_db(database.encode(), txn=transaction)
                    for database in Database
                }
                if fresh:
                    self._write_first_state(transaction)
                if steps:
                    self._migrate(transaction, steps)
                self._state = self._read_state(transaction)
        except lmdb.Error as error:
            raise self._error("open", error) from error
        if fresh:
            sync_directories(self._path)

    def _open_own(self, transaction: lmdb.Transaction[bytes], create: bool) -> lmdb._Database:
        try:
            return self._environment.open_db(OWN.encode(), txn=transaction, create=create)
        except lmdb.NotFoundError:
            raise StoreDamaged(
                f"cannot open {self._path}: the file is not empty and has no {OWN!r} database; it is not a "
                "store of AgentCom, or it is damaged"
            ) from None

    def _steps(self, transaction: lmdb.Transaction[bytes]) -> list[migrations.Step]:
        """What leads from the version of the file to ours; a newer one is refused."""
        try:
            found = int.from_bytes(self._own_record(transaction, FORMAT_KEY), "big")
            return migrations.steps_after(found)
        except StoreVersion as error:
            raise StoreVersion(f"cannot open {self._path}: {error}") from error

    def _migrate(self, transaction: lmdb.Transaction[bytes], steps: list[migrations.Step]) -> None:
        counts = {}
        for name, handle in self._handles.items():
            start = b""
            while rows := list(islice(_walk_up(transaction.cursor(handle), start, None), _MIGRATION_ROWS)):
                for key, record in rows:
                    changed = migrations.carry_over(steps, name, key, record)
                    if changed is None:
                        transaction.delete(key, db=handle)
                    else:
                        transaction.put(key, changed, db=handle)
                start = rows[-1][0] + b"\x00"
            counts[name] = transaction.stat(handle)["entries"]
        state = msgspec.msgpack.decode(self._own_record(transaction, STATE_KEY), type=State)
        self._put_own_record(transaction, STATE_KEY, msgspec.msgpack.encode(State(state.sequence, counts)))
        self._put_own_record(transaction, FORMAT_KEY, steps[-1].to.to_bytes(4, "big"))

    def _write_first_state(self, transaction: lmdb.Transaction[bytes]) -> None:
        self._put_own_record(transaction, FORMAT_KEY, FORMAT.to_bytes(4, "big"))
        state = State(0, {str(database): 0 for database in Database})
        self._put_own_record(transaction, STATE_KEY, msgspec.msgpack.encode(state))

    def _read_state(self, transaction: lmdb.Transaction[bytes]) -> State:
        """The state, compared with what LMDB counts; a database that an older program did not have starts
        at 0 rows."""
        state = msgspec.msgpack.decode(self._own_record(transaction, STATE_KEY), type=State)
        counts = {name: state.counts.get(name, 0) for name in self._handles}
        for name, handle in self._handles.items():
            rows = transaction.stat(handle)["entries"]
            if rows != counts[name]:
                raise StoreDamaged(
                    f"cannot open {self._path}: '{name}' has {rows} rows, {counts[name]} were counted at "
                    f"batch {state.sequence}; {RESTORED_AT_START}"
                )
        return State(state.sequence, counts)

    def _own_record(self, transaction: lmdb.Transaction[bytes], key: bytes) -> bytes:
        try:
            return unpack(OWN, key, transaction.get(key, db=self._own) or b"", OWN_VERSION)
        except StoreDamaged as error:
            raise in_use(error) from None

    def _put_own_record(self, transaction: lmdb.Transaction[bytes], key: bytes, body: bytes) -> None:
        transaction.put(key, pack(OWN, key, body, OWN_VERSION), db=self._own)

    def _apply(self, transaction: lmdb.Transaction[bytes], batch: Batch, sequence: int) -> State:
        """Write the batch and the state that goes with it; on any error the transaction is aborted."""
        try:
            counts = self._state.counts.copy()
            for database, rows in batch.changes():
                handle = self._handles[database]
                _write_rows(transaction, handle, database, rows)
                counts[database] = transaction.stat(handle)["entries"]
            state = State(sequence, counts)
            self._put_own_record(transaction, STATE_KEY, msgspec.msgpack.encode(state))
        except BaseException:
            transaction.abort()
            raise
        return state

    def _commit_failed(self, error: lmdb.Error, batch: Batch) -> StoreError:
        """LMDB has dropped the transaction. Where there was no room, that is all; after any other error the
        kernel may have forgotten pages that it could not write, and would confirm them at the next sync."""
        # A disk that fills up in the middle of a write answers with less than was asked for, and LMDB makes
        # EIO of that: only the disk itself can say which of the two it was.
        if error.code == errno.EIO and not has_room(self._path, _ROOM_BYTES + batch.size_bytes):
            failed: StoreError = StoreFull(
                f"cannot commit to {self._path}: {error}, for want of room; {_ROOM_HINT}"
            )
        else:
            failed = self._error("commit to", error)
        if not isinstance(failed, StoreFull):
            self._commit_refusal = f"an earlier commit failed at the disk ({error}); stop and start again"
        elif self._has_given_up():
            self._open_again()
        return failed

    def _has_given_up(self) -> bool:
        """Whether LMDB refuses this environment from now on, which it does after a meta page that could not be
        written. A file system that copies on write needs room even for that."""
        try:
            with self._environment.begin():
                return False
        except lmdb.PanicError:
            return True

    def _open_again(self) -> None:
        """Another environment on the same file, which is at the last batch that was acknowledged; StoreError
        where it is not. Opening writes nothing, so that it needs no room."""
        map_bytes, before = self._environment.info()["map_size"], self._state.sequence
        self._environment.close()
        self._environment = self._open_environment(map_bytes)
        self._load()
        if self._state.sequence != before:
            self._commit_refusal = (
                f"the disk was full, and the file is at batch {self._state.sequence}, not {before}; "
                "stop and start again"
            )
            raise StoreError(f"cannot commit to {self._path}: {self._commit_refusal}")

    def _require_usable(self, operation: str) -> None:
        if self._refusal:
            raise StoreError(f"cannot {operation} {self._path}: {self._refusal}")

    def _error(self, operation: str, error: lmdb.Error | StoreDamaged) -> StoreError:
        if isinstance(error, StoreDamaged):
            return in_use(error)
        failed = f"cannot {operation} {self._path}: {error}"
        if _is_no_room(error):
            return StoreFull(f"{failed}; {_ROOM_HINT}")
        if isinstance(error, _DAMAGE):
            return StoreDamaged(f"{failed}; {RESTORED_AT_START}")
        if isinstance(error, lmdb.VersionMismatchError):
            return StoreVersion(f"{failed}; the file was written by another version of LMDB")
        if isinstance(error, lmdb.PanicError):
            self._commit_refusal = "LMDB has given up after an error at the disk; stop and start again"
        return StoreError(failed)

    def _release_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _abandon(self) -> None:
        """In a forked child: the parent's environment must be neither used nor closed, and its lock not be
        held by a child that outlives it."""
        self._refusal = "it belongs to the process that forked this one; start children by spawn"
        self._release_lock()


def _write_rows(
    transaction: lmdb.Transaction[bytes],
    handle: lmdb._Database,
    database: str,
    rows: dict[bytes, bytes | None],
) -> None:
    # Sorted, neighbours meet the page that the cursor is on: random order costs five times as much.
    changes = sorted(rows.items())
    records = pack_all(database, changes)
    if records:
        transaction.cursor(handle).putmulti(records)
    if len(records) < len(changes):
        for key, body in changes:
            if body is None:
                transaction.delete(key, db=handle)


def _walk_up(cursor: lmdb.Cursor[bytes], start: bytes, stop: bytes | None) -> Iterator[Row]:
    if not (cursor.set_range(start) if start else cursor.first()):
        return
    if stop is None:
        yield from cursor.iternext()  # the walk of a start, over all rows: no test per row
        return
    for row in cursor.iternext():
        if row[0] >= stop:
            return
        yield row


def _walk_down(cursor: lmdb.Cursor[bytes], start: bytes, stop: bytes | None) -> Iterator[Row]:
    if stop == b"":
        return
    # set_range finds the first key at or behind `stop`, so the one before it is the last of the range.
    found = cursor.prev() if stop is not None and cursor.set_range(stop) else cursor.last()
    if not found:
        return
    for row in cursor.iterprev():
        if row[0] < start:
            return
        yield row


def _pages(transaction: lmdb.Transaction[bytes], handle: lmdb._Database | None = None) -> int:
    """Of a database; without one, of the tree of their names."""
    figures = transaction.stat(handle) if handle is not None else transaction.stat()
    return figures["branch_pages"] + figures["leaf_pages"] + figures["overflow_pages"]


def _is_no_room(error: lmdb.Error) -> bool:
    return isinstance(error, lmdb.MapFullError) or error.code in NO_ROOM


_open_stores: weakref.WeakSet[LmdbStore] = weakref.WeakSet()


def _abandon_all() -> None:
    for store in list(_open_stores):
        store._abandon()


os.register_at_fork(after_in_child=_abandon_all)
