"""Simulated callers: they submit, cancel, retry, hold, release, wait, look, and note what they were told.

Each operation is recorded with when it was asked and what came of it: `ok`, `fail` (the hub said no), or
`unknown` (no answer in time, or the connection broke: it may or may not have happened). An unknown submit with an
idempotency key is repeated with the same key, as the real client does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from typing import Any, Literal, cast

import msgspec

from agentcom import limits
from agentcom import messages as m
from agentcom.model import Lane, TaskSpec, Tier
from tests.sim.network import Link, Network
from tests.sim.timeline import Timeline

NATURES = (
    "ok",
    "ok",
    "ok",
    "flaky",
    "flaky",
    "bad",
    "infra",
    "window",
    "window",
    "config",
    "verify",
    "shy",
    "stuck",
)
POISON = "poison"
LANES = tuple(Lane)
REPEATS_MAX = 4
REPOS = ("https://example.org/one.git", "https://example.org/two.git")
LABELS = ("deploy", "docs", "urgent")
LIMITED = tuple(f"repo:{repo}" for repo in REPOS) + tuple(f"label:{label}" for label in LABELS)
OPEN_TASKS_MAX = 40  # callers submit no more above this: a run has to come to rest
WORK = {
    m.Submit: 12,
    m.TaskCancel: 4,
    m.TaskRetry: 3,
    m.TaskHold: 3,
    m.TaskRelease: 3,
    m.TaskWait: 3,
    m.TaskGet: 2,
    m.DeadRetry: 2,
    m.DeadPurge: 1,
    m.QueuePause: 2,
    m.QueueLimit: 2,
    m.QueueWeight: 1,
    m.AgentCordon: 1,
    m.HostDrain: 1,
    m.QueueStats: 1,
    m.TaskList: 1,
    m.ConfigChange: 1,
}
KINDS, KINDS_UP_TO = list(WORK), list(accumulate(WORK.values()))
# Settings that are changed at run time. Three beats of any pace are within a lease of any length.
CHANGED: dict[str, tuple[float, ...]] = {
    "queue.lease_s": (15, 20, 45, 60),
    "queue.heartbeat_s": (3, 4, 5),
    "queue.accept_s": (5, 15),
    "queue.backoff_s": (1, 5),
    "queue.park_s": (5, 60),
}


@dataclass
class Operation:
    """One thing that a caller asked for; `marks` are the items of a submit."""

    op: m.Operation
    asked_ms: int
    marks: tuple[str, ...] = ()
    outcome: Literal["ok", "fail", "unknown"] = "unknown"
    value: Any = None
    repeats: int = 0
    is_answered: bool = False


@dataclass
class Known:
    """What all callers know together: tasks that have not ended, those that were acknowledged, keys that were used,
    hosts and agents."""

    live: set[int]
    tasks: list[int] = field(default_factory=list)
    keyed: dict[tuple[str, str], list[TaskSpec]] = field(default_factory=dict)
    callers: list[str] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    has_poison: bool = True
    gives_times: bool = True
    changes_paces: bool = True  # leases, beats, and how long a worker may get nowhere


class FakeClient:
    """One caller with a key of its own. `history` is what the checker judges at the end."""

    def __init__(
        self, name: str, key: str, line: Timeline, network: Network, known: Known, rng: random.Random
    ) -> None:
        self.name, self.key = name, key
        self.history: list[Operation] = []
        self.issued: set[str] = set()
        self.is_stopped = False
        self._line, self._network, self._known, self._rng = line, network, known, rng
        self._link: Link | None = None
        self._token = b""
        self._waiting: list[Operation] = []
        self._asked: dict[int, Operation] = {}
        self._next = 0
        self._marks = 0
        self.pace_ms = rng.choice((300, 2000, 8000))
        self.own_usd: Callable[[], float | None] = lambda: None  # the budget of a task

    def start(self) -> None:
        self._connect()
        self._line.after(self._rng.randrange(self.pace_ms), self._go_on)

    def ask(self, op: m.Operation, marks: tuple[str, ...] = ()) -> Operation:
        """Ask the hub; the operation that comes back tells what became of it."""
        operation = Operation(op, self._line.now_ms, marks)
        self.history.append(operation)
        self._send(operation)
        return operation

    # --- what it wants ----------------------------------------------------------------------------------

    def _go_on(self) -> None:
        if self.is_stopped:
            return
        self._want()
        self._line.after(1 + self._rng.randrange(2 * self.pace_ms), self._go_on)

    def _want(self) -> None:
        kind = self._rng.choices(KINDS, cum_weights=KINDS_UP_TO)[0]
        if kind is m.Submit:
            if len(self._known.live) < OPEN_TASKS_MAX:
                self._submit()
            return
        op = self._operation(kind)
        self.ask(op)
        if self._rng.random() < 0.05:
            self.ask(op)  # the same twice, so that both may fall into one tick

    def _operation(self, kind: type) -> m.Operation:
        """One of that kind, about something that is known."""
        if kind in (m.TaskCancel, m.TaskRetry, m.TaskHold, m.TaskRelease, m.TaskGet):
            return cast(m.Operation, kind(task=self._some_task()))
        if kind in (m.DeadRetry, m.DeadPurge):
            return cast(m.Operation, kind(tasks=self._some_tasks()))
        choice = self._rng.choice
        made: dict[type, Callable[[], m.Operation]] = {
            m.TaskWait: lambda: m.TaskWait(task=self._some_task(), timeout_s=choice((0.5, 5.0, 30.0))),
            m.QueuePause: self._pause,
            m.QueueLimit: lambda: m.QueueLimit(key=choice(LIMITED), number=choice((None, 1, 1, 2))),
            m.QueueWeight: lambda: m.QueueWeight(
                key=f"submitter:{choice(self._known.callers)}", number=choice((None, 1, 2, 3))
            ),
            m.AgentCordon: lambda: m.AgentCordon(agent=choice(self._known.agents), cordoned=self._mostly_not()),
            m.HostDrain: lambda: m.HostDrain(host=choice(self._known.hosts), draining=self._mostly_not()),
            m.QueueStats: m.QueueStats,
            m.TaskList: lambda: m.TaskList(limit=20),
            m.ConfigChange: self._change,
        }
        return made[kind]()

    def _some_task(self) -> int:
        return self._rng.choice(self._known.tasks) if self._known.tasks else 1

    def _some_tasks(self) -> tuple[int, ...]:
        tasks = self._known.tasks
        return tuple(self._rng.sample(tasks, min(len(tasks), self._rng.randrange(3))))

    def _mostly_not(self) -> bool:
        return self._rng.random() < 0.4

    def _pause(self) -> m.QueuePause:
        """Of everything, or of one key; more are taken back than set."""
        is_paused = self._rng.random() < 0.4
        kind = self._rng.choice(("all", "repo", "tier", "host"))
        if kind == "repo":
            return m.QueuePause(paused=is_paused, repo=self._rng.choice(REPOS))
        if kind == "tier":
            return m.QueuePause(paused=is_paused, tier=self._rng.choice(tuple(Tier)))
        if kind == "host":
            return m.QueuePause(paused=is_paused, host=self._rng.choice(self._known.hosts))
        return m.QueuePause(paused=is_paused)

    def _change(self) -> m.ConfigChange:
        name = self._rng.choice(list(CHANGED) if self._known.changes_paces else ["queue.backoff_s"])
        if self._rng.random() < 0.3:
            return m.ConfigChange(unset=(name,))
        return m.ConfigChange(set={name: self._rng.choice(CHANGED[name])})

    def _submit(self) -> None:
        key = f"key-{self._rng.randrange(10**9)}" if self._rng.random() < 0.5 else None
        old = [pair for pair in self._known.keyed if pair[0] == self.name]
        if old and self._rng.random() < 0.1:
            key = self._rng.choice(old)[1]
        specs = [self._spec(n) for n in range(self._rng.choice((1, 1, 1, 2, 5)))]
        if key is not None:
            specs[0] = msgspec.structs.replace(specs[0], idempotency_key=key)
            self._known.keyed.setdefault((self.name, key), []).append(specs[0])
        marks = tuple(spec.description.split(" ")[0] for spec in specs)
        if self._rng.random() < 0.05:
            specs.append(TaskSpec(description="   "))  # refused, and with it the whole batch
            self._line.reach("batch_refused")
        self.ask(m.Submit(tasks=tuple(specs)), marks)

    def _spec(self, before: int) -> TaskSpec:
        """`before`: how many entries of the batch come before it, for it to depend on."""
        self._marks += 1
        mark = f"{self.name}-{self._marks}"
        self.issued.add(mark)
        nature = self._rng.choice(NATURES)
        if self._known.has_poison and self._rng.random() < 0.04:
            nature = POISON
        kind = self._rng.choice(("shell", "shell", "local", "cloud"))
        is_bound, draw = self._rng.random() < 0.1 and self._known.gives_times, self._rng.random()
        is_timed, has_ttl = self._rng.random() < 0.1, self._rng.random() < 0.05
        return TaskSpec(
            description=f"{mark} {nature} task",
            lane=self._rng.choice(LANES),
            tier={"shell": None, "local": Tier.standard, "cloud": Tier.complex}[kind],
            command="true" if kind == "shell" else None,
            repo=self._rng.choice(REPOS) if self._rng.random() < 0.2 else None,
            labels=tuple(self._rng.sample(LABELS, self._rng.choice((1, 2))))
            if self._rng.random() < 0.2
            else (),
            depends_on=self._depends_on(before),
            stall_s=self._rng.choice((15, 40)) if draw < 0.1 and self._known.changes_paces else None,
            max_retries=self._rng.choice((None, None, 0, 1, 5)),
            not_before=self._soon() if is_timed and self._known.gives_times else None,
            start_by=self._soon(8) if is_bound and draw < 0.6 else None,
            complete_by=self._soon(12) if is_bound and draw > 0.4 else None,
            ttl_s=self._rng.choice((30, 300)) if has_ttl and self._known.gives_times else None,
            budget_usd=self.own_usd() if kind == "cloud" else None,
        )

    def _depends_on(self, before: int) -> tuple[int, ...]:
        draw = self._rng.random()
        if before and draw < 0.2:
            return (-self._rng.randrange(1, before + 1),)
        if self._known.tasks and draw < 0.3:
            return (self._rng.choice(self._known.tasks[-10:]),)
        return ()

    def _soon(self, least_s: int = -5) -> str:
        wall_ms = self._line.true_wall_ms + self._rng.randrange(least_s * 1000, 60_000)
        return datetime.fromtimestamp(wall_ms / 1000, UTC).isoformat()

    # --- the connection ---------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._token = b""
        self._link = self._network.connect(self)
        if self._link is None:
            self._line.after(self._rng.randrange(100, 2000), self._connect)
        else:
            self._hello()

    def _hello(self) -> None:
        assert self._link is not None
        self._link.up(m.encode(m.Hello(protocol=limits.PROTOCOL_VERSION, process=f"process-of-{self.name}")))
        link = self._link

        def ask_again() -> None:
            if self._link is link and not self._token:
                link.reset()

        self._line.after(8000, ask_again)

    def broken(self, link: Link) -> None:
        if link is self._link:
            self._link, self._token = None, b""
            for operation in list(self._asked.values()):
                self._unknown(operation)
            self._asked = {}
            self._connect()

    def delivered(self, link: Link, body: bytes) -> None:
        if link is not self._link:
            return
        message = m.decode_from_hub(body)
        if isinstance(message, m.Welcome):
            self._token = message.session
            waiting, self._waiting = self._waiting, []
            for operation in waiting:
                self._send(operation)
        elif isinstance(message, m.Reply):
            self._answered(message.id, "ok", message.value)
        elif isinstance(message, m.Error):
            self._refused(message)

    def _refused(self, error: m.Error) -> None:
        if error.code == "no_session" and self._token:
            self._token = b""
            self._hello()
        if error.id is not None:
            self._answered(error.id, "fail", error.code)

    # --- requests ---------------------------------------------------------------------------------------

    def _send(self, operation: Operation) -> None:
        if self._link is None or not self._token:
            self._waiting.append(operation)
            return
        self._next += 1
        number = self._next
        self._asked[number] = operation
        self._link.up(m.encode(m.Request(session=self._token, id=number, op=operation.op)))
        self._line.after(self._patience_ms(operation), lambda: self._too_late(number))

    def _patience_ms(self, operation: Operation) -> int:
        waits_s = operation.op.timeout_s if isinstance(operation.op, m.TaskWait) else 0
        return int(waits_s * 1000) + self._rng.choice((200, 4000, 15_000))

    def _too_late(self, number: int) -> None:
        operation = self._asked.pop(number, None)
        if operation is not None:
            self._unknown(operation)
            if self._link is not None and self._rng.random() < 0.3:
                self._link.reset()

    def _unknown(self, operation: Operation) -> None:
        self._line.reach(f"unknown_{type(operation.op).__name__}")
        op = operation.op
        is_keyed = isinstance(op, m.Submit) and any(s.idempotency_key is not None for s in op.tasks)
        if is_keyed and len(operation.marks) == 1 and operation.repeats < REPEATS_MAX:
            operation.repeats += 1
            self._line.after(self._rng.randrange(50, 3000), lambda: self._send(operation))

    def _answered(self, number: int, outcome: Literal["ok", "fail"], value: Any) -> None:
        operation = self._asked.pop(number, None)
        if operation is None or operation.is_answered:
            return
        if outcome == "fail" and operation.repeats:
            return  # an earlier try may have been taken: still unknown
        operation.is_answered, operation.outcome, operation.value = True, outcome, value
        if isinstance(operation.op, m.Submit) and outcome == "ok":
            self._submitted(operation)

    def _submitted(self, operation: Operation) -> None:
        for told in operation.value["tasks"]:
            if told["id"] not in self._known.tasks:
                self._known.tasks.append(told["id"])
            if not told["created"]:
                self._line.reach("idempotent_repeat")
