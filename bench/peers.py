"""AgentCom beside other queues at the same work, in turns within one run: a task that does nothing, from submit to
executed and recorded, with two worker processes on this machine.

* `agentcom`: a real hub with all its features, two host processes with 16 agents each, as `end_to_end` in bench.hub.
* `beanstalkd`: -f0, so that it calls fsync whenever it writes its binlog. Submits are pipelined on one connection,
  each worker has 16 connections and asks for the next job in the write that deletes the last.
* `nats-py`: JetStream through its own Python client, a stream in files with the server's defaults: it syncs every
  two minutes, so an acknowledged task can be lost with the power. All publishes are under way at once; workers are
  a queue group to which the server pushes, any number of acknowledgements are under way at once, and a task has ended
  when the server has answered its own, as in every other row.
  (Pulling with `fetch` now and then left tasks lying in the client until they were delivered again.)
* `nats`: the same server with a client of a hundred lines that does no more than this benchmark needs: publishes and
  acknowledgements are pipelined, and a task has ended when the server has answered its acknowledgement. What the
  server can do, rather than what a Python program gets from it.
* `dramatiq`, `huey`, `celery` with redis, appendfsync always. As many threads submit as tasks are in flight; celery
  acknowledges late and keeps no results.

Every peer has its own server. All run at once and take turns; those whose turn it is not use 2% of a core together.
Before each turn a few fdatasync on the same disk say how fast it was then. Rows are medians
of rounds, `ratio` compares AgentCom with the peer in the same round and at the same number in flight. `start_p50_us`
is from submit to the moment in which a worker has the task.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple, Protocol, TypedDict

import zmq

from bench import gauges, peer_libraries, peer_servers
from bench.goals import Goal, at_least, at_most, told
from bench.hub import AGENTS, HOSTS, WARM_IN_FLIGHT, WARM_S, EndToEnd, Ran
from bench.machine import commit, machine, table
from bench.peer_wire import BeanstalkSubmits, NatsSubmits
from bench.stage import Stage
from bench.words import Inbox

OWN: Final = "agentcom"
IN_FLIGHT: Final = (1, 16, 100)
ROUNDS: Final = 3
SECONDS: Final = 3.0
QUICK_SECONDS: Final = 0.3
SILENT_MS_MAX: Final = 20_000
SWITCH_S: Final = (
    0.0005  # between threads: submitters must not wait for each other longer than for the server
)


class Peer(NamedTuple):
    """What one needs, and whether a submit that it has acknowledged is on disk."""

    server: str | None
    library: str | None
    durable: str


PEERS: Final = {
    OWN: Peer(None, None, "yes"),
    "beanstalkd": Peer("beanstalkd", None, "yes"),
    "dramatiq": Peer("redis", "dramatiq", "yes"),
    "huey": Peer("redis", "huey", "yes"),
    "celery": Peer("redis", "celery", "yes"),
    "nats-py": Peer("nats", "nats", "no"),
    "nats": Peer("nats", None, "no"),
}


class Row(TypedDict):
    """One peer at one number in flight; latencies in microseconds."""

    peer: str
    durable: str
    in_flight: int
    per_s: int
    ratio: float | None  # AgentCom's rate by this one's
    start_p50_us: int
    p50_us: int
    p99_us: int
    fdatasync_us: int


class Missing(TypedDict):
    peer: str
    why: str


class Found(TypedDict):
    rows: list[Row]
    missing: list[Missing]
    goals: list[Goal]
    versions: dict[str, str]


class Plan(NamedTuple):
    peers: Sequence[str] = tuple(PEERS)
    in_flight: Sequence[int] = IN_FLIGHT
    rounds: int = ROUNDS
    run_s: float = SECONDS  # of one row, over all its rounds


class Turn(NamedTuple):
    ran: Ran
    fdatasync_us: float


# --- who submits ----------------------------------------------------------------------------------------


class Submits(Protocol):
    """Takes submits and tells which of them have been acknowledged since; readable when there may be some."""

    def prepare(self, in_flight: int) -> None: ...

    def fileno(self) -> int: ...

    def submit(self, tasks: Sequence[int]) -> None: ...

    def acknowledged(self) -> list[int]: ...

    def close(self) -> None: ...


class Race:
    """One peer: tasks submitted here, done by its workers, which tell `done` of each."""

    def __init__(self, submits: Submits, done: Inbox) -> None:
        self._submits, self._done = submits, done
        self._numbers = itertools.count(1)

    def run(self, in_flight: int, run_s: float) -> Ran:
        """Keeps so many tasks between submit and the word of their end. That word may come before the
        submit's answer."""
        self._submits.prepare(in_flight)
        poller = zmq.Poller()
        poller.register(self._submits.fileno(), zmq.POLLIN)
        poller.register(self._done.fileno(), zmq.POLLIN)
        sent_ns: dict[int, int] = {}
        acknowledged: set[int] = set()
        ended: dict[int, tuple[int, int]] = {}
        ran = Ran(0, [], [])
        begun = time.monotonic()
        until = begun + run_s
        while sent_ns or time.monotonic() < until:
            if len(sent_ns) < in_flight and time.monotonic() < until:
                tasks = list(itertools.islice(self._numbers, in_flight - len(sent_ns)))
                sent_ns.update(dict.fromkeys(tasks, time.monotonic_ns()))
                self._submits.submit(tasks)
            # A submit's answer alone lets nothing new begin, so nobody wakes up for it.
            if not (poller if ended else self._done).poll(SILENT_MS_MAX):
                raise RuntimeError(f"{len(sent_ns)} tasks did not move for {SILENT_MS_MAX} ms")
            if self._submits.fileno() in dict(poller.poll(0)):
                acknowledged.update(self._submits.acknowledged())
            for task, started_ns, ended_ns in self._done.take():
                ended[task] = started_ns, ended_ns
            for task in [task for task in ended if task in acknowledged]:
                submitted_ns, (started_ns, ended_ns) = sent_ns.pop(task), ended.pop(task)
                acknowledged.discard(task)
                ran.took_ns.append(ended_ns - submitted_ns)
                ran.start_ns.append(started_ns - submitted_ns)
        return ran._replace(per_s=len(ran.took_ns) / (time.monotonic() - begun))


