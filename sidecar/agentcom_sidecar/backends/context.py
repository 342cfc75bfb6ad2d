"""Whether a server read the whole prompt: some drop a part of one that is too long, answer, and say nothing of it.

* Ollama counts num_ctx / 2 + 2 tokens then or, where whole messages were dropped, some number below num_ctx.
* Of servers that speak the OpenAI API, vLLM and llama.cpp refuse such a prompt (400). Others keep a window of it: what
  they count stays where it is while the conversation grows, or is far less than any text of that length comes to.
So the count is compared with the context, where it is known, with the text that was sent, and with the calls before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from agentcom_sidecar.backends.base import Message, Turn

CHARS_PER_TOKEN_HIGH = 5  # more characters than this per token is no text that people or programs write
CHARS_PER_TOKEN_LOW = 3
CHARS_PER_TOKEN_MAX = 8  # of a whole prompt, whatever it holds: long rows of one sign or of spaces are few tokens
UNCOUNTED_CHARS = 4_000  # of a prompt, that its server may leave out without harm
GREW_CHARS = 4_000  # that are a few hundred tokens of any text
# What a reasoning model wrote to itself: templates leave it out of the prompts that follow.
_THOUGHT = re.compile(r"<think>.*?</think>", re.DOTALL)


def looks_truncated(sent_chars: int, counted: int, num_ctx: int) -> bool:
    """Whether a server with that context dropped a part of the prompt.

    Either the text cannot have fitted at all, or it would not have fitted at the usual rate and less than half of it
    was counted.
    """
    if not counted:
        return False
    if sent_chars > CHARS_PER_TOKEN_HIGH * num_ctx:
        return True
    estimate = sent_chars // CHARS_PER_TOKEN_LOW
    return estimate > num_ctx and 2 * counted <= estimate + 4


class ContextWatch:
    """The calls of one conversation, which only grows, as their server counted them. `num_ctx` None: unknown."""

    def __init__(self, num_ctx: int | None) -> None:
        self._num_ctx = num_ctx
        self._most = (0, 0)  # tokens, and the characters sent, of the call that was counted highest

    def saw_less(self, sent_chars: int, counted: int) -> bool:
        """Whether the server dropped a part of this prompt; False where it counts nothing."""
        if not counted:
            return False
        most, at_chars = self._most
        if counted > most:
            self._most = counted, sent_chars
        has_stood_still = most > 0 and counted <= most and sent_chars - at_chars >= GREW_CHARS
        is_too_few = sent_chars > CHARS_PER_TOKEN_MAX * counted + UNCOUNTED_CHARS
        is_too_long = self._num_ctx is not None and looks_truncated(sent_chars, counted, self._num_ctx)
        return has_stood_still or is_too_few or is_too_long


def chars_of(system: str, messages: Iterable[Message]) -> int:
    """What a conversation holds for the model to read, without thoughts and without the form of the wire."""
    return len(system) + sum(_chars(message) for message in messages)


def _chars(message: Message) -> int:
    if isinstance(message, str):
        return len(message)
    if isinstance(message, Turn):
        written = len(_THOUGHT.sub("", message.text))
        return written + sum(len(call.name) + len(str(call.arguments)) for call in message.tool_calls)
    return sum(len(answer.content) for answer in message)
