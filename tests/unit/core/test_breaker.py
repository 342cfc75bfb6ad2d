"""Circuit breakers: closed, open for a while, one trial, closed or open for twice as long."""

from __future__ import annotations

import pytest

from agentcom.clock import Now
from agentcom.core.breaker import Breakers, CircuitState

KEY = "a"


def at(ms: int) -> Now:
    return Now(mono_ms=ms, wall_ms=1_800_000_000_000 + ms)


@pytest.fixture
def breakers() -> Breakers[str]:
    return Breakers(lambda: (3, 1_000, 5_000))


def trip(breakers: Breakers[str], ms: int = 0) -> None:
    for _ in range(3):
        breakers.failed(KEY, "connection refused", at(ms))


def test_a_few_failures_leave_it_closed_and_a_success_forgets_them(breakers: Breakers[str]) -> None:
    assert not breakers.failed(KEY, "x", at(0))
    assert not breakers.failed(KEY, "x", at(0))
    assert breakers.room(KEY, 9) == 9
    assert not breakers.succeeded(KEY)
    assert breakers.circuits == {}
    assert not breakers.failed(KEY, "x", at(0))


def test_so_many_in_a_row_open_it_and_nothing_begins_until_its_time_is_over(breakers: Breakers[str]) -> None:
    trip(breakers)
    assert breakers.room(KEY, 9) == 0
    assert breakers.next_due_ms() == 1_000
    assert breakers.look(at(999)) == []
    assert breakers.look(at(1_000)) == [KEY]
    assert breakers.next_due_ms() is None


def test_after_that_one_call_may_try(breakers: Breakers[str]) -> None:
    trip(breakers)
    breakers.look(at(1_000))
    assert breakers.room(KEY, 9) == 1
    breakers.began(KEY)
    assert breakers.room(KEY, 9) == 0
    breakers.ended(KEY)
    assert breakers.room(KEY, 9) == 1


def test_a_trial_that_succeeds_closes_it(breakers: Breakers[str]) -> None:
    trip(breakers)
    breakers.look(at(1_000))
    breakers.began(KEY)
    assert breakers.succeeded(KEY)
    assert (breakers.room(KEY, 9), breakers.count_shut) == (9, 0)


def test_a_trial_that_fails_opens_it_for_twice_as_long_up_to_the_bound(breakers: Breakers[str]) -> None:
    trip(breakers)
    now_ms, waits = 0, []
    for _ in range(5):
        due_ms = breakers.next_due_ms()
        assert due_ms is not None
        waits.append(due_ms - now_ms)
        now_ms = due_ms
        breakers.look(at(now_ms))
        breakers.began(KEY)
        assert breakers.failed(KEY, "again", at(now_ms))
    assert waits == [1_000, 2_000, 4_000, 5_000, 5_000]


def test_a_call_that_began_before_it_opened_changes_nothing_when_it_fails(breakers: Breakers[str]) -> None:
    trip(breakers)
    due_ms = breakers.next_due_ms()
    assert not breakers.failed(KEY, "late", at(500))
    assert breakers.next_due_ms() == due_ms


def test_what_is_thought_to_work_again_is_tried_without_waiting(breakers: Breakers[str]) -> None:
    trip(breakers)
    breakers.cool(KEY, at(10))
    assert breakers.room(KEY, 9) == 1


def test_people_see_the_state_the_reason_and_until_when(breakers: Breakers[str]) -> None:
    trip(breakers)
    view = breakers.circuits[KEY].view()
    assert (view["state"], view["reason"], view["failures"]) == ("open", "connection refused", 3)
    assert view["since"] < view["until"]
    breakers.look(at(1_000))
    assert breakers.circuits[KEY].view()["until"] is None


def test_another_core_takes_over_what_still_exists(breakers: Breakers[str]) -> None:
    trip(breakers)
    breakers.failed("gone", "x", at(0))
    successor: Breakers[str] = Breakers(lambda: (3, 1_000, 5_000))
    successor.adopt(breakers, lambda key: key == KEY)
    assert (list(successor.circuits), successor.count_shut) == ([KEY], 1)
    assert successor.circuits[KEY].state is CircuitState.open
