"""When a model is stopped because it no longer moves, and when a conversation has used what it may."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentcom.model import Backend
from agentcom_sidecar.agentic.file_tools import FileTools
from agentcom_sidecar.agentic.guards import MISTAKE_ROUNDS_MAX, REPEATS_MAX, STALL_ROUNDS_MAX, Watch
from agentcom_sidecar.agentic.loop import Bounds, Hooks, Tally, converse
from agentcom_sidecar.agentic.observations import Executed
from agentcom_sidecar.agentic.tools import Toolbox, essence
from agentcom_sidecar.backends.base import BackendError, Conversation, ToolCall, Turn, Usage


def ends(*rounds: tuple[str, str], is_mistaken: bool = False) -> list[str | None]:
    watch = Watch()
    return [watch.took([pair], is_mistaken=is_mistaken) for pair in rounds]


def test_the_same_call_with_the_same_result_is_a_repetition() -> None:
    assert ends(*[("look", "nothing")] * REPEATS_MAX) == [None] * (REPEATS_MAX - 1) + ["repetition"]


def test_the_same_call_whose_result_changes_is_none() -> None:
    assert set(ends(*(("look", str(n)) for n in range(20)))) == {None}


def test_going_round_in_a_circle_is_a_stall() -> None:
    circle = [("a", "1"), ("b", "2")] + [("a", "1"), ("b", "2")] * STALL_ROUNDS_MAX
    found = ends(*circle[: 2 + STALL_ROUNDS_MAX])
    assert found == [None] * (1 + STALL_ROUNDS_MAX) + ["stall"]


def test_calls_without_sense_have_their_number_of_tries() -> None:
    assert ends(*[("x", "?")] * MISTAKE_ROUNDS_MAX, is_mistaken=True)[-2:] == [None, "mistakes"]


def test_a_command_run_again_is_a_repetition_whatever_time_it_took() -> None:
    runs = [
        Executed(1, "exited", 10 + n, f"test_a: 1 failed\nRan 3 tests in 0.{n}1s, 1{n} ms\n") for n in range(3)
    ]
    assert ends(*(("run", essence(each)) for each in runs))[-1] == "repetition"


def test_a_command_with_other_words_or_counts_is_none() -> None:
    found = ends(*(("run", essence(Executed(1, "exited", 10, f"{n} failed in 1s"))) for n in range(20)))
    assert set(found) == {None}


class Scripted:
    """A model that gives the same turn each time."""

    name = Backend.ollama
    model = "scripted"

    def __init__(self, turn: Callable[[int], Turn]) -> None:
        self._turn = turn
        self.calls = 0

    async def call(self, _conversation: Conversation, _tools: Any, _heard: Any) -> Turn:
        self.calls += 1
        return self._turn(self.calls)

    async def __aenter__(self) -> Scripted:
        return self

    async def __aexit__(self, *_: object) -> None: ...


def conversed(root: Path, turn: Callable[[int], Turn], **bounds: int) -> tuple[Scripted, Tally]:
    async def gate() -> None: ...

    model, tally = Scripted(turn), Tally()
    hooks = Hooks(log=lambda _: None, progress=lambda: None, heard=lambda: None, hub_gate=gate)
    box = Toolbox(FileTools(root, 2_000))
    conversation = Conversation("", ["do it"])
    asyncio.run(converse(model, conversation, box, tally, hooks, Bounds(**{"rounds_max": 10, **bounds})))
    return model, tally


def writes(number: int) -> Turn:
    call = ToolCall("1", "write_file", {"path": f"{number}", "content": ""})
    return Turn("", (call,), Usage(fresh=100, out=20))


def test_the_tokens_of_an_attempt_end_it(tmp_path: Path) -> None:
    model, tally = conversed(tmp_path, writes, tokens_max=300)
    assert (model.calls, tally.stop_reason, tally.is_spent) == (3, "tokens", True)
    assert "sidecar.attempt_tokens_max is 300" in tally.warnings[0]


def test_rounds_end_a_try_and_not_the_attempt(tmp_path: Path) -> None:
    model, tally = conversed(tmp_path, writes, rounds_max=4)
    assert (model.calls, tally.stop_reason, tally.is_spent) == (4, "rounds", False)
    assert "the limit of this tier (sidecar.rounds_" in tally.warnings[-1]


def test_a_summary_is_the_answer(tmp_path: Path) -> None:
    finish = Turn("I am done.", (ToolCall("1", "finish", {"summary": "Made it."}),))
    _, tally = conversed(tmp_path, lambda _: finish)
    assert (tally.text, tally.stop_reason) == ("Made it.", "finish")


def test_rubbish_written_as_text_for_ever_ends_in_its_failure_class(tmp_path: Path) -> None:
    with pytest.raises(BackendError) as caught:
        conversed(tmp_path, lambda _: Turn("<tool_call>{{</tool_call>"))
    assert (caught.value.code, caught.value.failure_class) == ("bad_tool_calls", "task_error")
