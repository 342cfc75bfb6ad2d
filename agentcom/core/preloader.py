"""Which model to load where ahead of its task: the task is ready, its model is cold everywhere, and a host that could
run it is about to be idle.

Once a second at most, and only while some ready task's model is cold. The heads of the queue are gone through in the
order in which they will start, and each takes the agent that is free for it first, so that no host is prepared for a
task while another one is to start there before. What runs is expected to end when its model usually does
(core/estimates.py). Nothing is loaded that does not fit beside the models that have work, or want it, on that server.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from agentcom import limits
from agentcom.clock import Now
from agentcom.config import Settings
from agentcom.core import estimates
from agentcom.core.agents import Agent, Fleet, Host
from agentcom.core.lanes import task_of
from agentcom.core.load import Load
from agentcom.core.preloads import Preloads
from agentcom.core.refusal import ENDPOINT_FULL
from agentcom.core.registry import Call, Registry, canonical_model
from agentcom.core.routing import Router
from agentcom.core.score import plain_run_us
from agentcom.core.tasks import Tasks
from agentcom.core.wanted import is_warm, model_of
from agentcom.model import (
    Backend,
    EndpointKind,
    EndpointModel,
    EndpointRecord,
    Group,
    State,
    Strategy,
    strategy_of,
)

LOOK_MS: Final = 1000
WARM_MODELS_MAX: Final = 3  # on one GPU or CPU, as Ollama has it by default: one more makes another leave
PASSES: Final = frozenset({ENDPOINT_FULL, "limit_reached"})  # what ends when the work there does
Attempt = tuple[int, int]


class Place(NamedTuple):
    """Where a model that is cold everywhere could be loaded."""

    endpoint: EndpointRecord
    held: EndpointModel
    load_us: int
    run_us: int


class Soon(NamedTuple):
    """An agent that is expected to be free in so long."""

    left_us: int
    agent: Agent


class Shelf(NamedTuple):
    """What an endpoint holds, by canonical name, and which weights are loaded. Made anew when its list changes."""

    models: tuple[EndpointModel, ...]
    by_name: dict[str, EndpointModel]
    warm: frozenset[str]

    @classmethod
    def of(cls, models: tuple[EndpointModel, ...]) -> Shelf:
        by_name: dict[str, EndpointModel] = {}
        for one in models:
            if not one.fault:
                by_name.setdefault(canonical_model(one.name), one)
        return cls(models, by_name, frozenset(one.digest for one in models if one.warm and one.digest))


class Preloader:
    """`turn` is called with each tick of timers; `is_news` says that tasks were given out, or could have been, since
    the last one. `calls` has the open calls by attempt."""

    def __init__(
        self,
        tasks: Tasks,
        fleet: Fleet,
        registry: Registry,
        router: Router,
        preloads: Preloads,
        calls: dict[Attempt, Call],
        settings: Settings,
    ) -> None:
        self._tasks = tasks
        self._fleet = fleet
        self._registry = registry
        self._router = router
        self._preloads = preloads
        self._calls = calls
        self.settings = settings
        self.is_news = True
        self._is_any_cold = False
        self._looked_ms = -LOOK_MS
        self._shelves: dict[int, Shelf] = {}
        # Of one turn: endpoints by where they are seen, places by pool and endpoint, and what live tasks run on.
        self._at: dict[int, list[EndpointRecord]] = {}
        self._places: dict[tuple[int, int], Place | None] = {}
        self._wanted: set[str] | None = None

    def turn(self, now: Now) -> None:
        """Look whether some model is to be loaded now, and ask for it."""
        if self._preloads.open:
            self._preloads.expire(now)
        if now.mono_ms - self._looked_ms < LOOK_MS:
            return
        self._wanted = None
        if self._preloads.failed.circuits:
            self._preloads.forget_unwanted(self._wanted_models())
        if not self.settings.preload.enabled or not self._tasks.counts[State.ready]:
            return
        if not (self.is_news or self._is_any_cold):
            return
        self._looked_ms, self.is_news = now.mono_ms, False
        self._sort_endpoints()
        cold = self._cold_pools()
        self._is_any_cold = bool(cold)
        if cold and len(self._preloads.open) < limits.PRELOADS_MAX:
            self._look(cold, now)

    def _look(self, cold: set[int], now: Now) -> None:
        """Give each task at the head of the queue the agent that is free for it first. O(agents + heads x agents that
        are free soon), both bounded."""
        soon = self._soon(now)
        groups = self._tasks.groups
        for entry, group in self._tasks.ready.next(min(len(soon), limits.PRELOADS_MAX)) if soon else ():
            if groups[group].alone:
                continue
            if groups.pool_of(group) in cold:
                taken = self._prepare(task_of(entry), group, soon, now)
            else:
                taken = next((one for one in soon if self._could_run(groups[group], one.agent)), None)
            if taken is not None:
                soon.remove(taken)
            if not soon:
                return

    def _prepare(self, task: int, group: int, soon: list[Soon], now: Now) -> Soon | None:
        """Load the model where the task is expected to be finished first, of the hosts where that may be done; the
        agent that it takes. A model is loaded in one place, for one task."""
        ahead_us = int(self.settings.preload.ahead_s * estimates.S_US)
        ways = sorted(
            (max(one.left_us, place.load_us) + place.run_us, one.agent.record.id, place.endpoint.id, one, place)
            for one in soon
            for place in self._places_for(group, one.agent)
        )
        for *_, one, place in ways:
            if one.left_us > place.load_us + ahead_us:
                continue
            if self._is_begun(canonical_model(place.held.name)):
                return one
            if self.hindrance(place.endpoint, place.held, now) is None:
                self._preloads.begin(place.endpoint, place.held, task, now)
                return one
        return ways[0][3] if ways else None

    def _is_begun(self, model: str) -> bool:
        """Whether another task of this turn has had it loaded."""
        return any(one.model == model for one in self._preloads.open.values())

    # --- what is cold -----------------------------------------------------------------------------------

    def _sort_endpoints(self) -> None:
        """O(endpoints); what they hold is looked at where it has changed."""
        self._at, self._places = {}, {}
        for record in self._registry.endpoints.values():
            if record.kind is EndpointKind.anthropic:
                continue
            self._at.setdefault(record.seen_from, []).append(record)
            shelf = self._shelves.get(record.id)
            if shelf is None or shelf.models is not record.models:
                self._shelves[record.id] = Shelf.of(record.models)
        if len(self._shelves) > len(self._registry.endpoints):
            self._shelves = {n: shelf for n, shelf in self._shelves.items() if n in self._registry.endpoints}

    def _cold_pools(self) -> set[int]:
        """Of the pools at the head of the queue those whose model is there, and warm nowhere."""
        groups = self._tasks.groups
        heads = {groups.pool_of(group): groups[group] for _, group in self._tasks.ready.next(1)}
        some = list(heads.items())[: limits.PRELOAD_POOLS_MAX]
        return {pool for pool, group in some if self._is_cold(group)}

    def _is_cold(self, group: Group) -> bool:
        """Not where the model is warm, or is being loaded, on any server that the group could use. O(endpoints)."""
        if strategy_of(group) is not Strategy.local_llm or group.alone:
            return False
        model = model_of(group, self.settings)
        if self._registry.loads.is_loading_anywhere(model):
            return False
        is_held = False
        for records in self._at.values():
            for record in records:
                shelf = self._shelves[record.id]
                held = shelf.by_name.get(model)
                if held is None:
                    continue
                is_held = True
                if (held.warm or held.remote or held.digest in shelf.warm) and self._is_warm_for(group, record, held):
                    return False
        return is_held

    def _is_warm_for(self, group: Group, record: EndpointRecord, held: EndpointModel) -> bool:
        if not is_warm(record, held, record.num_ctx or self.settings.models.num_ctx):
            return False
        home = self._fleet.hosts.get(record.seen_from)
        if not self._is_of_use(group, record, home):
            return False
        near: Iterable[Agent] = home.agents.values() if home is not None else self._fleet.agents.values()
        return any(agent.is_open and self._router.is_able(group, agent) for agent in near)

    def _is_of_use(self, group: Group, record: EndpointRecord, home: Host | None) -> bool:
        """Whether the group could run there, if it were idle."""
        model = model_of(group, self.settings)
        refused = self._router.refusals.of_endpoint(record, home, group, model, is_retry=False)
        return refused is None or refused[0] in PASSES

    def _places_for(self, group: int, agent: Agent) -> list[Place]:
        """Where the agent could have the model of the group loaded."""
        asked, host = self._tasks.groups[group], agent.host.record.id
        if Backend.ollama not in agent.record.backends or not self._router.is_able(asked, agent):
            return []
        found = (self._place(group, record) for record in self._near(host))
        is_open = self._registry.circuits.is_way_open
        return [place for place in found if place is not None and is_open(place.endpoint.id, host)]

    def _place(self, group: int, record: EndpointRecord) -> Place | None:
        """Asked once a turn for a pool and an endpoint."""
        key = self._tasks.groups.pool_of(group), record.id
        if key in self._places:
            return self._places[key]
        asked, policy = self._tasks.groups[group], self.settings.scoring
        held = self._shelves[record.id].by_name.get(model_of(asked, self.settings))
        home = self._fleet.hosts.get(record.seen_from)
        place = None
        if held is not None and self._is_of_use(asked, record, home):
            load_us = estimates.load_us(record, held, policy) + estimates.displaced_us(record, held, home, policy)
            place = Place(record, held, load_us, estimates.run_us(record, held, home, policy))
        self._places[key] = place
        return place

    def _near(self, host: int) -> list[EndpointRecord]:
        """The endpoints that the host sees: its own, and some of those that all see."""
        return [*self._at.get(host, ()), *self._at.get(0, ())[: limits.PRELOAD_AGENTS_MAX]]

    # --- who is free soon -------------------------------------------------------------------------------

    def _soon(self, now: Now) -> list[Soon]:
        """Busy agents that are expected to be free before a load that begins now must have ended, the first first."""
        preload = self.settings.preload
        horizon_us = int((preload.ahead_s + preload.load_s) * estimates.S_US)
        found = []
        for agent in self._fleet.agents.values():
            host = agent.host
            if not agent.task or not agent.is_open or host.alone or host.reserved_for:
                continue
            left_us = self._left_us(agent, now)
            if left_us <= horizon_us:
                found.append(Soon(left_us, agent))
        return heapq.nsmallest(limits.PRELOAD_AGENTS_MAX, found, key=lambda one: (one.left_us, one.agent.record.id))

    def _left_us(self, agent: Agent, now: Now) -> int:
        """How long its work is expected to go on; 0 for what has taken longer than that already."""
        policy = self.settings.scoring
        slot = self._tasks.table.slot_of.get(agent.task)
        if slot is None:
            return 0  # it is being killed
        expected_us = plain_run_us(self._tasks.groups[self._tasks.table.group[slot]], policy)
        call = self._calls.get((agent.task, agent.attempt))
        record = self._registry.endpoints.get(call[0]) if call is not None else None
        shelf = self._shelves.get(record.id) if record is not None else None
        held = shelf.by_name.get(call[1]) if shelf is not None and call is not None else None
        if record is not None and held is not None:
            expected_us = estimates.run_us(record, held, self._fleet.hosts.get(record.seen_from), policy)
        return max(0, expected_us - (now.mono_ms - agent.since_ms) * 1000)

    def _could_run(self, group: Group, agent: Agent) -> bool:
        """Whether a task that waits for something else than a cold model could start on that agent."""
        if not self._router.is_able(group, agent):
            return False
        if strategy_of(group) is not Strategy.local_llm:
            return True
        model = model_of(group, self.settings)
        return any(model in self._shelves[record.id].by_name for record in self._near(agent.host.record.id))

    # --- whether it may be loaded ------------------------------------------------------------------------

    def hindrance(self, record: EndpointRecord, held: EndpointModel, now: Now) -> str | None:
        """Why the model is not to be loaded there now, in a word; None where it may be."""
        home = self._fleet.hosts.get(record.seen_from)
        if record.kind is not EndpointKind.ollama or held.remote:
            return "nothing_to_load"
        if not record.preload:
            return "endpoint_says_no"
        if record.seen_from and (home is None or not home.preloads or home.session is None):
            return "host_says_no"
        if record.id in self._preloads.open or self._registry.loads.is_any_on(record.id):
            return "loads_already"
        if len(self._preloads.open) >= limits.PRELOADS_MAX:
            return "too_many"
        if self._preloads.is_left_alone((record.id, canonical_model(held.name)), now):
            return "failed_lately"
        return None if fits(record, held, home, self._has_work(record)) else "no_room"

    def _has_work(self, record: EndpointRecord) -> Callable[[], bool]:
        """Whether a model that is loaded there has calls in flight, or tasks that want it."""

        def ask() -> bool:
            names = self._registry.calls.get(record.id, {}).keys() | self._wanted_models()
            used = [one for one in record.models if canonical_model(one.name) in names]
            weights = {one.digest for one in used if one.digest}  # one runner serves all their names
            return any(one.warm and (one in used or one.digest in weights) for one in record.models)

        return ask

    def _wanted_models(self) -> set[str]:
        """What live tasks run on, or will."""
        if self._wanted is None:
            groups = self._tasks.groups.used().values()
            local = [group for group in groups if strategy_of(group) is Strategy.local_llm]
            self._wanted = {model_of(group, self.settings) for group in local}
        return self._wanted


def fits(record: EndpointRecord, held: EndpointModel, home: Host | None, has_work: Callable[[], bool]) -> bool:
    """Whether the model can be loaded there and no other that has work has to leave. The server chooses which one
    leaves, so where any has to none may have work; where it is not known how much room there is, likewise."""
    warm = [one for one in record.models if one.warm]
    if not held.size_bytes:
        return not warm
    load = home.load if home is not None else Load()
    needs = held.size_bytes + held.size_bytes // estimates.ROOM_PART
    holds = sum(max(one.loaded_bytes, one.size_bytes) for one in warm)
    if held.size_bytes > load.vram_bytes > 0:
        return False
    free = load.vram_free_bytes if load.vram_bytes else load.free_bytes
    if 0 <= free < needs - holds:
        return False  # what is not the server's own leaves for nobody
    if load.vram_bytes:
        is_beside = holds + needs <= load.vram_bytes and not 0 <= free < needs
    else:
        is_beside = needs <= free
    return (is_beside and len(warm) < WARM_MODELS_MAX) or not warm or not has_work()
