"""Local models over Ollama's native /api/chat: streamed, with num_ctx in every call.

Rules it keeps:
* The same num_ctx for one model always: another value makes the server unload and load it again.
* An answer counts only with its final line (`done: true`); durations there are nanoseconds, figures that
  are 0 are left out.
* A full context is silent on that server: `looks_truncated` compares what it counted with what was sent.
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
    configuration,
    count_of,
    infrastructure,
    reason_of,
    task_error,
)
from agentcom_sidecar.backends.context import looks_truncated
from agentcom_sidecar.backends.http_stream import (
    ModelServer,
    bad_answer,
    parsed,
    text_field,
    tool_of,
    trouble_of,
)

KEEP_ALIVE = "10m"
NANOSECONDS_MAX = 2**62


@dataclass(slots=True)
class _Answer:
    """What came so far of one answer."""

    text: list[str] = field(default_factory=list)
    thinking: list[str] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    final: dict[str, Any] | None = None


class OllamaBackend:
    """One model on one endpoint."""

    name = Backend.ollama

    def __init__(
        self, *, url: str, model: str, num_ctx: int, num_predict: int, first_byte_s: float, idle_s: float
    ) -> None:
        self.model = model
        self._num_ctx, self._num_predict = num_ctx, num_predict
        self._server = ModelServer(
            url, "/api/chat", first_byte_s=first_byte_s, idle_s=idle_s, classify=self._classified
        )

    async def __aenter__(self) -> OllamaBackend:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.aclose()

    async def call(
        self, conversation: Conversation, tools: tuple[ToolSpec, ...], on_progress: Callable[[], None]
    ) -> Turn:
        body = self._body(conversation, tools)
        answer, clock = _Answer(), Clock()
        async with aclosing(self._server.lines(body, self._num_predict)) as lines:
            async for line in lines:
                clock.heard()
                on_progress()
                self._take(answer, line)
                if answer.final is not None:
                    break
        if answer.final is None:
            raise infrastructure("stream_cut", f"{self._server.url} ended its answer without the final line")
        sent_chars = len(json.dumps([body["messages"], body.get("tools", [])]))
        return self._turn(answer, answer.final, sent_chars, clock)

    def _body(self, conversation: Conversation, tools: tuple[ToolSpec, ...]) -> dict[str, Any]:
        messages = [{"role": "system", "content": conversation.system}]
        for message in conversation.messages:
            messages += _wire(message)
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "stream": True,
            "keep_alive": KEEP_ALIVE,
            "options": {"num_ctx": self._num_ctx, "num_predict": self._num_predict},
        }
        if tools:
            body["tools"] = [tool_of(tool) for tool in tools]
        return body

    def _classified(self, status: int, text: str, headers: Mapping[str, str]) -> BackendError:
        said = f"{self._server.url} answered {status}: {text or 'no reason given'}"
        trouble = trouble_of(status, said, self.model, headers)
        if trouble is not None:
            return trouble
        if status == 400 and "does not support tools" in text:
            return configuration(
                "tools_unsupported", f"{said}; give the task a model with tools (models.standard)"
            )
        if status == 401:
            return configuration("auth_refused", said)
        if status == 403:
            return configuration("forbidden", f"{said}; see OLLAMA_HOST and OLLAMA_ORIGINS on that machine")
        return configuration("bad_request", said)

    def _take(self, answer: _Answer, line: bytes) -> None:
        piece = parsed(line)
        if "error" in piece:
            raise infrastructure("stream_error", f"{self._server.url}: {piece['error']}")
        message = piece.get("message")
        if isinstance(message, dict):
            answer.text.append(text_field(message, "content"))
            answer.thinking.append(text_field(message, "thinking"))
            calls = message.get("tool_calls") or []
            if not isinstance(calls, list):
                raise bad_answer("tool_calls is no list")
            answer.tool_calls += [call for call in calls if isinstance(call, dict)]
        if piece.get("done") is True:
            answer.final = piece

    def _turn(self, answer: _Answer, final: dict[str, Any], sent_chars: int, clock: Clock) -> Turn:
        reason = final.get("done_reason")
        if reason in ("load", "unload"):
            raise bad_answer(f"done_reason {reason} answers no chat")
        counted = count_of(final.get("prompt_eval_count"))
        calls = tuple(_call(call, number) for number, call in enumerate(answer.tool_calls))
        text = "".join(answer.text)
        load_ms = _milliseconds(final.get("load_duration"))
        turn = Turn(
            text=text,
            tool_calls=calls,
            usage=Usage(
                fresh=counted,
                out=count_of(final.get("eval_count")),
                odd=are_odd(final.get("prompt_eval_count"), final.get("eval_count")),
            ),
            stop_reason=reason_of(reason),
            is_truncated=reason == "length",
            is_full=reason == "length" and 0 < count_of(final.get("eval_count")) < self._num_predict,
            context_truncated=looks_truncated(sent_chars, counted, self._num_ctx),
            load_ms=load_ms,
            first_byte_ms=max(0, clock.first_byte_ms - load_ms),
            generate_ms=_milliseconds(final.get("eval_duration")),
            native={"role": "assistant", "content": text, "tool_calls": answer.tool_calls},
        )
        if not text.strip() and not calls and any(answer.thinking) and turn.is_truncated:
            raise self._spent_on_thinking(turn)
        return turn

    def _spent_on_thinking(self, turn: Turn) -> BackendError:
        error = task_error(
            "empty_answer",
            f"{self.model} spent all {turn.usage.out} tokens on thinking; raise sidecar.max_output_tokens",
        )
        error.usage = turn.usage
        return error


def _wire(message: Message) -> list[dict[str, Any]]:
    if isinstance(message, str):
        return [{"role": "user", "content": message}]
    if isinstance(message, Turn):
        return [message.native]
    return [
        {"role": "tool", "content": each.content, "tool_name": each.call.name, "tool_call_id": each.call.id}
        for each in message
    ]



def _call(call: dict[str, Any], number: int) -> ToolCall:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    return ToolCall(
        id=str(call.get("id") or f"call_{number}"),
        name=str(function.get("name") or ""),
        arguments=function.get("arguments"),
    )


def _milliseconds(nanoseconds: object) -> int:
    """A duration of the final line; left out means 0, and so does nonsense."""
    if not isinstance(nanoseconds, int) or not 0 <= nanoseconds < NANOSECONDS_MAX:
        return 0
    return nanoseconds // 1_000_000
