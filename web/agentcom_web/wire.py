"""The web process's sockets to the hub: a DEALER for requests and a SUB for the feed, both with CURVE.

Made, used and closed by one thread (hub_link.py). The feed is decoded by the `msgpack` package, never by the
library that the hub encodes with, so that the two ends check each other.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, NamedTuple

import msgpack
import zmq
from zmq.utils.monitor import parse_monitor_message

from agentcom import limits, messages
from agentcom.auth import KeyPair

HEARTBEAT_MS = 2_000
HEARTBEAT_TIMEOUT_MS = 6_000
RECONNECT_MS = 100
RECONNECT_MS_MAX = 1_000
FEED_QUEUE = 10_000  # messages; a longer queue would only be older news, the gap leads to a snapshot
_WATCHED = (
    zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_REFUSED = _WATCHED & ~(zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED)


class Change(Enum):
    """What became of a connection."""

    none = "none"
    lost = "lost"
    refused = "refused"


class Published(NamedTuple):
    """One message of the feed."""

    topic: str
    epoch: str
    sequence: int
    event: dict[str, Any]


def _secure(socket: zmq.Socket[bytes], server_key: str, pair: KeyPair) -> None:
    socket.linger = 0
    socket.setsockopt(zmq.MAXMSGSIZE, limits.FRAME_BYTES_MAX)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MS_MAX)
    socket.setsockopt(zmq.IPV6, 1)
    socket.curve_serverkey = server_key.encode()
    socket.curve_publickey = pair.public.encode()
    socket.curve_secretkey = pair.secret.encode()


class RequestSocket:
    """The DEALER and its monitor, which tells at once that the hub is gone."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, server_key: str, pair: KeyPair
    ) -> None:
        self.socket = context.socket(zmq.DEALER)
        self._established = False
        try:
            _secure(self.socket, server_key, pair)
            self.socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
            self.socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
            self.monitor = self.socket.get_monitor_socket(_WATCHED)
            self.monitor.linger = 0
            self.socket.connect(address)
        except (zmq.ZMQError, ValueError):
            self.socket.close(linger=0)
            raise

    def send(self, body: bytes) -> bool:
        """False when the hub does not read and the queue to it is full."""
        try:
            self.socket.send(body, zmq.DONTWAIT)
        except zmq.Again:
            return False
        return True

    def receive(self) -> messages.FromHub | None:
        """The next message, or None when there is none. Raises Refused for one that cannot be decoded."""
        try:
            frames = self.socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None
        self._established = True
        return messages.decode_from_hub(frames[0])

    def change(self) -> Change:
        """The next thing that the monitor has seen."""
        try:
            event = parse_monitor_message(self.monitor.recv_multipart(zmq.DONTWAIT))["event"]
        except zmq.Again:
            return Change.none
        if event & _REFUSED:
            return Change.refused
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._established = True
        elif event == zmq.EVENT_DISCONNECTED and self._established:
            return Change.lost
        return Change.none

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(linger=0)
        self.socket.close(linger=100)


class FeedSocket:
    """The SUB, subscribed to every topic.

    Without heartbeats of ZMTP: when one runs out while the queue here is full, libzmq connects again and the next read
    aborts the process (`_input_stopped`, stream_engine_base.cpp). The feed's own beats tell when it is dead.
    """

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], address: str, server_key: str, pair: KeyPair
    ) -> None:
        self.socket = context.socket(zmq.SUB)
        try:
            _secure(self.socket, server_key, pair)
            self.socket.setsockopt(zmq.RCVHWM, FEED_QUEUE)
            self.socket.setsockopt(zmq.SUBSCRIBE, b"")
            self.socket.connect(address)
        except (zmq.ZMQError, ValueError):
            self.socket.close(linger=0)
            raise

    def receive(self) -> Published | None:
        """The next message, or None when there is none. Raises ValueError for one that is not of the feed."""
        try:
            frames = self.socket.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return None
        if len(frames) != 3:
            raise ValueError(f"a feed message has 3 frames, this one {len(frames)}")
        position, event = msgpack.unpackb(frames[1]), msgpack.unpackb(frames[2])
        if not (isinstance(position, list) and len(position) == 2 and isinstance(event, dict)):
            raise ValueError("a feed message is [topic][epoch, sequence][event]")
        return Published(frames[0].decode(), str(position[0]), int(position[1]), event)

    def close(self) -> None:
        self.socket.close(linger=0)
