"""A task's life between submit and its final state: states, keys, times, holds, waits, retries, purges."""

from __future__ import annotations

import msgspec
import pytest

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import rfc3339
from agentcom.core import tasks as core_tasks
from agentcom.core.effects import Put, Read, Send, TaskChanged, key_u64
from agentcom.core.rows import ROW_BYTES
from agentcom.core.tasks import TABLE, Move
from agentcom.errors import Refused
from agentcom.model import FINAL, FailureClass, Lane, Role, State, TaskRow, Tier, TierSource
from tests.core_rig import Rig
from tests.factories import error, settings, shell_task, task

HOUR_MS = 3_600_000
PURGED_ONE = {"purged": 1, "kept": [], "next_cursor": None}


@pytest.fixture
def rig() -> Rig:
    return Rig()


# --- submit ---------------------------------------------------------------------------------------------


def test_a_submit_writes_body_lane_and_row_and_answers_after_them(rig: Rig) -> None:
    spec = task(lane=Lane.high)
    event = rig.admin.event(rig.admin.request(m.Submit(tasks=(spec,))))
    effects = rig.hub.handle(event, rig.clock.now())
    puts = [effect for effect in effects if isinstance(effect, Put)]
    assert [(put.database, put.key) for put in puts[1:]] == [
        ("bodies", key_u64(1)),
        ("lanes", key_u64(1)),
        ("tasks", key_u64(1)),
        ("meta", b"next_task"),
    ]
    assert puts[0].key == b"group" + key_u64(0)
    assert puts[1].body == msgspec.msgpack.encode(spec)
    answer = {"tasks": [{"id": 1, "state": "ready", "tier": "standard", "created": True}]}
    rest = [effect for effect in effects if not isinstance(effect, Put)]
    assert rest == [TaskChanged(1), Send(rig.admin.peer, m.Reply(id=1, value=answer))]


def test_a_bare_task_is_inferred_and_waits_in_the_normal_lane(rig: Rig) -> None:
    found = rig.admin.task(rig.admin.submit(task("Add a docstring to the parser")))
    assert (found["state"], found["lane"], found["tier"], found["tier_source"]) == (
        "ready",
        "normal",
        "standard",
        "inferred",
    )
    assert found["submitted_by"] == "admin"


def test_a_batch_with_one_bad_task_takes_none_of_them(rig: Rig) -> None:
    with pytest.raises(Refused) as refused:
        rig.admin.submit(task(), task(), task(tier=Tier.trivial))
    assert (refused.value.code, refused.value.field) == ("command_required", "tasks[2].command")
    assert rig.hub.tasks.next_id == 1
    assert rig.store.count("tasks") == rig.store.count("bodies") == rig.store.count("lanes") == 0


def test_an_explicit_tier_that_the_heuristic_denies_is_an_event_and_a_count(rig: Rig) -> None:
    rig.admin.submit(task("Redesign the distributed consensus protocol", tier=Tier.standard))
    assert [one["event"] for one in rig.published("task")] == ["tier_disagreement"]
    assert rig.hub.tasks.disagreements == 1


# --- idempotency keys -----------------------------------------------------------------------------------


def test_the_same_key_returns_the_first_task_in_a_later_tick(rig: Rig) -> None:
    first = rig.admin.ask(m.Submit(tasks=(task(idempotency_key="k"),)))["tasks"][0]
    again = rig.admin.ask(m.Submit(tasks=(task("Something else", idempotency_key="k"),)))["tasks"][0]
    assert (again["id"], again["created"], again["state"]) == (first["id"], False, "ready")


def test_the_same_key_twice_in_one_batch_makes_one_task(rig: Rig) -> None:
    made = rig.admin.ask(m.Submit(tasks=(task(idempotency_key="k"), task(idempotency_key="k"))))["tasks"]
    assert [(one["id"], one["created"]) for one in made] == [(1, True), (1, False)]
    assert rig.hub.tasks.counts[State.ready] == 1


def test_the_same_key_twice_in_one_tick_makes_one_task(rig: Rig) -> None:
    requests = [rig.admin.request(m.Submit(tasks=(task(idempotency_key="k"),))) for _ in range(2)]
    rig.tick(*(rig.admin.event(request) for request in requests))
    assert [rig.admin.answer(r.id)["tasks"][0]["id"] for r in requests] == [1, 1]


