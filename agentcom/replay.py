"""A recording decided again: first by its own policy, which must give what was recorded, then by another.

Each turn is decided from the state that was recorded, so the other policy answers the same questions; what would have
become of its answers is estimated in replay_estimate.py.
"""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from agentcom.config import ScoringSettings
from agentcom.core.recording import Head, Start, Turn
from agentcom.core.score import Candidate
from agentcom.replica import Place, Replica, place_in

CHANGES_SHOWN: Final = 10


class Difference(NamedTuple):
    """The first decision that is not as it was recorded."""

    turn: int
    task: int
    recorded: str
    decided: str


class Change(NamedTuple):
    """A task that started, and that the other policy sends elsewhere: `by_us` is what its own way costs less by its
    own figures, `parts` of that by name. A task that it lets wait has `to` of what it waits for."""

    task: int
    at_ms: int
    was: str
    to: str
    waits: bool
    by_us: int
    parts: dict[str, int]


class Comparison(NamedTuple):
    """Starts that were recorded, and what the other policy does with these tasks in the same turns. `earlier`: tasks
    that were left waiting and that it starts at once."""

    starts: int
    same: int
    elsewhere: int
    waiting: int
    earlier: int
    moved: dict[str, int]
    changes: list[Change]


def verify(start: Start, turns: list[Turn]) -> Difference | None:
    """Whether the recorded policy decides as it was recorded; the first difference otherwise."""
    replica = Replica(start)
    for number, turn in enumerate(turns):
        replica.follow(turn)
        for head, place in zip(turn.heads, replica.decide(turn), strict=True):
            if place_in(head) != place:
                recorded = said(replica, place_in(head))
                return Difference(number, head.task, recorded, said(replica, place))
    return None


def decisions(turns: list[Turn]) -> int:
    return sum(len(turn.heads) for turn in turns)


def compare(start: Start, turns: list[Turn], policy: ScoringSettings) -> Comparison:
    """What the other policy says in the same turns."""
    replica = Replica(start, policy)
    counts: Counter[str] = Counter()
    moved: Counter[str] = Counter()
    changes: list[Change] = []
    earlier: set[int] = set()
    for turn in turns:
        replica.follow(turn)
        for head, place in zip(turn.heads, replica.decide(turn), strict=True):
            if not head.is_started:
                if head.agent < 0 <= place.agent:
                    earlier.add(head.task)
                continue
            counts["starts"] += 1
            earlier.discard(head.task)
            if _is_same(replica, place_in(head), place):
                counts["same"] += 1
                continue
            counts["waiting" if place.agent < 0 else "elsewhere"] += 1
            change = _change(replica, turn, head, place)
            moved[f"{change.was} -> {'waits for ' if change.waits else ''}{change.to}"] += 1
            changes.append(change)
    changes.sort(key=lambda change: (-change.by_us, change.task))
    return Comparison(
        counts["starts"],
        counts["same"],
        counts["elsewhere"],
        counts["waiting"],
        len(earlier),
        dict(moved.most_common(CHANGES_SHOWN)),
        changes[:CHANGES_SHOWN],
    )


def said(replica: Replica, place: Place) -> str:
    """A place in words."""
    endpoint = replica.registry.endpoints.get(place.endpoint)
    at = endpoint.name if endpoint is not None else ""
    if place.agent < 0:
        return f"waits for {at}" if at else "waits"
    agent = replica.fleet.agents.get(place.agent)
    name = agent.record.name if agent is not None else f"agent {place.agent}"
    return f"{name} with {at}" if at else name


def _is_same(replica: Replica, one: Place, other: Place) -> bool:
    """Agents of one host are alike."""
    if one.agent < 0 or other.agent < 0:
        return one == other
    hosts = replica.fleet.agents[one.agent].host, replica.fleet.agents[other.agent].host
    return hosts[0] is hosts[1] and one[1:] == other[1:]


def _change(replica: Replica, turn: Turn, head: Head, place: Place) -> Change:
    asked = turn.asked[head.asked]
    was = replica.way(asked, place_in(head))
    if place.agent < 0:
        to = said(replica, place).removeprefix("waits for ")
        return Change(head.task, turn.mono_ms, _at(was), to, True, 0, {})
    now = replica.way(asked, place)
    parts = {
        name: was.parts.get(name, 0) - now.parts.get(name, 0) for name in sorted({*was.parts, *now.parts})
    }
    parts = {name: us for name, us in parts.items() if us}
    return Change(head.task, turn.mono_ms, _at(was), _at(now), False, was.cost_us - now.cost_us, parts)


def _at(way: Candidate) -> str:
    host = way.agent.host.record.name
    return f"{host} ({way.endpoint.name})" if way.endpoint is not None else host
