"""Requirement groups and other interned values: numbers belong to what is live."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from agentcom import messages as m
from agentcom.core import groups as core_groups
from agentcom.core.interned import Interned
from agentcom.model import Group, Tier
from agentcom.store.crosscheck import cross_check, walk_store
from tests.core_rig import Rig
from tests.factories import shell_task


def stored(rig: Rig) -> int:
    """How many requirement groups the store holds."""
    return len(rig.store.scan("meta", b"group", b"group" + b"\xff" * 9))


# --- values ---------------------------------------------------------------------------------------------


def test_a_value_has_one_number_while_it_is_used_and_a_little_longer() -> None:
    words: Interned[str] = Interned(spare=1)
    assert [words.take(word) for word in ("a", "b", "a")] == [0, 1, 0]
    words.give(0)
    words.give(0)
    assert (words.used(), words.take("a")) == ({1: "b"}, 0)
    words.give(1)
    words.give(0)
    assert ("a" in words.number_of, "b" in words.number_of) == (True, False), "the longest unused goes"
    assert (words.take("c"), words[1], len(words)) == (1, "c", 2)


def test_values_come_back_under_the_numbers_they_had() -> None:
    words: Interned[str] = Interned()
    for number, word in ((5, "f"), (2, "c")):
        words.load(number, word)
    assert [words.take(word) for word in ("c", "f", "new", "newer")] == [2, 5, 0, 1]
    with pytest.raises(AssertionError, match="two values have the number 2"):
        words.load(2, "d")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=200), st.integers(0, 3))
@profile(max_examples=200, deadline=None, derandomize=True, database=None)
def test_whatever_is_taken_and_given_each_number_means_one_value(
    steps: list[tuple[bool, int]], spare: int
) -> None:
    values: Interned[int] = Interned(spare)
    told: dict[int, int] = {}
    values.on_new = told.__setitem__
    values.on_gone = lambda number, _value: told.pop(number)
    held: list[tuple[int, int]] = []
    for takes, n in steps:
        if takes:
            held.append((n, values.take(n)))
        elif held:
            values.give(held.pop(n % len(held))[1])
        assert values.used() == {number: value for value, number in held}
        assert all(values[number] == value for value, number in held)
        assert {number: values[number] for number in values} == told
        assert len(values) <= len(values.used()) + spare


# --- requirement groups ---------------------------------------------------------------------------------


def test_groups_that_no_live_task_has_are_dropped_in_memory_and_in_the_store() -> None:
    rig = Rig()
    for n in range(300):
        number = rig.admin.submit(shell_task(repo=f"https://git.example/{n}.git", needs=("gpu",)))
        rig.admin.ask(m.TaskCancel(task=number))
    assert len(rig.hub.tasks.groups) == stored(rig) <= 65
    assert cross_check(walk_store(rig.store)) == (0, [])


def test_a_number_that_means_another_group_now_does_not_change_what_a_task_asks_for() -> None:
    """The row of a task that has ended keeps a number that others use by then: its body says what it wants."""
    rig = Rig()
    first = rig.admin.submit(shell_task(repo="https://git.example/first.git", needs=("gpu",)))
    rig.admin.ask(m.TaskCancel(task=first))
    for n in range(100):
        number = rig.admin.submit(shell_task(repo=f"https://git.example/{n}.git"))
        if n < 70:
            rig.admin.ask(m.TaskCancel(task=number))
    assert Group(Tier.trivial, "", ("gpu",), "https://git.example/first.git") not in [
        rig.hub.tasks.groups[number] for number in rig.hub.tasks.groups
    ]
    assert rig.admin.ask(m.TaskWhy(task=first))["needs"]["capabilities"] == ["gpu"]
    listed = rig.admin.ask(m.TaskList(repo="https://git.example/first.git"))["tasks"]
    assert [one["id"] for one in listed] == [first]
    rig.admin.ask(m.TaskRetry(task=first))
    slot = rig.hub.tasks.table.slot_of[first]
    assert rig.hub.tasks.groups[rig.hub.tasks.table.group[slot]].repo == "https://git.example/first.git"
    rig.start()
    rig.admin.hello()
    slot = rig.hub.tasks.table.slot_of[first]
    assert rig.hub.tasks.groups[rig.hub.tasks.table.group[slot]].repo == "https://git.example/first.git"


def test_unused_groups_of_an_old_store_go_in_slices_after_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    for n in range(60):
        rig.admin.submit(shell_task(repo=f"https://git.example/{n}.git"))
    for number in range(1, 60):
        rig.admin.ask(m.TaskCancel(task=number))
    monkeypatch.setattr(core_groups, "TRIM_SLICE", 10)
    rig.start()
    rig.hub.tasks.groups._groups._spare = 4
    assert stored(rig) == 60
    for left in (50, 40, 30, 20, 10, 5, 5):
        rig.advance(1_000)
        assert stored(rig) == left
    assert list(rig.hub.tasks.groups.used()) == [59]
