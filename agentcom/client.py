"""The Python client: everything that the command line does, as typed calls on one encrypted connection.

Arguments are checked against the bounds of the messages before anything is sent. Submits are made safe to
repeat by an idempotency key, added here when the caller gave none. Calls of one client take turns: a thread
that waits long for a task should have a client of its own.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any

import msgspec

from agentcom import limits
from agentcom import messages as m
from agentcom.auth import HubAddress, JoinCode, KeyPair
from agentcom.caller import REPLY_S, Caller, Connector, hub_of, key_of, raised
from agentcom.config import Home, home_path
from agentcom.errors import HubUnreachable, ProtocolViolation, Refused
from agentcom.model import (
    FINAL,
    BudgetPeriod,
    EndpointKind,
    JsonObject,
    Lane,
    Letters,
    Role,
    State,
    TaskSpec,
    Tier,
)

WATCH_S = 2.0
WAIT_PATIENCE_S = 60.0  # `wait` and `log` outlast a hub that is away for this long
FOLLOW_POLL_S = 0.3
CHORE_S = 3600.0  # a backup, a check, a compaction
_CHOICES: dict[str, type[StrEnum]] = {
    "lane": Lane, "tier": Tier, "state": State, "role": Role,
    "kind": EndpointKind, "per": BudgetPeriod, "topic": m.EventTopic,
}  # fmt: skip


def refusal_of_fields(
    error: msgspec.ValidationError, where: str = "", kind: type[Any] | None = None
) -> Refused:
    """A failed conversion of fields that a person gave as a refusal with the field's path under `where`."""
    refused = m.refusal_of(error)
    field = refused.field
    if field is None and "unknown field `" in refused.message:
        field = refused.message.split("unknown field `")[1].split("`")[0]
    elif field is None and "required field `" in refused.message:
        field = refused.message.split("required field `")[1].split("`")[0]
    path = ".".join(part for part in (where, field) if part)
    reason = refused.message.split(": ", 1)[-1]
    allowed: Iterable[str] | None = _CHOICES.get(re.sub(r"\[\d+\]", "", field or ""))
    if field == "state" and kind is not None and issubclass(kind, Letters):
        allowed = ("dead", "expired", "cancelled")
    if allowed is not None and reason.startswith("Invalid enum value"):
        reason += f"; it is one of {', '.join(allowed)}"
    return Refused(refused.code, f"{path}: {reason}" if path else reason, field=path or None)


def task_spec(fields: Mapping[str, Any], where: str = "") -> TaskSpec:
    """The TaskSpec of `fields`; Refused(`invalid`) that names the field, before anything is sent."""
    try:
        return msgspec.convert(dict(fields), TaskSpec)
    except msgspec.ValidationError as error:
        raise refusal_of_fields(error, where) from error


