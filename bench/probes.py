"""What checking very many endpoints costs the hub: its ticks with and without the checks, in one run.

A real hub in this process, with its sockets and store, has endpoints that it checks itself every ten seconds; all of
them are in one process of stand-ins, a tenth slow (half a second), a tenth dead. Meanwhile a client asks one request
after the other, as a person would. A row has p50 and p99 of ticks and of requests, the longest tick, and how long the
longest cycle of checks took; `checks` is off in one row and on in the next. The checks share the cores of this machine
with the servers that they check, and the interpreter with the hub's loop: that is what a tick's p99 shows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import zmq

from agentcom import limits
from agentcom import messages as m
from agentcom.broker import Broker
from agentcom.clock import SystemClock
from agentcom.config import EndpointSettings, Home, HubSettings, Settings
from agentcom.core.effects import key_u64
from agentcom.model import EndpointKind, EndpointRecord
from agentcom.probe import Found, ProbeThread
from agentcom.probe_endpoint import Target
from agentcom.store.base import Batch
from agentcom.store.check import full_check_here
from agentcom.store.start import StorePaths, open_store
from bench.consumer import ask, dealer
from bench.machine import commit, machine, table

ENDPOINTS: Final = 500
EVERY_S: Final = 10.0
SECONDS: Final = 30.0
SLOW_S: Final = 0.5
ASK_EVERY_S: Final = 0.01
MAP_BYTES: Final = 1 << 28
PROCESS: Final = "bench-probes"


class TimedProbes(ProbeThread):
    """Notes when each cycle was asked for and when its last check was taken."""

    def __init__(self, *arguments: Any) -> None:
        self.cycles_s: list[float] = []
        self._open = 0
        self._began = 0.0
        super().__init__(*arguments, may_be_loopback=True)

    def ask(self, endpoint: int, target: Target) -> None:
        if not self._open:
            self._began = time.perf_counter()
        self._open += 1
        super().ask(endpoint, target)

    def take(self) -> list[tuple[int, Target, Found]]:
        taken = super().take()
        if taken:
            self._open = max(0, self._open - len(taken))
            if not self._open:
                self.cycles_s.append(time.perf_counter() - self._began)
        return taken


class TimedHub(Broker):
    """A hub whose ticks are timed."""

    ticks_us: list[int]

    def _tick(self) -> None:
        began = time.perf_counter_ns()
        super()._tick()
        self.ticks_us.append((time.perf_counter_ns() - began) // 1000)


@contextlib.contextmanager
def servers(count: int) -> Iterator[str]:
    """The stand-ins' address; they end with the block."""
    tenth = str(count // 10)
    command = [sys.executable, "-m", "tests.standins.many", "--dead", tenth, "--slow", tenth, "--slow-s", str(SLOW_S)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        yield str(json.loads(child.stdout.readline())["url"])
    finally:
        child.stdin.close()
        child.wait(10)
        child.stdout.close()


def run(folder: Path, url: str, count: int, seconds: float) -> dict[str, Any]:
    """One row: a hub with `count` endpoints for so long."""
    home = Home(folder).prepare()
    endpoints = EndpointSettings(probe_every_s=EVERY_S)
    settings = Settings(hub=HubSettings(port=0, feed_port=0), endpoints=endpoints)
    opened = open_store(StorePaths.of_home(home.path), map_bytes=MAP_BYTES, checker=full_check_here)
    batch = Batch()
    for number in range(1, count + 1):
        record = EndpointRecord(
            id=number, name=f"server-{number}", kind=EndpointKind.ollama, url=f"{url}/{number - 1}"
        )
        batch.put("endpoints", key_u64(number), msgspec.msgpack.encode(record))
    if count:
        opened.journaled.commit(batch, opened.journaled.sequence + 1)
    TimedHub.ticks_us = []
    hub = TimedHub(home, settings, opened.journaled, SystemClock())
    hub._prober.close()
    probes = TimedProbes(hub._wake, endpoints.probe_timeout_s, endpoints.question_s, lambda _url: "")
    hub._prober = probes
    loop = threading.Thread(target=hub.run, name="hub")
    loop.start()
    try:
        waits_us = asked(hub, seconds)
    finally:
        hub.stop()
        loop.join(10)
        hub.close()
    ticks = hub.ticks_us
    return {
        "checks": bool(count),
        "endpoints": count,
        "ticks": len(ticks),
        "tick_p50_us": at(ticks, 50),
        "tick_p99_us": at(ticks, 99),
        "tick_max_us": max(ticks),
        "request_p50_us": at(waits_us, 50),
        "request_p99_us": at(waits_us, 99),
        "cycles": len(probes.cycles_s),
        "cycle_max_s": round(max(probes.cycles_s), 2) if probes.cycles_s else None,
    }


def asked(hub: Broker, seconds: float) -> list[int]:
    """How long each of a person's requests took."""
    address = hub.address
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = dealer(context, address.hub, address.key, hub.keys.admin)
    waits_us = []
    try:
        welcome = ask(socket, m.Hello(protocol=limits.PROTOCOL_VERSION, process=PROCESS))
        assert isinstance(welcome, m.Welcome)
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            began = time.perf_counter_ns()
            ask(socket, m.Request(session=welcome.session, id=1, op=m.Whoami()))
            waits_us.append((time.perf_counter_ns() - began) // 1000)
            time.sleep(ASK_EVERY_S)
    finally:
        context.destroy(linger=0)
    return waits_us


def at(figures: list[int], percent: int) -> int:
    """The percentile of figures that are not sorted yet."""
    ordered = sorted(figures)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.probes", description=__doc__.splitlines()[0])
    parser.add_argument("--endpoints", type=int, default=ENDPOINTS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agentcom-probes-") as folder, servers(options.endpoints) as url:
        rows = [
            run(Path(folder) / name, url, count, options.seconds)
            for name, count in (("without", 0), ("with", options.endpoints))
        ]
    if options.json:
        print(json.dumps({"rows": rows, "machine": machine(), "commit": commit()}))
        return
    print(table(tuple(rows[0]), [tuple(row.values()) for row in rows]))
    print(f"\n{machine()}\ncommit {commit()}")


if __name__ == "__main__":
    main()
