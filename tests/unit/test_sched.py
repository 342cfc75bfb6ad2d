"""The scheduler: rows that change, ticks that place tasks. Every test runs on both implementations."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from array import array
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcom import _pysched, sched
from agentcom._pysched import ANY_HOST, BUSY, CLOSED_US, FREE, NO_REPO, OUT, Parts

try:
    from agentcom import _fastsched
except ImportError:  # no compiler here; with AGENTCOM_REQUIRE_COMPILED=1 the last tests of this file fail
    IMPLEMENTATIONS: dict[str, Any] = {"python": _pysched.Scheduler}
else:
    IMPLEMENTATIONS = {"cython": _fastsched.Scheduler, "python": _pysched.Scheduler}

Scheduler: TypeAlias = _pysched.Scheduler
POOL = 0
WARM, COLD, PLAIN = 0, 1, 2  # endpoints


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def board(request: pytest.FixtureRequest) -> Scheduler:
    made: Scheduler = IMPLEMENTATIONS[request.param]()
    return made


def tick(board: Scheduler, *pools: int, repo: int = NO_REPO) -> list[tuple[int, int]]:
    """(agent, endpoint) of each task."""
    agents, endpoints = array("i", [7] * len(pools)), array("i", [7] * len(pools))
    starts = board.tick(array("i", pools), array("i", [repo] * len(pools)), agents, endpoints)
    assert starts == sum(agent >= 0 for agent in agents)
    return list(zip(agents, endpoints, strict=True))


def host(board: Scheduler, number: int, *agents: int, cost_us: int = 0, step_us: int = 0) -> None:
    """A host and its free agents, who are able to do what the pool needs."""
    board.set_host(number, cost_us, step_us)
    for agent in agents:
        board.set_agent(agent, number, FREE, 0)
        board.set_able(POOL, agent, True)


def two_hosts(board: Scheduler, slots: int = 1, load_us: int = 40) -> None:
    """One with a warm endpoint, one whose model has to be loaded; two agents each, a step of 30."""
    host(board, 0, 0, 1)
    host(board, 1, 2, 3)
    board.set_endpoint(WARM, 0, slots, 30)
    board.set_endpoint(COLD, 1, slots, 30)
    board.set_way(POOL, WARM, 0, 0, 100)
    board.set_way(POOL, COLD, 0, load_us, 100)


def test_nothing_known_places_nothing(board: Scheduler) -> None:
    assert tick(board) == []
    assert tick(board, 0, 5) == [(-1, -1), (-1, -1)]


def test_the_cheapest_way_wins_and_of_equal_ones_the_agent_that_has_waited_longest(board: Scheduler) -> None:
    two_hosts(board)
    assert tick(board, POOL) == [(0, WARM)]
    board.set_agent(0, 0, FREE, 500)
    assert tick(board, POOL) == [(1, WARM)]
    board.set_way(POOL, COLD, 0, 0, 99)
    assert tick(board, POOL) == [(2, COLD)]


def test_a_tick_changes_no_row(board: Scheduler) -> None:
    two_hosts(board)
    assert tick(board, POOL, POOL, POOL) == tick(board, POOL, POOL, POOL)


def test_a_warm_endpoint_that_is_busy_loses_to_an_idle_cold_one_once_its_wait_is_longer(
    board: Scheduler,
) -> None:
    two_hosts(board, load_us=40)
    assert tick(board, POOL, POOL, POOL) == [(0, WARM), (-1, WARM), (2, COLD)]
    board.set_endpoint(WARM, 0, 0, 30)
    board.set_way(POOL, WARM, 50, 0, 100)
    assert tick(board, POOL) == [(2, COLD)]
    board.set_way(POOL, WARM, 30, 0, 100)
    assert tick(board, POOL, POOL, POOL) == [(-1, WARM), (2, COLD), (-1, -1)]


def test_a_million_tasks_that_could_wait_end_where_nothing_can_start(board: Scheduler) -> None:
    two_hosts(board)
    board.set_endpoint(COLD, 1, 0, 30)
    assert tick(board, *[POOL] * 1000) == [(0, WARM)] + [(-1, -1)] * 999


def test_nobody_waits_on_a_host_that_is_out(board: Scheduler) -> None:
    two_hosts(board, load_us=90)
    board.set_endpoint(WARM, 0, 0, 30)
    board.set_agent(0, 0, BUSY, 0)
    board.set_agent(1, 0, OUT, 0)
    assert tick(board, POOL) == [(-1, WARM)]
    board.set_agent(0, 0, OUT, 0)
    assert tick(board, POOL) == [(2, COLD)]


def test_work_without_an_endpoint_spreads_over_hosts_by_their_load(board: Scheduler) -> None:
    host(board, 0, 0, 1, step_us=5)
    host(board, 1, 2, 3, cost_us=7, step_us=5)
    board.set_endpoint(PLAIN, ANY_HOST, 1 << 20, 0)
    board.set_way(POOL, PLAIN, 0, 0, 100)
    assert tick(board, *[POOL] * 5) == [(0, PLAIN), (1, PLAIN), (2, PLAIN), (3, PLAIN), (-1, -1)]
    board.set_host(1, 3, 5)
    assert tick(board, *[POOL] * 3) == [(0, PLAIN), (2, PLAIN), (1, PLAIN)]


def test_an_endpoint_of_all_hosts_is_called_from_the_host_with_the_least_load(board: Scheduler) -> None:
    host(board, 0, 0, cost_us=9)
    host(board, 1, 1, cost_us=4)
    board.set_endpoint(WARM, ANY_HOST, 2, 0)
    board.set_way(POOL, WARM, 0, 0, 100)
    assert tick(board, POOL, POOL, POOL) == [(1, WARM), (0, WARM), (-1, -1)]
    board.set_failure(WARM, 1, 60)
    assert tick(board, POOL, POOL) == [(0, WARM), (1, WARM)]


def test_a_failure_counts_for_that_endpoint_and_that_host_until_it_is_taken_back(board: Scheduler) -> None:
    two_hosts(board)
    board.set_failure(WARM, 0, 60)
    board.set_failure(WARM, 1, 1000)
    assert tick(board, POOL) == [(2, COLD)]
    board.set_failure(WARM, 0, 0)
    assert tick(board, POOL) == [(0, WARM)]


def test_an_endpoint_that_a_host_cannot_reach_is_used_from_others_only(board: Scheduler) -> None:
    host(board, 0, 0)
    host(board, 1, 1, cost_us=50)
    board.set_endpoint(WARM, ANY_HOST, 9, 30)
    board.set_way(POOL, WARM, 0, 0, 100)
    board.set_failure(WARM, 0, CLOSED_US)
    assert tick(board, POOL, POOL) == [(1, WARM), (-1, -1)]
    board.set_endpoint(WARM, 0, 9, 30)
    assert tick(board, POOL) == [(-1, -1)]


def test_the_best_ways_are_told_in_order(board: Scheduler) -> None:
    two_hosts(board)
    board.set_endpoint(PLAIN, ANY_HOST, 9, 0)
    board.set_way(POOL, PLAIN, 0, 0, 120)
    assert board.tops(POOL, NO_REPO, 9) == [(100, 0, WARM), (120, 0, PLAIN), (120, 2, PLAIN), (140, 2, COLD)]
    assert board.tops(POOL, NO_REPO, 2) == [(100, 0, WARM), (120, 0, PLAIN)]
    board.set_repo(0, 30, [1])
    assert board.tops(POOL, 0, 2) == [(120, 2, PLAIN), (130, 0, WARM)]
    assert board.tops(POOL + 1, NO_REPO, 9) == []


def test_a_host_that_has_the_repository_goes_before_one_that_would_have_to_fetch_it(board: Scheduler) -> None:
    two_hosts(board)
    board.set_repo(3, 60, [1])
    assert tick(board, POOL, repo=3) == [(2, COLD)]
    assert tick(board, POOL) == [(0, WARM)]
    board.set_repo(3, 39, [1])
    assert tick(board, POOL, repo=3) == [(0, WARM)]


def test_only_able_agents_of_a_host_take_work_of_the_pool(board: Scheduler) -> None:
    two_hosts(board)
    board.set_able(POOL, 0, False)
    assert tick(board, POOL) == [(1, WARM)]
    board.set_able(POOL, 1, False)
    assert tick(board, POOL) == [(2, COLD)]


def test_the_parts_of_a_way_add_up_to_its_cost(board: Scheduler) -> None:
    two_hosts(board)
    board.set_host(1, 8, 0)
    board.set_way(POOL, COLD, 1, 2, 3)
    board.set_failure(COLD, 1, 5)
    board.set_repo(0, 6, [0])
    assert board.parts(POOL, 0, COLD, 1) == Parts(1, 2, 3, 8, 5, 6)
    assert board.parts(POOL, NO_REPO, COLD, 1) == Parts(1, 2, 3, 8, 5, 0)
    assert board.parts(POOL, 0, COLD, 0) is None
    assert board.parts(POOL + 1, 0, COLD, 1) is None


def test_a_pool_that_also_uses_another_takes_the_better_of_both(board: Scheduler) -> None:
    two_hosts(board)
    board.set_way(1, COLD, 0, 0, 99)
    board.set_able(1, 3, True)
    board.set_also(POOL, 1)
    assert tick(board, POOL, POOL, POOL) == [(3, COLD), (0, WARM), (-1, -1)]
    board.set_also(POOL, -1)
    assert tick(board, POOL) == [(0, WARM)]


def test_what_the_load_of_a_host_adds_may_differ_by_pool(board: Scheduler) -> None:
    host(board, 0, 0)
    host(board, 1, 1)
    board.set_endpoint(PLAIN, ANY_HOST, 9, 0)
    board.set_way(POOL, PLAIN, 0, 0, 100)
    board.set_reach(POOL, 0, 50)
    assert tick(board, POOL) == [(1, PLAIN)]
    assert board.parts(POOL, NO_REPO, PLAIN, 0) == Parts(0, 0, 100, 50, 0, 0)


def test_what_leaves_is_offered_no_more(board: Scheduler) -> None:
    two_hosts(board)
    board.drop_way(POOL, WARM)
    assert tick(board, POOL) == [(2, COLD)]
    board.drop_pool(POOL)
    assert tick(board, POOL) == [(-1, -1)]


REFUSED: list[tuple[Callable[[Scheduler], object], str]] = [
    (lambda b: b.set_host(-1, 0, 0), "host is -1"),
    (lambda b: b.set_host(1 << 20, 0, 0), "host is 1048576; the bounds are 0 to 1048575"),
    (lambda b: b.set_host(0, -1, 0), "cost_us is -1"),
    (lambda b: b.set_host(0, 0, 10**13), "step_us is"),
    (lambda b: b.set_agent(0, 0, 3, 0), "state is 3"),
    (lambda b: b.set_agent(0, -1, FREE, 0), "host is -1"),
    (lambda b: b.set_agent(0, 0, FREE, 1 << 44), "since_ms is"),
    (lambda b: b.set_endpoint(0, -2, 0, 0), "host is -2"),
    (lambda b: b.set_endpoint(0, 0, 1 << 31, 0), "slots is"),
    (lambda b: b.set_failure(0, 0, -5), "cost_us is -5"),
    (lambda b: b.set_able(1 << 16, 0, True), "pool is 65536"),
    (lambda b: b.set_way(0, 0, 0, 10**16, 0), "cost_us is"),
    (lambda b: b.set_reach(0, -1, 0), "host is -1"),
    (lambda b: b.set_also(3, 3), "other is 3; the bounds are 4 to"),
    (lambda b: b.set_repo(0, 0, [4, -4]), "host is -4"),
    (lambda b: tick(b, -1), "task_pool is -1"),
    (lambda b: tick(b, 0, repo=-2), "task_repo is -2"),
    (lambda b: b.tick(array("i", [0]), array("i"), array("i"), array("i")), "one item a task"),
    (lambda b: b.tick(*[array("i", [0])] * 4), "share memory"),
]


@pytest.mark.parametrize(("call", "why"), REFUSED)
def test_what_is_out_of_bounds_is_refused_by_name_and_changes_nothing(
    board: Scheduler, call: Callable[[Scheduler], object], why: str
) -> None:
    two_hosts(board)
    before = tick(board, POOL, POOL)
    with pytest.raises(ValueError, match=why):
        call(board)
    assert tick(board, POOL, POOL) == before


@pytest.mark.parametrize("at", range(4))
def test_an_argument_of_a_tick_of_the_wrong_type_is_refused(board: Scheduler, at: int) -> None:
    two_hosts(board)
    for wrong in (array("q", [0]), array("I", [0]), memoryview(bytearray(16)).cast("i", [2, 2]), [0], None):
        arguments: list[Any] = [array("i", [0]) for _ in range(4)]
        arguments[at] = wrong
        with pytest.raises((ValueError, TypeError)):
            board.tick(*arguments)
    assert tick(board, POOL) == [(0, WARM)]


@pytest.mark.parametrize("at", [2, 3])
def test_an_answer_that_cannot_be_written_is_refused(board: Scheduler, at: int) -> None:
    arguments: list[Any] = [array("i", [0]) for _ in range(4)]
    arguments[at] = memoryview(arguments[at]).toreadonly()
    with pytest.raises(BufferError):
        board.tick(*arguments)


HOSTS, AGENTS, ENDPOINTS, POOLS, REPOS = 4, 8, 6, 3, 2


def numbers(count: int) -> st.SearchStrategy[int]:
    return st.integers(0, count - 1)


COSTS = st.one_of(st.integers(0, 6), st.integers(0, 40))
CHANGES = st.one_of(
    st.tuples(st.just("set_host"), numbers(HOSTS), COSTS, st.integers(0, 3)),
    st.tuples(
        st.just("set_agent"),
        numbers(AGENTS),
        numbers(HOSTS),
        st.sampled_from([OUT, BUSY, FREE, FREE]),
        numbers(9),
    ),
    st.tuples(
        st.just("set_endpoint"),
        numbers(ENDPOINTS),
        st.integers(-1, HOSTS - 1),
        st.integers(-1, 3),
        numbers(9),
    ),
    st.tuples(
        st.just("set_failure"), numbers(ENDPOINTS), numbers(HOSTS), st.sampled_from([0, 0, 5, 20, CLOSED_US])
    ),
    st.tuples(st.just("set_able"), numbers(POOLS), numbers(AGENTS), st.booleans()),
    st.tuples(st.just("set_way"), numbers(POOLS), numbers(ENDPOINTS), COSTS, COSTS, COSTS, COSTS),
    st.tuples(st.just("set_reach"), numbers(POOLS), numbers(HOSTS), COSTS),
    st.tuples(st.just("set_also"), st.just(0), st.sampled_from([-1, 1, 2])),
    st.tuples(st.just("set_also"), st.just(1), st.sampled_from([-1, 2])),
    st.tuples(st.just("drop_way"), numbers(POOLS), numbers(ENDPOINTS)),
    st.tuples(st.just("drop_pool"), numbers(POOLS)),
    st.tuples(st.just("set_repo"), numbers(REPOS), COSTS, st.lists(numbers(HOSTS), max_size=3)),
)
TASKS = st.lists(st.tuples(numbers(POOLS + 1), st.integers(-1, REPOS)), max_size=12)


def fill(board: Scheduler, seed: int) -> None:
    """A fleet in which most can be used, so that random changes meet something."""
    for agent in range(AGENTS):
        board.set_agent(agent, (agent * 5 + seed) % HOSTS, FREE, (agent * seed) % 4)
        for pool in range(POOLS):
            board.set_able(pool, agent, (agent + pool + seed) % 5 > 0)
    for endpoint in range(ENDPOINTS):
        board.set_endpoint(endpoint, (endpoint + seed) % (HOSTS + 2) - 1 if endpoint else -1, seed % 3 + 1, 4)
        for pool in range(POOLS):
            board.set_way(pool, endpoint, seed % 3, endpoint, 3 + pool)


def answers(board: Scheduler, tasks: list[tuple[int, int]]) -> tuple[int, list[int], list[int]]:
    agents, endpoints = array("i", [-7] * len(tasks)), array("i", [-7] * len(tasks))
    starts = board.tick(
        array("i", [p for p, _ in tasks]), array("i", [r for _, r in tasks]), agents, endpoints
    )
    return starts, list(agents), list(endpoints)


def all_parts(board: Scheduler) -> list[Parts | None]:
    return [
        board.parts(pool, repo, endpoint, number)
        for pool in range(POOLS)
        for repo in range(-1, REPOS)
        for endpoint in range(ENDPOINTS)
        for number in range(HOSTS)
    ]


@given(st.none() | st.integers(0, 20), st.lists(st.tuples(st.lists(CHANGES, max_size=6), TASKS), max_size=12))
@settings(max_examples=300, deadline=None)
def test_any_changes_and_ticks_give_the_same_answers_and_the_same_rows(
    seed: int | None, steps: list[tuple[list[tuple[Any, ...]], list[tuple[int, int]]]]
) -> None:
    boards = [made() for made in IMPLEMENTATIONS.values()]
    for board in boards:
        if seed is not None:
            fill(board, seed)
    for changes, tasks in steps:
        for board in boards:
            for name, *arguments in changes:
                getattr(board, name)(*arguments)
        found = [answers(board, tasks) for board in boards]
        assert found == [found[0]] * len(found), (seed, steps)
        best = [[board.tops(p, r, 5) for p in range(POOLS + 1) for r in range(-1, REPOS)] for board in boards]
        assert best == [best[0]] * len(best), (seed, steps)
    rows = [all_parts(board) for board in boards]
    assert rows == [rows[0]] * len(rows)


def test_the_compiled_core_is_used_wherever_it_was_built() -> None:
    """AGENTCOM_REQUIRE_COMPILED=1 says that this machine must have built it."""
    was_built = importlib.util.find_spec("agentcom._fastsched") is not None
    assert was_built or os.environ.get("AGENTCOM_REQUIRE_COMPILED") != "1", sched.why_python
    forced = os.environ.get(sched.SETTING) == "python"
    expected = "cython" if was_built and not forced else "python"
    assert expected == sched.IMPLEMENTATION
    assert type(sched.make_scheduler()) is IMPLEMENTATIONS[sched.IMPLEMENTATION]
    assert (sched.why_python is None) == (sched.IMPLEMENTATION == "cython")


WHICH = "from agentcom.sched import *; print(IMPLEMENTATION, type(make_scheduler()).__module__, why_python, sep='|')"


def said_by(program: str, **settings: str) -> str:
    """What a fresh interpreter prints, with no setting about the core but these."""
    inherited = {key: value for key, value in os.environ.items() if key != sched.SETTING}
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env={**inherited, **settings}, capture_output=True, text=True, check=True)
    return ended.stdout.strip()


def test_a_setting_forces_the_twin() -> None:
    assert said_by(WHICH, AGENTCOM_SCHED="python") == "python|agentcom._pysched|AGENTCOM_SCHED=python"


def test_a_machine_that_built_no_core_uses_the_twin_and_says_why() -> None:
    absent = "import sys; sys.modules['agentcom._fastsched'] = None; "
    implementation, module, why = said_by(absent + WHICH).split("|")
    assert (implementation, module) == ("python", "agentcom._pysched")
    assert "_fastsched" in why
