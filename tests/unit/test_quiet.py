"""Quiet hours by a machine's own clock: when they end, and that those which touch are one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from agentcom import limits
from agentcom.config import SidecarSettings
from agentcom.settings import checked
from agentcom_sidecar.quiet import until_ms

ZONE = timezone(timedelta(hours=2))


def at(text: str) -> datetime:
    """A moment of the week of Monday, the 4th of January 2027, in the machine's zone."""
    return datetime.fromisoformat(f"2027-01-{text}").replace(tzinfo=ZONE)


@pytest.mark.parametrize(
    ("hours", "now", "end"),
    [
        (("22:00-07:00",), "04T23:00", "05T07:00"),
        (("22:00-07:00",), "05T06:59", "05T07:00"),
        (("22:00-07:00",), "05T07:00", None),
        (("22:00-07:00",), "04T21:59", None),
        (("mon-fri 09:00-17:00",), "08T12:00", "08T17:00"),
        (("mon-fri 09:00-17:00",), "09T12:00", None),
        (("fri-mon 20:00-06:00",), "05T03:00", "05T06:00"),
        (("fri-mon 20:00-06:00",), "06T03:00", None),
        (("sun 00:00-24:00",), "10T12:00", "11T00:00"),
        (("22:00-24:00", "00:00-07:00"), "04T22:30", "05T07:00"),
        ((), "04T12:00", None),
    ],
)
def test_quiet_hours_end_when_they_say(hours: tuple[str, ...], now: str, end: str | None) -> None:
    expected = int(at(end).timestamp() * 1000) if end else 0
    assert until_ms(hours, at(now)) == expected


@pytest.mark.parametrize(
    "hours", [("00:00-24:00",), ("07:00-22:00", "22:00-07:00"), ("mon-fri 00:00-24:00", "sat-sun 00:00-24:00")]
)
def test_hours_that_never_end_are_said_to_be_always(hours: tuple[str, ...]) -> None:
    assert until_ms(hours, datetime(2027, 1, 4, 12, tzinfo=UTC)) == limits.QUIET_ALWAYS_MS


def test_hours_of_all_days_but_a_part_of_one_end() -> None:
    hours = ("mon-sat 00:00-24:00", "sun 00:00-12:00", "sun 13:00-24:00")
    assert until_ms(hours, at("10T14:00")) == int(at("17T12:00").timestamp() * 1000)


@pytest.mark.parametrize("hours", ["25:00-07:00", "22:00", "22:00-07:00 mon", "xyz 22:00-07:00", "1:00-2:00"])
def test_hours_that_mean_nothing_are_refused(hours: str) -> None:
    with pytest.raises(Exception, match="quiet_hours"):
        checked("sidecar.quiet_hours", [hours])


def test_no_hours_are_quiet_by_default() -> None:
    assert SidecarSettings().quiet_hours == ()
