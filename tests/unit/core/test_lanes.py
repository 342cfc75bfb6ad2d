"""The ready queue: order across lanes, ageing, turns by weight, and what has left."""

from __future__ import annotations

import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from agentcom import messages as m
from agentcom.core import lanes, turns
from agentcom.core.lanes import ReadyQueue, key_of, pack, task_of
from agentcom.model import Lane, Role
from tests.core_rig import HostEnd, Rig
from tests.factories import settings, shell_task

ANN, BOB, CAT = 1, 2, 3
MODEST = profile(max_examples=200, deadline=None, derandomize=True, database=None)


class Queue:
    """A ready queue and what was pushed: tasks by id, so that one can be started or removed by its id."""

    def __init__(self, **weights: Callable[[int], int]) -> None:
        self.ready = ReadyQueue(**weights, line_open=lambda line: line not in self.closed_lines)
        self.tasks: dict[int, tuple[int, int, int, int, int, int]] = {}
        self.closed_groups: set[int] = set()
        self.closed_lines: set[int] = set()
        self.now_ms = 0

    def push(
        self, submitter: int = ANN, *, group: int = 0, lane: int = 0, line: int = 0, after_ms: int = 1
    ) -> int:
        self.now_ms += after_ms
        task = len(self.tasks) + 1
        self.tasks[task] = (group, self.now_ms + lane * 1_000, task, submitter, lane, line)
        self.ready.push(*self.tasks[task])
        return task

    def may_start(self, task: int) -> bool:
        return self.tasks[task][0] not in self.closed_groups and self.tasks[task][-1] not in self.closed_lines

    def close_line(self, line: int, is_closed: bool = True) -> None:
        (self.closed_lines.add if is_closed else self.closed_lines.discard)(line)
        self.ready.look_at_lines()

    def order(self, count: int) -> list[int]:
        return [task_of(entry) for entry, _ in self.ready.next(count)]

    def start(self) -> int:
        """Start the next task."""
        task = task_of(self.ready.next(1)[0][0])
        self.ready.started(*self.tasks[task])
        return task

    def submitters(self, starts: int) -> list[int]:
        """Whose tasks start next, one after the other."""
        return [self.tasks[self.start()][3] for _ in range(starts)]


# --- one flow -------------------------------------------------------------------------------------------


def test_an_entry_holds_its_key_and_its_task() -> None:
    entry = pack(1_800_000_000_123, 2**40 - 1)
    assert (key_of(entry), task_of(entry)) == (1_800_000_000_123, 2**40 - 1)


def test_the_least_key_comes_first_and_equal_keys_by_task() -> None:
    ready = ReadyQueue()
    for key, task in ((5, 2), (9, 1), (5, 3), (7, 4)):
        ready.push(0, key, task)
    assert [task_of(entry) for entry, _ in ready.next(9)] == [2, 3, 4, 1]
    assert [task_of(entry) for entry, _ in ready.next(2)] == [2, 3]


def test_looking_takes_nothing_out() -> None:
    ready = ReadyQueue()
    ready.push(3, 5, 1)
    assert ready.next(1) == ready.next(1) == [(pack(5, 1), 3)]
    assert ready.count == 1


def test_an_empty_queue_has_nothing_to_give() -> None:
    assert ReadyQueue().next(9) == []
    queue = Queue()
    queue.push()
    queue.start()
    assert (queue.order(9), queue.ready.entries(), queue.ready.count) == ([], [], 0)


def test_a_task_that_comes_back_before_its_entry_was_dropped_is_given_once() -> None:
    queue = Queue()
    first, second, third = queue.push(), queue.push(), queue.push()
    queue.ready.remove(*queue.tasks[second])
    assert queue.order(9) == [first, third]
    queue.ready.push(*queue.tasks[second])
    assert queue.order(9) == [first, second, third]
    assert queue.ready.count == 3


def test_a_task_that_comes_back_into_another_line_has_left_the_old_one() -> None:
    queue = Queue()
    first, second, third = queue.push(), queue.push(), queue.push()
    queue.ready.remove(*queue.tasks[second])
    queue.ready.push(*queue.tasks[second][:-1], 7)
    queue.close_line(7)
    assert queue.order(9) == [first, third]
    queue.close_line(7, False)
    assert queue.order(9) == [first, second, third]


def test_what_left_from_the_middle_is_dropped_at_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "STALE_MAX", 8)
    queue = Queue()
    tasks = [queue.push() for _ in range(100)]
    for task in tasks[1:-1]:
        queue.ready.remove(*queue.tasks[task])
    flow = next(iter(queue.ready._flows.values()))
    assert len(flow.lines[0].entries) <= 2 + 2 + 8
    assert queue.order(9) == [tasks[0], tasks[-1]]


