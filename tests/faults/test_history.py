"""The checker itself: it is quiet about what is legal, and finds each thing that is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agentcom.model import State
from tests.faults.history import History, Seen, check, effects_of

DONE = Seen(1, "a", State.completed, 2, 1, None, {1: "lost", 2: "completed"})
RAN = {(1, 1): 1, (1, 2): 1}


def history_of(**promised: int | None) -> History:
    made = History()
    made.invoke(promised, "batch")
    for key, task in promised.items():
        if task is not None:
            made.acknowledge(key, task)
    return made


def test_a_task_that_was_lost_once_and_then_completed_is_legal() -> None:
    assert check(history_of(a=1), [DONE], RAN) == []


def test_a_submit_without_an_answer_is_legal_either_way() -> None:
    assert check(history_of(a=None), [], {}) == []
    assert check(history_of(a=None), [DONE], RAN) == []


def _two_promises(history: History) -> History:
    history.acknowledge("a", 7)
    return history


@pytest.mark.parametrize(
    ("history", "seen", "ran", "said"),
    [
        (history_of(a=1), [], {}, "acknowledged as [1], found []"),
        (History(), [DONE], RAN, "never asked for"),
        (history_of(a=1), [DONE, replace(DONE, id=2)], {**RAN, (2, 2): 1}, "one submit made the tasks"),
        (_two_promises(history_of(a=1)), [DONE], RAN, "were promised the tasks [1, 7]"),
        (history_of(a=1, b=None), [DONE], RAN, "1 of 2 tasks are there"),
        (history_of(a=1), [replace(DONE, state=State.working, outcomes={1: "lost", 2: ""})], RAN, "still"),
        (history_of(a=1), [replace(DONE, outcomes={1: "completed", 2: "completed"})], RAN, "both accepted"),
        (history_of(a=1), [replace(DONE, outcomes={2: "completed"})], RAN, "the last is 2"),
        (history_of(a=1), [DONE], {**RAN, (1, 2): 2}, "attempt 2 ran 2 times"),
        (history_of(a=1), [DONE], {**RAN, (1, 3): 1}, "the hub does not know of it"),
        (history_of(a=1), [DONE], {(1, 1): 1}, "which never ran"),
        (
            history_of(a=1),
            [replace(DONE, state=State.dead, error_code="worker_lost", outcomes={1: "lost", 2: "lost"})],
            RAN,
            "after 1 of 3 losses",
        ),
    ],
)
def test_what_is_not_legal_is_found(
    history: History, seen: list[Seen], ran: dict[tuple[int, int], int], said: str
) -> None:
    found = check(history, seen, ran)
    assert any(said in each for each in found), found


def test_files_of_commands_are_counted_by_attempt(tmp_path: Path) -> None:
    make: Callable[[str], None] = lambda name: (tmp_path / name).touch()  # noqa: E731
    for name in ("1-1", "1-2", "12-1-x", "12-1.twice"):
        make(name)
    assert effects_of(tmp_path) == {(1, 1): 1, (1, 2): 1, (12, 1): 3}
