"""Sessions: a key and a token that fit, one process per host, and nothing sent to an ended one."""

from __future__ import annotations

import msgspec
import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import rfc3339
from agentcom.core.effects import EndSession, PeerGone, Send
from agentcom.core.sessions import IDLE_MS_MAX
from agentcom.model import Role
from tests.core_rig import Caller, HostEnd, Rig
from tests.factories import (
    agent_offer,
    host_offer,
    public_key,
    resources,
    result,
    settings,
    shell_task,
    sighting,
    task,
)


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- hello ----------------------------------------------------------------------------------------------


def test_hello_is_answered_with_a_session_and_what_the_hub_expects(rig: Rig) -> None:
    welcome = rig.admin.hello()
    assert (welcome.name, welcome.role, welcome.epoch) == ("admin", Role.admin, "epoch1")
    assert len(welcome.session) == limits.SESSION_TOKEN_BYTES
    assert (welcome.heartbeat_s, welcome.lease_s) == (5, 45)
    assert welcome.wall_ms == rig.clock.now().wall_ms


def test_only_readers_are_told_where_the_feed_is(rig: Rig) -> None:
    rig.hub.feed_address, rig.hub.feed_key = "tcp://127.0.0.1:1", public_key("hub")
    for role in (Role.view, Role.operate, Role.admin):
        assert rig.member(role, f"a-{role}").hello().feed == "tcp://127.0.0.1:1"
    assert rig.web.hello().feed_key == public_key("hub")
    assert rig.member(Role.submit).hello().feed == ""
    assert rig.host().hello().feed == ""


def test_an_unknown_key_is_not_enrolled(rig: Rig) -> None:
    stranger = Caller(rig, public_key("stranger"), rig.peer())
    refused = stranger.refusal(m.Hello(protocol=1, process="process-1"))
    assert refused.code == "not_enrolled"


def test_another_protocol_is_refused_by_number(rig: Rig) -> None:
    refused = rig.admin.refusal(m.Hello(protocol=9, process="process-1"))
    assert (refused.code, refused.field) == ("protocol_version", "protocol")


def test_a_host_says_what_it_runs_and_a_person_does_not(rig: Rig) -> None:
    box = rig.host()
    assert box.refusal(m.Hello(protocol=1, process=box.process)).field == "host"
    offer = host_offer("admin")
    assert rig.admin.refusal(m.Hello(protocol=1, process="process-1", host=offer)).field == "host"


def test_an_offer_with_two_agents_of_one_name_is_refused_and_the_session_stays(rig: Rig) -> None:
    """The second became an agent of its own on the hub: two tasks for one worker."""
    box = rig.host()
    twins = host_offer("box", (agent_offer("twin"), agent_offer("twin")))
    refused = box.refusal(m.Hello(protocol=1, process=box.process, host=twins))
    assert (refused.code, refused.field) == ("invalid", "host.agents")
    assert box.beat().kill == ()
    assert sorted(rig.hub.fleet.agent_by_name) == ["box-1"]


