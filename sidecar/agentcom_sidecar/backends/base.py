"""What every model backend offers the agentic loop, and the words that both use.

A backend makes one model call at a time: it gets the conversation in neutral form, translates it to its wire,
streams the answer and gives back a `Turn`, or raises `BackendError` with the failure's class and code. It
never waits to try again (the hub does the waiting) and never runs a tool.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from agentcom import limits
from agentcom.errors import AgentComError
from agentcom.model import Backend, FailureClass, TaskError
from agentcom.redaction import redact_text

CONNECT_S_MAX = 10.0  # a server on this network answers a SYN at once; one further away within this
TOKENS_MAX = 2**40  # of one call; more is nonsense, and sums of it must stay within the wire's integers
STOP_REASON_CHARS_MAX = 64
RETRY_AFTER_S_MAX = 30 * 24 * 3600.0  # the bound of TaskError.retry_after_s

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one or more calls. `fresh` is the part of the prompt that met no cache; `odd`: the server gave a figure
    that cannot be, which counts as 0 here, so what the calls have cost is not known."""

    fresh: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    out: int = 0
    odd: bool = False

    @property
    def prompt(self) -> int:
        """The whole prompt, cached parts included."""
        return self.fresh + self.cache_read + self.cache_write_5m + self.cache_write_1h

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.fresh + other.fresh,
            self.cache_read + other.cache_read,
            self.cache_write_5m + other.cache_write_5m,
            self.cache_write_1h + other.cache_write_1h,
            self.out + other.out,
            self.odd or other.odd,
        )


class BackendError(AgentComError):
    """A model call failed. `usage`: tokens that it had used by then, as far as the server said."""

    def __init__(
        self,
        failure_class: FailureClass,
        code: str,
        message: str,
        *,
        retry_after_s: float | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.failure_class = failure_class
        self.retry_after_s = retry_after_s
        self.usage = usage or Usage()

    def as_error(self) -> TaskError:
        """For the wire: within its bounds, and without anything that looks like a key."""
        retry_after_s = self.retry_after_s
        if retry_after_s is not None:
            retry_after_s = min(max(0.0, retry_after_s), RETRY_AFTER_S_MAX)
        return TaskError(
            failure_class=self.failure_class,
            code=self.code,
            message=clean(redact_text(self.message))[: 2 * limits.REASON_CHARS_MAX],
            retry_after_s=retry_after_s,
        )


def infrastructure(code: str, message: str) -> BackendError:
    return BackendError(FailureClass.infrastructure, code, message)


def configuration(code: str, message: str) -> BackendError:
    return BackendError(FailureClass.configuration, code, message)


def task_error(code: str, message: str) -> BackendError:
    return BackendError(FailureClass.task_error, code, message)


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as the model sees it; `parameters` is a JSON schema of type object."""

    name: str
    description: str
    parameters: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as the model made it: `arguments` is whatever came. `fault` says why it must not be run."""

    id: str
    name: str
    arguments: Any
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One answer of a model. `native` is its form on the backend's wire, sent back as it came.

    `is_truncated`: it hit a token limit. `is_full`: that of the context, before the answer was as long as it might have
    been. `is_paused`: the server wants it sent back to go on. `first_byte_ms` leaves
    the loading out, `generate_ms` is from the first token to the last; 0 where that is not known.
    """

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage()
    stop_reason: str | None = None
    is_truncated: bool = False
    is_paused: bool = False
    is_full: bool = False
    context_truncated: bool = False
    load_ms: int = 0
    first_byte_ms: int = 0
    generate_ms: int = 0
    provider_limits: dict[str, int] = field(default_factory=dict)
    native: Any = None


@dataclass(frozen=True, slots=True)
class ToolAnswer:
    call: ToolCall
    content: str
    is_error: bool


Message = str | Turn | tuple[ToolAnswer, ...]  # the user's text, the model's turn, what its tools answered


@dataclass(slots=True)
class Conversation:
    """What was said so far; it only grows."""

    system: str
    messages: list[Message] = field(default_factory=list)


class ModelBackend(Protocol):
    """Use it in `async with`; leaving closes its connections."""

    name: Backend
    model: str

    async def call(
        self, conversation: Conversation, tools: tuple[ToolSpec, ...], on_progress: Callable[[], None]
    ) -> Turn:
        """One model call. `on_progress` is called for each piece that arrives. Raises BackendError."""
        ...

    async def __aenter__(self) -> ModelBackend: ...

    async def __aexit__(self, *_: object) -> None: ...


def clean(value: Any) -> Any:
    """`value`, as a JSON parser gives it, without what JSON and UTF-8 cannot carry on: half surrogate pairs,
    NaN and infinities. RecursionError for one that is nested too deep."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list):
        return [clean(each) for each in value]
    if isinstance(value, dict):
        return {clean(name): clean(each) for name, each in value.items()}
    return value


def count_of(value: object) -> int:
    """A figure that a server gave, 0 where it is none: absent, negative, no integer, beyond all reason."""
    return value if isinstance(value, int) and 0 <= value <= TOKENS_MAX else 0


def are_odd(*values: object) -> bool:
    """Whether one of these figures of a server is there and cannot be."""
    return any(value is not None and count_of(value) != value for value in values)


def reason_of(value: object) -> str | None:
    """Why an answer ended, as a server gave it, within a bound."""
    return clean(value[:STOP_REASON_CHARS_MAX]) if isinstance(value, str) else None


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the server says; None when it says nothing that can be read."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None


class Clock:
    """How long a call waited for its first piece, and how long the pieces came."""

    def __init__(self) -> None:
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._first = self._last = 0.0

    def heard(self) -> None:
        self._last = self._now()
        self._first = self._first or self._last

    @property
    def first_byte_ms(self) -> int:
        return round((self._first - self._began) * 1000) if self._first else 0

    @property
    def generate_ms(self) -> int:
        return round((self._last - self._first) * 1000)


class Patience:
    """How long a stream may stay silent: `first_byte_s` until its first piece, `idle_s` between two.

    Opening the connection and the first piece share one deadline, so a server that sends its head and then
    nothing is found out as well.
    """

    def __init__(self, first_byte_s: float, idle_s: float) -> None:
        self._first_byte_s, self._idle_s = first_byte_s, idle_s
        self._has_heard = False
        self._deadline = asyncio.get_running_loop().time() + first_byte_s

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """The awaited value; BackendError `no_first_byte` or `stream_stalled` when it took too long."""
        try:
            async with asyncio.timeout_at(self._deadline):
                return await awaitable
        except TimeoutError as error:
            if self._has_heard:
                raise infrastructure(
                    "stream_stalled", f"the model's answer stopped: nothing for {self._idle_s:g} s"
                ) from error
            raise infrastructure(
                "no_first_byte", f"no answer within {self._first_byte_s:g} s (sidecar.first_byte_s)"
            ) from error

    async def pieces(self, stream: AsyncIterator[T]) -> AsyncIterator[T]:
        """The pieces of `stream`, each awaited with this patience."""
        while True:
            try:
                piece = await self.wait(anext(stream))
            except StopAsyncIteration:
                return
            self._has_heard = True
            self._deadline = asyncio.get_running_loop().time() + self._idle_s
            yield piece
