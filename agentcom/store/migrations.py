"""From the records of an older program to those of this one: one step per schema version.

A step is a function from a stored body to the body that the next version expects (None drops the row); it
sees every row of every database. All steps and all rows are one transaction when the store is opened, so a
crash in between leaves the old store as it was; the rows of an older journal go through them when they are read.
Rules: a step never imports today's model (that changes, the
step must not), is never edited after a release, and a store of each released version lies in
tests/fixtures and must open, run and complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from agentcom.errors import StoreVersion
from agentcom.store.record import NEWER_REMEDY, SCHEMA_VERSION, pack, unpack

FIRST_VERSION: Final = 1  # of AgentCom 0.1.0

Change = Callable[[str, bytes, bytes], bytes | None]


class Step(NamedTuple):
    """`change` takes (database, key, body) of version `to - 1`."""

    to: int
    change: Change


STEPS: Final[tuple[Step, ...]] = ()  # the next one is Step(2, ...), together with SCHEMA_VERSION 2


def steps_after(found: int, steps: Sequence[Step] = STEPS, wanted: int = SCHEMA_VERSION) -> list[Step]:
    """The steps that lead from version `found` to `wanted`. StoreVersion when there is no way."""
    chosen = [step for step in steps if found < step.to <= wanted]
    if found > wanted or [step.to for step in chosen] != list(range(found + 1, wanted + 1)):
        raise StoreVersion(
            f"the store has format {found}, this program knows formats {FIRST_VERSION} to {wanted}; "
            f"{NEWER_REMEDY}"
        )
    return chosen


def changed(steps: Sequence[Step], database: str, key: bytes, body: bytes) -> bytes | None:
    """The body as it is after the steps, None when one of them drops it."""
    after: bytes | None = body
    for step in steps:
        if after is None:
            return None
        after = step.change(database, key, after)
    return after


def carry_over(steps: Sequence[Step], database: str, key: bytes, record: bytes) -> bytes | None:
    """The record as it is after the steps, None when one of them drops it; verified before it is changed."""
    body = changed(steps, database, key, unpack(database, key, record, version=steps[0].to - 1))
    return None if body is None else pack(database, key, body, version=steps[-1].to)


assert [step.to for step in STEPS] == list(range(FIRST_VERSION + 1, SCHEMA_VERSION + 1))
