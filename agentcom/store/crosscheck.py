"""Whether the databases of a store agree with each other: each task with its lane, dead letter, body, attempts.

Checksums show that a record is what was written; only this shows that records of one batch are all there, or
that an old page has not come back. All databases are walked side by side in key order, so memory stays
bounded by one task. What a new index promises belongs here, beside the code that keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import msgspec

from agentcom.model import (
    FINAL,
    OPEN_ATTEMPT,
    AgentRecord,
    AttemptRecord,
    QueueRule,
    State,
    StoryNote,
    TaskRow,
)
from agentcom.store.base import PAGE_ROWS, Database, Row, Store, pages
from agentcom.store.book_check import Book

PROBLEMS_MAX: Final = 50  # told; a damaged store can have millions
RUN_TASKS: Final = 128  # looked at together where nothing about them asks for more

Walk = Callable[[str], Iterator[Row]]

_task = msgspec.msgpack.Decoder(TaskRow).decode
_attempt = msgspec.msgpack.Decoder(AttemptRecord).decode
_note = msgspec.msgpack.Decoder(StoryNote).decode
_rule = msgspec.msgpack.Decoder(QueueRule).decode
_agent = msgspec.msgpack.Decoder(AgentRecord).decode
_GROUP: Final = b"group"
_NUMBER_BYTES: Final = 8
OF_EACH: Final = (Database.LANES, Database.BODIES)  # that have a row of each task that just waits
BESIDE: Final = (
    Database.LANES, Database.DEAD, Database.BODIES,
    Database.ATTEMPTS, Database.ROUTES, Database.REPORTS, Database.DEPENDS, Database.STORIES,
)  # fmt: skip
QUIET: Final = frozenset({State.ready, State.delayed, State.held})  # nothing else has to tell of it


class _Problems:
    """The first PROBLEMS_MAX problems, and how many there were."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.count = 0
        self.newest_note = 0

    def add(self, text: str) -> None:
        self.count += 1
        if len(self.told) < PROBLEMS_MAX:
            self.told.append(text)


_NO_ROWS: Final[list[Row]] = []


class _Beside:
    """Rows of a database whose keys begin with a task's number, taken task by task."""

    def __init__(self, walk: Walk, database: str, problems: _Problems) -> None:
        self._rows = walk(database)
        self._database = database
        self._problems = problems
        self._page: list[Row] = []
        self._at = 0  # of the row after the next one, in the page
        self._task = b""  # of the next row
        self._next: Row | None = None
        self._step()

    def of(self, task: bytes) -> list[Row]:
        """The rows of this task; those before it belong to no task."""
        if self._task > task or self._next is None:
            return _NO_ROWS
        self._orphans_before(task)
        found = []
        while self._next is not None and self._task == task:
            found.append(self._next)
            self._step()
        return found

    def has_none_to(self, task: bytes) -> bool:
        """Whether it has no row that `of` would have to look at, up to this task."""
        return self._next is None or self._task > task

    def has_one_each(self, tasks: list[bytes]) -> bool:
        """Whether it has just the keys of these tasks, up to the last of them."""
        if self._next is None:
            return False
        count, start = len(tasks), self._at - 1
        if len(self._page) - start <= count:
            self._page, self._at = [*self._page[start:], *islice(self._rows, PAGE_ROWS)], 1
            start = 0
        following = self._page[start + count : start + count + 1]
        if following and following[0][0].startswith(tasks[-1]):
            return False
        return [key for key, _ in self._page[start : start + count]] == tasks

    def skip(self, rows: int) -> None:
        """Pass over rows that have been looked at."""
        self._at += rows - 1
        self._step()

    def end(self) -> None:
        self._orphans_before(None)

    def _step(self) -> None:
        if self._at == len(self._page):
            self._page, self._at = list(islice(self._rows, PAGE_ROWS)), 0
        if not self._page:
            self._next = None
            return
        self._next = self._page[self._at]
        self._at += 1
        self._task = self._next[0][:_NUMBER_BYTES]

    def _orphans_before(self, task: bytes | None) -> None:
        while self._next is not None and (task is None or self._task < task):
            self._problems.add(f"'{self._database}' has {self._next[0].hex()}, and there is no such task")
            self._step()


