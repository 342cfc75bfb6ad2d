"""An attempt that asks a person: what is kept, and how the next one goes on in the same worktree and conversation."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import msgspec

from agentcom.model import FailureClass, QuestionAnswer, ResultStatus, Strategy, TaskSpec
from agentcom_sidecar import cleanup, workspace
from agentcom_sidecar.execution import execute
from agentcom_sidecar.questions import questions_of
from tests.standins import StandIn
from tests.works import Ran, check, repository, work_of

MODEL = "llama3.2:latest"
ASK = {"name": "ask", "arguments": {"question": "Which colour?"}}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"tool_calls": [{"name": name, "arguments": arguments}]}


def asked(folder: Path, server: StandIn, *replies: dict[str, Any]) -> tuple[Any, Ran]:
    """An attempt that writes a.txt and asks; its work and what became of it."""
    first = {"tool_calls": [*call("write_file", path="a.txt", content="1")["tool_calls"], ASK]}
    server.set_script({"models": [{"name": MODEL, "warm": True}], "replies": [first, *replies]})
    spec = TaskSpec(
        description="Paint it.",
        repo=str(repository(folder / "repo")),
        checks=(check("file_exists", "a.txt"), check("file_exists", "b.txt")),
    )

    async def run() -> tuple[Any, Ran]:
        work, ran = await work_of(folder, Strategy.local_llm, spec, endpoint_url=server.url, model=MODEL)
        ran.outcome = await execute(work)
        return work, ran

    return asyncio.run(run())


def test_a_question_ends_the_attempt_with_its_work_and_its_conversation_kept(tmp_path: Path, server: StandIn) -> None:
    work, ran = asked(tmp_path, server)
    assert (ran.failed.failure_class, ran.failed.code) == (FailureClass.configuration, "question")
    assert ran.failed.message == "Which colour?"
    assert (ran.result.files_changed, ran.result.stop_reason) == (("a.txt",), "question")
    kept = questions_of(work.home.sidecar).get((7, 1))
    assert kept is not None
    assert (kept.directory, kept.branch) == (ran.path.name, work.workspace.branch)
    assert "[asks] Which colour?" in ran.log


def test_the_next_attempt_goes_on_in_the_same_worktree_with_the_answer(tmp_path: Path, server: StandIn) -> None:
    work, _ = asked(tmp_path, server, call("write_file", path="b.txt", content="2"), {"content": "Painted."})
    kept = questions_of(work.home.sidecar).get((7, 1))
    assert kept is not None
    answer = QuestionAnswer(question="Which colour?", text="Blue.", by="ann", at_ms=1)

    async def go_on() -> Any:
        place = await workspace.reopen(work.spec, (7, 2), kept, work.settings, work.home, submitter_role="admin")
        assert place is not None
        assign = msgspec.structs.replace(work.assign, attempt=2, resume=1, answers=(answer,))
        again = dataclasses.replace(work, assign=assign, workspace=place, kept=kept)
        return place, await execute(again)

    place, outcome = asyncio.run(go_on())
    assert outcome.result.status is ResultStatus.verified, outcome
    assert (place.path, outcome.result.files_changed) == (work.workspace.path, ("a.txt", "b.txt"))
    assert outcome.result.evidence == "red_to_green"
    messages = server.log("/api/chat")[-1]["body"]["messages"]
    said = [message["content"] for message in messages if message["role"] == "user"]
    assert said[0].startswith("Paint it.")
    assert said[1:] == ["The answer to your question:\nBlue."]


def test_checks_that_its_repository_got_while_it_waited_do_not_end_a_task_that_was_answered(
    tmp_path: Path, server: StandIn
) -> None:
    """What the base said to other checks is no evidence for these."""
    work, _ = asked(tmp_path, server, call("write_file", path="b.txt", content="2"), {"content": "Painted."})
    kept = questions_of(work.home.sidecar).get((7, 1))
    assert kept is not None
    answer = QuestionAnswer(question="Which colour?", text="Blue.", by="ann", at_ms=1)
    more = (check("file_exists", "README.md"),)
    assign = msgspec.structs.replace(work.assign, attempt=2, resume=1, answers=(answer,), repo_checks=more)

    async def go_on() -> Any:
        place = await workspace.reopen(work.spec, (7, 2), kept, work.settings, work.home, submitter_role="admin")
        assert place is not None
        return await execute(dataclasses.replace(work, assign=assign, workspace=place, kept=kept))

    outcome = asyncio.run(go_on())
    assert outcome.error is None
    assert outcome.result.status is ResultStatus.verified
    assert (outcome.result.evidence, len(outcome.result.iterations[-1].checks)) == (None, 3)


def test_where_the_worktree_is_gone_the_task_begins_anew_with_the_answers_in_its_prompt(
    tmp_path: Path, server: StandIn
) -> None:
    work, _ = asked(tmp_path, server, {"content": "Painted."})
    kept = questions_of(work.home.sidecar).get((7, 1))
    assert kept is not None
    gone = msgspec.structs.replace(kept, directory="not-there")
    answer = QuestionAnswer(question="Which colour?", text="Blue.", by="ann", at_ms=1)

    async def begin_anew() -> Any:
        found = await workspace.reopen(work.spec, (7, 2), gone, work.settings, work.home, submitter_role="admin")
        assign = msgspec.structs.replace(work.assign, attempt=2, resume=1, answers=(answer,))
        return found, await execute(dataclasses.replace(work, assign=assign))

    found, _ = asyncio.run(begin_anew())
    assert found is None
    first = server.log("/api/chat")[-1]["body"]["messages"][1]["content"]
    assert "Q: Which colour?\nA: Blue." in first


def test_a_damaged_file_is_set_aside_and_a_question_that_is_over_is_forgotten(tmp_path: Path, server: StandIn) -> None:
    work, _ = asked(tmp_path, server)
    kept = questions_of(work.home.sidecar)
    assert kept.keys() == [(7, 1)]
    assert cleanup.running(work.home)(work.workspace.path.name)
    (kept.folder / "7-1.question").write_bytes(b"{")
    assert (kept.get((7, 1)), kept.keys()) == (None, [])
    assert kept.remove((7, 1)) is False
