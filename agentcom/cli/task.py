"""`agentcom task`: list, show, why, story, log, cancel, retry, hold, release."""

from __future__ import annotations

import sys
from typing import Any

import click

from agentcom import limits
from agentcom.cli import output
from agentcom.cli import why as explained
from agentcom.cli.command import Group, Invocation, pass_invocation, task_number
from agentcom.cli.verify_report import GONE, verify_report
from agentcom.client import Client
from agentcom.model import JsonObject

PAGES_MAX = 50  # a page may be short, so a list asks on; the bound keeps a search for nothing finite

task_id = click.argument("task_id", type=task_number, metavar="ID")


@click.group(cls=Group)
def task() -> None:
    """Look at tasks and steer them."""


@task.command("list")
@click.option(
    "--state", metavar="STATE", help="waiting, delayed, ready, assigned, working, held, completed, ..."
)
@click.option("--lane", metavar="LANE", help="urgent, high, normal or low.")
@click.option("--tier", metavar="TIER", help="trivial, standard or complex.")
@click.option("--repo", metavar="URL")
@click.option("--label", metavar="LABEL")
@click.option("--limit", type=click.IntRange(1, limits.PAGE_MAX), default=50, show_default=True)
@click.option("--cursor", type=int, help="Where the list before ended.")
@pass_invocation
def list_tasks(invocation: Invocation, /, limit: int, cursor: int | None, **filters: str | None) -> None:
    """List tasks, newest first."""
    with invocation.client() as client:
        found = _collect(client, limit, cursor, filters)
    if invocation.as_json:
        output.document(found)
        return
    output.table(
        ("ID", "STATE", "LANE", "TIER", "RESULT", "AGENT", "AGE", "DESCRIPTION"),
        [row(each) for each in found["tasks"]],
        "no tasks; add one with: agentcom submit TEXT",
    )
    if found["next_cursor"] is not None:
        output.note(f"more with: --cursor {found['next_cursor']}")


def _collect(client: Client, limit: int, cursor: int | None, filters: dict[str, Any]) -> JsonObject:
    tasks: list[JsonObject] = []
    for _ in range(PAGES_MAX):
        page = client.task_list(cursor=cursor, limit=limit - len(tasks), **filters)
        tasks += page["tasks"]
        cursor = page["next_cursor"]
        if cursor is None or len(tasks) >= limit:
            break
    return {"tasks": tasks, "next_cursor": cursor}


def row(found: JsonObject) -> tuple[Any, ...]:
    """A task, whole or brief, as a line of a table."""
    result, route = found.get("result") or {}, found.get("route") or {}
    return (
        found["id"],
        f"{found['state']}, stalled" if found.get("stalled") else found["state"],
        found["lane"],
        found["tier"],
        (
            result.get("status") or found.get("status")
            if found["state"] == "completed"
            else (found.get("error") or {}).get("code", "")
        ),
        route.get("agent") or found.get("agent") or "",
        output.since(found.get("created_at")),
        found["description"].split("\n", 1)[0],
    )


@task.command()
@task_id
@pass_invocation
def show(invocation: Invocation, task_id: int) -> None:
    """Show all of a task: its state, its times, its route, its result with every check."""
    with invocation.client() as client:
        found = client.task_get(task_id)
    show_task(invocation, found)


