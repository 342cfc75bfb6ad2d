"""The ready queue alone: what a task costs that comes into it, is looked at and starts.

`submitters` take turns in one pool; a tick looks for `free` tasks and starts them all. CPU time of this process, the
best of ROUNDS, since others on the machine only ever make it longer.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Final, TypedDict

from agentcom.core.lanes import ReadyQueue, task_of
from bench.machine import commit, machine, table

TASKS: Final = 100_000
ROUNDS: Final = 5
SUBMITTERS: Final = (1, 2, 4, 50, 1000)
FREE: Final = (1, 16, 256)


class Row(TypedDict):
    submitters: int
    free: int
    push_us: float
    start_us: float


def measured(submitters: int, free: int, tasks: int) -> tuple[float, float]:
    """Microseconds a task: coming in, and being found and started."""
    queue = ReadyQueue()
    places = [(0, n, n, n % submitters, 2, 0) for n in range(1, tasks + 1)]
    began = time.process_time()
    for place in places:
        queue.push(*place)
    pushed = time.process_time()
    while queue.count:
        for entry, _ in queue.next(free):
            queue.started(*places[task_of(entry) - 1])
    ended = time.process_time()
    return (pushed - began) / tasks * 1e6, (ended - pushed) / tasks * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.queue", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--quick", action="store_true", help="the shape only: few tasks, one round")
    arguments = parser.parse_args()
    tasks, rounds = (2_000, 1) if arguments.quick else (TASKS, ROUNDS)
    rows: list[Row] = []
    for submitters in SUBMITTERS:
        for free in FREE:
            runs = [measured(submitters, free, tasks) for _ in range(rounds)]
            push, start = min(run[0] for run in runs), min(run[1] for run in runs)
            rows.append(
                Row(submitters=submitters, free=free, push_us=round(push, 2), start_us=round(start, 2))
            )
    if arguments.json:
        print(json.dumps({"machine": machine(), "commit": commit(), "tasks": tasks, "rows": rows}))
        return
    print(f"{machine()}\ncommit {commit()}")
    print(table(tuple(Row.__annotations__), [tuple(row.values()) for row in rows]))


if __name__ == "__main__":
    main()
