"""A caller made of a bare DEALER with CURVE: it says what a test says, in whatever order, and shows what came back.

    ann = FakeClient(hub.address, pair)
    ann.hello()
    number = ann.submit(shell_task())
    ann.send_frames(b"not a message")

It keeps no rules: no reconnecting, no repeating, no check before it sends. The hub it speaks to is a real one.
"""

from __future__ import annotations

import secrets
import time
from typing import Any, TypeVar

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from agentcom import limits
from agentcom import messages as m
from agentcom.auth import HubAddress, KeyPair
from agentcom.errors import Refused
from agentcom.model import JsonObject, TaskSpec

M = TypeVar("M", bound=msgspec.Struct)
ANSWER_S = 10.0
NO_TOKEN = b"\0" * limits.SESSION_TOKEN_BYTES


class FakeClient:
    """One connection of one key. Messages that a test did not ask for wait in `received`."""

    def __init__(self, address: HubAddress, pair: KeyPair, *, routing_id: bytes | None = None) -> None:
        self.pair = pair
        self.process = secrets.token_hex(8)
        self.token = NO_TOKEN
        self.received: list[Any] = []
        self.requests = 0
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.sndtimeo = round(ANSWER_S * 1000)  # a socket that was turned away would wait for ever
        if routing_id is not None:
            self.socket.setsockopt(zmq.ROUTING_ID, routing_id)
        self.socket.curve_serverkey = address.key.encode()
        self.socket.curve_publickey = pair.public.encode()
        self.socket.curve_secretkey = pair.secret.encode()
        self.monitor = self.socket.get_monitor_socket()
        self.monitor.linger = 0
        self.socket.connect(address.hub)

    def close(self) -> None:
        if self.socket.closed:
            return
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=0)

    # --- sending ----------------------------------------------------------------------------------------

    def send(self, message: m.ToHub) -> None:
        self.send_frames(m.encode(message))

    def send_frames(self, *frames: bytes) -> None:
        self.socket.send_multipart(frames)

    def hello(self, **fields: Any) -> m.Welcome:
        self.send(m.Hello(**{"protocol": limits.PROTOCOL_VERSION, "process": self.process, **fields}))
        welcome = self.expect(m.Welcome)
        self.token = welcome.session
        return welcome

    def request(self, op: m.Operation, bearer: str | None = None) -> m.Request:
        self.requests += 1
        return m.Request(session=self.token, id=self.requests, op=op, bearer=bearer)

    def ask(self, op: m.Operation, bearer: str | None = None) -> Any:
        """The value of the reply; Refused as the hub refused it."""
        request = self.request(op, bearer)
        self.send(request)
        return self.answer(request.id)

    def submit(self, *specs: TaskSpec) -> int:
        """Submit a batch; the id of its first task."""
        first: int = self.ask(m.Submit(tasks=specs))["tasks"][0]["id"]
        return first

    def task(self, number: int) -> JsonObject:
        found: JsonObject = self.ask(m.TaskGet(task=number))
        return found

    # --- receiving --------------------------------------------------------------------------------------

    def answer(self, request: int | None) -> Any:
        """The reply to a request, or to whatever could not be read as one (None)."""
        found = self._wait(lambda one: isinstance(one, m.Reply | m.Error) and one.id == request)
        if isinstance(found, m.Error):
            raise Refused(found.code, found.message, field=found.field, retry_after_s=found.retry_after_s)
        return found.value

    def expect(self, kind: type[M]) -> M:
        """The next message of that type; a refusal instead of it is raised."""
        found = self._wait(lambda one: isinstance(one, kind | m.Error))
        if isinstance(found, m.Error) and kind is not m.Error:
            raise Refused(found.code, found.message, field=found.field, retry_after_s=found.retry_after_s)
        return found  # type: ignore[no-any-return]

    def is_silent(self) -> bool:
        """Whether nothing came but the answers that were asked for; asks once more, so that all before is read."""
        self.ask(m.Whoami())
        return self.received == []

    def await_event(self, wanted: int) -> None:
        """Wait for an event of the connection itself, as libzmq tells it."""
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            if self.monitor.poll(100) and recv_monitor_message(self.monitor)["event"] == wanted:
                return
        raise AssertionError(f"event {wanted} of the connection did not come within {ANSWER_S} s")

    def _wait(self, fits: Any) -> Any:
        deadline = time.monotonic() + ANSWER_S
        while True:
            for one in self.received:
                if fits(one):
                    self.received.remove(one)
                    return one
            left_ms = round((deadline - time.monotonic()) * 1000)
            assert left_ms > 0, f"no answer within {ANSWER_S} s; there were {self.received}"
            if self.socket.poll(left_ms):
                self.received.append(m.decode_from_hub(self.socket.recv()))
