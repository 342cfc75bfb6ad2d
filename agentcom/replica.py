"""The scheduler of a recording: hosts, agents, endpoints and limits as they were, before a board of its own.

Fleet, registry, scores, refusals and rows are the product's classes; only what they are told comes from the recording.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from agentcom.clock import Now
from agentcom.config import ScoringSettings, Settings
from agentcom.core.agents import Agent, Block, Fleet, Host
from agentcom.core.board import Board
from agentcom.core.breaker import Breakers, Circuit, CircuitState
from agentcom.core.outlet import Outlet
from agentcom.core.placed import Placed, first_first
from agentcom.core.recording import (
    CALLS,
    ENDPOINT,
    GROUP,
    HOST,
    REPOS,
    STATE,
    TASK,
    TROUBLE,
    AskedFor,
    EndpointCalls,
    EndpointShape,
    GroupShape,
    Head,
    HostShape,
    HostState,
    Piece,
    Start,
    TaskShape,
    Trouble,
    Turn,
)
from agentcom.core.refusal import Refusals
from agentcom.core.registry import Registry
from agentcom.core.retries import RetryBudgets
from agentcom.core.score import Candidate, Scores
from agentcom.core.wanted import Wanted
from agentcom.model import AgentRecord, Backend, EndpointRecord, Group, HostRecord

K = TypeVar("K")
WAITS: Final = (-1, "")


class Place(NamedTuple):
    """Where a task goes: the agent, -1 where it waits; the endpoint, 0 for none and -1 where there is no place; the
    model."""

    agent: int
    endpoint: int
    model: str


class Replica:
    """A scheduler that follows a recording, by the policy of it or by another."""

    def __init__(self, start: Start, scoring: ScoringSettings | None = None) -> None:
        settings = Settings(models=start.models, scoring=scoring or start.scoring)
        out = Outlet()
        self.start = start
        self.fleet = Fleet(out)
        self._only_on: dict[str, frozenset[str]] = {}  # hosts by repository, where not all are allowed
        self.fleet.only_on = self._only_on.get
        self.registry = Registry(out, lambda _host: None, settings)
        self.retries = RetryBudgets(settings)
        self.scores = Scores(self.fleet, self.registry, settings)
        refusals = Refusals(self.fleet, self.registry, self.retries, settings)
        self.board = Board(self.fleet, self.registry, self.retries, self.scores, refusals)
        self.groups: dict[int, Group] = {}
        self.tasks: dict[int, TaskShape] = {}
        self.now = Now(0, 0)
        self._takers: dict[int, tuple[type[Any], Callable[[int, Any], None]]] = {
            HOST: (HostShape, self.take_host),
            STATE: (HostState, self.take_state),
            REPOS: (list[str], self.take_repos),
            ENDPOINT: (EndpointShape, self.take_endpoint),
            CALLS: (EndpointCalls, self.take_calls),
            GROUP: (GroupShape, self.take_group),
            TASK: (TaskShape, self.tasks.__setitem__),
            TROUBLE: (Trouble, self.take_trouble),
        }
        self._decoders: dict[int, Any] = {
            kind: msgspec.msgpack.Decoder(wanted | None) for kind, (wanted, _) in self._takers.items()
        }

    # --- a turn -------------------------------------------------------------------------------------------

    def follow(self, turn: Turn) -> None:
        """Take over what has changed, and let the rows follow."""
        if not turn.is_look:
            return
        self.now = Now(mono_ms=turn.mono_ms, wall_ms=self.start.wall_ms)
        for piece in turn.pieces:
            self.take(piece)
        self.fleet.touched.update(turn.hosts)
        self.fleet.offers_touched.update(turn.offers)
        self.registry.touched.update(turn.endpoints)
        self.board.refresh(self.now)

    def decide(self, turn: Turn) -> list[Place]:
        """Where the tasks of the turn go."""
        for asked in turn.before:
            self._place(asked, [])
        return self._place(turn.asked, [head.asked for head in turn.heads]) if turn.asked else []

    def way(self, asked: AskedFor, place: Place) -> Candidate:
        """The way with its cost by parts, as it is now."""
        return self.board.candidate(self.wanted(asked), self._placed(place), self.now)

    def wanted(self, asked: AskedFor) -> Wanted:
        return self.groups[asked.now], asked.is_retry

    def _place(self, asked: tuple[AskedFor, ...], order: list[int]) -> list[Place]:
        if self.start.has_fallbacks:
            for each in asked:
                self.board.has_way((self.groups[each.wanted], each.is_retry), self.now)
        placed = self.board.place([self.wanted(each) for each in asked], order, self.now)
        return [self.place_of(each) for each in first_first(order, placed)]

    def place_of(self, placed: Placed) -> Place:
        endpoint, model = WAITS if placed.endpoint < 0 else self.board.place_of(placed.endpoint)
        return Place(placed.agent, endpoint, model)

    def _placed(self, place: Place) -> Placed:
        return Placed(place.agent, self.board.row_of(place.endpoint, place.model))

    # --- what has changed ---------------------------------------------------------------------------------

    def take(self, piece: Piece) -> None:
        self._takers[piece.kind][1](piece.id, self._decoders[piece.kind].decode(piece.body))

    def take_host(self, number: int, shape: HostShape | None) -> None:
        known = self.fleet.hosts.get(number)
        if shape is None:
            for agent_id in known.agents if known is not None else ():
                del self.fleet.agents[agent_id]
            self.fleet.hosts.pop(number, None)
            return
        host = known or Host(HostRecord(id=number, name=shape.name, principal=0), only_on=self._only_on.get)
        self.fleet.hosts[number] = host
        host.record.name, host.record.capabilities = shape.name, shape.capabilities
        before, host.agents = host.agents, {}
        for each in shape.agents:
            agent = before.pop(each.id, None) or Agent(
                AgentRecord(id=each.id, name=each.name, local_name="", host=number), host
            )
            agent.record.name, agent.record.capabilities = each.name, each.capabilities
            agent.record.backends = tuple(map(Backend, each.backends))
            host.agents[each.id] = self.fleet.agents[each.id] = agent
        for gone in before:
            del self.fleet.agents[gone]

    def take_state(self, number: int, state: HostState) -> None:
        host = self.fleet.hosts[number]
        host.online = state.is_open
        host.busy_count, host.alone, host.reserved_for = state.busy_count, state.alone, state.reserved_for
        host.account_shut = "shut" if state.is_account_shut else ""
        if host.load != state.load:
            host.load = state.load
        host.blocks = {Backend(one): Block(Backend(one), "", 0, 0, 0) for one in state.blocks}
        for each in state.agents:
            agent = host.agents[each.id]
            agent.offered, agent.task, agent.since_ms = each.is_open, each.task, each.since_ms

    def take_repos(self, number: int, repos: list[str]) -> None:
        self.fleet.hosts[number].repos = dict.fromkeys(repos)

    def take_endpoint(self, number: int, shape: EndpointShape | None) -> None:
        if shape is None:
            del self.registry.endpoints[number]
            self.registry.limits.pop(number, None)
            self._set_calls(number, {})
            return
        record = self.registry.endpoints.get(number)
        if record is None:
            record = EndpointRecord(id=number, name=shape.name, kind=shape.kind, url="")
            self.registry.endpoints[number] = record
        record.name, record.kind, record.seen_from = shape.name, shape.kind, shape.seen_from
        record.cap, record.num_ctx = shape.cap, shape.num_ctx
        record.healthy, record.draining = shape.is_healthy, shape.is_draining
        record.models, record.measures = shape.models, shape.measures

    def take_group(self, number: int, shape: GroupShape) -> None:
        self.groups[number] = shape.group
        if shape.only_on is not None:
            self._only_on[shape.group.repo] = frozenset(shape.only_on)

    def take_calls(self, number: int, calls: EndpointCalls) -> None:
        self._set_calls(number, calls.in_flight)
        if calls.limit < 0:
            self.registry.limits.pop(number, None)
        else:
            self.registry.limits[number] = calls.limit

    def _set_calls(self, number: int, in_flight: dict[str, int]) -> None:
        registry = self.registry
        for place in [place for place in registry.in_flight if place[0] == number]:
            del registry.in_flight[place]
        registry.in_flight.update({(number, model): count for model, count in in_flight.items()})
        registry.calls.pop(number, None)
        if in_flight:
            registry.calls[number] = dict(in_flight)

    def take_trouble(self, _number: int, trouble: Trouble) -> None:
        circuits = self.registry.circuits
        self.registry.failed_ms = {(endpoint, host): ms for endpoint, host, ms in trouble.failed}
        _set_circuits(circuits.endpoints, [(one[0], *one[1:]) for one in trouble.endpoints])
        _set_circuits(circuits.ways, [((one[0], one[1]), *one[2:]) for one in trouble.ways])
        _set_circuits(circuits.models, [((one[0], one[1]), *one[2:]) for one in trouble.models])
        self.retries.spent = set(trouble.spent)
        self.fleet.preferred = set(trouble.preferred)


def place_in(head: Head) -> Place:
    """Where the task was placed when it was recorded."""
    return Place(head.agent, head.endpoint, head.model)


def _set_circuits(breakers: Breakers[K], found: list[tuple[K, str, bool]]) -> None:
    breakers.circuits = {}
    for key, state, is_on_trial in found:
        circuit = breakers.circuits[key] = Circuit()
        circuit.state, circuit.is_on_trial = CircuitState(state), is_on_trial
    shut = [one for one in breakers.circuits.values() if one.state is not CircuitState.closed]
    breakers.count_shut = len(shut)
