"""A full disk degrades the hub and does not kill it."""

from __future__ import annotations

from pathlib import Path

from tests.faults.disk_full import fill, free_disk, purge_some


def test_a_full_store_refuses_new_tasks_and_goes_on_with_all_else(tmp_path: Path) -> None:
    """Callers keep trying with tiny tasks, past the time after which a hub looks for room again: the last pages of
    the store are for completions."""
    report = fill(tmp_path, {"FAULTS_MAP_BYTES": str(1 << 20)}, purge_some, chars=1, persist_s=11).require()
    taken = report.counts["taken_before_full"]
    assert isinstance(taken, int)
    assert taken >= 50


def test_a_full_disk_refuses_new_tasks_until_there_is_room(tmp_path: Path) -> None:
    report = fill(tmp_path, {"FAULTS_FILE_BYTES": str(2 << 20)}, free_disk).require()
    taken = report.counts["taken_before_full"]
    assert isinstance(taken, int)
    assert taken >= 50
