"""I1 and I3: an acknowledged batch survives a power cut, whole, with its indexes, and the start says the truth."""

from __future__ import annotations

from pathlib import Path

from tests.faults.hub_power_loss import try_hub_images
from tests.faults.power_loss import try_images

IMAGES = 2000
HUB_IMAGES, STARTED = 400, 5
SEED = 20261


def test_every_acknowledged_batch_survives_a_power_cut_after_any_change_to_the_disk(tmp_path: Path) -> None:
    report = try_images(tmp_path, SEED, IMAGES).require()
    assert report.counts["images"] == IMAGES
    # The cuts bite: most found batches in the journal only. It is ahead of the store, so none asks for a backup.
    assert int(report.counts["brought_forward"] or 0) > IMAGES / 2
    assert report.counts["needs_backup"] == 0


def test_what_a_hub_has_told_survives_a_power_cut_after_any_change_to_its_home(tmp_path: Path) -> None:
    report = try_hub_images(tmp_path, SEED, HUB_IMAGES, STARTED).require()
    assert report.counts["images"] == HUB_IMAGES
    assert report.counts["started_hubs"] == STARTED
    assert int(report.counts["promises"] or 0) > 300
    assert int(report.counts["brought_forward"] or 0) > 0


def test_the_rig_finds_what_a_store_without_sync_loses(tmp_path: Path) -> None:
    report = try_images(tmp_path, SEED, 200, unsafe=True).tell()
    assert len(report.violations) > 20
