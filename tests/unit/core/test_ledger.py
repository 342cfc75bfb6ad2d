"""Budgets: what is settled and reserved never passes one, nothing is booked twice, and who waits goes on by itself."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcom import messages as m
from agentcom.config import RetentionSettings
from agentcom.core.effects import key_u64x2
from agentcom.core.ledger import HELD_MAX, LOOKED_MAX, PREFIX, period_of
from agentcom.core.sums import record_key
from agentcom.errors import Refused
from agentcom.model import Backend, BudgetPeriod, FailureClass, ResultStatus, Role, State
from agentcom.money import MICRO, BudgetRecord, LedgerRecord, SpentRecord, micro, shown
from agentcom.store.base import Batch, Database
from agentcom.store.crosscheck import cross_check, walk_store
from tests.core_rig import HostEnd, Rig
from tests.factories import agent_offer, complex_task, error, result, settings, shell_task

REPO, OTHER = "https://git.example/one.git", "https://git.example/two.git"
DAY_MS = 86_400_000


@pytest.fixture
def rig() -> Rig:
    return Rig()


def cloud(rig: Rig, agents: int = 1, name: str = "box") -> HostEnd:
    offers = tuple(agent_offer(f"a{n}", backends=(Backend.shell, Backend.claude)) for n in range(agents))
    return rig.host(name, agents=offers)


def budget(rig: Rig, key: str, usd: float | None, per: str = "ever") -> Any:
    return rig.admin.ask(m.BudgetSet(key=key, usd=usd, per=BudgetPeriod(per)))


def shown_budgets(rig: Rig) -> dict[str, tuple[float, float, float]]:
    found = rig.admin.ask(m.BudgetList())["budgets"]
    return {f"{b['key']} {b['per']}": (b["spent_usd"], b["reserved_usd"], b["left_usd"]) for b in found}


def paid(box: HostEnd, assign: m.Assign, usd: float | None) -> str:
    fields = {"backend": Backend.claude, "model": "claude-sonnet-5-5", "status": ResultStatus.unchecked}
    return box.complete(assign, cost_usd=usd, **fields)


# --- allowances -----------------------------------------------------------------------------------------


def test_without_a_budget_an_attempt_has_no_allowance_and_its_cost_is_booked(rig: Rig) -> None:
    box = cloud(rig)
    rig.admin.submit(complex_task())
    assign = box.take()
    assert assign.budget_usd is None
    paid(box, assign, 0.25)
    assert rig.admin.ask(m.BudgetList())["counted_usd"] == {"day": 0.25, "month": 0.25, "ever": 0.25}


def test_local_work_writes_nothing_into_the_book(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 1)
    rig.admin.submit(shell_task())
    assign = box.take()
    assert (assign.budget_usd, rig.hub.ledger.open) == (None, {})
    box.complete(assign)
    assert rig.store.count("ledger") == 0


def test_an_attempt_reserves_what_it_may_cost_and_settles_what_it_has(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 5)
    rig.admin.submit(complex_task(repo=REPO))
    assign = box.take()
    assert assign.budget_usd == 2
    assert shown_budgets(rig)["all ever"] == (0, 2, 3)
    paid(box, assign, 0.125)
    assert shown_budgets(rig)["all ever"] == (0.125, 0, 4.875)


def test_a_task_without_room_is_held_with_the_figure_that_would_let_it_go(rig: Rig) -> None:
    box = cloud(rig, agents=2)
    budget(rig, f"repo:{REPO}", 3.5)
    first = rig.admin.submit(complex_task(repo=REPO))
    second = rig.admin.submit(complex_task(repo=REPO))
    third = rig.admin.submit(complex_task(repo=OTHER))
    given = {box.take().task, box.take().task}
    assert given == {first, third}
    told = rig.admin.task(second)
    assert (told["state"], told["error"]["code"]) == ("held", "budget")
    assert told["error"]["message"] == (
        f"an attempt may cost up to 2.00 USD, the budget of repo:{REPO} has 1.50 of 3.50 left; "
        f"agentcom budget set repo:{REPO} 4.00 --per ever"
    )
    assert "4.00" in rig.admin.ask(m.TaskWhy(task=second))["reason"]


def test_the_figure_that_would_let_it_go_counts_what_was_overspent_and_follows_the_budget(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 5)
    paid(box, (rig.admin.submit(complex_task()), box.take())[1], 12.5)
    number = rig.admin.submit(complex_task())
    said = rig.admin.task(number)["error"]["message"]
    assert "has 0.00 of 5.00 left; agentcom budget set all 14.50 --per ever" in said
    budget(rig, "all", 7)
    assert rig.admin.state(number) == "held"
    assert "0.00 of 7.00 left; agentcom budget set all 14.50" in rig.admin.ask(m.TaskWhy(task=number))["reason"]
    budget(rig, "all", 14.5)
    assert box.take().task == number


def test_a_raised_budget_lets_it_go_by_itself(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 1)
    number = rig.admin.submit(complex_task())
    assert rig.admin.state(number) == "held"
    budget(rig, "all", 2)
    assert box.take().task == number


def test_an_attempt_that_was_cheaper_makes_room(rig: Rig) -> None:
    box = cloud(rig, agents=2)
    budget(rig, "all", 3)
    rig.admin.submit(complex_task())
    second = rig.admin.submit(complex_task())
    assign = box.take()
    assert rig.admin.state(second) == "held"
    paid(box, assign, 0.5)
    assert box.take().task == second


def test_the_next_day_makes_room(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 2, "day")
    rig.admin.submit(complex_task())
    second = rig.admin.submit(complex_task())
    paid(box, box.take(), 1.5)
    assert rig.admin.state(second) == "held"
    due_ms = rig.hub.next_due_ms(rig.clock.now())
    assert due_ms is not None
    rig.clock.advance(DAY_MS)
    rig.tick()
    box.hello()
    rig.advance(0)
    assert box.take().task == second


def test_a_tasks_own_budget_is_for_all_its_attempts(rig: Rig) -> None:
    box = cloud(rig)
    number = rig.admin.submit(complex_task(budget_usd=0.75))
    assign = box.take()
    assert assign.budget_usd == 0.75
    spent = result(backend=Backend.claude, model="m", cost_usd=0.5, status=ResultStatus.partial_pass)
    box.report(box.ended(assign, "failed", spent, error(FailureClass.task_error)))
    rig.advance(600_000)
    box.hello()
    again = box.take()
    assert (again.task, again.budget_usd) == (number, 0.25)
    spent = result(backend=Backend.claude, model="m", cost_usd=0.25, status=ResultStatus.partial_pass)
    box.report(box.ended(again, "failed", spent, error(FailureClass.task_error)))
    rig.advance(600_000)
    box.hello()
    told = rig.admin.task(number)
    assert (told["state"], told["error"]["code"]) == ("held", "budget")
    assert "its own budget is spent: 0.75 of 0.75 USD" in told["error"]["message"]


# --- what is not known ----------------------------------------------------------------------------------


def test_an_allowance_that_was_set_lower_lets_those_go_that_have_room_now(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 1)
    rig.admin.ask(m.ConfigChange(set={"budgets.attempt_usd": 2.0}))
    task = rig.admin.submit(complex_task())
    rig.tick()
    assert rig.admin.state(task) == "held"
    rig.admin.ask(m.ConfigChange(set={"budgets.attempt_usd": 0.5}))
    assert box.take().task == task


def test_a_task_that_is_retried_by_a_person_has_spent_what_it_has_spent(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 100)
    task = rig.admin.submit(complex_task(budget_usd=3))
    assign = box.take()
    rig.admin.ask(m.TaskCancel(task=task))
    box.report(box.ended(assign, "cancelled", result=result(cost_usd=1.5, backend=Backend.claude)))
    rig.admin.ask(m.TaskRetry(task=task))
    again = box.take()
    assert again.budget_usd == 1.5
    rig.admin.ask(m.TaskCancel(task=task))
    box.report(box.ended(again, "cancelled"))
    rig.admin.ask(m.DeadRetry(tasks=(task,)))
    rig.tick()
    assert "its own budget is spent: 3.00 of 3.00 USD" in rig.admin.task(task)["error"]["message"]
    assert rig.twin().tasks.table.paid == rig.hub.tasks.table.paid == {task: 3 * MICRO}


def test_a_lost_worker_counts_as_all_that_it_was_given_until_its_late_result(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 10)
    rig.admin.submit(complex_task())
    assign = box.take()
    box.leave()
    rig.advance(3_600_000)
    assert shown_budgets(rig)["all ever"] == (2, 0, 8)
    box.move()
    box.hello()
    late = box.ended(assign, "completed", result(backend=Backend.claude, model="m", cost_usd=0.3))
    assert box.report(late) == "stale"
    assert shown_budgets(rig)["all ever"][0] == pytest.approx(0.3 + 0)
    assert box.report(late) == "stale"
    assert shown_budgets(rig)["all ever"][0] == pytest.approx(0.3)


@pytest.mark.parametrize("usd", [float("inf"), 1e300, 1e14])
def test_a_cost_that_cannot_be_counts_as_one_that_nobody_knows(rig: Rig, usd: float) -> None:
    box = cloud(rig)
    budget(rig, "all", 10)
    number = rig.admin.submit(complex_task())
    assert paid(box, box.take(), usd) == "accepted"
    assert rig.admin.state(number) == "completed"
    assert shown_budgets(rig)["all ever"] == (2, 0, 8)


def test_an_assignment_that_was_declined_has_cost_nothing(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 10)
    rig.admin.submit(complex_task())
    assign = box.assigned()
    decline = m.Decline(
        session=box.token, task=assign.task, attempt=assign.attempt, code="no_room", message="",
        failure_class=FailureClass.infrastructure,
    )  # fmt: skip
    box.send(decline)
    assert shown_budgets(rig)["all ever"] == (0, 0, 10)


def test_a_cancelled_attempt_is_booked_when_its_host_says_what_it_has_cost(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 10)
    number = rig.admin.submit(complex_task())
    assign = box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    assert shown_budgets(rig)["all ever"] == (2, 0, 8)
    spent = result(backend=Backend.claude, model="m", cost_usd=0.01)
    box.report(box.ended(assign, "cancelled", spent))
    assert shown_budgets(rig)["all ever"] == (0.01, 0, 9.99)


def test_a_restart_knows_what_is_reserved_spent_and_held(rig: Rig) -> None:
    box = cloud(rig, agents=2)
    budget(rig, "all", 5)
    paid_first = rig.admin.submit(complex_task())
    paid(box, box.take(), 0.5)
    rig.admin.submit(complex_task(budget_usd=1.5))
    second = box.take()
    held = [rig.admin.submit(complex_task()) for _ in range(2)]
    third = box.take()
    assert third.task == held[0]
    before = shown_budgets(rig)
    assert before["all ever"] == (0.5, 3.5, 1.0)
    budget(rig, "all", 4)
    rig.start()
    rig.admin.hello()
    assert shown_budgets(rig)["all ever"] == (0.5, 3.5, 0)
    assert rig.hub.tasks.table.budgets == {second.task: 1_500_000}
    box.hello(attempts=(box.held(second), box.held(third)))
    paid(box, second, 0.5)
    paid(box, third, 0.5)
    assert shown_budgets(rig)["all ever"][0] == 1.5
    assert box.take().task == held[1]
    assert paid_first not in rig.hub.tasks.table.paid


def test_a_clock_that_jumps_ahead_and_back_forgets_nothing_of_today(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 3, "day")
    rig.admin.submit(complex_task())
    paid(box, box.take(), 2.5)
    for days in (5000, -5000):
        rig.clock.jump(days * DAY_MS)
        rig.advance(1000)
    assert shown_budgets(rig)["all day"] == (2.5, 0, 0.5)


def test_a_budget_that_is_set_while_an_attempt_runs_sees_it(rig: Rig) -> None:
    box = cloud(rig, agents=2)
    rig.admin.submit(complex_task())
    assign = box.take()
    assert assign.budget_usd is None
    budget(rig, "all", 3)
    second = rig.admin.submit(complex_task())
    assert (shown_budgets(rig)["all ever"], rig.admin.state(second)) == ((0, 2, 1), "held")
    paid(box, assign, 0.5)
    assert box.take().task == second


def test_many_tasks_without_room_are_held_and_let_go_some_in_each_tick(rig: Rig) -> None:
    rig.validates = False
    box = cloud(rig, agents=4)
    budget(rig, "all", 1)
    for _ in range(3):
        rig.admin.submit(*(complex_task() for _ in range(300)))
    counts = rig.hub.tasks.counts
    assert 0 < counts[State.held] < 900
    while counts[State.ready]:
        before = counts[State.held]
        rig.tick()
        assert 0 < counts[State.held] - before <= HELD_MAX + 64
    budget(rig, "all", 2000)
    assert box.received, "the first of them have begun"
    while rig.hub.ledger.has_to_look:
        before = counts[State.held]
        rig.tick()
        assert before - counts[State.held] <= LOOKED_MAX
    assert counts[State.held] == 0
    rig.hub.validate()


# --- rights and bad input -------------------------------------------------------------------------------


def test_a_budget_by_submitter_holds_theirs_alone(rig: Rig) -> None:
    box = cloud(rig, agents=2)
    ann = rig.member(Role.submit, "ann")
    budget(rig, "submitter:ann", 1)
    hers, mine = ann.submit(complex_task()), rig.admin.submit(complex_task())
    assert box.take().task == mine
    assert rig.admin.state(hers) == "held"


def test_a_budget_and_what_was_spent_of_it_hold_for_the_next_token_of_that_name(rig: Rig) -> None:
    box = cloud(rig)
    rig.token("dora", "first")
    budget(rig, "submitter:dora", 2.5)
    rig.web.ask(m.Submit(tasks=(complex_task(),)), bearer="first")
    paid(box, box.take(), 1.5)
    rig.admin.ask(m.TokenRevoke(name="dora"))
    assert shown_budgets(rig) == {"submitter:dora ever": (1.5, 0.0, 1.0)}
    rig.token("dora", "second")
    new = rig.web.ask(m.Submit(tasks=(complex_task(),)), bearer="second")["tasks"][0]["id"]
    assert rig.admin.state(new) == "held"
    budget(rig, "submitter:dora", 3.5)
    assert shown_budgets(rig) == {"submitter:dora ever": (1.5, 2.0, 0.0)}
    paid(box, box.take(), 0.5)
    assert (shown_budgets(rig), len(sums(rig))) == ({"submitter:dora ever": (2.0, 0.0, 1.5)}, 6)
    rig.admin.ask(m.TokenRevoke(name="dora"))
    assert budget(rig, "submitter:dora", None)["usd"] is None
    assert shown_budgets(rig) == {}


def test_of_two_budgets_for_one_name_in_a_store_the_newest_holds_and_counts_both_tokens() -> None:
    """Until now each key and token of a name had budgets and sums of its own."""
    rig = rig_that_keeps(DAY_S)
    box = cloud(rig)
    records = []
    for secret in ("first", "second"):
        records.append(rig.token("dora", secret))
        rig.web.ask(m.Submit(tasks=(complex_task(),)), bearer=secret)
        paid(box, box.take(), 0.5)
        rig.clock.advance(DAY_MS)
        box.beat()
        if secret == "first":
            rig.admin.ask(m.TokenRevoke(name="dora"))
    assert rig.retire(2) == 1, "what both have cost is carried over, or will be"
    batch = Batch()
    for record, limit, set_ms in zip(records, (MICRO, 3 * MICRO), (1, 2), strict=True):
        place = ("submitter", str(record), BudgetPeriod.ever)
        old = BudgetRecord(scope="submitter", key=str(record), per=BudgetPeriod.ever, limit=limit, set_ms=set_ms)
        batch.put("meta", record_key(PREFIX, place), msgspec.msgpack.encode(old))
    rig.store.commit(batch, rig.store.sequence + 1)
    for _ in range(2):
        rig.start()
        rig.admin.hello()
        assert shown_budgets(rig) == {"submitter:dora ever": (1.0, 0.0, 2.0)}
        assert len(list(rig.store.scan("meta", PREFIX, PREFIX + b"\xff" * 17))) == 1
    rig.clock.advance(2 * DAY_MS)
    rig.retire(2)
    assert (rig.store.count("ledger"), cross_check(walk_store(rig.store))) == (0, (0, []))
    assert shown_budgets(rig) == {"submitter:dora ever": (1.0, 0.0, 2.0)}
    budget(rig, "submitter:dora", None)
    assert shown_budgets(rig) == {}


@pytest.mark.parametrize("key", ["label:x", "repo:", "everything", "submitter:nobody", "host:box"])
def test_a_budget_of_nothing_is_refused(rig: Rig, key: str) -> None:
    with pytest.raises(Refused) as found:
        budget(rig, key, 1)
    assert found.value.field == "key"


def test_a_budget_that_is_not_set_cannot_be_taken_back(rig: Rig) -> None:
    budget(rig, "all", 1, "day")
    with pytest.raises(Refused, match="no budget is set for all per month"):
        budget(rig, "all", None, "month")
    assert budget(rig, "all", None, "day") == {"key": "all", "per": "day", "usd": None}
    assert shown_budgets(rig) == {}


def test_people_are_told_once_when_a_budget_is_low_and_once_when_it_is_reached(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 2.4)
    told = []
    for usd in (0.0, 0.4, 0.0, 0.0):
        rig.admin.submit(complex_task())
        told += [e["event"] for e in rig.published("queue") if str(e["event"]).startswith("budget_")]
        paid(box, box.take(), usd)
    assert told == ["budget_low", "budget_reached"]


def test_money_is_rounded_up_and_shown_with_its_cents() -> None:
    assert [micro(usd) for usd in (0.1, 1e-7, 2, 0.0000011)] == [100_000, 1, 2_000_000, 2]
    assert [shown(amount) for amount in (2_000_000, 100_000, 1, 1_234_500)] == [
        "2.00",
        "0.10",
        "0.000001",
        "1.2345",
    ]


def test_periods_are_days_and_months_in_utc() -> None:
    at = 1_795_651_199_999  # 2026-11-25T23:59:59.999Z
    assert [period_of(per, at) for per in BudgetPeriod] == ["2026-11-25", "2026-11", ""]
    assert period_of(BudgetPeriod.day, at + 1) == "2026-11-26"


# --- at random ------------------------------------------------------------------------------------------


@given(st.integers(0, 2**32))
def test_no_budget_is_passed_and_nothing_is_booked_twice_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    rig = rig_that_keeps(DAY_S)
    box = cloud(rig, agents=3)
    limit = rng.choice([1, 3, 7])
    budget(rig, "all", limit)
    costs: dict[tuple[int, int], int] = {}
    ended: list[tuple[m.Assign, float]] = []
    running: list[m.Assign] = []
    for _ in range(rng.randint(5, 40)):
        running += [box.accept(one) for one in box.received if isinstance(one, m.Assign)]
        box.received = [one for one in box.received if not isinstance(one, m.Assign)]
        match rng.choice(["submit", "submit", "end", "end", "fail", "again", "restart", "time", "lower"]):
            case "submit":
                own = rng.choice([None, None, 0.5, 3.0])
                rig.admin.submit(complex_task(**({} if own is None else {"budget_usd": own})))
            case "end" | "fail" as how if running:
                one = running.pop(rng.randrange(len(running)))
                assert one.budget_usd is not None
                usd = round(rng.uniform(0, one.budget_usd), 6)
                costs[one.task, one.attempt] = micro(usd)
                ended.append((one, usd))
                spent = result(backend=Backend.claude, model="m", cost_usd=usd)
                why = None if how == "end" else error()
                box.report(box.ended(one, "completed" if how == "end" else "failed", spent, why))
            case "again" if ended:
                one, usd = rng.choice(ended)
                box.report(
                    box.ended(one, "completed", result(backend=Backend.claude, model="m", cost_usd=usd))
                )
            case "restart":
                rig.start()
                rig.admin.hello()
                box.received.clear()
                box.hello(attempts=tuple(box.held(one) for one in running))
            case "time":
                rig.advance(rng.choice([1_000, 4_000]))
                if running:
                    box.beat(*running)
            case "lower":
                limit = rng.choice([limit, limit + 2])
                budget(rig, "all", limit)
        spent, reserved, _ = shown_budgets(rig)["all ever"]
        assert micro(spent) + micro(reserved) <= limit * MICRO
        known = sum(costs.values())
        assert micro(spent) == known, "what is spent is what hosts have said, once"
    rig.clock.advance(rng.choice([0, 2 * DAY_MS]))
    rig.advance(1_000)
    before = sums(rig)
    rig.retire(3)
    assert sums(rig) == before
    assert cross_check(walk_store(rig.store)) == (0, [])


# --- what is kept ---------------------------------------------------------------------------------------

DAY_S = 86_400


def rig_that_keeps(ledger_s: int) -> Rig:
    return Rig(msgspec.structs.replace(settings(), retention=RetentionSettings(ledger_s=ledger_s)))


def sums(rig: Rig) -> dict[Any, int]:
    """All sums, which a hub that started now would have too."""
    found = dict(+rig.hub.ledger.sums.by_place)
    assert dict(+rig.twin().ledger.sums.by_place) == found
    return found


def test_a_record_that_was_kept_for_its_term_goes_and_every_sum_stays_to_the_cent() -> None:
    rig = rig_that_keeps(2 * DAY_S)
    box = cloud(rig)
    other = rig.member(Role.operate, "other")
    for caller, repo, usd in ((rig.admin, REPO, 0.25), (other, REPO, 0.5), (other, None, 1.0)):
        caller.submit(complex_task(repo=repo))
        paid(box, box.take(), usd)
        rig.clock.advance(DAY_MS)
        box.beat()
    budget(rig, "all", 10)
    budget(rig, f"repo:{REPO}", 10)
    budget(rig, "submitter:other", 10)
    before, shown_before = sums(rig), shown_budgets(rig)
    assert rig.retire(2) == 1
    assert rig.store.count("ledger") == 1, "two were of more than two days ago"
    assert sums(rig) == before
    assert shown_budgets(rig) == shown_before == {
        "all ever": (1.75, 0.0, 8.25),
        f"repo:{REPO} ever": (0.75, 0.0, 9.25),
        "submitter:other ever": (1.5, 0.0, 8.5),
    }
    rig.clock.advance(DAY_MS)
    rig.retire(2)
    assert (rig.store.count("ledger"), sums(rig)) == (0, before)
    assert cross_check(walk_store(rig.store)) == (0, [])


def test_the_book_keeps_what_live_tasks_have_cost_however_old_it_is() -> None:
    rig = rig_that_keeps(DAY_S)
    box = cloud(rig)
    number = rig.admin.submit(complex_task(budget_usd=3, max_retries=5))
    first = box.take()
    spent = result(backend=Backend.claude, model="m", cost_usd=1.5)
    box.report(box.ended(first, "failed", spent, error(FailureClass.infrastructure, "cut")))
    rig.advance(10_000)
    box.take()
    rig.clock.advance(DAY_MS * 3 // 2)
    rig.retire(2)
    assert rig.store.count("ledger") == 2
    assert rig.twin().tasks.table.paid[number] == rig.hub.tasks.table.paid[number]


def test_a_wall_clock_that_is_set_retires_nothing() -> None:
    rig = rig_that_keeps(DAY_S)
    box = cloud(rig)
    rig.admin.submit(complex_task())
    paid(box, box.take(), 0.25)
    rig.clock.jump(400 * DAY_MS)
    rig.retire(2)
    assert rig.store.count("ledger") == 1


def test_a_late_result_of_an_attempt_whose_record_has_gone_changes_no_sum() -> None:
    rig = rig_that_keeps(DAY_S)
    box = cloud(rig)
    number = rig.admin.submit(complex_task())
    lost = box.take()
    rig.admin.ask(m.TaskCancel(task=number))
    rig.clock.advance(2 * DAY_MS)
    rig.retire(2)
    before = sums(rig)
    paid(box, lost, 0.25)
    assert (sums(rig), rig.store.count("ledger")) == (before, 0)


def test_what_the_book_and_its_sums_promise_each_other_is_checked(rig: Rig) -> None:
    box = cloud(rig, agents=2)
    rig.admin.submit(complex_task(repo=REPO))
    paid(box, box.take(), 0.25)
    running = rig.admin.submit(complex_task())
    rows = {(name, key): body for name in Database for key, body in rig.store.scan(name)}

    def problems(changed: dict[Any, bytes | None]) -> list[str]:
        found = {place: body for place, body in {**rows, **changed}.items() if body is not None}
        return cross_check(lambda name: iter(sorted((k, b) for (db, k), b in found.items() if db == name)))[1]

    def booked(place: Any, **fields: Any) -> dict[Any, bytes | None]:
        record = msgspec.msgpack.decode(rows[place], type=LedgerRecord)
        return {place: msgspec.msgpack.encode(msgspec.structs.replace(record, **fields))}

    first, second = ("ledger", key_u64x2(1, 1)), ("ledger", key_u64x2(running, 1))
    assert problems({}) == []
    assert "2.25 USD were booked" in problems({first: None})[0]
    assert "2.25 USD were booked" in problems(booked(first, settled=1))[0]
    assert problems(booked(first, settled=None, reserved=250_000)) == [
        "attempt 1 of task 1 is over, and what it cost is not settled"
    ]
    assert len(problems({("ledger", key_u64x2(7, 1)): rows[second], second: None})) == 1
    spent = msgspec.msgpack.encode(SpentRecord(scope="all", key="", amounts={"": 5}))
    assert problems({("meta", b"spent1"): spent}) == [
        "of all time 0.000005 USD are carried over in all, 0.00 by submitters and 0.00 by repositories",
        "2.25 USD were booked, and the records of attempts and what was carried over from older ones make 2.250005",
    ]


# --- what people are told -------------------------------------------------------------------------------


def told(rig: Rig) -> list[str]:
    return [one["event"] for one in rig.published("queue") if one["event"].startswith("budget_")]


def test_what_was_told_of_a_budget_is_told_once_over_restarts(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 10, "day")
    rig.admin.submit(complex_task())
    paid(box, box.take(), 8.5)
    assert told(rig) == ["budget_low"]
    for usd in (1, 2):
        rig.start()
        rig.admin.hello()
        box.hello()
        budget(rig, "repo:https://git.example/other.git", usd)
        assert told(rig) == ["budget_set"]
        rig.admin.submit(complex_task())
    assert [rig.admin.state(2), rig.admin.state(3)] == ["held", "held"]


def test_what_was_not_told_before_a_restart_is_told_after_it(rig: Rig) -> None:
    box = cloud(rig)
    budget(rig, "all", 10, "day")
    rig.admin.submit(complex_task())
    assign = box.take()
    rig.start()
    rig.admin.hello()
    box.hello(attempts=(box.held(assign),))
    paid(box, assign, 8.5)
    assert told(rig) == ["budget_low"]
    kept = rig.admin.ask(m.EventList())["events"]
    assert [one["event"] for one in kept if one["event"] == "budget_low"] == ["budget_low"]


def test_a_task_that_is_held_tells_that_its_budget_is_reached(rig: Rig) -> None:
    cloud(rig)
    budget(rig, "all", 1, "day")
    rig.admin.submit(complex_task())
    assert told(rig) == ["budget_reached"]
    rig.admin.submit(complex_task())
    assert told(rig) == []


def test_a_budget_that_was_raised_is_told_again_when_it_is_used_up(rig: Rig) -> None:
    box = cloud(rig, agents=2)
    budget(rig, "all", 5)
    rig.admin.submit(complex_task())
    paid(box, box.take(), 5.0)
    assert told(rig) == ["budget_reached"]
    budget(rig, "all", 10)
    assert told(rig) == ["budget_set"]
    rig.admin.submit(complex_task())
    paid(box, box.take(), 4.0)
    assert told(rig) == ["budget_low"]


def test_a_budget_that_is_set_below_what_was_spent_says_so_at_once(rig: Rig) -> None:
    box = cloud(rig)
    rig.admin.submit(complex_task())
    paid(box, box.take(), 5.0)
    budget(rig, "all", 5)
    assert told(rig) == ["budget_reached", "budget_set"]


def test_each_budget_says_how_many_tasks_it_holds_also_after_a_restart(rig: Rig) -> None:
    cloud(rig)
    budget(rig, "all", 100)
    budget(rig, f"repo:{REPO}", 1)
    budget(rig, "submitter:admin", 1, "day")
    rig.member(Role.operate, "other").submit(complex_task(repo=REPO))
    rig.admin.submit(complex_task(), complex_task())
    expected = {"all": 0, f"repo:{REPO}": 1, "submitter:admin": 2}
    for _ in range(2):
        found = rig.admin.ask(m.BudgetList())
        assert {one["key"]: one["held"] for one in found["budgets"]} == expected
        assert found["held"] == 3
        rig.start()
        rig.admin.hello()
        rig.advance(1_000)
