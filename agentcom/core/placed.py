"""Where the scheduler sends the tasks of a tick, before limits have their say."""

from __future__ import annotations

from typing import NamedTuple


class Placed(NamedTuple):
    """What a tick says of one task: the agent and the endpoint's row; the agent is -1 where it waits, both are where
    there is no place."""

    agent: int
    endpoint: int


def first_first(groups: list[int], placed: list[Placed]) -> list[Placed]:
    """The same places, but of the tasks of one group, which are alike, those ahead in the queue start and those behind
    wait for a full endpoint: the scheduler says how many do which."""
    if not any(each.agent < 0 <= each.endpoint for each in placed):
        return placed
    of_group: dict[int, list[int]] = {}
    for at, group in enumerate(groups):
        of_group.setdefault(group, []).append(at)
    ordered = list(placed)
    for places in of_group.values():
        told = sorted((placed[at] for at in places), key=lambda each: each.agent < 0)  # stable
        for at, each in zip(places, told, strict=True):
            ordered[at] = each
    return ordered
