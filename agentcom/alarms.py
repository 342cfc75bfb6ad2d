"""What is wrong and lasts: raised once, shown until it is over, published when it begins and when it ends.

Kept beside the store: an alarm that lasts over a restart is no new one, and the end of one that a restart has ended is
told.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from agentcom.clock import Now, rfc3339
from agentcom.config import write_private
from agentcom.errors import UNREADABLE
from agentcom.model import JsonObject

FILE: Final = "alarms.json"

Told = tuple[str, dict[str, Any]]  # an event and its fields


class Alarm(NamedTuple):
    text: str
    since_ms: int


class Alarms:
    """Alarms by code, and those that a run before has left in the folder. `take` gives the events of what has changed
    since the last call. A disk that takes no file keeps none from being told."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._raised: dict[str, Alarm] = {}
        with contextlib.suppress(*UNREADABLE, OSError):
            self._raised = msgspec.json.decode(self._file.read_bytes(), type=dict[str, Alarm])
        self._events: list[Told] = []

    def set(self, code: str, text: str, now: Now) -> None:
        """Raise the alarm, or end it with an empty text. The same alarm with other words is no new one."""
        known = self._raised.get(code)
        if not text:
            if known is not None:
                del self._raised[code]
                self._events.append(("alarm_ended", {"code": code, "text": known.text}))
                self._keep()
            return
        self._raised[code] = Alarm(text, known.since_ms if known else now.wall_ms)
        if known is None:
            self._events.append(("alarm_raised", {"code": code, "text": text}))
            self._keep()

    def _keep(self) -> None:
        with contextlib.suppress(OSError):
            write_private(self._file, msgspec.json.encode(self._raised))

    def take(self) -> list[Told]:
        taken, self._events = self._events, []
        return taken

    def view(self) -> list[JsonObject]:
        return [
            {"code": code, "text": alarm.text, "since": rfc3339(alarm.since_ms)}
            for code, alarm in sorted(self._raised.items())
        ]
