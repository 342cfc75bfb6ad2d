"""Where the hub and its dashboard listen: no model's server is there, whatever address of this machine names it.

Asked for when an endpoint is added, so that it is as it is then: `up` may have taken another port, the machine may have
another address.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

import psutil

from agentcom.config import Home, Settings
from agentcom.supervisor import read_start

EVERYWHERE = frozenset({"0.0.0.0", "::", "*"})  # noqa: S104


def own_places(home: Home, settings: Settings, bound: set[int]) -> tuple[set[int], set[tuple[str, int]]]:
    """(the ports, which loopback has; the other addresses of this machine with the port that listens there). `bound`:
    the hub's own ports. The dashboard's is known where `agentcom up` has started it, or its setting names one."""
    start = read_start(home)
    web = urlsplit(start.http) if start is not None and start.http else None
    dashboard = {settings.http.port, web.port or 0 if web is not None else 0} - {0}
    listens = [(settings.hub.bind, port) for port in bound] + [(settings.http.bind, port) for port in dashboard]
    if web is not None and web.hostname:
        listens.append((web.hostname, web.port or 0))
    public = urlsplit(settings.hub.public_address).hostname or ""
    places = {(name, port) for bind, port in listens for name in _names(bind, public)}
    return bound | dashboard, places


def _names(bind: str, public: str) -> Iterator[str]:
    """How others call what listens at `bind`; nothing where that is loopback."""
    if bind in EVERYWHERE:
        for addresses in psutil.net_if_addrs().values():
            yield from (
                one.address.partition("%")[0]
                for one in addresses
                if one.family in (socket.AF_INET, socket.AF_INET6)
            )
        yield socket.gethostname().lower()
    elif bind == "localhost" or _is_loopback(bind):
        return
    else:
        yield bind.lower()
    if public:
        yield public


def _is_loopback(bind: str) -> bool:
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return False
