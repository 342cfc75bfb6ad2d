"""Rights over all operations, whose tasks a caller sees, and that a refusal has changed nothing."""

from __future__ import annotations

import typing
from typing import Any

import msgspec
import pytest

from agentcom import messages as m
from agentcom.auth import sha256_hex
from agentcom.core.effects import Send
from agentcom.core.principals import RIGHTS
from agentcom.core.requests import READS
from agentcom.errors import Refused
from agentcom.model import Role, State
from tests.core_rig import Caller, Rig
from tests.factories import public_key, sha256, shell_task, task

OPERATIONS: tuple[type[m.Operation], ...] = typing.get_args(m.Operation)
VIEW, SUBMIT, OPERATE, ADMIN, HOST, WEB = ROLES = ("view", "submit", "operate", "admin", "host", "web")
READERS = frozenset({VIEW, OPERATE, ADMIN})
OPERATORS = frozenset({OPERATE, ADMIN})
SUBMITTERS = OPERATORS | {SUBMIT}
ADMINS = frozenset({ADMIN})

# Written by hand from what the roles mean: `view` reads all; `submit` submits, and reads, cancels and retries its
# own; `operate` does so for all, with dead letters, queue, agents and endpoints; `admin` also hosts and tokens.
ALLOWED: dict[str, frozenset[str]] = {
    "submit": SUBMITTERS,
    "task_get": READERS | {SUBMIT},
    "task_wait": READERS | {SUBMIT},
    "task_list": READERS | {SUBMIT},
    "task_why": READERS | {SUBMIT},
    "task_log": READERS | {SUBMIT},
    "task_story": READERS | {SUBMIT},
    "task_reports": READERS | {SUBMIT},
    "task_cancel": SUBMITTERS,
    "task_retry": SUBMITTERS,
    "task_hold": OPERATORS,
    "task_release": OPERATORS,
    "task_answer": SUBMITTERS,
    "dead_list": READERS,
    "dead_retry": OPERATORS,
    "dead_purge": OPERATORS,
    "agent_list": READERS,
    "agent_cordon": OPERATORS,
    "agent_remove": OPERATORS,
    "host_list": READERS,
    "host_show": READERS,
    "host_invite": ADMINS,
    "host_remove": ADMINS,
    "host_drain": ADMINS,
    "host_accept_key": ADMINS,
    "worktree_list": READERS,
    "endpoint_list": READERS,
    "endpoint_show": READERS,
    "endpoint_add": OPERATORS,
    "endpoint_update": OPERATORS,
    "endpoint_remove": OPERATORS,
    "endpoint_probe": OPERATORS,
    "event_list": READERS,
    "queue_stats": READERS,
    "queue_pause": OPERATORS,
    "backup_list": READERS,
    "backup_now": OPERATORS,
    "backup_verify": OPERATORS,
    "compact": ADMINS,
    "store_acknowledge": OPERATORS,
    "queue_limit": OPERATORS,
    "queue_weight": OPERATORS,
    "queue_rules": READERS,
    "budget_list": READERS,
    "budget_set": OPERATORS,
    "repo_list": READERS | {SUBMIT},
    "repo_show": READERS | {SUBMIT},
    "repo_add": OPERATORS,
    "repo_update": OPERATORS,
    "repo_remove": OPERATORS,
    "config_get": READERS,
    "config_change": ADMINS,
    "token_add": ADMINS,
    "token_list": ADMINS,
    "token_revoke": ADMINS,
    "token_link": READERS | {SUBMIT},
    "link_trade": frozenset({WEB}),
    "whoami": READERS | {SUBMIT, WEB},
    "snapshot": READERS | {WEB},
    "hub_status": READERS,
}


def tag(operation: type) -> str:
    return str(msgspec.inspect.type_info(operation).tag)  # type: ignore[attr-defined]


