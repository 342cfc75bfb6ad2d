"""Money in the simulator: who sets budgets, and an account of every paid attempt beside the ledger's own.

At no moment do settled and reserved amounts exceed a budget by more than what was booked when it was set; a payment is
booked once, for what its own host said, or for all that was given while nobody has said; a task that is held for a
budget says the figures, and goes on when there is room. The account is kept from committed records, from the messages
of hosts, and from what submitters asked for.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from agentcom import messages as m
from agentcom.core.hub import Hub
from agentcom.model import (
    OPEN_ATTEMPT,
    AttemptRecord,
    Backend,
    BudgetPeriod,
    Route,
    State,
    TaskRow,
    TaskSpec,
    Tier,
)
from agentcom.money import BudgetRecord, LedgerRecord, micro
from tests.sim.clients import REPOS, FakeClient
from tests.sim.timeline import Timeline

ATTEMPT_USD: Final = "budgets.attempt_usd"
ALLOWANCES_USD: Final = (0.25, 1.0, 2.0)
CAPS_USD: Final = (None, 0.0, 0.3, 1.0, 2.5, 6.0)
OWN_USD: Final = (0.1, 0.6, 3.0)  # of one task
UNUSED: Final = ("declined", "unaccepted")
RELEASE_MS_MAX: Final = 10_000  # of a task that has room, on the clock of leases
CODE: Final = "budget"
TOLD = re.compile(
    r"an attempt may cost up to ([\d.]+) USD, (?:the hub's budget|the budget of (\S+)) has ([\d.]+) of ([\d.]+) left"
    r".*?; agentcom budget set (\S+) ([\d.]+) --per (\w+)"
)
OWN_TOLD = re.compile(r"its own budget is spent: ([\d.]+) of ([\d.]+) USD")

Key = tuple[int, int]
Scope = tuple[str, str]
_budget = msgspec.msgpack.Decoder(BudgetRecord).decode
_entry = msgspec.msgpack.Decoder(LedgerRecord).decode
_route = msgspec.msgpack.Decoder(Route).decode


class Cap(NamedTuple):
    """A budget as it was set; `booked` entries came before it."""

    record: BudgetRecord
    booked: int


class Treasurer(FakeClient):
    """Sets budgets, takes them back, and changes what one attempt may cost."""

    def _want(self) -> None:
        if self._rng.random() < 0.15:
            self.ask(m.ConfigChange(set={ATTEMPT_USD: self._rng.choice(ALLOWANCES_USD)}))
            return
        scopes = ("all", *(f"repo:{repo}" for repo in REPOS), *(f"submitter:{name}" for name in self._known.callers))
        usd, per = self._rng.choice(CAPS_USD), self._rng.choice(tuple(BudgetPeriod))
        self.ask(m.BudgetSet(key=self._rng.choice(scopes), usd=usd, per=per))

    def let_go(self) -> None:
        """Every budget is taken back."""
        self.ask(m.ConfigChange(unset=(ATTEMPT_USD,)))
        for key in ("all", *(f"repo:{repo}" for repo in REPOS), *(f"submitter:{name}" for name in self._known.callers)):
            for per in BudgetPeriod:
                self.ask(m.BudgetSet(key=key, usd=None, per=per))


class Purse:
    """What simulated work costs: never more than it was given; sometimes nobody says."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def own_usd(self) -> float | None:
        return self._rng.choice(OWN_USD) if self._rng.random() < 0.3 else None

    def says(self) -> bool:
        return self._rng.random() < 0.8

    def spent_usd(self, given: float | None) -> float | None:
        most = given if given is not None else max(ALLOWANCES_USD)
        draw = self._rng.random()
        return None if draw < 0.15 else most if draw < 0.3 else round(self._rng.uniform(0, most), 4)


