"""Phase 17, enriched task format: its success criteria, with real processes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentcom.client import Client
from agentcom.model import TaskSpec
from tests.world import World, make_repository


@pytest.fixture
def client(world: World) -> Client:
    world.hub()
    world.join("box")
    world.sidecar("box")
    return world.client()


def enriched(repo: Path) -> dict[str, Any]:
    make_repository(repo, {"a.txt": "a\n"})
    return {
        "description": "do it",
        "repo": str(repo),
        "branch": "main",
        "files": [{"path": "a.txt", "reason": "the first"}],
        "success_criteria": ["a.txt is there"],
        "checks": [{"kind": "file_exists", "target": "a.txt", "timeout_s": 300}],
        "command": "true",
    }


def run(client: Client, **fields: Any) -> dict[str, Any]:
    return client.wait(client.submit(**fields)["id"], timeout_s=60)


def test_phase_17_1_repo_branch_and_files_arrive_at_the_sidecar_intact(
    client: Client, tmp_path: Path
) -> None:
    fields = enriched(tmp_path / "origin")
    done = run(client, **fields)
    sent = {**fields, "idempotency_key": done["idempotency_key"]}
    digest = hashlib.sha256(msgspec.msgpack.encode(msgspec.convert(sent, TaskSpec))).hexdigest()
    assert done["result"]["spec_sha256"] == digest


def test_phase_17_2_criteria_and_checks_go_through_the_whole_pipeline(client: Client, tmp_path: Path) -> None:
    fields = enriched(tmp_path / "origin")
    done = run(client, **fields)
    assert done["success_criteria"] == fields["success_criteria"]
    assert [(c["kind"], c["target"]) for c in done["checks"]] == [("file_exists", "a.txt")]
    assert [c["status"] for c in done["result"]["iterations"][-1]["checks"]] == ["pass"]


def test_phase_17_3_an_explicit_tier_is_carried_through_assignment(client: Client) -> None:
    done = run(client, description="design the whole of it", command="true", tier="trivial")
    assert (done["tier"], done["tier_source"]) == ("trivial", "explicit")
    assert (done["route"]["tier"], done["route"]["reason"]) == ("trivial", "explicit_tier")


def test_phase_17_4_a_task_without_a_tier_gets_an_inferred_one(client: Client) -> None:
    plain = client.submit(description="Say something")["id"]
    hard = client.submit(
        description="Redesign the architecture of the scheduler, migrate the database and refactor every module"
    )["id"]
    assert [client.task_get(one)["tier_source"] for one in (plain, hard)] == ["inferred", "inferred"]
    assert [client.task_get(one)["tier"] for one in (plain, hard)] == ["standard", "complex"]
    assert client.task_why(hard)["classification"]["signals"] != []


def test_phase_17_5_a_task_without_any_of_it_works_unchanged(client: Client) -> None:
    done = run(client, description="say hello", command="echo hello")
    assert (done["state"], done["result"]["output"].strip()) == ("completed", "hello")
