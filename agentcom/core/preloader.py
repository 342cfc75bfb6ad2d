"""Which model to load where ahead of its task: the task is ready, its model is cold everywhere, and a host that could
run it is about to be idle.

Once a second at most, and only while some ready task's model is cold. The heads of the queue are gone through in the
order in which they will start, and each takes the agent that is free for it first, so that no host is prepared for a
task while another one is to start there before. What runs is expected to end when its model usually does
(core/estimates.py). Nothing is loaded that does not fit beside the models that have work, or want it, on that server.
"""

from __future__ import annotations

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
from agentcom.core.wanted import held_model, is_warm, model_of
from agentcom.model import (
    STRATEGY_OF,
    Backend,
    EndpointKind,
    EndpointModel,
    EndpointRecord,
    Group,
    State,
    Strategy,
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

    def turn(self, now: Now) -> None:
        """Look whether some model is to be loaded now, and ask for it."""
        if self._preloads.open:
            self._preloads.expire(now)
        if self._preloads.failed.circuits:
            self._preloads.forget_unwanted(self._wanted_models())
        is_due = now.mono_ms - self._looked_ms >= LOOK_MS
        if not is_due or not self.settings.preload.enabled or not self._tasks.counts[State.ready]:
            return
        if not (self.is_news or self._is_any_cold):
            return
        self._looked_ms, self.is_news = now.mono_ms, False
        places = self._cold_places()
        self._is_any_cold = bool(places)
        if places:
            self._look(places, now)

    def _look(self, places: dict[int, list[Place]], now: Now) -> None:
        """Give each task at the head of the queue the agent that is free for it first; O(agents + heads x agents that
        are free soon)."""
        ahead_us = int(self.settings.preload.ahead_s * estimates.S_US)
        horizon_us = ahead_us + max(place.load_us for some in places.values() for place in some)
        soon = self._soon(horizon_us, now)
        for entry, group in self._tasks.ready.next(len(soon)) if soon else ():
            asked = self._tasks.groups[group]
            if asked.alone:
                continue
            cold = places.get(self._tasks.groups.pool_of(group))
            if cold is not None:
                taken = self._prepare(task_of(entry), asked, cold, soon, now)
            else:
                taken = next((one for one in soon if self._could_run(asked, one.agent)), None)
            if taken is not None:
                soon.remove(taken)
            if not soon:
                return

    def _prepare(self, task: int, group: Group, places: list[Place], soon: list[Soon], now: Now) -> Soon | None:
        """Load the model where the task is expected to be finished first, of the hosts where that may be done; the
        agent that it takes. A model is loaded in one place, for one task."""
        ahead_us = int(self.settings.preload.ahead_s * estimates.S_US)
        ways = sorted(
            (max(one.left_us, place.load_us) + place.run_us, one.agent.record.id, place.endpoint.id, one, place)
            for one in soon
            for place in places
            if place.endpoint.seen_from in (0, one.agent.host.record.id)
            and self._router.is_able(group, one.agent)
            and Backend.ollama in one.agent.record.backends
            and self._registry.circuits.is_way_open(place.endpoint.id, one.agent.host.record.id)
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

    def _cold_places(self) -> dict[int, list[Place]]:
        """By pool, of those at the head of the queue: where its model could be loaded, if it is cold everywhere."""
        groups = self._tasks.groups
        heads = {groups.pool_of(group): group for _, group in self._tasks.ready.next(1)}
        some = list(heads.items())[: limits.PRELOAD_POOLS_MAX]
        places = {pool: self._places_of(groups[group]) for pool, group in some}
        return {pool: found for pool, found in places.items() if found}

    def _places_of(self, group: Group) -> list[Place]:
        """Empty where the model is warm, or is being loaded, on any server that the group could use."""
        if STRATEGY_OF[group.tier] is not Strategy.local_llm or group.alone:
            return []
        model = model_of(group, self.settings)
        found = []
        for record in self._registry.endpoints.values():
            held = held_model(record, model) if record.kind is not EndpointKind.anthropic else None
            if held is None:
                continue
            if self._registry.loads.is_loading((record.id, model)):
                return []
            home = self._fleet.hosts.get(record.seen_from)
            if not self._is_of_use(record, home, group, model):
                continue
            if is_warm(record, held, record.num_ctx or self.settings.models.num_ctx):
                return []
            policy = self.settings.scoring
            load_us = estimates.load_us(record, held, policy) + estimates.displaced_us(record, held, home, policy)
            found.append(Place(record, held, load_us, estimates.run_us(record, held, home, policy)))
        return found

    def _is_of_use(self, record: EndpointRecord, home: Host | None, group: Group, model: str) -> bool:
        """Whether the group could run there, if it were idle."""
        refused = self._router.refusals.of_endpoint(record, home, group, model, is_retry=False)
        if refused is not None and refused[0] not in PASSES:
            return False
        near: Iterable[Agent] = home.agents.values() if home is not None else self._fleet.agents.values()
        return any(agent.is_open and self._router.is_able(group, agent) for agent in near)

    # --- who is free soon -------------------------------------------------------------------------------

    def _soon(self, horizon_us: int, now: Now) -> list[Soon]:
        """Busy agents that are expected to be free by then, the first first."""
        found = []
        for agent in self._fleet.agents.values():
            host = agent.host
            if not agent.task or not agent.is_open or host.alone or host.reserved_for:
                continue
            left_us = self._left_us(agent, now)
            if left_us <= horizon_us:
                found.append(Soon(left_us, agent))
        found.sort(key=lambda one: (one.left_us, one.agent.record.id))
        return found[: limits.PRELOAD_AGENTS_MAX]

    def _left_us(self, agent: Agent, now: Now) -> int:
        """How long its work is expected to go on; 0 for what has taken longer than that already."""
        policy = self.settings.scoring
        slot = self._tasks.table.slot_of.get(agent.task)
        if slot is None:
            return 0  # it is being killed
        group = self._tasks.groups[self._tasks.table.group[slot]]
        expected_us = plain_run_us(group, policy)
        call = self._calls.get((agent.task, agent.attempt))
        record = self._registry.endpoints.get(call[0]) if call is not None else None
        held = held_model(record, call[1]) if call is not None and record is not None else None
        if record is not None and held is not None:
            expected_us = estimates.run_us(record, held, self._fleet.hosts.get(record.seen_from), policy)
        return max(0, expected_us - (now.mono_ms - agent.since_ms) * 1000)

    def _could_run(self, group: Group, agent: Agent) -> bool:
        """Whether a task that waits for something else than a cold model could start on that agent."""
        if not self._router.is_able(group, agent):
            return False
        if STRATEGY_OF[group.tier] is not Strategy.local_llm:
            return True
        model = model_of(group, self.settings)
        return any(
            record.seen_from in (0, agent.host.record.id) and held_model(record, model) is not None
            for record in self._registry.endpoints.values()
        )

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
        groups = self._tasks.groups.used().values()
        return {model_of(group, self.settings) for group in groups if STRATEGY_OF[group.tier] is Strategy.local_llm}


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
