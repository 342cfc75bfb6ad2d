"""Standard tasks against a stand-in Ollama server: what is sent, what is counted, how each failure is classed."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentcom.addresses import is_allowed
from agentcom.model import Backend, FailureClass, ResultStatus, Strategy, TaskSpec
from agentcom_sidecar.backends.base import BackendError, Conversation
from agentcom_sidecar.backends.context import looks_truncated
from agentcom_sidecar.backends.ollama import OllamaBackend
from agentcom_sidecar.execution import execute
from tests.standins import StandIn, standin
from tests.works import Ran, check, repository, run_attempt, settings, work_of

MODEL = "llama3.2:latest"
WRITE = {"name": "write_file", "arguments": {"path": "hello.txt", "content": "hello\n"}}


def script(*replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"models": [{"name": MODEL, "warm": True}], "replies": list(replies), **more}


@pytest.fixture(scope="module")
def shared() -> Iterator[StandIn]:
    with standin("ollama") as server:
        yield server


@pytest.fixture
def server(shared: StandIn) -> StandIn:
    shared.set_script(script())
    return shared


def ran(folder: Path, server: StandIn, *replies: dict[str, Any], **options: Any) -> Ran:
    server.set_script(script(*replies))
    spec = options.pop("spec", TaskSpec(description="Write hello to hello.txt."))
    options = {"endpoint_url": server.url, "model": MODEL, **options}
    return run_attempt(folder, Strategy.local_llm, spec, **options)


def last_chat(server: StandIn) -> dict[str, Any]:
    body: dict[str, Any] = server.log("/api/chat")[-1]["body"]
    return body


def test_a_model_writes_a_file_and_the_work_is_verified(tmp_path: Path, server: StandIn) -> None:
    repo = repository(tmp_path / "repo")
    spec = TaskSpec(
        description="Write hello.",
        repo=str(repo),
        checks=(check("file_exists", "hello.txt"), check("git_clean")),
    )
    replies = (
        {"tool_calls": [WRITE], "tokens_in": 200, "tokens_out": 30},
        {"content": "I wrote it.", "tokens_in": 260, "tokens_out": 5},
    )
    one = ran(tmp_path, server, *replies, spec=spec)
    result = one.completed
    assert result.status is ResultStatus.verified
    assert (result.backend, result.model, result.output) == (Backend.ollama, MODEL, "I wrote it.")
    assert (result.tokens_in, result.tokens_out, result.tokens_cached) == (460, 35, 0)
    assert (result.files_changed, result.stop_reason) == (("hello.txt",), "stop")
    assert {"model", "load", "checks"} <= result.durations_ms.keys()
    assert one.gates == 2  # asked before each of the two model calls
    assert one.steps >= 4
    assert "[round 1] write_file path=hello.txt content=(6 characters) -> written hello.txt 6 True\n" in one.log
    assert "[round 1] 200 tokens in, 30 out\n" in one.log


def test_local_work_costs_nothing_and_says_what_it_would_have_cost_in_the_cloud(
    tmp_path: Path, server: StandIn
) -> None:
    result = ran(tmp_path, server, {"content": "42", "tokens_in": 1_000, "tokens_out": 100}).completed
    assert (result.cost_usd, result.cloud_model) == (0.0, "claude-sonnet-5-5")
    assert result.cloud_cost_usd == (1_000 * 2 + 100 * 10) / 1_000_000
    assert result.prices_as_of == "2026-11-22"


def test_what_a_third_party_ran_costs_nobody_knows_what_unless_the_prices_name_it(
    tmp_path: Path, server: StandIn
) -> None:
    """Never nothing: an unknown bill is not a free one."""
    prices_file = tmp_path / "prices.toml"
    rates = "input = 1.0\noutput = 5.0\ncache_read = 0.1\ncache_write_5m = 1.25\ncache_write_1h = 2.0\n"
    prices_file.write_text(f'as_of = "2026-11-01"\n[models."{MODEL}"]\n{rates}')
    for name, cost in (("", None), (str(prices_file), (1_000 * 1 + 100 * 5) / 1_000_000)):
        folder = tmp_path / f"with-{bool(name)}"
        folder.mkdir()
        reply = {"content": "42", "tokens_in": 1_000, "tokens_out": 100}
        one = ran(folder, server, reply, given=settings(prices_file=name), remote=True)
        assert one.completed.cost_usd == cost
        assert any(MODEL in warning for warning in one.completed.warnings) == (cost is None)


def test_num_ctx_num_predict_and_keep_alive_are_in_every_call(tmp_path: Path, server: StandIn) -> None:
    before = len(server.log("/api/chat"))
    ran(tmp_path, server, {"tool_calls": [WRITE]}, {"content": "ok"}, num_ctx=4096)
    bodies = [entry["body"] for entry in server.log("/api/chat")[before:]]
    assert len(bodies) == 2
    for body in bodies:
        assert body["options"] == {"num_ctx": 4096, "num_predict": 4096}
        assert (body["keep_alive"], body["stream"], body["model"]) == ("10m", True, MODEL)
        assert [tool["function"]["name"] for tool in body["tools"]][:2] == ["read_file", "write_file"]


def test_the_tools_answer_goes_back_with_the_models_own_call(tmp_path: Path, server: StandIn) -> None:
    ran(tmp_path, server, {"tool_calls": [WRITE]}, {"content": "ok"})
    system, user, assistant, tool = last_chat(server)["messages"]
    assert (system["role"], user["content"]) == ("system", "Write hello to hello.txt.")
    assert assistant["tool_calls"][0]["function"]["arguments"] == WRITE["arguments"]
    assert (tool["role"], tool["tool_name"]) == ("tool", "write_file")
    assert tool["tool_call_id"] == assistant["tool_calls"][0]["id"]


def test_the_task_arrives_byte_for_byte(tmp_path: Path, server: StandIn) -> None:
    text = "Größe:\ttabs \n\n  'quotes' \"double\" \\ back 🚀 \x01 end  "
    ran(tmp_path, server, {"content": "ok"}, spec=TaskSpec(description=text))
    assert last_chat(server)["messages"][1]["content"] == text


@pytest.mark.parametrize("path", ["../outside.txt", "/tmp/outside.txt", ".git/config"])
def test_a_tool_call_out_of_the_worktree_is_answered_and_the_attempt_goes_on(
    tmp_path: Path, server: StandIn, path: str
) -> None:
    call = {"name": "write_file", "arguments": {"path": path, "content": "x"}}
    one = ran(tmp_path, server, {"tool_calls": [call]}, {"content": "I could not."})
    assert one.completed.output == "I could not."
    assert "path_refused" in last_chat(server)["messages"][3]["content"]


def test_rubbish_tool_arguments_are_answered_and_the_attempt_goes_on(tmp_path: Path, server: StandIn) -> None:
    calls = [{"name": "write_file", "arguments": "rubbish {"}, {"name": "format_disk", "arguments": {}}]
    one = ran(tmp_path, server, {"tool_calls": calls}, {"content": "ok"})
    assert one.completed.output == "ok"
    first, second = last_chat(server)["messages"][3:]
    assert "bad_arguments" in first["content"]
    assert "unknown_tool" in second["content"]


def test_a_model_that_repeats_itself_is_stopped(tmp_path: Path, server: StandIn) -> None:
    before = len(server.log("/api/chat"))
    result = ran(tmp_path, server, {"tool_calls": [WRITE]}).completed
    assert result.stop_reason == "repetition"
    assert len(server.log("/api/chat")) - before == 4  # the first made the file, three more changed nothing


def test_a_model_that_never_ends_is_stopped_after_the_rounds_of_its_tier(
    tmp_path: Path, server: StandIn
) -> None:
    before = len(server.log("/api/chat"))
    calls = [{"name": "write_file", "arguments": {"path": f"{n}.txt", "content": ""}} for n in range(40)]
    one = ran(tmp_path, server, *({"tool_calls": [call]} for call in calls))
    assert one.completed.stop_reason == "rounds"
    assert len(server.log("/api/chat")) - before == 10
    assert any("10 rounds" in warning for warning in one.result.warnings)


FAULTS = [
    ("500", FailureClass.infrastructure, "endpoint_error"),
    ("502", FailureClass.infrastructure, "endpoint_error"),
    ("503", FailureClass.infrastructure, "endpoint_busy"),
    ("404", FailureClass.infrastructure, "model_missing"),
    ("400", FailureClass.configuration, "bad_request"),
    ("401", FailureClass.configuration, "auth_refused"),
    ("403", FailureClass.configuration, "forbidden"),
    ("429", FailureClass.usage_window, "rate_limited"),
    ("cut", FailureClass.infrastructure, "stream_cut"),
    ("unfinished", FailureClass.infrastructure, "stream_cut"),
    ("mid_stream_error", FailureClass.infrastructure, "stream_error"),
    ("rubbish", FailureClass.infrastructure, "bad_answer"),
    ("empty", FailureClass.task_error, "empty_answer"),
]


@pytest.mark.parametrize(("fault", "failure_class", "code"), FAULTS, ids=[each[0] for each in FAULTS])
def test_each_failure_has_its_class_and_code(
    tmp_path: Path, server: StandIn, fault: str, failure_class: FailureClass, code: str
) -> None:
    one = ran(tmp_path, server, {"fault": fault, "content": "some words to stream"})
    assert (one.failed.failure_class, one.failed.code) == (failure_class, code)
    assert one.result.cost_usd == 0.0


@pytest.mark.parametrize(("told_s", "expected_s"), [(6, 6.0), (None, None), (1e9, 30 * 24 * 3600.0)])
def test_a_limit_says_when_to_come_back(
    tmp_path: Path, server: StandIn, told_s: float | None, expected_s: float | None
) -> None:
    error = ran(tmp_path, server, {"fault": "429", "retry_after_s": told_s}).failed
    assert (error.failure_class, error.retry_after_s) == (FailureClass.usage_window, expected_s)


def test_silence_before_the_first_byte_is_found_out(tmp_path: Path, server: StandIn) -> None:
    one = ran(tmp_path, server, {"fault": "hang"}, given=settings(first_byte_s=0.3))
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.infrastructure, "no_first_byte")
    server.wait_for_outcome("client_left", "/api/chat")


def test_silence_in_the_middle_of_an_answer_is_found_out(tmp_path: Path, server: StandIn) -> None:
    one = ran(tmp_path, server, {"fault": "stall", "content": "some words"}, given=settings(idle_s=0.3))
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.infrastructure, "stream_stalled")


def test_a_slow_answer_with_pieces_in_time_is_no_failure(tmp_path: Path, server: StandIn) -> None:
    reply = {"content": "one two three four", "chunks": 6, "chunk_delay_s": 0.15}
    one = ran(tmp_path, server, reply, given=settings(first_byte_s=2, idle_s=0.6))
    assert one.completed.output == "one two three four"


def test_a_task_that_runs_out_of_time_fails_with_what_it_used(tmp_path: Path, server: StandIn) -> None:
    look = {"name": "list_directory", "arguments": {}}
    replies = ({"tool_calls": [look], "tokens_in": 50, "tokens_out": 7}, {"fault": "hang"})
    one = ran(tmp_path, server, *replies, timeout_s=1, given=settings(first_byte_s=60))
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.task_error, "timed_out")
    assert (one.result.tokens_in, one.result.tokens_out) == (50, 7)


def test_a_model_that_calls_nonsense_for_ever_ends_in_its_failure_class(tmp_path: Path, server: StandIn) -> None:
    one = ran(tmp_path, server, {"tool_calls": [{"name": "format_disk", "arguments": {}}]})
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.task_error, "bad_tool_calls")
    assert "a model that is better with tools" in one.failed.message


def test_calls_that_a_model_writes_as_text_are_run_and_answered_as_text(tmp_path: Path, server: StandIn) -> None:
    written = 'I write it.\n```json\n{"name": "write_file", "arguments": {"path": "a.txt", "content": "x"}}\n```'
    spec = TaskSpec(description="d", checks=(check("file_exists", "a.txt"),))
    one = ran(tmp_path, server, {"content": written}, {"content": "Done."}, spec=spec)
    assert one.completed.status is ResultStatus.verified
    assert last_chat(server)["messages"][3] == {
        "role": "user",
        "content": '[write_file] {"status":"written","path":"a.txt","bytes":1,"created":true}',
    }


def test_a_model_runs_commands_and_searches_in_its_worktree(tmp_path: Path, server: StandIn) -> None:
    calls = [
        {"name": "run_command", "arguments": {"command": "echo one:two > sub.txt; echo made; exit 3"}},
        {"name": "search_files", "arguments": {"pattern": "one:t"}},
        {"name": "search_files", "arguments": {"pattern": "[a-", "is_regex": True}},
        {"name": "finish", "arguments": {"summary": "Made."}},
        {"name": "write_file", "arguments": {"path": "late", "content": ""}},
    ]
    accepts = settings(accept_unisolated=True)
    one = ran(tmp_path, server, {"tool_calls": calls}, given=accepts)
    assert (one.completed.output, one.result.stop_reason) == ("Made.", "finish")
    assert "-> exit code 3," in one.log
    assert "search_files pattern=one:t -> found 1 lines" in one.log
    assert "is_regex=True -> failed: bad_arguments" in one.log
    assert "write_file path=late content= -> failed: not_run" in one.log
    assert not (one.path / "late").exists()


def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path, server: StandIn) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        one = ran(tmp_path, server, endpoint_url=url)
    assert (one.failed.failure_class, one.failed.code) == (
        FailureClass.infrastructure,
        "endpoint_unreachable",
    )


def test_a_model_without_tools_is_told_them_in_words_and_its_calls_are_read_from_its_text(
    tmp_path: Path, server: StandIn
) -> None:
    repo = repository(tmp_path / "repo")
    models = [{"name": MODEL, "capabilities": ["completion"]}]
    written = f"I write it. <tool_call>{json.dumps(WRITE)}</tool_call>"
    server.set_script({"models": models, "replies": [{"content": written}, {"content": "Done."}]})
    spec = TaskSpec(description="d", repo=str(repo), checks=(check("file_exists", "hello.txt"),))
    one = run_attempt(tmp_path, Strategy.local_llm, spec, endpoint_url=server.url, model=MODEL)
    assert (one.completed.status, one.result.output) == (ResultStatus.verified, "Done.")
    assert [warning for warning in one.result.warnings if "refuses tools" in warning] == [one.result.warnings[0]]
    assert "[round 1] the server refuses tools" in one.log
    refused, *answered = [each["body"] for each in server.log("/api/chat")[-3:]]
    assert ("tools" in refused, [("tools" in body) for body in answered]) == (True, [False, False])
    assert "write_file" in answered[0]["messages"][0]["content"]
    assert answered[1]["messages"][-1]["role"] == "user"


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://127.0.0.1", "bad_endpoint"),
        ("http://", "bad_endpoint"),
        ("http://127.0.0.1:99999", "bad_endpoint"),
        ("http://169.254.169.254", "endpoint_refused"),
        ("http://[fe80::1]:11434", "endpoint_refused"),
        ("http://0.0.0.0:11434", "endpoint_refused"),
    ],
)
def test_an_address_where_no_model_may_be_is_refused(
    tmp_path: Path, server: StandIn, url: str, code: str
) -> None:
    one = ran(tmp_path, server, endpoint_url=url)
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.configuration, code)


def test_a_metadata_address_in_another_guise_is_refused() -> None:
    assert not is_allowed("::ffff:169.254.169.254")
    assert is_allowed("127.0.0.1")
    assert is_allowed("10.0.0.7")


def test_a_name_is_resolved_and_reached_on_the_address_that_listens(tmp_path: Path, server: StandIn) -> None:
    url = f"http://localhost:{server.port}/"
    assert ran(tmp_path, server, {"content": "ok"}, endpoint_url=url).completed.output == "ok"
    assert server.log("/api/chat")[-1]["headers"]["host"] == f"localhost:{server.port}"


def test_of_a_names_addresses_the_refused_are_left_out_and_the_dead_are_passed_over(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = ["169.254.169.254", "127.0.0.2", "127.0.0.1"]  # nothing listens on the second

    def resolved(_host: str, port: int, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    url = f"http://localhost:{server.port}"
    assert ran(tmp_path, server, {"content": "ok"}, endpoint_url=url).completed.output == "ok"


def test_an_answer_cut_by_the_token_limit_says_so(tmp_path: Path, server: StandIn) -> None:
    result = ran(
        tmp_path, server, {"content": "word " * 100, "tokens_out": 100}, given=settings(max_output_tokens=10)
    ).completed
    assert (result.stop_reason, result.tokens_out) == ("length", 10)
    assert any("token limit" in warning for warning in result.warnings)


def test_all_tokens_spent_on_thinking_is_an_empty_answer_with_its_remedy(
    tmp_path: Path, server: StandIn
) -> None:
    models = [{"name": MODEL, "capabilities": ["completion", "tools", "thinking"]}]
    replies = [{"content": "", "thinking": "hm", "fault": "length", "tokens_out": 5}]
    server.set_script({"models": models, "replies": replies})
    spec = TaskSpec(description="d")
    one = run_attempt(tmp_path, Strategy.local_llm, spec, endpoint_url=server.url, model=MODEL)
    assert one.failed.code == "empty_answer"
    assert "max_output_tokens" in one.failed.message
    assert one.result.tokens_out == 5


def test_a_context_that_was_cut_in_silence_is_flagged(tmp_path: Path, server: StandIn) -> None:
    spec = TaskSpec(description="A long task. " * 1000)
    one = ran(tmp_path, server, {"content": "What was the question?"}, spec=spec, num_ctx=512)
    assert one.completed.context_truncated is True
    assert any("whole prompt" in warning for warning in one.result.warnings)


def test_a_long_task_that_fits_is_not_flagged(tmp_path: Path, server: StandIn) -> None:
    spec = TaskSpec(description="A long task. " * 1000)
    assert ran(tmp_path, server, {"content": "ok"}, spec=spec).completed.context_truncated is False


@pytest.mark.parametrize(
    ("chars", "counted", "num_ctx", "expected"),
    [
        (3_000, 26, 8192, False),  # a prompt that cannot have overflowed, whatever was counted
        (20_000, 4_800, 8192, False),
        (40_000, 4_098, 8192, True),  # half of the context and two
        (40_000, 8_000, 8192, False),  # prose of five characters a token
        (90_000, 8_100, 8192, True),  # cannot have fitted
        (90_000, 0, 8192, False),  # the server said nothing
    ],
)
def test_truncation_is_told_from_figures(chars: int, counted: int, num_ctx: int, expected: bool) -> None:
    assert looks_truncated(chars, counted, num_ctx) is expected


def test_a_cancelled_attempt_closes_its_connection(tmp_path: Path, server: StandIn) -> None:
    server.set_script(script({"fault": "hang"}))
    before = len(server.log("/api/chat"))

    async def run() -> None:
        spec = TaskSpec(description="d")
        work, _ = await work_of(tmp_path, Strategy.local_llm, spec, endpoint_url=server.url, model=MODEL)
        attempt = asyncio.create_task(execute(work))
        deadline = time.monotonic() + 10
        while len(await asyncio.to_thread(server.log, "/api/chat")) == before:
            assert time.monotonic() < deadline, "the model was not called"
            await asyncio.sleep(0.02)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt

    asyncio.run(run())
    entries = server.log("/api/chat")[before:]
    deadline = time.monotonic() + 10
    while entries[-1]["outcome"] != "client_left":
        assert time.monotonic() < deadline, entries
        entries = server.log("/api/chat")[before:]
    assert len(entries) == 1


def test_a_proxy_of_the_environment_is_not_used(
    tmp_path: Path, server: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    assert ran(tmp_path, server, {"content": "ok"}).completed.output == "ok"


# Servers that no Ollama would be: raw bytes from a socket.


def served(answer: bytes) -> tuple[str, threading.Thread]:
    """A server for one connection that reads a request, says `answer` and closes."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            received = b""
            # The whole request: what is left unread would turn the close into a reset.
            while not received.endswith(b"}"):
                received += connection.recv(65536)
            try:
                connection.sendall(answer)
            except OSError:
                return  # the client had seen enough

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", thread


