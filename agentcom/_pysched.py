"""The incremental scheduler in plain Python: the readable twin of `_fastsched.pyx`.

It keeps what the core knows of hosts, agents, endpoints and pools (tasks that ask the same of a place to run) between
ticks, and places the tasks of a tick by expected finish time. Both give exactly equal answers; tests/unit/test_sched.py
holds them together, so a change here is a change there. This one looks at every way for every task; the compiled one
keeps heaps, so that a tick costs by what has changed since the last and by what it places.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, TypeAlias

Buffer: TypeAlias = "array[int] | memoryview[int]"

ROWS_MAX: Final = 1 << 20  # of each kind
POOLS_MAX: Final = 1 << 16
COST_US_MAX: Final = 10**15  # of one part: some 30 years
STEP_US_MAX: Final = 10**12
SINCE_MS_MAX: Final = 1 << 43
SLOTS_MAX: Final = 1 << 30
TASKS_MAX: Final = 10**6  # of one tick; so many of the longest steps fit an int64
CLOSED_US: Final = COST_US_MAX  # as the cost of a failure: agents of that host do not reach the endpoint
TOPS_MAX: Final = 16
ANY_HOST: Final = -1
NO_REPO: Final = -1
NO_POOL: Final = -1
OUT, BUSY, FREE = 0, 1, 2  # states of an agent: it gets no work; it has some; it can take one task


class Parts(NamedTuple):
    """What a way costs, in microseconds; the score is the sum."""

    wait: int
    load: int
    run: int
    host_load: int
    recent_failure: int
    repo: int


class Host(NamedTuple):
    cost_us: int = 0
    step_us: int = 0


class Agent(NamedTuple):
    host: int
    state: int
    since_ms: int


class Endpoint(NamedTuple):
    host: int = ANY_HOST
    slots: int = 0
    step_us: int = 0


class Run(NamedTuple):
    """A way that can be taken now; the least is the best."""

    cost_us: int
    since_ms: int
    agent_in_turn: int
    endpoint: int


class Scheduler:
    """Rows, and the tasks of a tick placed by them. Rows are numbered by the caller, from 0; one that was never set
    offers nothing. All raise ValueError for a number out of its bounds, and have changed nothing then."""

    def __init__(self) -> None:
        self._hosts: dict[int, Host] = {}
        self._agents: dict[int, Agent] = {}
        self._endpoints: dict[int, Endpoint] = {}
        self._failures: dict[tuple[int, int], int] = {}
        self._able: dict[int, set[int]] = {}
        self._ways: dict[int, dict[int, tuple[int, int, int, int]]] = {}
        self._reach: dict[int, dict[int, int]] = {}
        self._also: dict[int, int] = {}
        self._repos: dict[int, tuple[int, frozenset[int]]] = {}

    def set_host(self, host: int, cost_us: int, step_us: int) -> None:
        """What the host's load adds to the cost of work there, and what each start of the same tick adds more."""
        check("host", host, 0, ROWS_MAX - 1)
        check("cost_us", cost_us, 0, COST_US_MAX)
        check("step_us", step_us, 0, STEP_US_MAX)
        self._hosts[host] = Host(cost_us, step_us)

    def set_agent(self, agent: int, host: int, state: int, since_ms: int) -> None:
        """OUT, BUSY or FREE. Of equally good ones the least (since_ms, agent) is taken."""
        check("agent", agent, 0, ROWS_MAX - 1)
        check("host", host, 0, ROWS_MAX - 1)
        check("state", state, OUT, FREE)
        check("since_ms", since_ms, 0, SINCE_MS_MAX)
        self._agents[agent] = Agent(host, state, since_ms)

    def set_endpoint(self, endpoint: int, host: int, slots: int, step_us: int) -> None:
        """Reached by the agents of that host, or of ANY_HOST; 0 or fewer slots are free when it is full. Each task that
        starts or waits there adds the step for the others of the tick; nobody waits where it is 0."""
        check("endpoint", endpoint, 0, ROWS_MAX - 1)
        check("host", host, ANY_HOST, ROWS_MAX - 1)
        check("slots", slots, -SLOTS_MAX, SLOTS_MAX)
        check("step_us", step_us, 0, STEP_US_MAX)
        self._endpoints[endpoint] = Endpoint(host, slots, step_us)

    def set_failure(self, endpoint: int, host: int, cost_us: int) -> None:
        """What recent failures add where agents of that host call the endpoint; CLOSED_US where they may not."""
        check("endpoint", endpoint, 0, ROWS_MAX - 1)
        check("host", host, 0, ROWS_MAX - 1)
        check("cost_us", cost_us, 0, COST_US_MAX)
        if cost_us:
            self._failures[endpoint, host] = cost_us
        else:
            self._failures.pop((endpoint, host), None)

    def set_able(self, pool: int, agent: int, is_able: bool) -> None:
        """Whether the agent offers what tasks of the pool need."""
        check("pool", pool, 0, POOLS_MAX - 1)
        check("agent", agent, 0, ROWS_MAX - 1)
        able = self._able.setdefault(pool, set())
        (able.add if is_able else able.discard)(agent)

    def set_way(
        self, pool: int, endpoint: int, wait_us: int, load_us: int, run_us: int, host_us: int = 0
    ) -> None:
        """Tasks of the pool can run on the endpoint, at that cost; `host_us` is what the load of its own host adds."""
        check("pool", pool, 0, POOLS_MAX - 1)
        check("endpoint", endpoint, 0, ROWS_MAX - 1)
        for cost in (wait_us, load_us, run_us, host_us):
            check("cost_us", cost, 0, COST_US_MAX)
        self._ways.setdefault(pool, {})[endpoint] = (wait_us, load_us, run_us, host_us)

    def set_reach(self, pool: int, host: int, cost_us: int) -> None:
        """What that host adds for tasks of the pool where they use an endpoint of ANY_HOST."""
        check("pool", pool, 0, POOLS_MAX - 1)
        check("host", host, 0, ROWS_MAX - 1)
        check("cost_us", cost_us, 0, COST_US_MAX)
        self._reach.setdefault(pool, {})[host] = cost_us

    def set_also(self, pool: int, other: int) -> None:
        """Tasks of the pool may also go where those of that one may, whose number is higher; -1 for none."""
        check("pool", pool, 0, POOLS_MAX - 1)
        if other != NO_POOL:
            check("other", other, pool + 1, POOLS_MAX - 1)
        self._also[pool] = other

    def drop_way(self, pool: int, endpoint: int) -> None:
        """They can no longer."""
        self._ways.get(pool, {}).pop(endpoint, None)

    def drop_pool(self, pool: int) -> None:
        """Forget which agents are able, and all its ways."""
        for rows in (self._able, self._ways, self._reach, self._also):
            rows.pop(pool, None)

    def set_repo(self, repo: int, missing_us: int, hosts: Iterable[int]) -> None:
        """What it costs to fetch the repository first, wherever it is not there yet: on all hosts but these."""
        check("repo", repo, 0, ROWS_MAX - 1)
        check("missing_us", missing_us, 0, COST_US_MAX)
        there = sorted(set(hosts))
        for host in there:
            check("host", host, 0, ROWS_MAX - 1)
        self._repos[repo] = missing_us, frozenset(there)

    def parts(self, pool: int, repo: int, endpoint: int, host: int) -> Parts | None:
        """What the way costs for agents of that host, as of now; None where there is no such way."""
        way = self._ways.get(pool, {}).get(endpoint)
        is_reached = self._endpoint(endpoint).host in (ANY_HOST, host) and 0 <= host < ROWS_MAX
        if way is None or not is_reached:
            return None
        host_us = way[3] + self._host(host).cost_us
        if self._endpoint(endpoint).host == ANY_HOST:
            host_us += self._reach.get(pool, {}).get(host, 0)
        failed_us = self._failures.get((endpoint, host), 0)
        return Parts(*way[:3], host_us, failed_us, self._missing(repo, host))

    def tops(self, pool: int, repo: int, count: int) -> list[tuple[int, int, int]]:
        """(cost_us, agent, endpoint) of the best ways that are free now, `count` at most, the best first; of a host
        with several free agents the one whose turn it is stands for all."""
        check("count", count, 0, TOPS_MAX)
        tick = _Tick(self)
        runs = sorted(run for each in self._with_others(pool) for run in tick.runs(each, repo))
        return [(run.cost_us, run.agent_in_turn, run.endpoint) for run in runs[:count]]

    def tick(
        self, task_pool: Buffer, task_repo: Buffer, chosen_agent: Buffer, chosen_endpoint: Buffer
    ) -> int:
        """Place the tasks, in the order given; return how many start.

        All are contiguous buffers of signed 4-byte integers, one item a task: its pool; its repository or NO_REPO; out,
        the agent that takes it and the endpoint. Where it waits for an endpoint the agent is -1, where there is no
        place for it both are.

        The best way has the least (cost, since_ms, agent, endpoint) of those with a free agent and a free slot. A task
        waits if a full endpoint with a step costs less than that: for one on a host some able agent is not OUT, for one
        of any host some able agent is free (the cheapest counts) and nothing failed lately. A pool without a way that
        is free now, in it or in those that it also uses, is exhausted: its tasks behind are not looked at.

        No row changes: what was placed counts during the tick only, and from then on as far as the caller sets it.
        """
        views = tick_views(task_pool, task_repo, chosen_agent, chosen_endpoint)
        return _Tick(self).place(*views)

    def _host(self, host: int) -> Host:
        return self._hosts.get(host, Host())

    def _endpoint(self, endpoint: int) -> Endpoint:
        return self._endpoints.get(endpoint, Endpoint())

    def _missing(self, repo: int, host: int) -> int:
        missing_us, there = self._repos.get(repo, (0, frozenset()))
        return 0 if host in there else missing_us

    def _with_others(self, pool: int) -> list[int]:
        pools = [pool]
        while (other := self._also.get(pools[-1], NO_POOL)) != NO_POOL:
            pools.append(other)
        return pools


