"""Kills, with real processes: what was acknowledged is there, what ran is run once more and no more than once."""

from __future__ import annotations

import json
import os
import signal
import time
from datetime import datetime
from pathlib import Path

from agentcom.clock import rfc3339
from tests.world import World, eventually, processes_with


def state_of(world: World, task: int) -> str:
    return str(world.client().task_get(task)["state"])


def test_a_hub_killed_in_the_middle_of_a_task_completes_it_once(world: World) -> None:
    hub = world.hub()
    port = hub.ready["hub"].rsplit(":", 1)[1]
    world.join("box")
    world.sidecar("box")
    ran = world.folder / "ran"
    client = world.client()
    task = client.submit(description="slow", command=f"echo x >> {ran}; sleep 3; echo y >> {ran}")["id"]
    eventually("the task works", lambda: client.task_get(task)["state"] == "working")
    eventually("the command has begun", ran.exists)
    told = client.task_story(task)["entries"]
    assert [each["event"] for each in told] == ["submitted", "assigned", "accepted"]

    hub.kill()
    world.hub(AGENTCOM_HUB_PORT=port)

    client = world.client()
    assert client.task_story(task)["entries"] == told
    done = client.wait(task, timeout_s=30)
    assert done["state"] == "completed", done
    assert done["attempt"] == 1, "the running attempt was kept, not started again"
    assert ran.read_text() == "x\ny\n"
    entries = client.task_story(task)["entries"]
    assert entries[:3] == told
    assert [each["event"] for each in entries[3:]] == ["ended", "completed"]


def test_a_result_made_while_the_hub_was_down_arrives_after(world: World) -> None:
    hub = world.hub()
    port = hub.ready["hub"].rsplit(":", 1)[1]
    world.join("box")
    world.sidecar("box")
    client = world.client()
    ended = world.folder / "ended"
    task = client.submit(description="slow", command=f"sleep 1; echo out; touch {ended}")["id"]
    eventually("the task works", lambda: client.task_get(task)["state"] == "working")
    hub.kill()
    eventually("the command ends while there is no hub", ended.exists)
    outbox = world.home("box") / "sidecar" / "outbox"
    eventually("its result lies in the outbox", lambda: any(p.is_file() for p in outbox.rglob("*")))

    world.hub(AGENTCOM_HUB_PORT=port)

    done = world.client().wait(task, timeout_s=30)
    assert (done["state"], done["attempt"]) == ("completed", 1)
    assert done["result"]["output"].strip() == "out"


def test_a_sidecar_killed_during_a_command_leaves_no_survivor_and_another_agent_does_it(world: World) -> None:
    world.hub()
    world.join("first")
    first = world.sidecar("first", AGENTCOM_SIDECAR_AGENTS="1")
    client = world.client()
    mark = f"3601.{os.getpid() % 1000:03d}"
    gate = world.folder / "gate"
    command = f"if [ -e {gate} ]; then echo second; else touch {gate}; setsid sleep {mark} & sleep {mark}; fi"
    task = client.submit(description="long", command=command)["id"]
    eventually("the command runs", lambda: len(processes_with(mark)) >= 2)
    world.join("second")
    world.sidecar("second", AGENTCOM_SIDECAR_AGENTS="1")

    first.kill()

    eventually("no process of it is left", lambda: not processes_with(mark), seconds=5)
    done = client.wait(task, timeout_s=40)
    assert (done["state"], done["attempt"], done["losses"]) == ("completed", 2, 1)
    assert done["route"]["host"] == "second"
    assert done["result"]["output"].strip() == "second"