def example(operation: type[m.Operation]) -> m.Operation:
    """One of its kind that is well formed; what it names is not there."""
    given: dict[str, Any] = {
        "tasks": (task(),) if operation is m.Submit else (9,) if operation is not m.Snapshot else 1,
        "task": 9,
        "agent": "nobody",
        "host": None if operation is m.EndpointAdd else "nowhere",
        "key": "ab" * 32 if operation is m.HostAcceptKey else public_key("new"),
        "url": "http://10.0.0.9",
        "repo": None if operation in (m.TaskList, m.QueuePause, m.DeadList, m.DeadRetry, m.DeadPurge) else "none",
        "endpoint": "nothing",
        "usd": 1.0,
        "text": "an answer",
        "backup": "none",
        "name": "somebody",
        "role": None if operation is m.TokenLink else Role.view,
        "token_sha256": sha256("t"),
        "secret_sha256": sha256("s"),
    }
    fields = {f.name for f in msgspec.structs.fields(operation) if f.name in given}
    if operation is m.EndpointUpdate:
        fields.discard("name")
    return operation(**{name: given[name] for name in fields})


def caller(rig: Rig, role: str) -> Caller:
    """Somebody of that role with a session."""
    if role == HOST:
        return rig.host()
    return {ADMIN: rig.admin, WEB: rig.web}.get(role) or rig.member(Role(role))


def test_every_operation_has_rights_and_a_handler() -> None:
    assert set(RIGHTS) == set(OPERATIONS)
    assert set(ALLOWED) == {tag(operation) for operation in OPERATIONS}
    assert {*READS, m.TaskWait, *Rig().hub.requests._changes} == set(OPERATIONS)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("operation", OPERATIONS, ids=tag)
def test_an_operation_is_done_for_the_roles_that_have_it_and_no_other(
    operation: type[m.Operation], role: str
) -> None:
    rig = Rig()
    asking = caller(rig, role)
    request = asking.request(example(operation))
    effects = rig.hub.handle(asking.event(request), rig.clock.now())
    codes = [e.message.code for e in effects if isinstance(e, Send) and isinstance(e.message, m.Error)]
    if role in ALLOWED[tag(operation)]:
        assert "forbidden" not in codes
    else:
        assert (codes, len(effects)) == (["forbidden"], 1)


# --- whose tasks ----------------------------------------------------------------------------------------


def test_a_submitter_sees_and_touches_its_own_tasks_only() -> None:
    rig = Rig()
    ann, bob = rig.member(Role.submit, "ann"), rig.member(Role.submit, "bob")
    hers, his = ann.submit(task()), bob.submit(task())
    for operation in (m.TaskGet, m.TaskWait, m.TaskWhy, m.TaskLog, m.TaskReports, m.TaskCancel, m.TaskRetry):
        with pytest.raises(Refused) as refused:
            ann.ask(operation(task=his))
        assert refused.value.code == "not_found"
    assert [one["id"] for one in ann.ask(m.TaskList())["tasks"]] == [hers]
    assert [one["id"] for one in bob.ask(m.TaskList())["tasks"]] == [his]
    assert rig.admin.state(his) == "ready"


def test_what_is_said_of_anothers_task_is_what_is_said_of_none() -> None:
    rig = Rig()
    his = rig.member(Role.submit, "bob").submit(task())
    final = rig.admin.submit(task())
    rig.admin.ask(m.TaskCancel(task=final))
    ann = rig.member(Role.submit, "ann")

    def said(operation: type, number: int) -> tuple[str, str]:
        with pytest.raises(Refused) as refused:
            ann.ask(operation(task=number))
        return refused.value.code, refused.value.message.replace(str(number), "N")

    for operation in (m.TaskGet, m.TaskWait, m.TaskCancel, m.TaskRetry):
        assert len({said(operation, number)[0] for number in (his, final, 99)}) == 1


def test_a_submitter_cancels_and_retries_its_own() -> None:
    rig = Rig()
    ann = rig.member(Role.submit, "ann")
    mine = ann.submit(shell_task())
    assert ann.ask(m.TaskCancel(task=mine))["state"] == "cancelled"
    assert ann.ask(m.TaskRetry(task=mine))["state"] == "ready"


