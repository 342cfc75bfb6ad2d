"""Whether workers get anywhere: `progress` in the heartbeat rises with output, a tool round, a token.

A heartbeat without progress proves a process, not work. After `stall_s` without any the attempt is marked `stalled`,
which people see; after twice that it is taken back. All of it in lease time: what the hub did not listen to, and a wall
clock that is set, do not count.
"""

from __future__ import annotations

from agentcom.config import Settings
from agentcom.core.agents import Agent
from agentcom.core.rows import TIERS, TaskTable
from agentcom.model import Tier

RECLAIM = 2  # times `stall_s`
HEARTBEATS_MIN = 2  # progress comes with heartbeats: one that is late is no stall
NEVER_MS = 2**62


def begin(agent: Agent, clock_ms: int, *, is_first: bool) -> None:
    """Its worker starts; or else the first word of it since the hub has started, and its patience begins anew."""
    agent.moved_ms = clock_ms
    if is_first:
        agent.progress, agent.stalled = 0, False


def await_word(agent: Agent, stalled_at: int | None) -> None:
    """The hub has started while it was at work: what it did meanwhile its host says first. One that was marked as
    stalled, at that progress, stays so until it moves, and is not told of again."""
    agent.progress, agent.moved_ms, agent.stalled = stalled_at or 0, NEVER_MS, stalled_at is not None


def is_awaited(agent: Agent) -> bool:
    """Whether its host has said nothing of its attempt since the hub has started."""
    return agent.moved_ms == NEVER_MS


def heard(agent: Agent, progress: int, clock_ms: int) -> bool:
    """A heartbeat lists its attempt; whether one that had stalled moves again."""
    if progress == agent.progress:
        return False
    agent.progress, agent.moved_ms = progress, clock_ms
    was_stalled, agent.stalled = agent.stalled, False
    return was_stalled


def stall_ms(table: TaskTable, slot: int, settings: Settings) -> int:
    """How long the task's worker may be without progress: its own time, its tier's, or that of all, but not less than
    two heartbeats; 0 for ever."""
    queue = settings.queue
    of_tier = {
        Tier.trivial: queue.stall_trivial_s,
        Tier.standard: queue.stall_standard_s,
        Tier.complex: queue.stall_complex_s,
    }
    found_s = table.stall_s[slot] or of_tier[TIERS[table.tier[slot]]] or queue.stall_s
    return max(found_s * 1000, int(HEARTBEATS_MIN * queue.heartbeat_s * 1000)) if found_s else 0


def told(silent_s: int) -> str:
    """What people read of a stall, and what to set where there is none."""
    more = "a task that is silent for long has --stall, all have queue.stall_s"
    return f"no output, tool round or token for {silent_s} s; {more}"


def next_look_ms(agent: Agent, patience_ms: int) -> int:
    """When its progress has to be looked at again."""
    if not patience_ms:
        return NEVER_MS
    return agent.moved_ms + patience_ms * (RECLAIM if agent.stalled else 1)
