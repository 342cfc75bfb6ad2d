"""What a deep queue costs: the same work on a hub whose queue is empty and on one where very many tasks wait.

Both are real hubs on real stores, each with two host processes that finish a task as soon as they have it, and
take turns in one run. The work of a turn: for each task that is finished one is submitted, so that no queue grows
or shrinks and all agents are busy. On the deep hub the oldest of the waiting tasks are done; its queue is filled in
batches of 1,000, spread over the four lanes, and each tenth of its tasks needs what no host has.

`cpu_us` is CPU time of the hub's main thread for each finished task, `idle_ms_per_s` what it uses in a second
without work. Between turns the queue is paused. Then the deep hub ends, once asked to and once killed, and starts
again: `ready_s` to its ready line, `assigned_s` until a host that was waiting for it has its first assignment.
Memory is that of the process: `anonymous_mb` is its own, `file_mb` pages of the store's file that it has mapped
and that the system may take back. The goals are for a million waiting (`--tasks 1000000`, some minutes).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, NamedTuple, TypedDict

import zmq

from agentcom import messages as m
from agentcom.auth import KeyPair
from agentcom.model import Lane, TaskSpec
from bench import gauges
from bench.consumer import ANSWER_MS_MAX, ask, dealer, enrol, hello, received
from bench.goals import Goal, at_most, told
from bench.hub import print_profile, submit_body
from bench.machine import commit, machine, table
from bench.stage import HubAt, Stage

TASKS: Final = 100_000
QUICK_TASKS: Final = 2_000
FILL_BATCH: Final = 1_000
FILL_IN_FLIGHT: Final = 4
FILL_ANSWER_MS_MAX: Final = 60_000
BLOCKED_EACH: Final = 10
MISSING: Final = "what-no-host-has"
HOSTS: Final = 2
AGENTS: Final = 16  # per host
IN_FLIGHT: Final = 64
ROUNDS: Final = 3
TURN_S: Final = 3.0
QUICK_TURN_S: Final = 0.2
IDLE_S: Final = 2.0
ENDS: Final = {"stopped": signal.SIGTERM, "killed": signal.SIGKILL}
LANES: Final = tuple(Lane)
MB: Final = 1_000_000
QUIET_MS: Final = 200  # no word from the hosts for so long: they have nothing to do
REPLY_START: Final = b"\x83\xa4type\xa5reply"
RATIO: Final = 1.2
MEMORY_MB: Final = 500
RESTART_S: Final = 5


class Row(TypedDict):
    """One hub: the medians of its rounds. `waiting` tasks were queued beside those that a turn submits."""

    waiting: int
    per_s: int
    cpu_us: float
    ticks_per_s: int
    idle_ms_per_s: float
    anonymous_mb: int
    file_mb: int
    fdatasync_us: int


class Restart(TypedDict):
    """One end and start of the deep hub."""

    ended: str
    waiting: int
    ready_s: float
    assigned_s: float
    anonymous_mb: int
    file_mb: int


class Fill(TypedDict):
    """How the deep queue was made: submits in batches, each durable and answered."""

    tasks: int
    took_s: float
    per_s: int
    store_mb: int


class Plan(NamedTuple):
    tasks: int
    rounds: int
    turn_s: float
    idle_s: float
    profile: Path | None = None


class Turn(NamedTuple):
    per_s: float
    cpu_us: float
    ticks_per_s: float
    idle_ms_per_s: float
    fdatasync_us: float


class Station:
    """A hub with its hosts, paused outside of its turns. `waiting` tasks lie in its queue beside IN_FLIGHT."""

    def __init__(self, stage: Stage, name: str, waiting: int) -> None:
        self.stack = stage.stack.enter_context(contextlib.ExitStack())
        self.hosts = stage.stack.enter_context(contextlib.ExitStack())
        self.hub = stage.hub(name, self.stack)
        self.waiting = waiting
        self.turns: list[Turn] = []
        self._done = stage.inbox()
        self._body = submit_body(self.hub.session)
        self.pause(True)
        begun = time.monotonic()
        fill(self.hub, waiting + IN_FLIGHT)
        self.fill_s = time.monotonic() - begun
        for n in range(HOSTS):
            stage.host(self.hub, f"{name}{n}", AGENTS, self._done, self.hosts)

    def pause(self, paused: bool) -> None:
        ask(self.hub.socket, m.Request(session=self.hub.session, id=0, op=m.QueuePause(paused=paused)))

    def turn(self, folder: Path, run_s: float, idle_s: float) -> None:
        pid, store = self.hub.pid, self.hub.home.store
        sync_us = gauges.fdatasync_us(folder)
        idle_ns = gauges.main_thread_ns(pid)
        time.sleep(idle_s)
        idle_ns = gauges.main_thread_ns(pid) - idle_ns
        self.pause(False)
        ticks, cpu_ns, begun = gauges.batches(store), gauges.main_thread_ns(pid), time.monotonic()
        finished, unanswered = self._work(run_s)
        took_s = time.monotonic() - begun
        turn = Turn(
            per_s=finished / took_s,
            cpu_us=(gauges.main_thread_ns(pid) - cpu_ns) / 1000 / max(finished, 1),
            ticks_per_s=(gauges.batches(store) - ticks) / took_s,
            idle_ms_per_s=idle_ns / 1e6 / idle_s,
            fdatasync_us=sync_us,
        )
        self._settle(unanswered)
        self.turns.append(turn)

    def _work(self, run_s: float) -> tuple[int, int]:
        """How many tasks were finished, each followed by a new one, and how many submits have no answer yet."""
        poller = zmq.Poller()
        poller.register(self.hub.socket, zmq.POLLIN)
        poller.register(self._done.fileno(), zmq.POLLIN)
        finished = unanswered = 0
        until = time.monotonic() + run_s
        while time.monotonic() < until:
            if not poller.poll(ANSWER_MS_MAX):
                raise RuntimeError(f"no task was finished for {ANSWER_MS_MAX} ms")
            unanswered -= self._answers()
            count = self._told()
            finished, unanswered = finished + count, unanswered + count
            for _ in range(count):
                self.hub.socket.send(self._body)
        return finished, unanswered

    def _settle(self, unanswered: int) -> None:
        """Pause, and wait until the agents are idle; what they finish meanwhile is followed by new tasks too."""
        self._await(unanswered)
        self.pause(True)
        late = 0
        while self._done.poll(QUIET_MS):
            for _ in range(self._told()):
                self.hub.socket.send(self._body)
                late += 1
        self._await(late)

    def _await(self, unanswered: int) -> None:
        while unanswered:
            if not self.hub.socket.poll(ANSWER_MS_MAX):
                raise RuntimeError(f"{unanswered} submits were not answered for {ANSWER_MS_MAX} ms")
            unanswered -= self._answers()

    def _answers(self) -> int:
        count = 0
        for answer in received(self.hub.socket):
            if not answer.startswith(REPLY_START):
                raise RuntimeError(f"the answer is {answer[:200]!r}")
            count += 1
        return count

    def _told(self) -> int:
        return sum(1 for _ in self._done.take())

    def row(self) -> Row:
        own_mb, file_mb = memory_mb(self.hub.pid)

        def half(name: str) -> float:
            return float(statistics.median(getattr(turn, name) for turn in self.turns))

        return Row(
            waiting=self.waiting,
            per_s=round(half("per_s")),
            cpu_us=round(half("cpu_us"), 1),
            ticks_per_s=round(half("ticks_per_s")),
            idle_ms_per_s=round(half("idle_ms_per_s"), 2),
            anonymous_mb=own_mb,
            file_mb=file_mb,
            fdatasync_us=round(half("fdatasync_us")),
        )


def fill(hub: HubAt, count: int) -> None:
    """Submit so many tasks: the four lanes in turn, each tenth in need of what no host has."""
    unanswered = 0
    for start in range(0, count, FILL_BATCH):
        specs = tuple(filler(n) for n in range(start, min(start + FILL_BATCH, count)))
        hub.socket.send(m.encode(m.Request(session=hub.session, id=start, op=m.Submit(tasks=specs))))
        unanswered += 1
        while unanswered and (unanswered >= FILL_IN_FLIGHT or start + FILL_BATCH >= count):
            if not hub.socket.poll(FILL_ANSWER_MS_MAX):
                raise RuntimeError(f"a batch of {FILL_BATCH} tasks had no answer for {FILL_ANSWER_MS_MAX} ms")
            answer = m.decode_from_hub(hub.socket.recv())
            if not isinstance(answer, m.Reply):
                raise RuntimeError(f"the answer to a batch is {answer}")
            unanswered -= 1


def filler(n: int) -> TaskSpec:
    return TaskSpec(
        description=f"Task {n} of a deep queue: say that the build is green.",
        command="true",
        lane=LANES[n % len(LANES)],
        needs=(MISSING,) if n % BLOCKED_EACH == 0 else (),
        labels=("bench",),
    )


def restarts(stage: Stage, deep: Station) -> list[Restart]:
    """The deep hub's ends and starts, with no host but the one that waits for it."""
    keys = {way: enrolled(stage, deep.hub, way) for way in ENDS}
    deep.hosts.close()
    deep.pause(False)
    found, hub, stack = [], deep.hub, deep.stack
    for way, number in ENDS.items():
        os.kill(hub.pid, number)
        stack.close()
        stack = stage.stack.enter_context(contextlib.ExitStack())
        begun = time.monotonic()
        hub = stage.hub("deep", stack)
        first_assignment(stage, hub, way, keys[way])
        assigned_s = time.monotonic() - begun
        own_mb, file_mb = memory_mb(hub.pid)
        found.append(
            Restart(
                ended=way,
                waiting=deep.waiting,
                ready_s=round(hub.ready_s, 2),
                assigned_s=round(assigned_s, 2),
                anonymous_mb=own_mb,
                file_mb=file_mb,
            )
        )
    return found


