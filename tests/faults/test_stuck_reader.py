"""I14, R25: one stuck reader of the feed slows nobody, and gets a snapshot when it reads again."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentcom.feed import SEND_QUEUE
from tests.faults.stuck_reader import stuck_reader


@pytest.mark.timeout(240)
def test_r25_one_stuck_reader_of_fifty_slows_nobody_and_gets_a_snapshot_again(tmp_path: Path) -> None:
    report = stuck_reader(tmp_path, readers=50).require()
    events, late = report.counts["events_to_each"], report.counts["read_late_by_the_stuck"]
    assert isinstance(events, int)
    assert isinstance(late, int)
    assert SEND_QUEUE // 2 < late < events, "it must have been past its queue, and have lost the rest"
