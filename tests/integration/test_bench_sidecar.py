"""The benchmark of the sidecar's door runs whole. Its figures are not judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import sidecar
from tests.isolating import here


def test_each_way_to_start_a_command_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = sidecar.main(["--json", "--quick", "--dir", str(tmp_path)])

    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert set(document) == {"rows", "worktree", "throughput", "isolation", "guard", "goals", "machine", "commit"}
    expected = ["bare", "door_off"]
    if here().holds:
        expected = ["bare", "bubblewrap", "door_bubblewrap", "door_off"]
        assert [goal["goal"][:3] for goal in document["goals"]] == ["P12"] * 3
    assert [row["way"] for row in document["rows"]] == expected
    for row in document["rows"]:
        assert list(row) == list(sidecar.Row.__annotations__)
        assert 0 < row["median_ms"] <= row["p95_ms"]
        assert row["cpu_ms"] > 0
    assert document["worktree"]["new_ratio"] > 0
    assert document["worktree"]["spare_ratio"] > 0
    assert document["throughput"]["agents"] == 8
    assert document["throughput"]["tasks_per_s"] > 0
    assert list(tmp_path.iterdir()) == []