def code_for(answer: bytes) -> str:
    async def call(url: str) -> str:
        backend = OllamaBackend(url=url, model=MODEL, num_ctx=512, num_predict=16, first_byte_s=10, idle_s=10)
        async with backend:
            with pytest.raises(BackendError) as caught:
                await backend.call(Conversation("s", ["hello"]), (), lambda: None)
        return caught.value.code

    url, thread = served(answer)
    try:
        return asyncio.run(call(url))
    finally:
        thread.join(10)


HEAD = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
DONE = b'"done":true,"done_reason":"stop"}\n'


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "stream_cut"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "stream_cut"),
        (b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n", "redirected"),
        (HEAD, "stream_cut"),
        (HEAD + b"[1, 2]\n", "bad_answer"),
        (HEAD + b'{"message": {"content": 5}}\n', "bad_answer"),
        (HEAD + b'{"message": {"tool_calls": {"a": 1}}}\n', "bad_answer"),
        (HEAD + b"[" * 200_000 + b"\n", "bad_answer"),
        (HEAD + b"x" * 5_000_000, "bad_answer"),
        (HEAD + b'{"done_reason":"load","done":true}\n', "bad_answer"),
        (HEAD + b'{"message":{"content":"half', "bad_answer"),
        (HEAD + b'{"error":{"message":"odd"}}\n', "stream_error"),
    ],
)
def test_what_is_no_answer_of_this_api_never_passes_for_one(answer: bytes, code: str) -> None:
    assert code_for(answer) == code


def test_half_a_surrogate_pair_and_odd_figures_do_no_harm(tmp_path: Path, server: StandIn) -> None:
    figures = b'"prompt_eval_count":-5,"eval_count":"x","load_duration":1e400,'
    line = b'{"message":{"content":"a\\ud800b"},' + figures + DONE
    url, thread = served(HEAD + line)
    result = ran(tmp_path, server, endpoint_url=url).completed
    thread.join(10)
    assert (result.output, result.tokens_in, result.tokens_out) == ("a?b", 0, 0)
