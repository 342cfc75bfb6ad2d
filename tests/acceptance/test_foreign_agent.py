"""Any client in any language can join: an agent that knows only docs/protocol.md takes a task and reports it."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

from tests.world import World

AGENT = Path(__file__).with_name("foreign_agent.py")


def test_the_foreign_agent_uses_nothing_of_ours() -> None:
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(AGENT.read_text()))
        for name in ([a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "")])
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    assert imported - set(sys.stdlib_module_names) == {"msgpack", "zmq"}


def test_a_foreign_agent_joins_takes_a_task_and_reports_it(world: World) -> None:
    world.hub()
    code = world.json("hub", "host", "invite")["code"]
    client = world.client()
    task = client.submit(description="for anyone", command="echo from afar")["id"]

    done = subprocess.run(
        [sys.executable, str(AGENT), code], capture_output=True, text=True, timeout=60, cwd=world.folder, check=False
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["verdict"] == "accepted"
    shown = client.wait(task, timeout_s=10)
    assert (shown["state"], shown["route"]["host"]) == ("completed", "foreigner")
    assert shown["result"]["output"] == "from afar\n"
