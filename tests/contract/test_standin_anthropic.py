"""The Anthropic stand-in, seen through the real SDK: what each answer and each fault looks like there."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import Anthropic
from anthropic.types import Message, MessageParam, ToolParam

from tests.standins import StandIn, standin
from tests.standins.starter import ROOT

MODEL = "claude-sonnet-5-5"
HELLO: list[MessageParam] = [{"role": "user", "content": "Say hello"}]
TOOL: ToolParam = {
    "name": "read_file",
    "description": "",
    "input_schema": {"type": "object", "properties": {}},
}
CALL = {"name": "read_file", "arguments": {"path": "a.py"}}


@pytest.fixture(scope="module")
def process() -> Iterator[StandIn]:
    with standin("anthropic") as running:
        yield running


@pytest.fixture
def server(process: StandIn) -> StandIn:
    """One process for all tests, as new: default replies, an empty log."""
    process.reset()
    return process


@pytest.fixture(scope="module")
def http() -> Iterator[httpx2.Client]:
    with httpx2.Client(timeout=10.0) as client:
        yield client


@pytest.fixture
def client(server: StandIn, http: httpx2.Client) -> Anthropic:
    return Anthropic(api_key="x", base_url=server.url, max_retries=0, http_client=http)


def create(client: Anthropic, messages: list[MessageParam] = HELLO, **fields: Any) -> Message:
    message: Message = client.messages.create(model=MODEL, max_tokens=1000, messages=messages, **fields)
    return message


def streamed(client: Anthropic, **fields: Any) -> tuple[Sequence[str], Message]:
    with client.messages.stream(model=MODEL, max_tokens=1000, messages=HELLO, **fields) as stream:
        types = [event.type for event in stream]
        return types, stream.get_final_message()


def test_a_whole_answer_has_text_a_stop_reason_and_usage(client: Anthropic, server: StandIn) -> None:
    reply = {
        "content": "Hello",
        "tokens_in": 12,
        "tokens_out": 5,
        "cache_read_tokens": 7,
        "cache_write_tokens": 3,
    }
    server.set_script({"replies": [reply]})
    message = create(client)
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": "Hello"}]
    assert (message.role, message.model, message.stop_reason) == ("assistant", MODEL, "end_turn")
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens) == (12, 5)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (7, 3)
    assert usage.cache_creation is not None
    assert usage.cache_creation.ephemeral_5m_input_tokens == 3
    assert (message._request_id or "").startswith("req_")


def test_a_stream_has_its_events_in_order_and_cumulative_usage(client: Anthropic, server: StandIn) -> None:
    server.set_script({"replies": [{"content": "Hello", "chunks": 1, "tokens_in": 12, "tokens_out": 5}]})
    events = list(client.messages.create(model=MODEL, max_tokens=1000, messages=HELLO, stream=True))
    assert [event.type for event in events] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start, end = events[0], events[-2]
    assert start.type == "message_start"
    assert (start.message.usage.input_tokens, start.message.stop_reason) == (12, None)
    assert end.type == "message_delta"
    assert (end.usage.output_tokens, end.delta.stop_reason) == (5, "end_turn")


def test_thinking_text_and_tool_use_come_as_blocks_of_one_message(client: Anthropic, server: StandIn) -> None:
    server.set_script({"replies": [{"thinking": "Let me look", "content": "I look", "tool_calls": [CALL]}]})
    types, message = streamed(client, tools=[TOOL])
    assert {"thinking", "signature", "text", "input_json"} <= set(types)
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use"]
    assert message.stop_reason == "tool_use"
    call = message.content[-1]
    assert call.type == "tool_use"
    assert (call.name, call.input) == ("read_file", {"path": "a.py"})
    assert call.id.startswith("toolu_")


def test_a_tool_loop_goes_on_when_each_call_has_its_result(client: Anthropic, server: StandIn) -> None:
    server.set_script({"replies": [{"tool_calls": [CALL]}, {"content": "It says hi"}]})
    first = create(client, tools=[TOOL])
    call = first.content[0]
    assert call.type == "tool_use"
    result: MessageParam = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "hi"}],
    }
    turn: MessageParam = {"role": "assistant", "content": [*first.content]}
    second = create(client, [*HELLO, turn, result], tools=[TOOL])
    assert second.stop_reason == "end_turn"
    with pytest.raises(anthropic.BadRequestError, match="without tool_result blocks immediately after"):
        create(client, [*HELLO, turn, *HELLO], tools=[TOOL])
    with pytest.raises(anthropic.BadRequestError, match="unexpected tool_use_id"):
        create(client, [*HELLO, result], tools=[TOOL])


def test_a_model_that_was_offered_no_tools_writes_its_call_as_text(
    client: Anthropic, server: StandIn
) -> None:
    server.set_script({"replies": [{"tool_calls": [CALL]}]})
    message = create(client)
    assert [block.type for block in message.content] == ["text"]
    assert message.stop_reason == "end_turn"


@pytest.mark.parametrize(
    ("status", "raised", "error_type"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (402, anthropic.PaymentRequiredError, "billing_error"),
        (403, anthropic.PermissionDeniedError, "permission_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (413, anthropic.ContentTooLargeError, "request_too_large"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (503, anthropic.ServiceUnavailableError, "api_error"),
        (529, anthropic.OverloadedError, "overloaded_error"),
    ],
)
def test_a_status_fault_raises_the_named_error_and_strikes_once(
    client: Anthropic, server: StandIn, status: int, raised: type[anthropic.APIStatusError], error_type: str
) -> None:
    server.set_script({"replies": [{"fault": str(status)}, {"fault": str(status)}, {"content": "Now"}]})
    for call in (create, streamed):
        with pytest.raises(raised) as caught:
            call(client)
        assert (caught.value.status_code, caught.value.type) == (status, error_type)
        assert (caught.value.request_id or "").startswith("req_")
    assert create(client).stop_reason == "end_turn"


def test_a_rate_limit_says_when_to_come_back(client: Anthropic, server: StandIn) -> None:
    server.set_script({"replies": [{"fault": "429", "retry_after_s": 17}]})
    with pytest.raises(anthropic.RateLimitError) as caught:
        create(client)
    assert caught.value.response.headers["retry-after"] == "17"


def test_an_error_event_in_mid_stream_has_status_200_and_its_type(client: Anthropic, server: StandIn) -> None:
    server.set_script({"replies": [{"content": "Hello there", "fault": "mid_stream_error"}]})
    with pytest.raises(anthropic.APIStatusError) as caught:
        streamed(client)
    assert type(caught.value) is anthropic.APIStatusError
    assert (caught.value.status_code, caught.value.type) == (200, "overloaded_error")


def test_a_cut_answer_is_never_taken_for_a_whole_one(client: Anthropic, server: StandIn) -> None:
    server.set_script({"replies": [{"content": "Hello there", "fault": "cut"}]})
    with pytest.raises(anthropic.APIConnectionError):
        create(client)
    with pytest.raises(httpx2.RemoteProtocolError):  # the SDK wraps it only before the first byte of a stream
        streamed(client)
    assert server.wait_for_outcome("cut", "/v1/messages")["status"] == 200


@pytest.mark.parametrize(
    ("fault", "raised", "status"),
    [("hang", anthropic.APITimeoutError, None), ("stall", httpx2.ReadTimeout, 200)],
)
def test_a_hung_answer_is_silent_until_its_client_leaves(
    client: Anthropic, server: StandIn, fault: str, raised: type[Exception], status: int | None
) -> None:
    server.set_script({"replies": [{"content": "Hello there", "fault": fault}]})
    with pytest.raises(raised):
        streamed(client.with_options(timeout=0.3))
    assert server.wait_for_outcome("client_left", "/v1/messages")["status"] == status
    server.wait_for(lambda state: state["in_flight"] == {})


@pytest.mark.parametrize("reason", ["max_tokens", "refusal", "pause_turn", "model_context_window_exceeded"])
def test_each_stop_reason_can_be_played(client: Anthropic, server: StandIn, reason: str) -> None:
    server.set_script({"replies": [{"content": "Half of", "fault": reason}]})
    assert create(client).stop_reason == reason
    assert streamed(client)[1].stop_reason == reason


def test_an_answer_longer_than_max_tokens_is_cut_there(client: Anthropic, server: StandIn) -> None:
    server.set_script({"replies": [{"content": "abcdefghij", "tokens_out": 2000}]})
    message = create(client)
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 1000)
    assert message.content[0].to_dict()["text"] == "abcde"


def test_an_empty_answer_has_no_blocks(client: Anthropic, server: StandIn) -> None:
    server.set_script({"replies": [{"fault": "empty"}]})
    assert create(client).content == []
    assert streamed(client)[1].content == []


@pytest.mark.parametrize(
    ("fields", "raised", "text"),
    [
        ({"model": "claude-unheard-of"}, anthropic.NotFoundError, "model: claude-unheard-of"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens"),
        ({"messages": []}, anthropic.BadRequestError, "at least one message"),
        ({"messages": [{"role": "user", "content": ""}]}, anthropic.BadRequestError, "must be non-empty"),
        ({"tools": [{"name": "f", "input_schema": {}}]}, anthropic.BadRequestError, "input_schema.type"),
    ],
)
def test_a_wrong_request_is_refused_with_its_field(
    client: Anthropic, fields: dict[str, Any], raised: type[anthropic.APIStatusError], text: str
) -> None:
    request: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": HELLO} | fields
    with pytest.raises(raised, match=text):
        client.messages.create(**request)


def test_tokens_are_counted_and_models_listed(client: Anthropic) -> None:
    short = client.messages.count_tokens(model=MODEL, messages=HELLO).input_tokens
    long = client.messages.count_tokens(
        model=MODEL, messages=[{"role": "user", "content": "word " * 400}]
    ).input_tokens
    assert 0 < short < 100 < long
    assert MODEL in [model.id for model in client.models.list()]
    assert client.models.retrieve(MODEL).id == MODEL


def test_a_key_is_read_from_either_header_and_any_other_is_refused(http: httpx2.Client) -> None:
    with standin("anthropic", key="right") as server:
        for headers, status in (
            ({"authorization": "Bearer right"}, 200),
            ({"x-api-key": "right", "anthropic-version": "2023-06-01"}, 200),
            ({"x-api-key": "wrong"}, 401),
            ({}, 401),
        ):
            assert http.get(f"{server.url}/v1/models", headers=headers).status_code == status
        with pytest.raises(anthropic.AuthenticationError) as caught:
            create(Anthropic(api_key="wrong", base_url=server.url, max_retries=0, http_client=http))
        assert caught.value.type == "authentication_error"
        assert server.log()[-1]["headers"]["authorization"] == "Bearer wrong"


def test_an_error_body_names_its_request(http: httpx2.Client, server: StandIn) -> None:
    response = http.post(f"{server.url}/v1/messages", content=b"{", headers={"x-api-key": "x"})
    body = response.json()
    assert (response.status_code, body["type"]) == (400, "error")
    assert set(body["error"]) == {"type", "message"}
    assert body["request_id"] == response.headers["request-id"]


def test_a_query_and_a_look_whether_anybody_is_there_do_no_harm(http: httpx2.Client, server: StandIn) -> None:
    body = {"model": MODEL, "max_tokens": 10, "messages": HELLO}
    response = http.post(f"{server.url}/v1/messages?beta=true", json=body, headers={"x-api-key": "x"})
    assert response.json()["type"] == "message"
    assert http.head(server.url).status_code == 200
    assert [(entry["path"], entry["query"]) for entry in server.log()] == [
        ("/v1/messages", "beta=true"),
        ("/", ""),
    ]


def test_replies_to_a_tool_loop_are_chosen_by_the_task_not_by_a_tools_answer(
    client: Anthropic, server: StandIn
) -> None:
    replies = [
        {"content": "other"},
        {"match": "colour", "tool_calls": [CALL]},
        {"match": "colour", "content": "blue"},
    ]
    server.set_script({"replies": replies})
    task: list[MessageParam] = [{"role": "user", "content": "Which colour?"}]
    first = create(client, task, tools=[TOOL])
    call = first.content[0]
    assert call.type == "tool_use"
    turn: MessageParam = {"role": "assistant", "content": [*first.content]}
    result: MessageParam = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id}]}
    second = create(client, [*task, turn, result], tools=[TOOL])
    assert second.content[0].to_dict()["text"] == "blue"
    assert create(client).content[0].to_dict()["text"] == "other"


def test_a_server_that_is_down_looks_like_a_lost_connection(client: Anthropic, server: StandIn) -> None:
    server.set_script({"replies": [{"fault": "hang"}, {}]})
    with ThreadPoolExecutor() as pool:
        running = pool.submit(create, client)
        server.wait_for(lambda state: state["in_flight"] == {MODEL: 1})
        server.down()
        assert isinstance(running.exception(), anthropic.APIConnectionError)
    with pytest.raises(anthropic.APIConnectionError):
        create(client)
    server.up()
    assert create(client).stop_reason == "end_turn"


def test_started_by_hand_it_says_one_ready_line() -> None:
    command = [sys.executable, "-m", "tests.standins.anthropic", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        ready = json.loads(child.stdout.readline())
        child.terminate()
        assert (ready["ready"], ready["pid"], child.wait(5)) == (True, child.pid, 0)
