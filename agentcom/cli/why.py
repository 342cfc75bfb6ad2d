"""What `agentcom task why` prints for people: a decision by its parts, or what each host lacks and what would help."""

from __future__ import annotations

from typing import Final

from agentcom.cli import output
from agentcom.model import JsonObject

PARTS: Final = {  # of an expected finish time, in the order in which they pass, as people call them
    "wait": "wait for a free slot",
    "load": "load of the model",
    "run": "the work itself",
    "host_load": "load of the host",
    "repository": "fetch of the repository",
    "recent_failure": "failures there lately",
    "preference": "things it prefers and misses there",
    "not_preferred": "a host that is not to be preferred",
}


def show(found: JsonObject) -> None:
    """Print all that the hub says, a routed task's decision or the present state."""
    basis = "from the present state" if found.get("shows") == "present" else "as it was decided"
    state, reason = output.coloured(found["state"]), output.plain(found["reason"])
    output.line(f"task {found['id']} is {state} ({basis}): {reason}")
    _show_tier(found)
    conditions = found.get("conditions") or []
    if conditions:
        output.line("  what holds it back:")
    for each in conditions:
        _show_refusal(each["condition"], each["message"], each["change"])
    hosts = found.get("hosts") or []
    if hosts:
        output.line("  hosts:")
    for each in hosts:
        agent = f" ({each['agent']})" if each.get("agent") else ""
        said = f"{each['fails']}: {each.get('message', '')}" if each["fails"] else each.get("message", "")
        _show_refusal(f"{each['host']}{agent}", said, each.get("change") or "")
    _show_ways(found.get("ways") or [], "OPEN NOW")


def _show_tier(found: JsonObject) -> None:
    judged = found.get("classification")
    if judged and found.get("tier"):
        signals = f"; signs: {', '.join(judged['signals'])}" if judged["signals"] else ""
        output.line(
            f"  tier: {found['tier']} ({judged['source']}; looks {judged['inferred']}{output.plain(signals)})"
        )


def _show_refusal(name: str, because: str, change: str) -> None:
    output.line(f"    {output.plain(name)}: {output.plain(because)}")
    if change:
        output.line(f"      what would help: {output.plain(change)}")


def show_decision(route: JsonObject | None) -> None:
    """The parts of the way that was chosen, the best others with theirs, and who was refused for what."""
    score = (route or {}).get("score")
    if route is None or not score:
        return
    output.line(f"  expected to be finished in {_seconds(score['cost_us'])}:")
    parts = score.get("parts") or {}
    shown = [(label, parts[name]) for name, label in PARTS.items() if parts.get(name)]
    shown += [(name.replace("_", " "), cost) for name, cost in parts.items() if name not in PARTS and cost]
    width = max((len(label) for label, _ in shown), default=0)
    for label, cost in shown:
        output.line(f"    {label.ljust(width)}  {_seconds(cost).rjust(8)}")
    _show_ways(route.get("others") or [], "NOT CHOSEN")
    refused = route.get("refused") or {}
    if refused:
        told = ", ".join(f"{fails} ({count})" for fails, count in sorted(refused.items()))
        output.line(f"  hosts that could not take it: {told}")


def _show_ways(ways: list[JsonObject], title: str) -> None:
    """Ways with what each is expected to take, in seconds."""
    if ways:
        rows = [
            (each["host"], each["agent"], each.get("endpoint"), _seconds(each["cost_us"]), _short(each))
            for each in ways
        ]
        output.table((title, "AGENT", "ENDPOINT", "EXPECTED", "OF WHICH"), rows, "")


def _short(way: JsonObject) -> str:
    costs = (way.get("parts") or {}).items()
    return ", ".join(f"{name.replace('_', ' ')} {_seconds(cost)}" for name, cost in costs if cost)


def _seconds(cost_us: int) -> str:
    return f"{cost_us / 1e6:,.1f} s" if cost_us >= 100_000 else f"{cost_us / 1e6:.3f} s"
