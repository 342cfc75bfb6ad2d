"""The hub's benchmark runs whole, with real processes, and leaves none behind. Its figures are not judged."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import psutil
import pytest

from agentcom.messages import decode_to_hub
from bench import hub

IMPLS = ["echo", "submit", "end_to_end"]


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "IN_FLIGHT", (1, 8))
    monkeypatch.setattr(hub, "SYNCS", 2)


def test_each_implementation_has_a_row_for_each_number_in_flight(
    brief: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = hub.main(["--json", "--quick", "--seconds", "0.05", "--agents", "2", "--dir", str(tmp_path)])

    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert set(document) == {"rows", "machine", "commit"}
    rows = document["rows"]
    assert [(row["in_flight"], row["impl"]) for row in rows] == [(n, impl) for n in (1, 8) for impl in IMPLS]
    for row in rows:
        assert list(row) == list(hub.Row.__annotations__)
        assert row["per_s"] > 0
        assert 0 < row["p50_us"] <= row["p99_us"]
        assert row["fdatasync_us"] > 0
    assert [row["ratio_to_echo"] for row in rows if row["impl"] == "echo"] == [1, 1]
    assert list(tmp_path.iterdir()) == []
    assert psutil.Process().children(recursive=True) == []


def test_an_echoed_message_and_a_submit_have_the_same_size() -> None:
    body = hub.submit_body(b"s" * 16)
    assert len(body) == hub.BODY_BYTES
    decode_to_hub(body)


def test_a_process_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        stage = hub.Stage(tmp_path, stack)
        with pytest.raises(RuntimeError, match="invite_secret"):
            stage._start("-m", "bench.consumer", "host", order={"name": "nowhere"})


def test_an_answer_that_is_no_echo_ends_the_run(tmp_path: Path) -> None:
    """A refusal must not count as a submit."""
    with contextlib.ExitStack() as stack:
        stage = hub.Stage(tmp_path, stack)
        echo = stage.echo()
        with pytest.raises(RuntimeError, match="the answer is"):
            hub.pipeline(echo._socket, b"hello", 1, 0.01, b"\x83")