class _Tick:
    """What has been placed so far."""

    def __init__(self, rows: Scheduler) -> None:
        self.rows = rows
        self.taken: set[int] = set()
        self.starts: dict[int, int] = {}  # by host
        self.started: dict[int, int] = {}  # by endpoint
        self.waiting: dict[int, int] = {}
        self.failing = {endpoint for endpoint, _ in rows._failures}
        self._able: dict[int, dict[int, list[tuple[int, int, int]]]] = {}

    def place(
        self,
        pools: memoryview[int],
        repos: memoryview[int],
        agents: memoryview[int],
        endpoints: memoryview[int],
    ) -> int:
        exhausted: set[int] = set()
        for task, (pool, repo) in enumerate(zip(pools, repos, strict=True)):
            agents[task] = endpoints[task] = -1
            if pool in exhausted:
                continue
            pools_of_it = self.rows._with_others(pool)
            run = min((run for each in pools_of_it for run in self.runs(each, repo)), default=None)
            if run is None:
                exhausted.add(pool)
                continue
            wait = min((wait for each in pools_of_it for wait in self.waits(each, repo)), default=None)
            if wait is not None and wait[0] < run.cost_us:
                endpoints[task] = wait[1]
                self.waiting[wait[1]] = self.waiting.get(wait[1], 0) + 1
            else:
                agents[task], endpoints[task] = run.agent_in_turn, run.endpoint
                self.start(run)
        return len(self.taken)

    def start(self, run: Run) -> None:
        host = self.rows._agents[run.agent_in_turn].host
        self.taken.add(run.agent_in_turn)
        self.starts[host] = self.starts.get(host, 0) + 1
        self.started[run.endpoint] = self.started.get(run.endpoint, 0) + 1

    def runs(self, pool: int, repo: int) -> Iterator[Run]:
        able = self.able(pool)
        for endpoint in self.rows._ways.get(pool, ()):
            if self.slots(endpoint) <= 0:
                continue
            for host in self.hosts_of(endpoint, able):
                first = self.first_free(able[host])
                if first is not None and not self.is_closed(endpoint, host):
                    yield Run(self.cost(pool, repo, endpoint, host), *first, endpoint)

    def waits(self, pool: int, repo: int) -> Iterator[tuple[int, int]]:
        able = self.able(pool)
        for endpoint in self.rows._ways.get(pool, ()):
            row = self.rows._endpoint(endpoint)
            if self.slots(endpoint) > 0 or not row.step_us:
                continue
            if row.host == ANY_HOST and endpoint in self.failing:
                continue
            for host in self.hosts_of(endpoint, able):
                is_able = row.host != ANY_HOST or self.first_free(able[host]) is not None
                if is_able and not self.is_closed(endpoint, host):
                    yield self.cost(pool, repo, endpoint, host), endpoint

    def able(self, pool: int) -> dict[int, list[tuple[int, int, int]]]:
        """(since_ms, agent, state) of those that are not OUT, in their turn, by host."""
        if pool not in self._able:
            by_host = self._able[pool] = {}
            agents = self.rows._agents
            for agent in self.rows._able.get(pool, ()):
                if agent in agents and agents[agent].state != OUT:
                    row = agents[agent]
                    by_host.setdefault(row.host, []).append((row.since_ms, agent, row.state))
            for turn in by_host.values():
                turn.sort()
        return self._able[pool]

    def hosts_of(self, endpoint: int, able: dict[int, list[tuple[int, int, int]]]) -> Iterable[int]:
        """The hosts with able agents that reach the endpoint."""
        host = self.rows._endpoint(endpoint).host
        return able if host == ANY_HOST else (host,) if host in able else ()

    def first_free(self, turn: list[tuple[int, int, int]]) -> tuple[int, int] | None:
        for since_ms, agent, state in turn:
            if state == FREE and agent not in self.taken:
                return since_ms, agent
        return None

    def cost(self, pool: int, repo: int, endpoint: int, host: int) -> int:
        parts = self.rows.parts(pool, repo, endpoint, host)
        assert parts is not None, "asked for a way that there is"
        counted = self.started.get(endpoint, 0) + self.waiting.get(endpoint, 0)
        added = self.rows._endpoint(endpoint).step_us * counted
        return sum(parts) + added + self.rows._host(host).step_us * self.starts.get(host, 0)

    def is_closed(self, endpoint: int, host: int) -> bool:
        return self.rows._failures.get((endpoint, host)) == CLOSED_US

    def slots(self, endpoint: int) -> int:
        return self.rows._endpoint(endpoint).slots - self.started.get(endpoint, 0)


