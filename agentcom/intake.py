"""What comes in by the ROUTER, and the sleep until some of it is worth a tick.

A refusal answers at once, since it changes nothing. The heartbeats of hosts, idle or busy, are read while the loop
sleeps and wait a moment for each other: a tick for each would be most of what idle hosts cost a hub.
"""

from __future__ import annotations

import secrets
import select
import socket
import time
from typing import Final

import zmq

from agentcom import limits, logs
from agentcom import messages as m
from agentcom.core.effects import Event, Incoming
from agentcom.errors import NOT_ADMITTED, Refused
from agentcom.gate import Gate
from agentcom.peers import Peers
from agentcom.wire import Received, Wire

# So long the first beat waits for others, which pays with many hosts only; it renews a lease of many seconds.
BEATS_S_MAX: Final = 0.25
BEATS_S_PER_HOST: Final = BEATS_S_MAX / 500
FRAMES_ASKED: Final = 8  # before each of so many frames it is asked whether there is one


class Intake:
    """Reads the ROUTER within bounds; decodes and admits each message."""

    def __init__(
        self, router: zmq.Socket[bytes], wire: Wire, peers: Peers, gate: Gate, wake: socket.socket
    ) -> None:
        self._wire, self._peers, self._gate, self._wake = wire, peers, gate, wake
        self.has_input = wire.has_input
        self._wake_fd = wake.fileno()
        self._log = logs.get()
        self._beats: list[Event] = []  # read while the loop slept
        self._poller = select.poll()
        self._poller.register(int(router.getsockopt(zmq.FD)), select.POLLIN)
        self._poller.register(wake, select.POLLIN)

    def sleep(self, for_ms: int, *, is_empty: bool = False) -> bool:
        """Until there is something for a tick, or `wake` has something to read; False where the time has ended it.
        `is_empty`: `has_input` has just said no, and nothing was sent since."""
        until = time.monotonic() + for_ms / 1000
        # The socket's descriptor tells what has changed since its events were last asked for, by a send as well.
        is_ready = not is_empty and self.has_input()
        while not is_ready:
            left_ms = (until - time.monotonic()) * 1000
            ready = self._poller.poll(left_ms) if left_ms > 0 else []
            if not ready:
                return bool(self._beats)
            if len(ready) > 1 or ready[0][0] == self._wake_fd:
                self._take_wakes()
                return True
            known = len(self._beats)
            is_ready = not self._read(self._beats) or not _are_beats(self._beats[known:])
            if not known:
                until = min(until, time.monotonic() + self.beats_s)
        return True

    @property
    def beats_s(self) -> float:
        """How long the first beat waits for others now."""
        return min(BEATS_S_MAX, BEATS_S_PER_HOST * self._peers.hosts)

    def take(self, events: list[Event]) -> bool:
        """Everything that has arrived, in its order and within bounds; True if the socket was read empty."""
        if not self._beats:
            return self._read(events)
        events += self._beats  # when these had been read the socket was empty, as nearly always
        self._beats.clear()
        return not self.has_input() or self._read(events)

    def _read(self, events: list[Event]) -> bool:
        until = time.monotonic() + limits.TICK_DRAIN_MS_MAX / 1000
        for n in range(limits.TICK_MESSAGES_MAX):
            if n % 64 == 63 and time.monotonic() > until:
                return False
            if 0 < n < FRAMES_ASKED and not self.has_input():
                return True  # as nearly always: asking costs less than the error
            received = self._wire.receive()
            if received is None:
                return True
            self._admit(received, events)
            if len(events) >= limits.TICK_MESSAGES_MAX:
                break
        return False

    def _admit(self, received: Received, events: list[Event]) -> None:
        """What is in one frame: identity from its key, schema from its bytes."""
        address, body, key, is_whole = received
        peer = self._peers.number(address, key)
        if not is_whole:
            self._refuse(peer, None, Refused("multi_frame", "a message is one frame; this one had more"))
            return
        if len(body) > limits.REQUEST_BYTES_MAX:
            text = f"the message has {len(body)} bytes, {limits.REQUEST_BYTES_MAX} are allowed; send less at a time"
            self._refuse(peer, m.request_id_of(body), Refused("too_large", text))
            return
        if not self._gate.admits(key):
            self._refuse(peer, None, Refused("revoked", NOT_ADMITTED))
            return
        try:
            found = m.read_to_hub(body)
        except Refused as refused:
            self._refuse(peer, m.request_id_of(body), refused)
            return
        for message in found:
            events.append(Incoming(peer, key, message, self._fresh(peer, message)))

    def _take_wakes(self) -> None:
        try:
            while self._wake.recv(4096):
                continue
        except BlockingIOError:
            return

    def _fresh(self, peer: int, message: m.ToHub) -> bytes:
        """Random bytes for the token of a session, where one is asked for. What a peer says of itself is noted."""
        if type(message) is m.Bye:
            self._peers.host_left(peer)
        if type(message) is not m.Hello:  # exact types: to ask a Struct's class takes ten times as long
            return b""
        if message.takes_many:
            self._peers.takes_many(peer)
        if message.host is not None:
            self._peers.host_came(peer)
        return secrets.token_bytes(limits.SESSION_TOKEN_BYTES)

    def _refuse(self, peer: int, request: int | None, why: Refused) -> None:
        self._log.info("message_refused", peer=peer, code=why.code, field=why.field)
        error = m.Error(id=request, code=why.code, message=why.message, field=why.field)
        self._peers.send(peer, m.encode(error))


def _are_beats(events: list[Event]) -> bool:
    """Whether there are some, and heartbeats alone."""
    return bool(events) and all(
        type(event) is Incoming and type(event.message) is m.Heartbeat for event in events
    )