def test_the_same_key_returns_the_first_task_after_a_restart(rig: Rig) -> None:
    rig.admin.submit(task(idempotency_key="k"))
    rig.start()
    rig.admin.hello()
    again = rig.admin.ask(m.Submit(tasks=(task(idempotency_key="k"),)))["tasks"][0]
    assert (again["id"], again["created"]) == (1, False)


def test_the_answer_to_a_known_key_tells_the_tier_that_the_first_task_has(rig: Rig) -> None:
    rig.admin.submit(shell_task(idempotency_key="k"))
    again = rig.admin.ask(m.Submit(tasks=(task(tier=Tier.complex, idempotency_key="k"),)))["tasks"][0]
    assert again["tier"] == "trivial"


def test_keys_of_two_submitters_do_not_meet(rig: Rig) -> None:
    one, other = rig.member(Role.submit, "ann"), rig.member(Role.submit, "bob")
    assert one.submit(task(idempotency_key="k")) != other.submit(task(idempotency_key="k"))


def test_a_purged_task_gives_its_key_free(rig: Rig) -> None:
    gone = rig.admin.submit(task(idempotency_key="k"))
    rig.admin.ask(m.TaskCancel(task=gone))
    rig.admin.ask(m.DeadPurge(tasks=(gone,)))
    made = rig.admin.ask(m.Submit(tasks=(task(idempotency_key="k"),)))["tasks"][0]
    assert made["created"]
    assert rig.admin.state(made["id"]) == "ready"


# --- the table ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [s for s in State if s not in FINAL])
@pytest.mark.parametrize("what", Move)
def test_an_unknown_pair_of_state_and_move_is_refused_and_changes_nothing(state: State, what: Move) -> None:
    if (state, what) in TABLE:
        assert TABLE[state, what] is not state
        return
    rig = Rig()
    number = in_state(rig, state)
    slot = rig.hub.tasks.table.slot_of[number]
    before = rig.hub.tasks.table.record(slot)
    with pytest.raises(Refused) as refused:
        rig.hub.tasks.move(slot, what, rig.clock.now())
    assert refused.value.code == "wrong_state"
    assert rig.hub.tasks.table.record(slot) == before
    assert rig.hub.out.take() == []
    rig.hub.validate()


def in_state(rig: Rig, state: State) -> int:
    """A task brought there by the usual way."""
    if state is State.delayed:
        return rig.admin.submit(task(not_before=rfc3339(rig.clock.now().wall_ms + HOUR_MS)))
    if state is State.waiting:
        return rig.admin.submit(task(), task(depends_on=(-1,))) + 1
    number = rig.admin.submit(shell_task())
    if state is State.held:
        rig.admin.ask(m.TaskHold(task=number))
    if state in (State.assigned, State.working):
        box = rig.host()
        if state is State.working:
            box.take()
    assert rig.hub.tasks.table.state_of(rig.hub.tasks.table.slot_of[number]) is state
    return number


@pytest.mark.parametrize("final", sorted(FINAL))
def test_every_live_state_can_be_left_and_no_final_one_is_left_but_by_retry(final: State) -> None:
    assert {what for state, what in TABLE if state is final} <= {Move.retry, Move.wait}
    for state in State:
        if state not in FINAL:
            assert (state, Move.cancel) in TABLE


def test_what_is_stored_after_each_move_is_what_the_core_has(rig: Rig) -> None:
    number = rig.admin.submit(shell_task(max_retries=1))
    box = rig.host()
    for _ in range(2):
        box.fail(box.take())
        stored = rig.store.get("tasks", key_u64(number))
        assert stored is not None
        row = msgspec.msgpack.decode(stored, type=TaskRow)
        if number in rig.hub.tasks.table:
            assert rig.hub.tasks.table.record(rig.hub.tasks.table.slot_of[number]) == row
        rig.advance(10_000)
    assert (row.state, row.retries_used, row.attempt) == (State.dead, 1, 2)


# --- times that people gave -----------------------------------------------------------------------------


def test_a_task_with_not_before_waits_for_the_wall_clock(rig: Rig) -> None:
    number = in_state(rig, State.delayed)
    rig.advance(HOUR_MS - 1)
    assert rig.admin.state(number) == "delayed"
    rig.advance(1)
    assert rig.admin.state(number) == "ready"


