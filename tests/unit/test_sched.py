"""The scheduling core: which candidate each ready task gets. Every test runs on both implementations."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcom import _pysched, sched
from agentcom._pysched import INT64_MAX

try:
    from agentcom import _fastsched
except ImportError:  # no compiler here; with AGENTCOM_REQUIRE_COMPILED=1 the last tests of this file fail
    IMPLEMENTATIONS: dict[str, ModuleType] = {"python": _pysched}
else:
    IMPLEMENTATIONS = {"cython": _fastsched, "python": _pysched}

Assign = Callable[..., int]


@dataclass
class Tick:
    """The arguments of one call. A candidate is (agent, endpoint, cost); `groups` holds each group's."""

    tasks: list[int]
    groups: list[list[tuple[int, int, int]]]
    ranks: list[int]
    slots: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    free: list[int] | None = None

    def arguments(self) -> dict[str, array[int]]:
        candidates = [each for group in self.groups for each in group]
        ends = [sum(len(each) for each in self.groups[:at]) for at in range(len(self.groups) + 1)]
        return {
            "task_group": array("i", self.tasks),
            "cand_start": array("i", ends),
            "cand_agent": array("i", [agent for agent, _, _ in candidates]),
            "cand_endpoint": array("i", [endpoint for _, endpoint, _ in candidates]),
            "cand_cost_us": array("q", [cost for _, _, cost in candidates]),
            "agent_rank": array("q", self.ranks),
            "agent_free": array("i", [1] * len(self.ranks) if self.free is None else self.free),
            "endpoint_free": array("i", self.slots),
            "endpoint_step_us": array("q", self.steps or [0] * len(self.slots)),
            "choice": array("i", [-7] * len(self.tasks)),
        }


@dataclass
class Outcome:
    assigned: int
    choice: list[int]
    free: list[int]
    slots: list[int]


def outcome(assign: Assign, tick: Tick) -> Outcome:
    arguments = tick.arguments()
    assigned = assign(*arguments.values())
    return Outcome(
        assigned, list(arguments["choice"]), list(arguments["agent_free"]), list(arguments["endpoint_free"])
    )


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def assign(request: pytest.FixtureRequest) -> Assign:
    chosen: Assign = IMPLEMENTATIONS[request.param].assign
    return chosen


def test_nothing_in_gives_nothing_out(assign: Assign) -> None:
    assert outcome(assign, Tick([], [], [])) == Outcome(0, [], [], [])


def test_one_task_takes_the_one_agent_and_its_slot(assign: Assign) -> None:
    assert outcome(assign, Tick([0], [[(0, 0, 5)]], [1], [1])) == Outcome(1, [0], [0], [0])


def test_the_cheapest_candidate_wins(assign: Assign) -> None:
    tick = Tick([0], [[(0, -1, 30), (1, -1, 10), (2, -1, 20)]], [0, 1, 2])
    assert outcome(assign, tick) == Outcome(1, [1], [1, 0, 1], [])


def test_of_equal_costs_the_agent_idle_longest_wins(assign: Assign) -> None:
    tick = Tick([0, 0], [[(0, -1, 10), (1, -1, 10), (2, -1, 10)]], [7, 3, 5])
    assert outcome(assign, tick).choice == [1, 2]


def test_of_one_agents_equal_costs_the_lowest_endpoint_wins_and_none_comes_first(assign: Assign) -> None:
    tick = Tick([0], [[(0, 1, 10), (0, 0, 10)]], [0], [1, 1])
    assert outcome(assign, tick).choice == [1]
    tick = Tick([0], [[(0, 0, 10), (0, -1, 10)]], [0], [1])
    assert outcome(assign, tick).choice == [1]


@pytest.mark.parametrize("tasks", [[0], [0, 0]])
def test_of_candidates_equal_in_all_the_first_wins(assign: Assign, tasks: list[int]) -> None:
    tick = Tick(tasks, [[(0, 0, 10), (0, 0, 10)]], [0], [2])
    assert outcome(assign, tick).choice == [0, -1][: len(tasks)]