# --- the run --------------------------------------------------------------------------------------------


class Runner(Protocol):
    def run(self, in_flight: int, run_s: float) -> Ran: ...


class Entry:
    """One peer, running, and what its turns gave: by the number in flight, a turn for each round."""

    def __init__(self, name: str, runner: Runner) -> None:
        self._name, self._runner = name, runner
        self.turns: dict[int, list[Turn]] = {}

    def run(self, in_flight: int, run_s: float) -> Ran:
        try:
            return self._runner.run(in_flight, run_s)
        except RuntimeError as error:
            raise RuntimeError(f"{self._name}, {in_flight} in flight: {error}") from error

    def turn(self, folder: Path, in_flight: int, run_s: float) -> None:
        sync_us = gauges.fdatasync_us(folder)
        self.turns.setdefault(in_flight, []).append(Turn(self.run(in_flight, run_s), sync_us))


def entry_of(name: str, stage: Stage, in_flight_max: int) -> Entry:
    """Start the peer's server and workers."""
    server = PEERS[name].server
    if server is None:
        return Entry(name, EndToEnd(stage, stage.hub(name), AGENTS))
    place = stage.folder / name
    place.mkdir()
    port = peer_servers.start(server, place, stage.stack)
    submits = submits_of(name, port, in_flight_max)
    stage.stack.callback(submits.close)
    done = stage.inbox()
    for _ in range(HOSTS):
        order = {"peer": name, "port": port, "slots": AGENTS, "done_to": str(done.path)}
        stage.start("-m", "bench.peer_worker", order=order)
    return Entry(name, Race(submits, done))


def submits_of(name: str, port: int, in_flight_max: int) -> Submits:
    if name == "beanstalkd":
        return BeanstalkSubmits(port)
    if name == "nats":
        return NatsSubmits(port)
    if name == "nats-py":
        return peer_libraries.NatsPySubmits(port)
    return peer_libraries.Calls(peer_libraries.SUBMITS[name](port, in_flight_max))


def measure(folder: Path, plan: Plan) -> Found:
    whys = {name: peer_servers.why_missing(PEERS[name].server, PEERS[name].library) for name in plan.peers}
    sys.setswitchinterval(SWITCH_S)
    with contextlib.ExitStack() as stack:
        stage, most = Stage(folder, stack), max(*plan.in_flight, WARM_IN_FLIGHT)
        entries = {name: entry_of(name, stage, most) for name, why in whys.items() if not why}
        for entry in entries.values():
            entry.run(WARM_IN_FLIGHT, min(WARM_S, plan.run_s))
        for _ in range(plan.rounds):
            for in_flight in plan.in_flight:
                for entry in entries.values():
                    entry.turn(folder, in_flight, plan.run_s / plan.rounds)
    rows = rows_of(entries, plan.in_flight)
    return Found(
        rows=rows,
        missing=[Missing(peer=name, why=why) for name, why in whys.items() if why],
        goals=goals(rows),
        versions=versions(entries),
    )


def rows_of(entries: dict[str, Entry], in_flight: Sequence[int]) -> list[Row]:
    own = entries.get(OWN)
    return [
        _row(name, n, entry.turns[n], own.turns[n] if own else None)
        for n in in_flight
        for name, entry in entries.items()
    ]


