"""How the hub's store is, for people: used by `queue stats` and `doctor`."""

from __future__ import annotations

from collections.abc import Iterator

from agentcom.cli import output
from agentcom.model import JsonObject


def show(stats: JsonObject) -> None:
    """Of the answer of `queue_stats`: a few lines, and the databases that have rows."""
    for text in stats.get("troubles", ()):
        output.line(f"  degraded: {output.plain(text)}")
    store = stats.get("store")
    if store is None:
        return
    for name, text in lines(store):
        output.line(f"  {name}: {output.plain(text)}")
    used = {name: each for name, each in store["databases"].items() if each["rows"]}
    rows = ", ".join(f"{name} {each['rows']} ({_mib(each['bytes'])})" for name, each in used.items())
    output.line(f"  rows (bytes): {rows or 'none'}")


def lines(store: JsonObject) -> Iterator[tuple[str, str]]:
    """What there is to say of a store on a disk, in the order in which people ask."""
    free = store["file_bytes"] - store["used_bytes"]
    yield (
        "store",
        f"{_mib(store['used_bytes'])} in use, {_mib(free)} free in a file of {_mib(store['file_bytes'])}, "
        f"{store['used_bytes'] / store['map_bytes']:.1%} of hub.map_gib",
    )
    if "journal" not in store:
        return
    journal, backups, scrub = store["journal"], store["backups"], store["scrub"]
    yield "journal", f"{_mib(journal['bytes'])}, batches {journal['covered_from']} to {journal['last']}"
    yield "last backup", last_backup(backups)
    yield "scrub", scrub["damaged"] or f"{scrub['rows']} records verified, {scrub['rounds']} rounds"
    for alarm in store["alarms"]:
        yield "alarm", alarm["text"]


def last_backup(backups: JsonObject) -> str:
    newest = backups["newest"]
    if newest is None:
        none = "none that passes" if backups["count"] else "none yet" if backups["next"] else "none"
        return f"{none}; the next is due {backups['next']}" if backups["next"] else none
    state = "verified" if newest["verified"] else "not verified"
    return f"{output.seconds(backups['age_s'])} old, {state}, {newest['name']}, {backups['count']} kept"


def _mib(count: int) -> str:
    return output.size(count) if count >= 2**20 else f"{count / 1024:.0f} KiB"
