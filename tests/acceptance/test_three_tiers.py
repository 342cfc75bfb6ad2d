"""What a task carries, from little to all there is, goes all the way with real processes and sockets; the tiers are in
test_phase_20.py."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec

from agentcom.model import TaskSpec
from tests.standins import standin
from tests.world import World, eventually, make_repository

MODEL = "qwen2.5-coder:7b"


def one_host(world: World, **environment: str) -> None:
    world.hub()
    world.join("box")
    world.sidecar("box", **{"AGENTCOM_SANDBOX_MODE": "auto", **environment})


def wait_for_model(world: World, model: str = MODEL) -> None:
    def found() -> bool:
        endpoints = world.json("hub", "endpoint", "list")["endpoints"]
        return any(e["healthy"] and any(m["name"] == model for m in e["models"]) for e in endpoints)

    eventually(f"an endpoint with {model} is healthy", found)


def test_what_a_task_carries_arrives_unchanged_over_every_door(world: World, tmp_path: Path) -> None:
    """Repository, branch, files with reasons, criteria and checks, byte for byte, into the sidecar's hands."""
    repo = tmp_path / "origin"
    make_repository(repo, {"a.txt": "a\n", "naïve 名.txt": "b\n"})
    fields: dict[str, Any] = {
        "description": "do it — «quoted» ✓\n\twith a second line",
        "repo": str(repo),
        "branch": "main",
        "files": [{"path": "a.txt", "reason": "the ä first"}, {"path": "naïve 名.txt", "reason": ""}],
        "success_criteria": ["it works ✓", "nothing else  changes "],
        "checks": [
            {"kind": "file_exists", "target": "naïve 名.txt", "timeout_s": 300, "expect": "", "command": ""},
            {
                "kind": "command_succeeds",
                "target": "test  -f 'a.txt' && echo \"ok ✓\"",
                "timeout_s": 300,
                "expect": "",
                "command": "",
            },
        ],
        "command": "true",
        "labels": ["über"],
    }
    one_host(world)
    lines = world.folder / "tasks.jsonl"
    lines.write_text(json.dumps(fields, ensure_ascii=False) + "\n")
    by_cli = world.json("hub", "submit", "--from", str(lines), "--wait")
    by_client = world.client()
    taken = by_client.submit(**fields)
    by_python = by_client.wait(taken["id"], timeout_s=30)
    first = by_cli[0] if isinstance(by_cli, list) else by_cli.get("tasks", [by_cli])[0]
    for task in (first, by_python):
        sent = {
            **fields,
            "idempotency_key": task["idempotency_key"],
        }  # the client adds one, so that it may repeat
        digest = hashlib.sha256(msgspec.msgpack.encode(msgspec.convert(sent, TaskSpec))).hexdigest()
        assert {name: task[name] for name in fields} == fields
        assert task["result"]["status"] == "verified", task["result"]
        assert task["result"]["spec_sha256"] == digest, "the sidecar held the very same bytes"


def test_a_task_with_nothing_but_a_description_works(world: World) -> None:
    script = {"models": [{"name": MODEL, "warm": True}], "replies": [{"content": "A fine answer."}]}
    with standin("ollama", script) as server:
        one_host(world, AGENTCOM_ENDPOINTS_DISCOVER=server.url)
        wait_for_model(world)
        task = world.json("hub", "submit", "say something fine", "--wait")
    assert task["state"] == "completed", task["error"]
    assert task["tier_source"] == "inferred"
    assert task["result"]["output"] == "A fine answer."
    assert task["result"]["status"] == "unchecked"
