"""The one door: `Hub.handle(event, now)` and `Hub.schedule(now)` return effects; nothing else changes state.

The hub is deterministic: the same events at the same times give the same effects. It reads no clock, no disk, no
socket and no randomness of its own. A peer's mistake becomes an `error` to that peer; a broken invariant of ours
is an AssertionError and ends the process, whose supervisor restarts it from what is on disk.
"""

from __future__ import annotations

from typing import assert_never, cast

from agentcom import __version__, limits
from agentcom import messages as m
from agentcom.clock import Now
from agentcom.config import Settings
from agentcom.core import invariants
from agentcom.core.accounts import Accounts
from agentcom.core.agents import Fleet, Host
from agentcom.core.attempts import Attempts
from agentcom.core.configuration import Configuration
from agentcom.core.dispatch import Dispatch
from agentcom.core.effects import (
    Answered,
    Effect,
    EndSession,
    Event,
    Incoming,
    Noticed,
    PeerGone,
    Probed,
    RecordKey,
    Retire,
    SettingsChanged,
    Timers,
    key_u64,
    key_u64x2,
)
from agentcom.core.endpoint_watch import EndpointWatch
from agentcom.core.gates import Gates
from agentcom.core.isolation import Isolation
from agentcom.core.ledger import HELD_MAX, Ledger
from agentcom.core.loaded import Loaded as Loaded
from agentcom.core.outlet import NEXT_EVENT, Outlet
from agentcom.core.preloader import Preloader
from agentcom.core.preloads import Preloads
from agentcom.core.principals import Principals
from agentcom.core.recording import Recorder
from agentcom.core.registry import Registry
from agentcom.core.removal import Removals
from agentcom.core.repositories import Repositories
from agentcom.core.requests import Requests
from agentcom.core.retention import Retention
from agentcom.core.retries import RetryBudgets
from agentcom.core.routing import Router
from agentcom.core.rule_names import RuleNames
from agentcom.core.sessions import Session, Sessions
from agentcom.core.story import NEXT_NOTE
from agentcom.core.succession import NoSubmits, succeed
from agentcom.core.tasks import OPEN, Jitter, Tasks
from agentcom.errors import NOT_ADMITTED, REPLACED, Refused
from agentcom.model import (
    JsonObject,
    Role,
    State,
)

LOOK_MS = 1000  # how often silent hosts and the like are looked for, while there are hosts


