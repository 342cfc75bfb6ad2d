"""A hub that ends between two steps of the tick in which a marked message is handled, as by a power cut.

`python -m tests.contract.dying_hub HOME STEP`: the process ends with status 9 after that step of the tick that
drained a message whose text holds the word FATAL (a submit's description, a result's output, a cancel's reason).
STEP is one of the broker's four; or `torn`: half of the batch is in the journal; `journal`: all of it, the store
has not committed; `housekeeping`: the tick is over. 0 never ends it. It prints the hub's ready line.
"""

from __future__ import annotations

import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

from agentcom import messages as m
from agentcom.auth import ready_line, write_hub_address
from agentcom.broker import Broker
from agentcom.clock import Now, SystemClock
from agentcom.config import Home, HubSettings, Settings
from agentcom.core.effects import Event, Incoming
from agentcom.store.base import Batch
from agentcom.store.check import full_check_here
from agentcom.store.journal import Journal
from agentcom.store.journaled import Follower, JournaledStore
from agentcom.store.segments import SEGMENT_HEAD, read_segment, segments
from agentcom.store.start import OpenedStore, StorePaths, open_store
from agentcom.upkeep import Upkeep

FATAL = "FATAL"
STATUS = 9
MAP_BYTES = 1 << 28


class DyingHub(Broker):
    """Looks at what a tick drained; everything else is the real hub's."""

    fatal_step = "0"
    is_fatal = False

    def _drain(self) -> tuple[list[Event], bool]:
        events, drained = super()._drain()
        if any(isinstance(event, Incoming) and is_marked(event.message) for event in events):
            self.is_fatal = True  # for the rest of the tick, which may drain once more
            self.died_after("1")  # also where it joins a tick that has begun
        return events, drained

    def _housekeeping(self, now: Now) -> None:
        super()._housekeeping(now)
        self.died_after("housekeeping")
        self.is_fatal = False

    def died_after(self, step: str) -> None:
        if self.is_fatal and step == self.fatal_step:
            os._exit(STATUS)


class BelowJournal:
    """The store as the journal's batches reach it: at the time of a commit the journal has the batch. Wraps it, since
    nothing interpreted may derive from a store that is compiled."""

    hub: DyingHub | None = None

    def __init__(self, store: Follower, journal: Journal) -> None:
        self._store, self._journal = store, journal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def commit(self, batch: Batch, sequence: int) -> None:
        if self.hub is not None and self.hub.is_fatal and self.hub.fatal_step == "torn":
            cut_last_record(self._journal.folder)
            self.hub.died_after("torn")
        if self.hub is not None:
            self.hub.died_after("journal")
        self._store.commit(batch, sequence)


def cut_last_record(folder: Path) -> None:
    """Half of the last record is gone, as when the process ended while it was written."""
    _, newest = segments(folder)[-1]
    *_, (start, end) = record_bounds(newest)
    os.truncate(newest, (start + end) // 2)


def record_bounds(segment: Path) -> list[tuple[int, int]]:
    ends = [SEGMENT_HEAD.size]
    ends += [item.end for item in read_segment(segment)]
    return list(pairwise(ends))


def is_marked(message: m.ToHub) -> bool:
    """Whether the word stands where a test puts it."""
    if isinstance(message, m.Result):
        return message.result is not None and FATAL in message.result.output
    if not isinstance(message, m.Request):
        return False
    if isinstance(message.op, m.Submit):
        return any(FATAL in spec.description for spec in message.op.tasks)
    return isinstance(message.op, m.TaskCancel) and FATAL in message.op.reason


def make(home: Home, opened: OpenedStore, step: str) -> DyingHub:
    settings = Settings(hub=HubSettings(port=0, feed_port=0))
    below = BelowJournal(opened.store, opened.journal)
    hub = DyingHub(
        home,
        settings,
        JournaledStore(cast(Follower, below), opened.journal),
        SystemClock(),
        after_step=lambda n: hub.died_after(str(n)),
        upkeep=Upkeep(opened, settings),
    )
    hub.fatal_step, below.hub = step, hub
    return hub


def main(folder: Path, step: str) -> None:
    home = Home(folder).prepare()
    opened = open_store(StorePaths.of_home(home.path), map_bytes=MAP_BYTES, checker=full_check_here)
    hub = make(home, opened, step)
    write_hub_address(home.run / "hub.json", hub.address)
    print(ready_line(hub=hub.address.hub), flush=True)
    hub.run()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
