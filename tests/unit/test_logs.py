"""Log lines that are kept and written together look as all others and are redacted as all others."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Iterator

import pytest
import structlog

from agentcom import logs


@pytest.fixture(autouse=True)
def configured(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    logs.configure("hub")  # with the stderr that capsys has put in place
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_kept_lines_are_written_in_order_when_they_are_flushed(capsys: pytest.CaptureFixture[str]) -> None:
    lines = logs.Lines()
    lines.add("task_assigned", task=1)
    lines.add("task_assigned", task=2)
    assert capsys.readouterr().err == ""
    lines.flush()
    written = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(each["event"], each["task"]) for each in written] == [("task_assigned", 1), ("task_assigned", 2)]
    lines.flush()
    assert capsys.readouterr().err == ""


def test_a_kept_line_has_the_fields_of_any_other(capsys: pytest.CaptureFixture[str]) -> None:
    lines = logs.Lines()
    lines.add("task_assigned", task=1)
    lines.flush()
    kept = json.loads(capsys.readouterr().err)
    structlog.wrap_logger(structlog.PrintLogger(sys.stderr)).info("task_assigned", task=1)
    other = json.loads(capsys.readouterr().err)
    assert kept.keys() == other.keys()
    assert {**kept, "timestamp": ""} == {**other, "timestamp": ""}


def test_a_kept_line_shows_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    lines = logs.Lines()
    lines.add("task_assigned", model="sk-ant-0123456789abcdef")
    lines.flush()
    assert "0123456789" not in capsys.readouterr().err


def test_kept_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("hub", "warning")
    lines = logs.Lines()
    lines.add("task_assigned", task=1)
    lines.flush()
    assert capsys.readouterr().err == ""


class Full(io.StringIO):
    """stderr on a full disk."""

    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_line_that_cannot_be_written_raises_nothing_and_is_counted_once_others_can(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = logs.Lines()
    lines.add("task_assigned", task=1)
    lines.add("task_assigned", task=2)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Full())
        logs.get().error("result_not_written", reason="No space left on device")
        lines.flush()
        logs.say("agentcom hub: it ends")
    logs.get().info("first")
    logs.get().info("second")
    written = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [each["event"] for each in written] == ["log_lines_lost", "first", "second"]
    assert (written[0]["count"], written[0]["component"]) == (4, "hub")


@pytest.mark.parametrize("stderr", [None, io.StringIO()], ids=["none", "closed"])
def test_lines_without_a_stderr_are_counted_as_lost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stderr: io.StringIO | None
) -> None:
    if stderr is not None:
        stderr.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        logs.get().info("lost")
    logs.say("said")
    lost, said = capsys.readouterr().err.splitlines()
    assert (json.loads(lost)["event"], json.loads(lost)["count"], said) == ("log_lines_lost", 1, "said")
