"""The life of the web process: a hub that comes and goes or is degraded, its worker, its end, the address it tells."""

from __future__ import annotations

import signal
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx2
import psutil
import pytest

from agentcom import messages as m
from agentcom.model import Role
from tests.fake_hub_web import (
    FakeWebHub,
    Stream,
    WebProcess,
    client,
    eventually,
    problem_of,
    self_signed,
    task_of,
    web_beside,
)

STOPPED_WITHIN_S = 3.0


# --- the hub comes and goes -----------------------------------------------------------------------------------------


def test_a_hub_that_is_away_makes_requests_fail_and_one_that_comes_back_serves_them(
    hub: FakeWebHub, admin: httpx2.Client, streams: Callable[..., Stream]
) -> None:
    stream = streams()
    stream.next()
    hub.stop()
    answer = admin.get("/api/v1/queue")
    problem_of(answer, 503, "hub_unreachable")
    assert int(answer.headers["retry-after"]) >= 1
    assert admin.get("/readyz").status_code == 503
    assert admin.get("/readyz").text.split() == ["unready"]
    assert admin.get("/healthz").status_code == 200
    problem_of(admin.get("/api/v1/snapshot"), 503, "hub_unreachable")
    assert stream.until(lambda name, _: name == "hub")["reachable"] is False
    hub.tasks[1] = task_of(1, m.TaskSpec(description="of the new epoch"))
    hub.start()
    eventually(lambda: admin.get("/readyz").status_code == 200)
    assert admin.get("/api/v1/queue").status_code == 200
    snapshot = stream.until(lambda name, _: name == "snapshot")
    assert [task["description"] for task in snapshot["tasks"]] == ["of the new epoch"]


def test_a_hub_that_forgot_the_session_is_told_hello_again_and_the_request_repeated(
    hub: FakeWebHub, admin: httpx2.Client
) -> None:
    hub.forget_sessions()
    assert admin.post("/api/v1/tasks", json={"description": "once"}).status_code == 201
    assert len(hub.asked_of(m.Submit)) == 1
    assert len(hub.hellos) == 2
    assert hub.hellos[0].process == hub.hellos[1].process


def test_it_starts_without_a_hub_and_finds_it_later(hub: FakeWebHub) -> None:
    hub.stop()
    (hub.home.run / "hub.json").unlink()
    token = hub.token(Role.admin)
    with web_beside(hub) as web, client(web, token) as admin:
        assert admin.get("/readyz").status_code == 503
        problem_of(admin.get("/api/v1/queue"), 503, "hub_unreachable")
        hub.start()
        eventually(lambda: admin.get("/readyz").status_code == 200)
        assert admin.get("/api/v1/queue").status_code == 200


def test_a_degraded_hub_is_told_in_one_word_without_a_token(hub: FakeWebHub, web: WebProcess) -> None:
    assert httpx2.get(f"{web.url}/healthz").text.split() == ["ok"]
    hub.troubles = ["batches 3 to 5 are gone"]
    hub.show_everything()
    eventually(lambda: httpx2.get(f"{web.url}/healthz").text.split() == ["degraded"])
    ready = httpx2.get(f"{web.url}/readyz")
    assert (ready.status_code, ready.text.split()) == (200, ["degraded"])
    with client(web, hub.token(Role.view)) as viewer:
        assert "agentcom_degraded 1" in viewer.get("/metrics").text


# --- life -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_in_time_with_streams_open(
    web: WebProcess, streams: Callable[..., Stream], how: signal.Signals
) -> None:
    opened = [streams() for _ in range(5)]
    for stream in opened:
        stream.next()
    workers = psutil.Process(web.process.pid).children()
    took = web.stop(how)
    assert took < STOPPED_WITHIN_S
    assert web.process.returncode == 0
    assert not any(worker.is_running() for worker in workers)
    for stream in opened:
        stream.ended()


def test_a_worker_that_is_killed_is_replaced_and_page_sessions_go_on(
    hub: FakeWebHub, web: WebProcess, admin: httpx2.Client
) -> None:
    (worker,) = psutil.Process(web.process.pid).children()
    worker.kill()

    def served_again() -> bool:
        try:
            return admin.get("/readyz").status_code == 200
        except httpx2.TransportError:
            return False

    eventually(
        lambda: (
            worker.pid not in [c.pid for c in psutil.Process(web.process.pid).children()] and served_again()
        )
    )
    assert admin.get("/api/v1/whoami").status_code == 200
    assert len({hello.process for hello in hub.hellos}) == 1


def test_the_ready_line_names_an_address_that_answers(web: WebProcess) -> None:
    assert web.ready["ready"] is True
    assert web.ready["pid"] == web.process.pid
    assert httpx2.get(f"{web.ready['http']}/healthz").status_code == 200


def test_tls_serves_https(hub: FakeWebHub, tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with web_beside(hub, AGENTCOM_HTTP_TLS_CERT=str(certificate), AGENTCOM_HTTP_TLS_KEY=str(key)) as web:
        assert web.url.startswith("https://")
        with httpx2.Client(verify=ssl.create_default_context(cafile=str(certificate))) as trusting:
            assert trusting.get(f"https://localhost:{web.port}/healthz").status_code == 200
