"""What would have become of a recording's tasks under a policy: an estimate, by one model for every policy.

The tasks are those that started in the recording, each ready when it was. Hosts come and go, report their load and are
measured as recorded; who is busy, what is in flight and which models are warm follows from what the policy decides. A
task takes as long as it did, scaled by what the recorded policy expects of the two places; one whose end was not
recorded takes as long as expected. A cold model is loaded first, after the calls of others where it does not fit beside
them, and then stays warm until another needs its memory. The queue is the product's, with all weights alike; budgets,
limits of the queue and tasks that have to run alone are left out.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from statistics import fmean
from typing import Final

import msgspec
from msgspec import Struct

from agentcom.config import ScoringSettings
from agentcom.core import estimates
from agentcom.core.agents import Agent, Host
from agentcom.core.estimates import MS_US
from agentcom.core.lanes import ReadyQueue, task_of
from agentcom.core.recording import (
    GROUP,
    AskedFor,
    EndpointCalls,
    EndpointShape,
    Head,
    HostState,
    Start,
    TaskShape,
    Turn,
)
from agentcom.core.registry import canonical_model
from agentcom.core.score import Scores, load_us_of, plain_run_us
from agentcom.core.wanted import held_model, is_warm
from agentcom.model import EndpointModel, EndpointRecord, Group
from agentcom.replica import Place, Replica, place_in

FACTOR_MIN, FACTOR_MAX = 0.1, 10.0  # of what a task took and what was expected of it
HEADS_MAX: Final = 1024  # tasks of a group that one look takes
MEASURED_US_MIN: Final = 1_000


class Figures(Struct, frozen=True):
    """Of all tasks; seconds. `left`: tasks that nobody could take. `cold_loads`: calls that found their model cold."""

    tasks: int
    left: int
    wait_mean_s: float
    wait_p95_s: float
    finish_mean_s: float
    finish_p95_s: float
    makespan_s: float
    cold_loads: int


@dataclass(slots=True)
class Item:
    """One start of a task in the recording."""

    task: int
    asked: AskedFor
    shape: TaskShape
    ready_ms: int
    start_ms: int
    is_cold: bool
    load_us: int  # of it that was expected
    run_us: int
    end_ms: int = 0
    factor: float = 1.0


@dataclass(slots=True)
class Outcome:
    """What became of the items: waits and finishes in ms after they were ready."""

    waits_ms: list[int] = field(default_factory=list)
    finishes_ms: list[int] = field(default_factory=list)
    cold_loads: int = 0
    first_ms: int = 0
    last_ms: int = 0

    def figures(self, tasks: int) -> Figures:
        left = tasks - len(self.finishes_ms)
        return Figures(
            tasks,
            left,
            _mean_s(self.waits_ms),
            _p95_s(self.waits_ms),
            _mean_s(self.finishes_ms),
            _p95_s(self.finishes_ms),
            round(max(0, self.last_ms - self.first_ms) / 1000, 1),
            self.cold_loads,
        )


class Reference:
    """How long work takes at a place, by the recorded policy's figures and what was measured."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._policy = replica.start.scoring
        settings = msgspec.structs.replace(replica.scores.settings, scoring=self._policy)
        self._scores = Scores(replica.fleet, replica.registry, settings)

    def times_us(self, group: Group, agent: Agent, place: Place) -> tuple[int, int]:
        """(loading and fetching first, the work itself)."""
        host, policy = agent.host, self._policy
        first_us = policy.repository_ms * MS_US if group.repo and group.repo not in host.repos else 0
        record = self._replica.registry.endpoints.get(place.endpoint)
        held = held_model(record, place.model) if record is not None else None
        if record is None or held is None:
            run_us = plain_run_us(group, policy)
            return first_us, run_us + load_us_of(host, run_us, policy)
        home = self._replica.fleet.hosts.get(record.seen_from)
        run_us = estimates.run_us(record, held, home, policy)
        if self.is_cold(record, held):
            first_us += estimates.load_us(record, held, policy)
        return first_us, run_us + load_us_of(host, run_us, policy)

    def is_cold(self, record: EndpointRecord, held: EndpointModel) -> bool:
        num_ctx = record.num_ctx or self._scores.settings.models.num_ctx
        return not is_warm(record, held, num_ctx)


