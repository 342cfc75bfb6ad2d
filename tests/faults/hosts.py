"""Hosts that speak the real protocol and run nothing: many DEALERs in one process, one thread for all.

A host here does what a sidecar does on the wire (hello, heartbeats, accept, results again until they are
acknowledged, hello again after each new connection), and can be frozen, killed or made slow by a test. What it
started is counted by (task, attempt): the fence is checked against that, not against what the hub says.
"""

from __future__ import annotations

import contextlib
import math
import queue
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from agentcom import limits
from agentcom import messages as m
from agentcom.auth import HubAddress, KeyPair
from agentcom.config import Home
from agentcom.core.effects import key_u64
from agentcom.model import Backend, PrincipalRecord, ResultStatus, Role, TaskResult
from agentcom.store.base import Batch
from agentcom.store.check import full_check_here
from agentcom.store.start import StorePaths, open_store

GIB = 1 << 30
EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
HELLO_AGAIN_S = 15.0  # longer than any round trip here: each hello makes the hub compare what is held
SEND_AGAIN_S = 1.0
DIES_AFTER_S = 0.03  # of a poison: its accept has left, its result would come later
Key = tuple[int, int]
RESULT = TaskResult(status=ResultStatus.unchecked, backend=Backend.shell, model="none", cost_usd=0.0)


def enrol_all(home: Path, names: Iterable[str]) -> dict[str, KeyPair]:
    """Write host keys into the store of a hub that does not run: hundreds at once, where invitations are
    bounded by the hour."""
    place = Home(home).prepare()
    pairs = {name: KeyPair.make() for name in names}
    opened = open_store(StorePaths.of_home(place.path), map_bytes=GIB, checker=full_check_here)
    store = opened.journaled
    try:
        batch = Batch()
        first = 1 + store.count("principals")
        for number, (name, pair) in enumerate(pairs.items(), first):
            record = PrincipalRecord(id=number, name=name, role=Role.host, key=pair.public)
            batch.put("principals", b"p" + key_u64(number), msgspec.msgpack.encode(record))
        store.commit(batch, store.sequence + 1)
    finally:
        opened.close()
    return pairs


class FakeHost:
    """One host. All of it is used by the fleet's thread alone, but for the counts."""

    def __init__(self, fleet: Fleet, name: str, pair: KeyPair, agents: int, needs: tuple[str, ...]) -> None:
        self.fleet, self.name, self._pair = fleet, name, pair
        self._offers = tuple(
            m.AgentOffer(name=f"{name}-{n}", backends=(Backend.shell,), capabilities=needs)
            for n in range(agents)
        )
        self.frozen = False
        self.welcomes = 0
        self.welcomed_at = 0.0
        self.beats_read = 0
        self.session: bytes | None = None
        self.running: dict[Key, float] = {}
        self.outbox: dict[Key, float] = {}
        self._cancelled: set[Key] = set()
        self._connect()
        self._begin_life()

    def _begin_life(self) -> None:
        """A process starts: it knows nothing of what the one before it ran."""
        self._process = secrets.token_hex(8)
        self.session = None
        self.running.clear()
        self._hello_at = 0.0
        self._dies_at = math.inf
        self._beat, self._beat_at = 0, 0.0

    def _connect(self) -> None:
        address = self.fleet.address
        socket = self.fleet.context.socket(zmq.DEALER)
        socket.linger = 0
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, 50)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 400)
        socket.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, address.key)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, self._pair.public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self._pair.secret)
        self.monitor = socket.get_monitor_socket(EVENTS)
        self.monitor.linger = 0
        socket.connect(address.hub)
        self.socket = socket

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close(0)
        self.socket.close(0)

    def die(self) -> None:
        """As kill -9 and a restart: what ran is gone, the outbox stays, as it lies on a disk."""
        self.fleet.counts["deaths"] += 1
        self.close()
        self._connect()
        self._begin_life()

    def turn(self, now: float) -> None:
        """Everything that is due. A frozen host does nothing, as a process after SIGSTOP."""
        if self.frozen:
            return
        if now >= self._dies_at:
            self.die()
        self._events(now)
        self._read(now)
        if self.session is None:
            if now >= self._hello_at:
                self._hello_at = now + HELLO_AGAIN_S
                self._hello()
            return
        if now >= self._beat_at:
            self._beat += 1
            self._beat_at = now + self.fleet.heartbeat_s
            held = tuple(m.AttemptBeat(*key) for key in self.running)
            self._send(m.Heartbeat(session=self.session, beat=self._beat, attempts=held))
        for key in [key for key, due in self.running.items() if due <= now]:
            del self.running[key]
            self.outbox[key] = 0.0
        for key in [key for key, due in self.outbox.items() if due <= now]:
            self.outbox[key] = now + SEND_AGAIN_S
            self._send(self._result(key, self.session))

    def _events(self, now: float) -> None:
        with contextlib.suppress(zmq.Again):
            while True:
                event = parse_monitor_message(self.monitor.recv_multipart(zmq.NOBLOCK))["event"]
                # A new connection: the hub may have sent to the old one what never arrived.
                self.session, self._hello_at = None, now
                if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                    # libzmq gives up for good after this one; a hub that knows the key must never do it.
                    self.fleet.counts["keys_refused"] += 1
                    self.close()
                    self._connect()

    def _hello(self) -> None:
        held = [m.AttemptHeld(task=k[0], attempt=k[1], state="running") for k in self.running]
        held += [m.AttemptHeld(task=k[0], attempt=k[1], state="finished") for k in self.outbox]
        offer = m.HostOffer(name=self.name, agents=self._offers, attempts=tuple(held))
        self._send(m.Hello(protocol=limits.PROTOCOL_VERSION, process=self._process, host=offer))

    def _read(self, now: float) -> None:
        for _ in range(self.fleet.reads_per_turn):
            try:
                body = self.socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._take(m.decode_from_hub(body), now)

    def _take(self, message: m.FromHub, now: float) -> None:
        counts = self.fleet.counts
        match message:
            case m.Welcome():
                self.session = message.session
                self.fleet.heartbeat_s = message.heartbeat_s
                self.welcomes += 1
                self.welcomed_at = now
                for verdict in message.verdicts:
                    if verdict.verdict == "kill":
                        self.running.pop((verdict.task, verdict.attempt), None)
                for key in self.outbox:
                    self.outbox[key] = 0.0
            case m.Assign():
                self._assigned(message, now)
            case m.Cancel():
                key = (message.task, message.attempt)
                if self.running.pop(key, None) is not None or key not in self.outbox:
                    self._cancelled.add(key)
                    self.outbox[key] = 0.0
            case m.Beat():
                self.beats_read += 1
                for each in message.kill:
                    self.running.pop((each.task, each.attempt), None)
            case m.Ping():
                if self.session is not None:
                    self._send(m.Pong(session=self.session, agent=message.agent))
            case m.ResultAck():
                if self.outbox.pop((message.task, message.attempt), None) is not None:
                    counts[f"results_{message.verdict}"] += 1
                if message.verdict == "accepted":
                    self.fleet.completed[message.task] += 1
            case m.Error():
                counts[f"error_{message.code}"] += 1
                if message.code == "no_session":
                    if self.session is not None:
                        self._hello_at = now
                    self.session = None
                elif self.session is None:
                    self._hello_at = now + (message.retry_after_s or HELLO_AGAIN_S)

    def _assigned(self, assign: m.Assign, now: float) -> None:
        key = (assign.task, assign.attempt)
        if key in self.running or key in self.outbox or self.session is None:
            return
        self.fleet.started[key] += 1
        self._send(m.Accept(session=self.session, task=assign.task, attempt=assign.attempt))
        spec = m.decode_spec(bytes(assign.spec))
        self.running[key] = now + self.fleet.run_s(spec.description)
        if self.fleet.kills(spec.description):
            self._dies_at = now + DIES_AFTER_S
            self.running[key] = math.inf

    def _result(self, key: Key, session: bytes) -> m.Result:
        cancelled = key in self._cancelled
        return m.Result(
            session=session,
            task=key[0],
            attempt=key[1],
            outcome="cancelled" if cancelled else "completed",
            result=None if cancelled else RESULT,
        )

    def _send(self, message: msgspec.Struct) -> None:
        # What does not leave is sent again: hellos, beats and results repeat, an accept is in the next beat.
        with contextlib.suppress(zmq.Again):
            self.socket.send(m.encode(message), zmq.NOBLOCK)


