"""A home with a store, journal and backups under test, and the scripted life in it."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from agentcom.store.check import full_check_here
from agentcom.store.start import OpenedStore, StorePaths, open_store
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
