"""Why a task is where it is: the stored decision of one that was routed, or the present state, computed on demand.

For the present state each host is asked for the condition that fails and the smallest change that would mend it, a page
at a time. Nothing here runs when tasks are given out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import Now, lasting, rfc3339
from agentcom.core.complexity import classify
from agentcom.core.fallbacks import PASSES
from agentcom.core.hub import Hub
from agentcom.core.ledger import CODE as BUDGET
from agentcom.core.ledger import TOO_SMALL, UNPRICED, WAITING_CODES
from agentcom.core.questions import CODE as QUESTION
from agentcom.core.score import Candidate, score_part
from agentcom.core.waiting import ANEW, FAILED, GONE, named
from agentcom.core.wanted import model_of
from agentcom.model import (
    OPEN_ATTEMPT,
    Allowance,
    Group,
    JsonObject,
    Route,
    State,
    Strategy,
    TaskRow,
    TaskSpec,
    Tier,
    strategy_of,
)

ABLE_WHEN: Final = {  # of a task that is not ready, when a host that could run it would
    State.held: "once it is released",
    State.delayed: "once its time has come",
    State.waiting: "once what it waits for has completed",
}
HELD_AND_WAITS: Final = "once what it waits for has completed and it is released"
PRESENT = frozenset({State.ready, State.waiting, State.delayed, State.held})


def ready_ms(hub: Hub, row: TaskRow, now: Now) -> int | None:
    """When a task that waits for a time becomes ready, by the wall clock as it stands now."""
    if row.state is not State.delayed:
        return None
    if row.not_before_ms:
        return row.not_before_ms
    table = hub.tasks.table
    left_ms = table.lease_ms[table.slot_of[row.id]] - hub.attempts.clock_ms(now)
    return now.wall_ms + max(0, left_ms)


class Why:
    """One question about one task."""

    def __init__(self, hub: Hub, row: TaskRow, group: Group, now: Now) -> None:
        self._hub = hub
        self._row = row
        self._group = group
        self._now = now
        slot = hub.tasks.table.slot_of.get(row.id)
        self._is_retry = slot is not None and hub.tasks.is_retry(slot)
        self._slot = slot
        self._ready_ms = ready_ms(hub, row, now)

    def answer(
        self, op: m.TaskWhy, spec: TaskSpec | None, route: Route | None, waits_for: Callable[[int], str]
    ) -> JsonObject:
        """`shows` says which of the two it is: the `decision`, or the `present` state."""
        row, group = self._row, self._group
        is_decided = row.state in OPEN_ATTEMPT or row.state is State.completed
        why: JsonObject = {
            "id": row.id,
            "state": row.state.value,
            "tier": row.tier.value,
            "shows": "decision" if is_decided and not op.now else "present",
            "needs": {
                "model": model_of(group, self._hub.settings) or None,
                "capabilities": list(group.needs),
                "prefers": list(group.prefers),
            },
            "classification": self._classification(spec),
            "route": msgspec.to_builtins(route) if is_decided and route is not None else None,
            "conditions": [],
            "ready_at": rfc3339(self._ready_ms),
            "release": self._release(),
            "hosts": [],
            "next_cursor": None,
        }
        if why["shows"] == "decision":
            why["reason"] = (
                f"attempt {row.attempt} was routed: {route.reason if route is not None else 'unknown'}"
            )
            return why
        why["reason"] = self._reason(why, op, waits_for)
        return why

    def _classification(self, spec: TaskSpec | None) -> JsonObject:
        """Where the tier came from, and what the task looks like."""
        row = self._row
        found: JsonObject = {
            "source": row.tier_source.value,
            "inferred": row.inferred_tier.value,
            "signals": [],
        }
        if spec is not None:
            judged = classify(
                spec.description,
                files=len(spec.files),
                checks=len(spec.checks),
                success_criteria=len(spec.success_criteria),
                has_command=spec.command is not None,
            )
            found["signals"] = list(judged.signals)
        return found

    def _reason(self, why: JsonObject, op: m.TaskWhy, waits_for: Callable[[int], str]) -> str:
        row = self._row
        if row.state in PRESENT or op.now:
            self._add_hosts(why, op)
        if row.state is State.ready:
            return self._of_ready(why)
        if self._ready_ms is not None:
            at, left = rfc3339(self._ready_ms), lasting(max(0, self._ready_ms - self._now.wall_ms) / 1000)
            if row.not_before_ms:
                return f"it starts not before {at}, in {left}"
            return f"it is tried again in {left}, at {at}, after: {row.error_message}"
        if row.state is State.waiting:
            return f"it waits for {waits_for(row.id)} to complete"
        if row.state is State.held:
            if row.error_code in (FAILED, GONE):
                return row.error_message  # once that is mended it is released by itself
            failed = self._hub.tasks.waiting.failed(row.id)
            if failed:
                first = f"it waits for {named(failed)}, which did not complete: {_retry(failed)}"
                return f"{row.error_message}; {first}; then: agentcom task release {row.id}"
            if row.error_code == BUDGET:
                short = self._hub.ledger.shortage(self._hub.tasks.table.slot_of[row.id], self._now)
                said = row.error_message if short is None else f"{short.message}; {short.change}"
                return f"{said}; it goes on by itself when there is room"
            if row.error_code == UNPRICED:
                return row.error_message
            asked = self._hub.tasks.asked.get(row.id)
            if asked is not None and row.error_code == QUESTION:
                where = f"attempt {asked.attempt} on {asked.host_name} asks since {rfc3339(asked.asked_ms)}"
                return f"{where}: {row.error_message}; then: agentcom task answer {row.id} TEXT"
            larger, is_enough = self._larger()
            if larger:
                then = f"; then: agentcom task release {row.id}" if is_enough else ""
                return f"{row.error_message}; {larger}{then}"
            return f"{row.error_message}; then: agentcom task release {row.id}"
        return f"it is {row.state}: {row.error_message}" if row.error_message else f"it is {row.state}"

    def _add_hosts(self, why: JsonObject, op: m.TaskWhy) -> None:
        refusals = self._hub.router.refusals
        hosts = refusals.explain(self._group, self._is_retry, op.cursor or 0, op.limit + 1)
        if len(hosts) > op.limit:
            why["next_cursor"] = hosts[op.limit - 1]["id"]
        why["hosts"] = [self._host(host) for host in hosts[: op.limit]]
        refused = refusals.counts(self._group, self._is_retry)
        why["refused"] = refused
        why["host_count"] = len(self._hub.fleet.hosts)
        ways = self._hub.router.ways(self._group, self._is_retry, self._now)
        why["ways"] = [msgspec.to_builtins(score_part(way)) for way in ways[: limits.HISTORY_OTHERS_MAX]]
        why["fallback"] = self._fallback()
        if self._row.state is State.ready:
            hindrances = self._hub.gates.hindrances(self._row.group, self._row.labels, self._is_retry)
            why["conditions"] = [hindrance._asdict() for hindrance in hindrances]
            why["waits_for"] = self._awaited(ways)
            why["loading"] = self._loading(why["needs"]["model"])

    def _host(self, explained: JsonObject) -> JsonObject:
        """Of a task that is not ready: a host that nothing is the matter with does not run it now, but then."""
        shown = {name: value for name, value in explained.items() if name != "id"}
        row, then = self._row, ABLE_WHEN.get(self._row.state)
        if row.state is State.held and row.error_code == GONE:
            then = None
        elif row.state is State.held and self._hub.tasks.waiting.unmet(row.id):
            then = ABLE_WHEN[State.waiting] if row.error_code == FAILED else HELD_AND_WAITS
        return {**shown, "message": f"it could run here {then}"} if then and not shown["fails"] else shown

    def _release(self) -> JsonObject | None:
        """Of a held task: whether it goes on by itself, what has to be done for that or before, the command that lets
        it then, and the figures where a budget holds it."""
        row = self._row
        if row.state is not State.held:
            return None
        is_depending = row.error_code == FAILED
        failed = self._hub.tasks.waiting.failed(row.id)
        is_budget = row.error_code in WAITING_CODES
        is_own = row.error_code == UNPRICED and row.id in self._hub.tasks.table.budgets
        asks = row.error_code == QUESTION
        command = f"agentcom task answer {row.id} TEXT" if asks else f"agentcom task release {row.id}"
        short = None
        if row.error_code == BUDGET and self._slot is not None:
            short = self._hub.ledger.shortage(self._slot, self._now)
        larger, is_enough = self._larger()
        if row.error_code == GONE:
            return {"by_itself": False, "command": None, "change": ANEW}
        return {
            "by_itself": (is_budget and not is_own) or is_depending,
            "command": command if not (is_budget or is_depending) and is_enough else None,
            "change": short.change if short is not None else larger or _retry(failed) or None,
            **(self._hub.ledger.release_view(short) if short is not None else {}),
        }

    def _larger(self) -> tuple[str, bool]:
        """Of a task whose attempt could not pay for one call: what lets it, and whether a release is enough then."""
        if self._row.error_code != TOO_SMALL or self._slot is None:
            return "", True
        return self._hub.ledger.larger(self._slot)

    def _loading(self, model: str | None) -> list[JsonObject]:
        """Where the model that it wants is being loaded now, and since when."""
        registry = self._hub.registry
        if not registry.loads or not model:
            return []
        return [
            {**one, "endpoint": record.name, "host": registry.host_name(record.seen_from) if record.seen_from else None}
            for record in registry.endpoints.values()
            for one in registry.loads.view(record.id)
            if one["model"] == model
        ]

    def _fallback(self) -> JsonObject | None:
        """Where it goes if nobody can run it, and which budget stands in the way of a step up."""
        step = self._hub.router.fallbacks.view(self._group, self._now)
        if step is None:
            return None
        slot, is_up = self._slot, step["to"] == Tier.complex
        short = self._hub.ledger.shortage(slot, self._now) if is_up and slot is not None else None
        return {
            **step,
            "may_pay": short is None,
            "shortage": f"{short.message}; {short.change}" if short else None,
        }

    @staticmethod
    def _awaited(ways: list[Candidate]) -> JsonObject | None:
        """The full endpoint that is sooner than every way that is free."""
        free = next((way for way in ways if way.has_slot), None)
        if free is None or ways[0].has_slot or ways[0].endpoint is None:
            return None
        return {
            "endpoint": ways[0].endpoint.name,
            "model": ways[0].model,
            "in_s": ways[0].parts["wait"] / 1_000_000,
            "instead_of": free.endpoint.name if free.endpoint else free.agent.host.record.name,
            "which_takes_longer_by_s": (free.cost_us - ways[0].cost_us) / 1_000_000,
        }

    def _of_ready(self, why: JsonObject) -> str:
        second = self._hub.tasks.seconds.get(self._row.id)
        if second is None or not second.attempt:
            return self._of_queued(why)
        said = f"attempt {second.attempt} on {second.host_name} is verified; a second host has to verify "
        return f"{said}{second.commit[:12]}, and {self._of_queued(why)}"

    def _of_queued(self, why: JsonObject) -> str:
        conditions, refused = why["conditions"], why["refused"]
        if conditions:
            return f"{conditions[0]['message']}; {conditions[0]['change']}"
        asked = self._hub.tasks.asked.get(self._row.id)
        if asked is not None and asked.pin:
            return (
                f"it was answered and goes on on {asked.host_name}, where its worktree lies, as soon as that host can "
                f"take it; to begin anew elsewhere: agentcom task hold {asked.task}, and then: "
                f"agentcom task release {asked.task}"
            )
        if not why["host_count"]:
            return "no host has joined; run `agentcom sidecar`, or `agentcom host invite` and join one"
        if why["waits_for"] is not None:
            wait = why["waits_for"]
            longer = f"{wait['instead_of']} would take {wait['which_takes_longer_by_s']:.1f} s longer"
            return f"it waits for {wait['model']} on {wait['endpoint']}, which is busy: {longer}"
        if why["loading"]:
            load = why["loading"][0]
            at = load["host"] or load["endpoint"]
            return f"loading {load['model']} on {at} since {load['since']}; it starts when an agent is free"
        if sum(refused.values()) < why["host_count"]:
            return "it is next in its lane as soon as an agent is free"
        if PASSES & refused.keys():
            return "no host can run it now; it is next in its lane as soon as one of those that can is free"
        return self._of_stranded(why)

    def _of_stranded(self, why: JsonObject) -> str:
        """Nobody could run it, however idle."""
        model, refused = why["needs"]["model"], why["refused"]
        said = "no host can run it now; see the condition that fails on each"
        if "model_too_large" in refused:
            first = next(self._explained("model_too_large"))
            said = f"no host can hold {model}: {first['message']}"
        elif "model_missing" in refused and strategy_of(self._group) is Strategy.local_llm:
            said = (
                f"no endpoint that is there has {model}: {next(self._explained('model_missing'))['change']}"
            )
        elif "models_unknown" in refused:
            first = next(self._explained("models_unknown"))
            said = f"{first['message']}; {first['change']}"
        elif "program_unusable" in refused:
            first = next(self._explained("program_unusable"))
            said = f"{first['message']}; {first['change']}"
        elif "cloud_model" in refused:
            first = next(self._explained("cloud_model"))
            said = f"{first['message']}; {first['change']}"
        step = why["fallback"]
        if step is None:
            way = self._hub.settings.routing.fallback
            if self._group.tier is Tier.complex and way in ("down", "both"):
                said += f"; submitted with --allow {Allowance.down} it could go down"
            return said
        if step["shortage"]:
            return f"{said}; it could run as {step['to']}, but {step['shortage']}"
        when = f"in {step['in_s']:.1f} s" if step["in_s"] is not None else "after routing.wait_s"
        return f"{said}; it may run as {step['to']} {when} (routing.fallback)"

    def _explained(self, fails: str) -> Iterator[JsonObject]:
        hosts = self._hub.router.refusals.explain(self._group, self._is_retry)
        return (host for host in hosts if host["fails"] == fails)


def _retry(failed: list[int]) -> str:
    """What makes these tasks live again."""
    command = "agentcom dead retry" if len(failed) > 1 else "agentcom task retry"
    return f"{command} {' '.join(map(str, failed))}" if failed else ""
