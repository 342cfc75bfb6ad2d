"""The comparison with other queues runs whole with those that are here, and says which are not; it leaves no process
behind. Its figures are not judged."""

from __future__ import annotations

import json
import select
import socket
import threading
from pathlib import Path

import psutil
import pytest

from bench import gauges, peer_libraries, peer_servers, peer_wire, peers


def row(peer: str, in_flight: int, ratio: float | None, start_p50_us: int = 1) -> peers.Row:
    return peers.Row(
        peer=peer,
        durable="yes",
        in_flight=in_flight,
        per_s=1,
        ratio=ratio,
        start_p50_us=start_p50_us,
        p50_us=1,
        p99_us=1,
        fdatasync_us=1,
    )


def test_each_peer_that_is_here_has_rows_and_the_others_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = psutil.Process().children(recursive=True)
    monkeypatch.setattr(gauges, "SYNCS", 2)
    code = peers.main(
        [
            "--json",
            "--quick",
            "--seconds",
            "0.05",
            "--in-flight",
            "1",
            "--in-flight",
            "4",
            "--dir",
            str(tmp_path),
        ]
    )

    document = json.loads(capsys.readouterr().out)
    assert code == 0
    assert set(document) == {"rows", "missing", "goals", "versions", "machine", "commit"}
    here = [
        name for name, peer in peers.PEERS.items() if not peer_servers.why_missing(peer.server, peer.library)
    ]
    assert [(one["in_flight"], one["peer"]) for one in document["rows"]] == [
        (n, p) for n in (1, 4) for p in here
    ]
    assert {one["peer"] for one in document["missing"]} == set(peers.PEERS) - set(here)
    for one in document["rows"]:
        assert list(one) == list(peers.Row.__annotations__)
        assert one["per_s"] > 0
        assert one["ratio"] is not None
        assert 0 < one["p50_us"] <= one["p99_us"]
        assert one["start_p50_us"] > 0
    assert list(tmp_path.iterdir()) == []
    assert psutil.Process().children(recursive=True) == before


def test_what_is_missing_is_told_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peer_servers, "program_of", lambda server: None)
    monkeypatch.setattr(peer_servers, "find_spec", lambda library: None)

    assert peers.main(["--json", "--only", "beanstalkd", "--only", "celery", "--dir", str(tmp_path)]) == 0

    document = json.loads(capsys.readouterr().out)
    assert document["rows"] == []
    assert document["goals"] == []
    assert document["missing"] == [
        {"peer": "beanstalkd", "why": "no beanstalkd here: install the system's package beanstalkd"},
        {"peer": "celery", "why": "no redis-server here: install the system's package redis-server"},
    ]
    assert "pip install" in peer_servers.why_missing(None, "celery")


def test_goals_compare_agentcom_with_a_peer_at_the_number_in_flight_that_the_goal_names() -> None:
    rows = [
        row("agentcom", 1, 1, start_p50_us=300),
        row("beanstalkd", 1, 9, start_p50_us=200),
        row("beanstalkd", 16, 4.5),
        row("dramatiq", 16, 4.0),
        row("nats-py", 100, 0.9),
        row("nats", 100, None),
    ]
    assert [
        (goal["goal"][:8], goal["measured"], goal["bound"], goal["holds"]) for goal in peers.goals(rows)
    ] == [
        ("P2 floor", 4.5, 2, True),
        ("P2 goal:", 4.5, 5, False),
        ("P2 goal:", 4.0, 4, True),
        ("P3 floor", 0.9, 1, False),
        ("P3 goal:", 0.9, 2, False),
        ("P4 goal:", 300, 200, False),
    ]


def test_a_body_carries_its_task_s_number() -> None:
    body = peer_wire.body_of(1_234_567)
    assert len(body) == peer_wire.BODY_BYTES
    assert peer_wire.task_of(body) == 1_234_567


def test_a_call_that_fails_ends_the_run_and_one_alone_needs_no_thread() -> None:
    called_in: list[str] = []

    def submit(body: bytes) -> None:
        called_in.append(threading.current_thread().name)
        if peer_wire.task_of(body) == 2:
            raise ValueError("no room")

    calls = peer_libraries.Calls(submit)
    try:
        calls.prepare(1)
        calls.submit([1])
        assert calls.acknowledged() == [1]
        assert called_in == [threading.current_thread().name]
        calls.prepare(2)
        calls.submit([2])
        assert select.select([calls], [], [], 10)[0]
        with pytest.raises(RuntimeError, match="no room"):
            calls.acknowledged()
    finally:
        calls.close()
    assert threading.current_thread().name not in called_in[1:]


class Answers:
    """A server that says what it was given, in pieces of one length, to the first who connects."""

    def __init__(self, said: bytes, piece_bytes: int) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._said, self._piece_bytes = said, piece_bytes
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(self._said), self._piece_bytes):
                connection.sendall(self._said[at : at + self._piece_bytes])
            while connection.recv(4096):  # until the caller has gone
                continue

    def close(self) -> None:
        self._thread.join()
        self._listening.close()


@pytest.mark.parametrize("piece_bytes", [1, 7, 4096])
def test_nats_messages_are_read_whole_however_they_arrive(piece_bytes: int) -> None:
    said = (
        b'INFO {"headers":true}\r\nPONG\r\n'
        b"MSG bench.tasks 1 $JS.ACK.1 5\r\none\r\n\r\n"
        b"PING\r\nMSG _INBOX.put 2 3\r\ntwo\r\n"
        b"HMSG _INBOX.pull 1 16 16\r\nNATS/1.0 408\r\n\r\n\r\n"
    )
    server = Answers(said, piece_bytes)
    nats = peer_wire.Nats(server.port)
    found: list[tuple[int, bytes, bytes | None]] = list(nats.messages())
    while len(found) < 3:
        nats.receive()
        found += nats.messages()
    nats.socket.close()
    server.close()
    assert found == [(1, b"$JS.ACK.1", b"one\r\n"), (2, b"", b"two"), (1, b"", None)]


@pytest.mark.parametrize("piece_bytes", [1, 7, 4096])
def test_beanstalkd_jobs_are_read_whole_however_they_arrive(piece_bytes: int) -> None:
    server = Answers(b"RESERVED 7 5\r\none\r\n\r\nDELETED\r\nRESERVED 8 3\r\ntwo\r\n", piece_bytes)
    line = peer_wire.Line(server.port)
    found: list[bytes] = []
    while len(found) < 3:
        line.receive()
        while (answer := peer_wire.beanstalkd_answer(line)) is not None:
            found.append(answer)
    line.socket.close()
    server.close()
    assert found == [b"7\r\none\r\n", b"DELETED", b"8\r\ntwo"]


def test_a_refusal_of_a_server_ends_the_run() -> None:
    server = Answers(b"OUT_OF_MEMORY\r\n", 4096)
    submits = peer_wire.BeanstalkSubmits(server.port)
    submits.submit([1])
    with pytest.raises(RuntimeError, match="OUT_OF_MEMORY"):
        submits.acknowledged()
    submits.close()
    server.close()
