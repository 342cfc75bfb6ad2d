"""`agentcom events`: what the hub keeps of what has happened, newest first."""

from __future__ import annotations

import click

from agentcom import limits
from agentcom.cli import output
from agentcom.cli.command import HubCommand, Invocation, pass_invocation
from agentcom.client import Client
from agentcom.core.outlet import KEPT
from agentcom.model import JsonObject
from agentcom.operations import EventTopic

TOPIC = click.Choice([topic.value for topic in EventTopic])
EVENT = click.Choice(sorted(KEPT))
PAGES_MAX = 50  # a page may be short, so a search asks on; the bound keeps a search for nothing finite
SHOWN = ("number", "at", "topic", "event")


@click.command(cls=HubCommand)
@click.option("--topic", type=TOPIC, metavar="TOPIC", help="task, agent, host, endpoint, queue or hub.")
@click.option("--event", type=EVENT, metavar="NAME", help="Only events of this name, as host_offline.")
@click.option("--limit", type=click.IntRange(1, limits.PAGE_MAX), default=50, show_default=True)
@click.option("--cursor", type=int, help="Where the list before ended.")
@pass_invocation
def events(invocation: Invocation, topic: str | None, event: str | None, limit: int, cursor: int | None) -> None:
    """Tell what has happened: hosts, endpoints, settings, dead tasks, backups, alarms."""
    with invocation.client() as client:
        found = _collect(client, topic, event or "", limit, cursor)
    if invocation.as_json:
        output.document(found)
        return
    output.table(
        ("AT", "EVENT", "WHAT"),
        [(each["at"], each["event"], _what(each)) for each in found["events"]],
        "no such events are kept",
    )
    if found["next_cursor"] is not None:
        output.note(f"more with: --cursor {found['next_cursor']}")


def _collect(client: Client, topic: str | None, event: str, limit: int, cursor: int | None) -> JsonObject:
    found: list[JsonObject] = []
    for _ in range(PAGES_MAX):
        page = client.event_list(topic=topic, event=event, cursor=cursor, limit=limit - len(found))
        found += page["events"]
        cursor = page["next_cursor"]
        if cursor is None or len(found) >= limit:
            break
    return {"events": found, "next_cursor": cursor}


def _what(event: JsonObject) -> str:
    """The event's own fields."""
    own = {name: "none" if value is None else value for name, value in event.items() if name not in SHOWN}
    return ", ".join(f"{name} {value}" for name, value in own.items())
