"""Nothing is dropped on the way to a peer that reads slowly, and a peer that does not read harms nobody."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.slow_peer import JUST_TOO_MUCH, STUCK_ASKS, late_reader, slow, stuck


def test_r17_a_slow_peer_gets_every_one_of_ten_thousand_messages_in_order(tmp_path: Path) -> None:
    report = slow(tmp_path, 10_000).require()
    assert report.counts["messages"] == 10_000


@pytest.mark.parametrize("asks", [STUCK_ASKS, JUST_TOO_MUCH])
def test_r17_a_peer_that_never_reads_loses_its_session_and_costs_the_others_nothing(
    tmp_path: Path, asks: int
) -> None:
    stuck(tmp_path, asks).require()


def test_r17_work_sent_to_hosts_that_do_not_read_is_done_by_others_and_once(tmp_path: Path) -> None:
    report = late_reader(tmp_path).require()
    sent = report.counts["sent_to_late_readers"]
    assert isinstance(sent, int)
    assert sent >= 32, "some of the work must have been on its way to them"
