"""How busy a host is, as far as its reports can be trusted.

A report that is older than three of its host's intervals is unknown, not idle: `fresh` is what everything reads that
decides by such figures. Age is monotonic, so a wall clock that is set neither freshens nor ages a report; only before
a host's first report since the hub's start is it taken from the wall times in the store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentcom.clock import Now
from agentcom.model import Resources

if TYPE_CHECKING:
    from agentcom.core.agents import Host

REPORTS_UNKNOWN_AFTER: Final = 3


def age_ms(host: Host, now: Now) -> int | None:
    """How old the host's last report is; None when it never sent one."""
    if host.reported_ms:
        return now.mono_ms - host.reported_ms
    if host.record.resources is None or not host.record.resources_ms:
        return None
    return max(0, now.wall_ms - host.record.resources_ms)


def fresh(host: Host, now: Now) -> Resources | None:
    """The host's figures, or None when they are too old to be known."""
    age = age_ms(host, now)
    if age is None or age > REPORTS_UNKNOWN_AFTER * host.record.resources_every_s * 1000:
        return None
    return host.record.resources
