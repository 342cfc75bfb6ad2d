"""The hub's loop, which owns the sockets. The order inside a tick is law.

1. Drain the ROUTER, bounded by count and time; decode and admit each message.
2. The core: due timers (only after a drain that emptied the socket), each message, then one schedule.
3. One batch for the whole tick: appended to the journal, then committed with sync.
4. Only now replies, assignments and publications: nothing is acknowledged before it is committed.
5. One slice of housekeeping that changes no task state; then sleep until a socket or a timer is due (intake.py).

While more messages wait the loop does not wait for the disk: what a tick has to say is made ready and held, the next
tick is drained and decided, and each is let go once its own batch is durable, before the next batch is written. Where a
tick has but few messages, those that have come by then join it, since a tick costs as much as several of them.
"""

from __future__ import annotations

import gc
import os
import random
import secrets
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import zmq

from agentcom import auth, limits, logs
from agentcom import messages as m
from agentcom.clock import Clock, Now, boot_id, rfc3339
from agentcom.config import Home, Settings, sources
from agentcom.core.effects import (
    Answered,
    AskModel,
    Delete,
    DeleteUnder,
    Effect,
    EndSession,
    Event,
    Incoming,
    KeysChanged,
    LoadModel,
    LogPiece,
    Noticed,
    PeerGone,
    Probed,
    ProbeEndpoint,
    Publish,
    Put,
    Read,
    Send,
    SettingsChanged,
    TaskChanged,
    Timers,
)
from agentcom.core.hub import Hub
from agentcom.dead_letters import IN_BULK, name_letters
from agentcom.endpoint_keys import key_for
from agentcom.errors import ConfigError, Refused, StoreDamaged, StoreError, StoreFull
from agentcom.feed import Feed
from agentcom.gate import HUB_DOMAIN, Gate
from agentcom.intake import Intake
from agentcom.loading import admitted, first_principals, load
from agentcom.logbook import LogBook
from agentcom.lookups import look_up
from agentcom.model import EndpointProbe
from agentcom.outgoing import Outgoing, Said, may_wait
from agentcom.own_places import own_places
from agentcom.peers import Peers
from agentcom.probe import ProbeThread
from agentcom.probe_endpoint import Target
from agentcom.queries import Queries
from agentcom.recordings import Recordings
from agentcom.retirement import Retirement
from agentcom.room import Room
from agentcom.store.base import KEY_BYTES_MAX, Batch, Store, delete_under
from agentcom.upkeep import Upkeep
from agentcom.wire import wire_of

NOTICED_MAX = 200  # events that wait for the next tick, or for room on the disk; the oldest go
POLL_MS_MAX = 250  # housekeeping (feed, outboxes) runs at least this often
FEW_EVENTS = 24  # those of eight tasks: a tick with more pays for itself
CHORES_MS = 10  # between two looks at what is due while messages come, so that short ticks do not live for them
GAP_MS = 1000  # two ticks further apart than this: the loop was away, deadlines move


class Keys(NamedTuple):
    hub: auth.KeyPair
    admin: auth.KeyPair
    web: auth.KeyPair


