"""What a hub says of its store: figures, doubts, alarms that begin and end, and how long there will be room."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from agentcom import messages as m
from agentcom import upkeep
from agentcom.alarms import Alarms
from agentcom.clock import ManualClock
from agentcom.config import HubSettings, Settings
from agentcom.growth import Growth
from agentcom.room import DISPATCH_QUOTA, QUOTA, Room, dispatch_quota_of, quota_of
from agentcom.settings import NAMES
from agentcom.store.base import Batch
from agentcom.store.doubts import Doubts
from agentcom.store.memory_store import MemoryStore
from tests.contract.kept import HOUR_MS, Kept, alarms_of, restart
from tests.world import eventually

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


# --- alarms ---------------------------------------------------------------------------------------------


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


# --- growth and room ------------------------------------------------------------------------------------


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
