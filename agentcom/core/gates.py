"""What may start now: pauses, limits by key and weights, as people set them.

A rule is durable from the moment it is acknowledged. A pause stops the tasks of a repository or a tier, or the
agents of a host; submits go on. A limit says how many tasks of a repository, with a label, or with calls on an
endpoint may run at once; what runs is counted by agent, so a restart counts the open attempts again. A task whose
limit is reached waits in its place at no cost (see lanes.py), and those behind it go on. A weight says how large a
share of the starts a submitter, or a repository among those of its submitter, gets.

Limits of endpoints and pauses of hosts are told to the registry and the fleet, where candidates are chosen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from agentcom import limits
from agentcom.clock import Now, rfc3339
from agentcom.core.agents import Fleet
from agentcom.core.interned import Interned
from agentcom.core.lanes import plain_line
from agentcom.core.outlet import Outlet
from agentcom.core.registry import Registry
from agentcom.core.rule_names import Moved, RuleNames
from agentcom.core.tasks import Tasks
from agentcom.errors import NotFound, Refused
from agentcom.model import JsonObject, QueueRule, RuleKind, RuleScope

Place = tuple[RuleKind, RuleScope, str]
Counted = tuple[RuleScope, str]


class Hindrance(NamedTuple):
    """Why a task may not start now, and the smallest change that would let it."""

    condition: str
    message: str
    change: str


class Gates:
    """All rules, and what runs under limits."""

    def __init__(
        self, out: Outlet, tasks: Tasks, fleet: Fleet, registry: Registry, names: RuleNames
    ) -> None:
        self._out = out
        self._tasks = tasks
        self._fleet = fleet
        self._registry = registry
        self._names = names
        self.paused = False
        self.rules: dict[Place, QueueRule] = {}
        self._limits: dict[Counted, int] = {}  # of repositories and labels
        self.running: dict[Counted, int] = {}
        self._held: dict[int, tuple[Counted, ...]] = {}  # by agent: what it runs counts for
        self._lines: Interned[tuple[str, ...]] = Interned(spare=0)  # the limited labels of a line's tasks
        self._lines_wait = False  # whether retries may have to wait
        self._pools_retry: dict[int, bool] | None = None
        self.may_retry: Callable[[int], bool] = lambda _group: True
        tasks.groups.on_new = self.gate_group
        tasks.groups.on_gone = lambda number: tasks.ready.set_group(number, True)
        tasks.table.label_sets.on_new = self._new_labels
        tasks.table.label_sets.on_gone = self._labels_gone
        tasks.ready.line_open = self._line_open
        tasks.ready.submitter_weight = self._submitter_weight
        tasks.ready.group_weight = lambda group: self._weight(RuleScope.repo, tasks.groups[group].repo)

    # --- at start ---------------------------------------------------------------------------------------

    def load(self, rules: list[QueueRule], paused: bool) -> None:
        """Before the tasks are loaded. Rules of hosts and endpoints that are gone go too; of two for one submitter, as
        older versions had them, the newest stays."""
        self.paused = paused
        for rule in rules:
            if self._names.is_of_nothing(rule):
                self._out.delete("limits", rule.record_key)
                continue
            kept = self._merged(rule)
            self.rules[kept.kind, kept.scope, kept.key] = kept
            self._take_over(kept, kept.number)
        self._draw_lines()

    def _merged(self, rule: QueueRule) -> QueueRule:
        """What is kept of a stored rule and the one that is known under its key, if there is one."""
        key = self._names.key_now(rule.scope, rule.key)
        other = self.rules.get((rule.kind, rule.scope, key))
        if other is None and key == rule.key:
            return rule
        self._out.delete("limits", rule.record_key)
        if other is None or rule.set_ms >= other.set_ms:
            other = msgspec.structs.replace(rule, key=key)
        self._out.put("limits", other.record_key, other)
        return other

    # --- from people ------------------------------------------------------------------------------------

    def pause(self, scope: RuleScope | None, key: str, paused: bool, by: str, now: Now) -> None:
        """Stop or resume the queue (scope None), a repository, a tier or a host. A repeat changes nothing."""
        if scope is None:
            if paused != self.paused:
                self.paused = paused
                self._out.number("paused", int(paused))
                self._changed()
        elif paused:
            self._set(RuleKind.pause, scope, self._names.new_key_of(scope, key, "repo"), 1, by, now)
        else:
            resolved = self._names.old_key_of(scope, key, self.repos(RuleKind.pause))
            if scope is RuleScope.repo and not self._is_paused(scope, resolved):
                self._check_resumed(key)
            self._unset(RuleKind.pause, scope, resolved)

    def _check_resumed(self, repo: str) -> None:
        """Nothing is paused under that name. Where it is nobody's, what is paused may be known under another."""
        try:
            self._names.check_repo(repo, "repo")
        except NotFound as unknown:
            paused = ", ".join(self.paused_keys()) or "nothing"
            raise NotFound(f"{unknown.message}; paused: {paused}", field="repo") from unknown

    def set_number(self, kind: RuleKind, key: str, number: int | None, by: str, now: Now) -> JsonObject:
        """Set a limit or a weight by its key as people write it (`repo:URL`); None takes it back. A repeat changes
        nothing, and nobody is told of it."""
        scope, name = self._names.parsed(kind, key)
        if number is None:
            resolved = self._names.old_key_of(scope, name, self.repos(kind))
        else:
            resolved = self._names.new_key_of(scope, name)
        place = kind, scope, resolved
        before = self.rules.get(place)
        if number is None and before is None:
            raise NotFound(f"key: no {kind} is set for {key}; see `agentcom queue {kind} list`", field="key")
        if number is None or (kind is RuleKind.weight and number == 1):  # what everybody has is no rule
            self._unset(kind, scope, resolved)
        else:
            self._set(kind, scope, resolved, number, by, now)
        rule = self.rules.get(place)
        if rule != before:
            fields = {"kind": kind.value, "key": key, "value": number}
            self._out.publish("queue", "queue_rule_set", **fields, by=by)
        if number is None:
            return {"key": key, "number": None}
        if rule is None:
            rule = QueueRule(kind=kind, scope=scope, key=resolved, number=1, set_by=by, set_ms=now.wall_ms)
        return self._view(rule)

    def repos(self, kind: RuleKind | None = None) -> frozenset[str]:
        """The addresses of repositories for which something is set, or something of that kind."""
        return frozenset(key for one, scope, key in self.rules if scope is RuleScope.repo and kind in (None, one))

    def move_repo(self, old: str, new: str) -> Moved:
        """The repository at `old` is at `new` now: its rules go with it, as they were set. Where the new address has
        one of its own, that stands and the other stays."""
        moved, stayed = [], []
        for kind in RuleKind:
            rule = self.rules.get((kind, RuleScope.repo, old))
            if rule is None:
                continue
            if (kind, RuleScope.repo, new) in self.rules:
                stayed.append(rule)
                continue
            self._unset(kind, RuleScope.repo, old)
            moved.append(msgspec.structs.replace(rule, key=new))
            self._keep(moved[-1], None)
        views = [[{"kind": rule.kind.value, **self._view(rule)} for rule in some] for some in (moved, stayed)]
        return Moved(views[0], views[1])

    def host_gone(self, host: int) -> None:
        self._unset(RuleKind.pause, RuleScope.host, str(host))

    def endpoint_gone(self, endpoint: int) -> None:
        self._unset(RuleKind.limit, RuleScope.endpoint, str(endpoint))

    # --- what runs --------------------------------------------------------------------------------------

    def may_start(self, slot: int) -> bool:
        """Whether the limits of the task have room. The queue gives out no task of a limit that is reached, but
        several that meet under one in the same tick."""
        if not self._limits:
            return True
        return all(self.running.get(one, 0) < self._limits[one] for one in self.limits_of(slot))

    def took(self, agent: int, slot: int) -> None:
        """The agent runs the task: it counts until `freed`."""
        if not self._limits:
            return
        counted = self.limits_of(slot)
        if counted:
            self._count(agent, counted)

    def _count(self, agent: int, counted: tuple[Counted, ...]) -> None:
        self._held[agent] = counted
        for one in counted:
            self.running[one] = self.running.get(one, 0) + 1
            if self.running[one] == self._limits[one]:
                self._regate(one)

    def adopt(self, agent: int, old: Gates) -> None:
        """The agent's task is cancelled and its processes may still run: it counts as it did in a core before."""
        counted = tuple(one for one in old._held.get(agent, ()) if one in self._limits)
        if counted:
            self._count(agent, counted)

    def freed(self, agent: int) -> None:
        """What the agent ran has ended, with all its processes."""
        for one in self._held.pop(agent, ()):
            self.running[one] -= 1
            if self.running[one] == self._limits[one] - 1:
                self._regate(one)
            if not self.running[one]:
                del self.running[one]

    # --- answers ----------------------------------------------------------------------------------------

    def hindrances(self, group: int, labels: tuple[str, ...], is_retry: bool) -> list[Hindrance]:
        """What keeps a ready task with that group and those labels from starting, wherever agents are free."""
        wanted = self._tasks.groups[group]
        found = []
        if self.paused:
            found.append(Hindrance("queue_paused", "the queue is paused", "agentcom queue resume"))
        if self._is_paused(RuleScope.repo, wanted.repo):
            change = f"agentcom queue resume --repo {wanted.repo}"
            found.append(Hindrance("repo_paused", f"the repository {wanted.repo} is paused", change))
        if self._is_paused(RuleScope.tier, wanted.tier):
            change = f"agentcom queue resume --tier {wanted.tier}"
            found.append(Hindrance("tier_paused", f"the tier {wanted.tier} is paused", change))
        for one in self._counted_of(wanted.repo, labels):
            running, allowed = self.running.get(one, 0), self._limits[one]
            if running >= allowed:
                scope, key = one
                change = f"wait, or agentcom queue limit set {scope}:{key} {running + 1}"
                found.append(
                    Hindrance("limit_reached", f"{running} of {allowed} of {scope}:{key} run already", change)
                )
        if is_retry and not self.may_retry(group):
            said = "it has failed before, and every endpoint that has its model has had its share of retries"
            found.append(Hindrance("retry_budget", said, "mend the endpoint (see the hosts below), or wait"))
        return found

    def view(self) -> JsonObject:
        """All rules as people see them, by kind."""
        by_kind: JsonObject = {f"{kind}s": [] for kind in RuleKind}
        for _, rule in sorted(self.rules.items()):
            by_kind[f"{rule.kind}s"].append(self._view(rule))
        return {"paused": self.paused, **by_kind}

    def paused_keys(self) -> list[str]:
        """What is paused besides the whole queue, as `tier:complex`."""
        return [
            f"{scope}:{self._names.name_of(scope, key)}"
            for kind, scope, key in sorted(self.rules)
            if kind is RuleKind.pause
        ]

    # --- for checks -------------------------------------------------------------------------------------

    def recounted(self) -> dict[Counted, int]:
        """What runs under limits, counted anew."""
        return dict(Counter(one for counted in self._held.values() for one in counted))

    @property
    def counted_agents(self) -> set[int]:
        return set(self._held)

    def counts_for(self, agent: int) -> set[Counted]:
        return set(self._held.get(agent, ()))

    def is_closed(self, slot: int) -> bool:
        """Whether a ready task has to wait for a pause or a limit, the whole queue's pause aside."""
        group = self._tasks.groups[self._tasks.table.group[slot]]
        return (
            self._is_paused(RuleScope.tier, group.tier)
            or self._is_paused(RuleScope.repo, group.repo)
            or not self.may_start(slot)
            or self._tasks.ready.is_line_closed(self._tasks.line_of(slot))
        )

    # --- rules ------------------------------------------------------------------------------------------

    def _set(self, kind: RuleKind, scope: RuleScope, key: str, number: int, by: str, now: Now) -> None:
        before = self.rules.get((kind, scope, key))
        if before is not None and before.number == number:
            return  # nothing changes: who set it and when stay
        if before is None and len(self.rules) >= limits.QUEUE_RULES_MAX:
            raise Refused(
                "limit",
                f"this hub already has {limits.QUEUE_RULES_MAX} pauses, limits and weights; unset some",
            )
        rule = QueueRule(kind=kind, scope=scope, key=key, number=number, set_by=by, set_ms=now.wall_ms)
        self._keep(rule, before)

    def _keep(self, rule: QueueRule, before: QueueRule | None) -> None:
        self.rules[rule.kind, rule.scope, rule.key] = rule
        self._out.put("limits", rule.record_key, rule)
        self._take_over(rule, rule.number)
        if rule.kind is RuleKind.limit and rule.scope is RuleScope.label and before is None:
            self._draw_lines()
        self._changed()

    def _unset(self, kind: RuleKind, scope: RuleScope, key: str) -> None:
        rule = self.rules.pop((kind, scope, key), None)
        if rule is None:
            return
        self._out.delete("limits", rule.record_key)
        self._take_over(rule, 0)
        if kind is RuleKind.limit and scope is RuleScope.label:
            self._draw_lines()
        self._changed()

    def _changed(self) -> None:
        self._tasks.changed = True
        self._out.publish("queue", "queue_rules_changed", rules=self.view() if self._out.is_read else None)

    def _take_over(self, rule: QueueRule, number: int) -> None:
        """Let a rule work: `number` is 0 for one that is taken back."""
        scope, key = rule.scope, rule.key
        if rule.kind is RuleKind.weight:
            self._tasks.ready.reweigh()
        elif scope is RuleScope.host:
            host = self._fleet.hosts.get(int(key))
            if host is not None:
                host.paused = number > 0
                self._fleet.touched.add(host.record.id)
        elif scope is RuleScope.endpoint:
            self._registry.limits.pop(int(key), None)
            self._registry.touched.add(int(key))
            if number:
                self._registry.limits[int(key)] = number
        elif rule.kind is RuleKind.pause:
            self._gate_groups(scope, key)
        else:
            self._limit(scope, key, number)

    def _limit(self, scope: RuleScope, key: str, number: int) -> None:
        one = scope, key
        if number:
            is_new = one not in self._limits
            self._limits[one] = number
            if is_new:
                self._count_running(one)
        else:
            del self._limits[one]
            self.running.pop(one, None)
            self._held = {
                agent: left
                for agent, counted in self._held.items()
                if (left := tuple(other for other in counted if other != one))
            }
        self._regate(one)

    def _count_running(self, one: Counted) -> None:
        """Count what runs already under a limit that was set just now. O(agents)."""
        slot_of = self._tasks.table.slot_of
        for number, agent in self._fleet.agents.items():
            slot = slot_of.get(agent.task)
            if slot is not None and one in self.limits_of(slot):
                self._held[number] = (*self._held.get(number, ()), one)
                self.running[one] = self.running.get(one, 0) + 1

    # --- gates ------------------------------------------------------------------------------------------

    def _regate(self, one: Counted) -> None:
        """The limit of that key has been reached, or has room again."""
        scope, key = one
        if scope is RuleScope.repo:
            self._gate_groups(scope, key)
            return
        self._tasks.ready.look_at_lines()

    def _gate_groups(self, scope: RuleScope, key: str) -> None:
        groups = self._tasks.groups
        concerned = (
            groups.of_repo(key)
            if scope is RuleScope.repo
            else [number for number in groups if groups[number].tier == key]
        )
        for number in concerned:
            self.gate_group(number)

    def gate_group(self, number: int) -> None:
        """Let the tasks of a group go, or stop them, as the rules say."""
        group = self._tasks.groups[number]
        is_closed = (
            self._is_paused(RuleScope.tier, group.tier)
            or self._is_paused(RuleScope.repo, group.repo)
            or self._is_full((RuleScope.repo, group.repo))
        )
        self._tasks.ready.set_group(number, not is_closed)

    def _is_paused(self, scope: RuleScope, key: str) -> bool:
        return (RuleKind.pause, scope, key) in self.rules

    def _is_full(self, one: Counted) -> bool:
        return one in self._limits and self.running.get(one, 0) >= self._limits[one]

    def look_at_retries(self, is_any_spent: bool) -> None:
        """Let retries go or wait, while an endpoint has had its share of them or had it until now."""
        if is_any_spent or self._lines_wait:
            self._pools_retry = {}
            self._tasks.ready.look_at_lines()
            self._pools_retry = None
        self._lines_wait = is_any_spent

    def _line_open(self, line: int) -> bool:
        number, group = plain_line(line)
        if number and any(self._is_full((RuleScope.label, label)) for label in self._lines[number - 1]):
            return False
        return group < 0 or self._may_retry(group)

    def _may_retry(self, group: int) -> bool:
        """Asked once per pool where all lines are looked at."""
        if self._pools_retry is None:
            return self.may_retry(group)
        pool = self._tasks.groups.pool_of(group)
        if pool not in self._pools_retry:
            self._pools_retry[pool] = self.may_retry(group)
        return self._pools_retry[pool]

    def _draw_lines(self) -> None:
        """Limits of labels have come or gone: put each ready task into the line of its limited labels."""
        tasks, sets = self._tasks, self._tasks.table.label_sets
        self._lines = Interned(spare=0)
        tasks.lines = {}
        for labels, number in sets.number_of.items():
            self._new_labels(number, labels)
        tasks.ready.relabel(lambda task: tasks.line_of(tasks.table.slot_of[task]))

    def _new_labels(self, number: int, labels: tuple[str, ...]) -> None:
        limited = self._limited(labels)
        if limited:
            self._tasks.lines[number] = self._lines.take(limited) + 1

    def _labels_gone(self, number: int, _labels: tuple[str, ...]) -> None:
        line = self._tasks.lines.pop(number, 0)
        if line:
            self._lines.give(line - 1)

    def _limited(self, labels: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(label for label in labels if (RuleScope.label, label) in self._limits)

    def limits_of(self, slot: int) -> tuple[Counted, ...]:
        """The limits under which the task runs."""
        table = self._tasks.table
        return self._counted_of(
            self._tasks.groups[table.group[slot]].repo, table.label_sets[table.labels[slot]]
        )

    def _counted_of(self, repo: str, labels: tuple[str, ...]) -> tuple[Counted, ...]:
        wanted = ((RuleScope.repo, repo), *((RuleScope.label, label) for label in labels))
        return tuple(one for one in wanted if one in self._limits)

    # --- names ------------------------------------------------------------------------------------------

    def _weight(self, scope: RuleScope, key: str) -> int:
        rule = self.rules.get((RuleKind.weight, scope, key))
        return rule.number if rule is not None else 1

    def _submitter_weight(self, submitter: int) -> int:
        return self._weight(RuleScope.submitter, self._names.submitter_key(submitter))

    def _view(self, rule: QueueRule) -> JsonObject:
        view: JsonObject = {
            "key": f"{rule.scope}:{self._names.name_of(rule.scope, rule.key)}",
            "set_by": rule.set_by,
            "set_at": rfc3339(rule.set_ms),
        }
        if rule.kind is not RuleKind.pause:
            view["number"] = rule.number
        if rule.kind is RuleKind.limit:
            view["running"] = (
                self._registry.calls_on(int(rule.key))
                if rule.scope is RuleScope.endpoint
                else self.running.get((rule.scope, rule.key), 0)
            )
        return view
