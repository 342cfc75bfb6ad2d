"""Money: budgets, and what attempts cost, in integers: millionths of a dollar."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from typing import Final

from msgspec import Struct

from agentcom.model import BudgetPeriod

MICRO: Final = 1_000_000  # of a dollar


class BudgetRecord(Struct, frozen=True, array_like=True, kw_only=True):
    """A budget, in millionths of a dollar. `scope` is `all`, `repo` or `submitter`; `key` an address,
    or the id of the first key or token that had the submitter's name."""

    scope: str
    key: str
    per: BudgetPeriod
    limit: int
    set_by: str = ""
    set_ms: int = 0
    told_in: str = ""  # the period in which people were told last, by name
    told_percent: int = 0  # and at which percentage: 80, then 100


class LedgerRecord(Struct, array_like=True, kw_only=True):
    """What one attempt on a paid backend was given and has cost, in millionths of a dollar. Not settled while it runs;
    `estimated`: nobody has said what it cost."""

    task: int
    attempt: int
    reserved: int
    repo: str
    submitter: int
    model: str
    at_ms: int
    settled: int | None = None
    estimated: bool = False
    term_ms: int = 0  # on the clock of terms: how long the record is kept counts from here

    @property
    def amount(self) -> int:
        """What it counts as."""
        return self.reserved if self.settled is None else self.settled


class SpentRecord(Struct, array_like=True, kw_only=True):
    """What the attempts of a scope have cost whose own records are kept no longer, by period: a day, a month, and under
    the empty name all of it. Or what came to a repository's address from one that it had before, negative where it went
    to another."""

    scope: str
    key: str
    amounts: dict[str, int]


def micro(usd: float) -> int:
    """Millionths of a dollar, rounded up: a budget is never passed for a fraction."""
    return int((Decimal(str(usd)) * MICRO).to_integral_value(ROUND_CEILING))


def shown(amount: int) -> str:
    """In dollars, with cents, and further where there is more to it."""
    text = f"{Decimal(amount) / MICRO:.6f}".rstrip("0")
    whole, _, cents = text.partition(".")
    return f"{whole}.{cents:0<2}"
