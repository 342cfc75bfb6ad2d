"""Cloud accounts: known by the hosts that have a key, shared by those with the same one, capped, never checked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentcom import messages as m
from agentcom.config import EndpointSettings
from agentcom.core.effects import AskModel, ProbeEndpoint
from agentcom.errors import Refused
from agentcom.model import FailureClass
from tests.core_rig import HostEnd, Rig
from tests.factories import complex_task, error, settings

URL = "https://api.anthropic.com"


@pytest.fixture
def rig() -> Rig:
    given = settings(max_infrastructure=1000, backoff_s=1, backoff_max_s=1)
    return Rig(msgspec.structs.replace(given, endpoints=EndpointSettings(retry_min=1000)))


def host(rig: Rig, name: str, fingerprint: str = "aaaaaaaa", agents: int = 2) -> HostEnd:
    return rig.host(name, agents=agents, account=m.AccountOffer(url=URL, fingerprint=fingerprint))


def accounts(rig: Rig) -> list[dict[str, Any]]:
    found = rig.admin.ask(m.EndpointList())["endpoints"]
    return [one for one in found if one["kind"] == "anthropic"]


def test_hosts_with_the_same_key_share_an_account_and_others_have_their_own(rig: Rig) -> None:
    host(rig, "one")
    host(rig, "other")
    host(rig, "third", "bbbbbbbb")
    rig.host("without")
    assert [(one["url"], one["healthy"]) for one in accounts(rig)] == [(f"{URL}:443", True)] * 2
    rig.start()
    rig.admin.hello()
    assert len(accounts(rig)) == 2


def test_an_account_is_never_checked_and_stays_healthy_unheard(rig: Rig) -> None:
    box = host(rig, "box")
    for _ in range(5):
        effects = rig.advance(10_000)
        box.beat()
        assert not [one for one in effects if isinstance(one, ProbeEndpoint | AskModel)]
    assert accounts(rig)[0]["healthy"]


def test_calls_of_all_hosts_count_for_the_cap_and_why_says_so(rig: Rig) -> None:
    one, other = host(rig, "one"), host(rig, "other")
    rig.admin.ask(m.EndpointUpdate(endpoint="anthropic", cap=2))
    tasks = [rig.admin.submit(complex_task()) for _ in range(4)]
    running = [end.take() for end in (one, other) for _ in range(2) if _assigned(end)]
    assert len(running) == 2
    [shown] = accounts(rig)
    assert shown["in_flight"] == {"claude-opus-5-5": 2}
    waiting = next(task for task in tasks if rig.admin.state(task) == "ready")
    assert {row["fails"] for row in rig.admin.ask(m.TaskWhy(task=waiting))["hosts"]} == {"account_shut"}
    holder = one if any(a.route.host == "one" for a in running[:1]) else other
    holder.complete(running[0])
    assert sum(accounts(rig)[0]["in_flight"].values()) == 2
    rig.admin.ask(m.EndpointUpdate(endpoint="anthropic", cap=9))
    assert sum(accounts(rig)[0]["in_flight"].values()) == 3


def _assigned(end: HostEnd) -> bool:
    return any(isinstance(one, m.Assign) for one in end.received)


def test_many_at_once_do_not_pass_the_cap(rig: Rig) -> None:
    box = host(rig, "box", agents=8)
    rig.admin.ask(m.EndpointUpdate(endpoint="anthropic", cap=3))
    rig.admin.submit(*[complex_task() for _ in range(8)])
    assert len([one for one in box.received if isinstance(one, m.Assign)]) == 3


def test_a_provider_that_fails_calls_in_a_row_is_left_alone_and_tried_with_one(rig: Rig) -> None:
    box = host(rig, "box")
    number = rig.admin.submit(complex_task())
    for _ in range(5):
        box.fail(box.take(), error(FailureClass.infrastructure, "overloaded", message="529"))
        rig.advance(1_000)
    [shown] = accounts(rig)
    assert (shown["healthy"], shown["reason"], shown["breaker"]["state"]) == (False, "529", "open")
    assert rig.admin.state(number) == "ready"
    for _ in range(3):
        rig.advance(4_000)
        box.beat()
    box.complete(box.take(), provider_limits={"requests_remaining": 41})
    [shown] = accounts(rig)
    assert (shown["healthy"], shown["breaker"]) == (True, {"state": "closed"})
    assert shown["provider_limits"] == {"requests_remaining": 41}


def test_an_account_that_a_host_may_not_use_says_where_why_and_until_when(rig: Rig) -> None:
    box = host(rig, "box")
    rig.admin.submit(complex_task())
    box.fail(box.take(), error(FailureClass.usage_window, "rate_limited", retry_after_s=60.0, message="429"))
    [shown] = accounts(rig)
    until = rig.admin.ask(m.AgentList())["agents"][0]["blocked"]["until"]
    [blocked] = shown["blocked_on"]
    assert (blocked["host"], blocked["reason"], blocked["until"]) == ("box", "429", until)
    assert (shown["healthy"], shown["reason"]) == (False, f"blocked on box until {until}: 429")
    assert shown["since"] == blocked["since"]
    host(rig, "other")
    [shown] = accounts(rig)
    assert (shown["healthy"], shown["reason"], shown["blocked_on"]) == (True, "", [blocked])
    rig.advance(61_000)
    assert accounts(rig)[0]["blocked_on"] == []


def test_readers_of_the_feed_see_an_account_blocked_and_free_again(rig: Rig) -> None:
    def told() -> list[tuple[bool, int]]:
        changes = [one["endpoint"] for one in rig.published("endpoint") if one["event"] == "endpoint_changed"]
        return [(one["healthy"], len(one["blocked_on"])) for one in changes]

    box = host(rig, "box")
    rig.admin.submit(complex_task())
    said = "the key is not accepted (401)"
    box.fail(box.take(), error(FailureClass.configuration, "auth_refused", message=said))
    assert told()[-1] == (False, 1)
    other = host(rig, "other")
    assert told()[-1] == (True, 1)
    other.leave()
    assert told()[-1] == (False, 1)
    box.hello()
    assert told()[-1] == (True, 0)


def test_a_model_of_a_provider_that_gives_no_byte_is_not_asked_for_tokens_that_cost(rig: Rig) -> None:
    box = host(rig, "box")
    rig.admin.submit(complex_task())
    box.fail(box.take(), error(FailureClass.infrastructure, "no_first_byte"))
    assert accounts(rig)[0]["quarantined"] == []
    effects = [*rig.advance(10_000), *rig.advance(10_000)]
    assert not [one for one in effects if isinstance(one, AskModel)]


def test_calls_that_ran_when_the_hub_stopped_count_after_its_start(rig: Rig) -> None:
    box = host(rig, "box")
    rig.admin.submit(complex_task())
    running = box.take()
    rig.start()
    rig.admin.hello()
    assert sum(accounts(rig)[0]["in_flight"].values()) == 1
    box.hello(attempts=(box.held(running),))
    box.complete(running)
    assert accounts(rig)[0]["in_flight"] == {}


def test_an_account_is_not_added_by_hand(rig: Rig) -> None:
    with pytest.raises(Refused, match="account"):
        rig.admin.ask(m.EndpointAdd(url=URL, kind="anthropic"))  # type: ignore[arg-type]
