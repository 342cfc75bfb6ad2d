"""The live view: what the hub's feed says, kept in memory for every reader of the page.

Written by the thread that owns the sockets, read by request threads under one lock. Events are gathered for
FLUSH_S and encoded once into a batch that all streams share; a reader holds only a position. One that falls
behind the kept batches gets a fresh snapshot, so a slow reader costs nothing and blocks nobody.

A sequence per topic shows a gap. After one, and for a new epoch, nothing is shown as new until a snapshot
came: events that arrive meanwhile are kept (bounded) and replayed when they are newer than it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from agentcom import limits
from agentcom.model import JsonObject
from agentcom_web.wire import Published

FLUSH_S = 0.05
BATCHES_MAX = 400  # at least 20 s of batches; a reader further behind gets a snapshot
BATCHES_BYTES_MAX = 4 * limits.MIB
BACKLOG_MAX = 10_000  # events kept while a snapshot is on its way; above it they are dropped, a gap follows
SILENT_S = 5.0  # the hub beats each second; without any beat for so long the feed counts as dead
LOOSE_TOPICS = frozenset({"log", "route"})  # carry their own positions; a gap in them needs no snapshot
_encode = msgspec.json.Encoder().encode


class Batch(NamedTuple):
    """What changed within one flush, as bytes of the stream; log pieces apart, since few readers want all."""

    number: int
    changes: bytes
    logs: tuple[tuple[int, bytes], ...]

    @property
    def size(self) -> int:
        return len(self.changes) + sum(len(piece) for _, piece in self.logs)


class Position(NamedTuple):
    """Where a reader stands: the snapshot it started from and the last batch it was given."""

    generation: int
    number: int


class LogChoice(NamedTuple):
    """Which log pieces a reader wants: all, none, or those of one task."""

    all: bool = True
    task: int = 0

    def wants(self, task: int) -> bool:
        return self.all or task == self.task


def sse(event: str, value: object) -> bytes:
    """One event of the stream. JSON has no raw line breaks, so one data line is enough."""
    return b"event: " + event.encode() + b"\ndata: " + _encode(value) + b"\n\n"


class LiveView:
    """Counts, agents, hosts, endpoints and the newest tasks, as the hub last told them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._closed = False
        self._epoch = ""
        self._sequences: dict[str, int] = {}
        self._counts: JsonObject = {}
        self._agents: dict[str, JsonObject] = {}
        self._hosts: dict[str, JsonObject] = {}
        self._endpoints: dict[int, JsonObject] = {}
        self._tasks: dict[int, JsonObject] = {}
        self._events: dict[int, JsonObject] = {}  # those that the hub keeps, by number
        self._backlog: deque[Published] = deque(maxlen=BACKLOG_MAX)
        self._heard_at = 0.0
        self._in_step = False
        self._reachable = False
        self._generation = 0
        self._number = 0
        self._batches: deque[Batch] = deque()
        self._kept_bytes = 0
        self._pending: dict[object, bytes] = {}
        self._pending_logs: list[tuple[int, bytes]] = []
        self._pending_since = 0.0
        self._snapshot_bytes: tuple[Position, bytes] | None = None

    # --- written by the thread that owns the sockets -------------------------------------------------------

    @property
    def in_step(self) -> bool:
        """Whether every event up to now is in the view; if not a snapshot is needed."""
        return self._in_step

    @property
    def flush_due(self) -> bool:
        return bool(self._pending or self._pending_logs)

    def silent(self) -> bool:
        """Whether the feed has said nothing for so long that it must be dead."""
        return self._clock() - self._heard_at > SILENT_S

    def connecting(self) -> None:
        """A new subscription has been made; it has SILENT_S to be heard."""
        with self._changed:
            self._heard_at = self._clock()
            self._in_step = False
            self._backlog.clear()

    def reachable(self, reachable: bool) -> None:
        """Tell the readers whether the hub answers."""
        with self._changed:
            if reachable != self._reachable:
                self._reachable = reachable
                self._show(("hub",), "hub", {"event": "hub_changed", "reachable": reachable})

    def published(self, message: Published) -> None:
        """One message of the feed."""
        with self._changed:
            self._heard_at = self._clock()
            self._take(message)

    def snapshot(self, value: JsonObject) -> None:
        """Replace everything by a snapshot and replay what is newer than it."""
        with self._changed:
            self._epoch = str(value["epoch"])
            self._sequences = {str(topic): int(at) for topic, at in value["sequences"].items()}
            self._counts = value["counts"]
            self._agents = {str(agent["name"]): agent for agent in value["agents"]}
            self._hosts = {str(host["name"]): host for host in value["hosts"]}
            self._endpoints = {int(endpoint["id"]): endpoint for endpoint in value["endpoints"]}
            self._tasks = {int(task["id"]): task for task in value["tasks"]}
            self._events = {int(event["number"]): event for event in reversed(value.get("events", []))}
            self._in_step = True
            self._pending.clear()
            self._generation += 1
            self._batches.clear()
            self._kept_bytes = 0
            waiting, self._backlog = self._backlog, deque(maxlen=BACKLOG_MAX)
            for message in waiting:
                self._take(message)
            self._changed.notify_all()

    def flush(self) -> None:
        """Close the batch when it is due, and wake the readers."""
        with self._changed:
            if not self.flush_due or self._clock() - self._pending_since < FLUSH_S:
                return
            self._number += 1
            batch = Batch(self._number, b"".join(self._pending.values()), tuple(self._pending_logs))
            self._pending.clear()
            self._pending_logs = []
            self._batches.append(batch)
            self._kept_bytes += batch.size
            while len(self._batches) > BATCHES_MAX or (
                self._kept_bytes > BATCHES_BYTES_MAX and len(self._batches) > 1
            ):
                self._kept_bytes -= self._batches.popleft().size
            self._changed.notify_all()

    def close(self) -> None:
        """Wake every reader for good. Safe in a signal handler of a thread that never reads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _take(self, message: Published) -> None:
        topic, last = message.topic, self._sequences.get(message.topic, 0)
        if not self._in_step:
            self._backlog.append(message)
        elif message.epoch != self._epoch or (message.sequence > last + 1 and topic not in LOOSE_TOPICS):
            self._in_step = False
            self._backlog.append(message)
        elif message.sequence > last:
            self._sequences[topic] = message.sequence
            self._apply(topic, message.event)

    def _apply(self, topic: str, event: JsonObject) -> None:
        if "number" in event:
            self._keep_event({**event, "topic": topic})
        match event.get("event"):
            case "task_changed":
                self._put_task(event["task"])
                self._show(("task", event["task"]["id"]), topic, event)
            case "task_purged":
                self._tasks.pop(event["task"], None)
                self._show(("task", event["task"]), topic, event)
            case "tasks_retired":
                for task in event["tasks"]:
                    self._tasks.pop(task, None)
                self._show(("retired", event["tasks"][0]), topic, event)
            case "agent_changed":
                self._agents[event["agent"]["name"]] = event["agent"]
                self._show(("agent", event["agent"]["name"]), topic, event)
            case "agent_removed":
                self._agents.pop(event["name"], None)
                self._show(("agent", event["name"]), topic, event)
            case "host_changed":
                self._hosts[event["host"]["name"]] = event["host"]
                self._show(("host", event["host"]["name"]), topic, event)
            case "host_removed":
                self._hosts.pop(event["name"], None)
                self._show(("host", event["name"]), topic, event)
            case "endpoint_changed":
                self._endpoints[event["endpoint"]["id"]] = event["endpoint"]
                self._show(("endpoint", event["endpoint"]["id"]), topic, event)
            case "endpoint_removed":
                self._endpoints.pop(event["id"], None)
                self._show(("endpoint", event["id"]), topic, event)
            case "queue_changed":
                self._counts = event["counts"]
                self._show(("queue",), topic, event)
            case "task_routed":
                self._show(("route", event["task"]), topic, event)
            case "task_log":
                self._mark_pending()
                self._pending_logs.append((int(event["task"]), sse("log", event)))

    def _keep_event(self, event: JsonObject) -> None:
        """One that the hub keeps for later reading: the newest are shown. One without a number comes again with it."""
        if event["number"] is None:
            self._show(("unkept", event["event"], event["at"]), "event", event)
            return
        self._events[event["number"]] = event
        while len(self._events) > limits.SNAPSHOT_EVENTS_MAX:
            del self._events[min(self._events)]
        self._show(("event", event["number"]), "event", event)

    def _put_task(self, task: JsonObject) -> None:
        self._tasks[task["id"]] = task
        if len(self._tasks) > limits.SNAPSHOT_TASKS_MAX + 100:
            newest = sorted(self._tasks, reverse=True)[: limits.SNAPSHOT_TASKS_MAX]
            self._tasks = {number: self._tasks[number] for number in newest}

    def _show(self, key: tuple[object, ...], event: str, value: JsonObject) -> None:
        """Add to the batch; a thing that changes twice within a flush is shown once, as it is last."""
        self._mark_pending()
        self._pending[key] = sse(event, value)

    def _mark_pending(self) -> None:
        if not self.flush_due:
            self._pending_since = self._clock()

    # --- read by request threads --------------------------------------------------------------------------

    @property
    def live(self) -> bool:
        """Whether the view is what the hub says now."""
        return self._in_step and self._reachable and not self.silent()

    def read(
        self, position: Position | None, logs: LogChoice, timeout_s: float
    ) -> tuple[Position | None, bytes]:
        """What is new since `position`, or a snapshot when there is none or it is too old; b"" after
        `timeout_s` without anything."""
        with self._changed:
            if not self._readable(position):
                self._changed.wait(timeout_s)
            if self._closed or not self._readable(position):
                return position, b""
            if position is None or not self._kept_since(position):
                return self._snapshot_event()
            fresh = [batch for batch in self._batches if batch.number > position.number]
        pieces = [
            batch.changes + b"".join(piece for task, piece in batch.logs if logs.wants(task))
            for batch in fresh
        ]
        return Position(position.generation, fresh[-1].number), b"".join(pieces)

    def shown(self) -> JsonObject:
        """Everything in the view, as the `snapshot` event and GET /snapshot carry it."""
        with self._changed:
            return self._everything()

    def _readable(self, position: Position | None) -> bool:
        if self._closed:
            return True
        if position is None:
            return self._generation > 0
        return position.generation != self._generation or position.number < self._number

    def _kept_since(self, position: Position) -> bool:
        if position.generation != self._generation or not self._batches:
            return False
        return self._batches[0].number <= position.number + 1

    def _snapshot_event(self) -> tuple[Position, bytes]:
        # Readers that start between two flushes share one encoding. Events applied since the last flush are
        # in it already and come again with the next batch, which changes nothing: each carries the whole thing.
        position = Position(self._generation, self._number)
        if self._snapshot_bytes is None or self._snapshot_bytes[0] != position:
            self._snapshot_bytes = position, sse("snapshot", self._everything())
        return self._snapshot_bytes

    def _everything(self) -> JsonObject:
        return {
            "epoch": self._epoch,
            "sequences": dict(self._sequences),
            "reachable": self._reachable,
            "counts": self._counts,
            "agents": list(self._agents.values()),
            "hosts": list(self._hosts.values()),
            "endpoints": list(self._endpoints.values()),
            "events": [self._events[number] for number in sorted(self._events, reverse=True)],
            "tasks": [self._tasks[number] for number in sorted(self._tasks, reverse=True)],
        }
