"""Registered repositories: names and spellings, checks and branch of an assignment, hosts in routing, removal."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentcom import messages as m
from agentcom.core.effects import key_u64
from agentcom.core.ledger import PREFIX
from agentcom.core.repositories import PREFIX as REPO
from agentcom.core.sums import record_key
from agentcom.errors import Refused
from agentcom.model import Backend, BudgetPeriod, CheckKind, CheckSpec, QueueRule, Role, RuleKind, RuleScope
from agentcom.money import BudgetRecord
from agentcom.repos import RepoRecord, has_credentials, same_place
from agentcom.store.base import Batch
from agentcom.store.crosscheck import cross_check, walk_store
from tests.core_rig import HostEnd, Rig
from tests.factories import agent_offer, complex_task, shell_task

MOVED = "https://git.example/moved.git"
SSH = "git@git.example:team/engine"
URL = "https://git.example/team/engine.git"
TESTS = CheckSpec(kind=CheckKind.command_succeeds, target="make test")


@pytest.fixture
def rig() -> Rig:
    return Rig()


def register(rig: Rig, name: str = "engine", url: str = URL, **fields: Any) -> dict[str, Any]:
    found: dict[str, Any] = rig.admin.ask(m.RepoAdd(name=name, url=url, **fields))
    return found


def registered_by_an_older_version(rig: Rig, record: RepoRecord) -> None:
    """One that registers a repository also while tasks with another spelling are live."""
    batch = Batch()
    batch.put("meta", REPO + key_u64(record.id), msgspec.msgpack.encode(record))
    rig.store.commit(batch, rig.store.sequence + 1)
    rig.start()
    rig.admin.hello()


def has_work(box: HostEnd) -> bool:
    return any(isinstance(each, m.Assign) for each in box.received)


def refusal(rig: Rig, op: m.Operation) -> Refused:
    with pytest.raises(Refused) as refused:
        rig.admin.ask(op)
    return refused.value


@pytest.mark.parametrize(
    "url",
    [
        "https://git.example/team/engine",
        "https://git.example/team/engine/",
        "https://GIT.example:443/Team/engine.git",
        "https://git.example./team/./x/../engine.git",
        "https://git.example/team/%65ngine",
        "ssh://git@git.example/team/engine.git",
        "git@git.example:team/engine.git",
    ],
)
def test_every_spelling_of_an_address_is_the_same_place(url: str) -> None:
    assert same_place(url) == same_place(URL)


@pytest.mark.parametrize(
    "url", ["https://git.example/team/engine2", "https://git.example:8443/team/engine", "/team/engine"]
)
def test_another_path_port_or_server_is_another_place(url: str) -> None:
    assert same_place(url) != same_place(URL)


def test_a_local_repository_is_one_place_by_path_and_by_file_url() -> None:
    assert same_place("/srv/a b/engine.git") == same_place("file:///srv/x/../a%20b/engine/")
    assert same_place("/srv/engine") != same_place("/srv/Engine")


def test_a_password_and_a_token_are_credentials_and_the_user_of_ssh_is_none() -> None:
    assert has_credentials("https://x:secret@git.example/a")
    assert has_credentials("https://ghp_token@git.example/a")
    assert has_credentials("ssh://git:secret@git.example/a")
    assert not has_credentials("ssh://git@git.example/a")
    assert not has_credentials("git@git.example:a")
    assert not has_credentials("https://git.example/@scope/a")


def test_a_task_names_a_registered_repository_by_its_name_or_by_any_spelling(rig: Rig) -> None:
    register(rig)
    for repo in ("engine", "https://git.example/team/engine/", "git@git.example:team/engine.git"):
        task = rig.admin.submit(shell_task(repo=repo))
        assert rig.admin.ask(m.TaskGet(task=task))["repo"] == URL
    assert rig.admin.ask(m.RepoShow(repo="engine"))["live_tasks"] == 3
    assert len(rig.admin.ask(m.TaskList(repo="engine"))["tasks"]) == 3


def test_a_name_that_nobody_registered_is_refused_with_where_to_look(rig: Rig) -> None:
    refused = refusal(rig, m.Submit(tasks=(shell_task(repo="engin"),)))
    assert (refused.code, refused.field) == ("not_found", "tasks[0].repo")
    assert "agentcom repo list" in refused.message


def test_what_a_repository_asks_goes_out_with_each_assignment_of_its_tasks_and_of_no_others(rig: Rig) -> None:
    register(rig, checks=(TESTS,), default_branch="trunk")
    box = rig.host()
    rig.admin.submit(shell_task(repo="https://git.example/team/engine", verify=False))
    assign = box.assigned()
    assert (assign.repo_checks, assign.base_branch) == ((TESTS,), "trunk")
    box.accept(assign)
    box.complete(assign)
    rig.admin.submit(shell_task(repo="https://git.example/other.git"))
    other = box.assigned()
    assert (other.repo_checks, other.base_branch) == ((), "")


def test_a_changed_check_reaches_a_task_that_waits_already(rig: Rig) -> None:
    register(rig)
    rig.admin.submit(shell_task(repo="engine"))
    rig.admin.ask(m.RepoUpdate(repo="engine", checks=(TESTS,)))
    assert rig.host().assigned().repo_checks == (TESTS,)


def test_an_update_that_changes_nothing_writes_nothing_and_is_no_event(rig: Rig) -> None:
    rig.host("one")
    register(rig, checks=(TESTS,), hosts=("one",), default_branch="trunk")
    before = rig.admin.ask(m.RepoList())
    for op in (
        m.RepoUpdate(repo="engine", default_branch="trunk"),
        m.RepoUpdate(repo="engine", checks=(TESTS,)),
        m.RepoUpdate(repo="engine", hosts=("one", "one")),
        m.RepoUpdate(repo="engine"),
    ):
        events = rig.store.count("feed")
        rig.admin.ask(op)
        assert rig.published("hub") == []
        assert rig.store.count("feed") == events
    assert rig.admin.ask(m.RepoList()) == before
    rig.admin.ask(m.RepoUpdate(repo="engine", default_branch="main"))
    assert [each["event"] for each in rig.published("hub")] == ["repo_changed"]


def test_only_its_hosts_work_on_a_repository_and_why_names_them_with_the_remedy(rig: Rig) -> None:
    one, two = rig.host("one"), rig.host("two")
    register(rig, hosts=("two",))
    task = rig.admin.submit(shell_task(repo="engine"))
    assert two.assigned().task == task
    later = rig.admin.submit(shell_task(repo="engine"))
    why = rig.admin.ask(m.TaskWhy(task=later))
    fails = {each["host"]: each for each in why["hosts"]}
    assert fails["one"]["fails"] == "repo_elsewhere"
    assert "worked on by two only" in fails["one"]["message"]
    assert fails["one"]["change"].endswith(f"agentcom repo update {URL} --host two --host one")
    assert fails["two"]["fails"] == "agents_busy"
    assert not has_work(one)


def test_tasks_that_wait_for_their_host_keep_no_other_from_starting(rig: Rig) -> None:
    rig.host("two", agents=0)
    register(rig, hosts=("two",))
    for _ in range(3):
        rig.admin.submit(shell_task(repo="engine"))
    one = rig.host("one")
    free = rig.admin.submit(shell_task())
    assert one.assigned().task == free


def test_hosts_that_are_taken_back_let_tasks_go_that_waited_for_them(rig: Rig) -> None:
    rig.host("two", agents=0)
    one = rig.host("one")
    register(rig, hosts=("two",))
    task = rig.admin.submit(shell_task(repo="engine"))
    assert not has_work(one)
    rig.admin.ask(m.RepoUpdate(repo="engine", hosts=()))
    assert one.assigned().task == task


def test_hosts_that_are_set_count_for_tasks_of_every_spelling_that_were_there_before(rig: Rig) -> None:
    rig.host("two", agents=0)
    rig.admin.submit(shell_task(repo=SSH))
    registered_by_an_older_version(rig, RepoRecord(id=1, name="engine", url=URL, hosts=("two",)))
    one = rig.host("one")
    assert not has_work(one)
    assert rig.admin.ask(m.RepoShow(repo="engine"))["live_tasks"] == 1


def test_a_repository_survives_a_restart_with_all_that_it_says(rig: Rig) -> None:
    rig.host("two")
    before = register(rig, hosts=("two",), checks=(TESTS,), default_branch="trunk")
    rig.admin.submit(shell_task(repo="engine"))
    rig.start()
    rig.admin.hello()
    assert rig.admin.ask(m.RepoShow(repo=URL)) == {**before, "live_tasks": 1}
    assert register(rig, name="other", url="https://git.example/b")["id"] == before["id"] + 1


def test_a_pause_and_a_limit_take_the_name(rig: Rig) -> None:
    register(rig)
    box = rig.host()
    rig.admin.ask(m.QueuePause(repo="engine"))
    task = rig.admin.submit(shell_task(repo="engine"))
    assert not has_work(box)
    rig.admin.ask(m.QueuePause(repo=URL, paused=False))
    assert box.assigned().task == task
    assert rig.admin.ask(m.QueueLimit(key="repo:engine", number=1))["key"] == f"repo:{URL}"


@pytest.mark.parametrize(
    ("op", "field"),
    [
        (m.QueuePause(repo="nope"), "repo"),
        (m.QueueLimit(key="repo:nope", number=1), "key"),
        (m.QueueWeight(key="repo:nope", number=2), "key"),
        (m.BudgetSet(key="repo:nope", usd=2), "key"),
    ],
    ids=["pause", "limit", "weight", "budget"],
)
def test_a_rule_for_a_name_that_is_not_registered_is_refused_as_a_task_of_it_is(
    rig: Rig, op: m.Operation, field: str
) -> None:
    register(rig)
    said = refusal(rig, m.Submit(tasks=(shell_task(repo="nope"),))).message.partition(": ")[2]
    refused = refusal(rig, op)
    assert (refused.code, refused.field, refused.message) == ("not_found", field, f"{field}: {said}")
    assert (rig.hub.gates.rules, rig.hub.ledger.budgets) == ({}, {})


@pytest.mark.parametrize("repo", ["engine/src", ".", "http://git.example/a", "https://x:secret@git.example/a"])
def test_a_rule_for_what_no_task_may_name_is_refused(rig: Rig, repo: str) -> None:
    refused = [refusal(rig, op) for op in (m.QueuePause(repo=repo), m.QueueLimit(key=f"repo:{repo}", number=1))]
    assert [one.field for one in refused] == ["repo", "key"]
    assert "secret" not in refused[0].message


@pytest.mark.parametrize("repo", ["https://git.example/a", "git@git.example:team/a", "/srv/a.git", "file:///srv/a"])
def test_a_rule_may_be_set_for_an_address_before_any_task_names_it(rig: Rig, repo: str) -> None:
    rig.admin.ask(m.QueuePause(repo=repo))
    assert rig.admin.ask(m.BudgetSet(key=f"repo:{repo}", usd=1))["key"] == f"repo:{repo}"
    for op in (m.QueueLimit, m.QueueWeight):
        assert rig.admin.ask(op(key=f"repo:{repo}", number=2))["key"] == f"repo:{repo}"


def test_the_pause_of_one_that_was_removed_stays_on_its_address_and_a_resume_by_name_says_so(rig: Rig) -> None:
    register(rig)
    rig.admin.ask(m.QueuePause(repo="engine"))
    rig.admin.ask(m.RepoRemove(repo="engine"))
    refused = refusal(rig, m.QueuePause(repo="engine", paused=False))
    assert (refused.code, refused.field) == ("not_found", "repo")
    assert refused.message.endswith(f"; paused: repo:{URL}")
    assert rig.admin.ask(m.QueuePause(repo=URL, paused=False))["pauses"] == []
    assert refusal(rig, m.QueuePause(repo="engine", paused=False)).message.endswith("; paused: nothing")


def test_rules_that_an_older_version_took_for_a_name_of_none_can_be_taken_back(rig: Rig) -> None:
    batch = Batch()
    for kind in (RuleKind.pause, RuleKind.limit):
        rule = QueueRule(kind=kind, scope=RuleScope.repo, key="nope", number=1)
        batch.put("limits", rule.record_key, msgspec.msgpack.encode(rule))
    place = ("repo", "nope", BudgetPeriod.day)
    budget = BudgetRecord(scope="repo", key="nope", per=BudgetPeriod.day, limit=1)
    batch.put("meta", record_key(PREFIX, place), msgspec.msgpack.encode(budget))
    rig.store.commit(batch, rig.store.sequence + 1)
    rig.start()
    rig.admin.hello()
    assert rig.admin.ask(m.QueuePause(repo="nope", paused=False))["pauses"] == []
    rig.admin.ask(m.QueueLimit(key="repo:nope"))
    rig.admin.ask(m.BudgetSet(key="repo:nope", usd=None))
    assert (rig.hub.gates.rules, rig.hub.ledger.budgets) == ({}, {})


def test_one_that_tasks_name_is_removed_by_force_only_and_they_go_on_without_it(rig: Rig) -> None:
    box = rig.host("one")
    rig.host("two", agents=0)
    register(rig, hosts=("two",), checks=(TESTS,))
    task = rig.admin.submit(shell_task(repo="engine"))
    refused = refusal(rig, m.RepoRemove(repo="engine"))
    assert refused.code == "repo_in_use"
    assert f"task {task}" in refused.message
    assert "--force" in refused.message
    done = rig.admin.ask(m.RepoRemove(repo="engine", force=True))
    assert done == {"repo": "engine", "removed": True, "live_tasks": 1}
    assign = box.assigned()
    assert (assign.task, assign.repo_checks) == (task, ())
    assert refusal(rig, m.RepoShow(repo="engine")).code == "not_found"


def test_its_address_stays_while_tasks_name_it(rig: Rig) -> None:
    register(rig)
    task = rig.admin.submit(shell_task(repo="engine"))
    moved = m.RepoUpdate(repo="engine", url=MOVED)
    assert refusal(rig, moved).code == "repo_in_use"
    rig.admin.ask(m.TaskCancel(task=task))
    assert rig.admin.ask(moved)["url"] == MOVED


def rules(rig: Rig) -> dict[str, tuple[str, ...]]:
    """By kind, of the hub that runs and of one that starts on its store now, which has the same."""
    found: dict[str, tuple[str, ...]] = {}
    for kind, of_kind in rig.admin.ask(m.QueueRules()).items():
        if kind != "paused":
            found[kind] = tuple(f"{each['key']} {each.get('number', '')}".strip() for each in of_kind)
    budgets = rig.admin.ask(m.BudgetList())["budgets"]
    found["budgets"] = tuple(f"{each['key']} {each['per']} {each['usd']:.0f} {each['spent_usd']}" for each in budgets)
    twin = rig.twin()
    assert (twin.gates.rules, twin.ledger.budgets) == (rig.hub.gates.rules, rig.hub.ledger.budgets)
    assert +twin.ledger.sums.by_place == +rig.hub.ledger.sums.by_place
    assert cross_check(walk_store(rig.store)) == (0, [])
    return found


def paid_host(rig: Rig) -> HostEnd:
    return rig.host("paid", agents=(agent_offer("a", backends=(Backend.claude,)),))


def spend(rig: Rig, box: HostEnd, usd: float, repo: str = "engine") -> None:
    rig.admin.submit(complex_task(repo=repo))
    box.complete(box.take(), cost_usd=usd, backend=Backend.claude, model="m")


def test_a_repository_that_moves_takes_its_pause_limit_weight_and_budgets_along_and_says_so(rig: Rig) -> None:
    register(rig)
    spend(rig, paid_host(rig), 0.25)
    rig.admin.ask(m.QueueLimit(key="repo:engine", number=3))
    rig.admin.ask(m.QueueWeight(key="repo:engine", number=2))
    rig.admin.ask(m.QueuePause(repo="engine"))
    rig.admin.ask(m.BudgetSet(key="repo:engine", usd=5, per=BudgetPeriod.day))
    set_at = rig.admin.ask(m.QueueRules())["limits"][0]["set_at"]
    rig.advance(5000)
    answer = rig.admin.ask(m.RepoUpdate(repo="engine", url=MOVED))
    assert [(each["kind"], each["key"]) for each in answer["moved"]] == [
        (kind, f"repo:{MOVED}") for kind in ("pause", "limit", "weight", "budget")
    ]
    assert answer["stayed"] == []
    assert rules(rig) == {
        "pauses": (f"repo:{MOVED}",),
        "limits": (f"repo:{MOVED} 3",),
        "weights": (f"repo:{MOVED} 2",),
        "budgets": (f"repo:{MOVED} day 5 0.25",),
    }
    assert rig.admin.ask(m.QueueRules())["limits"][0]["set_at"] == set_at
    task = rig.admin.submit(shell_task(repo="engine"))
    box = rig.host()
    assert not has_work(box)
    rig.admin.ask(m.QueuePause(repo="engine", paused=False))
    assert box.assigned().task == task


def test_what_is_set_for_the_new_address_stands_and_the_answer_names_what_stayed(rig: Rig) -> None:
    register(rig)
    for key, number in (("repo:engine", 3), (f"repo:{MOVED}", 1)):
        rig.admin.ask(m.QueueLimit(key=key, number=number))
        rig.admin.ask(m.BudgetSet(key=key, usd=number, per=BudgetPeriod.day))
    rig.admin.ask(m.BudgetSet(key="repo:engine", usd=9, per=BudgetPeriod.ever))
    answer = rig.admin.ask(m.RepoUpdate(repo="engine", url=MOVED))
    assert [(each["kind"], each["key"], each.get("per")) for each in answer["moved"]] == [
        ("budget", f"repo:{MOVED}", "ever")
    ]
    assert [(each["kind"], each["key"], each.get("number", each.get("usd"))) for each in answer["stayed"]] == [
        ("limit", f"repo:{URL}", 3), ("budget", f"repo:{URL}", 3)
    ]  # fmt: skip
    assert rules(rig)["limits"] == (f"repo:{MOVED} 1", f"repo:{URL} 3")
    assert rules(rig)["budgets"] == (
        f"repo:{MOVED} day 1 0.0", f"repo:{MOVED} ever 9 0.0", f"repo:{URL} day 3 0.0"
    )  # fmt: skip


def test_what_was_spent_moves_with_a_repository_there_and_back_and_is_counted_once(rig: Rig) -> None:
    register(rig)
    box = paid_host(rig)
    rig.admin.ask(m.BudgetSet(key="repo:engine", usd=9, per=BudgetPeriod.ever))
    spend(rig, box, 1.0)
    rig.admin.ask(m.RepoUpdate(repo="engine", url=MOVED))
    spend(rig, box, 0.5)
    assert rules(rig)["budgets"] == (f"repo:{MOVED} ever 9 1.5",)
    rig.admin.ask(m.RepoUpdate(repo="engine", url=URL))
    assert rules(rig)["budgets"] == (f"repo:{URL} ever 9 1.5",)
    spend(rig, box, 0.25, MOVED)
    assert rules(rig)["budgets"] == (f"repo:{URL} ever 9 1.5",)
    rig.start()
    rig.admin.hello()
    assert rules(rig)["budgets"] == (f"repo:{URL} ever 9 1.5",)


def test_a_late_bill_counts_at_the_address_to_which_its_repository_has_moved(rig: Rig) -> None:
    register(rig)
    box = paid_host(rig)
    rig.admin.ask(m.BudgetSet(key="repo:engine", usd=9, per=BudgetPeriod.ever))
    task = rig.admin.submit(complex_task(repo="engine"))
    lost = box.take()
    rig.admin.ask(m.TaskCancel(task=task))
    rig.admin.ask(m.RepoUpdate(repo="engine", url=MOVED))
    assert rules(rig)["budgets"] == (f"repo:{MOVED} ever 9 2.0",)
    box.complete(lost, cost_usd=0.5, backend=Backend.claude, model="m")
    assert rules(rig)["budgets"] == (f"repo:{MOVED} ever 9 0.5",)


def test_an_ended_task_that_is_retried_after_its_repository_moved_is_under_nothing_that_went_with_it(rig: Rig) -> None:
    register(rig)
    task = rig.admin.submit(shell_task(repo="engine"))
    rig.admin.ask(m.QueuePause(repo="engine"))
    rig.admin.ask(m.TaskCancel(task=task))
    rig.admin.ask(m.RepoUpdate(repo="engine", url=MOVED))
    rig.admin.ask(m.TaskRetry(task=task))
    assert rig.host().assigned().task == task
    assert rig.admin.ask(m.TaskGet(task=task))["repo"] == URL


def test_what_was_set_for_another_spelling_goes_to_the_one_that_is_registered(rig: Rig) -> None:
    box, other = paid_host(rig), "git@git.example:team/engine"
    rig.admin.ask(m.QueueLimit(key=f"repo:{other}", number=3))
    rig.admin.ask(m.BudgetSet(key=f"repo:{other}", usd=5, per=BudgetPeriod.ever))
    rig.admin.ask(m.QueueLimit(key=f"repo:{MOVED}", number=1))
    spend(rig, box, 0.25, other)
    answer = register(rig)
    assert [(each["kind"], each["key"]) for each in answer["moved"]] == [
        ("limit", f"repo:{URL}"), ("budget", f"repo:{URL}")
    ]  # fmt: skip
    assert answer["stayed"] == []
    assert rules(rig)["limits"] == (f"repo:{MOVED} 1", f"repo:{URL} 3")
    spend(rig, box, 0.5, other)
    assert rules(rig)["budgets"] == (f"repo:{URL} ever 5 0.75",)


def test_an_address_is_not_registered_while_tasks_are_live_that_have_another_spelling(rig: Rig) -> None:
    task = rig.admin.submit(shell_task(repo=SSH))
    refused = refusal(rig, m.RepoAdd(name="engine", url=URL))
    assert (refused.code, refused.field) == ("repo_in_use", "url")
    assert f"{SSH} is this repository too, and named by task {task}; " in refused.message
    assert f"or give the address as {SSH}" in refused.message
    assert rig.admin.ask(m.RepoList())["repos"] == []
    assert register(rig, url=SSH)["live_tasks"] == 1
    rig.admin.ask(m.QueuePause(repo="engine"))
    assert not has_work(rig.host())


def test_of_two_spellings_that_live_tasks_have_neither_is_registered_until_one_has_none(rig: Rig) -> None:
    tasks = [rig.admin.submit(shell_task(repo=repo)) for repo in (URL, SSH, URL.removesuffix(".git"))]
    refused = refusal(rig, m.RepoAdd(name="engine", url=URL))
    assert (f"tasks {tasks[1]}, {tasks[2]}; " in refused.message, "or give" in refused.message) == (True, False)
    for task in tasks[1:]:
        rig.admin.ask(m.TaskCancel(task=task))
    assert register(rig)["live_tasks"] == 1


def test_a_repository_does_not_move_to_an_address_of_which_live_tasks_have_another_spelling(rig: Rig) -> None:
    register(rig, url=MOVED)
    rig.admin.submit(shell_task(repo=SSH))
    refused = refusal(rig, m.RepoUpdate(repo="engine", url=URL))
    assert (refused.code, refused.field) == ("repo_in_use", "url")
    assert rig.admin.ask(m.RepoShow(repo="engine"))["url"] == MOVED
    assert rig.admin.ask(m.RepoUpdate(repo="engine", url=SSH))["live_tasks"] == 1


def test_what_was_set_for_a_spelling_of_the_new_address_goes_to_it_too(rig: Rig) -> None:
    register(rig, url=MOVED)
    rig.admin.ask(m.QueueLimit(key="repo:engine", number=3))
    rig.admin.ask(m.QueueWeight(key="repo:engine", number=2))
    rig.admin.ask(m.QueueLimit(key=f"repo:{SSH}", number=1))
    answer = rig.admin.ask(m.RepoUpdate(repo="engine", url=URL))
    assert [(each["kind"], each["key"]) for each in answer["stayed"]] == [("limit", f"repo:{MOVED}")]
    assert (rules(rig)["limits"], rules(rig)["weights"]) == (
        (f"repo:{MOVED} 3", f"repo:{URL} 1"), (f"repo:{URL} 2",)
    )  # fmt: skip


def test_what_binds_a_repository_stands_when_its_address_is_spelled_anew(rig: Rig) -> None:
    register(rig)
    rig.admin.ask(m.QueueLimit(key="repo:engine", number=3))
    answer = rig.admin.ask(m.RepoUpdate(repo="engine", url=SSH))
    assert ([each["key"] for each in answer["moved"]], answer["stayed"]) == ([f"repo:{SSH}"], [])
    rig.admin.submit(shell_task(repo=SSH))
    assert refusal(rig, m.RepoUpdate(repo="engine", url=URL)).code == "repo_in_use"


def test_an_ended_task_that_is_retried_comes_under_what_its_repository_has_by_now(rig: Rig) -> None:
    task = rig.admin.submit(shell_task(repo=SSH))
    rig.admin.ask(m.TaskCancel(task=task))
    register(rig)
    rig.admin.ask(m.QueuePause(repo="engine"))
    rig.admin.ask(m.TaskRetry(task=task))
    box = rig.host()
    assert not has_work(box)
    rig.start()
    rig.admin.hello()
    rig.hub.validate()
    rig.admin.ask(m.QueuePause(repo="engine", paused=False))
    assert rig.host("new").assigned().task == task


def test_what_was_spent_under_another_spelling_counts_for_a_budget_that_is_set_later(rig: Rig) -> None:
    spend(rig, paid_host(rig), 0.25, SSH)
    assert not {"moved", "stayed"} & register(rig).keys()
    rig.admin.ask(m.BudgetSet(key="repo:engine", usd=5, per=BudgetPeriod.ever))
    assert rules(rig)["budgets"] == (f"repo:{URL} ever 5 0.25",)


def test_a_rule_that_is_taken_back_is_the_one_that_is_listed_under_that_very_text(rig: Rig) -> None:
    for key in (URL, SSH):
        rig.admin.ask(m.QueuePause(repo=key))
        rig.admin.ask(m.QueueLimit(key=f"repo:{key}", number=3))
        rig.admin.ask(m.BudgetSet(key=f"repo:{key}", usd=5, per=BudgetPeriod.day))
    assert [each["kind"] for each in register(rig)["stayed"]] == ["pause", "limit", "budget"]
    taken_back = m.QueuePause(repo=SSH, paused=False), m.QueueLimit(key=f"repo:{SSH}")
    for op in (*taken_back, m.BudgetSet(key=f"repo:{SSH}", usd=None, per=BudgetPeriod.day)):
        rig.admin.ask(op)
    assert rules(rig) == {
        "pauses": (f"repo:{URL}",),
        "limits": (f"repo:{URL} 3",),
        "weights": (),
        "budgets": (f"repo:{URL} day 5 0.0",),
    }
    for op in taken_back:  # no such text is listed any more: then it is a spelling of the registered one
        rig.admin.ask(op)
    assert (rules(rig)["pauses"], rules(rig)["limits"]) == ((), ())


def test_registering_speaks_of_what_moved_only_where_something_was_set(rig: Rig) -> None:
    assert not {"moved", "stayed"} & register(rig).keys()


def test_only_a_change_of_the_address_speaks_of_what_moved(rig: Rig) -> None:
    register(rig)
    for op in (m.RepoUpdate(repo="engine", name="motor"), m.RepoUpdate(repo="motor", url=URL)):
        assert "moved" not in rig.admin.ask(op)


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"name": "a/b"}, "invalid", "name"),
        ({"name": "-x"}, "invalid", "name"),
        ({"url": "--upload-pack=touch x"}, "invalid", "url"),
        ({"url": "https://x:secret@git.example/a"}, "credentials_in_url", "url"),
        ({"url": "http://git.example/a"}, "invalid", "url"),
        ({"url": "https://169.254.169.254/a"}, "address_refused", "url"),
        ({"url": "ext::sh -c true"}, "invalid", "url"),
        ({"url": "engine"}, "invalid", "url"),
        ({"default_branch": "--exec"}, "invalid", "default_branch"),
        ({"checks": (CheckSpec(kind=CheckKind.file_exists, target="../x"),)}, "path_outside", "checks[0].target"),
        ({"hosts": ("nowhere",)}, "not_found", "host"),
    ],
)
def test_what_cannot_be_registered_is_refused_with_its_field(
    rig: Rig, fields: dict[str, Any], code: str, field: str
) -> None:
    refused = refusal(rig, m.RepoAdd(**{"name": "engine", "url": URL, **fields}))
    assert (refused.code, refused.field) == (code, field)
    assert "secret" not in refused.message
    assert rig.admin.ask(m.RepoList())["repos"] == []


def test_a_name_and_a_place_are_registered_once(rig: Rig) -> None:
    register(rig)
    assert refusal(rig, m.RepoAdd(name="engine", url="https://git.example/b")).code == "name_taken"
    known = refusal(rig, m.RepoAdd(name="other", url="git@git.example:team/engine"))
    assert (known.code, "engine" in known.message) == ("repo_known", True)


def test_a_task_with_credentials_in_its_address_is_refused_without_showing_them(rig: Rig) -> None:
    refused = refusal(rig, m.Submit(tasks=(shell_task(repo="https://tok3n@git.example/a"),)))
    assert (refused.code, "tok3n" in refused.message) == ("credentials_in_url", False)


def test_a_name_widens_nothing_a_local_repository_stays_with_operate_and_admin(rig: Rig) -> None:
    register(rig, url="/srv/engine.git")
    someone = rig.member(Role.submit)
    with pytest.raises(Refused) as refused:
        someone.ask(m.Submit(tasks=(shell_task(repo="engine"),)))
    assert refused.value.code == "forbidden"