def test_who_views_sees_all_tasks_and_changes_none() -> None:
    rig = Rig()
    number = rig.member(Role.submit, "ann").submit(task())
    view = rig.member(Role.view)
    assert view.state(number) == "ready"
    with pytest.raises(Refused, match="needs the role"):
        view.ask(m.TaskCancel(task=number))


def test_a_forwarded_request_has_the_rights_of_its_token_not_of_the_web() -> None:
    rig = Rig()
    rig.admin.ask(m.TokenAdd(name="t", role=Role.submit, token_sha256=sha256_hex("secret")))
    number = rig.web.ask(m.Submit(tasks=(task(),)), "secret")["tasks"][0]["id"]
    assert rig.admin.task(number)["submitted_by"] == "t"
    for op in (m.Snapshot(), m.LinkTrade(secret_sha256=sha256("s"), token_sha256=sha256("t"))):
        with pytest.raises(Refused) as refused:
            rig.web.ask(op, "secret")
        assert refused.value.code == "forbidden"
    with pytest.raises(Refused):
        rig.web.ask(m.Submit(tasks=(task(),)))


def test_a_token_for_one_submitter_does_not_reach_anothers_keys_through_an_idempotency_key() -> None:
    rig = Rig()
    ann, bob = rig.member(Role.submit, "ann"), rig.member(Role.submit, "bob")
    ann.submit(task(idempotency_key="deploy"))
    made = bob.ask(m.Submit(tasks=(task(idempotency_key="deploy"),)))["tasks"][0]
    assert made["created"]


# --- refusals change nothing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "op",
    [
        m.TaskCancel(task=99),
        m.TaskRetry(task=1),
        m.TaskRelease(task=1),
        m.TaskHold(task=2),
        m.DeadRetry(tasks=(3, 99)),
        m.DeadPurge(tasks=(3, 1)),
        m.AgentRemove(agent="nobody"),
        m.AgentCordon(agent="nobody"),
        m.HostRemove(host="nowhere"),
        m.EndpointAdd(url="http://127.0.0.1:1"),
        m.EndpointAdd(url="http://10.0.0.1", host="nowhere"),
        m.EndpointUpdate(endpoint="1", name="ollama-box-2", cap=9),
        m.EndpointRemove(endpoint="9"),
        m.HostInvite(key=public_key("admin")),
        m.TokenAdd(name="admin", role=Role.view, token_sha256=sha256("x")),
        m.TokenRevoke(name="admin"),
        m.Submit(tasks=(task(), task(tier="trivial"))),
    ],
    ids=lambda op: tag(type(op)),
)
def test_a_refused_operation_writes_nothing_and_the_core_is_as_before(op: m.Operation) -> None:
    rig = Rig()
    box = rig.host()
    box.see()
    rig.admin.ask(m.EndpointAdd(url="http://10.0.0.2", name="ollama-box-2"))
    rig.admin.submit(task(model="nowhere"), shell_task(), task())
    rig.admin.ask(m.TaskCancel(task=3))
    before = picture(rig)
    effects = rig.hub.handle(rig.admin.event(rig.admin.request(op)), rig.clock.now())
    assert [type(getattr(e, "message", None)) for e in effects] == [m.Error]
    rig.hub.validate()
    assert picture(rig) == before


def picture(rig: Rig) -> object:
    """What a refusal could have changed, by value."""
    hub, encode = rig.hub, msgspec.msgpack.encode
    rows = {task: hub.tasks.table.record(slot) for task, slot in hub.tasks.table.slot_of.items()}
    return encode(
        [
            [rows[task] for task in sorted(rows)],
            [hub.tasks.counts[state] for state in State],
            [record for _, record in sorted(hub.principals.by_id.items())],
            sorted(hub.principals.invites),
            [host.record for host in hub.fleet.hosts.values()],
            [agent.record for agent in hub.fleet.agents.values()],
            list(hub.registry.endpoints.values()),
            hub.tasks.next_id,
            hub.paused,
            list(hub.gates.rules.values()),
        ]
    )
