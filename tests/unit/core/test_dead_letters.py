"""Dead letters: dead, expired and cancelled alike, with reason, time and history; retried and purged in bulk."""

from __future__ import annotations

import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.errors import Refused
from agentcom.model import FailureClass, Role
from tests.core_rig import Rig
from tests.factories import error, shell_task, task

REPO = "https://example.org/r"


@pytest.fixture
def rig() -> Rig:
    return Rig()


def letters(rig: Rig) -> dict[str, int]:
    """One task for each way to end without a result."""
    box = rig.host()
    dead = rig.admin.submit(shell_task(max_retries=0, labels=("a",)))
    box.fail(box.take(), error(code="exit_3"))
    box.leave()
    expired = rig.admin.submit(task(ttl_s=5, labels=("a", "b"), repo=REPO))
    cancelled = rig.admin.submit(task(labels=("b",), repo=REPO))
    rig.admin.ask(m.TaskCancel(task=cancelled, reason="not wanted"))
    rig.advance(5_000)
    return {"dead": dead, "expired": expired, "cancelled": cancelled}


def listed(rig: Rig, **fields: object) -> list[int]:
    return [one["id"] for one in rig.admin.ask(m.DeadList(**fields))["tasks"]]


def test_r21_a_dead_letter_keeps_its_reason_its_time_and_its_history(rig: Rig) -> None:
    ended = letters(rig)
    found = {one["id"]: one for one in rig.admin.ask(m.DeadList())["tasks"]}
    assert list(found) == sorted(ended.values(), reverse=True)
    reasons = {state: found[number]["error"]["code"] for state, number in ended.items()}
    assert reasons == {"dead": "exit_3", "expired": "ttl", "cancelled": "cancelled"}
    assert found[ended["cancelled"]]["error"]["message"] == "cancelled by admin: not wanted"
    assert all(one["finished_at"] for one in found.values())
    for state, number in ended.items():
        story = rig.admin.ask(m.TaskStory(task=number))["entries"]
        assert (story[0]["event"], story[-1]["event"]) == ("submitted", state)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"state": "dead"}, ["dead"]),
        ({"state": "expired"}, ["expired"]),
        ({"code": "cancelled"}, ["cancelled"]),
        ({"code": "exit"}, []),
        ({"label": "a"}, ["expired", "dead"]),
        ({"repo": REPO}, ["cancelled", "expired"]),
        ({"repo": REPO, "label": "a"}, ["expired"]),
        ({"older_than_s": 5}, ["cancelled", "dead"]),
        ({"older_than_s": 6}, []),
    ],
)
def test_r21_dead_letters_are_found_by_state_reason_repository_label_and_age(
    rig: Rig, fields: dict[str, object], expected: list[str]
) -> None:
    ended = letters(rig)
    assert listed(rig, **fields) == [ended[state] for state in expected]


def test_r21_a_bulk_retry_takes_those_that_fit_and_no_other(rig: Rig) -> None:
    ended = letters(rig)
    answer = rig.admin.ask(m.DeadRetry(repo=REPO))
    assert answer == {"tasks": [ended["expired"], ended["cancelled"]], "next_cursor": None}
    assert listed(rig) == [ended["dead"]]
    assert rig.admin.ask(m.DeadRetry())["tasks"] == [ended["dead"]]
    assert listed(rig) == []


def test_r21_a_bulk_purge_takes_those_that_fit_and_leaves_what_is_waited_for(rig: Rig) -> None:
    ended = letters(rig)
    waiting = rig.admin.submit(task(depends_on=(ended["expired"],)))
    assert rig.admin.state(waiting) == "held"
    answer = rig.admin.ask(m.DeadPurge(label="a"))
    assert answer == {"purged": 1, "kept": [ended["expired"]], "next_cursor": None}
    assert listed(rig) == [ended["cancelled"], ended["expired"]]


@pytest.mark.parametrize("fields", [{}, {"state": "expired"}])
def test_r21_a_bulk_purge_whose_only_match_is_waited_for_keeps_it_and_is_not_refused(
    rig: Rig, fields: dict[str, object]
) -> None:
    needed = rig.admin.submit(task(ttl_s=5))
    rig.admin.submit(task(depends_on=(needed,)))
    rig.advance(5_000)
    answer = rig.admin.ask(m.DeadPurge(**fields))
    assert answer == {"purged": 0, "kept": [needed], "next_cursor": None}
    with pytest.raises(Refused, match="waited for by"):
        rig.admin.ask(m.DeadPurge(tasks=(needed,)))


def test_r21_single_letters_are_retried_and_purged_by_name(rig: Rig) -> None:
    ended = letters(rig)
    rig.admin.ask(m.DeadRetry(tasks=(ended["dead"],)))
    rig.admin.ask(m.DeadPurge(tasks=(ended["cancelled"],)))
    assert listed(rig) == [ended["expired"]]
    with pytest.raises(Refused, match="no task"):
        rig.admin.task(ended["cancelled"])


def test_bulk_goes_on_where_the_last_call_ended(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BATCH_TASKS_MAX", 2)
    numbers = [rig.admin.submit(task()) for _ in range(5)]
    for number in numbers:
        rig.admin.ask(m.TaskCancel(task=number))
    answers = [rig.admin.ask(m.DeadRetry(state="cancelled"))]
    while answers[-1]["next_cursor"] is not None:
        answers.append(rig.admin.ask(m.DeadRetry(state="cancelled", cursor=answers[-1]["next_cursor"])))
    assert [one["tasks"] for one in answers] == [numbers[:2], numbers[2:4], numbers[4:]]


def test_a_search_reads_a_bounded_number_of_rows_and_says_where_it_stopped(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SCAN_ROWS_MAX", 2)
    numbers = [rig.admin.submit(task(labels=("x",) if n in (0, 4) else ())) for n in range(5)]
    for number in numbers:
        rig.admin.ask(m.TaskCancel(task=number))
    found, cursor, calls = [], None, 0
    while calls == 0 or cursor is not None:
        page = rig.admin.ask(m.DeadList(label="x", cursor=cursor))
        found += [one["id"] for one in page["tasks"]]
        cursor, calls = page["next_cursor"], calls + 1
    assert (found, calls) == ([5, 1], 3)
    purged, cursor, calls = 0, None, 0
    while calls == 0 or cursor is not None:
        answer = rig.admin.ask(m.DeadPurge(label="x", cursor=cursor))
        purged, cursor, calls = purged + answer["purged"], answer["next_cursor"], calls + 1
    assert (purged, calls) == (2, 3)


def test_pages_of_the_list_follow_each_other_without_a_gap(rig: Rig) -> None:
    numbers = [rig.admin.submit(task()) for _ in range(5)]
    for number in numbers:
        rig.admin.ask(m.TaskCancel(task=number))
    seen: list[int] = []
    cursor = None
    while True:
        page = rig.admin.ask(m.DeadList(limit=2, cursor=cursor))
        seen += [one["id"] for one in page["tasks"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == numbers[::-1]


def test_dead_letters_in_bulk_are_for_who_may_operate(rig: Rig) -> None:
    letters(rig)
    for role in (Role.submit, Role.view):
        with pytest.raises(Refused) as refused:
            rig.member(role).ask(m.DeadPurge())
        assert refused.value.code == "forbidden"
    assert FailureClass.configuration == rig.admin.task(3)["error"]["class"]