def test_not_before_follows_a_jump_of_the_wall_clock(rig: Rig) -> None:
    number = in_state(rig, State.delayed)
    rig.clock.jump(HOUR_MS)
    rig.advance(0)
    assert rig.admin.state(number) == "ready"


def test_a_time_in_the_past_is_now(rig: Rig) -> None:
    assert rig.admin.state(rig.admin.submit(task(not_before="2001-01-01T00:00:00Z"))) == "ready"


def test_a_task_that_starts_beyond_the_longest_ttl_is_refused(rig: Rig) -> None:
    """The year 10000 has no RFC 3339: such a task could be taken and never shown."""
    with pytest.raises(Refused) as refused:
        rig.admin.submit(task(not_before="9999-12-31T23:59:59Z"))
    assert (refused.value.code, refused.value.field) == ("invalid", "tasks[0].not_before")
    latest = rfc3339(rig.clock.now().wall_ms + limits.TTL_S_MAX * 1000)
    assert rig.admin.task(rig.admin.submit(task(not_before=latest, ttl_s=limits.TTL_S_MAX)))["expires_at"]


def test_a_queued_task_expires_at_the_end_of_its_ttl(rig: Rig) -> None:
    number = rig.admin.submit(task(ttl_s=60))
    rig.advance(60_000)
    found = rig.admin.task(number)
    assert (found["state"], found["error"]["code"]) == ("expired", "ttl")
    assert rig.admin.ask(m.DeadList())["tasks"][0]["id"] == number


def test_a_running_task_outlives_its_ttl_and_expires_when_it_comes_back(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(ttl_s=20))
    assign = box.take()
    for _ in range(6):
        rig.advance(5_000)
        box.beat(assign)
    assert rig.admin.state(number) == "working"
    box.fail(assign)
    rig.advance(0)
    assert rig.admin.state(number) == "expired"


def test_a_held_task_expires_after_the_time_that_is_allowed(rig: Rig) -> None:
    rig = Rig(settings(held_s=3600))
    number = in_state(rig, State.held)
    rig.advance(HOUR_MS - 1)
    assert rig.admin.state(number) == "held"
    rig.advance(1)
    assert rig.admin.task(number)["error"]["code"] == "held_too_long"


# --- hold and release -----------------------------------------------------------------------------------


def test_a_held_task_is_given_to_nobody_until_it_is_released(rig: Rig) -> None:
    number = in_state(rig, State.held)
    box = rig.host()
    assert rig.sent(m.Assign) == []
    rig.admin.ask(m.TaskRelease(task=number))
    assert box.assigned().task == number


def test_a_task_that_was_released_shows_no_longer_what_held_it(rig: Rig) -> None:
    number = rig.admin.submit(task())
    rig.admin.ask(m.TaskHold(task=number))
    assert rig.admin.task(number)["error"]["code"] == "held_by_user"
    rig.admin.ask(m.TaskRelease(task=number))
    found = rig.admin.task(number)
    assert (found["state"], found["error"]) == ("ready", None)
    assert rig.twin().tasks.table.errors == {}


def test_a_task_that_was_released_before_its_time_shows_no_longer_what_held_it(rig: Rig) -> None:
    number = in_state(rig, State.delayed)
    rig.admin.ask(m.TaskHold(task=number))
    rig.admin.ask(m.TaskRelease(task=number))
    found = rig.admin.task(number)
    assert (found["state"], found["error"]) == ("delayed", None)


def test_holding_a_held_task_is_refused_and_changes_neither_reason_nor_deadline(rig: Rig) -> None:
    number = rig.admin.submit(task())
    rig.admin.ask(m.TaskHold(task=number, reason="the first"))
    table = rig.hub.tasks.table
    before = table.record(table.slot_of[number])
    rig.clock.advance(1000)
    with pytest.raises(Refused, match="cannot hold"):
        rig.admin.ask(m.TaskHold(task=number, reason="the second"))
    assert table.record(table.slot_of[number]) == before


def test_a_task_that_was_held_before_its_time_goes_on_waiting_for_it(rig: Rig) -> None:
    number = in_state(rig, State.delayed)
    rig.admin.ask(m.TaskHold(task=number))
    rig.admin.ask(m.TaskRelease(task=number))
    assert rig.admin.state(number) == "delayed"
    rig.advance(HOUR_MS)
    assert rig.admin.state(number) == "ready"


