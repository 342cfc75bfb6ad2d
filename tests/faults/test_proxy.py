"""Connections that are slow, reset, held or half open: a live agent is not judged dead, nothing is done twice."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.bad_network import hold_each_way, live_through
from tests.faults.proxy import FROM_HUB, TO_HUB, FaultProxy, proxy_to


@pytest.fixture
def echo() -> Iterator[str]:
    """A server that sends back what it is sent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=back, args=(connection,), daemon=True).start()

    def back(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65_536):
                    connection.sendall(data)
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def connected(proxy: FaultProxy) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    made.sendall(b"first")
    assert made.recv(5) == b"first"
    return made


def test_the_proxy_delays_both_ways(echo: str) -> None:
    with proxy_to(echo) as proxy, connected(proxy) as made:
        proxy.latency_s = 0.1
        begun = time.monotonic()
        made.sendall(b"x")
        assert made.recv(1) == b"x"
        assert time.monotonic() - begun >= 0.2


@pytest.mark.parametrize("way", [TO_HUB, FROM_HUB])
def test_what_the_proxy_holds_arrives_when_it_lets_go(echo: str, way: str) -> None:
    with proxy_to(echo) as proxy, connected(proxy) as made:
        proxy.held = {way}
        made.sendall(b"late")
        made.settimeout(0.2)
        with pytest.raises(TimeoutError):
            made.recv(4)
        proxy.held = set()
        made.settimeout(5)
        assert made.recv(4) == b"late"


def test_the_proxy_resets_connections(echo: str) -> None:
    with proxy_to(echo) as proxy, connected(proxy) as made:
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            made.recv(1)
        assert proxy.resets == 2


def test_the_proxy_limits_the_bandwidth(echo: str) -> None:
    with proxy_to(echo) as proxy, connected(proxy) as made:
        proxy.bytes_per_s = 100_000
        begun = time.monotonic()
        made.sendall(b"x" * 40_000)
        got = 0
        while got < 40_000:
            got += len(made.recv(65_536))
        assert time.monotonic() - begun >= 0.15


def test_a_live_agent_is_not_judged_dead_by_resets(tmp_path: Path) -> None:
    report = live_through(tmp_path, seconds=8, latency_s=0.01, reset_every_s=2).require()
    assert report.counts["early_requeues"] == 0
    resets, tasks = report.counts["resets"], report.counts["tasks"]
    assert isinstance(resets, int)
    assert isinstance(tasks, int)
    assert resets >= 40
    assert tasks >= 40


def test_a_live_agent_is_not_judged_dead_by_latency(tmp_path: Path) -> None:
    """0.7 s each way, with leases of four seconds."""
    report = live_through(tmp_path, seconds=4, latency_s=0.7, reset_every_s=0).require()
    assert report.counts["early_requeues"] == 0
    assert report.counts["tasks"] == report.counts["attempts"]


def test_connections_held_or_half_open_past_the_lease_lose_and_repeat_nothing(tmp_path: Path) -> None:
    report = hold_each_way(tmp_path, held_s=6).require()
    lost = report.counts["lost"]
    assert isinstance(lost, int)
    assert lost >= 4, "the faults must have outlasted leases"
