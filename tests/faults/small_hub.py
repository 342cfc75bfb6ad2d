"""The real hub with little room: FAULTS_MAP_BYTES bounds its store, FAULTS_FILE_BYTES every file that it writes.

The second is RLIMIT_FSIZE with its hard limit left open: the test takes it away again while the hub runs, as when
somebody frees a full disk. A setting cannot do this: its smallest map is 1 GiB.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from agentcom import config, hub_daemon
from agentcom.store.lmdb_store import LmdbStore


def bound_map(map_bytes: int) -> None:
    """Every store of this process gets a map of so many bytes."""
    make = LmdbStore.__init__

    def bounded(store: LmdbStore, path: Path | str, **options: Any) -> None:
        make(store, path, **(options | {"map_bytes": map_bytes}))

    setattr(LmdbStore, "__init__", bounded)  # noqa: B010 - mypy refuses the plain assignment


def main() -> int:
    map_bytes = int(os.environ.get("FAULTS_MAP_BYTES", "0"))
    if map_bytes:
        bound_map(map_bytes)
    file_bytes = int(os.environ.get("FAULTS_FILE_BYTES", "0"))
    if file_bytes:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))
    home = config.Home(config.home_path()).prepare()
    return hub_daemon.main(home, config.load(home.path))


if __name__ == "__main__":
    sys.exit(main())
