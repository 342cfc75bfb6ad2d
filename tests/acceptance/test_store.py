"""The store through the command line that people use: backups, restores, refusals, and what a damaged one becomes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from agentcom.store.lmdb_store import FORMAT_KEY, OWN, OWN_VERSION
from agentcom.store.record import pack
from agentcom.store.segments import Record, read_segment, segments
from tests.contract.places import raw
from tests.world import World, clean_environment, eventually

HUB = "hub"


def submitted(world: World, count: int, text: str = "task") -> list[int]:
    client = world.client()
    return [client.submit(description=f"{text} {n}", command="true")["id"] for n in range(count)]


def tasks_of(world: World) -> list[int]:
    return sorted(one["id"] for one in world.json(HUB, "task", "list")["tasks"])


def store_of(world: World) -> Path:
    return world.home(HUB) / "store"


def backups_of(world: World) -> list[Path]:
    return sorted((world.home(HUB) / "backups").glob("*.mdb"))


def status_of(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.client().hub_status()["store"]
    return found


def damage(file: Path, every: int = 3) -> None:
    """Zero a sector of every third page behind the two that LMDB begins with."""
    content = bytearray(file.read_bytes())
    for page in range(2, len(content) // 4096, every):
        content[page * 4096 : page * 4096 + 512] = bytes(512)
    file.write_bytes(content)


def damage_text(world: World, text: str) -> None:
    """Flip a bit wherever the file of a running hub, which is asked for nothing meanwhile, has the text."""
    assert status_of(world)["sequence"], "it has written all that it knows before it says that"
    with (store_of(world) / "data.mdb").open("r+b") as file:
        content = file.read()
        places = [found.start() for found in re.finditer(re.escape(text.encode()), content)]
        assert places
        for place in places:
            file.seek(place)
            file.write(bytes([content[place] ^ 1]))


# --- backups --------------------------------------------------------------------------------------------


def test_a_backup_is_made_listed_and_verified_and_the_newest_three_are_kept(world: World) -> None:
    world.hub()
    names = []
    for n in range(4):
        submitted(world, 2)
        made = world.json(HUB, "backup", "now")
        assert (made["state"], made["result"]["verified"]) == ("done", True), n
        names.append(made["result"]["name"])
    listed = world.json(HUB, "backup", "list")
    assert [one["name"] for one in listed["backups"]] == names[:0:-1]
    assert (listed["keep"], listed["error"]) == (3, None)
    checked = world.json(HUB, "backup", "verify", names[-1])
    assert (checked["result"]["passes"], checked["result"]["condition"]) == (True, "good")
    assert "verified, good" in world.run(HUB, "backup", "list").stdout
    figures = status_of(world)
    assert figures["backups"]["newest"]["name"] == names[-1]
    assert figures["backups"]["age_s"] < 60
    assert figures["databases"]["tasks"]["rows"] == 8
    assert figures["journal"]["last"] >= listed["backups"][0]["sequence"]
    assert figures["free_pages"] >= 0
    assert 0 < figures["map_use"] < 0.01


def test_a_backup_that_does_not_exist_is_not_found(world: World) -> None:
    world.hub()
    missing = world.run(HUB, "backup", "verify", "backup-1.mdb")
    assert (missing.returncode, "agentcom backup list" in missing.stderr) == (5, True)


def test_backups_are_made_by_themselves_on_a_schedule(world: World) -> None:
    world.hub(AGENTCOM_BACKUPS_EVERY_S="1")
    submitted(world, 3)
    eventually("a backup is there", lambda: world.client().backup_list()["backups"])
    chores = world.client().backup_list()["chores"]
    assert (chores[-1]["kind"], chores[-1]["by_itself"]) == ("backup", True)


def test_a_backup_that_fails_is_an_alarm_and_is_shown(world: World) -> None:
    blocked = world.home(HUB) / "blocked"
    world.hub(AGENTCOM_BACKUPS_FOLDER=str(blocked / "below"))
    blocked.write_text("no folder")
    failed = world.run(HUB, "backup", "now")
    assert (failed.returncode, "cannot back up" in failed.stderr) == (1, True)
    assert [one["code"] for one in status_of(world)["alarms"]] == ["backup_failed"]
    assert "backup" in world.run(HUB, "doctor").stdout


# --- restores -------------------------------------------------------------------------------------------


def test_a_restore_onto_a_running_hub_is_refused_and_after_its_stop_it_is_done(world: World) -> None:
    hub = world.hub()
    before = submitted(world, 3)
    name = world.json(HUB, "backup", "now")["result"]["name"]
    after = submitted(world, 2)
    refused = world.run(HUB, "backup", "restore")
    assert refused.returncode == 4
    assert f"process {hub.pid}" in refused.stderr
    assert "stop" in refused.stderr
    assert hub.stop() == 0
    done = json.loads(world.run(HUB, "backup", "restore", name, "--json").stdout)
    assert (done["replayed"] > 0, done["uncertain"]) == (True, [])
    world.hub()
    assert tasks_of(world) == before + after


def test_going_back_to_a_backup_says_what_is_set_aside_until_somebody_has_seen_it(world: World) -> None:
    hub = world.hub()
    before = submitted(world, 3)
    name = world.json(HUB, "backup", "now")["result"]["name"]
    after = submitted(world, 2)
    hub.stop()
    done = world.run(HUB, "backup", "restore", name, "--without-journal")
    assert (done.returncode, "uncertain: batches" in done.stdout) == (0, True)
    world.hub()
    assert tasks_of(world) == before
    assert "going back was asked for" in world.run(HUB, "doctor").stdout
    assert "degraded" in world.run(HUB, "queue", "stats").stdout
    assert world.json(HUB, "queue", "stats")["degraded"]
    seen = world.json(HUB, "backup", "acknowledge")["acknowledged"]
    assert len(seen) == 1
    eventually("it is no longer degraded", lambda: not world.json(HUB, "queue", "stats")["degraded"])
    assert min(submitted(world, 1)) > max(after)


def test_a_damaged_backup_is_refused_and_the_one_before_it_is_taken(world: World) -> None:
    hub = world.hub()
    there = submitted(world, 3)
    names = [world.json(HUB, "backup", "now")["result"]["name"]]
    there += submitted(world, 3)
    names.append(world.json(HUB, "backup", "now")["result"]["name"])
    hub.stop()  # a running one would make a new backup as soon as it knows that the newest is damaged
    damage(world.home(HUB) / "backups" / names[1])
    checked = world.run(HUB, "backup", "verify", names[1])
    assert (checked.returncode, "damaged" in checked.stdout) == (1, True)
    whole = (store_of(world) / "data.mdb").read_bytes()
    refused = world.run(HUB, "backup", "restore", names[1])
    assert (refused.returncode, "damaged" in refused.stderr) == (1, True)
    assert (store_of(world) / "data.mdb").read_bytes() == whole
    done = world.run(HUB, "backup", "restore")
    assert done.returncode == 0, done.stderr
    assert names[0] in done.stdout
    assert f"not taken: {world.home(HUB) / 'backups' / names[1]}" in done.stdout
    world.hub()
    assert tasks_of(world) == there


# --- starts ---------------------------------------------------------------------------------------------


def test_a_journal_with_a_torn_tail_is_cut_and_nothing_acknowledged_is_missing(world: World) -> None:
    hub = world.hub()
    there = submitted(world, 4)
    hub.kill()
    _, newest = segments(store_of(world) / "journal")[-1]
    *_, last = (item for item in read_segment(newest) if isinstance(item, Record))
    records = newest.read_bytes()[: last.end]  # behind them the segment is filled with zeros
    newest.write_bytes(records + records[-40:-3])
    hub = world.hub()
    assert tasks_of(world) == there
    assert "37 bytes of a batch cut short ended the journal" in hub.text()
    assert hub.ready["store"]["uncertain"] == 0


def test_a_damaged_store_is_set_aside_and_restored_and_the_hub_says_so(world: World) -> None:
    hub = world.hub()
    there = submitted(world, 5)
    world.json(HUB, "backup", "now")
    there += submitted(world, 5)
    hub.kill()
    damage(store_of(world) / "data.mdb")
    hub = world.hub()
    assert (hub.ready["store"]["how"], hub.ready["store"]["uncertain"]) == ("restored", 0)
    assert tasks_of(world) == there
    [aside] = store_of(world).glob("data.mdb.set-aside-*")
    assert "restoring" in hub.text()
    hub.stop()
    world.hub()
    doctor = world.run(HUB, "doctor").stdout
    assert "because the store is damaged" in doctor
    assert "no batch is known to be missing" in doctor
    assert f"the file from before is {aside}" in doctor
    aside.unlink()
    assert str(aside) not in world.run(HUB, "doctor").stdout


def codes_of(found: dict[str, Any]) -> list[str]:
    return [event["code"] for event in found["events"]]


def test_i4_a_request_that_needs_a_damaged_record_is_refused_and_all_else_goes_on(world: World) -> None:
    hub = world.hub()
    client = world.client()
    damaged = client.submit(description="needle in the store", command="true")["id"]
    there = [damaged, *submitted(world, 3)]
    damage_text(world, "needle in the store")
    for _ in range(2):
        shown = world.run(HUB, "task", "show", str(damaged))
        assert (shown.returncode, "start the hub again" in shown.stderr) == (4, True), shown.stderr
    assert world.json(HUB, "task", "show", str(there[1]))["id"] == there[1]
    there += submitted(world, 2)
    eventually("it is degraded", lambda: world.json(HUB, "queue", "stats")["degraded"])
    assert [one["code"] for one in status_of(world)["alarms"]] == ["store_damaged"]
    assert hub.stop() == 0
    hub = world.hub()
    assert (hub.ready["store"]["how"], hub.ready["store"]["uncertain"]) == ("restored", 0)
    assert world.json(HUB, "task", "show", str(damaged))["description"] == "needle in the store"
    assert tasks_of(world) == there
    for name in ("alarm_raised", "alarm_ended"):
        of_name = ("events", "--event", name)
        eventually(f"{name} is told", lambda of_name=of_name: codes_of(world.json(HUB, *of_name)) == ["store_damaged"])


def test_i4_a_hub_that_cannot_go_on_without_a_damaged_record_restores_it_in_the_same_process(world: World) -> None:
    hub = world.hub()
    world.join("box")
    client = world.client()
    task = client.submit(description="needle in the store", command="true")["id"]
    damage_text(world, "needle in the store")
    world.sidecar("box")  # to give the task out the hub reads it
    assert client.wait(task, timeout_s=30)["state"] == "completed"
    assert hub.process.poll() is None
    assert hub.process.stdout is not None
    again = json.loads(hub.process.stdout.readline())
    assert (again["pid"], again["store"]["how"], again["store"]["uncertain"]) == (hub.pid, "restored", 0)
    assert (again["hub"], again["feed"]) == (hub.ready["hub"], hub.ready["feed"])
    assert client.task_get(task)["description"] == "needle in the store"


def test_what_a_start_could_not_save_is_shown_over_restarts_until_it_is_acknowledged(world: World) -> None:
    hub = world.hub()
    there = submitted(world, 5)
    world.json(HUB, "backup", "now")
    lost = submitted(world, 3)
    hub.kill()
    damage(store_of(world) / "data.mdb")
    _, newest = segments(store_of(world) / "journal")[-1]
    content = bytearray(newest.read_bytes())
    content[60] ^= 1  # in the first batch behind the backup
    newest.write_bytes(content)
    hub = world.hub()
    assert hub.ready["store"]["uncertain"] >= 1
    assert set(tasks_of(world)) == set(there)
    hub.stop()
    world.hub()
    texts = [one["text"] for one in status_of(world)["uncertain"]]
    assert any("are not in the store" in text for text in texts), texts
    assert world.run(HUB, "doctor").returncode == 0
    assert "are not in the store" in world.run(HUB, "doctor").stdout
    world.json(HUB, "backup", "acknowledge")
    assert status_of(world)["uncertain"] == []
    # Somebody may still know the lost ones by their numbers, and a host may still report what it did for one.
    assert min(submitted(world, 2)) > max(lost)


def test_without_its_journal_a_hub_takes_new_tasks_once_a_backup_is_made(world: World) -> None:
    hub = world.hub(AGENTCOM_BACKUPS_EVERY_S="0")
    there = submitted(world, 3)
    hub.stop()
    shutil.rmtree(store_of(world) / "journal")
    world.hub(AGENTCOM_BACKUPS_EVERY_S="0")
    there += eventually("a task is taken", lambda: _taken(world))
    assert len(backups_of(world)) == 1
    assert tasks_of(world) == there


def _taken(world: World) -> list[int] | None:
    done = world.run(HUB, "submit", "after", "--command", "true", "--json")
    if done.returncode:
        assert (done.returncode, "backup" in done.stderr) == (4, True), done.stderr
        return None
    return [json.loads(done.stdout)["id"]]


def test_a_store_of_a_newer_version_is_refused_and_left_as_it_is(world: World) -> None:
    world.hub().stop()
    file = store_of(world) / "data.mdb"
    with raw(store_of(world)) as environment, environment.begin(write=True) as transaction:
        own = environment.open_db(OWN.encode(), txn=transaction, create=False)
        transaction.put(FORMAT_KEY, pack(OWN, FORMAT_KEY, (99).to_bytes(4, "big"), OWN_VERSION), db=own)
    before = file.read_bytes()
    refused = world.run(HUB, "hub")
    assert refused.returncode == 1
    assert "format 99" in refused.stderr
    assert "newer AgentCom" in refused.stderr
    assert file.read_bytes() == before


def test_a_second_hub_on_a_home_is_refused_and_names_the_first(world: World) -> None:
    first = world.hub()
    refused = world.run(HUB, "hub")
    assert (refused.returncode, f"process {first.pid} has it open" in refused.stderr) == (1, True)


def test_a_home_on_a_network_file_system_is_refused(tmp_path: Path) -> None:
    """The command in a process of its own, in which every folder is said to lie on NFS."""
    script = (
        "import sys\nfrom agentcom import cli\nfrom agentcom.store import start\n"
        "start.file_system = lambda _path: 'nfs4'\nsys.exit(cli.main(['hub']))"
    )
    home = tmp_path / "home"
    refused = subprocess.run(
        [sys.executable, "-c", script],
        env=clean_environment(home),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode == 1
    assert "network file system (nfs4)" in refused.stderr
    assert "AGENTCOM_HOME" in refused.stderr
    assert not (home / "store" / "data.mdb").exists()


# --- compaction -----------------------------------------------------------------------------------------


def test_compaction_gives_the_free_part_of_the_file_back_while_the_hub_goes_on(world: World) -> None:
    hub = world.hub()
    client = world.client()
    filled = [client.submit(description="x" * 60_000, command="true")["id"] for _ in range(60)]
    kept = submitted(world, 3)
    # Asking lets the file take what the journal has: what comes and goes within half a second never reaches it.
    assert world.json(HUB, "compact", "--dry-run")["file_bytes"] > 60 * 60_000
    for task in filled:
        client.task_cancel(task)
    client.dead_purge(filled)
    would = world.json(HUB, "compact", "--dry-run")
    assert would["would_free_bytes"] > would["file_bytes"] / 2
    done = world.json(HUB, "compact")
    assert done["state"] == "done", done
    won = done["result"]
    assert won["after_bytes"] < won["before_bytes"] - would["would_free_bytes"] / 2
    assert won["stopped_ms"] < 1000
    kept += submitted(world, 2)
    assert tasks_of(world) == kept
    assert (store_of(world) / "data.mdb").stat().st_size < won["before_bytes"]
    hub.kill()
    world.hub()
    assert tasks_of(world) == kept
    assert not (store_of(world) / "compacting").exists()
