"""I4: damage is never silent, and kills no hub. I5: a damaged store comes back whole from backup and journal."""

from __future__ import annotations

from pathlib import Path

from tests.faults.damage import try_damages, try_home_damages, try_restores
from tests.faults.hub_damage import try_cli_restores, try_hub_starts
from tests.faults.restore_cuts import try_restore_cuts

SEED = 20264
DAMAGES, HOMES, STARTS, RESTORES, CUTS = 500, 300, 25, 20, 150


def test_no_damage_to_the_file_is_silent(tmp_path: Path) -> None:
    report = try_damages(tmp_path, SEED, DAMAGES).require()
    assert report.counts["damages"] == DAMAGES
    assert report.counts["silent"] == 0
    assert int(report.counts["found"] or 0) > DAMAGES // 2
    assert int(report.counts["brought_forward"] or 0) > 0


def test_no_damage_to_store_journal_backups_and_notes_together_is_silent(tmp_path: Path) -> None:
    report = try_home_damages(tmp_path, SEED, HOMES).require()
    assert report.counts["silent"] == 0
    assert int(report.counts["found"] or 0) > HOMES // 20


def test_a_hub_started_on_a_damaged_home_shows_all_or_says_what_is_missing(tmp_path: Path) -> None:
    report = try_hub_starts(tmp_path, SEED, STARTS).require()
    assert report.counts["damages"] == STARTS
    assert report.counts["silent"] == report.counts["aborts"] == 0


def test_a_damaged_store_is_restored_to_its_last_batch(tmp_path: Path) -> None:
    report = try_restores(tmp_path, SEED, RESTORES).require()
    assert report.counts["batches_lost"] == 0
    assert int(report.counts["batches_replayed"] or 0) > 0


def test_a_restore_that_is_cut_off_anywhere_is_finished_by_the_next_start(tmp_path: Path) -> None:
    report = try_restore_cuts(tmp_path, SEED, CUTS).require()
    assert report.counts["images"] == CUTS
    assert int(report.counts["restored_again"] or 0) > CUTS // 2


def test_a_person_restores_a_damaged_home_and_the_hub_shows_every_task_as_it_was(tmp_path: Path) -> None:
    report = try_cli_restores(tmp_path, SEED, RESTORES).require()
    assert report.counts["restored"] == RESTORES
    assert report.counts["tasks_lost"] == 0
    assert int(report.counts["batches_replayed"] or 0) > 0
