"""The loop: ask the model, run the tools that it calls, tell it what they gave, until it answers with text.

Bounded in rounds, tokens and cost, and watched for standing still; the whole is bounded in time by its caller.
Cancelling the coroutine closes the model's connection. What was used is added to a `Tally` as it happens, so that a
failed attempt still says what it cost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from agentcom.redaction import redact_values
from agentcom_sidecar.agentic import told_tools
from agentcom_sidecar.agentic.guards import MISTAKE_ROUNDS_MAX, REPEATS_MAX, STALL_ROUNDS_MAX, Watch
from agentcom_sidecar.agentic.narration import call_line, tokens_line
from agentcom_sidecar.agentic.observations import Asked, Failed, Finished, Observation
from agentcom_sidecar.agentic.text_calls import text_calls
from agentcom_sidecar.agentic.tools import Toolbox, encoded, essence, is_mistake
from agentcom_sidecar.backends.base import (
    BackendError,
    Conversation,
    Message,
    ModelBackend,
    ToolAnswer,
    ToolCall,
    Turn,
    Usage,
    configuration,
    task_error,
)
from agentcom_sidecar.stops import SPENT

REFUSAL_CHARS_MAX = 300  # of what a server says of the tools that it refuses
CALLS_MAX = 64  # tools run for one answer; the rest are told to come in the next


@dataclass(frozen=True, slots=True)
class Bounds:
    """Rounds of one try, and tokens (in and out) of the whole attempt; 0 tokens: no bound. `rounds_from` is the setting
    that says how many rounds."""

    rounds_max: int
    tokens_max: int = 0
    rounds_from: str = "sidecar.rounds_*"


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
    question: str = ""  # what the model asks a person; then it has stopped
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

    def stop(self, reason: str, why: str) -> None:
        """The model was stopped before it was done."""
        self.stop_reason = reason
        self.warn(f"stopped: {why}")

    @property
    def is_spent(self) -> bool:
        """Whether what the attempt may use is used up, so that no further try is made."""
        return self.stop_reason in SPENT

    def warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


async def converse(
    backend: ModelBackend,
    conversation: Conversation,
    toolbox: Toolbox,
    tally: Tally,
    hooks: Hooks,
    bounds: Bounds,
) -> None:
    """Lets the model work on the newest message of `conversation` until it is done or a bound is met, which
    `tally.stop_reason` and a warning then name.

    Raises BackendError; `empty_answer` when it neither said nor did anything, `bad_tool_calls` when it goes on
    calling what makes no sense.
    """
    watch = Watch()
    has_acted = False
    for number in range(1, bounds.rounds_max + 1):
        if _is_spent(conversation, toolbox, tally, hooks, bounds):
            return
        turn = await _answer(backend, conversation, toolbox, tally, hooks, number)
        _note(turn, tally, hooks, number)
        calls = turn.tool_calls or text_calls(turn.text, toolbox.names)
        if calls:
            has_acted = True
            done = await _run(calls, toolbox, hooks, number)
            conversation.messages.append(_told(turn, done))
            if _is_over(done, watch, tally, backend.model):
                return
        elif not turn.is_paused:
            if not has_acted and not turn.text.strip():
                said = f"{backend.model} answered with no text and no tool call; give the task another model"
                raise task_error("empty_answer", said)
            return
        await asyncio.sleep(0)  # a point where a cancel can land, whatever the backend does
    limit = f"the limit of this tier ({bounds.rounds_from} of this host)"
    tally.stop("rounds", f"after {bounds.rounds_max} rounds, {limit}, before the model was done")


def _is_spent(
    conversation: Conversation, toolbox: Toolbox, tally: Tally, hooks: Hooks, bounds: Bounds
) -> bool:
    """Whether no further call may be made; BackendError where not even the first one may."""
    too_much = hooks.may_spend(size_of(conversation, toolbox), tally)
    if too_much is not None:
        if not tally.usages:
            raise configuration("budget_too_small", too_much)
        tally.stop("budget", too_much)
        return True
    used = tally.total.prompt + tally.total.out
    if bounds.tokens_max and used >= bounds.tokens_max:
        tally.stop("tokens", f"{used} tokens were used, and sidecar.attempt_tokens_max is {bounds.tokens_max}")
        return True
    return False


def _is_over(done: list[tuple[ToolCall, Observation]], watch: Watch, tally: Tally, model: str) -> bool:
    """Whether the model said that it is done, or no longer moves."""
    for _, observation in done:
        if isinstance(observation, Asked):
            tally.question = observation.question
            tally.stop_reason = "question"
            return True
        if isinstance(observation, Finished):
            tally.text = observation.summary.strip() or tally.text
            tally.stop_reason = "finish"
            return True
    pairs = [(f"{call.name} {call.arguments!r}", essence(observation)) for call, observation in done]
    standstill = watch.took(pairs, is_mistaken=all(is_mistake(observation) for _, observation in done))
    if standstill == "mistakes":
        _, last = done[-1]
        said = last.message if isinstance(last, Failed) else ""
        raise task_error(
            "bad_tool_calls",
            f"{model} made {MISTAKE_ROUNDS_MAX} rounds of tool calls that make no sense, the last: {said}; "
            "give the task a model that is better with tools",
        )
    if standstill == "repetition":
        tally.stop("repetition", f"the model made the same tool calls {REPEATS_MAX} times, with the same results")
    elif standstill == "stall":
        tally.stop("stall", f"{STALL_ROUNDS_MAX} rounds in a row gave the model nothing new")
    return standstill is not None


def size_of(conversation: Conversation, toolbox: Toolbox) -> int:
    """Bytes of what the next call sends, roughly and never less."""
    return len(repr((conversation.system, conversation.messages, toolbox.specs)).encode("utf-8", "replace"))


async def _answer(
    backend: ModelBackend, conversation: Conversation, toolbox: Toolbox, tally: Tally, hooks: Hooks, number: int
) -> Turn:
    """The model's next turn. A server that refuses tools is asked again with the tools in words, once."""
    try:
        return await _ask(backend, conversation, toolbox, tally, hooks)
    except BackendError as error:
        if error.code != told_tools.REFUSED or told_tools.is_told(conversation):
            raise
        said = f"the server refuses tools: {backend.model} is told them in words, and its calls are read from its text"
        tally.warn(said)
        hooks.log(f"[round {number}] {said} ({' '.join(error.message.split())[:REFUSAL_CHARS_MAX]})\n")
        told_tools.tell(conversation, toolbox.specs)
        return await _ask(backend, conversation, toolbox, tally, hooks)


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
        turn = await backend.call(conversation, () if told_tools.is_told(conversation) else toolbox.specs, hear)
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
    hooks.log(tokens_line(number, turn))
    if turn.is_full:
        said = f"the model's context is full: an answer was cut off after {turn.usage.out} tokens"
        tally.warn(f"{said}, with a prompt of {turn.usage.prompt}")
    elif turn.is_truncated:
        tally.warn(f"an answer was cut off by a token limit (stop reason {turn.stop_reason})")
    if turn.context_truncated:
        tally.context_truncated = True
        tally.warn("the model did not see the whole prompt: it does not fit the model's context")


