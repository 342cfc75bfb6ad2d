"""A full disk degrades the hub and does not kill it."""

from __future__ import annotations

from pathlib import Path

from tests.faults.disk_full import fill, fill_small_disk, free_disk, purge_some
from tests.faults.failing_disk import fill_again_and_again

SEED = 20_266


def test_a_full_store_refuses_new_tasks_and_goes_on_with_all_else(tmp_path: Path) -> None:
    """Callers keep trying with tiny tasks, past the time after which a hub looks for room again: the last pages of
    the store are for completions."""
    room = {"FAULTS_MAP_BYTES": str(2 << 20)}
    report = fill(tmp_path, room, purge_some, chars=1000, persist_s=11).require()
    taken = report.counts["taken_before_full"]
    assert isinstance(taken, int)
    assert taken >= 50


def test_a_full_disk_refuses_new_tasks_until_there_is_room(tmp_path: Path) -> None:
    report = fill(tmp_path, {"FAULTS_FILE_BYTES": str(2 << 20)}, free_disk).require()
    taken = report.counts["taken_before_full"]
    assert isinstance(taken, int)
    assert taken >= 50


def test_a_disk_of_two_megabytes_for_store_and_journal_together_refuses_new_tasks_until_there_is_room(
    tmp_path: Path,
) -> None:
    report = fill_small_disk(tmp_path, 2 << 20).require()
    taken = report.counts["taken_before_full"]
    assert isinstance(taken, int)
    assert taken >= 50


def test_a_disk_that_takes_nothing_more_for_a_while_costs_nothing_that_was_promised(tmp_path: Path) -> None:
    report = fill_again_and_again(tmp_path, SEED).require()
    assert report.counts["times_full"] == 4
    assert report.counts["times_refused"] == 3
