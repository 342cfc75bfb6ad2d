"""Where the parts of the core put their effects while one event is handled."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from agentcom.core.effects import Delete, Effect, Publish, Put, Send, TaskChanged, key_u64
from agentcom.messages import Error, FromHub

_encode = msgspec.msgpack.Encoder().encode


class Outlet:
    """Collects effects in order; `take` empties it."""

    def __init__(self) -> None:
        self.effects: list[Effect] = []
        # Whether anyone reads the feed, as the shell last said; without readers no event is built.
        self.is_read = True

    def put(self, database: str, key: bytes, record: Struct) -> None:
        self.effects.append(Put(database, key, _encode(record)))

    def put_bytes(self, database: str, key: bytes, body: bytes) -> None:
        self.effects.append(Put(database, key, body))

    def delete(self, database: str, key: bytes) -> None:
        self.effects.append(Delete(database, key))

    def number(self, name: str, value: int) -> None:
        """Keep a counter or a flag in `meta`."""
        self.effects.append(Put("meta", name.encode(), key_u64(value)))

    def send(self, peer: int, message: FromHub) -> None:
        self.effects.append(Send(peer, message))

    def refuse(self, peer: int, code: str, message: str, **fields: Any) -> None:
        self.effects.append(Send(peer, Error(code=code, message=message, **fields)))

    def publish(self, topic: str, event: str, **fields: Any) -> None:
        self.effects.append(Publish(topic, {"event": event, **fields} if self.is_read else None))

    def task_changed(self, task: int) -> None:
        self.effects.append(TaskChanged(task))

    def add(self, effect: Effect) -> None:
        self.effects.append(effect)

    def take(self) -> list[Effect]:
        taken, self.effects = self.effects, []
        return taken
