"""Where the hub and its dashboard listen, as it is when an endpoint is added."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from agentcom.config import Home, HttpSettings, HubSettings, Settings
from agentcom.own_places import own_places
from agentcom.supervisor import Start, write_start


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture(autouse=True)
def addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "eth0": [
            SimpleNamespace(family=socket.AF_INET, address="10.0.0.2"),
            SimpleNamespace(family=socket.AF_INET6, address="fd00::2%eth0"),
            SimpleNamespace(family=socket.AF_PACKET, address="00:00:00:00:00:00"),
        ]
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: found)
    monkeypatch.setattr(socket, "gethostname", lambda: "Hub")


def test_a_hub_on_loopback_has_its_ports_there_alone(home: Home) -> None:
    assert own_places(home, Settings(http=HttpSettings(port=8080)), {7701, 7702}) == ({7701, 7702, 8080}, set())


def test_a_hub_on_all_addresses_has_its_ports_on_each_of_them(home: Home) -> None:
    settings = Settings(
        hub=HubSettings(bind="0.0.0.0", public_address="tcp://hub.example:9"),
        http=HttpSettings(port=8080),
    )
    ports, places = own_places(home, settings, {7701})
    assert ports == {7701, 8080}
    assert places == {(name, 7701) for name in ("10.0.0.2", "fd00::2", "hub", "hub.example")}


def test_a_hub_on_one_address_has_its_ports_there(home: Home) -> None:
    assert own_places(home, Settings(hub=HubSettings(bind="10.0.0.9")), {7701})[1] == {("10.0.0.9", 7701)}


def test_the_dashboards_port_is_the_one_that_was_taken(home: Home) -> None:
    start = Start(http="http://127.0.0.1:43210", hub="", feed="", home=str(home.path), pid=os.getpid(), token_file="")
    write_start(home, start)
    assert own_places(home, Settings(http=HttpSettings(port=0)), {7701}) == ({7701, 43210}, set())