def test_a_host_too_many_is_refused_before_anything_has_changed(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HOSTS_MAX", 1)
    rig.host("one")
    other = HostEnd(rig, rig.invited(Role.host, "other"), rig.peer())
    before = len(rig.hub.sessions.by_token)
    refused = other.refusal(m.Hello(protocol=1, process="process-1", host=other.offer))
    assert (refused.code, len(rig.hub.sessions.by_token)) == ("limit", before)


# --- key and token --------------------------------------------------------------------------------------


def test_a_token_under_another_key_is_no_session(rig: Rig) -> None:
    thief = rig.member(Role.admin, "thief")
    thief.token = rig.admin.token
    assert thief.refusal(thief.request(m.QueueStats())).code == "no_session"


def test_a_token_that_was_never_given_is_no_session(rig: Rig) -> None:
    rig.admin.token = b"\x01" * limits.SESSION_TOKEN_BYTES
    refused = rig.admin.refusal(rig.admin.request(m.QueueStats()))
    assert refused.code == "no_session"


def test_a_token_of_before_the_restart_is_no_session(rig: Rig) -> None:
    rig.start()
    assert rig.admin.refusal(rig.admin.request(m.QueueStats())).code == "no_session"


def test_a_session_goes_on_under_another_address(rig: Rig) -> None:
    box = rig.host()
    box.move()
    box.beat()
    rig.admin.submit(shell_task())
    assert box.take().attempt == 1


def test_looking_up_what_a_message_needs_changes_nothing(rig: Rig) -> None:
    box = rig.host()
    session = rig.hub.sessions.by_peer[box.peer]
    old = box.peer
    box.move()
    rig.hub.lookups(box.event(box.request(m.TaskRetry(task=9))), rig.clock.now())
    assert session.peer == old


def test_the_session_that_was_at_an_address_ends_when_another_of_its_key_comes_there(rig: Rig) -> None:
    one = rig.person("admin", rig.admin.key, process="process-of-one")
    rig.admin.peer = one.peer
    rig.listen(rig.admin)
    rig.admin.ask(m.QueueStats())
    rig.listen(one)
    assert one.refusal(one.request(m.QueueStats())).code == "no_session"


# --- hosts ----------------------------------------------------------------------------------------------


def second(rig: Rig, box: HostEnd) -> HostEnd:
    return HostEnd(rig, box.key, rig.peer(), process="process-of-a-second", offer=box.offer)


def test_a_second_process_of_a_host_is_refused_while_the_first_beats(rig: Rig) -> None:
    box = rig.host()
    rig.advance(14_000)
    box.beat()
    rig.advance(14_000)
    refused = second(rig, box).refusal(m.Hello(protocol=1, process="process-of-a-second", host=box.offer))
    assert (refused.code, refused.retry_after_s) == ("busy", 1.5)
    box.beat()


def test_a_second_process_takes_over_when_the_first_is_silent(rig: Rig) -> None:
    box = rig.host()
    rig.advance(15_000)
    other = second(rig, box)
    other.hello()
    assert box.expect(m.Error).code == "replaced"
    assert EndSession(box.peer) in rig.effects
    rig.admin.submit(shell_task())
    assert other.take().attempt == 1
    assert box.refusal(m.Heartbeat(session=box.token, beat=1)).code == "no_session"


def test_the_same_process_says_hello_again_at_once(rig: Rig) -> None:
    box = rig.host()
    box.move()
    box.hello()
    rig.admin.submit(shell_task())
    assert box.take().attempt == 1


def test_a_first_process_is_not_silent_because_the_hub_was_away(rig: Rig) -> None:
    box = rig.host()
    rig.advance(60_000, gap=True)
    refused = second(rig, box).refusal(m.Hello(protocol=1, process="process-of-a-second", host=box.offer))
    assert refused.code == "busy"


def test_a_host_that_is_silent_for_a_lease_gets_no_work_though_it_may_be_silent_for_longer() -> None:
    rig = Rig(settings(heartbeat_s=1, lease_s=6, offline_s=60))
    box = rig.host()
    rig.advance(6_001)
    rig.admin.submit(shell_task())
    assert (rig.agent("box-1"), box.received) == ("offline", [])
    box.beat()
    assert box.take().attempt == 1


def test_a_silent_host_is_offline_and_back_with_its_next_word(rig: Rig) -> None:
    box = rig.host()
    rig.advance(15_000)
    assert rig.agent("box-1") == "idle"
    rig.advance(1)
    assert rig.agent("box-1") == "offline"
    assert [one["event"] for one in rig.published("host", "agent")] == [
        "host_changed",
        "host_offline",
        "agent_changed",
    ]
    rig.admin.submit(shell_task())
    assert box.received == []
    box.beat()
    assert box.take().attempt == 1


def of_agent(rig: Rig) -> tuple[str, str]:
    """What the first agent is, and since when."""
    (agent,) = rig.admin.ask(m.AgentList())["agents"]
    return agent["state"], agent["since"]


def now(rig: Rig) -> str:
    return rfc3339(rig.clock.now().wall_ms) or ""


@pytest.mark.parametrize("is_busy", [False, True])
def test_an_agent_is_offline_since_its_host_went_however_long_it_was_idle_or_busy(rig: Rig, is_busy: bool) -> None:
    box = rig.host()
    if is_busy:
        rig.admin.submit(shell_task())
        box.take()
    rig.advance(4_000)
    box.send(m.Bye(session=box.token))
    went = ("offline", now(rig))
    assert of_agent(rig) == went
    rig.advance(60_000)  # and its lease is over
    assert of_agent(rig) == went
    box.hello()
    assert of_agent(rig) == ("idle", now(rig))


def test_an_agent_whose_host_fell_silent_is_offline_since_that_was_noticed(rig: Rig) -> None:
    box = rig.host()
    rig.advance(15_001)
    went = ("offline", now(rig))
    assert of_agent(rig) == went
    rig.advance(60_000)
    assert of_agent(rig) == went
    box.beat()
    assert of_agent(rig) == ("idle", now(rig))


def test_an_agent_that_its_host_offers_no_more_is_offline_since_then(rig: Rig) -> None:
    box = rig.host("box", agents=1)
    rig.advance(4_000)
    box.offer = host_offer("box", 0)
    box.hello()
    assert of_agent(rig) == ("offline", now(rig))


def test_a_host_that_is_heard_again_is_published_with_its_agents(rig: Rig) -> None:
    box = rig.host()
    rig.advance(15_001)
    box.beat()
    (_online, host), (agent,) = rig.published("host"), rig.published("agent")
    assert (host["host"]["state"], agent["agent"]["state"]) == ("online", "idle")


def test_a_host_that_says_bye_is_offline_and_its_lease_runs_on(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    assign = box.take()
    box.send(m.Bye(session=box.token))
    assert rig.agent("box-1") == "offline"
    rig.advance(44_999)
    assert rig.admin.state(number) == "working"
    box.hello(attempts=(box.held(assign),))
    assert box.complete(assign) == "accepted"


def test_a_host_whose_connection_is_gone_gets_nothing_more(rig: Rig) -> None:
    box = rig.host()
    box.leave()
    rig.admin.submit(shell_task())
    assert rig.sent(m.Assign) == []
    assert box.refusal(m.Heartbeat(session=box.token, beat=1)).code == "no_session"


def test_a_departed_hosts_work_is_not_sent_to_another_key_that_took_its_address(rig: Rig) -> None:
    """Its host stayed online with an ended session, and its assignments went to whoever was there."""
    box = rig.host("box")
    spy = HostEnd(rig, rig.invited(Role.host, "spy"), box.peer, offer=host_offer("spy", 0))
    spy.hello()
    rig.admin.submit(shell_task())
    assert rig.sent(m.Assign) == []
    assert rig.agent("box-1") == "offline"


def test_a_wait_of_a_departed_caller_is_not_answered_to_another_key_at_its_address(rig: Rig) -> None:
    number = rig.admin.submit(task())
    ann = rig.member(Role.view, "ann")
    ann.send(ann.request(m.TaskWait(task=number)))
    bob = Caller(rig, rig.invited(Role.view, "bob"), ann.peer)
    bob.hello()
    rig.admin.ask(m.TaskCancel(task=number))
    assert [one for one in bob.received if not isinstance(one, m.Welcome)] == []


# --- people ---------------------------------------------------------------------------------------------


def test_a_person_has_several_sessions_up_to_a_limit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SESSIONS_PER_KEY_MAX", 3)
    shells = [rig.person("admin", rig.admin.key, process=f"process-{n}") for n in range(2)]
    third = Caller(rig, rig.admin.key, rig.peer(), process="process-3")
    assert third.refusal(m.Hello(protocol=1, process="process-3")).code == "busy"
    rig.advance(IDLE_MS_MAX + 1)
    shells[0].ask(m.QueueStats())
    third.hello()
    assert shells[0].ask(m.QueueStats())["tasks_total"] == 0
    assert shells[1].refusal(shells[1].request(m.QueueStats())).code == "no_session"


def test_a_second_hello_on_a_connection_replaces_its_session_without_a_word(rig: Rig) -> None:
    old = rig.admin.token
    rig.admin.hello(process="process-9")
    assert next(e for e in rig.effects if isinstance(e, Send)).peer == rig.admin.peer
    assert rig.admin.received == []
    new, rig.admin.token = rig.admin.token, old
    assert rig.admin.refusal(rig.admin.request(m.QueueStats())).code == "no_session"
    rig.admin.token = new
    assert rig.admin.ask(m.QueueStats())


def test_a_hello_said_twice_on_one_connection_keeps_its_session(rig: Rig) -> None:
    """Two hellos under way gave two sessions, the second ended the first, and what was said in the first was
    answered with `no_session`, which led to a third."""
    box = rig.host()
    first = box.token
    assert box.hello().session == first
    box.token = first
    box.beat()


def test_a_hello_on_a_new_connection_is_a_new_session(rig: Rig) -> None:
    box = rig.host()
    first = box.token
    box.move()
    assert box.hello().session != first
    box.token = first
    assert box.refusal(m.Heartbeat(session=first, beat=1)).code == "no_session"


def test_a_peer_that_nobody_knows_is_gone_without_effect(rig: Rig) -> None:
    assert rig.tick(PeerGone(999)) == []


# --- what a host may offer ------------------------------------------------------------------------------


def test_names_are_unique_on_the_hub_and_local_to_their_host(rig: Rig) -> None:
    one = rig.host("one")
    other = HostEnd(rig, rig.invited(Role.host, "other"), rig.peer(), offer=one.offer)
    assert other.hello().names == {"one-1": "one-1-2"}
    rig.admin.ask(m.AgentCordon(agent="one-1"))
    rig.admin.submit(shell_task())
    assert other.assigned().agent == "one-1"


def test_an_agent_that_is_no_longer_offered_gets_nothing_and_can_be_removed(rig: Rig) -> None:
    box = rig.host("box", agents=2)
    box.offer = host_offer("box", 1)
    box.hello()
    assert rig.agent("box-2") == "offline"
    rig.admin.ask(m.AgentRemove(agent="box-2"))
    assert sorted(rig.hub.fleet.agent_by_name) == ["box-1"]


def test_agents_that_a_host_renames_for_ever_do_not_pile_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AGENTS_PER_HOST_MAX", 3)
    box = rig.host("box", agents=2)
    for n in range(5):
        box.offer = host_offer("box", (agent_offer(f"name-{n}"),))
        box.hello()
    assert len(rig.hub.fleet.agents) == 3
    assert rig.store.count("agents") == 3


def test_a_removed_hosts_number_is_not_given_to_another_after_a_restart(rig: Rig) -> None:
    """Old attempts name their host by number: the next one could have answered for them."""
    box = rig.host("box")
    number = rig.hub.fleet.host_named("box").record.id
    rig.admin.ask(m.HostRemove(host=box.offer.name))
    rig.start()
    rig.admin.hello()
    rig.host("next")
    assert rig.hub.fleet.host_named("next").record.id > number


def test_a_new_key_with_the_name_of_a_revoked_host_is_another_host(rig: Rig) -> None:
    """It took the name's place in the list, and the old one could never be removed."""
    rig.host("box")
    rig.admin.ask(m.TokenRevoke(name="box"))
    key = public_key("second-box")
    once = public_key("once-second")
    rig.admin.ask(m.HostInvite(key=once, name="box"))
    Caller(rig, once, rig.peer()).send(m.Enrol(name="box", key=key))
    again = HostEnd(rig, key, rig.peer(), offer=host_offer("box"))
    again.hello()
    assert sorted(rig.hub.fleet.host_by_name) == ["box", "box-2"]
    rig.admin.ask(m.HostRemove(host="box"))
    assert again.beat().kill == ()


def test_idle_longest_counts_from_when_an_agent_was_there(rig: Rig) -> None:
    early, late = rig.host("early"), rig.host("late")
    rig.advance(1_000)
    early.hello(process="process-of-early")
    early.send(m.Bye(session=early.token))
    rig.advance(1_000)
    late.beat()
    early.hello()
    rig.admin.submit(shell_task())
    assert late.assigned().attempt == 1


def test_a_token_decoded_from_the_wire_has_the_length_that_the_hub_gives() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"type": "bye", "session": b"short"}, m.Bye)


