"""A task that asks: held until a person answers, then on where its worktree lies; the host is told when it is over."""

from __future__ import annotations

import pytest

from agentcom import messages as m
from agentcom.errors import Refused
from agentcom.model import FailureClass, Role, TaskError
from tests.core_rig import HostEnd, Rig
from tests.factories import shell_task

QUESTION = TaskError(failure_class=FailureClass.configuration, code="question", message="Which colour?")


@pytest.fixture
def rig() -> Rig:
    return Rig()


@pytest.fixture
def box(rig: Rig) -> HostEnd:
    return rig.host("box")


def asking(rig: Rig, box: HostEnd) -> m.Assign:
    """A task whose first attempt has asked on `box`."""
    rig.admin.submit(shell_task())
    assign = box.take()
    assert box.fail(assign, QUESTION) == "accepted"
    return assign


def test_a_question_holds_the_task_and_says_who_asks_since_when(rig: Rig, box: HostEnd) -> None:
    assign = asking(rig, box)
    found = rig.admin.task(assign.task)
    assert (found["state"], found["retries_used"], found["error"]["code"]) == ("held", 0, "question")
    assert found["question"]["text"] == "Which colour?"
    assert (found["question"]["host"], found["question"]["attempt"]) == ("box", 1)
    why = rig.admin.ask(m.TaskWhy(task=assign.task))["reason"]
    assert why.startswith(f"attempt 1 on box asks since {found['question']['asked_at']}: Which colour?")
    assert why.endswith(f"agentcom task answer {assign.task} TEXT")
    assert [one["outcome"] for one in rig.admin.ask(m.TaskReports(task=assign.task))["attempts"]] == ["asked"]


def test_an_answer_goes_on_where_the_worktree_lies(rig: Rig, box: HostEnd) -> None:
    assign = asking(rig, box)
    rig.host("other", agents=2)
    rig.admin.ask(m.TaskAnswer(task=assign.task, text="Blue."))
    again = box.take()
    assert (again.attempt, again.resume) == (2, 1)
    (said,) = again.answers
    assert (said.question, said.text, said.by) == ("Which colour?", "Blue.", "admin")
    assert box.complete(again) == "accepted"
    assert rig.hub.tasks.asked == {}
    told = rig.admin.ask(m.TaskStory(task=assign.task))["entries"]
    assert ("released", "answered: Blue.", "admin") in [(one["event"], one.get("cause"), one.get("by")) for one in told]


def test_a_task_that_is_answered_waits_for_its_host(rig: Rig, box: HostEnd) -> None:
    assign = asking(rig, box)
    other = rig.host("other")
    box.leave()
    rig.admin.ask(m.TaskAnswer(task=assign.task, text="Blue."))
    assert rig.admin.state(assign.task) == "ready"
    why = rig.admin.ask(m.TaskWhy(task=assign.task))["reason"]
    assert why.startswith("it was answered and goes on on box, where its worktree lies")
    rig.admin.ask(m.TaskHold(task=assign.task))
    rig.admin.ask(m.TaskRelease(task=assign.task))  # a person who does not want to wait any more
    again = other.take()
    assert (again.resume, [each.text for each in again.answers]) == (0, ["Blue."])


def test_an_answer_for_anywhere_begins_anew_and_the_host_may_forget(rig: Rig, box: HostEnd) -> None:
    assign = asking(rig, box)
    rig.admin.ask(m.TaskAnswer(task=assign.task, text="Blue.", anywhere=True))
    gone = box.expect(m.Cancel)
    assert (gone.task, gone.attempt) == (assign.task, 1)
    again = box.take()
    assert (again.resume, [each.text for each in again.answers]) == (0, ["Blue."])


def test_an_answer_for_a_host_that_is_gone_says_what_to_do(rig: Rig, box: HostEnd) -> None:
    assign = asking(rig, box)
    rig.admin.ask(m.HostRemove(host="box", now=True))
    with pytest.raises(Refused) as caught:
        rig.admin.ask(m.TaskAnswer(task=assign.task, text="Blue."))
    assert (caught.value.code, "--anywhere" in caught.value.message) == ("host_gone", True)
    assert rig.admin.state(assign.task) == "held"
    rig.admin.ask(m.TaskAnswer(task=assign.task, text="Blue.", anywhere=True))
    assert rig.host("other").take().resume == 0


def test_a_question_and_its_answer_survive_a_start_of_the_hub(rig: Rig, box: HostEnd) -> None:
    assign = asking(rig, box)
    rig.start()
    rig.admin.hello()
    kept = m.AttemptHeld(task=assign.task, attempt=1, state="asked")
    assert [one.verdict for one in box.hello(attempts=(kept,)).verdicts] == ["keep"]
    rig.admin.ask(m.TaskAnswer(task=assign.task, text="Blue."))
    assert box.assigned().resume == 1
    rig.start()
    rig.admin.hello()
    assert rig.admin.task(assign.task)["question"]["answers"][0]["text"] == "Blue."


@pytest.mark.parametrize("how", ["cancel", "term"])
def test_a_question_that_nobody_answered_is_cleaned_up(rig: Rig, box: HostEnd, how: str) -> None:
    assign = asking(rig, box)
    if how == "cancel":
        rig.admin.ask(m.TaskCancel(task=assign.task))
    else:
        rig.advance(rig.hub.settings.queue.held_s * 1000 + 2000)
    assert (rig.admin.state(assign.task), rig.hub.tasks.asked) == ("cancelled" if how == "cancel" else "expired", {})
    if how == "cancel":
        assert box.expect(m.Cancel).attempt == 1
    kept = m.AttemptHeld(task=assign.task, attempt=1, state="asked")
    assert [one.verdict for one in box.hello(attempts=(kept,)).verdicts] == ["kill"]


def test_an_attempt_that_went_on_and_failed_leaves_the_task_free_to_run_anywhere(rig: Rig, box: HostEnd) -> None:
    assign = asking(rig, box)
    rig.admin.ask(m.TaskAnswer(task=assign.task, text="Blue."))
    box.fail(box.take(), TaskError(failure_class=FailureClass.infrastructure, code="endpoint_busy", message="x"))
    box.leave()
    rig.advance(120_000)
    again = rig.host("other").take()
    assert (again.attempt, again.resume, len(again.answers)) == (3, 0, 1)


def test_a_task_may_ask_again(rig: Rig, box: HostEnd) -> None:
    assign = asking(rig, box)
    rig.admin.ask(m.TaskAnswer(task=assign.task, text="Blue."))
    box.fail(box.take(), QUESTION)
    rig.admin.ask(m.TaskAnswer(task=assign.task, text="Dark blue."))
    again = box.take()
    assert (again.resume, [each.text for each in again.answers]) == (2, ["Blue.", "Dark blue."])


def test_only_a_task_that_asks_is_answered_and_only_by_its_own(rig: Rig, box: HostEnd) -> None:
    number = rig.admin.submit(shell_task())
    with pytest.raises(Refused, match="asks nothing"):
        rig.admin.ask(m.TaskAnswer(task=number, text="Blue."))
    box.fail(box.take(), QUESTION)
    stranger = rig.member(Role.submit, "stranger")
    with pytest.raises(Refused, match="there is no"):
        stranger.ask(m.TaskAnswer(task=number, text="Blue."))
