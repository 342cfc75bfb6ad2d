"""Fallbacks between tiers: what becomes of tasks that no host can run at all, however long they wait.

By configuration (`routing.fallback`) a standard task goes up to the cloud, a complex one down to a local model if it
allows `lower`; nothing leads to the shell. A group of tasks that is stranded - refused everywhere for more than work
that will end - waits `routing.wait_s` first; from then on each decision for it may take one step, while it stays
stranded. The wait is a record, so a restart does not begin it anew. It runs on the clock of leases.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from agentcom.clock import Now
from agentcom.config import Settings
from agentcom.core.effects import key_u64
from agentcom.core.groups import Groups, raised
from agentcom.core.outlet import Outlet
from agentcom.core.refusal import Refusals
from agentcom.core.wanted import may_leave
from agentcom.model import Allowance, FallbackWait, Group, JsonObject, Strategy, Tier, strategy_of

PREFIX: Final = b"fallback"
PASSES: Final = frozenset(
    {"", "agents_busy", "endpoint_full", "limit_reached", "retry_budget", "host_not_idle", "host_reserved"}
)  # what ends by itself when other work does


class Wait(NamedTuple):
    number: int  # of the group
    due_ms: int  # on the clock of leases


class Fallbacks:
    """Waits of stranded groups. `clock_ms` is the lease clock. Whether a task can pay for a step up is asked for each
    when it is given out: of groups that is not known."""

    def __init__(self, out: Outlet, groups: Groups, refusals: Refusals, settings: Settings) -> None:
        self._out = out
        self._groups = groups
        self._refusals = refusals
        self.settings = settings
        self.clock_ms: Callable[[Now], int] = lambda now: now.mono_ms
        self.waits: dict[Group, Wait] = {}
        self._ripe: set[Group] = set()

    @property
    def is_on(self) -> bool:
        return self.settings.routing.fallback != "none"

    def load(self, number: int, record: FallbackWait, now: Now) -> None:
        """A wait from the store, after the live tasks. Only the wall clock ran meanwhile; it makes no wait longer."""
        if number not in self._groups or not self._groups.uses(number):
            self._out.delete("meta", PREFIX + key_u64(number))
            return
        left_ms = min(record.delay_ms, max(0, record.due_ms - now.wall_ms))
        self.waits[self._groups[number]] = Wait(number, self.clock_ms(now) + left_ms)

    def step_of(self, group: Group) -> Group | None:
        """The same tasks one step on, where the configuration and they allow it."""
        way = self.settings.routing.fallback
        if strategy_of(group) is Strategy.agent_program:
            return None  # another tier would ask for the same program
        if group.tier is Tier.standard and way in ("up", "both"):
            return raised(group)
        if group.tier is Tier.complex and way in ("down", "both") and Allowance.down in group.allow:
            allow = (Allowance.cloud.value,) if may_leave(group, self.settings) else ()
            return msgspec.structs.replace(group, tier=Tier.standard, model="", allow=allow)
        return None

    def look(self, group: Group, is_retry: bool, has_way: bool, now: Now) -> Group | None:
        """A decision for the group is due: the group in whose place it may run now. Begins and ends waits."""
        wait = self.waits.get(group)
        if has_way:
            if wait is not None:
                self._end(group)
            return None
        step = self.step_of(group)
        if step is None or (wait is not None and wait.due_ms > self.clock_ms(now)):
            return None
        if not self.is_stranded(group, is_retry):
            if wait is not None:
                self._end(group)
            return None
        if wait is None:
            self._begin(group, now)
            return None
        return step

    def is_stranded(self, group: Group, is_retry: bool = False) -> bool:
        """Whether every host is refused for more than work that will end. O(hosts)."""
        return not any(fails in PASSES for fails in self._refusals.conditions(group, is_retry))

    def expire(self, now: Now) -> bool:
        """Whether a wait is over since the last look; those of groups without tasks end."""
        clock_ms, is_any = self.clock_ms(now), False
        for group, wait in list(self.waits.items()):
            if not self._is_live(group, wait) or self.step_of(group) is None:
                self._end(group)
            elif wait.due_ms <= clock_ms and group not in self._ripe:
                self._ripe.add(group)
                is_any = True
        return is_any

    def next_due_ms(self) -> int | None:
        """When the next wait is over, on the clock of leases."""
        return min((w.due_ms for g, w in self.waits.items() if g not in self._ripe), default=None)

    def view(self, group: Group, now: Now) -> JsonObject | None:
        """Where tasks of the group go if nobody can run them, and in how many seconds; None for nowhere."""
        step = self.step_of(group)
        if step is None:
            return None
        wait = self.waits.get(group)
        left_ms = None if wait is None else max(0, wait.due_ms - self.clock_ms(now))
        return {
            "to": step.tier.value,
            "in_s": None if left_ms is None else left_ms / 1000,
        }

    def _is_live(self, group: Group, wait: Wait) -> bool:
        return (
            wait.number in self._groups
            and self._groups[wait.number] == group
            and bool(self._groups.uses(wait.number))
        )

    def _begin(self, group: Group, now: Now) -> None:
        number = self._groups.number_of(group)
        if number is None:
            return  # asked of a group that no task has
        wait_ms = int(self.settings.routing.wait_s * 1000)
        self.waits[group] = Wait(number, self.clock_ms(now) + wait_ms)
        record = FallbackWait(due_ms=now.wall_ms + wait_ms, delay_ms=wait_ms)
        self._out.put("meta", PREFIX + key_u64(number), record)

    def _end(self, group: Group) -> None:
        wait = self.waits.pop(group)
        self._ripe.discard(group)
        self._out.delete("meta", PREFIX + key_u64(wait.number))
