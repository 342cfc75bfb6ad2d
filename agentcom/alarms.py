"""What is wrong and lasts: raised once, shown until it is over, published when it begins and when it ends."""

from __future__ import annotations

from typing import Any, NamedTuple

from agentcom.clock import Now, rfc3339
from agentcom.model import JsonObject

Told = tuple[str, dict[str, Any]]  # an event and its fields


class Alarm(NamedTuple):
    text: str
    since_ms: int


class Alarms:
    """Alarms by code. `take` gives the events of what has changed since the last call."""

    def __init__(self) -> None:
        self._raised: dict[str, Alarm] = {}
        self._events: list[Told] = []

    def set(self, code: str, text: str, now: Now) -> None:
        """Raise the alarm, or end it with an empty text. The same alarm with other words is no new one."""
        known = self._raised.get(code)
        if not text:
            if known is not None:
                del self._raised[code]
                self._events.append(("alarm_ended", {"code": code, "text": known.text}))
            return
        self._raised[code] = Alarm(text, known.since_ms if known else now.wall_ms)
        if known is None:
            self._events.append(("alarm_raised", {"code": code, "text": text}))

    def take(self) -> list[Told]:
        taken, self._events = self._events, []
        return taken

    def view(self) -> list[JsonObject]:
        return [
            {"code": code, "text": alarm.text, "since": rfc3339(alarm.since_ms)}
            for code, alarm in sorted(self._raised.items())
        ]
