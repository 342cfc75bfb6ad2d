"""What simulated runs have found, in as few lines as show it."""

from __future__ import annotations

import msgspec

from agentcom import messages as m
from agentcom.clock import Now
from agentcom.config import Settings
from agentcom.core.effects import Put
from agentcom.core.outlet import Outlet
from agentcom.core.rowpage import page_of
from agentcom.core.tasks import Tasks
from agentcom.model import PrincipalRecord, Role, TaskRow, TaskSpec
from tests.sim.timeline import TRUE_WALL_MS
from tests.sim.world import TEN_YEARS_MS


def _submitted(tasks: Tasks, out: Outlet, now: Now) -> TaskRow:
    """The row of a task that is submitted now."""
    caller = PrincipalRecord(id=1, name="caller", role=Role.admin)
    tasks.submit(m.Submit(tasks=(TaskSpec(description="work"),)), caller, now, {})
    bodies = [e.body for e in out.take() if isinstance(e, Put) and e.database == "tasks"]
    return msgspec.msgpack.decode(bodies[-1], type=TaskRow)


def test_a_hub_that_starts_again_after_its_clock_was_set_right_keeps_old_tasks_before_new_ones() -> None:
    out = Outlet()
    first = Tasks(out, Settings())
    first.begin(Now(0, TRUE_WALL_MS + TEN_YEARS_MS))  # the clock is wrong when the hub starts
    old = _submitted(first, out, Now(1000, TRUE_WALL_MS))  # and right when the task comes
    second = Tasks(out, Settings())
    second.groups.load(old.group, first.groups[old.group])
    second.load([page_of([old])])
    second.begin(Now(0, TRUE_WALL_MS + 1000))
    second.next_id = old.id + 1
    new = _submitted(second, out, Now(1000, TRUE_WALL_MS + 2000))
    assert old.order_key < new.order_key