def test_a_task_that_had_a_time_has_a_backoff_of_its_own_when_it_fails(rig: Rig) -> None:
    """It kept the time: passed, it cut the backoff short; still to come, the timers never ended."""
    number = rig.admin.submit(shell_task(not_before=rfc3339(rig.clock.now().wall_ms + HOUR_MS)))
    rig.admin.ask(m.TaskHold(task=number))
    rig.advance(HOUR_MS)
    rig.admin.ask(m.TaskRelease(task=number))
    box = rig.host()
    box.fail(box.take())
    rig.advance(0)
    assert rig.admin.state(number) == "delayed"
    rig.advance(2_000)
    assert box.take().attempt == 2


def test_a_failed_task_is_delayed_by_its_backoff_whatever_time_it_had_before(rig: Rig) -> None:
    number = rig.admin.submit(shell_task(not_before=rfc3339(rig.clock.now().wall_ms + HOUR_MS)))
    rig.advance(HOUR_MS)
    box = rig.host()
    box.fail(box.take())
    assert rig.admin.state(number) == "delayed"
    rig.advance(2_000)
    assert box.assigned().attempt == 2


def test_a_running_task_cannot_be_held(rig: Rig) -> None:
    number = in_state(rig, State.working)
    with pytest.raises(Refused, match="is running"):
        rig.admin.ask(m.TaskHold(task=number))
    assert rig.admin.state(number) == "working"


def test_a_refusal_quotes_why_a_task_is_held_and_not_why_it_was(rig: Rig) -> None:
    number = rig.admin.submit(task())
    rig.admin.ask(m.TaskHold(task=number, reason="wait for Ann"))
    with pytest.raises(Refused, match=r"is held .*wait for Ann"):
        rig.admin.ask(m.TaskHold(task=number))
    rig.admin.ask(m.TaskRelease(task=number))
    with pytest.raises(Refused, match="is ready") as refused:
        rig.admin.ask(m.TaskRelease(task=number))
    assert "Ann" not in refused.value.message


@pytest.mark.parametrize("op", [m.TaskHold, m.TaskRelease])
def test_a_final_task_is_said_to_be_final_not_missing(rig: Rig, op: type[m.TaskHold | m.TaskRelease]) -> None:
    number = rig.admin.submit(task())
    rig.admin.ask(m.TaskCancel(task=number))
    with pytest.raises(Refused) as refused:
        rig.admin.ask(op(task=number))
    assert refused.value.code == "wrong_state"


# --- cancel, retry, purge -------------------------------------------------------------------------------


def test_cancelling_twice_is_answered_alike(rig: Rig) -> None:
    number = rig.admin.submit(task())
    assert rig.admin.ask(m.TaskCancel(task=number))["state"] == "cancelled"
    assert rig.admin.ask(m.TaskCancel(task=number))["state"] == "cancelled"


