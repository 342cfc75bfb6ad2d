"""A hub that ends between two steps of the tick in which a marked message is handled, as by a power cut.

`python -m tests.contract.dying_hub HOME STEP`: the process ends with status 9 after that step of the tick that
drained a message whose text holds the word FATAL (a submit's description, a result's output, a cancel's reason).
STEP 0 never ends it. It prints the hub's ready line.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from agentcom import messages as m
from agentcom.auth import ready_line, write_hub_address
from agentcom.broker import Broker
from agentcom.clock import SystemClock
from agentcom.config import Home, HubSettings, Settings
from agentcom.core.effects import Event, Incoming
from agentcom.store.lmdb_store import LmdbStore

FATAL = "FATAL"
STATUS = 9
MAP_BYTES = 1 << 28


class DyingHub(Broker):
    """Looks at what a tick drained; everything else is the real hub's."""

    fatal_step = 0
    is_fatal = False

    def _drain(self) -> tuple[list[Event], bool]:
        events, drained = super()._drain()
        self.is_fatal = any(isinstance(event, Incoming) and is_marked(event.message) for event in events)
        return events, drained

    def died_after(self, step: int) -> None:
        if self.is_fatal and step == self.fatal_step:
            os._exit(STATUS)


def is_marked(message: m.ToHub) -> bool:
    """Whether the word stands where a test puts it."""
    if isinstance(message, m.Result):
        return message.result is not None and FATAL in message.result.output
    if not isinstance(message, m.Request):
        return False
    if isinstance(message.op, m.Submit):
        return any(FATAL in spec.description for spec in message.op.tasks)
    return isinstance(message.op, m.TaskCancel) and FATAL in message.op.reason


def main(folder: Path, step: int) -> None:
    home = Home(folder).prepare()
    settings = Settings(hub=HubSettings(port=0, feed_port=0))
    store = LmdbStore(home.store, map_bytes=MAP_BYTES)
    hub = DyingHub(home, settings, store, SystemClock(), after_step=lambda n: hub.died_after(n))
    hub.fatal_step = step
    write_hub_address(home.run / "hub.json", hub.address)
    print(ready_line(hub=hub.address.hub), flush=True)
    hub.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
