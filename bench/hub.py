"""The hub beside the bare ROUTER echo that it is built on and the disk that it waits for, in one run.

`echo`: one Python thread sends messages of 255 bytes back, CURVE on. `submit`: tasks of the same size to a real hub
(`agentcom hub`, with its logs, in a process of its own), each validated and on disk before it is answered; no
host has joined, so they stay queued. `end_to_end`: from submit to acknowledged result, on a second hub with two
host processes that accept each task and bring its result at once.

The three take turns, several rounds for each number in flight, and before each turn a few fdatasync on the same
disk say how fast it was then. A row has the medians of its rounds; `ratio_to_echo` compares with the echo of the
same round. Latencies are the caller's, those of `end_to_end` up to the moment in which the host has its
acknowledgement. Everything shares the cores of this machine: the callers, the hub, the hosts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypedDict

import zmq

from agentcom import auth, limits
from agentcom import messages as m
from agentcom.config import Home
from agentcom.lifeline import PARENT_PID_VARIABLE
from agentcom.model import Role, TaskSpec
from bench.consumer import ANSWER_MS_MAX, ask, dealer
from bench.machine import commit, machine, table

IN_FLIGHT: Final = (1, 16, 100, 1000)
ROUNDS: Final = 3
SECONDS: Final = 3.0
QUICK_SECONDS: Final = 0.3
HOSTS: Final = 2
AGENTS: Final = 16  # per host
BODY_BYTES: Final = 255
SYNCS: Final = 15
SYNC_BYTES: Final = 4096
READY_S_MAX: Final = 30
STOP_S_MAX: Final = 5
ROOT: Final = Path(__file__).resolve().parent.parent

Socket = zmq.Socket[bytes]


class Row(TypedDict):
    """One implementation at one number in flight. `per_s` counts answers; latencies are in microseconds."""

    impl: str
    in_flight: int
    per_s: int
    ratio_to_echo: float
    p50_us: int
    p99_us: int
    fdatasync_us: int


class Turn(NamedTuple):
    """What one turn of one implementation gave."""

    per_s: float
    took_ns: list[int]
    fdatasync_us: float


# --- what is measured -----------------------------------------------------------------------------------


class Echo:
    """Messages to the echo and back."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._body = b"x" * BODY_BYTES

    def run(self, in_flight: int, run_s: float) -> tuple[float, list[int]]:
        return pipeline(self._socket, self._body, in_flight, run_s, b"x")


class Submit:
    """Durable submits to a hub without hosts."""

    def __init__(self, socket: Socket, session: bytes) -> None:
        self._socket = socket
        self._body = submit_body(session)

    def run(self, in_flight: int, run_s: float) -> tuple[float, list[int]]:
        return pipeline(self._socket, self._body, in_flight, run_s, b"\x83\xa4type\xa5reply")


class EndToEnd:
    """Submits to a hub with hosts, each waited for until its result is acknowledged."""

    def __init__(self, socket: Socket, session: bytes, done: Socket) -> None:
        self._socket, self._done = socket, done
        self._body = submit_body(session)

    def run(self, in_flight: int, run_s: float) -> tuple[float, list[int]]:
        """Keeps so many tasks between submit and result. A result may be told of before its submit's reply."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._done, zmq.POLLIN)
        sent_ns: deque[int] = deque()
        open_ns: dict[int, int] = {}
        ended_ns: dict[int, int] = {}
        took_ns: list[int] = []
        open_count = 0
        begun = time.monotonic()
        until = begun + run_s
        while open_count or time.monotonic() < until:
            while open_count < in_flight and time.monotonic() < until:
                sent_ns.append(time.monotonic_ns())
                self._socket.send(self._body)
                open_count += 1
            if not poller.poll(ANSWER_MS_MAX):
                raise RuntimeError(f"{open_count} tasks did not move for {ANSWER_MS_MAX} ms")
            for reply in received(self._socket):
                open_ns[_task_of(reply)] = sent_ns.popleft()
            for told in received(self._done):
                pairs = array("q", told)
                ended_ns.update(zip(pairs[::2], pairs[1::2], strict=True))
            for task in [task for task in ended_ns if task in open_ns]:
                took_ns.append(ended_ns.pop(task) - open_ns.pop(task))
                open_count -= 1
        return len(took_ns) / (time.monotonic() - begun), took_ns


def pipeline(
    socket: Socket, body: bytes, in_flight: int, run_s: float, answer_start: bytes
) -> tuple[float, list[int]]:
    """Keeps `in_flight` copies of `body` under way; (answers a second, ns of each). Answers come in order."""
    sent_ns: deque[int] = deque()
    took_ns: list[int] = []
    begun = time.monotonic()
    until = begun + run_s
    for _ in range(in_flight):
        sent_ns.append(time.monotonic_ns())
        socket.send(body)
    while sent_ns:
        if not socket.poll(ANSWER_MS_MAX):
            raise RuntimeError(f"no answer within {ANSWER_MS_MAX} ms")
        goes_on = time.monotonic() < until
        for answer in received(socket):
            now_ns = time.monotonic_ns()
            took_ns.append(now_ns - sent_ns.popleft())
            if not answer.startswith(answer_start):
                raise RuntimeError(f"the answer is {answer[:200]!r}")
            if goes_on:
                sent_ns.append(now_ns)
                socket.send(body)
    return len(took_ns) / (time.monotonic() - begun), took_ns


def received(socket: Socket) -> Iterator[bytes]:
    """What has arrived, at most one tick's worth."""
    for _ in range(limits.TICK_MESSAGES_MAX):
        try:
            yield socket.recv(zmq.NOBLOCK)
        except zmq.Again:
            return


