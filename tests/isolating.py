"""Tests that need commands to be isolated: skipped, visibly, where nothing isolates; required where CI says so."""

from __future__ import annotations

import asyncio
import functools
import os
from collections import Counter

import pytest

from agentcom_sidecar.isolation import Isolation
from agentcom_sidecar.sandbox import isolation_of

REQUIRE = "AGENTCOM_REQUIRE_SANDBOX"
ran: list[str] = []  # the tests of this process that had commands isolated, by their ids


@functools.cache
def here() -> Isolation:
    """What isolates commands on this machine, tried out once."""
    return asyncio.run(isolation_of("auto"))


def need_isolation() -> None:
    """Skips the test that calls it, or fails it where AGENTCOM_REQUIRE_SANDBOX=1."""
    found = here()
    if found.holds:
        ran.append(os.environ.get("PYTEST_CURRENT_TEST", "").removesuffix(" (call)").removesuffix(" (setup)"))
        return
    if os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{REQUIRE}=1, and nothing isolates commands here: {found.note}")
    pytest.skip(f"nothing isolates commands here: {found.note}")


def summary() -> list[str]:
    """What to print at the end of a run: how many tests of which file, and each by name where isolation is required."""
    files = Counter(name.partition("::")[0] for name in ran)
    lines = [f"{file}: {count} tests with isolated commands" for file, count in sorted(files.items())]
    return lines + (sorted(ran) if os.environ.get(REQUIRE) == "1" else [])
