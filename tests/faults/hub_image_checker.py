"""A process that opens one home of a hub after the other, as the hub does at its start, and compares what it finds with
what had been promised by then.

`python -m tests.faults.hub_image_checker PROMISES`; a line in: {"home": ..., "promised": lines}; a line out: what is
wrong, how the store was opened, how many batches came from the journal, whether a backup is asked for.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agentcom.clock import ManualClock
from agentcom.config import Settings
from agentcom.core.effects import key_u64
from agentcom.core.hub import Hub
from agentcom.errors import AgentComError
from agentcom.loading import load
from agentcom.model import FINAL, State, TaskRow
from agentcom.store.base import Store
from agentcom.store.check import full_check_here
from agentcom.store.crosscheck import cross_check, walk_store
from agentcom.store.start import OpenedStore, StorePaths, open_store

MAP_BYTES = 1 << 28
ENROLMENT = 1  # the batch that was in the store before anything was recorded


@dataclass
class Promised:
    """The last committed batch, the tasks that were shown to anyone, and those that were shown as final."""

    sequence: int = ENROLMENT
    tasks: set[int] = field(default_factory=set)
    final: dict[int, State] = field(default_factory=dict)
    accepted: dict[int, int] = field(default_factory=dict)

    def take(self, line: bytes) -> None:
        told = json.loads(line)
        if "sequence" in told:
            self.sequence = told["sequence"]
            return
        self.tasks.add(told["task"])
        if "accepted" in told:
            self.accepted[told["task"]] = told["accepted"]
        elif State(told["state"]) in FINAL:
            self.final[told["task"]] = State(told["state"])


def promised_by(lines: Iterable[bytes]) -> Promised:
    made = Promised()
    for line in lines:
        made.take(line)
    return made


def check(home: Path, promised: Promised) -> dict[str, Any]:
    try:
        opened = open_store(StorePaths.of_home(home), map_bytes=MAP_BYTES, checker=full_check_here)
    except AgentComError as error:
        return {"violations": [f"does not open: {error}"], "how": "refused"}
    try:
        return {
            "violations": [*_of_start(opened, promised), *_of_store(opened.store, promised)],
            "how": opened.report.how,
            "applied": opened.report.applied,
            "needs_backup": opened.needs_backup,
        }
    finally:
        opened.store.close()


def _of_start(opened: OpenedStore, promised: Promised) -> Iterator[str]:
    sequence = opened.store.sequence
    if not promised.sequence <= sequence <= promised.sequence + 1:
        yield f"the store is at batch {sequence}, {promised.sequence} was committed"
    if opened.journal.last != sequence:
        yield f"the journal is at batch {opened.journal.last}, the store at {sequence}"
    if opened.report.how == "restored" or opened.report.uncertain:
        yield f"a power cut damaged the store: {opened.report.notes} {opened.report.uncertain}"


def _of_store(store: Store, promised: Promised) -> Iterator[str]:
    for task in promised.tasks:
        body = store.get("tasks", key_u64(task))
        if body is None or store.get("bodies", key_u64(task)) is None:
            yield f"task {task} was promised and is not there"
            continue
        row = msgspec.msgpack.decode(body, type=TaskRow)
        if row.state != promised.final.get(task, row.state):
            yield f"task {task} was promised as {promised.final[task]} and is {row.state}"
        if task in promised.accepted and (row.state, row.attempt) != (
            State.completed,
            promised.accepted[task],
        ):
            yield f"task {task}: the result of attempt {promised.accepted[task]} was accepted and it is {row.state}"
    count, told = cross_check(walk_store(store))
    if count:
        yield f"{count} records disagree: {told[:3]}"
    hub = Hub(Settings(), random.Random(0), "image")
    try:
        hub.load(load(store), ManualClock().now())
        hub.validate()
    except (AssertionError, AgentComError) as error:
        yield f"no core starts from it: {error}"


def main(promises: Path) -> None:
    lines = promises.read_bytes().splitlines()
    for line in sys.stdin:
        wanted = json.loads(line)
        answer = check(Path(wanted["home"]), promised_by(lines[: wanted["promised"]]))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
