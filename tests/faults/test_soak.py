"""I11: memory and file are flat while tasks go through, once what is kept has reached its bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak import BOUNDED, soak

TASKS, SECONDS_MAX = 20_000, 150.0
PER_S = 600.0  # which any machine keeps up with: see `soak` for why a steady rate
# The second half's tasks would be 20 MiB if they stayed. What is in use swings by 1.2 MiB at this size, and the file
# rises by as much as is written during the slowest backup: 2 MiB were seen where a disk was busy.
STEPS_MIB = {"used": 2.0, "file": 6.0}
SEED = 20_271


@pytest.mark.timeout(300)
def test_twenty_thousand_tasks_leave_memory_and_file_flat_over_the_second_half(tmp_path: Path) -> None:
    report = soak(tmp_path, SECONDS_MAX, SEED, BOUNDED, TASKS, PER_S, STEPS_MIB).require()
    through = report.counts["tasks_through"]
    assert isinstance(through, int)
    assert through >= TASKS, f"the machine was too slow for it: {report.line()}"
    assert report.counts["left_open"] == 0
