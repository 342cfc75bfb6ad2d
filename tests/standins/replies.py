"""The scripted answers of both stand-ins.

A script is a JSON object. Both servers know `replies` (below) and `routes` (`{"/api/ps": {"delay_s": 6}}`,
`{"/api/tags": {"status": 500}}`, `{"/api/version": {"hang": true}}`, `{"/api/chat": {"held": true}}`). Each reply may
name `match` (a substring of the last user message) and `model`; replies with the same pair form a queue that is
consumed one per call, and its last reply repeats. Queues with a condition are asked first, in the order of the
script. Texts come out in `chunks` pieces; tokens not given are estimated at four characters each.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from typing import Any

from tests.standins.serving import Exchange, JsonObject, check_keys

CHARACTERS_PER_TOKEN = 4


@dataclasses.dataclass(frozen=True)
class Reply:
    """One scripted answer. Delays are in seconds; `retry_after_s` becomes the retry-after header."""

    content: str = "Done."
    thinking: str = ""
    tool_calls: tuple[JsonObject, ...] = ()
    match: str = ""
    model: str = ""
    fault: str = ""
    error: str = ""
    error_type: str = ""
    stop_reason: str = ""
    chunks: int = 3
    first_byte_delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    retry_after_s: float | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0

    @property
    def output_tokens(self) -> int:
        if self.tokens_out is not None:
            return self.tokens_out
        return estimated_tokens(self.content + self.thinking + "".join(str(call) for call in self.tool_calls))


DEFAULT_REPLY = Reply(tokens_out=3)


def reply_from(fields: JsonObject, faults: frozenset[str]) -> Reply:
    """Reads one reply of a script. ValueError for an unknown key or a fault that this server has not."""
    check_keys("reply", fields, {field.name for field in dataclasses.fields(Reply)})
    calls = tuple(fields.get("tool_calls", ()))
    for call in calls:
        check_keys("tool call", call, {"name", "arguments"})
    fault = str(fields.get("fault") or "")
    if fault and fault not in faults:
        raise ValueError(f"reply: unknown fault {fault}; known are {', '.join(sorted(faults))}")
    content = fields.get("content", "" if calls else Reply.content)
    given = fields | {"tool_calls": calls, "fault": fault, "content": "" if fault == "empty" else content}
    return Reply(**given)


class ReplyBook:
    """The replies of a script, given out in order. Safe to use from many threads."""

    def __init__(self, replies: list[Reply]) -> None:
        self._lock = threading.Lock()
        self._queues: dict[tuple[str, str], list[Reply]] = {}
        for reply in replies:
            self._queues.setdefault((reply.match, reply.model), []).append(reply)
        self._otherwise = self._queues.pop(("", ""), [DEFAULT_REPLY])

    def take(self, model: str, last_user_text: str) -> Reply:
        """The reply to the next call of `model` whose last user message is `last_user_text`."""
        with self._lock:
            for (match, wanted), queue in self._queues.items():
                if match in last_user_text and wanted in ("", model):
                    return _next(queue)
            return _next(self._otherwise)


def _next(queue: list[Reply]) -> Reply:
    return queue.pop(0) if len(queue) > 1 else queue[0]


def pace(exchange: Exchange, reply: Reply) -> None:
    """Waits for as long as a whole, unstreamed answer takes to make."""
    exchange.wait(reply.chunk_delay_s * max(0, reply.chunks - 1))


def estimated_tokens(text: str) -> int:
    return max(1, -(-len(text) // CHARACTERS_PER_TOKEN))


def pieces(text: str, count: int) -> list[str]:
    """`text` in at most `count` pieces of nearly one length; none is empty, together they are `text`."""
    count = max(1, min(count, len(text)))
    bounds = [len(text) * n // count for n in range(count + 1)]
    return [text[start:end] for start, end in itertools.pairwise(bounds) if end > start]


def shortened(reply: Reply, tokens_max: int) -> Reply:
    """`reply` as it stands when the model has to stop after `tokens_max` tokens; tool calls are lost."""
    kept = len(reply.content) * tokens_max // max(1, reply.output_tokens)
    return dataclasses.replace(reply, content=reply.content[:kept], tool_calls=(), tokens_out=tokens_max)


def text_of(content: Any) -> str:
    """The text of a message's content: a string, or a list of blocks."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    return "\n".join(str(block.get("text", "")) for block in content if block.get("type") == "text")


def last_user_text(messages: list[JsonObject]) -> str:
    """The newest message of the user that holds text; answers of tools do not count."""
    texts = (
        text_of(message.get("content")) for message in reversed(messages) if message.get("role") == "user"
    )
    return next((text for text in texts if text), "")
