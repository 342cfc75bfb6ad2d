"""Complex tasks against a stand-in Anthropic server: what is sent, what it costs, how each failure is classed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentcom.config import Settings
from agentcom.errors import ConfigError
from agentcom.model import Backend, FailureClass, ResultStatus, Strategy, TaskSpec
from agentcom_sidecar.anthropic_key import find_key
from agentcom_sidecar.backends.base import retry_after_s
from agentcom_sidecar.backends.claude import classify, provider_limits
from agentcom_sidecar.execution import execute
from tests.standins import StandIn, standin
from tests.works import Ran, check, repository, run_attempt, settings, work_of

MODEL = "claude-opus-5-5"
KEY = "sk-ant-canary-0123456789"
WRITE = {"name": "write_file", "arguments": {"path": "hello.txt", "content": "hello\n"}}
INFRASTRUCTURE, CONFIGURATION = FailureClass.infrastructure, FailureClass.configuration
TASK_ERROR, USAGE_WINDOW = FailureClass.task_error, FailureClass.usage_window


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with standin("anthropic", key=KEY) as running:
        yield running


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.delenv("ANTHROPIC_AUTH_TOKEN", raising=False)


def ran(folder: Path, server: StandIn, *replies: dict[str, Any], **options: Any) -> Ran:
    server.set_script({"replies": list(replies)})
    spec = options.pop("spec", TaskSpec(description="Write hello to hello.txt."))
    given = settings(base_url=options.pop("base_url", server.url), **options.pop("given", {}))
    options = {"model": MODEL, "num_ctx": None, **options}
    return run_attempt(folder, Strategy.cloud_llm, spec, given=given, **options)


def test_claude_writes_a_file_and_the_work_is_verified_and_priced(tmp_path: Path, server: StandIn) -> None:
    repo = repository(tmp_path / "repo")
    checks = (check("file_exists", "hello.txt"), check("git_clean"))
    spec = TaskSpec(description="Write hello.", repo=str(repo), checks=checks)
    replies = (
        {"content": "I write.", "tool_calls": [WRITE], "tokens_in": 1_000, "tokens_out": 100},
        {"content": "Done now.", "tokens_in": 50, "cache_read_tokens": 900, "cache_write_tokens": 300,
         "tokens_out": 20},
    )  # fmt: skip
    one = ran(tmp_path, server, *replies, spec=spec)
    result = one.completed
    assert result.status is ResultStatus.verified
    assert (result.backend, result.model, result.output) == (Backend.claude, MODEL, "Done now.")
    assert (result.tokens_in, result.tokens_cached, result.tokens_out) == (2_250, 900, 120)
    by_hand = 1_050 * 4 + 900 * 0.2 + 300 * 5 + 120 * 20
    assert result.cost_usd == pytest.approx(by_hand / 1_000_000, rel=1e-12)
    assert (result.prices_as_of, result.cloud_model, result.cloud_cost_usd) == ("2026-11-22", None, None)
    assert result.stop_reason == "end_turn"
    assert one.gates == 2


def test_a_task_of_several_calls_is_priced_call_by_call(tmp_path: Path, server: StandIn) -> None:
    replies = ({"tool_calls": [WRITE], "tokens_in": 60_000}, {"content": "ok", "tokens_in": 60_000})
    result = ran(tmp_path, server, *replies, model="claude-haiku-5-5").completed
    assert result.tokens_in == 120_000  # above the threshold only together, so neither call pays more
    assert result.cost_usd == pytest.approx((120_000 * 0.1 + result.tokens_out * 0.5) / 1_000_000, rel=1e-12)


def test_an_unknown_model_costs_null_and_a_warning_never_zero(tmp_path: Path, server: StandIn) -> None:
    server.set_script({"models": ["claude-next-9"]})
    try:
        result = ran(tmp_path, server, {"content": "ok"}, model="claude-next-9").completed
    finally:
        server.set_script({"models": [MODEL, "claude-haiku-5-5"]})
    assert (result.cost_usd, result.prices_as_of) == (None, None)
    assert any("price of claude-next-9 is unknown" in warning for warning in result.warnings)


def test_a_model_that_is_not_there_has_cost_nothing_though_its_price_is_unknown(
    tmp_path: Path, server: StandIn
) -> None:
    outcome = ran(tmp_path, server, {"content": "ok"}, model="claude-nowhere-9").outcome
    assert outcome is not None
    assert outcome.error is not None
    assert outcome.result is not None
    assert (outcome.result.tokens_in, outcome.result.cost_usd) == (0, 0)


def test_a_price_file_that_cannot_be_read_makes_costs_unknown_and_loses_no_work(
    tmp_path: Path, server: StandIn
) -> None:
    given = {"prices_file": str(tmp_path / "nowhere.toml")}
    result = ran(tmp_path, server, {"content": "ok"}, given=given).completed
    assert result.cost_usd is None
    assert any("nowhere.toml" in warning for warning in result.warnings)


def test_what_the_provider_says_of_its_own_limits_is_in_the_result(tmp_path: Path, server: StandIn) -> None:
    result = ran(tmp_path, server, {"content": "ok"}).completed
    assert result.provider_limits == {
        "requests_limit": 50,
        "requests_remaining": 49,
        "input_tokens_limit": 30_000,
        "input_tokens_remaining": 29_000,
    }


def test_limits_that_make_no_sense_are_left_out() -> None:
    headers = {"anthropic-ratelimit-tokens-limit": "many", "anthropic-ratelimit-tokens-remaining": "-4"}
    assert provider_limits(headers) == {}


def test_what_is_sent_is_the_task_the_tool_and_the_token_limit(tmp_path: Path, server: StandIn) -> None:
    text = "Größe:\ttabs \n\n 'q' \"d\" \\ 🚀  end  "
    ran(
        tmp_path, server, {"content": "ok"}, spec=TaskSpec(description=text), given={"max_output_tokens": 777}
    )
    body = server.log("/v1/messages")[-1]["body"]
    assert body["messages"] == [{"role": "user", "content": text}]
    assert (body["max_tokens"], body["model"], body["stream"]) == (777, MODEL, True)
    assert [tool["name"] for tool in body["tools"]][:2] == ["read_file", "write_file"]
    assert "temperature" not in body


def test_the_tools_answers_come_first_in_the_next_message(tmp_path: Path, server: StandIn) -> None:
    bad = {"name": "write_file", "arguments": {"path": "../x", "content": ""}}
    replies = ({"thinking": "hm", "content": "I write.", "tool_calls": [WRITE, bad]}, {"content": "ok"})
    assert ran(tmp_path, server, *replies).completed.output == "ok"
    _, assistant, answers = server.log("/v1/messages")[-1]["body"]["messages"]
    assert [block["type"] for block in assistant["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert assistant["content"][0]["signature"]
    assert [block["is_error"] for block in answers["content"]] == [False, True]


STATUSES = [
    ("400", TASK_ERROR, "bad_request"),
    ("401", CONFIGURATION, "auth_refused"),
    ("402", CONFIGURATION, "billing"),
    ("403", CONFIGURATION, "permission_denied"),
    ("404", CONFIGURATION, "model_unknown"),
    ("408", INFRASTRUCTURE, "request_timeout"),
    ("413", TASK_ERROR, "prompt_too_large"),
    ("429", USAGE_WINDOW, "rate_limited"),
    ("500", INFRASTRUCTURE, "endpoint_error"),
    ("503", INFRASTRUCTURE, "endpoint_busy"),
    ("504", INFRASTRUCTURE, "request_timeout"),
    ("529", INFRASTRUCTURE, "overloaded"),
    ("cut", INFRASTRUCTURE, "stream_cut"),
    ("mid_stream_error", INFRASTRUCTURE, "overloaded"),
    ("rubbish", INFRASTRUCTURE, None),
    ("empty", TASK_ERROR, "empty_answer"),
    ("refusal", TASK_ERROR, "refusal"),
]


@pytest.mark.parametrize(("fault", "failure_class", "code"), STATUSES, ids=[each[0] for each in STATUSES])
def test_each_failure_has_its_class_and_code_and_is_tried_once(
    tmp_path: Path, server: StandIn, fault: str, failure_class: FailureClass, code: str | None
) -> None:
    before = len(server.log("/v1/messages"))
    one = ran(tmp_path, server, {"fault": fault, "content": "some words to stream"})
    assert one.failed.failure_class is failure_class
    assert one.failed.code in ((code,) if code else ("bad_answer", "stream_cut"))
    assert len(server.log("/v1/messages")) - before == 1  # the hub does the waiting, not the SDK


@pytest.mark.parametrize(
    ("status", "error_type", "expected"),
    [
        (409, "conflict_error", (TASK_ERROR, "conflict")),
        (412, None, (TASK_ERROR, "precondition_failed")),
        (422, None, (TASK_ERROR, "unprocessable")),
        (418, None, (TASK_ERROR, "bad_request")),
        (501, None, (INFRASTRUCTURE, "endpoint_error")),
        (302, None, (CONFIGURATION, "redirected")),
        (400, "billing_error", (CONFIGURATION, "billing")),
        (400, "not yet invented", (TASK_ERROR, "bad_request")),
        (200, "rate_limit_error", (USAGE_WINDOW, "rate_limited")),
        (200, "authentication_error", (CONFIGURATION, "auth_refused")),
        (200, "api_error", (INFRASTRUCTURE, "endpoint_error")),
        (200, None, (INFRASTRUCTURE, "stream_error")),
    ],
)
def test_statuses_and_types_are_classed(
    status: int, error_type: str | None, expected: tuple[FailureClass, str]
) -> None:
    assert classify(status, error_type) == expected


def test_a_usage_window_says_how_long_to_wait(tmp_path: Path, server: StandIn) -> None:
    one = ran(tmp_path, server, {"fault": "429", "retry_after_s": 120})
    assert (one.failed.failure_class, one.failed.retry_after_s) == (USAGE_WINDOW, 120.0)


def test_an_overload_names_no_time_to_wait(tmp_path: Path, server: StandIn) -> None:
    assert ran(tmp_path, server, {"fault": "529", "retry_after_s": 9}).failed.retry_after_s is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after-ms": "1500", "retry-after": "9"}, 1.5),
        ({"retry-after": "9"}, 9.0),
        ({"retry-after-ms": "soon", "retry-after": "2"}, 2.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "nan"}, None),
        ({}, None),
    ],
)
def test_the_time_to_wait_is_read_from_the_headers(headers: dict[str, str], expected: float | None) -> None:
    assert retry_after_s(headers) == expected


def test_a_wait_longer_than_the_wire_allows_is_bounded(tmp_path: Path, server: StandIn) -> None:
    error = ran(tmp_path, server, {"fault": "429", "retry_after_s": 1e9}).failed
    assert error.retry_after_s == 30 * 24 * 3600
    assert msgspec.convert(msgspec.to_builtins(error), type(error)) == error


def test_a_stream_that_breaks_still_says_what_it_used(tmp_path: Path, server: StandIn) -> None:
    one = ran(tmp_path, server, {"fault": "mid_stream_error", "content": "some words", "tokens_in": 5_000})
    assert one.failed.code == "overloaded"
    assert one.result.tokens_in == 5_000
    assert one.result.cost_usd is not None
    assert one.result.cost_usd >= 0.02


@pytest.mark.parametrize("fault", ["max_tokens", "model_context_window_exceeded"])
def test_an_answer_that_was_cut_says_so(tmp_path: Path, server: StandIn, fault: str) -> None:
    result = ran(tmp_path, server, {"fault": fault, "content": "half of"}).completed
    assert (result.stop_reason, result.output) == (fault, "half of")
    assert any(fault in warning for warning in result.warnings)


def test_a_call_that_was_cut_off_by_the_token_limit_writes_nothing(tmp_path: Path, server: StandIn) -> None:
    replies = ({"fault": "max_tokens", "tool_calls": [WRITE]}, {"content": "I give up."})
    one = ran(tmp_path, server, *replies)
    assert one.completed.output == "I give up."
    assert not (one.path / "hello.txt").exists()
    assert "not_run" in one.log


def test_a_paused_turn_is_sent_back_to_go_on(tmp_path: Path, server: StandIn) -> None:
    replies = ({"fault": "pause_turn", "content": "Searching."}, {"content": "Found."})
    assert ran(tmp_path, server, *replies).completed.output == "Found."
    messages = server.log("/v1/messages")[-1]["body"]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"]


def test_a_turn_that_pauses_for_ever_is_bounded(tmp_path: Path, server: StandIn) -> None:
    before = len(server.log("/v1/messages"))
    result = ran(tmp_path, server, {"fault": "pause_turn", "content": "Still searching."}).completed
    assert result.stop_reason == "rounds"
    assert len(server.log("/v1/messages")) - before == 20


def test_silence_before_the_first_byte_is_found_out(tmp_path: Path, server: StandIn) -> None:
    one = ran(tmp_path, server, {"fault": "hang"}, given={"first_byte_s": 0.3})
    assert (one.failed.failure_class, one.failed.code) == (INFRASTRUCTURE, "no_first_byte")


def test_silence_in_the_middle_of_an_answer_is_found_out(tmp_path: Path, server: StandIn) -> None:
    one = ran(tmp_path, server, {"fault": "stall", "content": "some words"}, given={"idle_s": 0.3})
    assert (one.failed.failure_class, one.failed.code) == (INFRASTRUCTURE, "stream_stalled")


def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path, server: StandIn) -> None:
    one = ran(tmp_path, server, base_url="http://127.0.0.1:9")
    assert (one.failed.failure_class, one.failed.code) == (INFRASTRUCTURE, "endpoint_unreachable")


# The key.


def test_a_key_that_cannot_stand_in_a_header_is_refused_and_never_shown(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary\nx-other: 1")
    one = ran(tmp_path, server)
    assert (one.failed.failure_class, one.failed.code) == (CONFIGURATION, "bad_key")
    assert "canary" not in repr(one.outcome) + one.log


def test_a_proxy_of_the_environment_never_sees_a_key_in_clear(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standin("anthropic") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("ALL_PROXY", proxy.url)
        assert ran(tmp_path, server, {"content": "ok"}).completed.output == "ok"
        assert proxy.log() == []


def test_the_key_is_in_no_result_and_no_log_even_when_it_is_refused(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = "sk-ant-wrong-canary-42"
    monkeypatch.setenv("ANTHROPIC_API_KEY", wrong)
    reply = {"fault": "401", "error": f"invalid x-api-key: {wrong}"}
    one = ran(tmp_path, server, reply)
    assert (one.failed.failure_class, one.failed.code) == (CONFIGURATION, "auth_refused")
    assert "canary" not in repr(one.outcome) + one.log


def test_the_key_goes_to_no_address_that_the_hub_names(tmp_path: Path, server: StandIn) -> None:
    with standin("anthropic") as elsewhere:
        ran(tmp_path, server, {"content": "ok"}, endpoint_url=elsewhere.url)
        assert elsewhere.log() == []


def test_a_host_without_a_key_says_so_and_calls_nobody(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    before = len(server.log())
    one = ran(tmp_path, server)
    assert (one.failed.failure_class, one.failed.code) == (CONFIGURATION, "no_key")
    assert len(server.log()) == before


def key_settings(path: Path) -> Settings:
    return settings(key_file=str(path))


def test_the_key_comes_from_the_environment_then_from_a_private_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-from-file\n")
    file.chmod(0o600)
    assert find_key(key_settings(file), {}) == "sk-from-file"
    assert find_key(key_settings(file), {"ANTHROPIC_API_KEY": "sk-from-environment"}) == "sk-from-environment"
    assert find_key(settings(), {}) is None


def test_a_key_file_that_others_can_read_is_refused_with_the_remedy(tmp_path: Path, server: StandIn) -> None:
    file = tmp_path / "key"
    file.write_text("sk-from-file\n")
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        find_key(key_settings(file), {})


@pytest.mark.parametrize("content", [None, b"", b"\n", b"\xff\xfe", b"sk-canary-one\nsk-canary-two\n"])
def test_a_key_file_that_holds_no_key_is_refused(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
        file.chmod(0o600)
    with pytest.raises(ConfigError, match="key_file") as caught:
        find_key(key_settings(file), {})
    assert "canary" not in str(caught.value)


def test_a_cancelled_attempt_closes_its_connection(tmp_path: Path, server: StandIn) -> None:
    server.set_script({"replies": [{"fault": "stall", "content": "some words"}]})
    before = len(server.log("/v1/messages"))

    async def run() -> None:
        given = settings(base_url=server.url, idle_s=60)
        spec = TaskSpec(description="d")
        work, ran = await work_of(tmp_path, Strategy.cloud_llm, spec, model=MODEL, given=given)
        attempt = asyncio.create_task(execute(work))
        deadline = time.monotonic() + 10
        while ran.steps < 3:
            assert time.monotonic() < deadline, "the model did not answer"
            await asyncio.sleep(0.02)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt

    asyncio.run(run())
    deadline = time.monotonic() + 10
    while (entries := server.log("/v1/messages")[before:])[-1]["outcome"] != "client_left":
        assert time.monotonic() < deadline, entries
    assert len(entries) == 1
