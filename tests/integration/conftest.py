"""What tests of several modules share: a stand-in for Ollama, and a web process with a scripted hub behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest

from agentcom.model import Role
from tests.fake_hub_web import FakeWebHub, Stream, WebProcess, client, eventually, web_beside
from tests.standins import StandIn, standin


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with standin("ollama") as running:
        yield running


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeWebHub]:
    hub = FakeWebHub(tmp_path / "home").start()
    yield hub
    hub.stop()


@pytest.fixture
def web(hub: FakeWebHub) -> Iterator[WebProcess]:
    with web_beside(hub) as web:
        eventually(lambda: httpx2.get(f"{web.url}/readyz").status_code == 200)
        yield web


@pytest.fixture
def admin(hub: FakeWebHub, web: WebProcess) -> Iterator[httpx2.Client]:
    with client(web, hub.token(Role.admin)) as admin:
        yield admin


@pytest.fixture
def streams(hub: FakeWebHub, web: WebProcess) -> Iterator[Callable[..., Stream]]:
    with ExitStack() as opened:
        token = hub.token(Role.view)

        def open_stream(by: str | None = None, query: str = "") -> Stream:
            stream = Stream(web, by or token, query)
            opened.callback(stream.close)
            return stream

        yield open_stream
