"""`agentcom backup`: now, list, verify, restore, acknowledge; `agentcom compact`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from agentcom import config
from agentcom.cli import backups_here, output
from agentcom.cli.command import Group, HubCommand, Invocation, LocalCommand, json_option, pass_invocation
from agentcom.errors import NotFound, Refused, StoreError, StoreLocked
from agentcom.model import JsonObject
from agentcom.supervisor import hub_pid

ONLY_A_HUB_KNOWS = "how many are kept and when the next is due is known when the hub runs"
NO_USE = "no restore takes this backup; the others are as they were, and `agentcom backup now` makes a new one"
OF_NEWER = "of a newer version"
NO_HUB = "no hub runs on this home: this is what its files say"
no_wait = click.option("--no-wait", is_flag=True, help="Only begin it; `backup list` tells its end.")


class LocalJsonCommand(LocalCommand):
    """A command that works on the files of this home: takes --json and --debug, asks no hub."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.params.insert(0, json_option())


@click.group(cls=Group)
def backup() -> None:
    """Backups of the hub's store: made by themselves on a schedule, and here by hand."""


@backup.command("now")
@no_wait
@pass_invocation
def now(invocation: Invocation, no_wait: bool) -> None:
    """Back up the store and verify the copy."""
    with invocation.client() as client:
        chore = client.backup_now(0) if no_wait else client.backup_now()
    if _ended(invocation, chore):
        output.line(_came_to(chore))


@backup.command("list")
@pass_invocation
def list_backups(invocation: Invocation) -> None:
    """List the backups, the newest first, when the next one is due, and how work on the store has ended."""
    stopped = backups_here.is_stopped(invocation)
    found = backups_here.backups_here(invocation.home) if stopped else _listed(invocation)
    if invocation.as_json:
        output.document(found)
        return
    output.table(
        ("NAME", "AGE", "SIZE", "ROWS", "BATCH", "STATE"),
        [
            (
                one["name"],
                output.since(one["time"]),
                output.size(one["bytes"]),
                one["rows"],
                one["sequence"],
                _state(one),
            )
            for one in found["backups"]
        ],
        output.plain(found["unreadable"] or "no backups yet"),
    )
    if stopped:
        output.line(f"in {found['folder']}; {ONLY_A_HUB_KNOWS}")
        output.note(NO_HUB)
    else:
        output.line(f"kept: {found['keep']}, in {found['folder']}; next: {found['next'] or 'by hand only'}")
    chores = found["chores"]
    if found["error"] and found["error"] not in [one["error"]["message"] for one in chores if one["error"]]:
        output.line(f"the last one failed: {output.plain(found['error'])}")
    output.pairs([(f"{one['kind']} {one['number']}", _told(one)) for one in chores])


def _listed(invocation: Invocation) -> JsonObject:
    with invocation.client() as client:
        return client.backup_list()


def _state(one: JsonObject) -> str:
    if one["verified"]:
        return f"verified, {one['condition']}"
    return {"damaged": "damaged", "newer": OF_NEWER}.get(one["condition"], "not verified")


@backup.command()
@click.argument("name", required=False)
@no_wait
@pass_invocation
def verify(invocation: Invocation, name: str | None, no_wait: bool) -> int:
    """Check a backup, the newest by default, as thoroughly as a store at start; exits with 1 if it does not pass."""
    if backups_here.is_stopped(invocation):
        wanted = name or _newest(backups_here.backups_here(invocation.home))
        chore = backups_here.verified_here(invocation.home, wanted)
    else:
        with invocation.client() as client:
            wanted = name or _newest(client.backup_list())
            chore = client.backup_verify(wanted, 0) if no_wait else client.backup_verify(wanted)
    if not _ended(invocation, chore):
        return int(chore["state"] == "done" and not chore["result"]["passes"])
    output.line(_came_to(chore))
    for problem in chore["result"]["problems"]:
        output.line(f"  {output.plain(problem)}")
    if chore["result"]["condition"] == "damaged":
        output.line(f"  {NO_USE}")
    return int(not chore["result"]["passes"])


def _newest(found: JsonObject) -> str:
    if found["unreadable"]:
        raise StoreError(found["unreadable"])
    if not found["backups"]:
        raise NotFound("there is no backup yet; make one by `agentcom backup now`")
    return str(found["backups"][0]["name"])


