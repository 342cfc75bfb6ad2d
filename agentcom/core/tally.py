"""How many hosts fail which condition, for the tasks of one pool; only hosts that may have changed are asked again."""

from __future__ import annotations

from collections.abc import Iterable

from agentcom.core.refusal import Refusals
from agentcom.core.wanted import Wanted
from agentcom.model import EndpointRecord


class Tally:
    """`unsure`: the hosts to be asked again, those that are gone too."""

    __slots__ = ("_counts", "_fails", "unsure")

    def __init__(self, hosts: Iterable[int]) -> None:
        self.unsure = set(hosts)
        self._fails: dict[int, str] = {}
        self._counts: dict[str, int] = {}

    def counts(self) -> dict[str, int]:
        return dict(self._counts)

    def ask(self, refusals: Refusals, wanted: Wanted, endpoints: Iterable[EndpointRecord]) -> None:
        """Ask the hosts that are not sure; `endpoints` are those that one of them may use."""
        fails = refusals.conditions_of(*wanted, self.unsure, endpoints)
        for number in self.unsure:
            self._set(number, fails.get(number, ""))
        self.unsure.clear()

    def _set(self, number: int, fails: str) -> None:
        before = self._fails.pop(number, "")
        if before:
            left = self._counts[before] - 1
            if left:
                self._counts[before] = left
            else:
                del self._counts[before]
        if fails:
            self._fails[number] = fails
            self._counts[fails] = self._counts.get(fails, 0) + 1
