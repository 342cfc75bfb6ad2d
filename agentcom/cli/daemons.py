"""`agentcom hub`, `sidecar`, `web`: one daemon in the foreground; `agentcom up`: all three, supervised."""

from __future__ import annotations

import click

from agentcom import config, lifeline
from agentcom.cli.command import Invocation, LocalCommand, pass_invocation
from agentcom.cli.up import up
from agentcom.config import Home, Settings


def _prepared(invocation: Invocation) -> tuple[Home, Settings]:
    """The home and its settings; a daemon started by a supervisor ends with it from here on."""
    lifeline.follow_parent()
    home = invocation.home.prepare()
    return home, config.load(home.path)


@click.command(cls=LocalCommand)
@pass_invocation
def hub(invocation: Invocation) -> int:
    """Run the hub in the foreground."""
    home, settings = _prepared(invocation)
    from agentcom import hub_daemon

    return hub_daemon.main(home, settings)


@click.command(cls=LocalCommand)
@pass_invocation
def sidecar(invocation: Invocation) -> int:
    """Run this host's sidecar in the foreground; the home must have joined a hub."""
    home, settings = _prepared(invocation)
    from agentcom_sidecar import daemon

    return daemon.main(home, settings)


@click.command(cls=LocalCommand)
@pass_invocation
def web(invocation: Invocation) -> int:
    """Run the dashboard and the HTTP API in the foreground, beside the hub."""
    home, settings = _prepared(invocation)
    from agentcom_web import server

    return server.main(home, settings)


COMMANDS = (up, hub, sidecar, web)