def enrolled(stage: Stage, hub: HubAt, name: str) -> KeyPair:
    return enrol(stage.context, hub.address, hub.key, name, stage.invite(hub, name))


def first_assignment(stage: Stage, hub: HubAt, name: str, key: KeyPair) -> None:
    """Come as the host `name` and wait for work."""
    socket = dealer(stage.context, hub.address, hub.key, key)
    hello(socket, name, 1)
    while socket.poll(ANSWER_MS_MAX):
        if isinstance(m.decode_from_hub(socket.recv()), m.Assign):
            socket.close()
            return
    raise RuntimeError(f"no assignment within {ANSWER_MS_MAX} ms of the hello")


def memory_mb(pid: int) -> tuple[int, int]:
    """Resident memory of a process: its own, and pages of files that it has mapped."""
    status = Path(f"/proc/{pid}/status").read_text()

    def mb(name: str) -> int:
        found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        return round(int(found[1]) * 1024 / MB) if found else 0

    return mb("RssAnon"), mb("RssFile")


class Found(TypedDict):
    rows: list[Row]
    fill: Fill
    restarts: list[Restart]
    goals: list[Goal]


def measure(folder: Path, plan: Plan) -> Found:
    with contextlib.ExitStack() as stack:
        stage = Stage(folder, stack, plan.profile)
        empty, deep = Station(stage, "empty", 0), Station(stage, "deep", plan.tasks)
        store_mb = round((deep.hub.home.store / "data.mdb").stat().st_size / MB)
        for _ in range(plan.rounds):
            for station in (empty, deep):
                station.turn(folder, plan.turn_s, plan.idle_s)
        rows = [empty.row(), deep.row()]
        empty.hosts.close()
        empty.stack.close()
        ends = restarts(stage, deep)
    fill = Fill(
        tasks=plan.tasks,
        took_s=round(deep.fill_s, 1),
        per_s=round(plan.tasks / deep.fill_s),
        store_mb=store_mb,
    )
    return Found(rows=rows, fill=fill, restarts=ends, goals=goals(rows, ends))


