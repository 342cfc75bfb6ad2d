"""A hub that answers requests by a script: a real ROUTER with CURVE on a free loopback port.

It keeps no tasks. A test says what each operation answers, and reads afterwards what was asked.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq
from zmq.utils import z85

from agentcom import messages as m
from agentcom.auth import HubAddress, KeyPair, load_or_make_key, write_hub_address
from agentcom.clock import rfc3339
from agentcom.config import Home
from agentcom.errors import Refused
from agentcom.model import Role

Answer = Callable[[Any], Any]

# What a hub without a budget or an endpoint answers.
NO_BUDGET = {
    "budget_list": {"budgets": [], "attempt_usd": 2.0, "counted_usd": {}, "held": 0},
    "endpoint_list": {"endpoints": []},
}


class FakeHub:
    """Serves `home` from a thread until `stop`. `answers` maps an operation's tag to its reply value, to a
    function of the operation, or to a Refused."""

    def __init__(self, home: Path, role: Role = Role.admin) -> None:
        self.home = Home(home).prepare()
        self.pair = load_or_make_key(self.home.keys / "hub.key")
        load_or_make_key(self.home.keys / "admin.key")
        self.role = role
        self.ahead_s = 0.0  # of the clock of whoever asks
        self.answers: dict[str, Any] = {}
        self.asked: list[Any] = []
        self.hellos: list[m.Hello] = []
        self.byes = 0
        self.enrolled: list[m.Enrol] = []
        self.sessions: set[bytes] = set()
        self.ignore = 0
        self.ends = 0  # so many requests are carried out, and the session ends in the place of an answer
        self.refused_keys: set[str] = set()
        self.address = ""
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> FakeHub:
        self._context = zmq.Context()
        self._zap = self._context.socket(zmq.REP)
        self._zap.bind("inproc://zeromq.zap.01")
        self._router = self._context.socket(zmq.ROUTER)
        self._router.linger = 0
        self._router.curve_server = True
        self._router.curve_secretkey = self.pair.secret.encode()
        self._router.setsockopt(zmq.ZAP_DOMAIN, b"hub")
        port = self._router.bind_to_random_port("tcp://127.0.0.1")
        self.address = f"tcp://127.0.0.1:{port}"
        self._stop = self._context.socket(zmq.PAIR)
        self._stop.bind("inproc://stop")
        self._thread = threading.Thread(target=self._serve, name="fake-hub")
        self._thread.start()
        write_hub_address(
            self.home.run / "hub.json", HubAddress(self.address, self.pair.public, feed=self.address)
        )
        return self

    def stop(self) -> None:
        if self._context is None or self._thread is None:
            return
        with self._context.socket(zmq.PAIR) as sender:
            sender.connect("inproc://stop")
            sender.send(b"")
            self._thread.join()
        self._context.destroy(linger=0)
        self._context = None
        self.sessions.clear()

    def restart(self) -> None:
        """Another port, no sessions, as after a crash."""
        self.stop()
        self.start()

    def asked_of(self, kind: type) -> list[Any]:
        return [op for op in self.asked if isinstance(op, kind)]

    def _serve(self) -> None:
        poller = zmq.Poller()
        for socket in (self._router, self._zap, self._stop):
            poller.register(socket, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._stop in ready:
                self._stop.close()
                return
            if self._zap in ready:
                self._admit()
            if self._router in ready:
                peer, body = self._router.recv_multipart()
                answer = self._answer(body)
                if answer is not None:
                    self._router.send_multipart([peer, m.encode(answer)])

    def _admit(self) -> None:
        version, request_id, *_, key = self._zap.recv_multipart()
        refused = z85.encode(key).decode() in self.refused_keys
        status = (b"400", b"revoked") if refused else (b"200", b"OK")
        self._zap.send_multipart([version, request_id, *status, b"", b""])

    def _answer(self, body: bytes) -> Any:
        try:
            message = m.decode_to_hub(body)
        except Refused as refused:
            return m.Error(code=refused.code, message=refused.message, field=refused.field)
        match message:
            case m.Hello():
                self.hellos.append(message)
                token = secrets.token_bytes(16)
                self.sessions.add(token)
                return m.Welcome(
                    session=token, epoch="e", name="someone", role=self.role, software="fake",
                    heartbeat_s=5, lease_s=45, wall_ms=int((time.time() + self.ahead_s) * 1000),
                )  # fmt: skip
            case m.Enrol():
                self.enrolled.append(message)
                return m.Enrolled(name=message.name, role=Role.host)
            case m.Bye():
                self.byes += 1
                return None
            case m.Request():
                return self._reply(message)
        return m.Error(code="unexpected", message="not for this hub")

    def _reply(self, request: m.Request) -> Any:
        if request.session not in self.sessions:
            return m.Error(code="no_session", message="say hello", id=request.id)
        self.asked.append(request.op)
        if self.ignore:
            self.ignore -= 1
            return None
        if self.ends:
            self.ends -= 1
            self.sessions.clear()
            return m.Error(code="no_session", message="too much was left unread")
        tag = request.op.__struct_config__.tag
        value = self.answers.get(tag, Refused("unscripted", f"{tag} is not in the script"))
        try:
            if callable(value):
                value = value(request.op)
            if isinstance(value, Refused):
                raise value
        except Refused as refused:
            return m.Error(
                code=refused.code, message=refused.message, field=refused.field,
                retry_after_s=refused.retry_after_s, id=request.id,
            )  # fmt: skip
        return m.Reply(id=request.id, value=value)


def task(number: int = 7, **fields: Any) -> dict[str, Any]:
    """A task as the hub replies with it; `fields` on top of a completed, verified one."""
    return {
        "id": number, "description": "count the lines", "state": "completed", "lane": "normal",
        "tier": "trivial", "tier_source": "command", "inferred_tier": "trivial", "attempt": 1,
        "retries_used": 0, "losses": 0, "parked_count": 0, "stalled": False, "repo": None, "branch": None, "files": [],
        "success_criteria": [], "checks": [{"kind": "file_exists", "target": "a.txt", "timeout_s": 300}],
        "route": {
            "strategy": "trivial", "agent": "Grey Area", "host": "box", "backend": "shell",
            "endpoint": None, "model": "none", "reason": "command", "score": None, "others": [],
        },
        "result": {
            "status": "verified", "output": "12 lines", "backend": "shell", "model": "none",
            "tokens_in": 0, "tokens_out": 0, "cost_usd": 0.0, "duration_ms": 1234, "sandbox": "none",
            "commit": None, "branch": None, "pull_request": None,
            "iterations": [{
                "n": 1, "status": "pass",
                "checks": [{
                    "kind": "file_exists", "target": "a.txt", "status": "pass", "output": "",
                    "duration_ms": 1,
                }],
            }],
        },
        "error": None, "created_at": "2027-01-01T00:00:00.000Z",
        "assigned_at": "2027-01-01T00:00:01.000Z", "finished_at": "2027-01-01T00:00:02.000Z", "labels": [],
        **fields,
    }  # fmt: skip


def wall(s: float) -> str:
    """The time so many seconds from now, as the hub tells it."""
    return rfc3339(int((time.time() + s) * 1000)) or ""


def user_key(home: Path, pair: KeyPair | None = None) -> KeyPair:
    """A home that has joined as a person: keys/user.key, no admin key."""
    layout = Home(home).prepare()
    (layout.keys / "admin.key").unlink(missing_ok=True)
    return load_or_make_key(layout.keys / "user.key") if pair is None else pair
