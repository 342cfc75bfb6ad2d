"""What is kept of the feed: numbered events, in the store with the tick that made them, whether anyone reads or not."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom import messages as m
from agentcom.core.effects import Noticed
from agentcom.core.outlet import KEPT
from agentcom.errors import Refused
from agentcom.model import JsonObject, Role, Tier
from agentcom.store.crosscheck import cross_check, walk_store
from tests.core_rig import Rig
from tests.factories import endpoint_probe, sha256, shell_task, sighting


@pytest.fixture
def rig() -> Rig:
    return Rig()


def kept(rig: Rig, **wanted: Any) -> list[JsonObject]:
    """Oldest first, without their times and numbers."""
    found = rig.admin.ask(m.EventList(**{"limit": 500, **wanted}))["events"]
    return [
        {name: value for name, value in each.items() if name not in ("number", "at", "topic")}
        for each in reversed(found)
    ]


def test_a_host_that_comes_and_goes_is_kept(rig: Rig) -> None:
    box = rig.host()
    rig.advance(15_001)
    box.beat()
    box.send(m.Bye(session=box.token))
    rig.admin.ask(m.HostRemove(host="box"))
    assert kept(rig, topic="host") == [
        {"event": "host_online", "name": "box"},
        {"event": "host_offline", "name": "box", "reason": "it has been silent for too long"},
        {"event": "host_online", "name": "box"},
        {"event": "host_offline", "name": "box", "reason": "its session has ended"},
        {"event": "host_removed", "name": "box", "by": "admin"},
    ]


def test_a_host_that_says_hello_again_was_not_away(rig: Rig) -> None:
    box = rig.host()
    box.hello()
    assert kept(rig, event="host_online") == [{"event": "host_online", "name": "box"}]


def test_an_endpoint_that_falls_sick_and_gets_well_is_kept_once_each_time(rig: Rig) -> None:
    box = rig.host()
    for healthy in (True, True, False, False, True):
        box.see(sighting(probe=endpoint_probe(healthy=healthy)))
    named = {"id": 1, "name": "ollama-box"}
    assert kept(rig, topic="endpoint") == [
        {"event": "endpoint_added", **named, "url": "http://127.0.0.1:11434"},
        {"event": "endpoint_well", **named},
        {"event": "endpoint_sick", **named, "reason": "connection refused"},
        {"event": "endpoint_well", **named},
    ]


def test_an_endpoint_that_was_never_well_is_told_once(rig: Rig) -> None:
    rig.admin.ask(m.EndpointAdd(url="http://10.0.0.7:11434", name="far"))
    for _ in range(2):
        rig.probed(1, endpoint_probe(healthy=False))
    assert [each["event"] for each in kept(rig, topic="endpoint")] == ["endpoint_added", "endpoint_sick"]


def test_dead_and_expired_and_purged_tasks_are_kept(rig: Rig) -> None:
    box = rig.host()
    dead = rig.admin.submit(shell_task(max_retries=0))
    box.fail(box.take())
    box.send(m.Bye(session=box.token))
    late = rig.admin.submit(shell_task(ttl_s=1))
    rig.advance(1_000)
    rig.admin.ask(m.DeadPurge(tasks=(dead,)))
    told = kept(rig, topic="task")
    assert [(each["event"], each["task"], each.get("code")) for each in told] == [
        ("task_dead", dead, "exit_1"),
        ("task_expired", late, "ttl"),
        ("task_purged", dead, None),
    ]
    assert told[2]["by"] == "admin"


def test_keys_tokens_and_pauses_are_kept_with_who_did_it(rig: Rig) -> None:
    ann = rig.member(Role.admin, "ann")
    ann.ask(m.TokenAdd(name="ci", role=Role.submit, token_sha256=sha256("t")))
    ann.ask(m.TokenRevoke(name="ci"))
    for paused in (True, True, False):
        ann.ask(m.QueuePause(paused=paused))
    assert kept(rig) == [
        {"event": "key_enrolled", "name": "ann", "role": "admin"},
        {"event": "token_added", "name": "ci", "role": "submit", "by": "ann"},
        {"event": "key_revoked", "name": "ci", "role": "submit", "by": "ann"},
        {"event": "queue_paused", "what": "all", "by": "ann"},
        {"event": "queue_resumed", "what": "all", "by": "ann"},
    ]


def test_a_rule_of_the_queue_is_kept_with_what_it_concerns(rig: Rig) -> None:
    rig.admin.ask(m.QueuePause(tier=Tier.complex))
    rig.admin.ask(m.QueueLimit(key="label:deploy", number=2))
    rig.admin.ask(m.QueueLimit(key="label:deploy"))
    rule = {"event": "queue_rule_set", "kind": "limit", "key": "label:deploy", "by": "admin"}
    assert kept(rig, topic="queue") == [
        {"event": "queue_paused", "what": "tier:complex", "by": "admin"},
        {**rule, "value": 2},
        {**rule, "value": None},
    ]


def test_what_the_shell_has_noticed_is_kept_too(rig: Rig) -> None:
    rig.tick(Noticed("hub", "hub_started", {"version": "0.1.0"}))
    assert rig.published("hub") == [{"event": "hub_started", "number": 1, "version": "0.1.0"}]
    assert kept(rig) == [{"event": "hub_started", "version": "0.1.0"}]


def test_what_changes_all_the_time_is_not_kept(rig: Rig) -> None:
    box = rig.host()
    before = rig.store.count("feed")
    rig.admin.submit(shell_task())
    box.beat()
    box.complete(box.take())
    assert rig.store.count("feed") == before
    assert {"task_changed", "agent_changed", "beat", "task_routed"}.isdisjoint(KEPT)


def test_events_are_kept_while_nobody_reads(rig: Rig) -> None:
    rig.hub.out.is_read = False
    rig.host()
    assert rig.published("host") == []
    assert kept(rig, topic="host") == [{"event": "host_online", "name": "box"}]


def test_numbers_rise_without_gaps_over_a_restart(rig: Rig) -> None:
    rig.host()
    rig.start()
    rig.admin.hello()
    rig.admin.ask(m.QueuePause())
    numbers = [each["number"] for each in rig.admin.ask(m.EventList())["events"]]
    assert numbers == [3, 2, 1]
    assert cross_check(walk_store(rig.store)) == (0, [])


def test_an_event_comes_with_the_snapshot(rig: Rig) -> None:
    rig.host()
    (online, enrolled) = rig.admin.ask(m.Snapshot())["events"]
    assert (online["event"], enrolled["event"]) == ("host_online", "key_enrolled")


def test_the_history_is_read_page_by_page(rig: Rig) -> None:
    for n in range(5):
        rig.admin.ask(m.QueuePause(paused=n % 2 == 0))
    first = rig.admin.ask(m.EventList(limit=2))
    second = rig.admin.ask(m.EventList(limit=2, cursor=first["next_cursor"]))
    third = rig.admin.ask(m.EventList(limit=2, cursor=second["next_cursor"]))
    pages = [[each["number"] for each in page["events"]] for page in (first, second, third)]
    assert pages == [[5, 4], [3, 2], [1]]
    assert third["next_cursor"] is None
    assert [each["number"] for each in rig.admin.ask(m.EventList(event="queue_resumed"))["events"]] == [4, 2]


def test_a_submitter_may_not_read_it(rig: Rig) -> None:
    with pytest.raises(Refused, match="needs the role"):
        rig.member(Role.submit).ask(m.EventList())


def test_an_event_that_is_never_kept_is_refused_with_those_that_are(rig: Rig) -> None:
    with pytest.raises(Refused, match="event: 'nonsense' is not kept; it is one of agent_removed, ") as found:
        rig.admin.ask(m.EventList(event="nonsense"))
    assert (found.value.code, "host_offline" in found.value.message) == ("invalid", True)
