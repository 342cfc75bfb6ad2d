"""`agentcom join CODE`: make this home's keys and enrol them with the hub that the code names."""

from __future__ import annotations

import sys

import click

from agentcom import config, config_file
from agentcom.auth import parse_join_code
from agentcom.cli import output
from agentcom.cli.command import REACH_S, HubCommand, Invocation, pass_invocation
from agentcom.enrolment import default_name
from agentcom.enrolment import join as join_hub
from agentcom.model import Role

CODE_CHARS_MAX = 4096
MODE = "sandbox.mode"


@click.command(cls=HubCommand)
@click.argument("code", metavar="CODE|-")
@click.option("--name", metavar="NAME", help="What this host is called; its host name by default.")
@pass_invocation
def join(invocation: Invocation, code: str, name: str | None) -> None:
    """Join the hub that CODE is from; `-` reads the code from stdin."""
    home = invocation.home
    parsed = parse_join_code(sys.stdin.readline(CODE_CHARS_MAX) if code == "-" else code)
    done = join_hub(home, parsed, name or default_name(config.load(home.path), parsed.role), REACH_S)
    is_required = done.role is Role.host and requires_isolation(home)
    if invocation.as_json:
        output.document({"name": done.name, "role": done.role, "hub": parsed.address, "home": str(home.path)})
        return
    output.line(f"joined the hub at {parsed.address} as {done.name} ({done.role})")
    if is_required:
        output.note('commands run here only where they are isolated (sandbox.mode = "require"): see agentcom doctor')
    next_step = "agentcom sidecar" if done.role is Role.host else "agentcom task list"
    output.note(f"next: {next_step}")


def requires_isolation(home: config.Home) -> bool:
    """Writes down that a host which works for others isolates their commands, unless its owner has said what it does;
    whether it does now."""
    file = home.path / "config.toml"
    if not config_file.holds(file, MODE):
        config_file.put(file, {MODE: "require"})
    return config.load(home.path).sandbox.mode == "require"
