"""What a hub does for its store beside the tick, over a real store: schedules, alarms, a copy that changes places."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from agentcom import messages as m
from agentcom import upkeep
from agentcom.alarms import Alarms
from agentcom.chores import Chores
from agentcom.clock import ManualClock
from agentcom.config import BackupSettings, CompactionSettings, HubSettings, Settings
from agentcom.errors import NotFound, Refused, StoreError, StoreFull
from agentcom.growth import Growth
from agentcom.model import JsonObject
from agentcom.room import DISPATCH_QUOTA, QUOTA, Room, dispatch_quota_of, quota_of
from agentcom.settings import NAMES
from agentcom.store import compact
from agentcom.store.backup import newest_verified, note_check, oldest_kept, verify_backup
from agentcom.store.base import Batch
from agentcom.store.compact import CompactionRun
from agentcom.store.doubts import Doubts
from agentcom.store.memory_store import MemoryStore
from agentcom.store.start import OpenedStore
from agentcom.upkeep import PAGE_BYTES, Upkeep
from tests.contract.homes import Place, crash
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


def _large() -> Batch:
    """More than a MiB."""
    batch = Batch()
    batch.put("feed", (1).to_bytes(8, "big"), bytes(2**20 + 1))
    return batch


def _small() -> Batch:
    batch = Batch()
    batch.put("config", b"queue.lease_s", b"60")
    return batch


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    made = Kept(tmp_path)
    yield made
    made.upkeep.close()


# --- backups --------------------------------------------------------------------------------------------


def test_the_first_backup_comes_after_ten_minutes_and_the_next_ones_on_schedule_if_anything_changed(
    kept: Kept,
) -> None:
    kept.commit(3)
    kept.turn()
    kept.clock.advance(599_000)
    kept.turn()
    assert kept.upkeep._chores.running is None
    kept.clock.advance(2_000)
    kept.turn()
    kept.until_idle()
    assert kept.backups() == 1
    assert kept.events() == ["backup_made"]
    kept.clock.advance(HOUR_MS + 1000)
    kept.turn()
    assert kept.upkeep._chores.running is None, "nothing has changed"
    kept.commit(1)
    kept.clock.advance(HOUR_MS + 1000)
    kept.turn()
    kept.until_idle()
    assert kept.backups() == 2


def test_what_the_hub_tells_of_itself_is_no_change_that_asks_for_a_backup(kept: Kept) -> None:
    kept.commit(3)
    kept.turn()
    kept.after(601_000)
    kept.tell()
    for _ in range(3):
        kept.after(HOUR_MS + 1000)
    assert kept.backups() == 1
    assert alarms_of(kept) == {}, "nor is it overdue"
    kept.opened.journaled.commit(_small(), kept.opened.journaled.sequence + 1)
    kept.tell(2)
    kept.after(HOUR_MS + 1000)
    assert kept.backups() == 2


@pytest.mark.parametrize(("is_changed", "backups"), [(False, 1), (True, 2)])
def test_whether_anything_has_changed_since_the_backup_is_known_over_a_restart(
    kept: Kept, is_changed: bool, backups: int
) -> None:
    kept.commit(3)
    kept.turn()
    kept.after(601_000)
    if is_changed:
        kept.opened.journaled.commit(_small(), kept.opened.journaled.sequence + 1)
    kept.tell()
    kept.upkeep.close()
    kept.open()
    kept.tell(2)
    kept.after(1000)
    kept.after(2 * HOUR_MS)
    assert kept.backups() == backups


def test_a_journal_that_lacks_what_came_after_the_backup_counts_as_a_change(kept: Kept) -> None:
    kept.commit(3)
    kept.ask(m.BackupNow())
    kept.until_idle()
    kept.tell()
    kept.upkeep.close()
    for file in kept.opened.paths.journal.glob("*"):
        file.unlink()
    kept.open()
    assert kept.upkeep._has_changed


def test_the_journal_is_read_for_a_change_once_and_only_where_this_run_made_none(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_s = kept.clock.now().wall_ms / 1000
    monkeypatch.setattr(upkeep, "_seconds", lambda _text: made_s)
    kept.commit(3)
    kept.ask(m.BackupNow())
    kept.until_idle()
    kept.tell()
    kept.upkeep.close()
    kept.open()
    asked: list[int] = []
    replay = kept.opened.journal.replay
    monkeypatch.setattr(kept.opened.journal, "replay", lambda after: asked.append(after) or replay(after))
    kept.after(1000)
    assert asked == [], "a start reads none"
    for hour in range(3):
        kept.tell(2 + hour)
        kept.after(HOUR_MS + 1000)
    assert (kept.backups(), asked) == (1, [3])
    kept.upkeep.close()
    kept.open()
    monkeypatch.setattr(kept.opened.journal, "replay", lambda after: asked.append(after) or replay(after))
    kept.opened.journaled.commit(_small(), kept.opened.journaled.sequence + 1)
    kept.after(1000)
    kept.after(HOUR_MS)
    assert (kept.backups(), asked) == (2, [3])


def test_a_backup_drops_the_part_of_the_journal_that_no_kept_one_needs(kept: Kept) -> None:
    for _ in range(4):
        kept.commit(5)
        kept.ask(m.BackupNow())
        kept.until_idle()
    first = kept.opened.journal.stats()["covered_from"]
    assert (kept.backups(), first) == (3, 11)


def test_a_journal_that_has_grown_long_asks_for_a_backup_also_where_backups_are_off(kept: Kept) -> None:
    kept.settings = Settings(
        backups=BackupSettings(every_s=0, journal_mib=1), compaction=CompactionSettings(every_s=0)
    )
    kept.upkeep.settings = kept.settings
    kept.turn()
    kept.opened.journaled.commit(_large(), kept.place.script.sequence + 1)
    kept.clock.advance(61_000)
    kept.turn()
    kept.until_idle()
    assert kept.backups() == 1
    assert kept.opened.journal.bytes_beyond(kept.opened.store.sequence) == 0
    kept.clock.advance(61_000)
    kept.turn()
    assert kept.upkeep._chores.running is None, "the backup has made it short again"


def test_after_a_hole_in_the_journal_new_tasks_wait_for_a_backup_that_is_made_at_once(kept: Kept) -> None:
    kept.commit(2)
    kept.place.commit(kept.opened, 1, journal=False)
    kept.opened.journal.skip(3)
    refused = kept.upkeep.no_submits()
    assert refused is not None
    assert refused.code == "backup_required"
    kept.turn()
    kept.until_idle()
    assert kept.upkeep.no_submits() is None
    assert kept.backups() == 1


def test_a_backup_that_fails_is_an_alarm_until_one_succeeds_and_is_tried_again(kept: Kept) -> None:
    kept.commit(2)
    folder = kept.opened.paths.backups
    folder.write_text("no folder")
    kept.ask(m.BackupNow())
    kept.until_idle()
    assert kept.events() == ["alarm_raised"]
    status = kept.upkeep.status(kept.clock.now())
    assert [alarm["code"] for alarm in status["alarms"]] == ["backup_failed"]
    assert "cannot back up" in status["backups"]["error"]
    folder.unlink()
    kept.clock.advance(601_000)
    kept.turn()
    kept.until_idle()
    assert kept.events() == ["backup_made", "alarm_ended"]
    assert kept.upkeep.status(kept.clock.now())["backups"]["error"] is None


def test_a_folder_of_backups_that_cannot_be_read_is_told_with_what_to_do(kept: Kept) -> None:
    kept.commit(2)
    kept.ask(m.BackupNow())
    kept.until_idle()
    folder = kept.opened.paths.backups
    away = folder.rename(folder.with_name("away"))
    folder.write_text("no folder")
    shown = kept.ask(m.BackupList())
    assert (shown["backups"], shown["count"]) == ([], 0)
    assert shown["unreadable"] == (
        f"cannot list {folder}: a file is where a directory should be; "
        "move it away, or set backups.folder to another place"
    )
    folder.unlink()
    away.rename(folder)
    shown = kept.ask(m.BackupList())
    assert (shown["unreadable"], shown["verified"]) == (None, 1)


def test_a_backup_is_joined_and_other_work_on_the_store_waits_for_it(kept: Kept) -> None:
    kept.commit(2)
    first, again = kept.ask(m.BackupNow()), kept.ask(m.BackupNow())
    assert first["number"] == again["number"]
    with pytest.raises(Refused) as refused:
        kept.ask(m.Compact())
    assert (refused.value.code, refused.value.retry_after_s) == ("busy", 5)
    kept.until_idle()


def test_a_damaged_backup_does_not_pass_and_one_that_is_not_there_is_not_found(kept: Kept) -> None:
    kept.commit(30)
    kept.ask(m.BackupNow())
    kept.until_idle()
    file = next(kept.opened.paths.backups.glob("*.mdb"))
    content = bytearray(file.read_bytes())
    content[-2000] ^= 1
    file.write_bytes(content)
    kept.ask(m.BackupVerify(backup=file.name))
    kept.until_idle()
    chore = next(each for each in reversed(kept.upkeep._chores.recent) if each.kind == "verify")
    assert (chore.state, chore.result["passes"], chore.result["condition"]) == ("done", False, "damaged")
    with pytest.raises(NotFound):
        kept.ask(m.BackupVerify(backup="backup-7.mdb"))


def damage_the_newest(kept: Kept) -> Path:
    file = max(kept.opened.paths.backups.glob("*.mdb"))
    content = bytearray(file.read_bytes())
    content[-2000] ^= 1
    file.write_bytes(content)
    return file


def test_a_backup_that_a_check_found_damaged_is_not_shown_as_verified_and_a_new_one_is_made(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.commit(30)
    kept.ask(m.BackupNow())
    kept.until_idle()
    file = damage_the_newest(kept)
    kept.events()
    folder = kept.opened.paths.backups
    assert newest_verified(folder) == 30
    with monkeypatch.context() as patched:
        patched.setattr(kept.upkeep, "_begin", lambda _now: None)
        kept.ask(m.BackupVerify(backup=file.name))
        kept.until_idle()
    shown = kept.ask(m.BackupList())
    assert [(one["verified"], one["condition"]) for one in shown["backups"]] == [(False, "damaged")]  # type: ignore[attr-defined]
    assert (shown["newest"], newest_verified(folder), oldest_kept(folder)) == (None, 0, 0)
    assert (shown["count"], shown["verified"]) == (1, 0)
    assert kept.events() == ["backup_verified", "alarm_raised"]
    assert [alarm["code"] for alarm in kept.upkeep.status(kept.clock.now())["alarms"]] == ["backup_damaged"]
    kept.until_idle()
    kept.turn()
    assert kept.events() == ["backup_made", "alarm_ended"]
    shown = kept.ask(m.BackupList())
    assert [one["verified"] for one in shown["backups"]] == [True, False]  # type: ignore[attr-defined]
    assert file.exists()
    kept.turn()
    assert kept.upkeep._chores.running is None, "one is enough"


def test_new_tasks_wait_when_the_only_backup_that_closes_a_hole_is_found_damaged(kept: Kept) -> None:
    kept.commit(2)
    kept.place.commit(kept.opened, 30, journal=False)
    kept.opened.journal.skip(32)
    kept.turn()
    kept.until_idle()
    assert kept.upkeep.no_submits() is None
    file = damage_the_newest(kept)
    kept.ask(m.BackupVerify(backup=file.name))
    eventually("the check has ended", lambda: kept.turn() or kept.upkeep._chores.recent[-1].kind == "backup")
    refused = kept.upkeep.no_submits()
    assert refused is not None
    assert refused.code == "backup_required"
    kept.until_idle()
    assert kept.upkeep.no_submits() is None


def test_a_backup_known_to_be_damaged_is_still_known_after_a_restart(kept: Kept) -> None:
    kept.commit(30)
    kept.ask(m.BackupNow())
    kept.until_idle()
    file = damage_the_newest(kept)
    note_check(file, verify_backup(file))
    kept.upkeep.close()
    kept.open()
    kept.turn()
    assert [alarm["code"] for alarm in kept.upkeep.status(kept.clock.now())["alarms"]] == ["backup_damaged"]
    kept.until_idle()
    kept.turn()
    assert kept.upkeep.status(kept.clock.now())["alarms"] == []


def test_a_backup_that_is_at_work_when_the_hub_stops_leaves_nothing_behind(kept: Kept) -> None:
    kept.commit(2)
    kept.ask(m.BackupNow())
    kept.upkeep.close()
    kept.open()
    kept.ask(m.BackupNow())
    kept.until_idle()
    assert sorted(file.suffix for file in kept.opened.paths.backups.iterdir()) == [".json", ".mdb"]


# --- compaction -----------------------------------------------------------------------------------------


def test_a_compact_copy_takes_the_place_of_a_store_that_goes_on_being_written(kept: Kept) -> None:
    kept.commit(200)
    kept.ask(m.Compact())
    while kept.upkeep._chores.running is not None:
        kept.commit(3)
        kept.turn()
        time.sleep(0.001)
    chore = kept.upkeep._chores.recent[-1]
    assert (chore.state, chore.error) == ("done", "")
    kept.commit(5)
    assert kept.opened.journaled.sequence == kept.opened.journal.last
    assert kept.place.is_whole_of(kept.opened)
    crash(kept.opened)
    kept.open()
    assert kept.place.is_whole_of(kept.opened)
    assert kept.opened.report.uncertain == ()


def _removed(kept: Kept) -> None:
    """A row of a MiB is written again and again, and goes."""
    for number in range(1, 5):
        kept.opened.journaled.commit(_large(), number)
    removed = Batch()
    removed.delete("feed", (1).to_bytes(8, "big"))
    kept.opened.journaled.commit(removed, 5)


STORES = {
    "nothing in it": lambda kept: None,
    "one batch": lambda kept: kept.commit(1),
    "small": lambda kept: kept.commit(30),
    "with free pages": lambda kept: kept.commit(300),
    "nearly all free": _removed,
}


def _would_free(kept: Kept) -> int:
    found: int = kept.upkeep.status(kept.clock.now())["compaction"]["would_free_bytes"]
    return found


@pytest.mark.parametrize("fill", STORES.values(), ids=STORES)
def test_a_compaction_frees_what_was_said_before(kept: Kept, fill: Callable[[Kept], None]) -> None:
    fill(kept)
    would = _would_free(kept)
    kept.ask(m.Compact())
    kept.until_idle()
    won = kept.upkeep._chores.recent[-1].result
    assert won["before_bytes"] - won["after_bytes"] == would
    assert _would_free(kept) == 0


def test_a_batch_that_comes_while_the_copy_is_made_costs_two_pages_of_what_was_said(kept: Kept) -> None:
    """The copy takes it as the store did: with pages that are written anew, and a list of the free ones."""
    kept.commit(300)
    would = _would_free(kept)
    kept.ask(m.Compact())
    run = kept.upkeep._chores._run
    assert isinstance(run, CompactionRun)

    def is_copied() -> bool:
        kept.turn()
        return run._copy is not None

    eventually("the copy is made", is_copied)
    kept.commit(1)
    kept.until_idle()
    won = kept.upkeep._chores.recent[-1].result
    assert 0 <= would - (won["before_bytes"] - won["after_bytes"]) <= 2 * PAGE_BYTES


def test_a_copy_that_cannot_follow_is_given_up_and_the_store_goes_on(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compact, "LAST_BATCHES", -1)
    monkeypatch.setattr(compact, "FOLLOW_S_MAX", 0.0)
    kept.commit(20)
    kept.ask(m.Compact())
    kept.until_idle()
    chore = kept.upkeep._chores.recent[-1]
    assert (chore.state, "quieter time" in chore.error) == ("failed", True)
    assert kept.events() == ["compaction_failed"]
    assert not (kept.opened.paths.store / "compacting").exists()
    kept.commit(1)
    assert kept.place.is_whole_of(kept.opened)


def test_a_copy_that_does_not_open_is_put_aside_and_the_old_file_is_used_again(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept.commit(20)
    put = CompactionRun._put

    def break_it(run: CompactionRun, source: Path) -> None:
        if source.parent.name == "compacting":
            source.write_bytes(b"x" * 8192)
        put(run, source)

    monkeypatch.setattr(CompactionRun, "_put", break_it)
    kept.ask(m.Compact())
    kept.until_idle()
    chore = kept.upkeep._chores.recent[-1]
    assert (chore.state, "cannot be used" in chore.error) == ("failed", True)
    kept.commit(2)
    assert kept.place.is_whole_of(kept.opened)


@pytest.mark.parametrize("step", ["link", "replace"])
def test_a_hub_that_is_killed_while_the_files_change_places_starts_on_one_of_the_two(
    kept: Kept, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    kept.commit(20)
    put = CompactionRun._put

    def die(run: CompactionRun, source: Path) -> None:
        if step == "replace":
            put(run, source)
        raise KeyboardInterrupt

    monkeypatch.setattr(CompactionRun, "_put", die)
    kept.ask(m.Compact())
    with pytest.raises(KeyboardInterrupt):
        kept.until_idle()
    assert (kept.opened.paths.store / "data.mdb.before-compaction").exists()
    kept.open()
    assert kept.place.is_whole_of(kept.opened)
    assert sorted(file.name for file in kept.opened.paths.store.glob("data.mdb*")) == ["data.mdb"]


def test_no_copy_is_begun_without_room_for_it(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "has_room", lambda _path, _bytes: False)
    with pytest.raises(StoreFull, match="no room"):
        kept.ask(m.Compact())


def looks_each(seconds: int) -> Settings:
    return Settings(backups=BackupSettings(every_s=0), compaction=CompactionSettings(every_s=seconds))


def test_a_schedule_of_compactions_that_is_set_shorter_holds_from_then_on(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "COMPACTED_FROM_BYTES", 0)
    _removed(kept)
    kept.upkeep.settings = looks_each(24 * 3600)
    kept.turn()
    kept.upkeep.settings = looks_each(60)
    kept.turn()
    kept.after(61_000)
    assert kept.events() == ["store_compacted"]


# --- what is shown --------------------------------------------------------------------------------------


def test_the_figures_name_what_people_ask_for(kept: Kept) -> None:
    kept.commit(10)
    kept.turn()
    status = kept.upkeep.status(kept.clock.now())
    assert status["databases"]["tasks"]["rows"] == kept.opened.store.count("tasks")
    assert status["used_bytes"] + 4096 * status["free_pages"] <= status["file_bytes"]
    assert 0 < status["map_use"] < 1
    assert (status["journal"]["last"], status["journal"]["covered_from"]) == (10, 1)
    assert status["backups"]["newest"] is None
    assert status["backups"]["next"] is not None
    assert status["scrub"]["rows"] >= 0
    assert status["compaction"]["would_free_bytes"] == status["file_bytes"] - status["used_bytes"]
    assert (status["alarms"], status["uncertain"]) == ([], [])
    assert msgspec.json.encode(status)


def test_the_figures_say_which_setting_bounds_the_store(kept: Kept) -> None:
    assert kept.upkeep.status(kept.clock.now())["map_setting"] == "hub.map_gib"
    kept.upkeep.settings = Settings(hub=HubSettings(map_mib=8))
    assert kept.upkeep.status(kept.clock.now())["map_setting"] == "hub.map_mib"


def test_what_was_not_saved_is_trouble_over_restarts_until_it_is_acknowledged(kept: Kept) -> None:
    kept.opened.doubts.add(("batches 3 to 5: gone",))
    kept.upkeep.close()
    kept.open()
    assert kept.upkeep.troubles() == ["batches 3 to 5: gone"]
    assert len(kept.ask(m.StoreAcknowledge())["acknowledged"]) == 1  # type: ignore[arg-type]
    assert kept.upkeep.troubles() == []
    kept.upkeep.close()
    kept.open()
    assert kept.upkeep.troubles() == []


def test_a_list_of_doubts_that_cannot_be_read_is_a_doubt(tmp_path: Path) -> None:
    (tmp_path / "uncertain.json").write_bytes(b"{")
    assert "cannot be read" in Doubts(tmp_path).found[0].text


def test_an_alarm_is_told_when_it_begins_and_when_it_ends(tmp_path: Path) -> None:
    alarms, now = Alarms(tmp_path), ManualClock().now()
    alarms.set("disk_low", "10 MiB", now)
    alarms.set("disk_low", "9 MiB", now)
    assert [event for event, _ in alarms.take()] == ["alarm_raised"]
    assert [one["text"] for one in alarms.view()] == ["9 MiB"]
    alarms.set("disk_low", "", now)
    alarms.set("disk_low", "", now)
    assert [event for event, _ in alarms.take()] == ["alarm_ended"]
    assert alarms.view() == []


def free_on_the_disk(monkeypatch: pytest.MonkeyPatch, mib: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=mib << 20))


def alarms_of(kept: Kept) -> dict[str, str]:
    return {one["code"]: one["text"] for one in kept.upkeep.status(kept.clock.now())["alarms"]}


def test_how_little_is_free_on_the_disk_is_told_with_the_commands_and_settings_that_make_room(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_on_the_disk(monkeypatch, 100)
    kept.turn()
    text = alarms_of(kept)["disk_low"]
    assert text.startswith("100 MiB are free on the disk of the store; new tasks are refused below 2: free some")
    assert commands_in(text) == ["agentcom dead purge --all", RETENTION, "agentcom compact"]


def test_how_little_is_free_is_what_is_free_when_somebody_asks(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_on_the_disk(monkeypatch, 100)
    kept.turn()
    free_on_the_disk(monkeypatch, 7)
    assert alarms_of(kept)["disk_low"].startswith("7 MiB are free")
    free_on_the_disk(monkeypatch, 5000)
    assert alarms_of(kept) == {}
    assert kept.events() == ["alarm_raised", "alarm_ended"]


def test_how_full_the_store_is_is_what_it_holds_when_somebody_asks(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = kept.opened.journaled.stats()

    def hold(share: float) -> None:
        found = {**of, "map_bytes": int(of["used_bytes"] / share)}
        monkeypatch.setattr(kept.opened.journaled, "stats", lambda: found)

    hold(0.87)
    kept.turn()
    hold(0.8)
    assert alarms_of(kept)["store_growing"].startswith("the store holds 80%")
    hold(0.3)
    assert alarms_of(kept) == {}


def test_how_old_the_newest_backup_is_is_its_age_when_somebody_asks(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_s = kept.clock.now().wall_ms / 1000
    monkeypatch.setattr(upkeep, "_seconds", lambda _text: made_s)
    monkeypatch.setattr(kept.upkeep, "_begin", lambda _now: None)
    kept.commit(2)
    kept.ask(m.BackupNow())
    kept.until_idle()
    kept.commit(1)
    kept.clock.advance(3 * HOUR_MS)
    kept.turn()
    kept.clock.advance(30_000)
    made_s -= 3600
    assert alarms_of(kept) == {"backup_overdue": "the newest backup is 4.0 h old"}
    kept.ask(m.BackupNow())
    eventually("it is made", lambda: kept.upkeep._chores.turn(kept.clock.now()))
    assert alarms_of(kept) == {}


RETENTION = "agentcom config set retention.tasks_max N"


def commands_in(text: str) -> list[str]:
    """Those between backticks; each that sets something names a setting that there is."""
    found = re.findall(r"`(agentcom [^`]+)`", text)
    assert all(one.split()[3] in NAMES for one in found if one.startswith("agentcom config set"))
    return found


def test_a_store_that_is_nearly_full_names_the_commands_and_settings_that_make_room() -> None:
    size = 10_000_000
    store, batch = MemoryStore(map_bytes=size), Batch()
    batch.put("meta", b"much", b"x" * int(0.9 * size))
    store.commit(batch, 1)
    refused = Room(store).no_submits(ManualClock().now())
    assert refused is not None
    for text in (refused.message, Growth().warning(9, 10)):
        assert commands_in(text) == ["agentcom dead purge --all", RETENTION]


def told(kept: Kept) -> list[tuple[str, object]]:
    return [(event, fields["code"]) for event, fields in kept.upkeep.take_events()]


def restart(kept: Kept) -> None:
    kept.upkeep.close()
    kept.open()
    kept.turn()


def test_the_alarm_of_a_damaged_record_ends_with_the_start_that_checks_all(kept: Kept) -> None:
    kept.commit(3)
    kept.turn()
    kept.upkeep.found_damaged("a record", kept.clock.now())
    kept.turn()
    assert told(kept) == [("alarm_raised", "store_damaged")]
    restart(kept)
    assert told(kept) == [("alarm_ended", "store_damaged")]
    assert alarms_of(kept) == {}
    restart(kept)
    assert told(kept) == []


def test_damage_that_is_found_before_the_first_turn_after_that_stays_an_alarm(kept: Kept) -> None:
    kept.upkeep.found_damaged("a record", kept.clock.now())
    kept.turn()
    assert alarms_of(kept) == {"store_damaged": "a record is damaged: a record"}


def test_an_alarm_that_lasts_over_a_restart_is_no_new_one(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    free_on_the_disk(monkeypatch, 100)
    kept.turn()
    assert told(kept) == [("alarm_raised", "disk_low")]
    [before] = kept.upkeep.alarms.view()
    kept.clock.advance(HOUR_MS)
    restart(kept)
    assert told(kept) == []
    assert kept.upkeep.alarms.view() == [before]
    free_on_the_disk(monkeypatch, 5000)
    restart(kept)
    assert told(kept) == [("alarm_ended", "disk_low")]


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"disk_low": 3}'])
def test_alarms_of_an_earlier_run_that_cannot_be_read_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "alarms.json").write_bytes(content)
    assert Alarms(tmp_path).view() == []


def test_a_disk_that_takes_no_file_keeps_no_alarm_from_being_told(tmp_path: Path) -> None:
    alarms = Alarms(tmp_path / "away")
    alarms.set("disk_low", "10 MiB", ManualClock().now())
    assert [event for event, _ in alarms.take()] == ["alarm_raised"]


def test_growth_is_told_a_day_before_the_store_is_full() -> None:
    growth, clock, gib = Growth(), ManualClock(), 1 << 30
    assert growth.warning(0, 64 * gib) == ""
    for minute in range(20):
        growth.look(minute * 40 * (1 << 20), clock.now())
        clock.advance(60_000)
    assert growth.bytes_per_h() == pytest.approx(2400 * (1 << 20), rel=0.01)
    assert "takes no new tasks in" in growth.warning(gib, 32 * gib)
    assert growth.warning(gib, 640 * gib) == ""
    assert "70%" in growth.warning(7 * gib, 10 * gib)


def grown(*used_kib: int) -> Growth:
    """One sample a minute."""
    growth, clock = Growth(), ManualClock()
    for kib in used_kib:
        growth.look(kib << 10, clock.now())
        clock.advance(60_000)
    return growth


def test_a_burst_that_is_over_is_no_trend() -> None:
    idle = [900] * 7
    assert grown(100, 500, 900, *idle).warning(900 << 10, 8 << 20) == ""
    assert grown(100, 500, 900, *idle, *idle).warning(900 << 10, 8 << 20) == ""
    assert grown(*[100] * 40, *range(100, 900, 50), *[900] * 15).warning(900 << 10, 8 << 20) == ""
    assert "in 3 h" in grown(*range(100, 1300, 30)).warning(1300 << 10, 8 << 20), "this one goes on"


def test_a_slow_growth_of_a_small_store_is_told_in_kib() -> None:
    assert grown(*range(1000, 1480, 12)).warning(1480 << 10, 8 << 20).startswith("at 720 KiB an hour the store takes")


def test_new_tasks_are_refused_at_85_percent_and_nothing_is_given_out_from_92_on() -> None:
    size = 10_000_000
    store, clock = MemoryStore(map_bytes=size), ManualClock()
    room = Room(store)

    def fill(share: float) -> None:
        batch = Batch()
        used = store.stats()["used_bytes"]
        batch.put("meta", share.hex().encode(), b"x" * (int(share * size) - used - 60))
        store.commit(batch, store.sequence + 1)
        room.committed(batch.size_bytes)

    fill(0.8)
    assert room.no_submits(clock.now()) is None
    fill(QUOTA + 0.02)
    refused = room.no_submits(clock.now())
    assert refused is not None
    assert (refused.code, room.may_dispatch(clock.now())) == ("storage_full", True)
    fill(DISPATCH_QUOTA + 0.02)
    room.no_submits(clock.now())
    assert not room.may_dispatch(clock.now())


def test_of_a_small_map_more_is_kept_free() -> None:
    assert (quota_of(64 << 30), dispatch_quota_of(64 << 30)) == (pytest.approx(0.85), pytest.approx(0.92))
    assert (quota_of(2 << 20), dispatch_quota_of(2 << 20)) == (0.75, 0.875)
    assert (quota_of(1 << 20), dispatch_quota_of(1 << 20)) == (0.5, 0.75)


def chores_of(kept: Kept) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = kept.ask(m.BackupList())["chores"]  # type: ignore[assignment]
    return found


def test_a_chore_that_a_restart_has_cut_off_says_so_under_its_number(kept: Kept) -> None:
    kept.commit(2)
    begun = kept.ask(m.BackupNow())
    restart(kept)
    [cut_off] = chores_of(kept)
    assert (cut_off["number"], cut_off["started"]) == (begun["number"], begun["started"])
    assert cut_off["state"] == "failed"
    assert cut_off["error"] == {"code": "store", "message": "it was cut off by a restart of the hub; ask for it again"}
    assert kept.ask(m.BackupNow())["number"] == begun["number"] + 1  # type: ignore[operator]
    kept.until_idle()
    assert [one["state"] for one in chores_of(kept)] == ["done", "failed"]


def test_the_last_chore_before_a_restart_is_still_known_and_its_number_not_given_again(kept: Kept) -> None:
    kept.commit(2)
    kept.ask(m.BackupNow())
    kept.until_idle()
    before = chores_of(kept)
    restart(kept)
    assert chores_of(kept) == before
    assert kept.ask(m.BackupNow())["number"] == before[0]["number"] + 1
    kept.until_idle()


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"number": "seven"}'])
def test_a_note_of_the_last_chore_that_cannot_be_read_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "chore.json").write_bytes(content)
    assert Chores(tmp_path).recent == []


class Over:
    """A run that is over at once."""

    def turn(self) -> bool:
        return True

    def outcome(self) -> None:
        return None

    def stop(self) -> None:
        return None


def test_an_error_of_the_disk_at_its_end_fails_the_chore_and_not_the_hub(tmp_path: Path) -> None:
    chores, now = Chores(tmp_path), ManualClock().now()

    def full(_: object) -> JsonObject:
        raise OSError(28, "No space left on device", str(tmp_path))

    chores.start("backup", Over, full, now)
    ended = chores.turn(now)
    assert ended is not None
    assert (ended.state, ended.code, chores.running) == ("failed", "store", None)
    assert "No space left on device" in str(ended.error)


def test_a_chore_that_cannot_be_begun_leaves_none_at_work(tmp_path: Path) -> None:
    chores = Chores(tmp_path)

    def fail() -> CompactionRun:
        raise StoreError("no")

    with pytest.raises(StoreError):
        chores.start("compact", fail, lambda _: {}, ManualClock().now())
    assert (chores.running, chores.recent) == (None, [])
