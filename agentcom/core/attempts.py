"""Leases: giving a task to an agent, hearing of it, taking its result, taking it back.

`attempt` rises with every lease and is the fence: a result counts only for the open attempt of the task, from
the host that holds it. An attempt closes when its lease is reclaimed; what comes later is kept as evidence and
changes nothing. Deadlines are monotonic and never stored: at start every open attempt gets a fresh lease.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from agentcom import messages as m
from agentcom.clock import Now
from agentcom.core import evidence, progress
from agentcom.core.aftermath import Aftermath, has_failed
from agentcom.core.agents import Agent, Fleet, Host
from agentcom.core.calls import Calls
from agentcom.core.effects import LogPiece, RecordKey, SendAssign, key_u64x2
from agentcom.core.gates import Gates
from agentcom.core.leases import assignment_of, record_of
from agentcom.core.ledger import Ledger
from agentcom.core.losses import lost
from agentcom.core.outlet import Outlet
from agentcom.core.questions import Questions, is_question
from agentcom.core.registry import Call, Registry, canonical_model
from agentcom.core.retries import RetryBudgets
from agentcom.core.score import Candidate
from agentcom.core.second_host import SecondHost, compare
from agentcom.core.story import Noted
from agentcom.core.tasks import OPEN, Jitter, Move, Tasks
from agentcom.errors import Refused
from agentcom.model import (
    PAID,
    AttemptRecord,
    Backend,
    FailureClass,
    Group,
    PrincipalRecord,
    ResultStatus,
    Route,
    SecondVerdict,
    State,
    TaskError,
    TaskResult,
)
from agentcom.report_statement import Fault, fault_of
from agentcom.repos import RepoRecord

_encode = msgspec.msgpack.Encoder().encode

Outcome = Literal[
    "completed", "failed", "interrupted", "cancelled", "lost", "declined", "unaccepted", "stalled", "withdrawn",
    "asked",
]  # fmt: skip


class Attempts:
    """Open attempts and their timers. `clock_ms` is monotonic time less the time the loop was away."""

    def __init__(
        self,
        out: Outlet,
        tasks: Tasks,
        fleet: Fleet,
        registry: Registry,
        gates: Gates,
        retries: RetryBudgets,
        ledger: Ledger,
        jitter: Jitter,
    ) -> None:
        self._out = out
        self.ledger = ledger
        self._gates = gates
        self._retries = retries
        self._tasks = tasks
        self._table = tasks.table
        self._fleet = fleet
        self._registry = registry
        self.questions = Questions(out, tasks, fleet)
        self._away_ms = 0
        self._lease_floor_ms: dict[int, int] = {}  # by host
        self._timers: list[tuple[int, int, int]] = []  # (due on the lease clock, task, attempt)
        self.calls = Calls(registry)
        self.closing: dict[tuple[int, int], Agent] = {}  # cancelled attempts whose agent is not free yet
        self.reports_refused: dict[str, int] = {}  # since the start, by reason
        self.may_escalate: Callable[[Group], bool] = lambda _group: False
        self.repo_of: Callable[[str], RepoRecord | None] = lambda _url: None
        self.seconds = SecondHost(out, tasks, fleet)
        tasks.want_second = self.seconds.want
        self.signing_key_of: Callable[[int], str] = lambda _host: ""
        self.aftermath = Aftermath(tasks, fleet, registry, jitter, self.clock_ms, self._remind, self.seconds)

    def beats_at(self, host: Host, heartbeat_s: float) -> None:
        """Note the pace that a host was told last: until it knows of a faster one, its leases outlast three
        heartbeats of the old."""
        floor_ms = int(3 * heartbeat_s * 1000)
        if floor_ms > self._tasks.settings.queue.lease_s * 1000:
            self._lease_floor_ms[host.record.id] = floor_ms
        else:
            self._lease_floor_ms.pop(host.record.id, None)

    def lease_anew(self, now: Now, *, renews: bool = True) -> None:
        """Every open attempt begins a lease of the length that applies now, if it `renews`; progress is looked at."""
        for slot in [slot for slot in self._table.slot_of.values() if self._table.state_of(slot) in OPEN]:
            accept_ms = self._table.accept_ms[slot]
            if renews:
                self._renew(slot, now)
            if renews and accept_ms != progress.NEVER_MS:
                self._table.accept_ms[slot] = min(accept_ms, self._table.lease_ms[slot])
            if self._table.state_of(slot) is State.working:
                self._look_at_progress(slot, self.clock_ms(now), now)

    def clock_ms(self, now: Now) -> int:
        return now.mono_ms - self._away_ms

    def away(self, gap_ms: int) -> None:
        """The loop was away: nothing was heard because nobody listened, so every deadline moves."""
        self._away_ms += gap_ms

    @property
    def away_ms(self) -> int:
        """How long the loop was away in all."""
        return self._away_ms

    def next_due_ms(self) -> int | None:
        """The next deadline in monotonic ms."""
        due = [self._timers[0][0]] if self._timers else []
        unblock_ms = self._fleet.next_unblock_ms()
        if unblock_ms is not None:
            due.append(unblock_ms)
        return min(due) + self._away_ms if due else None

    def has_timer(self, task: int) -> bool:
        """Whether a deadline of the task's present attempt is set. O(timers): for checks."""
        attempt = self._table.attempt[self._table.slot_of[task]]
        return any(timer[1:] == (task, attempt) for timer in self._timers)

    # --- giving out -------------------------------------------------------------------------------------

    def load(self, slot: int, route: Route | None, stalled_at: int | None, now: Now) -> None:
        """An attempt that was open when the hub stopped: fresh lease, its agent taken. `stalled_at`: its progress when
        it was marked as stalled."""
        table = self._table
        agent = self._fleet.agents.get(table.agent[slot])
        if agent is None or agent.task:
            self._take_back(slot, "lost", lost("its agent is no longer known"), now)
            return
        place = (table.id[slot], table.attempt[slot])
        self._fleet.hold(agent, *place, now)
        self._gates.took(agent.record.id, slot)
        if route is not None and route.reason.startswith("fallback_"):
            table.stepped[table.id[slot]] = route.tier
        agent.working = table.state_of(slot) is State.working
        progress.await_word(agent, stalled_at)
        if self._tasks.groups[table.group[slot]].alone:
            self._fleet.isolate(agent)
        if route is not None and route.endpoint_url is not None:
            # By address: an endpoint may have been renamed since.
            endpoint = self._registry.reached(route.endpoint_url, agent.host.record.id)
            if endpoint is not None:
                self.calls.on_endpoint(place, endpoint.id, route.model, agent.host.record.id)
        elif route is not None and route.backend is Backend.claude:
            self.calls.on_account(place, agent.host, route.model)
        self._renew(slot, now)
        table.accept_ms[slot] = progress.NEVER_MS  # a worker may be on it
        self._remind(slot, table.lease_ms[slot])

    def assign(
        self, slot: int, chosen: Candidate, route: Route, submitter: PrincipalRecord | None, now: Now
    ) -> None:
        """Lease the task to the chosen agent and send it."""
        table, agent = self._table, chosen.agent
        queue = self._tasks.settings.queue
        task = table.id[slot]
        table.attempt[slot] += 1
        attempt = table.attempt[slot]
        table.agent[slot], table.host[slot] = agent.record.id, agent.host.record.id
        table.assigned_ms[slot] = now.wall_ms
        self._renew(slot, now)
        # No later than the lease ends: what nobody has accepted was no worker's to lose.
        table.accept_ms[slot] = min(self.clock_ms(now) + int(queue.accept_s * 1000), table.lease_ms[slot])
        self._remind(slot, table.accept_ms[slot])
        self._fleet.take(agent, task, attempt, now)
        place = (task, attempt)
        if chosen.endpoint is not None:
            self.calls.on_endpoint(place, chosen.endpoint.id, chosen.model, agent.host.record.id)
            if chosen.parts.get("load"):
                self._registry.loads.began((chosen.endpoint.id, canonical_model(chosen.model)), now)
            self._retries.called(chosen.endpoint.id, self._tasks.is_retry(slot), now)
        elif agent.host.record.account and route.backend is Backend.claude:
            self.calls.on_account(place, agent.host, route.model)
        if chosen.stepped is not None:
            table.stepped[task] = chosen.stepped
        elif table.stepped:
            table.stepped.pop(task, None)
        self._tasks.move(slot, Move.assign, now)
        self._gates.took(agent.record.id, slot)
        stored = _encode(route)
        self._out.put_bytes("routes", key_u64x2(task, attempt), stored)
        self._out.publish("route", "task_routed", task=task, attempt=attempt, route=route)
        assert agent.host.session is not None, "a free agent's host has a session"
        repo = self.repo_of(self._tasks.groups[table.group[slot]].repo)
        assignment = assignment_of(self._tasks, slot, agent, route, submitter, repo)
        if route.backend in PAID:
            assignment.budget_usd = self.ledger.reserve(slot, attempt, route.model, now)
        if task in self._tasks.asked:
            self.questions.told(task, agent.host, assignment)
        if self._tasks.seconds and task in self._tasks.seconds:
            self.seconds.told(task, assignment, self.signing_key_of(self._tasks.seconds[task].host))
        self._out.add(SendAssign(agent.host.session.peer, assignment, stored))

    # --- hearing of it ----------------------------------------------------------------------------------

    def held_by(self, host: Host, task: int, attempt: int) -> int | None:
        """The slot of the task if this host holds its open attempt of that number."""
        slot = self._table.slot_of.get(task)
        if slot is None or self._table.state_of(slot) not in OPEN:
            return None
        if self._table.attempt[slot] != attempt or self._table.host[slot] != host.record.id:
            return None
        return slot

    def is_open(self, task: int, attempt: int) -> bool:
        """Whether that attempt of the task is leased to some host."""
        slot = self._table.slot_of.get(task)
        return (
            slot is not None and self._table.attempt[slot] == attempt and self._table.state_of(slot) in OPEN
        )

    def open_record(self, task: int) -> AttemptRecord:
        """The open attempt of the task, as its record will be when it ends."""
        return record_of(self._table, self._fleet, self._table.slot_of[task], "", None, 0)

    def accept(self, host: Host, task: int, attempt: int, now: Now) -> bool:
        """The assignment lies on the host's disk; a repeat changes nothing, also after a restart of the hub.
        False: not leased to it."""
        slot = self.held_by(host, task, attempt)
        if slot is None:
            return False
        self._renew(slot, now)
        agent = self._fleet.agents[self._table.agent[slot]]
        is_first = self._table.state_of(slot) is State.assigned
        if not (is_first or progress.is_awaited(agent)):
            return True
        progress.begin(agent, self.clock_ms(now), is_first=is_first)
        if is_first:
            self._table.accepted_ms[slot] = now.wall_ms
            self._fleet.start(agent, now)
            self._tasks.move(slot, Move.start, now)
        look_ms = progress.next_look_ms(agent, progress.stall_ms(self._table, slot, self._tasks.settings))
        if look_ms < self._table.accept_ms[slot]:  # else the timer that is set comes before
            self._remind(slot, look_ms)
        return True

    def beat(self, host: Host, beats: tuple[m.AttemptBeat, ...], now: Now) -> tuple[m.AttemptBeat, ...]:
        """Renew what is listed; returns the attempts that are not leased to this host, to be killed."""
        stray = []
        for one in beats:
            if not self.accept(host, one.task, one.attempt, now):
                stray.append(one)
                continue
            agent = self._fleet.agents[self._table.agent[self._table.slot_of[one.task]]]
            if one.heard and self._registry.loads:
                self.calls.heard((one.task, one.attempt))
            if progress.heard(agent, one.progress, self.clock_ms(now)):
                self._fleet.publish_agent(agent, now)
                self._out.publish("task", "attempt_moves", task=one.task, attempt=one.attempt)
                self._out.task_changed(one.task)
        return tuple(stray)

    def decline(self, host: Host, message: m.Decline, now: Now) -> None:
        """The host will not run it. It never worked on the task, so no retry is spent."""
        agent = self.closing.get((message.task, message.attempt))
        if agent is not None and agent.host is host:
            self._release_closing(agent, now)
        slot = self.held_by(host, message.task, message.attempt)
        if slot is None:
            return
        blame = message.failure_class
        if blame in (FailureClass.task_error, FailureClass.verification):
            blame = FailureClass.infrastructure
        said = message.message or "the host declined"
        self._fail(slot, "declined", TaskError(failure_class=blame, code=message.code, message=said), now)

    def reconcile(
        self, host: Host, held: tuple[m.AttemptHeld, ...], is_repeat: bool, now: Now
    ) -> tuple[m.Verdict, ...]:
        """What hello's list means: keep, kill or report each; what is not on it is not running there. A repeat
        on the same connection may have crossed an assignment, which is then still on its way."""
        verdicts = []
        for one in held:
            slot = self.held_by(host, one.task, one.attempt)
            if one.state == "asked":
                is_kept = slot is not None or self.questions.is_kept(host, one.task, one.attempt)
                said: Literal["keep", "kill"] = "keep" if is_kept else "kill"
                verdicts.append(m.Verdict(task=one.task, attempt=one.attempt, verdict=said))
                continue
            if slot is None:
                verdict: Literal["keep", "kill", "report"] = "report" if one.state == "finished" else "kill"
                if one.state == "running":
                    self._await_kill(host, one, now)
            else:
                # Whatever became of it, it lies on the host's disk: the assignment has arrived.
                verdict = "keep" if one.state == "running" else "report"
                self.accept(host, one.task, one.attempt, now)
            verdicts.append(m.Verdict(task=one.task, attempt=one.attempt, verdict=verdict))
        listed = {(one.task, one.attempt) for one in held if one.state != "asked"}
        for agent in self._fleet.agents_of(host):
            if agent.task and (agent.task, agent.attempt) not in listed:
                self._not_there(agent, is_repeat, now)
        return tuple(verdicts)

    def _await_kill(self, host: Host, one: m.AttemptHeld, now: Now) -> None:
        """A host still runs what it was to end, and this hub has started since: the agent is not free before it has."""
        key = (one.task, one.attempt)
        agent = next((a for a in self._fleet.agents_of(host) if a.record.local_name == one.agent), None)
        if agent is None or agent.task or key in self.closing:
            return
        self._fleet.hold(agent, *key, now)
        agent.working = True
        self._close_when_killed(agent, now)

    def _close_when_killed(self, agent: Agent, now: Now) -> None:
        """The agent stays taken until its host says that all processes have ended, or a lease has passed."""
        key = (agent.task, agent.attempt)
        self.closing[key] = agent
        agent.free_by_ms = self.clock_ms(now) + int(self._tasks.settings.queue.lease_s * 1000)
        heapq.heappush(self._timers, (agent.free_by_ms, *key))

    def _not_there(self, agent: Agent, is_repeat: bool, now: Now) -> None:
        """Its host says hello and does not have the attempt: it is lost, or was never received."""
        slot = self.held_by(agent.host, agent.task, agent.attempt)
        if slot is None:
            self._release_closing(agent, now)
        elif self._table.state_of(slot) is State.assigned:
            if not is_repeat:
                self._not_accepted(slot, "before its sidecar started anew", now)
        else:
            self._take_back(slot, "lost", lost("its sidecar came back without it"), now)

    # --- the end of an attempt --------------------------------------------------------------------------

    def result(
        self, host: Host, message: m.Result, now: Now, found: Mapping[RecordKey, bytes]
    ) -> Literal["accepted", "duplicate", "stale", "unknown", "refused"]:
        """Take a result if its attempt is open and held by this host, and its report proved to be so; otherwise keep it
        as evidence."""
        slot = self.held_by(host, message.task, message.attempt)
        agent = self.closing.get((message.task, message.attempt))
        if agent is not None and agent.host is host:
            self._release_closing(agent, now)
        if slot is None:
            return self._late(host, message, now, found)
        if message.outcome == "completed" and message.result is None:
            raise Refused("invalid", "result: a completed attempt needs its result", field="result")
        if message.result is not None and (host.signing_key or message.result.signed is not None):
            fault = self._fault_of(host, message, message.result)
            if fault is not None:
                self._disbelieve(slot, message, fault, now)
                return "refused"
        if message.result is not None:
            self._out.put("reports", key_u64x2(message.task, message.attempt), message.result)
            if message.outcome != "completed":
                self._tasks.story.stir(message.task)
            if message.result.failed_starts:
                self._tasks.story.failed_starts(slot, message.result, now)
        if self.ledger.open:
            usd = message.result.cost_usd if message.result is not None else None
            self.ledger.settle(message.task, message.attempt, usd, now)
        if message.outcome == "completed":
            if message.result is not None:
                self.calls.answered((message.task, message.attempt), message.result, now)
            if self._tasks.seconds and message.task in self._tasks.seconds and message.result is not None:
                self._compared(slot, message.result, now)
            else:
                self._completed(slot, message.result, now)
        elif message.outcome == "failed":
            error = message.error or TaskError(
                failure_class=FailureClass.task_error, code="no_reason", message="the sidecar gave no reason"
            )
            if is_question(error):
                self._fail(slot, "asked", error, now)
                self.questions.asked(slot, message.attempt, host, error, now)
            else:
                self._fail(slot, "failed", error, now)
        else:
            self._take_back(slot, "interrupted", message.error or lost("its sidecar was interrupted"), now)
        return "accepted"

    @staticmethod
    def _fault_of(host: Host, message: m.Result, result: TaskResult) -> Fault | None:
        name, key = host.record.name, host.signing_key
        return fault_of(result, key=key, task=message.task, attempt=message.attempt, host=name)

    def _disbelieve(self, slot: int, message: m.Result, fault: Fault, now: Now) -> None:
        """The report is not proved to be this host's, of this attempt. Its host has failed, whatever it used; what it
        says that it has spent is spent."""
        self.reports_refused[fault.code] = self.reports_refused.get(fault.code, 0) + 1
        result = message.result
        if self.ledger.open and result is not None:
            self.ledger.settle(message.task, message.attempt, result.cost_usd, now)
        said = f"its report was refused: {fault.message}"
        error = TaskError(failure_class=FailureClass.infrastructure, code=fault.code, message=said)
        self._tasks.story.note(message.task, Noted.report_refused, message.attempt, said, now)
        self._fail(slot, "failed", error, now, is_hosts_fault=True)
        evidence.keep_refused(self._out, message, error)

    def cancel(self, slot: int, now: Now, cause: str = "", by: str = "") -> None:
        """Final at once: the fence. A running attempt's agent stays taken until its processes have ended."""
        if self._table.state_of(slot) in OPEN:
            self.stop(slot, None, now)
        said = f"cancelled by {by}" if by else "cancelled"
        self._table.errors[self._table.id[slot]] = TaskError(
            failure_class=FailureClass.configuration,
            code="cancelled",
            message=f"{said}: {cause}" if cause else said,
        )
        self._tasks.move(slot, Move.cancel, now, cause=cause, by=by)

    def stop(self, slot: int, error: TaskError | None, now: Now, outcome: Outcome = "cancelled") -> None:
        """Close a running attempt and have its processes killed; the caller moves the task. Until the host says that
        they have ended, or a lease has passed, the agent stays taken."""
        table = self._table
        task, attempt = table.id[slot], table.attempt[slot]
        agent = self._fleet.agents[table.agent[slot]]
        self._close(slot, outcome, error, now)
        self._close_when_killed(agent, now)
        if agent.host.session is not None:
            reason = error.code if error else "cancelled"
            self._out.send(agent.host.session.peer, m.Cancel(task=task, attempt=attempt, reason=reason))

    def expire(self, now: Now) -> None:
        """Due deadlines: leases that ran out, assignments that nobody accepted, agents not freed in time.
        Only called after a drain that emptied the socket."""
        clock_ms = self.clock_ms(now)
        if self._fleet.unblock(clock_ms, now):
            self._tasks.changed = True
        while self._timers and self._timers[0][0] <= clock_ms:
            _, task, attempt = heapq.heappop(self._timers)
            closing = self.closing.get((task, attempt))
            if closing is not None and closing.free_by_ms <= clock_ms:
                self._release_closing(closing, now)
            slot = self._table.slot_of.get(task)
            if slot is not None and self._table.attempt[slot] == attempt:
                self._due(slot, clock_ms, now)

    def _due(self, slot: int, clock_ms: int, now: Now) -> None:
        table = self._table
        state = table.state_of(slot)
        if state is State.delayed:
            if table.not_before_ms[slot]:
                return  # the wall clock's, not ours
            if table.lease_ms[slot] <= clock_ms:
                self._tasks.move(slot, Move.due, now)
            else:
                self._remind(slot, table.lease_ms[slot])
        elif state is State.assigned and table.accept_ms[slot] <= clock_ms:
            self._ignored(slot, now)
        elif state in OPEN and table.lease_ms[slot] <= clock_ms:
            self._take_back(slot, "lost", lost("its lease ran out: no heartbeat was read"), now)
        elif state is State.assigned:
            self._remind(slot, min(table.lease_ms[slot], table.accept_ms[slot]))
        elif state is State.working:
            self._look_at_progress(slot, clock_ms, now)

    def _ignored(self, slot: int, now: Now) -> None:
        """The agent did not accept in time: it gets no work until it answers, and the task goes elsewhere."""
        table, queue = self._table, self._tasks.settings.queue
        agent = self._fleet.agents[table.agent[slot]]
        agent.unresponsive = True
        self._out.publish("agent", "agent_unresponsive", name=agent.record.name, task=table.id[slot])
        if agent.host.session is not None:
            self._out.send(agent.host.session.peer, m.Ping(agent=agent.record.local_name))
        self._not_accepted(slot, f"within {min(queue.accept_s, queue.lease_s):g} s", now)

    def _look_at_progress(self, slot: int, clock_ms: int, now: Now) -> None:
        """Mark an attempt that gets nowhere, take back one that has not for too long; remind of the next look."""
        table = self._table
        agent = self._fleet.agents[table.agent[slot]]
        patience_ms = progress.stall_ms(table, slot, self._tasks.settings)
        silent_s = (clock_ms - agent.moved_ms) // 1000
        if not agent.stalled and clock_ms >= progress.next_look_ms(agent, patience_ms):
            agent.stalled = True
            place = (table.id[slot], Noted.stalled, table.attempt[slot])
            self._tasks.story.note(*place, progress.told(silent_s), now, progress=agent.progress)
            self._fleet.publish_agent(agent, now)
            self._out.publish(
                "task",
                "attempt_stalled",
                task=table.id[slot],
                attempt=table.attempt[slot],
                agent=agent.record.name,
                silent_s=silent_s,
            )
            self._out.task_changed(table.id[slot])
        if agent.stalled and clock_ms >= progress.next_look_ms(agent, patience_ms):
            self._take_back_stalled(slot, silent_s, now)
        else:
            self._remind(slot, min(table.lease_ms[slot], progress.next_look_ms(agent, patience_ms)))

    def _take_back_stalled(self, slot: int, silent_s: int, now: Now) -> None:
        """Its host is alive and its worker is not. The agent is free when the host has killed what is left of it."""
        said = f"the attempt stalled and was ended: {progress.told(silent_s)}"
        error = TaskError(failure_class=FailureClass.infrastructure, code="stalled", message=said)
        self.stop(slot, error, now, outcome="stalled")
        self._table.agent[slot] = self._table.unaccepted[slot] = 0
        self.aftermath.worker_lost(slot, error, now)

    def withdraw(self, is_meant: Callable[[Call | None, Agent], bool], now: Now) -> None:
        """Stop running attempts and put their tasks back into their lanes: nobody has failed. O(agents)."""
        for agent in list(self._fleet.agents.values()):
            slot = self.held_by(agent.host, agent.task, agent.attempt)
            if slot is None or not is_meant(self.calls.get((agent.task, agent.attempt)), agent):
                continue
            self.stop(slot, None, now, outcome="withdrawn")
            self._table.agent[slot] = self._table.unaccepted[slot] = 0
            self.aftermath.back(slot, now)

    def _completed(self, slot: int, result: TaskResult | None, now: Now) -> None:
        """The end of the task, unless its checks failed and it allows another attempt one tier above."""
        if result is None or not has_failed(result) or not self._escalates(slot, now):
            self._complete(slot, now)
            return
        self._fleet.count(self._fleet.agents[self._table.agent[slot]], completed=False)
        code = TaskError(
            failure_class=FailureClass.verification, code="escalated", message="its checks still failed"
        )
        self._end(slot, "failed", code, now)
        self.aftermath.escalate(slot, result, now)

    def _compared(self, slot: int, result: TaskResult, now: Now) -> None:
        """The result of a task that asks for a second host: its work, or what that host says of it."""
        record = self.seconds.waits(slot)
        if record is None:
            self._first(slot, result, now)
            return
        task, attempt = record.task, self._table.attempt[slot]
        verdict = compare(record, result)
        told = SecondVerdict(attempt=record.attempt, verdict=verdict.what, why=verdict.why[:1000])
        self._out.put("reports", key_u64x2(task, attempt), msgspec.structs.replace(result, second=told))
        if verdict.what == "agrees":
            self.seconds.agreed(slot, record, now)
            self._complete(slot, now)
        elif verdict.what == "disagrees":
            error = self.seconds.disagreed(slot, record, verdict.why, now)
            self._fleet.count(self._fleet.agents[self._table.agent[slot]], completed=True)
            self._end(slot, "completed", None, now)
            self._table.errors[task] = error
            self._tasks.move(slot, Move.kill, now)
        else:
            self._end(slot, "completed", None, now)
            self._table.agent[slot] = 0
            self.aftermath.could_not_verify(slot, record, verdict.why, now)

    def _first(self, slot: int, result: TaskResult, now: Now) -> None:
        """Work that is verified waits for a second host; other results are what they are."""
        if result.status is not ResultStatus.verified:
            self._completed(slot, result, now)
            return
        error = self.seconds.fault_of(result)
        if error is not None:
            self._fail(slot, "failed", error, now)
            return
        self._fleet.count(self._fleet.agents[self._table.agent[slot]], completed=True)
        self._table.errors.pop(self._table.id[slot], None)
        self._end(slot, "completed", None, now)
        self.seconds.begin(slot, result, now)
        self._table.agent[slot] = 0
        self.aftermath.back(slot, now, "before a second host could verify its work")

    def _escalates(self, slot: int, now: Now) -> bool:
        group = self._tasks.groups[self._table.group[slot]]
        return self.may_escalate(group) and self.ledger.pays(slot, now)

    def _complete(self, slot: int, now: Now) -> None:
        agent = self._fleet.agents[self._table.agent[slot]]
        self._fleet.count(agent, completed=True)
        self._table.errors.pop(self._table.id[slot], None)
        self._end(slot, "completed", None, now)
        self._tasks.move(slot, Move.complete, now)

    def _fail(
        self, slot: int, outcome: Outcome, error: TaskError, now: Now, *, is_hosts_fault: bool = False
    ) -> None:
        """Close the attempt; what becomes of the task depends on the class of the failure."""
        table = self._table
        agent = self._fleet.agents[table.agent[slot]]
        if error.failure_class is not FailureClass.configuration:
            # A setting, a key or a policy that stands in the way is no fault of the agent.
            self._fleet.count(agent, completed=False)
        call = self.calls.get((table.id[slot], table.attempt[slot])) if not is_hosts_fault else None
        self._end(slot, outcome, error, now)
        self.aftermath.failed(slot, agent, call, error, now, has_worked=outcome in ("failed", "asked"))

    def _take_back(self, slot: int, outcome: Outcome, error: TaskError | None, now: Now) -> None:
        """The lease is reclaimed. A lost worker counts."""
        self._end(slot, outcome, error, now)
        if error is None:
            self.aftermath.back(slot, now)
            return
        self.aftermath.worker_lost(slot, error, now)

    def _not_accepted(self, slot: int, when: str, now: Now) -> None:
        """Close the attempt that nobody took."""
        table = self._table
        agent = self._fleet.agents[table.agent[slot]]
        place = f"{agent.record.name} on {agent.host.record.name}"
        self._end(slot, "unaccepted", None, now)
        self.aftermath.not_accepted(slot, place, when, now)

    def _remind(self, slot: int, due_ms: int) -> None:
        heapq.heappush(self._timers, (due_ms, self._table.id[slot], self._table.attempt[slot]))

    def _end(self, slot: int, outcome: Outcome, error: TaskError | None, now: Now) -> None:
        """Close the attempt, its call and its agent's work."""
        agent = self._fleet.agents.get(self._table.agent[slot])
        self._close(slot, outcome, error, now)
        if self.calls.end((self._table.id[slot], self._table.attempt[slot])):
            self._tasks.changed = True
        if outcome != "unaccepted":
            self._table.unaccepted[slot] = 0
        self._table.agent[slot] = 0 if outcome != "completed" else self._table.agent[slot]
        if agent is not None and agent.task == self._table.id[slot]:
            self._free(agent, now)

    def _free(self, agent: Agent, now: Now) -> None:
        self._fleet.free(agent, now)
        self._gates.freed(agent.record.id)
        self._tasks.changed = True

    def _close(self, slot: int, outcome: Outcome, error: TaskError | None, now: Now) -> None:
        task, attempt = self._table.id[slot], self._table.attempt[slot]
        if task in self._tasks.asked:
            self.questions.closed(slot, outcome)
        if self.ledger.open:
            unused = outcome in ("declined", "unaccepted")
            self.ledger.settle(task, attempt, None, now, unused=unused)
        record = record_of(self._table, self._fleet, slot, outcome, error, now.wall_ms)
        self._out.put("attempts", key_u64x2(task, attempt), record)
        self._table.accepted_ms[slot] = 0  # its record tells it from now on

    def _release_closing(self, agent: Agent, now: Now) -> None:
        """Its processes have ended, or nobody waits for that any longer: agent and model call are free."""
        self.closing.pop((agent.task, agent.attempt), None)
        if self.calls.end((agent.task, agent.attempt)):
            self._tasks.changed = True
        self._free(agent, now)

    def _late(
        self, host: Host, message: m.Result, now: Now, found: Mapping[RecordKey, bytes]
    ) -> Literal["duplicate", "stale", "unknown"]:
        answer = evidence.keep(self._out, self._tasks, host, message, now, found)
        if answer != "unknown" and message.result is not None:
            self.ledger.late(message.task, message.attempt, message.result.cost_usd, now)
        return answer

    def log(self, host: Host, message: m.Log) -> None:
        """Output of an open attempt; of any other it is dropped."""
        if self.held_by(host, message.task, message.attempt) is not None:
            self._out.add(LogPiece(message.task, message.attempt, message.offset, message.text))

    def hold(self, slot: int, error: TaskError, now: Now, by: str = "") -> None:
        """A person holds a task, unless an agent has it."""
        if self._table.state_of(slot) in OPEN:
            raise Refused("wrong_state", f"task {self._table.id[slot]} is running; cancel it, or wait")
        self._tasks.hold(slot, error, now, by)

    def host_gone(self, host: Host, now: Now) -> None:
        """The host is removed: its work goes back to the queue and counts against nobody."""
        self._lease_floor_ms.pop(host.record.id, None)
        for agent in self._fleet.agents_of(host):
            slot = self.held_by(host, agent.task, agent.attempt)
            if slot is not None:
                self._take_back(slot, "lost", None, now)
            elif agent.task:
                self._release_closing(agent, now)

    def _renew(self, slot: int, now: Now) -> None:
        lease_ms = int(self._tasks.settings.queue.lease_s * 1000)
        if self._lease_floor_ms:
            lease_ms = max(lease_ms, self._lease_floor_ms.get(self._table.host[slot], 0))
        due_ms = self.clock_ms(now) + lease_ms
        if due_ms < self._table.lease_ms[slot]:
            self._remind(slot, due_ms)  # leases have become shorter: the timer that is set comes too late
        self._table.lease_ms[slot] = due_ms
