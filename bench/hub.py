"""The hub beside the bare ROUTER echo that it is built on and the disk that it waits for, in one run.

`echo`: one Python thread sends messages of 255 bytes back, CURVE on; `plain` is the same without. `submit`: tasks of
the same size to a real hub (`agentcom hub`, with its logs, in a process of its own), each validated and on disk before
it is answered; no host has joined, so they stay queued. `end_to_end`: from submit to acknowledged result, on a second
hub with two host processes that accept each task and bring its result at once; there, as a sidecar may, both ends put
what they have to say at one moment into one frame (`many`). The others have a frame for each message. `idle` is what
many idle hosts cost a hub of their own: see idle.py.

All but `idle` take turns, several rounds for each number in flight, and before each turn a few fdatasync and LMDB
commits on the same disk say how fast it was then. A row has the medians of its rounds; `ratio_to_echo` compares
with the echo of the same round. Latencies are the caller's, those of `end_to_end` up to the moment in which the
host has its acknowledgement; `start_p50_us` is from submit to the moment in which the host has the assignment.
`cpu_us` is CPU time of the serving process's main thread for each answer: when others use the machine it moves
far less than `per_s`. Everything shares the cores of this machine: the callers, the hub, the hosts.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pstats
import secrets
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypedDict

import zmq

from agentcom import auth, limits
from agentcom import messages as m
from agentcom.model import TaskSpec
from bench import flushes, gauges, idle
from bench.consumer import ANSWER_MS_MAX, FRAME_MESSAGES, ask, dealer, received
from bench.goals import Goal, at_least, at_most, told
from bench.machine import commit, machine, table
from bench.stage import HubAt, Socket, Stage

IMPLS: Final = ("plain", "echo", "submit", "end_to_end")
IN_FLIGHT: Final = (1, 16, 64, 100, 256, 1000)
ROUNDS: Final = 3
SECONDS: Final = 3.0
QUICK_SECONDS: Final = 0.3
HOSTS: Final = 2
AGENTS: Final = 16  # per host
BODY_BYTES: Final = 255
WARM_S: Final = 0.2
WARM_IN_FLIGHT: Final = 16
FLUSH_S: Final = 0.5
FLUSH_IN_FLIGHT: Final = 64
PROFILE_LINES: Final = 30
IDLE_S: Final = 20.0
CURVE_RATIO: Final = 0.6  # P9
RESERVE_US: Final = 400  # P4: what may be spent beyond two commits


class Row(TypedDict):
    """One implementation at one number in flight. `per_s` counts answers; latencies are in microseconds. None
    where there is nothing to count: the echo has no disk, a submit does not start."""

    impl: str
    in_flight: int
    per_s: int
    ratio_to_echo: float | None
    cpu_us: float
    flushes: float | None  # of the disk, for each answer
    start_p50_us: int | None
    p50_us: int
    p99_us: int
    fdatasync_us: int
    lmdb_commit_us: int


class FlushCount(TypedDict):
    """Flushes of the disk, as a share of those that there should be by design, and how they were counted."""

    of_design: float
    how: str


class Pairs(TypedDict):
    """One task alone, then one LMDB commit by the benchmark, again and again: medians."""

    tasks: int
    start_p50_us: int
    lmdb_commit_us: int


class Ran(NamedTuple):
    """What a runner did: answers in a second, and nanoseconds of each to its answer and to its start."""

    per_s: float
    took_ns: list[int]
    start_ns: list[int]


class Turn(NamedTuple):
    """What one turn of one implementation gave."""

    ran: Ran
    cpu_us: float
    flushes: float | None  # for each answer, by design
    fdatasync_us: float
    lmdb_commit_us: float


class Runner(Protocol):
    """One implementation, in the process `pid`, perhaps with a store."""

    pid: int
    store: Path | None

    def run(self, in_flight: int, run_s: float) -> Ran: ...


# --- what is measured -----------------------------------------------------------------------------------


class Echo:
    """Messages to the echo and back."""

    store: Path | None = None

    def __init__(self, stage: Stage, *, is_plain: bool = False) -> None:
        keys = auth.KeyPair.make()
        ready = stage.start("-m", "bench.consumer", "echo", order={"secret": "" if is_plain else keys.secret})
        self.pid: int = ready["pid"]
        self._socket = dealer(
            stage.context, ready["address"], "" if is_plain else keys.public, auth.KeyPair.make()
        )
        self._body = b"x" * BODY_BYTES

    def run(self, in_flight: int, run_s: float) -> Ran:
        return pipeline(self._socket, self._body, in_flight, run_s, b"x")


class Submit:
    """Durable submits to a hub without hosts."""

    def __init__(self, hub: HubAt) -> None:
        self.pid, self._socket = hub.pid, hub.socket
        self.store: Path | None = hub.home.store
        self._body = submit_body(hub.session)

    def run(self, in_flight: int, run_s: float) -> Ran:
        return pipeline(self._socket, self._body, in_flight, run_s, b"\x83\xa4type\xa5reply")


class EndToEnd:
    """Submits to a hub with hosts, each waited for until its result is acknowledged."""

    def __init__(self, stage: Stage, hub: HubAt, agents: int) -> None:
        self.pid, self._socket = hub.pid, hub.socket
        self.store: Path | None = hub.home.store
        self._done = stage.inbox()
        for n in range(HOSTS):
            stage.host(hub, f"host{n}", agents, self._done)
        # From here on in frames of many messages, as far as there are many, both ways.
        said = m.Hello(protocol=limits.PROTOCOL_VERSION, process=secrets.token_hex(8), takes_many=True)
        welcome = ask(self._socket, said)
        assert isinstance(welcome, m.Welcome)
        self._body = submit_body(welcome.session)

    def run(self, in_flight: int, run_s: float, between: Callable[[], object] | None = None) -> Ran:
        """Keeps so many tasks between submit and result, and calls `between` whenever there is none. A result
        may be told of before its submit's reply."""
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._done.fileno(), zmq.POLLIN)
        sent_ns: deque[int] = deque()
        open_ns: dict[int, int] = {}
        ended: dict[int, tuple[int, int]] = {}
        ran = Ran(0, [], [])
        open_count = 0
        begun = time.monotonic()
        until = begun + run_s
        while open_count or time.monotonic() < until:
            free = in_flight - open_count if time.monotonic() < until else 0
            open_count += free
            while free > 0:
                sent_ns += [time.monotonic_ns()] * min(free, FRAME_MESSAGES)
                self._socket.send(m.encode_many([self._body] * min(free, FRAME_MESSAGES)))
                free -= FRAME_MESSAGES
            # A submit's reply alone lets nothing new begin, so nobody wakes up for it.
            if not (poller if ended else self._done).poll(ANSWER_MS_MAX):
                raise RuntimeError(f"{open_count} tasks did not move for {ANSWER_MS_MAX} ms")
            for frame in received(self._socket):
                for reply in m.read_from_hub(frame):
                    open_ns[_task_of(reply)] = sent_ns.popleft()
            for task, started_ns, ended_ns in self._done.take():
                ended[task] = started_ns, ended_ns
            for task in [task for task in ended if task in open_ns]:
                submitted_ns, (started_ns, ended_ns) = open_ns.pop(task), ended.pop(task)
                ran.took_ns.append(ended_ns - submitted_ns)
                ran.start_ns.append(started_ns - submitted_ns)
                open_count -= 1
            if between is not None and not open_count:
                between()
        return ran._replace(per_s=len(ran.took_ns) / (time.monotonic() - begun))


