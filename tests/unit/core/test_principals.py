"""Who may call: invitations, keys, tokens, links and page sessions, and what revoking ends."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.auth import sha256_hex
from agentcom.core.effects import EndSession, KeysChanged, key_u64
from agentcom.errors import Refused
from agentcom.model import Role
from tests.core_rig import Caller, HostEnd, Rig
from tests.factories import host_offer, public_key, sha256, shell_task, task

HOUR_MS = limits.INVITE_TTL_S * 1000
ONCE, KEY = public_key("once"), public_key("mine")


@pytest.fixture
def rig() -> Rig:
    return Rig()


def invite(rig: Rig, **fields: Any) -> Caller:
    """Somebody with a one-time key."""
    rig.admin.ask(m.HostInvite(**{"key": ONCE, "role": Role.view, **fields}))
    return Caller(rig, ONCE, rig.peer())


def code(rig: Rig, op: m.Operation, caller: Caller | None = None, bearer: str | None = None) -> str:
    with pytest.raises(Refused) as refused:
        (caller or rig.admin).ask(op, bearer)
    return refused.value.code


# --- invitations ----------------------------------------------------------------------------------------


def test_a_one_time_key_is_let_in_and_enrols_one_key_of_its_role(rig: Rig) -> None:
    joining = invite(rig, role=Role.operate, name="ann")
    assert KeysChanged(revoked=False) in rig.effects
    assert ONCE in rig.hub.principals.admitted(rig.clock.now())[0]
    joining.send(m.Enrol(name="whatever", key=KEY, signing_key="ab" * 32))
    assert joining.expect(m.Enrolled) == m.Enrolled(name="ann", role=Role.operate)
    record = rig.hub.principals.by_key[KEY]
    assert (record.role, record.signing_key) == (Role.operate, "ab" * 32)
    assert KEY in rig.hub.principals.admitted(rig.clock.now())[0]


def test_a_repeat_by_the_same_key_is_answered_alike_and_by_another_refused(rig: Rig) -> None:
    joining = invite(rig, name="ann")
    joining.send(m.Enrol(name="ann", key=KEY))
    first = joining.expect(m.Enrolled)
    joining.send(m.Enrol(name="ann", key=KEY))
    assert joining.expect(m.Enrolled) == first
    assert joining.refusal(m.Enrol(name="ann", key=public_key("other"))).code == "invite_used"
    assert public_key("other") not in rig.hub.principals.by_key


def test_an_invitation_stays_bound_to_its_first_key_after_a_restart(rig: Rig) -> None:
    joining = invite(rig, name="ann")
    joining.send(m.Enrol(name="ann", key=KEY))
    rig.start()
    assert joining.refusal(m.Enrol(name="ann", key=public_key("other"))).code == "invite_used"
    joining.received.clear()
    joining.send(m.Enrol(name="ann", key=KEY))
    assert joining.expect(m.Enrolled).name == "ann"


def test_an_invitation_ends_after_an_hour(rig: Rig) -> None:
    joining = invite(rig)
    rig.advance(HOUR_MS)
    assert joining.refusal(m.Enrol(name="ann", key=KEY)).code == "invite_unknown"
    assert ONCE not in rig.hub.principals.admitted(rig.clock.now())[0]


def test_an_ended_invitation_is_removed_when_the_next_is_made(rig: Rig) -> None:
    invite(rig)
    rig.advance(HOUR_MS)
    rig.admin.hello()
    rig.admin.ask(m.HostInvite(key=public_key("next")))
    assert sorted(rig.hub.principals.invites) == [public_key("next")]


def test_a_one_time_key_may_only_enrol(rig: Rig) -> None:
    joining = invite(rig)
    assert joining.refusal(m.Hello(protocol=1, process="process-1")).code == "not_enrolled"
    assert joining.refusal(joining.request(m.QueueStats())).code == "no_session"


def test_a_key_of_any_other_kind_may_not_enrol(rig: Rig) -> None:
    assert rig.admin.refusal(m.Enrol(name="me", key=KEY)).code == "invite_unknown"


def test_a_known_or_revoked_key_is_not_enrolled(rig: Rig) -> None:
    rig.member(Role.view, "ann")
    rig.admin.ask(m.TokenRevoke(name="ann"))
    joining = invite(rig)
    for known in (rig.admin.key, public_key("key-ann"), ONCE):
        assert joining.refusal(m.Enrol(name="me", key=known)).code == "key_known"
    assert not rig.hub.principals.invites[ONCE].bound_key


def test_a_repeat_by_a_key_that_was_revoked_is_refused(rig: Rig) -> None:
    joining = invite(rig, name="ann")
    joining.send(m.Enrol(name="ann", key=KEY))
    rig.admin.ask(m.TokenRevoke(name="ann"))
    joining.received.clear()
    assert joining.refusal(m.Enrol(name="ann", key=KEY)).code == "revoked"


@pytest.mark.parametrize("name", ["-rf", "new\nline", "tab\t", "ünder"])
def test_an_invitation_for_a_name_that_nobody_could_type_is_refused(rig: Rig, name: str) -> None:
    assert code(rig, m.HostInvite(key=ONCE, name=name)) == "invalid"


def test_only_the_hub_makes_keys_for_the_web_process(rig: Rig) -> None:
    assert code(rig, m.HostInvite(key=ONCE, role=Role.web)) == "invalid"
    assert code(rig, m.TokenAdd(name="w", role=Role.web, token_sha256=sha256("w"))) == "invalid"
    assert code(rig, m.TokenAdd(name="h", role=Role.host, token_sha256=sha256("h"))) == "invalid"


def test_two_invitations_for_one_key_are_refused(rig: Rig) -> None:
    invite(rig)
    assert code(rig, m.HostInvite(key=ONCE)) == "key_known"
    assert code(rig, m.HostInvite(key=rig.admin.key)) == "key_known"


def test_invitations_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INVITES_MAX", 1)
    invite(rig)
    assert code(rig, m.HostInvite(key=public_key("next"))) == "limit"


def test_at_the_bound_the_oldest_invitation_that_was_used_makes_room(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "INVITES_MAX", 1)
    joining = invite(rig, name="ann")
    joining.send(m.Enrol(name="ann", key=KEY))
    rig.admin.ask(m.HostInvite(key=public_key("next")))
    assert list(rig.hub.principals.invites) == [public_key("next")]
    assert KEY in rig.hub.principals.by_key


def test_a_taken_name_gets_a_number(rig: Rig) -> None:
    joining = invite(rig, name="admin")
    joining.send(m.Enrol(name="admin", key=KEY))
    assert joining.expect(m.Enrolled).name == "admin-2"


# --- revoking -------------------------------------------------------------------------------------------


def test_revoking_a_key_ends_its_sessions_at_once(rig: Rig) -> None:
    ann = rig.member(Role.operate, "ann")
    effects = rig.admin.send(rig.admin.request(m.TokenRevoke(name="ann")))
    assert KeysChanged(revoked=True) in effects
    assert EndSession(ann.peer) in effects
    told = [ann.expect(m.Error), *(ann.refusal(ann.request(m.QueueStats())) for _ in range(2))]
    assert {one.code for one in told} == {"revoked"}
    assert {one.message.partition("; ")[2] for one in told} == {"join again with a new code: agentcom join CODE"}
    assert ann.refusal(m.Hello(protocol=1, process="process-1")).code == "not_enrolled"
    keys, readers = rig.hub.principals.admitted(rig.clock.now())
    assert ann.key not in keys | readers


def test_a_revoked_key_is_revoked_after_a_restart(rig: Rig) -> None:
    ann = rig.member(Role.operate, "ann")
    rig.admin.ask(m.TokenRevoke(name="ann"))
    rig.start()
    assert ann.refusal(m.Hello(protocol=1, process="process-1")).code == "not_enrolled"


def test_revoking_a_hosts_key_takes_its_agents_off_and_its_leases_run_out(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    assign = box.take()
    rig.admin.ask(m.TokenRevoke(name="box"))
    assert rig.agent("box-1") == "offline"
    assert box.refusal(box.ended(assign, "completed")).code in ("no_session", "revoked")
    rig.advance(45_000)
    assert rig.admin.state(number) == "delayed"


def test_the_last_admin_key_cannot_be_revoked(rig: Rig) -> None:
    assert code(rig, m.TokenRevoke(name="admin")) == "last_admin"
    rig.member(Role.admin, "second")
    rig.admin.ask(m.TokenRevoke(name="second"))
    assert code(rig, m.TokenRevoke(name="admin")) == "last_admin"


def test_the_web_processs_key_cannot_be_revoked(rig: Rig) -> None:
    assert code(rig, m.TokenRevoke(name="web")) == "forbidden"


def test_revoking_what_is_not_there_says_so(rig: Rig) -> None:
    assert code(rig, m.TokenRevoke(name="nobody")) == "not_found"


def test_a_host_that_is_removed_loses_key_agents_endpoints_and_work_and_nobody_is_blamed(rig: Rig) -> None:
    box = rig.host("box", agents=2)
    box.see()
    number, cancelled = rig.admin.submit(shell_task()), rig.admin.submit(shell_task())
    box.take()
    box.take()
    rig.admin.ask(m.TaskCancel(task=cancelled))
    rig.admin.ask(m.HostRemove(host="box", now=True))
    found = rig.admin.task(number)
    assert (found["state"], found["losses"]) == ("ready", 0)
    assert box.expect(m.Cancel).task == cancelled
    assert box.expect(m.Error).code == "revoked"
    assert (rig.hub.fleet.hosts, rig.hub.fleet.agents, rig.hub.registry.endpoints) == ({}, {}, {})
    assert rig.store.count("hosts") == rig.store.count("agents") == rig.store.count("endpoints") == 0
    rig.start()
    assert rig.hub.fleet.hosts == {}
    assert box.refusal(m.Hello(protocol=1, process=box.process, host=box.offer)).code == "not_enrolled"


def test_a_removed_host_may_join_again_with_another_key(rig: Rig) -> None:
    rig.host("box")
    rig.admin.ask(m.HostRemove(host="box"))
    once = public_key("once-2")
    rig.admin.ask(m.HostInvite(key=once, name="box"))
    Caller(rig, once, rig.peer()).send(m.Enrol(name="box", key=KEY))
    again = HostEnd(rig, KEY, rig.peer(), offer=host_offer("box"))
    assert again.hello().name == "box"


# --- tokens ---------------------------------------------------------------------------------------------


def token(rig: Rig, role: Role, text: str = "secret") -> str:
    rig.admin.ask(m.TokenAdd(name=f"token-{text}", role=role, token_sha256=sha256_hex(text)))
    return text


def test_a_token_acts_with_its_own_role_through_the_web_only(rig: Rig) -> None:
    bearer = token(rig, Role.view)
    assert rig.web.ask(m.Whoami(), bearer) == {"name": "token-secret", "role": "view"}
    assert code(rig, m.Submit(tasks=(task(),)), rig.web, bearer) == "forbidden"
    assert code(rig, m.Whoami(), rig.admin, bearer) == "forbidden"


def test_an_unknown_and_a_revoked_token_are_unauthorised(rig: Rig) -> None:
    bearer = token(rig, Role.admin)
    assert code(rig, m.Whoami(), rig.web, "another") == "unauthorised"
    rig.admin.ask(m.TokenRevoke(name="token-secret"))
    assert code(rig, m.Whoami(), rig.web, bearer) == "unauthorised"
    rig.start()
    rig.web.hello()
    assert code(rig, m.Whoami(), rig.web, bearer) == "unauthorised"


def test_names_and_tokens_are_unique(rig: Rig) -> None:
    token(rig, Role.view)
    again = m.TokenAdd(name="token-secret", role=Role.view, token_sha256=sha256("other"))
    assert code(rig, again) == "name_taken"
    assert code(rig, m.TokenAdd(name="b", role=Role.view, token_sha256=sha256_hex("secret"))) == "token_known"


def test_keys_and_tokens_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "PRINCIPALS_MAX", 2)
    assert code(rig, m.TokenAdd(name="b", role=Role.view, token_sha256=sha256("b"))) == "limit"


# --- links and page sessions ----------------------------------------------------------------------------


def page(rig: Rig, role: Role | None = None, caller: Caller | None = None, bearer: str = "page") -> str:
    (caller or rig.admin).ask(m.TokenLink(secret_sha256=sha256(bearer), role=role))
    rig.web.ask(m.LinkTrade(secret_sha256=sha256(bearer), token_sha256=sha256_hex(bearer)))
    return bearer


def test_a_link_is_traded_once_for_a_page_session_of_its_role(rig: Rig) -> None:
    bearer = page(rig, Role.view)
    assert rig.web.ask(m.Whoami(), bearer)["role"] == "view"
    trade = m.LinkTrade(secret_sha256=sha256(bearer), token_sha256=sha256("other"))
    assert code(rig, trade, rig.web) == "unauthorised"


def test_a_page_session_ends_after_its_time_and_with_its_web_process(rig: Rig) -> None:
    bearer = page(rig)
    rig.web.hello(process="another-web")
    assert code(rig, m.Whoami(), rig.web, bearer) == "unauthorised"
    rig.web.hello(process="process-of-web")
    assert rig.web.ask(m.Whoami(), bearer)
    rig.advance(limits.PAGE_SESSION_TTL_S * 1000)
    assert code(rig, m.Whoami(), rig.web, bearer) == "unauthorised"


def test_a_page_session_survives_a_restart_of_the_hub(rig: Rig) -> None:
    bearer = page(rig)
    rig.start()
    rig.web.hello()
    assert rig.web.ask(m.Whoami(), bearer)["role"] == "admin"


def test_an_ended_page_session_is_removed_when_the_next_is_made(rig: Rig) -> None:
    page(rig)
    rig.advance(limits.PAGE_SESSION_TTL_S * 1000)
    before = len(rig.hub.principals.by_id)
    page(rig, bearer="next")
    assert len(rig.hub.principals.by_id) == before
    assert rig.store.get("principals", b"p" + key_u64(max(rig.hub.principals.by_id))) is not None


def test_page_session_and_link_end_with_the_key_that_made_them(rig: Rig) -> None:
    ann = rig.member(Role.operate, "ann")
    bearer = page(rig, caller=ann)
    ann.ask(m.TokenLink(secret_sha256=sha256("open")))
    rig.admin.ask(m.TokenRevoke(name="ann"))
    assert code(rig, m.Whoami(), rig.web, bearer) == "unauthorised"
    trade = m.LinkTrade(secret_sha256=sha256("open"), token_sha256=sha256("new"))
    assert code(rig, trade, rig.web) == "unauthorised"


def test_a_page_session_that_has_ended_is_told_what_to_do_however_late_it_asks(rig: Rig) -> None:
    bearer = page(rig)
    rig.advance(limits.PAGE_SESSION_TTL_S * 1000)
    for made in ("", "another page, at which the ended one is forgotten"):
        if made:
            page(rig, bearer=made)
        with pytest.raises(Refused, match="open a new link from `agentcom token link`") as found:
            rig.web.ask(m.Whoami(), bearer)
        assert found.value.code == "unauthorised"


def test_a_link_ends_after_ten_minutes(rig: Rig) -> None:
    rig.admin.ask(m.TokenLink(secret_sha256=sha256("late")))
    rig.advance(limits.LINK_TTL_S * 1000)
    trade = m.LinkTrade(secret_sha256=sha256("late"), token_sha256=sha256("new"))
    assert code(rig, trade, rig.web) == "unauthorised"


@pytest.mark.parametrize(
    ("giver", "given", "is_allowed"),
    [
        (Role.view, Role.view, True),
        (Role.view, Role.operate, False),
        (Role.submit, Role.submit, True),
        (Role.submit, Role.view, False),
        (Role.operate, Role.submit, True),
        (Role.operate, Role.admin, False),
        (Role.admin, Role.admin, True),
        (Role.admin, Role.view, True),
        (Role.admin, Role.host, False),
        (Role.admin, Role.web, False),
    ],
)
def test_nobody_links_to_more_than_his_own(rig: Rig, giver: Role, given: Role, is_allowed: bool) -> None:
    caller = rig.member(giver, "giver")
    op = m.TokenLink(secret_sha256=sha256("x"), role=given)
    if is_allowed:
        assert caller.ask(op)["role"] == given
    else:
        assert code(rig, op, caller) == "forbidden"


def test_links_are_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INVITES_MAX", 1)
    rig.admin.ask(m.TokenLink(secret_sha256=sha256("one")))
    assert code(rig, m.TokenLink(secret_sha256=sha256("two"))) == "limit"


def test_a_page_of_a_submitter_acts_for_the_submitter(rig: Rig) -> None:
    ann = rig.member(Role.submit, "ann")
    bearer = page(rig, caller=ann)
    number = ann.submit(task())
    assert rig.web.ask(m.TaskGet(task=number), bearer)["submitted_by"] == "ann"
    made = rig.web.ask(m.Submit(tasks=(task(),)), bearer)["tasks"][0]["id"]
    assert ann.task(made)["submitted_by"] == "ann"


def test_a_page_of_an_admin_that_only_submits_sees_the_admins_own_tasks_and_no_others(rig: Rig) -> None:
    bearer = page(rig, Role.submit)
    own, others = rig.admin.submit(task()), rig.member(Role.submit, "ann").submit(task())
    assert rig.web.ask(m.TaskGet(task=own), bearer)["id"] == own
    assert code(rig, m.TaskGet(task=others), rig.web, bearer) == "not_found"


def test_readers_of_the_feed_are_those_who_may_read_everything(rig: Rig) -> None:
    members = {role: rig.member(role, f"a-{role}") for role in (Role.view, Role.submit, Role.operate)}
    box = rig.host()
    keys, readers = rig.hub.principals.admitted(rig.clock.now())
    assert readers >= {rig.admin.key, rig.web.key, members[Role.view].key, members[Role.operate].key}
    assert not readers & {members[Role.submit].key, box.key}
    assert {box.key, members[Role.submit].key} <= keys
