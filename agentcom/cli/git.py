"""`agentcom git`: what the worktrees hold, on this host or by way of the hub on all of them, and clean-up of this one.

`status` asks git on this machine's disk, and no hub, unless other hosts are meant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import click
import msgspec

from agentcom import config
from agentcom.cli import output
from agentcom.cli.command import Group, Invocation, LocalCommand, hub_option, json_option, pass_invocation
from agentcom.model import JsonObject

T = TypeVar("T")
HEADERS = ("WORKTREE", "BRANCH", "AHEAD", "BEHIND", "DIFF", "UNCOMMITTED", "UNPUSHED", "AGE", "MAY GO")


@click.group(cls=Group)
def git() -> None:
    """The worktrees of attempts."""


@git.command(cls=LocalCommand, params=[json_option(), hub_option()])
@click.option("--all", "everywhere", is_flag=True, help="Of all hosts, as they told the hub last.")
@click.option("--host", metavar="NAME", help="Of that host, as it told the hub last.")
@pass_invocation
def status(invocation: Invocation, everywhere: bool, host: str | None) -> None:
    """Show each worktree on this host: branch, commits, changes, and what is nowhere else."""
    if everywhere or host is not None:
        _fleet(invocation, None if everywhere else host)
        return
    from agentcom_sidecar import cleanup, trees

    home = invocation.home.prepare()
    found = _run(trees.look(home, config.load(home.path), cleanup.running(home)))
    rows: list[JsonObject] = [msgspec.to_builtins(each) for each in found]
    if invocation.as_json:
        output.document({"worktrees": rows, "bytes": trees.size_bytes(home)})
    else:
        _table(rows, "no worktrees on this host; those of all hosts: agentcom git status --all")


def _fleet(invocation: Invocation, host: str | None) -> None:
    found: JsonObject = {"worktrees": [], "hosts": []}
    with invocation.client() as client:
        cursor = None
        while True:
            page = client.worktree_list(host, cursor)
            found["worktrees"] += page["worktrees"]
            found["hosts"] += page["hosts"]
            cursor = page["next_cursor"]
            if cursor is None:
                break
    if invocation.as_json:
        output.document(found)
        return
    rows = [(each["host"], *_row(each), f"{output.seconds(each['looked_s'])} ago") for each in found["worktrees"]]
    output.table(("HOST", *HEADERS, "SEEN"), rows, "no host has told of a worktree")
    for each in found["hosts"]:
        if each["age_s"] is None:
            output.line(f"{output.plain(each['host'])} ({each['state']}) has told nothing since the hub started")
        elif each["left_out"]:
            output.line(f"{output.plain(each['host'])} has {each['left_out']} more")


@git.command(cls=LocalCommand, params=[json_option()])
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--older-than", type=click.IntRange(0), metavar="S", help="In seconds; sidecar.keep_worktrees_s by default."
)
@click.option(
    "--unpushed", is_flag=True, help="Also what is uncommitted, or neither pushed nor merged: that work is lost."
)
@pass_invocation
def gc(invocation: Invocation, dry_run: bool, older_than: int | None, unpushed: bool) -> None:
    """Remove worktrees with nothing that is not pushed or merged, and spare ones; pack the mirrors. Branches stay."""
    from agentcom_sidecar import cleanup

    home = invocation.home.prepare()
    settings = config.load(home.path)
    age_s = settings.sidecar.keep_worktrees_s if older_than is None else older_than
    cleaning = cleanup.clean(
        home, settings, cleanup.running(home), older_than_s=age_s, unpushed=unpushed, dry_run=dry_run
    )
    done: JsonObject = msgspec.to_builtins(_run(cleaning))
    if invocation.as_json:
        output.document(done)
        return
    _tell_cleaned(done, age_s, unpushed)


def _tell_cleaned(done: JsonObject, age_s: int, unpushed: bool) -> None:
    removed, kept = done["removed"], done["kept"]
    young = [each for each in kept if _is_too_young(each, age_s, unpushed)]
    for each in young:
        each |= {"removable": True, "goes_in_s": age_s - each["age_s"]}
    _table([{**each, "removable": True, "goes_in_s": 0} for each in removed], "nothing may go")
    _table(kept, "")
    verb = "would go" if done["dry_run"] else "went"
    output.line(f"{len(removed)} {verb}, {len(kept)} stay; {done['bytes'] / (1 << 20):,.1f} MiB in all")
    if done["spares"]:
        noun = "spare worktree" if done["spares"] == 1 else "spare worktrees"
        unused = f": not used for {output.seconds(age_s)}" if age_s else ""
        output.line(f"{done['spares']} {noun} {verb}{unused}")
    if young:
        less = "--older-than S takes a shorter time"
        output.line(f"{len(young)} of them only because they are younger than {output.seconds(age_s)}: {less}")


def _is_too_young(each: JsonObject, age_s: int, unpushed: bool) -> bool:
    """Whether nothing but its age keeps a worktree from what was asked for."""
    may_go = each["removable"] or (unpushed and each["branch"] is not None and not each["in_use"])
    return bool(may_go) and each["age_s"] < age_s


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


def _table(rows: list[JsonObject], empty: str) -> None:
    if rows or empty:
        output.table(HEADERS, [_row(each) for each in rows], empty)


def _row(each: JsonObject) -> tuple[object, ...]:
    numbers = [each[name] for name in ("files_changed", "insertions", "deletions")]
    diff = "" if numbers[0] is None else f"{numbers[0]} files +{numbers[1]} -{numbers[2]}"
    told = [("" if each[name] is None else each[name]) for name in ("ahead", "behind")]
    left = [("" if each[name] is None else each[name]) for name in ("uncommitted", "unpushed")]
    return (each["name"], each["branch"] or "", *told, diff, *left, output.seconds(each["age_s"]), _may_go(each))


def _may_go(each: JsonObject) -> str:
    """Whether it goes by itself, and when. A host that does not say when is told of as if it were now."""
    word = "no"
    if each["removable"]:
        word = f"in {output.seconds(each['goes_in_s'])}" if each.get("goes_in_s") else "yes"
    return f"{word}: {each['why']}"
