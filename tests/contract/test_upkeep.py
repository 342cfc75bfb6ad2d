"""What a hub does for its store beside the tick, over a real store: backups on schedule, a copy that changes places."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agentcom import messages as m
from agentcom import upkeep
from agentcom.config import BackupSettings, CompactionSettings, Settings
from agentcom.errors import NotFound, Refused, StoreFull
from agentcom.store import compact
from agentcom.store.backup import newest_verified, note_check, oldest_kept, verify_backup
from agentcom.store.base import Batch
from agentcom.store.compact import CompactionRun
from agentcom.upkeep import PAGE_BYTES
from tests.contract.homes import crash
from tests.contract.kept import HOUR_MS, Kept, alarms_of, looks_each
from tests.world import eventually


def _large() -> Batch:
    """More than a MiB."""
    batch = Batch()
    batch.put("feed", (1).to_bytes(8, "big"), bytes(2**20 + 1))
    return batch


def _small() -> Batch:
    batch = Batch()
    batch.put("config", b"queue.lease_s", b"60")
    return batch


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
