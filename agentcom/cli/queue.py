"""`agentcom queue`: pause, resume, stats."""

from __future__ import annotations

import click

from agentcom.cli import output
from agentcom.cli.command import Group, Invocation, pass_invocation


@click.group(cls=Group)
def queue() -> None:
    """The queue as a whole."""


def _set(invocation: Invocation, paused: bool) -> None:
    with invocation.client() as client:
        found = client.queue_pause(paused)
    if invocation.as_json:
        output.document(found)
    else:
        output.line("paused: tasks are taken in, none is started" if paused else "running")


@queue.command()
@pass_invocation
def pause(invocation: Invocation) -> None:
    """Start no more tasks; submits go on. Survives a restart."""
    _set(invocation, True)


@queue.command()
@pass_invocation
def resume(invocation: Invocation) -> None:
    """Start tasks again."""
    _set(invocation, False)


@queue.command()
@pass_invocation
def stats(invocation: Invocation) -> None:
    """Count tasks by state and lane, and agents by state."""
    with invocation.client() as client:
        found = client.queue_stats()
    if invocation.as_json:
        output.document(found)
        return
    output.line("paused" if found.get("paused") else "running")
    for title, part in (("tasks", "by_state"), ("ready in lane", "by_lane"), ("agents", "agents")):
        counts = ", ".join(f"{name} {count}" for name, count in (found.get(part) or {}).items() if count)
        output.line(f"  {title}: {counts or 'none'}")
    if found.get("oldest_ready_s") is not None:
        output.line(f"  the oldest ready task waits since {output.seconds(found['oldest_ready_s'])}")
