"""What becomes of a task whose attempt has ended without a result: back to its lane, a wait, held, or dead.

By failure class, as the glossary has them; where its time is over by then it expires. Attempts closes the attempt and
frees its agent before it asks here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agentcom import limits
from agentcom.clock import Now
from agentcom.core.agents import Agent, Block, Fleet
from agentcom.core.deadlines import too_late
from agentcom.core.isolation import must_run_alone
from agentcom.core.losses import times
from agentcom.core.registry import Call, Registry
from agentcom.core.retries import backoff_ms
from agentcom.core.rows import TIERS
from agentcom.core.second_host import SecondHost
from agentcom.core.tasks import Jitter, Move, Tasks
from agentcom.model import (
    BACKEND_OF,
    STRATEGY_OF,
    Backend,
    FailureClass,
    ResultStatus,
    SecondRecord,
    State,
    TaskError,
    TaskResult,
    Tier,
    strategy_of,
)

TRIED_AGAIN: Final = "before it could be tried again"


def has_failed(result: TaskResult) -> bool:
    """Whether checks failed to the last round; a model that then changed nothing has not done better."""
    if result.status is ResultStatus.no_change:
        return bool(result.iterations) and result.iterations[-1].status == "fail"
    return result.status is ResultStatus.partial_pass


class Aftermath:
    """Moves tasks after a failure. `clock_ms` is the lease clock, `remind` sets a timer on it for a slot."""

    def __init__(
        self,
        tasks: Tasks,
        fleet: Fleet,
        registry: Registry,
        jitter: Jitter,
        clock_ms: Callable[[Now], int],
        remind: Callable[[int, int], None],
        seconds: SecondHost,
    ) -> None:
        self._seconds = seconds
        self._tasks = tasks
        self._table = tasks.table
        self._fleet = fleet
        self._registry = registry
        self._jitter = jitter
        self._clock_ms = clock_ms
        self._remind = remind

    def failed(
        self,
        slot: int,
        agent: Agent,
        call: Call | None,
        error: TaskError,
        now: Now,
        *,
        has_worked: bool,
    ) -> None:
        """By class: elsewhere after a backoff, parked until the window opens, a retry spent, or held. `call` is what
        the attempt used of an endpoint; `has_worked`: its worker ran, and has survived it."""
        table, queue = self._table, self._tasks.settings.queue
        table.errors[table.id[slot]] = error
        record = self._seconds.waits(slot) if self._tasks.seconds else None
        if record is not None:
            if error.failure_class is FailureClass.infrastructure:
                self._registry.host_failed(agent.host.record.id, now)
            self.could_not_verify(slot, record, error.message, now)
            return
        if has_worked:
            table.losses[slot] = 0  # losses count in a row
            self._tasks.set_alone(slot, False)
        if error.failure_class is FailureClass.configuration:
            if error.code in limits.KEY_CODES:
                self._block(slot, agent, error.message, limits.KEY_BLOCK_MS, now)
            self._hold(slot, error, now)
        elif error.failure_class is FailureClass.usage_window:
            table.parked_count[slot] += 1
            self._park(slot, agent, error, now)
        elif error.failure_class is FailureClass.infrastructure:
            if call is not None:
                self._registry.call_failed(call, error, now)
            else:
                self._registry.host_failed(agent.host.record.id, now)
            table.infra_count[slot] += 1
            self._again(
                slot, table.infra_count[slot], queue.max_infrastructure, "infrastructure_exhausted", now
            )
        else:
            if call is not None and error.code != "timed_out":
                self._registry.call_answered(call, now)
            table.retries_used[slot] += 1
            self._again(slot, table.retries_used[slot], table.max_retries[slot], error.code, now)

    def back(self, slot: int, now: Now, when: str = TRIED_AGAIN) -> None:
        """To its lane at once, as nobody has failed; `when` says of one whose time is over what it did not come to."""
        if not self._has_expired(slot, None, now, when):
            self._tasks.move(slot, Move.back, now)

    def escalate(self, slot: int, result: TaskResult, now: Now) -> None:
        """The checks still fail, and the task allows more than its tier: the next attempt is one above. Its attempt has
        ended; no retry is spent."""
        rounds = times(len(result.iterations), "round")
        said = f"its checks still failed after {rounds}: it goes on as {Tier.complex}, as it allows"
        error = TaskError(failure_class=FailureClass.verification, code="escalated", message=said)
        if self._has_expired(slot, error, now):
            return
        self._table.errors[self._table.id[slot]] = error
        self._tasks.escalate(slot, said, now)
        self._tasks.move(slot, Move.back, now)

    def could_not_verify(self, slot: int, record: SecondRecord, why: str, now: Now) -> None:
        """A second host gives its place to another, at once, or may try again after a backoff; or there were enough."""
        error = self._seconds.could_not(slot, record, why, now)
        if error is not None:
            self._hold(slot, error, now)
            return
        said = f"it waits for another second host: {why}"[:4000]
        waits = TaskError(failure_class=FailureClass.infrastructure, code="second_host_failed", message=said)
        self._table.errors[record.task] = waits
        self._delay(slot, backoff_ms(self._tasks.settings, record.tries + 1, self._jitter), now)

    def worker_lost(self, slot: int, error: TaskError, now: Now) -> None:
        """Count it, and go on after a backoff. A sidecar that was stopped in order has lost nobody, but what it runs
        may be what stops it, so that has an end too."""
        table, queue = self._table, self._tasks.settings.queue
        table.errors[table.id[slot]] = error
        record = self._seconds.waits(slot) if self._tasks.seconds else None
        if record is not None:
            self.could_not_verify(slot, record, error.message, now)
            return
        if error.code == "sidecar_stopped":
            table.infra_count[slot] += 1
            count = table.infra_count[slot]
            self._again(slot, count, queue.max_infrastructure, "infrastructure_exhausted", now)
            return
        table.losses[slot] += 1
        losses = table.losses[slot]
        if losses < queue.max_losses:
            self._tasks.set_alone(slot, must_run_alone(losses, queue.max_losses))
        said = f"{times(losses, 'lost worker')} in a row"
        self._again(slot, losses, queue.max_losses - 1, "worker_lost", now, said)

    def not_accepted(self, slot: int, place: str, when: str, now: Now) -> None:
        """Nobody took the assignment. Once is the host's affair, and the task goes elsewhere at once; a task that this
        befalls again and again may be what kills its sidecars, so it waits longer each time and has an end."""
        table = self._table
        record = self._seconds.waits(slot) if self._tasks.seconds else None
        if record is not None:
            self.could_not_verify(slot, record, f"not accepted by {place}, {when}", now)
            return
        table.unaccepted[slot] += 1
        count = table.unaccepted[slot]
        if count == 1:
            self.back(slot, now)
            return
        table.errors[table.id[slot]] = TaskError(
            failure_class=FailureClass.infrastructure,
            code="not_accepted",
            message=f"{count} assignments in a row were not accepted; the last by {place}, {when}",
        )
        if count >= self._tasks.settings.queue.max_unaccepted:
            self._again(slot, 1, 0, "never_accepted", now)
        else:
            self._delay(slot, backoff_ms(self._tasks.settings, count - 1, self._jitter), now)

    def _park(self, slot: int, agent: Agent, error: TaskError, now: Now) -> None:
        """Wait for the usage window. A cloud account's is that of the host's key: its agents get no more for it."""
        wait_ms = int((error.retry_after_s or self._tasks.settings.queue.park_s) * 1000)
        self._block(slot, agent, error.message, wait_ms, now)
        self._delay(slot, wait_ms, now)

    def _block(self, slot: int, agent: Agent, reason: str, wait_ms: int, now: Now) -> None:
        """Keep a cloud account's backend from the host for a while: what one task met, the next would meet too."""
        tier = self._table.stepped.get(self._table.id[slot]) or TIERS[self._table.tier[slot]]
        group = self._tasks.groups[self._table.group[slot]]
        backend = BACKEND_OF[strategy_of(group) if tier is group.tier else STRATEGY_OF[tier]]
        if backend is Backend.claude:
            until_ms, until_wall_ms = self._clock_ms(now) + wait_ms, now.wall_ms + wait_ms
            self._fleet.block(agent.host, Block(backend, reason, until_ms, now.wall_ms, until_wall_ms), now)

    def _again(self, slot: int, used: int, allowed: int, code: str, now: Now, what: str = "") -> None:
        """Back to the queue after a backoff, or dead when `used` is past what is allowed. `what`: if not attempts."""
        if used <= allowed:
            self._delay(slot, backoff_ms(self._tasks.settings, used, self._jitter), now)
            return
        last = self._table.errors[self._table.id[slot]]
        count = self._table.attempt[slot]
        tries = f"gave up after {what or times(count, 'attempt')}; the last: {last.message}"
        self._table.errors[self._table.id[slot]] = TaskError(
            failure_class=last.failure_class, code=code, message=tries[:4000]
        )
        if self._table.retries_used[slot] > self._table.max_retries[slot]:
            self._table.retries_used[slot] = self._table.max_retries[slot]
        self._tasks.move(slot, Move.kill, now)

    def _hold(self, slot: int, error: TaskError, now: Now) -> None:
        if not self._has_expired(slot, error, now):
            self._tasks.hold(slot, error, now)

    def _has_expired(self, slot: int, error: TaskError | None, now: Now, when: str = TRIED_AGAIN) -> bool:
        """Whether the task's time was over while it ran, which ends it here: it would be delayed or held for a moment
        that nothing follows, or come back to its lane and be told of as one that waited."""
        overdue = self._tasks.deadlines.overdue(slot, State.delayed, now, when)
        if overdue is None:
            return False
        if error is not None:
            overdue = too_late(overdue.code, f"{overdue.message}; the last: {error.message}"[:4000])
        self._table.errors[self._table.id[slot]] = overdue
        self._tasks.move(slot, Move.expire, now)
        return True

    def _delay(self, slot: int, ms: int, now: Now) -> None:
        table = self._table
        if self._has_expired(slot, table.errors[table.id[slot]], now):
            return
        table.delay_ms[slot], table.due_ms[slot] = ms, now.wall_ms + ms
        table.lease_ms[slot] = self._clock_ms(now) + ms
        table.not_before_ms[slot] = 0
        self._tasks.move(slot, Move.delay, now)
        self._remind(slot, table.lease_ms[slot])

    def load_delayed(self, slot: int, now: Now) -> None:
        """A delay goes on where it was when the hub stopped. Only the wall clock ran meanwhile; however it jumped,
        the delay becomes no longer than it was."""
        table = self._table
        left_ms = min(table.delay_ms[slot], max(0, table.due_ms[slot] - now.wall_ms))
        table.lease_ms[slot] = self._clock_ms(now) + left_ms
        self._remind(slot, table.lease_ms[slot])
