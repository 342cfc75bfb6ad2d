"""I4: damage is never silent, and kills no hub. I5: a damaged store comes back whole from backup and journal."""

from __future__ import annotations

from pathlib import Path

from tests.faults.damage import try_damages, try_restores

SEED = 20264


def test_no_damage_to_the_file_is_silent(tmp_path: Path) -> None:
    report = try_damages(tmp_path, SEED, 500).require()
    assert report.counts["silent"] == 0
    assert int(report.counts["found"] or 0) > 250
    assert int(report.counts["brought_forward"] or 0) > 0


def test_a_damaged_store_is_restored_to_its_last_batch(tmp_path: Path) -> None:
    report = try_restores(tmp_path, SEED, 20).require()
    assert report.counts["batches_lost"] == 0
    assert int(report.counts["batches_replayed"] or 0) > 0