class Broker:
    """Sockets, store and core of one hub, which closes the store (by `upkeep`, if it has one) when it ends.
    `after_step` is called between the steps of a tick, for tests."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        store: Store,
        clock: Clock,
        after_step: Callable[[int], None] | None = None,
        upkeep: Upkeep | None = None,
    ) -> None:
        self._home, self._settings, self._store, self._clock = home, settings, store, clock
        self._base = settings  # what was set at run time lies over it, in the store
        self._upkeep = upkeep
        self._room = Room(store, upkeep.opened if upkeep is not None else None)
        self._after_step = after_step or (lambda _step: None)
        self._log = logs.get()
        self._routed = logs.Lines()
        self._outgoing = Outgoing(store, self._routed)
        # Where a batch may be made durable beside the loop; not where somebody looks between the steps of a tick.
        self._beside = upkeep.opened.journaled if upkeep is not None and after_step is None else None
        self._flies = False  # whether the last batch is still on its way to the disk
        self._held: list[Said | Effect] = []  # what it has to say
        self._carriers: dict[type, Callable[[Any], None]] = {
            Read: self._answer,
            TaskChanged: self._task_changed,
            Publish: self._publish,
            LogPiece: self._log_piece,
            KeysChanged: self._keys_changed,
            ProbeEndpoint: self._probe,
            AskModel: self._ask_model,
            LoadModel: self._load_model,
            EndSession: self._end_session,
            SettingsChanged: lambda effect: self._adopt(effect.settings),
        }
        keys = home.keys
        self.keys = Keys(*(auth.load_or_make_key(keys / f"{name}.key") for name in ("hub", "admin", "web")))
        self._epoch = secrets.token_hex(8)
        self._started_ms = clock.now().wall_ms
        self._last_mono_ms = clock.now().mono_ms
        self._timer_ms = self._chores_ms = self._due_ms = 0  # the next timer; when what is due was looked at
        self._knows_timer = self._is_active = False  # no tick has been since that look; this tick decided something
        self._is_busy = False  # more messages waited when this tick was decided
        self._running = True
        self._noticed: deque[Noticed] = deque(maxlen=NOTICED_MAX)
        self._retirement = Retirement(store)
        self._wake_read, self._wake_write = wake_pair()
        self._logbook = LogBook()
        self._recordings = Recordings(home.recordings)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate = Gate(self._context)
        first_principals(store, self.keys.admin, self.keys.web, clock.now())
        # Before the port is open: a host that comes back at once must not be refused as unknown.
        self._gate.admit(*admitted(store, clock.now()))
        self._router = self._bind_router()
        self._wire = wire_of(self._router)
        self._peers = Peers(self._wire)
        self._intake = Intake(self._router, self._wire, self._peers, self._gate, self._wake_read)
        self._has_input = self._intake.has_input
        self._jitter = random.Random(secrets.randbits(64))  # noqa: S311
        self.hub = Hub(settings, self._jitter, self._epoch, boot_id())
        self._queries = Queries(self.hub, store, clock, self._logbook, self._started_ms)
        self._queries.upkeep = upkeep
        self._feed = self._open_feed()
        endpoints = settings.endpoints
        self._prober = ProbeThread(
            self._wake,
            endpoints.probe_timeout_s,
            endpoints.question_s,
            lambda url: key_for(url, endpoints.key_files),
        )
        self._carry_out(self._take_over())

    # --- life -------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Tick until `stop`."""
        while self._running:
            if not self._is_busy and not self._has_input():  # what waited is still there
                self._let_go()
                if not self._has_input():
                    self._sleep()
            self._tick()
        self._let_go()

    def stop(self) -> None:
        """End after the current tick; safe in a signal handler."""
        self._running = False
        self._wake()

    def close(self) -> None:
        self._routed.flush()
        self._prober.close()
        self._recordings.close()
        self._feed.close()
        self._wire.close()
        self._router.close(linger=200)
        self._gate.stop()
        self._context.term()
        self._wake_read.close()
        self._wake_write.close()
        if self._upkeep is not None:
            self._upkeep.close()
        else:
            self._store.close()

    @property
    def address(self) -> auth.HubAddress:
        """What run/hub.json says: how this machine reaches the hub."""
        return auth.HubAddress(
            hub=self._endpoint,
            key=self.keys.hub.public,
            feed=reachable(self._feed.address),
            feed_key=self.keys.hub.public,
            pid=os.getpid(),
        )

    def notice(self, topic: str, event: str, **fields: Any) -> None:
        """Tell readers of the feed, with the next tick, of something that is not the core's; kept if `KEPT` says so."""
        self._noticed.append(Noticed(topic, event, fields))

    def tick(self) -> None:
        """One tick and all that it has to say; the steps are those at the head of this module."""
        self._tick()
        self._let_go()
        self._look_for_timer(self._clock.now())

    def _tick(self) -> None:
        events, drained = self._drain()
        self._after_step(1)
        now = self._clock.now()
        gap_ms = now.mono_ms - self._last_mono_ms
        self._last_mono_ms = now.mono_ms
        self.hub.out.is_read = self._feed.is_read
        self._tell_room(now)
        if gap_ms > GAP_MS:
            # Before the messages: what they renew is renewed from now on, and must not be moved as well.
            events.insert(0, Timers(drained=False, gap_ms=gap_ms))
        if drained and (gap_ms > GAP_MS or now.mono_ms >= self._timer_ms):
            events.append(Timers(drained=True))
        events.extend(self._retirement.turn(self.hub, now))
        self._carry_out(self._handle(events, now))
        self._after_step(4)
        self._is_active = bool(events)
        self._housekeeping(now)

    # --- step 1 -----------------------------------------------------------------------------------------

    def _drain(self) -> tuple[list[Event], bool]:
        """Everything that has arrived, within bounds; True if the socket was read empty."""
        events: list[Event] = []
        if self._room.is_full:
            self._tell_noticed()
        else:
            events += self._noticed
            self._noticed.clear()
        for endpoint, _, found in self._prober.take():
            if isinstance(found, EndpointProbe):
                events.append(Probed(endpoint, found))
            else:
                events.append(Answered(endpoint, found))
        events.extend(PeerGone(peer) for peer in self._peers.take_gone())
        return events, self._intake.take(events)

    def _tell_noticed(self) -> None:
        """What was noticed is told at once, without a number: its record waits, rather than making a commit fail."""
        now = self._clock.now()
        for at, seen in enumerate(self._noticed):
            if not seen.told_ms:
                self._feed.publish(seen.topic, {"event": seen.event, "number": None, **seen.fields})
                told = seen._replace(told_ms=now.wall_ms, term_ms=self.hub.tasks.clock.now_ms(now))
                self._noticed[at] = told

    # --- steps 2 and 3 ----------------------------------------------------------------------------------

    def _handle(self, events: list[Event], now: Now) -> list[Effect]:
        """The core's effects of this tick, its records committed; what is left is to be carried out."""
        batch: Batch = Batch()
        later = self._decide(events, batch, now)
        self._let_go()
        if len(events) < FEW_EVENTS and self._has_input():
            joined, _ = self._drain()
            later += self._decide(joined, batch, now)
            events += joined
        later += self._apply(self.hub.schedule(now, has_room=self._room.may_dispatch(now)), batch)
        self._after_step(2)
        self._is_busy = self._has_input()
        try:
            self._commit(batch, beside=self._is_busy and may_wait(later))  # a thread is not woken for nothing
        except StoreError as error:
            return self._handle_again(error, events, later, now)
        self._after_step(3)
        # A new timer may be seen some ms late while messages come; one that was due is replaced at once.
        self._knows_timer = False
        if now.mono_ms >= min(self._timer_ms, self._due_ms + CHORES_MS):
            self._look_for_timer(now)
        return later

    def _look_for_timer(self, now: Now) -> None:
        """When the next timer is due, unless that is known."""
        if self._knows_timer:
            return
        self._knows_timer = True
        due_ms = self.hub.next_due_ms(now)
        self._timer_ms = now.mono_ms + 1000 if due_ms is None else due_ms
        self._due_ms = now.mono_ms

    def _decide(self, events: list[Event], batch: Batch, now: Now) -> list[Effect]:
        later = []
        for event in events:
            if self._flies and self._beside is not None and self._beside.is_committed:
                self._let_go()
            later += self._apply(self._handle_one(event, now), batch)
        return later

    def _commit(self, batch: Batch, beside: bool = False) -> None:
        """One batch: journal, then store, with sync. With `beside` it may be on its way when this returns."""
        if len(batch):
            if beside and self._beside is not None:
                self._flies = self._beside.begin_commit(batch, self._store.sequence + 1)
                self._room.committed(self._beside.last_bytes)
            else:
                self._store.commit(batch, self._store.sequence + 1)
                self._room.committed(batch.size_bytes)
        self.hub.end_tick()

    def _handle_one(self, event: Event, now: Now) -> list[Effect]:
        if type(event) is Incoming:
            message = event.message
            if type(message) is m.Request:
                if type(message.op) is m.EndpointAdd:
                    bound = {int(one.rpartition(":")[2]) for one in (self._endpoint, self._feed.address)}
                    self.hub.registry.own = own_places(self._home, self._settings, bound)
                try:
                    if type(message.op) in IN_BULK:
                        event = name_letters(event, self._store, now)
                    event = look_up(self.hub, self._store, event, now)
                except StoreDamaged as error:  # nothing was changed yet
                    return [Send(event.peer, self._unreadable(message.id, error, now))]
            elif type(message) is m.Result:
                event = look_up(self.hub, self._store, event, now)
        return self.hub.handle(event, now)

    def _apply(self, effects: list[Effect], batch: Batch) -> list[Effect]:
        """Records into the batch; the rest is for after the commit."""
        later: list[Effect] = []
        table = batch.table
        for effect in effects:
            # Exact types: nothing derives from these, and there are a dozen for each task.
            if type(effect) is Put:
                if 0 < len(effect.key) <= KEY_BYTES_MAX:
                    table(effect.database)[effect.key] = effect.body
                else:
                    batch.put(effect.database, effect.key, effect.body)  # refuses
            elif type(effect) is Delete:
                batch.delete(effect.database, effect.key)
            elif type(effect) is DeleteUnder:
                delete_under(self._store, batch, effect.database, effect.prefix)
            else:
                later.append(effect)
        return later

    # --- a commit that failed -----------------------------------------------------------------------------

    def _handle_again(
        self, error: StoreError, events: list[Event], lost: list[Effect], now: Now
    ) -> list[Effect]:
        """Nothing of the tick was stored, so nothing of it is sent. The core is made anew from the store and
        the tick's events are handled again in a fresh batch: for want of room without its submits, which are
        refused, and without giving anything out. StoreError, which ends the hub, where the disk failed."""
        self._failed(error, now)
        # The time away has moved every deadline that the new core takes over.
        again = [event for event in events if not (isinstance(event, Timers) and event.gap_ms)]
        try:
            later = self._anew(again, now)
        except StoreFull as second:
            self._failed(second, now)
            later = self._one_by_one(again, now)
        # A deadline that is due would otherwise make the core anew in every turn of the loop.
        self._timer_ms, self._knows_timer = now.mono_ms + 1000, True
        return later + waits_answered(lost, again)

    def _failed(self, error: StoreError, now: Now) -> None:
        self._log.error("commit_failed", code=error.code, error=str(error))
        if not self._store.writable:
            raise error
        if isinstance(error, StoreFull):
            self._room.was_full(error, now)

    def _anew(self, events: list[Event], now: Now) -> list[Effect]:
        batch: Batch = Batch()
        later = self._make_core(batch, self.hub)
        self._tell_room(now)
        later += self._decide_whole(events, batch, now)
        self._commit(batch)
        return later

    def _decide_whole(self, events: list[Event], batch: Batch, now: Now) -> list[Effect]:
        """With what they have begun and not ended; nothing is given out."""
        later = self._decide(events, batch, now)
        return later + self._apply(self.hub.schedule(now, has_room=False), batch)

    def _one_by_one(self, events: list[Event], now: Now) -> list[Effect]:
        """Not even the events without submits fit in one batch: each gets its own, up to the first that does
        not fit. What was left out is not answered, and is sent again by whoever waits for that."""
        later = self._take_over(self.hub)
        self._tell_room(now)
        for done, event in enumerate(events):
            batch: Batch = Batch()
            effects = self._decide_whole([event], batch, now)
            try:
                self._commit(batch)
            except StoreFull as error:
                self._failed(error, now)
                left_out = [one for one in events[done:] if isinstance(one, Noticed)]
                self._noticed.extendleft(left_out[::-1])
                return later + self._take_over(self.hub) + waits_answered(effects, [event])
            later += effects
        return later

    def _tell_room(self, now: Now) -> None:
        """Whether the core may take new tasks in this tick."""
        closed, before = self._room.no_submits(now), self.hub.troubles
        troubles: list[str] = []
        if self._upkeep is not None:
            closed = closed or self._upkeep.no_submits()
            troubles = self._upkeep.troubles()
        self.hub.no_submits = closed
        self.hub.troubles = (*((closed.message,) if closed else ()), *troubles)
        if self.hub.troubles != before:
            self._feed.counts_changed()
            if not (before and self.hub.troubles):
                why = {"reason": self.hub.troubles[0]} if self.hub.troubles else {}
                self.notice("hub", "hub_degraded" if self.hub.troubles else "hub_recovered", **why)

    def _take_over(self, old: Hub | None = None) -> list[Effect]:
        """Load the core from the store and commit what starting again changes (leases of lost agents)."""
        batch: Batch = Batch()
        later = self._make_core(batch, old)
        if self._upkeep is not None:
            self._upkeep.opened.confirm()  # or what is said below came from a store that a check may not believe
        try:
            self._commit(batch)
        except StoreFull as error:
            # What was found lost at start is found again at the next; the disk may stay full until then.
            self._log.error("store_full", error=str(error))
        return later

    def _make_core(self, batch: Batch, old: Hub | None = None) -> list[Effect]:
        """A core loaded from the store, which takes over from the old one what no record holds."""
        now = self._clock.now()
        hub = Hub(self._base, self._jitter, self._epoch, boot_id())
        self._introduce(hub)
        given = self._upkeep.opened.journal.given if self._upkeep is not None else {}
        later = self._apply(hub.load(load(self._store, given), now, old), batch)
        self.hub = self._queries.hub = hub
        self._gate.admit(*hub.principals.admitted(now))
        if old is not None and gc.get_freeze_count():
            gc.unfreeze()  # or the old core's objects would stay for good
            gc.collect()
            gc.freeze()
        return later

    def _introduce(self, hub: Hub) -> None:
        """Tell the core where it can be reached."""
        bind = self._settings.hub.bind
        loopback = bind.startswith("127.") or bind in ("localhost", "::1")
        public = self._settings.hub.public_address or self._endpoint
        hub.addresses = {
            "address": public,
            "hub_key": self.keys.hub.public,
            "loopback_only": loopback and not self._settings.hub.public_address,
            "note": "this hub listens on loopback: the code works on this machine only; "
            "set hub.bind and hub.public_address for others"
            if loopback and not self._settings.hub.public_address
            else "",
        }
        hub.configuration.sources = sources(self._home.path)
        hub.feed_address = self._public_feed()
        hub.feed_key = self.keys.hub.public

    def _public_feed(self) -> str:
        """Where readers find the feed: on the machine that hub.public_address names, if it does."""
        feed = reachable(self._feed.address)
        public = self._settings.hub.public_address
        return f"{public.rpartition(':')[0]}:{feed.rpartition(':')[2]}" if public else feed

    # --- step 4 -----------------------------------------------------------------------------------------

    def _carry_out(self, effects: list[Effect]) -> None:
        """At once, or when the batch is durable."""
        if effects:
            self._held = self._outgoing.ready(effects)
            if not self._flies:
                self._let_go()

    def _let_go(self) -> None:
        """What the last tick has to say, once its batch is durable. StoreError, with nothing said, where the disk has
        failed."""
        if self._flies and self._beside is not None:
            self._beside.end_commit()
            self._flies = False
        if not self._held:
            return
        held, self._held = self._held, []
        for one in held:
            if type(one) is tuple:
                self._peers.send(*one)
            else:
                self._carriers[type(one)](one)
        for topic in self.hub.out.take_missed():
            self._feed.publish(topic, None)
        self._peers.send_held()

    def _task_changed(self, effect: TaskChanged) -> None:
        self._feed.task_changed(effect.task)

    def _publish(self, effect: Publish) -> None:
        self._feed.publish(effect.topic, effect.event)

    def _log_piece(self, effect: LogPiece) -> None:
        self._logbook.add(effect.task, effect.attempt, effect.offset, effect.text)
        self._feed.publish("log", {"event": "task_log", **effect._asdict()})

    def _keys_changed(self, effect: KeysChanged) -> None:
        self._gate.admit(*self.hub.principals.admitted(self._clock.now()))
        if effect.revoked:
            self._feed.rebind()

    def _probe(self, effect: ProbeEndpoint) -> None:
        record = self.hub.registry.endpoints.get(effect.endpoint)
        if record is not None:
            self._prober.ask(record.id, Target(record.kind, record.url))

    def _ask_model(self, effect: AskModel) -> None:
        record = self.hub.registry.endpoints.get(effect.endpoint)
        if record is not None:
            self._prober.ask(record.id, Target(record.kind, record.url, effect.model, effect.num_ctx))

    def _load_model(self, effect: LoadModel) -> None:
        record = self.hub.registry.endpoints.get(effect.endpoint)
        if record is not None:
            at = Target(record.kind, record.url, effect.model, effect.num_ctx, effect.keep_s, effect.load_s)
            self._prober.ask(record.id, at)

    def _end_session(self, effect: EndSession) -> None:
        self._log.info("session_ended", peer=effect.peer)

    def _answer(self, read: Read) -> None:
        self._queries.sequences = self._feed.sequences
        try:
            reply: Any = m.Reply(id=read.request, value=self._queries.answer(read))
        except Refused as refused:
            reply = m.Error(id=read.request, code=refused.code, message=refused.message, field=refused.field)
        except StoreDamaged as error:
            reply = self._unreadable(read.request, error, self._clock.now())
        self._peers.send(read.peer, m.encode(reply))

    def _unreadable(self, request: int, error: StoreDamaged, now: Now) -> m.Error:
        """The answer to a request that needs a record which is damaged; all others go on."""
        if self._upkeep is not None:
            self._upkeep.found_damaged(error.message, now)
        return m.Error(id=request, code=error.code, message=error.message)

    def _adopt(self, settings: Settings) -> None:
        """Committed: what the shell itself reads follows."""
        self._settings = settings
        if self._upkeep is not None:
            self._upkeep.settings = settings
        self._prober.timeout_s = settings.endpoints.probe_timeout_s
        self._prober.question_s = settings.endpoints.question_s

    # --- step 5 -----------------------------------------------------------------------------------------

    def _housekeeping(self, now: Now) -> None:
        self._peers.send_held()  # refusals of a tick that had nothing else to say
        self._peers.flush()
        is_recorded = self.hub.board.recorder is not None or self._recordings.is_open
        if self._flies and (is_recorded or self._feed.is_due(now.mono_ms)):
            self._let_go()  # these look at the core, and what they show has to be durable
        if not self._flies:
            self._feed.flush(now.mono_ms)
        if is_recorded:
            self._record(now)
        if (self._is_busy or self._is_active) and now.mono_ms - self._chores_ms < CHORES_MS:
            return  # more comes at once, or with the end of the sleep, or that sleep is over without any
        self._chores_ms = now.mono_ms
        self._routed.flush()
        if self._upkeep is not None:
            self._upkeep.turn(now)
            for event, fields in self._upkeep.take_events():
                self.notice("hub", event, **fields)

    def _record(self, now: Now) -> None:
        """Write what the scheduler decided from, where that is recorded."""
        why = self._recordings.turn(self.hub.board.recorder, self.hub.settings.scheduler, now.wall_ms)
        if why:
            self.notice("hub", "recording_failed", reason=why)

    def _sleep(self) -> None:
        """Until a socket or a timer is due; what can wait may then have waited long enough."""
        if not self._intake.sleep(self._sleep_ms(), is_empty=True):
            self._routed.flush()

    def _sleep_ms(self) -> int:
        now = self._clock.now()
        self._look_for_timer(now)
        return 5 if self._peers.waiting else int(max(0, min(POLL_MS_MAX, self._timer_ms - now.mono_ms)))

    # --- sockets ----------------------------------------------------------------------------------------

    def _bind_router(self) -> zmq.Socket[bytes]:
        router = self._context.socket(zmq.ROUTER)
        router.setsockopt(zmq.LINGER, 0)
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        router.setsockopt(zmq.MAXMSGSIZE, limits.FRAME_BYTES_MAX)
        router.setsockopt(zmq.HANDSHAKE_IVL, 5000)
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt_string(zmq.CURVE_SECRETKEY, self.keys.hub.secret)
        router.setsockopt_string(zmq.ZAP_DOMAIN, HUB_DOMAIN)
        self._bind(router, self._settings.hub.port, "hub.port")
        bound = router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._endpoint = reachable(bound)
        return router

    def _bind(self, router: zmq.Socket[bytes], port: int, setting: str) -> None:
        where = f"tcp://{self._settings.hub.bind}:{port or '*'}"
        try:
            router.bind(where)
        except zmq.ZMQError as error:
            raise ConfigError(
                f"cannot listen on {where}: {error.strerror}; choose another {setting}"
            ) from error

    def _open_feed(self) -> Feed:
        where = f"tcp://{self._settings.hub.bind}:{self._settings.hub.feed_port or '*'}"
        try:
            return Feed(
                self._context,
                where,
                self.keys.hub.secret,
                self._epoch,
                self._queries.brief,
                self._queries.counts,
                lambda: rfc3339(self._clock.now().wall_ms) or "",
            )
        except zmq.ZMQError as error:
            raise ConfigError(
                f"cannot listen on {where}: {error.strerror}; choose another hub.feed_port"
            ) from error

    def _wake(self) -> None:
        try:
            self._wake_write.send(b"\0")
        except OSError:
            return  # a full pipe wakes the loop as well; a closed one has no loop to wake


def wake_pair() -> tuple[socket.socket, socket.socket]:
    """To wake a loop that sleeps: read and write ends, neither of which ever waits."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    return ends


def reachable(bound: str) -> str:
    """An address that this machine can connect to, for one that listens on all of its addresses."""
    return bound.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def waits_answered(effects: list[Effect], events: list[Event]) -> list[Effect]:
    """Answers to requests of earlier ticks that a tick which failed would have sent: to who waits for a task.
    The new core does not know of them, so they are answered with the task as it is now."""
    asked = {
        (event.peer, event.message.id)
        for event in events
        if isinstance(event, Incoming) and isinstance(event.message, m.Request)
    }
    return [one for one in effects if isinstance(one, Read) and (one.peer, one.request) not in asked]
