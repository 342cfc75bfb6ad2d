"""What people see of a model at work: every round while it runs, in `task log --follow`, and the same afterwards."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from tests.standins import standin
from tests.world import World, clean_environment, make_repository

MODEL = "qwen2.5-coder:7b"
PAUSE_S = 4.0  # of the model before its second answer: the first round has to be seen within


def following(world: World, task: int) -> Iterator[str]:
    """The lines of `task log --follow`, as they come."""
    command = [sys.executable, "-u", "-m", "agentcom.cli", "task", "log", str(task), "--follow"]
    with subprocess.Popen(
        command, env=clean_environment(world.home("hub")), stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield from process.stdout
        assert process.wait(20) == 0


def test_every_round_is_streamed_with_its_tool_arguments_result_and_tokens(world: World) -> None:
    make_repository(world.folder / "origin", {"README.md": "hello\n"})
    write = {"name": "write_file", "arguments": {"path": "answer.txt", "content": "42\n" * 40}}
    script = {
        "models": [{"name": MODEL, "capabilities": ["completion", "tools"], "warm": True}],
        "replies": [
            {"content": "I write it.", "tool_calls": [write], "tokens_in": 200, "tokens_out": 20},
            {"content": "I wrote answer.txt.", "tokens_in": 260, "tokens_out": 10, "first_byte_delay_s": PAUSE_S},
        ],
    }
    with standin("ollama", script) as server:
        world.hub()
        world.join("box")
        world.sidecar("box", AGENTCOM_SANDBOX_MODE="auto", AGENTCOM_ENDPOINTS_DISCOVER=server.url)
        origin = str(world.folder / "origin")
        task = world.json("hub", "submit", "put the answer into answer.txt", "--repo", origin)["id"]
        client, states, lines = world.client(), {}, []
        for line in following(world, task):
            lines.append(line.rstrip("\n"))
            states[lines[-1]] = client.task_get(task)["state"]
    first = [line for line in lines if line.startswith("[round 1]")]
    assert first == [
        "[round 1] I write it.",
        "[round 1] 200 tokens in, 20 out",
        "[round 1] write_file path=answer.txt content=(120 characters) -> written answer.txt 120 True",
    ]
    assert [line for line in lines if line.startswith("[round 2]")] == [
        "[round 2] I wrote answer.txt.",
        "[round 2] 260 tokens in, 10 out",
    ]
    assert {states[line] for line in first} == {"working"}, "they are seen while the model works, not after"
    assert client.task_log(task)["text"].splitlines() == lines
