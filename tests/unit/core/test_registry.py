"""Endpoints: addresses that may be registered, who sees them, health, and what is in flight."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.core.effects import ProbeEndpoint, Timers
from agentcom.core.registry import PENALTY_MS, canonical_model, checked_url
from agentcom.errors import Refused
from agentcom.model import FailureClass
from tests.core_rig import Rig
from tests.factories import MODEL, endpoint_model, endpoint_probe, error, sighting, task

URL = "http://10.0.0.5:11434"
LOCAL = "http://127.0.0.1:11434"


@pytest.fixture
def rig() -> Rig:
    return Rig()


def add(rig: Rig, url: str = URL, **fields: Any) -> int:
    made = rig.admin.ask(m.EndpointAdd(url=url, **fields))
    return int(made["id"])


def code(rig: Rig, op: m.Operation) -> str:
    with pytest.raises(Refused) as refused:
        rig.admin.ask(op)
    return refused.value.code


# --- addresses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept", "is_loopback"),
    [
        ("http://10.0.0.5:11434/", "http://10.0.0.5:11434", False),
        ("https://gpu.example/llm/", "https://gpu.example:443/llm", False),
        ("http://LOCALHOST", "http://127.0.0.1:80", True),
        ("http://a.localhost:1", "http://a.localhost:1", True),
        ("http://127.9.9.9:1", "http://127.9.9.9:1", True),
        ("http://[::1]:1", "http://[::1]:1", True),
        ("http://[::ffff:127.0.0.1]:1", "http://[::ffff:127.0.0.1]:1", True),
    ],
)
def test_an_address_has_one_spelling(given: str, kept: str, is_loopback: bool) -> None:
    assert checked_url(given) == (kept, is_loopback)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/",
        "host:11434",
        "http://",
        "http://user@host",
        "http://user:word@host",
        "http://host/?q=1",
        "http://host/#f",
        "http://host:99999",
        "http://host:port",
        "http://[::1",
        "http://169.254.169.254",
        "http://[fe80::1]",
        "http://[::ffff:169.254.169.254]",
        "http://224.0.0.1",
        "http://0.0.0.0",
        "http://[::]",
    ],
)
def test_an_address_that_no_model_server_has_is_refused_and_the_hub_goes_on(rig: Rig, url: str) -> None:
    assert code(rig, m.EndpointAdd(url=url)) == "address_refused"
    rig.host().see(sighting(url))
    assert rig.hub.registry.endpoints == {}


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:7701",
        "http://localhost:7701",
        "http://10.0.0.2:7701",
        "http://[::ffff:10.0.0.2]:7701",
        "http://[fd00:0::2]:7701",
        "http://HUB:7701",
    ],
)
def test_where_the_hub_itself_listens_is_no_endpoint(rig: Rig, url: str) -> None:
    rig.host("box")
    rig.hub.registry.own = {7701}, {("10.0.0.2", 7701), ("fd00::2", 7701), ("hub", 7701)}
    assert code(rig, m.EndpointAdd(url=url, host="box")) == "address_refused"
    assert code(rig, m.EndpointAdd(url=url)) == "address_refused"
    add(rig, "http://10.0.0.2:7702")
    add(rig, "http://10.0.0.3:7701")


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Qwen2.5-Coder:7B", "qwen2.5-coder:7b"),
        ("llama3", "llama3:latest"),
        ("library/llama3", "llama3:latest"),
        ("registry.example/library/llama3:8b", "llama3:8b"),
        ("me/llama3", "me/llama3:latest"),
        ("host:5000/me/llama3", "host:5000/me/llama3:latest"),
    ],
)
def test_a_model_has_one_name(name: str, key: str) -> None:
    assert canonical_model(name) == key


# --- adding, changing, removing -------------------------------------------------------------------------


def test_an_endpoint_that_the_hub_sees_is_probed_at_once(rig: Rig) -> None:
    number = add(rig)
    assert ProbeEndpoint(number) in rig.effects
    assert not rig.hub.registry.endpoints[number].healthy
    rig.probed(number)
    found = rig.admin.ask(m.EndpointList())["endpoints"][0]
    assert (found["healthy"], found["seen_from"], [one["name"] for one in found["models"]]) == (
        True,
        "hub",
        [MODEL],
    )


def test_a_loopback_address_needs_its_host(rig: Rig) -> None:
    assert code(rig, m.EndpointAdd(url=LOCAL)) == "host_required"
    box = rig.host()
    add(rig, LOCAL, host="box")
    assert box.beat().probe == (LOCAL,)
    assert code(rig, m.EndpointAdd(url=LOCAL, host="nobody")) == "not_found"


def test_one_address_is_registered_once(rig: Rig) -> None:
    add(rig)
    assert code(rig, m.EndpointAdd(url=URL + "/")) == "endpoint_known"


def test_one_that_was_found_becomes_the_one_that_was_added(rig: Rig) -> None:
    box = rig.host()
    box.see()
    number = add(rig, LOCAL, host="box", name="mine", cap=4)
    record = rig.hub.registry.endpoints[number]
    assert (len(rig.hub.registry.endpoints), record.name, record.cap, record.found) == (1, "mine", 4, False)


def test_names_are_unique(rig: Rig) -> None:
    add(rig, name="a")
    add(rig, "http://10.0.0.6:1", name="a")
    assert [e.name for e in rig.hub.registry.endpoints.values()] == ["a", "a-2"]
    assert code(rig, m.EndpointUpdate(endpoint="a-2", name="a")) == "name_taken"
    rig.admin.ask(m.EndpointUpdate(endpoint="a", name="a"))


def test_an_endpoint_is_named_by_name_then_id_then_address(rig: Rig) -> None:
    add(rig, name="2")
    add(rig, "http://10.0.0.6:1", name="b")
    rig.admin.ask(m.EndpointUpdate(endpoint="2", cap=7))
    assert [e.cap for e in rig.hub.registry.endpoints.values()] == [7, 1]
    rig.admin.ask(m.EndpointUpdate(endpoint="http://10.0.0.6:1", cap=8))
    assert [e.cap for e in rig.hub.registry.endpoints.values()] == [7, 8]


def test_an_address_that_several_hosts_have_names_none_of_them(rig: Rig) -> None:
    """The first was removed, whichever host it was on."""
    rig.host("one").see()
    rig.host("other").see()
    assert code(rig, m.EndpointRemove(endpoint=LOCAL)) == "invalid"
    assert len(rig.hub.registry.endpoints) == 2


def test_a_removed_endpoint_stays_away_though_its_host_was_still_looking_at_it(rig: Rig) -> None:
    box = rig.host("box")
    rig.admin.ask(m.EndpointAdd(url="http://127.0.0.1:9", name="two", host="box"))
    rig.admin.ask(m.EndpointRemove(endpoint="two"))
    box.see(sighting("http://127.0.0.1:9", found=False))
    assert "http://127.0.0.1:9" not in [one["url"] for one in rig.admin.ask(m.EndpointList())["endpoints"]]
    box.see(sighting("http://127.0.0.1:9"))
    assert "http://127.0.0.1:9" in [one["url"] for one in rig.admin.ask(m.EndpointList())["endpoints"]]


def test_a_removed_endpoint_is_gone_also_after_a_restart(rig: Rig) -> None:
    add(rig)
    rig.admin.ask(m.EndpointRemove(endpoint="1"))
    assert rig.probed(1) == []
    rig.start()
    assert rig.hub.registry.endpoints == {}


def test_the_registry_survives_a_restart(rig: Rig) -> None:
    number = add(rig, name="gpu", cap=3, num_ctx=4096)
    rig.probed(number)
    before = rig.hub.registry.endpoints[number]
    rig.start()
    assert rig.hub.registry.endpoints == {number: before}


def test_endpoints_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENDPOINTS_MAX", 1)
    add(rig)
    assert code(rig, m.EndpointAdd(url="http://10.0.0.6")) == "limit"
    rig.host().see()
    assert len(rig.hub.registry.endpoints) == 1


# --- health ---------------------------------------------------------------------------------------------


def test_every_cycle_probes_what_the_hub_sees(rig: Rig) -> None:
    add(rig)
    rig.advance(10_000)
    assert rig.effects.count(ProbeEndpoint(1)) == 1
    rig.advance(9_999)
    assert ProbeEndpoint(1) not in rig.effects
    rig.advance(1)
    assert ProbeEndpoint(1) in rig.effects


def test_a_dead_endpoint_gets_no_task_and_gets_one_again_when_it_returns(rig: Rig) -> None:
    box = rig.host()
    rig.probed(add(rig), endpoint_probe(healthy=False))
    number = rig.admin.submit(task())
    assert rig.admin.state(number) == "ready"
    rig.probed(1)
    assert box.assigned().route.endpoint_url == URL


def test_a_model_list_that_could_not_be_read_keeps_the_last_one(rig: Rig) -> None:
    rig.probed(add(rig))
    record = rig.hub.registry.endpoints[1]
    rig.probed(1, endpoint_probe(healthy=False))
    assert [model.name for model in record.models] == [MODEL]


def test_since_is_when_health_last_changed(rig: Rig) -> None:
    rig.probed(add(rig))
    since = rig.hub.registry.endpoints[1].since_ms
    rig.advance(10_000)
    rig.probed(1)
    assert rig.hub.registry.endpoints[1].since_ms == since
    rig.probed(1, endpoint_probe(healthy=False))
    assert rig.hub.registry.endpoints[1].since_ms == since + 10_000


def test_an_unchanged_check_writes_nothing(rig: Rig) -> None:
    rig.probed(add(rig))
    sequence = rig.store.sequence
    rig.probed(1)
    assert rig.store.sequence == sequence


def test_a_host_finds_endpoints_on_itself_only(rig: Rig) -> None:
    box = rig.host()
    box.see(sighting(LOCAL), sighting(URL), sighting("http://127.0.0.1:2", endpoint_probe(healthy=False)))
    assert [(e.url, e.name) for e in rig.hub.registry.endpoints.values()] == [(LOCAL, "ollama-box")]


def test_an_endpoint_elsewhere_that_only_a_host_reaches_is_healthy_when_it_says_so(rig: Rig) -> None:
    """Its reports were thrown away, because the address is not on loopback."""
    box = rig.host()
    number = add(rig, host="box")
    assert box.beat().probe == (URL,)
    box.see(sighting(URL))
    assert rig.hub.registry.endpoints[number].healthy


def test_a_hosts_endpoint_is_used_by_its_own_agents_only(rig: Rig) -> None:
    rig.host("other", agents=4)
    rig.host("gpu").see()
    rig.admin.submit(task())
    assert [one.route.host for one in rig.sent(m.Assign)] == ["gpu"]


def test_an_endpoint_that_its_host_no_longer_reports_is_not_healthy(rig: Rig) -> None:
    box = rig.host()
    box.see()
    for _ in range(4):
        rig.advance(10_000)
        box.beat()
    record = rig.hub.registry.endpoints[1]
    assert (record.healthy, record.reason) == (False, "no health check for three cycles")


def test_an_endpoint_is_not_unhealthy_because_the_hub_was_away(rig: Rig) -> None:
    rig.host().see()
    rig.advance(600_000, gap=True)
    assert rig.hub.registry.endpoints[1].healthy
    rig.tick(Timers(drained=True))
    assert rig.hub.registry.endpoints[1].healthy


# --- use ------------------------------------------------------------------------------------------------


def test_no_more_calls_than_the_cap_are_in_flight(rig: Rig) -> None:
    rig.host("box", agents=4)
    rig.probed(add(rig, cap=2))
    rig.admin.submit(*[task() for _ in range(4)])
    assert len(rig.sent(m.Assign)) == 2
    assert rig.hub.registry.in_flight == {(1, MODEL): 2}
    rig.admin.ask(m.EndpointUpdate(endpoint="1", cap=3))
    assert len(rig.sent(m.Assign)) == 1


def test_a_penalty_ends_after_its_time(rig: Rig) -> None:
    add(rig)
    registry = rig.hub.registry
    registry.call_failed((1, MODEL, 7), error(FailureClass.infrastructure, "endpoint_error"), rig.clock.now())
    assert registry.penalised(1, 7, rig.clock.now())
    assert not registry.penalised(1, 8, rig.clock.now())
    assert not registry.penalised(1, 7, rig.clock.advance(PENALTY_MS + 1))
    rig.hub.out.take()


def test_an_endpoint_of_many_models_counts_each_apart(rig: Rig) -> None:
    rig.host("box", agents=2)
    rig.probed(add(rig), endpoint_probe(endpoint_model(), endpoint_model("Other")))
    rig.admin.submit(task(), task(model="other"))
    assert rig.hub.registry.in_flight == {(1, MODEL): 1, (1, "other:latest"): 1}


def test_a_probe_that_is_asked_for_is_done_by_the_hub_for_what_it_sees(rig: Rig) -> None:
    add(rig)
    rig.admin.ask(m.EndpointProbeNow(endpoint="1"))
    assert ProbeEndpoint(1) in rig.effects
    rig.host().see()
    rig.admin.ask(m.EndpointProbeNow(endpoint="2"))
    assert ProbeEndpoint(2) not in rig.effects


def test_what_was_counted_of_a_removed_endpoint_goes_with_it(rig: Rig) -> None:
    box = rig.host()
    rig.probed(add(rig))
    rig.admin.submit(task())
    box.fail(box.take(), error(FailureClass.infrastructure, "cut"))
    assert ProbeEndpoint(1) in rig.effects
    rig.admin.ask(m.EndpointRemove(endpoint="1"))
    assert (rig.hub.registry.failed_ms, rig.hub.registry.in_flight, rig.hub.registry.heard_ms) == ({}, {}, {})


def test_two_reports_of_one_server_are_one_endpoint(rig: Rig) -> None:
    """One that listens on both loopback addresses would get twice its share of work."""
    box = rig.host()
    box.see(sighting("http://127.0.0.1:11434"), sighting("http://[::1]:11434"), sighting("http://localhost:11434"))
    assert [e.url for e in rig.hub.registry.endpoints.values()] == ["http://127.0.0.1:11434"]
    box.see(sighting("http://[::1]:11434", endpoint_probe(healthy=False)))
    assert rig.hub.registry.endpoints[1].healthy
    box.see(sighting("http://[::1]:11435"))
    assert len(rig.hub.registry.endpoints) == 2


def test_a_cap_that_nobody_has_set_follows_the_slots_of_the_server(rig: Rig) -> None:
    number = add(rig)
    record = rig.hub.registry.endpoints[number]
    assert record.cap == 1
    rig.probed(number, endpoint_probe(slots=4))
    assert record.cap == 4
    rig.admin.ask(m.EndpointUpdate(endpoint=str(number), cap=2))
    rig.probed(number, endpoint_probe(slots=6))
    assert record.cap == 2
