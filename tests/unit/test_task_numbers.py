"""A task's number on the command line: a whole number from 1, and said to be one where it is not."""

from __future__ import annotations

import pytest

from agentcom import messages as m
from agentcom.cli import main
from tests.fake_hub_requests import FakeHub, task

COMMANDS = [
    *(f"task {each} NUMBER" for each in ("show", "why", "story", "log", "cancel", "retry", "hold", "release")),
    "task show --json NUMBER",
    "task log NUMBER --attempt 1 --follow",
    "task cancel NUMBER --reason late",
    "task answer NUMBER yes",
    "task verify-report NUMBER",
    "dead retry NUMBER",
    "dead purge 3 NUMBER",
    "submit text --after NUMBER",
    "submit text --after 3 --base NUMBER",
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", ["-1", "0"])
def test_a_number_below_1_is_a_usage_error_that_says_what_a_tasks_number_is(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], command: str, number: str
) -> None:
    words = command.replace("NUMBER", number).split()
    assert main(words) == 2
    said = capsys.readouterr().err
    assert f"'{number}' names no task: a task's number is a whole number from 1; see" in said
    assert f"`agentcom {' '.join(words[: 1 + (words[0] != 'submit')])} --help`" in said
    assert hub.asked == []


@pytest.mark.parametrize("number", ["x", "1.5", "+1", "\u0661", "9" * 5000])
def test_what_is_no_whole_number_is_told_in_the_same_words(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], number: str
) -> None:
    assert main(["task", "show", number]) == 2
    assert f"{number!r} names no task: a task's number is a whole number from 1" in capsys.readouterr().err


@pytest.mark.parametrize(("given", "base"), [("3", 3), ("003", 3), ("predecessor", "predecessor")])
def test_a_base_is_a_task_or_the_predecessor(hub: FakeHub, given: str, base: object) -> None:
    assert main(["submit", "text", "--after", "3", "--base", given]) == 0
    assert [op.tasks[0].base for op in hub.asked if isinstance(op, m.Submit)] == [base]


def test_a_number_is_taken_with_zeros_before_it(hub: FakeHub) -> None:
    assert main(["task", "show", "007"]) == 0
    assert [op.task for op in hub.asked if isinstance(op, m.TaskGet)] == [7]


def test_an_option_keeps_its_negative_value(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["task", "log", "5", "--attempt", "-1"]) == 2
    assert "'--attempt': -1 is not in the range" in capsys.readouterr().err


def test_an_answer_may_be_a_negative_number(hub: FakeHub) -> None:
    hub.answers["task_answer"] = lambda op: task(op.task)
    assert main(["task", "answer", "5", "-1", "--anywhere"]) == 0
    (asked,) = hub.asked
    assert isinstance(asked, m.TaskAnswer)
    assert (asked.task, asked.text, asked.anywhere) == (5, "-1", True)