# --- turns ----------------------------------------------------------------------------------------------


def test_r19_a_second_submitter_takes_turns_with_one_who_queued_ten_thousand_before() -> None:
    queue = Queue()
    for _ in range(10_000):
        queue.push(ANN)
    late = [queue.push(BOB) for _ in range(50)]
    started = [queue.start() for _ in range(100)]
    assert [queue.tasks[task][3] for task in started] == [ANN, BOB] * 50
    assert [task for task in started if queue.tasks[task][3] == BOB] == late, "first come, first started"
    assert [task for task in started if queue.tasks[task][3] == ANN] == list(range(1, 51))


def test_r19_weights_of_three_to_one_give_three_to_one() -> None:
    queue = Queue(submitter_weight=lambda submitter: 3 if submitter == BOB else 1)
    for _ in range(1_000):
        queue.push(ANN)
    for _ in range(1_000):
        queue.push(BOB)
    for _ in range(100):
        assert Counter(queue.submitters(4)) == {BOB: 3, ANN: 1}


def test_r19_repositories_share_what_their_submitter_gets_by_weight() -> None:
    """Groups 1 and 2 are repositories; the second has twice the weight."""
    queue = Queue(group_weight=lambda group: group)
    for group in (1, 2):
        for _ in range(100):
            queue.push(ANN, group=group)
    for _ in range(100):
        queue.push(BOB, group=1)
    started = [queue.tasks[queue.start()] for _ in range(60)]
    assert Counter((place[3], place[0]) for place in started) == {
        (ANN, 1): 10, (ANN, 2): 20, (BOB, 1): 30,
    }  # fmt: skip


def test_a_submitter_gains_nothing_by_many_repositories() -> None:
    queue = Queue()
    for n in range(300):
        queue.push(ANN, group=n % 30)
        queue.push(BOB, group=99)
    assert Counter(queue.submitters(200)) == {ANN: 100, BOB: 100}


def test_pools_take_turns_so_that_a_long_queue_for_one_model_does_not_stand_before_another() -> None:
    queue = Queue(pool_of=lambda group: group)
    for _ in range(100):
        queue.push(ANN, group=1)
    for _ in range(3):
        queue.push(BOB, group=2)
    assert queue.submitters(7) == [ANN, BOB, ANN, BOB, ANN, BOB, ANN]


def test_who_was_away_has_saved_nothing_up() -> None:
    queue = Queue()
    for _ in range(300):
        queue.push(ANN)
    queue.push(BOB)
    assert Counter(queue.submitters(100)) == {ANN: 99, BOB: 1}
    for _ in range(10):
        queue.push(BOB)
    assert queue.submitters(6) == [ANN, BOB] * 3


def test_who_always_has_just_one_task_queued_gains_nothing_by_that() -> None:
    """Its turn is remembered while it is away: else each new task of it would be the first of its round."""
    queue = Queue()
    for _ in range(100):
        queue.push(ANN)
    served: Counter[int] = Counter()
    for _ in range(60):
        if not any(queue.tasks[task][3] == BOB for task in queue.order(60)):
            queue.push(BOB)
        served[queue.tasks[queue.start()][3]] += 1
    assert served == {ANN: 30, BOB: 30}


def test_a_flow_that_no_agent_could_take_does_not_make_up_for_it_afterwards() -> None:
    """Group 1 could not run while 50 of group 2 started."""
    queue = Queue(pool_of=lambda group: group)
    for n in range(200):
        queue.push(ANN, group=1 + n % 2)
    for task in range(2, 102, 2):
        queue.ready.started(*queue.tasks[task])
    groups = [queue.tasks[queue.start()][0] for _ in range(12)]
    assert groups[:2] == [1, 1]
    assert Counter(groups[2:]) == {1: 5, 2: 5}


def test_what_is_remembered_of_those_who_left_is_bounded() -> None:
    queue = Queue()
    for submitter in range(5_000):
        queue.push(submitter)
        queue.start()
    assert len(queue.ready._lanes[0]._left) <= turns.LEFT_MAX
    queue.push(ANN)
    for submitter in range(5_000):
        queue.push(submitter)
        queue.start()
    pool = next(iter(queue.ready._lanes[0].members.values()))
    assert len(pool.shares._left) <= 5_000 + turns.LEFT_MAX
    assert len(pool.shares._heap) <= 4 * turns.LEFT_MAX
    assert len(pool.ages) <= 4 * turns.LEFT_MAX


