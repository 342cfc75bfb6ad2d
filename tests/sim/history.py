"""What only the end can show: nothing acknowledged was lost, nothing was invented, what was refused is not there."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from agentcom import messages as m
from agentcom.core.hub import Hub
from agentcom.model import FINAL, State, TaskRow, TaskSpec
from agentcom.store.base import Store
from tests.sim.checker import PERSON_RETRIES, Checker, mark_of
from tests.sim.clients import FakeClient, Operation
from tests.sim.timeline import Timeline

_row = msgspec.msgpack.Decoder(TaskRow).decode


def check_end(
    clients: Sequence[FakeClient], checker: Checker, hub: Hub, store: Store, line: Timeline
) -> None:
    """After the drain: every operation's outcome against the store."""
    rows = {int.from_bytes(key, "big"): _row(body) for key, body in store.scan("tasks")}
    _check_store(rows, store)
    _check_idle(hub)
    assert rows == checker.rows, "the store holds other rows than were committed"
    for client in clients:
        for operation in client.history:
            if isinstance(operation.op, m.Submit):
                _check_submit(operation, operation.op, checker, rows, line)
        _check_keys(client, checker, store)
        _check_cancels(client, checker)


def _check_store(rows: dict[int, TaskRow], store: Store) -> None:
    """Every task is in exactly one state, and each index says the same as the rows."""
    for task, row in rows.items():
        assert task == row.id, f"the row of task {task} is of {row.id}"
        assert row.state in FINAL, f"task {task} has not ended: {row}"
    assert not store.count("lanes"), "the lanes name tasks though all have ended"
    ended = {task for task, row in rows.items() if row.state in PERSON_RETRIES}
    listed = {int.from_bytes(key, "big") for key, _ in store.scan("dead")}
    assert listed == ended, f"the dead list has {sorted(listed)}, ended without a result have {sorted(ended)}"
    bodies = {int.from_bytes(key, "big") for key, _ in store.scan("bodies")}
    assert bodies == rows.keys(), f"bodies and rows differ by {sorted(bodies ^ rows.keys())}"
    for key, _ in store.scan("attempts"):
        task, attempt = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
        assert task in rows, f"attempt {attempt} of task {task}, which is not there"
        assert 1 <= attempt <= rows[task].attempt, (
            f"attempt {attempt} of task {task} is above {rows[task].attempt}"
        )


def _check_idle(hub: Hub) -> None:
    """Nothing is still held by what has ended."""
    busy = [agent.record.name for agent in hub.fleet.agents.values() if agent.task]
    assert not busy, f"taken by tasks that have ended: {busy}"
    assert not hub.registry.in_flight, f"in flight with nothing running: {hub.registry.in_flight}"


def _check_submit(
    operation: Operation, op: m.Submit, checker: Checker, rows: dict[int, TaskRow], line: Timeline
) -> None:
    taken = [mark for mark in operation.marks if mark in checker.marks]
    if operation.outcome == "ok":
        for told, mark in zip(operation.value["tasks"], operation.marks, strict=True):
            task = told["id"]
            assert task in rows or task in checker.purged, f"'{mark}' was acknowledged as {task} and is lost"
            if told["created"] and task not in checker.purged:
                assert checker.marks.get(mark) == task, f"'{mark}' is {checker.marks.get(mark)}, not {task}"
    elif operation.outcome == "fail":
        assert not taken, f"refused with {operation.value}, and yet taken: {taken}"
    else:
        line.reach("unknown_submit_was_taken" if taken else "unknown_submit_was_not_taken")
        unkeyed = {mark_of(s.description) for s in op.tasks if s.idempotency_key is None} & set(
            operation.marks
        )
        there = unkeyed & set(taken)
        assert not there or there == unkeyed, (
            f"a part of a batch was taken: {sorted(there)} of {sorted(unkeyed)}"
        )


def _check_keys(client: FakeClient, checker: Checker, store: Store) -> None:
    """One idempotency key, one task: in every answer, and in the store."""
    first: dict[str, int] = {}
    for operation in client.history:
        if not isinstance(operation.op, m.Submit) or operation.outcome != "ok":
            continue
        for told, spec in zip(operation.value["tasks"], operation.op.tasks, strict=True):
            if spec.idempotency_key is not None:
                known, task = first.get(spec.idempotency_key, told["id"]), told["id"]
                same = known == task or bool(checker.purged & {known, task})
                assert same, f"key {spec.idempotency_key} gave tasks {known} and {task}"
                first[spec.idempotency_key] = task
    seen: dict[str, int] = {}
    for key, body in store.scan("bodies"):
        spec = msgspec.msgpack.decode(body, type=TaskSpec)
        if spec.idempotency_key is not None and mark_of(spec.description).startswith(f"{client.name}-"):
            task = int.from_bytes(key, "big")
            other = seen.setdefault(spec.idempotency_key, task)
            assert other == task, f"key {spec.idempotency_key} made tasks {other} and {task}"


def _check_cancels(client: FakeClient, checker: Checker) -> None:
    """A cancel that was acknowledged stands, unless somebody asked for a retry (the checker sees to that)."""
    for operation in client.history:
        if isinstance(operation.op, m.TaskCancel) and operation.outcome == "ok":
            task, state = operation.op.task, operation.value["state"]
            again = task in checker.retried
            assert again or state == "cancelled", f"the cancel of task {task} was answered with {state}"
            stands = task in checker.purged or checker.rows[task].state is State.cancelled
            assert again or stands, f"task {task} was cancelled and is {checker.rows[task].state}"
