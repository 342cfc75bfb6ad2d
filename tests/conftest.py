"""Fixtures that every kind of test shares."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import isolating
from tests.world import World
from tests.world import world as make_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Homes and real processes of one test; nothing of it is left afterwards."""
    with make_world(tmp_path) as made:
        yield made


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in isolating.summary():
        terminalreporter.write_line(f"isolation: {line}")