def test_a_completed_task_is_neither_cancelled_nor_retried(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    box.complete(box.take())
    for op in (m.TaskCancel(task=number), m.TaskRetry(task=number), m.DeadPurge(tasks=(number,))):
        with pytest.raises(Refused) as refused:
            rig.admin.ask(op)
        assert refused.value.code == "wrong_state"
    assert rig.admin.state(number) == "completed"


def test_a_retried_task_has_fresh_counters_and_attempts_that_rise_on(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task(max_retries=0))
    box.fail(box.take())
    assert rig.admin.state(number) == "dead"
    rig.admin.ask(m.TaskRetry(task=number))
    assert box.assigned().attempt == 2
    found = rig.admin.task(number)
    assert (found["state"], found["retries_used"], found["error"]) == ("assigned", 0, None)
    assert rig.store.count("dead") == 0


def test_a_task_that_was_cancelled_and_retried_is_given_out_once(rig: Rig) -> None:
    """Its first entry in the queue stood again, beside the second: one tick gave it to two agents."""
    number = rig.admin.submit(shell_task())
    rig.admin.ask(m.TaskCancel(task=number))
    rig.clock.advance(1)
    rig.admin.ask(m.TaskRetry(task=number))
    rig.host(agents=2)
    assert [(one.task, one.attempt) for one in rig.sent(m.Assign)] == [(number, 1)]


def test_a_cancel_and_a_retry_in_one_tick_leave_the_task_ready(rig: Rig) -> None:
    number = rig.admin.submit(task())
    cancel, retry = (rig.admin.request(op(task=number)) for op in (m.TaskCancel, m.TaskRetry))
    rig.tick(rig.admin.event(cancel), rig.admin.event(retry))
    assert rig.admin.answer(retry.id)["state"] == "ready"


def test_a_task_that_is_purged_and_retried_in_one_tick_stays_purged(rig: Rig) -> None:
    """The store still had the row: the task came back without its body, and the hub fell at the assignment."""
    number = rig.admin.submit(shell_task())
    rig.admin.ask(m.TaskCancel(task=number))
    purge, retry = (
        rig.admin.request(m.DeadPurge(tasks=(number,))),
        rig.admin.request(m.TaskRetry(task=number)),
    )
    rig.tick(rig.admin.event(purge), rig.admin.event(retry))
    assert rig.admin.answer(purge.id) == PURGED_ONE
    with pytest.raises(Refused, match="no task"):
        rig.admin.answer(retry.id)


def test_a_task_that_is_named_twice_is_retried_once(rig: Rig) -> None:
    number = rig.admin.submit(task())
    rig.admin.ask(m.TaskCancel(task=number))
    assert rig.admin.ask(m.DeadRetry(tasks=(number, number))) == {"tasks": [number], "next_cursor": None}
    assert rig.hub.tasks.counts[State.ready] == 1


def test_a_task_that_is_named_twice_or_purged_twice_in_a_tick_is_counted_once(rig: Rig) -> None:
    number = rig.admin.submit(task())
    rig.admin.ask(m.TaskCancel(task=number))
    purges = [rig.admin.request(m.DeadPurge(tasks=(number, number))) for _ in range(2)]
    rig.tick(*(rig.admin.event(purge) for purge in purges))
    assert rig.admin.answer(purges[0].id) == PURGED_ONE
    with pytest.raises(Refused):
        rig.admin.answer(purges[1].id)
    assert rig.hub.tasks.counts[State.cancelled] == 0


def test_a_bulk_retry_with_one_that_is_live_retries_none(rig: Rig) -> None:
    dead, live = rig.admin.submit(task()), rig.admin.submit(task())
    rig.admin.ask(m.TaskCancel(task=dead))
    with pytest.raises(Refused):
        rig.admin.ask(m.DeadRetry(tasks=(dead, live)))
    assert rig.admin.state(dead) == "cancelled"


def test_a_purge_leaves_nothing_of_the_task(rig: Rig) -> None:
    rig = Rig(settings(max_losses=9))
    box = rig.host()
    number = rig.admin.submit(shell_task(max_retries=0, idempotency_key="k"))
    lost = box.take()
    rig.advance(45_000)
    box.complete(lost)  # too late: kept as evidence
    rig.advance(2_000)
    box.fail(box.take())
    assert rig.admin.state(number) == "dead"
    assert rig.admin.ask(m.DeadPurge(tasks=(number,))) == PURGED_ONE
    left = {
        name: rig.store.count(name) for name in ("tasks", "bodies", "lanes", "dead", "attempts", "routes")
    }
    assert left == dict.fromkeys(left, 0)
    assert rig.store.count("reports") == rig.store.count("idempotency") == rig.store.count("stories") == 0
    with pytest.raises(Refused, match="no task"):
        rig.admin.task(number)


# --- waits ----------------------------------------------------------------------------------------------


def test_who_waits_is_answered_when_the_task_is_final(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    wait = rig.admin.request(m.TaskWait(task=number))
    rig.admin.send(wait)
    assert rig.admin.received == []
    box.complete(box.take())
    assert rig.admin.answer(wait.id)["state"] == "completed"


def test_who_waits_is_answered_when_the_time_is_over(rig: Rig) -> None:
    number = rig.admin.submit(task())
    wait = rig.admin.request(m.TaskWait(task=number, timeout_s=2))
    rig.admin.send(wait)
    rig.advance(1_999)
    assert rig.admin.received == []
    effects = rig.advance(1)
    assert Read(rig.admin.peer, wait.id, m.TaskGet(task=number), 0) in effects
    rig.advance(60_000)
    assert rig.admin.answer(wait.id)["state"] == "ready"
    assert rig.admin.received == []


def test_a_wait_for_a_final_task_is_answered_at_once(rig: Rig) -> None:
    number = rig.admin.submit(task())
    rig.admin.ask(m.TaskCancel(task=number))
    assert rig.admin.ask(m.TaskWait(task=number))["state"] == "cancelled"


def test_who_waits_and_comes_back_under_another_address_is_answered_there(rig: Rig) -> None:
    number = rig.admin.submit(task())
    wait = rig.admin.request(m.TaskWait(task=number))
    rig.admin.send(wait)
    rig.admin.move()
    rig.admin.ask(m.TaskCancel(task=number))
    assert rig.admin.answer(wait.id)["state"] == "cancelled"


def test_who_waits_and_leaves_is_forgotten(rig: Rig) -> None:
    number = rig.admin.submit(task())
    ann = rig.member(Role.view, "ann")
    ann.send(ann.request(m.TaskWait(task=number)))
    ann.leave()
    effects = rig.admin.send(rig.admin.request(m.TaskCancel(task=number)))
    assert [e for e in effects if isinstance(e, Read) and e.peer == ann.peer] == []
    assert rig.hub.tasks.waits.count == 0


def test_a_long_session_keeps_nothing_of_waits_that_were_answered(rig: Rig) -> None:
    number = rig.admin.submit(task())
    for _ in range(5):
        rig.admin.send(rig.admin.request(m.TaskWait(task=number, timeout_s=0)))
        rig.advance(0)
    session = rig.hub.sessions.by_peer[rig.admin.peer]
    assert session.waits == {}


def test_waits_are_bounded_and_the_next_is_answered_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WAITERS_MAX", 2)
    number = rig.admin.submit(task())
    for _ in range(2):
        rig.admin.send(rig.admin.request(m.TaskWait(task=number)))
    assert rig.admin.ask(m.TaskWait(task=number))["state"] == "ready"


def test_a_wait_for_anothers_task_is_refused_at_once(rig: Rig) -> None:
    """Waiting for the time to be over would tell that there is such a task."""
    number = rig.admin.submit(task())
    with pytest.raises(Refused, match="no task"):
        rig.member(Role.submit).ask(m.TaskWait(task=number))


# --- bounds ---------------------------------------------------------------------------------------------


def test_deadlines_of_finished_tasks_do_not_pile_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_tasks, "STALE_MAX", 8)
    for _ in range(200):
        rig.admin.ask(m.TaskCancel(task=rig.admin.submit(task())))
    assert len(rig.hub.tasks.deadlines) <= 8 + core_tasks.CHECK_EVERY
    assert rig.hub.tasks.ready.entries() == []


def test_a_rows_counters_fit_the_two_hundred_bytes_that_are_promised() -> None:
    assert ROW_BYTES <= 200


def test_counts_by_state_and_lane_survive_a_restart(rig: Rig) -> None:
    box = rig.host()
    rig.admin.submit(shell_task(lane=Lane.urgent), task(lane=Lane.low), task(ttl_s=1), task())
    box.complete(box.take())
    rig.admin.ask(m.TaskCancel(task=4))
    rig.advance(1_000)
    before = (dict(rig.hub.tasks.counts), dict(rig.hub.tasks.by_lane))
    assert before[0][State.completed] == before[0][State.cancelled] == before[0][State.expired] == 1
    rig.start()
    assert (rig.hub.tasks.counts, rig.hub.tasks.by_lane) == before


def test_a_reason_survives_a_restart(rig: Rig) -> None:
    box = rig.host()
    number = rig.admin.submit(shell_task())
    box.fail(box.take(), error(FailureClass.configuration, "key_refused", message="401"))
    rig.start()
    rig.admin.hello()
    found = rig.admin.task(number)
    assert (found["state"], found["error"]) == (
        "held",
        {"class": "configuration", "code": "key_refused", "message": "401"},
    )
    assert found["tier_source"] == TierSource.command


def test_timers_of_waits_that_were_answered_do_not_pile_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WAITERS_MAX", 4)
    for _ in range(20):
        number = rig.admin.submit(task())
        rig.admin.send(rig.admin.request(m.TaskWait(task=number)))
        rig.admin.ask(m.TaskCancel(task=number))
    assert len(rig.hub.tasks.waits._due) <= 6
