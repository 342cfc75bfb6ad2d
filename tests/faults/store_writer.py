"""The program under the shim: commits a scripted workload to store and journal as the hub's tick does, and notes
each acknowledged batch in a file of the watched folder, so that the recording shows what was promised when.

python -m tests.faults.store_writer HOME SEED BATCHES [--unsafe]

With --unsafe neither store nor journal syncs: what the rig must then find shows that it can find anything.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import lmdb

from agentcom.errors import StoreError, StoreFull
from agentcom.store.check import full_check_here
from agentcom.store.start import OpenedStore, StorePaths, open_store
from tests.faults.store_workload import Workload

MARKS = "acknowledged"
BODY_BYTES = 150
SETTLE_EVERY = 7  # batches after which the store follows the journal, as it does twice a second
REOPEN_AT = 25  # the batch after which the hub is stopped cleanly and started again
MAP_BYTES = 2**24


def workload(seed: int) -> Workload:
    return Workload(seed, body_bytes=BODY_BYTES, tasks_per_batch=2)


def main(home: Path, seed: int, batches: int) -> str:
    """Commit until the end, or until the disk fails for good; what is told about the end."""
    marks = os.open(home / MARKS, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    script = workload(seed)
    opened = _open(home)
    refused = 0
    for batch in script.batches(batches):
        store = opened.journaled
        try:
            store.commit(batch, script.sequence)
            os.write(marks, b"%d\n" % script.sequence)
            if script.sequence % SETTLE_EVERY == 0:
                store.settle()
        except StoreFull:
            assert store.sequence < script.sequence, "a refused batch is not in the store"
            refused += 1
            break
        except StoreError as error:
            return f"stopped: {error}"
        if script.sequence == REOPEN_AT:
            opened.close()
            opened = _open(home)
    opened.close()
    return "full" if refused else "done"


def _open(home: Path) -> OpenedStore:
    return open_store(StorePaths.of_home(home), map_bytes=MAP_BYTES, checker=full_check_here)


def _leave_out_syncs() -> None:
    opened = lmdb.open

    def open_unsafe(*arguments: Any, **options: Any) -> Any:
        return opened(*arguments, **{**options, "sync": False})

    lmdb.open = open_unsafe  # type: ignore[assignment]
    os.fdatasync = lambda _descriptor: None  # type: ignore[assignment]


if __name__ == "__main__":
    if "--unsafe" in sys.argv:
        _leave_out_syncs()
    try:
        print(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
    except StoreError as stopped:
        print(f"stopped: {stopped}")
