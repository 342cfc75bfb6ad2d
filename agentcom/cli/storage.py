"""How the hub's store is, for people: used by `queue stats` and `doctor`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from agentcom.cli import output
from agentcom.model import JsonObject

STORE: Final = "store"
BACKUP: Final = "last backup"
SCRUB: Final = "scrub"
COMPACTION: Final = "compaction"
DAMAGED_REMEDY: Final = (
    "start the hub again: it sets the file aside and restores the store from the newest backup and the journal; then "
    "look at the disk"
)
ACKNOWLEDGE: Final = "when you have seen it: agentcom backup acknowledge"
SET_ASIDE_NAMED: Final = 5  # paths in a line
DATABASES: Final = "databases"  # those without a row are left out of the text


def show(stats: JsonObject) -> None:
    """Of the answer of `queue_stats`: a few lines."""
    for text in stats.get("troubles", ()):
        output.line(f"  degraded: {output.plain(text)}")
    store = stats.get("store")
    if store is None:
        return
    for name, text in lines(store):
        output.line(f"  {name}: {output.plain(text)}")


def lines(store: JsonObject) -> Iterator[tuple[str, str]]:
    """What there is to say of a store on a disk, in the order in which people ask."""
    free = store["file_bytes"] - store["used_bytes"]
    pages = f" ({store['free_pages']} pages)" if "free_pages" in store else ""
    yield (
        STORE,
        f"{_size(store['used_bytes'])} in use, {_size(free)} free{pages} in a file of {_size(store['file_bytes'])}, "
        f"{store['used_bytes'] / store['map_bytes']:.1%} of {store.get('map_setting', 'hub.map_gib')}",
    )
    yield DATABASES, _rows_and_bytes(store["databases"])
    if "journal" not in store:
        return
    journal, backups, scrub = store["journal"], store["backups"], store["scrub"]
    yield "journal", f"{_size(journal['bytes'])}, batches {journal['covered_from']} to {journal['last']}"
    yield BACKUP, last_backup(backups)
    damage = f"damage was found: {scrub['damaged']}" if scrub["damaged"] else ""
    yield SCRUB, damage or f"{scrub['rows']} records verified, {scrub['rounds']} rounds"
    compacted = store["compaction"]["last"]
    if compacted is not None and compacted["error"]:
        when = f" at {compacted['ended']}" if compacted["ended"] else ""
        yield COMPACTION, f"the last one failed{when}: {compacted['error']['message']}"
    for alarm in store["alarms"]:
        yield "alarm", alarm["text"]


def unwell(store: JsonObject) -> dict[str, tuple[str, str]]:
    """Which of these lines tell of something that is wrong: doctor's status and remedy, by name."""
    if "journal" not in store:
        return {}
    found = {}
    compacted = store["compaction"]["last"]
    if compacted is not None and compacted["error"]:
        found[COMPACTION] = ("warn", "")  # it says what is missing
    if store["backups"]["unreadable"]:
        found[BACKUP] = ("warn", "")  # it says what to do
    if store["scrub"]["damaged"]:
        found[SCRUB] = ("fail", DAMAGED_REMEDY)
    return found


def last_backup(backups: JsonObject) -> str:
    """How old the newest is, and how many there are; why that is not known, where the folder cannot be read."""
    newest = backups["newest"]
    if backups["unreadable"]:
        return str(backups["unreadable"])
    if newest is None:
        none = "none that passes" if backups["count"] else "none yet" if backups["next"] else "none"
        return f"{none}; the next is due {backups['next']}" if backups["next"] else none
    state = "verified" if newest["verified"] else "not verified"
    others = backups["count"] - backups["verified"]
    kept = f"{backups['verified']} kept" + (f", {others} more that a restore does not take" if others else "")
    return f"{output.seconds(backups['age_s'])} old, {state}, {newest['name']}, {kept}"


def repairs(store: JsonObject) -> Iterator[tuple[JsonObject, str, str]]:
    """Each restore that still matters, in words, and what may be deleted."""
    for one in store.get("repairs", ()):
        why = f", because {one['why']}" if one["why"] else ", as was asked for"
        journal = f"{one['replayed']} batches of the journal"
        source = f"{one['backup']} and {journal}" if one["backup"] else f"{journal} alone"
        missing = "; ".join(one["missing"])
        lost = f"missing: {missing}" if missing else "no batch is known to be missing"
        aside = one["set_aside"]
        hints = [ACKNOWLEDGE] * is_news(one)
        hints += [f"the file from before is {aside}; delete it when nobody wants to see it"] * bool(aside)
        yield one, f"at {one['at']}{why}; from {source}, to batch {one['sequence']}; {lost}", "; ".join(hints)


def is_news(repair: JsonObject) -> bool:
    """Whether somebody should know of it and has not yet said so: not what was asked for and lost nothing."""
    return bool(repair["why"] or repair["missing"]) and not repair["seen"]


def set_aside(files: list[JsonObject]) -> str:
    """What was set aside, in words: the first paths, and how much it is."""
    named = ", ".join(each["path"] for each in files[:SET_ASIDE_NAMED])
    more = f" and {len(files) - SET_ASIDE_NAMED} more beside them" if len(files) > SET_ASIDE_NAMED else ""
    return f"{_size(sum(each['bytes'] for each in files))} in {named}{more}"


def figures(name: str, store: JsonObject) -> JsonObject:
    """The numbers behind the line of that name, for programs."""
    if name == DATABASES:
        return {each: {"rows": of["rows"], "bytes": of["bytes"]} for each, of in store["databases"].items()}
    if name == STORE:
        wanted = ("file_bytes", "used_bytes", "map_bytes", "free_pages")
        return {each: store[each] for each in wanted if each in store}
    return {}


def _rows_and_bytes(databases: JsonObject) -> str:
    used = {name: each for name, each in databases.items() if each["rows"]}
    told = ", ".join(f"{name} {each['rows']} ({_size(each['bytes'])})" for name, each in used.items())
    return f"rows (bytes) {told}" if told else "no rows"


def _size(count: int) -> str:
    return output.size(count) or "0 KiB"
