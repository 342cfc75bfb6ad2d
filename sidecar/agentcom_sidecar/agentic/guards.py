"""When a model no longer moves: the same again and again, nothing new for rounds, or calls that make no sense.

One watch per try. It sees each round as pairs of (call, what it gave), so that asking twice for something that
changes meanwhile counts as moving.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

REPEATS_MAX = 3  # the same calls with the same results, this often in a row
STALL_ROUNDS_MAX = 5  # rounds in a row in which no call gave anything that had not been given before
MISTAKE_ROUNDS_MAX = 5  # rounds in a row in which every call made no sense
REMEMBERED_MAX = 20_000  # results; older ones may count as new again

Standstill = Literal["repetition", "stall", "mistakes"]


class Watch:
    """Counts rounds that lead nowhere."""

    def __init__(self) -> None:
        self._previous: tuple[bytes, ...] = ()
        self._seen: dict[bytes, None] = {}
        self._repeats = self._stalled = self._mistaken = 0

    def took(self, pairs: Sequence[tuple[str, str]], *, is_mistaken: bool) -> Standstill | None:
        """After a round with these calls and results; why the model should be stopped now, if it should."""
        marks = tuple(_mark(call, result) for call, result in pairs)
        self._repeats = self._repeats + 1 if marks == self._previous else 1
        self._previous = marks
        self._stalled = self._stalled + 1 if all(mark in self._seen for mark in marks) else 0
        self._remember(marks)
        self._mistaken = self._mistaken + 1 if is_mistaken else 0
        if self._mistaken >= MISTAKE_ROUNDS_MAX:
            return "mistakes"
        if is_mistaken:
            return None  # the model was told what is wrong; it has its tries
        if self._repeats >= REPEATS_MAX:
            return "repetition"
        return "stall" if self._stalled >= STALL_ROUNDS_MAX else None

    def _remember(self, marks: Sequence[bytes]) -> None:
        self._seen.update(dict.fromkeys(marks))
        while len(self._seen) > REMEMBERED_MAX:
            del self._seen[next(iter(self._seen))]


def _mark(call: str, result: str) -> bytes:
    return hashlib.blake2b(f"{call}\0{result}".encode("utf-8", "replace"), digest_size=16).digest()