class Fleet(threading.Thread):
    """All hosts and their thread. `run_s` and `kills` decide by a task's description."""

    def __init__(
        self,
        address: HubAddress,
        pairs: dict[str, KeyPair],
        *,
        agents: int = 4,
        needs: tuple[str, ...] = (),
        run_s: Callable[[str], float] = lambda _: 0.0,
        kills: Callable[[str], bool] = lambda _: False,
    ) -> None:
        super().__init__(daemon=True, name="fleet")
        self.address = address
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, 8192)
        self.run_s, self.kills = run_s, kills
        self.heartbeat_s = 0.5
        self.reads_per_turn = 200
        self.counts: Counter[str] = Counter()
        self.started: Counter[Key] = Counter()
        self.completed: Counter[int] = Counter()
        self.broken: BaseException | None = None
        self._orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._over = threading.Event()
        self.hosts = [FakeHost(self, name, pair, agents, needs) for name, pair in pairs.items()]

    def run(self) -> None:
        try:
            while not self._over.is_set():
                with contextlib.suppress(queue.Empty):
                    while True:
                        self._orders.get_nowait()()
                now = time.monotonic()
                for host in self.hosts:
                    host.turn(now)
                self._wait()
        except BaseException as error:
            self.broken = error
        finally:
            for host in self.hosts:
                host.close()

    def _wait(self) -> None:
        poller = zmq.Poller()
        for host in self.hosts:
            if not host.frozen:
                poller.register(host.socket, zmq.POLLIN)
                poller.register(host.monitor, zmq.POLLIN)
        poller.poll(10)

    def do(self, order: Callable[[], None]) -> None:
        """Carry out `order` in the fleet's thread, and wait for it."""
        done = threading.Event()

        def carry_out() -> None:
            order()
            done.set()

        self._orders.put(carry_out)
        assert done.wait(10), "the fleet's thread does not answer"

    def freeze(self, hosts: Iterable[FakeHost], frozen: bool = True) -> None:
        chosen = list(hosts)

        def order() -> None:
            for host in chosen:
                host.frozen = frozen

        self.do(order)

    def stop(self) -> None:
        self._over.set()
        self.join(10)
        self.context.term()


@contextlib.contextmanager
def fleet_of(fleet: Fleet) -> Iterator[Fleet]:
    """Run the fleet; a fault of its own fails the test."""
    fleet.start()
    try:
        yield fleet
    finally:
        fleet.stop()
        if fleet.broken is not None:
            raise fleet.broken  # also when the test has failed: this is then why
