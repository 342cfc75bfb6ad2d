"""Local models over Ollama's native /api/chat: streamed, with num_ctx in every call.

Rules it keeps:
* The same num_ctx for one model always: another value makes the server unload and load it again.
* An answer counts only with its final line (`done: true`); durations there are nanoseconds, figures that
  are 0 are left out.
* The name is resolved once and only addresses that were looked at are connected to; no redirects, no proxy
  settings from the environment.
* A full context is silent on that server: `looks_truncated` compares what it counted with what was sent.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from agentcom import limits
from agentcom.addresses import AddressError, Place, places
from agentcom.model import Backend, FailureClass
from agentcom_sidecar.backends.base import (
    CONNECT_S_MAX,
    BackendError,
    Conversation,
    Message,
    Patience,
    ToolCall,
    ToolSpec,
    Turn,
    Usage,
    clean,
    configuration,
    count_of,
    infrastructure,
    reason_of,
    task_error,
)

KEEP_ALIVE = "10m"
LINE_BYTES_MAX = 4 * limits.MIB  # a tool call arrives whole in one line
ANSWER_BYTES_MIN = 16 * limits.MIB  # the bound of an answer; larger where many tokens are allowed
BYTES_PER_TOKEN_MAX = 1024  # a line with one token has about 150
NANOSECONDS_MAX = 2**62
ERROR_BYTES_MAX = 64 * limits.KIB
CHARS_PER_TOKEN_HIGH = 5  # more characters than this per token is no text that people or programs write
CHARS_PER_TOKEN_LOW = 3


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
        self._url, self._num_ctx, self._num_predict = url.rstrip("/"), num_ctx, num_predict
        self._first_byte_s, self._idle_s = first_byte_s, idle_s
        # Reading is timed by Patience; what is left to the client is the connection itself.
        timeout = httpx2.Timeout(None, connect=CONNECT_S_MAX)
        self._client = httpx2.AsyncClient(timeout=timeout, trust_env=False, follow_redirects=False)

    async def __aenter__(self) -> OllamaBackend:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def call(
        self, conversation: Conversation, tools: tuple[ToolSpec, ...], on_progress: Callable[[], None]
    ) -> Turn:
        body = self._body(conversation, tools)
        patience = Patience(self._first_byte_s, self._idle_s)
        try:
            response = await self._open(body, patience)
            try:
                if response.status_code != 200:
                    raise await self._refusal(response, patience)
                answer = await self._read(response, patience, on_progress)
            finally:
                await response.aclose()  # closing the socket is what makes the server stop generating
        except httpx2.ConnectError as error:
            raise infrastructure("endpoint_unreachable", f"cannot connect to {self._url}: {error}") from error
        except httpx2.ConnectTimeout as error:
            raise infrastructure("endpoint_unreachable", f"{self._url} does not answer") from error
        except httpx2.RemoteProtocolError as error:
            raise infrastructure("stream_cut", f"{self._url} broke the connection: {error}") from error
        except httpx2.HTTPError as error:
            raise infrastructure(
                "stream_cut", f"{self._url}: {type(error).__name__}: {error}".rstrip(": ")
            ) from error
        except httpx2.InvalidURL as error:
            raise configuration("bad_endpoint", f"{self._url}: {error}") from error
        return self._turn(answer, len(json.dumps([body["messages"], body.get("tools", [])])))

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
            body["tools"] = [_tool(tool) for tool in tools]
        return body

    async def _open(self, body: dict[str, Any], patience: Patience) -> httpx2.Response:
        """The response's head, from the first address that takes the connection."""
        *others, last = await patience.wait(reached_places(self._url))
        for place in others:
            try:
                return await patience.wait(self._send(place, body))
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                continue  # `localhost` names ::1 and 127.0.0.1; a server may listen on one of them only
        return await patience.wait(self._send(last, body))

    async def _send(self, place: Place, body: dict[str, Any]) -> httpx2.Response:
        request = self._client.build_request(
            "POST",
            f"{place.url}/api/chat",
            json=body,
            headers={"host": place.host_header, "accept-encoding": "identity"},
            extensions={"sni_hostname": place.server_name},
        )
        return await self._client.send(request, stream=True)

    async def _refusal(self, response: httpx2.Response, patience: Patience) -> BackendError:
        raw = bytearray()
        async for chunk in patience.pieces(response.aiter_raw()):
            raw += chunk[: ERROR_BYTES_MAX - len(raw)]
            if len(raw) >= ERROR_BYTES_MAX:
                break
        return self._classified(response.status_code, _error_text(bytes(raw)))

    def _classified(self, status: int, text: str) -> BackendError:
        said = f"{self._url} answered {status}: {text or 'no reason given'}"
        if status == 404:
            return infrastructure("model_missing", f"{said} (model {self.model})")
        if status == 503:
            return infrastructure("endpoint_busy", said)
        if status >= 500:
            return infrastructure("endpoint_error", said)
        if status == 429:
            return BackendError(FailureClass.usage_window, "rate_limited", said)
        if status == 400 and "does not support tools" in text:
            return configuration(
                "tools_unsupported", f"{said}; give the task a model with tools (models.standard)"
            )
        if status == 401:
            return configuration("auth_refused", said)
        if status == 403:
            return configuration("forbidden", f"{said}; see OLLAMA_HOST and OLLAMA_ORIGINS on that machine")
        if 300 <= status < 400:
            return configuration("redirected", f"{said}; give the endpoint's final address")
        return configuration("bad_request", said)

    async def _read(
        self, response: httpx2.Response, patience: Patience, on_progress: Callable[[], None]
    ) -> _Answer:
        answer = _Answer()
        bytes_max = max(ANSWER_BYTES_MIN, self._num_predict * BYTES_PER_TOKEN_MAX)
        async for line in _lines(patience.pieces(response.aiter_raw()), bytes_max):
            on_progress()
            self._take(answer, line)
            if answer.final is not None:
                return answer
        raise infrastructure("stream_cut", f"{self._url} ended its answer without the final line")

    def _take(self, answer: _Answer, line: bytes) -> None:
        piece = _parsed(line)
        if "error" in piece:
            raise infrastructure("stream_error", f"{self._url}: {piece['error']}")
        message = piece.get("message")
        if isinstance(message, dict):
            answer.text.append(_text(message, "content"))
            answer.thinking.append(_text(message, "thinking"))
            calls = message.get("tool_calls") or []
            if not isinstance(calls, list):
                raise _bad("tool_calls is no list")
            answer.tool_calls += [call for call in calls if isinstance(call, dict)]
        if piece.get("done") is True:
            answer.final = piece

    def _turn(self, answer: _Answer, sent_chars: int) -> Turn:
        assert answer.final is not None
        final = answer.final
        reason = final.get("done_reason")
        if reason in ("load", "unload"):
            raise _bad(f"done_reason {reason} answers no chat")
        counted = count_of(final.get("prompt_eval_count"))
        calls = tuple(_call(call, number) for number, call in enumerate(answer.tool_calls))
        text = "".join(answer.text)
        turn = Turn(
            text=text,
            tool_calls=calls,
            usage=Usage(fresh=counted, out=count_of(final.get("eval_count"))),
            stop_reason=reason_of(reason),
            is_truncated=reason == "length",
            context_truncated=looks_truncated(sent_chars, counted, self._num_ctx),
            load_ms=_milliseconds(final.get("load_duration")),
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


def looks_truncated(sent_chars: int, counted: int, num_ctx: int) -> bool:
    """Whether the server dropped a part of the prompt without saying so.

    It then counts num_ctx / 2 + 2 tokens or, where whole messages were dropped, some number below num_ctx.
    So: either the text cannot have fitted at all, or it would not have fitted at the usual rate and less
    than half of it was counted.
    """
    if not counted:
        return False
    if sent_chars > CHARS_PER_TOKEN_HIGH * num_ctx:
        return True
    estimate = sent_chars // CHARS_PER_TOKEN_LOW
    return estimate > num_ctx and 2 * counted <= estimate + 4


async def reached_places(url: str) -> list[Place]:
    """As `addresses.places`, with its errors in the words of a failed attempt."""
    try:
        return await places(url)
    except AddressError as error:
        kind = infrastructure if error.code == "endpoint_unreachable" else configuration
        raise kind(error.code, error.message) from error


def _wire(message: Message) -> list[dict[str, Any]]:
    if isinstance(message, str):
        return [{"role": "user", "content": message}]
    if isinstance(message, Turn):
        return [message.native]
    return [
        {"role": "tool", "content": each.content, "tool_name": each.call.name, "tool_call_id": each.call.id}
        for each in message
    ]


def _tool(tool: ToolSpec) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": function}


def _call(call: dict[str, Any], number: int) -> ToolCall:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    return ToolCall(
        id=str(call.get("id") or f"call_{number}"),
        name=str(function.get("name") or ""),
        arguments=function.get("arguments"),
    )


async def _lines(chunks: AsyncIterator[bytes], bytes_max: int) -> AsyncIterator[bytes]:
    """Whole lines, also a last one without its line end."""
    buffer = bytearray()
    total = 0
    async for chunk in chunks:
        total += len(chunk)
        buffer += chunk
        if total > bytes_max:
            raise _bad(f"more than {bytes_max} bytes")
        *whole, rest = buffer.split(b"\n") if b"\n" in chunk else (buffer,)
        for line in whole:
            if line.strip():
                yield bytes(line)
        buffer = bytearray(rest)
        if len(buffer) > LINE_BYTES_MAX:
            raise _bad(f"a line of more than {LINE_BYTES_MAX} bytes")
    if buffer.strip():
        yield bytes(buffer)


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        piece = clean(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise _bad(f"{line[:80]!r} is no JSON") from error
    if not isinstance(piece, dict):
        raise _bad(f"{line[:80]!r} is no JSON object")
    return piece


def _bad(what: str) -> BackendError:
    return infrastructure("bad_answer", f"this is no answer of an Ollama server: {what}")


def _text(message: dict[str, Any], name: str) -> str:
    value = message.get(name) or ""
    if not isinstance(value, str):
        raise _bad(f"{name} is no text")
    return value


def _milliseconds(nanoseconds: object) -> int:
    """A duration of the final line; left out means 0, and so does nonsense."""
    if not isinstance(nanoseconds, int) or not 0 <= nanoseconds < NANOSECONDS_MAX:
        return 0
    return nanoseconds // 1_000_000


def _error_text(raw: bytes) -> str:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict) and "error" in body:
        return str(body["error"])
    return raw.decode("utf-8", "replace").strip()
