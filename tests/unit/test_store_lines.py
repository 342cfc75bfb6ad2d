"""The store in words: its figures, repairs and damage, its backups, and the work on it."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom import __version__
from agentcom.cli import doctor, main, storage
from tests.command_line import said
from tests.fake_hub_requests import NO_BUDGET, FakeHub, wall

SCRUBBED = {"rows": 12, "rounds": 3, "damaged": ""}

STORE = {
    "file_bytes": 40960, "used_bytes": 20480, "map_bytes": 2**30, "free_pages": 5, "alarms": [],
    "databases": {"tasks": {"rows": 3, "bytes": 4096}, "feed": {"rows": 0, "bytes": 0}},
}  # fmt: skip


def test_the_statistics_of_the_queue_show_the_free_pages(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["queue_stats"] = {"paused": False, "by_state": {}, "store": STORE}
    assert main(["queue", "stats"]) == 0
    assert "(5 pages)" in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["hub.map_gib", "hub.map_mib"])
def test_how_full_the_store_is_names_the_setting_that_counts(setting: str) -> None:
    text = dict(storage.lines({**STORE, "map_setting": setting}))[storage.STORE]
    assert text.endswith(f"in a file of 40 KiB, 0.0% of {setting}")


def test_the_doctor_gives_rows_and_bytes_of_each_database_and_the_free_pages(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["hub_status"] = {
        "version": __version__, "scheduler": "cython", "started": "now", "store": STORE, "troubles": [],
    }  # fmt: skip
    hub.answers["whoami"] = {"name": "admin", "role": "admin"}
    hub.answers["host_list"] = {"hosts": []}
    hub.answers["queue_stats"] = {}
    hub.answers |= NO_BUDGET
    assert main(["doctor", "--json"]) == 0
    checks = {check["name"]: check for check in said(capsys)["checks"]}
    assert checks["databases"]["figures"] == STORE["databases"]
    assert (checks["store"]["figures"]["free_pages"], checks["store"]["figures"]["used_bytes"]) == (5, 20480)
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "20 KiB free (5 pages) in a file of 40 KiB" in text
    assert "databases: rows (bytes) tasks 3 (4 KiB)" in text
    assert "feed" not in text


def test_the_doctor_says_when_the_store_was_restored_what_is_missing_and_what_may_be_deleted(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    aside = "/home/x/store/data.mdb.set-aside-1"
    repair = {
        "at": "2027-01-15T08:00:00Z", "why": "the store is damaged: page 3", "backup": "backup-40.mdb", "replayed": 13,
        "sequence": 53, "missing": [], "set_aside": aside, "seen": False,
    }  # fmt: skip
    asked = {**repair, "why": "", "backup": "", "missing": ["batches 54 to 55 are nowhere"], "set_aside": ""}
    seen = {**repair, "seen": True}
    hub.answers["hub_status"] = {
        "version": __version__, "scheduler": "cython", "started": "now", "troubles": [],
        "store": {**STORE, "repairs": [repair, asked, seen], "set_aside": [{"path": aside, "bytes": 4096}] * 7},
    }  # fmt: skip
    hub.answers["whoami"] = {"name": "admin", "role": "admin"}
    hub.answers["host_list"] = {"hosts": []}
    hub.answers["queue_stats"] = {}
    hub.answers |= NO_BUDGET
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(n for n, one in enumerate(lines) if "restored:" in one)
    by_itself, where, by_hand, to_do, known, still, files, hint = lines[first : first + 8]
    assert by_itself == (
        "warn  restored: at 2027-01-15T08:00:00Z, because the store is damaged: page 3; from backup-40.mdb and "
        "13 batches of the journal, to batch 53; no batch is known to be missing"
    )
    kept = f"the file from before is {aside}; delete it when nobody wants to see it"
    acknowledge = "when you have seen it: agentcom backup acknowledge"
    assert where.strip() == f"{acknowledge}; {kept}"
    assert by_hand == (
        "warn  restored: at 2027-01-15T08:00:00Z, as was asked for; from 13 batches of the journal alone, "
        "to batch 53; missing: batches 54 to 55 are nowhere"
    )
    assert to_do.strip() == acknowledge
    assert (known, still.strip()) == (by_itself.replace("warn", "ok  "), kept)
    assert files == f"ok    set aside: 28 KiB in {', '.join([aside] * 5)} and 2 more beside them"
    assert "delete it" in hint
    assert main(["doctor", "--json"]) == 0
    assert repair in [check["figures"] for check in said(capsys)["checks"]]


def chore(number: int, kind: str, **fields: Any) -> dict[str, Any]:
    """Work on the store as the hub shows it, ended well unless `fields` say otherwise."""
    return {
        "number": number, "kind": kind, "state": "done", "by_itself": False, "started": wall(-700),
        "ended": wall(-600.5), "error": None, "result": None, **fields,
    }  # fmt: skip


LIST = {
    "backups": [], "count": 0, "verified": 0, "unreadable": None, "newest": None, "age_s": None, "needed": False,
    "error": None, "running": None, "next": None, "every_s": 0, "keep": 3, "folder": "/b", "chores": [],
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"count": 3, "verified": 3}, "2 min old, verified, backup-8.mdb, 3 kept"),
        ({"count": 3, "verified": 2}, "2 min old, verified, backup-8.mdb, 2 kept, 1 more that a restore does not take"),
        ({"count": 4, "verified": 2}, "2 min old, verified, backup-8.mdb, 2 kept, 2 more that a restore does not take"),
        ({"count": 2, "newest": None}, "none that passes"),
        ({"newest": None, "next": "noon"}, "none yet; the next is due noon"),
        ({"newest": None, "next": "noon", "unreadable": "cannot list /b: no"}, "cannot list /b: no"),
    ],
)
def test_only_backups_that_pass_count_as_kept_and_none_is_said_only_where_that_is_known(
    fields: dict[str, Any], text: str
) -> None:
    newest = {"verified": True, "name": "backup-8.mdb"}
    assert storage.last_backup({**LIST, "age_s": 150, "newest": newest, **fields}) == text


def test_the_list_says_why_the_folder_of_backups_cannot_be_read(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["backup_list"] = {**LIST, "unreadable": "cannot list /b: no; set backups.folder"}
    assert main(["backup", "list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cannot list /b: no; set backups.folder",
        "kept: 3, in /b; next: by hand only",
    ]


def test_the_list_of_backups_says_what_is_under_way_on_the_store_and_how_the_last_ended(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = {
        "name": "backup-2.mdb", "passes": False, "condition": "damaged", "sequence": None, "rows": None,
        "problems": ["pages lost", "a leak", "no end"],
    }  # fmt: skip
    made = {"name": "backup-2.mdb", "bytes": 45056, "rows": 27, "sequence": 8}
    rows = {"meta": 4, "tasks": 5}
    good = {**damaged, "passes": True, "condition": "good", "rows": rows, "sequence": 8, "problems": []}
    failed = {"code": "store_full", "message": "no room for the copy: free 4 MiB " + "x" * 300}
    over = wall(-600.5)  # of all: each would have its own millisecond
    chores = [
        chore(6, "backup", state="running", started=wall(-150), ended=None),
        chore(5, "backup", state="failed", error=failed, ended=over),
        chore(4, "verify", result=damaged, ended=over),
        chore(3, "verify", result=good, ended=over),
        chore(2, "verify", state="failed", error={"code": "store", "message": "cut off"}, ended=None),
        chore(2, "compact", result={"before_bytes": 86016, "after_bytes": 45056, "stopped_ms": 1}, ended=over),
        chore(1, "backup", by_itself=True, result=made, ended=over),
    ]
    hub.answers["backup_list"] = {**LIST, "chores": chores, "error": failed["message"]}
    assert main(["backup", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    ended = f"{over} (10 min ago)"
    assert lines[-7:] == [
        f"  backup 6   under way, begun {chores[0]['started']} (2 min ago)",
        f"  backup 5   failed, {ended}: {failed['message']}",
        f"  verify 4   not passed, {ended}: backup-2.mdb: damaged; pages lost and 2 more",
        f"  verify 3   ok, {ended}: backup-2.mdb: good, 9 rows, batch 8",
        f"  verify 2   failed, begun {chores[4]['started']} (11 min ago): cut off",
        f"  compact 2  ok, {ended}: 84 KiB before, 44 KiB now; the hub stood still for 1 ms",
        f"  backup 1   ok, {ended}, by itself: backup-2.mdb: 44 KiB, 27 rows, batch 8, verified",
    ]
    assert sum(failed["message"] in line for line in lines) == 1


def test_why_no_backup_could_be_begun_is_said_where_no_chore_does(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["backup_list"] = {**LIST, "error": "no process could be started"}
    assert main(["backup", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the last one failed: no process could be started"


ON_DISK = {
    **STORE, "journal": {"bytes": 1, "covered_from": 1, "last": 2}, "backups": LIST, "scrub": SCRUBBED,
    "compaction": {"last": None},
}  # fmt: skip


@pytest.mark.parametrize(("ended", "said"), [("noon", "failed at noon: no room"), (None, "failed: no room")])
def test_a_compaction_that_failed_is_told_with_the_figures_and_by_the_doctor(ended: str | None, said: str) -> None:
    failed = {"ended": ended, "error": {"code": "storage_full", "message": "no room"}}
    found = {one.name: one for one in doctor.store_findings({**ON_DISK, "compaction": {"last": failed}}, [])}
    assert (found["compaction"].status, found["compaction"].detail) == ("warn", f"the last one {said}")
    assert "compaction" not in dict(storage.lines(ON_DISK))


def test_a_folder_of_backups_that_cannot_be_read_is_no_ok_for_the_doctor() -> None:
    backups = {**LIST, "unreadable": "cannot list /b: no; set backups.folder"}
    store = {**ON_DISK, "backups": backups}
    found = {one.name: one for one in doctor.store_findings(store, [])}
    assert (found["last backup"].status, found["last backup"].detail) == ("warn", backups["unreadable"])
    assert found["scrub"].status == "ok"


def test_damage_that_the_scrubber_has_found_is_no_ok_for_the_doctor() -> None:
    damaged = "cannot read the record 0a of 'tasks': its checksum does not fit its content"
    store = {**ON_DISK, "scrub": {**SCRUBBED, "damaged": damaged}}
    found = {one.name: one for one in doctor.store_findings(store, [])}
    assert (found["scrub"].status, found["scrub"].detail) == ("fail", f"damage was found: {damaged}")
    assert "start the hub again" in found["scrub"].hint