class _Tasks:
    """Walks the tasks with all that lies beside them. `newest` is the last of those that it has passed."""

    def __init__(self, walk: Walk, groups: set[int], book: Book, problems: _Problems) -> None:
        self._walk = walk
        self._groups = groups
        self._book = book
        self._problems = problems
        self._beside = {database: _Beside(walk, database, problems) for database in BESIDE}
        self._rare = [self._beside[database] for database in BESIDE if database not in OF_EACH]
        self._of_each = [self._beside[database] for database in OF_EACH]
        self.newest = 0

    def check(self) -> None:
        tasks = self._walk(Database.TASKS)
        while run := list(islice(tasks, RUN_TASKS)):
            keys = [key for key, _ in run]
            rows = [_task(body) for _, body in run]
            self.newest = max(self.newest, max(row.id for row in rows))
            if self._just_wait(keys, rows):
                for beside in self._of_each:
                    beside.skip(len(keys))
                continue
            for key, row in zip(keys, rows, strict=True):
                self._check(key, row)
        self._book.end()
        for beside in self._beside.values():
            beside.end()

    def _just_wait(self, keys: list[bytes], rows: list[TaskRow]) -> bool:
        """Whether each of these tasks is in its lane, has a body and nothing else, and may be so: of most tasks in a
        deep queue that is all, and they are looked at together in a fifth of the time."""
        return (
            {row.state for row in rows} <= QUIET
            and {row.group for row in rows} <= self._groups
            and [row.id.to_bytes(8, "big") for row in rows] == keys
            and all(beside.has_none_to(keys[-1]) for beside in self._rare)
            and all(beside.has_one_each(keys) for beside in self._of_each)
        )

    def _check(self, key: bytes, row: TaskRow) -> None:
        if row.id.to_bytes(8, "big") != key:
            self._problems.add(f"the row of task {row.id} lies under the key {key.hex()}")
        if row.group not in self._groups and row.state not in FINAL:
            self._problems.add(f"task {row.id} has requirement group {row.group}, which does not exist")
        _check_task(row, {database: rows.of(key) for database, rows in self._beside.items()}, self._problems)
        if row.state in OPEN_ATTEMPT:
            self._book.runs(row.id, row.attempt)


def cross_check(walk: Walk) -> tuple[int, list[str]]:
    """How many disagreements there are, and the first PROBLEMS_MAX of them. `walk` gives the verified rows of a
    database in key order. O(rows)."""
    problems = _Problems()
    numbers = dict(walk(Database.META))
    tasks = _Tasks(walk, _groups(numbers, problems), Book(walk, numbers, problems.add), problems)
    tasks.check()
    newest = tasks.newest
    following = int.from_bytes(numbers.get(b"next_task", b""), "big")
    if newest and following <= newest:
        problems.add(f"the next task would be {following}, and there is a task {newest}")
    following = int.from_bytes(numbers.get(b"next_note", b""), "big")
    if problems.newest_note and following <= problems.newest_note:
        problems.add(f"the next note would be {following}, and there is a note {problems.newest_note}")
    newest_event = max((int.from_bytes(key, "big") for key, _ in walk(Database.FEED)), default=0)
    following = int.from_bytes(numbers.get(b"next_event", b""), "big")
    if newest_event and following <= newest_event:
        problems.add(f"the next event would be {following}, and there is an event {newest_event}")
    _check_fleet(walk, problems)
    _check_rules(walk, problems)
    return problems.count, problems.told


def walk_store(store: Store) -> Walk:
    """The rows of an open store, page by page, so that no transaction stays open."""

    def walk(database: str) -> Iterator[Row]:
        for page in pages(store, database):
            yield from page

    return walk