def test_tasks_are_tried_in_the_order_given(assign: Assign) -> None:
    tick = Tick([1, 0], [[(0, -1, 1)], [(0, -1, 99)]], [0])
    assert outcome(assign, tick) == Outcome(1, [1, -1], [0], [])


def test_an_agent_takes_one_task_only(assign: Assign) -> None:
    tick = Tick([0, 0, 0], [[(0, 0, 1), (0, 1, 2)]], [0], [5, 5])
    assert outcome(assign, tick) == Outcome(1, [0, -1, -1], [0], [4, 5])


def test_an_agent_that_is_not_free_is_never_chosen(assign: Assign) -> None:
    tick = Tick([0, 0], [[(0, -1, 1), (1, -1, 50)]], [0, 1], free=[0, 1])
    assert outcome(assign, tick) == Outcome(1, [1, -1], [0, 0], [])


@pytest.mark.parametrize("full", [0, -1, -(2**31)])
def test_an_endpoint_without_a_slot_is_never_chosen(assign: Assign, full: int) -> None:
    tick = Tick([0, 0], [[(0, 0, 1), (1, 1, 50), (2, 0, 1)]], [0, 1, 2], [full, 1])
    assert outcome(assign, tick) == Outcome(1, [1, -1], [1, 0, 1], [full, 0])


def test_a_task_waits_for_a_full_endpoint_that_is_sooner_than_one_that_is_free(assign: Assign) -> None:
    tick = Tick([0], [[(0, 0, 40), (1, 1, 100)]], [0, 1], [0, 1], [30, 30])
    assert outcome(assign, tick) == Outcome(0, [-2], [1, 1], [0, 1])


@pytest.mark.parametrize("tasks", [5, 1000])
def test_tasks_that_wait_make_the_wait_longer_until_the_next_ones_go_elsewhere(
    assign: Assign, tasks: int
) -> None:
    warm_and_cold = [(0, 0, 40), (1, 1, 100), (2, 1, 100)]
    tick = Tick([0] * tasks, [warm_and_cold], [0, 1, 2], [0, 2], [30, 30])
    # Waits of 40, 70 and 100 (the agent idle longer wins the tie), then 130 against 100, then 130 against 130.
    expected = [-2, -2, -2, 1, -2] if tasks == 5 else [-2, -2, -2, 1, -2, 2] + [-1] * (tasks - 6)
    assert outcome(assign, tick).choice == expected


def test_an_endpoint_that_becomes_full_during_the_call_is_waited_for_by_every_group(assign: Assign) -> None:
    both = [(0, 0, 10), (1, 0, 12), (2, 1, 100)]
    tick = Tick([0, 1, 0, 1, 2], [both, both, both], [0, 1, 2], [1, 1], [10, 10])
    assert outcome(assign, tick) == Outcome(1, [0, -5, -2, -5, -8], [0, 1, 1], [0, 1])


def test_a_wait_needs_no_free_agent_and_takes_none(assign: Assign) -> None:
    tick = Tick([0, 0], [[(0, 0, 40), (1, 1, 50)]], [0, 1], [0, 1], [30, 30], free=[0, 1])
    assert outcome(assign, tick) == Outcome(1, [-2, 1], [0, 0], [0, 0])


def test_nobody_waits_where_nothing_can_run_nor_for_an_endpoint_without_a_step(assign: Assign) -> None:
    assert outcome(assign, Tick([0, 0], [[(0, 0, 40)]], [0], [0], [30])).choice == [-1, -1]
    tick = Tick([0, 0], [[(0, 0, 40), (1, 1, 50)]], [0, 1], [0, 1], [0, 30])
    assert outcome(assign, tick).choice == [1, -1]


def test_each_assignment_makes_its_endpoint_dearer_by_its_step(assign: Assign) -> None:
    tick = Tick([0] * 4, [[(0, 0, 10), (1, 0, 10), (2, 0, 10), (3, 1, 25)]], [0, 1, 2, 3], [9, 9], [10, 0])
    assert outcome(assign, tick).choice == [0, 1, 3, 2]


