"""The scheduling core alone: one call of `assign` is one tick with a full queue.

As many agents as tasks (at least one per endpoint), spread evenly over the endpoints, which are never full, costs
drawn from one seed: so every task is placed, the most work that a tick of that size can have. The requirement
groups take turns, and each can use every agent. Preparing the arrays is outside the figures.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import sys
import time
from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple, TypedDict

from agentcom import _pysched, sched
from bench.machine import commit, machine, table

SEED: Final = 7
ENDPOINTS: Final = (10, 100, 1000)
QUEUES: Final = (100, 10_000)
GROUPS: Final = (1, 4)
COST_US_MAX: Final = 60_000_000
STEP_US_MAX: Final = 5_000_000
RUN_S: Final = 1.0  # per row, when not --quick
TICKS_MIN: Final = 20  # of the compiled core; the twin's may be one
TICKS_MAX: Final = 5000
# The twin looks at each candidate for each task; above this many looks a single tick takes many seconds.
TWIN_LOOKS_MAX: Final = 6_000_000


class Row(TypedDict):
    """`ns_per_pair`: time per task and endpoint, what a scan would spend on each; it falls as E grows."""

    impl: str
    groups: int
    endpoints: int
    queue: int
    decisions_per_s: int
    ns_per_pair: float
    tick_p50_us: float
    tick_p99_us: float


class Tick(NamedTuple):
    """The arguments of `assign`, in its order."""

    task_group: array[int]
    cand_start: array[int]
    cand_agent: array[int]
    cand_endpoint: array[int]
    cand_cost_us: array[int]
    agent_rank: array[int]
    agent_free: array[int]
    endpoint_free: array[int]
    endpoint_step_us: array[int]
    choice: array[int]

    def fresh(self) -> Tick:
        """A copy of what `assign` writes to, over the same inputs."""
        return self._replace(
            agent_free=self.agent_free[:], endpoint_free=self.endpoint_free[:], choice=self.choice[:]
        )


def tick_of(groups: int, endpoints: int, queue: int, seed: int = SEED) -> Tick:
    """A full queue on free agents; the same arguments give the same arrays."""
    rng = random.Random(seed)
    agents = max(endpoints, queue)
    ranks = rng.sample(range(agents), agents)
    candidates = agents * groups
    return Tick(
        task_group=array("i", (task % groups for task in range(queue))),
        cand_start=array("i", range(0, candidates + 1, agents)),
        cand_agent=array("i", list(range(agents)) * groups),
        cand_endpoint=array("i", [agent % endpoints for agent in range(agents)] * groups),
        cand_cost_us=array("q", (rng.randrange(COST_US_MAX) for _ in range(candidates))),
        agent_rank=array("q", ranks),
        agent_free=array("i", [1] * agents),
        endpoint_free=array("i", [agents] * endpoints),  # never full: nobody waits
        endpoint_step_us=array("q", (rng.randrange(STEP_US_MAX) for _ in range(endpoints))),
        choice=array("i", [0] * queue),
    )


def measure(impl: str, groups: int, endpoints: int, queue: int, run_s: float) -> Row:
    assign = _pysched.assign if impl == "python" else sched.assign
    tick = tick_of(groups, endpoints, queue)
    took_ns: list[int] = []
    ticks_min = TICKS_MIN if impl == "cython" else 1
    until = time.perf_counter() + run_s
    while len(took_ns) < ticks_min or (len(took_ns) < TICKS_MAX and time.perf_counter() < until):
        arguments = tick.fresh()
        begun = time.perf_counter_ns()
        placed = assign(*arguments)
        took_ns.append(time.perf_counter_ns() - begun)
        assert placed == queue
    took_ns.sort()
    half_ns = took_ns[len(took_ns) // 2]
    return Row(
        impl=impl,
        groups=groups,
        endpoints=endpoints,
        queue=queue,
        decisions_per_s=round(queue * 1e9 / half_ns),
        ns_per_pair=round(half_ns / (queue * endpoints), 4),
        tick_p50_us=round(half_ns / 1000, 1),
        tick_p99_us=round(took_ns[min(len(took_ns) - 1, len(took_ns) * 99 // 100)] / 1000, 1),
    )


def rows(quick: bool) -> Iterator[Row]:
    """A row per shape of tick and implementation that is here; without the twin's that take too long."""
    run_s = RUN_S / 10 if quick else RUN_S
    looks_max = TWIN_LOOKS_MAX // 10 if quick else TWIN_LOOKS_MAX
    for groups, endpoints, queue in itertools.product(GROUPS, ENDPOINTS, QUEUES):
        if sched.IMPLEMENTATION == "cython":
            yield measure("cython", groups, endpoints, queue, run_s)
        if queue * max(endpoints, queue) <= looks_max:
            yield measure("python", groups, endpoints, queue, run_s)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scheduler", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--quick", action="store_true", help="a tenth of the time, fewer rows of the twin")
    options = parser.parse_args(arguments)
    found = list(rows(options.quick))
    if options.json:
        print(json.dumps({"rows": found, "machine": machine(), "commit": commit()}))
        return 0
    head = list(Row.__annotations__)
    print(table(head, [list(row.values()) for row in found]))
    print(f"\nmachine: {machine()}\ncommit: {commit()}")
    if sched.why_python:
        print(f"no compiled core: {sched.why_python}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
