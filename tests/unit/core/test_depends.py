"""Tasks that wait for others: forward only, released when all have completed, held by one that ended otherwise."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom import messages as m
from agentcom.clock import rfc3339
from agentcom.core import invariants
from agentcom.core.effects import key_u64x2
from agentcom.errors import Refused
from agentcom.model import Role
from tests.core_rig import HostEnd, Rig
from tests.factories import result, settings, shell_task, task

HOUR_MS = 3_600_000
PURGED_ONE = {"purged": 1, "kept": [], "next_cursor": None}


@pytest.fixture
def rig() -> Rig:
    return Rig()


def chain(rig: Rig, length: int, **fields: Any) -> list[int]:
    """Tasks of one batch, each after the one before it."""
    specs = [shell_task(depends_on=(-1,) if n else (), **fields) for n in range(length)]
    return [one["id"] for one in rig.admin.ask(m.Submit(tasks=tuple(specs)))["tasks"]]


def states(rig: Rig, *tasks: int) -> list[str]:
    return [rig.admin.state(number) for number in tasks]


def finish(box: HostEnd) -> int:
    assign = box.take()
    box.complete(assign)
    return assign.task


def refused(rig: Rig, *specs: Any) -> tuple[str, str | None]:
    with pytest.raises(Refused) as found:
        rig.admin.submit(*specs)
    assert rig.hub.tasks.waiting.depends.edges() == []
    return found.value.code, found.value.field


# --- submit ---------------------------------------------------------------------------------------------


def test_a_task_starts_when_all_that_it_waits_for_have_completed(rig: Rig) -> None:
    first, second = rig.admin.submit(shell_task()), rig.admin.submit(shell_task())
    last = rig.admin.submit(shell_task(depends_on=(first, second)))
    assert rig.admin.task(last)["waits_for"] == [first, second]
    box = rig.host()
    assert finish(box) == first
    assert states(rig, second, last) == ["assigned", "waiting"]
    assert rig.admin.task(last)["waits_for"] == [second]
    finish(box)
    assert rig.admin.task(last)["waits_for"] == []
    assert finish(box) == last
    assert rig.store.count("depends") == 0
    assert [each["event"] for each in rig.admin.ask(m.TaskStory(task=last))["entries"]][:3] == [
        "submitted",
        "dependency_met",
        "dependency_met",
    ]


def test_entries_of_a_batch_name_earlier_ones_by_their_distance(rig: Rig) -> None:
    specs = (shell_task(), shell_task(), shell_task(depends_on=(-1, -2)), shell_task(depends_on=(-1,)))
    made = rig.admin.ask(m.Submit(tasks=specs))["tasks"]
    assert [one["state"] for one in made] == ["ready", "ready", "waiting", "waiting"]
    assert [rig.admin.task(one["id"])["depends_on"] for one in made] == [[], [], [2, 1], [3]]


def test_a_known_key_stands_for_its_first_task_in_a_reference(rig: Rig) -> None:
    known = rig.admin.submit(shell_task(idempotency_key="k"))
    specs = (
        shell_task(idempotency_key="k"),
        shell_task(idempotency_key="l"),
        shell_task(idempotency_key="l"),
        shell_task(depends_on=(-1, -3)),
    )
    made = rig.admin.ask(m.Submit(tasks=specs))["tasks"]
    assert [one["id"] for one in made] == [known, 2, 2, 3]
    assert rig.admin.task(3)["waits_for"] == [known, 2]


def test_a_dependency_that_has_completed_is_met(rig: Rig) -> None:
    box = rig.host()
    first = rig.admin.submit(shell_task())
    finish(box)
    assert rig.admin.state(rig.admin.submit(shell_task(depends_on=(first,)))) == "assigned"
    assert rig.store.count("depends") == 0


def test_a_dependency_that_completes_in_the_tick_of_the_submit_is_met(rig: Rig) -> None:
    box = rig.host()
    first = rig.admin.submit(shell_task())
    ended = box.event(box.ended(box.take(), "completed", result()))
    request = rig.admin.request(m.Submit(tasks=(task(depends_on=(first,)),)))
    rig.tick(ended, rig.admin.event(request))
    assert rig.admin.answer(request.id)["tasks"][0]["state"] == "ready"


def test_a_dependency_that_is_dead_holds_the_task_from_the_start(rig: Rig) -> None:
    first = rig.admin.submit(task())
    rig.admin.ask(m.TaskCancel(task=first))
    made = rig.admin.ask(m.Submit(tasks=(task(depends_on=(first,)),)))["tasks"][0]
    assert made["state"] == "held"
    assert f"task {first}" in rig.admin.task(made["id"])["error"]["message"]


@pytest.mark.parametrize(
    ("references", "code"),
    [
        ((0,), "cycle"),
        ((-2,), "invalid"),
        ((-1, 99), "not_found"),
        ((2,), "cycle"),
        ((3,), "cycle"),
        ((1,), "cycle"),
    ],
)
def test_a_reference_that_points_nowhere_or_forward_takes_none_of_the_batch(
    rig: Rig, references: tuple[int, ...], code: str
) -> None:
    found = refused(rig, task(), task(depends_on=references), task())
    assert found == (code, f"tasks[1].depends_on[{len(references) - 1}]")
    assert rig.hub.tasks.next_id == 1


def test_a_task_that_waits_for_itself_by_its_key_is_refused(rig: Rig) -> None:
    known = rig.admin.submit(task(idempotency_key="k"))
    code, field = refused(rig, task(idempotency_key="k", depends_on=(known,)))
    assert (code, field) == ("cycle", "tasks[0].depends_on")


def test_others_tasks_do_not_exist_for_the_role_submit(rig: Rig) -> None:
    live, final = rig.admin.submit(task(), task()), 2
    rig.admin.ask(m.TaskCancel(task=final))
    ann = rig.member(Role.submit, "ann")
    for number in (live, final):
        with pytest.raises(Refused) as found:
            ann.submit(task(depends_on=(number,)))
        assert found.value.code == "not_found"
    assert ann.task(ann.submit(task(), task(depends_on=(-1,))) + 1)["state"] == "waiting"


# --- what ends otherwise --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["dead", "cancelled", "expired"])
def test_a_dependency_that_ends_otherwise_holds_its_dependants_and_is_named(rig: Rig, end: str) -> None:
    first = rig.admin.submit(shell_task(max_retries=0, ttl_s=60))
    second, third = (rig.admin.submit(task(depends_on=(one,))) for one in (first, first + 1))
    if end == "dead":
        box = rig.host()
        box.fail(box.take())
    elif end == "cancelled":
        rig.admin.ask(m.TaskCancel(task=first))
    else:
        rig.advance(60_000)
    assert states(rig, first, second, third) == [end, "held", "waiting"]
    error = rig.admin.task(second)["error"]
    assert (error["code"], error["class"]) == ("dependency_failed", "configuration")
    assert error["message"].startswith(f"task {first}, which it waits for, is {end}")


def test_a_retry_of_the_dependency_lets_its_dependants_wait_again(rig: Rig) -> None:
    first, second, third = chain(rig, 3)
    rig.admin.ask(m.TaskCancel(task=first))
    assert states(rig, second, third) == ["held", "waiting"]
    rig.admin.ask(m.TaskRetry(task=first))
    assert states(rig, first, second, third) == ["ready", "waiting", "waiting"]
    assert rig.admin.task(second)["error"] is None
    box = rig.host()
    assert [finish(box) for _ in range(3)] == [first, second, third]


def test_a_task_with_two_failed_dependencies_is_held_until_both_are_retried(rig: Rig) -> None:
    first, second = rig.admin.submit(task(), task()), 2
    last = rig.admin.submit(task(depends_on=(first, second)))
    for number in (first, second):
        rig.admin.ask(m.TaskCancel(task=number))
    rig.admin.ask(m.TaskRetry(task=first))
    assert rig.admin.state(last) == "held"
    assert f"task {second}" in rig.admin.task(last)["error"]["message"]
    rig.admin.ask(m.TaskRetry(task=second))
    assert rig.admin.state(last) == "waiting"


def test_a_bulk_retry_of_dependant_and_dependency_in_either_order_lets_both_live(rig: Rig) -> None:
    first, second = chain(rig, 2)
    for order in ((first, second), (second, first)):
        for number in (second, first):
            rig.admin.ask(m.TaskCancel(task=number))
        rig.admin.ask(m.DeadRetry(tasks=order))
        assert states(rig, first, second) == ["ready", "waiting"]


def test_a_retried_dependant_waits_again(rig: Rig) -> None:
    first, second = chain(rig, 2)
    rig.admin.ask(m.TaskCancel(task=second))
    rig.admin.ask(m.TaskRetry(task=second))
    assert states(rig, first, second) == ["ready", "waiting"]
    rig.admin.ask(m.TaskCancel(task=second))
    rig.admin.ask(m.TaskCancel(task=first))
    rig.admin.ask(m.TaskRetry(task=second))
    assert rig.admin.state(second) == "held"


def test_a_dependant_that_was_cancelled_needs_no_dependency_that_completed_meanwhile(rig: Rig) -> None:
    first, second = chain(rig, 2)
    rig.admin.ask(m.TaskCancel(task=second))
    box = rig.host()
    assert finish(box) == first
    rig.admin.ask(m.TaskRetry(task=second))
    assert rig.admin.state(second) == "assigned"


# --- held, purged, timed --------------------------------------------------------------------------------


def test_a_waiting_task_can_be_held_and_waits_again_when_it_is_released(rig: Rig) -> None:
    _first, second = chain(rig, 2)
    rig.admin.ask(m.TaskHold(task=second, reason="not yet"))
    rig.admin.ask(m.TaskRelease(task=second))
    assert rig.admin.state(second) == "waiting"
    rig.admin.ask(m.TaskHold(task=second, reason="not yet"))
    box = rig.host()
    finish(box)
    assert rig.admin.state(second) == "held"
    rig.admin.ask(m.TaskRelease(task=second))
    assert rig.admin.state(second) == "assigned"


def test_a_task_held_by_its_dependency_is_not_released_around_it(rig: Rig) -> None:
    first, second = chain(rig, 2)
    rig.admin.ask(m.TaskCancel(task=first))
    with pytest.raises(Refused, match=f"task {first}, which did not complete") as found:
        rig.admin.ask(m.TaskRelease(task=second))
    assert found.value.code == "dependency_failed"
    assert rig.admin.state(second) == "held"


def test_a_dependency_that_is_waited_for_is_not_purged(rig: Rig) -> None:
    first, second = chain(rig, 2)
    rig.admin.ask(m.TaskCancel(task=first))
    with pytest.raises(Refused, match=f"waited for by task {second}") as found:
        rig.admin.ask(m.DeadPurge(tasks=(first,)))
    assert found.value.code == "has_dependants"
    rig.admin.ask(m.TaskCancel(task=second))
    assert rig.admin.ask(m.DeadPurge(tasks=(first,))) == PURGED_ONE
    rig.admin.ask(m.TaskRetry(task=second))
    assert rig.admin.state(second) == "held"  # what it waited for is gone, and never completed
    assert rig.admin.task(second)["error"]["code"] == "dependency_gone"
    rig.admin.ask(m.TaskCancel(task=second))
    rig.admin.ask(m.DeadPurge(tasks=(second,)))
    assert rig.store.count("depends") == 0
    rig.hub.validate()


@pytest.mark.parametrize("in_bulk", [False, True])
def test_a_task_retried_after_its_dependency_was_purged_is_said_to_need_a_new_one(rig: Rig, in_bulk: bool) -> None:
    first, second = chain(rig, 2)
    other = rig.admin.submit(task())
    third = rig.admin.submit(task(depends_on=(other, first)))
    for number in (other, second, third, first):
        rig.admin.ask(m.TaskCancel(task=number))
    rig.admin.ask(m.DeadPurge(tasks=(first,)))
    rig.admin.ask(m.DeadRetry(tasks=(second,)) if in_bulk else m.TaskRetry(task=second))
    rig.admin.ask(m.DeadRetry(tasks=(third,)) if in_bulk else m.TaskRetry(task=third))
    said = f"task {first}, which it waits for, was purged without having completed; cancel this one and submit it anew"
    for number in (second, third):
        found = rig.admin.task(number)["error"]
        assert (found["code"], found["message"]) == ("dependency_gone", said)
        with pytest.raises(Refused, match=said) as refusal:
            rig.admin.ask(m.TaskRelease(task=number))
        assert refusal.value.code == "dependency_gone"
        why = rig.admin.ask(m.TaskWhy(task=number))
        assert why["reason"] == said
        assert why["release"] == {"by_itself": False, "command": None, "change": "cancel this one and submit it anew"}
    rig.admin.ask(m.TaskRetry(task=other))
    assert rig.admin.task(third)["error"]["message"] == said
    rig.start()
    rig.admin.hello()
    assert rig.admin.task(third)["error"]["message"] == said
    rig.admin.ask(m.TaskCancel(task=third))
    rig.admin.ask(m.TaskCancel(task=other))
    rig.admin.ask(m.TaskRetry(task=third))
    assert rig.admin.task(third)["error"]["message"] == said


def test_a_task_retried_while_its_dependency_is_dead_names_the_retry_of_that_one(rig: Rig) -> None:
    first, second = chain(rig, 2)
    rig.admin.ask(m.TaskCancel(task=second))
    rig.admin.ask(m.TaskCancel(task=first))
    rig.admin.ask(m.TaskRetry(task=second))
    assert f"retry that one (agentcom task retry {first})" in rig.admin.task(second)["error"]["message"]
    rig.admin.ask(m.TaskRetry(task=first))
    assert states(rig, first, second) == ["ready", "waiting"]


def test_a_task_whose_dependencies_complete_before_its_time_waits_for_that_too(rig: Rig) -> None:
    first = rig.admin.submit(shell_task())
    later = rfc3339(rig.clock.now().wall_ms + HOUR_MS)
    second = rig.admin.submit(shell_task(depends_on=(first,), not_before=later))
    assert rig.admin.state(second) == "waiting"
    box = rig.host()
    finish(box)
    assert rig.admin.state(second) == "delayed"
    rig.advance(HOUR_MS)
    assert rig.admin.state(second) == "ready"


def test_a_waiting_task_expires_and_holds_who_waits_for_it() -> None:
    rig = Rig(settings(ttl_s=3600))
    first = rig.admin.submit(task())
    second = rig.admin.submit(task(depends_on=(first,), ttl_s=60))
    third = rig.admin.submit(task(depends_on=(second,)))
    rig.advance(60_000)
    assert states(rig, first, second, third) == ["ready", "expired", "held"]


def test_why_names_what_a_task_waits_for(rig: Rig) -> None:
    first, second = chain(rig, 2)
    assert rig.admin.ask(m.TaskWhy(task=second))["reason"] == f"it waits for task {first} (ready) to complete"
    rig.admin.ask(m.TaskCancel(task=first))
    assert f"agentcom task retry {first}" in rig.admin.ask(m.TaskWhy(task=second))["reason"]


def test_why_does_not_advise_a_release_that_is_refused_while_a_dependency_has_failed(rig: Rig) -> None:
    first = rig.admin.submit(shell_task())
    second = rig.admin.submit(shell_task(depends_on=(first,)))
    rig.admin.ask(m.TaskCancel(task=first))
    assert "task release" not in rig.admin.ask(m.TaskWhy(task=second))["reason"]


# --- restart, invariants --------------------------------------------------------------------------------


def test_what_a_task_waits_for_survives_a_restart(rig: Rig) -> None:
    first, second, third = chain(rig, 3)
    rig.admin.ask(m.TaskCancel(task=third))
    rig.start()
    rig.admin.hello()
    assert states(rig, first, second) == ["ready", "waiting"]
    rig.admin.ask(m.TaskRetry(task=third))
    box = rig.host()
    assert [finish(box) for _ in range(3)] == [first, second, third]


@pytest.mark.parametrize(
    "breakage",
    [
        lambda rig: rig.hub.tasks.waiting.depends.unmet.clear(),
        lambda rig: rig.hub.tasks.waiting.depends._dependants.clear(),
        lambda rig: rig.hub.tasks.waiting.depends.load((1, 9)),
        lambda rig: rig.hub.tasks.waiting.depends.load((2, 9)),
    ],
)
def test_the_walk_finds_an_edge_that_does_not_fit(rig: Rig, breakage: Any) -> None:
    chain(rig, 2)
    rig.hub.validate()
    breakage(rig)
    with pytest.raises(AssertionError):
        invariants.check(rig.hub)


def test_an_edge_is_one_record_under_dependant_and_dependency(rig: Rig) -> None:
    chain(rig, 3)
    assert [key for key, _ in rig.store.scan("depends")] == [key_u64x2(2, 1), key_u64x2(3, 2)]


# --- keys of final tasks --------------------------------------------------------------------------------


def test_r13_a_key_of_a_final_task_tells_its_state(rig: Rig) -> None:
    box = rig.host()
    done = rig.admin.submit(shell_task(idempotency_key="k"))
    finish(box)
    again = rig.admin.ask(m.Submit(tasks=(task(idempotency_key="k"),)))["tasks"][0]
    assert again == {"id": done, "state": "completed", "tier": "trivial", "created": False}
    rig.start()
    rig.admin.hello()
    assert rig.admin.ask(m.Submit(tasks=(task(idempotency_key="k"),)))["tasks"][0] == again


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"base": "predecessor", "depends_on": (1,), "repo": None}, "needs a repo"),
        ({"base": "predecessor", "depends_on": (1,), "branch": "main"}, "takes the place of branch"),
        ({"base": "predecessor"}, "depends on 0 others"),
        ({"base": "predecessor", "depends_on": (1, 2)}, "depends on 2 others"),
        ({"base": 2, "depends_on": (1,)}, "2 is not in depends_on"),
    ],
)
def test_a_base_is_the_work_of_a_task_that_this_one_waits_for(fields: dict[str, Any], said: str) -> None:
    rig = Rig()
    rig.admin.submit(shell_task(), shell_task())
    with pytest.raises(Refused) as refused:
        rig.admin.submit(shell_task(**{"repo": "https://git.example/a", **fields}))
    assert refused.value.field == "tasks[0].base"
    assert said in refused.value.message
