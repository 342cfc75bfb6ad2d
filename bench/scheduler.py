"""The scheduler alone: a fleet of E endpoints, each on a host of its own, and a queue that its free agents work off.

A tick is what the hub's is: the rows of everything that the last tick placed are set anew, since all of it has ended
by now, and the queue is placed again, until no agent is free. All parts of the score count: wait, load, run, load of
the host, recent failures (of one endpoint in twenty), the repository (on half of the hosts). Requirement groups take
turns in the queue, and each can use every agent. The figures come from one seed.

Beside the compiled scheduler stand its twin, the same scan in numpy, and LiteLLM's Router picking a deployment; each
only as far as a tick of it takes seconds. Neither of the last two knows agents: they only pick an endpoint.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import random
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, TypedDict

from agentcom import _pysched, sched
from agentcom._pysched import FREE, Scheduler
from agentcom.recordings import RecordingError
from bench import recorded
from bench.goals import Goal, at_least, at_most, told
from bench.machine import commit, machine, table

SEED: Final = 7
ENDPOINTS: Final = (10, 100, 1_000, 10_000)
QUEUES: Final = (100, 10_000, 1_000_000)
GROUPS: Final = (1, 4)
AGENTS: Final = 10_000  # free at the start of a tick, where there are no more endpoints
S_US: Final = 1_000_000
STEP_US: Final = S_US // 4  # what a start adds to the load of its host
SLOTS: Final = 1 << 20
RUN_S: Final = 1.0  # per row, when not --quick
TICKS_MIN: Final = 20  # of the compiled scheduler; of the others it may be one
TICKS_MAX: Final = 2_000
LOOKS_MAX: Final = {"python": 200_000, "numpy": 20_000_000, "litellm": 100_000}  # tasks x endpoints
PLACEMENTS: Final = 5_000
LIBRARIES: Final = ("numpy", "litellm")
# P6 and P7 of the goals: decisions per s at 10,000 tasks, microseconds of one placement; by endpoints.
DECISIONS_MIN: Final = {100: 9_000_000, 1_000: 3_000_000, 10_000: 1_200_000}
PLACEMENT_US_MAX: Final = {100: 2.0, 1_000: 5.0}
TWIN_RATIO_MIN: Final = 300


class Row(TypedDict):
    """`decisions_per_s` is of the placing alone, the ticks with all rows updated before it. `ns_per_pair`: time per
    task and endpoint, what a scan would spend on each; it falls as E grows."""

    impl: str
    groups: int
    endpoints: int
    queue: int
    decisions_per_s: int
    ns_per_pair: float
    tick_p50_us: float
    tick_p99_us: float


class Placement(TypedDict):
    """One task placed by a call, and the rows that it changes set."""

    impl: str
    endpoints: int
    p50_us: float
    p99_us: float


class Endpoint(NamedTuple):
    """The figures of an endpoint and its host."""

    wait_us: int
    load_us: int
    run_us: int
    host_us: int
    failure_us: int
    step_us: int


class Took(NamedTuple):
    placed: int
    place_ns: int
    tick_ns: int


Tick = Callable[[], Took]


def figures(endpoints: int, groups: int) -> list[list[Endpoint]]:
    """By group and endpoint."""
    rng = random.Random(SEED)
    hosts = [(rng.randrange(S_US), 60 * S_US * (rng.random() < 0.05)) for _ in range(endpoints)]
    return [
        [
            Endpoint(
                wait_us=rng.randrange(30 * S_US),
                load_us=rng.choice((0, rng.randrange(2 * S_US, 60 * S_US))),
                run_us=rng.randrange(S_US, 60 * S_US),
                host_us=host_us,
                failure_us=failure_us,
                step_us=rng.randrange(1, 5 * S_US),
            )
            for host_us, failure_us in hosts
        ]
        for _ in range(groups)
    ]


class Fleet:
    """The rows of a scheduler, and a queue for it."""

    def __init__(self, board: Scheduler, groups: int, endpoints: int, queue: int, agents: int) -> None:
        self.board, self.agents, self.groups = board, agents, groups
        self.figures = figures(endpoints, groups)
        self.turn_ms = agents
        board.set_repo(0, 5 * S_US, range(0, endpoints, 2))
        for number in range(endpoints):
            self.set_endpoint(number)
            if self.figures[0][number].failure_us:
                board.set_failure(number, number, self.figures[0][number].failure_us)
        for agent, since_ms in enumerate(random.Random(SEED).sample(range(agents), agents)):
            board.set_agent(agent, agent % endpoints, FREE, since_ms)
            for group in range(groups):
                board.set_able(group, agent, True)
        self.task_pool = array("i", (task % groups for task in range(queue)))
        self.task_repo = array("i", [_pysched.NO_REPO]) * queue
        self.agent, self.endpoint = array("i", [0]) * queue, array("i", [0]) * queue

    def set_endpoint(self, number: int) -> None:
        first = self.figures[0][number]
        self.board.set_host(number, first.host_us, STEP_US)
        self.board.set_endpoint(number, number, SLOTS, first.step_us)
        for group, endpoints in enumerate(self.figures):
            one = endpoints[number]
            self.board.set_way(group, number, one.wait_us, one.load_us, one.run_us)

    def place(self) -> int:
        return self.board.tick(self.task_pool, self.task_repo, self.agent, self.endpoint)

    def end_all(self, placed: int) -> None:
        """What the last tick placed has ended: its agents are free again, behind all others."""
        endpoints = len(self.figures[0])
        for agent in self.agent[:placed]:
            self.turn_ms += 1
            self.board.set_agent(agent, agent % endpoints, FREE, self.turn_ms)
        for number in dict.fromkeys(self.endpoint[:placed]):
            self.set_endpoint(number)


def of_rows(make: Callable[[], Scheduler], groups: int, endpoints: int, queue: int, agents: int) -> Tick:
    fleet = Fleet(make(), groups, endpoints, queue, agents)
    expected = min(queue, agents)
    fleet.place()

    def tick() -> Took:
        begun = time.perf_counter_ns()
        fleet.end_all(expected)
        updated = time.perf_counter_ns()
        placed = fleet.place()
        ended = time.perf_counter_ns()
        assert placed == expected
        return Took(placed, ended - updated, ended - begun)

    return tick


def of_numpy(groups: int, endpoints: int, queue: int) -> Tick:
    """A scan over the costs of all endpoints for each task."""
    import numpy

    every = figures(endpoints, groups)
    costs = [
        numpy.array([one.wait_us + one.load_us + one.run_us + one.host_us + one.failure_us for one in row])
        for row in every
    ]
    steps = numpy.array([one.step_us + STEP_US for one in every[0]])

    def tick() -> Took:
        begun = time.perf_counter_ns()
        now = [row.copy() for row in costs]
        for task in range(queue):
            best = int(numpy.argmin(now[task % groups]))
            for row in now:
                row[best] += steps[best]
        took = time.perf_counter_ns() - begun
        return Took(queue, took, took)

    return tick


def of_litellm(endpoints: int, queue: int) -> Tick:
    """Its least-busy strategy over deployments of one model; nothing is called."""
    router = litellm_router(endpoints)
    messages = [{"role": "user", "content": "hello"}]

    def tick() -> Took:
        begun = time.perf_counter_ns()
        for _ in range(queue):
            router.get_available_deployment(model="standard", messages=messages)
        took = time.perf_counter_ns() - begun
        return Took(queue, took, took)

    return tick


def litellm_router(endpoints: int) -> Any:
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or its import looks for prices on the network
    from litellm import Router

    return Router(
        model_list=[
            {
                "model_name": "standard",
                "litellm_params": {"model": "ollama/qwen", "api_base": f"http://127.0.0.1:{20_000 + number}"},
                "model_info": {"id": str(number)},
            }
            for number in range(endpoints)
        ],
        routing_strategy="least-busy",
        num_retries=0,
    )


def measure(impl: str, tick: Tick, groups: int, endpoints: int, queue: int, run_s: float) -> Row:
    took: list[Took] = []
    ticks_min = TICKS_MIN if impl == "cython" else 1
    until = time.perf_counter() + run_s
    while len(took) < ticks_min or (len(took) < TICKS_MAX and time.perf_counter() < until):
        took.append(tick())
    place_ns = sorted(each.place_ns for each in took)[len(took) // 2]
    ticks_ns = sorted(each.tick_ns for each in took)
    placed = took[0].placed
    return Row(
        impl=impl,
        groups=groups,
        endpoints=endpoints,
        queue=queue,
        decisions_per_s=round(placed * 1e9 / place_ns),
        ns_per_pair=round(place_ns / (placed * endpoints), 4),
        tick_p50_us=round(ticks_ns[len(took) // 2] / 1000, 1),
        tick_p99_us=round(ticks_ns[min(len(took) - 1, len(took) * 99 // 100)] / 1000, 1),
    )


def rows(quick: bool) -> Iterator[Row]:
    """A row per shape of tick and implementation that is here; without those that take too long."""
    run_s = RUN_S / 10 if quick else RUN_S
    endpoint_counts, queues = (ENDPOINTS[:3], QUEUES[:2]) if quick else (ENDPOINTS, QUEUES)
    for groups, endpoints, queue in itertools.product(GROUPS, endpoint_counts, queues):
        agents = max(endpoints, AGENTS)
        shape = groups, endpoints, queue
        if sched.IMPLEMENTATION == "cython":
            tick = of_rows(sched.make_scheduler, *shape, agents)
            yield measure("cython", tick, *shape, run_s)
        if is_short("python", *shape, quick):
            tick = of_rows(_pysched.Scheduler, *shape, max(endpoints, queue))
            yield measure("python", tick, *shape, run_s)
        if "numpy" not in missing() and is_short("numpy", *shape, quick):
            yield measure("numpy", of_numpy(*shape), *shape, run_s)
        if "litellm" not in missing() and groups == 1 and is_short("litellm", *shape, quick):
            yield measure("litellm", of_litellm(endpoints, queue), *shape, run_s)


def is_short(impl: str, _groups: int, endpoints: int, queue: int, quick: bool) -> bool:
    return endpoints * queue <= LOOKS_MAX[impl] // (10 if quick else 1)


def missing() -> list[str]:
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is None]


def placements(quick: bool) -> Iterator[Placement]:
    """One task at a time: placed, its agent taken, the endpoint and the host made dearer."""
    count = PLACEMENTS // 10 if quick else PLACEMENTS
    for endpoints in PLACEMENT_US_MAX:
        if sched.IMPLEMENTATION == "cython":
            yield _placement("cython", endpoints, count, of_one(endpoints))
        if "litellm" not in missing():
            yield _placement("litellm", endpoints, count // 50, of_litellm(endpoints, 1))


def of_one(endpoints: int) -> Tick:
    fleet = Fleet(sched.make_scheduler(), 1, endpoints, 1, AGENTS)
    board, first = fleet.board, fleet.figures[0]
    wait_us = [one.wait_us for one in first]
    busy = [0] * endpoints

    def tick() -> Took:
        begun = time.perf_counter_ns()
        board.tick(fleet.task_pool, fleet.task_repo, fleet.agent, fleet.endpoint)
        agent, number = fleet.agent[0], fleet.endpoint[0]
        one = first[number]
        busy[number] += 1
        wait_us[number] += one.step_us
        fleet.turn_ms += 1
        board.set_agent(agent, number, FREE, fleet.turn_ms)
        board.set_host(number, one.host_us + busy[number] * STEP_US, STEP_US)
        board.set_endpoint(number, number, SLOTS - busy[number], one.step_us)
        board.set_way(0, number, wait_us[number], one.load_us, one.run_us)
        took = time.perf_counter_ns() - begun
        return Took(1, took, took)

    return tick


def _placement(impl: str, endpoints: int, count: int, tick: Tick) -> Placement:
    took = sorted(tick().tick_ns for _ in range(count))
    return Placement(
        impl=impl,
        endpoints=endpoints,
        p50_us=round(took[count // 2] / 1000, 2),
        p99_us=round(took[count * 99 // 100] / 1000, 2),
    )


def goals(found: list[Row], placed: list[Placement]) -> list[Goal]:
    """P6 and P7, as far as their rows were measured."""
    by_shape = {(row["impl"], row["groups"], row["endpoints"], row["queue"]): row for row in found}
    answer = []
    for endpoints, wanted in DECISIONS_MIN.items():
        row = by_shape.get(("cython", 1, endpoints, 10_000))
        if row is not None:
            what = f"P6 decisions per s, 10,000 tasks, {endpoints:,} endpoints"
            answer.append(at_least(what, row["decisions_per_s"], wanted))
    twin, compiled = by_shape.get(("python", 1, 1_000, 100)), by_shape.get(("cython", 1, 1_000, 100))
    if twin is not None and compiled is not None:
        ratio = round(compiled["decisions_per_s"] / twin["decisions_per_s"])
        answer.append(at_least("P6 times the twin, 100 tasks, 1,000 endpoints", ratio, TWIN_RATIO_MIN))
    for one in placed:
        if one["impl"] == "cython":
            what = f"P7 one placement in us, {one['endpoints']:,} endpoints"
            answer.append(at_most(what, one["p50_us"], PLACEMENT_US_MAX[one["endpoints"]]))
    return answer


def replay(path: Path, as_json: bool) -> int:
    """The schedulers on a recording."""
    try:
        found = recorded.measure(path)
    except RecordingError as error:
        print(f"bench.scheduler: {error.message}", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps({"replay": found, "file": str(path), "machine": machine(), "commit": commit()}))
        return 0
    print(table(list(recorded.Row.__annotations__), [list(row.values()) for row in found]))
    print(f"\nmachine: {machine()}\ncommit: {commit()}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scheduler", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, fewer and smaller rows")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="a recording of a hub (scheduler.record), alone")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        return replay(options.replay, options.json)
    found, placed = list(rows(options.quick)), list(placements(options.quick))
    reached = goals(found, placed)
    if options.json:
        answer = {
            "rows": found,
            "placements": placed,
            "goals": reached,
            "missing": missing(),
            "machine": machine(),
            "commit": commit(),
        }
        print(json.dumps(answer))
        return 0
    print(table(list(Row.__annotations__), [list(row.values()) for row in found]))
    print("\none placement through the API")
    print(table(list(Placement.__annotations__), [list(one.values()) for one in placed]))
    print(f"\n{told(reached)}\n\nmachine: {machine()}\ncommit: {commit()}")
    for name in missing():
        print(f"not measured, since it is not installed: {name} (pip install -e '.[routers]')")
    if sched.why_python:
        print(f"no compiled scheduler: {sched.why_python}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
