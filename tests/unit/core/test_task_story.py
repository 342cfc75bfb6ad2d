"""The story of one task: each transition with time, cause and attempt, in the order in which the hub saw them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentcom import messages as m
from agentcom.clock import rfc3339
from agentcom.core.effects import key_u64
from agentcom.core.story import Noted, tell
from agentcom.errors import Refused
from agentcom.model import FailureClass, JsonObject, Role, TaskRow
from agentcom.store.crosscheck import cross_check, walk_store
from tests.core_rig import ACCEPT_MS, Rig
from tests.factories import error, result, settings, shell_task, task

YEAR_MS = 365 * 24 * 3_600_000


@pytest.fixture
def rig() -> Rig:
    return Rig(settings(backoff_s=2, max_losses=2))


def story(rig: Rig, number: int) -> list[JsonObject]:
    found: list[JsonObject] = rig.admin.ask(m.TaskStory(task=number))["entries"]
    return found


def events(rig: Rig, number: int) -> list[Any]:
    """The events in order, with the attempt where there was one, and how it ended."""
    return [
        (each["event"], each["attempt"], *([each["outcome"]] if each["outcome"] else []))
        for each in story(rig, number)
    ]


def agrees(rig: Rig) -> bool:
    """The databases agree, the stories with their tasks too."""
    return cross_check(walk_store(rig.store)) == (0, [])


def test_a_task_that_simply_runs_is_told_from_its_records_and_writes_no_note(rig: Rig) -> None:
    box = rig.host()
    started = rig.clock.now().wall_ms
    number = rig.admin.submit(shell_task())
    rig.clock.advance(1_000)
    assign = box.take()
    rig.clock.advance(1_000)
    box.complete(assign)
    assert rig.store.count("stories") == 0
    assert events(rig, number) == [
        ("submitted", None),
        ("assigned", 1),
        ("accepted", 1),
        ("ended", 1, "completed"),
        ("completed", 1),
    ]
    told = story(rig, number)
    times = [rfc3339(started + ms) for ms in (0, 0, 1_000, 2_000, 2_000)]
    assert [each["at"] for each in told] == times
    assert told[0]["by"] == "admin"
    assert told[1]["cause"] == "box-1 on box"


def test_an_open_attempt_tells_when_it_was_accepted(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    rig.clock.advance(700)
    box.take()
    assert story(rig, number)[-1]["at"] == rfc3339(rig.clock.now().wall_ms)
    assert events(rig, number)[-1] == ("accepted", 1)


def test_a_failure_tells_the_error_the_wait_and_the_next_attempt(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(max_retries=1))
    box.fail(box.take(), error(message="it ended with 3"))
    failed, delayed = story(rig, number)[-2:]
    assert (failed["event"], failed["outcome"], failed["code"]) == ("ended", "failed", "exit_1")
    assert failed["cause"] == "task_error: it ended with 3"
    assert (delayed["event"], delayed["cause"]) == ("delayed", "it ended with 3")
    assert delayed["at"] < delayed["until"] <= rfc3339(rig.clock.now().wall_ms + 2_000)
    rig.advance(2_000)
    box.fail(box.take(), error(message="it ended with 4"))
    assert events(rig, number) == [
        ("submitted", None),
        ("assigned", 1),
        ("accepted", 1),
        ("ended", 1, "failed"),
        ("delayed", 1),
        ("due", 1),
        ("assigned", 2),
        ("accepted", 2),
        ("ended", 2, "failed"),
        ("dead", 2),
    ]
    assert story(rig, number)[-1]["cause"] == "gave up after 2 attempts; the last: it ended with 4"
    assert agrees(rig)


def test_people_are_named_in_what_they_did(rig: Rig) -> None:
    ann = rig.member(Role.operate, "ann")
    number = rig.admin.submit(shell_task())
    ann.ask(m.TaskHold(task=number, reason="not today"))
    ann.ask(m.TaskRelease(task=number))
    rig.admin.ask(m.TaskCancel(task=number, reason="not at all"))
    ann.ask(m.TaskRetry(task=number))
    told = [(each["event"], each["by"], each["cause"]) for each in story(rig, number)]
    assert told == [
        ("submitted", "admin", None),
        ("held", "ann", "not today"),
        ("released", "ann", None),
        ("cancelled", "admin", "not at all"),
        ("retried", "ann", None),
    ]


def test_a_running_attempt_ends_before_the_task_is_cancelled(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    assert events(rig, number)[-2:] == [("ended", 1, "cancelled"), ("cancelled", 1)]


def test_a_setting_in_the_way_holds_the_task_and_says_why(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    box.fail(box.take(), error(FailureClass.configuration, "no_key", message="there is no key"))
    assert events(rig, number)[-2:] == [("ended", 1, "failed"), ("held", 1)]
    assert story(rig, number)[-1]["cause"] == "there is no key"


def test_a_task_for_later_tells_until_when_it_waits(rig: Rig) -> None:
    later = rfc3339(rig.clock.now().wall_ms + 60_000)
    number = rig.admin.submit(task(not_before=later))
    assert story(rig, number)[0]["until"] == later
    rig.admin.ask(m.TaskHold(task=number))
    rig.admin.ask(m.TaskRelease(task=number))
    assert story(rig, number)[-1]["until"] == later
    rig.advance(60_000)
    assert events(rig, number) == [
        ("submitted", None),
        ("held", None),
        ("released", None),
        ("delayed", None),
        ("due", None),
    ]


def test_a_task_for_later_that_was_held_is_delayed_by_its_time_not_by_what_held_it(rig: Rig) -> None:
    later = rfc3339(rig.clock.now().wall_ms + 60_000)
    number = rig.admin.submit(task(not_before=later))
    rig.admin.ask(m.TaskHold(task=number, reason="the machine is being moved"))
    rig.admin.ask(m.TaskRelease(task=number))
    held, released, delayed = story(rig, number)[-3:]
    assert (held["event"], held["cause"]) == ("held", "the machine is being moved")
    assert (released["event"], released["cause"]) == ("released", None)
    assert (delayed["event"], delayed["by"], delayed["until"]) == ("delayed", "admin", later)
    assert delayed["cause"] == "it starts not before then"


def test_a_task_that_expires_tells_why(rig: Rig) -> None:
    number = rig.admin.submit(task(ttl_s=5))
    rig.advance(5_000)
    assert events(rig, number)[-1] == ("expired", None)
    assert story(rig, number)[-1]["cause"] == "its time to live was over while it waited"


EXPIRED = "its time to live was over before it could be tried again; the last: "


def test_a_task_that_fails_past_its_time_to_live_expires_at_once_and_is_not_delayed_first(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(ttl_s=5, max_retries=3))
    assign = box.take()
    rig.clock.advance(6_000)
    box.fail(assign, error(message="it ended with 3"))
    assert events(rig, number)[-2:] == [("ended", 1, "failed"), ("expired", 1)]
    assert story(rig, number)[-1]["cause"] == f"{EXPIRED}it ended with 3"
    assert rig.admin.task(number)["error"]["code"] == "ttl"
    assert agrees(rig)


@pytest.mark.parametrize(
    ("failure", "code"), [(FailureClass.usage_window, "limit"), (FailureClass.configuration, "no_key")]
)
def test_a_task_that_would_be_parked_or_held_past_its_time_to_live_expires_at_once(
    rig: Rig, failure: FailureClass, code: str
) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(ttl_s=5))
    assign = box.take()
    rig.clock.advance(6_000)
    box.fail(assign, error(failure, code, message="not now"))
    assert events(rig, number)[-2:] == [("ended", 1, "failed"), ("expired", 1)]
    assert story(rig, number)[-1]["cause"] == f"{EXPIRED}not now"


def test_a_task_whose_worker_is_lost_past_its_time_to_live_expires_at_once(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(ttl_s=5))
    box.take()
    box.leave()
    rig.advance(100_000)
    assert [each[0] for each in events(rig, number)[-2:]] == ["ended", "expired"]


@pytest.mark.parametrize("way", ["agent removed", "host removed", "unaccepted"])
def test_a_running_task_that_comes_back_past_its_time_to_live_does_not_expire_as_one_that_waited(
    rig: Rig, way: str
) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(ttl_s=5))
    if way == "unaccepted":
        box.assigned()
        rig.advance(ACCEPT_MS)
    else:
        box.take()
        rig.advance(6_000)
        assert rig.admin.state(number) == "working"
        agent = rig.admin.ask(m.AgentList())["agents"][0]["name"]
        is_agent = way == "agent removed"
        rig.admin.ask(m.AgentRemove(agent=agent, now=True) if is_agent else m.HostRemove(host="box", now=True))
    assert [each[0] for each in events(rig, number)[-2:]] == ["ended", "expired"]
    assert story(rig, number)[-1]["cause"] == "its time to live was over before it could be tried again"
    assert rig.admin.task(number)["error"]["code"] == "ttl"
    assert agrees(rig)


def test_a_late_result_stands_where_it_came_and_names_its_attempt(rig: Rig) -> None:
    box = rig.host(agents=2)
    number = rig.admin.submit(shell_task())
    first = box.take()
    rig.advance(45_000)
    box.hello()
    rig.advance(2_000)
    second = box.take()
    box.complete(first)
    box.complete(second)
    assert events(rig, number) == [
        ("submitted", None),
        ("assigned", 1),
        ("accepted", 1),
        ("ended", 1, "lost"),
        ("delayed", 1),
        ("due", 1),
        ("assigned", 2),
        ("accepted", 2),
        ("late_result", 1),
        ("ended", 2, "completed"),
        ("completed", 2),
    ]


def test_a_late_result_that_came_before_the_next_attempt_was_accepted_stands_before_that(rig: Rig) -> None:
    box = rig.host(agents=2)
    number = rig.admin.submit(shell_task())
    first = box.take()
    rig.advance(45_000)
    box.hello()
    rig.advance(2_000)
    second = box.assigned()
    box.complete(first)
    rig.advance(10)
    box.accept(second)
    assert events(rig, number)[-3:] == [("assigned", 2), ("late_result", 1), ("accepted", 2)]
    ats = [entry["at"] for entry in story(rig, number)]
    assert ats == sorted(ats)


def test_the_end_of_a_task_stays_in_its_story_when_the_notes_are_gone(rig: Rig) -> None:
    number = rig.admin.submit(shell_task(max_retries=0))
    box = rig.host()
    box.fail(box.take())
    stored = rig.store.get("tasks", key_u64(number))
    assert stored is not None
    told = tell(msgspec.msgpack.decode(stored, type=TaskRow), "admin", None, (), ())
    end = story(rig, number)[-1]
    assert (end["event"], told[1:]) == ("dead", [end])


def test_a_late_result_of_a_task_that_is_over_comes_last(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    first = box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    rig.advance(45_000)
    box.complete(first)
    assert events(rig, number)[-2:] == [("cancelled", 1), ("late_result", 1)]


@pytest.mark.parametrize("jump_ms", [-10 * YEAR_MS, YEAR_MS // 2], ids=["back", "ahead"])
def test_the_order_is_the_hubs_across_a_jump_of_the_wall_clock(rig: Rig, jump_ms: int) -> None:
    number = rig.admin.submit(shell_task(max_retries=2, ttl_s=366 * 24 * 3600))
    rig.admin.ask(m.TaskHold(task=number))
    rig.clock.jump(jump_ms)
    rig.admin.ask(m.TaskRelease(task=number))
    box = rig.host()
    box.fail(box.take())
    rig.clock.jump(-jump_ms)
    rig.advance(2_000)
    box.complete(box.take())
    assert [each[0] for each in events(rig, number)] == [
        "submitted", "held", "released", "assigned", "accepted", "ended", "delayed", "due", "assigned", "accepted",
        "ended", "completed",
    ]  # fmt: skip


def test_what_happens_while_an_attempt_runs_stands_inside_it(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    assign = box.take()
    tasks = rig.hub.tasks
    tasks.note(tasks.table.slot_of[number], Noted.stalled, "no output for 300 s", rig.clock.now())
    box.complete(assign)
    assert events(rig, number)[2:5] == [("accepted", 1), ("stalled", 1), ("ended", 1, "completed")]


def test_notes_go_on_behind_the_last_one_after_a_restart(rig: Rig) -> None:
    number = rig.admin.submit(shell_task())
    rig.admin.ask(m.TaskHold(task=number))
    rig.start()
    rig.admin.hello()
    rig.admin.ask(m.TaskRelease(task=number))
    rig.admin.ask(m.TaskHold(task=number))
    assert [each[0] for each in events(rig, number)] == ["submitted", "held", "released", "held"]
    assert agrees(rig)


def restarted(rig: Rig) -> None:
    rig.start()
    rig.admin.hello()


@pytest.mark.parametrize("jump_ms", [0, -10 * YEAR_MS, YEAR_MS // 2], ids=["no jump", "back", "ahead"])
def test_a_restart_of_the_hub_rewrites_nothing_of_a_story(rig: Rig, jump_ms: int) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(stall_s=10, ttl_s=366 * 24 * 3600))
    rig.clock.advance(700)
    assign = box.take()
    for _ in range(3):
        rig.clock.advance(5_000)
        box.beat(assign, progress=0)
        rig.advance(1)
    told = story(rig, number)
    assert [each["event"] for each in told] == ["submitted", "assigned", "accepted", "stalled"]
    rig.clock.jump(jump_ms)
    rig.clock.advance(3_000)
    restarted(rig)
    assert rig.admin.state(number) == "working"
    assert story(rig, number) == told
    rig.clock.advance(2_000)
    box.hello(attempts=(box.held(assign),))
    box.beat(assign)
    assert story(rig, number) == told
    rig.clock.advance(1_000)
    box.complete(assign)
    assert story(rig, number)[:-2] == told
    assert events(rig, number)[-2:] == [("ended", 1, "completed"), ("completed", 1)]
    assert agrees(rig)


def test_an_attempt_that_was_accepted_and_is_gone_after_a_restart_is_lost(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    box.take()
    told = story(rig, number)
    restarted(rig)
    box.process = "another-process"
    box.hello()
    assert story(rig, number)[:3] == told
    assert events(rig, number)[3:] == [("ended", 1, "lost"), ("delayed", 1)]
    assert rig.admin.task(number)["losses"] == 1


def test_an_attempt_that_nobody_accepted_before_a_restart_is_accepted_after_it(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    assign = box.assigned()
    restarted(rig)
    rig.clock.advance(2_000)
    box.hello(attempts=(box.held(assign),))
    accepted = story(rig, number)[-1]
    assert (accepted["event"], accepted["at"]) == ("accepted", rfc3339(rig.clock.now().wall_ms))


def test_what_a_worker_did_while_there_was_no_hub_is_no_stall(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(stall_s=10))
    assign = box.take()
    restarted(rig)
    rig.advance(15_000)
    box.hello(attempts=(box.held(assign),))
    assert events(rig, number)[-1] == ("accepted", 1)
    for _ in range(2):
        rig.advance(5_000)
        box.beat(assign, progress=0)
    rig.advance(1)
    assert events(rig, number)[-1] == ("stalled", 1)


def test_an_attempt_that_ends_in_the_tick_in_which_it_was_accepted_writes_its_row_once(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    assign = box.assigned()
    accept = m.Accept(session=box.token, task=assign.task, attempt=assign.attempt)
    rig.tick(box.event(accept), box.event(box.ended(assign, "completed", result())))
    assert events(rig, number)[1:4] == [("assigned", 1), ("accepted", 1), ("ended", 1, "completed")]
    stored = rig.store.get("tasks", key_u64(number))
    assert stored is not None
    assert msgspec.msgpack.decode(stored, type=TaskRow).accepted_ms == 0


def test_a_late_result_of_a_task_that_has_completed_stands_behind_that(rig: Rig) -> None:
    box = rig.host(agents=2)
    number = rig.admin.submit(shell_task())
    first = box.take()
    rig.advance(45_000)
    box.hello()
    rig.advance(2_000)
    box.complete(box.take())
    rig.clock.advance(500)
    box.complete(first)
    assert events(rig, number)[-3:] == [("ended", 2, "completed"), ("completed", 2), ("late_result", 1)]
    ats = [entry["at"] for entry in story(rig, number)]
    assert ats == sorted(ats)


def test_a_start_that_failed_stands_before_a_stall_that_came_after_it(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(stall_s=10))
    assign = box.take()
    for _ in range(3):
        rig.clock.advance(5_000)
        box.beat(assign, progress=0)
        rig.advance(1)
    told = result(failed_starts=("one", "two", "three"), failed_starts_ms=(2_000, 4_000, 14_000))
    box.report(box.ended(assign, "completed", told))
    assert [each[0] for each in events(rig, number)] == [
        "submitted", "assigned", "accepted", "start_failed", "start_failed", "stalled", "start_failed",
        "ended", "completed",
    ]  # fmt: skip
    ats = [entry["at"] for entry in story(rig, number)]
    assert ats == sorted(ats)


def test_a_story_is_told_page_by_page(rig: Rig) -> None:
    number = rig.admin.submit(shell_task())
    for _ in range(3):
        rig.admin.ask(m.TaskHold(task=number))
        rig.admin.ask(m.TaskRelease(task=number))
    first = rig.admin.ask(m.TaskStory(task=number, limit=4))
    second = rig.admin.ask(m.TaskStory(task=number, limit=4, cursor=first["next_cursor"]))
    assert (len(first["entries"]), len(second["entries"]), second["next_cursor"]) == (4, 3, None)
    assert first["entries"] + second["entries"] == story(rig, number)


def test_a_story_of_another_submitter_does_not_exist(rig: Rig) -> None:
    number = rig.admin.submit(shell_task())
    with pytest.raises(Refused, match="there is no task"):
        rig.member(Role.submit, "ann").ask(m.TaskStory(task=number))


def test_a_purged_task_leaves_no_story(rig: Rig) -> None:
    number = rig.admin.submit(shell_task())
    rig.admin.ask(m.TaskHold(task=number))
    cancel = rig.admin.event(rig.admin.request(m.TaskCancel(task=number)))
    purge = rig.admin.event(rig.admin.request(m.DeadPurge(tasks=(number,))))
    rig.tick(cancel, purge)
    assert rig.store.count("stories") == 0
    assert agrees(rig)


def test_a_move_that_is_refused_says_what_is_known_of_the_task(rig: Rig) -> None:
    number = rig.admin.submit(shell_task())
    rig.admin.ask(m.TaskHold(task=number, reason="not today"))
    with pytest.raises(Refused) as refused:
        rig.admin.ask(m.TaskHold(task=number))
    known = "(not tried yet; not today)"
    told = f"task {number} is held {known}: it cannot hold now; see agentcom task story {number}"
    assert refused.value.message == told
