"""Where an endpoint's address leads: resolved once, looked at, and then connected to as it was resolved.

A name that resolves anew for the connection could lead elsewhere than what was checked. Link-local (metadata),
multicast and unspecified addresses are refused, whatever name they hide behind.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit, urlunsplit

from agentcom.errors import AgentComError


class AddressError(AgentComError):
    """An address that cannot be called: not one at all, not resolved, or not allowed. `code` says which."""


class Place(NamedTuple):
    """One address of an endpoint: the URL to connect to, and the name that the server is called by."""

    url: str
    host_header: str
    server_name: str


async def places(url: str, *, may_be_loopback: bool = True) -> list[Place]:
    """The addresses of `url` that may be connected to, in the resolver's order; at least one. AddressError with
    the code `bad_endpoint`, `endpoint_unreachable` or `endpoint_refused`."""
    parts = urlsplit(url)
    port = _port(parts, url)
    host = parts.hostname or ""
    addresses = [host] if _is_literal(host) else await _resolved(host, port, url)
    allowed = [one for one in dict.fromkeys(addresses) if is_allowed(one, may_be_loopback=may_be_loopback)]
    if not allowed:
        which = "link-local, multicast and metadata addresses are refused"
        if not may_be_loopback:
            which = f"{host} is {addresses[0]}, which the hub may not call"
        raise AddressError(f"{url}: {which}", code="endpoint_refused")
    host_header = parts.netloc.rpartition("@")[2]
    return [
        Place(
            urlunsplit((parts.scheme, f"{_bracketed(address)}:{port}", parts.path.rstrip("/"), "", "")),
            host_header,
            host,
        )
        for address in allowed
    ]


def is_allowed(address: str, *, may_be_loopback: bool = True) -> bool:
    """Whether a model's server may be there: not at a link-local (metadata), multicast or unspecified address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    ip = mapped or ip
    if ip.is_loopback and not may_be_loopback:
        return False
    return not (ip.is_link_local or ip.is_multicast or ip.is_unspecified)


def _port(parts: SplitResult, url: str) -> int:
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise AddressError(f"{url}: {error}", code="bad_endpoint") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise AddressError(
            f"{url}: an endpoint is http://HOST[:PORT] or https://HOST[:PORT]", code="bad_endpoint"
        )
    return port


def _is_literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


async def _resolved(host: str, port: int, url: str) -> list[str]:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise AddressError(
            f"{url}: cannot resolve the name: {error}", code="endpoint_unreachable"
        ) from error
    return [str(entry[4][0]) for entry in found]


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
