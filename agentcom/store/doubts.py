"""What a start or a restore could not save, kept beside the store until an operator has seen it.

The list outlives restarts: a hub that was started twice since the damage still says what is missing.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from agentcom.config import write_private

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


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
