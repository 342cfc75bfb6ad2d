"""A hub under load that is killed again and again keeps what it has promised."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.faults.kill_loop import kill_hub

KILLS, SECONDS_MAX = 60, 500.0  # half a minute on two idle cores
SEED = 20_003


@pytest.mark.timeout(700)
def test_no_acknowledged_task_is_lost_or_done_twice_by_kills_of_the_hub(tmp_path: Path) -> None:
    over = time.monotonic() + SECONDS_MAX
    report = kill_hub(tmp_path, lambda kills: kills >= KILLS or time.monotonic() >= over, SEED)
    report.require()
    for name, least in (("kills", KILLS), ("submits_ok", 100), ("attempts", 100), ("ran_in_real_processes", 1)):
        count = report.counts[name]
        assert isinstance(count, int)
        assert count >= least, f"{name}: too little happened to prove anything: {report.line()}"
