"""A core that takes the place of one whose last changes could not be stored.

It is loaded from the store as at a start. What no record holds it takes over from the core before it: who is
connected, which leases run until when, who waits for an answer. Of that the old core may already hold what the
failed tick changed; its events are handled again, so each of these is either repeated or known not to matter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from agentcom.clock import Now

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
    hub.attempts.adopt(old.attempts, now)
    if hub.settings.queue.lease_s != old.settings.queue.lease_s:
        hub.attempts.lease_anew(now)  # the failed tick had set another length, which is not stored
    hub.fleet.adopt(old.fleet, hub.sessions)
    hub.tasks.adopt(old.tasks, hub.sessions)
    hub.preloads.adopt(old.preloads)
    hub.no_submits, hub.troubles = old.no_submits, old.troubles
    hub.pace = old.pace if old.pace == hub.pace else hub.pace
    hub.out.is_read = old.out.is_read
