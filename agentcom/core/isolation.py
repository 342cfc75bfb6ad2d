"""Tasks that have lost workers run alone before they can die of it.

When a sidecar dies, every attempt on it is lost, and nothing says which of them killed it. So each counts a loss, but
the loss that would make a task dead has to happen while it is the only attempt on its host: a neighbour that merely
shared a host with a poison runs alone, ends, and is cleared. Exactly `queue.max_losses` workers are lost to a poison.
With `queue.max_losses = 1` there is no second chance, for neighbours neither.

Such a task is in a requirement group of its own (`Group.alone`). It is given an idle host; where all that could run it
are busy, the one with the least work gets no more of it until the task has had its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from agentcom.clock import Now
from agentcom.core.agents import Fleet, Host
from agentcom.core.gates import Gates
from agentcom.core.routing import Choices, Router
from agentcom.core.score import Candidate
from agentcom.core.tasks import Tasks
from agentcom.model import State

ALONE_MAX: Final = 8  # tasks that are looked at in one tick; each may keep one host free

Assign = Callable[[int, Choices, Candidate, Now], None]
HasRoom = Callable[[int, Candidate], bool]


def must_run_alone(losses: int, losses_max: int) -> bool:
    """Whether the next loss would make the task dead, and there was one before it."""
    return losses >= max(1, losses_max - 1)


class Isolation:
    """Gives hosts to tasks that have to run alone. `has_room` asks the limits, `assign` carries a choice out."""

    def __init__(
        self, tasks: Tasks, fleet: Fleet, router: Router, gates: Gates, has_room: HasRoom, assign: Assign
    ) -> None:
        self._tasks = tasks
        self._fleet = fleet
        self._router = router
        self._gates = gates
        self._has_room = has_room
        self._assign = assign
        self._reserved: list[Host] = []

    def dispatch(self, now: Now) -> None:
        """Before anything else is given out. O(agents) for each such task."""
        if not self._tasks.alone and not self._reserved:
            return
        for host in self._reserved:
            host.reserved_for = 0
            self._fleet.touched.add(host.record.id)
        self._reserved.clear()
        for slot in self._ready():
            if not self._start(slot, now):
                self._reserve(slot)

    def _ready(self) -> list[int]:
        """Slots of those that wait for a host, oldest first."""
        table = self._tasks.table
        slots = [table.slot_of[task] for task in self._tasks.alone]
        ready = [
            slot for slot in slots if table.state_of(slot) is State.ready and not self._gates.is_closed(slot)
        ]
        return sorted(ready, key=lambda slot: (table.order_key[slot], table.id[slot]))[:ALONE_MAX]

    def _start(self, slot: int, now: Now) -> bool:
        wanted = (self._tasks.groups[self._tasks.table.group[slot]], self._tasks.is_retry(slot))
        idle = [a for a in self._fleet.agents.values() if a.takes_work and not a.host.busy_count]
        ways = self._router.ways_of(wanted, idle, now)
        if not ways:
            return False
        ways.sort(key=lambda way: (way.cost_us, way.agent.record.id))
        best = ways[0]
        if not self._has_room(slot, best):
            return True
        refused = self._router.refusals.counts(*wanted)
        self._assign(slot, self._router.choices(wanted, ways, refused), best, now)
        return True

    def _reserve(self, slot: int) -> None:
        """Keep the least busy host that could run it free of other work."""
        hosts = sorted(set(self._able_hosts(slot)))
        if hosts:
            host = self._fleet.hosts[hosts[0][1]]
            host.reserved_for = self._tasks.table.id[slot]
            self._fleet.touched.add(host.record.id)
            self._reserved.append(host)

    def _able_hosts(self, slot: int) -> Iterator[tuple[int, int]]:
        """(busy agents, id) of hosts that are busy now and could run the task when they are not."""
        group = self._tasks.groups[self._tasks.table.group[slot]]
        for agent in self._fleet.agents.values():
            host = agent.host
            is_free_later = host.busy_count and not host.reserved_for and agent.is_open
            if is_free_later and self._router.is_able(group, agent):
                yield host.busy_count, host.record.id
