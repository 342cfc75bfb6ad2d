"""An agent program does a task from submit to report, with real processes: offered, routed, woken, checked."""

from __future__ import annotations

import json
from pathlib import Path

from tests.standins.agent_program import install
from tests.world import World, eventually, make_repository


def test_a_task_for_a_program_is_done_by_it_and_verified(world: World, tmp_path: Path) -> None:
    make_repository(tmp_path / "origin", {"README.md": "hello\n"})
    told = {"output": "I wrote answer.txt.", "model": "mine-1", "tokens_in": 90, "tokens_out": 9, "cost_usd": 0.25}
    program = install(
        tmp_path / "bin", "mine",
        {"files": {"answer.txt": "41\n"}, "text": "reading the task", "result": told},
        {"files": {"answer.txt": "42\n"}, "text": "mending it", "result": told},
    )  # fmt: skip
    world.hub()
    world.join("box")
    world.sidecar(
        "box",
        AGENTCOM_SANDBOX_MODE="auto",
        AGENTCOM_SANDBOX_ACCEPT_UNISOLATED="true",
        AGENTCOM_PROGRAMS_OFFER="mine",
        AGENTCOM_PROGRAMS_COMMANDS=f"mine={program} {{task_json_file}}",
    )

    client = world.client()

    def is_offered() -> bool:
        return any("program:mine" in host["capabilities"] for host in client.host_list()["hosts"])

    eventually("the program is offered", is_offered)
    done = world.run(
        "hub", "submit", "put the answer into answer.txt", "--repo", str(tmp_path / "origin"), "--wait", "--json",
        "--needs", "program:mine", "--check", "command_succeeds=grep -qx 42 answer.txt",
    )  # fmt: skip
    task = json.loads(done.stdout)
    assert task["state"] == "completed", task["error"]
    assert (task["route"]["strategy"], task["route"]["backend"]) == ("agent_program", "program")
    result = task["result"]
    assert (result["status"], result["program"], result["model"]) == ("verified", "mine", "mine-1")
    assert [each["status"] for each in result["iterations"]] == ["fail", "pass"]
    assert (result["tokens_in"], result["cost_usd"]) == (180, 0.5)
    log = world.run("hub", "task", "log", str(task["id"])).stdout
    assert "reading the task" in log
    assert "mending it" in log
