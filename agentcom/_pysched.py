"""The scheduling core in plain Python: the readable twin of `_fastsched.pyx`.

Both give exactly equal answers; tests/unit/test_sched.py holds them together, so a change here is a change
there. This one scans every candidate for every task, O(tasks x candidates); it runs where no compiler was.
`check` is the one source of refusals: the compiled core calls it to say what is wrong.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Final, TypeAlias

Buffer: TypeAlias = "array[int] | memoryview[int]"

NO_ENDPOINT: Final = -1
NOT_ASSIGNED: Final = -1
WAITS: Final = -2  # the choice of a task that waits for candidate 0; for the next ones it is lower
INT64_MAX: Final = 2**63 - 1

# Name, bytes per item, whether `assign` writes to it; in the order of the arguments.
ARGUMENTS: Final = (
    ("task_group", 4, False),
    ("cand_start", 4, False),
    ("cand_agent", 4, False),
    ("cand_endpoint", 4, False),
    ("cand_cost_us", 8, False),
    ("agent_rank", 8, False),
    ("agent_free", 4, True),
    ("endpoint_free", 4, True),
    ("endpoint_step_us", 8, False),
    ("choice", 4, True),
)
SIGNED_FORMATS: Final = frozenset("ilq")


def assign(
    task_group: Buffer,
    cand_start: Buffer,
    cand_agent: Buffer,
    cand_endpoint: Buffer,
    cand_cost_us: Buffer,
    agent_rank: Buffer,
    agent_free: Buffer,
    endpoint_free: Buffer,
    endpoint_step_us: Buffer,
    choice: Buffer,
) -> int:
    """Give each task, in the order given, the best candidate of its group; return how many got one.

    All are one-dimensional contiguous buffers of signed integers, 8 bytes where a cost, a step or a rank is
    held (`array("q")`), else 4 (`array("i")`); none may share memory with one that is written.

    - task_group[n]: the requirement group of each task.
    - cand_start[groups + 1]: group g has the candidates cand_start[g] to cand_start[g + 1] - 1.
    - cand_agent, cand_endpoint, cand_cost_us [candidates]: an agent's index; an endpoint's index, or -1 where
      none is needed; the expected finish time, never negative.
    - agent_rank[agents]: smaller was idle longer. agent_free[agents]: not 0 when free; set to 0 when chosen.
    - endpoint_free[endpoints]: slots left, counted down; 0 or less is full. endpoint_step_us[endpoints]: what
      every task of this call that starts or waits there adds to the cost of further candidates on that endpoint,
      never negative; nobody waits for an endpoint whose step is 0.
    - choice[n]: out, the index of the chosen candidate; -1 for none; -2 - index for one that the task waits for.

    The best has the least (cost + step x those of this call, agent rank, endpoint index, candidate index) among
    those that can run (free agent, free slot) and those on a full endpoint that can be waited for, whose cost must
    have the expected wait in it; their agents need not be free. A task that waits takes no agent and is not counted
    in the answer: each makes its endpoint dearer, until one that can run is cheaper. A group of which none can run
    any more is exhausted: capacity only shrinks during a call, and its tasks behind are not looked at.

    Raises TypeError for what is no buffer, BufferError for one that cannot be written where it must, and
    ValueError for all else that breaks the above; then nothing has been written.
    """
    tick = _Tick(
        task_group,
        cand_start,
        cand_agent,
        cand_endpoint,
        cand_cost_us,
        agent_rank,
        agent_free,
        endpoint_free,
        endpoint_step_us,
        choice,
    )
    return tick.assign()


class _Tick:
    """One call: the checked arguments, and how many started or wait per endpoint so far."""

    def __init__(self, *buffers: Buffer) -> None:
        views = check(*buffers)
        self.groups, self.starts, self.agents, self.endpoints, self.costs = views[:5]
        self.ranks, self.free, self.slots, self.steps, self.choice = views[5:]
        self.made = [0] * len(self.slots)

    def assign(self) -> int:
        for task in range(len(self.groups)):
            self.choice[task] = NOT_ASSIGNED
        agents_free = sum(1 for each in self.free if each)
        exhausted: set[int] = set()
        assigned = 0
        for task, group in enumerate(self.groups):
            if assigned == agents_free:
                break
            if group in exhausted:
                continue
            best = self.best(group)
            if best == NOT_ASSIGNED:
                exhausted.add(group)
                continue
            if self.can_run(best):
                self.choice[task] = best
                self.take(best)
                assigned += 1
            else:
                self.choice[task] = WAITS - best
                self.made[self.endpoints[best]] += 1
        return assigned

    def best(self, group: int) -> int:
        candidates = range(self.starts[group], self.starts[group + 1])
        able = list(filter(self.can_run, candidates))
        if not able:
            return NOT_ASSIGNED
        return min(able + list(filter(self.can_be_waited_for, candidates)), key=self.key)

    def can_be_waited_for(self, candidate: int) -> bool:
        endpoint = self.endpoints[candidate]
        return endpoint != NO_ENDPOINT and self.slots[endpoint] <= 0 and self.steps[endpoint] > 0

    def can_run(self, candidate: int) -> bool:
        endpoint = self.endpoints[candidate]
        return bool(self.free[self.agents[candidate]]) and (
            endpoint == NO_ENDPOINT or self.slots[endpoint] > 0
        )

    def key(self, candidate: int) -> tuple[int, int, int, int]:
        endpoint = self.endpoints[candidate]
        added = 0 if endpoint == NO_ENDPOINT else self.steps[endpoint] * self.made[endpoint]
        return self.costs[candidate] + added, self.ranks[self.agents[candidate]], endpoint, candidate

    def take(self, candidate: int) -> None:
        self.free[self.agents[candidate]] = 0
        endpoint = self.endpoints[candidate]
        if endpoint != NO_ENDPOINT:
            self.slots[endpoint] -= 1
            self.made[endpoint] += 1


def check(*buffers: Buffer) -> tuple[memoryview[int], ...]:
    """Views of the ten arguments of `assign`, when all of them are as it demands; else ValueError."""
    views = tuple(_view(buffer, *argument) for buffer, argument in zip(buffers, ARGUMENTS, strict=True))
    _check_memory(views)
    _check_lengths(views)
    groups, starts, agents, endpoints, costs, ranks, _free, slots, steps, _chosen = views
    _check_starts(starts, len(agents))
    _check_range("task_group", groups, 0, len(starts) - 2)
    _check_range("cand_agent", agents, 0, len(ranks) - 1)
    _check_range("cand_endpoint", endpoints, NO_ENDPOINT, len(slots) - 1)
    _check_range("cand_cost_us", costs, 0, INT64_MAX)
    _check_range("endpoint_step_us", steps, 0, INT64_MAX)
    highest = max(costs, default=0) + max(steps, default=0) * len(groups)
    if highest > INT64_MAX:
        raise ValueError(f"a cost could reach {highest} us, more than an int64 holds: lower cost or step")
    return views


def _view(buffer: Buffer, name: str, item_bytes: int, written: bool) -> memoryview[int]:
    view = memoryview(buffer)
    if written and view.readonly:
        raise BufferError(f"{name} is read-only; answers are written there")
    if view.ndim != 1 or not view.c_contiguous:
        raise ValueError(f"{name} must be one contiguous run of integers")
    if view.format not in SIGNED_FORMATS or view.itemsize != item_bytes:
        raise ValueError(f"{name} must hold signed {item_bytes}-byte integers, not format {view.format!r}")
    return view


def _check_memory(views: Sequence[memoryview[int]]) -> None:
    """Refuse one object given twice where it is written: an index checked before could change after."""
    for at, view in enumerate(views):
        for other in range(at):
            written = ARGUMENTS[at][2] or ARGUMENTS[other][2]
            if written and len(view) and len(views[other]) and view.obj is views[other].obj:
                raise ValueError(f"{ARGUMENTS[at][0]} and {ARGUMENTS[other][0]} share memory")


def _check_lengths(views: Sequence[memoryview[int]]) -> None:
    groups, starts, agents, endpoints, costs, ranks, free, slots, steps, chosen = views
    if not len(starts):
        raise ValueError("cand_start is empty; it holds one more than there are groups")
    _check_same("choice", chosen, "task_group", groups)
    _check_same("cand_endpoint", endpoints, "cand_agent", agents)
    _check_same("cand_cost_us", costs, "cand_agent", agents)
    _check_same("agent_free", free, "agent_rank", ranks)
    _check_same("endpoint_step_us", steps, "endpoint_free", slots)


def _check_same(name: str, view: memoryview[int], other_name: str, other: memoryview[int]) -> None:
    if len(view) != len(other):
        raise ValueError(f"{name} has {len(view)} items and {other_name} {len(other)}; they belong together")


def _check_starts(starts: memoryview[int], candidates: int) -> None:
    if starts[0] != 0 or starts[-1] != candidates:
        raise ValueError(f"cand_start runs from {starts[0]} to {starts[-1]}, not from 0 to {candidates}")
    for group in range(len(starts) - 1):
        here, after = starts[group], starts[group + 1]
        if here > after:
            raise ValueError(f"cand_start[{group}] is {here}, more than the next: {after}")


def _check_range(name: str, view: memoryview[int], low: int, high: int) -> None:
    for at, each in enumerate(view):
        if not low <= each <= high:
            raise ValueError(f"{name}[{at}] is {each}; the bounds are {low} to {high}")
