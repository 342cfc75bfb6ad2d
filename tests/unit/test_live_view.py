"""What the page's stream says of an event that the hub keeps, and of one that it cannot keep yet."""

from __future__ import annotations

import json
from typing import Any

from agentcom_web.feed import LiveView, LogChoice
from agentcom_web.wire import Published

EMPTY = {"epoch": "e", "sequences": {}, "counts": {}, "agents": [], "hosts": [], "endpoints": [], "tasks": []}


def told(number: int | None) -> dict[str, Any]:
    return {"at": "2026-11-27T08:00:00.000Z", "event": "hub_degraded", "number": number, "reason": "no room"}


def test_an_event_without_a_number_is_streamed_and_comes_into_the_view_with_its_number() -> None:
    now_s = 0.0
    view = LiveView(clock=lambda: now_s)
    view.snapshot(EMPTY)
    position, _ = view.read(None, LogChoice(), 0)
    streamed = []
    for sequence, number in ((1, None), (2, 7)):
        view.published(Published("hub", "e", sequence, told(number)))
        now_s += 1
        view.flush()
        position, fresh = view.read(position, LogChoice(), 0)
        name, _, data = fresh.decode().strip().partition("\ndata: ")
        streamed.append((name, json.loads(data)["number"]))
        assert [one["number"] for one in view.shown()["events"]] == ([] if number is None else [7])
    assert streamed == [("event: event", None), ("event: event", 7)]
