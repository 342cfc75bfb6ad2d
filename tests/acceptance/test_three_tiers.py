"""One task of each tier goes all the way: submitted, routed, run, verified, with real processes and sockets."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

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


def checks_of(task: dict[str, Any]) -> list[tuple[str, str]]:
    return [(c["kind"], c["status"]) for c in task["result"]["iterations"][-1]["checks"]]


def test_a_trivial_task_runs_its_command_with_zero_tokens(world: World) -> None:
    one_host(world)

    task = world.json(
        "hub", "submit", "write a greeting", "--command", "echo hello > greeting.txt; echo done",
        "--check", "file_exists=greeting.txt", "--check", "command_succeeds=grep -q hello greeting.txt", "--wait",
    )  # fmt: skip

    assert task["state"] == "completed"
    assert (task["tier"], task["tier_source"]) == ("trivial", "command")
    assert task["route"]["strategy"] == "trivial"
    result = task["result"]
    assert (result["status"], result["backend"], result["model"]) == ("verified", "shell", "none")
    assert (result["tokens_in"], result["tokens_out"], result["cost_usd"]) == (0, 0, 0)
    assert result["output"].strip() == "done"
    assert checks_of(task) == [("file_exists", "pass"), ("command_succeeds", "pass")]


def test_a_standard_task_is_done_by_a_model_on_the_routed_endpoint(world: World, tmp_path: Path) -> None:
    make_repository(tmp_path / "origin", {"README.md": "hello\n"})
    write = {"name": "write_file", "arguments": {"path": "answer.txt", "content": "42\n"}}
    script = {
        "models": [{"name": MODEL, "capabilities": ["completion", "tools"], "warm": True}],
        "replies": [
            {"tool_calls": [write], "tokens_in": 200, "tokens_out": 20},
            {"content": "I wrote answer.txt.", "tokens_in": 260, "tokens_out": 10},
        ],
    }
    with standin("ollama", script) as server:
        one_host(world, AGENTCOM_ENDPOINTS_DISCOVER=server.url)
        wait_for_model(world)

        task = world.json(
            "hub", "submit", "put the answer into answer.txt", "--repo", str(tmp_path / "origin"),
            "--check", "file_exists=answer.txt", "--check", "git_clean", "--wait",
        )  # fmt: skip

        calls = [entry["body"] for entry in server.log("/api/chat")]
    assert task["state"] == "completed", task["error"]
    assert task["route"]["strategy"] == "local_llm"
    assert task["route"]["endpoint_url"].rstrip("/") == server.url.rstrip("/")
    result = task["result"]
    assert (result["status"], result["backend"], result["model"]) == ("verified", "ollama", MODEL)
    assert (result["tokens_in"], result["tokens_out"]) == (460, 30)
    assert result["cost_usd"] == 0
    assert result["cloud_model"] == "claude-sonnet-5-5"
    assert result["cloud_cost_usd"] > 0
    assert result["files_changed"] == ["answer.txt"]
    assert result["branch"].startswith(f"agentcom/{task['id']}/1-")
    assert checks_of(task) == [("file_exists", "pass"), ("git_clean", "pass")]
    assert all(call["options"]["num_ctx"] == task["route"]["num_ctx"] for call in calls)
    assert all(call["stream"] for call in calls)


def test_a_complex_task_goes_to_claude_with_its_cost(world: World) -> None:
    script = {"replies": [{"content": "The design is sound.", "tokens_in": 1000, "tokens_out": 100}]}
    with standin("anthropic", script, key="sk-ant-test-key-of-the-host") as server:
        one_host(world, ANTHROPIC_API_KEY="sk-ant-test-key-of-the-host", ANTHROPIC_BASE_URL=server.url)

        task = world.json("hub", "submit", "judge the design", "--tier", "complex", "--wait")

        assert len(server.log("/v1/messages")) == 1
    assert task["state"] == "completed", task["error"]
    assert task["route"]["strategy"] == "cloud_llm"
    result = task["result"]
    assert (result["status"], result["backend"], result["model"]) == (
        "unchecked",
        "claude",
        "claude-opus-5-5",
    )
    assert (result["tokens_in"], result["tokens_out"]) == (1000, 100)
    # 1,000 tokens in at 4 USD and 100 out at 20 USD a million: the price table of the model.
    assert result["cost_usd"] == pytest.approx(0.006)
    assert result["output"] == "The design is sound."


def test_a_model_that_errs_first_is_shown_what_failed_and_mends_it(world: World, tmp_path: Path) -> None:
    make_repository(tmp_path / "origin", {"README.md": "hello\n"})

    def write(content: str) -> dict[str, Any]:
        return {"name": "write_file", "arguments": {"path": "answer.txt", "content": content}}

    script = {
        "models": [{"name": MODEL, "capabilities": ["completion", "tools"], "warm": True}],
        "replies": [
            {"tool_calls": [write("41\n")]},
            {"content": "Done."},
            {"tool_calls": [write("42\n")]},
            {"content": "Mended."},
        ],
    }
    with standin("ollama", script) as server:
        one_host(world, AGENTCOM_ENDPOINTS_DISCOVER=server.url)
        wait_for_model(world)
        task = world.json(
            "hub", "submit", "put the answer into answer.txt", "--repo", str(tmp_path / "origin"),
            "--check", "file_exists=README.md", "--check", "command_succeeds=grep -qx 42 answer.txt", "--wait",
        )  # fmt: skip
        fix = json.dumps(server.log("/api/chat")[2]["body"]["messages"][-1])
    result = task["result"]
    assert result["status"] == "verified", task
    assert [i["status"] for i in result["iterations"]] == ["fail", "pass"]
    assert "grep -qx 42 answer.txt" in fix, "the failing check is fed back"
    assert "README.md" in fix, "what passed is named as to be kept"


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