def test_a_new_weight_counts_from_the_next_start() -> None:
    weights = {ANN: 1, BOB: 1}
    queue = Queue(submitter_weight=weights.__getitem__)
    for _ in range(50):
        queue.push(ANN)
        queue.push(BOB)
    assert Counter(queue.submitters(10)) == {ANN: 5, BOB: 5}
    weights[ANN] = 4
    queue.ready.reweigh()
    assert Counter(queue.submitters(20)) == {ANN: 16, BOB: 4}


# --- what is closed -------------------------------------------------------------------------------------


def test_a_closed_group_stands_still_and_the_others_go_on() -> None:
    queue = Queue()
    tasks = [queue.push(group=n % 2) for n in range(6)]
    queue.ready.set_group(0, False)
    assert queue.order(9) == tasks[1::2]
    later = queue.push(group=0)
    assert queue.order(9) == tasks[1::2]
    assert queue.ready.count == 7
    queue.ready.set_group(0, True)
    assert sorted(queue.order(9)) == [*tasks, later]


def test_the_rest_of_a_flow_goes_on_past_a_closed_line() -> None:
    queue = Queue()
    for n in range(1, 7):
        queue.ready.push(0, n, n, ANN, 0, n % 3)
    queue.close_line(1)
    assert queue.order(9) == [2, 3, 5, 6]
    queue.close_line(2)
    assert queue.order(9) == [3, 6]
    queue.close_line(1, False)
    assert queue.order(9) == [1, 3, 4, 6]


def test_what_is_closed_costs_a_start_nothing() -> None:
    """A hundred thousand tasks of a closed group are not looked at."""
    ready = ReadyQueue()
    for n in range(1, 100_001):
        ready.push(n % 5, n, n)
    ready.push(9, 1, 200_000)
    for group in range(5):
        ready.set_group(group, False)
    with counted() as counts:
        assert ready.next(16) == [(pack(1, 200_000), 9)]
        ready.started(9, 1, 200_000)
    assert counts["calls"] < 100


# --- whatever happens -----------------------------------------------------------------------------------

happenings = st.lists(
    st.one_of(
        st.tuples(
            st.just("push"), st.integers(1, 4), st.integers(0, 5), st.integers(0, 3), st.integers(0, 2)
        ),
        st.tuples(st.sampled_from(["start", "remove", "again", "group", "line"]), st.integers(0, 10**6)),
    ),
    max_size=120,
)


def told(what: list[Any]) -> Queue:
    """A queue of two pools, four weights, four lanes and three lines after those happenings."""
    queue = Queue(
        pool_of=lambda group: group % 2,
        submitter_weight=lambda submitter: submitter,
        group_weight=lambda group: 1 + group % 3,
    )
    standing: set[int] = set()
    for kind, *rest in what:
        n = rest[0]
        if kind == "push":
            standing.add(queue.push(n, group=rest[1], lane=rest[2], line=rest[3], after_ms=n % 2))
        elif kind == "again" and len(standing) < len(queue.tasks):
            absent = sorted(queue.tasks.keys() - standing)
            task = absent[n % len(absent)]
            queue.tasks[task] = (*queue.tasks[task][:-1], n % 3)
            queue.ready.push(*queue.tasks[task])
            standing.add(task)
        elif kind in ("start", "remove") and standing:
            task = sorted(standing)[n % len(standing)]
            leave = queue.ready.started if kind == "start" else queue.ready.remove
            leave(*queue.tasks[task])
            standing.remove(task)
        elif kind == "group":
            queue.closed_groups ^= {n % 6}
            queue.ready.set_group(n % 6, n % 6 not in queue.closed_groups)
        elif kind == "line":
            queue.closed_lines ^= {1 + n % 2}
            queue.ready.look_at_lines()
        by_age = sorted(standing, key=lambda t: queue.tasks[t][1:3])
        assert [task_of(entry) for entry in queue.ready.entries()] == by_age
        assert queue.ready.count == len(standing)
        assert sorted(queue.order(200)) == sorted(filter(queue.may_start, standing))
    return queue


@given(happenings, st.integers(1, 12))
@MODEST
def test_looking_ahead_tells_what_will_start(what: list[Any], count: int) -> None:
    queue = told(what)
    ahead = queue.order(count)
    assert len(set(ahead)) == len(ahead)
    assert [queue.start() for _ in ahead[:count]] == ahead[:count]


