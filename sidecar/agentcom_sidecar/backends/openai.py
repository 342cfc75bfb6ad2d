"""Local models over /v1/chat/completions: vLLM, llama.cpp's server, LM Studio and others of the kind. Streamed.

Rules it keeps:
* Usage is asked for (`include_usage`); it comes in a last chunk that has no choices.
* An answer counts only with a finish reason; `[DONE]` after it is waited for, since usage comes between.
* A context that is full may be silent: see context.py.
* A tool call comes in pieces whose arguments are parts of one JSON text.
* The key is one of this host's own settings, named beside the URL that it is sent to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from agentcom.model import Backend
from agentcom_sidecar.backends.base import (
    BackendError,
    Clock,
    Conversation,
    Message,
    ToolCall,
    ToolSpec,
    Turn,
    Usage,
    are_odd,
    clean,
    configuration,
    count_of,
    infrastructure,
    reason_of,
    task_error,
)
from agentcom_sidecar.backends.context import ContextWatch, chars_of
from agentcom_sidecar.backends.http_stream import (
    ModelServer,
    bad_answer,
    parsed,
    text_field,
    tool_of,
    trouble_of,
)

DONE = b"[DONE]"
CALLS_MAX = 64  # tool calls of one answer; further ones are left out
TOO_LONG = ("context", "too long", "maximum")  # a refusal of a prompt has one of these words


@dataclass(slots=True)
class _CallParts:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Answer:
    """What came so far of one answer."""

    text: list[str] = field(default_factory=list)
    has_thought: bool = False
    calls: dict[int, _CallParts] = field(default_factory=dict)
    finish: str | None = None
    usage: dict[str, Any] = field(default_factory=dict)


class OpenAIBackend:
    """One model on one endpoint."""

    name = Backend.openai

    def __init__(
        self,
        *,
        url: str,
        model: str,
        key: str,
        max_tokens: int,
        first_byte_s: float,
        idle_s: float,
        num_ctx: int | None = None,
    ) -> None:
        self.model = model
        self._context = ContextWatch(num_ctx)
        self._max_tokens = max_tokens
        self._key = key
        self._server = ModelServer(
            url,
            "/v1/chat/completions",
            first_byte_s=first_byte_s,
            idle_s=idle_s,
            classify=self._classified,
            headers={"authorization": f"Bearer {key}"} if key else None,
        )

    async def __aenter__(self) -> OpenAIBackend:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.aclose()

    async def call(
        self, conversation: Conversation, tools: tuple[ToolSpec, ...], on_progress: Callable[[], None]
    ) -> Turn:
        answer, clock = _Answer(), Clock()
        async with aclosing(self._server.lines(self._body(conversation, tools), self._max_tokens)) as lines:
            async for line in lines:
                if not line.startswith(b"data:"):
                    self._check_plain(line)
                    continue
                clock.heard()
                on_progress()
                data = line[5:].strip()
                if data == DONE:
                    break
                self._take(answer, parsed(data))
        if answer.finish is None:
            raise infrastructure("stream_cut", f"{self._server.url} ended its answer without a finish reason")
        return self._turn(answer, clock, chars_of(conversation.system, conversation.messages))

    def _body(self, conversation: Conversation, tools: tuple[ToolSpec, ...]) -> dict[str, Any]:
        messages: list[dict[str, Any]] = [{"role": "system", "content": conversation.system}]
        for message in conversation.messages:
            messages += _wire(message)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": self._max_tokens,
        }
        if tools:
            body["tools"] = [tool_of(tool) for tool in tools]
        return body

    def _check_plain(self, line: bytes) -> None:
        """Lines beside data are names, ids and comments of the stream; anything else is no such answer."""
        if not line.startswith((b":", b"event:", b"id:", b"retry:")):
            raise bad_answer(f"{line[:80]!r} is no event of a stream")

    def _classified(self, status: int, text: str, headers: Mapping[str, str]) -> BackendError:
        said = f"{self._server.url} answered {status}: {text or 'no reason given'}"
        if self._key:
            said = said.replace(self._key, "[redacted]")
        trouble = trouble_of(status, said, self.model, headers)
        if trouble is not None:
            return trouble
        if status in (401, 403):
            return configuration(
                "auth_refused",
                f"{said}; name the file with its key in endpoints.key_files, as URL=PATH, on this host",
            )
        if status == 413 or (status == 400 and any(word in text.lower() for word in TOO_LONG)):
            return task_error("prompt_too_large", said)
        if status == 400 and "tool" in text.lower():
            return configuration(
                "tools_unsupported", f"{said}; start the server with tool calls, or give the task another model"
            )
        return configuration("bad_request", said)

    def _take(self, answer: _Answer, piece: dict[str, Any]) -> None:
        if "error" in piece:
            error = piece["error"]
            said = error.get("message") if isinstance(error, dict) else error
            raise infrastructure("stream_error", f"{self._server.url}: {said}")
        if isinstance(piece.get("usage"), dict):
            answer.usage = piece["usage"]
        choices = piece.get("choices") or []
        if not isinstance(choices, list):
            raise bad_answer("choices is no list")
        if not choices or not isinstance(choices[0], dict):
            return
        delta = choices[0].get("delta")
        if isinstance(delta, dict):
            answer.text.append(text_field(delta, "content"))
            answer.has_thought |= bool(delta.get("reasoning_content") or delta.get("reasoning"))
            _take_calls(answer.calls, delta.get("tool_calls") or [])
        finish = choices[0].get("finish_reason")
        answer.finish = finish if isinstance(finish, str) else answer.finish

    def _turn(self, answer: _Answer, clock: Clock, sent_chars: int) -> Turn:
        usage = _usage(answer.usage)
        text = "".join(answer.text)
        is_truncated = answer.finish == "length"
        numbered = sorted(answer.calls.items())
        calls = tuple(_call(parts, number, is_cut=is_truncated) for number, parts in numbered)
        turn = Turn(
            text=text,
            tool_calls=calls,
            usage=usage,
            stop_reason=reason_of(answer.finish),
            is_truncated=is_truncated,
            is_full=is_truncated and 0 < usage.out < self._max_tokens,
            context_truncated=self._context.saw_less(sent_chars, usage.prompt),
            first_byte_ms=clock.first_byte_ms,
            generate_ms=clock.generate_ms,
            native=_native(text, numbered),
        )
        if answer.finish == "content_filter":
            raise _with_usage(task_error("refusal", f"{self.model} was kept from answering"), turn.usage)
        if not text.strip() and not calls and answer.has_thought and is_truncated:
            said = f"{self.model} spent all {turn.usage.out} tokens on thinking; raise sidecar.max_output_tokens"
            raise _with_usage(task_error("empty_answer", said), turn.usage)
        return turn


def _with_usage(error: BackendError, usage: Usage) -> BackendError:
    error.usage = usage
    return error


def _usage(usage: dict[str, Any]) -> Usage:
    prompt = count_of(usage.get("prompt_tokens"))
    details = usage.get("prompt_tokens_details")
    cached = min(prompt, count_of(details.get("cached_tokens"))) if isinstance(details, dict) else 0
    odd = are_odd(usage.get("prompt_tokens"), usage.get("completion_tokens"))
    return Usage(fresh=prompt - cached, cache_read=cached, out=count_of(usage.get("completion_tokens")), odd=odd)


def _take_calls(calls: dict[int, _CallParts], pieces: object) -> None:
    if not isinstance(pieces, list):
        raise bad_answer("tool_calls is no list")
    for piece in pieces:
        if not isinstance(piece, dict):
            continue
        number = piece.get("index")
        number = number if isinstance(number, int) and 0 <= number < CALLS_MAX else len(calls)
        if number >= CALLS_MAX:
            continue
        parts = calls.setdefault(number, _CallParts())
        function = piece.get("function")
        function = function if isinstance(function, dict) else {}
        parts.id = parts.id or text_field(piece, "id")
        parts.name = parts.name or text_field(function, "name")
        parts.arguments.append(text_field(function, "arguments"))


def _call(parts: _CallParts, number: int, *, is_cut: bool) -> ToolCall:
    written = "".join(parts.arguments)
    fault = ""
    arguments: object = {}
    try:
        arguments = clean(json.loads(written)) if written.strip() else {}
    except (ValueError, RecursionError):
        fault = "the arguments of this call are no JSON"
        if is_cut:
            fault = "the answer hit its token limit inside this call: write a smaller file"
    return ToolCall(id=parts.id or f"call_{number}", name=parts.name, arguments=arguments, fault=fault)


def _native(text: str, calls: list[tuple[int, _CallParts]]) -> dict[str, Any]:
    """The answer as it is sent back: arguments as the text that came, an object where that is no JSON."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = [
            {
                "id": parts.id or f"call_{number}",
                "type": "function",
                "function": {"name": parts.name, "arguments": _sendable("".join(parts.arguments))},
            }
            for number, parts in calls
        ]
    return message


def _sendable(written: str) -> str:
    try:
        json.loads(written)
    except (ValueError, RecursionError):
        return "{}"
    return written


def _wire(message: Message) -> list[dict[str, Any]]:
    if isinstance(message, str):
        return [{"role": "user", "content": message}]
    if isinstance(message, Turn):
        return [message.native]
    return [{"role": "tool", "tool_call_id": each.call.id, "content": each.content} for each in message]
