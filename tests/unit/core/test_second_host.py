"""A second host: who may verify whose work, what its report does to the task, and how its place goes to another."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.core.effects import Delete, Put, key_u64, key_u64x2
from agentcom.core.second_host import PREFIX
from agentcom.errors import Refused
from agentcom.model import (
    CheckKind,
    CheckReport,
    CheckStatus,
    FailureClass,
    Iteration,
    ResultStatus,
    TaskResult,
    TaskRow,
    TaskSpec,
    Tier,
)
from agentcom.second import SecondRecord
from tests.core_rig import HostEnd, Rig
from tests.factories import complex_task, error, result, shell_task

REPO = "https://example.org/engine.git"
COMMIT, TREE, BASE, BRANCH = "c" * 40, "d" * 40, "b" * 40, "agentcom/1/1-run-true"
PASSED, FAILED = CheckStatus.passed, CheckStatus.failed


@pytest.fixture
def rig() -> Rig:
    return Rig()


def report(*statuses: CheckStatus, **fields: Any) -> TaskResult:
    checks = tuple(
        CheckReport(kind=CheckKind.test_passes, target=f"pytest {n}", status=status)
        for n, status in enumerate(statuses or (PASSED,))
    )
    is_good = all(status is PASSED for status in statuses)
    found = result(
        status=ResultStatus.verified if is_good else ResultStatus.partial_pass,
        iterations=(Iteration(n=1, status="pass" if is_good else "fail", checks=checks),),
        commit=COMMIT,
        tree=TREE,
        base=BASE,
        branch=BRANCH,
        pushed=True,
    )
    return msgspec.structs.replace(found, **fields)


def wanted(spec: TaskSpec | None = None, **fields: Any) -> TaskSpec:
    return msgspec.structs.replace(spec or shell_task(), repo=REPO, second_host=True, **fields)


def first(rig: Rig, box: HostEnd, spec: TaskSpec | None = None) -> int:
    """A task whose work `box` has done, verified and pushed."""
    number = rig.admin.submit(spec or wanted())
    box.send(box.ended(box.take(), "completed", report(tokens_in=5)))
    return number


def why(rig: Rig, task: int) -> dict[str, Any]:
    found: dict[str, Any] = rig.admin.ask(m.TaskWhy(task=task))
    return found


# --- the way through ------------------------------------------------------------------------------------


def test_verified_work_goes_back_to_its_lane_for_any_host_but_the_one_that_did_it(rig: Rig) -> None:
    box = rig.host("box", 2)
    number = first(rig, box)
    assert [ack.verdict for ack in rig.sent(m.ResultAck)] == ["accepted"]
    shown = rig.admin.task(number)
    assert (shown["state"], shown["attempt"], shown["tier"]) == ("ready", 1, "trivial")
    assert shown["second_look"] == {
        "attempt": 1, "host": "box", "commit": COMMIT, "tries": 0, "excluded": [], "last": None,
    }  # fmt: skip
    assert rig.sent(m.Assign) == []
    found = why(rig, number)
    assert found["reason"].startswith(f"attempt 1 on box is verified; a second host has to verify {COMMIT[:12]}")
    assert [(host["host"], host["fails"]) for host in found["hosts"]] == [("box", "other_host")]


def test_work_that_is_done_past_its_time_to_live_expires_before_a_second_host_could_verify_it(rig: Rig) -> None:
    box = rig.host("box")
    number = rig.admin.submit(wanted(ttl_s=5))
    assign = box.take()
    rig.clock.advance(6_000)
    box.send(box.ended(assign, "completed", report()))
    told = rig.admin.ask(m.TaskStory(task=number))["entries"]
    assert told[-1]["event"] == "expired"
    assert told[-1]["cause"] == "its time to live was over before a second host could verify its work"
    assert rig.admin.task(number)["error"]["code"] == "ttl"


def test_the_second_host_is_told_what_to_verify_and_its_agreement_completes_the_task(rig: Rig) -> None:
    box = rig.host("box")
    number = first(rig, box)
    den = rig.host("den")
    assign = den.take()
    assert assign.verifies is not None
    assert (assign.attempt, assign.verifies.attempt, assign.verifies.host) == (2, 1, "box")
    assert (assign.verifies.commit, assign.verifies.tree, assign.verifies.branch) == (COMMIT, TREE, BRANCH)
    assert (assign.route.backend, assign.budget_usd) == ("shell", None)
    assert rig.admin.state(number) == "working"
    effects = den.send(den.ended(assign, "completed", report(pull_request="https://forge/1")))
    del effects
    assert rig.admin.state(number) == "completed"
    done = rig.admin.task(number)["result"]
    assert (done["status"], done["tokens_in"], done["pull_request"]) == ("verified", 5, "https://forge/1")
    second = done["second_host"]
    assert (second["host"], second["attempt"], second["verdict"], second["commit"]) == ("den", 2, "agrees", COMMIT)
    assert [check["status"] for check in second["checks"]] == ["pass"]
    reports = rig.admin.ask(m.TaskReports(task=number))["attempts"]
    assert [(one["host"], one["outcome"]) for one in reports] == [("box", "completed"), ("den", "completed")]
    assert rig.store.get("meta", PREFIX + key_u64(number)) is None


def test_the_steps_are_exactly_these_records(rig: Rig) -> None:
    box, den = rig.host("box"), rig.host("den")
    number = rig.admin.submit(wanted())
    one, other = (box, den) if any(isinstance(each, m.Assign) for each in box.received) else (den, box)
    event = one.event(one.ended(one.take(), "completed", report()))
    effects = rig.hub.handle(rig._looked_up(event, rig.clock.now()), rig.clock.now())
    puts = [(each.database, each.key) for each in effects if isinstance(each, Put)]
    assert ("reports", key_u64x2(number, 1)) in puts
    assert ("attempts", key_u64x2(number, 1)) in puts
    assert ("meta", PREFIX + key_u64(number)) in puts
    assert puts[-1] == ("tasks", key_u64(number))
    rig.hub.validate()
    rig._commit(effects)
    rig.hub.end_tick()
    rig.tick()
    event = other.event(other.ended(other.take(), "completed", report()))
    effects = rig.hub.handle(rig._looked_up(event, rig.clock.now()), rig.clock.now())
    gone = [(each.database, each.key) for each in effects if isinstance(each, Delete)]
    assert gone == [("meta", PREFIX + key_u64(number)), ("lanes", key_u64(number))]


def test_the_task_shows_its_own_tier_again_when_it_is_over(rig: Rig) -> None:
    rig.host("box")
    number = rig.admin.submit(wanted(complex_task()))
    box = next(caller for caller in rig._callers.values() if isinstance(caller, HostEnd))
    assign = box.take()
    assert assign.tier is Tier.complex
    box.send(box.ended(assign, "completed", report(backend="claude", model="opus", cost_usd=0.5)))
    den = rig.host("den")
    second = den.take()
    assert (second.tier, second.budget_usd) == (Tier.trivial, None)
    den.send(den.ended(second, "completed", report()))
    shown = rig.admin.task(number)
    assert (shown["state"], shown["tier"], shown["result"]["cost_usd"]) == ("completed", "complex", 0.5)
    stored = rig.store.get("tasks", key_u64(number))
    assert stored is not None
    assert msgspec.msgpack.decode(stored, type=TaskRow).tier is Tier.complex


def test_needs_of_the_work_alone_do_not_bind_the_second_host(rig: Rig) -> None:
    box = rig.host("box", capabilities=("docker",))
    number = first(rig, box, wanted(needs=("host:box", "docker")))
    plain = rig.host("plain")
    assert not [each for each in plain.received if isinstance(each, m.Assign)]
    den = rig.host("den", capabilities=("docker",))
    assert den.take().task == number


def test_a_host_that_the_task_rules_out_does_not_verify_it_either(rig: Rig) -> None:
    number = first(rig, rig.host("box"), wanted(needs=("not-host:den",)))
    den = rig.host("den")
    assert not [each for each in den.received if isinstance(each, m.Assign)]
    attic = rig.host("attic")
    for _ in range(limits.SECOND_HOST_TRIES_MAX):
        attic.send(attic.ended(attic.take(), "failed", error=error(FailureClass.configuration, "repository_denied")))
        rig.advance(60_000)
        for each in (den, attic):
            each.beat()
    rig.admin.ask(m.TaskRelease(task=number))
    assert attic.take().task == number
    assert not [each for each in den.received if isinstance(each, m.Assign)]


# --- it does not agree ----------------------------------------------------------------------------------

DISAGREES = {
    "a check": (report(PASSED, FAILED), "test_passes pytest 1: fail"),
    "no evidence": (report(CheckStatus.no_evidence), "test_passes pytest 0: no_evidence"),
    "the tree": (report(tree="e" * 40), "the tree of cccccccccccc is"),
    "the commit": (report(commit="e" * 40), f"{BRANCH} at the repository has eeeeeeeeeeee"),
    "no commit": (report(commit=None, tree=None, iterations=()), f"{BRANCH} at the repository has no such commit"),
}


@pytest.mark.parametrize("what", DISAGREES)
def test_disagreement_ends_in_a_class_of_its_own_with_both_reports(what: str, rig: Rig) -> None:
    found, said = DISAGREES[what]
    number = first(rig, rig.host("box"))
    den = rig.host("den")
    den.send(den.ended(den.take(), "completed", found))
    told = [each for each in rig.published("task") if each["event"] == "second_host_disagreed"]
    assert [(each["task"], each["host"], each["second"]) for each in told] == [(number, "box", "den")]
    shown = rig.admin.task(number)
    assert (shown["state"], shown["error"]["class"], shown["error"]["code"]) == (
        "dead", FailureClass.disagreement, "second_host_disagrees",
    )  # fmt: skip
    assert said in shown["error"]["message"]
    assert shown["result"]["commit"] == COMMIT
    assert shown["result"]["second_host"]["verdict"] == "disagrees"
    assert said in shown["result"]["second_host"]["why"]
    reports = rig.admin.ask(m.TaskReports(task=number))["attempts"]
    assert [one["result"]["status"] for one in reports] == ["verified", found.status]


def test_a_task_that_is_retried_after_that_begins_with_its_work_again(rig: Rig) -> None:
    number = first(rig, rig.host("box"))
    den = rig.host("den")
    den.send(den.ended(den.take(), "completed", report(FAILED)))
    rig.admin.ask(m.TaskRetry(task=number))
    assigns = [each for each in rig.sent(m.Assign) if each.task == number]
    assert [(each.attempt, each.verifies) for each in assigns] == [(3, None)]


# --- it cannot tell -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [CheckStatus.refused, CheckStatus.error, CheckStatus.timed_out])
def test_a_host_that_cannot_run_a_check_gives_its_place_to_another(status: CheckStatus, rig: Rig) -> None:
    number = first(rig, rig.host("box"))
    den, attic = rig.host("den"), rig.host("attic")
    den.send(den.ended(den.take(), "completed", report(PASSED, status)))
    assert rig.admin.task(number)["second_look"]["excluded"] == ["den"]
    rig.advance(5_000)
    assert attic.take().attempt == 3
    assert not [each for each in den.received if isinstance(each, m.Assign)]


@pytest.mark.parametrize("failure_class", [FailureClass.configuration, FailureClass.task_error])
def test_one_without_access_or_too_slow_gives_its_place_to_another_and_spends_no_retry(
    failure_class: FailureClass, rig: Rig
) -> None:
    number = first(rig, rig.host("box"))
    den, attic = rig.host("den"), rig.host("attic")
    den.send(den.ended(den.take(), "failed", error=error(failure_class, "repository_denied")))
    shown = rig.admin.task(number)
    assert (shown["state"], shown["retries_used"]) == ("delayed", 0)
    rig.advance(5_000)
    attic.send(attic.ended(attic.take(), "completed", report()))
    assert rig.admin.state(number) == "completed"


def test_one_that_dies_gives_its_place_to_another_and_its_late_report_changes_nothing(rig: Rig) -> None:
    number = first(rig, rig.host("box"))
    den = rig.host("den")
    assign = den.take()
    attic = rig.host("attic")
    rig.clock.advance(30_000)
    attic.beat()
    rig.advance(20_000)
    assert rig.admin.state(number) == "delayed"
    attic.beat()
    rig.advance(5_000)
    other = attic.take()
    den.send(den.ended(assign, "completed", report(FAILED)))
    assert [ack.verdict for ack in rig.sent(m.ResultAck)] == ["stale"]
    assert rig.admin.state(number) == "working"
    attic.send(attic.ended(other, "completed", report()))
    assert rig.admin.state(number) == "completed"
    den.send(den.ended(assign, "completed", report(FAILED)))
    assert rig.admin.state(number) == "completed"


def test_the_only_other_host_may_try_again(rig: Rig) -> None:
    number = first(rig, rig.host("box"))
    den = rig.host("den")
    den.send(den.ended(den.take(), "failed", error=error(FailureClass.infrastructure, "repository_unreachable")))
    assert rig.admin.task(number)["second_look"]["excluded"] == []
    rig.advance(5_000)
    den.send(den.ended(den.take(), "completed", report()))
    assert rig.admin.state(number) == "completed"


def test_after_enough_tries_the_task_is_held_and_a_release_lets_every_other_host_try_anew(rig: Rig) -> None:
    number = first(rig, rig.host("box"))
    den = rig.host("den")
    for _ in range(limits.SECOND_HOST_TRIES_MAX):
        den.send(den.ended(den.take(), "failed", error=error(FailureClass.configuration, "repository_denied")))
        rig.advance(60_000)
        den.beat()
    shown = rig.admin.task(number)
    assert (shown["state"], shown["error"]["code"]) == ("held", "second_host_failed")
    assert "den: it ended with 1" in shown["error"]["message"]
    rig.admin.ask(m.TaskRelease(task=number))
    assert rig.admin.task(number)["second_look"]["tries"] == 0
    den.send(den.ended(den.take(), "completed", report()))
    assert rig.admin.state(number) == "completed"


# --- what is not verified, and what is left -------------------------------------------------------------


def test_work_that_is_not_verified_needs_no_second_host(rig: Rig) -> None:
    box = rig.host("box")
    number = rig.admin.submit(wanted())
    box.send(box.ended(box.take(), "completed", report(FAILED)))
    shown = rig.admin.task(number)
    assert (shown["state"], shown["result"]["status"]) == ("completed", "partial_pass")


def test_verified_work_that_was_not_pushed_is_held_with_what_to_do(rig: Rig) -> None:
    box = rig.host("box")
    number = rig.admin.submit(wanted())
    box.send(box.ended(box.take(), "completed", report(pushed=False)))
    shown = rig.admin.task(number)
    assert (shown["state"], shown["error"]["code"]) == ("held", "second_host_not_pushed")


def test_a_task_without_a_repository_cannot_ask_for_one(rig: Rig) -> None:
    with pytest.raises(Refused) as refused:
        rig.admin.submit(shell_task(second_host=True))
    assert (refused.value.code, refused.value.field) == ("invalid", "tasks[0].second_host")


def test_a_cancelled_wait_leaves_nothing_behind(rig: Rig) -> None:
    number = first(rig, rig.host("box"))
    rig.admin.ask(m.TaskCancel(task=number))
    assert rig.admin.task(number)["tier"] == "trivial"
    assert rig.hub.tasks.seconds == {}
    assert rig.store.get("meta", PREFIX + key_u64(number)) is None


def test_a_wait_and_an_open_verification_survive_a_restart_of_the_hub(rig: Rig) -> None:
    box = rig.host("box")
    number = first(rig, box)
    rig.start()
    rig.admin.hello()
    assert rig.hub.tasks.seconds[number] == SecondRecord(
        task=number, attempt=1, host=1, host_name="box", agent="box-1", commit=COMMIT, tree=TREE, base=BASE,
        branch=BRANCH, tier="trivial",
    )  # fmt: skip
    den = rig.host("den")
    assign = den.take()
    rig.start()
    rig.admin.hello()
    den.hello(attempts=(m.AttemptHeld(task=assign.task, attempt=assign.attempt, state="running"),))
    den.send(den.ended(assign, "completed", report()))
    assert rig.admin.state(number) == "completed"


def test_a_task_that_does_not_ask_has_no_record(rig: Rig) -> None:
    box = rig.host("box")
    number = rig.admin.submit(shell_task(repo=REPO))
    assert rig.store.get("meta", PREFIX + key_u64(number)) is None
    box.send(box.ended(box.take(), "completed", report()))
    shown = rig.admin.task(number)
    assert (shown["state"], shown["second_look"], shown["result"]["second_host"]) == ("completed", None, None)