@given(happenings)
@MODEST
def test_putting_tasks_into_other_lines_loses_none(what: list[Any]) -> None:
    queue = told(what)
    standing = queue.ready.entries()
    for task, place in queue.tasks.items():
        queue.tasks[task] = (*place[:-1], task % 3)
    queue.ready.relabel(lambda task: task % 3)
    assert queue.ready.entries() == standing
    assert sorted(queue.order(200)) == sorted(filter(queue.may_start, map(task_of, standing)))
    for entry in standing:
        queue.ready.remove(*queue.tasks[task_of(entry)])
    assert (queue.ready.entries(), queue.ready.count, queue.order(9)) == ([], 0, [])


@given(happenings)
@MODEST
def test_r19_every_task_starts_and_those_of_a_submitter_in_order(what: list[Any]) -> None:
    queue = told(what)
    for group in range(6):
        queue.ready.set_group(group, True)
    for line in range(3):
        queue.close_line(line, False)
    waiting = [task_of(entry) for entry in queue.ready.entries()]
    started = [queue.start() for _ in waiting]
    assert sorted(started) == sorted(waiting)
    assert not queue.order(9)
    for flow in {(queue.tasks[t][0], *queue.tasks[t][3:5]) for t in started}:
        own = [t for t in started if (queue.tasks[t][0], *queue.tasks[t][3:5]) == flow]
        assert own == sorted(own, key=lambda t: queue.tasks[t][1:3])


