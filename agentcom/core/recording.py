"""What the scheduler decides from, turn by turn, so that every decision can be made again elsewhere.

A recording begins with a `Start` and rows that are made anew; from then on each turn has what has changed of hosts,
agents, endpoints and limits since the last (`Piece`), which of them the rows were told to follow, what was asked, and
where the tasks were placed. No prompt, no command, no address of a server and no key is in it: names, ids, figures and
the repositories of tasks.

The recorder only looks. What it collects is taken by the shell after the tick (`take`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct

from agentcom import __version__
from agentcom.clock import Now
from agentcom.config import ModelSettings, ScoringSettings
from agentcom.core.agents import Host
from agentcom.core.lanes import task_of
from agentcom.core.load import Load
from agentcom.core.placed import Placed, first_first
from agentcom.core.registry import Registry
from agentcom.model import EndpointKind, EndpointModel, EndpointRecord, Group, ModelMeasure

if TYPE_CHECKING:
    from agentcom.core.dispatch import Asked
    from agentcom.core.hub import Hub

FORMAT: Final = 1
KINDS: Final = ("host", "state", "repos", "endpoint", "calls", "group", "task", "trouble")
HOST, STATE, REPOS, ENDPOINT, CALLS, GROUP, TASK, TROUBLE = range(len(KINDS))
GONE: Final = msgspec.Raw(b"\xc0")

_encode = msgspec.msgpack.Encoder().encode


class Start(Struct, frozen=True, array_like=True):
    """The first frame: who decided, by which policy, and what else is the same for all turns."""

    format: int
    version: str
    wall_ms: int
    scoring: ScoringSettings
    models: ModelSettings
    has_fallbacks: bool


class AgentShape(Struct, frozen=True, array_like=True):
    id: int
    name: str
    backends: tuple[str, ...]
    capabilities: tuple[str, ...]


class HostShape(Struct, frozen=True, array_like=True):
    """What changes seldom; agents in the order in which the host has them."""

    name: str
    capabilities: tuple[str, ...]
    agents: tuple[AgentShape, ...]


class AgentState(Struct, frozen=True, array_like=True):
    """`is_open`: it takes work as soon as it has none, the host aside."""

    id: int
    is_open: bool
    task: int
    since_ms: int


class HostState(Struct, frozen=True, array_like=True):
    """What changes with each task and report. `blocks`: backends that cannot be used."""

    is_open: bool
    busy_count: int
    alone: int
    reserved_for: int
    is_account_shut: bool
    load: Load
    blocks: tuple[str, ...]
    agents: tuple[AgentState, ...]


class EndpointShape(Struct, frozen=True, array_like=True):
    """An endpoint, its address aside."""

    name: str
    kind: EndpointKind
    seen_from: int
    cap: int
    num_ctx: int
    is_healthy: bool
    is_draining: bool
    models: tuple[EndpointModel, ...]
    measures: dict[str, ModelMeasure]


class EndpointCalls(Struct, frozen=True, array_like=True):
    """What is in flight by model, and the limit that people have set; -1: none."""

    in_flight: dict[str, int]
    limit: int


class GroupShape(Struct, frozen=True, array_like=True):
    """A group, and the hosts that its repository allows; None: all."""

    group: Group
    only_on: tuple[str, ...] | None


class TaskShape(Struct, frozen=True, array_like=True):
    """A task when it is first seen: how long it has been ready, and its place in its lane. `submitter`: who takes a
    turn with it (`Tasks.turn_of`)."""

    waited_ms: int
    order_key: int
    lane: int
    submitter: int


class Trouble(Struct, frozen=True, array_like=True):
    """What ends by itself: failures of the last minute (endpoint, host, when), circuits that are not closed (state, on
    trial), endpoints that get no retries, and the hosts that are to be preferred."""

    failed: tuple[tuple[int, int, int], ...]
    endpoints: tuple[tuple[int, str, bool], ...]
    ways: tuple[tuple[int, int, str, bool], ...]
    models: tuple[tuple[int, str, str, bool], ...]
    spent: tuple[int, ...]
    preferred: tuple[int, ...]


class Piece(Struct, frozen=True, array_like=True):
    """What is so from now on; null where the host or the endpoint is gone."""

    kind: int
    id: int
    body: msgspec.Raw


class AskedFor(Struct, frozen=True, array_like=True):
    """A group of tasks: by number what it wants and what is asked for it now; whether they have failed before."""

    wanted: int
    now: int
    is_retry: bool


class Head(Struct, frozen=True, array_like=True):
    """A task before the scheduler: which of the groups asked for, and where it was placed. The agent is -1 where it
    waits, for the endpoint or, at -1, for any; endpoint 0: a place without one. `is_started`: no limit was in the
    way."""

    task: int
    asked: int
    agent: int
    endpoint: int
    model: str
    is_started: bool


class Ended(Struct, frozen=True, array_like=True):
    """An agent does no longer work on a task that it was given, since then."""

    agent: int
    task: int
    mono_ms: int


class Turn(Struct, frozen=True, array_like=True):
    """One look at the rows. `before`: what was asked with fewer tasks, without result. `ended`: since the turn before;
    one in which nothing else is was no look."""

    mono_ms: int
    pieces: tuple[Piece, ...]
    hosts: tuple[int, ...]
    offers: tuple[int, ...]
    endpoints: tuple[int, ...]
    before: tuple[tuple[AskedFor, ...], ...] = ()
    asked: tuple[AskedFor, ...] = ()
    heads: tuple[Head, ...] = ()
    ended: tuple[Ended, ...] = ()

    @property
    def is_look(self) -> bool:
        return bool(self.pieces or self.hosts or self.endpoints or self.asked)


class Recorder:
    """Collects frames from a hub whose board tells it (`refreshing`), and whose dispatch does (`placed`). A frame is
    `start` or a turn; after `begin_anew` the next turn has a start before it."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._resets = -1
        self._told: dict[tuple[int, int], bytes] = {}
        self._groups: dict[Group, int] = {}
        self._frames: list[bytes] = []
        self._starts: set[int] = set()  # of the frames
        self._now = Now(0, 0)
        self._turn: tuple[Turn, list[Piece]] | None = None
        self._before: list[tuple[AskedFor, ...]] = []
        self._asked: tuple[AskedFor, ...] = ()
        self._heads: list[Head] = []
        self._running: dict[int, int] = {}  # tasks by agent

    def begin_anew(self) -> None:
        """The next turn has all that is known: what comes before is in another file."""
        self._hub.board.reset()

    def take(self) -> list[tuple[bool, bytes]]:
        """What was recorded since the last time: (whether it is a start, the frame)."""
        self._close()
        ended = self._ended() if self._running and self._resets >= 0 else ()
        if ended:
            self._frames.append(_encode(Turn(self._now.mono_ms, (), (), (), (), ended=ended)))
        frames, starts = self._frames, self._starts
        self._frames, self._starts = [], set()
        return [(n in starts, frame) for n, frame in enumerate(frames)]

    # --- told by the core ---------------------------------------------------------------------------------

    def refreshing(self, now: Now) -> None:
        """The rows are about to follow what was touched."""
        self._close()
        hub = self._hub
        if hub.board.resets != self._resets:
            self._start(now)
        self._now = now
        ended = self._ended()
        hosts, endpoints = sorted(hub.fleet.touched), sorted(hub.registry.touched)
        pieces: list[Piece] = []
        for number in self._in_order(hosts, hub.fleet.hosts):
            self._host(pieces, number)
        for number in self._in_order(endpoints, hub.registry.endpoints):
            self._endpoint(pieces, number)
        self._tell(pieces, TROUBLE, 0, _trouble(hub))
        offers = tuple(sorted(hub.fleet.offers_touched))
        self._turn = Turn(now.mono_ms, (), tuple(hosts), offers, tuple(endpoints), ended=ended), pieces

    def placed(self, queued: list[tuple[int, int]], asked: dict[int, Asked], places: list[Placed]) -> None:
        """The scheduler has said where these go. `queued` are (entry, group)."""
        assert self._turn is not None, "the rows were looked at before"
        if self._asked:
            self._before.append(self._asked)
        pieces = self._turn[1]
        self._asked = tuple(self._ask(pieces, each) for each in asked.values())
        index = {group: n for n, group in enumerate(asked)}
        place_of = self._hub.board.place_of
        self._heads = []
        for (entry, group), each in zip(queued, first_first([group for _, group in queued], places), strict=True):
            task = task_of(entry)
            self._task(pieces, task)
            endpoint, model = (-1, "") if each.endpoint < 0 else place_of(each.endpoint)
            self._heads.append(Head(task, index[group], each.agent, endpoint, model, False))

    # --- inside -------------------------------------------------------------------------------------------

    def _start(self, now: Now) -> None:
        self._resets = self._hub.board.resets
        self._told.clear()
        self._groups.clear()
        settings = self._hub.board.scores.settings
        start = Start(
            FORMAT,
            __version__,
            now.wall_ms,
            settings.scoring,
            settings.models,
            settings.routing.fallback != "none",
        )
        self._starts.add(len(self._frames))
        self._frames.append(_encode(start))

    def _close(self) -> None:
        """The turn is over: what it placed was carried out, as far as limits allowed."""
        if self._turn is None:
            return
        turn, pieces = self._turn
        self._turn = None
        heads = tuple(map(self._carried_out, self._heads))
        turn = msgspec.structs.replace(
            turn, pieces=tuple(pieces), before=tuple(self._before), asked=self._asked, heads=heads
        )
        if turn.is_look or turn.ended:
            self._frames.append(_encode(turn))
        self._before, self._asked, self._heads = [], (), []

    def _carried_out(self, head: Head) -> Head:
        agent = self._hub.fleet.agents.get(head.agent)
        is_started = agent is not None and agent.task == head.task
        if is_started:
            self._running[head.agent] = head.task
            self._told.pop((TASK, head.task), None)  # told anew where it comes back
        return msgspec.structs.replace(head, is_started=is_started) if is_started else head

    def _ended(self) -> tuple[Ended, ...]:
        """Agents of hosts that were touched, which have let go of what they were given."""
        fleet, ended = self._hub.fleet, []
        for number in sorted(fleet.touched):
            host = fleet.hosts.get(number)
            for each in host.agents if host is not None else ():
                task, agent = self._running.get(each), fleet.agents[each]
                if task is not None and agent.task != task:
                    del self._running[each]
                    ended.append(Ended(each, task, max(0, agent.since_ms)))
        return tuple(ended)

    @staticmethod
    def _in_order(numbers: list[int], known: dict[int, Any]) -> list[int]:
        """As the core has them, where all are new to a recording; those that are gone come first."""
        wanted = set(numbers)
        return [each for each in numbers if each not in known] + [each for each in known if each in wanted]

    def _tell(self, pieces: list[Piece], kind: int, number: int, body: Struct | tuple[str, ...] | None) -> None:
        encoded = bytes(GONE) if body is None else _encode(body)
        if self._told.get((kind, number)) != encoded:
            self._told[kind, number] = encoded
            pieces.append(Piece(kind, number, msgspec.Raw(encoded)))

    def _host(self, pieces: list[Piece], number: int) -> None:
        host = self._hub.fleet.hosts.get(number)
        if host is None:
            if self._told.pop((HOST, number), None) is not None:
                pieces.append(Piece(HOST, number, GONE))
            self._told.pop((STATE, number), None)
            self._told.pop((REPOS, number), None)
            return
        self._tell(pieces, HOST, number, _host_shape(host))
        self._tell(pieces, STATE, number, _host_state(host))
        self._tell(pieces, REPOS, number, tuple(host.repos))

    def _endpoint(self, pieces: list[Piece], number: int) -> None:
        registry = self._hub.registry
        record = registry.endpoints.get(number)
        if record is None:
            if self._told.pop((ENDPOINT, number), None) is not None:
                pieces.append(Piece(ENDPOINT, number, GONE))
            self._told.pop((CALLS, number), None)
            return
        self._tell(pieces, ENDPOINT, number, _endpoint_shape(record))
        self._tell(pieces, CALLS, number, _calls(registry, number))

    def _ask(self, pieces: list[Piece], asked: Asked) -> AskedFor:
        wanted, is_retry = asked.wanted
        return AskedFor(self._group(pieces, wanted), self._group(pieces, asked.now[0]), is_retry)

    def _group(self, pieces: list[Piece], group: Group) -> int:
        number = self._groups.get(group)
        if number is None:
            number = self._groups[group] = len(self._groups)
            only_on = self._hub.fleet.only_on(group.repo) if group.repo else None
            allowed = None if only_on is None else tuple(sorted(only_on))
            self._tell(pieces, GROUP, number, GroupShape(group, allowed))
        return number

    def _task(self, pieces: list[Piece], task: int) -> None:
        if (TASK, task) in self._told:
            return
        tasks = self._hub.tasks
        slot = tasks.table.slot_of[task]
        table = tasks.table
        waited_ms = tasks.waited_ms(slot, self._now)
        shape = TaskShape(waited_ms, table.order_key[slot], table.lane[slot], tasks.turn_of(slot))
        self._told[TASK, task] = b""
        pieces.append(Piece(TASK, task, msgspec.Raw(_encode(shape))))