def pipeline(socket: Socket, body: bytes, in_flight: int, run_s: float, answer_start: bytes) -> Ran:
    """Keeps `in_flight` copies of `body` under way. Answers come in order."""
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
    return Ran(len(took_ns) / (time.monotonic() - begun), took_ns, [])


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


def _task_of(message: m.FromHub) -> int:
    if not isinstance(message, m.Reply):
        raise RuntimeError(f"the answer to a submit is {message}")
    return int(message.value["tasks"][0]["id"])


# --- the run --------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """What to measure; `run_s` is the time of one row, over all its rounds."""

    impls: Sequence[str] = IMPLS
    in_flight: Sequence[int] = IN_FLIGHT
    agents: int = AGENTS
    rounds: int = ROUNDS
    run_s: float = SECONDS
    profile: Path | None = None


def runners_of(stage: Stage, plan: Plan) -> dict[str, Runner]:
    """Each with its processes, warm: the first messages pay for the handshake."""
    found: dict[str, Runner] = {}
    for impl in plan.impls:
        if impl in ("plain", "echo"):
            found[impl] = Echo(stage, is_plain=impl == "plain")
        elif impl == "submit":
            found[impl] = Submit(stage.hub(impl))
        else:
            found[impl] = EndToEnd(stage, stage.hub(impl), plan.agents)
        found[impl].run(WARM_IN_FLIGHT, min(WARM_S, plan.run_s))
    return found


