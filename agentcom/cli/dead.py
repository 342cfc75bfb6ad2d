"""`agentcom dead`: the dead letters: list, retry, purge."""

from __future__ import annotations

import click

from agentcom import limits
from agentcom.cli import output
from agentcom.cli.command import Group, Invocation, pass_invocation

task_ids = click.argument("task_ids", type=click.IntRange(min=1), nargs=-1, metavar="[ID]...")
all_option = click.option("--all", "every", is_flag=True, help="All of them, at most 1,000 at once.")


@click.group(cls=Group)
def dead() -> None:
    """Tasks that used up their retries."""


@dead.command("list")
@click.option("--limit", type=click.IntRange(1, limits.PAGE_MAX), default=50, show_default=True)
@click.option("--cursor", type=int, help="Where the list before ended.")
@pass_invocation
def list_dead(invocation: Invocation, limit: int, cursor: int | None) -> None:
    """List dead tasks with the reason."""
    with invocation.client() as client:
        found = client.dead_list(cursor=cursor, limit=limit)
    if invocation.as_json:
        output.document(found)
        return
    output.table(
        ("ID", "TIER", "ATTEMPTS", "AGE", "REASON", "DESCRIPTION"),
        [
            (
                each["id"],
                each["tier"],
                each["attempt"],
                output.since(each.get("finished_at")),
                ((each.get("error") or {}).get("message") or "")[:80],
                each["description"].split("\n", 1)[0],
            )
            for each in found["tasks"]
        ],
        "no dead tasks",
    )
    if found.get("next_cursor") is not None:
        output.note(f"more with: --cursor {found['next_cursor']}")


def _named(task_ids: tuple[int, ...], every: bool) -> tuple[int, ...]:
    if bool(task_ids) == every:
        raise click.UsageError("name the tasks, or give --all")
    return task_ids


@dead.command()
@task_ids
@all_option
@pass_invocation
def retry(invocation: Invocation, task_ids: tuple[int, ...], every: bool) -> None:
    """Put dead tasks back into their lanes with fresh counters."""
    with invocation.client() as client:
        found = client.dead_retry(_named(task_ids, every))
    if invocation.as_json:
        output.document(found)
    else:
        output.line(
            f"{len(found['tasks'])} back in the queue: {', '.join(map(str, found['tasks'])) or 'none'}"
        )


@dead.command()
@task_ids
@all_option
@pass_invocation
def purge(invocation: Invocation, task_ids: tuple[int, ...], every: bool) -> None:
    """Remove dead tasks for good."""
    with invocation.client() as client:
        found = client.dead_purge(_named(task_ids, every))
    if invocation.as_json:
        output.document(found)
    else:
        output.line(f"{found['purged']} removed")
