"""`agentcom dead`: the dead letters (dead, expired, cancelled): list, retry, purge, singly and in bulk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import click

from agentcom import limits
from agentcom.cli import output
from agentcom.cli.command import Group, Invocation, pass_invocation, task_number
from agentcom.model import JsonObject

F = TypeVar("F", bound=Callable[..., Any])
PAGES_MAX = 50  # a page may be short, so a list asks on; the bound keeps a search for nothing finite
task_ids = click.argument("task_ids", type=task_number, nargs=-1, metavar="[ID]...")
all_option = click.option("--all", "every", is_flag=True, help="All of them.")


def letters(command: F) -> F:
    """The options that say which dead letters are meant."""
    for option in reversed(
        (
            click.option("--state", metavar="STATE", help="dead, expired or cancelled."),
            click.option("--code", metavar="CODE", help="The reason, as worker_lost or ttl."),
            click.option("--repo", metavar="URL", help="Of this repository."),
            click.option("--label", metavar="LABEL", help="With this label."),
            click.option(
                "--older-than", "older_than_s", type=int, metavar="S", help="Ended that many seconds ago."
            ),
        )
    ):
        command = option(command)
    return command


@click.group(cls=Group)
def dead() -> None:
    """Tasks that ended without a result: dead, expired or cancelled."""


@dead.command("list")
@letters
@click.option("--limit", type=click.IntRange(1, limits.PAGE_MAX), default=50, show_default=True)
@click.option("--cursor", type=int, help="Where the list before ended.")
@pass_invocation
def list_dead(invocation: Invocation, /, limit: int, cursor: int | None, **fields: Any) -> None:
    """List dead letters with the reason, newest first."""
    with invocation.client() as client:
        found = _collect(client, limit, cursor, fields)
    if invocation.as_json:
        output.document(found)
        return
    output.table(
        ("ID", "STATE", "TIER", "ATTEMPTS", "AGE", "CODE", "REASON", "DESCRIPTION"),
        [_row(each) for each in found["tasks"]],
        "no dead letters",
    )
    if found.get("next_cursor") is not None:
        output.note(f"more with: --cursor {found['next_cursor']}")


def _collect(client: Any, limit: int, cursor: int | None, fields: JsonObject) -> JsonObject:
    tasks: list[JsonObject] = []
    for _ in range(PAGES_MAX):
        page = client.dead_list(cursor=cursor, limit=limit - len(tasks), **fields)
        tasks += page["tasks"]
        cursor = page["next_cursor"]
        if cursor is None or len(tasks) >= limit:
            break
    return {"tasks": tasks, "next_cursor": cursor}


def _row(each: JsonObject) -> tuple[Any, ...]:
    error = each.get("error") or {}
    return (
        each["id"],
        each["state"],
        each["tier"],
        each["attempt"],
        output.since(each.get("finished_at")),
        error.get("code", ""),
        (error.get("message") or "")[:80],
        each["description"].split("\n", 1)[0],
    )


def _chosen(task_ids: tuple[int, ...], every: bool, fields: JsonObject) -> JsonObject:
    """The fields of the request. An empty choice must not mean every dead letter."""
    given = {name: value for name, value in fields.items() if value is not None}
    if bool(task_ids) == (every or bool(given)):
        raise click.UsageError(
            "name the tasks, or say which by --all or by --state, --code, --repo and so on"
        )
    return given


def _in_bulk(
    call: Callable[..., JsonObject], task_ids: tuple[int, ...], given: JsonObject
) -> Iterator[JsonObject]:
    """The answers, one per thousand tasks."""
    answer = call(task_ids, **given)
    yield answer
    while answer.get("next_cursor") is not None:
        answer = call((), **given, cursor=answer["next_cursor"])
        yield answer


@dead.command()
@task_ids
@all_option
@letters
@pass_invocation
def retry(invocation: Invocation, /, task_ids: tuple[int, ...], every: bool, **fields: Any) -> None:
    """Put dead letters back into their lanes with fresh counters."""
    given = _chosen(task_ids, every, fields)
    with invocation.client() as client:
        tasks = [task for answer in _in_bulk(client.dead_retry, task_ids, given) for task in answer["tasks"]]
    if invocation.as_json:
        output.document({"tasks": tasks})
    else:
        output.line(f"{len(tasks)} back in the queue: {', '.join(map(str, tasks)) or 'none'}")


@dead.command()
@task_ids
@all_option
@letters
@pass_invocation
def purge(invocation: Invocation, /, task_ids: tuple[int, ...], every: bool, **fields: Any) -> None:
    """Remove dead letters for good."""
    given = _chosen(task_ids, every, fields)
    with invocation.client() as client:
        answers = list(_in_bulk(client.dead_purge, task_ids, given))
    purged = sum(answer["purged"] for answer in answers)
    kept = [task for answer in answers for task in answer.get("kept", ())]
    if invocation.as_json:
        output.document({"purged": purged, "kept": kept})
        return
    output.line(f"{purged} removed")
    if kept:
        output.note(f"kept, because other tasks wait for them: {', '.join(map(str, kept))}")
