"""`agentcom submit`: one task from options, or many from JSON lines; with --wait until they are final.

Values are checked as the hub checks them (TaskSpec), so an error names the field and exits with 4; only an
option that cannot be parsed is a usage error.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import click
from click.core import ParameterSource

from agentcom.cli import output
from agentcom.cli.command import HubCommand, Invocation, pass_invocation, task_number
from agentcom.cli.task import row, show_task
from agentcom.client import Client, task_spec
from agentcom.errors import Refused
from agentcom.model import FINAL, JsonObject, State, TaskSpec

EXIT_NOT_VERIFIED = 10
EXIT_NOT_COMPLETED = 11
_GOOD = {"verified", "already_done", "unchecked", "skipped"}


def base_of(text: str) -> int | str:
    """What --base names."""
    return text if text == "predecessor" else task_number(text)


@click.command(cls=HubCommand)
@click.argument("description", metavar="TEXT", required=False)
@click.option("--tier", metavar="TIER", help="trivial, standard or complex; judged from the task by default.")
@click.option("--lane", metavar="LANE", help="urgent, high, normal (the default) or low.")
@click.option("--repo", metavar="URL", help="Git repository to work in: its address, or a registered name.")
@click.option("--branch", metavar="BRANCH", help="Branch to start from.")
@click.option("--file", "files", multiple=True, metavar="PATH[:REASON]", help="A file that matters, and why.")
@click.option("--criterion", "success_criteria", multiple=True, metavar="TEXT", help="What done means.")
@click.option(
    "--check",
    "checks",
    multiple=True,
    metavar="KIND[=TARGET]",
    help="file_exists=PATH, test_passes[=COMMAND], command_succeeds=COMMAND, git_clean, json_valid=PATH, "
    "diff_within=PATTERNS, no_secrets; any kind as a JSON object with all its fields.",
)
@click.option("--no-verify", is_flag=True, help="Run no checks.")
@click.option("--command", metavar="CMD", help="Run this by sh; the task is then trivial and uses no model.")
@click.option(
    "--budget", "budget_usd", type=float, metavar="USD", help="What all its paid attempts may cost."
)
@click.option("--needs", multiple=True, metavar="CAP", help="A capability that the agent must have.")
@click.option(
    "--prefers", multiple=True, metavar="CAP", help="The same, but it costs time where it is missing."
)
@click.option(
    "--allow",
    multiple=True,
    metavar="WHAT",
    help="lower or raise: it may run on another tier; network: its commands may use the network; cloud: it may be "
    "sent to a model that a third party runs behind a local server.",
)
@click.option(
    "--pull-request/--no-pull-request",
    default=None,
    help="Whether a pull request is opened; by default where the host knows the repository's forge.",
)
@click.option(
    "--judge", is_flag=True, help="When all checks pass, let its model judge the work too: an opinion, no proof."
)
@click.option("--second-host", is_flag=True, help="Done only when another host has verified the pushed commit too.")
@click.option("--model", metavar="MODEL", help="The model wanted.")
@click.option("--max-retries", type=int, metavar="N")
@click.option(
    "--fix-attempts", "max_fix_attempts", type=int, metavar="N", help="Rounds of fixing failed checks."
)
@click.option("--timeout", "timeout_s", type=int, metavar="S", help="Seconds that one attempt may take.")
@click.option(
    "--stall",
    "stall_s",
    type=int,
    metavar="S",
    help="Seconds without progress until it is stalled; two heartbeats at least.",
)
@click.option("--not-before", metavar="TIME", help="RFC 3339; do not start earlier.")
@click.option("--start-by", metavar="TIME", help="RFC 3339; expires unless a worker is on it by then.")
@click.option("--complete-by", metavar="TIME", help="RFC 3339; expires then, running work is cancelled.")
@click.option("--ttl", "ttl_s", type=int, metavar="S", help="Seconds until it expires, where it does not run.")
@click.option(
    "--after", "depends_on", type=task_number, multiple=True, metavar="ID", help="A task to complete first."
)
@click.option(
    "--base",
    type=base_of,
    metavar="ID|predecessor",
    help="Start from the branch of that task, one of --after, instead of --branch.",
)
@click.option("--key", "idempotency_key", metavar="KEY", help="The same key again gives the same task.")
@click.option("--label", "labels", multiple=True, metavar="LABEL")
@click.option(
    "--from", "source", type=click.File("rb"), metavar="FILE|-", help="JSON lines; all are taken, or none."
)
@click.option("--wait", is_flag=True, help="Until final: 0 verified, 10 not verified, 11 not completed.")
@pass_invocation
def submit(invocation: Invocation, /, source: BinaryIO | None, wait: bool, **given: Any) -> int:
    """Add a task: TEXT says what is to be done.

    With --wait exits 0 if the task is verified (or had nothing to verify), 10 if it completed without being
    verified, 11 if it is dead, cancelled or expired.
    """
    source_of = click.get_current_context().get_parameter_source
    fields = {name: value for name, value in given.items() if source_of(name) is not ParameterSource.DEFAULT}
    if source is not None:
        if fields:
            raise click.UsageError("--from takes whole tasks: give no TEXT and no option of a task beside it")
        return _submit_lines(invocation, source, wait)
    if "description" not in fields:
        raise click.UsageError("TEXT is missing: say what is to be done")
    spec = task_spec(_spec_fields(fields))
    with invocation.client() as client:
        created = client.submit(spec)
        found = _await(client, created["id"]) if wait else client.task_get(created["id"])
    if wait or invocation.as_json:
        show_task(invocation, found)
    else:
        _tell_created(created)
    return exit_code(found) if wait else 0


def exit_code(found: JsonObject) -> int:
    """What `--wait` exits with for a final task."""
    if found["state"] != State.completed:
        return EXIT_NOT_COMPLETED
    return 0 if (found.get("result") or {}).get("status") in _GOOD else EXIT_NOT_VERIFIED


def _spec_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The options as fields of a TaskSpec."""
    fields = dict(fields)
    if fields.pop("no_verify", False):
        fields["verify"] = False
    if "files" in fields:
        fields["files"] = [_file(text) for text in fields["files"]]
    if "checks" in fields:
        fields["checks"] = [check_of(text) for text in fields["checks"]]
    if "repo" in fields:
        fields["repo"] = local_repo(fields["repo"])
    return fields


