"""`agentcom config get`: the settings of this home as they are in force, file and environment together."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from agentcom import config as configuration
from agentcom.cli import output
from agentcom.cli.command import Group, Invocation, pass_invocation
from agentcom.errors import NotFound


@click.group(cls=Group)
def config() -> None:
    """The settings of this home (config.toml and AGENTCOM_* variables)."""


@config.command()
@click.argument("name", metavar="[SECTION[.KEY]]", required=False)
@pass_invocation
def get(invocation: Invocation, name: str | None) -> None:
    """Print all settings, a section, or one value."""
    found: Any = msgspec.to_builtins(configuration.load(invocation.home.path))
    for part in name.split(".") if name else ():
        if not isinstance(found, dict) or part not in found:
            raise NotFound(f"there is no setting {name}; see `agentcom config get`", field=name)
        found = found[part]
    if invocation.as_json:
        output.document(found)
    else:
        for label, value in _flat(name or "", found):
            output.line(f"{label} = {value}" if isinstance(found, dict) else str(value))


def _flat(prefix: str, found: Any) -> list[tuple[str, object]]:
    if not isinstance(found, dict):
        return [(prefix, ", ".join(map(str, found)) if isinstance(found, list | tuple) else found)]
    return [
        pair
        for name, value in found.items()
        for pair in _flat(f"{prefix}.{name}" if prefix else str(name), value)
    ]
