"""A branch and its one pull request, through kills and cuts: a real hub, real sidecars, real git over https.

The origin is a forge of its own process; the hosts' only credential is the token in `git.forges`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from agentcom.auth import write_hub_address
from agentcom.client import Client
from agentcom.config import Home
from tests.faults.load import address_of
from tests.faults.proxy import FROM_HUB, TO_HUB, proxy_to
from tests.faults.sidecar_kills import QUICK
from tests.standins import standin
from tests.standins.origin import Origin, origin_of
from tests.standins.starter import StandIn
from tests.world import Daemon, World, eventually, make_repository

RECEIVE = "git-receive-pack"
KEY = "sk-ant-test-key-of-the-host"
CALLS = "/v1/messages"
FOUND_S = 6.0  # how long the model of the host that is cut off thinks: longer than a lease of 4 s


@pytest.fixture
def origin(world: World) -> Iterator[Origin]:
    make_repository(world.folder / "theirs", {"README.md": "hello\n"})
    with origin_of(world.folder / "theirs", world.folder) as made:
        yield made


def surroundings(world: World, origin: Origin, name: str, **more: str) -> dict[str, str]:
    """The environment of a host's sidecar: its forge, the forge's CA, and nothing of whoever runs the tests."""
    entry = origin.entry(origin.token_file(world.home(name)))
    own = {"HOME": str(world.folder), "GIT_SSL_CAINFO": str(origin.certificate), "AGENTCOM_GIT_FORGES": entry}
    return {**own, "AGENTCOM_SIDECAR_AGENTS": "1", **more}


def requests_of(origin: Origin, task: int) -> list[dict[str, Any]]:
    return [each for each in origin.requests() if f"AgentCom-Task: {task}\n" in str(each["body"])]


def greet(client: Client, origin: Origin, command: str = "echo hello > hello.txt") -> int:
    check = {"kind": "file_exists", "target": "hello.txt"}
    return int(client.submit(description="Say hello", repo=origin.url, command=command, checks=[check])["id"])


def test_a_sidecar_killed_between_push_and_report_opens_no_second_pull_request(
    world: World, origin: Origin
) -> None:
    """After the push, with the pull request open, and with the result sent but not acknowledged."""
    world.hub(**QUICK)
    world.join("box")
    client = world.client()
    attempts = {"pushed": 2, "opened": 2, "after_result": 1}
    sidecar = _start_crashing(world, origin, "pushed")
    for step, following in zip(attempts, ("opened", "after_result", "none"), strict=True):
        task = greet(client, origin)
        eventually(f"it has crashed at {step}", lambda ended=sidecar.process.poll: ended() is not None)
        assert (world.folder / f"crashed-{step}").exists(), sidecar.text()
        assert len(requests_of(origin, task)) == (0 if step == "pushed" else 1)

        waits = world.folder / f"crashed-{following}"
        waits.touch()  # the one that comes back does not crash before it is its turn
        sidecar = _start_crashing(world, origin, following)

        done = client.wait(task, timeout_s=40)
        assert (done["state"], done["attempt"]) == ("completed", attempts[step]), done["error"]
        [request] = requests_of(origin, task)
        assert done["result"]["pull_request"] == request["html_url"]
        assert done["result"]["branch"] == request["branch"]
        assert origin.git("rev-parse", request["branch"]) == done["result"]["commit"]
        waits.unlink()
    assert len(origin.requests()) == 3


def test_a_hub_that_is_away_for_less_than_a_lease_gets_the_pull_request_after(world: World, origin: Origin) -> None:
    lease = {"AGENTCOM_QUEUE_LEASE_S": "60", "AGENTCOM_QUEUE_OFFLINE_S": "30"}
    hub = world.hub(**lease)
    world.join("box")
    world.sidecar("box", **surroundings(world, origin, "box"))
    client = world.client()
    gate = world.folder / "gate"
    begun = world.folder / "begun"
    task = greet(
        client, origin, f"touch {begun}; until [ -e {gate} ]; do sleep 0.05; done; echo hello > hello.txt"
    )
    eventually("the command has begun", begun.exists)
    hub.kill()
    gate.touch()
    eventually("the pull request is open while there is no hub", lambda: requests_of(origin, task))

    world.hub(AGENTCOM_HUB_PORT=hub.ready["hub"].rsplit(":", 1)[1], **lease)

    done = world.client().wait(task, timeout_s=40)
    assert (done["state"], done["attempt"]) == ("completed", 1), done["error"]
    [request] = origin.requests()
    assert done["result"]["pull_request"] == request["html_url"]


def test_a_sidecar_cut_off_for_longer_than_a_lease_neither_pushes_nor_pays(world: World, origin: Origin) -> None:
    """One task ends its command meanwhile, the other waits for its model's answer: both go to another host, and what
    the first one brings when it is back changes nothing."""
    world.hub()
    world.join("first")
    address = address_of(world.home("hub"))
    client = world.client()
    write = {"name": "write_file", "arguments": {"path": "answer.txt", "content": "42\n"}}
    replies = [{"tool_calls": [write], "tokens_in": 100, "tokens_out": 10}, {"content": "Done."}]
    slow = [{**replies[0], "first_byte_delay_s": FOUND_S}, replies[1]]
    with (
        proxy_to(address.hub) as proxy,
        standin("anthropic", {"replies": slow}, key=KEY) as first_model,
        standin("anthropic", {"replies": replies}, key=KEY) as second_model,
    ):
        cut = msgspec.structs.replace(address, hub=proxy.address)
        write_hub_address(world.home("first") / "keys" / "hub.json", cut)
        _start(world, origin, "first", first_model)
        marks, gate, over = (world.folder / name for name in ("ran", "gate", "over"))
        wait = f"until [ -e {gate} ]; do sleep 0.1; done; touch {over}"
        first = f"echo x >> {marks}; [ $(wc -l < {marks}) -gt 1 ] || {{ {wait}; }}"
        greeted = greet(client, origin, f"{first}; date > hello.txt")
        answered = int(client.submit(description="Put it into answer.txt", repo=origin.url, tier="complex")["id"])
        eventually("the command and the call have begun", lambda: marks.exists() and first_model.log(CALLS))

        proxy.held = {TO_HUB, FROM_HUB}
        world.join("second")
        _start(world, origin, "second", second_model)

        done = [client.wait(task, timeout_s=60) for task in (greeted, answered)]
        assert [(each["state"], each["attempt"], each["route"]["host"]) for each in done] == [
            ("completed", 2, "second"),
            ("completed", 2, "second"),
        ]
        gate.touch()  # the lease of the first attempt is over for certain: the second has ended
        eventually("the first command is over too", over.exists)
        first_model.wait_for_outcome("done", CALLS)
        proxy.held = set()
        _has_told_all(world, "first")

        assert len(first_model.log(CALLS)) == 1, "no call was paid for after the cut"
    assert {name.split("/")[2][:2] for name in origin.branches() - {"main"}} == {"2-"}, "nothing of a first attempt"
    for task, was in zip((greeted, answered), done, strict=True):
        assert client.task_get(task)["result"] == was["result"]
        [request] = requests_of(origin, task)
        assert was["result"]["pull_request"] == request["html_url"]
    assert len(origin.requests()) == 2


def _start_crashing(world: World, origin: Origin, step: str) -> Daemon:
    once = str(world.folder / f"crashed-{step}")
    told = surroundings(world, origin, "box", FAULTS_CRASH_AT=step, FAULTS_CRASH_ONCE=once)
    return world.start_module("box", "tests.faults.crashing_sidecar", **told)


def _start(world: World, origin: Origin, name: str, model: StandIn) -> None:
    paid = {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": model.url, "AGENTCOM_SIDECAR_AGENTS": "2"}
    world.sidecar(name, **surroundings(world, origin, name, **paid))


def _has_told_all(world: World, name: str) -> None:
    place = Home(world.home(name)).sidecar
    eventually(
        f"{name} has told all that it held",
        lambda: not any(any((place / folder).iterdir()) for folder in ("attempts", "outbox")),
        40,
    )
