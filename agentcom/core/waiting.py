"""What tasks that depend on others do: wait, go on when all have completed, stop at one that ended otherwise.

A task waits (`waiting`) while each of its unmet dependencies is live. One that is dead, cancelled or expired holds
it (`held`, `dependency_failed`), naming which; when that one is retried, it waits again. What it waits for may be
finished long ago: whatever is not live and has not completed keeps it from running. What a task waits for is not
purged while it is live, so only one that is retried can find that gone (`dependency_gone`): it never runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from agentcom import messages as m
from agentcom.clock import Now
from agentcom.core.admission import Admitted
from agentcom.core.depends import Depends, resolve
from agentcom.core.effects import RecordKey, key_u64
from agentcom.core.outlet import Outlet
from agentcom.core.principals import may_touch
from agentcom.core.story import Noted
from agentcom.errors import NotFound, Refused
from agentcom.model import FailureClass, PrincipalRecord, State, TaskError, TaskRow

if TYPE_CHECKING:
    from agentcom.core.tasks import Tasks

Found = Mapping[RecordKey, bytes]
FAILED = "dependency_failed"
GONE = "dependency_gone"
ANEW = "cancel this one and submit it anew"
NAMED_MAX = 10  # ids that a message names


class Plan(Struct, frozen=True, gc=False):
    """An entry of a batch with its references as ids, and those of them that it has to wait for."""

    admitted: Admitted
    unmet: tuple[int, ...] = ()


class Waiting:
    """The rules above. `depends` has the edges, `tasks` moves."""

    def __init__(self, tasks: Tasks, out: Outlet) -> None:
        self._tasks = tasks
        self._out = out
        self.depends = Depends(out)

    # --- submit -----------------------------------------------------------------------------------------

    def plan(self, admitted: Sequence[Admitted], caller: PrincipalRecord, found: Found) -> list[Plan]:
        """The batch with all references resolved; refuses one that points nowhere before anything is taken."""
        if not [one for one in admitted if one.spec.depends_on]:
            return [Plan(one) for one in admitted]
        ids = self._tasks.ids_of(admitted, caller, found)
        return [self._plan_one(one, n, ids, caller, found) for n, one in enumerate(admitted)]

    def _plan_one(
        self, one: Admitted, entry: int, ids: Sequence[int], caller: PrincipalRecord, found: Found
    ) -> Plan:
        at = f"tasks[{entry}]"
        references = resolve(one.spec.depends_on, ids, entry, self._tasks.next_id, at)
        unmet = [
            task
            for n, task in enumerate(references)
            if task >= self._tasks.next_id
            or not self._has_completed(task, caller, found, f"{at}.depends_on[{n}]")
        ]
        base = one.spec.base
        if isinstance(base, int) and base < 0:
            base = ids[entry + base]
        spec = msgspec.structs.replace(one.spec, depends_on=tuple(references), base=base)
        return Plan(msgspec.structs.replace(one, spec=spec), tuple(unmet))

    def _has_completed(self, task: int, caller: PrincipalRecord, found: Found, where: str) -> bool:
        tasks = self._tasks
        slot = tasks.table.slot_of.get(task)
        if slot is not None:
            if not may_touch(caller, tasks.table.submitter[slot]):
                raise _unknown(task, where)
            return False
        record = final_row(self._out, task, found)
        if record is None or not may_touch(caller, record.submitter):
            raise _unknown(task, where)
        return record.state is State.completed

    def taken(self, slot: int, unmet: Sequence[int], now: Now) -> None:
        """A new task that waits: keep its edges, and hold it at once if one of them cannot be met."""
        self.depends.add(self._tasks.table.id[slot], unmet)
        self._hold_if_failed(slot, now)

    # --- what becomes of others -------------------------------------------------------------------------

    def ended(self, task: int, state: State, now: Now) -> None:
        """A task is final: those that wait for it go on, or are held. O(those)."""
        if not self.depends.is_waited_for(task):
            return
        if state is State.completed:
            for dependant in self.depends.met(task):
                self._met(dependant, task, now)
            return
        for dependant in self.depends.of(task):
            slot = self._tasks.table.slot_of.get(dependant)
            if slot is not None and self._tasks.table.state_of(slot) is State.waiting:
                self._hold(slot, f"task {task}, which it waits for, is {state}", task, now)

    def retried(self, task: int, now: Now) -> None:
        """A task is live again: those that it held wait again, unless another holds them too."""
        for dependant in self.depends.of(task):
            slot = self._tasks.table.slot_of.get(dependant)
            if slot is None or not self._is_held_by_this(slot):
                continue
            failed = self.failed(dependant)
            if failed:
                self._tasks.table.errors[dependant] = _error(_gone(failed[0]), failed[0])
                self._tasks.save(slot)
            else:
                self.wait_again(slot, now, "")

    def back(self, slot: int, now: Now, found: Found) -> None:
        """A task that has just been retried and still has what it waits for."""
        failed = self.failed(self._tasks.table.id[slot])
        gone = [one for one in failed if self._out.latest(("tasks", key_u64(one)), found) is None]
        if gone:
            self._tasks.hold(slot, _purged(gone), now)
        else:
            self._hold_if_failed(slot, now)

    # --- hold and release -------------------------------------------------------------------------------

    def unmet(self, task: int) -> list[int]:
        return self.depends.unmet.get(task, [])

    def failed(self, task: int) -> list[int]:
        """What it waits for and cannot have unless somebody retries it."""
        return [one for one in self.unmet(task) if one not in self._tasks.table]

    def check_release(self, task: int) -> None:
        failed, error = self.failed(task), self._tasks.table.errors.get(task)
        if failed and error is not None and error.code == GONE:
            raise Refused(GONE, f"task {task} never runs: {error.message}")
        if failed:
            raise Refused(
                FAILED, f"task {task} waits for {named(failed)}, which did not complete; retry that first"
            )

    def live_dependants(self, task: int) -> list[int]:
        return [one for one in self.depends.of(task) if one in self._tasks.table]

    def check_purge(self, task: int) -> None:
        """A task that others wait for stays: they would never know what became of it."""
        live = self.live_dependants(task)
        if live:
            said = f"task {task} is waited for by {named(live)}; retry it, or cancel those first"
            raise Refused("has_dependants", said)

    def wait_again(self, slot: int, now: Now, by: str) -> None:
        """From `held` back to `waiting`."""
        task = self._tasks.table.id[slot]
        self._tasks.table.errors.pop(task, None)
        self._tasks.table.delay_ms[slot] = 0
        self._tasks.release_to_wait(slot, now, by, f"it waits for {named(self.unmet(task))}")

    def _met(self, dependant: int, dependency: int, now: Now) -> None:
        slot = self._tasks.table.slot_of.get(dependant)
        if slot is None:
            return
        self._tasks.note(slot, Noted.dependency_met, f"task {dependency} has completed", now)
        if self._tasks.table.state_of(slot) is State.waiting and not self.unmet(dependant):
            self._tasks.go_on(slot, now)

    def _hold_if_failed(self, slot: int, now: Now) -> None:
        failed = self.failed(self._tasks.table.id[slot])
        if failed:
            self._hold(slot, _gone(failed[0]), failed[0], now)

    def _hold(self, slot: int, said: str, dependency: int, now: Now) -> None:
        self._tasks.hold(slot, _error(said, dependency), now)

    def _is_held_by_this(self, slot: int) -> bool:
        error = self._tasks.table.errors.get(self._tasks.table.id[slot])
        return self._tasks.table.state_of(slot) is State.held and error is not None and error.code == FAILED


def final_row(out: Outlet, task: int, found: Found) -> TaskRow | None:
    """The row of a task that is not live, as it was looked up or written in this tick."""
    stored = out.latest(("tasks", key_u64(task)), found)
    return msgspec.msgpack.decode(stored, type=TaskRow) if stored is not None else None


def named(tasks: Sequence[int]) -> str:
    """`task 5`, or `tasks 5, 6`; of many only the first."""
    first = ", ".join(map(str, tasks[:NAMED_MAX]))
    more = f" and {len(tasks) - NAMED_MAX} more" if len(tasks) > NAMED_MAX else ""
    return f"task{'s' * (len(tasks) > 1)} {first}{more}"


def references(op: m.Submit) -> list[int]:
    """The ids of existing tasks that a batch names, each once."""
    return list(dict.fromkeys(ref for spec in op.tasks for ref in spec.depends_on if ref > 0))


def _gone(dependency: int) -> str:
    return f"task {dependency}, which it waits for, ended without completing"


def _purged(gone: Sequence[int]) -> TaskError:
    was = "was" if len(gone) == 1 else "were"
    said = f"{named(gone)}, which it waits for, {was} purged without having completed; {ANEW}"
    return TaskError(failure_class=FailureClass.configuration, code="dependency_gone", message=said)


def _error(said: str, dependency: int) -> TaskError:
    remedy = f"retry that one (agentcom task retry {dependency}), or cancel this one"
    return TaskError(
        failure_class=FailureClass.configuration, code="dependency_failed", message=f"{said}; {remedy}"
    )


def _unknown(task: int, where: str) -> NotFound:
    return NotFound(f"{where}: there is no task {task}", field=where)
