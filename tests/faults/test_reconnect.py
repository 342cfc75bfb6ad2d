"""All hosts come back after a restart of the hub, within a bound, with what they were doing."""

from __future__ import annotations

from pathlib import Path

from tests.faults.storm import storm


def test_r24_fifty_hosts_come_back_with_their_work_after_a_restart_of_the_hub(tmp_path: Path) -> None:
    report = storm(tmp_path, hosts=50, restarts=1).require()
    assert report.counts["tasks"] == 50
    assert report.counts["duplicates"] == 0
