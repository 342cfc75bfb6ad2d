"""How busy a host is, as far as its reports can be trusted.

A report that is older than three of its host's intervals is unknown, not idle: `fresh` is what everything reads that
decides by such figures. Age is monotonic, so a wall clock that is set neither freshens nor ages a report; only before
a host's first report since the hub's start is it taken from the wall times in the store. A report that those say is yet
to come has no age: the clock was set back meanwhile, and nobody knows by how much.

A report lies in its host's record, which is written once a minute and when the host leaves: written with each, a
quiet fleet would cost the hub a commit per report.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from agentcom.clock import Now
from agentcom.figures import plausible
from agentcom.model import EndpointModel, JsonObject, Resources

if TYPE_CHECKING:
    from agentcom.core.agents import Host

REPORTS_UNKNOWN_AFTER: Final = 3


def age_ms(host: Host, now: Now) -> int | None:
    """How old the host's last report is; None when it never sent one, and where that cannot be known."""
    if host.reported_ms:
        return now.mono_ms - host.reported_ms
    if host.record.resources is None or not host.record.resources_ms:
        return None
    age = now.wall_ms - host.record.resources_ms
    return age if age >= 0 else None


def fresh(host: Host, now: Now) -> Resources | None:
    """The host's figures, or None when they are too old to be known."""
    age = age_ms(host, now)
    if age is None or age > REPORTS_UNKNOWN_AFTER * host.record.resources_every_s * 1000:
        return None
    return host.record.resources


def take_report(host: Host, found: Resources, now: Now) -> tuple[str, ...]:
    """The host has new figures. The names of those that could not be used, unless they were named before in this
    session."""
    resources = plausible(found)
    record = host.record
    record.resources, record.resources_ms, record.resources_every_s = (
        resources,
        now.wall_ms,
        resources.every_s,
    )
    host.reported_ms = now.mono_ms
    host.trend.add(resources, now.wall_ms)
    host.take_load(now)
    news = tuple(name for name in resources.dropped if name not in host.dropped)
    host.dropped.update(news)
    return news


def vram_view(resources: Resources | None, loaded: Iterable[EndpointModel]) -> JsonObject | None:
    """VRAM of all GPUs together and where the figures come from; without GPUs that say so, what the models hold that
    the host's own endpoints have loaded (`api_ps`), of which the total is not known."""
    gpus = resources.gpus if resources is not None else ()
    known = [gpu for gpu in gpus if gpu.vram_used_bytes is not None and gpu.vram_total_bytes is not None]
    if known:
        used = sum(gpu.vram_used_bytes or 0 for gpu in known)
        total = sum(gpu.vram_total_bytes or 0 for gpu in known)
        return {"used_bytes": used, "total_bytes": total, "source": known[0].source or None}
    held = [model.vram_bytes for model in loaded if model.warm]
    return {"used_bytes": sum(held), "total_bytes": None, "source": "api_ps"} if held else None
