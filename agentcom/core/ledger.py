"""Money: what paid attempts may spend, what they have spent, and the budgets that both stay within.

An attempt on a paid backend is given an allowance when it is assigned, and its host makes no model call that could
cost more than what is left of it. The allowance is reserved in the batch of the assignment; the end of the attempt
settles it by what the host says was spent, in that batch, or by all of it while nobody knows (`estimated`, until a
late result says better). So what is settled and reserved under a budget never exceeds it, whatever dies. Amounts are
integers, in millionths of a dollar; a period is a day or a month in UTC, that of the reservation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Final, NamedTuple

import msgspec

from agentcom import limits
from agentcom.clock import Now, rfc3339
from agentcom.core.effects import RecordKey, key_u64x2
from agentcom.core.outlet import Outlet
from agentcom.core.rule_names import Moved, RuleNames
from agentcom.core.sums import ALL, EPOCH, Scope, Sums, record_key, scopes
from agentcom.core.sums import period_of as period_of
from agentcom.core.tasks import Tasks
from agentcom.errors import NotFound, Refused
from agentcom.model import (
    BACKEND_OF,
    PAID,
    STRATEGY_OF,
    BudgetPeriod,
    FailureClass,
    JsonObject,
    RuleScope,
    State,
    TaskError,
    TaskRow,
    Tier,
    strategy_of,
)
from agentcom.money import MICRO, BudgetRecord, LedgerRecord, SpentRecord, micro, shown

PREFIX: Final = b"budget"  # of the records of budgets, in `meta`
CODE: Final = "budget"
UNPRICED: Final = "price_unknown"
TOO_SMALL: Final = "budget_too_small"  # for the first call of an attempt, as its host found
WAITING_CODES: Final = frozenset({CODE, UNPRICED})  # of held tasks that go on by themselves when budgets change
LOOKED_MAX: Final = 200  # held tasks that are looked at in one tick
HELD_MAX: Final = 200  # tasks that are held for a budget in one tick; the next one goes on
ESTIMATED_MAX: Final = 10_000  # settled without a figure, which a late result may still bring
LOW_PERCENT: Final = 80  # of a budget: people are told
_record = msgspec.msgpack.Decoder(LedgerRecord).decode

Attempt = tuple[int, int]
Place = tuple[str, str, BudgetPeriod]


class Shortage(NamedTuple):
    """What a task needs and a budget does not have; amounts in millionths of a dollar."""

    message: str
    change: str
    place: Place | None = None  # of the budget; None for the task's own
    need: int = 0
    left: int = 0  # below nothing where more was spent than the budget allows now
    raise_to: int = 0  # the figure that would release the task; 0 where none does


class Ledger:
    """Open and settled attempts, their sums by scope and period, budgets, and the tasks that wait for one."""

    def __init__(self, out: Outlet, tasks: Tasks, names: RuleNames) -> None:
        self._out = out
        self._tasks = tasks
        self._names = names
        self.budgets: dict[Place, BudgetRecord] = {}
        self.open: dict[Attempt, LedgerRecord] = {}
        self.estimated: dict[Attempt, LedgerRecord] = {}
        self.sums = Sums(out, names.submitter_key)
        self.waiting: dict[int, Place | None] = {}  # by task, for which budget; None: its own, or not looked at yet
        self.held_count = 0  # in this tick
        self.changed = False
        self._pass: list[int] = []  # of the waiting tasks, those that are still to be looked at
        self._paid: Counter[int] = Counter()  # by task, between `load` and `loaded`
        self._day = ""

    # --- at start ---------------------------------------------------------------------------------------

    def load(
        self,
        budgets: Iterable[BudgetRecord],
        records: Iterable[LedgerRecord],
        carried: Iterable[SpentRecord],
        moved: Iterable[SpentRecord],
    ) -> None:
        """Before the tasks are loaded."""
        self.sums.load(carried, moved)
        for budget in budgets:
            self._load_budget(budget)
        for record in records:
            self.sums.loaded(record)
            self._paid[record.task] += record.amount
            if record.settled is None:
                self.open[record.task, record.attempt] = record
            elif record.estimated:
                self._keep_estimated(record)

    def _load_budget(self, budget: BudgetRecord) -> None:
        """Of two for one submitter, as older versions had them, the newest stays."""
        key = self._names.key_now(budget.scope, budget.key)
        other = self.budgets.get((budget.scope, key, budget.per))
        if other is None and key == budget.key:
            self.budgets[budget.scope, key, budget.per] = budget
            return
        self._out.delete("meta", record_key(PREFIX, (budget.scope, budget.key, budget.per)))
        if other is None or budget.set_ms >= other.set_ms:
            other = msgspec.structs.replace(budget, key=key)
        self._keep(other)

    def loaded(self) -> None:
        """After the tasks: what live ones have cost, and which of them wait for a budget."""
        table = self._tasks.table
        table.paid = {task: amount for task, amount in self._paid.items() if task in table.slot_of}
        self._paid.clear()
        self.sums.forget_old()
        for task, error in table.errors.items():
            if error.code in WAITING_CODES and table.state_of(table.slot_of[task]) is State.held:
                self.waiting[task] = None
        self.changed = bool(self.waiting)

    def back(self, row: TaskRow, found: Mapping[RecordKey, bytes]) -> None:
        """An ended task is live again: its own budget still counts what it has cost before."""
        if not row.budget:
            return
        places = [("ledger", key_u64x2(row.id, attempt)) for attempt in range(1, row.attempt + 1)]
        bodies = [self._out.latest(place, found) for place in places]
        self._tasks.table.paid[row.id] = sum(_record(body).amount for body in bodies if body is not None)

    @property
    def is_used(self) -> bool:
        """Whether anybody has set a budget."""
        return bool(self.budgets or self._tasks.table.budgets)

    # --- before an attempt ------------------------------------------------------------------------------

    def shortage(self, slot: int, now: Now, promised: Counter[Scope] | None = None) -> Shortage | None:
        """Why the task may not start a paid attempt now. `promised`: what others get before it in this tick."""
        if not self.is_used:
            return None
        table = self._tasks.table
        task = table.id[slot]
        need = self.need(slot)
        if need <= 0:
            cap, spent = table.budgets[task], table.paid.get(task, 0)
            said = f"its own budget is spent: {shown(spent)} of {shown(cap)} USD"
            change = "cancel it, and submit it with a larger --budget"
            return Shortage(said, change, need=micro(self._tasks.settings.budgets.attempt_usd), left=cap - spent)
        for scope in self._scopes(slot):
            for per in BudgetPeriod:
                budget = self.budgets.get((*scope, per))
                if budget is None:
                    continue
                left = budget.limit - self.sums.of(scope, per, now.wall_ms)
                left -= promised[scope] if promised else 0
                if left < need:
                    return self._short(budget, need, left, now)
        return None

    def pays(self, slot: int, now: Now) -> bool:
        """Whether all four budgets (the task's own, its submitter's, its repository's, the hub's) have room for one
        more paid attempt of the task: asked before each step up, whoever takes it."""
        return not self.is_used or self.shortage(slot, now) is None

    def need(self, slot: int) -> int:
        """What the next paid attempt of the task is given: the setting's, or what its own budget has left of that."""
        table, task = self._tasks.table, self._tasks.table.id[slot]
        allowance = micro(self._tasks.settings.budgets.attempt_usd)
        own = table.budgets.get(task)
        return allowance if own is None else min(allowance, own - table.paid.get(task, 0))

    def larger(self, slot: int) -> tuple[str, bool]:
        """What gives the next attempt more than it was given, and whether releasing the task is enough then."""
        table, task = self._tasks.table, self._tasks.table.id[slot]
        allowance, own = micro(self._tasks.settings.budgets.attempt_usd), table.budgets.get(task)
        if own is not None and own - table.paid.get(task, 0) < allowance:
            is_now = f"it has {shown(own)} USD, and the budget of a task cannot be raised"
            return f"cancel it, and submit it again with a larger --budget ({is_now})", False
        return f"raise budgets.attempt_usd, which is {shown(allowance)} USD" if self.concerns(slot) else "", True

    def may_start(self, slot: int, tier: Tier, now: Now) -> bool:
        """Whether the budgets allow an attempt on that tier, if that is a paid one; else the task is held until they
        do."""
        group = self._tasks.groups[self._tasks.table.group[slot]]
        if BACKEND_OF[strategy_of(group) if tier is group.tier else STRATEGY_OF[tier]] not in PAID:
            return True
        why = self.shortage(slot, now)
        if why is not None:
            self.hold(slot, why, now)
        return why is None

    def hold(self, slot: int, why: Shortage, now: Now) -> None:
        """Take the task out of the queue until there is room."""
        error = TaskError(
            failure_class=FailureClass.configuration, code="budget", message=f"{why.message}; {why.change}"
        )
        self._tasks.hold(slot, error, now)
        self.waiting[self._tasks.table.id[slot]] = why.place
        self.held_count += 1
        if why.place is not None:
            self._tell_of(self.budgets[why.place], 100, now)

    def concerns(self, slot: int) -> bool:
        """Whether any budget bounds what the task may cost."""
        is_own = self._tasks.table.id[slot] in self._tasks.table.budgets
        return is_own or any((*s, per) in self.budgets for s in self._scopes(slot) for per in BudgetPeriod)

    def may_call_unpriced(self, slot: int, model: str, now: Now) -> bool:
        """Whether the task may use a model that costs nobody knows what; one that a budget concerns waits for a
        person."""
        if not self.concerns(slot):
            return True
        is_own = self._tasks.table.id[slot] in self._tasks.table.budgets
        instead = "." if is_own else ", or take the budget back: it goes on by itself then"
        said = (
            f"{model} is a cloud model whose price is unknown, and {'its own' if is_own else 'a'} budget concerns the "
            f"task: cancel it, and submit it with a model that runs locally{instead}"
        )
        error = TaskError(failure_class=FailureClass.configuration, code=UNPRICED, message=said)
        self._tasks.hold(slot, error, now)
        self.waiting[self._tasks.table.id[slot]] = None
        self.held_count += 1
        return False

    def reserve(self, slot: int, attempt: int, model: str, now: Now) -> float | None:
        """Open the book for a paid attempt; the allowance in USD, None when no budget concerns it. That much is
        reserved all the same: a budget that is set while the attempt runs sees it."""
        table, task = self._tasks.table, self._tasks.table.id[slot]
        scopes = list(self._scopes(slot))
        record = LedgerRecord(
            task=task,
            attempt=attempt,
            reserved=max(0, self.need(slot)),
            repo=scopes[1][1] if len(scopes) > 2 else "",
            submitter=table.submitter[slot],
            model=model,
            at_ms=now.wall_ms,
            term_ms=self._tasks.clock.now_ms(now),
        )
        self.open[task, attempt] = record
        self.sums.count(record, record.reserved)
        table.paid[task] = table.paid.get(task, 0) + record.reserved
        self._save(record)
        self._tell(record, now)
        return record.reserved / MICRO if self.concerns(slot) else None

    # --- after it ---------------------------------------------------------------------------------------

    def settle(self, task: int, attempt: int, usd: float | None, now: Now, *, unused: bool = False) -> None:
        """The attempt has ended. `usd` None: nobody knows, so it counts as all that it was given; `unused`: nobody has
        worked on it, so far as is known."""
        record = self.open.pop((task, attempt), None)
        if record is None:
            return
        usd = _credible(usd)
        record.settled = 0 if unused and usd is None else record.reserved if usd is None else micro(usd)
        record.estimated = usd is None
        self._correct(record, record.settled - record.reserved, now)
        if record.estimated:
            self._keep_estimated(record)

    def late(self, task: int, attempt: int, usd: float | None, now: Now) -> None:
        """A result came after the attempt had ended: it changes nothing but the bill."""
        usd = _credible(usd)
        record = self.estimated.pop((task, attempt), None) if usd is not None else None
        if record is None or usd is None or record.settled is None:
            return
        before, record.settled, record.estimated = record.settled, micro(usd), False
        self._correct(record, record.settled - before, now)

    # --- what is kept no longer ---------------------------------------------------------------------------

    def due(self, record: LedgerRecord, now: Now) -> bool:
        """Whether the record has been kept for its term. That of an attempt that runs stays, and those of a live task,
        whose own budget counts them."""
        age_ms = self._tasks.clock.now_ms(now) - (record.term_ms or record.at_ms)
        is_old = age_ms >= self._tasks.settings.retention.ledger_s * 1000
        return is_old and record.settled is not None and record.task not in self._tasks.table.slot_of

    def retire(self, entries: Iterable[Attempt], found: Mapping[RecordKey, bytes], now: Now) -> None:
        """Let go of what is due; what it counts as is carried over in the same batch."""
        for entry in entries:
            key = key_u64x2(*entry)
            body = self._out.latest(("ledger", key), found)
            record = _record(body) if body is not None else None
            if record is not None and self.due(record, now):
                self.sums.carry(record)
                self.estimated.pop(entry, None)
                self._out.delete("ledger", key)

    # --- tasks that wait --------------------------------------------------------------------------------

    def look_at_day(self, now: Now) -> bool:
        """Another day has another budget; whether one has begun."""
        if not (self.sums.by_place or self.waiting):
            return False
        day = period_of(BudgetPeriod.day, now.wall_ms)
        if day == self._day:
            return False
        self._day, self.changed = day, True
        self.sums.forget_old()
        return True

    def turn(self, now: Now) -> bool:
        """Let go those of the waiting tasks that have room now, in the order in which they were held; whether there
        were any. A pass over many goes on in the next ticks, and a new one begins only after it."""
        if self.changed and not self._pass:
            self.changed = False
            self._pass = list(reversed(self.waiting))
        promised: Counter[Scope] = Counter()
        released = 0
        for _ in range(min(LOOKED_MAX, len(self._pass))):
            task = self._pass.pop()
            slot = self._waiting_slot(task)
            if slot is None:
                self.waiting.pop(task, None)
            elif self._is_unpriced(task):
                if not self.concerns(slot):
                    del self.waiting[task]
                    released += 1
                    self._tasks.release(slot, now, by="its budget")
            elif (why := self.shortage(slot, now, promised)) is not None:
                self.waiting[task] = why.place
            else:
                for scope in self._scopes(slot):
                    promised[scope] += self.need(slot)
                del self.waiting[task]
                released += 1
                self._tasks.release(slot, now, by="its budget")
        return released > 0

    @property
    def has_to_look(self) -> bool:
        """Whether waiting tasks may have room that they did not have before."""
        return bool(self._pass) or (self.changed and bool(self.waiting))

    def _waiting_slot(self, task: int) -> int | None:
        """Of a task that is still held for a budget; people may have released or cancelled it meanwhile."""
        table = self._tasks.table
        slot, error = table.slot_of.get(task), table.errors.get(task)
        is_held = slot is not None and table.state_of(slot) is State.held
        return slot if is_held and error is not None and error.code in WAITING_CODES else None

    def _is_unpriced(self, task: int) -> bool:
        """Whether a waiting task is held because nobody knows what its model costs."""
        return self._tasks.table.errors[task].code == UNPRICED

    def next_due_ms(self, now: Now) -> int | None:
        """When the next day begins, for tasks that wait for it; in monotonic ms."""
        if self.has_to_look:
            return now.mono_ms
        if not self.waiting:
            return None
        at = EPOCH + timedelta(milliseconds=now.wall_ms)
        tomorrow = datetime(at.year, at.month, at.day, tzinfo=UTC) + timedelta(days=1)
        return now.mono_ms + max(1000, (tomorrow - at) // timedelta(milliseconds=1))

    # --- budgets ----------------------------------------------------------------------------------------

    def set(self, key: str, usd: float | None, per: BudgetPeriod, by: str, now: Now) -> JsonObject:
        """Set a budget by its key as people write it (`all`, `repo:URL`, `submitter:NAME`); None takes it back. A
        repeat changes nothing, and nobody is told of it."""
        scope = self._parsed(key, per, is_new=usd is not None)
        place: Place = (*scope, per)
        self.changed = True
        if usd is None:
            if place not in self.budgets:
                raise NotFound(
                    f"key: no budget is set for {key} per {per}; see `agentcom budget show`", field="key"
                )
            self._out.delete("meta", record_key(PREFIX, place))
            del self.budgets[place]
            self._tell_set(key, usd, per, by)
            return {"key": key, "per": per.value, "usd": None}
        before = self.budgets.get(place)
        if before is not None and before.limit == micro(usd):
            return self._view(before, now)  # nothing changes: who set it and when stay
        if before is None and len(self.budgets) >= limits.QUEUE_RULES_MAX:
            raise Refused("limit", f"this hub already has {limits.QUEUE_RULES_MAX} budgets; unset some")
        budget = BudgetRecord(
            scope=scope[0], key=scope[1], per=per, limit=micro(usd), set_by=by, set_ms=now.wall_ms
        )
        used = self._used(budget, now)
        if before is not None:
            # What was told stays told; where there is more room now, it will be told again.
            told = min(before.told_percent, used)
            budget = msgspec.structs.replace(budget, told_in=before.told_in, told_percent=told)
        self._keep(budget)
        self._tell_of(budget, used, now)
        self._tell_set(key, usd, per, by)
        return self._view(budget, now)

    def _tell_set(self, key: str, usd: float | None, per: BudgetPeriod, by: str) -> None:
        self._out.publish("queue", "budget_set", key=key, usd=usd, per=per.value, by=by)

    def repos(self) -> frozenset[str]:
        """The addresses of repositories that have a budget, or for which something was spent."""
        spent = (scope for (scope, _), amount in self.sums.by_place.items() if amount)
        budgets = ((scope, key) for scope, key, _ in self.budgets)
        return frozenset(key for scope, key in chain(spent, budgets) if scope == RuleScope.repo.value)

    def move_repo(self, old: str, new: str, now: Now) -> Moved:
        """The repository at `old` is at `new` now: its budgets and what was spent of them go with it. Where the new
        address has a budget for the period, that stands and the other stays. Attempts of which a late result may still
        say what they cost get the new address, so that it counts there."""
        changing = [record for record in self.estimated.values() if record.repo == old]
        self.sums.move(old, new, changing)
        for record in changing:
            record.repo = new
            self._save(record)
        moved, stayed = [], []
        for per in BudgetPeriod:
            place, target = (RuleScope.repo.value, old, per), (RuleScope.repo.value, new, per)
            budget = self.budgets.get(place)
            if budget is not None and target in self.budgets:
                stayed.append(budget)
            elif budget is not None:
                del self.budgets[place]
                self._out.delete("meta", record_key(PREFIX, place))
                self._keep(msgspec.structs.replace(budget, key=new))
                moved.append(self.budgets[target])
            if target in self.budgets:
                self._tell_of(self.budgets[target], self._used(self.budgets[target], now), now)
        self.changed = True
        views = [[{"kind": "budget", **self._view(one, now)} for one in some] for some in (moved, stayed)]
        return Moved(views[0], views[1])

    def view(self, now: Now) -> JsonObject:
        """All budgets with what is left of them and how many tasks wait for each, what was spent in all, and how many
        tasks wait, those that have used up their own budgets too."""
        total: Scope = (ALL, "")
        spent = {per.value: self.sums.of(total, per, now.wall_ms) / MICRO for per in BudgetPeriod}
        held = Counter(place for task, place in self.waiting.items() if self._waiting_slot(task) is not None)
        return {
            "budgets": [
                {**self._view(budget, now), "held": held[place]}
                for place, budget in sorted(self.budgets.items())
            ],
            "attempt_usd": self._tasks.settings.budgets.attempt_usd,
            "counted_usd": spent,
            "reserved_usd": sum(record.reserved for record in self.open.values()) / MICRO,
            "held": held.total(),
        }

    def release_view(self, short: Shortage) -> JsonObject:
        """What would let go a task that is held for a budget, in figures."""
        budget = self.budgets[short.place] if short.place is not None else None
        return {
            "budget": self._name(budget) if budget is not None else "task",
            "per": budget.per.value if budget is not None else None,
            "needs_usd": short.need / MICRO,
            "left_usd": short.left / MICRO,
            "raise_to_usd": short.raise_to / MICRO if short.raise_to else None,
        }

    def _view(self, budget: BudgetRecord, now: Now) -> JsonObject:
        scope: Scope = (budget.scope, budget.key)
        period = period_of(budget.per, now.wall_ms)
        counted = self.sums.of(scope, budget.per, now.wall_ms)
        reserved = sum(
            record.reserved
            for record in self.open.values()
            if scope in self.sums.scopes_of(record) and period_of(budget.per, record.at_ms) == period
        )
        return {
            "key": self._name(budget),
            "per": budget.per.value,
            "usd": budget.limit / MICRO,
            "spent_usd": (counted - reserved) / MICRO,
            "reserved_usd": reserved / MICRO,
            "left_usd": max(0, budget.limit - counted) / MICRO,
            "set_by": budget.set_by,
            "set_at": rfc3339(budget.set_ms),
        }

    def _parsed(self, key: str, per: BudgetPeriod, *, is_new: bool) -> Scope:
        if key == ALL:
            return ALL, ""
        kind, colon, name = key.partition(":")
        if not colon or not name or kind not in (RuleScope.repo, RuleScope.submitter):
            said = f"key: {key!r} has no budget; give all, repo:URL or submitter:NAME"
            raise Refused("invalid", said, field="key")
        if is_new:
            return kind, self._names.new_key_of(RuleScope(kind), name)
        known = frozenset(repo for one, repo, of in self.budgets if one == RuleScope.repo.value and of is per)
        return kind, self._names.old_key_of(RuleScope(kind), name, known)

    def _name(self, budget: BudgetRecord) -> str:
        if budget.scope == ALL:
            return ALL
        return f"{budget.scope}:{self._names.name_of(RuleScope(budget.scope), budget.key)}"

    # --- sums -------------------------------------------------------------------------------------------

    def recounted(self) -> Counter[tuple[Scope, str]]:
        """What is reserved, counted anew from the open attempts. For checks."""
        found: Counter[tuple[Scope, str]] = Counter()
        for record in self.open.values():
            for scope in self.sums.scopes_of(record):
                for per in BudgetPeriod:
                    found[scope, period_of(per, record.at_ms)] += record.reserved
        return found

    def _scopes(self, slot: int) -> tuple[Scope, ...]:
        table = self._tasks.table
        repo = self._tasks.groups[table.group[slot]].repo
        return scopes(repo, self._names.submitter_key(table.submitter[slot]))

    def _correct(self, record: LedgerRecord, by: int, now: Now) -> None:
        table = self._tasks.table
        if record.task in table.slot_of:
            table.paid[record.task] = table.paid.get(record.task, 0) + by
        self.sums.count(record, by)
        self._save(record)
        if by < 0:
            self.changed = True
        elif by > 0:
            self._tell(record, now)

    def _save(self, record: LedgerRecord) -> None:
        self._out.put("ledger", key_u64x2(record.task, record.attempt), record)

    def _keep_estimated(self, record: LedgerRecord) -> None:
        self.estimated[record.task, record.attempt] = record
        if len(self.estimated) > ESTIMATED_MAX:
            del self.estimated[next(iter(self.estimated))]

    def _tell(self, record: LedgerRecord, now: Now) -> None:
        for scope in self.sums.scopes_of(record):
            for per in BudgetPeriod:
                budget = self.budgets.get((*scope, per))
                if budget is not None:
                    self._tell_of(budget, self._used(budget, now), now)

    def _used(self, budget: BudgetRecord, now: Now) -> int:
        """How much of it is used, as people are told it: 0, 80 or 100 percent."""
        if not budget.limit:
            return 0  # it was set to hold everything
        counted = self.sums.of((budget.scope, budget.key), budget.per, now.wall_ms)
        if counted >= budget.limit:
            return 100
        return LOW_PERCENT if counted * 100 >= budget.limit * LOW_PERCENT else 0

    def _tell_of(self, budget: BudgetRecord, used: int, now: Now) -> None:
        """Once per budget and period when it is low, and once when it is reached; what was told is in its record, so a
        restart neither repeats nor forgets it."""
        period = period_of(budget.per, now.wall_ms)
        if used <= (budget.told_percent if budget.told_in == period else 0):
            return
        told = msgspec.structs.replace(budget, told_in=period, told_percent=used)
        self._keep(told)
        self._out.publish(
            "queue", "budget_reached" if used == 100 else "budget_low", **self._view(told, now)
        )

    def _keep(self, budget: BudgetRecord) -> None:
        place: Place = (budget.scope, budget.key, budget.per)
        self.budgets[place] = budget
        self._out.put("meta", record_key(PREFIX, place), budget)

    def _short(self, budget: BudgetRecord, need: int, left: int, now: Now) -> Shortage:
        """`left` is below nothing where more was spent than the budget allows now."""
        name, per = self._name(budget), budget.per
        whose = "the hub's budget" if name == ALL else f"the budget of {name}"
        when = {BudgetPeriod.day: " today", BudgetPeriod.month: " this month", BudgetPeriod.ever: ""}[per]
        has = f"{shown(max(0, left))} of {shown(budget.limit)}"
        said = f"an attempt may cost up to {shown(need)} USD, {whose} has {has} left{when}"
        raise_to = budget.limit + need - left
        change = f"agentcom budget set {name} {shown(raise_to)} --per {per}"
        if per is not BudgetPeriod.ever:
            change += f", or wait until the next {per} (UTC)"
        return Shortage(said, change, (budget.scope, budget.key, per), need, left, raise_to)


def _credible(usd: float | None) -> float | None:
    """None for what no attempt can have cost: then nobody knows."""
    return usd if usd is not None and 0 <= usd <= limits.BUDGET_USD_MAX else None