def check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}; the bounds are {low} to {high}")


def tick_views(*buffers: Buffer) -> tuple[memoryview[int], memoryview[int], memoryview[int], memoryview[int]]:
    """Views of the arguments of `tick`, when all of them are as it demands."""
    pools, repos, agents, endpoints = (memoryview(buffer) for buffer in buffers)
    for name, view in zip(("task_pool", "task_repo"), (pools, repos), strict=True):
        _check_view(name, view)
    for name, view in zip(("chosen_agent", "chosen_endpoint"), (agents, endpoints), strict=True):
        _check_view(name, view)
        if view.readonly:
            raise BufferError(f"{name} is read-only; answers are written there")
    if not len(pools) == len(repos) == len(agents) == len(endpoints):
        raise ValueError("the four arguments of a tick have one item a task each")
    for at, written in enumerate((agents, endpoints)):
        if len(pools) and any(written.obj is other.obj for other in (pools, repos, agents)[: 2 + at]):
            raise ValueError("arguments of a tick share memory where one of them is written")
    check("tasks", len(pools), 0, TASKS_MAX)
    for pool in pools:
        check("task_pool", pool, 0, POOLS_MAX - 1)
    for repo in repos:
        check("task_repo", repo, NO_REPO, ROWS_MAX - 1)
    return pools, repos, agents, endpoints


def _check_view(name: str, view: memoryview[int]) -> None:
    if view.ndim != 1 or not view.c_contiguous or view.format not in ("i", "l") or view.itemsize != 4:
        raise ValueError(f"{name} must hold signed 4-byte integers in one contiguous run")
