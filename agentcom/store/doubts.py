"""What a start or a restore could not save, kept beside the store until an operator has seen it.

The list outlives restarts: a hub that was started twice since the damage still says what is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from agentcom.config import write_private

NEXT_TASK: Final = b"next_task"  # in "meta"
FILE: Final = "uncertain.json"
DOUBTS_MAX: Final = 1000  # the oldest are kept: they say where it began


class Doubt(msgspec.Struct, frozen=True):
    """One line of what is uncertain, and when it was found (RFC 3339)."""

    at: str
    text: str


class Doubts:
    """The list of the store in the folder. A disk that takes no file keeps no hub from starting: the list is then
    known to this process alone."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        try:
            self.found = msgspec.json.decode(self._file.read_bytes(), type=list[Doubt])
        except FileNotFoundError:
            self.found = []
        except (OSError, msgspec.DecodeError) as error:
            self.found = [Doubt(_now(), f"{self._file} cannot be read ({error}): it held earlier lines of this list")]

    def add(self, texts: tuple[str, ...]) -> None:
        if not texts:
            return
        self.found = [*self.found, *(Doubt(_now(), text) for text in texts)][:DOUBTS_MAX]
        try:
            write_private(self._file, msgspec.json.encode(self.found))
        except OSError:
            return

    def acknowledge(self) -> list[Doubt]:
        """An operator has seen them; what they were."""
        seen, self.found = self.found, []
        self._file.unlink(missing_ok=True)
        return seen


def missing_tasks(following: bytes | None, given: Mapping[str, int]) -> str:
    """Behind a line of what is lost: the tasks that were new in it, from the one that would be next (NEXT_TASK as the
    store has it) to the last that had a number (`Journal.given`). Empty where none is known of."""
    first, last = max(1, int.from_bytes(following or b"", "big")), given["next_task"] - 1
    if last < first:
        return ""
    return f"; task {first} is missing" if last == first else f"; tasks {first} to {last} are missing"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
