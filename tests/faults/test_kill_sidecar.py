"""A sidecar that is killed at any step leaves no process behind, and its task completes."""

from __future__ import annotations

from pathlib import Path

from tests.faults.crashing_sidecar import STEPS
from tests.faults.sidecar_kills import crash_at_each_step, kill_at_random

KILLS = 4


def test_r1_a_kill_at_each_step_of_the_protocol_loses_and_repeats_nothing(tmp_path: Path) -> None:
    report = crash_at_each_step(tmp_path).require()
    assert report.counts["kills"] == len(STEPS) + 1
    for step in ("result_on_disk", "before_result", "after_result", "before_ack", "after_ack"):
        assert report.counts[f"attempts_{step}"] == 1, f"{step}: a result on disk is not made again"
    assert report.counts["attempts_running"] == 2


def test_kills_at_random_moments_lose_and_repeat_nothing(tmp_path: Path) -> None:
    report = kill_at_random(tmp_path, lambda kills: kills >= KILLS, seed=20_004).require()
    kills, tasks = report.counts["kills"], report.counts["tasks"]
    assert isinstance(kills, int)
    assert isinstance(tasks, int)
    assert kills == KILLS
    assert tasks >= 4 * kills
