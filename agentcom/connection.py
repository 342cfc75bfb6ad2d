"""One encrypted connection to a hub: a DEALER with CURVE, read with deadlines.

A monitor socket tells a lost connection at once, where a bare DEALER would wait in silence for an answer that
never comes, and tells a refused key from a hub that is not there. Not thread-safe: its owner holds a lock.
"""

from __future__ import annotations

import time

import zmq
from zmq.utils.monitor import parse_monitor_message

from agentcom import limits, messages
from agentcom.auth import KeyPair
from agentcom.errors import ConfigError, HubUnreachable, ProtocolViolation, Refused

HEARTBEAT_MS = 5_000
HEARTBEAT_TIMEOUT_MS = 15_000
RECONNECT_MS = 100
RECONNECT_MS_MAX = 1_000
FAREWELL_MS = 200
_WATCHED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_HANDSHAKE_FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL


class ConnectionLost(Exception):
    """The hub closed the connection; what was asked and not answered may or may not have been done."""


class NoAnswer(Exception):
    """Nothing came within the time."""


class Connection:
    """A DEALER to `address`, whose server must prove `hub_key` (z85). Made without waiting: libzmq connects
    in the background and sends what is queued once it is through."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, hub_key: str, pair: KeyPair
    ) -> None:
        self.address = address
        self.handshake_failed = False
        self.established = False
        self._socket = context.socket(zmq.DEALER)
        self._monitor: zmq.Socket[bytes] | None = None
        try:
            self._configure(hub_key, pair)
            self._monitor = self._socket.get_monitor_socket(_WATCHED)
            self._monitor.linger = 0
            self._poller = zmq.Poller()
            self._poller.register(self._socket, zmq.POLLIN)
            self._poller.register(self._monitor, zmq.POLLIN)
            self._socket.connect(address)
        except (zmq.ZMQError, ValueError) as error:
            self.close()
            hint = "it has the form tcp://HOST:PORT"
            raise ConfigError(f"cannot use the hub address {address!r}: {error}; {hint}") from error

    def _configure(self, hub_key: str, pair: KeyPair) -> None:
        socket = self._socket
        socket.linger = 0
        socket.setsockopt(zmq.MAXMSGSIZE, limits.FRAME_BYTES_MAX)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS_MAX)
        socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
        socket.setsockopt(zmq.IPV6, 1)
        socket.curve_serverkey = hub_key.encode()
        socket.curve_publickey = pair.public.encode()
        socket.curve_secretkey = pair.secret.encode()

    def send(self, body: bytes) -> None:
        """Queue one message; HubUnreachable when the queue to a hub that does not read is full. Refused and
        ConnectionLost as in `receive`: a socket that the hub has turned away has no queue any more."""
        try:
            self._socket.send(body, zmq.DONTWAIT)
        except zmq.Again:
            while self._monitor is not None and self._monitor.poll(0):
                self._read_event(self._monitor)
            raise HubUnreachable(f"the hub at {self.address} does not read what it is sent") from None

    def receive(self, until: float) -> messages.FromHub:
        """The next message. Raises NoAnswer at `until` (monotonic seconds), ConnectionLost, or Refused with
        code `unknown_key` when the hub does not let this key in."""
        while True:
            left_ms = max(0, round((until - time.monotonic()) * 1000))
            ready = dict(self._poller.poll(left_ms))
            if self._socket in ready:
                return self._read()
            if self._monitor is not None and self._monitor in ready:
                self._read_event(self._monitor)
            elif left_ms == 0:
                raise NoAnswer

    def _read(self) -> messages.FromHub:
        frames = self._socket.recv_multipart(zmq.DONTWAIT)
        self.established = True  # the monitor's own word for it may still be unread
        if len(frames) != 1:
            raise ProtocolViolation(
                f"the hub at {self.address} sent {len(frames)} frames where one is expected"
            )
        return messages.decode_from_hub(frames[0])

    def _read_event(self, monitor: zmq.Socket[bytes]) -> None:
        event = parse_monitor_message(monitor.recv_multipart(zmq.DONTWAIT))["event"]
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            raise Refused(
                "unknown_key",
                f"the hub at {self.address} does not let this key in; it was revoked or never joined: "
                "ask for a code from `agentcom host invite` and run `agentcom join CODE`",
            )
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.established = True
        elif event & _HANDSHAKE_FAILED:
            self.handshake_failed = True
        elif event == zmq.EVENT_DISCONNECTED and self.established:
            raise ConnectionLost(self.address)

    def close(self, farewell: bytes | None = None) -> None:
        """Close both sockets. What is queued and unsent is dropped, except that `farewell` is given a moment
        (FAREWELL_MS) when the connection stands."""
        if self._socket.closed:
            return
        linger = 0
        if farewell is not None and self.established:
            try:
                self._socket.send(farewell, zmq.DONTWAIT)
                linger = FAREWELL_MS
            except zmq.Again:
                linger = 0
        if self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close(linger=0)
        self._socket.close(linger=linger)
