"""Giving out: the heads of the queue go to the scheduler, and what it says is carried out.

The scheduler knows places and costs, not limits: tasks that meet under one in the same tick are told apart here. A task
that waits for a full endpoint stays where it is, and the queue is looked at further down.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from agentcom import limits
from agentcom.clock import Now
from agentcom.core.agents import Fleet
from agentcom.core.attempts import Attempts
from agentcom.core.board import Board
from agentcom.core.gates import Gates
from agentcom.core.lanes import task_of
from agentcom.core.ledger import Ledger
from agentcom.core.outlet import Outlet
from agentcom.core.placed import Placed, first_first
from agentcom.core.principals import Principals
from agentcom.core.registry import Registry
from agentcom.core.retries import RetryBudgets
from agentcom.core.routing import Choices, Router
from agentcom.core.rows import SOURCES, TIERS, TaskTable
from agentcom.core.score import Candidate
from agentcom.core.tasks import Tasks
from agentcom.core.wanted import Wanted
from agentcom.model import STRATEGY_OF, Strategy, Tier, TierSource, strategy_of


class Asked(NamedTuple):
    """What the tasks of a group want, and what is asked for them now: the same, or one step between tiers on."""

    wanted: Wanted
    now: Wanted

    @property
    def is_step(self) -> bool:
        return self.now[0] is not self.wanted[0]

    def told(self, way: Candidate) -> Candidate:
        """The way, which says so if it is a step."""
        if not self.is_step:
            return way
        return msgspec.structs.replace(way, stepped=self.now[0].tier)


class Dispatch:
    """One turn of giving out, as often as `once` says that there is more."""

    def __init__(
        self,
        out: Outlet,
        tasks: Tasks,
        fleet: Fleet,
        registry: Registry,
        retries: RetryBudgets,
        gates: Gates,
        principals: Principals,
        attempts: Attempts,
        router: Router,
        ledger: Ledger,
    ) -> None:
        self._out = out
        self._tasks = tasks
        self._fleet = fleet
        self._registry = registry
        self._retries = retries
        self._gates = gates
        self._principals = principals
        self._attempts = attempts
        self._router = router
        self._ledger = ledger
        self.now = Now(0, 0)  # of the tick that gives out
        self.board = Board(fleet, registry, retries, router.scores, router.refusals)

    def once(self, now: Now) -> bool:
        """Whether agents stayed free because the tasks chosen for them had no room under a limit any more."""
        self.board.refresh(now)
        count = self.board.free_count
        queued = self._queued(count) if count else []
        while queued:
            asked = {group: self._ask(group, now) for group in dict.fromkeys(group for _, group in queued)}
            paid = self._paid(queued, asked, now)
            placed = self._place(paid, asked, now)
            # Tasks that wait for a warm endpoint, or that cannot pay for a step up, leave agents free, which may be
            # sooner for some behind them.
            passes = len(paid) < len(queued) or any(each.agent < 0 <= each.endpoint for each in placed)
            count = min(count * 4, limits.SCHEDULED_AHEAD_MAX)
            more = self._queued(count) if passes else queued
            if len(more) <= len(queued):
                return self._carry_out(paid, asked, placed, now)
            queued = more
        return False

    def _queued(self, count: int) -> list[tuple[int, int]]:
        """(entry, group) of the next tasks, `count` at most of each pool; the group's complement for one that has
        failed before, while some endpoints are closed for those."""
        queued = self._tasks.ready.next(count)
        if self._tasks.alone:
            queued = [one for one in queued if not self._tasks.groups[one[1]].alone]
        if self._retries.spent:
            queued = [(entry, self._wanted(entry, group)) for entry, group in queued]
        return queued

    def _place(self, queued: list[tuple[int, int]], asked: dict[int, Asked], now: Now) -> list[Placed]:
        """One call of the scheduler over the heads of all groups."""
        index = {group: n for n, group in enumerate(asked)}
        order = [index[group] for _, group in queued]
        placed = self.board.place([each.now for each in asked.values()], order, now)
        if self.board.recorder is not None:
            self.board.recorder.placed(queued, asked, placed)
        return placed

    def _paid(
        self, queued: list[tuple[int, int]], asked: dict[int, Asked], now: Now
    ) -> list[tuple[int, int]]:
        """Those without the tasks that cannot pay for the step up which their group may take. They wait for their own
        tier, on which nobody can run them now; they are not held for want of money that they never asked for."""
        up = {group for group, each in asked.items() if each.now[0].tier is Tier.complex and each.is_step}
        if not up or not self._ledger.is_used:
            return queued
        table, pays = self._tasks.table, self._ledger.pays
        known: dict[tuple[int, int], bool] = {}  # by group and submitter, of tasks without a budget of their own
        kept = []
        for entry, group in queued:
            if group in up:
                task = task_of(entry)
                slot = table.slot_of[task]
                place = (group, table.submitter[slot])
                may = pays(slot, now) if task in table.budgets else known.get(place)
                if may is None:
                    may = known[place] = pays(slot, now)
                if not may:
                    continue
            kept.append((entry, group))
        return kept

    def _ask(self, group: int, now: Now) -> Asked:
        wanted = self._tasks.groups[max(group, ~group)], group < 0
        fallbacks = self._router.fallbacks
        if fallbacks.is_on:
            step = fallbacks.look(*wanted, self.board.has_way(wanted, now), now)
            if step is not None:
                return Asked(wanted, (step, wanted[1]))
        return Asked(wanted, wanted)

    def _carry_out(
        self, queued: list[tuple[int, int]], asked: dict[int, Asked], placed: list[Placed], now: Now
    ) -> bool:
        """One assignment per place, unless the ones before it have used up what a limit allows. Whether that
        happened."""
        placed = first_first([group for _, group in queued], placed)
        starts = [
            (task_of(entry), group, asked[group].told(self.board.candidate(asked[group].now, each, now)))
            for (entry, group), each in zip(queued, placed, strict=True)
            if each.agent >= 0
        ]
        choices = {}
        for group in dict.fromkeys(group for _, group, _ in starts):
            best = [asked[group].told(way) for way in self.board.best(asked[group].now, now)]
            refused = self.board.refused(asked[group].wanted, now)
            choices[group] = self._router.choices(asked[group].wanted, best, refused)
        is_limited = False
        for task, group, chosen in starts:
            slot = self._tasks.table.slot_of[task]
            if self.has_room(slot, chosen):
                self.assign(slot, choices[group], chosen, now)
            else:
                is_limited = True
        return is_limited

    def _wanted(self, entry: int, group: int) -> int:
        """The group, or its complement for a task that has failed before: for those some endpoints are closed."""
        return ~group if self._tasks.is_retry(self._tasks.table.slot_of[task_of(entry)]) else group

    def has_room(self, slot: int, chosen: Candidate) -> bool:
        """Whether the limits of the task and of its endpoint allow one more."""
        endpoint = chosen.endpoint
        if endpoint is not None:
            if not self._registry.room(endpoint.id, 1):
                return False
            if endpoint.id in self._retries.spent and self._tasks.is_retry(slot):
                return False
        elif chosen.agent.host.account_shut and self._is_cloud(slot, chosen):
            return False
        if not self._gates.may_start(slot):
            return False
        if not self._ledger.is_used:
            return True
        if chosen.remote and not self._ledger.may_call_unpriced(slot, chosen.model, self.now):
            return False
        if chosen.stepped is Tier.complex:
            return self._ledger.pays(slot, self.now)
        return self._ledger.may_start(slot, chosen.stepped or TIERS[self._tasks.table.tier[slot]], self.now)

    def _is_cloud(self, slot: int, chosen: Candidate) -> bool:
        tier = chosen.stepped or Tier(self._tasks.tier_of(slot))
        group = self._tasks.groups[self._tasks.table.group[slot]]
        strategy = strategy_of(group) if tier is group.tier else STRATEGY_OF[tier]
        return strategy is Strategy.cloud_llm

    def assign(self, slot: int, choices: Choices, chosen: Candidate, now: Now) -> None:
        table = self._tasks.table
        reason = _reason(table, slot)
        if chosen.stepped is not None:
            reason = "fallback_up" if chosen.stepped is Tier.complex else "fallback_down"
            self._tell_step(slot, choices, chosen.stepped)
        route = self._router.route(choices, chosen, reason)
        submitter = self._principals.by_id.get(table.submitter[slot])
        self._attempts.assign(slot, chosen, route, submitter, now)
        if choices.group.repo:
            chosen.agent.host.ran(choices.group.repo)
        if choices.group.alone:
            self._fleet.isolate(chosen.agent)

    def _tell_step(self, slot: int, choices: Choices, to: Tier) -> None:
        """Nobody could run it on its own tier: for which conditions, the most frequent first."""
        table, refused = self._tasks.table, choices.refused
        because = ", ".join(sorted(refused, key=lambda fails: (-refused[fails], fails))) or "no_host"
        tier = self._tasks.tier_of(slot)
        self._out.publish(
            "task", "task_fell_back", task=table.id[slot], tier=tier, to=to.value, because=because
        )


def _reason(table: TaskTable, slot: int) -> str:
    """Why the task has this tier, in the words of the glossary."""
    source = SOURCES[table.tier_source[slot]]
    if source is TierSource.explicit:
        return "explicit_tier"
    if source is TierSource.raised:
        return "escalated"
    if source is TierSource.command:
        return "command"
    return "no_command" if table.inferred[slot] != table.tier[slot] else "inferred_tier"
