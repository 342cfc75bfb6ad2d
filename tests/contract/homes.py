"""A home with a store, journal and backups under test, and the scripted life in it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import msgspec
import pytest

from agentcom.store.backup import Backup
from agentcom.store.check import full_check_here
from agentcom.store.record import pack
from agentcom.store.start import OpenedStore, StorePaths, open_store
from tests.contract.places import raw
from tests.faults.store_workload import Workload, digest, rows_of

MAP_BYTES = 2**24


class Place:
    """One home. `begin` starts on it as a hub does, `commit` goes on with its script."""

    def __init__(self, home: Path) -> None:
        self.paths = StorePaths.of_home(home)
        self.file = self.paths.store / "data.mdb"
        self.script = Workload(5, body_bytes=120, tasks_per_batch=2)
        self.digests = [digest(self.script.rows)]

    def begin(self, *, in_child: bool = False) -> OpenedStore:
        checker = None if in_child else full_check_here
        return open_store(self.paths, map_bytes=MAP_BYTES, checker=checker)

    def commit(self, opened: OpenedStore, count: int, *, journal: bool = True) -> None:
        opened.journaled.settle()
        for batch in self.script.batches(count):
            if journal:
                opened.journal.append(batch, self.script.sequence)
            opened.store.commit(batch, self.script.sequence)
            self.digests.append(digest(self.script.rows))

    def is_whole(self, opened: OpenedStore) -> bool:
        """Whether the store holds exactly what its last batch left."""
        return digest(rows_of(opened.store)) == self.digests[opened.store.sequence]

    def is_whole_of(self, opened: OpenedStore) -> bool:
        """As `is_whole`, for a script that was committed as a hub commits."""
        return digest(rows_of(opened.journaled)) == digest(self.script.rows)

    def damage(self, seed: int = 1) -> None:
        """Zero a few sectors of pages that are in use."""
        content = bytearray(self.file.read_bytes())
        rng = random.Random(seed)
        for _ in range(40):
            start = rng.randrange(2, len(content) // 4096) * 4096
            content[start : start + 512] = bytes(512)
        self.file.write_bytes(content)


def of_newer_version(made: Backup, folder: Path, *, told: bool) -> None:
    """Let the backup be one of format 9; where that is `told` its manifest says so, as that program's would."""
    shutil.copyfile(made.path, folder / "data.mdb")
    with raw(folder) as environment, environment.begin(write=True) as transaction:
        own = environment.open_db(b"store", txn=transaction)
        transaction.put(b"format", pack("store", b"format", (9).to_bytes(4, "big"), 1), db=own)
    shutil.copyfile(folder / "data.mdb", made.path)
    checksum = hashlib.blake2b(Path(made.path).read_bytes(), digest_size=16).hexdigest()
    manifest = {**msgspec.to_builtins(made), "checksum": checksum, "bytes": Path(made.path).stat().st_size}
    manifest |= {"format": 9} if told else {}
    Path(made.path).with_suffix(".json").write_text(json.dumps(manifest))


def end_children(folder: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every Python that is begun from now on does `how` when it opens a store, which this one does not; where each
    begins a line of a file, that file."""
    seen = folder / "begun"
    program = f"""
import lmdb, os, signal, sys
def opened(*_arguments, **_options):
    with open({str(seen)!r}, "a") as file:
        print(os.getpid(), file=file)
    {how}
whole, lmdb.open = lmdb.open, opened
"""
    (folder / "sitecustomize.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
    return seen


def crash(opened: OpenedStore) -> None:
    """Let go as a killed process does: no sync, no note of a clean end."""
    opened.store.close()
