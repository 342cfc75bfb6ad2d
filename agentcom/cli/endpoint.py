"""`agentcom endpoint`: list, show, add, update, remove, probe."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

import click

from agentcom import config
from agentcom.cli import endpoint_report, output
from agentcom.cli.command import Group, Invocation, pass_invocation
from agentcom.enrolment import default_name, joined
from agentcom.model import JsonObject

endpoint_name = click.argument("name", metavar="NAME|ID")
cap_option = click.option("--cap", type=int, metavar="N", help="Calls of one model at once; the server's slots, or 1.")
num_ctx_option = click.option("--num-ctx", type=int, metavar="N", help="Context length sent with each call.")


@click.group(cls=Group)
def endpoint() -> None:
    """The LLM servers."""


@endpoint.command("list")
@pass_invocation
def list_endpoints(invocation: Invocation) -> None:
    """List endpoints, their health and their models (* is loaded now), and what is being loaded since when."""
    with invocation.client() as client:
        found = client.endpoint_list()
    if invocation.as_json:
        output.document(found)
        return
    output.table(
        ("ID", "NAME", "KIND", "URL", "FROM", "HEALTH", "BUSY", "MODELS"),
        [
            (
                each["id"],
                each["name"],
                each.get("flavour") or each["kind"],
                each["url"],
                each.get("host") or each.get("seen_from") or "hub",
                endpoint_report.health(each),
                f"{sum((each.get('in_flight') or {}).values())}/{each.get('cap', 1)}",
                ", ".join([*_models(each), *_loading(each)]),
            )
            for each in found["endpoints"]
        ],
        "no endpoints; add one with: agentcom endpoint add URL",
    )


def _models(each: JsonObject) -> list[str]:
    return [f"{m['name']}{'*' if m.get('warm') else ''}" for m in each.get("models") or []]


def _loading(each: JsonObject) -> list[str]:
    return [
        f"loading {one['model']}{' ahead' if one.get('ahead') else ''} since {one['since']}"
        for one in each.get("loading") or []
    ]


@endpoint.command()
@endpoint_name
@pass_invocation
def show(invocation: Invocation, name: str) -> None:
    """Show all that is known of an endpoint and of each of its models: health, circuit, calls, measured speeds."""
    with invocation.client() as client:
        found = client.endpoint_show(name)
    if invocation.as_json:
        output.document(found)
        return
    output.line(output.plain(found["name"]))
    output.pairs(endpoint_report.lines(found))
    output.table(endpoint_report.MODEL_HEADERS, endpoint_report.models(found), "  no models")


@endpoint.command()
@click.argument("url", metavar="URL")
@click.option("--kind", default="ollama", show_default=True, metavar="KIND", help="ollama or openai.")
@click.option("--name", default="", metavar="NAME")
@click.option("--host", metavar="HOST", help="The host that sees it; this machine's for a loopback URL.")
@cap_option
@num_ctx_option
@pass_invocation
def add(
    invocation: Invocation,
    url: str,
    kind: str,
    name: str,
    host: str | None,
    cap: int | None,
    num_ctx: int | None,
) -> None:
    """Register an LLM server."""
    if host is None and is_loopback(url):
        host = _this_host(invocation)
    with invocation.client() as client:
        found = client.endpoint_add(
            url, kind=kind, name=name, host=host, cap=cap or 0, num_ctx=num_ctx or 0
        )
    _done(invocation, found, f"endpoint {found['id']} is {output.plain(found['name'])} at {found['url']}")


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine; a URL that cannot be read does not (the hub refuses it)."""
    try:
        name = urlsplit(url).hostname or ""
        return name == "localhost" or name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _this_host(invocation: Invocation) -> str:
    home = invocation.home
    record = joined(home)
    return record.name if record is not None else default_name(config.load(home.path))


@endpoint.command()
@endpoint_name
@click.option("--name", "new_name", metavar="NAME", help="A new name.")
@cap_option
@num_ctx_option
@click.option("--preload/--no-preload", default=None, help="Whether models may be loaded ahead of tasks there.")
@pass_invocation
def update(
    invocation: Invocation,
    name: str,
    new_name: str | None,
    cap: int | None,
    num_ctx: int | None,
    preload: bool | None,
) -> None:
    """Change an endpoint's name, cap or context length, or whether models are loaded ahead of tasks there."""
    if all(each is None for each in (new_name, cap, num_ctx, preload)):
        raise click.UsageError("nothing to change: give --name, --cap, --num-ctx, --preload or --no-preload")
    with invocation.client() as client:
        found = client.endpoint_update(name, name=new_name, cap=cap, num_ctx=num_ctx, preload=preload)
    _done(
        invocation, found, f"endpoint {found['id']} is {output.plain(found['name'])}, cap {found.get('cap')}"
    )


@endpoint.command()
@endpoint_name
@output.now_option
@pass_invocation
def remove(invocation: Invocation, name: str, now: bool) -> None:
    """Forget an endpoint, as soon as the last call has ended."""
    with invocation.client() as client:
        found = client.endpoint_remove(name, now)
    _done(invocation, found, output.removal(name, found, now))


@endpoint.command()
@endpoint_name
@pass_invocation
def probe(invocation: Invocation, name: str) -> None:
    """Check an endpoint's health now."""
    with invocation.client() as client:
        _done(
            invocation,
            client.endpoint_probe(name),
            f"{output.plain(name)} is being checked; see: endpoint list",
        )


def _done(invocation: Invocation, found: JsonObject, text: str) -> None:
    if invocation.as_json:
        output.document(found)
    else:
        output.line(text)