def show_task(invocation: Invocation, found: JsonObject) -> None:
    """Print a task, as JSON or for people."""
    if invocation.as_json:
        output.document(found)
        return
    is_completed = found["state"] == "completed"
    status = (found.get("result") or {}).get("status") or (found.get("status") if is_completed else None)
    mark = output.coloured(found["state"]) + (", stalled" if found.get("stalled") else "")
    mark += f" {output.coloured(status)}" if status else ""
    output.line(f"task {found['id']}  {mark}")
    output.block(found["description"])
    output.pairs(
        [
            ("lane", found["lane"]),
            ("tier", f"{found['tier']} ({found['tier_source']}; looks {found['inferred_tier']})"),
            ("repo", found.get("repo")),
            ("branch", found.get("branch")),
            ("files", ", ".join(each["path"] for each in found.get("files") or [])),
            ("criteria", "; ".join(found.get("success_criteria") or [])),
            ("checks", ", ".join(_check(each) for each in found.get("checks") or [])),
            ("attempt", found.get("attempt")),
            ("retries used", found.get("retries_used")),
            ("losses", found.get("losses")),
            ("created", output.moment(found.get("created_at"))),
            ("not before", output.moment(found.get("not_before"))),
            ("start by", output.moment(found.get("start_by"))),
            ("complete by", output.moment(found.get("complete_by"))),
            ("ttl", _ttl(found.get("ttl_s"))),
            ("expires", _expires(found)),
            ("assigned", output.moment(found.get("assigned_at"))),
            ("finished", output.moment(found.get("finished_at"))),
            ("labels", ", ".join(found.get("labels") or [])),
            ("story", _shortened(found.get("story_shortened"))),
        ]
    )
    _show_route(found.get("route"))
    _show_look(found.get("second_look"))
    _show_error(found.get("error"), found.get("retry_at"))
    if is_completed and not found.get("result"):
        output.line(f"  result: {GONE}")
    _show_result(found.get("result"))


def _check(check: JsonObject) -> str:
    return f"{check['kind']}={check['target']}" if check.get("target") else str(check["kind"])


def _show_route(route: JsonObject | None) -> None:
    if route:
        at = f" at {route['endpoint']}" if route.get("endpoint") else ""
        text = f"{route['strategy']} -> {route['agent']} on {route['host']}, {route['backend']} {route['model']}{at}"
        output.line(f"  route: {output.plain(text)} ({output.plain(route['reason'])})")


def _expires(found: JsonObject) -> str:
    """When it expires; work that runs then may end."""
    at = output.moment(found.get("expires_at"))
    return f"{at}; not while it runs" if at and found["state"] in ("assigned", "working") else at


def _ttl(ttl_s: int | None) -> str:
    """As it was given, and in the largest unit where that is another."""
    if ttl_s is None:
        return ""
    return f"{ttl_s} s ({output.seconds(ttl_s)})" if ttl_s >= 120 else f"{ttl_s} s"


def _show_error(error: JsonObject | None, retry_at: str | None) -> None:
    """What went wrong last; while the task waits for its next try, when that is."""
    if not error:
        return
    kind = "/".join(str(error[part]) for part in ("class", "code") if error.get(part))
    said = f"{kind}: {output.plain(error['message'])}"
    if retry_at:
        output.line(f"  {output.coloured('retry', 'yellow')}: {output.moment(retry_at)}, because {said}")
    else:
        output.line(f"  {output.coloured('error', 'red')}: {said}")


_EVIDENCE = {
    "red_to_green": "red to green: what failed on the base passes now",
    "green_to_green": "green to green: all passed on the base as well, so this is no new evidence",
    "red_to_red": "red to red: what failed on the base fails still",
    "green_to_red": "green to red: what passed on the base fails now",
}


def _also(check: JsonObject) -> str:
    """What the check said before the work, where that differs, and where it was run twice the second verdict."""
    other = []
    if check.get("before") not in (None, check["status"]):
        other.append(f"{check['before']} on the base")
    if check.get("with_base") is not None:
        other.append(f"{check['with_base']} with the tests of the base")
    return f" ({', '.join(other)})" if other else ""


