"""Fixtures that every kind of test shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests import isolating
from tests.world import World
from tests.world import world as make_world

# No test judges a time, also not that of one example on a machine that others use.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Homes and real processes of one test; nothing of it is left afterwards."""
    with make_world(tmp_path) as made:
        yield made


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes tells the one that reports which of its tests had commands isolated."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["isolated"] = isolating.ran


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    isolating.ran.extend(getattr(node, "workeroutput", {}).get("isolated", []))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in isolating.summary():
        terminalreporter.write_line(f"isolation: {line}")
