"""The loop: ask the model, run the tools that it calls, tell it what they gave, until it answers with text.

Bounded in rounds; the whole is bounded in time by its caller. Cancelling the coroutine closes the model's
connection. What was used is added to a `Tally` as it happens, so that a failed attempt still says what it
cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from agentcom.model import Tier
from agentcom.redaction import redact_values
from agentcom_sidecar.agentic.tools import Toolbox
from agentcom_sidecar.backends.base import (
    BackendError,
    Conversation,
    ModelBackend,
    ToolAnswer,
    ToolCall,
    Turn,
    Usage,
    configuration,
    task_error,
)

ROUNDS_MAX = {Tier.trivial: 5, Tier.standard: 10, Tier.complex: 20}
REPEATS_MAX = 3  # the same calls this often in a row: the model does not move any more
CALLS_MAX = 64  # tools run for one answer; the rest are told to come in the next


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the loop tells, and whom it asks: see work.Work. `may_spend` says why a call with a prompt of so many bytes
    would cost too much, if it would."""

    log: Callable[[str], None]
    progress: Callable[[], None]
    heard: Callable[[], None]
    hub_gate: Callable[[], Awaitable[None]]
    may_spend: Callable[[int, Tally], str | None] = lambda _prompt_bytes, _tally: None


@dataclass(slots=True)
class Tally:
    """What all model calls of an attempt came to. `usages` has one entry per call, in order.

    `text` is the newest text that is not empty. Times in milliseconds.
    """

    usages: list[Usage] = field(default_factory=list)
    text: str = ""
    stop_reason: str | None = None
    context_truncated: bool = False
    load_ms: int = 0
    first_byte_ms: int = 0  # of the first call that says it
    generate_ms: int = 0
    provider_limits: dict[str, int] = field(default_factory=dict)  # as of the last call
    model_ms: int = 0
    warnings: list[str] = field(default_factory=list)

    @property
    def total(self) -> Usage:
        return sum(self.usages, Usage())

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


async def converse(
    backend: ModelBackend,
    conversation: Conversation,
    toolbox: Toolbox,
    tally: Tally,
    hooks: Hooks,
    rounds_max: int,
) -> None:
    """Lets the model work on the newest message of `conversation` until it is done or the rounds are spent.

    Raises BackendError; `empty_answer` when it neither said nor did anything.
    """
    previous: list[tuple[str, str]] = []
    repeats = 0
    has_acted = False
    for number in range(1, rounds_max + 1):
        too_much = hooks.may_spend(size_of(conversation, toolbox), tally)
        if too_much is not None:
            if not tally.usages:
                raise configuration("budget_too_small", too_much)
            tally.stop_reason = "budget"
            tally.warn(f"stopped: {too_much}")
            return
        turn = await _ask(backend, conversation, toolbox, tally, hooks)
        _note(turn, tally, hooks, number)
        if turn.tool_calls:
            has_acted = True
            conversation.messages.append(_answers(turn, toolbox, hooks))
            calls = [(call.name, repr(call.arguments)) for call in turn.tool_calls]
            repeats = repeats + 1 if calls == previous else 1
            previous = calls
            if repeats >= REPEATS_MAX:
                tally.stop_reason = "repetition"
                tally.warn(f"stopped: the model made the same tool calls {repeats} times in a row")
                return
        elif not turn.is_paused:
            if not has_acted and not turn.text.strip():
                raise task_error("empty_answer", f"{backend.model} answered with no text and no tool call")
            return
        await asyncio.sleep(0)  # a point where a cancel can land, whatever the backend does
    tally.stop_reason = "rounds"
    tally.warn(f"stopped after {rounds_max} rounds, the limit of this tier, before the model was done")


def size_of(conversation: Conversation, toolbox: Toolbox) -> int:
    """Bytes of what the next call sends, roughly and never less."""
    return len(repr((conversation.system, conversation.messages, toolbox.specs)).encode("utf-8", "replace"))


async def _ask(
    backend: ModelBackend, conversation: Conversation, toolbox: Toolbox, tally: Tally, hooks: Hooks
) -> Turn:
    await hooks.hub_gate()
    hooks.progress()

    def hear() -> None:
        hooks.heard()
        hooks.progress()

    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        turn = await backend.call(conversation, toolbox.specs, hear)
    except BackendError as error:
        tally.usages.append(error.usage)
        raise
    finally:
        tally.model_ms += round((loop.time() - started) * 1000)
    tally.usages.append(turn.usage)
    conversation.messages.append(turn)
    return turn


def _note(turn: Turn, tally: Tally, hooks: Hooks, number: int) -> None:
    tally.load_ms += turn.load_ms
    tally.first_byte_ms = tally.first_byte_ms or turn.first_byte_ms
    tally.generate_ms += turn.generate_ms
    tally.provider_limits = turn.provider_limits or tally.provider_limits
    tally.stop_reason = turn.stop_reason
    if turn.text.strip():
        tally.text = turn.text
        hooks.log(f"[round {number}] {turn.text.rstrip()}\n")
    if turn.is_truncated:
        tally.warn(f"an answer was cut off by a token limit (stop reason {turn.stop_reason})")
    if turn.context_truncated:
        tally.context_truncated = True
        tally.warn("the model did not see the whole prompt: it does not fit the model's context")


def _answers(turn: Turn, toolbox: Toolbox, hooks: Hooks) -> tuple[ToolAnswer, ...]:
    answers = []
    for number, call in enumerate(turn.tool_calls):
        if number >= CALLS_MAX:
            call = ToolCall(call.id, call.name, call.arguments, f"more than {CALLS_MAX} calls in one answer")
        answer = toolbox.run(call)
        # By value alone: what only looks like a secret may be a line that the model is to write back.
        answer = replace(answer, content=redact_values(answer.content))
        hooks.log(f"[{call.name[:64]}] {answer.content}\n")
        answers.append(answer)
    return tuple(answers)