def _check_task(row: TaskRow, found: dict[Database, list[Row]], problems: _Problems) -> None:
    is_live = row.state not in FINAL
    if bool(found[Database.LANES]) != is_live:
        problems.add(f"task {row.id} is {row.state} and {'not ' if is_live else 'still '}in its lane")
    in_dead, must_be_dead = bool(found[Database.DEAD]), row.state in (State.dead, State.expired)
    if in_dead != must_be_dead and not (in_dead and row.state is State.cancelled):
        problems.add(f"task {row.id} is {row.state} and {'' if in_dead else 'not '}among the dead letters")
    if not found[Database.BODIES]:
        problems.add(f"task {row.id} has no body")
    _check_depends(row, len(found[Database.DEPENDS]), problems)
    _check_attempts(row, found, problems)
    for key, body in found[Database.STORIES]:
        note = _note(body)
        if note.attempt > row.attempt:
            problems.add(f"task {row.id} has a note of attempt {note.attempt} and counts {row.attempt}")
        problems.newest_note = max(problems.newest_note, int.from_bytes(key[_NUMBER_BYTES:], "big"))


def _check_depends(row: TaskRow, unmet: int, problems: _Problems) -> None:
    """What a task waits for is written down until it has completed, and nothing runs before."""
    if row.state is State.waiting and not unmet:
        problems.add(f"task {row.id} is waiting, and nothing says for what")
    if unmet and row.state in (State.ready, State.delayed, *OPEN_ATTEMPT, State.completed):
        problems.add(f"task {row.id} is {row.state} and still waits for {unmet} tasks")


def _check_attempts(row: TaskRow, found: dict[Database, list[Row]], problems: _Problems) -> None:
    known = set()
    for key, body in found[Database.ATTEMPTS]:
        record = _attempt(body)
        known.add(key)
        if record.task.to_bytes(8, "big") + record.attempt.to_bytes(8, "big") != key:
            problems.add(f"attempt {record.attempt} of task {record.task} lies under the key {key.hex()}")
        if not 1 <= record.attempt <= row.attempt:
            problems.add(f"task {row.id} has an attempt {record.attempt} and counts {row.attempt}")
        if not record.outcome and (row.state not in OPEN_ATTEMPT or record.attempt != row.attempt):
            problems.add(f"attempt {record.attempt} of task {row.id} is open, the task is {row.state}")
        if record.outcome and row.state in OPEN_ATTEMPT and record.attempt == row.attempt:
            problems.add(f"attempt {record.attempt} of task {row.id} has ended, the task is {row.state}")
    if row.state in OPEN_ATTEMPT:
        # An open attempt is told by the row and its route; its own record is written when it ends.
        current = row.id.to_bytes(8, "big") + row.attempt.to_bytes(8, "big")
        known.add(current)
        if not any(key == current for key, _ in found[Database.ROUTES]):
            problems.add(f"task {row.id} is {row.state} and its attempt {row.attempt} has no route")
    for database in (Database.ROUTES, Database.REPORTS):
        for key, _ in found[database]:
            if key[: 2 * _NUMBER_BYTES] not in known:
                problems.add(f"'{database}' has {key.hex()}, and task {row.id} has no such attempt")


def _groups(numbers: dict[bytes, bytes], problems: _Problems) -> set[int]:
    """The numbers of the requirement groups; each stands there once."""
    found: dict[bytes, int] = {}
    for key, body in numbers.items():
        if key.startswith(_GROUP):
            number = int.from_bytes(key[len(_GROUP) :], "big")
            other = found.setdefault(body, number)
            if other != number:
                problems.add(f"the requirement groups {other} and {number} are the same")
    return set(found.values())


def _check_rules(walk: Walk, problems: _Problems) -> None:
    """Pauses, limits and weights lie under their own keys, each once."""
    for key, body in walk(Database.LIMITS):
        rule = _rule(body)
        if rule.record_key != key:
            problems.add(f"the {rule.kind} of {rule.scope} '{rule.key}' lies under the key {key.hex()}")


def _check_fleet(walk: Walk, problems: _Problems) -> None:
    hosts = {key for key, _ in walk(Database.HOSTS)}
    for _, body in walk(Database.AGENTS):
        agent = _agent(body)
        if agent.host.to_bytes(8, "big") not in hosts:
            problems.add(f"agent '{agent.name}' belongs to host {agent.host}, which does not exist")
