"""I19: whatever arrives, lies on the disk or was typed into a file, a decoder refuses it in words or takes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.fuzz import SHARES, try_inputs

INPUTS = 100_000
SEED = 20_269


@pytest.mark.timeout(300)
def test_no_input_of_a_hundred_thousand_crashes_a_decoder(tmp_path: Path) -> None:
    report = try_inputs(tmp_path, SEED, INPUTS).require()
    assert report.counts["inputs"] == INPUTS
    for name in SHARES:
        tried, accepted = report.counts[f"{name}: tried"], report.counts[f"{name}: accepted"]
        assert isinstance(tried, int)
        assert isinstance(accepted, int)
        assert 0 < accepted < tried, f"{name}: all or nothing was accepted: the inputs miss their target"
