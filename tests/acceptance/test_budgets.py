"""Budgets with a real hub, a real sidecar and a server in the place of Claude: nothing is spent beyond one."""

from __future__ import annotations

from typing import Any

import pytest

from tests.standins import standin
from tests.world import World, eventually

KEY = "sk-ant-test-key-of-the-host"
REPLY = {
    "content": "The design is sound.",
    "tokens_in": 1000,
    "tokens_out": 100,
}  # 0.006 USD with claude-opus-5-5


def budgets(world: World) -> dict[str, Any]:
    return {one["key"]: one for one in world.json("hub", "budget", "show")["budgets"]}


def test_a_paid_task_is_held_at_the_cap_says_why_and_goes_on_when_it_is_raised(world: World) -> None:
    hub = world.hub()
    world.join("box")
    with standin("anthropic", {"replies": [REPLY]}, key=KEY) as server:
        world.sidecar("box", ANTHROPIC_API_KEY=KEY, ANTHROPIC_BASE_URL=server.url)
        world.json("hub", "budget", "set", "all", "1", "--per", "ever")
        number = world.json("hub", "submit", "judge the design", "--tier", "complex")["id"]

        eventually("it is held", lambda: world.json("hub", "task", "show", str(number))["state"] == "held")
        told = world.json("hub", "task", "show", str(number))["error"]
        assert told["code"] == "budget"
        assert "agentcom budget set all 2.00 --per ever" in told["message"]
        assert "1.00 of 1.00" in world.json("hub", "task", "why", str(number))["reason"]
        assert server.log("/v1/messages") == [], "nothing was asked of it"

        hub.kill()
        world.hub(AGENTCOM_HUB_PORT=hub.ready["hub"].rpartition(":")[2])
        world.json("hub", "budget", "set", "all", "2", "--per", "ever")
        done = world.client().wait(number, timeout_s=60)

        assert done["state"] == "completed", done["error"]
        assert len(server.log("/v1/messages")) == 1
        one = budgets(world)["all"]
        assert (one["usd"], one["reserved_usd"]) == (2, 0)
        assert one["spent_usd"] == pytest.approx(0.006)


def test_a_call_that_its_task_cannot_pay_is_not_made(world: World) -> None:
    world.hub()
    world.join("box")
    with standin("anthropic", {"replies": [REPLY]}, key=KEY) as server:
        world.sidecar("box", ANTHROPIC_API_KEY=KEY, ANTHROPIC_BASE_URL=server.url)
        number = world.json("hub", "submit", "judge it", "--tier", "complex", "--budget", "0.001")["id"]

        eventually("it is held", lambda: world.json("hub", "task", "show", str(number))["state"] == "held")
        told = world.json("hub", "task", "show", str(number))["error"]

        assert told["code"] == "budget_too_small"
        assert "0.0010 USD are left to this attempt" in told["message"]
        release = world.json("hub", "task", "why", str(number))["release"]
        assert release["command"] is None
        assert "submit it again with a larger --budget" in release["change"]
        assert server.log("/v1/messages") == []
        assert world.json("hub", "budget", "show")["counted_usd"]["ever"] == 0


def test_a_hub_that_dies_while_an_attempt_is_paid_for_books_it_once(world: World) -> None:
    hub = world.hub()
    world.join("box")
    held = {"/v1/messages": {"held": True}}
    with standin("anthropic", {"replies": [REPLY], "routes": held}, key=KEY) as server:
        world.sidecar("box", ANTHROPIC_API_KEY=KEY, ANTHROPIC_BASE_URL=server.url)
        world.json("hub", "budget", "set", "all", "3", "--per", "ever")
        number = world.json("hub", "submit", "judge the design", "--tier", "complex")["id"]
        eventually("the model is asked", lambda: server.log("/v1/messages"))
        assert budgets(world)["all"]["reserved_usd"] == 2

        hub.kill()
        world.hub(AGENTCOM_HUB_PORT=hub.ready["hub"].rpartition(":")[2])
        assert budgets(world)["all"]["reserved_usd"] == 2, "it is on disk with the assignment"
        server.set_script({"routes": {}})
        done = world.client().wait(number, timeout_s=60)

        assert (done["state"], done["attempt"]) == ("completed", 1)
        assert len(server.log("/v1/messages")) == 1
        one = budgets(world)["all"]
        assert (one["spent_usd"], one["reserved_usd"]) == (pytest.approx(0.006), 0)
