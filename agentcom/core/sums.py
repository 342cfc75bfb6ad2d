"""What paid attempts count as, summed by scope (all, a repository, a submitter) and period (day, month, ever; UTC).

The book has a record for each attempt; the sums are counted from it at start. A record that has been kept for its term
goes, and in the same batch what it counts as is carried over to the record of its scopes (`SpentRecord`), so the sums
of every period are the same before and after, and after a restart. On disk each key or token that submits has its own;
counted here is what `submitter_key` names, all that had one name. Where a repository got another address, records from
before have the old one: what they count as is taken from that and added to the new one, by a `SpentRecord` for each
(`moved`). `booked` is the sum of all there ever was, written with each change: a check of the store compares it with
the records and with what was carried over.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from agentcom.core.outlet import Outlet
from agentcom.model import BudgetPeriod, RuleScope
from agentcom.money import LedgerRecord, SpentRecord

PREFIX: Final = b"spent"  # of the records of what was carried over, in `meta`
MOVED: Final = b"moved"  # of those of what went to another address, or came from one; below nothing where it went
BOOKED: Final = "booked"
ALL: Final = "all"
SUBMITTER: Final = "submitter"
DAYS_KEPT: Final = 64  # the newest by name: a clock that jumps must not lose today's
MONTHS_KEPT: Final = 13
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Scope = tuple[str, str]  # ("all", ""), ("repo", URL), ("submitter", number)


class Sums:
    """`by_place` is settled and reserved together. Of days and months the newest are kept."""

    def __init__(self, out: Outlet, submitter_key: Callable[[int], str]) -> None:
        self._out = out
        self._submitter_key = submitter_key
        self.by_place: Counter[tuple[Scope, str]] = Counter()
        self.carried: dict[Scope, SpentRecord] = {}
        self.moved: dict[Scope, SpentRecord] = {}
        self.booked = 0

    def load(self, carried: Iterable[SpentRecord], moved: Iterable[SpentRecord]) -> None:
        """What was carried over and what has moved, before the records of the book are counted."""
        for record in moved:
            self.moved[record.scope, record.key] = record
            for period, amount in record.amounts.items():
                self.by_place[(record.scope, record.key), period] += amount
        for record in carried:
            self.carried[record.scope, record.key] = record
            key = self._submitter_key(int(record.key)) if record.scope == SUBMITTER else record.key
            for period, amount in record.amounts.items():
                self.by_place[(record.scope, key), period] += amount
            if record.scope == ALL:
                self.booked += record.amounts[""]

    def of(self, scope: Scope, per: BudgetPeriod, wall_ms: int) -> int:
        """What counts in the period of that moment."""
        return self.by_place[scope, period_of(per, wall_ms)]

    def loaded(self, record: LedgerRecord) -> None:
        """Count a record of the store."""
        self._add(record, record.amount)

    def count(self, record: LedgerRecord, by: int) -> None:
        """The attempt counts as so much more; by its own periods, not by today's."""
        self._add(record, by)
        self._out.number(BOOKED, self.booked)

    def carry(self, record: LedgerRecord) -> None:
        """The record goes; what it counts as stays."""
        for scope in scopes(record.repo, str(record.submitter)):
            carried = self.carried.get(scope)
            if carried is None:
                carried = self.carried[scope] = SpentRecord(scope=scope[0], key=scope[1], amounts={"": 0})
            for per in BudgetPeriod:
                period = period_of(per, record.at_ms)
                carried.amounts[period] = carried.amounts.get(period, 0) + record.amount
            for period in old_periods(carried.amounts):
                del carried.amounts[period]
            self._out.put("meta", record_key(PREFIX, scope), carried)

    def move(self, old: str, new: str, rewritten: Iterable[LedgerRecord]) -> None:
        """The repository at `old` is at `new` now: all that counts there counts here. `rewritten` are records that had
        the old address and are stored with the new one. O(periods of all scopes)."""
        source: Scope = (RuleScope.repo.value, old)
        target: Scope = (RuleScope.repo.value, new)
        amounts = {period: amount for (scope, period), amount in self.by_place.items() if scope == source}
        for period, amount in amounts.items():
            del self.by_place[source, period]
            self.by_place[target, period] += amount
        for record in rewritten:
            for per in BudgetPeriod:
                period = period_of(per, record.at_ms)
                if period in amounts:
                    amounts[period] -= record.amount
        self._transfer(source, {period: -amount for period, amount in amounts.items()})
        self._transfer(target, amounts)

    def _transfer(self, scope: Scope, amounts: Mapping[str, int]) -> None:
        moved = self.moved.setdefault(scope, SpentRecord(scope=scope[0], key=scope[1], amounts={}))
        for period, amount in amounts.items():
            moved.amounts[period] = moved.amounts.get(period, 0) + amount
        old = old_periods(moved.amounts)
        moved.amounts = {each: amount for each, amount in moved.amounts.items() if amount and each not in old}
        if moved.amounts:
            self._out.put("meta", record_key(MOVED, scope), moved)
        else:
            del self.moved[scope]
            self._out.delete("meta", record_key(MOVED, scope))

    def scopes_of(self, record: LedgerRecord) -> tuple[Scope, ...]:
        """What it counts for."""
        return scopes(record.repo, self._submitter_key(record.submitter))

    def forget_old(self) -> set[str]:
        """Leave out periods that are long over, and say which."""
        old = old_periods(period for _, period in self.by_place)
        for place in [place for place in self.by_place if place[1] in old]:
            del self.by_place[place]
        return old

    def _add(self, record: LedgerRecord, by: int) -> None:
        self.booked += by
        for scope in self.scopes_of(record):
            for per in BudgetPeriod:
                self.by_place[scope, period_of(per, record.at_ms)] += by


def scopes(repo: str, submitter: str) -> tuple[Scope, ...]:
    own: Scope = (SUBMITTER, submitter)
    return ((ALL, ""), ("repo", repo), own) if repo else ((ALL, ""), own)


def period_of(per: BudgetPeriod, wall_ms: int) -> str:
    """The day or month (UTC) of that moment, by name; empty for all time."""
    if per is BudgetPeriod.ever:
        return ""
    day = (EPOCH + timedelta(days=wall_ms // 86_400_000)).date().isoformat()
    return day if per is BudgetPeriod.day else day[:7]


def old_periods(periods: Iterable[str]) -> set[str]:
    """Those of them that are beyond the newest days and months."""
    known = set(periods)
    days = sorted(period for period in known if len(period) == len("2026-11-26"))
    months = sorted(period for period in known if len(period) == len("2026-11"))
    return {*days[:-DAYS_KEPT], *months[:-MONTHS_KEPT]}


def record_key(prefix: bytes, place: tuple[str, ...]) -> bytes:
    name = "\0".join(place)
    return prefix + hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=16).digest()