def test_a_frozen_sidecar_that_wakes_after_its_lease_changes_nothing(world: World) -> None:
    world.hub()
    world.join("first")
    first = world.sidecar("first", AGENTCOM_SIDECAR_AGENTS="1")
    client = world.client()
    ran = world.folder / "ran"
    task = client.submit(description="slow", command=f"echo x >> {ran}; sleep 1; echo $(wc -l < {ran})")["id"]
    eventually("the command has begun", ran.exists)
    os.kill(first.pid, signal.SIGSTOP)
    try:
        world.join("second")
        world.sidecar("second", AGENTCOM_SIDECAR_AGENTS="1")
        done = client.wait(task, timeout_s=40)
        assert (done["state"], done["attempt"]) == ("completed", 2)
    finally:
        os.kill(first.pid, signal.SIGCONT)
    reports = eventually(
        "the late result is kept as evidence",
        lambda: [a for a in client.task_reports(task)["attempts"] if a.get("late_outcome")],
    )
    assert reports[0]["attempt"] == 1
    after = client.task_get(task)
    assert (after["attempt"], after["result"]) == (2, done["result"])


def test_a_restart_keeps_everything(world: World) -> None:
    hub = world.hub()
    client = world.client()
    waiting = client.submit(description="no host yet", command="true", idempotency_key="once")["id"]
    cancelled = client.submit(description="never", command="true")["id"]
    client.task_cancel(cancelled)
    client.queue_pause()
    client.endpoint_add("http://192.0.2.1:11434", name="far")
    before = [client.task_get(t) for t in (waiting, cancelled)]

    hub.kill()
    world.hub()

    again = world.client()
    after = [again.task_get(t) for t in (waiting, cancelled)]
    # A term runs on a clock of its own: where it ends on the wall clock is reckoned anew at each look.
    ends = [datetime.fromisoformat(each[0].pop("expires_at")).timestamp() for each in (before, after)]
    assert abs(ends[0] - ends[1]) < 1
    assert after == before
    assert again.queue_stats()["paused"] is True
    assert [e["name"] for e in again.endpoint_list()["endpoints"]] == ["far"]
    assert again.submit(description="no host yet", command="true", idempotency_key="once")["id"] == waiting
    assert again.submit(description="new", command="true")["id"] > cancelled


def test_cancel_kills_the_whole_tree(world: World) -> None:
    world.hub()
    world.join("box")
    world.sidecar("box")
    client = world.client()
    mark = f"3602.{os.getpid() % 1000:03d}"
    task = client.submit(description="long", command=f"setsid sleep {mark} & trap '' TERM; sleep {mark}")[
        "id"
    ]
    eventually("the command runs", lambda: len(processes_with(mark)) >= 2)

    assert client.task_cancel(task)["state"] == "cancelled"

    eventually("no process of it is left", lambda: not processes_with(mark), seconds=10)
    eventually("its agent is free", lambda: all(a["state"] == "idle" for a in client.agent_list()["agents"]))
    assert state_of(world, task) == "cancelled"


def test_r8_a_command_that_prints_nothing_is_found_ended_and_taken_back(world: World) -> None:
    world.hub(
        AGENTCOM_QUEUE_STALL_S="1",
        AGENTCOM_QUEUE_BACKOFF_S="60",
        AGENTCOM_QUEUE_BACKOFF_MAX_S="60",
        AGENTCOM_QUEUE_LEASE_S="3",
        AGENTCOM_QUEUE_HEARTBEAT_S="1",
    )
    world.join("box")
    world.sidecar("box")
    client = world.client()
    mark = f"3603.{os.getpid() % 1000:03d}"
    task = client.submit(description="silent", command=f"setsid sleep {mark} & trap '' TERM; sleep {mark}")[
        "id"
    ]
    eventually("the command runs", lambda: len(processes_with(mark)) >= 2)

    eventually("its attempt is taken back", lambda: client.task_get(task)["state"] == "delayed", seconds=20)
    eventually("no process of it is left", lambda: not processes_with(mark), seconds=10)
    eventually("its agent is free", lambda: all(a["state"] == "idle" for a in client.agent_list()["agents"]))
    found = client.task_get(task)
    assert (found["error"]["code"], found["losses"]) == ("stalled", 1)


