"""`agentcom queue`: pause, resume, stats, limits and weights."""

from __future__ import annotations

from collections.abc import Callable

import click

from agentcom import limits
from agentcom.cli import output, storage
from agentcom.cli.command import Group, Invocation, out_of_range, pass_invocation
from agentcom.client import Client
from agentcom.model import JsonObject

# What is kept, and the setting that bounds it.
KEPT = {"tasks": "tasks_max", "results": "reports_max", "notes": "stories_max", "events": "events_max"}


@click.group(cls=Group)
def queue() -> None:
    """The queue as a whole."""


def _where(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--host", metavar="NAME", help="Only the agents of this host."),
        click.option("--tier", metavar="TIER", help="Only tasks of this tier."),
        click.option("--repo", metavar="URL", help="Only tasks of this repository."),
    ):
        command = option(command)
    return command


def _set(invocation: Invocation, paused: bool, **where: str | None) -> None:
    given = {name: value for name, value in where.items() if value is not None}
    if len(given) > 1:
        raise click.UsageError(f"give one of --{', --'.join(given)}")
    with invocation.client() as client:
        found = client.queue_pause(paused, **given)
    if invocation.as_json:
        output.document(found)
        return
    for name, value in given.items():
        output.line(f"{name} {value}: {'paused, none of its tasks is started' if paused else 'resumed'}")
    _say_paused(found)


def _say_paused(found: JsonObject) -> None:
    output.line("paused: tasks are taken in, none is started" if found.get("paused") else "running")
    for key in found.get("pauses") or []:
        output.line(f"  paused: {key}")


@queue.command()
@_where
@pass_invocation
def pause(invocation: Invocation, repo: str | None, tier: str | None, host: str | None) -> None:
    """Start no more tasks; submits go on. Survives a restart."""
    _set(invocation, True, repo=repo, tier=tier, host=host)


@queue.command()
@_where
@pass_invocation
def resume(invocation: Invocation, repo: str | None, tier: str | None, host: str | None) -> None:
    """Start tasks again."""
    _set(invocation, False, repo=repo, tier=tier, host=host)


@queue.command()
@pass_invocation
def stats(invocation: Invocation) -> None:
    """Count tasks by state and lane, and agents by state; say how the store is."""
    with invocation.client() as client:
        found = client.queue_stats()
    if invocation.as_json:
        output.document(found)
        return
    _say_paused(found)
    for title, part in (("tasks", "by_state"), ("not over, by lane", "by_lane"), ("agents", "agents")):
        counts = ", ".join(f"{name} {count}" for name, count in (found.get(part) or {}).items() if count)
        output.line(f"  {title}: {counts or 'none'}")
    kept = found.get("retention")
    if kept:
        shown = ", ".join(f"{name} {kept[name]} of {kept[most]}" for name, most in KEPT.items())
        output.line(
            f"  kept of what is over: {shown}; {kept['retired_since_start']} tasks have gone since the start"
        )
    for name, why in ((found.get("settings") or {}).get("ignored") or {}).items():
        output.line(f"  {name} was set and does not apply: {output.plain(why)}")
    storage.show(found)


@queue.group(cls=Group)
def limit() -> None:
    """How many tasks may run at once, by repository, label or endpoint."""


@queue.group(cls=Group)
def weight() -> None:
    """How large a share of the starts a submitter or a repository gets."""


def _change(invocation: Invocation, ask: Callable[[Client], JsonObject]) -> None:
    with invocation.client() as client:
        found = ask(client)
    if invocation.as_json:
        output.document(found)
    elif found.get("number") is None:
        output.line(f"{found.get('key')}: taken back")
    else:
        output.line(f"{found.get('key')}: {found['number']}")


def _list(invocation: Invocation, kind: str, empty: str) -> None:
    with invocation.client() as client:
        found = client.queue_rules()
    if invocation.as_json:
        output.document({kind: found[kind]})
        return
    with_running = kind == "limits"
    output.table(
        ("KEY", "NUMBER", *(("RUNNING",) if with_running else ()), "SET BY", "SINCE"),
        [
            (
                each["key"],
                each["number"],
                *((each["running"],) if with_running else ()),
                each.get("set_by") or "",
                output.since(each.get("set_at")),
            )
            for each in found[kind]
        ],
        empty,
    )


@limit.command("set")
@click.argument("key", metavar="KEY")
@click.argument("number", metavar="N", type=int)
@pass_invocation
def set_limit(invocation: Invocation, key: str, number: int) -> None:
    """Let at most N run at once. KEY is repo:URL, label:LABEL or endpoint:NAME."""
    if not 1 <= number <= limits.QUEUE_LIMIT_MAX:
        allowed = f"it is from 1 to {limits.QUEUE_LIMIT_MAX}"
        remedy = f"to have none: agentcom queue limit unset {key}; to start nothing: agentcom queue pause"
        raise out_of_range("N", f"{number} is no limit: {allowed}; {remedy}")
    _change(invocation, lambda client: client.queue_limit(key, number))


@limit.command("unset")
@click.argument("key", metavar="KEY")
@pass_invocation
def unset_limit(invocation: Invocation, key: str) -> None:
    """Take a limit back."""
    _change(invocation, lambda client: client.queue_limit(key, None))


@limit.command("list")
@pass_invocation
def list_limits(invocation: Invocation) -> None:
    """List limits and what runs under each."""
    _list(invocation, "limits", "no limits; set one with: agentcom queue limit set KEY N")


@weight.command("set")
@click.argument("key", metavar="KEY")
@click.argument("number", metavar="N", type=int)
@pass_invocation
def set_weight(invocation: Invocation, key: str, number: int) -> None:
    """Give N shares, where others have 1. KEY is submitter:NAME or repo:URL."""
    if not 1 <= number <= limits.QUEUE_WEIGHT_MAX:
        allowed = f"it is from 1 to {limits.QUEUE_WEIGHT_MAX}"
        remedy = f"to have one share: agentcom queue weight unset {key}"
        raise out_of_range("N", f"{number} is no weight: {allowed}; {remedy}")
    _change(invocation, lambda client: client.queue_weight(key, number))


@weight.command("unset")
@click.argument("key", metavar="KEY")
@pass_invocation
def unset_weight(invocation: Invocation, key: str) -> None:
    """Give one share again."""
    _change(invocation, lambda client: client.queue_weight(key, None))


@weight.command("list")
@pass_invocation
def list_weights(invocation: Invocation) -> None:
    """List weights that are not 1."""
    _list(invocation, "weights", "no weights; all have the same share")
