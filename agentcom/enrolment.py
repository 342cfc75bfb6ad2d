"""Joining a hub: makes this home's own keys, enrols them with a join code, and writes down where the hub is.

A home may join one hub, once as a host (its sidecar) and once as a person (the command line). A step that
was cut off can be repeated with the same code: the keys are on disk before the hub learns of them.
"""

from __future__ import annotations

import getpass
import re
import socket

import msgspec
from msgspec import Struct

from agentcom import limits
from agentcom.auth import (
    SIGNING_KEY,
    HubAddress,
    JoinCode,
    load_key,
    load_or_make_key,
    read_hub_address,
    sha256_hex,
    signing_key_hex,
    write_hub_address,
)
from agentcom.client import Client
from agentcom.config import Home, Settings, read_private, write_private
from agentcom.errors import UNREADABLE, ConfigError, HubUnreachable, Refused
from agentcom.model import Role


class Joined(Struct, frozen=True):
    """What a home has joined: under which name and role, which hub (its public key), by which code."""

    name: str
    role: Role
    hub_key: str
    code_sha256: str


class _Memory(Struct, omit_defaults=True):
    host: Joined | None = None
    user: Joined | None = None


def joined(home: Home, role: Role = Role.host) -> Joined | None:
    """What this home joined as a host, or with another `role` as a person."""
    memory = _remembered(home)
    return memory.host if role is Role.host else memory.user


def default_name(settings: Settings, role: Role = Role.host) -> str:
    """The name that a host (or a person on it) goes by unless it is given one."""
    host = settings.sidecar.name or socket.gethostname()
    try:
        wanted = host if role is Role.host else f"{getpass.getuser()}-{host}"
    except (KeyError, OSError):  # a user id without a name, as in bare containers
        wanted = f"user-{host}"
    clean = re.sub(r"[^A-Za-z0-9 ._'-]", "-", wanted).lstrip(" ._'-")
    return clean[: limits.NAME_CHARS_MAX] or "host"


def join(home: Home, code: JoinCode, name: str, timeout_s: float = 5.0) -> Joined:
    """Enrol this home with `code`; the same code again gives the same answer without asking the hub.

    ConfigError if this home belongs to another hub or has joined already; Refused by the hub otherwise.
    """
    home.prepare()
    code_sha256 = sha256_hex(code.text())
    before = joined(home, code.role)
    if before is not None and before.code_sha256 == code_sha256:
        return before
    own_hub = _check_hub(home, code)
    if before is not None:
        raise ConfigError(
            f"{home.path} has joined already, as {before.name} ({before.role}); "
            "to join anew use another AGENTCOM_HOME, or remove its keys/ folder"
        )
    enrolled = enrol(home, code, name, timeout_s)
    if not own_hub:
        write_hub_address(home.keys / "hub.json", HubAddress(code.address, code.hub_key))
    return enrolled


def enrol(home: Home, code: JoinCode, name: str, timeout_s: float = 5.0) -> Joined:
    """Enrol the keys of this home (made if missing) and remember under which name; writes no hub address."""
    is_host = code.role is Role.host
    path = home.keys / ("host.key" if is_host else "user.key")
    is_new = not path.exists()
    pair = load_or_make_key(path)
    signing_key = signing_key_hex(home.keys / SIGNING_KEY) if is_host else None
    try:
        answer = Client.enrol(code, name, pair.public, signing_key, timeout_s=timeout_s)
    except Refused:
        if is_new:
            path.unlink()
        raise
    except HubUnreachable as error:
        if "//127." in code.address or "//localhost" in code.address or "//[::1]" in code.address:
            raise HubUnreachable(f"{error.message}; this code works on the hub's own machine only") from error
        raise
    done = Joined(answer.name, answer.role, code.hub_key, sha256_hex(code.text()))
    memory = _remembered(home)
    if is_host:
        memory.host = done
    else:
        memory.user = done
    write_private(home.keys / "joined.json", msgspec.json.encode(memory))
    return done


def _check_hub(home: Home, code: JoinCode) -> bool:
    """Whether the code is of the hub that this home runs itself; ConfigError if it belongs to another hub."""
    remedy = "a home belongs to one hub: use another AGENTCOM_HOME"
    if (home.keys / "hub.key").exists():
        if load_key(home.keys / "hub.key").public != code.hub_key:
            raise ConfigError(f"{home.path} runs a hub of its own, and the code is of another; {remedy}")
        return True
    known = read_hub_address(home)
    if known is not None and known.key != code.hub_key:
        raise ConfigError(
            f"{home.path} has joined the hub at {known.hub}, and the code is of another; {remedy}"
        )
    return False


def _remembered(home: Home) -> _Memory:
    path = home.keys / "joined.json"
    try:
        return msgspec.json.decode(read_private(path), type=_Memory)
    except FileNotFoundError:
        return _Memory()
    except UNREADABLE as error:
        raise ConfigError(f"{path} cannot be read: {error}; remove it and join again") from error
