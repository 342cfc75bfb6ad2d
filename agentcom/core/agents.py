"""Hosts and their agents: who is there, who is free, since when.

An agent does one task at a time. Its state follows from its host's session and its attempt: `offline` without a
session that has been heard lately, `assigned` and `working` with an attempt, else `idle`. `cordoned`,
`draining` and `unresponsive` are flags beside the state. An agent whose task was cancelled stays taken until
its host says that every process has ended, or until the lease of that attempt ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import Now, rfc3339
from agentcom.core.capabilities import OF_CHECK, Abilities
from agentcom.core.effects import key_u64
from agentcom.core.load import Load, load_of
from agentcom.core.outlet import Outlet
from agentcom.core.resources import REPORTS_UNKNOWN_AFTER, age_ms, fresh, take_report, vram_view
from agentcom.core.sessions import Session, Sessions
from agentcom.core.trend import Trend
from agentcom.errors import NotFound, Refused
from agentcom.facts import is_comparison, overruled
from agentcom.model import (
    AgentRecord,
    AgentState,
    Backend,
    EndpointModel,
    HostRecord,
    JsonObject,
    PrincipalRecord,
    Resources,
)
from agentcom.signed_report import fingerprint


class Block(NamedTuple):
    """A backend that a host cannot use for a while: its usage window is closed, or its key waits for a person. All its
    agents share the key. `until_ms` in lease time."""

    backend: Backend
    reason: str
    until_ms: int
    since_wall_ms: int
    until_wall_ms: int


@dataclass(slots=True)
class Agent:
    """An agent at work: its record, and the attempt it holds (0: none). Times are monotonic ms."""

    record: AgentRecord
    host: Host
    task: int = 0
    attempt: int = 0
    working: bool = False
    since_ms: int = 0
    since_wall_ms: int = 0
    offered: bool = False
    unresponsive: bool = False
    free_by_ms: int = 0
    counts_unsaved: bool = False
    progress: int = 0
    moved_ms: int = 0
    stalled: bool = False
    alone: bool = False
    _can: Abilities | None = None

    @property
    def can(self) -> Abilities:
        """What it and its host offer."""
        can, of_host, of_agent = self._can, self.host.record.capabilities, self.record.capabilities
        if can is None or can.of_host is not of_host or can.of_agent is not of_agent:
            can = self._can = Abilities(of_host, of_agent)
        return can

    @property
    def state(self) -> AgentState:
        if not self.host.online or not self.offered:
            return AgentState.offline
        if self.task:
            return AgentState.working if self.working else AgentState.assigned
        return AgentState.blocked if self.block is not None else AgentState.idle

    @property
    def block(self) -> Block | None:
        """Why one of its backends cannot be used now. It takes work for the others all the same."""
        blocks = self.host.blocks
        return next((blocks[b] for b in self.record.backends if b in blocks), None) if blocks else None

    @property
    def is_open(self) -> bool:
        """Whether it takes work as soon as it has none."""
        host, record = self.host, self.record
        return (
            self.offered
            and host.online
            and not record.cordoned
            and not self.unresponsive
            and not host.record.draining
            and not host.paused
            and not host.quiet_until_ms
            and not host.no_room
        )

    @property
    def takes_work(self) -> bool:
        # `idle` spelt out: this is asked of every agent in every tick that schedules.
        host, record = self.host, self.record
        return (
            not self.task
            and self.offered
            and host.online
            and not record.cordoned
            and not self.unresponsive
            and not host.record.draining
            and not host.paused
            and not host.quiet_until_ms
            and not host.no_room
            and not host.alone
            and not host.reserved_for
        )


def _everywhere(_repo: str) -> frozenset[str] | None:
    return None


@dataclass(slots=True)
class Host:
    record: HostRecord
    session: Session | None = None
    online: bool = False
    busy_count: int = 0
    heard_ms: int = 0
    reported_ms: int = 0  # when its resources were last reported, monotonic; 0: not since the hub's start
    saved_ms: int = 0  # when its record was last written because of a report
    trend: Trend = field(default_factory=Trend)
    dropped: set[str] = field(default_factory=set)  # figures that could not be used, told of in this session
    paused: bool = False  # by a rule of the queue, which is a record of its own
    alone: int = 0  # attempts here that have to be the only one
    reserved_for: int = 0  # the task that is to run here alone as soon as the others have ended
    account_shut: str = ""  # why its cloud account takes no more calls now
    blocks: dict[Backend, Block] = field(default_factory=dict)
    agents: dict[int, Agent] = field(default_factory=dict)
    quiet_until_ms: int = 0  # wall time by its own clock; 0: it takes work
    no_room: str = ""  # why its disk takes no new attempts
    load: Load = field(default_factory=Load)
    load_until_ms: int = 0  # when its figures are too old to be trusted; 0: there are none
    repos: dict[str, None] = field(default_factory=dict)  # that it has worked on, the latest last
    preloads: bool = False  # models may be loaded there ahead of tasks, as it says itself
    signing_key: str = ""  # with which its reports have to be signed; empty: none is known
    worktrees: m.Worktrees | None = None  # as it told last; in memory only, a host tells them in each session
    worktrees_ms: int = 0  # when, monotonic
    only_on: Callable[[str], frozenset[str] | None] = _everywhere

    def may_work_on(self, repo: str) -> bool:
        """Whether the repository, if it is registered, allows this host."""
        names = self.only_on(repo)
        return names is None or self.record.name in names

    def take_load(self, now: Now) -> None:
        """Its record has new figures."""
        every_ms = self.record.resources_every_s * 1000
        before_ms = now.mono_ms - every_ms
        is_ours = any(agent.task or agent.since_ms > before_ms for agent in self.agents.values())
        self.load = load_of(self.record.resources, is_ours)
        self.load_until_ms = now.mono_ms + REPORTS_UNKNOWN_AFTER * every_ms

    def age_load(self, now: Now) -> bool:
        """Whether its figures have become too old just now."""
        if not self.load_until_ms or now.mono_ms <= self.load_until_ms:
            return False
        self.load, self.load_until_ms = self.load.aged(), 0
        return True

    def ran(self, repo: str) -> None:
        """It works on the repository, so it has a copy."""
        self.repos.pop(repo, None)
        self.repos[repo] = None
        if len(self.repos) > limits.REPOS_PER_HOST_MAX:
            del self.repos[next(iter(self.repos))]


class Fleet:
    """All hosts and agents by id and by name."""

    def __init__(self, out: Outlet) -> None:
        self._out = out
        self.hosts: dict[int, Host] = {}
        self.agents: dict[int, Agent] = {}
        self.host_by_name: dict[str, Host] = {}
        self.agent_by_name: dict[str, Agent] = {}
        self.next_host = 1
        self._next_agent = 1
        self.only_on: Callable[[str], frozenset[str] | None] = (
            _everywhere  # hosts that may work on a repository
        )
        self.loaded_on: Callable[[int], Iterable[EndpointModel]] = (
            lambda _host: ()
        )  # by a host's own endpoints
        self.touched: set[int] = set()  # hosts that the scheduler's rows do not follow yet; see board.py
        self.offers_touched: set[int] = set()  # of these the ones of which other agents can do other work
        self._check_kinds: frozenset[str] | None = None
        self.preferred: set[int] = set()  # hosts that are online and to be preferred
        self._blocked: dict[int, Host] = {}  # hosts with a backend that they cannot use now
        self.on_blocks: Callable[[Host], None] = lambda _host: None

    def load_host(self, record: HostRecord) -> Host:
        host = Host(record, load=load_of(record.resources, is_ours=True).aged(), trend=Trend(record.trend))
        host.only_on = self._hosts_of_repo
        self.hosts[record.id] = host
        self._reoffer(host)
        self.host_by_name[record.name] = host
        self._check_kinds = None
        self.next_host = max(self.next_host, record.id + 1)
        return host

    def check_kinds(self) -> frozenset[str]:
        """The kinds of checks that plugins of known hosts have, offline ones too. Kept until one changes."""
        if self._check_kinds is None:
            offered = (word for host in self.hosts.values() for word in host.record.capabilities)
            self._check_kinds = frozenset(word.removeprefix(OF_CHECK) for word in offered if word.startswith(OF_CHECK))
        return self._check_kinds

    def _hosts_of_repo(self, repo: str) -> frozenset[str] | None:
        return self.only_on(repo)

    def load_agent(self, record: AgentRecord) -> Agent:
        agent = Agent(record, self.hosts[record.host])
        agent.host.agents[record.id] = agent
        self._reoffer(agent.host)
        self.agents[record.id] = agent
        self.agent_by_name[record.name] = agent
        self._next_agent = max(self._next_agent, record.id + 1)
        return agent

    def adopt(self, old: Fleet, sessions: Sessions) -> None:
        """Take over who is connected, in those of the sessions that were taken over."""
        for number, host in self.hosts.items():
            self._reoffer(host)
            before = old.hosts.get(number)
            if before is None:
                continue
            session = before.session
            if session is not None and sessions.by_token.get(session.token) is session:
                host.session, host.online = session, before.online
            host.heard_ms = before.heard_ms
            if host.session is not None and number in old.preferred:
                self.preferred.add(number)
            host.blocks = dict(before.blocks)
            host.quiet_until_ms, host.no_room = before.quiet_until_ms, before.no_room
            host.preloads, host.signing_key = before.preloads, before.signing_key
            host.worktrees, host.worktrees_ms = before.worktrees, before.worktrees_ms
            if host.blocks:
                self._blocked[number] = host
            host.record.last_seen_ms = before.record.last_seen_ms
            host.record.resources = before.record.resources
            host.record.resources_ms = before.record.resources_ms
            host.reported_ms, host.trend, host.dropped = before.reported_ms, before.trend, before.dropped
            host.record.resources_every_s = before.record.resources_every_s
            host.load, host.load_until_ms, host.repos = before.load, before.load_until_ms, before.repos
        for number, agent in self.agents.items():
            was = old.agents.get(number)
            if was is not None and was.record.local_name == agent.record.local_name:
                agent.offered, agent.unresponsive = was.offered, was.unresponsive
                agent.since_ms, agent.since_wall_ms = was.since_ms, was.since_wall_ms
                is_same = agent.task and (agent.task, agent.attempt) == (was.task, was.attempt)
                if is_same and bool(agent.free_by_ms) == bool(was.free_by_ms):  # else `old` had ended it
                    agent.progress, agent.moved_ms, agent.stalled = was.progress, was.moved_ms, was.stalled

    def block(self, host: Host, block: Block, now: Now) -> None:
        """Give the host no more work for that backend until then; of two ends the later counts."""
        before = host.blocks.get(block.backend)
        if before is not None and before.until_ms >= block.until_ms:
            return
        self._set_blocks(host, {**host.blocks, block.backend: block}, now)
        self._out.publish(
            "host",
            "host_blocked",
            host=host.record.name,
            backend=block.backend.value,
            reason=block.reason,
            until=rfc3339(block.until_wall_ms),
        )

    def unblock(self, clock_ms: int, now: Now) -> bool:
        """End the blocks whose time is over; whether there were any."""
        if not self._blocked:
            return False
        blocks = [(host, block) for host in self._blocked.values() for block in host.blocks.values()]
        ended = [(host, block) for host, block in blocks if block.until_ms <= clock_ms]
        for host, block in ended:
            self._set_blocks(host, {b: each for b, each in host.blocks.items() if b is not block.backend}, now)
            self._out.publish("host", "host_unblocked", host=host.record.name, backend=block.backend.value)
        return bool(ended)

    def clear_blocks(self, now: Now) -> None:
        """A person says that what was at fault is mended."""
        for host in list(self._blocked.values()):
            self._set_blocks(host, {}, now)

    def next_unblock_ms(self) -> int | None:
        """When the first block ends, in lease time."""
        if not self._blocked:
            return None
        return min(b.until_ms for host in self._blocked.values() for b in host.blocks.values())

    def _reoffer(self, host: Host) -> None:
        """Its agents can do other work than the scheduler's rows say."""
        self.touched.add(host.record.id)
        self.offers_touched.add(host.record.id)

    def _set_blocks(self, host: Host, blocks: dict[Backend, Block], now: Now) -> None:
        before = [(agent, agent.state) for agent in host.agents.values()]
        host.blocks = blocks
        self._reoffer(host)
        if host.blocks:
            self._blocked[host.record.id] = host
        else:
            self._blocked.pop(host.record.id, None)
        self._restated(before, now)
        self.on_blocks(host)

    def _restated(self, before: Iterable[tuple[Agent, AgentState]], now: Now) -> None:
        """Tell of agents that may be in another state than before, and since when."""
        for agent, state in before:
            if agent.state is not state:
                agent.since_wall_ms = now.wall_ms  # not `since_ms`: who had no work longest comes first
            self.publish_agent(agent, now)

    @property
    def has_blocks(self) -> bool:
        return bool(self._blocked)

    def agents_of(self, host: Host) -> list[Agent]:
        return list(host.agents.values())

    def host_named(self, name: str) -> Host:
        try:
            return self.host_by_name[name]
        except KeyError:
            raise NotFound(f"no host is named {name}; see `agentcom host list`", field="host") from None

    def agent_named(self, name: str) -> Agent:
        try:
            return self.agent_by_name[name]
        except KeyError:
            raise NotFound(f"no agent is named {name}; see `agentcom agent list`", field="agent") from None

    def check_offer(self, principal: PrincipalRecord, offer: m.HostOffer) -> None:
        """Refuse what `connect` could not take, before anything has changed."""
        names = [one.name for one in offer.agents]
        twice = next((name for n, name in enumerate(names) if name in names[:n]), None)
        if twice is not None:
            raise Refused("invalid", f"host.agents: two agents are named {twice}", field="host.agents")
        known = any(host.record.principal == principal.id for host in self.hosts.values())
        if not known and len(self.hosts) >= limits.HOSTS_MAX:
            raise Refused("limit", f"this hub already has {limits.HOSTS_MAX} hosts")

    def connect(self, session: Session, offer: m.HostOffer, software: str, now: Now) -> Host:
        """Register what a host says of itself in hello; its agents become known and online."""
        host = self._host_of(session.principal, now)
        record = host.record
        record.capabilities = offer.capabilities
        record.software = software
        record.sandbox, record.sandbox_note = offer.sandbox, offer.sandbox_note
        record.check_faults, record.program_faults = offer.check_faults, offer.program_faults
        self._check_kinds = None
        before = {agent.record.id: agent.state for agent in self.agents_of(host)}
        was_online = host.online
        host.session, host.online, host.heard_ms = session, True, now.mono_ms
        host.quiet_until_ms, host.no_room = offer.quiet_until_ms, offer.no_room
        host.preloads = offer.preloads
        host.signing_key = session.principal.signing_key or ""
        if offer.preferred:
            self.preferred.add(record.id)
        else:
            self.preferred.discard(record.id)
        self._reoffer(host)
        if self._blocked.pop(record.id, None) is not None:
            host.blocks.clear()  # it may have another key now
            self.on_blocks(host)
        if not was_online:
            self.tell(host, "host_online")
        record.last_seen_ms = now.wall_ms
        if offer.resources is not None:
            host.dropped.clear()
            self._take_report(host, offer.resources, now)
        session.host = record.id
        self.save_host(host)
        self._offer_agents(host, offer, before, now)
        self.publish_host(host, now)
        return host

    def heard_again(self, host: Host, session: Session, now: Now) -> None:
        """It was silent for a while and speaks again in the same session."""
        host.session, host.online = session, True
        self.tell(host, "host_online")
        self.publish_host(host, now)
        for agent in self.agents_of(host):
            self._moved(agent, now)

    def be_quiet(self, host: Host, until_ms: int, now: Now) -> bool:
        """The host's quiet hours by its own clock, 0 for none now; whether they have begun or ended."""
        is_change = bool(until_ms) is not bool(host.quiet_until_ms)
        host.quiet_until_ms = until_ms
        if is_change:
            event = "host_quiet" if until_ms else "host_awake"
            self._out.publish("host", event, name=host.record.name, until=_quiet_until(until_ms))
            self.publish_host(host, now)
        return is_change

    def fill(self, host: Host, why: str, now: Now) -> bool:
        """Its disk has no room for new attempts, or has again (`why` empty); whether that has changed."""
        is_change = bool(why) is not bool(host.no_room)
        host.no_room = why
        if is_change:
            event = "host_full" if why else "host_has_room"
            self._out.publish("host", event, name=host.record.name, reason=why or None)
            self.touched.add(host.record.id)
            self.publish_host(host, now)
        return is_change

    def disconnect(self, host: Host, now: Now) -> None:
        """The host's session has ended: its agents are offline. Their leases run on."""
        host.session = None
        self.preferred.discard(host.record.id)
        self.save_host(host)
        self._save_counts(host)
        self.go_offline(host, "its session has ended", now)
        if self._blocked:
            self.on_blocks(host)

    def go_offline(self, host: Host, why: str, now: Now) -> None:
        before = [(agent, agent.state) for agent in self.agents_of(host)]
        was_online, host.online = host.online, False
        self.publish_host(host, now)
        if was_online:
            self.tell(host, "host_offline", why)
        self._restated(before, now)

    def beat(self, host: Host, resources: Resources | None, now: Now) -> None:
        host.heard_ms = now.mono_ms
        host.record.last_seen_ms = now.wall_ms
        if resources is not None:
            self._take_report(host, resources, now)
            if now.mono_ms - host.saved_ms >= limits.REPORT_SAVE_MS:
                host.saved_ms = now.mono_ms
                self.save_host(host)
            self._save_counts(host)
            self.publish_host(host, now)

    def retool(self, host: Host, beat: m.Heartbeat, now: Now) -> bool:
        """The host can do something else than it said before; whether that is so."""
        record = host.record
        before = record.capabilities, record.check_faults, record.program_faults
        told = beat.capabilities, beat.check_faults, beat.program_faults
        after = [old if new is None else new for old, new in zip(before, told, strict=True)]
        if after == [*before]:
            return False
        record.capabilities, record.check_faults, record.program_faults = after
        self._check_kinds = None
        self.save_host(host)
        self.publish_host(host, now)
        return True

    def _take_report(self, host: Host, resources: Resources, now: Now) -> None:
        unusable = take_report(host, resources, now)
        if unusable:
            self._out.publish("host", "figures_dropped", host=host.record.name, figures=list(unusable))

    def take(self, agent: Agent, task: int, attempt: int, now: Now) -> None:
        assert agent.takes_work, f"{agent.record.name} was given task {task} while {agent.state}"
        agent.task, agent.attempt, agent.working = task, attempt, False
        agent.host.busy_count += 1
        self._moved(agent, now)

    def hold(self, agent: Agent, task: int, attempt: int, now: Now) -> None:
        """As `take`, for an attempt that was open when the hub started."""
        agent.task, agent.attempt = task, attempt
        agent.host.busy_count += 1
        self._moved(agent, now, publish=False)

    def isolate(self, agent: Agent) -> None:
        """What it was given has to be the only attempt on its host: no agent there takes more until it is free."""
        agent.alone = True
        agent.host.alone += 1
        self.touched.add(agent.host.record.id)

    def start(self, agent: Agent, now: Now) -> None:
        agent.working = True
        self._moved(agent, now)

    def free(self, agent: Agent, now: Now) -> None:
        if agent.task:
            agent.host.busy_count -= 1
        if agent.alone:
            agent.host.alone -= 1
        agent.task = agent.attempt = agent.free_by_ms = 0
        agent.working = agent.stalled = agent.alone = False
        self._moved(agent, now)

    def remove_host(self, host: Host, by: str) -> None:
        for agent in self.agents_of(host):
            self.drop_agent(agent)
        self.touched.add(host.record.id)
        self._blocked.pop(host.record.id, None)
        self.preferred.discard(host.record.id)
        del self.hosts[host.record.id], self.host_by_name[host.record.name]
        self._check_kinds = None
        self._out.delete("hosts", key_u64(host.record.id))
        self._out.publish("host", "host_removed", name=host.record.name, by=by)

    def save_host(self, host: Host) -> None:
        host.record.trend = host.trend.record()
        self._out.put("hosts", key_u64(host.record.id), host.record)

    def count(self, agent: Agent, *, completed: bool) -> None:
        """One more task that it completed, or failed. Saved with its host's next report of resources: a crash may
        take a few seconds of these counts, and every task would cost a record otherwise."""
        if completed:
            agent.record.completed_count += 1
        else:
            agent.record.failed_count += 1
        agent.counts_unsaved = True

    def _save_counts(self, host: Host) -> None:
        for agent in host.agents.values():
            if agent.counts_unsaved:
                self.save_agent(agent)

    def save_agent(self, agent: Agent) -> None:
        agent.counts_unsaved = False
        self._out.put("agents", key_u64(agent.record.id), agent.record)

    def tell(self, host: Host, event: str, reason: str = "") -> None:
        """Hosts that come and go are kept in the feed's history."""
        fields = {"reason": reason} if reason else {}
        self._out.publish("host", event, name=host.record.name, **fields)

    def publish_host(self, host: Host, now: Now) -> None:
        """Tell who reads the feed, and the scheduler's rows."""
        self.touched.add(host.record.id)
        view = self.host_view(host, now) if self._out.is_read else None
        self._out.publish("host", "host_changed", host=view)

    def publish_agent(self, agent: Agent, now: Now) -> None:
        """Tell who reads the feed, and the scheduler's rows."""
        self.touched.add(agent.host.record.id)
        self._out.publish("agent", "agent_changed", agent=agent_view(agent) if self._out.is_read else None)

    def host_view(self, host: Host, now: Now) -> JsonObject:
        """A host as people see it; resources too old to trust are null, with their age."""
        record = host.record
        age, resources = age_ms(host, now), fresh(host, now)
        return {
            "name": record.name,
            "state": "online" if host.online else "offline",
            "last_seen": rfc3339(record.last_seen_ms) if record.last_seen_ms else None,
            "agents": [a.record.name for a in self.agents_of(host)],
            "busy": host.busy_count,
            "capabilities": list(record.capabilities),
            "resources": resources,
            "vram": vram_view(resources, self.loaded_on(host.record.id)) if host.online else None,
            "resources_age_s": None if age is None else age / 1000,
            "trend": {name: host.trend.short(name, limits.TREND_SHOWN) for name in ("cpu", "gpu")},
            "draining": record.draining,
            "removing": record.removing,
            "paused": host.paused,
            "overruled": _overruled(self.agents_of(host), record.capabilities),
            "quiet_until": _quiet_until(host.quiet_until_ms),
            "quiet_always": host.quiet_until_ms == limits.QUIET_ALWAYS_MS,
            "no_room": host.no_room or None,
            "preferred": record.id in self.preferred,
            "preloads": host.preloads,
            "sandbox": record.sandbox,
            "sandbox_note": record.sandbox_note,
            "check_faults": list(record.check_faults),
            "program_faults": list(record.program_faults),
            "software": record.software,
            "signing_key": fingerprint(host.signing_key) if host.signing_key else None,
        }

    def _host_of(self, principal: PrincipalRecord, now: Now) -> Host:
        for host in self.hosts.values():
            if host.record.principal == principal.id:
                return host
        assert len(self.hosts) < limits.HOSTS_MAX, "check_offer comes first"
        # A revoked key's name may be used again while its host is still listed.
        name, n = principal.name, 2
        while name in self.host_by_name:
            name, n = f"{principal.name[: limits.NAME_CHARS_MAX - 6]}-{n}", n + 1
        made = self.load_host(
            HostRecord(id=self.next_host, name=name, principal=principal.id, created_ms=now.wall_ms)
        )
        # Old attempts name their host by id: a removed host's must never be another's.
        self._out.number("next_host", self.next_host)
        return made

    def _offer_agents(self, host: Host, offer: m.HostOffer, before: dict[int, AgentState], now: Now) -> None:
        known = {a.record.local_name: a for a in self.agents_of(host)}
        offered = {o.name for o in offer.agents}
        for local_name, agent in known.items():
            agent.offered = local_name in offered
        for one in offer.agents:
            agent = known.get(one.name) or self._add_agent(host, one.name, now)
            agent.offered = True
            agent.unresponsive = False
            agent.record.backends, agent.record.capabilities = one.backends, one.capabilities
            if before.get(agent.record.id) is AgentState.offline and not agent.task:
                agent.since_ms = now.mono_ms
            self.save_agent(agent)
        gone = [a for a in self.agents_of(host) if not a.offered and not a.task]
        for agent in gone[: max(0, len(host.agents) - limits.AGENTS_PER_HOST_MAX)]:
            self.drop_agent(agent)
        self._restated(((each, before.get(each.record.id, each.state)) for each in self.agents_of(host)), now)

    def _add_agent(self, host: Host, local_name: str, now: Now) -> Agent:
        name, n = local_name, 2
        while name in self.agent_by_name:
            name, n = f"{local_name[: limits.NAME_CHARS_MAX - 6]}-{n}", n + 1
        agent = self.load_agent(
            AgentRecord(
                id=self._next_agent,
                name=name,
                local_name=local_name,
                host=host.record.id,
                created_ms=now.wall_ms,
            )
        )
        agent.since_ms, agent.since_wall_ms = now.mono_ms, now.wall_ms
        return agent

    def drop_agent(self, agent: Agent) -> None:
        assert not agent.task, f"{agent.record.name} holds task {agent.task}"
        del self.agents[agent.record.id], self.agent_by_name[agent.record.name]
        del agent.host.agents[agent.record.id]
        self._reoffer(agent.host)
        self._out.delete("agents", key_u64(agent.record.id))
        self._out.publish("agent", "agent_removed", name=agent.record.name)

    def _moved(self, agent: Agent, now: Now, publish: bool = True) -> None:
        agent.since_ms = now.mono_ms
        if agent.state is not AgentState.offline:  # else since its host went
            agent.since_wall_ms = now.wall_ms
        self.touched.add(agent.host.record.id)
        if publish:
            self.publish_agent(agent, now)


