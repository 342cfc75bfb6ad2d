"""One worker process of a peer: it does nothing with each task, and tells the benchmark when it began and when
the peer had its word that it is done. Takes its orders as one JSON line on stdin, as bench.consumer does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterable
from typing import TypedDict

import zmq

from agentcom import lifeline
from bench import peer_libraries, peer_wire
from bench.peer_wire import task_of


class WorkerOrder(TypedDict):
    peer: str
    port: int
    slots: int
    done_to: str


class Told:
    """What has begun, and the line to the benchmark. Peers work in threads: a socket for each."""

    def __init__(self, done_to: str) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._done_to = done_to
        self._local = threading.local()
        self._begun_ns: dict[int, int] = {}

    def begin(self, body: bytes) -> None:
        self._begun_ns[task_of(body)] = time.monotonic_ns()

    def finish(self, bodies: Iterable[bytes]) -> None:
        word = array("q")
        for task in map(task_of, bodies):
            word.extend((task, self._begun_ns.pop(task), time.monotonic_ns()))
        self._socket().send(word.tobytes())

    def _socket(self) -> zmq.Socket[bytes]:
        found: zmq.Socket[bytes] | None = getattr(self._local, "socket", None)
        if found is None:
            found = self._context.socket(zmq.PUSH)
            found.setsockopt(zmq.SNDHWM, 0)
            found.setsockopt(zmq.LINGER, 0)
            found.connect(self._done_to)
            self._local.socket = found
        return found


def only_line() -> Callable[[], None]:
    """What says that this process is ready. Whatever libraries print goes to the log: celery greets."""
    benchmark = os.dup(1)
    os.dup2(2, 1)
    line = json.dumps({"ready": True, "pid": os.getpid()}).encode() + b"\n"

    def ready() -> None:
        os.write(benchmark, line)
        os.close(benchmark)

    return ready


def main() -> int:
    lifeline.follow_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the benchmark, which then ends its children
    order: WorkerOrder = json.loads(sys.stdin.readline())
    told = Told(order["done_to"])
    peer, port, ready = order["peer"], order["port"], only_line()
    if peer in peer_libraries.WORKERS:
        peer_libraries.WORKERS[peer](port, told.begin, told.finish, ready)
        return 0
    ready()
    work = {"beanstalkd": peer_wire.work_beanstalkd, "nats": peer_wire.work_nats}[peer]
    work(port, order["slots"], told.begin, told.finish)
    return 0


if __name__ == "__main__":
    sys.exit(main())
