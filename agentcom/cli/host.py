"""`agentcom host`: list, show, invite, remove, drain, accept-key."""

from __future__ import annotations

import click

from agentcom.cli import host_report, output
from agentcom.cli.command import Group, Invocation, pass_invocation
from agentcom.cli.verify_report import KEY
from agentcom.model import JsonObject

name = click.argument("name", metavar="NAME")


@click.group(cls=Group)
def host() -> None:
    """The machines that run agents."""


@host.command("list")
@pass_invocation
def list_hosts(invocation: Invocation) -> None:
    """List hosts with their load; in place of figures that are too old to be known stands their age."""
    with invocation.client() as client:
        found = client.host_list()
    if invocation.as_json:
        output.document(found)
        return
    output.table(
        ("NAME", "STATE", "SEEN", "AGENTS", "CPU", "RAM FREE", "GPU", "SANDBOX", "FLAGS"),
        [
            (
                each["name"],
                each["state"],
                output.since(each.get("last_seen")),
                len(each.get("agents") or []),
                *host_report.load(each),
                each.get("sandbox"),
                host_report.flags(each),
            )
            for each in found["hosts"]
        ],
        "no hosts; join one with a code from: agentcom host invite",
    )


@host.command()
@name
@pass_invocation
def show(invocation: Invocation, name: str) -> None:
    """Show a host: figures, GPUs, capabilities, the last 15 minutes."""
    with invocation.client() as client:
        found = client.host_show(name)
    if invocation.as_json:
        output.document(found)
        return
    output.line(f"{output.plain(found['name'])}  {output.coloured(found['state'])}")
    output.pairs(host_report.lines(found))


@host.command()
@click.option(
    "--role", default="host", show_default=True, metavar="ROLE", help="host, view, submit, operate or admin."
)
@click.option("--name", default="", metavar="NAME", help="What it will be called.")
@pass_invocation
def invite(invocation: Invocation, role: str, name: str) -> None:
    """Print a join code: good for one key, for one hour."""
    with invocation.client() as client:
        code, answer = client.host_invite(role, name)
    if invocation.as_json:
        output.document({"code": code.text(), "role": role, **answer})
        return
    output.line(code.text())
    output.note(f"on the other machine run: agentcom join CODE   (good once, until {answer['expires']})")
    if answer.get("loopback_only"):
        output.note(
            "this hub listens on loopback, so the code works on this machine only; for others set "
            "hub.bind (and hub.public_address) in config.toml and start the hub again"
        )
    elif answer.get("note"):
        output.note(output.plain(answer["note"]))


@host.command()
@name
@output.now_option
@pass_invocation
def remove(invocation: Invocation, name: str, now: bool) -> None:
    """Forget a host and revoke its key, as soon as what it does has ended."""
    with invocation.client() as client:
        found = client.host_remove(name, now)
    _done(invocation, found, output.removal(name, found, now))


@host.command()
@name
@click.option("--undo", is_flag=True, help="Give it work again.")
@pass_invocation
def drain(invocation: Invocation, name: str, undo: bool) -> None:
    """Give a host no new work; what it has it finishes."""
    with invocation.client() as client:
        found = client.host_drain(name, not undo)
    _done(invocation, found, f"{output.plain(name)} gets {'work again' if undo else 'no new work'}")


def _signing_key(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    if not KEY.fullmatch(value):
        raise click.BadParameter(
            "a signing key has 64 hex digits (0-9, a-f), more than its fingerprint; the log of the sidecar that was "
            "refused has this command with the key in it"
        )
    return value


@host.command("accept-key")
@name
@click.argument("key", metavar="KEY", callback=_signing_key)
@pass_invocation
def accept_key(invocation: Invocation, name: str, key: str) -> None:
    """Let a host sign its reports with another key than before; the hub names it when it refuses it."""
    with invocation.client() as client:
        found = client.host_accept_key(name, key)
    said = f"from now on reports of {output.plain(name)} are to be signed with {found['fingerprint']}"
    _done(invocation, found, said)


def _done(invocation: Invocation, found: JsonObject, text: str) -> None:
    if invocation.as_json:
        output.document(found)
    else:
        output.line(text)