def items(start: Start, turns: list[Turn]) -> list[Item]:
    """The starts of a recording, in their order."""
    replica = Replica(start)
    reference = Reference(replica)
    found: list[Item] = []
    seen_ms: dict[int, int] = {}
    known: set[int] = set()
    running: dict[int, Item] = {}  # by agent
    for turn in turns:
        for each in turn.ended:
            item = running.pop(each.agent, None)
            if item is not None and item.task == each.task:
                item.end_ms = max(item.start_ms, each.mono_ms)
        replica.follow(turn)
        for head in turn.heads:
            if head.task not in seen_ms:
                # One that comes back keeps its place in the queue, but it did not wait while it ran.
                waited_ms = 0 if head.task in known else replica.tasks[head.task].waited_ms
                seen_ms[head.task] = max(0, turn.mono_ms - waited_ms)
                known.add(head.task)
            if head.is_started:
                item = running[head.agent] = _item(replica, reference, turn, head, seen_ms.pop(head.task))
                found.append(item)
    for item in found:
        if item.end_ms:
            run_us = (item.end_ms - item.start_ms) * MS_US - item.load_us
            item.factor = min(max(run_us / max(item.run_us, MEASURED_US_MIN), FACTOR_MIN), FACTOR_MAX)
    return found


def as_recorded(starts: list[Item]) -> Figures:
    """What really happened, as far as the recording saw it end."""
    ended = [item for item in starts if item.end_ms]
    outcome = Outcome(cold_loads=sum(item.is_cold for item in starts))
    outcome.waits_ms = [item.start_ms - item.ready_ms for item in starts]
    outcome.finishes_ms = [item.end_ms - item.ready_ms for item in ended]
    outcome.first_ms = min((item.ready_ms for item in starts), default=0)
    outcome.last_ms = max((item.end_ms for item in ended), default=0)
    return outcome.figures(len(starts))


def estimate(start: Start, turns: list[Turn], starts: list[Item], policy: ScoringSettings) -> Figures:
    """The same tasks under the policy."""
    world = World(start, policy, {item.task for item in starts})
    for piece in chain.from_iterable(turn.pieces for turn in turns):
        if piece.kind == GROUP:
            world.take(piece)
    world.outcome.first_ms = min((item.ready_ms for item in starts), default=0)
    arrivals = sorted(starts, key=lambda item: item.ready_ms)
    at = 0
    for turn in turns:
        while at < len(arrivals) and arrivals[at].ready_ms <= turn.mono_ms:
            world.until(arrivals[at].ready_ms)
            world.arrive(arrivals[at])
            at += 1
            if at == len(arrivals) or arrivals[at].ready_ms > world.now_ms:
                world.give_out()
        world.until(turn.mono_ms)
        world.learn(turn)
        world.give_out()
    for item in arrivals[at:]:
        world.until(item.ready_ms)
        world.arrive(item)
        world.give_out()
    world.finish()
    return world.outcome.figures(len(starts))