# --- who may say what -----------------------------------------------------------------------------------


def host_messages(token: bytes) -> list[m.ToHub]:
    return [
        m.Heartbeat(session=token, beat=1),
        m.Accept(session=token, task=1, attempt=1),
        m.Decline(session=token, task=1, attempt=1, code="no"),
        m.Log(session=token, task=1, attempt=1, offset=0, text="x"),
        m.Result(session=token, task=1, attempt=1, outcome="completed", result=result()),
        m.Endpoints(session=token, sightings=(sighting(),)),
        m.Pong(session=token, agent="box-1"),
    ]


@pytest.mark.parametrize("n", range(7))
def test_only_a_hosts_session_may_speak_as_a_host(rig: Rig, n: int) -> None:
    rig.host()
    number = rig.admin.submit(shell_task())
    for role in (Role.view, Role.submit, Role.operate):
        person = rig.member(role)
        refused = person.refusal(host_messages(person.token)[n])
        assert refused.code == "forbidden"
    for process in (rig.admin, rig.web):
        assert process.refusal(host_messages(process.token)[n]).code == "forbidden"
    assert (rig.admin.state(number), rig.hub.registry.endpoints) == ("assigned", {})


def test_a_forwarded_token_that_is_unknown_is_refused_once(rig: Rig) -> None:
    op = m.Submit(tasks=(task(idempotency_key="k"),))
    assert rig.web.refusal(rig.web.request(op, "nobody")).code == "unauthorised"


def test_what_a_host_has_is_shown_until_its_figures_are_too_old(rig: Rig) -> None:
    box = rig.host("box", resources=resources())
    (shown,) = rig.admin.ask(m.HostList())["hosts"]
    assert (shown["resources"]["logical_cpus"], shown["resources_age_s"]) == (8, 0)
    rig.advance(14_000)
    box.beat()
    rig.advance(2_000)
    (shown,) = rig.admin.ask(m.HostList())["hosts"]
    assert (shown["resources"], shown["resources_age_s"], shown["state"]) == (None, 16, "online")
