"""Several hosts and agents: everything completes, nothing twice, the work is spread."""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from tests.standins import standin
from tests.world import World, eventually

MODEL = "qwen2.5-coder:7b"


def seconds_between(first: str, second: str) -> float:
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


def test_two_hosts_and_ten_tasks(world: World) -> None:
    world.hub()
    for name in ("one", "two"):
        world.join(name)
        world.sidecar(name, AGENTCOM_SIDECAR_AGENTS="3")
    client = world.client()
    ran = world.folder / "ran"
    ran.mkdir()

    tasks = [client.submit(description=f"task {n}", command=f"mktemp {ran}/{n}.XXXX")["id"] for n in range(10)]
    done = [client.wait(task, timeout_s=60) for task in tasks]

    assert [task["state"] for task in done] == ["completed"] * 10
    assert Counter(path.name.split(".")[0] for path in ran.iterdir()) == {str(n): 1 for n in range(10)}
    assert {task["attempt"] for task in done} == {1}
    assert max(seconds_between(task["created_at"], task["assigned_at"]) for task in done) < 5
    assert {task["route"]["host"] for task in done} == {"one", "two"}


def test_four_equal_agents_share_twenty_short_tasks(world: World) -> None:
    world.hub()
    world.join("box")
    world.sidecar("box", AGENTCOM_SIDECAR_AGENTS="4")
    client = world.client()
    eventually("four agents are idle", lambda: client.queue_stats()["agents"]["idle"] == 4)

    agents = Counter()
    for n in range(20):
        task = client.submit(description=f"task {n}", command="true")["id"]
        agents[client.wait(task, timeout_s=30)["route"]["agent"]] += 1

    assert len(agents) == 4
    assert all(3 <= count <= 7 for count in agents.values()), agents


def test_a_retry_chain_ends_dead_with_its_reason(world: World) -> None:
    world.hub()
    world.join("box")
    world.sidecar("box")
    client = world.client()

    task = client.submit(description="fails", command="echo broken; exit 7", max_retries=2)["id"]
    dead = client.wait(task, timeout_s=60)

    assert (dead["state"], dead["attempt"], dead["retries_used"]) == ("dead", 3, 2)
    assert (dead["error"]["class"], dead["error"]["code"]) == ("task_error", "command_failed")
    assert "broken" in dead["error"]["message"]
    history = client.task_reports(task)["attempts"]
    assert [(a["attempt"], a["outcome"]) for a in history] == [(1, "failed"), (2, "failed"), (3, "failed")]
    assert [t["id"] for t in client.dead_list()["tasks"]] == [task]
    shown = world.run("hub", "submit", "fails", "--command", "exit 7", "--max-retries", "0", "--wait")
    assert shown.returncode == 11
    assert client.task_retry(task)["state"] in ("ready", "assigned", "working")
    assert client.dead_list()["tasks"][0]["id"] != task


def test_an_endpoint_that_dies_is_unhealthy_within_a_cycle_and_healthy_when_it_returns(world: World) -> None:
    hub = world.hub()
    port = hub.ready["hub"].rsplit(":", 1)[1]
    world.join("box")
    with standin("ollama", {"models": [{"name": MODEL, "warm": True}]}) as server:
        world.sidecar("box", AGENTCOM_ENDPOINTS_DISCOVER=server.url)
        client = world.client()

        def health() -> list[bool]:
            return [e["healthy"] for e in client.endpoint_list()["endpoints"]]

        eventually("it is found and healthy", lambda: health() == [True])
        endpoint = client.endpoint_list()["endpoints"][0]
        assert (endpoint["seen_from"], endpoint["host"]) == ("host", "box")
        assert [(m["name"], m["warm"]) for m in endpoint["models"]] == [(MODEL, True)]

        server.down()
        eventually("it is unhealthy", lambda: health() == [False], seconds=5)
        task = client.submit(description="say something")["id"]
        why = client.task_why(task)
        assert [h["fails"] for h in why["hosts"]] == ["endpoint_unhealthy"]
        assert client.task_get(task)["state"] == "ready", "no standard task goes to an unhealthy endpoint"

        hub.kill()
        world.hub(AGENTCOM_HUB_PORT=port)
        client = world.client()
        assert [e["url"] for e in client.endpoint_list()["endpoints"]] == [endpoint["url"]]

        server.up()
        eventually("it is healthy again", lambda: health() == [True], seconds=10)
        assert client.wait(task, timeout_s=30)["state"] == "completed"


def test_a_revoked_host_gets_no_more_work_and_a_revoked_token_no_more_answers(world: World) -> None:
    world.hub()
    world.join("box")
    sidecar = world.sidecar("box")
    client = world.client()
    eventually("its agents are idle", lambda: client.queue_stats()["agents"]["idle"] > 0)

    client.host_remove("box")

    assert client.host_list()["hosts"] == []
    eventually("the sidecar ends by itself", lambda: sidecar.process.poll() is not None, seconds=15)
    world.join("guest", role="submit")
    world.run("hub", "token", "revoke", "guest")
    assert world.run("guest", "submit", "hello", "--command", "true").returncode in (3, 4)


def test_roles_are_enforced(world: World) -> None:
    world.hub()
    for role in ("view", "submit", "operate"):
        world.join(role, role=role)
    mine = world.json("submit", "submit", "mine", "--command", "true")["id"]
    theirs = world.json("hub", "submit", "theirs", "--command", "true")["id"]

    assert world.run("submit", "task", "show", str(mine)).returncode == 0
    assert world.run("submit", "task", "show", str(theirs)).returncode == 5
    assert world.run("submit", "queue", "pause").returncode == 4
    assert world.run("view", "submit", "no", "--command", "true").returncode == 4
    assert world.run("view", "task", "show", str(mine)).returncode == 0
    assert world.run("operate", "queue", "pause").returncode == 0
    assert world.run("operate", "host", "invite").returncode == 4


def test_dead_tasks_are_retried_and_purged_in_bulk(world: World) -> None:
    world.hub()
    world.join("box")
    world.sidecar("box")
    client = world.client()
    fields = {"command": "exit 1", "max_retries": 0}
    tasks = [client.submit(description=f"fails {n}", **fields)["id"] for n in range(3)]
    for task in tasks:
        assert client.wait(task, timeout_s=30)["state"] == "dead"

    assert world.json("hub", "dead", "retry", "--all")["tasks"] == tasks
    for task in tasks:
        assert client.wait(task, timeout_s=30)["attempt"] == 2
    assert world.json("hub", "dead", "purge", str(tasks[0]))["purged"] == 1
    assert world.json("hub", "dead", "purge", "--all")["purged"] == 2
    assert client.dead_list()["tasks"] == []
    assert world.run("hub", "task", "show", str(tasks[0])).returncode == 5