def _row(name: str, in_flight: int, turns: list[Turn], own: list[Turn] | None) -> Row:
    took_ns = sorted(ns for turn in turns for ns in turn.ran.took_ns)
    start_ns = sorted(ns for turn in turns for ns in turn.ran.start_ns)
    ratio = None
    if own is not None:
        pairs = zip(own, turns, strict=True)
        ratio = round(statistics.median(ours.ran.per_s / theirs.ran.per_s for ours, theirs in pairs), 3)
    return Row(
        peer=name,
        durable=PEERS[name].durable,
        in_flight=in_flight,
        per_s=round(statistics.median(turn.ran.per_s for turn in turns)),
        ratio=ratio,
        start_p50_us=round(start_ns[len(start_ns) // 2] / 1000),
        p50_us=round(took_ns[len(took_ns) // 2] / 1000),
        p99_us=round(took_ns[min(len(took_ns) - 1, len(took_ns) * 99 // 100)] / 1000),
        fdatasync_us=round(statistics.median(turn.fdatasync_us for turn in turns)),
    )


def goals(rows: Sequence[Row]) -> list[Goal]:
    """P2, P3 and the last part of P4, as far as these rows tell of them."""
    found = {(row["peer"], row["in_flight"]): row for row in rows}
    wanted = (
        ("P2 floor: rate by that of beanstalkd -f0, 16 in flight", "beanstalkd", 16, 2.0),
        ("P2 goal: rate by that of beanstalkd -f0, 16 in flight", "beanstalkd", 16, 5.0),
        ("P2 goal: rate by that of dramatiq on redis, 16 in flight", "dramatiq", 16, 4.0),
        ("P2 goal: rate by that of celery on redis, 16 in flight", "celery", 16, 20.0),
        ("P3 floor: rate by that of NATS JetStream with nats-py, 100 in flight", "nats-py", 100, 1.0),
        ("P3 goal: rate by that of NATS JetStream with nats-py, 100 in flight", "nats-py", 100, 2.0),
        ("P3: rate by that of NATS JetStream with a bare client, 100 in flight", "nats", 100, 1.0),
    )
    said = []
    for goal, peer, in_flight, bound in wanted:
        row = found.get((peer, in_flight))
        if row is not None and row["ratio"] is not None:
            said.append(at_least(goal, row["ratio"], bound))
    own, beanstalkd = found.get((OWN, 1)), found.get(("beanstalkd", 1))
    if own is not None and beanstalkd is not None:
        goal = "P4 goal: submit to start, us, below that of beanstalkd -f0"
        said.append(at_most(goal, own["start_p50_us"], beanstalkd["start_p50_us"]))
    return said


def versions(names: Iterable[str]) -> dict[str, str]:
    """Of the servers that were measured, and of the libraries, by which their peers are called."""
    servers = {server for name in names if (server := PEERS[name].server)}
    found = {server: peer_servers.version_of(server) for server in sorted(servers)}
    return found | {name: metadata.version(name) for name in names if PEERS[name].library}


def options_of(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--quick", action="store_true", help="one short round: the shape, not the figures")
    parser.add_argument("--only", action="append", choices=PEERS, help="one of them; may be given repeatedly")
    parser.add_argument("--in-flight", action="append", type=int, help="one number; may be given repeatedly")
    parser.add_argument("--seconds", type=float, help=f"time of one row, by default {SECONDS:g}")
    parser.add_argument("--dir", type=Path, help="the disk to measure on; the temporary folder by default")
    return parser.parse_args(arguments)


def plan_of(options: argparse.Namespace) -> Plan:
    return Plan(
        peers=tuple(name for name in PEERS if name in (options.only or PEERS)),
        in_flight=tuple(options.in_flight or IN_FLIGHT),
        rounds=1 if options.quick else ROUNDS,
        run_s=options.seconds or (QUICK_SECONDS if options.quick else SECONDS),
    )


def main(arguments: list[str] | None = None) -> int:
    options = options_of(arguments)
    with tempfile.TemporaryDirectory(prefix="agentcom-bench-", dir=options.dir) as folder:
        found = measure(Path(folder), plan_of(options))
    if options.json:
        print(json.dumps({**found, "machine": machine(), "commit": commit()}))
        return 0
    if found["rows"]:
        print(table(list(Row.__annotations__), [list(row.values()) for row in found["rows"]]))
    for missing in found["missing"]:
        print(f"not measured: {missing['peer']}: {missing['why']}")
    print(told(found["goals"]))
    print("\n" + "\n".join(f"{name}: {said}" for name, said in found["versions"].items()))
    print(f"machine: {machine()}\ncommit: {commit()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