def submit_body(session: bytes) -> bytes:
    """A request of BODY_BYTES that submits one shell task."""

    def encoded(description: str) -> bytes:
        spec = TaskSpec(description=description, command="true", labels=("bench",))
        return m.encode(m.Request(session=session, id=1, op=m.Submit(tasks=(spec,))))

    # A text of 32 to 255 bytes has one head byte more than a short one: measure with one of that kind.
    text = "Say that the build is green. ".ljust(40, ".")
    body = encoded(text + "." * (BODY_BYTES - len(encoded(text))))
    assert len(body) == BODY_BYTES, f"the request has {len(body)} bytes"
    return body


def fdatasync_us(folder: Path) -> float:
    """The median of a few small synced appends to a file in `folder`."""
    took: list[float] = []
    with (folder / "calibration").open("wb", buffering=0) as file:
        for _ in range(SYNCS):
            file.write(b"\0" * SYNC_BYTES)
            begun = time.perf_counter()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - begun) * 1e6)
    return statistics.median(took)


def _task_of(reply: bytes) -> int:
    message = m.decode_from_hub(reply)
    if not isinstance(message, m.Reply):
        raise RuntimeError(f"the answer to a submit is {message}")
    return int(message.value["tasks"][0]["id"])


# --- the processes --------------------------------------------------------------------------------------