@backup.command("restore", cls=LocalJsonCommand)
@click.argument("name", required=False)
@click.option("--without-journal", is_flag=True, help="Go back to the backup itself; later batches are set aside.")
@pass_invocation
def restore_backup(invocation: Invocation, name: str | None, without_journal: bool) -> None:
    """Put a backup, the newest that passes by default, in the place of this home's store, brought forward by the
    journal. The hub must not run. The old file is set aside, never deleted."""
    from agentcom.store.doubts import Doubts
    from agentcom.store.restore import restore
    from agentcom.store.start import StorePaths, note_going_back

    home = invocation.home.check()
    settings = config.load(home.path)
    paths = StorePaths.of_home(home.path, settings.backups.folder)
    running = hub_pid(home)
    if running is not None:
        raise _hub_runs(home.path, running)
    if name is None and without_journal:
        backups_here.require_one(paths)
    chosen = str(backups_here.backup_named(paths.backups, name)) if name is not None else None
    try:
        report = restore(
            paths.store,
            paths.backups,
            paths.journal,
            chosen=chosen,
            replay=not without_journal,
            map_bytes=settings.hub.map_bytes,
        )
    except StoreLocked:
        raise _hub_runs(home.path, hub_pid(home)) from None
    Doubts(paths.store).add(report.uncertain)
    if without_journal:
        note_going_back(paths.store, report.sequence)
    if invocation.as_json:
        output.document(msgspec.to_builtins(report))
        return
    source = Path(report.backup).name if report.backup else "the journal alone"
    output.line(f"restored from {source}: batch {report.sequence}, {report.replayed} batches from the journal")
    if report.quarantined:
        output.line(f"  the old file is {report.quarantined}")
    for text in report.rejected:
        output.line(f"  not taken: {output.plain(text)}")
    for text in report.uncertain:
        output.line(f"  uncertain: {output.plain(text)}")


def _hub_runs(home: Path, pid: int | None) -> Refused:
    who = f"process {pid}" if pid else "another process"
    return Refused(
        "hub_running",
        f"a hub runs on {home} ({who}): stop `agentcom up` or `agentcom hub` there first, then restore, then start it",
    )


@backup.command()
@pass_invocation
def acknowledge(invocation: Invocation) -> None:
    """Say that you have seen what a start or a restore did and what it could not save: neither is news any more."""
    with invocation.client() as client:
        seen = client.store_acknowledge()
    if invocation.as_json:
        output.document(seen)
        return
    for one in seen["acknowledged"]:
        output.line(f"  {one['at']}  {output.plain(one['text'])}")
    count, repairs = len(seen["acknowledged"]), seen["repairs"]
    told = [f"{count} acknowledged"] * bool(count) + [f"restores seen: {repairs}"] * bool(repairs)
    output.line(", ".join(told) or "nothing is uncertain")


@click.command(cls=HubCommand)
@click.option("--dry-run", is_flag=True, help="Only say what it would free.")
@no_wait
@pass_invocation
def compact(invocation: Invocation, dry_run: bool, no_wait: bool) -> None:
    """Put a compact copy in the place of the store's file. The hub goes on, but for a second at most at the end."""
    with invocation.client() as client:
        store = client.hub_status()["store"]
        free, of = store["compaction"]["would_free_bytes"], store["file_bytes"]
        if dry_run or not invocation.as_json:
            would = {"would_free_bytes": free, "file_bytes": of}
            text = f"it would free about {output.size(free) or '0 KiB'} of {output.size(of)}"
            output.document(would) if invocation.as_json else output.line(text)
        if dry_run:
            return
        chore = client.compact(0) if no_wait else client.compact()
    if _ended(invocation, chore):
        output.line(_came_to(chore))


def _told(chore: JsonObject) -> str:
    """Of work on the store: that it is under way, or how it ended, when, and with what."""
    by_itself = ", by itself" if chore["by_itself"] else ""
    if chore["state"] == "running":
        return f"under way, begun {output.moment(chore['started'])}{by_itself}"
    ended, begun = output.moment(chore["ended"]), f"begun {output.moment(chore['started'])}"
    when = (ended or begun) + by_itself
    if chore["state"] == "failed":
        return f"failed, {when}: {chore['error']['message']}"
    problems = chore["result"].get("problems") or []
    how = "ok" if chore["result"].get("passes", True) else "not passed"
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{how}, {when}: {_came_to(chore)}" + (f"; {problems[0]}{more}" if problems else "")


def _came_to(chore: JsonObject) -> str:
    """What work on the store that has ended well came to, in a line."""
    result = chore["result"]
    if chore["kind"] == "compact":
        sizes = f"{output.size(result['before_bytes'])} before, {output.size(result['after_bytes'])} now"
        return f"{sizes}; the hub stood still for {result['stopped_ms']} ms"
    if chore["kind"] == "verify":
        if result["condition"] == "newer":
            return f"{result['name']}: {OF_NEWER}"
        return f"{result['name']}: {', '.join(_found(result))}"
    size = output.size(result["bytes"])
    return f"{result['name']}: {size}, {result['rows']} rows, batch {result['sequence']}, verified"


def _found(result: JsonObject) -> list[str]:
    """What a check of a backup found, without the figures that it could not read."""
    found = [result["condition"]]
    if result["rows"] is not None:
        found.append(f"{sum(result['rows'].values())} rows")
    if result["sequence"] is not None:
        found.append(f"batch {result['sequence']}")
    return found


def _ended(invocation: Invocation, chore: JsonObject) -> bool:
    """Whether it ended well and a person wants to read of it; a failed one is an error."""
    if chore["state"] == "failed":
        error = chore["error"]
        raise StoreError(error["message"], code=error["code"])
    if invocation.as_json:
        output.document(chore)
    elif chore["state"] == "running":
        output.line(f"{chore['kind']} {chore['number']} has begun; see `agentcom backup list`")
    return chore["state"] == "done" and not invocation.as_json


