"""The hub's benchmark runs whole, with real processes, and leaves none behind. Its figures are not judged."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import psutil
import pytest

from agentcom.messages import decode_to_hub
from bench import flushes, gauges, hub
from bench.stage import Stage

IMPLS = ["plain", "echo", "submit", "end_to_end"]


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "IN_FLIGHT", (1, 8))
    monkeypatch.setattr(gauges, "SYNCS", 2)
    monkeypatch.setattr(gauges, "COMMITS", 2)


def test_each_implementation_has_a_row_for_each_number_in_flight(
    brief: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = psutil.Process().children(recursive=True)
    quick = ["--json", "--quick", "--seconds", "0.05", "--agents", "2", "--sidecars", "3"]
    code = hub.main([*quick, "--dir", str(tmp_path)])

    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert set(document) == {"rows", "idle", "pairs", "goals", "flushes", "machine", "commit"}
    assert [(row["sidecars"], row["carries"]) for row in document["idle"]] == [(3, "nothing"), (3, "figures")]
    assert all(list(row) == list(hub.idle.IdleRow.__annotations__) for row in document["idle"])
    rows = document["rows"]
    assert [(row["in_flight"], row["impl"]) for row in rows] == [(n, impl) for n in (1, 8) for impl in IMPLS]
    for row in rows:
        assert list(row) == list(hub.Row.__annotations__)
        assert row["per_s"] > 0
        assert row["cpu_us"] > 0
        assert 0 < row["p50_us"] <= row["p99_us"]
        assert row["fdatasync_us"] > 0
        assert row["lmdb_commit_us"] > 0
        assert (row["flushes"] is None) is (row["impl"] in ("plain", "echo"))
        assert (row["start_p50_us"] is None) is (row["impl"] != "end_to_end")
    assert [row["ratio_to_echo"] for row in rows if row["impl"] == "echo"] == [1, 1]
    assert document["flushes"]["of_design"] > 0.5
    assert list(document["pairs"]) == list(hub.Pairs.__annotations__)
    assert min(document["pairs"].values()) > 0
    assert [goal["goal"][:2] for goal in document["goals"]] == ["P9", "P4"]
    assert list(tmp_path.iterdir()) == []
    assert psutil.Process().children(recursive=True) == before


def test_one_row_alone_has_no_ratio_and_a_profile_is_kept(
    brief: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "profile"
    arguments = ["--quick", "--seconds", "0.05", "--only", "submit", "--in-flight", "4"]
    assert hub.main([*arguments, "--dir", str(tmp_path), "--profile", str(kept)]) == 0

    text = capsys.readouterr().out
    assert "function calls" in text
    assert [path.name for path in kept.iterdir()] == ["submit.pstats"]
    plan = hub.plan_of(hub.options_of(["--only", "submit", "--in-flight", "4"]))
    assert (plan.impls, plan.in_flight) == (("submit",), (4,))


def test_goals_are_told_with_their_floors_and_whether_they_hold() -> None:
    def row(impl: str, in_flight: int, **figures: float) -> hub.Row:
        plain = dict.fromkeys(hub.Row.__annotations__, None)
        return hub.Row(**{**plain, "impl": impl, "in_flight": in_flight, **figures})  # type: ignore[typeddict-item]

    rows = [
        row("submit", 1000, ratio_to_echo=0.2, flushes=0.006),
        row("submit", 64, flushes=0.05),
        row("plain", 1000, ratio_to_echo=2),
    ]
    pairs = hub.Pairs(tasks=9, start_p50_us=1001, lmdb_commit_us=300)
    assert [(goal["goal"][:2], goal["bound"], goal["holds"]) for goal in hub.goals(rows, pairs)] == [
        ("P1", 0.12, True),
        ("P9", 0.6, False),
        ("P4", 1000, False),
        ("P5", 0.06, True),
        ("P5", 0.005, False),
    ]


def test_idle_sidecars_have_a_goal_when_there_are_enough_of_them() -> None:
    def row(sidecars: int, cpu_percent: float) -> hub.idle.IdleRow:
        figures = {"cpu_percent": cpu_percent, "main_percent": 1, "us_per_beat": 1, "over_s": 1}
        return hub.idle.IdleRow(sidecars=sidecars, carries="nothing", **figures)  # type: ignore[typeddict-item]

    goals = hub.idle.goals([row(500, 4.9), row(500, 5.1), row(499, 1)])
    assert [(goal["goal"][:3], goal["holds"]) for goal in goals] == [("P10", True), ("P10", False)]


def test_a_write_to_a_synced_file_is_a_flush_and_a_plain_write_is_none() -> None:
    synced = frozenset({7})
    assert flushes.is_flush('4242 pwrite64(7, "head"..., 120, 4152) = 120\n', synced)
    assert flushes.is_flush("4242 fdatasync(6 <unfinished ...>\n", synced)
    assert flushes.is_flush("msync(0x7f0000000000, 4096, MS_SYNC) = 0\n", synced)
    assert not flushes.is_flush("4242 <... fdatasync resumed>) = 0\n", synced)
    assert not flushes.is_flush('4242 pwrite64(6, "page"..., 4096, 8192) = 4096\n', synced)
    assert not flushes.is_flush("--- SIGCHLD {si_signo=SIGCHLD} ---\n", synced)


def test_a_file_opened_with_o_dsync_is_found_as_synced(tmp_path: Path) -> None:
    plain = os.open(tmp_path / "plain", os.O_WRONLY | os.O_CREAT)
    synced = os.open(tmp_path / "synced", os.O_WRONLY | os.O_CREAT | os.O_DSYNC)
    try:
        found = flushes.synced_files(os.getpid())
        assert synced in found
        assert plain not in found
    finally:
        os.close(plain)
        os.close(synced)


def test_an_echoed_message_and_a_submit_have_the_same_size() -> None:
    body = hub.submit_body(b"s" * 16)
    assert len(body) == hub.BODY_BYTES
    decode_to_hub(body)


def test_a_process_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        stage = Stage(tmp_path, stack)
        with pytest.raises(RuntimeError, match="invite_secret"):
            stage.start("-m", "bench.consumer", "host", order={"name": "nowhere"})


def test_an_answer_that_is_no_echo_ends_the_run(tmp_path: Path) -> None:
    """A refusal must not count as a submit."""
    with contextlib.ExitStack() as stack:
        echo = hub.Echo(Stage(tmp_path, stack))
        with pytest.raises(RuntimeError, match="the answer is"):
            hub.pipeline(echo._socket, b"hello", 1, 0.01, b"\x83")
