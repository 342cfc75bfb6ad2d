"""R8: a cancelled command leaves no process, whatever it has started."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agentcom_sidecar.command import SandboxMode
from tests.faults.cancels import cancels
from tests.isolating import need_isolation

SEED = 20


@pytest.mark.parametrize(("mode", "count"), [("require", 200), ("off", 40)])
def test_r8_of_two_hundred_cancelled_commands_no_process_is_left(
    mode: SandboxMode, count: int, tmp_path: Path
) -> None:
    if mode == "require":
        need_isolation()
    counts = asyncio.run(cancels(count, mode, SEED, tmp_path))
    assert counts["survivors"] == 0, counts
    assert (counts["cancelled"], counts["ended_before"]) == (count, 0), counts
