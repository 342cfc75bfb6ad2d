"""A reader of the hub's feed on a real socket."""

from __future__ import annotations

from typing import Any

import msgpack
import zmq

from agentcom.auth import HubAddress, KeyPair
from agentcom.feed import TOPICS


class Subscriber:
    """A reader of the feed with a key of its own."""

    def __init__(self, address: HubAddress, pair: KeyPair) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self.socket = context.socket(zmq.SUB)
        self.socket.linger = 0
        self.socket.curve_serverkey = address.feed_key.encode()
        self.socket.curve_publickey = pair.public.encode()
        self.socket.curve_secretkey = pair.secret.encode()
        self.socket.subscribe(b"")
        self.socket.connect(address.feed)

    def next(self, topic: str, event: str = "") -> dict[str, Any]:
        """The next one of that topic, of that name if one is given."""
        while True:
            assert self.socket.poll(10_000), f"nothing on {topic}"
            name, place, body = self.socket.recv_multipart()
            assert name.decode() in TOPICS
            assert len(msgpack.unpackb(place)) == 2
            if name.decode() == topic:
                found: dict[str, Any] = msgpack.unpackb(body)
                if event in ("", found["event"]):
                    return found

    def drain_until_silent_for_beats(self, other: Subscriber, beats: int) -> None:
        """While the other hears that many beats, this one must come to hear none."""
        for _ in range(beats):
            while other.next("queue")["event"] != "beat":
                continue
            heard = 0
            while self.socket.poll(0):
                self.socket.recv_multipart()
                heard += 1
        assert heard == 0, f"still heard {heard} messages"

    def close(self) -> None:
        self.socket.close()
