"""A stand-in for the Anthropic Messages API, faithful to what its SDK and Claude Code send and read.

By hand: `python -m tests.standins.anthropic --port 8090 [--script FILE] [--key KEY]`. The script's keys
besides `replies` and `routes` (see replies.py): `models` (ids; an unknown one is answered 404). Keys are
read from `Authorization: Bearer` or `x-api-key`, and any anthropic-version will do.
Faults of a reply: a status of STATUS_FAULTS; hang, stall (silence after some events), cut,
mid_stream_error, empty, rubbish, and the stop reasons max_tokens, refusal, pause_turn and
model_context_window_exceeded.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Any

from tests.standins.anthropic_rules import check_messages
from tests.standins.replies import (
    Reply,
    ReplyBook,
    estimated_tokens,
    last_user_text,
    pace,
    pieces,
    reply_from,
    shortened,
)
from tests.standins.serving import (
    Application,
    Exchange,
    JsonObject,
    Refusal,
    check_keys,
    command_line,
    serve,
)

STATUS_FAULTS = {
    "400": ("invalid_request_error", "the request is not valid"),
    "401": ("authentication_error", "invalid x-api-key"),
    "402": ("billing_error", "your credit balance is too low"),
    "403": ("permission_error", "your API key may not use this resource"),
    "404": ("not_found_error", "model: {model}"),
    "408": ("timeout_error", "the request timed out"),
    "413": ("request_too_large", "the request exceeds the maximum size"),
    "429": ("rate_limit_error", "this request would exceed your rate limit"),
    "500": ("api_error", "Internal server error"),
    "503": ("api_error", "Service unavailable"),
    "504": ("timeout_error", "the request timed out upstream"),
    "529": ("overloaded_error", "Overloaded"),
}
STOP_FAULTS = frozenset({"max_tokens", "refusal", "pause_turn", "model_context_window_exceeded"})
FAULTS = (
    frozenset(STATUS_FAULTS) | STOP_FAULTS | {"hang", "stall", "cut", "mid_stream_error", "empty", "rubbish"}
)
RATE_LIMITS = {
    "anthropic-ratelimit-requests-limit": "50",
    "anthropic-ratelimit-requests-remaining": "49",
    "anthropic-ratelimit-input-tokens-limit": "30000",
    "anthropic-ratelimit-input-tokens-remaining": "29000",
    "anthropic-ratelimit-requests-reset": "2026-11-22T00:00:00Z",
}
DEFAULT_RETRY_AFTER_S = 1.0
DEFAULT_MODELS = (
    "claude-fable-5-2",
    "claude-mythos-5-2",
    "claude-haiku-5-5",
    "claude-sonnet-5-5",
    "claude-opus-5-5",
    "claude-fable-5-1",
    "claude-opus-5",
    "claude-sonnet-5",
    "claude-haiku-4-5",
)
SCRIPT_KEYS = {"models", "replies", "routes"}


@dataclasses.dataclass(frozen=True)
class Call:
    """A validated request to /v1/messages, and the answer that it will get."""

    model: str
    message_id: str
    reply: Reply
    blocks: list[JsonObject]
    stop_reason: str
    tokens_in: int

    def usage(self, tokens_out: int) -> JsonObject:
        """`input_tokens` leaves out what was read from or written to the cache."""
        return {
            "input_tokens": self.tokens_in,
            "output_tokens": tokens_out,
            "cache_creation_input_tokens": self.reply.cache_write_tokens,
            "cache_read_input_tokens": self.reply.cache_read_tokens,
        }

    def full_usage(self, tokens_out: int) -> JsonObject:
        written = {
            "ephemeral_5m_input_tokens": self.reply.cache_write_tokens,
            "ephemeral_1h_input_tokens": 0,
        }
        return self.usage(tokens_out) | {"cache_creation": written, "service_tier": "standard"}

    def ending(self) -> JsonObject:
        ending: JsonObject = {"stop_reason": self.stop_reason, "stop_sequence": None}
        if self.stop_reason == "refusal":
            ending["stop_details"] = {
                "type": "refusal",
                "category": None,
                "explanation": self.reply.error or None,
            }
        return ending

    def message(self) -> JsonObject:
        """The whole message of an answer without streaming."""
        return (
            self.empty_message()
            | {"content": self.blocks, "usage": self.full_usage(self.reply.output_tokens)}
            | self.ending()
        )

    def empty_message(self) -> JsonObject:
        """The message as it stands at the start of a stream."""
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": self.full_usage(1),
        }


class AnthropicStandIn(Application):
    """The routes and the scripted behaviour. With a `key`, any other is refused with 401."""

    name = "anthropic"

    def __init__(self, key: str | None = None) -> None:
        super().__init__()
        self._key = key
        self._models: tuple[str, ...] = DEFAULT_MODELS
        self._book = ReplyBook([])
        self._numbers = itertools.count(1)

    def load_script(self, script: JsonObject) -> None:
        check_keys("script", script, SCRIPT_KEYS)
        replies = [reply_from(fields, FAULTS) for fields in script.get("replies", ())]
        super().load_script(script)
        self._models = tuple(script.get("models", self._models))
        if "replies" in script:
            self._book = ReplyBook(replies)

    def refusal(self, status: int, message: str, error_type: str = "") -> Refusal:
        error_type = error_type or STATUS_FAULTS.get(str(status), ("api_error", ""))[0]
        body = self._error_body(error_type, message)
        return Refusal(status, body, {"request-id": body["request_id"]})

    def answer(self, exchange: Exchange) -> None:
        method, route = exchange.command, exchange.route
        if route == "/":
            exchange.send_answer(200, None)  # Claude Code looks whether anybody is there
            return
        self._check_key(exchange)
        match (method, route):
            case ("POST", "/v1/messages"):
                self._messages(exchange)
            case ("POST", "/v1/messages/count_tokens"):
                body = self._body(exchange)
                exchange.send_answer(200, {"input_tokens": _request_tokens(body)}, self._request_id())
            case ("GET", "/v1/models"):
                entries = [_model_entry(model) for model in self._models]
                ends = {"first_id": self._models[0], "last_id": self._models[-1]} if entries else {}
                exchange.send_answer(200, {"data": entries, "has_more": False} | ends, self._request_id())
            case ("GET", _) if route.removeprefix("/v1/models/") in self._models:
                exchange.send_answer(200, _model_entry(route.removeprefix("/v1/models/")), self._request_id())
            case _:
                raise self.refusal(404, "Not found")

    # Reading a request.

    def _check_key(self, exchange: Exchange) -> None:
        bearer = exchange.headers.get("authorization", "").removeprefix("Bearer ").strip()
        key = exchange.headers.get("x-api-key", "") or bearer
        if not key:
            raise self.refusal(401, "x-api-key header is required")
        if self._key is not None and key != self._key:
            raise self.refusal(401, "invalid x-api-key")

    def _body(self, exchange: Exchange) -> JsonObject:
        body = exchange.body
        if not isinstance(body, dict):
            raise self.refusal(400, "the request body is not valid JSON")
        try:
            check_messages(body, needs_max_tokens=exchange.route == "/v1/messages")
        except ValueError as error:
            raise self.refusal(400, str(error)) from error
        if body["model"] not in self._models:
            raise self.refusal(404, f"model: {body['model']}")
        return body

    # Answering a call.

    def _messages(self, exchange: Exchange) -> None:
        body = self._body(exchange)
        reply = self._book.take(body["model"], last_user_text(body["messages"]))
        self.gauge.enter(body["model"])
        try:
            self._reply(exchange, body, reply)
        finally:
            self.gauge.leave(body["model"])

    def _reply(self, exchange: Exchange, body: JsonObject, reply: Reply) -> None:
        if reply.fault == "hang":
            exchange.hang()
        exchange.wait(reply.first_byte_delay_s)
        if reply.fault in STATUS_FAULTS:
            raise self._status_fault(body["model"], reply)
        if reply.fault == "rubbish":
            exchange.send_raw(200, b"<html>\xff\x00 this is no JSON\n", "application/json")
            return
        call = self._call(body, reply)
        if body.get("stream"):
            self._stream(exchange, call)
        else:
            self._send_whole(exchange, call)

    def _status_fault(self, model: str, reply: Reply) -> Refusal:
        error_type, text = STATUS_FAULTS[reply.fault]
        message = reply.error or text.format(model=model)
        refusal = self.refusal(int(reply.fault), message, reply.error_type or error_type)
        if reply.retry_after_s is not None or reply.fault == "429":
            seconds = DEFAULT_RETRY_AFTER_S if reply.retry_after_s is None else reply.retry_after_s
            refusal.headers["retry-after"] = f"{seconds:g}"
        return refusal

    def _call(self, body: JsonObject, reply: Reply) -> Call:
        reply, stop_reason = _limited(reply, body["max_tokens"], bool(body.get("tools")))
        return Call(
            model=body["model"],
            message_id=f"msg_{next(self._numbers):024d}",
            reply=reply,
            blocks=[*self._blocks(reply, offers_tools=bool(body.get("tools")))],
            stop_reason=stop_reason,
            tokens_in=_request_tokens(body) if reply.tokens_in is None else reply.tokens_in,
        )

    def _blocks(self, reply: Reply, offers_tools: bool) -> Iterator[JsonObject]:
        if reply.thinking:
            yield {"type": "thinking", "thinking": reply.thinking, "signature": "c3RhbmQtaW4="}
        calls = reply.tool_calls if offers_tools else ()
        # A model that was offered no tools can only write its call as text.
        text = reply.content + ("" if offers_tools else "".join(json.dumps(one) for one in reply.tool_calls))
        if text:
            yield {"type": "text", "text": text}
        for one in calls:
            yield {
                "type": "tool_use",
                "id": f"toolu_{next(self._numbers):024d}",
                "name": one["name"],
                "input": one.get("arguments", {}),
            }

    def _stream(self, exchange: Exchange, call: Call) -> None:
        exchange.start_stream("text/event-stream; charset=utf-8", self._request_id() | RATE_LIMITS)
        events = [*_events(call)]
        broken_at = max(2, len(events) // 2)
        for number, event in enumerate(events):
            if event["type"] == "content_block_delta":
                exchange.wait(call.reply.chunk_delay_s)
            if number == broken_at and self._break_stream(exchange, call.reply):
                return
            exchange.send_chunk(_encoded(event))
        exchange.end_stream()

    def _break_stream(self, exchange: Exchange, reply: Reply) -> bool:
        """Plays the faults that strike in the middle of a stream; true when the answer is over."""
        match reply.fault:
            case "stall":
                exchange.hang()
            case "cut":
                exchange.cut()
            case "mid_stream_error":
                exchange.send_chunk(_encoded(self._overload(reply)))
                exchange.end_stream()
            case _:
                return False
        return True

    def _send_whole(self, exchange: Exchange, call: Call) -> None:
        pace(exchange, call.reply)
        match call.reply.fault:
            case "stall":
                exchange.hang()
            case "cut":
                exchange.send_cut_answer(call.message())
            case "mid_stream_error":
                raise Refusal(529, self._overload(call.reply), self._request_id())
            case _:
                exchange.send_answer(200, call.message(), self._request_id())

    def _overload(self, reply: Reply) -> JsonObject:
        return self._error_body(reply.error_type or "overloaded_error", reply.error or "Overloaded")

    def _error_body(self, error_type: str, message: str) -> JsonObject:
        error = {"type": error_type, "message": message}
        return {"type": "error", "error": error, "request_id": self._request_id()["request-id"]}

    def _request_id(self) -> dict[str, str]:
        return {"request-id": f"req_{next(self._numbers):024d}"}


def _limited(reply: Reply, max_tokens: int, offers_tools: bool) -> tuple[Reply, str]:
    """The reply within `max_tokens`, and its stop reason."""
    if reply.output_tokens > max_tokens:
        return shortened(reply, max_tokens), "max_tokens"
    if reply.fault in STOP_FAULTS:
        return reply, reply.fault
    ended = "tool_use" if reply.tool_calls and offers_tools else "end_turn"
    return reply, reply.stop_reason or ended


def _events(call: Call) -> Iterator[JsonObject]:
    """The events of a stream, in order. The usage of message_delta is cumulative."""
    yield {"type": "message_start", "message": call.empty_message()}
    yield {"type": "ping"}
    for index, block in enumerate(call.blocks):
        yield {"type": "content_block_start", "index": index, "content_block": _emptied(block)}
        for delta in _deltas(block, call.reply.chunks):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", "delta": call.ending(), "usage": call.usage(call.reply.output_tokens)}
    yield {"type": "message_stop"}


def _emptied(block: JsonObject) -> JsonObject:
    empty: JsonObject = {"text": "", "thinking": "", "signature": "", "input": {}}
    return {name: empty.get(name, value) if name != "type" else value for name, value in block.items()}


def _deltas(block: JsonObject, chunks: int) -> Iterator[JsonObject]:
    match block["type"]:
        case "text":
            yield from ({"type": "text_delta", "text": piece} for piece in pieces(block["text"], chunks))
        case "thinking":
            for piece in pieces(block["thinking"], chunks):
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": block["signature"]}
        case "tool_use":
            for piece in pieces(json.dumps(block["input"]), chunks):
                yield {"type": "input_json_delta", "partial_json": piece}


def _encoded(event: JsonObject) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def _request_tokens(body: JsonObject) -> int:
    return estimated_tokens(json.dumps([body.get("system", ""), body["messages"], body.get("tools", [])]))


def _model_entry(model: str) -> JsonObject:
    return {
        "type": "model",
        "id": model,
        "display_name": model.replace("-", " ").title(),
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
        "max_input_tokens": 200_000,
        "max_tokens": 64_000,
    }


def main() -> None:
    parser = command_line("anthropic")
    parser.add_argument("--key", help="the only key that is accepted; without it, any")
    options: Any = parser.parse_args()
    serve(lambda: AnthropicStandIn(options.key), options)


if __name__ == "__main__":
    main()
