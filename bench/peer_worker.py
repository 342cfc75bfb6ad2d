"""One worker process of a peer: it does nothing with each task, and tells the benchmark when it began and when
the peer had its word that it is done. Takes its orders as one JSON line on stdin, as bench.consumer does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from array import array
from collections.abc import Callable, Iterable
from typing import TypedDict

from agentcom import lifeline
from bench import peer_libraries, peer_wire
from bench.peer_wire import task_of
from bench.words import Told


class WorkerOrder(TypedDict):
    peer: str
    port: int
    slots: int
    done_to: str


class Work:
    """What has begun, and the word to the benchmark of what is done. Peers work in threads."""

    def __init__(self, done_to: str) -> None:
        self._told = Told(done_to)
        self._begun_ns: dict[int, int] = {}

    def begin(self, body: bytes) -> None:
        self._begun_ns[task_of(body)] = time.monotonic_ns()

    def finish(self, bodies: Iterable[bytes]) -> None:
        words = array("q")
        for task in map(task_of, bodies):
            words.extend((task, self._begun_ns.pop(task), time.monotonic_ns()))
        self._told.tell(words)


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
    work = Work(order["done_to"])
    peer, port, ready = order["peer"], order["port"], only_line()
    if peer in peer_libraries.WORKERS:
        peer_libraries.WORKERS[peer](port, work.begin, work.finish, ready)
        return 0
    ready()
    loop = {"beanstalkd": peer_wire.work_beanstalkd, "nats": peer_wire.work_nats}[peer]
    loop(port, order["slots"], work.begin, work.finish)
    return 0


if __name__ == "__main__":
    sys.exit(main())
