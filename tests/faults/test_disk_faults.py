"""I15 and I16: a disk that is full or fails, at call after call. What was acknowledged is there afterwards, what
was refused is not, and after an error at a sync nothing more is acknowledged."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.faults.failing_disk import fail_for_good
from tests.faults.image_checker import check
from tests.faults.power_loss import BATCHES
from tests.faults.recorder import compile_shim, run_watched
from tests.faults.report import Report
from tests.faults.store_workload import digest
from tests.faults.store_writer import MARKS, workload

SEED = 20265
ENDS = ("done", "full", "stopped")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="module")
def digests() -> list[str]:
    script = workload(SEED)
    return [digest(script.rows), *(digest(script.rows) for _ in script.batches(BATCHES))]


@pytest.mark.parametrize(
    ("row", "kind", "error", "calls"),
    [
        ("I15", "write", errno.ENOSPC, range(3, 900, 45)),
        ("I15", "create", errno.ENOSPC, range(1, 9)),
        ("I16", "write", errno.EIO, range(3, 900, 90)),
        ("I16", "sync", errno.EIO, range(1, 70, 5)),
        ("I16", "sync_folder", errno.EIO, range(1, 12, 2)),
    ],
)
def test_a_failing_disk_costs_nothing_that_was_acknowledged(
    tmp_path: Path, shim: Path, digests: list[str], row: str, kind: str, error: int, calls: range
) -> None:
    report = Report(row, f"{errno.errorcode[error]} at every {kind} from the n-th on", SEED)
    for n in calls:
        home = tmp_path / str(n)
        home.mkdir()
        # The file of the marks is not part of the store: it must be written for the test to know them.
        fail = f"{kind}:{n}:{error}:{home / 'store'}"
        run = run_watched(shim, home, "tests.faults.store_writer", home, SEED, BATCHES, fail=fail)
        ended = run.stdout.partition(":")[0].strip()
        assert ended in ENDS, f"{fail}: {run.stdout}{run.stderr}"
        acknowledged = len((home / MARKS).read_text().split())
        answer = check(home, acknowledged, digests)
        report.add(faults=1, acknowledged=acknowledged, **{ended: 1, f"start_{answer['how']}": 1})
        report.violations += [f"{fail}, {ended}: {violation}" for violation in answer["violations"]]
    report.require()
    assert int(report.counts.get("full", 0) or 0) + int(report.counts.get("stopped", 0) or 0) > 0


@pytest.mark.parametrize(("kind", "calls"), [("sync", range(1, 60, 5)), ("write", range(1, 500, 60))])
def test_a_hub_whose_disk_fails_stops_and_has_promised_nothing_that_is_not_there(
    tmp_path: Path, kind: str, calls: range
) -> None:
    report = fail_for_good(tmp_path, kind, calls, SEED).require()
    assert report.counts["faults"] == len(calls)
    assert int(report.counts["stopped"] or 0) > len(calls) // 2, "too few hubs got as far as working"
    assert int(report.counts["promises"] or 0) > 0
