"""Quiet hours: when a machine is its people's alone, by its own clock and zone.

`22:00-07:00`, `mon-fri 09:00-17:00`, `sun 00:00-24:00`. Hours that end before they begin reach into the next day; the
days are those on which they begin. Hours that touch are one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from agentcom import limits

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAYS_AHEAD: Final = 8  # the hours of a week begin anew after seven: those that last longer never end


def until_ms(hours: Sequence[str], now: datetime) -> int:
    """The end of the quiet hours in which `now` (with its zone) lies, in wall ms; 0 outside of them, and
    `limits.QUIET_ALWAYS_MS` where they never end."""
    end = now
    while end < now + timedelta(days=DAYS_AHEAD):
        later = max((until for each in hours if (until := _until(each, end)) is not None), default=end)
        if later <= end:
            break
        end = later
    if end >= now + timedelta(days=DAYS_AHEAD):
        return limits.QUIET_ALWAYS_MS
    return int(end.timestamp() * 1000) if end > now else 0


def _until(hours: str, now: datetime) -> datetime | None:
    """The end of these hours where `now` lies in them."""
    days, _, times = hours.rpartition(" ")
    first, _, last = times.partition("-")
    for ago in (0, 1):
        day = now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None) - timedelta(days=ago)
        if not _is_on(days, day.weekday()):
            continue
        start, end = day + _clock(first), day + _clock(last)
        end += timedelta(days=1) if end <= start else timedelta()
        if start <= now.replace(tzinfo=None) < end:
            return end.replace(tzinfo=now.tzinfo)
    return None


def _is_on(days: str, weekday: int) -> bool:
    if not days:
        return True
    first, _, last = days.partition("-")
    begin, end = DAYS.index(first), DAYS.index(last or first)
    return begin <= weekday <= end if begin <= end else weekday >= begin or weekday <= end


def _clock(text: str) -> timedelta:
    hours, minutes = text.split(":")
    return timedelta(hours=int(hours), minutes=int(minutes))
