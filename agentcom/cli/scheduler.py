"""`agentcom scheduler`: recordings of what the scheduler decided from, decided again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from agentcom.cli import output
from agentcom.cli.command import Group, Invocation, pass_invocation
from agentcom.clock import rfc3339
from agentcom.config import ScoringSettings
from agentcom.model import JsonObject
from agentcom.policy_file import changed, read_policy
from agentcom.recordings import Recorded, read, recordings_in
from agentcom.replay import Comparison, Difference, compare, decisions, verify
from agentcom.replay_estimate import as_recorded, estimate, items

EXIT_DIFFERENT = 1
SHOWN = (
    ("tasks", "tasks"), ("left", "without a place"), ("wait_mean_s", "wait, mean (s)"), ("wait_p95_s", "wait, p95 (s)"),
    ("finish_mean_s", "finish, mean (s)"), ("finish_p95_s", "finish, p95 (s)"), ("makespan_s", "makespan (s)"),
    ("cold_loads", "cold loads"),
)  # fmt: skip


@click.group(cls=Group)
def scheduler() -> None:
    """Recordings of the scheduler, and what another policy would have done."""


@scheduler.command("list")
@pass_invocation
def list_recordings(invocation: Invocation) -> None:
    """List the recordings of this home, the oldest first (`scheduler.record` makes them)."""
    found = [
        {"file": str(path), "size_bytes": path.stat().st_size, "since": _since(path)}
        for path in recordings_in(invocation.home.recordings)
    ]
    if invocation.as_json:
        output.document(found)
        return
    output.table(
        ("SINCE", "SIZE", "FILE"),
        [(each["since"], output.size(int(str(each["size_bytes"]))), each["file"]) for each in found],
        "nothing was recorded here; switch it on with: agentcom config set scheduler.record true",
    )


@scheduler.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--policy", "policy_file", type=click.Path(path_type=Path), help="Another policy: a file with [scoring].")
@pass_invocation
def replay(invocation: Invocation, file: Path, policy_file: Path | None) -> int:
    """Decide a recording again: first by its own policy, which has to give the same, then by another."""
    recorded = read(file)
    start, turns, _ = recorded
    policy = start.scoring if policy_file is None else read_policy(policy_file, start.scoring)
    difference = verify(start, turns)
    told = _told(file, recorded, difference)
    comparison = None
    if difference is None:
        found = items(start, turns)
        told["figures"] = {"recorded": msgspec.to_builtins(as_recorded(found))}
        if policy_file is not None:
            comparison = compare(start, turns, policy)
            told["policy"] = {key: list(pair) for key, pair in changed(start.scoring, policy).items()}
            told["comparison"] = _comparison(comparison)
            for name, one in (("estimate", start.scoring), ("other", policy)):
                told["figures"][name] = msgspec.to_builtins(estimate(start, turns, found, one))
    if invocation.as_json:
        output.document(told)
    else:
        _print(told, difference)
    return EXIT_DIFFERENT if difference is not None else 0


def _since(path: Path) -> str | None:
    digits = path.name.partition("-")[0]
    return rfc3339(int(digits)) if digits.isdigit() else None


def _told(file: Path, recorded: Recorded, difference: Difference | None) -> JsonObject:
    start, turns, cut = recorded
    span_ms = turns[-1].mono_ms - turns[0].mono_ms if turns else 0
    return {
        "file": str(file),
        "version": start.version,
        "since": rfc3339(start.wall_ms),
        "span_s": span_ms / 1000,
        "turns": len(turns),
        "decisions": decisions(turns),
        "starts": sum(head.is_started for turn in turns for head in turn.heads),
        "cut": cut or None,
        "scoring": msgspec.to_builtins(start.scoring),
        "difference": difference._asdict() if difference is not None else None,
    }


def _comparison(found: Comparison) -> JsonObject:
    changes = [change._asdict() for change in found.changes]
    return {**found._asdict(), "changes": changes}


def _print(told: JsonObject, difference: Difference | None) -> None:
    own = changed(ScoringSettings(), msgspec.convert(told["scoring"], ScoringSettings))
    output.line(
        f"{told['decisions']} decisions in {told['turns']} turns over {output.seconds(told['span_s'])}, "
        f"{told['starts']} starts; recorded by agentcom {told['version']} since {told['since']}"
    )
    output.line(f"its policy: {_figures_in(own) or 'the defaults'}")
    if told["cut"]:
        output.note(told["cut"])
    if difference is not None:
        output.line(
            f"decided otherwise in turn {difference.turn}: task {difference.task} was recorded as "
            f"{output.plain(difference.recorded)}, and is now {output.plain(difference.decided)}; "
            "another version may decide otherwise"
        )
        return
    output.line("decided again: every decision is as it was recorded")
    if "comparison" in told:
        _print_comparison(told["policy"], told["comparison"])
    _print_figures(told["figures"])


def _print_comparison(policy: dict[str, Any], found: JsonObject) -> None:
    output.line(f"other policy: {_figures_in(policy) or 'the same'}")
    output.line(
        f"of {found['starts']} starts {found['same']} go to the same place, {found['elsewhere']} elsewhere and "
        f"{found['waiting']} wait; {found['earlier']} that waited go at once"
    )
    if found["moved"]:
        output.line()
        moved = [(count, where) for where, count in found["moved"].items()]
        output.table(("TASKS", "FROM -> TO"), moved, "")
    if found["changes"]:
        output.line()
        rows = [
            (
                each["task"],
                each["was"],
                f"waits: {each['to']}" if each["waits"] else each["to"],
                output.seconds(each["by_us"] / 1e6) if not each["waits"] else "",
                ", ".join(f"{name} {us / 1e6:+.1f} s" for name, us in each["parts"].items()),
            )
            for each in found["changes"]
        ]
        output.table(("TASK", "RECORDED", "OTHER", "CHEAPER BY", "WHY, BY THE OTHER'S FIGURES"), rows, "")
    output.line()


def _print_figures(figures: dict[str, JsonObject]) -> None:
    heads = {"recorded": "RECORDED", "estimate": "ITS POLICY, ESTIMATED", "other": "OTHER POLICY, ESTIMATED"}
    rows = [
        (label, *(f"{one[name]:g}" for one in figures.values()))
        for name, label in SHOWN
    ]
    output.table(("", *(heads[name] for name in figures)), rows, "")


def _figures_in(pairs: dict[str, Any]) -> str:
    return ", ".join(f"{key} {after} (was {before})" for key, (before, after) in pairs.items())
