"""Answers to what only reads: from the store (bodies, history, final tasks) and the core's memory.

Runs on the loop after the commit, so an answer shows what has been acknowledged. Every list is bounded in rows
read and in bytes answered; a page may be short and then has a cursor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from agentcom import __version__, dead_letters, limits, sched
from agentcom import messages as m
from agentcom.clock import Clock, rfc3339
from agentcom.core.admission import group_of_row
from agentcom.core.agents import agent_view
from agentcom.core.effects import Read, key_u64, key_u64x2
from agentcom.core.evidence import LATE
from agentcom.core.hub import Hub
from agentcom.core.outlet import KEPT
from agentcom.core.requests import OF_THE_STORE
from agentcom.core.story import shortening, tell
from agentcom.core.waiting import NAMED_MAX
from agentcom.core.worktree_view import worktrees
from agentcom.errors import NotFound, Refused, StoreError
from agentcom.live_records import LiveRecords
from agentcom.logbook import LogBook
from agentcom.model import (
    FINAL,
    OPEN_ATTEMPT,
    AgentState,
    AttemptRecord,
    Group,
    JsonObject,
    KeptEvent,
    PrincipalRecord,
    QuestionRecord,
    Route,
    State,
    StoryNote,
    TaskResult,
    TaskRow,
    TaskSpec,
)
from agentcom.results import Results, all_fields, look_view, result_view, whole_result
from agentcom.store.base import Row, Store, after
from agentcom.upkeep import Upkeep
from agentcom.why import Why, ready_ms

ANSWER_BYTES_MAX = limits.REPLY_BYTES_MAX // 2
BRIEF_CHARS = 200
_decode_row = msgspec.msgpack.Decoder(TaskRow).decode
_spec = msgspec.msgpack.Decoder(TaskSpec).decode
_route = msgspec.msgpack.Decoder(Route).decode
_result = msgspec.msgpack.Decoder(TaskResult).decode
_attempt = msgspec.msgpack.Decoder(AttemptRecord).decode
_kept = msgspec.msgpack.Decoder(KeptEvent).decode
_note = msgspec.msgpack.Decoder(StoryNote).decode


class Queries:
    """One function per reading operation; `answer` picks it."""

    def __init__(self, hub: Hub, store: Store, clock: Clock, logbook: LogBook, started_ms: int) -> None:
        self.hub = hub
        self.sequences: dict[str, int] = {}
        self.upkeep: Upkeep | None = None  # of a store on disk
        self._store, self._clock, self._logbook = store, clock, logbook
        self._started_ms = started_ms
        self._live_records = LiveRecords(store)
        self._results = Results(store, hub)
        self._answers: dict[type, Callable[[Any, int], object]] = {
            m.TaskGet: self._task_get,
            m.TaskList: self._task_list,
            m.TaskWhy: self._task_why,
            m.TaskLog: self._task_log,
            m.TaskReports: self._task_reports,
            m.TaskStory: self._task_story,
            m.DeadList: self._dead_list,
            m.AgentList: lambda _op, _mine: {"agents": self.agents()},
            m.HostList: lambda _op, _mine: {"hosts": self.hosts()},
            m.HostShow: self._host_show,
            m.WorktreeList: lambda op, _mine: worktrees(self.hub.fleet, op, self._clock.now()),
            m.EndpointList: lambda _op, _mine: {"endpoints": self.endpoints()},
            m.EndpointShow: self._endpoint_show,
            m.ConfigGet: self._config_get,
            m.EventList: self._event_list,
            m.QueueStats: lambda _op, _mine: {**self.counts(), "store": self._store_view()},
            m.QueueRules: lambda _op, _mine: self.hub.gates.view(),
            m.BudgetList: lambda _op, _mine: self.hub.ledger.view(self._clock.now()),
            m.RepoList: lambda _op, _mine: {"repos": self.hub.repositories.views()},
            m.RepoShow: self._repo_show,
            m.TokenList: self._token_list,
            m.Snapshot: self._snapshot,
            **dict.fromkeys(OF_THE_STORE, self._of_the_store),
            m.HubStatus: self._hub_status,
        }

    def answer(self, read: Read) -> object:
        """The value of the reply; raises Refused. A principal other than 0 sees its own tasks only."""
        return self._answers[type(read.op)](read.op, read.principal)

    # --- tasks ------------------------------------------------------------------------------------------

    def brief(self, task: int) -> JsonObject | None:
        """What the feed and the snapshot show of a task; None if there is none."""
        row = self._row(task)
        return self._brief(row) if row is not None else None

    def counts(self) -> JsonObject:
        tasks = self.hub.tasks
        agents = dict.fromkeys((state.value for state in AgentState), 0)
        for agent in self.hub.fleet.agents.values():
            agents[agent.state.value] += 1
        return {
            "paused": self.hub.paused,
            "pauses": self.hub.gates.paused_keys(),
            "degraded": self.hub.degraded,
            "troubles": list(self.hub.troubles),
            "by_state": {state.value: count for state, count in tasks.counts.items()},
            "by_lane": {lane.value: count for lane, count in tasks.by_lane.items()},
            "tasks_total": sum(tasks.counts.values()),
            "tier_disagreements": tasks.disagreements,
            "reports_refused": dict(self.hub.attempts.reports_refused),
            "agents": agents,
            "retention": self._kept(),
            "settings": {
                "stored": sorted(self.hub.configuration.stored),
                "ignored": dict(self.hub.configuration.ignored),
            },
        }

    def _kept(self) -> JsonObject:
        """How much is kept of what is over, and how much may be."""
        terms, count = self.hub.settings.retention, self._store.count
        self._live_records.look(self.hub)
        return {
            "tasks": self.hub.retention.finals,
            "results": count("reports") - self._live_records.results,
            "notes": count("stories") - self._live_records.notes,
            "events": count("feed"),
            "retired_since_start": self.hub.retention.retired,
            **{name: getattr(terms, name) for name in terms.__struct_fields__},
        }

    def agents(self) -> list[JsonObject]:
        return [agent_view(agent) for _, agent in sorted(self.hub.fleet.agents.items())]

    def hosts(self) -> list[JsonObject]:
        now = self._clock.now()
        return [self.hub.fleet.host_view(host, now) for _, host in sorted(self.hub.fleet.hosts.items())]

    def _host_show(self, op: m.HostShow, _mine: int) -> JsonObject:
        fleet, host = self.hub.fleet, self.hub.fleet.host_named(op.host)
        view = fleet.host_view(host, self._clock.now())
        return {**view, "last_resources": host.record.resources, "trend": host.trend.view()}

    def endpoints(self) -> list[JsonObject]:
        return [self.hub.registry.view(record) for _, record in sorted(self.hub.registry.endpoints.items())]

    def _endpoint_show(self, op: m.EndpointShow, _mine: int) -> JsonObject:
        registry, fleet = self.hub.registry, self.hub.fleet
        record = registry.named(op.endpoint)
        reached = [
            fleet.hosts[host].record.name
            for host in sorted(fleet.hosts)
            if record.seen_from in (0, host) and registry.circuits.is_way_open(record.id, host)
        ]
        return {**registry.view(record), "reached_from": reached}

    def _task_get(self, op: m.TaskGet, mine: int) -> object:
        row = self._row_of(op.task, mine)
        return {**self._json(row), "story_shortened": self._shortened(row)}

    def _shortened(self, row: TaskRow) -> JsonObject | None:
        """When, and by which setting, the task's story lost entries."""
        key = key_u64(row.id)
        first = self._store.scan("stories", key, after(key), limit=1)
        cut = shortening(row, [_note(body) for _, body in first])
        return {"at": rfc3339(cut.at_ms), "by": cut.by} if cut is not None else None

    def _row(self, task: int) -> TaskRow | None:
        """The task as it is: a live one from the core's table, which knows what a restart may forget."""
        live = self._live(task)
        if live is not None:
            return live
        stored = self._store.get("tasks", key_u64(task))
        return _decode_row(stored) if stored is not None else None

    def _live(self, task: int) -> TaskRow | None:
        table = self.hub.tasks.table
        slot = table.slot_of.get(task)
        return table.record(slot) if slot is not None else None

    def _rows(self, stored: list[Row]) -> Iterator[TaskRow]:
        for key, body in stored:
            yield self._live(int.from_bytes(key, "big")) or _decode_row(body)

    def _row_of(self, task: int, mine: int) -> TaskRow:
        row = self._row(task)
        if row is None or (mine and row.submitter != mine):
            raise NotFound(f"there is no task {task}", field="task")
        return row

    def _json(self, row: TaskRow) -> JsonObject:
        """A task with everything that is known of it."""
        place = key_u64x2(row.id, row.attempt)
        spec = self._spec_of(row.id)
        route = self._store.get("routes", place)
        result = self._results.of(row) if row.state not in OPEN_ATTEMPT else None
        submitter = self.hub.principals.by_id.get(row.submitter)
        return {
            **self._brief(row),
            **msgspec.to_builtins(all_fields(spec)),
            "lane": row.lane.value,
            "tier": row.tier.value,
            "tier_source": row.tier_source.value,
            "inferred_tier": row.inferred_tier.value,
            "max_retries": row.max_retries,
            "parked_count": row.parked_count,
            "submitted_by": submitter.name if submitter else None,
            "expires_at": self._expires_at(row),
            "retry_at": self._retry_at(row),
            "waits_for": list(self.hub.tasks.waiting.unmet(row.id)),
            "question": _question(self.hub.tasks.asked.get(row.id)),
            "route": msgspec.to_builtins(_route(route)) if route is not None else None,
            "second_look": look_view(self.hub.tasks.seconds.get(row.id)),
            "result": result_view(result, row.state) if result is not None else None,
        }

    def _expires_at(self, row: TaskRow) -> str | None:
        """When a live task's term ends, by the wall clock as it stands now."""
        if row.state in FINAL:
            return None
        term_ms = min(row.expires_ms, row.delay_ms) if row.state is State.held else row.expires_ms
        return rfc3339(self.hub.tasks.clock.wall_ms(term_ms, self._clock.now()))

    def _retry_at(self, row: TaskRow) -> str | None:
        """When a task that waits after a failure is tried again, by the wall clock as it stands now."""
        return None if row.not_before_ms else rfc3339(ready_ms(self.hub, row, self._clock.now()))

    def _brief(self, row: TaskRow) -> JsonObject:
        spec = self._spec_of(row.id)
        place = key_u64x2(row.id, row.attempt)
        stored_route = self._store.get("routes", place) if row.attempt else None
        route = _route(stored_route) if stored_route is not None else None
        result = self._store.get("reports", place) if row.state is State.completed else None
        error = {"class": row.error_class, "code": row.error_code, "message": row.error_message}
        return {
            "id": row.id,
            "description": spec.description[:BRIEF_CHARS],
            "state": row.state.value,
            "lane": row.lane.value,
            "tier": row.tier.value,
            "tier_source": row.tier_source.value,
            "inferred_tier": row.inferred_tier.value,
            "attempt": row.attempt,
            "stalled": self._is_stalled(row),
            "retries_used": row.retries_used,
            "losses": row.losses,
            "parked_count": row.parked_count,
            "repo": spec.repo,
            "labels": list(spec.labels),
            "agent": route.agent if route else None,
            "host": route.host if route else None,
            "strategy": route.strategy.value if route else None,
            "model": route.model if route else None,
            "status": _result(result).status.value if result is not None else row.status or None,
            "error": error if row.error_class else None,
            "created_at": rfc3339(row.created_ms),
            "assigned_at": rfc3339(row.assigned_ms) if row.assigned_ms else None,
            "finished_at": rfc3339(row.finished_ms) if row.finished_ms else None,
        }

    def _is_stalled(self, row: TaskRow) -> bool:
        """Whether its attempt runs and has made no progress for `queue.stall_s`."""
        if row.state is not State.working:
            return False
        table = self.hub.tasks.table
        return self.hub.fleet.agents[table.agent[table.slot_of[row.id]]].stalled

    def _spec_of(self, task: int) -> TaskSpec:
        body = self._store.get("bodies", key_u64(task))
        assert body is not None, f"task {task} has a row and no body"
        return _spec(body)

    def _task_list(self, op: m.TaskList, mine: int) -> object:
        before = key_u64(op.cursor) if op.cursor is not None else None
        rows = self._store.scan("tasks", b"", before, reverse=True, limit=limits.SCAN_ROWS_MAX)
        return self._page(self._rows(rows), op, mine, len(rows) == limits.SCAN_ROWS_MAX)

    def _page(self, rows: Any, op: m.TaskList, mine: int, more: bool) -> JsonObject:
        tasks: list[JsonObject] = []
        size, last = 0, None
        for row in rows:
            if len(tasks) == op.limit or size > ANSWER_BYTES_MAX:
                more = True
                break
            last = row.id
            if self._matches(row, op, mine):
                task = self._json(row)
                size += len(msgspec.msgpack.encode(task))
                tasks.append(task)
        return {"tasks": tasks, "next_cursor": last if more else None}

    def _matches(self, row: TaskRow, op: m.TaskList, mine: int) -> bool:
        if (mine and row.submitter != mine) or op.state not in (None, row.state):
            return False
        if op.lane not in (None, row.lane) or op.tier not in (None, row.tier):
            return False
        if op.repo is not None and self._group_of(row).repo != self.hub.repositories.address(op.repo):
            return False
        return op.label is None or op.label in self._spec_of(row.id).labels

    def _dead_list(self, op: m.DeadList, mine: int) -> object:
        found = dead_letters.page(
            op, self._store, self._clock.now(), lambda task: self._json(self._row_of(task, mine))
        )
        return {"tasks": found.shown, "next_cursor": found.next_cursor}

    def _task_reports(self, op: m.TaskReports, mine: int) -> object:
        row = self._row_of(op.task, mine)
        attempts = [self._attempt_json(row, attempt) for attempt in range(1, row.attempt + 1)]
        return {"task": row.id, "attempts": [one for one in attempts if one is not None]}

    def _attempt_json(self, row: TaskRow, attempt: int) -> JsonObject | None:
        """An attempt with what it brought back; None when it is not known any more."""
        place = key_u64x2(row.id, attempt)
        stored = self._store.get("attempts", place)
        if stored is not None:
            record = _attempt(stored)
        elif row.state in OPEN_ATTEMPT and attempt == row.attempt:
            record = self.hub.attempts.open_record(row.id)
        else:
            return None
        json: JsonObject = msgspec.to_builtins(record)
        json.pop("host_id", None)
        for field in ("started_ms", "accepted_ms", "ended_ms"):
            wall_ms = json.pop(field, 0)
            json[field.replace("_ms", "_at")] = rfc3339(wall_ms) if wall_ms else None
        json.setdefault("outcome", None)
        json.setdefault("error", None)
        for name, key in (("result", place), ("late_result", place + LATE)):
            result = self._store.get("reports", key)
            json[name] = whole_result(_result(result), is_taken=name == "result") if result is not None else None
        host = self.hub.fleet.hosts.get(record.host_id)
        principal = self.hub.principals.by_id.get(host.record.principal) if host is not None else None
        json["host_key"] = principal.signing_key if principal is not None else None
        return json

    def _task_story(self, op: m.TaskStory, mine: int) -> object:
        row = self._row_of(op.task, mine)
        submitter = self.hub.principals.by_id.get(row.submitter)
        told = tell(
            row,
            submitter.name if submitter else "",
            self._spec_of(row.id).not_before,
            self._attempts_of(row),
            [_note(body) for body in self._newest_of("stories", row.id)],
        )
        first = op.cursor or 0
        following = first + op.limit
        return {
            "task": row.id,
            "state": row.state.value,
            "entries": told[first:following],
            "next_cursor": following if following < len(told) else None,
        }

    def _newest_of(self, database: str, task: int) -> list[bytes]:
        """The newest SCAN_ROWS_MAX records under the task's number, oldest first."""
        key = key_u64(task)
        rows = self._store.scan(database, key, after(key), reverse=True, limit=limits.SCAN_ROWS_MAX)
        return [body for _, body in reversed(rows)]

    def _attempts_of(self, row: TaskRow) -> list[AttemptRecord]:
        """The newest ones, oldest first; one that is open is told by the core."""
        ended = [each for body in self._newest_of("attempts", row.id) if (each := _attempt(body)).outcome]
        return [*ended, self.hub.attempts.open_record(row.id)] if row.state in OPEN_ATTEMPT else ended

    def _task_log(self, op: m.TaskLog, mine: int) -> object:
        row = self._row_of(op.task, mine)
        attempt = op.attempt or row.attempt
        if attempt > row.attempt:
            had = f"which has had {row.attempt}" if row.attempt else "which has had none yet"
            raise NotFound(f"there is no attempt {attempt} of task {row.id}, {had}", field="attempt")
        running = row.state in OPEN_ATTEMPT and attempt == row.attempt
        kept = self._logbook.read(row.id, attempt, op.offset)
        if kept is None:
            result = self._results.at(row.id, attempt) if not running else None
            output = result.work.output.encode() if result is not None else b""
            kept = min(op.offset, len(output)), output[op.offset :].decode(errors="replace")
        first, text = kept
        return {
            "task": row.id,
            "attempt": attempt,
            "offset": first,
            "next_offset": first + len(text.encode()),
            "text": text,
            "lost_bytes": max(0, first - op.offset),
            "complete": not running
            and row.state in (State.completed, State.dead, State.cancelled, State.expired),
        }

    def _group_of(self, row: TaskRow) -> Group:
        """What the task asks of a place to run; of one that has ended its body says it."""
        if row.state in FINAL:
            return group_of_row(self._spec_of(row.id), row)
        return self.hub.tasks.groups[row.group]

    def _task_why(self, op: m.TaskWhy, mine: int) -> object:
        row = self._row_of(op.task, mine)
        stored = self._store.get("routes", key_u64x2(row.id, row.attempt))
        route = _route(stored) if stored is not None else None
        why = Why(self.hub, row, self._group_of(row), self._clock.now())
        return why.answer(op, self._spec_of(row.id), route, self._dependencies)

    def _dependencies(self, task: int) -> str:
        """What a waiting task waits for, each with its state."""
        tasks = self.hub.tasks
        unmet = tasks.waiting.unmet(task)
        first = [
            f"task {one} ({tasks.table.state_of(tasks.table.slot_of[one])})"
            for one in unmet[:NAMED_MAX]
            if one in tasks.table
        ]
        more = f" and {len(unmet) - NAMED_MAX} more" if len(unmet) > NAMED_MAX else ""
        return ", ".join(first) + more

    # --- the hub ----------------------------------------------------------------------------------------

    def _config_get(self, op: m.ConfigGet, _mine: int) -> object:
        return {"settings": self.hub.configuration.view(op.name, self.hub.settings)}

    def _repo_show(self, op: m.RepoShow, _mine: int) -> object:
        repositories = self.hub.repositories
        return repositories.view(repositories.named(op.repo))

    def _event_list(self, op: m.EventList, _mine: int) -> object:
        if op.event and op.event not in KEPT:
            said = f"event: {op.event!r} is not kept; it is one of {', '.join(sorted(KEPT))}"
            raise Refused("invalid", said, field="event")
        before = key_u64(op.cursor) if op.cursor is not None else None
        rows = self._store.scan("feed", b"", before, reverse=True, limit=limits.SCAN_ROWS_MAX)
        events: list[JsonObject] = []
        last = None
        for key, body in rows:
            if len(events) == op.limit:
                break
            last = int.from_bytes(key, "big")
            kept = _kept(body)
            if op.topic in (None, kept.topic) and op.event in ("", kept.event):
                events.append(event_view(last, kept))
        more = last is not None and (len(rows) == limits.SCAN_ROWS_MAX or key_u64(last) != rows[-1][0])
        return {"events": events, "next_cursor": last if more else None}

    def _newest_events(self) -> list[JsonObject]:
        rows = self._store.scan("feed", reverse=True, limit=limits.SNAPSHOT_EVENTS_MAX)
        return [event_view(int.from_bytes(key, "big"), _kept(body)) for key, body in rows]

    def _token_list(self, _op: m.TokenList, _mine: int) -> object:
        records = sorted(self.hub.principals.by_id.values(), key=lambda r: r.id)
        return {"tokens": [_token_view(record) for record in records]}

    def _snapshot(self, op: m.Snapshot, _mine: int) -> object:
        newest = self._store.scan("tasks", b"", None, reverse=True, limit=op.tasks) if op.tasks else []
        return {
            "epoch": self.hub.epoch,
            "sequences": dict(self.sequences),
            "counts": self.counts(),
            "agents": self.agents(),
            "hosts": self.hosts(),
            "endpoints": self.endpoints(),
            "events": self._newest_events(),
            "tasks": [self._brief(row) for row in self._rows(newest)],
        }

    def _of_the_store(self, op: m.Operation, _mine: int) -> object:
        if self.upkeep is None:
            raise Refused("invalid", "this hub's store is not on a disk: there is nothing to back up")
        try:
            return self.upkeep.answer(op, self._clock.now())
        except StoreError as error:
            raise Refused(error.code, error.message) from error

    def _store_view(self) -> object:
        return self.upkeep.status(self._clock.now()) if self.upkeep is not None else self._store.stats()

    def _hub_status(self, _op: m.HubStatus, _mine: int) -> object:
        return {
            "version": __version__,
            "epoch": self.hub.epoch,
            "started": rfc3339(self._started_ms),
            "scheduler": sched.IMPLEMENTATION,
            "scheduler_note": sched.why_python,
            "store": self._store_view(),
            "sessions": len(self.hub.sessions.by_token),
            "paused": self.hub.paused,
            "pauses": self.hub.gates.paused_keys(),
            "degraded": self.hub.degraded,
            "troubles": list(self.hub.troubles),
        }


def event_view(number: int, kept: KeptEvent) -> JsonObject:
    """A kept event as people see it, and as the feed published it."""
    return {
        "number": number,
        "at": rfc3339(kept.at_ms),
        "topic": kept.topic,
        "event": kept.event,
        **kept.fields,
    }


def _token_view(record: PrincipalRecord) -> JsonObject:
    kind = "key" if record.key else "page" if record.parent else "token"
    return {
        "name": record.name,
        "role": record.role.value,
        "kind": kind,
        "created": rfc3339(record.created_ms),
        "expires": rfc3339(record.expires_ms) if record.expires_ms else None,
        "revoked": record.revoked,
    }


def _question(record: QuestionRecord | None) -> JsonObject | None:
    """What a live task has asked last, where that is kept, and what was answered so far."""
    if record is None:
        return None
    return {
        "text": record.question,
        "asked_at": rfc3339(record.asked_ms),
        "host": record.host_name,
        "attempt": record.attempt or None,
        "answers": [
            {"question": each.question, "text": each.text, "by": each.by, "at": rfc3339(each.at_ms)}
            for each in record.answers
        ],
    }
