"""Where the stores under test live, and short words for what is done to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from agentcom.store import Batch, Database, Store
from agentcom.store.journal import Journal
from agentcom.store.journaled import JournaledStore
from agentcom.store.lmdb_store import LmdbStore
from agentcom.store.memory_store import MemoryDisk, MemoryStore

MAP_BYTES = 2 * 2**20
BEHIND_BYTES = 2**15
TASKS, DEAD = Database.TASKS, Database.DEAD


class OnDisk:
    """A place for an LMDB store."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> Store:
        return LmdbStore(self.path, map_bytes=MAP_BYTES)

    def damage(self, database: str, key: bytes) -> None:
        with raw(self.path) as environment, environment.begin(write=True) as transaction:
            handle = environment.open_db(database.encode(), txn=transaction)
            record = bytearray(transaction.get(key, db=handle) or b"")
            record[-1] ^= 1
            transaction.put(key, bytes(record), db=handle)


class InMemory:
    """A place for a store in memory."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()

    def open(self) -> Store:
        return MemoryStore(self.disk, map_bytes=MAP_BYTES)

    def damage(self, database: str, key: bytes) -> None:
        self.disk.damage(database, key)


class Behind(OnDisk):
    """A place for an LMDB store that follows its journal later, as the hub uses it."""

    def open(self) -> Store:
        return JournaledStore(LmdbStore(self.path, map_bytes=MAP_BYTES), Journal(self.path / "journal"), BEHIND_BYTES)


class Journaled(OnDisk):
    """A place for an LMDB store with a journal in front."""

    def open(self) -> Store:
        return JournaledStore(LmdbStore(self.path, map_bytes=MAP_BYTES), Journal(self.path / "journal"))


Place = OnDisk | InMemory


@contextmanager
def raw(path: Path) -> Iterator[lmdb.Environment]:
    """The file without the store around it."""
    environment = lmdb.open(str(path), max_dbs=64, map_size=MAP_BYTES)
    try:
        yield environment
    finally:
        environment.close()


def batch_of(*changes: tuple[str, bytes, bytes | None]) -> Batch:
    batch = Batch()
    for database, key, body in changes:
        if body is None:
            batch.delete(database, key)
        else:
            batch.put(database, key, body)
    return batch


def commit(store: Store, *changes: tuple[str, bytes, bytes | None]) -> None:
    store.commit(batch_of(*changes), store.sequence + 1)


def commit_letters(store: Store, letters: str = "abcde") -> None:
    commit(store, *[(TASKS, letter.encode(), letter.upper().encode()) for letter in letters])


def rows_of(letters: str) -> list[tuple[bytes, bytes]]:
    return [(letter.encode(), letter.upper().encode()) for letter in letters]
