"""Tests that need commands to be isolated: skipped, visibly, where nothing isolates; required where CI says so."""

from __future__ import annotations

import asyncio
import functools
import os

import pytest

from agentcom_sidecar.isolation import Isolation
from agentcom_sidecar.sandbox import isolation_of

REQUIRE = "AGENTCOM_REQUIRE_SANDBOX"


@functools.cache
def here() -> Isolation:
    """What isolates commands on this machine, tried out once."""
    return asyncio.run(isolation_of("auto"))


def need_isolation() -> None:
    """Skips the test that calls it, or fails it where AGENTCOM_REQUIRE_SANDBOX=1."""
    found = here()
    if found.holds:
        return
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{REQUIRE}=1, and nothing isolates commands here: {found.note}")
    pytest.skip(f"nothing isolates commands here: {found.note}")
