"""Claude through the anthropic SDK, streamed.

Rules it keeps:
* The key comes from ANTHROPIC_API_KEY or a 0600 file of this host's settings, and goes to the base URL of the
  same settings only: no redirects, no address that the hub names.
* The SDK retries nothing (`max_retries=0`): each failure becomes a class, a code and, for a usage window, the
  time to wait; the hub does the waiting.
* An `error` event in the middle of a stream carries status 200: there the error's type decides.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import anthropic
import httpx2

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
    are_odd,
    clean,
    count_of,
    infrastructure,
    reason_of,
    retry_after_s,
    task_error,
)

TRUNCATED = frozenset({"max_tokens", "model_context_window_exceeded"})
NO_TEXT = "(no text)"  # the API refuses an empty message, and some models end with one after a tool call

# (class, code) by HTTP status. 400 and 200 (an error inside a stream) are told apart by the error's type.
BY_STATUS: dict[int, tuple[FailureClass, str]] = {
    401: (FailureClass.configuration, "auth_refused"),
    402: (FailureClass.configuration, "billing"),
    403: (FailureClass.configuration, "permission_denied"),
    404: (FailureClass.configuration, "model_unknown"),
    408: (FailureClass.infrastructure, "request_timeout"),
    409: (FailureClass.task_error, "conflict"),
    412: (FailureClass.task_error, "precondition_failed"),
    413: (FailureClass.task_error, "prompt_too_large"),
    422: (FailureClass.task_error, "unprocessable"),
    429: (FailureClass.usage_window, "rate_limited"),
    431: (FailureClass.configuration, "headers_too_large"),
    503: (FailureClass.infrastructure, "endpoint_busy"),
    504: (FailureClass.infrastructure, "request_timeout"),
    529: (FailureClass.infrastructure, "overloaded"),
}
BY_TYPE: dict[str, tuple[FailureClass, str]] = {
    "invalid_request_error": (FailureClass.task_error, "bad_request"),
    "authentication_error": BY_STATUS[401],
    "billing_error": BY_STATUS[402],
    "permission_error": BY_STATUS[403],
    "not_found_error": BY_STATUS[404],
    "request_too_large": BY_STATUS[413],
    "conflict_error": BY_STATUS[409],
    "rate_limit_error": BY_STATUS[429],
    "timeout_error": BY_STATUS[408],
    "overloaded_error": BY_STATUS[529],
    "api_error": (FailureClass.infrastructure, "endpoint_error"),
}
# What the SDK lets through when a server sends bytes that are no answer of this API.
MALFORMED = (ValueError, RuntimeError, TypeError, LookupError, AttributeError)


class ClaudeBackend:
    """One Claude model at the base URL of this host's settings."""

    name = Backend.claude

    def __init__(
        self,
        *,
        key: str,
        base_url: str,
        model: str,
        max_tokens: int,
        first_byte_s: float,
        idle_s: float,
    ) -> None:
        self.model = model
        self._key, self._base_url, self._max_tokens = key, base_url, max_tokens
        self._first_byte_s, self._idle_s = first_byte_s, idle_s
        # Patience times the reading; the client's own read timeout is only a net below it.
        timeout = httpx2.Timeout(max(first_byte_s, idle_s) + CONNECT_S_MAX, connect=CONNECT_S_MAX)
        # Over TLS a proxy of this machine's environment sees a tunnel; over plain HTTP it would see the key.
        is_tls = base_url.lower().startswith("https://")
        self._client = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=base_url,
            max_retries=0,
            timeout=timeout,
            http_client=httpx2.AsyncClient(trust_env=is_tls, follow_redirects=False, timeout=timeout),
        )

    async def __aenter__(self) -> ClaudeBackend:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def call(
        self, conversation: Conversation, tools: tuple[ToolSpec, ...], on_progress: Callable[[], None]
    ) -> Turn:
        snapshot: list[Any] = []  # the message as far as it came, for its usage when the rest does not
        try:
            return await self._call(conversation, tools, on_progress, snapshot)
        except BackendError as error:
            error.message = self._without_key(error.message)
            raise
        except anthropic.APIStatusError as error:
            raise self._with_usage(self._status_error(error), snapshot) from error
        except anthropic.APITimeoutError as error:
            raise infrastructure("endpoint_timeout", f"{self._base_url} did not answer in time") from error
        except anthropic.APIConnectionError as error:
            cause = self._without_key(str(error.__cause__ or error))
            raise infrastructure("endpoint_unreachable", f"cannot reach {self._base_url}: {cause}") from error
        except httpx2.HTTPError as error:
            cut = infrastructure("stream_cut", f"{self._base_url} broke the connection: {error}")
            raise self._with_usage(cut, snapshot) from error
        except (anthropic.AnthropicError, *MALFORMED) as error:
            said = self._without_key(f"{type(error).__name__}: {error}")[:500]
            bad = infrastructure("bad_answer", f"{self._base_url} sent no valid answer: {said}")
            raise self._with_usage(bad, snapshot) from error

    async def _call(
        self,
        conversation: Conversation,
        tools: tuple[ToolSpec, ...],
        on_progress: Callable[[], None],
        snapshot: list[Any],
    ) -> Turn:
        patience = Patience(self._first_byte_s, self._idle_s)
        manager = self._client.messages.stream(
            model=self.model,
            max_tokens=self._max_tokens,
            system=conversation.system,
            messages=[_wire(message) for message in conversation.messages],
            tools=[_tool(tool) for tool in tools],
        )
        stream = await patience.wait(manager.__aenter__())
        try:
            await _read(stream, patience, on_progress, snapshot)
        finally:
            await stream.close()  # on cancel too: it is what stops the bill
        if not snapshot or snapshot[0].stop_reason is None:
            raise self._with_usage(
                infrastructure("stream_cut", f"{self._base_url} ended its answer before the end"), snapshot
            )
        return dataclasses.replace(
            self._turn(snapshot[0]), provider_limits=provider_limits(stream.response.headers)
        )

    def _turn(self, message: Any) -> Turn:
        usage = usage_of(message)
        if message.stop_reason == "refusal":
            explanation = getattr(message.stop_details, "explanation", None) or "no reason given"
            refusal = task_error("refusal", f"{self.model} refused the task: {explanation}")
            refusal.usage = usage
            raise refusal
        is_truncated = message.stop_reason in TRUNCATED
        blocks = list(message.content)
        return Turn(
            text=clean("".join(block.text for block in blocks if block.type == "text")),
            tool_calls=tuple(
                _tool_call(block, is_cut=is_truncated and block is blocks[-1])
                for block in blocks
                if block.type == "tool_use"
            ),
            usage=usage,
            stop_reason=reason_of(message.stop_reason),
            is_truncated=is_truncated,
            is_paused=message.stop_reason == "pause_turn",
            context_truncated=message.stop_reason == "model_context_window_exceeded",
            native=_sendable(blocks),
        )

    def _status_error(self, error: anthropic.APIStatusError) -> BackendError:
        failure_class, code = classify(error.status_code, error.type)
        said = self._without_key(error.api_message or error.message)
        request = f" (request {error.request_id})" if error.request_id else ""
        return BackendError(
            failure_class,
            code,
            f"{self._base_url} answered {error.status_code} {error.type or ''}: {said}{request}",
            retry_after_s=retry_after_s(error.response.headers)
            if failure_class is FailureClass.usage_window
            else None,
        )

    def _with_usage(self, error: BackendError, snapshot: list[Any]) -> BackendError:
        if snapshot:
            error.usage = usage_of(snapshot[0])
        return error

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[redacted]")


