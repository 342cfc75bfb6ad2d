"""What people and programs may ask for: rights first, then one small function per operation.

Reads are answered by the shell after the commit, from the core and the store; an operation that changes
something either changes all of it or raises Refused before it has changed anything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import Now, rfc3339
from agentcom.core.effects import ProbeEndpoint, Read, RecordKey, key_u64
from agentcom.core.principals import RIGHTS, may_touch, owner_of
from agentcom.core.sessions import Session
from agentcom.core.tasks import Move, illegal
from agentcom.core.waiting import references
from agentcom.errors import JOIN_AGAIN, NotFound, Refused
from agentcom.model import (
    FINAL,
    FailureClass,
    PrincipalRecord,
    Role,
    RuleKind,
    RuleScope,
    State,
    TaskError,
    TaskRow,
    TaskSpec,
)
from agentcom.signed_report import fingerprint

if TYPE_CHECKING:
    from agentcom.core.hub import Hub

Found = Mapping[RecordKey, bytes]
# Work on the store itself changes nothing of the core's: the shell does it after the commit, as it reads.
OF_THE_STORE = (m.BackupList, m.BackupNow, m.BackupVerify, m.Compact, m.StoreAcknowledge)
READS = frozenset({
    m.TaskGet, m.TaskList, m.TaskWhy, m.TaskStory, m.TaskLog, m.TaskReports, m.DeadList, m.AgentList, m.HostList,
    m.HostShow, m.WorktreeList, m.EndpointList, m.EndpointShow, m.EventList, m.QueueStats, m.QueueRules, m.BudgetList,
    m.RepoList, m.RepoShow, m.ConfigGet, m.TokenList, m.Snapshot, m.HubStatus, *OF_THE_STORE,
})  # fmt: skip


class Requests:
    """Carries out requests on the hub's parts."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._out = hub.out
        self._changes: dict[type, Callable[[Any, PrincipalRecord, Session, Now, Found], object]] = {
            m.Submit: self._submit,
            m.TaskCancel: self._cancel,
            m.TaskRetry: self._retry,
            m.TaskHold: self._hold,
            m.TaskRelease: self._release,
            m.TaskAnswer: self._answer,
            m.DeadRetry: self._dead_retry,
            m.DeadPurge: self._dead_purge,
            m.AgentCordon: self._cordon,
            m.AgentRemove: self._agent_remove,
            m.HostInvite: self._invite,
            m.HostRemove: self._host_remove,
            m.HostDrain: self._drain,
            m.HostAcceptKey: self._accept_key,
            m.EndpointAdd: self._endpoint_add,
            m.EndpointUpdate: self._endpoint_update,
            m.EndpointRemove: self._endpoint_remove,
            m.EndpointProbeNow: self._endpoint_probe,
            m.QueuePause: self._pause,
            m.ConfigChange: self._config_change,
            m.QueueLimit: self._limit,
            m.BudgetSet: self._budget,
            m.RepoAdd: lambda op, caller, _s, now, _f: self._hub.repositories.add(op, caller, now),
            m.RepoUpdate: lambda op, caller, _s, now, _f: self._hub.repositories.update(op, caller, now),
            m.RepoRemove: lambda op, caller, _s, _n, _f: self._hub.repositories.remove(op, caller),
            m.QueueWeight: self._weight,
            m.TokenAdd: self._token_add,
            m.TokenRevoke: self._token_revoke,
            m.TokenLink: self._token_link,
            m.LinkTrade: self._link_trade,
            m.Whoami: self._whoami,
        }

    def handle(self, session: Session, request: m.Request, now: Now, found: Found) -> None:
        caller = self.caller(session, request, now)
        op = request.op
        if caller.role not in RIGHTS[type(op)]:
            needed = " or ".join(sorted(r.value for r in RIGHTS[type(op)]))
            raise Refused(
                "forbidden", f"this needs the role {needed}; {caller.name or 'this key'} is {caller.role}"
            )
        mine = owner_of(caller) if caller.role is Role.submit else 0
        if type(op) is m.TaskWait:
            self._wait(op, caller, session, request.id, now)
        elif type(op) in READS:
            self._out.add(Read(session.peer, request.id, op, mine))
        else:
            value = self._changes[type(op)](op, caller, session, now, found)
            if isinstance(value, Read):
                value = value._replace(peer=session.peer, request=request.id, principal=mine)
                self._out.add(value)
            else:
                self._out.send(session.peer, m.Reply(id=request.id, value=value))

    def _wait(
        self, op: m.TaskWait, caller: PrincipalRecord, session: Session, request: int, now: Now
    ) -> None:
        """Park it while the caller's task is live; else answer with what can be read of it."""
        tasks = self._hub.tasks
        mine = owner_of(caller) if caller.role is Role.submit else 0
        slot = tasks.table.slot_of.get(op.task)
        is_live = slot is not None and may_touch(caller, tasks.table.submitter[slot])
        due_ms = now.mono_ms + int(op.timeout_s * 1000)
        if not is_live or not tasks.waits.park(session, request, op.task, mine, due_ms):
            self._out.add(Read(session.peer, request, m.TaskGet(task=op.task), mine))

    def caller(self, session: Session, request: m.Request, now: Now) -> PrincipalRecord:
        """Whose rights apply: the session's own, or those of the token that the web process forwards."""
        if request.bearer is None:
            return session.principal
        if session.principal.role is not Role.web:
            raise Refused("forbidden", "bearer: only the web process may forward tokens", field="bearer")
        return self._hub.principals.of_token(_sha256(request.bearer), now, session.process)

    def lookups(self, session: Session, request: m.Request, now: Now) -> list[RecordKey]:
        """The records that this request's decision needs from the store."""
        op, tasks = request.op, self._hub.tasks
        if isinstance(op, m.Submit):
            if not [spec for spec in op.tasks if spec.depends_on or spec.idempotency_key is not None]:
                return []
            named = [("tasks", key_u64(task)) for task in references(op) if task not in tasks.table]
            owner = owner_of(self.caller(session, request, now))
            return [*named, *(("idempotency", place) for place in tasks.idempotency_keys(op, owner))]
        if (
            isinstance(op, m.TaskRetry | m.TaskCancel | m.TaskHold | m.TaskRelease | m.TaskAnswer)
            and op.task not in tasks.table
        ):
            named = [(database, key_u64(op.task)) for database in ("tasks", "bodies")]
            return named + self._predecessors((op.task,)) if isinstance(op, m.TaskRetry) else named
        if isinstance(op, m.DeadRetry | m.DeadPurge):
            named = [(database, key_u64(task)) for task in op.tasks for database in ("tasks", "bodies")]
            return named + self._predecessors(op.tasks) if isinstance(op, m.DeadRetry) else named
        return []

    def _predecessors(self, tasks: Sequence[int]) -> list[RecordKey]:
        """The rows of what these wait for and is not live, each once: it may be gone."""
        waiting = self._hub.tasks.waiting
        failed, known = dict.fromkeys(one for task in tasks for one in waiting.failed(task)), set(tasks)
        return [("tasks", key_u64(one)) for one in failed if one not in known]

    # --- tasks ------------------------------------------------------------------------------------------

    def _submit(self, op: m.Submit, caller: PrincipalRecord, _s: Session, now: Now, found: Found) -> object:
        closed = self._hub.no_submits
        if closed is not None and not self._hub.tasks.are_known(op, owner_of(caller), found):
            raise Refused(closed.code, closed.message, retry_after_s=closed.retry_after_s)
        return {"tasks": self._hub.tasks.submit(op, caller, now, found)}

    def _cancel(
        self, op: m.TaskCancel, caller: PrincipalRecord, _s: Session, now: Now, found: Found
    ) -> object:
        if op.task not in self._hub.tasks.table:
            record = self._final(op.task, caller, found)
            if record.state is not State.cancelled:
                raise Refused("wrong_state", f"task {op.task} is already {record.state}")
            return _task(op.task)
        slot = self._hub.tasks.slot(op.task, caller)
        self._hub.attempts.cancel(slot, now, op.reason, caller.name)
        return _task(op.task)

    def _retry(self, op: m.TaskRetry, caller: PrincipalRecord, _s: Session, now: Now, found: Found) -> object:
        if op.task in self._hub.tasks.table:
            state = self._hub.tasks.table.state_of(self._hub.tasks.slot(op.task, caller))
            raise Refused(
                "wrong_state", f"task {op.task} is {state}: only a dead, cancelled or expired one is retried"
            )
        self._retry_one(self._final(op.task, caller, found), caller, now, found)
        return _task(op.task)

    def _retry_one(self, record: TaskRow, caller: PrincipalRecord, now: Now, found: Found) -> None:
        spec = self._spec(record.id, found)
        assert spec is not None, f"task {record.id} has a row and no body"
        self._hub.tasks.retry(record, spec, now, found, caller.name)
        self._hub.ledger.back(record, found)

    def _spec(self, task: int, found: Found) -> TaskSpec | None:
        body = self._out.latest(("bodies", key_u64(task)), found)
        return m.decode_spec(body) if body is not None else None

    def _hold(self, op: m.TaskHold, caller: PrincipalRecord, _s: Session, now: Now, found: Found) -> object:
        slot = self._live(op.task, caller, Move.hold, found)
        error = TaskError(
            failure_class=FailureClass.configuration,
            code="held_by_user",
            message=op.reason or f"held by {caller.name}",
        )
        self._hub.attempts.hold(slot, error, now, caller.name)
        return _task(op.task)

    def _release(
        self, op: m.TaskRelease, caller: PrincipalRecord, _s: Session, now: Now, found: Found
    ) -> object:
        slot = self._live(op.task, caller, Move.release, found)
        error = self._hub.tasks.table.errors.get(op.task)
        self._hub.tasks.check_release(slot)
        self._hub.attempts.seconds.released(slot, error)
        self._hub.attempts.questions.release(slot, now, caller.name)
        if error is not None and error.code in limits.KEY_CODES:
            self._hub.fleet.clear_blocks(now)
            self._hub.tasks.changed = True
        return _task(op.task)

    def _answer(
        self, op: m.TaskAnswer, caller: PrincipalRecord, _s: Session, now: Now, found: Found
    ) -> object:
        if op.task not in self._hub.tasks.table:
            state = self._final(op.task, caller, found).state
            raise Refused("wrong_state", f"task {op.task} is {state} and asks nothing", field="task")
        slot = self._hub.tasks.slot(op.task, caller)
        self._hub.attempts.questions.answer(slot, op, caller.name, now)
        return _task(op.task)

    def _dead_retry(
        self, op: m.DeadRetry, caller: PrincipalRecord, _s: Session, now: Now, found: Found
    ) -> object:
        records = self._ended(op.tasks, caller, found)
        for record in records:
            self._retry_one(record, caller, now, found)
        return {"tasks": [record.id for record in records], "next_cursor": op.cursor}

    def _dead_purge(
        self, op: m.DeadPurge, caller: PrincipalRecord, _s: Session, _n: Now, found: Found
    ) -> object:
        records = self._ended(op.tasks, caller, found)
        waiting = self._hub.tasks.waiting
        kept = [record.id for record in records if waiting.live_dependants(record.id)]
        is_named = op.older_than_s is None  # and not chosen: a choice leaves out what others wait for
        if kept and is_named and len(records) == 1:
            waiting.check_purge(kept[0])
        for record in records:
            if record.id not in kept:
                self._hub.retention.purge(record, found)
                self._out.publish("task", "task_purged", task=record.id, by=caller.name)
        return {"purged": len(records) - len(kept), "kept": kept, "next_cursor": op.cursor}

    def _ended(self, tasks: tuple[int, ...], caller: PrincipalRecord, found: Found) -> list[TaskRow]:
        """The rows of tasks that ended without a result, each once."""
        records = [self._final(task, caller, found) for task in dict.fromkeys(tasks)]
        for record in records:
            if record.state not in (State.dead, State.expired, State.cancelled):
                raise Refused("wrong_state", f"task {record.id} is {record.state}: it is not dead")
        return records

    def _live(self, task: int, caller: PrincipalRecord, what: Move, found: Found) -> int:
        """The slot of the caller's live task; says so where it is final."""
        if task not in self._hub.tasks.table:
            record = self._final(task, caller, found)
            raise illegal(task, record.state, what, record.error_message)
        return self._hub.tasks.slot(task, caller)

    def _final(self, task: int, caller: PrincipalRecord, found: Found) -> TaskRow:
        stored = self._out.latest(("tasks", key_u64(task)), found)
        record = msgspec.msgpack.decode(stored, type=TaskRow) if stored is not None else None
        if record is None or not may_touch(caller, record.submitter):
            raise NotFound(f"there is no task {task}", field="task")
        if record.state not in FINAL:
            raise Refused("wrong_state", f"task {task} is {record.state}: it is not final")
        return record

    # --- agents, hosts, endpoints -----------------------------------------------------------------------

    def _cordon(self, op: m.AgentCordon, _c: PrincipalRecord, _s: Session, now: Now, _f: Found) -> object:
        fleet = self._hub.fleet
        agent = fleet.agent_named(op.agent)
        agent.record.cordoned = op.cordoned
        if not op.cordoned:
            self._hub.removals.kept_agent(agent)
        fleet.save_agent(agent)
        fleet.publish_agent(agent, now)
        self._hub.tasks.changed = True
        return {"agent": agent.record.name, "cordoned": op.cordoned}

    def _agent_remove(
        self, op: m.AgentRemove, _c: PrincipalRecord, _s: Session, now: Now, _f: Found
    ) -> object:
        hub = self._hub
        return hub.removals.agent(hub.fleet.agent_named(op.agent), now, is_now=op.now)

    def _invite(self, op: m.HostInvite, _c: PrincipalRecord, _s: Session, now: Now, _f: Found) -> object:
        invite = self._hub.principals.invite(op, now)
        return {"expires": rfc3339(invite.expires_ms), "role": invite.role.value, **self._hub.address_view()}

    def _host_remove(
        self, op: m.HostRemove, caller: PrincipalRecord, _s: Session, now: Now, _f: Found
    ) -> object:
        hub = self._hub
        return hub.removals.host(hub.fleet.host_named(op.host), caller.name, now, is_now=op.now)

    def _drain(self, op: m.HostDrain, _c: PrincipalRecord, _s: Session, now: Now, _f: Found) -> object:
        host = self._hub.fleet.host_named(op.host)
        self._hub.removals.drain(host, op.draining, now)
        self._hub.tasks.changed = True
        return {"host": op.host, "draining": op.draining}

    def _accept_key(
        self, op: m.HostAcceptKey, caller: PrincipalRecord, _s: Session, _n: Now, _f: Found
    ) -> object:
        host = self._hub.fleet.host_named(op.host)
        principal = self._hub.principals.by_id[host.record.principal]
        self._hub.principals.accept_signing_key(principal, op.key, caller.name)
        host.signing_key = op.key if host.session is not None else ""
        return {"host": op.host, "signing_key": op.key, "fingerprint": fingerprint(op.key)}

    def _endpoint_add(
        self, op: m.EndpointAdd, _c: PrincipalRecord, _s: Session, now: Now, _f: Found
    ) -> object:
        host = self._hub.fleet.host_named(op.host).record.id if op.host is not None else None
        record = self._hub.registry.add(op, host, now)
        self._hub.removals.kept_endpoint(record)
        return self._hub.registry.view(record)

    def _endpoint_update(
        self, op: m.EndpointUpdate, _c: PrincipalRecord, _s: Session, now: Now, _f: Found
    ) -> object:
        record = self._hub.registry.update(op, now)
        self._hub.tasks.changed = True
        return self._hub.registry.view(record)

    def _endpoint_remove(
        self, op: m.EndpointRemove, _c: PrincipalRecord, _s: Session, now: Now, _f: Found
    ) -> object:
        hub = self._hub
        return hub.removals.endpoint(hub.registry.named(op.endpoint), now, is_now=op.now)

    def _endpoint_probe(
        self, op: m.EndpointProbeNow, _c: PrincipalRecord, _s: Session, _n: Now, _f: Found
    ) -> object:
        record = self._hub.registry.named(op.endpoint)
        if record.seen_from == 0:
            self._out.add(ProbeEndpoint(record.id))
        return {"ok": True}

    # --- the hub itself ---------------------------------------------------------------------------------

    def _pause(self, op: m.QueuePause, caller: PrincipalRecord, _s: Session, now: Now, _f: Found) -> object:
        given = [
            (scope, name)
            for scope, name in (
                (RuleScope.repo, op.repo),
                (RuleScope.tier, op.tier),
                (RuleScope.host, op.host),
            )
            if name is not None
        ]
        if len(given) > 1:
            raise Refused("invalid", "repo, tier, host: give one of them at most", field=given[1][0].value)
        scope, name = given[0] if given else (None, "")
        before = self._hub.paused, self._hub.gates.paused_keys()
        self._hub.gates.pause(scope, name, op.paused, caller.name, now)
        if before != (self._hub.paused, self._hub.gates.paused_keys()):
            what = f"{scope}:{name}" if scope else "all"
            self._out.publish(
                "queue", "queue_paused" if op.paused else "queue_resumed", what=what, by=caller.name
            )
        return {"paused": self._hub.paused, "pauses": self._hub.gates.paused_keys()}

    def _limit(self, op: m.QueueLimit, caller: PrincipalRecord, _s: Session, now: Now, _f: Found) -> object:
        return self._hub.gates.set_number(RuleKind.limit, op.key, op.number, caller.name, now)

    def _weight(self, op: m.QueueWeight, caller: PrincipalRecord, _s: Session, now: Now, _f: Found) -> object:
        return self._hub.gates.set_number(RuleKind.weight, op.key, op.number, caller.name, now)

    def _budget(self, op: m.BudgetSet, caller: PrincipalRecord, _s: Session, now: Now, _f: Found) -> object:
        self._hub.tasks.changed = True  # steps up wait without being held
        return self._hub.ledger.set(op.key, op.usd, op.per, caller.name, now)

    def _config_change(
        self, op: m.ConfigChange, caller: PrincipalRecord, _s: Session, now: Now, _f: Found
    ) -> object:
        hub = self._hub
        hub.adopt(hub.configuration.change(op.set, op.unset, caller, now), now)
        shown = hub.configuration.view("", hub.settings)
        return {"settings": {name: shown[name] for name in (*op.set, *op.unset)}}

    def _token_add(self, op: m.TokenAdd, caller: PrincipalRecord, _s: Session, now: Now, _f: Found) -> object:
        record = self._hub.principals.add_token(op, now)
        self._out.publish("hub", "token_added", name=record.name, role=record.role.value, by=caller.name)
        return {"name": record.name, "role": record.role.value}

    def _token_revoke(
        self, op: m.TokenRevoke, caller: PrincipalRecord, _s: Session, now: Now, _f: Found
    ) -> object:
        record = self._hub.principals.revoke(op.name)
        self._out.publish("hub", "key_revoked", name=op.name, role=record.role.value, by=caller.name)
        self._hub.end_sessions(record.id, "revoked", f"this key was revoked; {JOIN_AGAIN}", now)
        return {"name": op.name, "revoked": True}

    def _token_link(
        self, op: m.TokenLink, caller: PrincipalRecord, _s: Session, now: Now, _f: Found
    ) -> object:
        link = self._hub.principals.link(op, caller, now)
        return {"role": link.role.value, "expires": rfc3339(link.expires_ms)}

    def _link_trade(
        self, op: m.LinkTrade, _c: PrincipalRecord, session: Session, now: Now, _f: Found
    ) -> object:
        record = self._hub.principals.trade(op, session.process, now)
        return {"name": record.name, "role": record.role.value, "expires": rfc3339(record.expires_ms)}

    def _whoami(self, _o: m.Whoami, caller: PrincipalRecord, _s: Session, _n: Now, _f: Found) -> object:
        return {"name": caller.name, "role": caller.role.value}


def _task(task: int) -> Read:
    """The task as it is after this change, read after the commit."""
    return Read(0, 0, m.TaskGet(task=task), 0)


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


assert limits.PAGE_MAX <= limits.SCAN_ROWS_MAX
