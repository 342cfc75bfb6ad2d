"""Steps between schema versions, and a store of each released version that must open and run."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from agentcom.errors import StoreDamaged, StoreVersion
from agentcom.loading import load
from agentcom.model import State
from agentcom.store import Database, migrations
from agentcom.store.base import Row
from agentcom.store.check import Condition, full_check_here
from agentcom.store.lmdb_store import LmdbStore
from agentcom.store.migrations import Step, carry_over, steps_after
from agentcom.store.record import SCHEMA_VERSION, pack, pack_all, unpack, unpack_all
from agentcom.store.start import StorePaths, open_store
from tests.contract.places import MAP_BYTES, TASKS, commit_letters

FIXTURES = Path(__file__).parents[1] / "fixtures"
RELEASED = sorted(FIXTURES.glob("store-*.mdb"))


def shout(_database: str, _key: bytes, body: bytes) -> bytes | None:
    return body + b"!"


def drop_c(_database: str, key: bytes, body: bytes) -> bytes | None:
    return None if key == b"c" else body


STEPS = (Step(SCHEMA_VERSION + 1, shout), Step(SCHEMA_VERSION + 2, drop_c))
NEXT = SCHEMA_VERSION + 2


def test_a_store_of_this_version_needs_no_steps() -> None:
    assert steps_after(SCHEMA_VERSION) == []


def test_the_steps_lead_from_the_version_that_was_found_to_ours() -> None:
    assert steps_after(SCHEMA_VERSION, STEPS, NEXT) == list(STEPS)
    assert steps_after(SCHEMA_VERSION + 1, STEPS, NEXT) == [STEPS[1]]


@pytest.mark.parametrize("found", [NEXT + 1, 200])
def test_a_newer_store_is_refused_with_both_versions(found: int) -> None:
    with pytest.raises(StoreVersion, match=f"format {found}.*1 to {NEXT}"):
        steps_after(found, STEPS, NEXT)


def test_a_missing_step_is_refused() -> None:
    with pytest.raises(StoreVersion):
        steps_after(SCHEMA_VERSION, STEPS[1:], NEXT)


def test_a_record_is_verified_before_it_is_changed() -> None:
    old = pack("tasks", b"a", b"body", version=SCHEMA_VERSION)
    assert unpack("tasks", b"a", carry_over(STEPS, "tasks", b"a", old) or b"", NEXT) == b"body!"
    assert carry_over(STEPS, "tasks", b"c", pack("tasks", b"c", b"body")) is None
    with pytest.raises(StoreDamaged):
        carry_over(STEPS, "tasks", b"a", old[:-1] + b"?")


def test_an_older_store_is_carried_over_when_it_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LmdbStore(tmp_path, map_bytes=MAP_BYTES)
    commit_letters(store)
    store.close()
    monkeypatch.setattr(migrations, "STEPS", STEPS)
    monkeypatch.setattr(
        "agentcom.store.lmdb_store.migrations.steps_after", lambda found: steps_after(found, STEPS, NEXT)
    )
    monkeypatch.setattr("agentcom.store.lmdb_store.unpack", _unpack_as_next)
    monkeypatch.setattr("agentcom.store.lmdb_store.unpack_all", _unpack_all_as_next)
    monkeypatch.setattr("agentcom.store.lmdb_store.pack", _pack_as_next)
    monkeypatch.setattr("agentcom.store.lmdb_store.pack_all", _pack_all_as_next)
    for _ in range(2):  # the second opening has nothing to do
        store = LmdbStore(tmp_path, map_bytes=MAP_BYTES)
        assert store.scan(TASKS) == [(letter, letter.upper() + b"!") for letter in (b"a", b"b", b"d", b"e")]
        assert (store.count(TASKS), store.sequence) == (4, 1)
        store.close()


def _unpack_as_next(database: str, key: bytes, record: bytes, version: int = NEXT) -> bytes:
    return unpack(database, key, record, version)


def _unpack_all_as_next(database: str, records: Iterable[Row], version: int = NEXT) -> list[Row]:
    return unpack_all(database, records, version)


def _pack_all_as_next(
    database: str, rows: Iterable[tuple[bytes, bytes | None]], version: int = NEXT
) -> list[Row]:
    return pack_all(database, rows, version)


def _pack_as_next(database: str, key: bytes, body: bytes, version: int = NEXT) -> bytes:
    return pack(database, key, body, version)


def test_there_is_a_store_of_each_released_version() -> None:
    assert "store-0.1.0.mdb" in [file.name for file in RELEASED]


@pytest.mark.parametrize("fixture", RELEASED, ids=lambda file: file.stem)
def test_a_store_of_a_released_version_opens_and_goes_on(fixture: Path, tmp_path: Path) -> None:
    paths = StorePaths.of_home(tmp_path)
    paths.store.mkdir()
    shutil.copyfile(fixture, paths.store / "data.mdb")
    assert full_check_here(paths.store).condition is Condition.good
    opened = open_store(paths, checker=full_check_here)
    assert opened.needs_backup  # that version had no journal
    loaded = load(opened.store)
    assert [task for page in loaded.pages for task in page.columns["id"]] == [2, 4]
    assert loaded.finals[State.completed] == loaded.finals[State.dead] == loaded.finals[State.cancelled] == 1
    assert loaded.numbers["next_task"] == 6
    assert opened.store.count(Database.BODIES) == 5
    commit_letters(opened.store)
    opened.close()
