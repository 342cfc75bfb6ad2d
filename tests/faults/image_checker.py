"""A process that starts on one power-loss image after the other, as a hub would, and says what it found.

A line in: {"home": ..., "acknowledged": N}. A line out: {"violations": [...], "how": ..., "applied": N,
"needs_backup": ...}. Used with a seed and a number of batches; it knows what the store must hold after each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentcom.errors import AgentComError
from agentcom.store.check import full_check_here
from agentcom.store.crosscheck import cross_check, walk_store
from agentcom.store.start import OpenedStore, StorePaths, open_store
from tests.faults.recorder import ROOT
from tests.faults.store_workload import digest, rows_of
from tests.faults.store_writer import MAP_BYTES, workload


def check(home: Path, acknowledged: int, digests: list[str]) -> dict[str, Any]:
    try:
        opened = open_store(StorePaths.of_home(home), map_bytes=MAP_BYTES, checker=full_check_here)
    except AgentComError as error:
        return {"violations": [f"does not open: {error}"], "how": "refused"}
    try:
        return {
            "violations": list(_violations(opened, acknowledged, digests)),
            "how": opened.report.how,
            "applied": opened.report.applied,
            "needs_backup": opened.needs_backup,
        }
    finally:
        opened.store.close()


def _violations(opened: OpenedStore, acknowledged: int, digests: list[str]) -> Iterator[str]:
    sequence = opened.store.sequence
    if not acknowledged <= sequence <= acknowledged + 1:
        yield f"the store is at batch {sequence}, {acknowledged} was acknowledged"
    if opened.journal.last != sequence:
        yield f"the journal is at batch {opened.journal.last}, the store at {sequence}"
    if opened.report.how == "restored" or opened.report.uncertain:
        yield f"a power cut damaged the store: {opened.report.notes} {opened.report.uncertain}"
    if sequence < len(digests) and digest(rows_of(opened.store)) != digests[sequence]:
        yield f"the store does not hold what batch {sequence} left"
    count, told = cross_check(walk_store(opened.store))
    if count:
        yield f"{count} records disagree: {told[:3]}"


@contextmanager
def checking_child(seed: int, batches: int) -> Iterator[subprocess.Popen[str]]:
    """The process; whoever reads no answer from it has found an image that killed it."""
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.image_checker", str(seed), str(batches)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def main(seed: int, batches: int) -> None:
    script = workload(seed)
    digests = [digest(script.rows)]
    for _ in script.batches(batches):
        digests.append(digest(script.rows))
    for line in sys.stdin:
        wanted = json.loads(line)
        print(json.dumps(check(Path(wanted["home"]), wanted["acknowledged"], digests)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
