"""The feed: what happened, published to whoever subscribed; never a reason to wait.

Frames are [topic][epoch, sequence][event], a sequence per topic and a beat per topic each second, so that a
reader sees a gap and asks for a snapshot. Tasks that change often are shown once per flush. XPUB instead of PUB,
the same on the wire, tells whether anyone listens: without readers no brief is built.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import islice
from typing import Any, Final

import msgspec
import zmq

from agentcom.gate import FEED_DOMAIN

TOPICS: Final = ("task", "agent", "host", "endpoint", "queue", "log", "route", "hub")
COUNTED: Final = ("queue_rules_changed", "tasks_retired")  # change the queue's counts; so do events that are kept
EVENTS: Final = int(zmq.EVENTS)
POLLIN: Final = int(zmq.POLLIN)
FLUSH_MS: Final = 50
BEAT_MS: Final = 1000
FLUSH_TASKS_MAX: Final = 200  # briefs per flush; the rest waits for the next one
DIRTY_TASKS_MAX: Final = 2000  # changed tasks that wait; above it they are dropped and readers see a gap
SEND_QUEUE: Final = 2_000  # messages per reader, 32 MB of the largest; a slower one loses some and sees the gap
BIND_S_MAX: Final = 3.0
_encode = msgspec.msgpack.Encoder().encode


class Feed:
    """Owns the publishing socket. `brief` builds what is shown of a task, `counts` what is shown of the queue."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        secret_key: str,
        epoch: str,
        brief: Callable[[int], dict[str, Any] | None],
        counts: Callable[[], dict[str, Any]],
        at: Callable[[], str],
    ) -> None:
        self._context, self._secret_key, self._epoch = context, secret_key, epoch
        self._brief, self._counts, self._at = brief, counts, at
        self.sequences = dict.fromkeys(TOPICS, 0)
        self._subscriptions = 0
        self._dirty: dict[int, None] = {}
        self._queue_dirty = False
        self._flushed_ms = self._looked_ms = 0
        self._beat_ms = 0
        self._socket = self._bind(address)
        self.address: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def is_read(self) -> bool:
        """Whether anyone has subscribed."""
        return self._subscriptions > 0

    def publish(self, topic: str, event: dict[str, Any] | None) -> None:
        """Send one event now, `at` this time if it does not say another. O(1); never blocks. None, or without readers:
        only the sequence rises, so that one who subscribes at this very moment sees a gap."""
        if topic == "agent" or (event is not None and (event["event"] in COUNTED or "number" in event)):
            self._queue_dirty = True  # the counts name the agents by state, what is paused, and what is kept
        self._send(topic, event)

    def _send(self, topic: str, event: dict[str, Any] | None) -> None:
        self.sequences[topic] += 1
        if event is None or self._subscriptions <= 0:
            return
        frames = [
            topic.encode(),
            _encode([self._epoch, self.sequences[topic]]),
            _encode({"at": self._at(), **event}),
        ]
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return  # the reader sees the gap in the sequence and asks for a snapshot

    def counts_changed(self) -> None:
        """What `counts` says has changed."""
        self._queue_dirty = True

    def task_changed(self, task: int) -> None:
        self._dirty[task] = None
        self._queue_dirty = True

    def is_due(self, mono_ms: int) -> bool:
        """Whether `flush` may have something to do."""
        return mono_ms - self._looked_ms >= FLUSH_MS

    def flush(self, mono_ms: int) -> None:
        """Publish what has changed and, once a second, a beat per topic."""
        self._looked_ms = mono_ms
        self._read_subscriptions()
        if mono_ms - self._flushed_ms >= FLUSH_MS and self._dirty:
            self._flushed_ms = mono_ms
            self._flush_tasks()
        if mono_ms - self._beat_ms >= BEAT_MS:
            self._beat_ms = mono_ms
            if self._queue_dirty and self._subscriptions > 0:
                self._send("queue", {"event": "queue_changed", "counts": self._counts()})
            self._queue_dirty = False
            for topic in TOPICS:
                self._send(topic, {"event": "beat"})  # which changes no counts, on the topic of agents neither

    def rebind(self) -> None:
        """Cut every subscriber off; those whose keys are still admitted connect again by themselves."""
        self._socket.close(linger=0)
        self._subscriptions = 0
        self._socket = self._bind(self.address)

    def close(self) -> None:
        self._socket.close(linger=200)

    def _flush_tasks(self) -> None:
        if self._subscriptions <= 0 or len(self._dirty) > DIRTY_TASKS_MAX:
            # More than anyone can follow: the gap makes readers ask for a snapshot.
            self._dirty.clear()
            self.publish("task", None)
            return
        for task in list(islice(self._dirty, FLUSH_TASKS_MAX)):
            del self._dirty[task]
            brief = self._brief(task)
            if brief is not None:
                self.publish("task", {"event": "task_changed", "task": brief})
        self._send("queue", {"event": "queue_changed", "counts": self._counts()})
        self._queue_dirty = False

    def _read_subscriptions(self) -> None:
        # Asked first: an exception in each turn of the loop costs ten times the question.
        while int(self._socket.getsockopt(EVENTS)) & POLLIN:
            message = self._socket.recv(zmq.NOBLOCK)
            # First byte 1: somebody subscribed, 0: unsubscribed or gone. Counted per distinct topic.
            if message[:1] == b"\x01":
                self._subscriptions += 1
            elif message[:1] == b"\x00":
                self._subscriptions = max(0, self._subscriptions - 1)

    def _bind(self, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(zmq.XPUB)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, SEND_QUEUE)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self._secret_key)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, FEED_DOMAIN)
        deadline = time.monotonic() + BIND_S_MAX
        while True:
            try:
                socket.bind(address)
                return socket
            except zmq.ZMQError as error:
                # Unbinding is asynchronous: the port of the socket closed just now may still be taken.
                if error.errno != zmq.EADDRINUSE or time.monotonic() > deadline:
                    socket.close(linger=0)
                    raise
                time.sleep(0.02)