async def _run(
    calls: tuple[ToolCall, ...], toolbox: Toolbox, hooks: Hooks, number: int
) -> list[tuple[ToolCall, Observation]]:
    """The calls of one answer, in their order; what comes after the last that can be run is told so."""
    done: list[tuple[ToolCall, Observation]] = []
    why_not = ""
    for count, call in enumerate(calls):
        if count >= CALLS_MAX:
            why_not = f"more than {CALLS_MAX} calls in one answer"
        if why_not:
            call = replace(call, fault=why_not)
        observation = await toolbox.run(call)
        hooks.progress()
        hooks.log(call_line(number, call, observation))
        done.append((call, observation))
        if isinstance(observation, Finished | Asked):
            why_not = f"it comes after {call.name}"
    return done


def _told(turn: Turn, done: list[tuple[ToolCall, Observation]]) -> Message:
    """As answers to its calls; a model that wrote them as text gets text."""
    if turn.tool_calls:
        return tuple(ToolAnswer(call, _shown(seen), isinstance(seen, Failed)) for call, seen in done)
    return "\n".join(f"[{call.name or 'no tool'}] {_shown(seen)}" for call, seen in done)


def _shown(observation: Observation) -> str:
    # By value alone: what only looks like a secret may be a line that the model is to write back.
    return redact_values(encoded(observation))
