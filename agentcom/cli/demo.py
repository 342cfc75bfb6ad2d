"""`agentcom demo`: a first real task, from submit to a verified result.

The task is trivial (a command, no model). It works in a worktree of the repository given, never in the
checkout itself.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import click

from agentcom.cli import output
from agentcom.cli.command import HubCommand, Invocation, pass_invocation
from agentcom.client import Client
from agentcom.errors import AgentComError
from agentcom.model import FINAL, JsonObject, ResultStatus, State
from agentcom.supervisor import read_start

WAIT_S = 180.0
ASK_WHY_S = 10.0
FILE = "agentcom-demo.txt"
COMMAND = f"{{ echo 'AgentCom was here.'; uname -srm; ls; }} > {FILE} && cat {FILE}"

Say = Callable[[str], None]


@click.command(cls=HubCommand)
@click.option("--repo", type=click.Path(path_type=Path), help="A git repository with a commit, to work in.")
@pass_invocation
def demo(invocation: Invocation, repo: Path | None) -> int:
    """Put a first task through the running hub; exits with 0 if it was verified."""
    return run(invocation, repo)


def run(invocation: Invocation, repo: Path | None) -> int:
    """The demo on the hub that runs; its exit code."""
    say = output.note if invocation.as_json else output.line
    with invocation.client() as client:
        found = perform(client, repo, say)
    if invocation.as_json:
        output.document(found)
    else:
        tell(found, say)
        start = read_start(invocation.home)
        if start is not None and start.http:
            say(f"dashboard: {start.http}/   (a link that opens it: agentcom token link)")
    return exit_code(found)


def perform(client: Client, repo: Path | None, say: Say) -> JsonObject:
    """Submit the task and wait for it; says where it works, and why it waits when it does."""
    where = usable_repository(repo)
    if where is not None:
        say(f"first task: in a worktree of {where}")
    elif repo is not None:
        say(f"first task: {repo} is not a git repository with a commit, so in an empty workspace")
    else:
        say("first task: in an empty workspace (no --repo was given)")
    created = client.submit(
        description=f"Write {FILE}: a greeting, the system, the files here",
        command=COMMAND,
        repo=where,
        checks=[
            {"kind": "file_exists", "target": FILE},
            {"kind": "command_succeeds", "target": f"grep -q 'AgentCom was here' {FILE}"},
        ],
        labels=["demo"],
    )
    return _await(client, created["id"], say)


def _await(client: Client, task_id: int, say: Say) -> JsonObject:
    until = time.monotonic() + WAIT_S
    found = client.wait(task_id, ASK_WHY_S)
    told = ""
    while State(found["state"]) not in FINAL and time.monotonic() < until:
        reason = str(client.task_why(task_id)["reason"]) if found["state"] != State.working else ""
        if reason and reason != told:
            say(f"task {task_id} is {found['state']}: {output.plain(reason)}")
            told = reason
        found = client.wait(task_id, ASK_WHY_S)
    if State(found["state"]) not in FINAL:
        raise AgentComError(
            f"task {task_id} is still {found['state']} after {WAIT_S:g} s; see `agentcom doctor`"
        )
    return found


def usable_repository(path: Path | None) -> str | None:
    """The top folder of the git repository at `path` if it has a commit, else None."""
    if path is None:
        return None
    top = _git(path, "rev-parse", "--show-toplevel")
    return top if top and _git(path, "rev-parse", "--verify", "HEAD^{commit}") else None


def _git(path: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(path), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def tell(found: JsonObject, say: Say) -> None:
    """Say what became of the task, check by check."""
    result, route = found.get("result") or {}, found.get("route") or {}
    status = result.get("status") or found["state"]
    by = f" by {route['agent']} on {route['host']}" if route else ""
    took = output.seconds(result.get("duration_ms", 0) / 1000)
    say(f"task {found['id']}: {output.coloured(str(status))}{output.plain(by)} in {took}")
    for iteration in result.get("iterations") or []:
        for check in iteration["checks"]:
            say(
                f"  {output.coloured(str(check['status']))}  {check['kind']}  {output.plain(check['target'])}"
            )
    if result.get("branch"):
        say(f"  branch {output.plain(result['branch'])}")
    if found.get("error"):
        say(f"  {output.plain(found['error']['message'])}")


def exit_code(found: JsonObject) -> int:
    """0 if and only if the task was verified."""
    verified = (found.get("result") or {}).get("status") == ResultStatus.verified
    return 0 if found["state"] == State.completed and verified else 1