class Client(Caller):
    """A caller of one hub. Use as a context manager, or call `close`.

    Every method raises HubUnreachable, Refused (with code and field) or NotFound.
    """

    @classmethod
    def connect(cls, home: Home | None = None, hub: str | None = None, timeout_s: float = 5.0) -> Client:
        """A client of the hub that `home` (AGENTCOM_HOME by default) knows, connected."""
        home = home or Home(home_path())
        if home.path.exists():
            home.check()
        hub_of(home, hub)
        client = cls(lambda: hub_of(home, hub), key_of(home), timeout_s=timeout_s)
        try:
            client._session()
        except BaseException:
            client.close()
            raise
        return client

    @staticmethod
    def enrol(
        code: JoinCode, name: str, key: str, signing_key: str | None = None, *, timeout_s: float = 5.0
    ) -> m.Enrolled:
        """Register the public `key` (z85), and for hosts `signing_key` (hex), with the one-time key of a join
        code. The same key again gets the same answer."""
        try:
            offer = {"type": "enrol", "name": name, "key": key, "signing_key": signing_key}
            message = msgspec.convert(offer, m.Enrol)
        except msgspec.ValidationError as error:
            raise refusal_of_fields(error) from error
        connector = Connector(lambda: HubAddress(code.address, code.hub_key), KeyPair.of_secret(code.secret))
        try:
            connection, answer = connector.open(m.encode(message), time.monotonic() + timeout_s)
            connection.close()
        finally:
            connector.close()
        if isinstance(answer, m.Error):
            raise raised(answer)
        if not isinstance(answer, m.Enrolled):
            raise ProtocolViolation(f"the hub answered enrol with {type(answer).__name__}")
        return answer

    def _ask(self, kind: type[Any], /, **fields: Any) -> Any:
        """One operation from plain arguments, checked against its bounds before it is sent."""
        try:
            op = msgspec.convert({"op": _tag(kind), **fields}, kind)
        except msgspec.ValidationError as error:
            raise refusal_of_fields(error, kind=kind) from error
        return self.call(op)

    def submit(self, spec: TaskSpec | None = None, /, **fields: Any) -> JsonObject:
        """Add one task, given as a TaskSpec or by its fields: {id, state, tier, created}."""
        try:
            return self._submit([task_spec(fields) if spec is None else spec])[0]
        except Refused as refused:
            # The hub counts tasks of a batch; who gave one task knows its fields by their own names.
            field = None if refused.field is None else refused.field.removeprefix("tasks[0].")
            message = refused.message.removeprefix("tasks[0].")
            raise Refused(refused.code, message, field=field, retry_after_s=refused.retry_after_s) from None

    def submit_many(self, tasks: Iterable[Mapping[str, Any] | TaskSpec]) -> list[JsonObject]:
        """Add all tasks or none, at most 1,000: one {id, state, tier, created} each, in order."""
        specs = [
            task if isinstance(task, TaskSpec) else task_spec(task, f"tasks[{n}]")
            for n, task in enumerate(tasks)
        ]
        if not specs:
            raise Refused("invalid", "tasks: there is nothing to submit", field="tasks")
        if len(specs) > limits.BATCH_TASKS_MAX:
            raise Refused(
                "too_large",
                f"tasks: a batch of {len(specs)} is too long, the hub takes {limits.BATCH_TASKS_MAX} at once",
                field="tasks",
            )
        return self._submit(specs)

    def _submit(self, specs: list[TaskSpec]) -> list[JsonObject]:
        batch = uuid.uuid4().hex
        keyed = tuple(
            spec
            if spec.idempotency_key is not None
            else msgspec.structs.replace(spec, idempotency_key=f"client-{batch}-{n}")
            for n, spec in enumerate(specs)
        )
        tasks: list[JsonObject] = self.call(m.Submit(tasks=keyed))["tasks"]
        return tasks

    def task_get(self, task: int) -> JsonObject:
        return _object(self._ask(m.TaskGet, task=task))

    def wait(
        self,
        task: int,
        timeout_s: float | None = None,
        *,
        on_change: Callable[[JsonObject], None] | None = None,
    ) -> JsonObject:
        """The task when it is final, or as it is after `timeout_s` (None: no end). `on_change` sees each
        answer. A hub that is away is waited for up to WAIT_PATIENCE_S."""
        until = None if timeout_s is None else time.monotonic() + timeout_s
        away = _Patience(WAIT_PATIENCE_S)
        while True:
            # Who wants to see changes asks often: the hub answers early only when the task is final.
            left: float = limits.WAIT_S_MAX if on_change is None else WATCH_S
            if until is not None:
                left = min(left, max(0.0, until - time.monotonic()))
            try:
                found = _object(self.call(m.TaskWait(task=task, timeout_s=left), reply_s=left + REPLY_S))
            except HubUnreachable as error:
                away.endure(error)
                continue
            away.over()
            if on_change is not None:
                on_change(found)
            if State(found["state"]) in FINAL or (until is not None and time.monotonic() >= until):
                return found

    def task_list(
        self,
        *,
        state: State | str | None = None,
        lane: Lane | str | None = None,
        tier: Tier | str | None = None,
        repo: str | None = None,
        label: str | None = None,
        cursor: int | None = None,
        limit: int = 50,
    ) -> JsonObject:
        """One page, newest first: {tasks, next_cursor}. One may be short, or empty, and still have a next."""
        return _object(
            self._ask(
                m.TaskList,
                state=state,
                lane=lane,
                tier=tier,
                repo=repo,
                label=label,
                cursor=cursor,
                limit=limit,
            )
        )

    def task_why(
        self, task: int, *, now: bool = False, cursor: int | None = None, limit: int = limits.PAGE_MAX
    ) -> JsonObject:
        """The decision, or a page of the hosts with what stands in the way; `now`: also of a routed task."""
        return _object(self._ask(m.TaskWhy, task=task, now=now, cursor=cursor, limit=limit))

    def task_log(self, task: int, attempt: int | None = None, offset: int = 0) -> JsonObject:
        """A piece of the output: {task, attempt, offset, next_offset, text, complete, lost_bytes}."""
        return _object(self._ask(m.TaskLog, task=task, attempt=attempt, offset=offset))

    def log(self, task: int, follow: bool = False, attempt: int | None = None) -> Iterator[JsonObject]:
        """The pieces of an attempt's output, the latest attempt's by default. With `follow` until the task is
        final, going over to the next attempt when one starts."""
        offset, shown = 0, attempt
        away = _Patience(WAIT_PATIENCE_S)
        while True:
            try:
                piece = self.task_log(task, attempt, offset)
                if shown not in (None, piece["attempt"]):
                    shown, offset = piece["attempt"], 0
                    continue
                shown = piece["attempt"] or None
                if piece["text"] or piece.get("lost_bytes"):
                    yield piece
                moved, offset = piece["next_offset"] > offset, piece["next_offset"]
                if not moved and self._log_ended(task, follow, attempt, bool(piece["complete"])):
                    return
                away.over()
            except HubUnreachable as error:
                away.endure(error)
                continue
            if not moved:
                time.sleep(FOLLOW_POLL_S)

    def _log_ended(self, task: int, follow: bool, attempt: int | None, complete: bool) -> bool:
        if not follow or (complete and attempt is not None):
            return True
        return State(self.task_get(task)["state"]) in FINAL and complete

    def task_reports(self, task: int) -> JsonObject:
        return _object(self._ask(m.TaskReports, task=task))

    def task_story(self, task: int, *, cursor: int | None = None, limit: int = limits.PAGE_MAX) -> JsonObject:
        """A page of what has become of the task, oldest first: {task, entries, next_cursor}."""
        return _object(self._ask(m.TaskStory, task=task, cursor=cursor, limit=limit))

    def task_cancel(self, task: int, reason: str = "") -> JsonObject:
        return _object(self._ask(m.TaskCancel, task=task, reason=reason))

    def task_retry(self, task: int) -> JsonObject:
        return _object(self._ask(m.TaskRetry, task=task))

    def task_hold(self, task: int, reason: str = "") -> JsonObject:
        return _object(self._ask(m.TaskHold, task=task, reason=reason))

    def task_answer(self, task: int, text: str, *, anywhere: bool = False) -> JsonObject:
        """Answer the question for which a task is held; `anywhere`: it begins anew on any host."""
        return _object(self._ask(m.TaskAnswer, task=task, text=text, anywhere=anywhere))

    def task_release(self, task: int) -> JsonObject:
        return _object(self._ask(m.TaskRelease, task=task))

    def dead_list(
        self,
        *,
        state: State | str | None = None,
        code: str | None = None,
        repo: str | None = None,
        label: str | None = None,
        older_than_s: int | None = None,
        cursor: int | None = None,
        limit: int = 50,
    ) -> JsonObject:
        """One page of tasks that ended without a result, newest first: {tasks, next_cursor}. `code` is that of the
        reason. A page may be short, or empty, and still have a next."""
        return _object(
            self._ask(
                m.DeadList,
                state=state,
                code=code,
                repo=repo,
                label=label,
                older_than_s=older_than_s,
                cursor=cursor,
                limit=limit,
            )
        )

    def dead_retry(self, tasks: Iterable[int] = (), **letters: Any) -> JsonObject:
        """Retry the named dead letters, or all that fit (`state`, `code`, `repo`, `label`, `older_than_s`), at most
        1,000 a call: {tasks, next_cursor}. Go on with `cursor` while there is a `next_cursor`."""
        return _object(self._ask(m.DeadRetry, tasks=list(tasks), **letters))

    def dead_purge(self, tasks: Iterable[int] = (), **letters: Any) -> JsonObject:
        """Remove the named dead letters for good, or all that fit, as `dead_retry` does: {purged, kept, next_cursor}.
        `kept` are those that other tasks wait for."""
        return _object(self._ask(m.DeadPurge, tasks=list(tasks), **letters))

    def agent_list(self) -> JsonObject:
        return _object(self.call(m.AgentList()))

    def agent_cordon(self, agent: str, cordoned: bool = True) -> JsonObject:
        return _object(self._ask(m.AgentCordon, agent=agent, cordoned=cordoned))

    def agent_remove(self, agent: str, now: bool = False) -> JsonObject:
        """Drains it first, unless `now`: {agent, removed, draining}."""
        return _object(self._ask(m.AgentRemove, agent=agent, now=now))

    def host_list(self) -> JsonObject:
        return _object(self.call(m.HostList()))

    def host_show(self, host: str) -> JsonObject:
        """The host as in the list, with `last_resources`, however old, and `trend`: its last minutes as percentages."""
        return _object(self._ask(m.HostShow, host=host))

    def host_invite(self, role: Role | str = Role.host, name: str = "") -> tuple[JoinCode, JsonObject]:
        """A join code for one key of `role`, and the hub's answer {address, expires, loopback_only, note}.
        The one-time secret is made here and never sent."""
        pair = KeyPair.make()
        answer = _object(self._ask(m.HostInvite, key=pair.public, role=role, name=name))
        return JoinCode(answer["address"], answer["hub_key"], pair.secret, Role(role)), answer

    def host_remove(self, host: str, now: bool = False) -> JsonObject:
        """Drains it first, unless `now`: {host, removed, draining}."""
        return _object(self._ask(m.HostRemove, host=host, now=now))

    def host_drain(self, host: str, draining: bool = True) -> JsonObject:
        return _object(self._ask(m.HostDrain, host=host, draining=draining))

    def host_accept_key(self, host: str, key: str) -> JsonObject:
        """Let the host sign its reports with another key (its public half, hex) than the one that is known."""
        return _object(self._ask(m.HostAcceptKey, host=host, key=key))

    def worktree_list(self, host: str | None = None, cursor: int | None = None) -> JsonObject:
        """A page of what lies in the hosts' worktrees: {worktrees, hosts, next_cursor}."""
        return _object(self._ask(m.WorktreeList, host=host, cursor=cursor))

    def endpoint_list(self) -> JsonObject:
        return _object(self.call(m.EndpointList()))

    def endpoint_show(self, endpoint: str) -> JsonObject:
        """By name, id or URL: the endpoint as in the list, and `reached_from`, the hosts that may call it."""
        return _object(self._ask(m.EndpointShow, endpoint=endpoint))

    def endpoint_add(
        self,
        url: str,
        *,
        kind: EndpointKind | str = EndpointKind.ollama,
        name: str = "",
        host: str | None = None,
        cap: int = 0,
        num_ctx: int = 0,
    ) -> JsonObject:
        """Register an LLM server. One on loopback needs `host`; `num_ctx` 0 takes the hub's setting."""
        return _object(
            self._ask(m.EndpointAdd, url=url, kind=kind, name=name, host=host, cap=cap, num_ctx=num_ctx)
        )

    def endpoint_update(
        self,
        endpoint: str,
        *,
        name: str | None = None,
        cap: int | None = None,
        num_ctx: int | None = None,
        preload: bool | None = None,
    ) -> JsonObject:
        fields = {"name": name, "cap": cap, "num_ctx": num_ctx, "preload": preload}
        return _object(self._ask(m.EndpointUpdate, endpoint=endpoint, **fields))

    def endpoint_remove(self, endpoint: str, now: bool = False) -> JsonObject:
        """Drains it first, unless `now`: {endpoint, removed, draining}."""
        return _object(self._ask(m.EndpointRemove, endpoint=endpoint, now=now))

    def endpoint_probe(self, endpoint: str) -> JsonObject:
        return _object(self._ask(m.EndpointProbeNow, endpoint=endpoint))

    def queue_stats(self) -> JsonObject:
        return _object(self.call(m.QueueStats()))

    def queue_pause(
        self,
        paused: bool = True,
        *,
        repo: str | None = None,
        tier: Tier | str | None = None,
        host: str | None = None,
    ) -> JsonObject:
        """Pause or resume everything, or a repository, a tier or a host: {paused, pauses}."""
        return _object(self._ask(m.QueuePause, paused=paused, repo=repo, tier=tier, host=host))

    def queue_limit(self, key: str, number: int | None) -> JsonObject:
        """How many may run at once of `repo:URL`, `label:LABEL` or `endpoint:NAME`; None takes the limit back."""
        return _object(self._ask(m.QueueLimit, key=key, number=number))

    def queue_weight(self, key: str, number: int | None) -> JsonObject:
        """The share of `submitter:NAME` or `repo:URL` against others, who have 1; None takes it back."""
        return _object(self._ask(m.QueueWeight, key=key, number=number))

    def queue_rules(self) -> JsonObject:
        """{paused, pauses, limits, weights}, each with its key, who set it and when."""
        return _object(self.call(m.QueueRules()))

    def budget_list(self) -> JsonObject:
        """{budgets, attempt_usd, counted_usd, reserved_usd, held}: each budget with what is spent, reserved, left,
        and how many tasks it holds."""
        return _object(self.call(m.BudgetList()))

    def budget_set(self, key: str, usd: float | None, per: BudgetPeriod | str = BudgetPeriod.day) -> JsonObject:
        """What paid work of `all`, `repo:URL` or `submitter:NAME` may cost per day, month or ever; None takes it
        back."""
        return _object(self._ask(m.BudgetSet, key=key, usd=usd, per=per))

    def repo_list(self) -> JsonObject:
        """{repos}: the registered repositories by name."""
        return _object(self.call(m.RepoList()))

    def repo_show(self, repo: str) -> JsonObject:
        """A repository by its name, or by any spelling of its address."""
        return _object(self._ask(m.RepoShow, repo=repo))

    def repo_add(self, name: str, url: str, **fields: Any) -> JsonObject:
        """Register a repository; `fields` are `default_branch`, `checks` (as those of a task) and `hosts`."""
        return _object(self._ask(m.RepoAdd, name=name, url=url, **fields))

    def repo_update(self, repo: str, **fields: Any) -> JsonObject:
        """Change `name`, `url`, `default_branch`, `checks` or `hosts`; lists are replaced."""
        return _object(self._ask(m.RepoUpdate, repo=repo, **fields))

    def repo_remove(self, repo: str, force: bool = False) -> JsonObject:
        """{repo, removed, live_tasks}. Refused while tasks of it are not over, unless `force`."""
        return _object(self._ask(m.RepoRemove, repo=repo, force=force))

    def event_list(
        self, *, topic: m.EventTopic | str | None = None, event: str = "", cursor: int | None = None, limit: int = 50
    ) -> JsonObject:
        """A page of the events that were kept, newest first: {events, next_cursor}. It may be short."""
        return _object(self._ask(m.EventList, topic=topic, event=event, cursor=cursor, limit=limit))

    def backup_list(self) -> JsonObject:
        """The backups, the newest first, the schedule, and the last `chores` on the store."""
        return _object(self.call(m.BackupList()))

    def backup_now(self, timeout_s: float = CHORE_S) -> JsonObject:
        """Back up the store; the chore when it has ended. With 0 it is only begun."""
        return self._chore(_object(self.call(m.BackupNow())), timeout_s)

    def backup_verify(self, backup: str, timeout_s: float = CHORE_S) -> JsonObject:
        """Check a backup by its file's name, as thoroughly as a store at start."""
        return self._chore(_object(self._ask(m.BackupVerify, backup=backup)), timeout_s)

    def compact(self, timeout_s: float = CHORE_S) -> JsonObject:
        """Put a compact copy in the place of the store's file."""
        return self._chore(_object(self.call(m.Compact())), timeout_s)

    def store_acknowledge(self) -> JsonObject:
        """Say that what a start or a restore could not save has been seen: {acknowledged: [...], repairs: N}."""
        return _object(self.call(m.StoreAcknowledge()))

    def _chore(self, chore: JsonObject, timeout_s: float) -> JsonObject:
        """The chore when it has ended, or as it is when the time is over."""
        until = time.monotonic() + timeout_s
        while chore["state"] == "running" and time.monotonic() < until:
            time.sleep(FOLLOW_POLL_S)
            chores = self.backup_list()["chores"]
            found = [
                one
                for one in chores
                if (one["number"], one["started"]) == (chore["number"], chore["started"])
            ]
            if not found:
                raise HubUnreachable(
                    f"the hub was started again during the {chore['kind']}; ask for it again"
                )
            chore = found[0]
        return chore

    def config_get(self, name: str = "") -> JsonObject:
        """{settings: {name: {value, source, default, ...}}}: those that change at run time, of a section, or one."""
        return _object(self._ask(m.ConfigGet, name=name))

    def config_change(self, set: Mapping[str, Any] | None = None, unset: Iterable[str] = ()) -> JsonObject:
        """Set and unset settings, all or none."""
        return _object(self._ask(m.ConfigChange, set=dict(set or {}), unset=list(unset)))

    def token_add(self, name: str, role: Role | str, token_sha256: str) -> JsonObject:
        return _object(self._ask(m.TokenAdd, name=name, role=role, token_sha256=token_sha256))

    def token_list(self) -> JsonObject:
        return _object(self.call(m.TokenList()))

    def token_revoke(self, name: str) -> JsonObject:
        return _object(self._ask(m.TokenRevoke, name=name))

    def token_link(self, secret_sha256: str, role: Role | str | None = None) -> JsonObject:
        return _object(self._ask(m.TokenLink, secret_sha256=secret_sha256, role=role))

    def whoami(self) -> JsonObject:
        return _object(self.call(m.Whoami()))

    def snapshot(self, tasks: int = limits.SNAPSHOT_TASKS_MAX) -> JsonObject:
        return _object(self._ask(m.Snapshot, tasks=tasks))

    def hub_status(self) -> JsonObject:
        return _object(self.call(m.HubStatus()))


class _Patience:
    """How long a caller that waits anyway endures a hub that is away."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._until: float | None = None

    def endure(self, error: HubUnreachable) -> None:
        if self._until is None:
            self._until = time.monotonic() + self._limit_s
        elif time.monotonic() >= self._until:
            raise error
        # A hub whose address is not even known fails at once: do not spin.
        time.sleep(FOLLOW_POLL_S)

    def over(self) -> None:
        self._until = None


def _tag(kind: type[Any]) -> str:
    return str(kind.__struct_config__.tag)


def _object(value: Any) -> JsonObject:
    if not isinstance(value, dict):
        raise ProtocolViolation(f"the hub replied with {type(value).__name__}; an object is expected")
    return value