def _host_shape(host: Host) -> HostShape:
    agents = tuple(
        AgentShape(number, one.record.name, one.record.backends, one.record.capabilities)
        for number, one in host.agents.items()
    )
    return HostShape(host.record.name, host.record.capabilities, agents)


def _host_state(host: Host) -> HostState:
    is_open = host.online and not (host.record.draining or host.paused or host.quiet_until_ms)
    agents = tuple(
        AgentState(
            number,
            one.offered and not (one.record.cordoned or one.unresponsive),
            one.task,
            one.since_ms,
        )
        for number, one in host.agents.items()
    )
    return HostState(
        is_open,
        host.busy_count,
        host.alone,
        host.reserved_for,
        bool(host.account_shut),
        host.load,
        tuple(host.blocks),
        agents,
    )


def _endpoint_shape(record: EndpointRecord) -> EndpointShape:
    return EndpointShape(
        record.name,
        record.kind,
        record.seen_from,
        record.cap,
        record.num_ctx,
        record.healthy,
        record.draining,
        record.models,
        record.measures,
    )


def _calls(registry: Registry, number: int) -> EndpointCalls:
    return EndpointCalls(registry.calls.get(number, {}), registry.limits.get(number, -1))


def _trouble(hub: Hub) -> Trouble:
    registry, circuits = hub.registry, hub.registry.circuits
    return Trouble(
        tuple((*pair, ms) for pair, ms in sorted(registry.failed_ms.items())),
        tuple((n, one.state.value, one.is_on_trial) for n, one in sorted(circuits.endpoints.circuits.items())),
        tuple((*p, one.state.value, one.is_on_trial) for p, one in sorted(circuits.ways.circuits.items())),
        tuple((*p, one.state.value, one.is_on_trial) for p, one in sorted(circuits.models.circuits.items())),
        tuple(sorted(hub.retries.spent)),
        tuple(sorted(hub.fleet.preferred)),
    )
