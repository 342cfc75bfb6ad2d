"""A worker that wakes after its lease has gone to another changes nothing."""

from __future__ import annotations

from pathlib import Path

from tests.faults.zombies import AGENTS, freeze_real, freeze_wire


def test_sidecars_that_wake_after_their_leases_change_nothing(tmp_path: Path) -> None:
    report = freeze_real(tmp_path, lambda leases: leases >= 2 * AGENTS).require()
    assert report.counts["zombie_leases"] == 2 * AGENTS
    assert report.counts["late_results"] == 2 * AGENTS, "each zombie brought something, and it was kept"


def test_hundreds_of_zombies_on_the_wire_change_nothing(tmp_path: Path) -> None:
    report = freeze_wire(tmp_path, lambda leases: leases >= 180).require()
    stale = report.counts["results_stale"]
    assert isinstance(stale, int)
    assert stale >= 90, "late results must have come, or nothing was tried"
