"""Registered repositories: the record, and how two addresses are known for one repository.

A registered repository has a name that tasks may give, a branch to start from, checks that every task in it has to
pass, and the hosts that may work on it. Change the record only by adding fields with defaults.
"""

from __future__ import annotations

import posixpath
from typing import Final
from urllib.parse import unquote, urlsplit

from msgspec import Struct

from agentcom.model import CheckSpec

_PORTS: Final = {"https": 443, "ssh": 22}


class RepoRecord(Struct, kw_only=True):
    """`hosts` are names; empty: every host. An empty `default_branch` is what the repository's HEAD names."""

    id: int
    name: str
    url: str
    default_branch: str = ""
    checks: tuple[CheckSpec, ...] = ()
    hosts: tuple[str, ...] = ()
    added_by: str = ""
    added_ms: int = 0


def same_place(url: str) -> str:
    """A text that is equal for addresses of one repository, however they are spelt: by https, ssh or git's short form,
    with or without a user, `.git` or a slash at the end. Whoever leaves out a check by another spelling gets it all the
    same; the protocol, names that lead to one server, and links on a disk are another matter."""
    scheme, separator, _ = url.partition("://")
    if not separator and not url.startswith("/"):
        host, _, path = url.rpartition("@")[2].partition(":")
        return _remote(host, 0, path)
    if scheme in _PORTS and separator:
        parts = urlsplit(url)
        try:
            port = parts.port or 0
        except ValueError:
            return url
        return _remote(parts.hostname or "", 0 if port == _PORTS[scheme] else port, parts.path)
    path = url.removeprefix("file://").removeprefix("localhost")
    return _plain(path if path == url else unquote(path))


def _remote(host: str, port: int, path: str) -> str:
    """Forges take paths in any case."""
    return f"{host.strip('[]').rstrip('.')}:{port}{_plain('/' + unquote(path))}".casefold()


def _plain(path: str) -> str:
    return "/" + posixpath.normpath(path).strip("/").removesuffix(".git").rstrip("/")


def has_credentials(url: str) -> bool:
    """Whether a password stands in it, or with https any user: a token is given there as one."""
    scheme, separator, rest = url.partition("://")
    user, at, _ = rest.partition("/")[0].rpartition("@")
    return bool(separator and at) and (scheme != "ssh" or ":" in user)
