"""What the shell adds to an event before the core sees it: the records that its decision needs.

The core holds no final task and no body. It says by `Hub.lookups` what it needs; where a record names another one
(an idempotency key its task, a task with a budget its payments), that is looked up too.
"""

from __future__ import annotations

import msgspec

from agentcom import messages as m
from agentcom.clock import Now
from agentcom.core.effects import Incoming, RecordKey, key_u64x2
from agentcom.core.hub import Hub
from agentcom.model import TaskRow
from agentcom.store.base import Store

_row = msgspec.msgpack.Decoder(TaskRow).decode


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
    if type(event.message) is m.Request and isinstance(event.message.op, m.TaskRetry | m.DeadRetry):
        found |= _payments(store, found)
    return event._replace(found=found)


def _payments(store: Store, found: dict[RecordKey, bytes]) -> dict[RecordKey, bytes]:
    """What the ended tasks with a budget of their own have cost already. O(their attempts)."""
    rows = [_row(body) for (database, _), body in found.items() if database == "tasks"]
    keys = [key_u64x2(row.id, n) for row in rows if row.budget for n in range(1, row.attempt + 1)]
    bodies = store.get_many("ledger", keys)
    return {("ledger", key): body for key, body in zip(keys, bodies, strict=True) if body is not None}
