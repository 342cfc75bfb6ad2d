"""Requirement groups: what tasks ask of a place to run, each kept once, in memory and in the store.

A live task's row names its group by number; the records lie in `meta` under `group` and the number. A group that no
live task has any longer keeps its number until some others are unused too, then record and number go. The row of a
task that has ended keeps the number that it had, which means nothing any more: its body says what it asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from agentcom.core.effects import key_u64
from agentcom.core.interned import Interned
from agentcom.core.outlet import Outlet
from agentcom.model import Group, Tier

PREFIX: Final = b"group"
TRIM_SLICE: Final = 1000  # unused groups that are dropped in one tick after the start


class Groups:
    """Groups by number. Groups of one pool ask the same of a place to run; they differ in their repository, unless
    that has hosts of its own."""

    def __init__(self, out: Outlet) -> None:
        self._out = out
        self._groups: Interned[Group] = Interned()
        self._groups.on_new = self._made
        self._groups.on_gone = self._gone
        self._pools: Interned[tuple[object, ...]] = Interned(spare=0)
        self._pool_of: dict[int, int] = {}
        self._of_repo: dict[str, dict[int, None]] = {}
        self.is_apart: Callable[[str], bool] = lambda _repo: False  # whether not every host may work on it
        self.on_new: Callable[[int], None] = lambda _number: None
        self.on_gone: Callable[[int], None] = lambda _number: None

    def __getitem__(self, number: int) -> Group:
        return self._groups[number]

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[int]:
        return iter(self._groups)

    def __contains__(self, number: int) -> bool:
        return number in self._groups

    def used(self) -> dict[int, Group]:
        """The groups of live tasks."""
        return self._groups.used()

    def number_of(self, group: Group) -> int | None:
        """Its number; None for a group that is not kept."""
        return self._groups.number_of.get(group)

    def uses(self, number: int) -> int:
        """How many live tasks have it."""
        return self._groups.uses(number)

    def load(self, number: int, group: Group) -> None:
        """From the store, before any task."""
        self._groups.load(number, group)
        self._index(number, group)

    def use(self, number: int, tasks: int = 1) -> None:
        """So many live tasks from the store have it."""
        self._groups.take_for(self._groups[number], tasks)

    def take(self, group: Group) -> int:
        """The number for one more live task."""
        return self._groups.take(group)

    def give(self, number: int) -> None:
        """A task with it has ended."""
        self._groups.give(number)

    def trim(self) -> None:
        """Drop some of the groups that no live task has. For after the start, in bounded slices."""
        self._groups.trim(TRIM_SLICE)

    def pool_of(self, number: int) -> int:
        return self._pool_of[number]

    def of_repo(self, repo: str) -> list[int]:
        return list(self._of_repo.get(repo, ()))

    def repos(self) -> list[str]:
        return [repo for repo in self._of_repo if repo]

    def misplaced(self) -> list[int]:
        """Groups whose pool is another by now."""
        return [n for n in self._pool_of if self._pools[self._pool_of[n]] != self._asked(self._groups[n])]

    def replace(self, number: int) -> None:
        """Put a group into the pool where it belongs by now. Not while the queue has a head of it."""
        self._pools.give(self._pool_of[number])
        self._pool_of[number] = self._pools.take(self._asked(self._groups[number]))

    def _asked(self, group: Group) -> tuple[object, ...]:
        asked = (group.tier, group.model, group.needs, group.alone, group.prefers, group.allow)
        return (*asked, group.repo) if group.repo and self.is_apart(group.repo) else asked

    def _made(self, number: int, group: Group) -> None:
        self._out.put("meta", PREFIX + key_u64(number), group)
        self._index(number, group)

    def _index(self, number: int, group: Group) -> None:
        self._pool_of[number] = self._pools.take(self._asked(group))
        self._of_repo.setdefault(group.repo, {})[number] = None
        self.on_new(number)

    def _gone(self, number: int, group: Group) -> None:
        self.on_gone(number)
        self._out.delete("meta", PREFIX + key_u64(number))
        self._pools.give(self._pool_of.pop(number))
        del self._of_repo[group.repo][number]
        if not self._of_repo[group.repo]:
            del self._of_repo[group.repo]


def raised(group: Group) -> Group:
    """The same tasks on the tier above: its own model, and no step further."""
    return msgspec.structs.replace(group, tier=Tier.complex, model="", allow=())