def goals(rows: list[Row], ends: list[Restart]) -> list[Goal]:
    empty, deep = rows
    beside = f"with {deep['waiting']:,} waiting"
    memory_mb = max(one["anonymous_mb"] + one["file_mb"] for one in (deep, *ends))
    assigned_s = max(end["assigned_s"] for end in ends)
    return [
        at_most(f"P8 CPU of a task {beside} / with none", round(deep["cpu_us"] / empty["cpu_us"], 3), RATIO),
        at_most(f"P8 resident memory {beside}, MB", memory_mb, MEMORY_MB),
        at_most(f"P8 restart to first assignment {beside}, s", assigned_s, RESTART_S),
    ]


def plan_of(arguments: list[str] | None) -> tuple[argparse.Namespace, Plan]:
    parser = argparse.ArgumentParser(prog="python -m bench.depth", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the tables")
    parser.add_argument("--quick", action="store_true", help="one short round and few tasks: only the shape")
    parser.add_argument("--tasks", type=int, help=f"how many wait, by default {TASKS:,}")
    parser.add_argument("--dir", type=Path, help="the disk to measure on; the temporary folder by default")
    parser.add_argument("--profile", type=Path, help="run the hubs under cProfile and keep its files there")
    options = parser.parse_args(arguments)
    if options.quick:
        return options, Plan(options.tasks or QUICK_TASKS, 1, QUICK_TURN_S, QUICK_TURN_S, options.profile)
    return options, Plan(options.tasks or TASKS, ROUNDS, TURN_S, IDLE_S, options.profile)


def main(arguments: list[str] | None = None) -> int:
    options, plan = plan_of(arguments)
    if plan.profile is not None:
        plan.profile.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="agentcom-bench-", dir=options.dir) as folder:
        found = measure(Path(folder), plan)
    if options.json:
        print(json.dumps({**found, "machine": machine(), "commit": commit()}))
        return 0
    fill = found["fill"]
    print(table(list(Row.__annotations__), [list(row.values()) for row in found["rows"]]))
    print(f"\nfilled: {fill['tasks']:,} tasks in {fill['took_s']:g} s, {fill['per_s']:,}/s, ", end="")
    print(f"a store of {fill['store_mb']:,} MB\n")
    print(table(list(Restart.__annotations__), [list(end.values()) for end in found["restarts"]]))
    print(told(found["goals"]))
    print(f"\nmachine: {machine()}\ncommit: {commit()}")
    if plan.profile is not None:
        print_profile(plan.profile)
    return 0


if __name__ == "__main__":
    sys.exit(main())