def local_repo(text: str) -> str:
    """A path that this shell knows as one that the hub can know."""
    return str(Path(text).expanduser().resolve()) if text.startswith((".", "~")) else text


def _file(text: str) -> JsonObject:
    path, _, reason = text.partition(":")
    return {"path": path, "reason": reason}


def check_of(text: str) -> JsonObject:
    """A check as `--check` gives it: KIND[=TARGET], or a JSON object."""
    if text.lstrip().startswith("{"):
        try:
            found = json.loads(text)
        except ValueError as error:
            raise Refused(
                "invalid", f"--check: {text[:200]!r} is no JSON object: {error}", field="checks"
            ) from error
        return dict(found)
    kind, _, target = text.partition("=")
    return {"kind": kind, "target": target}


def _await(client: Client, task_id: int) -> JsonObject:
    """The final task; says on stderr when it is held, because it then waits for a person."""
    told: set[str] = set()

    def tell(found: JsonObject) -> None:
        if found["state"] == State.held and State.held not in told:
            told.add(State.held)
            message = (found.get("error") or {}).get("message", "")
            hint = f"see `agentcom task why {task_id}`; this goes on waiting, and Ctrl-C leaves the task held"
            output.note(f"task {task_id} is held and waits for a person: {output.plain(message)} ({hint})")

    try:
        return client.wait(task_id, on_change=tell)
    except KeyboardInterrupt:
        output.note(f"task {task_id} goes on; see `agentcom task show {task_id}`")
        raise


def _tell_created(created: JsonObject) -> None:
    word = "added" if created.get("created", True) else "was there already"
    output.line(
        f"task {created['id']} {word}: {created['tier']}, {output.coloured(created['state'] or 'ended')}"
    )


def _submit_lines(invocation: Invocation, source: BinaryIO, wait: bool) -> int:
    specs, lines = read_lines(source)
    with invocation.client() as client:
        try:
            created = client.submit_many(specs)
        except Refused as refused:
            raise name_line(refused, lines) from refused
        found = [_await(client, each["id"]) for each in created] if wait else []
    if invocation.as_json:
        output.document({"tasks": found or created})
    elif wait:
        headers = ("ID", "STATE", "LANE", "TIER", "RESULT", "AGENT", "AGE", "DESCRIPTION")
        output.table(headers, [row(each) for each in found], "")
    else:
        for each in created:
            _tell_created(each)
    assert all(State(each["state"]) in FINAL for each in found)
    return max((exit_code(each) for each in found), default=0)


def read_lines(source: Iterable[bytes]) -> tuple[list[TaskSpec], list[int]]:
    """The tasks of a file of JSON lines and the line that each stands on; Refused names the line."""
    specs, lines = [], []
    for number, text in enumerate(source, 1):
        if not text.strip():
            continue
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise Refused("malformed", f"line {number}: not JSON: {error}; nothing was submitted") from error
        if not isinstance(fields, dict):
            raise Refused("invalid", f"line {number}: a task is a JSON object; nothing was submitted")
        try:
            specs.append(task_spec(fields))
        except Refused as refused:
            message = f"line {number}: {refused.message}; nothing was submitted"
            raise Refused(refused.code, message, field=refused.field) from refused
        lines.append(number)
    return specs, lines


def name_line(refused: Refused, lines: list[int]) -> Refused:
    """The hub's refusal of `tasks[n]...` with the line of the file that task n stands on."""
    place = (refused.field or "").partition("tasks[")[2].partition("]")[0]
    if not place.isdecimal() or int(place) >= len(lines):
        return refused
    message = f"line {lines[int(place)]}: {refused.message}; nothing was submitted"
    return Refused(refused.code, message, field=refused.field, retry_after_s=refused.retry_after_s)
