"""`agentcom repo`: list, show, add, update (also `set`), remove."""

from __future__ import annotations

from typing import Any

import click

from agentcom.cli import output
from agentcom.cli.command import Group, Invocation, pass_invocation
from agentcom.cli.submit import check_of, local_repo
from agentcom.model import JsonObject

NONE = "none"
repo_name = click.argument("name", metavar="NAME|URL")
branch_option = click.option(
    "--branch", "default_branch", metavar="BRANCH", help="Where tasks start that name no branch; by default its HEAD."
)
checks_option = click.option(
    "--check",
    "checks",
    multiple=True,
    metavar="KIND[=TARGET]",
    help="A check that runs for every task in it, as `submit --check` takes it.",
)
hosts_option = click.option(
    "--host", "hosts", multiple=True, metavar="HOST", help="A host that may work on it; by default all."
)


@click.group(cls=Group)
def repo() -> None:
    """The registered repositories: a name for tasks to give, and what holds for every task in one."""


@repo.command("list")
@pass_invocation
def list_repos(invocation: Invocation) -> None:
    """List the registered repositories."""
    with invocation.client() as client:
        found = client.repo_list()
    if invocation.as_json:
        output.document(found)
        return
    rows = [
        (
            each["name"],
            each["url"],
            each["default_branch"] or "its HEAD",
            len(each["checks"]),
            ", ".join(each["hosts"]) or "all",
            each["live_tasks"],
        )
        for each in found["repos"]
    ]
    empty = "no repositories; add one with: agentcom repo add NAME URL"
    output.table(("NAME", "URL", "BRANCH", "CHECKS", "HOSTS", "LIVE TASKS"), rows, empty)


@repo.command()
@repo_name
@pass_invocation
def show(invocation: Invocation, name: str) -> None:
    """Show a repository with its checks."""
    with invocation.client() as client:
        _show(invocation, client.repo_show(name))


@repo.command()
@click.argument("name", metavar="NAME")
@click.argument("url", metavar="URL")
@branch_option
@checks_option
@hosts_option
@pass_invocation
def add(
    invocation: Invocation,
    name: str,
    url: str,
    default_branch: str | None,
    checks: tuple[str, ...],
    hosts: tuple[str, ...],
) -> None:
    """Register a repository under a name that tasks may give."""
    with invocation.client() as client:
        found = client.repo_add(
            name,
            local_repo(url),
            default_branch=default_branch or "",
            checks=[check_of(text) for text in checks],
            hosts=list(hosts),
        )
    _show(invocation, found)
    if not invocation.as_json:
        _tell_moved(found)


@repo.command()
@repo_name
@click.option("--name", "new_name", metavar="NAME", help="A new name.")
@click.option(
    "--url", metavar="URL", help="A new address, for its rules and budgets too; not while tasks of it are not over."
)
@branch_option
@checks_option
@hosts_option
@pass_invocation
def update(
    invocation: Invocation,
    name: str,
    new_name: str | None,
    url: str | None,
    default_branch: str | None,
    checks: tuple[str, ...],
    hosts: tuple[str, ...],
) -> None:
    """Change what is given; checks and hosts replace those before, `none` takes them back."""
    changed: dict[str, Any] = {}
    if new_name is not None:
        changed["name"] = new_name
    if url is not None:
        changed["url"] = local_repo(url)
    if default_branch is not None:
        changed["default_branch"] = "" if default_branch == NONE else default_branch
    if checks:
        changed["checks"] = [] if checks == (NONE,) else [check_of(text) for text in checks]
    if hosts:
        changed["hosts"] = [] if hosts == (NONE,) else list(hosts)
    if not changed:
        raise click.UsageError("nothing to change: give --name, --url, --branch, --check or --host")
    with invocation.client() as client:
        found = client.repo_update(name, **changed)
    _show(invocation, found)
    if not invocation.as_json:
        _tell_moved(found)


@repo.command()
@repo_name
@click.option("--force", is_flag=True, help="Also while tasks of it are not over; they do without its checks.")
@pass_invocation
def remove(invocation: Invocation, name: str, force: bool) -> None:
    """Forget a repository. Its tasks keep its address; nothing on any host is removed."""
    with invocation.client() as client:
        found = client.repo_remove(name, force=force)
    if invocation.as_json:
        output.document(found)
        return
    left = f"; {found['live_tasks']} tasks go on without its checks" if found["live_tasks"] else ""
    output.line(f"{output.plain(found['repo'])} is forgotten{left}")


repo.add_command(update, "set")


def _show(invocation: Invocation, found: JsonObject) -> None:
    if invocation.as_json:
        output.document(found)
        return
    output.line(f"{output.plain(found['name'])}  {output.plain(found['url'])}")
    output.line(f"  starts from {output.plain(found['default_branch'] or 'what its HEAD names')}")
    output.line(f"  worked on by {output.plain(', '.join(found['hosts']) or 'every host')}")
    for check in found["checks"]:
        target = f" {check['target']}" if check.get("target") else ""
        output.line(f"  always checked: {check['kind']}{output.plain(target)}")
    output.line(f"  tasks that are not over: {found['live_tasks']}")


def _tell_moved(found: JsonObject) -> None:
    """What was set for a repository whose address has changed; a hub of an older version says nothing of that."""
    if found.get("moved"):
        output.line(f"  goes to this address with it: {', '.join(map(_rule, found['moved']))}")
    for each in found.get("stayed", ()):
        stays = f"{_rule(each)} stays at {each['key'].partition(':')[2]}"
        output.line(f"  {output.plain(stays)}: the new address has a {each['kind']} of its own, which stands")


def _rule(each: JsonObject) -> str:
    if each["kind"] == "budget":
        return f"budget {each['usd']:g} USD per {each['per']}"
    return f"{each['kind']} {each['number']}" if "number" in each else str(each["kind"])