class World(Replica):
    """A replica in which agents, calls and warm models follow its own decisions."""

    def __init__(self, start: Start, policy: ScoringSettings, own: set[int]) -> None:
        super().__init__(start, policy)
        self.outcome = Outcome()
        self.now_ms = 0
        self._own = own
        self._reference = Reference(self)
        self._queue = ReadyQueue(lambda group: self._pools[group])
        self._waiting: dict[int, Item] = {}
        self._asked: list[AskedFor] = []
        self._groups: dict[AskedFor, int] = {}  # by what is asked: its number in the queue
        self._pools: list[int] = []  # by that number
        self._pool_of: dict[tuple[Group, bool], int] = {}
        self._ends: list[tuple[int, int, Agent, Place]] = []
        self._numbers = count()
        self._used_ms: dict[tuple[int, str], int] = {}  # when a model was called last

    # --- time ---------------------------------------------------------------------------------------------

    def until(self, mono_ms: int) -> None:
        """Let work end up to then, and what it makes room for begin."""
        while self._ends and self._ends[0][0] <= mono_ms:
            self._set_now(self._ends[0][0])
            while self._ends and self._ends[0][0] <= self.now_ms:
                self._end(heapq.heappop(self._ends))
            self.give_out()
        self._set_now(mono_ms)

    def finish(self) -> None:
        """After the recording, with the fleet as it was at its end."""
        while self._ends:
            self.until(self._ends[0][0])

    def learn(self, turn: Turn) -> None:
        """What changed, other than by decisions."""
        for piece in turn.pieces:
            self.take(piece)
        self.fleet.touched.update(turn.hosts)
        self.fleet.offers_touched.update(turn.offers)
        self.registry.touched.update(turn.endpoints)

    def _set_now(self, mono_ms: int) -> None:
        self.now_ms = max(self.now_ms, mono_ms)
        self.now = self.now._replace(mono_ms=self.now_ms)

    # --- tasks --------------------------------------------------------------------------------------------

    def arrive(self, item: Item) -> None:
        number = next(self._numbers)
        self._waiting[number] = item
        self._queue.push(*self._entry(number, item))

    def _entry(self, number: int, item: Item) -> tuple[int, int, int, int, int]:
        """As the queue knows it."""
        group = self._groups.get(item.asked)
        if group is None:
            group = self._groups[item.asked] = len(self._asked)
            self._asked.append(item.asked)
            alike = msgspec.structs.replace(self.groups[item.asked.wanted], repo=""), False
            self._pools.append(self._pool_of.setdefault(alike, len(self._pool_of)))
        return group, item.shape.order_key, number, item.shape.submitter, item.shape.lane

    def give_out(self) -> None:
        """As the hub does: so many tasks as agents are free, more where some wait for a full endpoint."""
        while self._waiting:
            self.board.refresh(self.now)
            at_most = self.board.free_count
            heads = self._queue.next(at_most) if at_most else []
            started = 0
            while heads:
                places = self._places(heads)
                has_waits = any(place.agent < 0 <= place.endpoint for place in places)
                at_most = min(at_most * 4, HEADS_MAX)
                more = self._queue.next(at_most) if has_waits else heads
                if len(more) <= len(heads):
                    started = self._start_all(heads, places)
                    break
                heads = more
            if not started:
                return

    def _places(self, heads: list[tuple[int, int]]) -> list[Place]:
        groups = list(dict.fromkeys(group for _, group in heads))
        index = {group: n for n, group in enumerate(groups)}
        return self._place(tuple(self._asked[group] for group in groups), [index[group] for _, group in heads])

    def _start_all(self, heads: list[tuple[int, int]], places: list[Place]) -> int:
        chosen = [(head, place) for head, place in zip(heads, places, strict=True) if place.agent >= 0]
        started = 0
        for head, place in chosen:
            if place.endpoint and not self.registry.room(place.endpoint, 1):
                continue
            number = task_of(head[0])
            item = self._waiting.pop(number)
            self._queue.started(*self._entry(number, item))
            self._begin(item, place)
            started += 1
        return started

    def _begin(self, item: Item, place: Place) -> None:
        agent = self.fleet.agents[place.agent]
        group = self.groups[item.asked.now]
        first_us, run_us = self._reference.times_us(group, agent, place)
        begin_ms = self.now_ms
        if place.endpoint:
            begin_ms = self._call(place)
        end_ms = begin_ms + (first_us + int(run_us * item.factor)) // MS_US
        agent.task = item.task
        agent.host.busy_count += 1
        if group.repo:
            agent.host.ran(group.repo)
        self.fleet.touched.add(agent.host.record.id)
        heapq.heappush(self._ends, (end_ms, next(self._numbers), agent, place))
        self.outcome.waits_ms.append(begin_ms - item.ready_ms)
        self.outcome.finishes_ms.append(end_ms - item.ready_ms)
        self.outcome.last_ms = max(self.outcome.last_ms, end_ms)

    def _end(self, ended: tuple[int, int, Agent, Place]) -> None:
        end_ms, _, agent, place = ended
        agent.task, agent.since_ms = 0, end_ms
        agent.host.busy_count -= 1
        self.fleet.touched.add(agent.host.record.id)
        if place.endpoint:
            self._count(place, -1)

    # --- endpoints ----------------------------------------------------------------------------------------

    def _call(self, place: Place) -> int:
        """A call begins, its model is loaded if it has to be; when it begins."""
        record = self.registry.endpoints[place.endpoint]
        held = held_model(record, place.model)
        assert held is not None, f"{record.name} has no {place.model}"
        begin_ms = self.now_ms
        if self._reference.is_cold(record, held):
            self.outcome.cold_loads += 1
            home = self.fleet.hosts.get(record.seen_from)
            if not self._fits(record, held, home):
                others = (
                    end_ms
                    for end_ms, _, _, at in self._ends
                    if at.endpoint == record.id and at.model != place.model
                )
                begin_ms = max(others, default=begin_ms)
            self._warm(record, held, home)
        self._used_ms[record.id, place.model] = begin_ms
        self._count(place, 1)
        return begin_ms

    def _count(self, place: Place, by: int) -> None:
        calls = dict(self.registry.calls.get(place.endpoint, {}))
        calls[place.model] = max(0, calls.get(place.model, 0) + by)
        self._set_calls(place.endpoint, {model: each for model, each in calls.items() if each})
        self.registry.touched.add(place.endpoint)

    @staticmethod
    def _fits(record: EndpointRecord, held: EndpointModel, home: Host | None) -> bool:
        """Whether the model is known to fit the VRAM beside those that are warm."""
        if home is None or not home.load.vram_bytes:
            return False
        return sum(one.size_bytes for one in _warm(record)) + held.size_bytes <= home.load.vram_bytes

    def _warm(self, record: EndpointRecord, held: EndpointModel, home: Host | None) -> None:
        """The model is loaded; where the VRAM is known those that were called longest ago make room."""
        names = {canonical_model(one.name) for one in _warm(record)} - {canonical_model(held.name)}
        if home is not None and home.load.vram_bytes:
            sizes = {canonical_model(one.name): one.size_bytes for one in record.models}
            left = home.load.vram_bytes - held.size_bytes - sum(sizes[name] for name in names)
            for name in sorted(names, key=lambda name: (self._used_ms.get((record.id, name), 0), name)):
                if left >= 0:
                    break
                names.discard(name)
                left += sizes[name]
        names.add(canonical_model(held.name))
        record.models = _with_warm(record, names, self._num_ctx(record))

    def _num_ctx(self, record: EndpointRecord) -> int:
        return record.num_ctx or self.start.models.num_ctx

    # --- what is recorded of the world, without what decisions made of it -----------------------------------

    def take_state(self, number: int, state: HostState) -> None:
        host = self.fleet.hosts[number]
        mine = {each: (agent.task, agent.since_ms) for each, agent in host.agents.items()}
        busy_count = host.busy_count
        super().take_state(number, state)
        host.alone = host.reserved_for = 0
        others = {each.id for each in state.agents if each.task and each.task not in self._own}
        was_others = {each for each, (task, _) in mine.items() if task and task not in self._own}
        host.busy_count = busy_count + len(others - was_others) - len(was_others - others)
        for each in state.agents:
            agent, (task, since_ms) = host.agents[each.id], mine[each.id]
            if task in self._own:
                agent.task, agent.since_ms = task, since_ms
            elif each.id not in others:
                agent.task = 0
                agent.since_ms = since_ms or each.since_ms

    def take_calls(self, number: int, calls: EndpointCalls) -> None:
        mine = dict(self.registry.calls.get(number, {}))
        super().take_calls(number, calls)
        self._set_calls(number, mine)

    def take_endpoint(self, number: int, shape: EndpointShape | None) -> None:
        known = self.registry.endpoints.get(number)
        warm = None if known is None else {canonical_model(one.name) for one in _warm(known)}
        super().take_endpoint(number, shape)
        if shape is not None and warm is not None:
            record = self.registry.endpoints[number]
            record.models = _with_warm(record, warm, self._num_ctx(record))