def measure(folder: Path, plan: Plan) -> tuple[list[Row], Pairs | None, FlushCount]:
    """All rows, starts beside commits, and what one commit of the hub asks of the disk."""
    turns: dict[tuple[int, str], list[Turn]] = {}
    with contextlib.ExitStack() as stack:
        runners = runners_of(Stage(folder, stack, plan.profile), plan)
        for _ in range(plan.rounds):
            for in_flight in plan.in_flight:
                for impl, runner in runners.items():
                    turn = turn_of(runner, folder, in_flight, plan.run_s / plan.rounds)
                    turns.setdefault((in_flight, impl), []).append(turn)
        pairs = pairs_of(runners, folder, plan.run_s)
        counted = count_flushes(runners, folder, min(FLUSH_S, plan.run_s))
    rows = [
        _row(impl, n, found, turns.get((n, "echo")), counted["of_design"])
        for (n, impl), found in turns.items()
    ]
    return rows, pairs, counted


def turn_of(runner: Runner, folder: Path, in_flight: int, run_s: float) -> Turn:
    sync_us, commit_us = gauges.fdatasync_us(folder), gauges.lmdb_commit_us(folder)
    flushed = None if runner.store is None else gauges.flushes(runner.store)
    cpu_ns = gauges.main_thread_ns(runner.pid)
    ran = runner.run(in_flight, run_s)
    cpu_us = (gauges.main_thread_ns(runner.pid) - cpu_ns) / 1000 / len(ran.took_ns)
    made = None
    if runner.store is not None and flushed is not None:
        made = (gauges.flushes(runner.store) - flushed) / len(ran.took_ns)
    return Turn(ran, cpu_us, made, sync_us, commit_us)


def pairs_of(runners: dict[str, Runner], folder: Path, run_s: float) -> Pairs | None:
    """Starts and commits side by side, so that whatever slows the disk or the cores down slows both: the other
    gauges look before a turn, and a moment later all may be different."""
    runner = runners.get("end_to_end")
    if not isinstance(runner, EndToEnd):
        return None
    commits_us: list[float] = []
    with contextlib.closing(gauges.CommitGauge(folder)) as gauge:
        ran = runner.run(1, run_s, lambda: commits_us.append(gauge.once_us()))
    return Pairs(
        tasks=len(ran.start_ns),
        start_p50_us=round(statistics.median(ran.start_ns) / 1000),
        lmdb_commit_us=round(statistics.median(commits_us)),
    )


def count_flushes(runners: dict[str, Runner], folder: Path, run_s: float) -> FlushCount:
    """By strace, in a turn of its own."""
    by_design = FlushCount(of_design=1.0, how="by design: one for a batch, two for a commit of LMDB; no strace here")
    runner = next((each for each in runners.values() if each.store is not None), None)
    if runner is None or runner.store is None or not flushes.available():
        return by_design
    flushed = gauges.flushes(runner.store)
    with flushes.flushes_of(runner.pid, folder) as found:
        runner.run(FLUSH_IN_FLIGHT, run_s)
    made = gauges.flushes(runner.store) - flushed
    return FlushCount(of_design=round(found.count / made, 3), how=f"strace, over {made}")


