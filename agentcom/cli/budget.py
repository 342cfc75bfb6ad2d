"""`agentcom budget`: what paid work may cost, and what it has cost."""

from __future__ import annotations

import click

from agentcom import limits
from agentcom.cli import output
from agentcom.cli.command import Group, Invocation, out_of_range, pass_invocation

PERIODS = click.Choice(["day", "month", "ever"])


@click.group(cls=Group)
def budget() -> None:
    """What paid work may cost: all of it, that of a repository, or that of a submitter."""


@budget.command()
@pass_invocation
def show(invocation: Invocation) -> None:
    """Show each budget with what is spent, reserved and left, and what paid work has cost."""
    with invocation.client() as client:
        found = client.budget_list()
    if invocation.as_json:
        output.document(found)
        return
    rows = [
        (
            each["key"],
            each["per"],
            *(_usd(each[name]) for name in ("usd", "spent_usd", "reserved_usd", "left_usd")),
            each["held"] or "",
        )
        for each in found["budgets"]
    ]
    output.table(("KEY", "PER", "USD", "SPENT", "RESERVED", "LEFT", "HELD"), rows, "no budget is set")
    counted = found["counted_usd"]
    output.line(
        f"  spent and reserved in all: {_usd(counted['day'])} today, {_usd(counted['month'])} this month, "
        f"{_usd(counted['ever'])} ever (USD, days in UTC); {_held(found['held'])} for a budget"
    )


@budget.command("set")
@click.argument("key", metavar="KEY")
@click.argument("usd", metavar="USD", type=float)
@click.option("--per", type=PERIODS, default="day", help="day (the default), month (both in UTC) or ever.")
@pass_invocation
def set_(invocation: Invocation, key: str, usd: float, per: str) -> None:
    """Let paid work cost at most USD in each period. KEY is all, repo:URL or submitter:NAME.

    A task whose next attempt could pass it is held, and goes on by itself when there is room again.
    """
    if not 0 <= usd <= limits.BUDGET_USD_MAX:
        period = "" if per == "day" else f" --per {per}"
        allowed = f"it is a number of USD from 0 (no paid work) to {limits.BUDGET_USD_MAX}"
        remedy = f"to have none: agentcom budget unset {key}{period}"
        raise out_of_range("USD", f"{usd:g} is no budget: {allowed}; {remedy}")
    _change(invocation, key, usd, per)


@budget.command()
@click.argument("key", metavar="KEY")
@click.option("--per", type=PERIODS, default="day", help="day (the default), month or ever.")
@pass_invocation
def unset(invocation: Invocation, key: str, per: str) -> None:
    """Take a budget back."""
    _change(invocation, key, None, per)


def _change(invocation: Invocation, key: str, usd: float | None, per: str) -> None:
    with invocation.client() as client:
        found = client.budget_set(key, usd, per)
    if invocation.as_json:
        output.document(found)
    elif found.get("usd") is None:
        output.line(f"{found['key']} per {found['per']}: taken back")
    else:
        left = _usd(found["left_usd"])
        output.line(f"{found['key']} per {found['per']}: {_usd(found['usd'])} USD, {left} left")


def _held(count: int) -> str:
    return "1 task is held" if count == 1 else f"{count} tasks are held"


def _usd(amount: float) -> str:
    return f"{amount:.2f}" if round(amount, 2) == amount else f"{amount:.6f}".rstrip("0")