def _quiet_until(until_ms: int) -> str | None:
    """None where there are no quiet hours now, and where they never end."""
    return rfc3339(until_ms) if 0 < until_ms < limits.QUIET_ALWAYS_MS else None


def _overruled(agents: Iterable[Agent], found: tuple[str, ...]) -> list[str]:
    """What the host's agents declare of the machine, and the host did not find so; and every comparison."""
    declared = [word for word in found if is_comparison(word)]
    declared += [word for agent in agents for word in agent.record.capabilities]
    return list(overruled(declared, found)) if declared else []


def agent_view(agent: Agent) -> JsonObject:
    record = agent.record
    return {
        "name": record.name,
        "host": agent.host.record.name,
        "state": agent.state.value,
        "since": rfc3339(agent.since_wall_ms) if agent.since_wall_ms else None,
        "task": agent.task or None,
        "attempt": agent.attempt or None,
        "backends": [b.value for b in record.backends],
        "capabilities": list(record.capabilities),
        "cordoned": record.cordoned,
        "draining": agent.host.record.draining or record.removing,
        "removing": record.removing,
        "unresponsive": agent.unresponsive,
        "stalled": agent.stalled,
        "blocked": _block_view(agent.block),
        "completed_count": record.completed_count,
        "failed_count": record.failed_count,
    }


def _block_view(block: Block | None) -> JsonObject | None:
    return {"backend": block.backend.value, **block_fields(block)} if block is not None else None


def block_fields(block: Block) -> JsonObject:
    since, until = rfc3339(block.since_wall_ms), rfc3339(block.until_wall_ms)
    return {"reason": block.reason, "since": since, "until": until}


def offers(agent: Agent, backend: Backend) -> bool:
    return backend in agent.record.backends
