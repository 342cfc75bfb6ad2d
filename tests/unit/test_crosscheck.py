"""What the databases of a store promise each other: each promise, broken alone, is found and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
import pytest

from agentcom.model import (
    AgentRecord,
    Group,
    Lane,
    QueueRule,
    RuleKind,
    RuleScope,
    State,
    StoryNote,
    TaskRow,
    Tier,
    TierSource,
)
from agentcom.store import crosscheck
from agentcom.store.crosscheck import PROBLEMS_MAX, cross_check
from agentcom.store.record import key_u64, key_u64x2
from tests.faults.store_workload import Rows, Workload


def problems(rows: Rows) -> list[str]:
    def walk(database: str) -> Iterator[tuple[bytes, bytes]]:
        return iter(sorted((key, body) for (name, key), body in rows.items() if name == database))

    count, told = cross_check(walk)
    assert min(count, PROBLEMS_MAX) == len(told)
    return told


@pytest.fixture(params=[1, crosscheck.RUN_TASKS])
def rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """In runs of one each task that just waits is looked at as one of many would be."""
    monkeypatch.setattr(crosscheck, "RUN_TASKS", request.param)
    script = Workload(7)
    for _ in script.batches(60):
        continue
    return script.rows


def a_task(rows: Rows, wanted: Callable[[TaskRow], bool]) -> TaskRow:
    for (name, _), body in rows.items():
        if name == "tasks":
            row = msgspec.msgpack.decode(body, type=TaskRow)
            if wanted(row):
                return row
    raise AssertionError("the workload has no such task")


def in_state(rows: Rows, state: State) -> TaskRow:
    return a_task(rows, lambda row: row.state is state)


def test_a_store_after_any_number_of_batches_agrees_with_itself() -> None:
    script = Workload(3)
    assert problems(script.rows) == []
    for _ in script.batches(80):
        assert problems(script.rows) == []


def test_a_live_task_that_is_in_no_lane(rows: Rows) -> None:
    task = in_state(rows, State.ready).id
    del rows["lanes", key_u64(task)]
    assert problems(rows) == [f"task {task} is ready and not in its lane"]


def test_a_final_task_that_is_still_in_its_lane(rows: Rows) -> None:
    task = in_state(rows, State.completed).id
    rows["lanes", key_u64(task)] = b""
    assert problems(rows) == [f"task {task} is completed and still in its lane"]


def test_a_dead_task_that_is_not_among_the_dead_letters(rows: Rows) -> None:
    task = in_state(rows, State.dead).id
    del rows["dead", key_u64(task)]
    assert problems(rows) == [f"task {task} is dead and not among the dead letters"]


def test_a_task_that_waits_for_nothing_or_runs_before_what_it_waits_for(rows: Rows) -> None:
    waiting = in_state(rows, State.ready)
    rows["tasks", key_u64(waiting.id)] = msgspec.msgpack.encode(
        msgspec.structs.replace(waiting, state=State.waiting)
    )
    assert problems(rows) == [f"task {waiting.id} is waiting, and nothing says for what"]
    rows["depends", key_u64x2(waiting.id, 1)] = b""
    assert problems(rows) == []
    rows["tasks", key_u64(waiting.id)] = msgspec.msgpack.encode(waiting)
    assert problems(rows) == [f"task {waiting.id} is ready and still waits for 1 tasks"]
    rows["depends", key_u64x2(2**40, 1)] = b""
    assert f"'depends' has {key_u64x2(2**40, 1).hex()}, and there is no such task" in problems(rows)


def test_a_dead_letter_of_a_task_that_lives(rows: Rows) -> None:
    task = in_state(rows, State.ready).id
    rows["dead", key_u64(task)] = b"why"
    assert problems(rows) == [f"task {task} is ready and among the dead letters"]


def test_a_cancelled_task_may_be_among_the_dead_letters(rows: Rows) -> None:
    rows["dead", key_u64(in_state(rows, State.cancelled).id)] = b"cancelled"
    assert problems(rows) == []


def test_a_task_without_a_body(rows: Rows) -> None:
    task = in_state(rows, State.ready).id
    del rows["bodies", key_u64(task)]
    assert problems(rows) == [f"task {task} has no body"]


def a_note(rows: Rows, task: int, number: int, attempt: int = 0) -> None:
    note = StoryNote(event="held", attempt=attempt, at_ms=1)
    rows["stories", key_u64x2(task, number)] = msgspec.msgpack.encode(note)
    rows["meta", b"next_note"] = key_u64(number + 1)


def test_a_note_of_an_attempt_that_the_row_does_not_count(rows: Rows) -> None:
    task = in_state(rows, State.ready)
    a_note(rows, task.id, 1, task.attempt)
    assert problems(rows) == []
    a_note(rows, task.id, 2, task.attempt + 1)
    assert problems(rows) == [
        f"task {task.id} has a note of attempt {task.attempt + 1} and counts {task.attempt}"
    ]


def test_a_note_that_the_next_one_would_overwrite(rows: Rows) -> None:
    a_note(rows, in_state(rows, State.ready).id, 7)
    rows["meta", b"next_note"] = key_u64(7)
    assert problems(rows) == ["the next note would be 7, and there is a note 7"]


def test_an_event_that_the_next_one_would_overwrite(rows: Rows) -> None:
    rows["feed", key_u64(7)] = b"an event"
    rows["meta", b"next_event"] = key_u64(7)
    assert problems(rows) == ["the next event would be 7, and there is an event 7"]


@pytest.mark.parametrize("database", ["lanes", "dead", "bodies"])
@pytest.mark.parametrize("task", [0, 2**40])
def test_what_belongs_to_no_task(rows: Rows, database: str, task: int) -> None:
    rows[database, key_u64(task)] = b""
    assert problems(rows) == [f"'{database}' has {key_u64(task).hex()}, and there is no such task"]


def test_a_row_that_is_gone_leaves_all_that_belonged_to_it(rows: Rows) -> None:
    task = in_state(rows, State.assigned)
    del rows["tasks", key_u64(task.id)]
    assert {text.split(" has ")[0] for text in problems(rows)} == {
        "'lanes'",
        "'bodies'",
        "'attempts'",
        "'routes'",
    }


def test_an_attempt_that_the_row_does_not_count(rows: Rows) -> None:
    task = in_state(rows, State.completed)
    known = rows["attempts", key_u64x2(task.id, task.attempt)]
    record = msgspec.msgpack.decode(known)
    record["attempt"] = task.attempt + 1
    rows["attempts", key_u64x2(task.id, task.attempt + 1)] = msgspec.msgpack.encode(record)
    found = f"task {task.id} has an attempt {task.attempt + 1} and counts {task.attempt}"
    assert problems(rows) == [found]


def test_a_running_task_whose_attempt_has_ended(rows: Rows) -> None:
    task = in_state(rows, State.assigned)
    ended = next(body for (database, _), body in rows.items() if database == "attempts")
    record = {**msgspec.msgpack.decode(ended), "task": task.id, "attempt": task.attempt, "outcome": "lost"}
    rows["attempts", key_u64x2(task.id, task.attempt)] = msgspec.msgpack.encode(record)
    assert problems(rows) == [f"attempt {task.attempt} of task {task.id} has ended, the task is assigned"]


def test_a_running_task_without_a_route(rows: Rows) -> None:
    task = in_state(rows, State.assigned)
    del rows["routes", key_u64x2(task.id, task.attempt)]
    assert problems(rows) == [f"task {task.id} is assigned and its attempt {task.attempt} has no route"]


def test_an_open_attempt_of_a_task_that_does_not_run(rows: Rows) -> None:
    task = in_state(rows, State.completed)
    place = "attempts", key_u64x2(task.id, task.attempt)
    record = msgspec.msgpack.decode(rows[place])
    del record["outcome"]
    rows[place] = msgspec.msgpack.encode(record)
    assert problems(rows) == [f"attempt {task.attempt} of task {task.id} is open, the task is completed"]


@pytest.mark.parametrize("database", ["routes", "reports"])
def test_what_belongs_to_no_attempt(rows: Rows, database: str) -> None:
    task = in_state(rows, State.ready).id
    rows[database, key_u64x2(task, 99)] = b""
    [found] = problems(rows)
    assert found == f"'{database}' has {key_u64x2(task, 99).hex()}, and task {task} has no such attempt"


def test_a_next_number_that_was_given_already(rows: Rows) -> None:
    rows["meta", b"next_task"] = key_u64(1)
    [found] = problems(rows)
    assert found.startswith("the next task would be 1, and there is a task ")


def test_a_requirement_group_that_is_missing(rows: Rows) -> None:
    del rows["meta", b"group" + key_u64(0)]
    task = in_state(rows, State.ready).id
    assert f"task {task} has requirement group 0, which does not exist" in problems(rows)


def test_a_task_that_has_ended_needs_no_requirement_group(rows: Rows) -> None:
    task = in_state(rows, State.completed)
    rows["tasks", key_u64(task.id)] = msgspec.msgpack.encode(msgspec.structs.replace(task, group=77))
    assert problems(rows) == []


def test_two_requirement_groups_that_are_the_same(rows: Rows) -> None:
    rows["meta", b"group" + key_u64(7)] = rows["meta", b"group" + key_u64(0)]
    assert problems(rows) == ["the requirement groups 0 and 7 are the same"]


def test_a_row_under_the_key_of_another(rows: Rows) -> None:
    task = in_state(rows, State.ready)
    rows["tasks", key_u64(task.id)] = msgspec.msgpack.encode(msgspec.structs.replace(task, id=task.id + 1))
    assert problems(rows)[0] == f"the row of task {task.id + 1} lies under the key {key_u64(task.id).hex()}"


def test_a_rule_under_the_key_of_another(rows: Rows) -> None:
    rule = QueueRule(kind=RuleKind.limit, scope=RuleScope.label, key="deploy", number=2)
    rows["limits", rule.record_key] = msgspec.msgpack.encode(rule)
    assert problems(rows) == []
    rows["limits", b"k" * 16] = msgspec.msgpack.encode(rule)
    assert problems(rows) == [f"the limit of label 'deploy' lies under the key {(b'k' * 16).hex()}"]


def test_an_agent_of_a_host_that_does_not_exist(rows: Rows) -> None:
    rows["agents", key_u64(1)] = msgspec.msgpack.encode(AgentRecord(id=1, name="a", local_name="a", host=9))
    assert problems(rows) == ["agent 'a' belongs to host 9, which does not exist"]


def test_only_the_first_problems_are_told_and_all_are_counted(rows: Rows) -> None:
    bodies = [place for place in rows if place[0] == "bodies"]
    for place in bodies:
        del rows[place]
    assert len(bodies) > PROBLEMS_MAX
    assert len(problems(rows)) == PROBLEMS_MAX


@pytest.mark.parametrize("lost", [("lanes", 1), ("lanes", 150), ("bodies", 128), ("bodies", 300)])
def test_one_of_many_waiting_tasks_that_lacks_a_row_is_found(lost: tuple[str, int]) -> None:
    rows = deep_queue(300)
    assert problems(rows) == []
    database, task = lost
    del rows[database, key_u64(task)]
    assert problems(rows) == [
        f"task {task} is ready and not in its lane" if database == "lanes" else f"task {task} has no body"
    ]


@pytest.mark.parametrize("key", [key_u64(0), key_u64x2(128, 7), key_u64(301)])
def test_a_row_too_many_beside_many_waiting_tasks_is_found(key: bytes) -> None:
    rows = deep_queue(300)
    rows["lanes", key] = b""
    orphan = f"'lanes' has {key.hex()}, and there is no such task"
    assert problems(rows) == ([] if len(key) == 16 else [orphan])
    rows["attempts", key_u64x2(400, 1)] = b""
    assert problems(rows)[-1] == f"'attempts' has {key_u64x2(400, 1).hex()}, and there is no such task"


def deep_queue(count: int) -> Rows:
    group = Group(tier=Tier.trivial, model="", needs=(), repo="")
    rows: Rows = {
        ("meta", b"group" + key_u64(1)): msgspec.msgpack.encode(group),
        ("meta", b"next_task"): key_u64(count + 1),
    }
    for task in range(1, count + 1):
        row = TaskRow(
            id=task, state=State.ready, lane=Lane.normal, group=1, submitter=1, tier=Tier.trivial,
            tier_source=TierSource.command, inferred_tier=Tier.trivial, created_ms=1, order_key=task, max_retries=0,
        )  # fmt: skip
        rows["tasks", key_u64(task)] = msgspec.msgpack.encode(row)
        rows["lanes", key_u64(task)] = rows["bodies", key_u64(task)] = b""
    return rows
