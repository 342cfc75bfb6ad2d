"""A stand-in for Ollama that the tests of one module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.standins import StandIn, standin


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with standin("ollama") as running:
        yield running