def _show_result(result: JsonObject | None) -> None:
    if not result:
        return
    cost = "unknown cost" if result.get("cost_usd") is None else f"{result['cost_usd']:.4f} USD"
    tokens = f"{result.get('tokens_in', 0)} tokens in, {result.get('tokens_out', 0)} out"
    took = output.seconds(result.get("duration_ms", 0) / 1000)
    output.line(
        f"  result: {output.coloured(result['status'] or 'not completed')} in {took}, {tokens}, {cost}"
    )
    output.pairs(
        [(name, result.get(name)) for name in ("branch", "commit", "pull_request", "sandbox")]
        + [("evidence", _EVIDENCE.get(result.get("evidence") or "", ""))]
        + [("changed tests or settings", ", ".join(result.get("tampered") or []))]
        + [("report", signed_by(result.get("signature")))]
        + [("warnings", "; ".join(result.get("warnings") or []))]
    )
    _show_second(result.get("second_host"))
    for iteration in result.get("iterations") or []:
        for check in iteration["checks"]:
            mark = output.coloured(str(check["status"]))
            output.line(f"    {iteration['n']}. {mark} {output.plain(_check(check))}{_also(check)}")
            is_good = check["status"] == "pass" and check.get("with_base") in (None, "pass")
            if not is_good and check.get("output"):
                output.block(check["output"], "         ")
        if iteration.get("judgement"):
            output.line(f"    {iteration['n']}. {output.plain(_judged(iteration['judgement']))}")
    if result.get("output"):
        output.line("  output:")
        output.block(result["output"])


def _show_second(second: JsonObject | None) -> None:
    """What another host found that verified the pushed commit."""
    if second is None:
        return
    verdict = output.coloured(second["verdict"].replace("_", " "), "green" if second["verdict"] == "agrees" else "red")
    why = f": {output.plain(second['why'])}" if second["why"] else ""
    output.line(f"  second host: {output.plain(second['host'])} {verdict}{why} ({signed_by(second['signature'])})")
    for check in second["checks"]:
        output.line(f"    {output.coloured(str(check['status']))} {output.plain(_check(check))}")


def _shortened(cut: JsonObject | None) -> str | None:
    return f"shortened by {cut['by']} at {cut['at']}: earlier entries have gone" if cut is not None else None


def _show_look(look: JsonObject | None) -> None:
    if look is not None:
        last = f"; {look['tries']} tries, the last on {output.plain(look['last'])}" if look["last"] else ""
        output.line(f"  waits for a second host: attempt {look['attempt']} on {look['host']} is verified{last}")


def signed_by(signature: JsonObject | None) -> str:
    if signature is None:
        return "not signed"
    said = "verified" if signature["verified"] else "not verified"
    return f"signed by {signature['host']}, key {signature['key']}, {said}"


def _judged(judgement: JsonObject) -> str:
    said = "; ".join(judgement.get("reasons") or []) or judgement.get("note") or "no reasons given"
    return f"judged by {judgement['model']}, not proof: {judgement['verdict']} ({said})"


@task.command()
@task_id
@click.option("--now", is_flag=True, help="The present state of all hosts, also of a task that was routed.")
@pass_invocation
def why(invocation: Invocation, task_id: int, now: bool) -> None:
    """Say why a task is where it is, and what would let it run."""
    with invocation.client() as client:
        found = _whole_why(client, task_id, now)
    if invocation.as_json:
        output.document(found)
        return
    explained.show(found)
    _show_route(found.get("route"))
    explained.show_decision(found.get("route"))


@task.command()
@task_id
@pass_invocation
def story(invocation: Invocation, task_id: int) -> None:
    """Tell all that has become of a task, in the order of the hub."""
    with invocation.client() as client:
        found = _whole_story(client, task_id)
    if invocation.as_json:
        output.document(found)
        return
    output.line(f"task {found['task']} is {output.coloured(found['state'])}")
    output.table(
        ("AT", "EVENT", "ATTEMPT", "BY", "UNTIL", "CAUSE"),
        [
            (each["at"], each["event"], each["attempt"], each["by"], each["until"], _cause(each))
            for each in found["entries"]
        ],
        "",
    )


def _whole_why(client: Client, task: int, now: bool) -> JsonObject:
    page = client.task_why(task, now=now)
    hosts = page.get("hosts") or []
    while page.get("next_cursor") is not None:
        page = client.task_why(task, now=now, cursor=page["next_cursor"])
        hosts += page["hosts"]
    return {**page, "hosts": hosts}


