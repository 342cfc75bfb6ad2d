"""Settings by name (`queue.lease_s`): what each is worth, which may change at run time, and changes that are checked.

Pure. A hub changes `Settings` only here, so a value that is set at run time meets the bounds and the relations of
one that stands in config.toml. Local settings (addresses, keys, what a host allows) belong to one machine: the hub
never takes them from afar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from agentcom.config import SECTIONS, Settings, relation_broken
from agentcom.errors import NotFound, Refused

LOCAL_SECTIONS: Final = frozenset(
    {"hub", "http", "sidecar", "sandbox", "policy", "programs", "git", "anthropic", "log"}
)
LOCAL_NAMES: Final = frozenset({"endpoints.discover", "endpoints.key_files", "backups.folder"})
_AT = re.compile(r" - at `\$(?:\.[a-z0-9_]+|\[[^]]*\])*`$")

Value = bool | int | float | str | tuple[str, ...]


class Default(NamedTuple):
    """A setting's place and what it is worth when nobody says anything."""

    section: str
    key: str
    value: Value


NAMES: Final[dict[str, Default]] = {
    f"{section}.{each.name}": Default(section, each.name, each.default)
    for section, kind in SECTIONS.items()
    for each in msgspec.structs.fields(kind)
}


def is_local(name: str) -> bool:
    """Whether it is read from the machine's own config.toml and environment only."""
    return NAMES[name].section in LOCAL_SECTIONS or name in LOCAL_NAMES


def known(name: str) -> Default:
    """The setting of that name; NotFound otherwise."""
    found = NAMES.get(name)
    if found is None:
        raise NotFound(f"there is no setting {name}; see `agentcom config get`", field=name)
    return found


def names_under(prefix: str) -> list[str]:
    """All names, those of a section, or the one that is named; NotFound when there is none."""
    found = [name for name, at in NAMES.items() if prefix in ("", name, at.section)]
    if not found:
        raise NotFound(f"there is no setting {prefix}; see `agentcom config get`", field=prefix)
    return found


def value_of(settings: Settings, name: str) -> Value:
    at = NAMES[name]
    found: Value = getattr(getattr(settings, at.section), at.key)
    return found


def with_values(settings: Settings, values: Mapping[str, Any], sent: Sequence[str] = ()) -> Settings:
    """The settings with these changed, all or none. Refused(`invalid`) that names key, value and bound. `sent` are
    those that the caller named, where `values` holds others too: one of them is the field at fault."""
    sections: dict[str, Any] = {}
    for name, value in values.items():
        at = known(name)
        section = sections.get(at.section, getattr(settings, at.section))
        sections[at.section] = msgspec.structs.replace(section, **{at.key: checked(name, value)})
    made = msgspec.structs.replace(settings, **sections)
    broken = relation_broken(made)
    if broken is not None:
        asked = sent or tuple(values)
        at_fault = [name for name in asked if name in broken.names] or [*asked]
        raise Refused("invalid", broken.reason, field=next(iter(at_fault), None))
    return made


def checked(name: str, value: Any) -> Value:
    """The value as the setting's own type. Texts are read as the environment is: numbers, true and false, lists
    with commas."""
    at = known(name)
    if isinstance(at.value, tuple) and isinstance(value, str):
        value = [each for each in value.split(",") if each]
    try:
        made = msgspec.convert({at.key: value}, SECTIONS[at.section], strict=False)
    except msgspec.ValidationError as error:
        reason = _AT.sub("", str(error))
        raise Refused("invalid", f"{name} cannot be {shown(value)}: {reason}", field=name) from error
    found: Value = getattr(made, at.key)
    # 60, as people write it and as the defaults are written, rather than 60.0.
    return int(found) if isinstance(found, float) and found.is_integer() else found


def shown(value: object) -> str:
    """A value as config.toml has it, cut to what an error line can bear."""
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= 100 else text[:100] + "…"
