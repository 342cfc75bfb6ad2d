"""Who this host is: its name, its agents and what they can do. Names are made once and lie on disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from pathlib import Path

from agentcom import limits, logs
from agentcom.config import Home, Settings, write_private
from agentcom.errors import ConfigError
from agentcom.messages import AccountOffer
from agentcom.model import Backend
from agentcom.names import agent_name
from agentcom_sidecar.anthropic_key import find_key

FINGERPRINT_CHARS = 16


def host_name(settings: Settings) -> str:
    """The configured name, else the machine's, in the characters that a name may have."""
    wanted = settings.sidecar.name or socket.gethostname().split(".")[0]
    name = re.sub(r"[^A-Za-z0-9 ._'-]+", "-", wanted).lstrip("-. _'")[: limits.NAME_CHARS_MAX].strip()
    return name or "host"


def agent_names(home: Home, count: int) -> tuple[str, ...]:
    """The first `count` agents of this home; missing ones are named and written down.

    An agent that is no longer run keeps its name for the day when it is again.
    """
    path = home.sidecar / "agents.json"
    names = _read(path)
    if len(names) < count:
        while len(names) < count:
            names.append(agent_name(set(names), int.from_bytes(os.urandom(8), "big")))
        write_private(path, json.dumps({"agents": names}, indent=2).encode())
    return tuple(names[:count])


def _read(path: Path) -> list[str]:
    try:
        names = json.loads(path.read_text())["agents"]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}; restore it, or remove it for new names"
        ) from error
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ConfigError(f"{path} does not hold a list of names; restore it, or remove it for new names")
    return list(dict.fromkeys(names))


def backends(settings: Settings) -> tuple[Backend, ...]:
    """What the agents here can call: Claude only with a key."""
    try:
        has_key = find_key(settings) is not None
    except ConfigError as error:
        logs.get().error("claude_not_offered", reason=error.message)
        has_key = False
    programs = (Backend.program,) if settings.policy.programs != "nobody" and settings.programs.offer else ()
    return (Backend.shell, Backend.ollama, Backend.openai, *((Backend.claude,) if has_key else ()), *programs)


def account(settings: Settings) -> AccountOffer | None:
    """The cloud account that this host has a key for. Hosts with the same key give the same fingerprint, from which
    nobody finds the key."""
    try:
        key = find_key(settings)
    except ConfigError:
        return None
    if key is None:
        return None
    fingerprint = hashlib.sha256(b"agentcom account\0" + key.encode()).hexdigest()[:FINGERPRINT_CHARS]
    return AccountOffer(url=settings.anthropic.base_url, fingerprint=fingerprint)
