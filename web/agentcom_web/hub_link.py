"""The web process's link to the hub: one thread owns every ZeroMQ socket; request threads hand it operations.

The thread says hello, sends requests, matches replies, keeps the live view in step with the feed, and starts
again whenever the hub is lost. A request that was lost with its connection is repeated only where a repeat
changes nothing. While the hub is away requests wait AWAY_S at most, then fail, so that no thread is held long.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import zmq

from agentcom import __version__, limits, logs
from agentcom import messages as m
from agentcom.auth import HubAddress, KeyPair, load_key, read_hub_address
from agentcom.caller import REPEATABLE, raised
from agentcom.config import Home
from agentcom.errors import ConfigError, HubUnreachable, Refused
from agentcom_web.feed import LiveView
from agentcom_web.wire import Change, FeedSocket, RequestSocket

AWAY_S = 2.0  # a request may wait for the hub to come (back); after that it fails at once
REPLY_S = 10.0  # a hub that has said welcome may take so long for one reply
HELLO_S = 2.0  # without a welcome for so long the address is read again and a new connection made
AGAIN_S = 0.25  # between two attempts to reach the hub, and between two snapshots
REPEATS_MAX = 3
POLL_MS_MAX = 100
DRAIN_MAX = 2_000  # messages read per round, so that a busy feed does not starve requests


@dataclass
class Asked:
    """One operation on its way. `answer` is what the request thread waits for."""

    op: m.Operation
    bearer: str | None
    asked_at: float
    reply_s: float
    answer: Future[Any] = field(default_factory=Future)
    sent_at: float = 0.0
    repeats: int = 0


class HubLink:
    """Call `start`, then `call` from any thread, then `stop`. `process` names this web process to the hub:
    page sessions are bound to it, so workers that replace each other must share it."""

    def __init__(self, home: Home, process: str, view: LiveView) -> None:
        self._home, self._process, self._view = home, process, view
        self._log = logs.get(component="web")
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        self._inbox: deque[Asked] = deque()
        self._stopping = threading.Event()
        self._welcomed = threading.Event()
        self.ahead_s = 0.0  # of the hub's clock, as against this machine's
        self._thread = threading.Thread(target=self._run, name="hub-link")
        # Everything below is touched by the thread only.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._address: HubAddress | None = None
        self._requests: RequestSocket | None = None
        self._feed: FeedSocket | None = None
        self._pair: KeyPair | None = None
        self._welcome: m.Welcome | None = None
        self._hello_at = 0.0
        self._again_at = 0.0
        self._lost_at = time.monotonic()
        self._lost_because = ""
        self._snapshot_at = 0.0
        self._snapshot: Asked | None = None
        self._next_id = 0
        self._waiting: deque[Asked] = deque()
        self._sent: dict[int, Asked] = {}

    # --- for request threads ------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Say goodbye, fail what is still open, free the sockets."""
        self._stopping.set()
        self._wake()
        self._thread.join()
        self._context.term()
        self._wake_read.close()
        self._wake_write.close()

    @property
    def connected(self) -> bool:
        """Whether the hub has said welcome and is not lost."""
        return self._welcomed.is_set()

    def wait_connected(self, timeout_s: float) -> bool:
        return self._welcomed.wait(timeout_s)

    def call(self, op: m.Operation, bearer: str | None = None, reply_s: float = REPLY_S) -> Any:
        """The reply value of `op`, carried out with the rights of `bearer` (of the web process if None).

        Raises Refused as the hub said it, or HubUnreachable.
        """
        probe = m.Request(session=bytes(limits.SESSION_TOKEN_BYTES), id=2**62, op=op, bearer=bearer)
        size = len(m.encode(probe))
        if size > limits.REQUEST_BYTES_MAX:
            raise Refused(
                "too_large", f"the request has {size} bytes, the hub takes {limits.REQUEST_BYTES_MAX}"
            )
        asked = Asked(op, bearer, time.monotonic(), reply_s)
        self._inbox.append(asked)
        self._wake()
        try:
            return asked.answer.result(AWAY_S + reply_s * REPEATS_MAX + 1)
        except TimeoutError:
            raise HubUnreachable("the hub did not answer in time") from None

    def _wake(self) -> None:
        # A full pipe means that the thread will wake anyway.
        with suppress(BlockingIOError):
            self._wake_write.send(b"\0")

    # --- the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.is_set():
            now = time.monotonic()
            self._keep_connected(now)
            self._keep_feed(now)
            self._send_waiting(now)
            self._expire(now)
            self._poll()
            self._view.flush()
        self._end()

    def _poll(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake_read.fileno(), zmq.POLLIN)
        if self._requests is not None:
            poller.register(self._requests.socket, zmq.POLLIN)
            poller.register(self._requests.monitor, zmq.POLLIN)
        if self._feed is not None:
            poller.register(self._feed.socket, zmq.POLLIN)
        ready = dict(poller.poll(20 if self._view.flush_due else POLL_MS_MAX))
        if self._wake_read.fileno() in ready:
            with suppress(BlockingIOError):
                self._wake_read.recv(4096)
        while self._inbox:
            self._waiting.append(self._inbox.popleft())
        self._read_replies()
        self._read_feed()
        self._read_changes()

    def _read_replies(self) -> None:
        for _ in range(DRAIN_MAX):
            if self._requests is None:
                return
            try:
                message = self._requests.receive()
            except Refused as refused:
                self._log.warning("hub_message_refused", code=refused.code, message=refused.message)
                continue
            if message is None:
                return
            self._take(message)

    def _read_changes(self) -> None:
        while self._requests is not None:
            change = self._requests.change()
            if change is Change.none and not self._requests.monitor.poll(0):
                return
            if change is not Change.none:
                self._drop("connection " + change.value)

    def _read_feed(self) -> None:
        for _ in range(DRAIN_MAX):
            if self._feed is None:
                return
            try:
                message = self._feed.receive()
                if message is None:
                    return
                self._view.published(message)
            except (ValueError, KeyError, TypeError) as error:
                self._log.warning("feed_event_refused", error=repr(error))

    # --- the connection -----------------------------------------------------------------------------------

    def _keep_connected(self, now: float) -> None:
        if self._welcome is not None or now < self._again_at:
            return
        if self._requests is not None and now - self._hello_at < HELLO_S:
            return
        self._close_sockets()
        self._again_at = now + AGAIN_S
        address = self._locate()
        if address is None or self._pair is None:
            return
        try:
            self._requests = RequestSocket(self._context, address.hub, address.key, self._pair)
        except (zmq.ZMQError, ValueError) as error:
            self._log.error("hub_address_refused", address=address.hub, error=str(error))
            return
        self._address = address
        self._say_hello(now)

    def _locate(self) -> HubAddress | None:
        """Where the hub is now. None while it has not started yet; it may also have taken another port."""
        try:
            if self._pair is None:
                self._pair = load_key(self._home.keys / "web.key")
            return read_hub_address(self._home)
        except (ConfigError, OSError) as error:
            self._log.debug("hub_not_found", error=str(error))
            return None

    def _say_hello(self, now: float) -> None:
        assert self._requests is not None
        self._hello_at = now
        hello = m.Hello(
            protocol=limits.PROTOCOL_VERSION, process=self._process, software=f"agentcom-web {__version__}"
        )
        self._requests.send(m.encode(hello))

    def _welcomed_by_hub(self, welcome: m.Welcome) -> None:
        self._welcome = welcome
        self.ahead_s = m.ahead_s(welcome, time.time())
        self._log.info("hub_connected", name=welcome.name, epoch=welcome.epoch)
        self._open_feed(welcome)
        self._view.reachable(True)
        self._welcomed.set()

    def _open_feed(self, welcome: m.Welcome) -> None:
        if self._feed is not None:
            self._feed.close()
            self._feed = None
        assert self._address is not None
        assert self._pair is not None
        address = welcome.feed or self._address.feed
        key = welcome.feed_key or self._address.feed_key or self._address.key
        try:
            self._feed = FeedSocket(self._context, address, key, self._pair)
        except (zmq.ZMQError, ValueError) as error:
            self._log.error("feed_address_refused", address=address, error=str(error))
        # Subscribed before the snapshot is asked for: what happens in between is seen twice, not missed.
        self._view.connecting()

    def _keep_feed(self, now: float) -> None:
        """Ask for a snapshot when the view is not in step; subscribe again when the feed is dead."""
        if self._welcome is None:
            return
        if self._view.silent():
            self._log.warning("feed_silent")
            self._open_feed(self._welcome)
        snapshot = self._snapshot
        if snapshot is not None and snapshot.answer.done():
            self._snapshot = None
            self._take_snapshot(snapshot.answer)
        if self._snapshot is None and not self._view.in_step and now >= self._snapshot_at:
            self._snapshot_at = now + AGAIN_S
            self._snapshot = Asked(m.Snapshot(), None, now, REPLY_S)
            self._waiting.append(self._snapshot)

    def _take_snapshot(self, answer: Future[Any]) -> None:
        try:
            self._view.snapshot(answer.result(0))
        except (Refused, HubUnreachable, KeyError, TypeError, ValueError) as error:
            self._log.warning("snapshot_refused", error=repr(error))

    def _drop(self, reason: str) -> None:
        """The connection is lost: repeat what may be repeated on the next one, fail the rest."""
        if self._welcome is not None or reason != self._lost_because:
            self._log.warning("hub_lost", reason=reason)  # not again for each attempt to come back
        self._lost_because = reason
        self._forget_session()
        self._close_sockets()
        lost, self._sent = list(self._sent.values()), {}
        for asked in lost:
            self._repeat(asked, carried_out=None)

    def _forget_session(self) -> None:
        if self._welcome is not None:
            self._lost_at = time.monotonic()
        self._welcome = None
        self._welcomed.clear()
        self._view.reachable(False)

    def _close_sockets(self) -> None:
        if self._requests is not None:
            self._requests.close()
            self._requests = None
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    # --- requests -----------------------------------------------------------------------------------------

    def _send_waiting(self, now: float) -> None:
        while self._waiting and self._welcome is not None and self._requests is not None:
            asked = self._waiting[0]
            self._next_id += 1
            request = m.Request(
                session=self._welcome.session, id=self._next_id, op=asked.op, bearer=asked.bearer
            )
            if not self._requests.send(m.encode(request)):
                return
            self._waiting.popleft()
            asked.sent_at = now
            self._sent[self._next_id] = asked

    def _take(self, message: m.FromHub) -> None:
        if isinstance(message, m.Welcome):
            self._welcomed_by_hub(message)
        elif isinstance(message, m.Reply):
            asked = self._sent.pop(message.id, None)
            if asked is not None:
                asked.answer.set_result(message.value)
        elif isinstance(message, m.Error):
            self._take_error(message)

    def _take_error(self, error: m.Error) -> None:
        asked = self._sent.pop(error.id, None) if error.id is not None else None
        if error.code == "no_session":
            self._session_lost(asked)
        elif asked is not None:
            asked.answer.set_exception(raised(error))
        elif error.id is None:
            # It concerns the connection: a revoked key, too many sessions, a hub of another version.
            self._log.error("hub_refused", code=error.code, message=error.message)
            self._again_at = time.monotonic() + 1.0
            self._drop(error.code)

    def _session_lost(self, refused: Asked | None) -> None:
        """The hub has forgotten the session. `refused` was not carried out, so it is sent again."""
        if refused is not None:
            self._repeat(refused, carried_out=False)
        if self._welcome is not None and self._requests is not None:
            self._forget_session()
            self._say_hello(time.monotonic())
        if refused is None:
            lost, self._sent = list(self._sent.values()), {}
            for asked in lost:
                self._repeat(asked, carried_out=None)

    def _repeat(self, asked: Asked, carried_out: bool | None) -> None:
        asked.repeats += 1
        if asked.repeats > REPEATS_MAX:
            asked.answer.set_exception(HubUnreachable("the hub went away again and again; see its log"))
        elif carried_out is False or isinstance(asked.op, REPEATABLE):
            asked.asked_at = time.monotonic()
            self._waiting.append(asked)
        else:
            asked.answer.set_exception(
                HubUnreachable(
                    "the hub went away before it answered; whether this was done is not known: "
                    "look before you repeat it"
                )
            )

    def _expire(self, now: float) -> None:
        overdue = [number for number, asked in self._sent.items() if now - asked.sent_at > asked.reply_s]
        for number in overdue:
            self._sent.pop(number).answer.set_exception(HubUnreachable("the hub did not answer in time"))
        if self._welcome is not None or now - self._lost_at < AWAY_S:
            return
        while self._waiting:
            self._waiting.popleft().answer.set_exception(self._away())

    def _away(self) -> HubUnreachable:
        at = f" at {self._address.hub}" if self._address is not None else ""
        return HubUnreachable(f"the hub{at} does not answer; start it with `agentcom up` or `agentcom hub`")

    def _end(self) -> None:
        if self._requests is not None and self._welcome is not None:
            self._requests.send(m.encode(m.Bye(session=self._welcome.session)))
        self._close_sockets()
        for asked in [*self._inbox, *self._waiting, *self._sent.values()]:
            asked.answer.set_exception(HubUnreachable("the web process is stopping"))


def new_process_id() -> str:
    """Random per start of the web process; page sessions end with it."""
    return os.urandom(16).hex()
