"""A hub made of a script: a real ROUTER with CURVE in the test's process, without store, scheduler or rules.

    hub = FakeHub(home)              # writes keys/hub.json, so that a sidecar of `home` finds it
    hub.expect(Hello)                # answered with a welcome; then heartbeats are answered in the background
    hub.assign(task=1, attempt=1, spec=TaskSpec(...))
    result = hub.expect(Result)
    hub.acknowledge(result)

It authenticates by CURVE but admits every key. Messages of a session that it did not open are answered with
`no_session`, as the real hub does.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import zmq

from agentcom import messages
from agentcom.auth import HubAddress, KeyPair, write_hub_address
from agentcom.config import Home
from agentcom.messages import Assign, Heartbeat, Hello, Result, Verdict, Welcome
from agentcom.model import Backend, Role, Route, Strategy, TaskSpec, Tier

EXPECT_S = 15.0
POLL_MS = 5
HEARTBEAT_S = 0.2
LEASE_S = 2.0

M = TypeVar("M", bound=msgspec.Struct)


class FakeHub:
    """Everything received is kept in `received`; `expect` takes the first message of a type from there."""

    def __init__(
        self,
        home: Home,
        *,
        key: KeyPair | None = None,
        port: int = 0,
        heartbeat_s: float = HEARTBEAT_S,
        lease_s: float = LEASE_S,
        verdict: Callable[[messages.AttemptHeld], Verdict] | None = None,
    ) -> None:
        self.key = key or KeyPair.make()
        self.heartbeat_s, self.lease_s = heartbeat_s, lease_s
        self.answers_beats = True
        self.refusal: messages.Error | None = None  # answers hello instead of a welcome
        self.kill: tuple[messages.AttemptBeat, ...] = ()
        self.probe: tuple[str, ...] = ()
        self.pace: messages.Pace | None = None  # told once, with the next answer to a heartbeat
        self.received: list[msgspec.Struct] = []
        self._verdict = verdict or keep_or_report
        self._arrived = threading.Condition()
        self._outgoing: list[bytes] = []
        self._peer = b""
        self._session = b""
        self._context = zmq.Context[zmq.Socket[bytes]]()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.curve_server = True
        self._socket.curve_secretkey = self.key.secret.encode()
        self._socket.linger = 0
        bound = self._socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        address = bound.addr.decode() if isinstance(bound.addr, bytes) else bound.addr
        self.port = int(address.rsplit(":", 1)[1])
        write_hub_address(home.keys / "hub.json", HubAddress(hub=address, key=self.key.public))
        self._is_closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """As a hub that dies: what it knew is gone with it."""
        self._is_closing.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def expect(
        self, kind: type[M], *, matching: Callable[[M], bool] = lambda _: True, within_s: float = EXPECT_S
    ) -> M:
        """The first unread message of `kind`; it is taken out. AssertionError with what came instead."""
        give_up_at = time.monotonic() + within_s
        with self._arrived:
            while True:
                for message in self.received:
                    if isinstance(message, kind) and matching(message):
                        self.received.remove(message)
                        return message
                left_s = give_up_at - time.monotonic()
                if left_s <= 0 or not self._arrived.wait(left_s):
                    others = [each for each in self.received if not isinstance(each, Heartbeat)]
                    raise AssertionError(f"no {kind.__name__} within {within_s} s; there is {others[-10:]}")

    def send(self, message: msgspec.Struct) -> None:
        self.send_raw(messages.encode(message))

    def send_raw(self, body: bytes) -> None:
        with self._arrived:
            self._outgoing.append(body)

    def assign(self, task: int, attempt: int, agent: str, spec: TaskSpec, **fields: Any) -> None:
        self.send(assignment(task, attempt, agent, spec, **fields))

    def acknowledge(self, result: Result) -> None:
        self.send(messages.ResultAck(task=result.task, attempt=result.attempt, verdict="accepted"))

    def forget_session(self) -> None:
        with self._arrived:
            self._session = b""

    def _serve(self) -> None:
        while not self._is_closing.is_set():
            if self._socket.poll(POLL_MS):
                peer, *frames = self._socket.recv_multipart()
                assert len(frames) == 1, "a message has one frame"
                self._take(peer, messages.decode_to_hub(frames[0]))
            with self._arrived:
                outgoing, self._outgoing = self._outgoing, []
                peer = self._peer
            for body in outgoing:
                self._reply(peer, body)

    def _take(self, peer: bytes, message: messages.ToHub) -> None:
        with self._arrived:
            self._peer = peer
            if isinstance(message, Hello) and self.refusal is not None:
                self._reply(peer, messages.encode(self.refusal))
            elif isinstance(message, Hello):
                self._session = os.urandom(16)
                self._reply(peer, messages.encode(self._welcome(message)))
            elif getattr(message, "session", None) != self._session:
                self._reply(peer, messages.encode(messages.Error(code="no_session", message="say hello")))
                return
            elif isinstance(message, Heartbeat) and self.answers_beats:
                pace, self.pace = self.pace, None
                beat = messages.Beat(beat=message.beat, kill=self.kill, probe=self.probe, pace=pace)
                self._reply(peer, messages.encode(beat))
            self.received.append(message)
            self._arrived.notify_all()

    def _reply(self, peer: bytes, body: bytes) -> None:
        with contextlib.suppress(zmq.ZMQError):
            self._socket.send_multipart([peer, body])

    def _welcome(self, hello: Hello) -> Welcome:
        assert hello.host is not None, "only a sidecar speaks to this hub"
        return Welcome(
            session=self._session,
            epoch="fake",
            name=hello.host.name,
            role=Role.host,
            software="a fake hub",
            heartbeat_s=self.heartbeat_s,
            lease_s=self.lease_s,
            verdicts=tuple(self._verdict(held) for held in hello.host.attempts),
            names={agent.name: f"{hello.host.name}/{agent.name}" for agent in hello.host.agents},
            probe=self.probe,
            probe_every_s=1.0,
        )


def keep_or_report(held: messages.AttemptHeld) -> Verdict:
    return Verdict(
        task=held.task, attempt=held.attempt, verdict="keep" if held.state == "running" else "report"
    )


def assignment(task: int, attempt: int, agent: str, spec: TaskSpec, **fields: Any) -> Assign:
    defaults: dict[str, Any] = {
        "lease_s": LEASE_S,
        "spec": msgspec.Raw(messages.encode(spec)),
        "route": Route(
            strategy=Strategy.trivial,
            backend=Backend.shell,
            agent=agent,
            host="here",
            model="none",
            reason="the test wants it",
            tier=Tier.trivial,
        ),
        "tier": Tier.trivial,
        "submitter": "tester",
        "submitter_role": Role.admin,
        "max_fix_attempts": 0,
        "timeout_s": 60,
    }
    return Assign(task=task, attempt=attempt, agent=agent, **{**defaults, **fields})
