"""The history of what callers asked for, and the checker that compares it with what the hub shows afterwards.

A submit whose answer never came is `unknown`: the task may be there or not, both are legal, but a batch is there
whole or not at all. An answer is a promise: from then on the task must be there, in one state, for ever. What
commands did is counted by files that they make, one per attempt (O_EXCL), not by what the hub believes.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from agentcom.client import Client
from agentcom.model import FINAL, State

TWICE = ".twice"  # what a command makes when the file of its own attempt is already there


class Fate(StrEnum):
    ok = "ok"
    unknown = "unknown"
    refused = "refused"


@dataclass
class Asked:
    """One submit: the key stands in the task's description. `promised` are the ids of all answers to it."""

    key: str
    batch: str
    fate: Fate = Fate.unknown
    promised: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class Seen:
    """A task as the hub shows it when all is over; `outcomes` are those of its attempts, by number."""

    id: int
    key: str
    state: State
    attempt: int
    losses: int
    error_code: str | None
    outcomes: Mapping[int, str]


class History:
    """What was asked, from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.asked: dict[str, Asked] = {}
        self._promised = 0

    def invoke(self, keys: Iterable[str], batch: str) -> None:
        """A submit is on its way: until something is heard of it, it is unknown. A repeat keeps what is known."""
        with self._lock:
            for key in keys:
                self.asked.setdefault(key, Asked(key, batch))

    def acknowledge(self, key: str, task: int) -> None:
        with self._lock:
            self._promised += self.asked[key].fate is not Fate.ok
            self.asked[key].fate = Fate.ok
            self.asked[key].promised.add(task)

    def refuse(self, keys: Iterable[str]) -> None:
        with self._lock:
            for key in keys:
                if self.asked[key].fate is Fate.unknown:
                    self.asked[key].fate = Fate.refused

    def promised(self) -> int:
        """How many submits were answered with a task."""
        return self._promised

    def fates(self) -> Counter[str]:
        with self._lock:
            return Counter(each.fate.value for each in self.asked.values())


def seen_of(client: Client) -> list[Seen]:
    """Every task that the hub shows, with its attempts."""
    found: list[Seen] = []
    cursor = None
    while True:
        page = client.task_list(limit=500, cursor=cursor)
        found += [_seen(client, task) for task in page["tasks"]]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def _seen(client: Client, task: Mapping[str, Any]) -> Seen:
    attempts = client.task_reports(task["id"])["attempts"] if task["attempt"] else []
    return Seen(
        id=task["id"],
        key=task["description"],
        state=State(task["state"]),
        attempt=task["attempt"],
        losses=task["losses"],
        error_code=(task["error"] or {}).get("code"),
        outcomes={each["attempt"]: each["outcome"] for each in attempts},
    )


def effects_of(folder: Path) -> Counter[tuple[int, int]]:
    """How often each (task, attempt) ran, by the files that commands made."""
    ran: Counter[tuple[int, int]] = Counter()
    for path in folder.iterdir():
        task, attempt = path.name.removesuffix(TWICE).split("-")[:2]
        ran[int(task), int(attempt)] += 2 if path.name.endswith(TWICE) else 1
    return ran


def marking(folder: Path) -> str:
    """Shell commands that make the file of this attempt, or the sign that it ran before."""
    return f'n=$(basename "$PWD"); (set -C; : > {folder}/$n) 2>/dev/null || : > {folder}/$n{TWICE}'


def check(
    history: History,
    seen: Iterable[Seen],
    ran: Mapping[tuple[int, int], int],
    losses_max: int = 3,
    may_be_open: bool = False,
) -> list[str]:
    """What does not hold, in words; empty when everything does. `ran` counts runs by (task, attempt)."""
    tasks = list(seen)
    wrong = [*_promises(history, tasks), *_batches(history, tasks)]
    for task in tasks:
        wrong += _of_task(task, losses_max, may_be_open)
    by_id = {task.id: task for task in tasks}
    for (number, attempt), times in ran.items():
        task_ran = by_id.get(number)
        if times > 1:
            wrong.append(f"task {number}: attempt {attempt} ran {times} times")
        if task_ran is None or attempt > task_ran.attempt:
            wrong.append(f"task {number}: attempt {attempt} ran and the hub does not know of it")
    for task in tasks:
        if task.state is State.completed and not ran.get((task.id, task.attempt)):
            wrong.append(f"task {task.id}: completed by attempt {task.attempt}, which never ran")
    return wrong


def _promises(history: History, tasks: list[Seen]) -> Iterable[str]:
    """Each acknowledged submit is one task, the one that was promised; nothing exists that nobody asked for."""
    ids_of: dict[str, list[int]] = {}
    for task in tasks:
        ids_of.setdefault(task.key, []).append(task.id)
    for key, ids in ids_of.items():
        asked = history.asked.get(key)
        if asked is None or asked.fate is Fate.refused:
            yield f"{key}: tasks {ids} exist and were {'refused' if asked else 'never asked for'}"
        if len(ids) > 1:
            yield f"{key}: one submit made the tasks {ids}"
    for asked in history.asked.values():
        if len(asked.promised) > 1:
            yield f"{asked.key}: repeats of one submit were promised the tasks {sorted(asked.promised)}"
        if asked.fate is Fate.ok and set(ids_of.get(asked.key, ())) != asked.promised:
            yield f"{asked.key}: acknowledged as {sorted(asked.promised)}, found {ids_of.get(asked.key, [])}"


def _batches(history: History, tasks: list[Seen]) -> Iterable[str]:
    there = {task.key for task in tasks}
    found: dict[str, list[bool]] = {}
    for asked in history.asked.values():
        found.setdefault(asked.batch, []).append(asked.key in there)
    for batch, is_there in found.items():
        if any(is_there) and not all(is_there):
            yield f"batch {batch}: {sum(is_there)} of {len(is_there)} tasks are there"


def _of_task(task: Seen, losses_max: int, may_be_open: bool) -> Iterable[str]:
    completed = [number for number, outcome in task.outcomes.items() if outcome == "completed"]
    if task.state not in FINAL and not may_be_open:
        yield f"task {task.id}: still {task.state} after the drain"
    if len(completed) > 1:
        yield f"task {task.id}: the attempts {completed} were both accepted"
    if (task.state is State.completed) != (completed == [task.attempt]):
        yield f"task {task.id}: {task.state} at attempt {task.attempt}, accepted: {completed}"
    if sorted(task.outcomes) != list(range(1, task.attempt + 1)):
        yield f"task {task.id}: attempts {sorted(task.outcomes)}, the last is {task.attempt}"
    if task.state is State.dead and task.error_code == "worker_lost" and task.losses < losses_max:
        yield f"task {task.id}: dead for lost workers after {task.losses} of {losses_max} losses"
