"""What a hub tells of compactions on its schedule that fail: each reason once, until one works again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentcom import messages as m
from agentcom import upkeep
from agentcom.errors import StoreError, StoreFull
from agentcom.model import JsonObject
from agentcom.store.base import Batch
from tests.contract.kept import HOUR_MS, Kept, looks_each

ROW = (1).to_bytes(8, "big")


class Compacting(Kept):
    """A store that is looked at each hour, and what a compaction of it meets."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(folder)
        self.fault: Exception | None = None
        begin = upkeep.CompactionRun
        monkeypatch.setattr(upkeep, "COMPACTED_FROM_BYTES", 0)
        monkeypatch.setattr(upkeep, "CompactionRun", lambda opened: self.met() or begin(opened))
        self.upkeep.settings = self.settings = looks_each(3600)
        self.turn()

    def met(self) -> None:
        if self.fault is not None:
            raise self.fault

    def free_pages(self) -> None:
        """A row of a MiB comes and goes."""
        for body in (bytes(2**20), None):
            batch = Batch()
            batch.put("feed", ROW, body) if body else batch.delete("feed", ROW)
            self.opened.journaled.commit(batch, self.opened.journaled.sequence + 1)

    def look(self, fault: Exception | None) -> list[tuple[str, dict[str, Any]]]:
        """The next look at the schedule, and what is told of it."""
        self.fault = fault
        self.free_pages()
        self.after(HOUR_MS)
        return self.upkeep.take_events()

    def last(self) -> JsonObject:
        last: JsonObject = self.upkeep.status(self.clock.now())["compaction"]["last"]
        return last


@pytest.fixture
def compacting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Compacting]:
    made = Compacting(tmp_path, monkeypatch)
    yield made
    made.upkeep.close()


def no_room(used_bytes: int = 100) -> StoreFull:
    return StoreFull(f"no room for a copy of {used_bytes} bytes; free disk space")


def failed(error: Exception) -> list[tuple[str, dict[str, str]]]:
    return [("compaction_failed", {"reason": str(error)})]


def test_a_scheduled_compaction_without_room_is_told_once_and_not_at_each_look(compacting: Compacting) -> None:
    assert compacting.look(no_room(100)) == failed(no_room(100))
    number = compacting.last()["number"]
    assert compacting.look(no_room(200)) == [], "the same reason with another figure"
    last = compacting.last()
    assert (last["number"], last["by_itself"], last["error"]) == (
        number + 1, True, {"code": "storage_full", "message": str(no_room(200))},
    )  # fmt: skip


def test_another_reason_for_which_a_scheduled_compaction_fails_is_told(compacting: Compacting) -> None:
    compacting.look(no_room())
    other = StoreError("cannot read the journal")
    assert compacting.look(other) == failed(other)
    assert compacting.look(no_room()) == failed(no_room())


def test_a_compaction_that_works_again_is_told_and_so_is_the_next_failure(compacting: Compacting) -> None:
    compacting.look(no_room())
    assert [event for event, _ in compacting.look(None)] == ["store_compacted"]
    assert compacting.look(no_room()) == failed(no_room())


def test_a_restart_makes_no_news_of_a_scheduled_compaction_that_still_fails(compacting: Compacting) -> None:
    compacting.look(no_room())
    compacting.upkeep.close()
    compacting.open()
    compacting.turn()
    assert compacting.look(no_room()) == []


def test_a_compaction_that_somebody_asked_for_is_told_each_time_it_fails(
    compacting: Compacting, monkeypatch: pytest.MonkeyPatch
) -> None:
    compacting.look(no_room())
    compacting.fault = None
    monkeypatch.setattr("agentcom.store.compact.LAST_BATCHES", -1)
    monkeypatch.setattr("agentcom.store.compact.FOLLOW_S_MAX", 0.0)
    for _ in range(2):
        compacting.ask(m.Compact())
        compacting.until_idle()
        assert compacting.events() == ["compaction_failed"]
