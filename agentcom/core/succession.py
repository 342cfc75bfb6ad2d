"""A core that takes the place of one whose last changes could not be stored.

It is loaded from the store as at a start. What no record holds it takes over from the core before it: who is
connected, which leases run until when, who waits for an answer. Of that the old core may already hold what the
failed tick changed; its events are handled again, so each of these is either repeated or known not to matter.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, NamedTuple

from agentcom.clock import Now
from agentcom.core.rows import TaskTable
from agentcom.core.tasks import OPEN
from agentcom.model import State

if TYPE_CHECKING:
    from agentcom.core.hub import Hub


class NoSubmits(NamedTuple):
    """Why the hub takes no new tasks now: the words of the refusal. Set by the shell, which knows the disk."""

    code: str
    message: str
    retry_after_s: float


def succeed(hub: Hub, old: Hub, now: Now) -> None:
    """Give `hub`, loaded from the store, what only `old` knows."""
    known_hosts = hub.fleet.hosts.keys()
    hub.sessions.adopt(old.sessions, hub.principals.by_id, known_hosts)
    hub.principals.adopt(old.principals)
    hub.registry.adopt(old.registry)
    hub.retries.adopt(old.retries)
    _adopt_attempts(hub, old, now)
    if hub.settings.queue.lease_s != old.settings.queue.lease_s:
        hub.attempts.lease_anew(now)  # the failed tick had set another length, which is not stored
    hub.fleet.adopt(old.fleet, hub.sessions)
    hub.tasks.adopt(old.tasks, hub.sessions)
    hub.preloads.adopt(old.preloads)
    hub.no_submits, hub.troubles = old.no_submits, old.troubles
    hub.pace = old.pace if old.pace == hub.pace else hub.pace
    hub.out.is_read = old.out.is_read


def _adopt_attempts(hub: Hub, old: Hub, now: Now) -> None:
    """The paces, the deadlines, what was heard of open attempts, and the agents whose kill is awaited."""
    mine, before = hub.attempts, old.attempts
    mine._lease_floor_ms = before._lease_floor_ms
    table, was = hub.tasks.table, old.tasks.table
    for task, slot in table.slot_of.items():
        old_slot = was.slot_of.get(task)
        if old_slot is not None and was.attempt[old_slot] == table.attempt[slot]:
            _adopt_one(hub, slot, was, old_slot, now)
    for place, agent in before.closing.items():
        own = hub.fleet.agents.get(agent.record.id)
        if own is None or own.task:
            continue  # its attempt is open again: the cancel was not stored
        hub.fleet.hold(own, *place, now)
        own.working, own.free_by_ms = agent.working, agent.free_by_ms
        if agent.alone:
            hub.fleet.isolate(own)
        hub.gates.adopt(own.record.id, old.gates)
        mine.closing[place] = own
        heapq.heappush(mine._timers, (own.free_by_ms, *place))
        if place in before.calls:
            mine.calls.began(place, before.calls[place])


def _adopt_one(hub: Hub, slot: int, old: TaskTable, before: int, now: Now) -> None:
    attempts, table = hub.attempts, hub.tasks.table
    state, was = table.state_of(slot), old.state_of(before)
    if state in OPEN and was in OPEN:
        if was is State.working:
            attempts.accept(hub.fleet.hosts[table.host[slot]], table.id[slot], table.attempt[slot], now)
        table.lease_ms[slot], table.accept_ms[slot] = old.lease_ms[before], old.accept_ms[before]
        attempts._remind(slot, min(table.lease_ms[slot], table.accept_ms[slot]))
    elif state is was is State.delayed and table.due_ms[slot] == old.due_ms[before]:
        table.lease_ms[slot] = old.lease_ms[before]
        attempts._remind(slot, table.lease_ms[slot])
