"""Which task waits for which: the edges that are not met yet, by either end.

An edge stands until its dependency completes, or the dependant is purged. It outlives the end of the dependant, so
that one which is retried waits again; and that of a dependency that ended otherwise, so that nothing runs as if
it had completed. References point to tasks that exist already or stand earlier in the same batch, so there are no
cycles. Key in the database `depends`: dependant u64, dependency u64.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agentcom.core.effects import key_u64x2
from agentcom.core.outlet import Outlet
from agentcom.errors import NotFound, Refused

Edge = tuple[int, int]  # dependant, dependency


class Depends:
    """`unmet` maps a task to what it waits for, in ascending order."""

    def __init__(self, out: Outlet) -> None:
        self._out = out
        self.unmet: dict[int, list[int]] = {}
        self._dependants: dict[int, list[int]] = {}

    def load(self, edge: Edge) -> None:
        dependant, dependency = edge
        self.unmet.setdefault(dependant, []).append(dependency)
        self._dependants.setdefault(dependency, []).append(dependant)

    def add(self, dependant: int, dependencies: Collection[int]) -> None:
        for dependency in sorted(dependencies):
            self.load((dependant, dependency))
            self._out.put_bytes("depends", key_u64x2(dependant, dependency), b"")

    def of(self, dependency: int) -> list[int]:
        """Who waits for it, oldest first."""
        return sorted(self._dependants.get(dependency, ()))

    def is_waited_for(self, dependency: int) -> bool:
        return dependency in self._dependants

    def met(self, dependency: int) -> list[int]:
        """It has completed: drop its edges; returns who waited for it, oldest first."""
        dependants = sorted(self._dependants.pop(dependency, ()))
        for dependant in dependants:
            self._drop(dependant, dependency)
        return dependants

    def purged(self, dependant: int) -> None:
        """It is gone for good and waits for nothing."""
        for dependency in list(self.unmet.get(dependant, ())):
            self._drop(dependant, dependency)
            left = self._dependants[dependency]
            left.remove(dependant)
            if not left:
                del self._dependants[dependency]

    def edges(self) -> list[Edge]:
        """All of them from the side of the dependencies, for checks."""
        return sorted((one, other) for other, waiting in self._dependants.items() for one in waiting)

    def _drop(self, dependant: int, dependency: int) -> None:
        left = self.unmet[dependant]
        left.remove(dependency)
        if not left:
            del self.unmet[dependant]
        self._out.delete("depends", key_u64x2(dependant, dependency))


def resolve(given: Sequence[int], ids: Sequence[int], entry: int, next_id: int, at: str) -> list[int]:
    """What entry number `entry` of a batch waits for, as ids. A reference above 0 is the id of a task that exists; one
    below counts back from this entry: -1 is the one just before it. `ids` are those that the batch's entries have
    or will get, `next_id` the first that is not given yet."""
    found: dict[int, None] = {}
    for n, reference in enumerate(given):
        where = f"{at}.depends_on[{n}]"
        if reference == 0:
            raise Refused(
                "cycle", f"{where}: 0 is this task itself; -1 is the entry just before it", field=where
            )
        if reference < 0:
            if not 0 <= entry + reference < entry:
                said = f"{where}: {reference} is no entry before this one; -1 is the one just before it"
                raise Refused("invalid", said, field=where)
            found[ids[entry + reference]] = None
        elif reference >= next_id and reference in ids:
            raise Refused(
                "cycle",
                f"{where}: task {reference} would be of this batch; a task can wait for earlier entries only, named by "
                "their distance: -1 is the one just before",
                field=where,
            )
        elif reference >= next_id:
            raise NotFound(f"{where}: there is no task {reference}", field=where)
        else:
            found[reference] = None
    if ids[entry] in found:
        where = f"{at}.depends_on"
        raise Refused("cycle", f"{where}: task {ids[entry]} cannot wait for itself", field=where)
    return list(found)
