"""`agentcom join CODE`: make this home's keys and enrol them with the hub that the code names."""

from __future__ import annotations

import sys

import click

from agentcom import config
from agentcom.auth import parse_join_code
from agentcom.cli import output
from agentcom.cli.command import REACH_S, HubCommand, Invocation, pass_invocation
from agentcom.enrolment import default_name
from agentcom.enrolment import join as join_hub
from agentcom.model import Role

CODE_CHARS_MAX = 4096


@click.command(cls=HubCommand)
@click.argument("code", metavar="CODE|-")
@click.option("--name", metavar="NAME", help="What this host is called; its host name by default.")
@pass_invocation
def join(invocation: Invocation, code: str, name: str | None) -> None:
    """Join the hub that CODE is from; `-` reads the code from stdin."""
    home = invocation.home
    parsed = parse_join_code(sys.stdin.readline(CODE_CHARS_MAX) if code == "-" else code)
    done = join_hub(home, parsed, name or default_name(config.load(home.path), parsed.role), REACH_S)
    if invocation.as_json:
        output.document({"name": done.name, "role": done.role, "hub": parsed.address, "home": str(home.path)})
        return
    output.line(f"joined the hub at {parsed.address} as {done.name} ({done.role})")
    next_step = "agentcom sidecar" if done.role is Role.host else "agentcom task list"
    output.note(f"next: {next_step}")