def _item(replica: Replica, reference: Reference, turn: Turn, head: Head, ready_ms: int) -> Item:
    asked, place = turn.asked[head.asked], place_in(head)
    agent = replica.fleet.agents[head.agent]
    load_us, run_us = reference.times_us(replica.groups[asked.now], agent, place)
    record = replica.registry.endpoints.get(place.endpoint)
    held = held_model(record, place.model) if record is not None else None
    is_cold = record is not None and held is not None and reference.is_cold(record, held)
    shape = replica.tasks[head.task]
    return Item(head.task, asked, shape, ready_ms, turn.mono_ms, is_cold, load_us, run_us)


def _warm(record: EndpointRecord) -> Iterator[EndpointModel]:
    return (one for one in record.models if one.warm)


def _with_warm(record: EndpointRecord, names: set[str], num_ctx: int) -> tuple[EndpointModel, ...]:
    def as_it_is(one: EndpointModel) -> EndpointModel:
        is_warm_now = canonical_model(one.name) in names
        if is_warm_now == one.warm:
            return one
        context = min(num_ctx, one.context_max or num_ctx) if is_warm_now else 0
        return msgspec.structs.replace(one, warm=is_warm_now, context_length=context)

    return tuple(map(as_it_is, record.models))


def _mean_s(found_ms: list[int]) -> float:
    return round(fmean(found_ms) / 1000, 2) if found_ms else 0.0


def _p95_s(found_ms: list[int]) -> float:
    return round(sorted(found_ms)[len(found_ms) * 95 // 100] / 1000, 2) if found_ms else 0.0
