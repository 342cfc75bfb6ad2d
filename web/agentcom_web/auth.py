"""Who may ask, and from where: bearer tokens, and the Host and Origin of every request.

The hub knows the tokens; here they are only carried and, for what the web process answers by itself, asked
about. No cookies: a browser sends them to every port of a host name. The Host check keeps out pages whose
name was made to resolve to this machine, the Origin check pages of other sites.
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from agentcom import messages as m
from agentcom.auth import sha256_hex
from agentcom.config import HttpSettings
from agentcom.errors import Refused
from agentcom.model import Role
from agentcom_web.hub_link import HubLink

READERS = frozenset({Role.view, Role.operate, Role.admin})
PERSON_AGE_S = 0.4  # how old an answer about a token may be: a revoked one is noticed within a second
KNOWN_MAX = 256  # tokens remembered; the longest unused goes first
TOKEN_CHARS_MAX = 200


class Person(NamedTuple):
    """Whose token it is."""

    name: str
    role: Role


def bearer_of(authorization: str | None) -> str:
    """The token in an Authorization header; Refused(`unauthorised`) when there is none."""
    scheme, _, token = (authorization or "").partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise Refused(
            "unauthorised", "this needs `Authorization: Bearer TOKEN`; make one with `agentcom token add`"
        )
    if len(token) > TOKEN_CHARS_MAX or not token.isascii() or not token.isprintable():
        raise Refused("unauthorised", "this is not a token of AgentCom; make one with `agentcom token add`")
    return token


@dataclass
class _Known:
    lock: threading.Lock = field(default_factory=threading.Lock)
    checked_at: float = 0.0
    found: Person | Refused | None = None


class People:
    """Asks the hub who a token belongs to, once per PERSON_AGE_S and token however many streams ask."""

    def __init__(self, link: HubLink) -> None:
        self._link = link
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()

    def whose(self, bearer: str) -> Person:
        """Raises Refused for a token that is not (or no longer) good, HubUnreachable when nobody can say."""
        known = self._entry(sha256_hex(bearer))
        with known.lock:
            if known.found is None or time.monotonic() - known.checked_at > PERSON_AGE_S:
                known.found = None
                checked_at = time.monotonic()
                known.found = self._ask(bearer)
                known.checked_at = checked_at
            found = known.found
        if isinstance(found, Refused):
            raise Refused(found.code, found.message)
        return found

    def reader(self, bearer: str) -> Person:
        """Like `whose`, and Refused(`forbidden`) unless the role may read everything."""
        person = self.whose(bearer)
        if person.role not in READERS:
            raise Refused(
                "forbidden",
                f"the role {person.role} sees only its own tasks; this needs view, operate or admin",
            )
        return person

    def _entry(self, token_sha256: str) -> _Known:
        with self._lock:
            known = self._known.pop(token_sha256, None) or _Known()
            self._known[token_sha256] = known
            while len(self._known) > KNOWN_MAX:
                self._known.popitem(last=False)
            return known

    def _ask(self, bearer: str) -> Person | Refused:
        try:
            value = self._link.call(m.Whoami(), bearer)
        except Refused as refused:
            return refused
        return Person(str(value["name"]), Role(value["role"]))


def is_loopback(bind: str) -> bool:
    """Whether only this machine can reach an address to listen on."""
    if bind == "localhost":
        return True
    try:
        return ipaddress.ip_address(bind).is_loopback
    except ValueError:
        return False


class OwnNames:
    """The names under which this server may be asked: loopback, the bound address, http.allowed_hosts.

    An entry of allowed_hosts without a port stands for the scheme's own port and for ours.
    """

    def __init__(self, settings: HttpSettings, port: int) -> None:
        self._schemes = {"https"} if settings.tls_cert else {"http"}
        if settings.behind_proxy:
            self._schemes.add("https")
        self._hosts: set[str] = set()
        own = {"localhost", "127.0.0.1", "[::1]", _bracketed(settings.bind)}
        default_port = 443 if settings.tls_cert else 80
        for name in own:
            self._hosts.add(f"{name}:{port}".lower())
            if port == default_port:
                self._hosts.add(name.lower())
        for name in settings.allowed_hosts:
            self._hosts.add(name.lower())
            if not _has_port(name):
                self._hosts.add(f"{name}:{port}".lower())

    def host_is_ours(self, host: str) -> bool:
        return host.lower() in self._hosts

    def origin_is_ours(self, origin: str) -> bool:
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        plain = parts.scheme in self._schemes and not (parts.path or parts.query or parts.fragment)
        return plain and self.host_is_ours(parts.netloc)


def _bracketed(bind: str) -> str:
    return f"[{bind}]" if ":" in bind else bind


def _has_port(name: str) -> bool:
    return name.rpartition("]")[2].count(":") == 1
