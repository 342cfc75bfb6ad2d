"""Adapters of agent programs: their command lines, and what is read from what they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentcom.agent_programs import program_of
from agentcom.config import ProgramSettings
from agentcom.errors import ConfigError
from agentcom.model import FailureClass
from agentcom_sidecar.programs import catalogue, generic
from agentcom_sidecar.programs.base import Heard, event_of
from tests.standins.agent_program import claude_events

VALUES = {"prompt": "do {session} it", "prompt_file": "/p", "task_id": "7", "worktree": "/w"}


def heard(name: str, *events: dict[str, Any]) -> Heard:
    found = Heard()
    read = catalogue.KNOWN[name].read
    assert read is not None
    for event in events:
        read(event, found)
    return found


@pytest.mark.parametrize(
    ("needs", "name"),
    [
        (("program:codex",), "codex"),
        (("docker", "program:claude-code>=2.1"), "claude-code"),
        (("tool:node", "programs:x", "program:"), ""),
        ((), ""),
    ],
)
def test_a_task_names_its_program_by_a_need(needs: tuple[str, ...], name: str) -> None:
    assert program_of(needs) == name


def test_places_are_filled_once_and_never_by_what_a_task_says() -> None:
    argv = catalogue.KNOWN["claude-code"].argv({**VALUES, "session": ""})
    assert argv[:3] == ("claude", "-p", "do {session} it")
    assert "--resume" not in argv


def test_a_session_is_gone_on_in_and_a_model_and_a_budget_are_told() -> None:
    values = {**VALUES, "session": "abc", "model": "opus", "budget_usd": "1.5000"}
    assert catalogue.KNOWN["claude-code"].argv(values)[:9] == (
        "claude", "--model", "opus", "--max-budget-usd", "1.5000", "-p", "do {session} it", "--resume", "abc",
    )  # fmt: skip
    assert catalogue.KNOWN["opencode"].argv({**VALUES, "model": "a/b"})[:4] == (
        "opencode",
        "run",
        "-m",
        "a/b",
    )
    assert catalogue.KNOWN["codex"].argv(values)[:5] == ("codex", "exec", "--model", "opus", "resume")


def test_a_generic_command_is_split_without_a_shell() -> None:
    given = ProgramSettings(commands=("mine=/opt/mine --say 'two words; rm -rf /' {prompt_file} $HOME",))
    argv = catalogue.adapter_of("mine", given).argv(VALUES)
    assert argv == ("/opt/mine", "--say", "two words; rm -rf /", "/p", "$HOME")


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (("mine=",), "the command of mine is empty"),
        (("mine=''",), "the command of mine is empty"),
        (("mine=x 'y",), "No closing quotation"),
        (("mine=x {promt}",), "nothing fills {promt}"),
        ((), "no program 'mine' is known here"),
    ],
)
def test_a_command_that_cannot_be_used_says_what_to_do(commands: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match="mine") as error:
        catalogue.adapter_of("mine", ProgramSettings(commands=commands))
    assert said in error.value.message


def test_an_empty_command_of_a_known_program_says_what_to_install() -> None:
    with pytest.raises(ConfigError, match="npm install -g @openai/codex"):
        catalogue.adapter_of("codex", ProgramSettings(commands=("codex=",)))


def test_a_missing_program_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"codex is not on this host .*install Codex: npm install -g @openai/codex"
    ):
        catalogue.find(catalogue.KNOWN["codex"])


def test_claude_code_is_heard() -> None:
    found = heard("claude-code", *claude_events("Done."))
    assert (found.session, found.model, found.text) == ("5e55", "claude-sonnet-5-5", "Done.")
    assert (found.usage.prompt, found.usage.cache_read, found.usage.out, found.cost_usd) == (107, 7, 10, 0.01)
    assert found.failure is None


@pytest.mark.parametrize(
    ("more", "failure"),
    [
        ({"api_error_status": 401}, (FailureClass.configuration, "program_auth_refused")),
        (
            {"api_error_status": None, "result": "Please run /login"},
            (FailureClass.configuration, "program_auth_refused"),
        ),
        ({"api_error_status": 429}, (FailureClass.usage_window, "rate_limited")),
        ({"api_error_status": 529}, (FailureClass.infrastructure, "overloaded")),
        ({"api_error_status": None}, (FailureClass.task_error, "program_failed")),
    ],
)
def test_an_api_failure_of_claude_code_is_one_whatever_its_subtype_says(more: Any, failure: Any) -> None:
    found = heard("claude-code", *claude_events("it broke", is_error=True, **more))
    assert found.failure is not None
    assert found.failure[:2] == failure


def test_codex_is_heard() -> None:
    found = heard(
        "codex",
        {"type": "thread.started", "thread_id": "t1"},
        {"type": "item.completed", "item": {"type": "error", "message": "a notice"}},
        {"type": "item.completed", "item": {"type": "agent_message", "text": "Done."}},
        {
            "type": "turn.completed",
            "usage": {"input_tokens": 50, "cached_input_tokens": 20, "output_tokens": 5},
        },
    )
    assert (found.session, found.text, found.notices, found.failure) == ("t1", "Done.", ["a notice"], None)
    assert (found.usage.prompt, found.usage.cache_read, found.usage.out, found.cost_usd) == (50, 20, 5, None)
    failed = heard("codex", {"type": "turn.failed", "error": {"message": "401 Unauthorized"}})
    assert failed.failure is not None
    assert failed.failure[0] is FailureClass.configuration


def test_gemini_is_heard_in_both_shapes() -> None:
    streamed = heard(
        "gemini",
        {"type": "init", "session_id": "g1", "model": "gemini-x"},
        {"type": "message", "role": "assistant", "content": "Do", "delta": True},
        {"type": "message", "role": "assistant", "content": "ne.", "delta": True},
        {"type": "result", "status": "success", "stats": {"input_tokens": 30, "output_tokens": 4}},
    )
    assert (streamed.session, streamed.model, streamed.text) == ("g1", "gemini-x", "Done.")
    assert (streamed.usage.prompt, streamed.usage.out) == (30, 4)
    tokens = {"prompt": 30, "cached": 10, "candidates": 4, "thoughts": 2}
    whole = heard(
        "gemini", {"session_id": "g2", "response": "Done.", "stats": {"models": {"m": {"tokens": tokens}}}}
    )
    assert (whole.text, whole.usage.prompt, whole.usage.cache_read, whole.usage.out) == ("Done.", 30, 10, 6)
    failed = heard("gemini", {"error": {"type": "auth", "message": "no key", "code": 41}})
    assert failed.failure == (FailureClass.configuration, "program_auth_refused", "no key")


def test_opencode_is_heard() -> None:
    step = {
        "tokens": {"input": 30, "output": 4, "reasoning": 1, "cache": {"read": 5, "write": 0}},
        "cost": 0.02,
    }
    found = heard(
        "opencode",
        {"type": "text", "sessionID": "o1", "part": {"text": "Done."}},
        {"type": "step_finish", "sessionID": "o1", "part": step},
        {"type": "step_finish", "sessionID": "o1", "part": step},
    )
    assert (found.session, found.text, found.cost_usd) == ("o1", "Done.", 0.04)
    assert (found.usage.prompt, found.usage.out) == (70, 10)
    failed = heard(
        "opencode", {"type": "error", "error": {"name": "ProviderAuthError", "data": {"message": "no"}}}
    )
    assert failed.failure == (FailureClass.configuration, "program_auth_refused", "no")


def test_a_generic_program_tells_by_its_result_file() -> None:
    found = Heard()
    told = {
        "output": "Done.",
        "model": "m",
        "tokens_in": 9,
        "tokens_cached": 4,
        "tokens_out": 2,
        "cost_usd": 0.5,
    }
    assert generic.read_result(json.dumps(told).encode(), found) == ""
    assert (found.text, found.model, found.usage.prompt, found.usage.out, found.cost_usd) == (
        "Done.",
        "m",
        9,
        2,
        0.5,
    )
    assert "no JSON" in generic.read_result(b"{", Heard())
    assert "no JSON object" in generic.read_result(b"[]", Heard())


NAMES = [
    "type",
    "item",
    "error",
    "usage",
    "part",
    "stats",
    "models",
    "tokens",
    "message",
    "content",
    "cost",
    "result",
    "output",
    "input_tokens",
    "session_id",
    "modelUsage",
    "response",
    "code",
    "is_error",
    "role",
]
KINDS = [
    "assistant",
    "result",
    "item.completed",
    "turn.completed",
    "turn.failed",
    "message",
    "error",
    "text",
    "step_finish",
    "tool_use",
    "system",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(NAMES), JSON, max_size=5))
def test_whatever_a_program_prints_no_adapter_breaks(kind: str, fields: dict[str, Any]) -> None:
    for name in catalogue.KNOWN:
        found = heard(name, {**fields, "type": kind})
        assert found.usage.out >= 0
    generic.read_result(json.dumps(fields).encode(), Heard())


@pytest.mark.parametrize("line", [b"", b"text", b"{", b"[1]", b"{" * 100_000, b"\xff{}"])
def test_a_line_that_is_no_object_is_no_event(line: bytes) -> None:
    assert event_of(line) is None
