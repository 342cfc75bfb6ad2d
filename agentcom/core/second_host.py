"""A second host: on request another one verifies the pushed commit, and only then is the task done.

A task that asks for it has a record (`tasks.seconds`) from the moment it is taken. When its work is verified and
pushed, that attempt ends and the task goes back to its lane as what is left of it: a task without a model for any host
but the one that did the work, told by the needs of its group. The next attempt makes a clean clone and runs the checks.
Fences, leases and late results are those of any attempt. Its report
* agrees: the task is completed;
* disagrees, about commit, tree or a check: the task is dead, in a failure class of its own, with both reports;
* is none, or says that this host could not tell: the place is another host's, a bounded number of times, then a
  person's.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from agentcom import limits
from agentcom import messages as m
from agentcom.agent_programs import PREFIX as PROGRAM
from agentcom.clock import Now
from agentcom.core.agents import Fleet
from agentcom.core.capabilities import NOT_HOST, OF_MODEL, PIN_AGENT, PIN_HOST
from agentcom.core.effects import key_u64
from agentcom.core.outlet import Outlet
from agentcom.core.rows import TIER_CODE, TIERS
from agentcom.core.story import Noted
from agentcom.core.tasks import Tasks
from agentcom.core.wanted import missing_need
from agentcom.model import (
    CheckReport,
    CheckStatus,
    FailureClass,
    Group,
    ResultStatus,
    SecondRecord,
    TaskError,
    TaskResult,
    Tier,
)

PREFIX: Final = b"second"  # of the records, in `meta`
FAILED: Final = "second_host_failed"
_NOT_OF_CHECKS: Final = (PIN_HOST, PIN_AGENT, OF_MODEL, PROGRAM)  # needs of the work, not of its verification


class Verdict(NamedTuple):
    what: Literal["agrees", "disagrees", "could_not"]
    why: str = ""


class SecondHost:
    """What tasks wait for a second host, and what became of it."""

    def __init__(self, out: Outlet, tasks: Tasks, fleet: Fleet) -> None:
        self._out, self._tasks, self._fleet = out, tasks, fleet
        self.open = tasks.seconds
        tasks.on_second_over = self._over

    def load(self, record: SecondRecord) -> None:
        if record.task in self._tasks.table:
            self.open[record.task] = record

    def waits(self, slot: int) -> SecondRecord | None:
        """The record of a task whose work is verified and waits for a second host, or is looked at by one."""
        record = self.open.get(self._tasks.table.id[slot])
        return record if record is not None and record.attempt else None

    def fault_of(self, result: TaskResult) -> TaskError | None:
        """Why a second host cannot verify a result that is verified: nobody but its host has the commit."""
        if result.pushed and result.commit and result.tree and result.branch:
            return None
        said = "its work is verified and was not pushed, so no second host can verify it; let that host push "
        said += "(git.push, credentials) and release it, or submit the task again without --second-host"
        return TaskError(failure_class=FailureClass.configuration, code="second_host_not_pushed", message=said)

    def begin(self, slot: int, result: TaskResult, now: Now) -> None:
        """The work is verified, its attempt has ended, and the task is in no lane: what is left is for another host."""
        table, tasks = self._tasks.table, self._tasks
        host = self._fleet.hosts[table.host[slot]]
        tasks.set_alone(slot, False)
        record = SecondRecord(
            task=table.id[slot],
            attempt=table.attempt[slot],
            host=host.record.id,
            host_name=host.record.name,
            agent=self._fleet.agents[table.agent[slot]].record.name,
            commit=result.commit or "",
            tree=result.tree or "",
            base=result.base or "",
            branch=result.branch or "",
            tier=TIERS[table.tier[slot]].value,
        )
        table.tier[slot] = TIER_CODE[Tier.trivial]  # it needs no model, and costs nothing
        table.losses[slot] = table.infra_count[slot] = table.unaccepted[slot] = 0
        self._put(record)
        self._regroup(slot, record)
        said = f"attempt {record.attempt} on {record.host_name} is verified; another host verifies {record.commit[:12]}"
        tasks.note(slot, Noted.second_host, said, now)
        self._out.publish(
            "task", "second_host_wanted", task=record.task, attempt=record.attempt, host=record.host_name
        )

    def told(self, task: int, assignment: m.Assign, signing_key: str) -> None:
        """Tell an attempt that it is to verify another one's work. The shell adds that one's report."""
        record = self.open[task]
        if record.attempt:
            assignment.verifies = m.ToVerify(
                attempt=record.attempt,
                host=record.host_name,
                agent=record.agent,
                key=signing_key,
                commit=record.commit,
                tree=record.tree,
                base=record.base,
                branch=record.branch,
            )

    def agreed(self, slot: int, record: SecondRecord, now: Now) -> None:
        host = self._host_of(slot)
        self._tasks.note(slot, Noted.second_host, f"{host} agrees with {record.host_name}", now)
        self._out.publish("task", "second_host_agreed", task=record.task, host=record.host_name, second=host)

    def disagreed(self, slot: int, record: SecondRecord, why: str, now: Now) -> TaskError:
        """Both reports are kept; which is right is for a person to say."""
        host = self._host_of(slot)
        said = f"{host} does not agree with {record.host_name}, which found attempt {record.attempt} verified: {why}"
        self._tasks.note(slot, Noted.second_host, said, now)
        fields = {"host": record.host_name, "second": host, "why": why}
        self._out.publish("task", "second_host_disagreed", task=record.task, **fields)
        return TaskError(failure_class=FailureClass.disagreement, code="second_host_disagrees", message=said[:4000])

    def could_not(self, slot: int, record: SecondRecord, why: str, now: Now) -> TaskError | None:
        """This host gives its place to another, if there is one, else it may try again. An error: there were enough,
        and the task is to be held. Its attempt has ended, and it is in no lane."""
        name, before = self._host_of(slot), record
        record = msgspec.structs.replace(record, tries=record.tries + 1, last=f"{name}: {why}"[:1000])
        if self._has_other(slot, name):
            record = msgspec.structs.replace(record, excluded=(*record.excluded, name))
        self._put(record)
        self._regroup(slot, record, before)
        self._tasks.note(slot, Noted.second_host, f"{name} could not verify it: {why}", now)
        if record.tries < limits.SECOND_HOST_TRIES_MAX:
            return None
        said = f"{record.tries} tries of a second host to verify attempt {record.attempt} have failed; the last on "
        said += f"{record.last}; mend that, then release the task: the work itself is not done again"
        return TaskError(failure_class=FailureClass.configuration, code="second_host_failed", message=said[:4000])

    def released(self, slot: int, error: TaskError | None) -> None:
        """A person lets a held task go on: every other host may try again."""
        record = self.waits(slot)
        if record is not None and error is not None and error.code == FAILED:
            fresh = msgspec.structs.replace(record, tries=0, excluded=())
            self._put(fresh)
            self._regroup(slot, fresh, record)

    def want(self, task: int) -> None:
        """A task that asks for a second host was taken, or is done again."""
        self._put(SecondRecord(task=task))

    def _over(self, slot: int) -> None:
        """The task is about to be final: its own tier is what its row shows."""
        table = self._tasks.table
        record = self.open.pop(table.id[slot])
        if record.attempt:
            table.tier[slot] = TIER_CODE[Tier(record.tier)]
        self._out.delete("meta", PREFIX + key_u64(record.task))

    def _put(self, record: SecondRecord) -> None:
        self.open[record.task] = record
        self._out.put("meta", PREFIX + key_u64(record.task), record)

    def _host_of(self, slot: int) -> str:
        host = self._fleet.hosts.get(self._tasks.table.host[slot])
        return host.record.name if host is not None else "a host that was removed"

    def _has_other(self, slot: int, name: str) -> bool:
        """Whether an agent on another host, which has not tried yet, takes such work. O(agents)."""
        group = self._tasks.groups[self._tasks.table.group[slot]]
        return any(
            agent.is_open
            and agent.host.record.name != name
            and agent.host.may_work_on(group.repo)
            and missing_need(group, agent) is None
            for agent in self._fleet.agents.values()
        )

    def _regroup(self, slot: int, record: SecondRecord, before: SecondRecord | None = None) -> None:
        """Not while it is ready: the queue knows its group."""
        groups, table = self._tasks.groups, self._tasks.table
        number = table.group[slot]
        table.group[slot] = groups.take(group_of(groups[number], record, before))
        groups.give(number)


def group_of(group: Group, record: SecondRecord, before: SecondRecord | None = None) -> Group:
    """What the verification asks of a place to run: what the checks may need, and another host. `before` is the record
    that the group was made for; hosts that the task itself rules out stay so."""
    gone = {f"{NOT_HOST}{name}" for name in before.excluded} if before is not None else set()
    kept = (need for need in group.needs if not need.startswith(_NOT_OF_CHECKS) and need not in gone)
    away = (f"{NOT_HOST}{name}" for name in (record.host_name, *record.excluded))
    return Group(Tier.trivial, "", tuple(sorted({*kept, *away})), group.repo)


def compare(record: SecondRecord, result: TaskResult) -> Verdict:
    """What a second host's report says of the first one's."""
    if result.commit != record.commit:
        found = f"has {result.commit[:12]}" if result.commit else "has no such commit"
        return Verdict("disagrees", f"{record.branch} at the repository {found}, reported was {record.commit[:12]}")
    if result.tree != record.tree:
        return Verdict("disagrees", f"the tree of {record.commit[:12]} is {result.tree}, reported was {record.tree}")
    checks = result.iterations[-1].checks if result.iterations else ()
    wrong = next((each for each in checks if CheckStatus.failed in _said(each) or _no_evidence(each)), None)
    if wrong is not None:
        return Verdict("disagrees", f"{wrong.kind} {wrong.target[:200]}: {_worst(wrong)}")
    if result.status is ResultStatus.verified:
        return Verdict("agrees")
    unclear = next((each for each in checks if _worst(each) is not CheckStatus.passed), None)
    said = f"{unclear.kind} {unclear.target[:200]}: {_worst(unclear)}" if unclear is not None else "it ran no checks"
    return Verdict("could_not", said)


def _said(check: CheckReport) -> tuple[CheckStatus, ...]:
    return (check.status,) if check.with_base is None else (check.status, check.with_base)


def _no_evidence(check: CheckReport) -> bool:
    return CheckStatus.no_evidence in _said(check)


def _worst(check: CheckReport) -> CheckStatus:
    return next((each for each in _said(check) if each is not CheckStatus.passed), CheckStatus.passed)
