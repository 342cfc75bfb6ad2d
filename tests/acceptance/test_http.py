"""The same hub over HTTP, through the real web process: tasks, endpoints, events, rights."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from agentcom.limits import SSE_STREAMS_MAX
from tests.standins import standin
from tests.world import World, eventually, make_repository

MODEL = "qwen2.5-coder:7b"


@contextmanager
def api(world: World, **environment: str) -> Iterator[httpx2.Client]:
    """`agentcom up` and a client with its admin token."""
    up = world.start("home", "up", "--json", "--http", "127.0.0.1:0", "--hub-port", "0", **environment)
    token = Path(up.ready["token_file"]).read_text().strip()
    headers = {"Authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=up.ready["http"], headers=headers, trust_env=False, timeout=30) as client:
        yield client


def wait_http(client: httpx2.Client, task: int) -> dict[str, Any]:
    final = ("completed", "dead", "cancelled", "expired")

    def ended() -> dict[str, Any] | None:
        shown = client.get(f"/api/v1/tasks/{task}").json()
        return shown if shown["state"] in final else None

    return eventually(f"task {task} is final", ended, seconds=40)


def test_a_task_over_http_arrives_unchanged_and_comes_back_verified(world: World, tmp_path: Path) -> None:
    make_repository(tmp_path / "origin", {"a.txt": "a\n"})
    fields: dict[str, Any] = {
        "description": "do it — «quoted» ✓",
        "repo": str(tmp_path / "origin"),
        "branch": "main",
        "files": [{"path": "a.txt", "reason": "the ä first"}],
        "success_criteria": ["it works ✓"],
        "checks": [{"kind": "file_exists", "target": "a.txt", "timeout_s": 300, "expect": "", "command": ""}],
        "command": "true",
    }
    with api(world) as client:
        made = client.post("/api/v1/tasks", json=fields)
        assert made.status_code == 201, made.text
        task = wait_http(client, made.json()["id"])
        assert {name: task[name] for name in fields} == fields
        assert task["result"]["status"] == "verified"
        assert made.headers["location"] == f"/api/v1/tasks/{task['id']}"
        reports = client.get(f"/api/v1/tasks/{task['id']}/reports").json()
        assert reports["attempts"][0]["result"]["iterations"][0]["status"] == "pass"
        assert client.get("/api/v1/agents").json()["agents"]
        assert client.get("/api/v1/hosts").json()["hosts"][0]["resources"]["ram_total_bytes"] > 0


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"description": "x", "lane": "fast"}, "invalid", "lane"),
        ({"description": "x", "tier": "huge"}, "invalid", "tier"),
        ({"description": "x", "checks": [{"kind": "looks_good"}]}, "unknown_check", "checks[0].kind"),
        ({"description": "x", "max_retries": -1}, "invalid", "max_retries"),
        ({"description": "x", "tier": "trivial"}, "command_required", "tasks[0].command"),
        ({"description": "x", "files": [{"path": "../x"}]}, "path_outside", "tasks[0].files[0].path"),
    ],
)
def test_bad_tasks_are_refused_by_field(world: World, fields: dict[str, Any], code: str, field: str) -> None:
    with api(world) as client:
        refused = client.post("/api/v1/tasks", json=fields)
        problem = refused.json()
        assert refused.status_code in (400, 422), refused.text
        assert refused.headers["content-type"].startswith("application/problem+json")
        assert (problem["code"], problem["field"].removeprefix("tasks[0].")) == (
            code,
            field.removeprefix("tasks[0]."),
        )
        assert problem["detail"]
        assert (
            client.post("/api/v1/tasks", json={"description": "fine", "command": "true"}).status_code == 201
        )


def test_an_endpoint_is_registered_over_http_and_seen_with_its_models(world: World) -> None:
    with standin("ollama", {"models": [{"name": MODEL, "warm": True}]}) as server, api(world) as client:
        host = client.get("/api/v1/hosts").json()["hosts"][0]["name"]
        made = client.post("/api/v1/endpoints", json={"url": server.url, "host": host, "name": "box"})
        assert made.status_code == 201, made.text

        def healthy() -> dict[str, Any] | None:
            found = client.get("/api/v1/endpoints").json()["endpoints"]
            return found[0] if found and found[0]["healthy"] else None

        endpoint = eventually("it is healthy", healthy)
        assert (endpoint["name"], endpoint["url"].rstrip("/")) == ("box", server.url.rstrip("/"))
        assert [(m["name"], m["warm"]) for m in endpoint["models"]] == [(MODEL, True)]
        changed = client.patch(f"/api/v1/endpoints/{endpoint['id']}", json={"cap": 3})
        assert changed.json()["cap"] == 3
        assert client.delete(f"/api/v1/endpoints/{endpoint['id']}").status_code in (200, 204)
        refused = client.post("/api/v1/endpoints", json={"url": "http://169.254.169.254/"})
        assert (refused.status_code, refused.json()["code"]) == (422, "address_refused")


def test_forty_eight_readers_see_a_task_complete_and_healthz_answers_under_a_second(world: World) -> None:
    with api(world) as client:
        seen: list[int] = []
        ready = threading.Barrier(SSE_STREAMS_MAX + 1)
        headers = dict(client.headers)

        def read(number: int) -> None:
            with (
                httpx2.Client(base_url=client.base_url, headers=headers, trust_env=False, timeout=40) as mine,
                mine.stream("GET", "/api/v1/events") as stream,
            ):
                assert stream.status_code == 200
                lines = stream.iter_lines()
                next(line for line in lines if line.startswith("event: snapshot"))
                ready.wait(60)
                for line in lines:
                    if line.startswith("data:") and '"completed"' in line and '"watched"' in line:
                        seen.append(number)
                        return

        threads = [threading.Thread(target=read, args=(n,), daemon=True) for n in range(SSE_STREAMS_MAX)]
        for thread in threads:
            thread.start()
        ready.wait(60)
        one_more = client.get("/api/v1/events")
        assert one_more.status_code == 503
        assert int(one_more.headers["retry-after"]) > 0
        started = time.monotonic()
        assert client.get("/healthz").status_code == 200
        assert time.monotonic() - started < 1
        client.post("/api/v1/tasks", json={"description": "watched", "command": "true"})
        for thread in threads:
            thread.join(30)
        assert sorted(seen) == list(range(SSE_STREAMS_MAX))


def test_a_revoked_token_ends_its_streams_within_a_second(world: World) -> None:
    with api(world) as client:
        made = world.json("home", "token", "add", "reader", "--role", "view")
        headers = {"Authorization": f"Bearer {made['token']}"}
        with (
            httpx2.Client(base_url=client.base_url, headers=headers, trust_env=False, timeout=20) as mine,
            mine.stream("GET", "/api/v1/events") as stream,
        ):
            lines = stream.iter_lines()
            next(line for line in lines if line.startswith("event: snapshot"))
            world.run("home", "token", "revoke", "reader")
            revoked = time.monotonic()
            for _ in lines:
                pass
            assert time.monotonic() - revoked < 2.5, "1 s, and what a busy machine adds"
        assert (
            httpx2.get(client.base_url.join("/api/v1/agents"), headers=headers, trust_env=False).status_code
            == 401
        )


def test_ctrl_c_is_over_within_three_seconds_with_streams_open(world: World) -> None:
    with api(world) as client, client.stream("GET", "/api/v1/events") as stream:
        next(line for line in stream.iter_lines() if line.startswith("event: snapshot"))
        started = time.monotonic()
        assert world.daemons[-1].stop() == 0
        assert time.monotonic() - started < 3.5


def test_the_start_line_is_one_json_document_and_state_survives(world: World) -> None:
    with api(world) as client:
        task = client.post("/api/v1/tasks", json={"description": "kept", "command": "true"}).json()["id"]
        wait_http(client, task)
    up = world.daemons[-1]
    assert set(up.ready) == {"ready", "http", "hub", "feed", "home", "pid", "token_file"}
    assert up.ready["pid"] == up.pid
    assert json.loads((world.home("home") / "run" / "hub.json").read_text())["pid"] != up.pid
    assert up.stop() == 0
    with api(world) as client:
        assert client.get(f"/api/v1/tasks/{task}").json()["state"] == "completed"
