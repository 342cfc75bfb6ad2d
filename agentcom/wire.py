"""The hub's ROUTER, message by message, without ever waiting: compiled where that was built, else by pyzmq.

A small tick spends a tenth of its time in calls of pyzmq that take more to get through than to do. Both do the same,
so the choice changes speed only.
"""

from __future__ import annotations

from typing import Final, Protocol

import zmq

# Plain integers: combining the enum's members anew for each send costs more than the send.
NOBLOCK: Final = int(zmq.NOBLOCK)
EVENTS: Final = int(zmq.EVENTS)
POLLIN: Final = int(zmq.POLLIN)
ADDRESS_FLAGS: Final = int(zmq.NOBLOCK | zmq.SNDMORE)

Received = tuple[bytes, bytes, str, bool]


class Wire(Protocol):
    """What both can do. ZMQError for what no peer can cause; ValueError after `close`, which leaves the socket open."""

    def has_input(self) -> bool:
        """Whether there is something to receive."""

    def receive(self) -> Received | None:
        """The address, the bytes of the message, the public key that ZAP handed over for its connection ("" for none),
        and whether that was all: what follows in further frames is read and dropped. None: there is nothing."""

    def send(self, address: bytes, body: bytes) -> bool | None:
        """True: it is on its way. False: the peer does not read, and nothing was sent. None: no such peer."""

    def close(self) -> None: ...


class PlainWire:
    """By pyzmq: the readable twin of `_wire.pyx`."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        self._is_open = True

    def close(self) -> None:
        self._is_open = False

    def has_input(self) -> bool:
        self._require_open()
        return bool(int(self._socket.getsockopt(EVENTS)) & POLLIN)

    def receive(self) -> Received | None:
        self._require_open()
        try:
            address = self._socket.recv(NOBLOCK)
            frame = self._socket.recv(NOBLOCK, copy=False)
        except zmq.Again:
            return None
        # The rest belongs to this message: left unread it would be taken for somebody's address.
        while self._socket.getsockopt(zmq.RCVMORE):
            self._socket.recv(NOBLOCK, copy=False)
        return address, frame.bytes, _user_id(frame), not frame.more

    def send(self, address: bytes, body: bytes) -> bool | None:
        self._require_open()
        try:
            self._socket.send(address, ADDRESS_FLAGS)
            self._socket.send(body, NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return None
        return True

    def _require_open(self) -> None:
        if not self._is_open:
            raise ValueError("the socket is closed")


def _user_id(frame: zmq.Frame) -> str:
    try:
        value = frame.get("User-Id")
    except zmq.ZMQError:  # a connection without a key
        return ""
    return value if isinstance(value, str) else str(value)


def wire_of(socket: zmq.Socket[bytes]) -> Wire:
    """The compiled one, or else its twin."""
    return PlainWire(socket) if CompiledWire is None else CompiledWire(socket)


try:
    from agentcom._wire import Wire as CompiledWire
except ImportError:  # not built here, or another libzmq than the wheel's
    CompiledWire = None  # type: ignore[assignment, misc]
