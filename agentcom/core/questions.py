"""Questions of attempts: a task that asks is held until a person answers, and goes on where its worktree lies.

The host keeps worktree and conversation of the attempt that asked. An answer pins the task to that host for one
attempt, by a need of its group; with any other end of the wait (released, cancelled, out of time, answered for
anywhere) the host is told to forget it, now or when it says hello. What was answered is told to every later attempt.
"""

from __future__ import annotations

from typing import Final

import msgspec

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import Now
from agentcom.core.agents import Fleet, Host
from agentcom.core.capabilities import PIN_HOST
from agentcom.core.effects import key_u64
from agentcom.core.outlet import Outlet
from agentcom.core.tasks import Tasks
from agentcom.errors import Refused
from agentcom.model import FailureClass, QuestionAnswer, QuestionRecord, State, TaskError

PREFIX: Final = b"question"  # of the records, in `meta`
CODE: Final = "question"
UNTOUCHED: Final = frozenset({"unaccepted", "declined", "withdrawn"})  # ends of an attempt that resumed nothing


def is_question(error: TaskError) -> bool:
    return error.code == CODE and error.failure_class is FailureClass.configuration


class Questions:
    """What live tasks have asked (`tasks.asked`), and what became of it."""

    def __init__(self, out: Outlet, tasks: Tasks, fleet: Fleet) -> None:
        self._out, self._tasks, self._fleet = out, tasks, fleet
        self.open = tasks.asked
        tasks.on_asked_over = self._over

    def load(self, record: QuestionRecord) -> None:
        if record.task in self._tasks.table:
            self.open[record.task] = record

    def asked(self, slot: int, attempt: int, host: Host, error: TaskError, now: Now) -> None:
        """Its attempt has ended with a question and the task is held."""
        task = self._tasks.table.id[slot]
        old = self.open.get(task)
        self._put(
            QuestionRecord(
                task=task,
                attempt=attempt,
                host=host.record.id,
                host_name=host.record.name,
                question=error.message,
                asked_ms=now.wall_ms,
                answers=old.answers if old else (),
            )
        )
        self._out.publish("task", "task_asked", task=task, attempt=attempt, question=error.message)

    def answer(self, slot: int, op: m.TaskAnswer, by: str, now: Now) -> None:
        """Let the held task go on with the answer. Refused where it asks nothing, or its host is gone."""
        table = self._tasks.table
        record, error = self.open.get(op.task), table.errors.get(op.task)
        state = table.state_of(slot)
        if state is not State.held or record is None or error is None or not is_question(error):
            raise Refused("wrong_state", f"task {op.task} is {state} and asks nothing", field="task")
        host = self._fleet.hosts.get(record.host)
        if host is None and not op.anywhere:
            raise Refused(
                "host_gone",
                f"the host {record.host_name}, where task {op.task} asked and its worktree lies, was removed; "
                "to begin anew on another host with this answer, add --anywhere",
            )
        self._tasks.check_release(slot)
        said = QuestionAnswer(question=record.question, text=op.text, by=by, at_ms=now.wall_ms)
        answers = (*record.answers, said)[-limits.QUESTIONS_MAX :]
        if host is None or op.anywhere:
            self._forget(record)
            self._put(msgspec.structs.replace(record, answers=answers, attempt=0))
        else:
            pin = f"{PIN_HOST}{host.record.name}"
            added = pin if self._pin(slot, pin) else ""
            self._put(msgspec.structs.replace(record, answers=answers, pin=added))
        self._tasks.release(slot, now, by, f"answered: {op.text}")
        self._out.publish("task", "task_answered", task=op.task, by=by)

    def release(self, slot: int, now: Now, by: str) -> None:
        """A person lets a held task go on, with or without an answer: anywhere, and anew."""
        record = self.open.get(self._tasks.table.id[slot])
        if record is not None:
            self._tasks.check_release(slot)
            self._let_go(slot, record)
        self._tasks.release(slot, now, by)

    def closed(self, slot: int, outcome: str) -> None:
        """An attempt of a task that had asked is over: the next one may run anywhere. Not while it is ready."""
        record = self.open.get(self._tasks.table.id[slot])
        if record is not None and record.attempt and outcome not in UNTOUCHED:
            self._unpin(slot, record)
            self._put(msgspec.structs.replace(record, attempt=0, pin=""))

    def is_kept(self, host: Host, task: int, attempt: int) -> bool:
        """Whether that host has to keep what it has of the attempt that asked."""
        record = self.open.get(task)
        return record is not None and (record.attempt, record.host) == (attempt, host.record.id)

    def told(self, task: int, host: Host, assignment: m.Assign) -> None:
        """Tell a new attempt what was answered, and which attempt's work it goes on with."""
        record = self.open[task]
        assignment.answers = record.answers
        if record.attempt and record.host == host.record.id:
            assignment.resume = record.attempt

    def _let_go(self, slot: int, record: QuestionRecord) -> None:
        self._unpin(slot, record)
        self._forget(record)
        self._put(msgspec.structs.replace(record, attempt=0, pin=""))

    def _over(self, task: int) -> None:
        """The task is final."""
        record = self.open.pop(task)
        self._out.delete("meta", PREFIX + key_u64(task))
        self._forget(record)

    def _forget(self, record: QuestionRecord) -> None:
        """Have the host drop the conversation; one that is away hears of it when it says hello."""
        host = self._fleet.hosts.get(record.host) if record.attempt else None
        if host is not None and host.session is not None:
            said = m.Cancel(task=record.task, attempt=record.attempt, reason="its question is over")
            self._out.send(host.session.peer, said)

    def _put(self, record: QuestionRecord) -> None:
        self.open[record.task] = record
        self._out.put("meta", PREFIX + key_u64(record.task), record)

    def _pin(self, slot: int, need: str) -> bool:
        """Whether the task has not been pinned so from the start."""
        group = self._tasks.groups[self._tasks.table.group[slot]]
        if need in group.needs:
            return False
        self._regroup(slot, (*group.needs, need))
        return True

    def _unpin(self, slot: int, record: QuestionRecord) -> None:
        if record.pin:
            needs = self._tasks.groups[self._tasks.table.group[slot]].needs
            self._regroup(slot, tuple(need for need in needs if need != record.pin))

    def _regroup(self, slot: int, needs: tuple[str, ...]) -> None:
        groups, table = self._tasks.groups, self._tasks.table
        number = table.group[slot]
        table.group[slot] = groups.take(msgspec.structs.replace(groups[number], needs=needs))
        groups.give(number)