class Stage:
    """Starts the processes of one run and takes all of them away again, with their homes."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._context: zmq.Context[Socket] = zmq.Context()
        stack.callback(self._context.destroy, linger=0)

    def echo(self) -> Echo:
        keys = auth.KeyPair.make()
        ready = self._start("-m", "bench.consumer", "echo", order={"secret": keys.secret})
        return Echo(dealer(self._context, ready["address"], keys.public, auth.KeyPair.make()))

    def submit(self) -> Submit:
        return Submit(*self._hub("submit"))

    def end_to_end(self, agents: int) -> EndToEnd:
        socket, session = self._hub("end_to_end")
        done = self._context.socket(zmq.PULL)
        done.setsockopt(zmq.RCVHWM, 0)
        done.bind("tcp://127.0.0.1:*")
        hub = auth.read_hub_address(Home(self.folder / "end_to_end"))
        assert hub is not None, "a hub that is ready has written its address"
        for n in range(HOSTS):
            once = auth.KeyPair.make()
            invite = m.HostInvite(key=once.public, role=Role.host, name=f"host{n}")
            ask(socket, m.Request(session=session, id=0, op=invite))
            order = {
                "name": f"host{n}",
                "agents": agents,
                "hub": hub.hub,
                "hub_key": hub.key,
                "invite_secret": once.secret,
                "done_to": done.getsockopt_string(zmq.LAST_ENDPOINT),
            }
            self._start("-m", "bench.consumer", "host", order=order)
        return EndToEnd(socket, session, done)

    def _hub(self, name: str) -> tuple[Socket, bytes]:
        """A hub with a home of its own, and an admin's session with it."""
        home = Home(self.folder / name).prepare()
        self._start("-m", "agentcom.cli", "hub", home=home.path)
        address = auth.read_hub_address(home)
        assert address is not None, "a hub that is ready has written its address"
        socket = dealer(self._context, address.hub, address.key, auth.load_key(home.keys / "admin.key"))
        hello = m.Hello(protocol=limits.PROTOCOL_VERSION, process=secrets.token_hex(8), software="bench")
        welcome = ask(socket, hello)
        assert isinstance(welcome, m.Welcome)
        return socket, welcome.session

    def _start(
        self, *arguments: str, order: dict[str, Any] | None = None, home: Path | None = None
    ) -> dict[str, Any]:
        """One Python process that ends with this one; the JSON line with which it says that it is ready."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AGENTCOM_")}
        environment[PARENT_PID_VARIABLE] = str(os.getpid())
        environment |= {"AGENTCOM_HUB_PORT": "0", "AGENTCOM_HUB_FEED_PORT": "0"}
        if home is not None:
            environment["AGENTCOM_HOME"] = str(home)
        log_path = self.folder / f"{arguments[-1]}-{secrets.token_hex(4)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._stack.callback(_end, process)
        assert process.stdin is not None
        assert process.stdout is not None
        if order is not None:
            process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.close()
        line = process.stdout.readline()
        if not line:
            process.wait(READY_S_MAX)
            raise RuntimeError(f"{' '.join(arguments)} ended: {log_path.read_text(errors='replace')[-2000:]}")
        ready: dict[str, Any] = json.loads(line)
        return ready


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


# --- the run --------------------------------------------------------------------------------------------


def measure(folder: Path, agents: int, rounds: int, run_s: float) -> list[Row]:
    """All rows; `run_s` is the time of one row, over all its rounds."""
    turns: dict[tuple[int, str], list[Turn]] = {}
    with contextlib.ExitStack() as stack:
        stage = Stage(folder, stack)
        runners: dict[str, Echo | Submit | EndToEnd] = {
            "echo": stage.echo(),
            "submit": stage.submit(),
            "end_to_end": stage.end_to_end(agents),
        }
        for runner in runners.values():
            runner.run(16, min(0.2, run_s))  # the first messages pay for the handshake
        for _ in range(rounds):
            for in_flight in IN_FLIGHT:
                for impl, runner in runners.items():
                    sync_us = fdatasync_us(folder)
                    per_s, took_ns = runner.run(in_flight, run_s / rounds)
                    turns.setdefault((in_flight, impl), []).append(Turn(per_s, took_ns, sync_us))
    return [_row(impl, n, found, turns[n, "echo"]) for (n, impl), found in turns.items()]


def _row(impl: str, in_flight: int, turns: list[Turn], echo: list[Turn]) -> Row:
    took_ns = sorted(ns for turn in turns for ns in turn.took_ns)
    ratios = [mine.per_s / bare.per_s for mine, bare in zip(turns, echo, strict=True)]
    return Row(
        impl=impl,
        in_flight=in_flight,
        per_s=round(statistics.median(turn.per_s for turn in turns)),
        ratio_to_echo=round(statistics.median(ratios), 4),
        p50_us=round(took_ns[len(took_ns) // 2] / 1000),
        p99_us=round(took_ns[min(len(took_ns) - 1, len(took_ns) * 99 // 100)] / 1000),
        fdatasync_us=round(statistics.median(turn.fdatasync_us for turn in turns)),
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.hub", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--quick", action="store_true", help="one short round: the shape, not the figures")
    parser.add_argument("--seconds", type=float, help=f"time of one row, by default {SECONDS:g}")
    parser.add_argument("--agents", type=int, default=AGENTS, help="agents of each of the two hosts")
    parser.add_argument("--dir", type=Path, help="the disk to measure on; the temporary folder by default")
    options = parser.parse_args(arguments)
    run_s = options.seconds or (QUICK_SECONDS if options.quick else SECONDS)
    with tempfile.TemporaryDirectory(prefix="agentcom-bench-", dir=options.dir) as folder:
        rows = measure(Path(folder), options.agents, 1 if options.quick else ROUNDS, run_s)
    if options.json:
        print(json.dumps({"rows": rows, "machine": machine(), "commit": commit()}))
        return 0
    print(table(list(Row.__annotations__), [list(row.values()) for row in rows]))
    print(f"\nmachine: {machine()}\ncommit: {commit()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
