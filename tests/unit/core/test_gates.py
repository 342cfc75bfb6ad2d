"""What may start: pauses, limits by key and weights, set by people and durable."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec
import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.errors import Refused
from agentcom.model import QueueRule, Role, RuleKind, RuleScope, TaskSpec, Tier
from agentcom.store.base import Batch
from tests.core_rig import HostEnd, Rig
from tests.factories import (
    complex_task,
    endpoint_model,
    endpoint_probe,
    shell_task,
    sighting,
    task,
)

REPO, OTHER = "https://git.example/one.git", "https://git.example/two.git"


@pytest.fixture
def rig() -> Rig:
    return Rig()


def restart(rig: Rig, *boxes: HostEnd, **hello: Any) -> None:
    """The hub starts anew; its callers come back."""
    rig.start()
    rig.admin.hello()
    for box in boxes:
        box.received.clear()
        box.hello(**hello)


def running(rig: Rig, box: HostEnd) -> list[int]:
    """The tasks that the box was given and has not ended, taken up."""
    taken = [one for one in box.received if isinstance(one, m.Assign)]
    for assign in taken:
        box.received.remove(assign)
        box.accept(assign)
    return [assign.task for assign in taken]


def limit(rig: Rig, key: str, number: int | None) -> Any:
    return rig.admin.ask(m.QueueLimit(key=key, number=number))


def conditions(rig: Rig, number: int) -> list[tuple[str, str]]:
    """What keeps a ready task from starting, and what would help."""
    found = rig.admin.ask(m.TaskWhy(task=number))
    assert found["reason"].startswith(found["conditions"][0]["message"])
    return [(one["condition"], one["change"]) for one in found["conditions"]]


# --- pauses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "stopped", "goes_on", "condition"),
    [
        ({}, shell_task(), None, "queue_paused"),
        ({"repo": REPO}, shell_task(repo=REPO), shell_task(repo=OTHER), "repo_paused"),
        ({"tier": "complex"}, complex_task(), shell_task(), "tier_paused"),
    ],
    ids=["queue", "repo", "tier"],
)
def test_r20_a_pause_stops_dispatch_not_submits_and_survives_a_restart(
    rig: Rig, where: Any, stopped: TaskSpec, goes_on: TaskSpec | None, condition: str
) -> None:
    box = rig.host(agents=2)
    rig.admin.ask(m.QueuePause(**where))
    number = rig.admin.submit(stopped)
    assert rig.admin.state(number) == "ready"
    assert running(rig, box) == []
    if goes_on is not None:
        other = rig.admin.submit(goes_on)
        assert running(rig, box) == [other]
    flag = "".join(f" --{name} {value}" for name, value in where.items())
    assert conditions(rig, number) == [(condition, f"agentcom queue resume{flag}")]
    restart(rig, box)
    assert number not in running(rig, box)
    rig.admin.ask(m.QueuePause(paused=False, **where))
    assert number in running(rig, box)


def test_r20_a_paused_host_gets_no_work_and_another_does(rig: Rig) -> None:
    box, other = rig.host("box"), rig.host("other")
    rig.admin.ask(m.QueuePause(host="box"))
    first, second = rig.admin.submit(shell_task()), rig.admin.submit(shell_task())
    assert (running(rig, box), running(rig, other)) == ([], [first])
    found = rig.admin.ask(m.TaskWhy(task=second))
    refusal = next(host for host in found["hosts"] if host["host"] == "box")
    assert (refusal["fails"], refusal["change"]) == ("host_paused", "agentcom queue resume --host box")
    restart(rig, box, other, attempts=())
    assert (running(rig, box), running(rig, other)) == ([], [second]), "the first is lost, and has a backoff"
    rig.admin.ask(m.QueuePause(paused=False, host="box"))
    rig.advance(5_000)
    assert running(rig, box) == [first]


def test_what_is_paused_is_told_with_the_counts(rig: Rig) -> None:
    rig.host("box")
    for where in ({"tier": "complex"}, {"host": "box"}, {"repo": REPO}):
        rig.admin.ask(m.QueuePause(**where))  # type: ignore[arg-type]
    counts = rig.admin.ask(m.QueueStats())
    assert (counts["paused"], counts["pauses"]) == (False, ["host:box", f"repo:{REPO}", "tier:complex"])
    [first, *_] = rig.admin.ask(m.QueueRules())["pauses"]
    assert (first["key"], first["set_by"]) == ("host:box", "admin")
    rig.admin.ask(m.QueuePause(paused=False, tier="complex"))  # type: ignore[arg-type]
    assert rig.admin.ask(m.QueueStats())["pauses"] == ["host:box", f"repo:{REPO}"]


def test_a_repository_that_is_first_seen_while_it_is_paused_waits_too(rig: Rig) -> None:
    box = rig.host()
    rig.admin.ask(m.QueuePause(repo=REPO))
    rig.admin.submit(shell_task(repo=REPO), shell_task(repo=REPO, needs=("gpu",)))
    assert running(rig, box) == []


def test_pausing_twice_and_resuming_what_runs_change_nothing(rig: Rig) -> None:
    rig.admin.ask(m.QueuePause(repo=REPO))
    rig.admin.ask(m.QueuePause(repo=REPO))
    assert rig.admin.ask(m.QueueStats())["pauses"] == [f"repo:{REPO}"]
    for _ in range(2):
        assert rig.admin.ask(m.QueuePause(paused=False, repo=REPO))["pauses"] == []


def records(rig: Rig) -> list[tuple[str, Any, str, str]]:
    """Of every rule and budget: its key, its number, who set it and when."""
    kinds = rig.admin.ask(m.QueueRules())
    rules = [each for kind in ("pauses", "limits", "weights") for each in kinds[kind]]
    every = [*rules, *rig.admin.ask(m.BudgetList())["budgets"]]
    return [(each["key"], each.get("number", each.get("usd")), each["set_by"], each["set_at"]) for each in every]


SAID_AGAIN = [
    m.QueuePause(repo=REPO),
    m.QueuePause(tier=Tier.complex),
    m.QueuePause(host="box"),
    m.QueueLimit(key=f"repo:{REPO}", number=3),
    m.QueueLimit(key="label:deploy", number=3),
    m.QueueWeight(key=f"repo:{REPO}", number=3),
    m.BudgetSet(key="all", usd=3),
]


@pytest.mark.parametrize("op", SAID_AGAIN)
def test_a_repeat_leaves_who_has_set_a_rule_and_when_and_is_no_event(rig: Rig, op: m.Operation) -> None:
    rig.host("box")
    bob = rig.member(Role.operate, "bob")
    rig.admin.ask(op)
    [first] = records(rig)
    assert first[2] == "admin"
    rig.advance(5000)
    before = rig.store.sequence
    bob.ask(op)
    assert (rig.published("queue"), rig.store.sequence) == ([], before)
    assert records(rig) == [first]


@pytest.mark.parametrize("op", [op for op in SAID_AGAIN if not isinstance(op, m.QueuePause)])
def test_another_number_is_that_of_who_has_set_it_now(rig: Rig, op: m.Operation) -> None:
    bob = rig.member(Role.operate, "bob")
    rig.admin.ask(op)
    bob.ask(msgspec.structs.replace(op, **{"usd" if isinstance(op, m.BudgetSet) else "number": 4}))
    assert [(number, by) for _, number, by, _ in records(rig)] == [(4, "bob")]


def test_pausing_everything_again_and_a_weight_that_all_have_write_nothing(rig: Rig) -> None:
    rig.admin.ask(m.QueuePause())
    before = rig.store.sequence
    rig.admin.ask(m.QueuePause())
    rig.admin.ask(m.QueueWeight(key=f"repo:{REPO}", number=1))
    assert rig.store.sequence == before


# --- limits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "limited", "free"),
    [
        (f"repo:{REPO}", shell_task(repo=REPO), shell_task(repo=OTHER)),
        ("label:deploy", shell_task(labels=("deploy", "late")), shell_task(labels=("late",))),
    ],
    ids=["repo", "label"],
)
def test_r19_no_more_than_a_limit_run_at_once_and_the_tasks_behind_go_on(
    rig: Rig, key: str, limited: TaskSpec, free: TaskSpec
) -> None:
    box = rig.host(agents=4)
    limit(rig, key, 2)
    first = rig.admin.submit(*[limited] * 5, free)
    assert sorted(running(rig, box)) == [first, first + 1, first + 5], "within one tick"
    assert conditions(rig, first + 2) == [("limit_reached", f"wait, or agentcom queue limit set {key} 3")]
    rule = next(one for one in rig.admin.ask(m.QueueRules())["limits"])
    assert (rule["key"], rule["number"], rule["running"]) == (key, 2, 2)


@pytest.mark.parametrize(
    ("key", "limited"),
    [(f"repo:{REPO}", shell_task(repo=REPO)), ("label:deploy", shell_task(labels=("deploy",)))],
    ids=["repo", "label"],
)
def test_a_limit_gives_way_as_tasks_end_and_counts_open_attempts_after_a_restart(
    rig: Rig, key: str, limited: TaskSpec
) -> None:
    box = rig.host(agents=3)
    limit(rig, key, 1)
    rig.admin.submit(*[limited] * 3)
    assign = box.take()
    restart(rig, box, attempts=(box.held(assign),))
    assert running(rig, box) == []
    box.complete(assign)
    assert running(rig, box) == [2]
    limit(rig, key, 2)
    assert running(rig, box) == [3]


def test_a_limit_that_is_set_while_tasks_run_counts_them(rig: Rig) -> None:
    box = rig.host(agents=4)
    rig.admin.submit(*[shell_task(labels=("deploy",))] * 2)
    first, second = box.take(), box.take()
    limit(rig, "label:deploy", 1)
    rig.admin.submit(shell_task(labels=("deploy",)))
    assert running(rig, box) == []
    box.complete(first)
    assert running(rig, box) == []
    box.complete(second)
    assert running(rig, box) == [3]


def test_a_limit_that_is_taken_back_lets_all_go_that_waited(rig: Rig) -> None:
    box = rig.host(agents=4)
    limit(rig, "label:deploy", 1)
    rig.admin.submit(*[shell_task(labels=("deploy",))] * 4)
    assert running(rig, box) == [1]
    assert limit(rig, "label:deploy", None) == {"key": "label:deploy", "number": None}
    assert running(rig, box) == [2, 3, 4]
    assert rig.admin.ask(m.QueueRules())["limits"] == []


def test_a_task_under_two_limits_waits_for_both(rig: Rig) -> None:
    box = rig.host(agents=9)
    limit(rig, "label:a", 1)
    limit(rig, "label:b", 1)
    rig.admin.submit(
        shell_task(labels=("a",)), shell_task(labels=("b",)), shell_task(labels=("b", "a")), shell_task()
    )
    a, b, plain = box.take(), box.take(), box.take()
    assert [one.task for one in (a, b, plain)] == [1, 2, 4]
    box.complete(a)
    assert running(rig, box) == []
    box.complete(b)
    assert running(rig, box) == [3]


def test_a_limit_set_while_a_cancel_is_carried_out_counts_the_retried_task_where_it_runs(rig: Rig) -> None:
    """Two agents hold the task then: one ends its first attempt, the other runs the second."""
    box = rig.host()
    number = rig.admin.submit(shell_task(labels=("deploy",)))
    first = box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    limit(rig, "label:deploy", 1)
    rig.admin.ask(m.TaskRetry(task=number))
    other = rig.host("other")
    assert running(rig, other) == [number]
    waiting = rig.admin.submit(shell_task(labels=("deploy",)))
    box.report(box.ended(first, "cancelled"))
    assert conditions(rig, waiting)[0][0] == "limit_reached"


def test_a_cancelled_task_counts_until_its_processes_have_ended(rig: Rig) -> None:
    box = rig.host(agents=2)
    limit(rig, f"repo:{REPO}", 1)
    rig.admin.submit(*[shell_task(repo=REPO)] * 2)
    assign = box.take()
    rig.admin.ask(m.TaskCancel(task=1))
    assert running(rig, box) == []
    box.report(box.ended(assign, "cancelled"))
    assert running(rig, box) == [2]


def test_a_task_that_fails_gives_its_place_up_while_it_waits(rig: Rig) -> None:
    box = rig.host(agents=2)
    limit(rig, "label:deploy", 1)
    rig.admin.submit(*[shell_task(labels=("deploy",))] * 2)
    box.fail(box.take())
    assert running(rig, box) == [2]
    rig.advance(10_000)
    assert running(rig, box) == []


def test_an_endpoint_takes_no_more_calls_than_its_limit_whatever_the_models(rig: Rig) -> None:
    box = rig.host(agents=4)
    box.see(sighting(probe=endpoint_probe(endpoint_model(), endpoint_model(name="other:1b"))))
    rig.admin.ask(m.EndpointUpdate(endpoint="ollama-box", cap=4))
    limit(rig, "endpoint:ollama-box", 2)
    rig.admin.submit(task(), task(model="other:1b"), task(), task(model="other:1b"), shell_task())
    assert sorted(running(rig, box)) == [1, 2, 5]
    found = rig.admin.ask(m.TaskWhy(task=3))
    assert (found["hosts"][0]["fails"], found["hosts"][0]["change"]) == (
        "limit_reached",
        "wait, or agentcom queue limit set endpoint:ollama-box 3",
    )
    [rule] = rig.admin.ask(m.QueueRules())["limits"]
    assert (rule["key"], rule["running"]) == ("endpoint:ollama-box", 2)


def test_a_limit_stays_with_an_endpoint_that_is_renamed_and_goes_with_it(rig: Rig) -> None:
    rig.admin.ask(m.EndpointAdd(url="http://10.0.0.9", name="big"))
    limit(rig, "endpoint:big", 3)
    rig.admin.ask(m.EndpointUpdate(endpoint="big", name="huge"))
    [rule] = rig.admin.ask(m.QueueRules())["limits"]
    assert (rule["key"], rule["number"]) == ("endpoint:huge", 3)
    rig.admin.ask(m.EndpointRemove(endpoint="huge"))
    assert rig.admin.ask(m.QueueRules())["limits"] == []


def test_a_pause_goes_with_its_host(rig: Rig) -> None:
    box = rig.host("box")
    rig.admin.ask(m.QueuePause(host="box"))
    box.leave()
    rig.admin.ask(m.HostRemove(host="box"))
    assert rig.admin.ask(m.QueueStats())["pauses"] == []


def test_rules_of_a_host_and_an_endpoint_that_a_store_no_longer_has_go_at_the_start(rig: Rig) -> None:
    for scope, kind in ((RuleScope.host, RuleKind.pause), (RuleScope.endpoint, RuleKind.limit)):
        rule = QueueRule(kind=kind, scope=scope, key="77", number=1)
        batch = Batch()
        batch.put("limits", rule.record_key, msgspec.msgpack.encode(rule))
        rig.store.commit(batch, rig.store.sequence + 1)
    rig.start()
    assert rig.hub.gates.rules == {}
    assert rig.store.count("limits") == 0


def test_labels_that_have_no_limit_cost_no_line(rig: Rig) -> None:
    limit(rig, "label:deploy", 5)
    for n in range(100):
        rig.admin.submit(shell_task(labels=(f"ticket-{n}",)))
    assert rig.hub.tasks.lines == {}
    for number in range(1, 101):
        rig.admin.ask(m.TaskCancel(task=number))
    assert len(rig.hub.tasks.table.label_sets) <= 65


# --- weights --------------------------------------------------------------------------------------------


def test_r19_a_weight_gives_a_submitter_its_share_after_a_restart_too(rig: Rig) -> None:
    ann = rig.member(Role.submit, "ann")
    rig.admin.ask(m.QueueWeight(key="submitter:ann", number=3))
    for _ in range(20):
        rig.admin.submit(shell_task())
    for _ in range(20):
        ann.submit(shell_task())
    restart(rig)
    box = rig.host()
    order = done_in_turn(box, 16)
    assert Counter(number > 20 for number in order) == {True: 12, False: 4}
    [rule] = rig.admin.ask(m.QueueRules())["weights"]
    assert (rule["key"], rule["number"], rule["set_by"]) == ("submitter:ann", 3, "admin")


def test_r19_a_weight_of_a_repository_counts_among_those_of_its_submitter(rig: Rig) -> None:
    rig.admin.ask(m.QueueWeight(key=f"repo:{REPO}", number=2))
    for _ in range(9):
        rig.admin.submit(shell_task(repo=OTHER), shell_task(repo=REPO))
    box = rig.host()
    order = done_in_turn(box, 9)
    assert Counter(number % 2 == 0 for number in order) == {True: 6, False: 3}
    rig.admin.ask(m.QueueWeight(key=f"repo:{REPO}", number=None))
    assert rig.admin.ask(m.QueueRules())["weights"] == []


def done_in_turn(box: HostEnd, count: int) -> list[int]:
    """So many tasks, each taken and completed before the next; their numbers."""
    order = []
    for _ in range(count):
        assign = box.take()
        order.append(assign.task)
        box.complete(assign)
    return order


def weights(rig: Rig) -> list[tuple[str, int]]:
    return [(rule["key"], rule["number"]) for rule in rig.admin.ask(m.QueueRules())["weights"]]


def test_a_weight_holds_for_whoever_has_the_name_and_can_be_taken_back_while_nobody_has_it(rig: Rig) -> None:
    rig.token("ann", "first")
    rig.admin.ask(m.QueueWeight(key="submitter:ann", number=3))
    rig.admin.ask(m.TokenRevoke(name="ann"))
    rig.admin.ask(m.QueueWeight(key="submitter:ann", number=4))
    assert weights(rig) == [("submitter:ann", 4)]
    rig.token("ann", "second")
    rig.admin.ask(m.QueueWeight(key="submitter:ann", number=3))
    assert weights(rig) == [("submitter:ann", 3)]
    for _ in range(20):
        rig.admin.submit(shell_task())
    for _ in range(20):
        rig.web.ask(m.Submit(tasks=(shell_task(),)), bearer="second")
    box = rig.host()
    order = done_in_turn(box, 16)
    assert Counter(number > 20 for number in order) == {True: 12, False: 4}
    rig.admin.ask(m.TokenRevoke(name="ann"))
    rig.admin.ask(m.QueueWeight(key="submitter:ann"))
    assert weights(rig) == []


@pytest.mark.parametrize("is_restarted", [False, True])
def test_r19_tasks_of_a_revoked_token_and_of_the_next_of_its_name_have_one_turn(rig: Rig, is_restarted: bool) -> None:
    for secret in ("first", "second"):
        rig.token("ann", secret)
        for _ in range(8):
            rig.web.ask(m.Submit(tasks=(shell_task(),)), bearer=secret)
        rig.admin.ask(m.TokenRevoke(name="ann"))
    for _ in range(8):
        rig.admin.submit(shell_task())
    if is_restarted:
        restart(rig)
    order = done_in_turn(rig.host(), 16)
    assert Counter(number > 16 for number in order) == {False: 8, True: 8}
    assert [number for number in order if number <= 16] == [*range(1, 9)], "the first of them comes first"


def test_a_weight_of_1_is_what_all_have_and_is_no_rule(rig: Rig) -> None:
    rig.admin.ask(m.QueueWeight(key="submitter:admin", number=3))
    set_to_1 = rig.admin.ask(m.QueueWeight(key="submitter:admin", number=1))
    assert (set_to_1["key"], set_to_1["number"], weights(rig)) == ("submitter:admin", 1, [])
    rig.admin.ask(m.QueueWeight(key=f"repo:{REPO}", number=1))
    assert (weights(rig), rig.store.count("limits")) == ([], 0)


def test_of_two_weights_for_one_name_in_a_store_the_newest_holds(rig: Rig) -> None:
    """Until now each key and token of a name had rules of its own."""
    records = [rig.token("ann", "first")]
    rig.admin.ask(m.TokenRevoke(name="ann"))
    records.append(rig.token("ann", "second"))
    batch = Batch()
    for record, number, set_ms in zip(records, (2, 3), (1, 2), strict=True):
        rule = QueueRule(
            kind=RuleKind.weight, scope=RuleScope.submitter, key=str(record), number=number, set_ms=set_ms
        )
        batch.put("limits", rule.record_key, msgspec.msgpack.encode(rule))
    rig.store.commit(batch, rig.store.sequence + 1)
    restart(rig)
    for _ in range(2):
        assert (weights(rig), rig.store.count("limits")) == ([("submitter:ann", 3)], 1)
        restart(rig)
    rig.admin.ask(m.QueueWeight(key="submitter:ann"))
    assert (weights(rig), rig.store.count("limits")) == ([], 0)


# --- bad input ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "code", "field", "says"),
    [
        (m.QueueLimit(key="deploy", number=1), "invalid", "key", "give one of repo:REPO, label:LABEL"),
        (m.QueueLimit(key="tier:complex", number=1), "invalid", "key", "is no key of a limit"),
        (m.QueueLimit(key="label:", number=1), "invalid", "key", "is no key of a limit"),
        (m.QueueLimit(key="endpoint:nothing", number=1), "not_found", "endpoint", "no endpoint is named"),
        (m.QueueLimit(key="label:deploy"), "not_found", "key", "agentcom queue limit list"),
        (m.QueueWeight(key="label:x", number=1), "invalid", "key", "submitter:SUBMITTER, repo:REPO"),
        (m.QueueWeight(key="submitter:nobody", number=1), "not_found", "key", "nobody is named nobody"),
        (m.QueuePause(host="nowhere"), "not_found", "host", "no host is named nowhere"),
        (m.QueuePause(host="nowhere", repo=REPO), "invalid", "host", "give one of them at most"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_in_words(
    rig: Rig, op: m.Operation, code: str, field: str, says: str
) -> None:
    with pytest.raises(Refused, match=says) as refused:
        rig.admin.ask(op)
    assert (refused.value.code, refused.value.field) == (code, field)
    assert rig.hub.gates.rules == {}


def test_the_number_of_rules_is_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "QUEUE_RULES_MAX", 2)
    limit(rig, "label:a", 1)
    limit(rig, "label:b", 1)
    limit(rig, "label:b", 2)
    with pytest.raises(Refused, match="already has 2 pauses, limits and weights") as refused:
        limit(rig, "label:c", 1)
    assert refused.value.code == "limit"


def test_a_page_shows_a_change_of_rules_at_once(rig: Rig) -> None:
    limit(rig, "label:a", 1)
    event, _kept = rig.published("queue")
    assert (event["event"], event["rules"]["limits"][0]["key"]) == ("queue_rules_changed", "label:a")
