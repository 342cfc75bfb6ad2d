"""The benchmark of deep queues runs whole, with real processes, and leaves none behind. Its figures are not
judged."""

from __future__ import annotations

import json
from pathlib import Path

import psutil
import pytest

from bench import depth


def test_both_hubs_have_a_row_and_each_way_to_end_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = psutil.Process().children(recursive=True)
    code = depth.main(["--json", "--quick", "--tasks", "1500", "--dir", str(tmp_path)])

    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert set(document) == {"rows", "fill", "restarts", "goals", "machine", "commit"}
    assert [row["waiting"] for row in document["rows"]] == [0, 1500]
    for row in document["rows"]:
        assert list(row) == list(depth.Row.__annotations__)
        assert min(row["per_s"], row["cpu_us"], row["ticks_per_s"], row["anonymous_mb"]) > 0
    assert document["fill"]["tasks"] == 1500
    assert [end["ended"] for end in document["restarts"]] == ["stopped", "killed"]
    for end in document["restarts"]:
        assert list(end) == list(depth.Restart.__annotations__)
        assert 0 < end["ready_s"] <= end["assigned_s"]
    assert [goal["goal"][:2] for goal in document["goals"]] == ["P8", "P8", "P8"]
    assert list(tmp_path.iterdir()) == []
    assert psutil.Process().children(recursive=True) == before


def test_the_goals_are_for_the_worst_of_the_deep_hub_s_figures() -> None:
    def row(waiting: int, cpu_us: float, anonymous_mb: int) -> depth.Row:
        return depth.Row(
            waiting=waiting,
            per_s=1,
            cpu_us=cpu_us,
            ticks_per_s=1,
            idle_ms_per_s=0,
            anonymous_mb=anonymous_mb,
            file_mb=10,
            fdatasync_us=1,
        )

    def end(assigned_s: float, anonymous_mb: int) -> depth.Restart:
        return depth.Restart(
            ended="killed",
            waiting=5,
            ready_s=1,
            assigned_s=assigned_s,
            anonymous_mb=anonymous_mb,
            file_mb=20,
        )

    goals = depth.goals([row(0, 100, 900), row(5, 125, 300)], [end(2, 490), end(6, 100)])
    assert [(goal["measured"], goal["bound"], goal["holds"]) for goal in goals] == [
        (1.25, 1.2, False),
        (510, 500, False),
        (6, 5, False),
    ]


def test_fillers_take_the_lanes_in_turn_and_each_tenth_cannot_run() -> None:
    tasks = [depth.filler(n) for n in range(40)]
    assert {task.lane: sum(1 for one in tasks if one.lane is task.lane) for task in tasks} == dict.fromkeys(
        depth.LANES, 10
    )
    assert sum(1 for task in tasks if task.needs) == 4