def _whole_story(client: Client, task: int) -> JsonObject:
    page = client.task_story(task)
    entries = page["entries"]
    while page["next_cursor"] is not None:
        page = client.task_story(task, cursor=page["next_cursor"])
        entries += page["entries"]
    return {**page, "entries": entries}


def _cause(entry: JsonObject) -> str:
    parts = [entry["outcome"], entry["code"], entry["cause"]]
    return ": ".join(str(part) for part in parts if part)


task.add_command(verify_report)


@task.command()
@task_id
@click.option("--follow", "-f", is_flag=True, help="Go on until the task is final.")
@click.option("--attempt", type=click.IntRange(min=1), help="Which attempt; the latest by default.")
@pass_invocation
def log(invocation: Invocation, task_id: int, follow: bool, attempt: int | None) -> None:
    """Print the output of an attempt."""
    pieces: list[JsonObject] = []
    with invocation.client() as client:
        for piece in client.log(task_id, follow, attempt):
            if invocation.as_json:
                pieces.append(piece)
            else:
                _print_piece(piece)
        if invocation.as_json:
            output.document(_joined(client, task_id, attempt, pieces))


def _print_piece(piece: JsonObject) -> None:
    if piece.get("lost_bytes"):
        output.note(f"[{piece['lost_bytes']} bytes of output were not kept]")
    text = piece["text"]
    click.echo(output.plain(text, keep_lines=True) if sys.stdout.isatty() else text, nl=False)
    sys.stdout.flush()


def _joined(client: Client, task_id: int, attempt: int | None, pieces: list[JsonObject]) -> JsonObject:
    """The pieces of the last attempt seen as one document."""
    if not pieces:
        return client.task_log(task_id, attempt)
    last = [piece for piece in pieces if piece["attempt"] == pieces[-1]["attempt"]]
    return {
        **last[-1],
        "offset": last[0]["offset"],
        "text": "".join(piece["text"] for piece in last),
        "lost_bytes": sum(piece.get("lost_bytes", 0) for piece in last),
    }


def _done(invocation: Invocation, found: JsonObject) -> None:
    if invocation.as_json:
        output.document(found)
    else:
        output.line(f"task {found['id']} is {output.coloured(found['state'])}")


@task.command()
@task_id
@click.option("--reason", default="", help="Kept with the task.")
@pass_invocation
def cancel(invocation: Invocation, task_id: int, reason: str) -> None:
    """Cancel a task. That is final at once; what runs is killed."""
    with invocation.client() as client:
        _done(invocation, client.task_cancel(task_id, reason))


@task.command()
@task_id
@pass_invocation
def retry(invocation: Invocation, task_id: int) -> None:
    """Put a dead, cancelled or expired task back into its lane."""
    with invocation.client() as client:
        _done(invocation, client.task_retry(task_id))


@task.command()
@task_id
@click.option("--reason", default="", help="Kept with the task.")
@pass_invocation
def hold(invocation: Invocation, task_id: int, reason: str) -> None:
    """Keep a task from running until it is released."""
    with invocation.client() as client:
        _done(invocation, client.task_hold(task_id, reason))


@task.command()
@task_id
@pass_invocation
def release(invocation: Invocation, task_id: int) -> None:
    """Let a held task run."""
    with invocation.client() as client:
        _done(invocation, client.task_release(task_id))


@task.command()
@task_id
@click.argument("text")
@click.option("--anywhere", is_flag=True, help="Begin anew on any host, not in the worktree of the attempt that asked.")
@pass_invocation
def answer(invocation: Invocation, task_id: int, text: str, anywhere: bool) -> None:
    """Answer the question for which a task is held; it goes on in the same worktree on the same host."""
    with invocation.client() as client:
        _done(invocation, client.task_answer(task_id, text, anywhere=anywhere))
