"""I11: memory and file are flat while tasks go through, once what is kept has reached its bounds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.soak import BOUNDED, soak

TASKS, SECONDS_MAX = 20_000, 150.0
PER_S = 600.0  # which any machine keeps up with: see `soak` for why a steady rate
# A file of a few MiB rises in steps of what two ticks or a backup leave behind; tasks that stayed would be 20 MiB here.
STEP_MIB = 2.0
SEED = 20_271


@pytest.mark.timeout(300)
def test_twenty_thousand_tasks_leave_memory_and_file_flat_over_the_second_half(tmp_path: Path) -> None:
    report = soak(tmp_path, SECONDS_MAX, SEED, BOUNDED, TASKS, PER_S, STEP_MIB).require()
    through = report.counts["tasks_through"]
    assert isinstance(through, int)
    assert through >= TASKS, f"the machine was too slow for it: {report.line()}"
    assert report.counts["left_open"] == 0
