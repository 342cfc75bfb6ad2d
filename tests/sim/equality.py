"""The core against itself and against the store: what a hub that started now from the store would know."""

from __future__ import annotations

import random

from agentcom.clock import Now
from agentcom.config import Settings
from agentcom.core import invariants
from agentcom.core.hub import Hub
from agentcom.loading import load
from agentcom.model import OPEN_ATTEMPT, State, TaskRow
from agentcom.store.base import Store

LEASE_MS_MAX = 60_000  # of the leases that callers set at run time: an agent may be awaited for one of before


def check_core(hub: Hub, now: Now) -> None:
    """Agents, attempts and counts of one running core fit each other, and no lease is longer than a lease."""
    invariants.check(hub)
    table, lease_ms = hub.tasks.table, int(hub.settings.queue.lease_s * 1000)
    clock_ms = hub.attempts.clock_ms(now)
    for task, slot in table.slot_of.items():
        if table.state_of(slot) in OPEN_ATTEMPT:
            left_ms = table.lease_ms[slot] - clock_ms
            assert left_ms <= lease_ms, f"the lease of task {task} has {left_ms} ms left of {lease_ms}"
    for agent in hub.fleet.agents.values():
        left_ms = agent.free_by_ms - clock_ms
        longest_ms = max(lease_ms, LEASE_MS_MAX)
        assert left_ms <= longest_ms, f"{agent.record.name} is freed in {left_ms} ms, a lease is {lease_ms}"
    for host in hub.fleet.hosts.values():
        assert host.heard_ms <= now.mono_ms, f"{host.record.name} was heard in the future"


def check_same_after_restart(hub: Hub, store: Store, settings: Settings, now: Now) -> None:
    """A core made from the store has the same live rows, counts, numbers and pause as the running one."""
    fresh = Hub(settings, random.Random(0), "compared")
    fresh.load(load(store), now)
    running, loaded = _rows(hub), _rows(fresh)
    assert running.keys() == loaded.keys(), f"live: {sorted(running)}, stored: {sorted(loaded)}"
    for task, row in running.items():
        assert row == loaded[task], f"in memory {row}, stored {loaded[task]}"
    counts, stored = _counts(hub), fresh.tasks.counts
    assert counts == stored, f"counts {counts}, stored {stored}"
    assert hub.tasks.by_lane == fresh.tasks.by_lane, (
        f"lanes {hub.tasks.by_lane}, stored {fresh.tasks.by_lane}"
    )
    assert (hub.tasks.next_id, hub.paused) == (fresh.tasks.next_id, fresh.paused), "numbers differ"
    assert hub.out.next_event == fresh.out.next_event, "numbers of events differ"
    assert hub.tasks.story.next_number == fresh.tasks.story.next_number, "numbers of notes differ"
    assert hub.tasks.groups.used() == fresh.tasks.groups.used(), "requirement groups differ"
    assert _ready(hub) == _ready(fresh), f"ready in memory {_ready(hub)}, stored {_ready(fresh)}"
    for number, agent in hub.fleet.agents.items():
        twin = fresh.fleet.agents[number]
        assert not twin.task or (twin.task, twin.attempt) == (agent.task, agent.attempt), (
            f"agent {number} differs"
        )


def _rows(hub: Hub) -> dict[int, TaskRow]:
    """The live rows as stored: what a core that was made anew took over is written with its next tick."""
    rows = {task: hub.tasks.table.record(slot) for task, slot in hub.tasks.table.slot_of.items()}
    for task in hub.tasks.begun:
        rows[task].state, rows[task].accepted_ms = State.assigned, 0
    return rows


def _counts(hub: Hub) -> dict[State, int]:
    counts, begun = hub.tasks.counts, len(hub.tasks.begun)
    return {
        **counts,
        State.assigned: counts[State.assigned] + begun,
        State.working: counts[State.working] - begun,
    }


def _ready(hub: Hub) -> list[int]:
    """The ready tasks as the queue would give them out, which must be all that are ready."""
    ready = hub.tasks.ready
    queued = ready.entries()
    states = hub.tasks.table
    expected = sum(states.state_of(slot) is State.ready for slot in states.slot_of.values())
    assert len(queued) == expected, f"{expected} tasks are ready, {len(queued)} are in the queue"
    return queued