def test_running_work_is_ended_at_complete_by_and_says_so(world: World) -> None:
    world.hub()
    world.join("box")
    world.sidecar("box")
    client = world.client()
    mark = f"3604.{os.getpid() % 1000:03d}"
    soon = rfc3339(int(time.time() * 1000) + 3_000)
    task = client.submit(description="late", command=f"sleep {mark}", complete_by=soon)["id"]
    eventually("the command runs", lambda: processes_with(mark))

    eventually("the task expires", lambda: client.task_get(task)["state"] == "expired", seconds=20)
    eventually("no process of it is left", lambda: not processes_with(mark), seconds=10)
    eventually("its agent is free", lambda: all(a["state"] == "idle" for a in client.agent_list()["agents"]))
    assert client.task_get(task)["error"]["code"] == "complete_by"
    assert [each["id"] for each in client.dead_list(code="complete_by")["tasks"]] == [task]
    listed = world.run("hub", "dead", "list", "--state", "expired")
    assert "complete_by" in listed.stdout
    assert world.run("hub", "dead", "purge", "--state", "cancelled").stdout == "0 removed\n"
    assert world.run("hub", "dead", "purge", "--code", "complete_by").stdout == "1 removed\n"
    assert client.dead_list()["tasks"] == []


def test_tasks_of_a_file_run_one_after_the_other(world: World) -> None:
    world.hub()
    world.join("box")
    world.sidecar("box", AGENTCOM_SIDECAR_AGENTS="3")
    ran = world.folder / "ran"
    lines = [{"description": f"{n}", "command": f"sleep 0.{3 - n}; echo {n} >> {ran}"} for n in range(3)]
    chain = [{**line, "depends_on": [-1]} if n else line for n, line in enumerate(lines)]
    text = "\n".join(map(json.dumps, chain))
    made = world.run("hub", "submit", "--from", "-", "--json", text_in=text)
    first, *rest = [each["id"] for each in json.loads(made.stdout)["tasks"]]
    last = json.loads(
        world.run(
            "hub", "submit", "last", "--command", f"echo 3 >> {ran}", "--after", str(rest[-1]), "--json"
        ).stdout
    )
    done = world.client().wait(last["id"], timeout_s=30)
    assert (done["state"], done["waits_for"], done["depends_on"]) == ("completed", [], [rest[-1]])
    assert ran.read_text() == "0\n1\n2\n3\n"
    assert world.client().task_get(first)["state"] == "completed"


def test_a_second_hub_on_the_same_home_is_refused(world: World) -> None:
    hub = world.hub()
    second = world.run("hub", "hub")
    assert second.returncode == 1
    assert str(hub.pid) in second.stderr
    assert world.client().queue_stats()["tasks_total"] == 0, "the first hub goes on"


def test_a_home_that_others_can_read_is_refused_with_the_remedy(world: World) -> None:
    home: Path = world.home("open")
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    done = world.run("open", "hub")
    assert done.returncode == 1
    assert f"chmod 700 {home}" in done.stderr


def test_a_hub_that_is_not_there_is_exit_code_3_within_5_s(world: World) -> None:
    hub = world.hub()
    hub.kill()
    started = time.monotonic()
    done = world.run("hub", "queue", "stats")
    assert done.returncode == 3
    assert time.monotonic() - started < 7, (
        "5 s for the hub, the rest for the interpreter's start on a busy machine"
    )
    assert len(done.stderr.strip().splitlines()) == 1
    assert "agentcom up" in done.stderr


def test_a_sidecar_that_runs_a_command_stops_also_while_its_hub_is_away(world: World) -> None:
    hub = world.hub()
    world.join("box")
    sidecar = world.sidecar("box")
    client = world.client()
    mark = f"3603.{os.getpid() % 1000:03d}"
    client.submit(description="long", command=f"sleep {mark}")
    eventually("the command runs", lambda: processes_with(mark))
    hub.kill()
    eventually(
        "the sidecar has noticed", lambda: "hub_lost" in sidecar.text() or "no connection" in sidecar.text()
    )
    assert sidecar.stop(seconds=6) == 0
    assert not processes_with(mark)
