"""What the benchmarks read off the machine beside their own clocks: the disk, CPU time of one thread, commits.

Wall times on a shared machine say little by themselves. A row therefore carries what one fdatasync cost just
then, and the CPU time of the thread that does the work: that one hardly moves when others use the machine.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import lmdb
import psutil

from agentcom.store.journal import reached_of

SYNCS: Final = 15
SYNC_BYTES: Final = 4096
COMMITS: Final = 30
KEYS: Final = 1000  # of a gauge's file, which then stays small
FLUSHES_PER_TRANSACTION: Final = 2  # of LMDB: the pages, then the head that makes them count
ENGINE: Final = 0  # LMDB 0.9, as in the hub's store


def fdatasync_us(folder: Path) -> float:
    """The median of a few small synced appends to a file in `folder`."""
    took: list[float] = []
    with (folder / "calibration").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(b"\0" * SYNC_BYTES)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - begun) * 1e6)
    return statistics.median(took)


class CommitGauge:
    """Commits of one small record each, with the store's own durability, to a file in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._place = tempfile.TemporaryDirectory(dir=folder)
        self._environment = lmdb.open(
            self._place.name, map_size=2**24, sync=True, metasync=True, lib_version=ENGINE
        )
        self._count = 0

    def once_us(self) -> float:
        """What one costs just now."""
        self._count += 1
        begun = time.perf_counter()
        with self._environment.begin(write=True) as transaction:
            transaction.put((self._count % KEYS).to_bytes(8, "big"), b"\0" * 255)
        return (time.perf_counter() - begun) * 1e6

    def close(self) -> None:
        self._environment.close()
        self._place.cleanup()


def lmdb_commit_us(folder: Path) -> float:
    """The median of a few commits."""
    with contextlib.closing(CommitGauge(folder)) as gauge:
        return statistics.median(gauge.once_us() for _ in range(COMMITS))


def batches(store: Path) -> int:
    """How many batches the hub of the store in this folder has committed so far: a flush of the journal each."""
    return reached_of(store / "journal")


def flushes(store: Path) -> int:
    """How often it made the disk keep what was written, by design: for each batch, and for each of the store's own
    transactions, of which there are two in a second. The number of the last one is out of the file's head: no lock is
    taken and no record is read."""
    environment = lmdb.open(str(store), readonly=True, lock=False, lib_version=ENGINE)
    try:
        return batches(store) + FLUSHES_PER_TRANSACTION * int(environment.info()["last_txnid"])
    finally:
        environment.close()


def main_thread_ns(pid: int) -> int:
    """CPU time of a process's first thread so far: in ns where the kernel tells it, else in its ticks."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])
    except (OSError, IndexError, ValueError):
        first = next(thread for thread in psutil.Process(pid).threads() if thread.id == pid)
        return round((first.user_time + first.system_time) * 1e9)
