"""The ready queue: order across lanes, ageing, and what has fallen."""

from __future__ import annotations

from agentcom import messages as m
from agentcom.core.lanes import ReadyQueue, key_of, pack, task_of
from agentcom.model import Lane, Role
from tests.core_rig import HostEnd, Rig
from tests.factories import settings, shell_task


def queue(*standing: int) -> ReadyQueue:
    """A queue in which the entries of these tasks stand."""
    return ReadyQueue(lambda entry, _group: task_of(entry) in standing)


def test_an_entry_holds_its_key_and_its_task() -> None:
    entry = pack(1_800_000_000_123, 2**40 - 1)
    assert (key_of(entry), task_of(entry)) == (1_800_000_000_123, 2**40 - 1)


def test_the_least_key_comes_first_and_equal_keys_by_task() -> None:
    ready = queue(1, 2, 3)
    for key, task in ((5, 2), (9, 1), (5, 3)):
        ready.push(0, key, task)
    assert [task_of(entry) for entry in ready.first(0, 9)] == [2, 3, 1]
    assert [task_of(entry) for entry in ready.first(0, 2)] == [2, 3]


def test_looking_takes_nothing_out() -> None:
    ready = queue(1)
    ready.push(0, 5, 1)
    assert ready.first(0, 1) == ready.first(0, 1) == [pack(5, 1)]
    assert ready.size == 1


def test_a_group_without_a_standing_entry_is_forgotten() -> None:
    ready = queue()
    ready.push(3, 5, 1)
    assert (ready.first(3, 1), ready.groups(), ready.size) == ([], [], 0)
    assert ready.first(4, 1) == []


def test_an_entry_pushed_twice_is_given_once() -> None:
    ready = queue(1)
    ready.push(0, 5, 1)
    ready.push(0, 5, 1)
    assert ready.first(0, 9) == [pack(5, 1)]


def test_compacting_keeps_what_stands_and_its_order() -> None:
    ready = queue(2, 4)
    for n in (4, 3, 2, 1, 2):
        ready.push(n % 2, n, n)
    ready.compact()
    assert (ready.size, ready.groups()) == (2, [0])
    assert [task_of(entry) for entry in ready.first(0, 9)] == [2, 4]


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
