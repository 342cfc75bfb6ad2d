"""Whether the book of paid attempts agrees with its sums and with the tasks.

Every record lies under the key of its attempt. What all records count as, and what was carried over from records that
have gone, make together what was ever booked, which each change writes beside them. What was carried over is the same
by all submitters as in all, in every period, and no less than by all repositories. An attempt that is not settled is
one that runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from agentcom.money import LedgerRecord, SpentRecord, shown
from agentcom.store.base import Database, Row

SPENT: Final = b"spent"
BOOKED: Final = b"booked"
_record = msgspec.msgpack.Decoder(LedgerRecord).decode
_spent = msgspec.msgpack.Decoder(SpentRecord).decode


class Book:
    """`open` are the attempts that the book holds as running, by task; those that do run are taken out by `runs`."""

    def __init__(
        self,
        walk: Callable[[str], Iterator[Row]],
        meta: Mapping[bytes, bytes],
        tell: Callable[[str], None],
    ) -> None:
        self._tell = tell
        self.open: dict[int, set[int]] = {}
        in_book = 0
        for key, body in walk(Database.LEDGER):
            record = _record(body)
            in_book += record.amount
            if record.task.to_bytes(8, "big") + record.attempt.to_bytes(8, "big") != key:
                tell(f"what attempt {record.attempt} of task {record.task} cost lies under the key {key.hex()}")
            if record.settled is None:
                self.open.setdefault(record.task, set()).add(record.attempt)
        carried = self._carried(meta)
        booked = meta.get(BOOKED)
        if booked is not None and int.from_bytes(booked, "big") != in_book + carried:
            tell(
                f"{shown(int.from_bytes(booked, 'big'))} USD were booked, and the records of attempts and what was "
                f"carried over from older ones make {shown(in_book + carried)}"
            )

    def runs(self, task: int, attempt: int) -> None:
        """That attempt of the task runs."""
        if task in self.open:
            self.open[task].discard(attempt)

    def end(self) -> None:
        for task, attempts in self.open.items():
            for attempt in attempts:
                self._tell(f"attempt {attempt} of task {task} is over, and what it cost is not settled")

    def _carried(self, meta: Mapping[bytes, bytes]) -> int:
        sums: dict[str, Counter[str]] = {"all": Counter(), "submitter": Counter(), "repo": Counter()}
        for key, body in meta.items():
            if key.startswith(SPENT):
                record = _spent(body)
                sums[record.scope].update(record.amounts)
        for period, amount in sums["all"].items():
            of_people, of_repos = sums["submitter"][period], sums["repo"][period]
            if of_people != amount or of_repos > amount:
                self._tell(
                    f"of {period or 'all time'} {shown(amount)} USD are carried over in all, {shown(of_people)} by "
                    f"submitters and {shown(of_repos)} by repositories"
                )
        return sums["all"][""]