def classify(status: int, error_type: str | None) -> tuple[FailureClass, str]:
    """The class and code of a refusal by the API."""
    if status in (200, 400) and error_type in BY_TYPE:
        return BY_TYPE[error_type]
    if status in BY_STATUS:
        return BY_STATUS[status]
    if status == 200:
        return FailureClass.infrastructure, "stream_error"
    if status >= 500:
        return FailureClass.infrastructure, "endpoint_error"
    if 300 <= status < 400:
        return FailureClass.configuration, "redirected"
    return FailureClass.task_error, "bad_request"


def provider_limits(headers: Mapping[str, str]) -> dict[str, int]:
    """What the provider says of its own limits: of requests and tokens, how many there are and how many are left."""
    found = {}
    for what in ("requests", "tokens", "input-tokens", "output-tokens"):
        for part in ("limit", "remaining"):
            try:
                value = int(headers[f"anthropic-ratelimit-{what}-{part}"])
            except (KeyError, ValueError):
                continue
            if 0 <= value <= 2**53:
                found[f"{what.replace('-', '_')}_{part}"] = value
    return found


async def _read(
    stream: Any, patience: Patience, on_progress: Callable[[], None], snapshot: list[Any]
) -> None:
    events: AsyncIterator[Any] = aiter(stream)
    async for event in patience.pieces(events):
        on_progress()
        if not snapshot and event.type == "message_start":
            snapshot.append(stream.current_message_snapshot)


def _wire(message: Message) -> Any:
    if isinstance(message, str):
        return {"role": "user", "content": message}
    if isinstance(message, Turn):
        return {"role": "assistant", "content": message.native}
    return {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": answer.call.id,
                "content": answer.content,
                "is_error": answer.is_error,
            }
            for answer in message
        ],
    }


def _tool(tool: ToolSpec) -> Any:
    return {"name": tool.name, "description": tool.description, "input_schema": tool.parameters}


def _tool_call(block: Any, *, is_cut: bool) -> ToolCall:
    fault = "the answer hit its token limit inside this call: write a smaller file" if is_cut else ""
    return ToolCall(id=clean(block.id), name=clean(block.name), arguments=clean(block.input), fault=fault)


def _sendable(blocks: list[Any]) -> list[dict[str, Any]]:
    """The answer as it may be sent back: thinking with its signature, no empty text, an object as input."""
    kept: list[dict[str, Any]] = []
    for block in blocks:
        fields = clean(block.model_dump(mode="python", exclude_none=True, exclude={"parsed_output"}))
        if fields.get("type") == "text" and not fields.get("text", "").strip():
            continue
        if fields.get("type") == "tool_use" and not isinstance(fields.get("input"), dict):
            fields["input"] = {}
        kept.append(fields)
    return kept or [{"type": "text", "text": NO_TEXT}]


def usage_of(message: Any) -> Usage:
    """What the API says that a call has used. Optional figures may be None; input_tokens leaves out what a cache held
    or took."""
    usage = message.usage
    written = count_of(usage.cache_creation_input_tokens)
    hour = min(written, count_of(getattr(usage.cache_creation, "ephemeral_1h_input_tokens", 0)))
    return Usage(
        fresh=count_of(usage.input_tokens),
        cache_read=count_of(usage.cache_read_input_tokens),
        cache_write_5m=written - hour,
        cache_write_1h=hour,
        out=count_of(usage.output_tokens),
        odd=usage.input_tokens is None
        or usage.output_tokens is None
        or are_odd(
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_input_tokens,
            usage.cache_creation_input_tokens,
        ),
    )