@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=6, unique_by=lambda p: p[0]
    )
)
@MODEST
def test_r19_no_submitter_waits_longer_than_one_round(weights: list[tuple[int, int]]) -> None:
    """Between two starts of one submitter the others together start at most what their weights allow, and one
    each for the beginning of the round."""
    weight = dict(weights)
    queue = Queue(submitter_weight=weight.__getitem__)
    for submitter in weight:
        for _ in range(200):
            queue.push(submitter)
    started = queue.submitters(150)
    for submitter, own in weight.items():
        round_of_others = sum(-(-other // own) + 1 for who, other in weight.items() if who != submitter)
        places = [-1, *(n for n, who in enumerate(started) if who == submitter)]
        assert max(b - a - 1 for a, b in pairwise(places)) <= round_of_others


# --- what it costs --------------------------------------------------------------------------------------


class Compared(int):
    """A number that counts how often it, and what is made of it, is compared or hashed."""

    count = 0

    def __lshift__(self, other: int) -> Compared:
        return Compared(int(self) << int(other))

    def __or__(self, other: int) -> Compared:
        return Compared(int(self) | int(other))

    def __lt__(self, other: int) -> bool:
        Compared.count += 1
        return int(self) < int(other)

    def __gt__(self, other: int) -> bool:
        Compared.count += 1
        return int(self) > int(other)

    def __eq__(self, other: object) -> bool:
        Compared.count += 1
        return int(self) == other

    def __hash__(self) -> int:
        Compared.count += 1
        return hash(int(self))


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Counts calls of functions and steps of generators, and comparisons, instead of time."""
    counts: Counter[str] = Counter()

    def seen(_frame: FrameType, event: str, _arg: object) -> None:
        counts["calls"] += event in ("call", "c_call")

    before = Compared.count
    sys.setprofile(seen)
    try:
        yield counts
    finally:
        sys.setprofile(None)
        counts["comparisons"] = Compared.count - before


def operations(number: type[int], queued: int, submitters: int) -> tuple[Counter[str], Counter[str]]:
    """Of pushing that many tasks, and of 500 ticks over them that start two tasks each."""
    ready = ReadyQueue()
    tasks = [(0, number(n), n, n % submitters, n % 3) for n in range(1, queued + 1)]
    with counted() as pushing:
        for place in tasks:
            ready.push(*place)
    with counted() as starting:
        for _ in range(500):
            for entry, _ in ready.next(2):
                ready.started(*tasks[task_of(int(entry)) - 1])
    return pushing, starting


@pytest.mark.parametrize("submitters", [1, 50])
@pytest.mark.parametrize("what", ["calls", "comparisons"])
def test_r19_two_hundred_thousand_queued_tasks_cost_no_more_per_start_than_two_thousand(
    submitters: int, what: str
) -> None:
    number = int if what == "calls" else Compared
    _, starting_few = operations(number, 2_000, submitters)
    pushing, starting = operations(number, 200_000, submitters)
    assert 0 < starting[what] <= 1.1 * starting_few[what]
    assert 0 < pushing[what] <= 6 * 200_000, "a constant number of steps for each task"


# --- across lanes ---------------------------------------------------------------------------------------


def given_in_order(rig: Rig, box: HostEnd, count: int) -> list[int]:
    order = []
    for _ in range(count):
        assign = box.take()
        order.append(assign.task)
        box.complete(assign)
    return order


def test_lanes_go_before_each_other_and_within_one_the_first_comes_first() -> None:
    rig = Rig()
    lanes = (Lane.low, Lane.normal, Lane.urgent, Lane.high, Lane.normal, Lane.urgent)
    for lane in lanes:
        rig.admin.submit(shell_task(lane=lane))
        rig.advance(1)
    assert given_in_order(rig, rig.host(), 6) == [3, 6, 4, 2, 5, 1]


def test_tasks_of_one_batch_keep_their_order() -> None:
    rig = Rig()
    rig.admin.submit(*[shell_task() for _ in range(5)])
    assert given_in_order(rig, rig.host(), 5) == [1, 2, 3, 4, 5]


def test_a_low_task_that_waited_long_enough_goes_before_a_fresh_urgent_one() -> None:
    rig = Rig(settings(low_delay_s=600))
    old = rig.admin.submit(shell_task(lane=Lane.low))
    rig.advance(599_000)
    before = rig.admin.submit(shell_task(lane=Lane.urgent))
    rig.advance(2_000)
    after = rig.admin.submit(shell_task(lane=Lane.urgent))
    assert given_in_order(rig, rig.host(), 3) == [before, old, after]


def test_a_task_that_comes_back_has_kept_its_place() -> None:
    rig = Rig(settings(backoff_s=0.001))
    box = rig.host()
    first, second = rig.admin.submit(shell_task()), rig.admin.submit(shell_task())
    box.fail(box.take())
    running = box.take()
    rig.advance(5_000)
    third = rig.admin.submit(shell_task())
    assert (running.task, box.complete(running)) == (second, "accepted")
    assert given_in_order(rig, box, 2) == [first, third]


def test_order_goes_on_over_a_restart_although_the_clock_went_back() -> None:
    rig = Rig()
    rig.admin.submit(shell_task())
    rig.clock.jump(-3_600_000)
    rig.start()
    rig.admin.hello()
    rig.admin.submit(shell_task())
    assert given_in_order(rig, rig.host(), 2) == [1, 2]


def test_a_submitter_cannot_go_before_the_others_by_retrying() -> None:
    rig = Rig()
    ann = rig.member(Role.submit, "ann")
    mine = ann.submit(shell_task())
    ann.ask(m.TaskCancel(task=mine))
    rig.advance(10)
    others = rig.admin.submit(shell_task())
    rig.advance(10)
    ann.ask(m.TaskRetry(task=mine))
    assert given_in_order(rig, rig.host(), 2) == [others, mine]


def test_r19_the_hub_lets_two_submitters_take_turns() -> None:
    rig = Rig()
    ann = rig.member(Role.submit, "ann")
    firsts = [rig.admin.submit(shell_task()) for _ in range(5)]
    rig.advance(60_000)
    seconds = [ann.submit(shell_task()) for _ in range(5)]
    expected = [task for pair in zip(firsts, seconds, strict=True) for task in pair]
    assert given_in_order(rig, rig.host(), 10) == expected


def test_after_a_restart_the_turns_go_on_with_what_is_queued() -> None:
    rig = Rig()
    ann = rig.member(Role.submit, "ann")
    mine = [rig.admin.submit(shell_task()) for _ in range(3)]
    hers = [ann.submit(shell_task()) for _ in range(3)]
    box = rig.host()
    assert given_in_order(rig, box, 2) == [mine[0], hers[0]]
    rig.start()
    rig.admin.hello()
    box.received.clear()
    box.hello()
    assert given_in_order(rig, box, 4) == [mine[1], hers[1], mine[2], hers[2]]


@MODEST
@given(
    pushed=st.lists(st.tuples(st.integers(1, 30), st.integers(0, 1)), max_size=12),
    run=st.lists(st.integers(1, 30), min_size=1, max_size=12),
)
def test_tasks_that_are_pushed_at_once_wait_as_if_one_by_one(
    pushed: list[tuple[int, int]], run: list[int]
) -> None:
    at_once, one_by_one = ReadyQueue(), ReadyQueue()
    for task, (order_key, line) in enumerate(pushed, 1):
        for ready in (at_once, one_by_one):
            ready.push(0, order_key, task, ANN, 0, line)
    for task, order_key in enumerate(run, 100):
        one_by_one.push(0, order_key, task, ANN, 0, 1)
    at_once.push_run(0, ANN, 0, 1, array("q", run), array("q", range(100, 100 + len(run))))
    assert at_once.count == one_by_one.count == len(pushed) + len(run)
    assert at_once.next(50) == one_by_one.next(50)
    assert at_once.entries() == one_by_one.entries()
