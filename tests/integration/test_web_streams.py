"""The stream of the web process: a snapshot, then what changes, for as many as fit, until their token is revoked."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx2

from agentcom import limits
from agentcom import messages as m
from agentcom.model import Role
from tests.fake_hub_web import FakeWebHub, Stream, WebProcess, eventually, problem_of, task_of

REVOKED_WITHIN_S = 1.0


def test_a_stream_begins_with_a_snapshot_and_goes_on_with_what_changes(
    hub: FakeWebHub, streams: Callable[..., Stream]
) -> None:
    hub.put_task(task_of(1, m.TaskSpec(description="before")))
    stream = streams()
    name, snapshot = stream.next()
    assert name == "snapshot"
    assert [task["description"] for task in snapshot["tasks"]] == ["before"]
    hub.put_task(task_of(2, m.TaskSpec(description="after")))
    hub.put_agent({"name": "Beagle", "state": "idle"})
    hub.publish("host", {"event": "host_changed", "host": {"name": "orion", "state": "online"}})
    hub.publish(
        "endpoint", {"event": "endpoint_changed", "endpoint": {"id": 1, "name": "o", "healthy": True}}
    )
    hub.publish("log", {"event": "task_log", "task": 2, "attempt": 1, "offset": 0, "text": "hello"})
    hub.publish("route", {"event": "task_routed", "task": 2, "attempt": 1, "route": {"model": "none"}})
    seen: dict[str, Any] = {}
    while not {"task", "agent", "host", "endpoint", "queue", "log", "route"} <= set(seen):
        name, value = stream.next()
        seen[name] = value
    assert seen["task"]["task"]["description"] == "after"
    assert seen["queue"]["counts"]["by_state"] == {"ready": 2}
    assert seen["log"]["text"] == "hello"
    assert seen["route"]["route"] == {"model": "none"}


def test_an_event_that_the_hub_keeps_is_streamed_and_stands_in_the_next_snapshot(
    hub: FakeWebHub, streams: Callable[..., Stream]
) -> None:
    stream = streams()
    stream.next()
    hub.publish("host", {"event": "host_removed", "number": 7, "name": "orion", "by": "ann"})
    event = stream.until(lambda name, _: name == "event")
    assert (event["number"], event["topic"], event["event"], event["by"]) == (
        7,
        "host",
        "host_removed",
        "ann",
    )
    name, snapshot = streams().next()
    assert name == "snapshot"
    assert [each["number"] for each in snapshot["events"]] == [7]


def test_a_stream_carries_the_log_that_its_reader_chose(
    hub: FakeWebHub, streams: Callable[..., Stream]
) -> None:
    none, of_two = streams(query="?log=none"), streams(query="?log=2")
    for stream in (none, of_two):
        stream.next()
    for task in (1, 2):
        hub.publish(
            "log", {"event": "task_log", "task": task, "attempt": 1, "offset": 0, "text": f"of {task}"}
        )
    hub.put_agent({"name": "Beagle", "state": "idle"})
    assert none.next()[0] == "agent"
    assert of_two.until(lambda name, _: name == "log")["text"] == "of 2"
    assert streams(query="?log=some").response.status_code == 422


def test_a_quiet_stream_is_kept_alive_by_comments(streams: Callable[..., Stream]) -> None:
    stream = streams()
    stream.next()
    assert stream.comment() == ": beat"


def test_a_gap_in_the_feed_brings_a_new_snapshot(hub: FakeWebHub, streams: Callable[..., Stream]) -> None:
    stream = streams()
    stream.next()
    # The reader of the feed misses this change, and learns of it from the snapshot that the gap leads to.
    hub.tasks[1] = task_of(1, m.TaskSpec(description="missed"))
    hub.publish("agent", {"event": "agent_changed", "agent": {"name": "Beagle", "state": "idle"}}, skip=1)
    snapshot = stream.until(lambda name, _: name == "snapshot")
    assert [task["description"] for task in snapshot["tasks"]] == ["missed"]


def test_the_forty_ninth_stream_is_refused_and_health_still_answers(
    hub: FakeWebHub, admin: httpx2.Client, streams: Callable[..., Stream]
) -> None:
    opened = [streams() for _ in range(limits.SSE_STREAMS_MAX)]
    for stream in opened:
        assert stream.next()[0] == "snapshot"
    late = streams()
    late.response.read()
    problem_of(late.response, 503, "streams_full")
    assert int(late.response.headers["retry-after"]) >= 1
    assert admin.get("/healthz", timeout=1.0).status_code == 200
    hub.put_agent({"name": "Beagle", "state": "idle"})
    for stream in opened:
        assert stream.until(lambda name, _: name == "agent")["agent"]["name"] == "Beagle"
    opened[0].close()
    eventually(
        lambda: (
            f"agentcom_web_streams {limits.SSE_STREAMS_MAX}" not in admin.get("/metrics").text.splitlines()
        )
    )
    assert streams().next()[0] == "snapshot"


def test_revoking_a_token_ends_its_streams_and_no_others(
    hub: FakeWebHub, streams: Callable[..., Stream]
) -> None:
    token = hub.token(Role.operate)
    ending, staying = streams(by=token), streams()
    ending.next()
    staying.next()
    hub.revoke(token)
    began = time.monotonic()
    name, value = ending.next()
    assert (name, value["code"]) == ("end", "unauthorised")
    ending.ended()
    assert time.monotonic() - began < REVOKED_WITHIN_S
    hub.put_agent({"name": "Beagle", "state": "idle"})
    assert staying.next()[0] == "agent"
    assert streams(by=token).response.status_code == 401


def test_a_reader_that_does_not_read_delays_nobody(
    hub: FakeWebHub, web: WebProcess, streams: Callable[..., Stream]
) -> None:
    with socket.create_connection(("127.0.0.1", web.port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        token = hub.token(Role.view)
        deaf.sendall(
            f"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1:{web.port}\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        assert deaf.recv(15).startswith(b"HTTP/1.1 200")
        reader = streams()
        reader.next()
        text = "x" * 15_000
        for n in range(800):
            hub.publish("log", {"event": "task_log", "task": 1, "attempt": 1, "offset": n, "text": text})
        hub.put_agent({"name": "Beagle", "state": "idle"})
        # Even the reader that reads may have been taken to a fresh snapshot meanwhile: it knows the agent.
        seen = reader.until(
            lambda name, value: name == "agent" or (name == "snapshot" and bool(value["agents"]))
        )
        assert "Beagle" in json.dumps(seen)
