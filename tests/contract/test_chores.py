"""Work on the store, known by its number over a restart: how it ends, and that its failures are not the hub's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentcom import messages as m
from agentcom.chores import Chores
from agentcom.clock import ManualClock
from agentcom.errors import StoreError
from agentcom.model import JsonObject
from agentcom.store.compact import CompactionRun
from tests.contract.kept import Kept, restart


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