def _row(
    impl: str, in_flight: int, turns: list[Turn], echo: list[Turn] | None, flushes_of_design: float
) -> Row:
    took_ns = sorted(ns for turn in turns for ns in turn.ran.took_ns)
    start_ns = sorted(ns for turn in turns for ns in turn.ran.start_ns)
    flushed = [turn.flushes for turn in turns if turn.flushes is not None]
    ratio = None
    if echo is not None:
        ratios = [mine.ran.per_s / bare.ran.per_s for mine, bare in zip(turns, echo, strict=True)]
        ratio = round(statistics.median(ratios), 4)
    return Row(
        impl=impl,
        in_flight=in_flight,
        per_s=round(statistics.median(turn.ran.per_s for turn in turns)),
        ratio_to_echo=ratio,
        cpu_us=round(statistics.median(turn.cpu_us for turn in turns), 2),
        flushes=round(statistics.median(flushed) * flushes_of_design, 4) if flushed else None,
        start_p50_us=round(start_ns[len(start_ns) // 2] / 1000) if start_ns else None,
        p50_us=round(took_ns[len(took_ns) // 2] / 1000),
        p99_us=round(took_ns[min(len(took_ns) - 1, len(took_ns) * 99 // 100)] / 1000),
        fdatasync_us=round(statistics.median(turn.fdatasync_us for turn in turns)),
        lmdb_commit_us=round(statistics.median(turn.lmdb_commit_us for turn in turns)),
    )


def goals(rows: list[Row], pairs: Pairs | None) -> list[Goal]:
    """Those of docs/performance.md that these rows can tell of."""
    found = {(row["impl"], row["in_flight"]): row for row in rows}
    said: list[Goal] = []
    submit = found.get(("submit", 1000))
    if submit is not None and submit["ratio_to_echo"] is not None:
        said.append(at_least("P1 submit / echo at 1,000 in flight", submit["ratio_to_echo"], 0.12))
    for in_flight in sorted({n for _, n in found}, reverse=True):
        plain = found.get(("plain", in_flight))
        if plain is not None and plain["ratio_to_echo"] is not None:
            name = f"P9 echo with CURVE / without, at {in_flight:,} in flight"
            said.append(at_least(name, round(1 / plain["ratio_to_echo"], 3), CURVE_RATIO))
            break
    if pairs is not None:
        name = "P4 submit to start, us, against two LMDB commits + 400"
        said.append(at_most(name, pairs["start_p50_us"], 2 * pairs["lmdb_commit_us"] + RESERVE_US))
    for in_flight, flushes_max in ((64, 0.06), (256, 0.02), (1000, 0.005)):
        row = found.get(("submit", in_flight))
        if row is not None and row["flushes"] is not None:
            said.append(at_most(f"P5 flushes per submit at {in_flight:,}", row["flushes"], flushes_max))
    return said


def print_profile(folder: Path) -> None:
    """Where the hubs spent their time, most expensive function first; waiting counts as time."""
    for path in sorted(folder.glob("*.pstats")):
        print(f"\n{path}")
        pstats.Stats(str(path)).sort_stats("tottime").print_stats(PROFILE_LINES)


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.hub", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--quick", action="store_true", help="one short round: the shape, not the figures")
    parser.add_argument(
        "--only", action="append", choices=(*IMPLS, "idle"), help="one implementation; more than once"
    )
    parser.add_argument("--in-flight", action="append", type=int, help="one number; may be given repeatedly")
    parser.add_argument("--seconds", type=float, help=f"time of one row, by default {SECONDS:g}")
    parser.add_argument("--agents", type=int, default=AGENTS, help="agents of each of the two hosts")
    help_idle = f"how many idle hosts, by default {idle.SIDECARS}; 0 leaves them out"
    parser.add_argument("--sidecars", type=int, default=idle.SIDECARS, help=help_idle)
    parser.add_argument("--dir", type=Path, help="the disk to measure on; the temporary folder by default")
    parser.add_argument("--profile", type=Path, help="run the hubs under cProfile and keep its files there")
    return parser.parse_args(arguments)


def has_idle(options: argparse.Namespace) -> bool:
    return bool(options.sidecars) and (options.only is None or "idle" in options.only)


def idle_s(options: argparse.Namespace) -> float:
    """Several times the heartbeat, unless the figures do not matter."""
    return float(options.seconds or QUICK_SECONDS) if options.quick else IDLE_S


def plan_of(options: argparse.Namespace) -> Plan:
    return Plan(
        impls=tuple(impl for impl in IMPLS if impl in (options.only or IMPLS)),
        in_flight=tuple(options.in_flight or IN_FLIGHT),
        agents=options.agents,
        rounds=1 if options.quick else ROUNDS,
        run_s=options.seconds or (QUICK_SECONDS if options.quick else SECONDS),
        profile=options.profile,
    )


def main(arguments: list[str] | None = None) -> int:
    options = options_of(arguments)
    if options.profile is not None:
        options.profile.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="agentcom-bench-", dir=options.dir) as folder:
        rows, pairs, counted = measure(Path(folder), plan_of(options))
        crowd = idle.measure(Path(folder), options.sidecars, idle_s(options)) if has_idle(options) else []
    found: dict[str, Any] = {
        "rows": rows,
        "idle": crowd,
        "goals": goals(rows, pairs) + idle.goals(crowd),
        "pairs": pairs,
        "flushes": counted,
    }
    if options.json:
        print(json.dumps({**found, "machine": machine(), "commit": commit()}))
        return 0
    if rows:
        print(table(list(Row.__annotations__), [list(row.values()) for row in rows]))
    if crowd:
        print(f"\n{table(list(idle.IdleRow.__annotations__), [list(row.values()) for row in crowd])}")
    print(told(found["goals"]))
    if pairs is not None:
        print(f"one task, then one commit: {pairs}")
    print(f"flushes, of those by design: {counted['of_design']:g} ({counted['how']})")
    print(f"\nmachine: {machine()}\ncommit: {commit()}")
    if options.profile is not None:
        print_profile(options.profile)
    return 0


if __name__ == "__main__":
    sys.exit(main())
