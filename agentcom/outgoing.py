"""What a tick has to say, made ready while its batch is on the way to the disk, so that it can leave in one go.

An answer is the bytes that will be sent; an assignment gets the task's body from the store, and the log a line. All
other effects stay as they are, in their order. Those of the kinds in WAITS may wait for a batch that is still being
made durable: they are the same whenever they are carried out. What reads the core or changes the shell may not wait,
since the core goes on meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from agentcom import logs
from agentcom import messages as m
from agentcom.core.effects import Effect, LogPiece, Publish, Send, SendAssign, TaskChanged, key_u64
from agentcom.predecessors import OwnTerms, predecessors
from agentcom.results import found_at
from agentcom.store.base import Store

WAITS: Final = frozenset({Send, SendAssign, Publish, TaskChanged, LogPiece})

Said = tuple[int, bytes]  # a peer, and what it is sent

_own_terms = msgspec.msgpack.Decoder(OwnTerms).decode


def may_wait(effects: Sequence[Effect]) -> bool:
    """Whether all of these may be carried out later than the next tick is decided."""
    return all(type(effect) in WAITS for effect in effects)


class Outgoing:
    """Makes ready what leaves. `routed` gets a line for each assignment."""

    def __init__(self, store: Store, routed: logs.Lines) -> None:
        self._store, self._routed = store, routed

    def ready(self, effects: Sequence[Effect]) -> list[Said | Effect]:
        bodies = self._bodies_of(effects)
        made: list[Said | Effect] = []
        for effect in effects:
            # Exact types: nothing derives from these, and there are several for each task.
            if type(effect) is Send:
                made.append((effect.peer, m.encode(effect.message)))
            elif type(effect) is SendAssign:
                made.append((effect.peer, self._assignment(effect, bodies)))
            else:
                made.append(effect)
        return made

    def _bodies_of(self, effects: Sequence[Effect]) -> dict[int, bytes]:
        """The bodies of the tasks that are sent out, read at once: a transaction for each costs more than the
        reading."""
        tasks = [effect.message.task for effect in effects if type(effect) is SendAssign]
        if not tasks:
            return {}
        bodies = self._store.get_many("bodies", list(map(key_u64, tasks)))
        return {task: body for task, body in zip(tasks, bodies, strict=True) if body is not None}

    def _assignment(self, effect: SendAssign, bodies: dict[int, bytes]) -> bytes:
        """With the task's bytes, those of its route, and what of it overrides a default."""
        assign = effect.message
        body = bodies.get(assign.task)
        assert body is not None, f"task {assign.task} was assigned and has no body"
        own = _own_terms(body)
        assign.spec = msgspec.Raw(body)
        if own.max_fix_attempts is not None:
            assign.max_fix_attempts = own.max_fix_attempts
        if own.timeout_s is not None:
            assign.timeout_s = own.timeout_s
        if own.depends_on:
            assign.predecessors = predecessors(self._store, own.depends_on, own.base)
        if assign.verifies is not None:
            found = found_at(self._store, assign.task, assign.verifies.attempt)
            report = found.work if found is not None else None
            assign.verifies = msgspec.structs.replace(assign.verifies, report=report)
        route = assign.route
        self._routed.add(
            "task_assigned",
            task=assign.task,
            attempt=assign.attempt,
            agent=route.agent,
            host=route.host,
            strategy=route.strategy,
            model=route.model,
            endpoint=route.endpoint,
            reason=route.reason,
        )
        assign.route = msgspec.Raw(effect.route)  # type: ignore[assignment]  # leaves as the same bytes
        return m.encode(assign)
