"""Where the parts of the core put their effects while one event is handled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from agentcom.clock import rfc3339
from agentcom.core.effects import (
    Delete,
    DeleteUnder,
    Effect,
    Noticed,
    Publish,
    Put,
    RecordKey,
    Send,
    TaskChanged,
    key_u64,
)
from agentcom.messages import Error, FromHub
from agentcom.model import KeptEvent

_encode = msgspec.msgpack.Encoder().encode
# What `Hub.lookups` asks for: the store has it as it was before this tick, so what this tick wrote comes first.
LOOKED_UP = frozenset({"attempts", "bodies", "idempotency", "ledger", "tasks"})

# The events that people may want to read later: each is put into `feed` with the tick that made it. Their fields are
# plain values, named in docs/events.md. Not among them: what a task's own story tells, and what changes all the time.
KEPT = frozenset(
    {
        "agent_removed", "agent_unresponsive",
        "alarm_ended", "alarm_raised", "backup_made", "backup_verified", "compaction_failed",
        "attempt_stalled",
        "clock_jumped",
        "endpoint_added", "endpoint_removed", "endpoint_sick", "endpoint_well", "endpoint_tripped", "endpoint_restored",
        "endpoint_unreachable_from", "endpoint_reached_from", "model_quarantined", "model_released",
        "model_preload_failed", "model_preloaded", "model_preloading",
        "figures_dropped", "host_awake", "host_blocked", "host_offline", "host_online", "host_quiet", "host_removed",
        "host_full", "host_has_room", "host_unblocked",
        "hub_degraded", "hub_recovered", "hub_started",
        "key_enrolled", "key_revoked", "token_added",
        "queue_paused", "queue_resumed", "queue_rule_set", "budget_set", "budget_low", "budget_reached",
        "recording_failed", "repo_added", "repo_changed", "repo_removed",
        "report_refused", "second_host_disagreed", "signing_key_known", "signing_key_refused",
        "setting_changed", "setting_ignored",
        "store_acknowledged", "store_compacted", "store_uncertain",
        "task_answered", "task_asked", "task_dead", "task_escalated", "task_expired", "task_fell_back", "task_purged",
    }
)  # fmt: skip
NEXT_EVENT = "next_event"


class Outlet:
    """Collects effects in order; `take` empties it."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        self._written: dict[RecordKey, bytes | None] = {}
        self._dropped: set[RecordKey] = set()
        # Whether anyone reads the feed, as the shell last said; without readers no event is built.
        self.is_read = True
        self._missed: dict[str, None] = {}
        self.wall_ms = self.term_ms = 0  # when the event happens that is being handled
        self.next_event = 1

    def put(self, database: str, key: bytes, record: Struct) -> None:
        self.put_bytes(database, key, _encode(record))

    def put_bytes(self, database: str, key: bytes, body: bytes) -> None:
        if database in LOOKED_UP:
            self._written[database, key] = body
        self.effects.append(Put(database, key, body))

    def delete(self, database: str, key: bytes) -> None:
        if database in LOOKED_UP:
            self._written[database, key] = None
        self.effects.append(Delete(database, key))

    def delete_task(self, database: str, task: int) -> None:
        """Remove all that is kept of a task under its number; nothing is put there again."""
        key = key_u64(task)
        if database in LOOKED_UP:
            self._dropped.add((database, key))
        self.effects.append(DeleteUnder(database, key))

    def latest(self, place: RecordKey, found: Mapping[RecordKey, bytes]) -> bytes | None:
        """A record as it is now: what this tick wrote, else what the shell found in the store."""
        if self._dropped and (place[0], place[1][:8]) in self._dropped:
            return None
        return self._written[place] if place in self._written else found.get(place)

    def end_tick(self) -> None:
        """The tick's batch is committed: the store has what was written."""
        self._written.clear()
        self._dropped.clear()

    def number(self, name: str, value: int) -> None:
        """Keep a counter or a flag in `meta`."""
        self.effects.append(Put("meta", name.encode(), key_u64(value)))

    def send(self, peer: int, message: FromHub) -> None:
        self.effects.append(Send(peer, message))

    def refuse(self, peer: int, code: str, message: str, **fields: Any) -> None:
        self.effects.append(Send(peer, Error(code=code, message=message, **fields)))

    def publish(self, topic: str, event: str, **fields: Any) -> None:
        """Tell the feed, and keep what is to be kept: that has a number, and is there whether anyone reads or not."""
        if event in KEPT:
            assert "number" not in fields, f"{event}: its number is the hub's to give"
            number = self._keep(self.wall_ms, self.term_ms, topic, event, fields)
            fields = {"number": number, **fields}
        self._tell(topic, event, fields)

    def publish_noticed(self, seen: Noticed) -> None:
        """As `publish`. What readers know already they are told again, with its number and its own time."""
        topic, event, fields = seen.topic, seen.event, dict(seen.fields)
        if not seen.told_ms:
            self.publish(topic, event, **fields)
        elif event in KEPT:
            number = self._keep(seen.told_ms, seen.term_ms, topic, event, fields)
            self._tell(topic, event, {"number": number, "at": rfc3339(seen.told_ms), **fields})

    def _keep(self, at_ms: int, term_ms: int, topic: str, event: str, fields: dict[str, Any]) -> int:
        number, self.next_event = self.next_event, self.next_event + 1
        kept = KeptEvent(at_ms=at_ms, term_ms=term_ms, topic=topic, event=event, fields=fields)
        self.put("feed", key_u64(number), kept)
        self.number(NEXT_EVENT, self.next_event)
        return number

    def _tell(self, topic: str, event: str, fields: dict[str, Any]) -> None:
        if self.is_read:
            self.effects.append(Publish(topic, {"event": event, **fields}))
        else:
            self._missed[topic] = None

    def task_changed(self, task: int) -> None:
        if self.is_read:
            self.effects.append(TaskChanged(task))
        else:
            self._missed["task"] = None

    def take_missed(self) -> list[str]:
        """Topics of which nobody was told, since nobody reads: their sequences have to rise all the same, so that
        one who subscribes at this very moment sees a gap."""
        missed, self._missed = list(self._missed), {}
        return missed

    def add(self, effect: Effect) -> None:
        self.effects.append(effect)

    @property
    def has_records(self) -> bool:
        """Whether what happens now changes the store. O(effects)."""
        return any(isinstance(effect, Put | Delete) for effect in self.effects)

    def take(self) -> list[Effect]:
        taken, self.effects = self.effects, []
        return taken
