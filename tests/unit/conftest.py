"""A hub that answers the command line by a script."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_hub_requests import FakeHub, task


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    for name in [name for name in os.environ if name.startswith("AGENTCOM_")]:
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    monkeypatch.setenv("AGENTCOM_HOME", str(home))
    fake = FakeHub(home).start()
    fake.answers["submit"] = lambda op: {
        "tasks": [
            {"id": n, "state": "ready", "tier": "standard", "created": True}
            for n, _ in enumerate(op.tasks, 7)
        ]
    }
    fake.answers["task_get"] = lambda op: task(op.task)
    yield fake
    fake.stop()
