"""Room on a real disk: that there is next to none is told before a commit has failed for want of it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentcom.clock import ManualClock
from agentcom.errors import StoreFull
from agentcom.room import FREE_BYTES, FULL_MS, LEAST_BYTES, LOOK_MS, Room
from agentcom.store.start import OpenedStore
from tests.contract.homes import Place


class Disk:
    """What the system says of the disk, and what it then takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free_bytes = self.taken_bytes = 1 << 40
        self.tried = 0
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=self.free_bytes))
        monkeypatch.setattr(os, "posix_fallocate", self._take)

    def _take(self, _descriptor: int, _start: int, size_bytes: int) -> None:
        self.tried += 1
        if size_bytes > self.taken_bytes:
            raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[OpenedStore]:
    made = Place(tmp_path).begin()
    yield made
    made.close()


def test_a_disk_with_next_to_no_room_takes_no_new_tasks_though_no_commit_has_failed(
    opened: OpenedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, clock, room = Disk(monkeypatch), ManualClock(), Room(opened.journaled, opened)
    assert room.no_submits(clock.now()) is None
    disk.free_bytes = disk.taken_bytes = LEAST_BYTES - 1
    clock.advance(LOOK_MS)
    refused = room.no_submits(clock.now())
    assert refused is not None
    assert (refused.code, room.is_full) == ("storage_full", False), "what the hub tells of itself is stored still"
    assert f"less than 2 MiB are free on the disk of {opened.paths.store}; free disk space" in refused.message
    assert room.may_dispatch(clock.now()), "what runs and waits has the rest"


def test_only_a_commit_that_failed_makes_it_full_until_there_is_room(
    opened: OpenedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, clock, room = Disk(monkeypatch), ManualClock(), Room(opened.journaled, opened)
    room.was_full(StoreFull("the disk is full"), clock.now())
    assert room.is_full
    disk.free_bytes = disk.taken_bytes = FREE_BYTES
    clock.advance(FULL_MS)
    assert (room.no_submits(clock.now()), room.is_full) == (None, False)


def test_they_are_taken_again_once_there_is_more_than_that(
    opened: OpenedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, clock, room = Disk(monkeypatch), ManualClock(), Room(opened.journaled, opened)
    disk.free_bytes = disk.taken_bytes = LEAST_BYTES - 1
    assert room.no_submits(clock.now()) is not None
    disk.free_bytes = disk.taken_bytes = LEAST_BYTES + 1
    clock.advance(FULL_MS)
    assert room.no_submits(clock.now()) is not None, "or it would be told again and again"
    disk.free_bytes = disk.taken_bytes = FREE_BYTES
    clock.advance(FULL_MS)
    assert room.no_submits(clock.now()) is None


def test_blocks_that_are_reserved_for_this_user_are_room(
    opened: OpenedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, clock, room = Disk(monkeypatch), ManualClock(), Room(opened.journaled, opened)
    disk.free_bytes = 0
    assert room.no_submits(clock.now()) is None
    assert disk.tried == 1


def test_a_disk_with_room_is_not_tried(opened: OpenedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, clock, room = Disk(monkeypatch), ManualClock(), Room(opened.journaled, opened)
    for _ in range(20):
        assert room.no_submits(clock.now()) is None
        clock.advance(LOOK_MS)
    assert disk.tried == 0
