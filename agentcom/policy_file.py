"""A policy of the scheduler as a TOML file: the section [scoring], as config.toml has it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Final

import msgspec

from agentcom.config import ScoringSettings
from agentcom.errors import UNREADABLE, ConfigError, Refused
from agentcom.settings import checked

SECTION: Final = "scoring"


def read_policy(path: Path, base: ScoringSettings) -> ScoringSettings:
    """The base with what the file says otherwise. ConfigError that names the file, the key, the value and its bound."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UNREADABLE as error:
        raise ConfigError(f"{path}: {error}") from error
    others = [name for name in tables if name != SECTION]
    if others:
        raise ConfigError(f"{path}: {others[0]} does not belong to a policy, which is one section [{SECTION}]")
    table = tables.get(SECTION)
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: there is no section [{SECTION}]: a policy has its figures below one")
    values = {}
    for key, value in table.items():
        try:
            values[key] = checked(f"{SECTION}.{key}", value)
        except Refused as refused:
            raise ConfigError(f"{path}: {refused.message}") from refused
    return msgspec.structs.replace(base, **values)


def changed(base: ScoringSettings, policy: ScoringSettings) -> dict[str, tuple[int, int]]:
    """What the policies say otherwise: (of the base, of the other) by key."""
    before, after = msgspec.structs.asdict(base), msgspec.structs.asdict(policy)
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}
