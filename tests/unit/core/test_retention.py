"""What is over is kept for its term and in its number, and then goes: bounded slices, nothing live, counts right."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import rfc3339
from agentcom.config import RetentionSettings, Settings
from agentcom.core.effects import Over, Retire, key_u64
from agentcom.core.succession import NoSubmits
from agentcom.errors import Refused
from agentcom.model import CheckKind, CheckReport, CheckStatus, Iteration, JsonObject, ResultStatus, State
from agentcom.store.crosscheck import cross_check, walk_store
from tests.core_rig import HostEnd, Rig
from tests.factories import error, result, settings, shell_task

DAY_MS = 24 * 3_600_000
DAY_S = 24 * 3_600
DATABASES = ("tasks", "bodies", "lanes", "dead", "attempts", "routes", "reports", "stories", "idempotency")


def rig_with(**retention: int) -> Rig:
    return Rig(msgspec.structs.replace(settings(), retention=RetentionSettings(**retention)))


def completed(rig: Rig, box: HostEnd, **fields: Any) -> int:
    """A verified task, with a report of its checks."""
    number = rig.admin.submit(shell_task(**fields))
    report = CheckReport(kind=CheckKind.test_passes, target="pytest", status=CheckStatus.passed)
    round_ = Iteration(n=1, status="pass", checks=(report,))
    box.complete(box.take(), status=ResultStatus.verified, output="done", iterations=(round_,))
    return number


def cancelled(rig: Rig, count: int = 1) -> list[int]:
    made = rig.admin.ask(m.Submit(tasks=(shell_task(),) * count))["tasks"]
    for one in made:
        rig.admin.ask(m.TaskCancel(task=one["id"]))
    return [one["id"] for one in made]


def kept(rig: Rig) -> list[int]:
    return sorted(int.from_bytes(key, "big") for key, _ in rig.store.scan("tasks"))


def counts_and_databases_agree(rig: Rig) -> bool:
    assert cross_check(walk_store(rig.store)) == (0, [])
    assert rig.hub.tasks.counts == rig.twin().tasks.counts
    return True


# --- finished tasks -------------------------------------------------------------------------------------


def test_a_finished_task_goes_with_all_that_was_kept_of_it_when_its_term_is_over() -> None:
    rig = rig_with(tasks_s=10 * DAY_S)
    box = rig.host()
    number = completed(rig, box, idempotency_key="k")
    rig.admin.ask(m.TaskGet(task=number))
    rig.clock.advance(10 * DAY_MS - 3_000)
    assert rig.retire() == 0
    assert rig.retire(2) == 1
    assert {name: rig.store.count(name) for name in DATABASES} == dict.fromkeys(DATABASES, 0)
    assert rig.hub.tasks.counts[State.completed] == 0
    with pytest.raises(Refused, match="there is no task"):
        rig.admin.task(number)
    assert counts_and_databases_agree(rig)


def test_its_idempotency_key_is_free_again() -> None:
    rig = rig_with(tasks_s=DAY_S)
    box = rig.host()
    first = completed(rig, box, idempotency_key="k")
    assert rig.admin.ask(m.Submit(tasks=(shell_task(idempotency_key="k"),)))["tasks"][0]["id"] == first
    rig.clock.advance(DAY_MS)
    rig.retire()
    again = rig.admin.ask(m.Submit(tasks=(shell_task(idempotency_key="k"),)))["tasks"][0]
    assert (again["id"], again["created"]) == (first + 1, True)


def test_beyond_the_number_the_oldest_go_first() -> None:
    rig = rig_with(tasks_max=3)
    numbers = cancelled(rig, 5)
    rig.retire()
    assert kept(rig) == numbers[2:]
    assert rig.retire() == 0
    assert counts_and_databases_agree(rig)


def test_live_tasks_never_go_however_old_and_many() -> None:
    rig = rig_with(tasks_s=1, tasks_max=1)
    box = rig.host()
    live = [rig.admin.submit(shell_task()) for _ in range(3)]
    box.assigned()
    gone = cancelled(rig, 2)
    rig.retire(3)
    assert kept(rig) == live
    assert set(gone).isdisjoint(kept(rig))
    assert counts_and_databases_agree(rig)


def test_dead_letters_go_as_finished_tasks_do() -> None:
    rig = rig_with(tasks_s=DAY_S)
    box = rig.host()
    rig.admin.submit(shell_task(max_retries=0))
    box.fail(box.take())
    rig.clock.advance(DAY_MS)
    rig.retire()
    assert rig.store.count("dead") == 0
    assert rig.admin.ask(m.DeadList()) == {"tasks": [], "next_cursor": None}
    assert counts_and_databases_agree(rig)


def test_a_slice_is_bounded_and_the_next_one_follows_at_once() -> None:
    rig = rig_with(tasks_max=1)
    most = limits.RETIRE_ROWS_MAX
    assert most > 2 * limits.RETIRE_ROWS_MIN
    rig.validates = False
    for count in (most, limits.RETIRE_ROWS_MIN + 1):
        cancelled(rig, count)
    now = rig.clock.advance(1_000)
    sizes = []
    while events := rig.retirement.turn(rig.hub, now):
        sizes.append(len(events[0].tasks))
        rig.tick(*events)
    assert sizes == [most, limits.RETIRE_ROWS_MIN]
    assert len(kept(rig)) == 1


def test_while_the_disk_takes_nothing_new_it_is_tried_now_and_then() -> None:
    rig = rig_with(tasks_max=1)
    cancelled(rig, 4)
    rig.hub.no_submits = NoSubmits("storage_full", "the disk has no room", 30.0)
    now = rig.clock.advance(1_000)
    assert len(rig.retirement.turn(rig.hub, now)) == 1
    assert rig.retirement.turn(rig.hub, rig.clock.advance(9_999)) == []
    assert len(rig.retirement.turn(rig.hub, rig.clock.advance(1))) == 1


def test_a_task_that_was_retried_in_the_same_tick_stays() -> None:
    rig = rig_with(tasks_s=DAY_S)
    (number,) = cancelled(rig)
    rig.clock.advance(DAY_MS + 1_000)
    retry = rig.admin.event(rig.admin.request(m.TaskRetry(task=number)))
    rig.tick(retry, *rig.retirement.turn(rig.hub, rig.clock.now()))
    assert rig.admin.state(number) == "ready"
    assert counts_and_databases_agree(rig)


def test_a_task_that_goes_and_is_retried_in_one_tick_is_gone() -> None:
    rig = rig_with(tasks_s=DAY_S)
    (number,) = cancelled(rig)
    rig.clock.advance(DAY_MS + 1_000)
    retry = rig.admin.event(rig.admin.request(m.TaskRetry(task=number)))
    rig.tick(*rig.retirement.turn(rig.hub, rig.clock.now()), retry)
    assert kept(rig) == []
    assert counts_and_databases_agree(rig)


def test_a_task_that_a_live_one_waits_for_stays_until_that_is_over() -> None:
    rig = rig_with(tasks_s=DAY_S)
    (number,) = cancelled(rig)
    waiting = rig.admin.submit(shell_task(depends_on=(number,), ttl_s=90 * DAY_S))
    rig.clock.advance(DAY_MS)
    rig.retire()
    assert kept(rig) == [number, waiting]
    rig.admin.ask(m.TaskCancel(task=waiting))
    rig.clock.advance(DAY_MS)
    rig.retire()
    assert kept(rig) == []
    assert counts_and_databases_agree(rig)


@pytest.mark.parametrize("years", [-10, 10])
def test_a_wall_clock_that_is_set_deletes_nothing_before_its_time(years: int) -> None:
    rig = rig_with(tasks_s=DAY_S, events_s=DAY_S)
    before = cancelled(rig)
    rig.clock.jump(years * 365 * DAY_MS)
    after = cancelled(rig)
    events = rig.store.count("feed")
    rig.retire(3)
    assert kept(rig) == [*before, *after]
    assert rig.store.count("feed") == events
    rig.clock.advance(DAY_MS)
    rig.retire(2)
    assert kept(rig) == []


def test_a_changed_term_applies_with_the_next_slice() -> None:
    rig = rig_with()
    numbers = cancelled(rig, 4)
    assert rig.retire() == 0
    rig.admin.ask(m.ConfigChange(set={"retention.tasks_max": 2}))
    rig.retire()
    assert kept(rig) == numbers[2:]


def test_readers_are_told_which_tasks_have_gone() -> None:
    rig = rig_with(tasks_max=1)
    numbers = cancelled(rig, 3)
    rig.clock.advance(1_000)
    rig.tick(*rig.retirement.turn(rig.hub, rig.clock.now()))
    assert rig.published("task")[-1] == {"event": "tasks_retired", "tasks": numbers[:2]}


# --- results, stories, events ---------------------------------------------------------------------------


def shown(rig: Rig, number: int) -> JsonObject:
    return rig.admin.task(number)


def test_results_go_before_their_task_which_keeps_what_it_came_to() -> None:
    rig = rig_with(reports_s=DAY_S)
    box = rig.host()
    number = completed(rig, box)
    assert shown(rig, number)["result"]["status"] == "verified"
    rig.clock.advance(DAY_MS)
    assert rig.retire() == 1
    assert rig.store.count("reports") == 0
    found = shown(rig, number)
    assert (found["state"], found["result"], found["status"]) == ("completed", None, "verified")
    assert rig.retire(3) == 0
    assert counts_and_databases_agree(rig)


def test_a_story_goes_before_its_task_and_leaves_the_last_attempt() -> None:
    rig = rig_with(stories_s=DAY_S)
    box = rig.host()
    number = rig.admin.submit(shell_task())
    box.fail(box.take())
    rig.advance(2_000)
    box.complete(box.take())
    rig.clock.advance(DAY_MS)
    assert rig.retire() == 1
    assert rig.store.count("stories") == 0
    assert rig.store.count("attempts") == 1
    told = rig.admin.ask(m.TaskStory(task=number))["entries"]
    assert [(each["event"], each["attempt"]) for each in told][:3] == [
        ("submitted", None), ("shortened", None), ("assigned", 2),
    ]  # fmt: skip
    assert told[-1]["event"] == "completed"
    assert shown(rig, number)["result"]["status"] == "unchecked"
    assert rig.retire(3) == 0
    assert counts_and_databases_agree(rig)


def story(rig: Rig, number: int) -> list[tuple[str, int | None]]:
    return [(each["event"], each["attempt"]) for each in rig.admin.ask(m.TaskStory(task=number))["entries"]]


def cut(rig: Rig, number: int) -> JsonObject:
    """The second entry, which says that others have gone."""
    found: JsonObject = rig.admin.ask(m.TaskStory(task=number))["entries"][1]
    assert found["event"] == "shortened"
    return found


@pytest.mark.parametrize(
    ("kept_for", "setting"),
    [({"stories_s": DAY_S}, "retention.stories_s"), ({"stories_max": 1}, "retention.stories_max")],
)
def test_a_shortened_story_says_what_has_gone_and_by_which_setting(kept_for: dict[str, int], setting: str) -> None:
    rig = rig_with(**kept_for)
    box = rig.host()
    number = died(rig, box, attempts=4)
    assert shown(rig, number)["story_shortened"] is None
    rig.clock.advance(DAY_MS)
    rig.retire(3)
    at = rfc3339(rig.clock.now().wall_ms - 2_000)
    assert story(rig, number) == [
        ("submitted", None), ("shortened", None), ("assigned", 4), ("accepted", 4), ("ended", 4), ("dead", 4),
    ]  # fmt: skip
    found = cut(rig, number)
    assert (found["at"], found["by"]) == (at, setting)
    assert found["cause"] == (
        "attempts 1 to 3 and what was noted until then have gone; the last attempt and the end are kept"
    )
    assert shown(rig, number)["story_shortened"] == {"at": at, "by": setting}


@pytest.mark.parametrize("is_retried", [False, True])
def test_a_story_that_lost_notes_in_its_middle_says_so(is_retried: bool) -> None:
    rig = rig_with(stories_s=DAY_S)
    number = rig.admin.submit(shell_task())
    rig.admin.ask(m.TaskHold(task=number, reason="not yet"))
    rig.admin.ask(m.TaskCancel(task=number))
    rig.clock.advance(DAY_MS)
    rig.retire()
    more = []
    if is_retried:
        rig.admin.ask(m.TaskRetry(task=number))
        more = [("retried", None)]
    assert story(rig, number) == [("submitted", None), ("shortened", None), ("cancelled", None), *more]
    assert cut(rig, number)["cause"] == "what was noted until then has gone; the end is kept"
    assert shown(rig, number)["story_shortened"]["by"] == "retention.stories_s"


def test_a_shortened_story_of_a_task_that_was_retried_keeps_its_earlier_end_and_says_what_has_gone() -> None:
    rig = rig_with(stories_s=DAY_S)
    box = rig.host()
    number = died(rig, box)
    ended = rig.admin.ask(m.TaskStory(task=number))["entries"][-1]
    rig.clock.advance(DAY_MS)
    rig.retire()
    before = cut(rig, number)
    rig.admin.ask(m.DeadRetry(tasks=(number,)))
    expected = [
        ("submitted", None), ("shortened", None), ("assigned", 2), ("accepted", 2), ("ended", 2), ("dead", 2),
        ("retried", 2),
    ]  # fmt: skip
    assert story(rig, number) == expected
    assert cut(rig, number) == before
    assert rig.admin.ask(m.TaskStory(task=number))["entries"][5] == ended
    assert shown(rig, number)["story_shortened"] == {"at": before["at"], "by": before["by"]}
    rig.start()
    rig.admin.hello()
    assert story(rig, number) == expected
    assert shown(rig, number)["story_shortened"] == {"at": before["at"], "by": before["by"]}
    box.hello()
    box.complete(box.take())
    rig.clock.advance(DAY_MS)
    rig.retire()
    assert story(rig, number)[1:3] == [("shortened", None), ("assigned", 3)]
    assert story(rig, number)[-1] == ("completed", 3)
    assert cut(rig, number)["cause"].startswith("attempts 1 to 2 and ")
    assert counts_and_databases_agree(rig)


def test_a_story_of_which_nothing_was_lost_says_nothing_also_after_a_retry() -> None:
    rig = rig_with(stories_s=DAY_S)
    box = rig.host()
    done, number = completed(rig, box), died(rig, box, attempts=1)
    before = story(rig, done), story(rig, number)
    rig.clock.advance(DAY_MS)
    rig.retire(2)
    assert rig.store.count("stories") == 0
    assert (story(rig, done), story(rig, number)) == before
    assert shown(rig, number)["story_shortened"] is None
    rig.admin.ask(m.TaskRetry(task=number))
    assert story(rig, number) == [*before[1], ("retried", 1)]


def test_what_comes_late_after_a_story_was_shortened_leaves_that_told() -> None:
    rig = rig_with(stories_s=DAY_S)
    box = rig.host()
    number = rig.admin.submit(shell_task())
    box.fail(box.take())
    rig.advance(10_000)
    box.beat()
    taken = box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    box.report(box.ended(taken, "cancelled"))
    rig.clock.advance(DAY_MS)
    rig.retire()
    before = cut(rig, number)
    box.hello()
    box.report(box.ended(taken, "completed", result()))
    assert cut(rig, number) == before
    rig.admin.ask(m.TaskRetry(task=number))
    assert cut(rig, number) == before
    assert [event for event, _ in story(rig, number)][-4:-1] == ["cancelled", "late_result", "retried"]
    assert shown(rig, number)["story_shortened"] == {"at": before["at"], "by": before["by"]}


def test_stories_and_results_of_live_tasks_stay() -> None:
    rig = rig_with(stories_s=1, reports_s=1, stories_max=1, reports_max=1)
    number = rig.admin.submit(shell_task())
    for _ in range(3):
        rig.admin.ask(m.TaskHold(task=number))
        rig.admin.ask(m.TaskRelease(task=number))
    assert rig.retire(3) == 0
    assert rig.store.count("stories") == 6


def test_results_beyond_their_number_go_the_oldest_first() -> None:
    rig = rig_with(reports_max=2)
    box = rig.host()
    numbers = [completed(rig, box) for _ in range(4)]
    rig.retire(2)
    assert [shown(rig, number)["result"] is None for number in numbers] == [True, True, False, False]
    assert counts_and_databases_agree(rig)


def test_notes_beyond_their_number_go_the_oldest_first() -> None:
    rig = rig_with(stories_max=2)
    cancelled(rig, 4)
    rig.retire(2)
    assert rig.store.count("stories") == 2
    assert len(kept(rig)) == 4
    assert counts_and_databases_agree(rig)


def died(rig: Rig, box: HostEnd, attempts: int = 2) -> int:
    """A dead task: each attempt has left a result, and there are notes of its end and of each wait and its end."""
    number = rig.admin.submit(shell_task(max_retries=attempts - 1))
    for _ in range(attempts):
        box.beat()
        box.report(box.ended(box.take(), "failed", result(), error()))
        rig.advance(60_000)
    assert rig.admin.state(number) == "dead"
    return number


def held_by(rig: Rig, database: str, number: int) -> int:
    return len(rig.store.scan(database, key_u64(number), key_u64(number + 1)))


@pytest.mark.parametrize(("stories_max", "expected"), [(9, [0, 3, 3, 3]), (8, [0, 0, 3, 3]), (3, [0, 0, 0, 3])])
def test_of_notes_no_more_stories_go_than_are_beyond_the_number(stories_max: int, expected: list[int]) -> None:
    rig = rig_with(stories_max=stories_max)
    box = rig.host()
    numbers = [died(rig, box) for _ in range(4)]
    assert [held_by(rig, "stories", one) for one in numbers] == [3, 3, 3, 3]
    rig.retire(5)
    assert [held_by(rig, "stories", one) for one in numbers] == expected
    assert counts_and_databases_agree(rig)


@pytest.mark.parametrize(("reports_max", "expected"), [(4, [0, 2, 2]), (3, [0, 0, 2]), (2, [0, 0, 2])])
def test_of_results_no_more_go_than_those_of_the_oldest_task_that_is_beyond_the_number(
    reports_max: int, expected: list[int]
) -> None:
    rig = rig_with(reports_max=reports_max)
    box = rig.host()
    numbers = [died(rig, box) for _ in range(3)]
    rig.retire(5)
    assert [held_by(rig, "reports", one) for one in numbers] == expected


def test_the_results_that_go_with_a_story_count_too() -> None:
    rig = rig_with(stories_max=3, reports_max=3)
    box = rig.host()
    numbers = [died(rig, box) for _ in range(2)]
    rig.retire(5)
    assert [held_by(rig, "reports", one) for one in numbers] == [0, 2]
    rig = rig_with(stories_max=3, reports_max=4)
    box = rig.host()
    numbers = [died(rig, box) for _ in range(2)]
    rig.retire(5)
    assert [held_by(rig, "reports", one) for one in numbers] == [1, 2]


def test_the_oldest_goes_also_where_one_after_the_other_is_too_many() -> None:
    """A slice that let one go went on behind the hundred that it had looked at."""
    rig = rig_with(tasks_max=limits.RETIRE_ROWS_MIN + 50)
    rig.validates = False
    numbers = cancelled(rig, limits.RETIRE_ROWS_MIN + 50)
    for n in range(1, 5):
        numbers += cancelled(rig)
        rig.retire()
        assert kept(rig) == numbers[n:]


def test_a_dead_task_whose_results_went_is_retried_as_any() -> None:
    rig = rig_with(reports_s=DAY_S, stories_s=DAY_S)
    box = rig.host()
    number = rig.admin.submit(shell_task(max_retries=0))
    box.fail(box.take())
    rig.clock.advance(DAY_MS)
    rig.retire()
    rig.admin.ask(m.TaskRetry(task=number))
    box.beat()
    box.complete(box.take())
    assert shown(rig, number)["result"]["status"] == "unchecked"
    assert counts_and_databases_agree(rig)


def test_events_go_by_age_and_beyond_their_number() -> None:
    rig = rig_with(events_s=DAY_S, events_max=3)
    for n in range(5):
        rig.admin.ask(m.QueuePause(paused=n % 2 == 0))
    rig.retire()
    assert [each["number"] for each in rig.admin.ask(m.EventList())["events"]] == [5, 4, 3]
    rig.clock.advance(DAY_MS)
    rig.retire()
    assert rig.store.count("feed") == 0
    rig.admin.ask(m.QueuePause(paused=False))
    assert [each["number"] for each in rig.admin.ask(m.EventList())["events"]] == [6]
    assert counts_and_databases_agree(rig)


def test_a_slice_that_names_a_task_of_which_nothing_is_due_changes_nothing() -> None:
    rig = rig_with()
    (number,) = cancelled(rig)
    body = rig.store.get("tasks", key_u64(number))
    assert body is not None
    found = {("tasks", key_u64(number)): body}
    assert rig.tick(Retire((number, 99), (), Over(), found, {})) == []
    assert kept(rig) == [number]


def unfinished(rig: Rig, box: HostEnd) -> int:
    """A task that has failed three times, with the result of each, and waits for its next turn."""
    number = rig.admin.submit(shell_task(max_retries=8))
    for _ in range(3):
        taken = box.take()
        box.report(box.ended(taken, "failed", result(), error()))
        rig.advance(10_000)
        box.beat()
    return number


def told(rig: Rig) -> tuple[int, int]:
    found = rig.admin.ask(m.QueueStats())["retention"]
    return found["results"], found["notes"]


def test_what_live_tasks_hold_does_not_count_as_kept_of_what_is_over_and_drives_nothing_out() -> None:
    rig = rig_with(reports_max=2, stories_max=2)
    cancelled(rig)
    box = rig.host()
    completed(rig, box)
    number = unfinished(rig, box)
    assert rig.store.count("reports") == 4
    assert rig.store.count("stories") > 4
    assert told(rig) == (1, 1)
    rig.retire(5)
    assert told(rig) == (1, 1)
    rig.start()
    rig.admin.hello()
    assert told(rig) == (1, 1)
    rig.retire(5)
    assert told(rig) == (1, 1)
    rig.admin.ask(m.TaskCancel(task=number))
    assert told(rig)[0] == 4
    rig.retire(5)
    assert all(kept <= 2 for kept in told(rig))
    rig.admin.ask(m.TaskRetry(task=number))
    assert rig.hub.tasks.table.slot_of[number] is not None
    of_live = rig.store.scan("stories", key_u64(number), key_u64(number + 1))
    assert of_live
    assert told(rig)[1] == rig.store.count("stories") - len(of_live)


def test_what_comes_late_of_a_task_whose_story_has_gone_goes_too() -> None:
    rig = rig_with(reports_max=2, stories_max=2, stories_s=DAY_S)
    box = rig.host()
    number = rig.admin.submit(shell_task())
    taken = box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    box.report(box.ended(taken, "cancelled"))
    rig.clock.advance(DAY_MS)
    rig.retire(5)
    assert rig.store.count("stories") == 0
    box.hello()
    box.report(box.ended(taken, "completed", result()))
    assert rig.store.count("stories") == 2  # its end, which was noted again before, and this
    rig.clock.advance(DAY_MS)
    rig.retire(5)
    assert rig.store.count("stories") == 0


def test_the_queue_says_how_much_is_kept_and_what_may_be() -> None:
    rig = rig_with(tasks_max=2)
    cancelled(rig, 5)
    rig.retire()
    told = rig.admin.ask(m.QueueStats())["retention"]
    assert (told["tasks"], told["tasks_max"], told["retired_since_start"]) == (2, 2, 3)


def test_the_defaults_are_what_the_docs_say() -> None:
    assert Settings().retention.tasks_s == 90 * DAY_S
