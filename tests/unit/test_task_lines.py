"""How a task stands in the lines of `task list` and `task show`."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom.cli.command import Invocation
from agentcom.cli.task import row, show_task

TASK: dict[str, Any] = {
    "id": 7, "description": "mend it", "state": "working", "stalled": False, "lane": "normal", "tier": "trivial",
    "tier_source": "explicit", "inferred_tier": "trivial", "expires_at": "2026-01-01T00:00:00.000Z",
}  # fmt: skip


def shown(capsys: pytest.CaptureFixture[str], **fields: Any) -> str:
    show_task(Invocation(), {**TASK, **fields})
    return capsys.readouterr().out


def test_an_attempt_that_gets_nowhere_is_seen_in_list_and_task(capsys: pytest.CaptureFixture[str]) -> None:
    assert row(TASK)[1] == "working"
    assert row({**TASK, "stalled": True})[1] == "working, stalled"
    assert "task 7  working\n" in shown(capsys)
    assert "task 7  working, stalled\n" in shown(capsys, stalled=True)


def test_of_work_that_runs_the_time_to_live_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "; not while it runs" in shown(capsys)
    assert "; not while it runs" not in shown(capsys, state="ready")
