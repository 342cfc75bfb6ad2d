"""`agentcom agent`: list, remove, cordon, uncordon."""

from __future__ import annotations

import click

from agentcom.cli import output
from agentcom.cli.command import Group, Invocation, pass_invocation
from agentcom.model import JsonObject

name = click.argument("name", metavar="NAME")


@click.group(cls=Group)
def agent() -> None:
    """The workers, each on a host, one task at a time."""


@agent.command("list")
@pass_invocation
def list_agents(invocation: Invocation) -> None:
    """List agents and what they do."""
    with invocation.client() as client:
        found = client.agent_list()
    if invocation.as_json:
        output.document(found)
        return
    output.table(
        ("NAME", "HOST", "STATE", "SINCE", "TASK", "BACKENDS", "DONE", "FAILED", "FLAGS"),
        [
            (
                each["name"],
                each["host"],
                each["state"],
                output.since(each.get("since")),
                each.get("task") or "",
                ",".join(each.get("backends") or []),
                each.get("completed_count", 0),
                each.get("failed_count", 0),
                _flags(each),
            )
            for each in found["agents"]
        ],
        "no agents; start a host with: agentcom up, or join one: agentcom host invite",
    )


def _flags(each: JsonObject) -> str:
    """What keeps the agent from work, or from getting on with it."""
    flags = [flag for flag in ("cordoned", "draining", "unresponsive", "stalled") if each.get(flag)]
    block = each.get("blocked")
    if block:
        flags.append(f"{block['backend']} until {block['until']}: {block['reason']}")
    return " ".join(flags)


def _done(invocation: Invocation, found: JsonObject, text: str) -> None:
    if invocation.as_json:
        output.document(found)
    else:
        output.line(text)


@agent.command()
@name
@output.now_option
@pass_invocation
def remove(invocation: Invocation, name: str, now: bool) -> None:
    """Forget an agent, as soon as what it does has ended."""
    with invocation.client() as client:
        found = client.agent_remove(name, now)
    _done(invocation, found, output.removal(name, found, now))


@agent.command()
@name
@pass_invocation
def cordon(invocation: Invocation, name: str) -> None:
    """Give an agent no new work; what it has it finishes."""
    with invocation.client() as client:
        _done(invocation, client.agent_cordon(name, True), f"{output.plain(name)} gets no new work")


@agent.command()
@name
@pass_invocation
def uncordon(invocation: Invocation, name: str) -> None:
    """Give an agent work again."""
    with invocation.client() as client:
        _done(invocation, client.agent_cordon(name, False), f"{output.plain(name)} gets work again")
