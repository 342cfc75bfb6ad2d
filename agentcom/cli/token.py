"""`agentcom token`: add, list, revoke, link. A token is printed once; the hub only ever sees its hash."""

from __future__ import annotations

import click

from agentcom import config
from agentcom.auth import make_token, sha256_hex
from agentcom.cli import output
from agentcom.cli.command import Group, Invocation, pass_invocation
from agentcom.errors import ConfigError
from agentcom.supervisor import read_start


@click.group(cls=Group)
def token() -> None:
    """Bearer tokens and keys: who may call."""


@token.command()
@click.argument("name", metavar="NAME")
@click.option(
    "--role", default="submit", show_default=True, metavar="ROLE", help="view, submit, operate or admin."
)
@pass_invocation
def add(invocation: Invocation, name: str, role: str) -> None:
    """Make a bearer token for the HTTP API and print it, once."""
    secret = make_token("t")
    with invocation.client() as client:
        found = client.token_add(name, role, sha256_hex(secret))
    if invocation.as_json:
        output.document({**found, "token": secret})
        return
    output.line(secret)
    output.note(
        f"{output.plain(name)} ({role}); this is shown once. Revoke it with: agentcom token revoke NAME"
    )


@token.command("list")
@pass_invocation
def list_tokens(invocation: Invocation) -> None:
    """List keys and tokens."""
    with invocation.client() as client:
        found = client.token_list()
    if invocation.as_json:
        output.document(found)
        return
    output.table(
        ("NAME", "ROLE", "KIND", "AGE", "EXPIRES", "STATE"),
        [
            (
                each["name"],
                each["role"],
                each["kind"],
                output.since(each.get("created")),
                each.get("expires"),
                "revoked" if each.get("revoked") else "valid",
            )
            for each in found["tokens"]
        ],
        "no tokens",
    )


@token.command()
@click.argument("name", metavar="NAME")
@pass_invocation
def revoke(invocation: Invocation, name: str) -> None:
    """Revoke a token or a key by its name, and end what it has open."""
    with invocation.client() as client:
        found = client.token_revoke(name)
    if invocation.as_json:
        output.document(found)
    else:
        output.line(f"{output.plain(name)} is revoked")


@token.command()
@click.option("--role", metavar="ROLE", help="What the page may do; as much as you by default.")
@pass_invocation
def link(invocation: Invocation, role: str | None) -> None:
    """Print a link that opens the dashboard, once, within ten minutes."""
    dashboard = _dashboard(invocation)
    secret = make_token("l")
    with invocation.client() as client:
        found = client.token_link(sha256_hex(secret), role)
    address = f"{dashboard}/#link={secret}"
    if invocation.as_json:
        output.document({"link": address, **found})
        return
    output.line(address)
    output.note(f"opens once, until {found.get('expires')}")


def _dashboard(invocation: Invocation) -> str:
    """Where the page is: what `up` wrote down, else what the settings say. Only the hub's own home knows."""
    if not (invocation.home.keys / "hub.key").exists():
        raise ConfigError("the dashboard is on the hub's machine: run `agentcom token link` there")
    started = read_start(invocation.home)
    if started is not None and started.http is not None:
        return started.http
    http = config.load(invocation.home.path).http
    return f"{'https' if http.tls_cert else 'http'}://{http.bind}:{http.port}"
