"""Standard tasks against a stand-in of an OpenAI-compatible server: what is sent, what is counted, how each failure is
classed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentcom.config import EndpointSettings
from agentcom.model import Backend, FailureClass, ResultStatus, Strategy, TaskSpec
from tests.standins import StandIn, standin
from tests.works import Ran, check, repository, run_attempt, settings

MODEL = "Qwen/Qwen2.5-Coder-7B"
WRITE = {"name": "write_file", "arguments": {"path": "hello.txt", "content": "hello\n"}}
CHAT = "/v1/chat/completions"


def script(*replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    fields = {"flavour": "vllm", "models": [{"id": MODEL}], "key": "", "hung": [], "loading": False}
    return {**fields, "replies": list(replies), **more}


@pytest.fixture(scope="module")
def shared() -> Iterator[StandIn]:
    with standin("openai") as server:
        yield server


@pytest.fixture
def server(shared: StandIn) -> StandIn:
    shared.set_script(script())
    return shared


def ran(folder: Path, server: StandIn, *replies: dict[str, Any], **options: Any) -> Ran:
    server.set_script(script(*replies, **options.pop("script", {})))
    spec = options.pop("spec", TaskSpec(description="Write hello to hello.txt."))
    options = {"endpoint_url": server.url, "model": MODEL, "backend": Backend.openai, **options}
    return run_attempt(folder, Strategy.local_llm, spec, **options)


def test_a_standard_task_is_answered_with_its_tokens_counted(tmp_path: Path, server: StandIn) -> None:
    reply = {"content": "42", "tokens_in": 100, "tokens_out": 7, "cache_read_tokens": 60, "chunk_delay_s": 0.01}
    result = ran(tmp_path, server, reply).completed
    assert (result.backend, result.model, result.output) == (Backend.openai, MODEL, "42")
    assert (result.tokens_in, result.tokens_out, result.tokens_cached) == (100, 7, 60)
    assert (result.cost_usd, result.stop_reason) == (0.0, "stop")
    assert result.durations_ms["generate"] > 0
    body = server.log(CHAT)[-1]["body"]
    assert (body["stream"], body["stream_options"]) == (True, {"include_usage": True})
    assert (body["model"], body["max_tokens"]) == (MODEL, 4096)
    assert "authorization" not in server.log(CHAT)[-1]["headers"]


def test_a_tool_call_in_pieces_is_put_together_and_answered(tmp_path: Path, server: StandIn) -> None:
    repo = repository(tmp_path / "repo")
    spec = TaskSpec(description="Write hello.", repo=str(repo), checks=(check("file_exists", "hello.txt"),))
    one = ran(tmp_path, server, {"tool_calls": [WRITE]}, {"content": "I wrote it."}, spec=spec)
    assert (one.completed.status, one.completed.files_changed) == (ResultStatus.verified, ("hello.txt",))
    assistant, tool = server.log(CHAT)[-1]["body"]["messages"][2:4]
    assert isinstance(assistant["tool_calls"][0]["function"]["arguments"], str)
    assert (tool["role"], tool["tool_call_id"]) == ("tool", assistant["tool_calls"][0]["id"])


@pytest.mark.parametrize(
    ("reply", "failure_class", "code"),
    [
        ({"fault": "400"}, FailureClass.task_error, "prompt_too_large"),
        ({"fault": "400", "error": "no such field"}, FailureClass.configuration, "bad_request"),
        ({"fault": "401"}, FailureClass.configuration, "auth_refused"),
        ({"fault": "404"}, FailureClass.infrastructure, "model_missing"),
        ({"fault": "500"}, FailureClass.infrastructure, "endpoint_error"),
        ({"fault": "503"}, FailureClass.infrastructure, "endpoint_busy"),
        ({"fault": "cut"}, FailureClass.infrastructure, "stream_cut"),
        ({"fault": "unfinished"}, FailureClass.infrastructure, "stream_cut"),
        ({"fault": "mid_stream_error"}, FailureClass.infrastructure, "stream_error"),
        ({"fault": "rubbish"}, FailureClass.infrastructure, "bad_answer"),
        ({"fault": "empty"}, FailureClass.task_error, "empty_answer"),
    ],
)
def test_each_failure_has_its_class(
    tmp_path: Path, server: StandIn, reply: dict[str, Any], failure_class: FailureClass, code: str
) -> None:
    error = ran(tmp_path, server, reply).failed
    assert (error.failure_class, error.code) == (failure_class, code)


def test_a_limit_says_when_to_come_back(tmp_path: Path, server: StandIn) -> None:
    error = ran(tmp_path, server, {"fault": "429", "retry_after_s": 7}).failed
    assert (error.failure_class, error.retry_after_s) == (FailureClass.usage_window, 7)


def test_a_model_that_gives_no_byte_is_told_from_one_that_stops(tmp_path: Path, server: StandIn) -> None:
    given = settings(first_byte_s=0.5, idle_s=0.5)
    error = ran(tmp_path, server, script={"hung": [MODEL]}, given=given).failed
    assert (error.failure_class, error.code) == (FailureClass.infrastructure, "no_first_byte")
    assert ran(tmp_path, server, {"fault": "stall"}, given=given).failed.code == "stream_stalled"


def test_a_server_that_counts_nothing_costs_no_answer(tmp_path: Path, server: StandIn) -> None:
    result = ran(tmp_path, server, {"content": "ok", "fault": "no_usage"}).completed
    assert (result.output, result.tokens_in, result.tokens_out) == ("ok", 0, 0)


def test_the_key_of_this_hosts_own_settings_goes_to_that_url_and_nowhere_else(
    tmp_path: Path, server: StandIn
) -> None:
    key = tmp_path / "key"
    key.write_text("sesame\n")
    key.chmod(0o600)
    named = msgspec.structs.replace(
        settings(), endpoints=EndpointSettings(key_files=(f"{server.url}/={key}",))
    )
    assert ran(tmp_path, server, script={"key": "sesame"}, given=named).completed.output == "Done."
    elsewhere = msgspec.structs.replace(
        settings(), endpoints=EndpointSettings(key_files=(f"http://127.0.0.1:1={key}",))
    )
    ran(tmp_path, server, given=elsewhere)
    assert "authorization" not in server.log(CHAT)[-1]["headers"]


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path, server: StandIn) -> None:
    key = tmp_path / "key"
    key.write_text("sesame\n")
    key.chmod(0o644)
    given = msgspec.structs.replace(settings(), endpoints=EndpointSettings(key_files=(f"{server.url}={key}",)))
    error = ran(tmp_path, server, given=given).failed
    assert (error.code, "chmod 600" in error.message, "sesame" in error.message) == ("bad_key", True, False)


NO_PARSER = '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'


def test_a_server_that_refuses_tools_is_asked_again_without_them_once(tmp_path: Path, server: StandIn) -> None:
    repo = repository(tmp_path / "repo")
    spec = TaskSpec(description="Write hello.", repo=str(repo), checks=(check("file_exists", "hello.txt"),))
    refusal = {"fault": "400", "error": NO_PARSER}
    call = {"content": f"```json\n{msgspec.json.encode(WRITE).decode()}\n```"}
    one = ran(tmp_path / "a", server, refusal, call, {"content": "I wrote it."}, spec=spec)
    assert (one.completed.status, one.result.stop_reason) == (ResultStatus.verified, "stop")
    assert NO_PARSER in one.log
    error = ran(tmp_path / "b", server, refusal, refusal).failed
    assert (error.failure_class, error.code) == (FailureClass.configuration, "tools_unsupported")


def test_a_server_that_drops_a_part_of_the_prompt_without_a_word_is_found_out(tmp_path: Path, server: StandIn) -> None:
    """One that keeps a window of it: its count stands still while the conversation grows."""
    repo = repository(tmp_path / "repo", {"long.txt": "All work and no play.\n" * 500})
    read = {"tool_calls": [{"name": "read_file", "arguments": {"path": "long.txt"}}], "tokens_in": 2048}
    spec = TaskSpec(description="Read long.txt.", repo=str(repo))
    one = ran(tmp_path / "a", server, read, {"content": "It is long.", "tokens_in": 2048}, spec=spec)
    assert one.completed.context_truncated
    assert any("whole prompt" in warning for warning in one.result.warnings)
    two = ran(tmp_path / "b", server, read, {"content": "It is long.", "tokens_in": 4700}, spec=spec)
    assert not two.completed.context_truncated


def test_an_answer_that_ends_where_the_context_does_says_so(tmp_path: Path, server: StandIn) -> None:
    reply = {"content": "half an ans", "fault": "length", "tokens_in": 4_000, "tokens_out": 96}
    result = ran(tmp_path, server, reply).completed
    assert result.stop_reason == "length"
    assert any("context is full" in warning and "96" in warning for warning in result.warnings)