class Money:
    """The rule. `specs` are the bodies of tasks, `attempts` their records, `rows` what is durable of them."""

    def __init__(
        self,
        line: Timeline,
        specs: Mapping[int, TaskSpec],
        attempts: Mapping[Key, AttemptRecord],
        rows: Mapping[int, TaskRow],
    ) -> None:
        self._line, self._specs, self._attempts, self._rows = line, specs, attempts, rows
        self.book: dict[Key, LedgerRecord] = {}
        self._order: list[Key] = []
        self._sums: Counter[tuple[Scope, str]] = Counter()
        self._paid: Counter[int] = Counter()  # by task
        self._caps: dict[bytes, Cap] = {}
        self._said: dict[Key, set[int]] = {}
        self._told: dict[int, str] = {}  # what a held task said last
        self._room_ms: dict[int, int] = {}  # since when a held task has had room
        self.is_told_late = False

    # --- what hosts said --------------------------------------------------------------------------------

    def said(self, key: Key, usd: float | None) -> None:
        """The host that holds, or held, the attempt says what it cost."""
        if usd is not None:
            self._said.setdefault(key, set()).add(micro(usd))

    # --- what became durable ----------------------------------------------------------------------------

    def committed(self, changes: Mapping[str, Mapping[bytes, bytes | None]]) -> None:
        """A batch, after its attempts and rows were taken over."""
        for place, body in changes.get("meta", {}).items():
            if place.startswith(b"budget"):
                self._take_budget(place, body)
        fresh = []
        for place, body in changes.get("ledger", {}).items():
            key = int.from_bytes(place[:8], "big"), int.from_bytes(place[8:], "big")
            if body is None:
                assert self.book[key].settled is not None, f"the open entry of attempt {key} was deleted"
                self._line.reach("ledger_entry_retired")
                continue
            if self._take_entry(key, _entry(body)):
                fresh.append(self.book[key])
        self._check_caps(fresh)
        self._check_paired(changes)
        for place in changes.get("tasks", {}):
            row = self._rows.get(int.from_bytes(place, "big"))
            if row is not None and row.state is State.held and row.error_code == CODE:
                self._check_told(row, fresh)
            elif row is not None:
                self._room_ms.pop(row.id, None)

    def _take_budget(self, place: bytes, body: bytes | None) -> None:
        old = self._caps.pop(place, None)
        if body is None:
            return
        new = _budget(body)
        is_same = old is not None and (old.record.limit, old.record.set_ms) == (new.limit, new.set_ms)
        self._caps[place] = Cap(new, old.booked if old is not None and is_same else len(self._order))
        self._line.reach("budget_set")

    def _take_entry(self, key: Key, new: LedgerRecord) -> bool:
        """Whether it is a new reservation."""
        old = self.book.get(key)
        if old is None:
            assert new.settled is None, f"attempt {key} was settled and never reserved: {new}"
            self._order.append(key)
        else:
            kept = (old.reserved, old.repo, old.submitter, old.at_ms)
            assert kept == (new.reserved, new.repo, new.submitter, new.at_ms), f"{old} became {new}"
            self._check_settled(key, old, new)
        by = new.amount - (old.amount if old is not None else 0)
        self._paid[key[0]] += by
        for scope in scopes_of(new):
            for per in BudgetPeriod:
                self._sums[scope, period_of(per, new.at_ms)] += by
        self.book[key] = new
        return old is None

    def _check_settled(self, key: Key, old: LedgerRecord, new: LedgerRecord) -> None:
        if (old.settled, old.estimated) == (new.settled, new.estimated):
            return
        what = f"attempt {key}: {old} became {new}"
        assert old.settled is None or old.estimated, f"{what}: it was booked before"
        assert new.settled is not None, f"{what}: it is open again"
        record = self._attempts.get(key)
        if record is None and key[0] not in self._rows:
            return  # it ended and its task was purged in the same batch: that nothing live is purged is checked there
        assert record is not None, f"{what}, and it has not ended"
        assert record.outcome, f"{what}, and it has not ended"
        if new.estimated:
            is_unused = record.outcome in UNUSED and new.settled == 0
            assert is_unused or new.settled == new.reserved, f"{what}, which nobody said"
            self._line.reach("settled_unused" if is_unused else "settled_by_all_it_was_given")
        else:
            assert new.settled in self._said.get(key, ()), f"{what}, its host said {self._said.get(key)}"
            self._line.reach("settled_late" if old.settled is not None else "settled_as_said")

    def _check_caps(self, fresh: list[LedgerRecord]) -> None:
        for entry in fresh:
            own = self._specs[entry.task].budget_usd
            said = f"attempt {entry.attempt} of task {entry.task} was given {entry.reserved}"
            if own is not None:
                paid = self._paid[entry.task]
                assert paid <= micro(own), f"{said}: that is {paid} of its own {micro(own)}"
            for cap in self._caps.values():
                scope = (cap.record.scope, cap.record.key)
                if scope in scopes_of(entry):
                    used = self._sums[scope, period_of(cap.record.per, entry.at_ms)]
                    assert used <= cap.record.limit, f"{said}: {used} are booked under {cap.record}"
                    self._line.reach("budget_had_room")
        for cap in self._caps.values():
            self._check_excess(cap)

    def _check_excess(self, cap: Cap) -> None:
        """What goes beyond a budget was booked before it was set."""
        scope = (cap.record.scope, cap.record.key)
        period = period_of(cap.record.per, self._line.now().wall_ms)
        over = self._sums[scope, period] - cap.record.limit
        if over <= 0:
            return
        before = [self.book[key] for key in self._order[: cap.booked]]
        of_before = sum(
            entry.amount
            for entry in before
            if scope in scopes_of(entry) and period_of(cap.record.per, entry.at_ms) == period
        )
        assert over <= of_before, f"{over} over {cap.record}, {of_before} were booked before it"
        self._line.reach("budget_set_below_what_was_booked")

    def _check_paired(self, changes: Mapping[str, Mapping[bytes, bytes | None]]) -> None:
        """An entry is opened with its paid attempt and settled with the end of it, in one batch."""
        for place, body in changes.get("routes", {}).items():
            key = int.from_bytes(place[:8], "big"), int.from_bytes(place[8:], "big")
            if body is not None and _route(body).backend is Backend.claude:
                assert key in self.book, f"attempt {key} is paid and not in the book"
        for place, body in changes.get("attempts", {}).items():
            key = int.from_bytes(place[:8], "big"), int.from_bytes(place[8:], "big")
            entry = self.book.get(key)
            if body is not None and entry is not None and self._attempts[key].outcome:
                assert entry.settled is not None, f"attempt {key} has ended, and its entry is open"

    # --- tasks that wait --------------------------------------------------------------------------------

    def _check_told(self, row: TaskRow, fresh: list[LedgerRecord]) -> None:
        """A held task says what it needs, what there is, and what to set."""
        told, own = TOLD.match(row.error_message), OWN_TOLD.match(row.error_message)
        assert told or own, f"task {row.id} is held for a budget without its figures: {row.error_message}"
        self._line.reach("held_for_a_budget" if told else "held_for_its_own_budget")
        if own is not None:
            asked = self._specs[row.id].budget_usd
            is_right = asked is not None and micro(float(own[2])) == micro(asked) <= micro(float(own[1]))
            assert is_right, f"task {row.id} has {asked} USD and says {row.error_message}"
        if told is None or self.is_told_late or self._told.get(row.id) == row.error_message:
            return
        self._told[row.id] = row.error_message
        need, left, limit, raised = (micro(float(told[n])) for n in (1, 3, 4, 6))
        assert left < need, f"task {row.id} is held with room: {row.error_message}"
        really_left = limit + need - raised  # below nothing where more was spent
        assert left == max(0, really_left), f"task {row.id}: {row.error_message}"
        self._check_left(row, really_left, limit, BudgetPeriod(told[7]), fresh)

    def _check_left(
        self, row: TaskRow, left: int, limit: int, per: BudgetPeriod, fresh: list[LedgerRecord]
    ) -> None:
        """What is said to be left was left before or after the attempts that were given out in the same tick."""
        lefts = []
        for cap in self._caps.values():
            scope = (cap.record.scope, cap.record.key)
            if cap.record.per is per and cap.record.limit == limit and scope in self._scopes(row.id):
                after = limit - self._sums[scope, period_of(per, self._line.now().wall_ms)]
                before = after + sum(entry.reserved for entry in fresh if scope in scopes_of(entry))
                lefts.append((after, before))
        is_right = any(after <= left <= before for after, before in lefts)
        assert is_right, f"task {row.id} says {row.error_message}; by the book {lefts} are left"

    def look(self, hub: Hub, clock_ms: int) -> None:
        """Between ticks: who has room goes on, if nobody else is to have it."""
        held = [task for task, row in self._live(hub) if row.state is State.held and row.error_code == CODE]
        for task in [task for task in self._room_ms if task not in held]:
            del self._room_ms[task]
        allowance = micro(hub.settings.budgets.attempt_usd)
        for task in held:
            if not self._has_room(task, allowance, hub):
                self._room_ms.pop(task, None)
                continue
            since_ms = self._room_ms.setdefault(task, clock_ms)
            assert clock_ms - since_ms <= RELEASE_MS_MAX, (
                f"task {task} is held for a budget and has had room for {clock_ms - since_ms} ms"
            )

    def _has_room(self, task: int, allowance: int, hub: Hub) -> bool:
        need = self._need(task, allowance)
        if need <= 0:
            return False
        wall_ms, mine = self._line.now().wall_ms, self._scopes(task)
        others = [
            one
            for one, row in self._live(hub)
            if one != task and row.state not in (State.held, *OPEN_ATTEMPT) and row.tier is Tier.complex
        ]
        for cap in self._caps.values():
            scope = (cap.record.scope, cap.record.key)
            if scope in mine:
                promised = sum(max(0, self._need(one, allowance)) for one in others if scope in self._scopes(one))
                used = self._sums[scope, period_of(cap.record.per, wall_ms)]
                if cap.record.limit - used - promised < need:
                    return False
        return True

    def _live(self, hub: Hub) -> Iterator[tuple[int, TaskRow]]:
        return ((task, self._rows[task]) for task in hub.tasks.table.slot_of if task in self._rows)

    def _need(self, task: int, allowance: int) -> int:
        own = self._specs[task].budget_usd
        return allowance if own is None else min(allowance, micro(own) - self._paid[task])

    def _scopes(self, task: int) -> tuple[Scope, ...]:
        spec, row = self._specs[task], self._rows[task]
        own: Scope = ("submitter", str(row.submitter))
        return ((("all", ""), ("repo", spec.repo), own)) if spec.repo else (("all", ""), own)

    # --- the hub's own account --------------------------------------------------------------------------

    def compare(self, hub: Hub) -> None:
        """The core counts what the book says: for every period that it knows, and for those that are on."""
        wall_ms = self._line.now().wall_ms
        known = hub.ledger.sums.by_place
        on = {period_of(per, wall_ms) for per in BudgetPeriod}
        for place in {*known, *(place for place in self._sums if place[1] in on)}:
            if place[1] in on or place in known:
                assert known[place] == self._sums[place], f"{place}: {known[place]}, booked {self._sums[place]}"

    def ended(self) -> None:
        """All attempts have ended, and every entry is settled."""
        left = [key for key, entry in self.book.items() if entry.settled is None]
        assert not left, f"attempts {left} have ended and are not settled"


def scopes_of(entry: LedgerRecord) -> tuple[Scope, ...]:
    own: Scope = ("submitter", str(entry.submitter))
    return ((("all", ""), ("repo", entry.repo), own)) if entry.repo else (("all", ""), own)


def period_of(per: BudgetPeriod, wall_ms: int) -> str:
    """The name of the day or month, as in the hub; made anew here."""
    form = {BudgetPeriod.day: "%Y-%m-%d", BudgetPeriod.month: "%Y-%m", BudgetPeriod.ever: ""}[per]
    return datetime.fromtimestamp(wall_ms / 1000, UTC).strftime(form) if form else ""