class Hub:
    """All state of the hub, in memory; the store follows it batch by batch."""

    def __init__(self, settings: Settings, jitter: Jitter, epoch: str, boot: str = "") -> None:
        self.settings = settings
        self.epoch = epoch
        self.out = Outlet()
        self.principals = Principals(self.out)
        self.sessions = Sessions()
        self.fleet = Fleet(self.out)
        self.registry = Registry(self.out, self._host_name, settings)
        self.watch = EndpointWatch(self.out, self.registry, settings)
        self.accounts = Accounts(self.fleet, self.registry)
        self.fleet.loaded_on = self.registry.models_on
        self.tasks = Tasks(self.out, settings, boot)
        self.tasks.follows = self.principals.follows
        self.retries = RetryBudgets(settings)
        names = RuleNames(self.fleet, self.registry, self.principals)
        self.gates = Gates(self.out, self.tasks, self.fleet, self.registry, names)
        self.gates.may_retry = lambda group: self.router.may_retry(self.tasks.groups[group])
        self.ledger = Ledger(self.out, self.tasks, names)
        self.attempts = Attempts(
            self.out, self.tasks, self.fleet, self.registry, self.gates, self.retries, self.ledger, jitter
        )
        self.router = Router(self.out, self.tasks, self.fleet, self.registry, self.retries, settings)
        self.router.fallbacks.clock_ms = self.attempts.clock_ms
        self.attempts.may_escalate = self.router.may_escalate
        self.preloads = Preloads(self.out, self.registry, self._peer_of, settings)
        self.preloader = Preloader(
            self.tasks, self.fleet, self.registry, self.router, self.preloads, self.attempts.calls, settings
        )
        self.dispatch = Dispatch(
            self.out, self.tasks, self.fleet, self.registry, self.retries, self.gates, self.principals,
            self.attempts, self.router, self.ledger,
        )  # fmt: skip
        self.board = self.dispatch.board
        self.isolation = Isolation(
            self.tasks, self.fleet, self.router, self.gates, self.dispatch.has_room, self.dispatch.assign
        )
        self.repositories = Repositories(self)
        self.fleet.only_on = self.repositories.hosts_of
        self.tasks.groups.is_apart = lambda repo: self.repositories.hosts_of(repo) is not None
        self.tasks.resolve_repo, self.tasks.repo_address = self.repositories.resolved, self.repositories.address
        self.tasks.check_kinds = self.fleet.check_kinds
        self.attempts.repo_of = self.repositories.of
        self.attempts.signing_key_of = self._signing_key_of
        names.repo_address, names.check_repo = self.repositories.address, self.repositories.check
        self._record_as(settings)
        self.requests = Requests(self)
        self.removals = Removals(self, self.out)
        self.retention = Retention(self.out, self.tasks)
        self.configuration = Configuration(self.out, settings)
        self.pace = pace_of(settings)
        # Both are the shell's: why no new tasks are taken now, and what is wrong with the store.
        self.no_submits: NoSubmits | None = None
        self.troubles: tuple[str, ...] = ()
        self.addresses: JsonObject = {}
        self.feed_address = ""
        self.feed_key = ""
        self._looked_ms = 0
        self._jumped_ms = 0  # by which the wall clock was set, and people were not told yet

    # --- at start ---------------------------------------------------------------------------------------

    def load(self, loaded: Loaded, now: Now, old: Hub | None = None) -> list[Effect]:
        """Take over what the store holds; open attempts get a fresh lease. `old` is a core whose last changes
        could not be stored: what no record holds is taken over from it."""
        self._looked_ms = now.mono_ms
        self.out.wall_ms = now.wall_ms
        self.out.next_event = max(1, loaded.numbers.get(NEXT_EVENT, 1))
        settings = self.configuration.load(loaded.config)
        if settings != self.settings:
            self.adopt(settings, now)
        if old is not None:
            self.attempts.away(old.attempts.away_ms)
        self.repositories.load(loaded.repositories)
        for number, group in loaded.groups:
            self.tasks.groups.load(number, group)
        for principal in loaded.principals:
            self.principals.load(principal)
        for invite in loaded.invites:
            self.principals.load_invite(invite)
        for host in loaded.hosts:
            self.fleet.load_host(host)
        for agent in loaded.agents:
            self.fleet.load_agent(agent)
        for endpoint in loaded.endpoints:
            self.registry.load(endpoint)
        self.registry.begin(now)
        self.gates.load(loaded.rules, paused=bool(loaded.numbers.get("paused", 0)))
        self.fleet.next_host = max(self.fleet.next_host, loaded.numbers.get("next_host", 1))
        self.tasks.next_id = max(1, loaded.numbers.get("next_task", 1))
        self.tasks.story.next_number = max(1, loaded.numbers.get(NEXT_NOTE, 1))
        for edge in loaded.depends:
            self.tasks.waiting.depends.load(edge)
        self.ledger.load(loaded.budgets, loaded.ledger, loaded.spent, loaded.moved)
        slots = self.tasks.load(loaded.pages, loaded.live)
        self.ledger.loaded()
        for question in loaded.questions:
            self.attempts.questions.load(question)
        for second in loaded.seconds:
            self.attempts.seconds.load(second)
        self.tasks.counts.update(loaded.finals)
        self.tasks.begin(now, loaded.clock)
        for slot in slots:
            state = self.tasks.table.state_of(slot)
            if state in OPEN:
                task = self.tasks.table.id[slot]
                self.attempts.load(slot, loaded.routes.get(task), loaded.stalled.get(task), now)
            elif state is State.delayed and not self.tasks.table.not_before_ms[slot]:
                self.attempts.aftermath.load_delayed(slot, now)
        for number, wait in loaded.fallbacks:
            self.router.fallbacks.load(number, wait, now)
        if old is not None:
            self.watch.adopt(old.watch)
            succeed(self, old, now)
        self.removals.load(now)
        return self.out.take()

    @property
    def degraded(self) -> bool:
        """Whether people have to look: the store is not whole, or takes nothing new."""
        return bool(self.troubles)

    # --- the door ---------------------------------------------------------------------------------------

    def lookups(self, event: Incoming, now: Now) -> list[RecordKey]:
        """The records that the shell must put into the event before it is handled."""
        message = event.message
        if type(message) is m.Request:
            session = self.sessions.find(event.key, message.session)
            if session is None:
                return []
            try:
                return self.requests.lookups(session, message, now)
            except Refused:
                return []  # handle() will refuse it with the same words
        if type(message) is m.Result and not self.attempts.is_open(message.task, message.attempt):
            place = key_u64x2(message.task, message.attempt)
            return [("attempts", place), ("tasks", key_u64(message.task))]
        return []

    def handle(self, event: Event, now: Now) -> list[Effect]:
        """Apply one event; returns what the shell must do. Effects are in order."""
        self.out.wall_ms = now.wall_ms
        self.out.term_ms = self.tasks.clock.now_ms(now)
        match event:
            case Incoming():
                self._incoming(event, now)
            case PeerGone():
                session = self.sessions.by_peer.get(event.peer)
                if session is not None:
                    self._close(session, now)
            case Probed():
                record = self.registry.endpoints.get(event.endpoint)
                if record is not None:
                    self.registry.probed(record, event.probe, now)
                    self.tasks.changed = True
            case Answered():
                record = self.registry.endpoints.get(event.endpoint)
                if record is not None:
                    to = self.preloads if event.answer.is_load else self.registry
                    self.tasks.changed |= to.answered(record, event.answer, now)
            case Noticed():
                self.out.publish_noticed(event)
            case Retire():
                self.retention.retire(event, now)
                self.ledger.retire(event.ledger, event.found, now)
            case Timers():
                self._timers(event, now)
            case _:
                assert_never(event)
        if self.removals:
            self.removals.finish(now)
        if self._jumped_ms and self.out.has_records:
            # With a batch that is written anyway: one of its own would keep the loop from everything else.
            self.out.publish("queue", "clock_jumped", by_s=self._jumped_ms / 1000)
            self._jumped_ms = 0
        return self.out.take()

    def schedule(self, now: Now, *, has_room: bool = True) -> list[Effect]:
        """The last of a tick: write down what it has begun and not ended, then give ready tasks to free
        agents, unless nothing has changed since the last call, or the store has no room for more."""
        self.tasks.save_begun()
        if not has_room:
            return self.out.take()
        if self.ledger.has_to_look and self.ledger.turn(now):
            self.tasks.changed = True
        if not self.tasks.changed or self.gates.paused:
            return self.out.take()
        self.dispatch.now = now
        self.tasks.changed = False
        self.preloader.is_news = True
        self.isolation.dispatch(now)
        if not self.tasks.counts[State.ready]:
            return self.out.take()
        self._look_at_retries(now)
        # The timers may be a second old: nothing is given out after the moment by which it was to start.
        self.tasks.sweep(now, self.attempts.stop)
        self.ledger.held_count = 0
        while self.dispatch.once(now):
            # Tasks met under a limit: those behind them have their chance in the same tick. Each turn starts some, or
            # holds some for a budget, which is a record each.
            if self.ledger.held_count >= HELD_MAX:
                self.tasks.changed = True
                break
        return self.out.take()

    def _look_at_retries(self, now: Now) -> None:
        """Which endpoints get retries now; those that wait for one may go, or have to wait."""
        if self.retries.look(now):
            self.tasks.changed = True
        self.gates.look_at_retries(bool(self.retries.spent))

    def next_due_ms(self, now: Now) -> int | None:
        """When the next timer is due, in monotonic ms; None when there is none."""
        due = [d for d in (self.attempts.next_due_ms(), self.tasks.waits.next_due_ms()) if d is not None]
        deadline_ms = self.tasks.deadlines.next_due_ms(now)
        if deadline_ms is not None:
            due.append(deadline_ms)
        fallback_ms = self.router.fallbacks.next_due_ms()
        if fallback_ms is not None:
            due.append(fallback_ms + self.attempts.away_ms)
        retry_ms = self.retries.next_due_ms()
        if retry_ms is not None:
            due.append(retry_ms)
        circuit_ms = self.registry.circuits.next_due_ms()
        if circuit_ms is not None:
            due.append(circuit_ms)
        budget_ms = self.ledger.next_due_ms(now)
        if budget_ms is not None:
            due.append(budget_ms)
        # Counted from the last look, not from now: ticks that come more often must not put it off for ever.
        if any(h.online for h in self.fleet.hosts.values()):
            due.append(self._looked_ms + LOOK_MS)
        if self.registry.endpoints:
            due.append(self.watch.due_ms)
        return min(due) if due else None

    def end_tick(self) -> None:
        """The tick's batch is committed."""
        self.out.end_tick()

    def validate(self) -> None:
        """Walk every index against every other; an AssertionError names what does not fit. O(everything): for
        tests and the simulator."""
        invariants.check(self)

    def adopt(self, settings: Settings, now: Now) -> None:
        """Let these settings apply to every part, here and in the shell, from now on. Where the pace changes open
        attempts get a fresh lease of the new length: none runs out because the rules changed under it."""
        for part in (self, self.tasks, self.retries, self.watch, self.preloads, self.preloader):
            part.settings = settings
        self.router.adopt(settings)
        self.registry.adopt_settings(settings)
        pace = pace_of(settings)
        is_same_pace = pace == self.pace
        self.pace = self.pace if is_same_pace else pace
        self.watch.hurry(now)
        for host in self.fleet.hosts.values():
            told = host.session.pace if host.session is not None else None
            self.attempts.beats_at(host, told.heartbeat_s if told is not None else 0)
        self.attempts.lease_anew(now, renews=not is_same_pace)
        self.board.reset()
        self._record_as(settings)
        self.tasks.changed = self.ledger.changed = True  # the next attempt may need less of a budget
        self.out.add(SettingsChanged(settings))

    def _record_as(self, settings: Settings) -> None:
        """Whether what the scheduler decides from is collected for the shell."""
        if settings.scheduler.record != (self.board.recorder is not None):
            self.board.recorder = Recorder(self) if settings.scheduler.record else None

    @property
    def paused(self) -> bool:
        """Whether nothing is given out at all."""
        return self.gates.paused

    # --- used by the parts ------------------------------------------------------------------------------

    def address_view(self) -> JsonObject:
        return dict(self.addresses)

    def end_sessions(self, principal: int, code: str, message: str, now: Now) -> None:
        """Tell every session of a principal why it ends, and end it."""
        for session in self.sessions.of_principal(principal):
            self.out.refuse(session.peer, code, message)
            self._close(session, now)
            self.out.add(EndSession(session.peer))

    # --- messages ---------------------------------------------------------------------------------------

    def _incoming(self, event: Incoming, now: Now) -> None:
        # Exact types here and below: nothing derives from a message, and to ask a Struct's class whether another one is
        # of it takes ten times as long.
        message = event.message
        request = message.id if type(message) is m.Request else None
        try:
            if type(message) is m.Hello:
                self._hello(event, message, now)
            elif type(message) is m.Enrol:
                record = self.principals.enrol(event.key, message, now)
                self.out.send(event.peer, m.Enrolled(name=record.name, role=record.role))
            else:
                self._of_session(event, cast(m.OfSession, message), now)
        except Refused as refused:
            self.out.refuse(
                event.peer,
                refused.code,
                refused.message,
                id=request,
                field=refused.field,
                retry_after_s=refused.retry_after_s,
            )

    def _hello(self, event: Incoming, hello: m.Hello, now: Now) -> None:
        principal = self.principals.by_key.get(event.key)
        if principal is None or principal.revoked:
            raise Refused("not_enrolled", "this key is not enrolled here; run `agentcom join CODE`")
        if hello.protocol != limits.PROTOCOL_VERSION:
            raise Refused(
                "protocol_version",
                f"this hub speaks protocol {limits.PROTOCOL_VERSION}, the caller {hello.protocol}; "
                f"install version {__version__}",
                field="protocol",
            )
        if (principal.role is Role.host) != (hello.host is not None):
            raise Refused("invalid", "host: a host's key says what it runs, other keys do not", field="host")
        if hello.host is not None:
            self.fleet.check_offer(principal, hello.host)
            self.principals.check_signing_key(principal, hello.host.signing_key)
        fresh_ms = int(self.settings.queue.offline_s * 1000)
        session, replaced = self.sessions.open(
            event.peer, principal, hello.process, event.fresh, now, fresh_ms
        )
        session.software = hello.software
        for old in replaced:
            if old.principal is principal:
                self.tasks.waits.forget(old)  # its host, if it is one, is taken over by this session
            else:
                self._left(old, now)
            if old.peer != session.peer:
                self.out.refuse(old.peer, "replaced", REPLACED)
                self.out.add(EndSession(old.peer))
        is_repeat = session.token != event.fresh
        verdicts, names = self._welcome_host(session, hello, is_repeat, now)
        session.pace = self.pace
        reads_feed = principal.role in (Role.web, Role.view, Role.operate, Role.admin)
        self.out.send(
            event.peer,
            m.Welcome(
                session=session.token,
                epoch=self.epoch,
                name=principal.name,
                role=principal.role,
                software=f"agentcom {__version__}",
                heartbeat_s=self.pace.heartbeat_s,
                lease_s=self.pace.lease_s,
                feed=self.feed_address if reads_feed else "",
                feed_key=self.feed_key if reads_feed else "",
                verdicts=verdicts,
                names=names,
                probe=self.registry.probe_urls(session.host) if session.host else (),
                kinds=self.registry.probe_kinds(session.host) if session.host else {},
                probe_every_s=self.pace.probe_every_s,
                wall_ms=now.wall_ms,
            ),
        )

    def _welcome_host(
        self, session: Session, hello: m.Hello, is_repeat: bool, now: Now
    ) -> tuple[tuple[m.Verdict, ...], dict[str, str]]:
        if hello.host is None:
            return (), {}
        self.principals.know_signing_key(session.principal, hello.host.signing_key)
        host = self.fleet.connect(session, hello.host, hello.software, now)
        self.attempts.beats_at(host, self.pace.heartbeat_s)
        self.accounts.offered(host, hello.host.account, now)
        verdicts = self.attempts.reconcile(host, hello.host.attempts, is_repeat, now)
        self.tasks.changed = True
        return verdicts, {a.record.local_name: a.record.name for a in self.fleet.agents_of(host) if a.offered}

    def _of_session(self, event: Incoming, message: m.OfSession, now: Now) -> None:
        session = self.sessions.find(event.key, message.session)
        if session is None:
            principal = self.principals.by_key.get(event.key)
            if principal is not None and principal.revoked:
                raise Refused("revoked", NOT_ADMITTED)
            raise Refused("no_session", "this session has ended, or is of before the hub's restart; say hello again")
        if session.peer != event.peer:
            displaced = self.sessions.move(session, event.peer)
            if displaced is not None:
                self._close(displaced, now)
        session.heard_ms = now.mono_ms
        if type(message) is m.Request:
            self.requests.handle(session, message, now, event.found)
        elif type(message) is m.Bye:
            self._close(session, now)
            self.out.add(EndSession(session.peer))
        else:
            host = self.fleet.hosts.get(session.host)
            if host is None:
                raise Refused("forbidden", "only a host's session may send this")
            self._of_host(host, session, message, event, now)

    def _of_host(self, host: Host, session: Session, message: m.OfSession, event: Incoming, now: Now) -> None:
        peer = session.peer
        if not host.online:
            self.fleet.heard_again(host, session, now)
            self.tasks.changed = True
        host.heard_ms = now.mono_ms
        if type(message) is m.Accept:
            if not self.attempts.accept(host, message.task, message.attempt, now):
                self.out.send(peer, m.Cancel(task=message.task, attempt=message.attempt, reason="not leased"))
            return
        if type(message) is m.Result:
            verdict = self.attempts.result(host, message, now, event.found)
            self.out.send(peer, m.ResultAck(task=message.task, attempt=message.attempt, verdict=verdict))
            return
        match message:
            case m.Heartbeat():
                kill = self.attempts.beat(host, message.attempts, now)
                self.fleet.beat(host, message.resources, now)
                if message.quiet_until_ms != host.quiet_until_ms and self.fleet.be_quiet(
                    host, message.quiet_until_ms, now
                ):
                    self.tasks.changed = True
                if message.no_room != host.no_room and self.fleet.fill(host, message.no_room, now):
                    self.tasks.changed = True
                if message.capabilities is not None and self.fleet.retool(host, message, now):
                    self.tasks.changed = True
                probe = self.registry.probe_urls(host.record.id)
                kinds = self.registry.probe_kinds(host.record.id)
                pace = self._untold(host, session)
                asks = self.watch.questions_for(host.record.id)
                self.out.send(
                    peer, m.Beat(beat=message.beat, kill=kill, probe=probe, pace=pace, kinds=kinds, asks=asks)
                )
                for agent in self.fleet.agents_of(host):
                    if agent.unresponsive:  # the ping before may have been lost with its connection
                        self.out.send(peer, m.Ping(agent=agent.record.local_name))
            case m.Decline():
                self.attempts.decline(host, message, now)
            case m.Log():
                self.attempts.log(host, message)
            case m.Endpoints():
                for sighting in message.sightings:
                    self.registry.sighted(host.record.id, host.record.name, sighting, now)
                for answer in message.answers:
                    to = self.preloads if answer.is_load else self.registry
                    to.host_answered(host.record.id, answer, now)
                self.tasks.changed = True
            case m.Worktrees():
                host.worktrees, host.worktrees_ms = message, now.mono_ms
            case m.Pong():
                for agent in self.fleet.agents_of(host):
                    if agent.record.local_name == message.agent and agent.unresponsive:
                        agent.unresponsive = False
                        self.tasks.changed = True
                        self.fleet.publish_agent(agent, now)

    def _untold(self, host: Host, session: Session) -> m.Pace | None:
        """The pace that the host has to keep, where it was last told another."""
        if session.pace is self.pace:
            return None
        session.pace = self.pace
        self.attempts.beats_at(host, self.pace.heartbeat_s)
        return self.pace

    # --- time -------------------------------------------------------------------------------------------

    def _timers(self, event: Timers, now: Now) -> None:
        self._looked_ms = now.mono_ms
        if event.gap_ms:
            self.attempts.away(event.gap_ms)
            self.registry.away(event.gap_ms, now)
            for host in self.fleet.hosts.values():
                host.heard_ms = min(host.heard_ms + event.gap_ms, now.mono_ms)
            self.sessions.away(event.gap_ms, now)
        self.tasks.waits.expire(now)
        self._look_at_clock(now)
        self.tasks.sweep(now, self.attempts.stop)
        self.tasks.groups.trim()
        if self.retries.spent:
            self._look_at_retries(now)
        if self.router.fallbacks.waits and self.router.fallbacks.expire(now):
            self.tasks.changed = True
        if self.ledger.look_at_day(now):
            self.tasks.changed = True
        if event.drained:
            self.attempts.expire(now)
            self._silent_hosts(now)
        if self.watch.turn(now):
            self.accounts.judge_all()
            self.tasks.changed = True
        if not self.gates.paused:
            self.preloader.turn(now)

    def _look_at_clock(self, now: Now) -> None:
        """A wall clock that was set moves no lease, no retry, no order and no term; people are told."""
        clock = self.tasks.clock
        moved_ms = clock.look(now)
        if moved_ms:
            self._jumped_ms += moved_ms
        elif self.tasks.table.slot_of and now.mono_ms >= clock.next_note_ms():
            clock.note(now)

    def _silent_hosts(self, now: Now) -> None:
        # A host whose leases may all be over gets no work, however long it may be silent before it is called offline.
        silent_ms = min(self.settings.queue.offline_s, self.settings.queue.lease_s) * 1000
        for host in self.fleet.hosts.values():
            if host.online and now.mono_ms - host.heard_ms > silent_ms:
                self.fleet.go_offline(host, "it has been silent for too long", now)
            if host.age_load(now):
                self.fleet.touched.add(host.record.id)
                self.tasks.changed = True
                self.fleet.publish_host(host, now)

    # --- sessions ---------------------------------------------------------------------------------------

    def _close(self, session: Session, now: Now) -> None:
        self.sessions.close(session)
        self._left(session, now)

    def _left(self, session: Session, now: Now) -> None:
        """Nothing may be sent to an ended session: its address can be another caller's by now."""
        self.tasks.waits.forget(session)
        host = self.fleet.hosts.get(session.host)
        if host is not None and host.session is session:
            self.preloads.host_left(session.host)
            self.fleet.disconnect(host, now)

    def _signing_key_of(self, host: int) -> str:
        """That is known of it, whether it is there or not; empty for none."""
        found = self.fleet.hosts.get(host)
        principal = self.principals.by_id.get(found.record.principal) if found is not None else None
        return (principal.signing_key or "") if principal is not None else ""

    def _peer_of(self, host: int) -> int | None:
        found = self.fleet.hosts.get(host)
        return found.session.peer if found and found.session else None

    def _host_name(self, host: int) -> str | None:
        found = self.fleet.hosts.get(host)
        return found.record.name if found else None


def pace_of(settings: Settings) -> m.Pace:
    queue, endpoints = settings.queue, settings.endpoints
    return m.Pace(heartbeat_s=queue.heartbeat_s, lease_s=queue.lease_s, probe_every_s=endpoints.probe_every_s)
