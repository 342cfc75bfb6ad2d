"""/tasks: submit, list, look at, cancel, retry, hold, release."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec
from flask import Blueprint, Response, request
from msgspec import Struct

from agentcom import limits
from agentcom import messages as m
from agentcom.errors import Refused
from agentcom.model import Reason, TaskSpec
from agentcom_web.forwarding import answer, ask, bearer, body, decoded, described, json_response, query

tasks = Blueprint("tasks", __name__)
ONLY = "tasks[0]."


class TaskBatch(Struct, forbid_unknown_fields=True):
    """A batch of tasks, taken whole or refused whole."""

    tasks: list[TaskSpec]


class _RawBatch(Struct, forbid_unknown_fields=True):
    tasks: list[msgspec.Raw]


class _Shape(Struct):
    tasks: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class ReasonBody(Struct, forbid_unknown_fields=True):
    """Why, in the person's own words."""

    reason: Reason = ""


class AnswerBody(Struct, forbid_unknown_fields=True):
    """What a person says to a task's question."""

    text: str
    anywhere: bool = False


@tasks.post("/tasks")
@described("submit, operate, admin", body=(TaskSpec, TaskBatch), status=201)
def submit() -> Response:
    """Submit one task, or a batch as {"tasks": [...]}. One is answered whole and with Location; 200 instead
    of 201 says that its idempotency key was known."""
    bearer()
    raw = request.get_data(cache=False)
    if decoded(raw, _Shape).tasks is not msgspec.UNSET:
        return json_response(ask(m.Submit(tasks=_keyed(_batch(raw)))), 201)
    (taken,) = _submit_one(decoded(raw, TaskSpec))["tasks"]
    response = json_response(ask(m.TaskGet(task=taken["id"])), 201 if taken["created"] else 200)
    response.headers["Location"] = f"/api/v1/tasks/{taken['id']}"
    return response


def _submit_one(spec: TaskSpec) -> Any:
    """The hub knows batches only, and names fields as those of the first of one."""
    try:
        return ask(m.Submit(tasks=_keyed([spec])))
    except Refused as refused:
        field = (refused.field or "").removeprefix(ONLY) or None
        message = refused.message.removeprefix(ONLY)
        raise Refused(refused.code, message, field=field, retry_after_s=refused.retry_after_s) from refused


def _batch(raw: bytes) -> list[TaskSpec]:
    specs = decoded(raw, _RawBatch).tasks
    if not specs:
        raise Refused("invalid", "tasks: there is nothing to submit", field="tasks")
    if len(specs) > limits.BATCH_TASKS_MAX:
        most = limits.BATCH_TASKS_MAX
        raise Refused("too_large", f"tasks: {len(specs)} are too many, a batch has {most}", field="tasks")
    return [decoded(spec, TaskSpec, f"tasks[{n}]") for n, spec in enumerate(specs)]


def _keyed(specs: list[TaskSpec]) -> tuple[TaskSpec, ...]:
    """With a key of ours where there is none, so that a submit whose answer was lost can be repeated."""
    batch = uuid.uuid4().hex
    return tuple(
        spec
        if spec.idempotency_key is not None
        else msgspec.structs.replace(spec, idempotency_key=f"web-{batch}-{n}")
        for n, spec in enumerate(specs)
    )


@tasks.get("/tasks")
@described("view, submit (own), operate, admin", query=m.TaskList)
def listed() -> Response:
    """One page of tasks, newest first. A page may be short and still have a next_cursor."""
    return answer(query(m.TaskList))


@tasks.get("/tasks/<int:task>")
@described("view, submit (own), operate, admin")
def one(task: int) -> Response:
    """Everything that is known of a task."""
    return answer(query(m.TaskGet, task=task))


@tasks.delete("/tasks/<int:task>")
@described("submit (own), operate, admin", body=(ReasonBody,))
def cancel(task: int) -> Response:
    """Cancel a task; it is final at once."""
    return answer(body(m.TaskCancel, task=task))


@tasks.get("/tasks/<int:task>/why")
@described("view, submit (own), operate, admin", query=m.TaskWhy, fixed=("task",))
def why(task: int) -> Response:
    """Why a task is not running yet, per host; or why it went where it went."""
    return answer(query(m.TaskWhy, task=task))


@tasks.get("/tasks/<int:task>/reports")
@described("view, submit (own), operate, admin")
def reports(task: int) -> Response:
    """Every attempt with its result, its error and the checks of each iteration; what its host has signed of it
    (`signed`: statement, signature, public key), and the key that the hub knows of that host (`host_key`)."""
    return answer(query(m.TaskReports, task=task))


@tasks.get("/tasks/<int:task>/story")
@described("view, submit (own), operate, admin", query=m.TaskStory, fixed=("task",))
def story(task: int) -> Response:
    """Every transition of a task with time, cause and attempt, oldest first, in the order of the hub. An entry
    `shortened` stands where retention has taken others: `by` is the setting."""
    return answer(query(m.TaskStory, task=task))


@tasks.get("/tasks/<int:task>/log")
@described("view, submit (own), operate, admin", query=m.TaskLog, fixed=("task",))
def log(task: int) -> Response:
    """The output of an attempt (the latest by default) from byte `offset` on."""
    return answer(query(m.TaskLog, task=task))


@tasks.post("/tasks/<int:task>/retry")
@described("submit (own), operate, admin")
def retry(task: int) -> Response:
    """Put a dead, cancelled or expired task back into its lane with fresh counters."""
    return answer(body(m.TaskRetry, task=task))


@tasks.post("/tasks/<int:task>/hold")
@described("operate, admin", body=(ReasonBody,))
def hold(task: int) -> Response:
    """Hold a task back until it is released."""
    return answer(body(m.TaskHold, task=task))


@tasks.post("/tasks/<int:task>/release")
@described("operate, admin")
def release(task: int) -> Response:
    """Give a held task back to its lane."""
    return answer(body(m.TaskRelease, task=task))


@tasks.post("/tasks/<int:task>/answer")
@described("submit (own), operate, admin", body=(AnswerBody,))
def give_answer(task: int) -> Response:
    """Answer the question for which a task is held; it goes on in the same worktree on the same host."""
    return answer(body(m.TaskAnswer, task=task))
