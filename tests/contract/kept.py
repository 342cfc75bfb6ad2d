"""A store that is looked after as a hub does it, and short words for what its upkeep says."""

from __future__ import annotations

from pathlib import Path

from agentcom import messages as m
from agentcom.clock import ManualClock
from agentcom.config import BackupSettings, CompactionSettings, Settings
from agentcom.store.base import Batch
from agentcom.store.start import OpenedStore
from agentcom.upkeep import Upkeep
from tests.contract.homes import Place
from tests.world import eventually

HOUR_MS = 3_600_000


class Kept:
    """A store that is looked after, and the clock of whoever does."""

    def __init__(self, folder: Path) -> None:
        self.place = Place(folder)
        self.clock = ManualClock()
        self.settings = Settings(backups=BackupSettings(every_s=3600), compaction=CompactionSettings(every_s=0))
        self.open()

    def open(self) -> OpenedStore:
        self.opened = self.place.begin()
        self.upkeep = Upkeep(self.opened, self.settings)
        return self.opened

    def turn(self) -> None:
        self.upkeep.turn(self.clock.now())

    def until_idle(self) -> None:
        """Turns until no chore is at work."""

        def is_idle() -> bool:
            self.turn()
            return self.upkeep._chores.running is None

        eventually("the chore has ended", is_idle)

    def commit(self, count: int) -> None:
        """Batches as the hub commits them: into the journal, then into the store."""
        for batch in self.place.script.batches(count):
            self.opened.journaled.commit(batch, self.place.script.sequence)

    def tell(self, event: int = 1) -> None:
        """What the hub writes where nobody does anything: an event, and where its clock stands."""
        batch = Batch()
        batch.put("feed", event.to_bytes(8, "big"), b"backup_made")
        batch.put("meta", b"next_event", (event + 1).to_bytes(8, "big"))
        batch.put("meta", b"clock", b"12:00")
        self.opened.journaled.commit(batch, self.opened.journaled.sequence + 1)

    def after(self, ms: int) -> None:
        self.clock.advance(ms)
        self.turn()
        self.until_idle()

    def ask(self, op: m.Operation) -> dict[str, object]:
        return self.upkeep.answer(op, self.clock.now())

    def backups(self) -> int:
        return len(self.ask(m.BackupList())["backups"])  # type: ignore[arg-type]

    def events(self) -> list[str]:
        return [event for event, _ in self.upkeep.take_events()]


def looks_each(seconds: int) -> Settings:
    return Settings(backups=BackupSettings(every_s=0), compaction=CompactionSettings(every_s=seconds))


def restart(kept: Kept) -> None:
    kept.upkeep.close()
    kept.open()
    kept.turn()


def alarms_of(kept: Kept) -> dict[str, str]:
    return {one["code"]: one["text"] for one in kept.upkeep.status(kept.clock.now())["alarms"]}
