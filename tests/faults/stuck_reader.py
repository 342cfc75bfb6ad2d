"""Row I14: one reader of the feed stops reading among fifty, while the hub publishes more than it keeps for anyone.

The others miss nothing, callers are served, the hub keeps a bounded amount for the one that is stuck. When that one
reads again it sees a gap and is in step after one snapshot. Readers use the web process's own socket and view.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from pathlib import Path

import msgpack
import psutil
import zmq

from agentcom import messages as m
from agentcom.auth import HubAddress, KeyPair, load_key
from agentcom.feed import SEND_QUEUE, TOPICS
from agentcom_web.feed import LiveView
from agentcom_web.wire import FeedSocket
from tests.faults.hosts import Fleet, enrol_all, fleet_of
from tests.faults.load import Wire, address_of
from tests.faults.report import Report
from tests.world import eventually, world

PIECE_CHARS = 1000
BURST = 400  # log pieces under way at once: what the hub's drain and every reader's queue hold with ease
KERNEL_BYTES = 6 << 20  # more than the kernel keeps on a connection
GROWTH_MIB_MAX = 200
GAP_S_MAX = 20.0


class Readers(threading.Thread):
    """Many subscribers in one thread, each with what it saw last of every topic."""

    def __init__(self, address: HubAddress, pair: KeyPair, count: int) -> None:
        super().__init__(daemon=True, name="readers")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets = [FeedSocket(self._context, address.feed, address.key, pair) for _ in range(count)]
        self._last: list[dict[str, int]] = [{} for _ in range(count)]
        self._over = threading.Event()
        self.read = [Counter[str]() for _ in range(count)]
        self.missed: Counter[str] = Counter()
        self.broken: BaseException | None = None

    def run(self) -> None:
        try:
            poller = zmq.Poller()
            for each in self._sockets:
                poller.register(each.socket, zmq.POLLIN)
            while not self._over.is_set():
                ready = dict(poller.poll(20))
                for number, each in enumerate(self._sockets):
                    if each.socket in ready:
                        self._drain(number, each)
        except BaseException as error:
            self.broken = error
        finally:
            for each in self._sockets:
                each.close()

    def _drain(self, number: int, each: FeedSocket) -> None:
        for _ in range(500):
            try:
                topic, position, _event = each.socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            name, sequence = topic.decode(), msgpack.unpackb(position)[1]
            last = self._last[number].get(name, sequence - 1)
            self.missed[name] += sequence - last - 1
            self._last[number][name] = sequence
            self.read[number][name] += 1

    def all_have_heard(self) -> bool:
        return all(len(last) == len(TOPICS) for last in self._last)

    def least(self, topic: str) -> int:
        return min(counts[topic] for counts in self.read)

    def stop(self) -> None:
        self._over.set()
        self.join(10)
        self._context.term()
        if self.broken is not None:
            raise self.broken


class StuckReader:
    """A subscriber whose queues are small; it reads only when it is told to, into a view of its own."""

    def __init__(self, address: HubAddress, pair: KeyPair, wire: Wire) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._feed = FeedSocket(self._context, address.feed, address.key, pair)
        self._feed.socket.rcvhwm = 1
        self._wire = wire
        self.view = LiveView()
        self.view.connecting()
        self.messages = 0

    def look(self) -> bool:
        """Take what has come and, when out of step, a snapshot; True when in step."""
        while (message := self._feed.receive()) is not None:
            self.messages += 1
            self.view.published(message)
        if not self.view.in_step:
            answer = self._wire.ask(m.Snapshot(), 10)
            if isinstance(answer, m.Reply):
                self.view.snapshot(answer.value)
        return self.view.in_step

    def sees_gap(self) -> bool:
        """Read all that was kept for it and what comes now, beats at least, until the view is out of step."""
        over = time.monotonic() + GAP_S_MAX
        while self.view.in_step and time.monotonic() < over:
            if self._feed.socket.poll(50) and (message := self._feed.receive()) is not None:
                self.messages += 1
                self.view.published(message)
        return not self.view.in_step

    def close(self) -> None:
        self._feed.close()
        self._context.term()


def stuck_reader(folder: Path, readers: int, asks: int = 300) -> Report:
    """`readers` in all, one of them stuck. `asks` requests of a caller are timed before and during that."""
    report = Report("I14", f"one stuck reader of the feed among {readers}")
    home = folder / "hub"
    pairs = enrol_all(home, ["host"])
    pieces = SEND_QUEUE + KERNEL_BYTES // PIECE_CHARS  # what the hub keeps for it, and the kernel
    with contextlib.ExitStack() as open_things:
        made = open_things.enter_context(world(folder))
        hub = made.hub()
        address, pair = address_of(home), load_key(home / "keys" / "admin.key")
        wire = Wire(address, pair)
        open_things.callback(wire.close)
        others = Readers(address, pair, readers - 1)
        others.start()
        open_things.callback(others.stop)
        stuck = StuckReader(address, pair, wire)
        open_things.callback(stuck.close)
        fleet = open_things.enter_context(fleet_of(Fleet(address, pairs, agents=1, run_s=lambda _: 10**6)))
        client = made.client()
        client.submit(description="talks", command="true")
        eventually("the task runs", lambda: bool(fleet.hosts[0].running))
        eventually("every reader hears every topic", others.all_have_heard)
        eventually("the one to be stuck is in step", stuck.look)
        process = psutil.Process(hub.pid)
        before = process.memory_info().rss
        calm_ms = _talk(fleet, others, wire, 2000, asks)
        others.missed.clear()
        flood_ms = _talk(fleet, others, wire, pieces, asks)
        grown = process.memory_info().rss - before
        last = client.submit(description="the last", command="true")["id"]
        eventually("the others know the last task", lambda: others.least("task") > 0)
        saw_gap = stuck.sees_gap()
        eventually("the stuck one is in step again", stuck.look)
        shown = {task["id"] for task in stuck.view.shown()["tasks"]}
        report.counts |= {
            "readers": readers,
            "events_to_each": others.least("log"),
            "missed_by_others": others.missed.total(),
            "read_late_by_the_stuck": stuck.messages,
            "hub_grown_mib": grown >> 20,
            "answer_p99_ms_before": calm_ms,
            "answer_p99_ms_during": flood_ms,
        }
    if others.missed.total():
        report.violations.append(f"the others missed {dict(others.missed)}")
    if not saw_gap:
        report.violations.append("the stuck reader saw no gap: it was not stuck enough, or was not told")
    if last not in shown:
        report.violations.append("the snapshot does not show the last task")
    if grown > GROWTH_MIB_MAX << 20:
        report.violations.append(f"the hub has grown by {grown >> 20} MiB, {GROWTH_MIB_MAX} are allowed")
    return report


def _talk(fleet: Fleet, others: Readers, wire: Wire, pieces: int, asks: int) -> float:
    """The host sends so many pieces of its log while a caller asks; the 99th percentile of the answers in ms."""
    host = fleet.hosts[0]
    task, attempt = next(iter(host.running))

    def send() -> None:
        assert host.session is not None
        for _ in range(BURST):
            host._send(
                m.Log(session=host.session, task=task, attempt=attempt, offset=0, text="x" * PIECE_CHARS)
            )

    begun_at, sent = others.least("log"), 0
    times: list[float] = []
    while others.least("log") < begun_at + pieces:
        if others.least("log") >= begun_at + sent:
            fleet.do(send)
            sent += BURST
        if len(times) * pieces < sent * asks:
            begun = time.monotonic()
            assert isinstance(wire.ask(m.TaskGet(task=task), 10), m.Reply)
            times.append(time.monotonic() - begun)
        time.sleep(0.001)
    return round(1000 * sorted(times)[int(len(times) * 0.99)], 2)