def test_what_one_group_assigns_makes_the_endpoint_dearer_for_the_others(assign: Assign) -> None:
    both = [(0, 0, 10), (1, 0, 10), (2, 1, 15), (3, 1, 15)]
    tick = Tick([0, 1, 0, 1], [both, both], [0, 1, 2, 3], [9, 9], [10, 10])
    assert outcome(assign, tick).choice == [0, 6, 1, 7]


def test_a_candidate_without_an_endpoint_never_grows_dearer(assign: Assign) -> None:
    tick = Tick([0, 0, 0], [[(0, -1, 10), (1, -1, 10), (2, 0, 5)]], [0, 1, 2], [1], [INT64_MAX // 8])
    assert outcome(assign, tick).choice == [2, 0, 1]


def test_a_group_that_found_nothing_leaves_the_others_alone(assign: Assign) -> None:
    tick = Tick([0, 0, 1, 0, 1], [[(0, 0, 1)], [(0, 1, 1), (1, 1, 1)]], [0, 1], [0, 5])
    assert outcome(assign, tick) == Outcome(2, [-1, -1, 1, -1, 2], [0, 0], [0, 3])


def test_a_group_without_candidates_gets_nothing(assign: Assign) -> None:
    assert outcome(assign, Tick([0, 1, 0], [[], [(0, -1, 1)]], [0])).choice == [-1, 0, -1]


def test_when_no_agent_is_free_every_task_waits(assign: Assign) -> None:
    tick = Tick([0, 0], [[(0, -1, 1)]], [0], free=[0])
    assert outcome(assign, tick) == Outcome(0, [-1, -1], [0], [])


def test_a_call_does_not_remember_the_one_before(assign: Assign) -> None:
    tick = Tick([0, 0], [[(0, 0, 1), (1, 0, 1)]], [0, 1], [2], [9])
    assert outcome(assign, tick) == outcome(assign, tick)


@pytest.mark.parametrize("tasks", [[0], [0, 0]])
def test_the_highest_cost_and_rank_are_as_good_as_any(assign: Assign, tasks: list[int]) -> None:
    tick = Tick(tasks, [[(0, 0, INT64_MAX)]], [INT64_MAX], [2**31 - 1])
    assert outcome(assign, tick) == Outcome(1, [0, -1][: len(tasks)], [0], [2**31 - 2])


def test_a_sum_of_costs_at_the_edge_of_an_int64_still_orders(assign: Assign) -> None:
    tick = Tick([0, 0, 0], [[(0, 0, 1), (1, 0, 1), (2, 1, INT64_MAX - 3)]], [0, 1, 2], [3, 3], [1, 1])
    assert outcome(assign, tick).choice == [0, 1, 2]


def replaced(**changes: object) -> list[object]:
    """The arguments of a tick that is in order, some of them replaced."""
    good = Tick([0, 0], [[(0, 0, 1), (1, 0, 2)]], [0, 1], [2], [1]).arguments()
    return list({**good, **changes}.values())


SHARED = array("i", [0, 0])
REFUSED = [
    ("task_group", array("i", [0, 1]), r"task_group\[1\] is 1; the bounds are 0 to 0"),
    ("task_group", array("i", [-1, 0]), r"task_group\[0\] is -1"),
    ("task_group", array("i", [0]), "choice has 2 items and task_group 1"),
    ("cand_start", array("i"), "cand_start is empty"),
    ("cand_start", array("i", [0]), "cand_start runs from 0 to 0, not from 0 to 2"),
    ("cand_start", array("i", [1, 2]), "cand_start runs from 1 to 2"),
    ("cand_start", array("i", [0, 3]), "cand_start runs from 0 to 3"),
    ("cand_start", array("i", [0, 2, 1, 2]), r"cand_start\[1\] is 2, more than the next: 1"),
    ("cand_start", array("i", [0, -5, 2]), r"cand_start\[0\] is 0, more than the next: -5"),
    ("cand_agent", array("i", [0, 2]), r"cand_agent\[1\] is 2"),
    ("cand_agent", array("i", [-1, 0]), r"cand_agent\[0\] is -1"),
    ("cand_agent", array("i", [0]), "cand_start runs from 0 to 2, not|cand_endpoint has 2 items"),
    ("cand_endpoint", array("i", [1, 0]), r"cand_endpoint\[0\] is 1"),
    ("cand_endpoint", array("i", [0, -2]), r"cand_endpoint\[1\] is -2"),
    ("cand_endpoint", array("i", [-(2**31), 0]), r"cand_endpoint\[0\] is -2147483648"),
    ("cand_endpoint", array("i", [0]), "cand_endpoint has 1 items and cand_agent 2"),
    ("cand_cost_us", array("q", [0, -1]), r"cand_cost_us\[1\] is -1"),
    ("cand_cost_us", array("q", [0]), "cand_cost_us has 1 items and cand_agent 2"),
    ("cand_cost_us", array("q", [0, INT64_MAX]), "a cost could reach 9223372036854775809 us"),
    ("agent_rank", array("q", [0]), "agent_free has 2 items and agent_rank 1"),
    ("agent_free", array("i", [1]), "agent_free has 1 items and agent_rank 2"),
    ("endpoint_free", array("i", [1, 1]), "endpoint_step_us has 1 items and endpoint_free 2"),
    ("endpoint_step_us", array("q", [-1]), r"endpoint_step_us\[0\] is -1"),
    ("endpoint_step_us", array("q", [INT64_MAX]), "a cost could reach"),
    ("choice", array("i", [0]), "choice has 1 items and task_group 2"),
]


@pytest.mark.parametrize(("name", "buffer", "why"), REFUSED)
def test_what_breaks_the_contract_is_refused_by_name(
    assign: Assign, name: str, buffer: array[int], why: str
) -> None:
    arguments = replaced(**{name: buffer})
    before = [bytes(each) for each in arguments if isinstance(each, array)]
    with pytest.raises(ValueError, match=why):
        assign(*arguments)
    assert [bytes(each) for each in arguments if isinstance(each, array)] == before


@pytest.mark.parametrize("name", _pysched.ARGUMENTS)
def test_an_argument_of_the_wrong_type_is_refused(assign: Assign, name: tuple[str, int, bool]) -> None:
    argument, item_bytes, _ = name
    wrong_size = array("q" if item_bytes == 4 else "i", [0])
    unsigned = array("I" if item_bytes == 4 else "Q", [0])
    two_dimensional = memoryview(bytearray(16)).cast("i", [2, 2])
    for buffer in (wrong_size, unsigned, two_dimensional):
        with pytest.raises(ValueError, match=r"integers|dtype mismatch|dimensions"):
            assign(*replaced(**{argument: buffer}))
    for nothing in ([0], None):
        with pytest.raises(TypeError):
            assign(*replaced(**{argument: nothing}))


@pytest.mark.parametrize("name", ["agent_free", "endpoint_free", "choice"])
def test_a_buffer_that_cannot_be_written_is_refused(assign: Assign, name: str) -> None:
    good = Tick([0, 0], [[(0, 0, 1), (1, 0, 2)]], [0, 1], [2], [1]).arguments()
    with pytest.raises(BufferError):
        assign(*replaced(**{name: memoryview(good[name]).toreadonly()}))


@pytest.mark.parametrize(
    ("written", "other"),
    [
        ("choice", "task_group"),
        ("choice", "cand_agent"),
        ("agent_free", "cand_endpoint"),
        ("agent_free", "choice"),
    ],
)
def test_one_buffer_given_twice_is_refused_where_it_is_written(
    assign: Assign, written: str, other: str
) -> None:
    with pytest.raises(ValueError, match="share memory"):
        assign(*replaced(**{written: SHARED, other: SHARED}))


def test_views_into_larger_buffers_are_read_and_written_in_place(assign: Assign) -> None:
    rows = array("i", [9, 9, 9, 9])
    assert assign(*replaced(choice=memoryview(rows)[1:3])) == 2
    assert list(rows) == [9, 0, 1, 9]


@st.composite
def ticks(draw: st.DrawFn) -> Tick:
    """Small figures, so that ties, full endpoints and exhausted groups come up all the time."""
    agents = draw(st.integers(1, 12))
    endpoints = draw(st.integers(0, 5))
    costs = st.one_of(st.integers(0, 6), st.integers(0, 10**12))
    candidate = st.tuples(st.integers(0, agents - 1), st.integers(-1, endpoints - 1), costs)
    groups = draw(st.lists(st.lists(candidate, max_size=25), min_size=1, max_size=4))

    def of_each(count: int, values: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(values, min_size=count, max_size=count))

    return Tick(
        tasks=draw(st.lists(st.integers(0, len(groups) - 1), max_size=20)),
        groups=groups,
        ranks=draw(st.permutations(range(agents))),
        slots=of_each(endpoints, st.integers(-1, 6)),
        steps=of_each(endpoints, st.integers(0, 4)),
        free=of_each(agents, st.sampled_from([1, 1, 1, 0, -3])),
    )


def in_plain_words(tick: Tick) -> Outcome:
    """The rule of the contract, written down once more without any of the code under test."""
    candidates = [(group, *each) for group, members in enumerate(tick.groups) for each in members]
    steps = tick.steps or [0] * len(tick.slots)
    free, slots, made = [bool(each) for each in tick.free or []], list(tick.slots), [0] * len(tick.slots)
    choice = []
    for task in tick.tasks:
        ways = []
        for at, (group, agent, endpoint, cost) in enumerate(candidates):
            full = endpoint >= 0 and slots[endpoint] <= 0
            if group == task and (steps[endpoint] > 0 if full else free[agent]):
                added = steps[endpoint] * made[endpoint] if endpoint >= 0 else 0
                ways.append((cost + added, tick.ranks[agent], endpoint, at, full))
        if all(full for *_, full in ways):
            choice.append(-1)
            continue
        *_, endpoint, best, waits = min(ways)
        choice.append(-2 - best if waits else best)
        if endpoint >= 0:
            made[endpoint] += 1
        if not waits:
            free[candidates[best][1]] = False
            if endpoint >= 0:
                slots[endpoint] -= 1
    left = [each if still else 0 for each, still in zip(tick.free or [], free, strict=True)]
    return Outcome(sum(each >= 0 for each in choice), choice, left, slots)


@given(ticks())
@settings(max_examples=600, deadline=None)
def test_both_implementations_follow_the_rule_on_any_tick(tick: Tick) -> None:
    expected = in_plain_words(tick)
    for name, implementation in IMPLEMENTATIONS.items():
        assert outcome(implementation.assign, tick) == expected, name


def test_both_implementations_follow_the_rule_on_a_large_tick() -> None:
    """Deep heaps, many groups, costs that repeat: what the small random ticks do not reach."""
    agents, endpoints = 300, 40
    tick = Tick(
        tasks=[at * 7 % 5 for at in range(400)],
        groups=[
            [
                (agent, agent * 11 % endpoints, agent * (group + 3) * 7919 % 97)
                for agent in range(group, agents)
            ]
            for group in range(5)
        ],
        ranks=[(agent * 101) % 307 for agent in range(agents)],
        slots=[1 + endpoint % 9 for endpoint in range(endpoints)],
        steps=[endpoint * 5 % 13 for endpoint in range(endpoints)],
        free=[agent % 9 for agent in range(agents)],
    )
    expected = in_plain_words(tick)
    assert 100 < expected.assigned < min(agents, len(tick.tasks), sum(tick.slots))
    for name, implementation in IMPLEMENTATIONS.items():
        assert outcome(implementation.assign, tick) == expected, name


def test_the_compiled_core_is_used_wherever_it_was_built() -> None:
    """AGENTCOM_REQUIRE_COMPILED=1 says that this machine must have built it."""
    was_built = importlib.util.find_spec("agentcom._fastsched") is not None
    assert was_built or os.environ.get("AGENTCOM_REQUIRE_COMPILED") != "1", sched.why_python
    forced = os.environ.get(sched.SETTING) == "python"
    expected = "cython" if was_built and not forced else "python"
    assert expected == sched.IMPLEMENTATION
    assert sched.assign is IMPLEMENTATIONS[sched.IMPLEMENTATION].assign
    assert (sched.why_python is None) == (sched.IMPLEMENTATION == "cython")


WHICH = "from agentcom.sched import *; print(IMPLEMENTATION, assign.__module__, why_python, sep='|')"


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
