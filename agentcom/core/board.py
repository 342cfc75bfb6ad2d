"""The scheduler's rows, kept in step with fleet and registry.

Both note which hosts and endpoints have changed (`touched`); before a tick the rows of those are set anew, no others.
What a way costs is asked of core/score.py, whether there is one of core/refusal.py and core/wanted.py; of the parts
only the load by running work, recent failures and repositories are rows of their own, since ticks and time change them.

A pool of the scheduler is what a set of groups asks for, their repository aside unless that has hosts of its own.
Agents of one pool may differ in what they lack of its preferences, and in the kinds of server that they can call: each
such variant is a row, and a task may use all of them. Where a new cost or condition comes in, `touched` has to be told
when it changes; core/invariants.py compares all rows with what is found anew.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import msgspec

from agentcom import limits, sched
from agentcom._pysched import ANY_HOST, BUSY, CLOSED_US, FREE, NO_REPO, OUT, SLOTS_MAX, Scheduler
from agentcom.clock import Now
from agentcom.core.agents import Agent, Fleet, Host
from agentcom.core.capabilities import unmet
from agentcom.core.estimates import MS_US
from agentcom.core.load import Load
from agentcom.core.placed import Placed
from agentcom.core.refusal import ENDPOINT_FULL, Refusals
from agentcom.core.registry import NO_ENDPOINT, Registry, canonical_model
from agentcom.core.retries import RetryBudgets
from agentcom.core.score import (
    Candidate,
    EndpointCost,
    Scores,
    model_preference_us,
    plain_run_us,
)
from agentcom.core.tally import Tally
from agentcom.core.wanted import Wanted, claude_lacks, is_offered, missing_need, model_of
from agentcom.model import (
    BACKEND_OF_KIND,
    BACKENDS_OF,
    Backend,
    EndpointKind,
    EndpointModel,
    EndpointRecord,
    Group,
    Strategy,
    strategy_of,
)

if TYPE_CHECKING:
    from agentcom.core.recording import Recorder

NO_CALL: Final = 0  # the row in the place of an endpoint, for work that calls none
VARIANTS_MAX: Final = 16  # of a pool; agents of any more count as those of the last
NEVER: Final = (OUT, -1)  # the state of an agent that has no row yet
OWN_PARTS: Final = ("run", "load", "wait", "recent_failure", "repository")

Variant = tuple[
    Backend | None, tuple[str, ...]
]  # the backend of its calls, and the preferences that it lacks
Place = tuple[int, str]  # an endpoint and the canonical name of a model


@dataclass(slots=True)
class Pool:
    """A pool and its rows."""

    wanted: Wanted  # without a repository, but for one that has hosts of its own
    model: str
    first: int
    variants: dict[Variant, int] = field(default_factory=dict)
    of_agent: dict[int, tuple[int, ...]] = field(default_factory=dict)
    shared: dict[int, EndpointCost] = field(default_factory=dict)  # endpoints that all hosts reach
    tally: Tally = field(default_factory=lambda: Tally(()))
    used: int = 0  # the tick that used it last

    @property
    def is_local(self) -> bool:
        return strategy_of(self.wanted[0]) is Strategy.local_llm


@dataclass(slots=True)
class Seen:
    """A host as its rows have it."""

    agents: dict[int, tuple[int, int]] = field(default_factory=dict)  # state, since when
    load: Load | None = None
    capabilities: tuple[str, ...] = ()
    is_preferred: bool = True
    repos: frozenset[str] = frozenset()
    variants: set[int] = field(default_factory=set)  # rows of pools with an agent here


class Board:
    """The rows, by the numbers of hosts and agents; of endpoints and models, pools and repositories by its own."""

    def __init__(
        self, fleet: Fleet, registry: Registry, retries: RetryBudgets, scores: Scores, refusals: Refusals
    ) -> None:
        self._fleet = fleet
        self._registry = registry
        self._retries = retries
        self.scores = scores
        self._refusals = refusals
        self.pools: dict[Wanted, Pool] = {}
        self.now = Now(0, 0)
        self._make_rows: Callable[[], Scheduler] = sched.make_scheduler
        self.resets = 0
        self.recorder: Recorder | None = None  # who wants to know what the rows are told
        self.reset()

    def use(self, make_rows: Callable[[], Scheduler]) -> None:
        """Keep the rows in another scheduler, from now on."""
        self._make_rows = make_rows
        self.reset()

    def reset(self) -> None:
        """Forget all rows: they are made anew when they are needed."""
        self.resets += 1
        self._rows = self._make_rows()
        self._rows.set_endpoint(NO_CALL, ANY_HOST, SLOTS_MAX, 0)
        self.pools.clear()
        self._of_group: dict[tuple[int, bool], tuple[Group, Pool]] = {}
        self._free_pools: list[int] = []
        self._next_pool = 0
        self._seen: dict[int, Seen] = {}
        self._place_row: dict[Place, int] = {}
        self._places: list[Place | None] = [None]  # by row
        self._costs: dict[int, EndpointCost] = {}  # by row, as they are set
        self._spare_rows: list[int] = []
        self._rows_of: dict[int, dict[str, int]] = {NO_ENDPOINT: {"": NO_CALL}}
        self._at_host: dict[int, set[int]] = {}  # endpoints that one host alone reaches
        self._home: dict[int, int] = {}  # and where; 0 for all
        self._shared: set[int] = set()
        self._held: dict[int, tuple[tuple[EndpointModel, ...], frozenset[str]]] = {}
        self._repos: dict[str, tuple[int, set[int]]] = {}
        self._failing: dict[tuple[int, int], int] = {}
        self._troubled: set[int] = set()  # endpoints with a circuit or without a retry left
        self._preferred: set[int] = set()
        self._ticks = 0
        self._packed = -1  # the tick in which all pools were found to be in use
        self.free_count = 0
        self._fleet.touched.update(self._fleet.hosts)
        self._fleet.offers_touched.update(self._fleet.hosts)
        self._registry.touched.update(self._registry.endpoints)

    # --- a tick -----------------------------------------------------------------------------------------

    def place(self, wanted: list[Wanted], order: list[int], now: Now) -> list[Placed]:
        """Where tasks go, each given as an index of what is wanted. O(what has changed + tasks)."""
        self._ticks += 1
        pools = [self._pool(each, now).first for each in wanted]
        rows = [self._repo(group.repo) for group, _ in wanted]
        count = len(order)
        agents, endpoints = array("i", bytes(4 * count)), array("i", bytes(4 * count))
        self._rows.tick(
            array("i", [pools[at] for at in order]), array("i", [rows[at] for at in order]), agents, endpoints
        )
        return list(map(Placed, agents, endpoints))

    def has_way(self, wanted: Wanted, now: Now) -> bool:
        """Whether a task could start now, if it were the only one."""
        return bool(self._rows.tops(self._pool(wanted, now).first, NO_REPO, 1))

    def best(self, wanted: Wanted, now: Now) -> list[Candidate]:
        """The best ways that are open, the best first; one more than a decision shows."""
        pool = self._pool(wanted, now)
        tops = self._rows.tops(pool.first, self._repo(wanted[0].repo), limits.HISTORY_OTHERS_MAX + 1)
        return [self.candidate(wanted, Placed(agent, row), now) for _, agent, row in tops]

    def refused(self, wanted: Wanted, now: Now) -> dict[str, int]:
        """How many hosts fail which condition. O(hosts that have changed)."""
        pool = self._pool(wanted, now)
        tally, registry = pool.tally, self._registry
        if tally.unsure:
            numbers = {n for host in tally.unsure for n in self._at_host.get(host, ())} | self._shared
            tally.ask(self._refusals, pool.wanted, [registry.endpoints[n] for n in sorted(numbers)])
        return tally.counts()

    def candidate(self, wanted: Wanted, placed: Placed, now: Now) -> Candidate:
        """The way, with its cost by parts."""
        group = wanted[0]
        agent = self._fleet.agents[placed.agent]
        place = self._places[placed.endpoint]
        if place is None:
            return self.scores.without_endpoint(group, agent, now)
        return self.scores.with_endpoint(agent, group, self._costs[placed.endpoint], now)

    def place_of(self, row: int) -> Place:
        """The endpoint and the model of a row; NO_ENDPOINT for work that calls none."""
        return self._places[row] or (NO_ENDPOINT, "")

    def row_of(self, endpoint: int, model: str) -> int:
        """The row of an endpoint and a model that a tick has named."""
        return self._place_row[endpoint, model] if endpoint else NO_CALL

    def tops(self, wanted: Wanted, count: int) -> list[tuple[int, int, int]]:
        """(cost, agent, endpoint or 0) as the rows say; for checks."""
        pool = self.pools[wanted]
        found = self._rows.tops(pool.first, self._repo(wanted[0].repo), count)
        return [(cost, agent, self.place_of(row)[0]) for cost, agent, row in found]

    # --- what has changed -------------------------------------------------------------------------------

    def refresh(self, now: Now) -> None:
        """Set the rows of what has changed since the last time. O(those x pools)."""
        self.now = now
        self._look_at_failures(now)
        self._look_at_trouble()
        if self._preferred != self._fleet.preferred:
            self._preferred = set(self._fleet.preferred)
            self._fleet.touched.update(self._fleet.hosts)
        if self.recorder is not None:
            self.recorder.refreshing(now)
        hosts, endpoints = self._fleet.touched, self._registry.touched
        if hosts:
            for number in sorted(hosts):
                self._set_host(number, now)
            hosts.clear()
            self._fleet.offers_touched.clear()
        if endpoints:
            for number in sorted(endpoints):
                self._set_endpoint(number, now)
            endpoints.clear()

    def _look_at_failures(self, now: Now) -> None:
        """They end with time, and they are few."""
        registry = self._registry
        circuits = registry.circuits.ways.circuits
        if not (registry.failed_ms or circuits or self._failing):
            return
        for pair in sorted({*registry.failed_ms, *circuits, *self._failing}):
            cost_us = self.scores.policy.recent_failure_ms * MS_US if registry.penalised(*pair, now) else 0
            if pair[0] != NO_ENDPOINT and not registry.circuits.is_way_open(*pair):
                cost_us = CLOSED_US
            if self._failing.get(pair, 0) == cost_us:
                continue
            if cost_us:
                self._failing[pair] = cost_us
            else:
                del self._failing[pair]
            for row in self._rows_of.get(pair[0], {}).values():
                self._rows.set_failure(row, pair[1], cost_us)
            for pool in self.pools.values():
                pool.tally.unsure.add(pair[1])

    def _look_at_trouble(self) -> None:
        """Endpoints of which little can be used now change with time, too."""
        circuits = self._registry.circuits
        spent, troubled = self._retries.spent, self._troubled
        if spent or troubled or circuits.endpoints.circuits or circuits.models.circuits:
            now = {*spent, *circuits.endpoints.circuits, *(e for e, _ in circuits.models.circuits)}
            self._registry.touched.update(now | troubled)
            self._troubled = now

    # --- hosts and agents -------------------------------------------------------------------------------

    def _set_host(self, number: int, now: Now) -> None:
        host = self._fleet.hosts.get(number)
        seen = self._seen.setdefault(number, Seen())
        for pool in self.pools.values():
            pool.tally.unsure.add(number)
        if host is None:
            self._drop_agents(number, list(seen.agents), seen.agents)
            del self._seen[number]
            return
        self._rows.set_host(number, self.scores.busy_us(host), self.scores.busy_step_us)
        self._set_agents(number, host.agents, seen.agents)
        is_preferred = not self._preferred or number in self._preferred
        capabilities = host.record.capabilities
        has_new_offers = number in self._fleet.offers_touched or capabilities is not seen.capabilities
        if has_new_offers:
            seen.capabilities = capabilities
            self._drop_agents(number, [each for each in seen.agents if each not in host.agents], seen.agents)
            for pool in self.pools.values():
                before = len(pool.variants)
                self._sort_agents(pool, host)
                if pool.is_local and len(pool.variants) > before:  # which has no ways yet
                    self._registry.touched.update(self._registry.endpoints)
        if has_new_offers or host.load is not seen.load or is_preferred is not seen.is_preferred:
            seen.load, seen.is_preferred = host.load, is_preferred
            for pool in self.pools.values():
                self._set_reach(pool, host, now)
            self._registry.touched.update(self._at_host.get(number, ()))
        if self._repos and host.repos.keys() != seen.repos:
            self._set_repos(number, frozenset(host.repos), seen)

    def _set_agents(self, number: int, agents: dict[int, Agent], seen: dict[int, tuple[int, int]]) -> None:
        for each, agent in agents.items():
            state = FREE if agent.takes_work else BUSY if agent.is_open else OUT
            before, now = seen.get(each, NEVER), (state, max(0, agent.since_ms))
            if before != now:
                seen[each] = now
                self._rows.set_agent(each, number, *now)
                self.free_count += (state == FREE) - (before[0] == FREE)

    def _drop_agents(self, number: int, gone: list[int], seen: dict[int, tuple[int, int]]) -> None:
        for each in gone:
            self._rows.set_agent(each, number, OUT, 0)
            self.free_count -= seen.pop(each)[0] == FREE
            for pool in self.pools.values():
                self._set_variants(pool, each, ())

    def _set_repos(self, number: int, repos: frozenset[str], seen: Seen) -> None:
        for repo in repos ^ seen.repos:
            if repo in self._repos:
                row, hosts = self._repos[repo]
                (hosts.add if repo in repos else hosts.discard)(number)
                self._rows.set_repo(row, self.scores.policy.repository_ms * MS_US, hosts)
        seen.repos = repos

    # --- pools ------------------------------------------------------------------------------------------

    def _pool(self, wanted: Wanted, now: Now) -> Pool:
        group, is_retry = wanted
        # Groups are kept once, so which one it is costs less to ask than what it says.
        known = self._of_group.get((id(group), is_retry))
        if known is None:
            is_shared = group.repo and self._fleet.only_on(group.repo) is None
            asked = (msgspec.structs.replace(group, repo="") if is_shared else group), is_retry
            pool = self.pools.get(asked) or self._new_pool(asked, now)
            if len(self._of_group) >= limits.SCHEDULED_POOLS_MAX:
                self._of_group.clear()
            known = self._of_group[id(group), is_retry] = group, pool
        known[1].used = self._ticks
        return known[1]

    def _new_pool(self, wanted: Wanted, now: Now) -> Pool:
        if len(self.pools) >= limits.SCHEDULED_POOLS_MAX:
            self._make_room()
        if self._free_pools:
            first = self._free_pools.pop()
        else:
            first, self._next_pool = self._next_pool, self._next_pool + VARIANTS_MAX
        pool = self.pools[wanted] = Pool(wanted, model_of(wanted[0], self.scores.settings), first)
        pool.tally.unsure.update(self._fleet.hosts)
        for host in self._fleet.hosts.values():
            self._sort_agents(pool, host)
        if pool.is_local:
            for record in self._registry.endpoints.values():
                self._set_way(pool, record, now)
        for host in self._fleet.hosts.values():
            self._set_reach(pool, host, now)
        return pool

    def _make_room(self) -> None:
        """Drop what was used longest ago, down to the bound. What this tick has used stays, above the bound too: its
        rows are in use, and those of another pool in their place would send a task where it cannot run."""
        if self._packed == self._ticks:
            return
        for pool in sorted(self.pools.values(), key=lambda each: each.used):
            if len(self.pools) < limits.SCHEDULED_POOLS_MAX:
                return
            if pool.used == self._ticks:
                break
            self._drop_pool(pool)
        self._packed = self._ticks

    def _drop_pool(self, pool: Pool) -> None:
        del self.pools[pool.wanted]
        self._of_group.clear()
        for row in range(pool.first, pool.first + VARIANTS_MAX):
            self._rows.drop_pool(row)
        self._free_pools.append(pool.first)

    def _sort_agents(self, pool: Pool, host: Host) -> None:
        """Which of its variants each agent of the host belongs to."""
        for number, agent in host.agents.items():
            rows = tuple(self._variant(pool, one) for one in _variants(pool.wanted[0], agent))
            self._set_variants(pool, number, rows)

    def _variant(self, pool: Pool, variant: Variant) -> int:
        row = pool.variants.get(variant)
        if row is not None:
            return row
        row = pool.first + min(len(pool.variants), VARIANTS_MAX - 1)
        pool.variants[variant] = row
        if row > pool.first:
            self._rows.set_also(row - 1, row)
        if not pool.is_local:
            self._rows.set_way(row, NO_CALL, 0, 0, plain_run_us(pool.wanted[0], self.scores.policy))
        return row

    def _set_variants(self, pool: Pool, agent: int, rows: tuple[int, ...]) -> None:
        before = pool.of_agent.get(agent, ())
        if rows == before:
            return
        for row in before:
            if row not in rows:
                self._rows.set_able(row, agent, False)
        for row in rows:
            self._rows.set_able(row, agent, True)
        if rows:
            pool.of_agent[agent] = rows
        else:
            pool.of_agent.pop(agent, None)

    def _one_of(self, pool: Pool, row: int, host: Host) -> Agent | None:
        """An agent of the host that is of that variant: all of them cost the same."""
        return next((a for n, a in host.agents.items() if row in pool.of_agent.get(n, ())), None)

    def _set_reach(self, pool: Pool, host: Host, now: Now) -> None:
        """What the host adds for work that calls no endpoint, or one that all hosts reach."""
        if pool.is_local and not pool.shared:
            return
        group = pool.wanted[0]
        for row in dict.fromkeys(pool.variants.values()):
            agent = self._one_of(pool, row, host)
            if agent is None:
                continue
            if pool.is_local:
                at = next(iter(pool.shared.values()))
                way = self.scores.with_endpoint(agent, group, at, now)
                other_us = self._other_us(way) - model_preference_us(group, at.model, self.scores.policy)
            else:
                other_us = self._other_us(self.scores.without_endpoint(group, agent, now))
            self._rows.set_reach(row, host.record.id, other_us)

    # --- endpoints --------------------------------------------------------------------------------------

    def _set_endpoint(self, number: int, now: Now) -> None:
        record = self._registry.endpoints.get(number)
        if record is None:
            self._drop_endpoint(number)
            return
        if number not in self._home:
            self._home[number] = record.seen_from
            at = self._at_host.setdefault(record.seen_from, set()) if record.seen_from else self._shared
            at.add(number)
        for pool in self.pools.values():
            if pool.is_local:
                self._set_way(pool, record, now)
        self._doubt(record.seen_from)

    def _doubt(self, home: int) -> None:
        """Hosts that use an endpoint there may fail another condition now."""
        for pool in self.pools.values():
            if pool.is_local:
                pool.tally.unsure.update((home,) if home else self._fleet.hosts)

    def _drop_endpoint(self, number: int) -> None:
        for model, row in self._rows_of.pop(number, {}).items():
            for pool in self.pools.values():
                self._drop_ways(pool, row)
                pool.shared.pop(number, None)
            self._rows.set_endpoint(row, ANY_HOST, 0, 0)
            for pair in [pair for pair in self._failing if pair[0] == number]:
                self._rows.set_failure(row, pair[1], 0)
            del self._place_row[number, model]
            self._places[row] = None
            self._costs.pop(row, None)
            self._spare_rows.append(row)
        for pair in [pair for pair in self._failing if pair[0] == number]:
            del self._failing[pair]
        self._held.pop(number, None)
        home = self._home.pop(number, 0)
        self._at_host.get(home, self._shared).discard(number)
        self._doubt(home)

    def _drop_ways(self, pool: Pool, row: int) -> None:
        for variant in pool.variants.values():
            self._rows.drop_way(variant, row)

    def _set_way(self, pool: Pool, record: EndpointRecord, now: Now) -> None:
        """Whether and at what cost tasks of the pool run on the endpoint."""
        group, is_retry = pool.wanted
        at = None
        if record.kind is not EndpointKind.anthropic and pool.model in self._models_on(record):
            home = self._fleet.hosts.get(record.seen_from)
            refused = self._refusals.of_endpoint(record, home, group, pool.model, is_retry)
            if refused is None or refused[0] == ENDPOINT_FULL:
                at = self.scores.of_endpoint(record, pool.model, home)
        if at is None:
            pool.shared.pop(record.id, None)
            row = self._place_row.get((record.id, pool.model))
            if row is not None:
                self._drop_ways(pool, row)
            return
        row = self._row(record.id, pool.model)
        self._costs[row] = at
        free = record.cap - self._registry.in_flight.get((record.id, pool.model), 0)
        slots = self._registry.room(record.id, free)
        self._rows.set_endpoint(row, record.seen_from or ANY_HOST, slots, self.scores.step_us(at))
        is_first = not record.seen_from and not pool.shared
        if not record.seen_from:
            pool.shared[record.id] = at
        for (backend, _), variant in pool.variants.items():
            if backend is BACKEND_OF_KIND[record.kind]:
                self._set_cost(pool, variant, row, at, now)
        if is_first:
            for host in self._fleet.hosts.values():
                self._set_reach(pool, host, now)

    def _set_cost(self, pool: Pool, variant: int, row: int, at: EndpointCost, now: Now) -> None:
        group = pool.wanted[0]
        host_us = model_preference_us(group, at.model, self.scores.policy)
        if at.endpoint.seen_from:
            home = self._fleet.hosts.get(at.endpoint.seen_from)
            agent = self._one_of(pool, variant, home) if home is not None else None
            if agent is None:
                self._rows.drop_way(variant, row)
                return
            host_us = self._other_us(self.scores.with_endpoint(agent, group, at, now))
        self._rows.set_way(variant, row, at.wait_us, at.load_us, at.run_us, host_us)

    def _other_us(self, way: Candidate) -> int:
        """What the host adds, the tasks aside that it runs."""
        named = sum(way.parts.get(part, 0) for part in OWN_PARTS)
        return way.cost_us - named - self.scores.busy_us(way.agent.host)

    def _models_on(self, record: EndpointRecord) -> frozenset[str]:
        held = self._held.get(record.id)
        if held is None or held[0] is not record.models:
            names = frozenset(canonical_model(one.name) for one in record.models)
            held = self._held[record.id] = record.models, names
        return held[1]

    def _row(self, endpoint: int, model: str) -> int:
        place = endpoint, model
        row = self._place_row.get(place)
        if row is None:
            if self._spare_rows:
                row = self._spare_rows.pop()
                self._places[row] = place
            else:
                row = len(self._places)
                self._places.append(place)
            self._place_row[place] = row
            self._rows_of.setdefault(endpoint, {})[model] = row
            for (number, host), cost_us in self._failing.items():
                if number == endpoint:
                    self._rows.set_failure(row, host, cost_us)
        return row

    def _repo(self, repo: str) -> int:
        if not repo:
            return NO_REPO
        known = self._repos.get(repo)
        if known is None:
            if len(self._repos) >= limits.SCHEDULED_REPOS_MAX:
                self._repos.clear()
            hosts = {number for number, host in self._fleet.hosts.items() if repo in host.repos}
            known = self._repos[repo] = len(self._repos), hosts
            self._rows.set_repo(known[0], self.scores.policy.repository_ms * MS_US, hosts)
            for number, host in self._fleet.hosts.items():
                self._seen.setdefault(number, Seen()).repos = frozenset(host.repos)
        return known[0]


def _variants(group: Group, agent: Agent) -> list[Variant]:
    if not is_offered(group, agent) or missing_need(group, agent) is not None:
        return []
    strategy = strategy_of(group)
    if strategy is not Strategy.local_llm:
        return [] if claude_lacks(group) else [(None, _lacks(group, agent))]
    backends = [one for one in BACKENDS_OF[strategy] if one in agent.record.backends]
    lacks = _lacks(group, agent)
    return [(backend, lacks) for backend in backends]


def _lacks(group: Group, agent: Agent) -> tuple[str, ...]:
    if not group.prefers:
        return ()
    return tuple(unmet(group.prefers, agent.can, agent.host.record.name, agent.record.name))
