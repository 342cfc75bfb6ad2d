"""A model that asks: held, answered from the command line, resumed where it stopped, over a restart of both daemons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.acceptance.test_three_tiers import MODEL, wait_for_model
from tests.standins import standin
from tests.world import World, eventually, make_repository


def test_an_answer_resumes_the_task_in_the_same_worktree_after_restarts_of_hub_and_sidecar(
    world: World, tmp_path: Path
) -> None:
    make_repository(tmp_path / "origin", {"README.md": "hello\n"})

    def call(name: str, **arguments: Any) -> dict[str, Any]:
        return {"name": name, "arguments": arguments}

    script = {
        "models": [{"name": MODEL, "capabilities": ["completion", "tools"], "warm": True}],
        "replies": [
            {"tool_calls": [call("write_file", path="a.txt", content="1\n"), call("ask", question="Which answer?")]},
            {"tool_calls": [call("write_file", path="b.txt", content="42\n"), call("finish", summary="Written.")]},
        ],
    }
    with standin("ollama", script) as server:
        found = {"AGENTCOM_SANDBOX_MODE": "auto", "AGENTCOM_ENDPOINTS_DISCOVER": server.url}
        hub = world.hub()
        world.join("box")
        sidecar = world.sidecar("box", **found)
        wait_for_model(world)
        task = world.json("hub", "submit", "write the answer", "--repo", str(tmp_path / "origin"),
                          "--check", "file_exists=a.txt", "--check", "file_exists=b.txt")  # fmt: skip
        number = str(task["id"])
        eventually("it asks", lambda: world.json("hub", "task", "show", number)["state"] == "held")
        sidecar.kill()
        hub.kill()
        world.hub(AGENTCOM_HUB_PORT=hub.ready["hub"].rpartition(":")[2])
        world.sidecar("box", **found)
        assert world.json("hub", "task", "show", number)["question"]["text"] == "Which answer?"
        world.json("hub", "task", "answer", number, "42")
        eventually("it is done", lambda: world.json("hub", "task", "show", number)["state"] == "completed")
        done = world.json("hub", "task", "show", number)
        said = [each["content"] for each in server.log("/api/chat")[-1]["body"]["messages"] if each["role"] == "user"]
    assert (done["result"]["status"], done["attempt"]) == ("verified", 2)
    assert done["result"]["files_changed"] == ["a.txt", "b.txt"]
    assert said[-1] == "The answer to your question:\n42"
    assert "write_file path=b.txt" in world.run("hub", "task", "log", number).stdout
