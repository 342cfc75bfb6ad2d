"""Logs on a disk that takes nothing more, where `agentcom up` has them: hub, worker and supervisor go on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.world import World, eventually

DAEMONS = ("hub", "sidecar", "web")


def test_logs_that_take_nothing_end_no_daemon_and_a_killed_hub_starts_again(world: World) -> None:
    logs = world.home("home") / "logs"
    logs.mkdir(parents=True, mode=0o700)
    logs.parent.chmod(0o700)
    for daemon in DAEMONS:
        (logs / f"{daemon}.log").symlink_to("/dev/full")
    up = world.start("home", "up", "--json", "--http", "127.0.0.1:0", "--hub-port", "0")
    hub = hub_pid(world)
    complete(world)
    os.kill(hub, signal.SIGKILL)
    eventually("the hub starts again", lambda: hub_pid(world) != hub)
    complete(world)
    assert up.process.poll() is None
    assert up.stop() == 0


def hub_pid(world: World) -> int:
    found: int = json.loads(Path(world.home("home") / "run" / "hub.json").read_text())["pid"]
    return found


def complete(world: World) -> None:
    """One task from submit to its end."""
    done = world.json("home", "submit", "say hello", "--command", "echo hello", "--wait")
    assert done["state"] == "completed"
