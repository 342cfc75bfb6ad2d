"""What the shell adds to an event before the core sees it: the records that its decision needs.

The core holds no final task and no body. It says by `Hub.lookups` what it needs; where a record names another one
(an idempotency key its task), that is looked up too.
"""

from __future__ import annotations

from agentcom.clock import Now
from agentcom.core.effects import Incoming, RecordKey
from agentcom.core.hub import Hub
from agentcom.store.base import Store


def look_up(hub: Hub, store: Store, event: Incoming, now: Now) -> Incoming:
    """The event with what the store has of it. O(records named)."""
    wanted = hub.lookups(event, now)
    if not wanted:
        return event
    found: dict[RecordKey, bytes] = {}
    for place in wanted:
        body = store.get(*place)
        if body is None:
            continue
        found[place] = body
        if place[0] == "idempotency":
            row = store.get("tasks", body)
            if row is not None:
                found["tasks", body] = row
    return event._replace(found=found)
