"""The hub's process in the simulator: the real core and queries, in the tick order of agentcom/broker.py.

drain; core; one batch committed; only then what was sent. What changes there in the order of a tick, in how a
failed commit is met, or in how the time away is counted has to change here. The process is killed between any
two steps, between two sends too, is frozen, and starts again from what is on disk.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec

from agentcom import limits
from agentcom import messages as m
from agentcom.broker import waits_answered
from agentcom.clock import Now
from agentcom.config import Settings
from agentcom.core.effects import (
    Delete,
    DeleteUnder,
    Effect,
    Event,
    Incoming,
    PeerGone,
    Put,
    Read,
    Send,
    SendAssign,
    Timers,
    key_u64,
)
from agentcom.core.hub import Hub
from agentcom.dead_letters import name_letters
from agentcom.errors import Refused, StoreDamaged, StoreError, StoreFull
from agentcom.loading import load
from agentcom.logbook import LogBook
from agentcom.lookups import look_up
from agentcom.queries import Queries
from agentcom.retirement import Retirement
from agentcom.room import Room
from agentcom.store.base import Batch, delete_under
from agentcom.store.memory_store import MemoryStore
from tests.sim.checker import Checker
from tests.sim.disk import Crashed, SimDisk
from tests.sim.network import Link, Network
from tests.sim.timeline import Timeline

POLL_MS = 250  # an idle hub's loop comes round this often, so it is never away for longer
GAP_MS = 1000
REMAKE_MS = 100  # to make the core anew from the store
KILL_POINTS = (
    "kill_after_drain",
    "kill_before_commit",
    "kill_after_commit",
    "kill_mid_send",
    "kill_after_send",
)


class Killed(Exception):
    """The hub's process ends here and now."""


class HubShell:
    """One hub over all its starts. `hub` is the core of the present process."""

    hub: Hub
    store: MemoryStore

    def __init__(
        self,
        line: Timeline,
        network: Network,
        disk: SimDisk,
        checker: Checker,
        settings: Settings,
        rng: random.Random,
    ) -> None:
        self.is_up = False
        self.kill_at: str | None = None
        self.drain_max = limits.TICK_MESSAGES_MAX
        self._line, self._network, self._disk, self._checker = line, network, disk, checker
        self._settings = settings
        self._rng = rng
        self._starts = 0
        self._peers_made = 0
        self._links: dict[int, Link] = {}
        self._inbox: list[tuple[int, str, bytes]] = []
        self._gone: list[int] = []
        self._timer_ms = self._last_ms = self._busy_until_ms = 0
        self._sends_left = -1
        self._failed_ms = -2 * GAP_MS
        self._tick_due_ms = -1
        network.hub = self

    def now(self) -> Now:
        return self._line.now()

    # --- life -------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the store and take over what it holds; a disk that fails here means another start later."""
        if self.is_up:
            return
        self._starts += 1
        self._line.note("hub_start", self._starts)
        self.store = self._disk.open()
        if self._disk.came_through is not None:
            self._checker.came_through(self._disk.came_through)
        self._checker.forget_tick()
        self.is_up = True
        self._inbox, self._gone, self._links = [], [], {}
        self._last_ms = self._busy_until_ms = self._line.now_ms
        self._timer_ms = 0
        self._room = Room(self.store)
        self._retirement = Retirement(self.store)
        try:
            later = self._take_over()
            self._checker.core_started(self.hub)
            self._carry_out(later)
        except (Killed, Crashed, StoreError) as error:
            self.die(str(error))
            return
        self._wake(self._line.now_ms + 1)

    def die(self, why: str) -> None:
        """The process ends: connections break, what was not sent is lost; a supervisor starts it again."""
        if not self.is_up:
            return
        self._line.note("hub_died", why)
        self.is_up = False
        self._tick_due_ms = -1
        self.store.close()
        self._network.hub_died()
        self._line.after(self._rng.choice((100, 1000, 1000, 20_000)), self.start)

    def freeze(self, ms: int) -> None:
        """The process gets no CPU: nothing is read, nothing is decided."""
        if self.is_up:
            self._busy_until_ms = max(self._busy_until_ms, self._line.now_ms + ms)
            self._line.note("hub_frozen", ms)
            self._wake(self._busy_until_ms)

    def thaw(self) -> None:
        """The process goes on, or is started, at once."""
        self._busy_until_ms = self._line.now_ms
        self.start()
        self._wake(self._line.now_ms)

    def _make_core(self, batch: Batch, old: Hub | None = None) -> list[Effect]:
        """A core from what the store holds, and from the one before it if this process had one."""
        self.hub = Hub(
            self._settings,
            random.Random(self._rng.getrandbits(64)),
            f"epoch-{self._starts}-{self._line.now_ms}",
            self._disk.boot,
        )
        self._queries = Queries(self.hub, self.store, self, LogBook(), self._line.now_ms)
        later = self._apply(self.hub.load(load(self.store), self.now(), old), batch)
        self.hub.no_submits = self._room.no_submits(self.now())
        if old is not None:
            self._checker.core_replaced(old, self.hub)
        return later

    def _take_over(self, old: Hub | None = None) -> list[Effect]:
        """Commit what starting changes, unless there is no room: then the next start finds it again."""
        batch: Batch = Batch()
        later = self._make_core(batch, old)
        if len(batch):
            try:
                self._disk.commit(self.store, batch)
                self._checker.committed(batch)
            except StoreFull:
                self._line.note("start_not_stored")
        return later

    # --- the network's side -----------------------------------------------------------------------------

    def received(self, link: Link, body: bytes) -> None:
        if not self.is_up:
            return
        if not link.peer:
            self._peers_made += 1
            link.peer = self._peers_made
        self._links[link.peer] = link
        self._inbox.append((link.peer, link.owner.key, body))
        self._wake(self._line.now_ms)

    def peer_gone(self, link: Link) -> None:
        if self._links.pop(link.peer, None) is not None:
            self._gone.append(link.peer)
            link.peer = 0
            self._wake(self._line.now_ms)

    # --- the tick ---------------------------------------------------------------------------------------

    def _wake(self, due_ms: int) -> None:
        """One tick at `due_ms`, or when the present one has ended; the earliest wish counts."""
        due_ms = max(due_ms, self._busy_until_ms)
        if self._tick_due_ms < 0 or due_ms < self._tick_due_ms:
            self._tick_due_ms = due_ms
            self._line.at(due_ms, lambda: self._tick_if(due_ms, self._starts))

    def _tick_if(self, due_ms: int, start: int) -> None:
        if not self.is_up or self._tick_due_ms != due_ms or self._starts != start:
            return
        self._tick_due_ms = -1
        if self._line.now_ms < self._busy_until_ms:
            self._wake(self._busy_until_ms)
            return
        try:
            self._tick()
        except (Killed, Crashed) as error:
            self._line.reach(str(error))
            self.die(str(error))
        except StoreError as error:
            self._line.reach("read_damaged" if isinstance(error, StoreDamaged) else "commit_io_error")
            self.die(str(error))

    def _tick(self) -> None:
        events, drained = self._drain()
        self._maybe_die("kill_after_drain")
        now = self.now()
        gap_ms = self._gap_ms(now)
        self.hub.no_submits = self._room.no_submits(now)
        self._checker.tick_began(now, gap_ms)
        if gap_ms:
            events.insert(0, Timers(drained=False, gap_ms=gap_ms))
        if drained and (gap_ms or now.mono_ms >= self._timer_ms):
            events.append(Timers(drained=True))
        events.extend(self._retirement.turn(self.hub, now))
        if not drained:
            self._line.reach("socket_not_drained")
        later = self._handle(events, now)
        self._carry_out(later)
        self._maybe_die("kill_after_send")
        self._disk.turn()
        # What could not be stored has not ended: a lease may outlive its end while the disk is full, and until
        # the timers are looked at again.
        may_store = now.mono_ms > self._failed_ms + 2 * GAP_MS
        self._checker.tick_ended(self.hub, self.store, now, drained and may_store)
        due_ms = self._timer_ms
        if self._inbox or self._gone:
            due_ms = now.mono_ms + 1
        elif self._busy_until_ms - now.mono_ms > GAP_MS - POLL_MS:
            due_ms = self._busy_until_ms  # the loop comes round at once and sees how long it was away
        elif self.hub.no_submits is not None:
            due_ms = min(due_ms, now.mono_ms + POLL_MS)
        self._wake(max(due_ms, now.mono_ms + 1))

    def _gap_ms(self, now: Now) -> int:
        """How long the loop was away. The idle loop's turns in between are not simulated one by one."""
        idle_ms = now.mono_ms - max(self._last_ms, self._busy_until_ms)
        gap_ms = now.mono_ms - self._last_ms if idle_ms < POLL_MS else idle_ms % POLL_MS
        self._last_ms = now.mono_ms
        if gap_ms <= GAP_MS:
            return 0
        self._line.reach("hub_was_away")
        return gap_ms

    def _drain(self) -> tuple[list[Event], bool]:
        events: list[Event] = [PeerGone(peer) for peer in self._gone]
        self._gone = []
        taken, self._inbox = self._inbox[: self.drain_max], self._inbox[self.drain_max :]
        for peer, key, body in taken:
            event = self._admit(peer, key, body)
            if event is not None:
                events.append(event)
        return events, not self._inbox

    def _admit(self, peer: int, key: str, body: bytes) -> Incoming | None:
        try:
            message = m.decode_to_hub(body)
        except Refused as refused:
            self._line.reach("garbage_refused")
            self._send(peer, m.Error(id=m.request_id_of(body), code=refused.code, message="refused"))
            return None
        return Incoming(peer, key, message, self._rng.randbytes(limits.SESSION_TOKEN_BYTES))

    def _handle(self, events: list[Event], now: Now) -> list[Effect]:
        batch: Batch = Batch()
        later = self._decide(events, batch, now)
        has_room = self._room.may_dispatch(now)
        effects = self.hub.schedule(now, has_room=has_room)
        if has_room:
            self._checker.scheduled(self.hub, effects)
        later += self._apply(effects, batch)
        self._maybe_die("kill_before_commit")
        try:
            sync_ms = self._commit(batch)
        except StoreError as error:
            return self._handle_again(error, events, later, now)
        self._busy_until_ms = now.mono_ms + sync_ms
        self._maybe_die("kill_after_commit")
        due_ms = self.hub.next_due_ms(now)
        self._timer_ms = now.mono_ms + 1000 if due_ms is None else due_ms
        return later

    def _decide(self, events: list[Event], batch: Batch, now: Now) -> list[Effect]:
        later: list[Effect] = []
        for event in events:
            later += self._handle_one(event, now, batch)
        return later

    def _commit(self, batch: Batch) -> int:
        """How long the sync took, in ms."""
        sync_ms = 0
        if len(batch):
            sync_ms = self._disk.commit(self.store, batch)
            self._checker.committed(batch)
            self._room.committed(batch.size_bytes)
        self.hub.end_tick()
        return sync_ms

    def _handle_one(self, event: Event, now: Now, batch: Batch) -> list[Effect]:
        if isinstance(event, Incoming):
            event = name_letters(event, self.store, now)
            event = look_up(self.hub, self.store, event, now)
            self._line.note("in", event.peer, type(event.message).__name__)
        effects = self.hub.handle(event, now)
        self._checker.handled(event, effects, now)
        return self._apply(effects, batch)

    def _apply(self, effects: list[Effect], batch: Batch) -> list[Effect]:
        later: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Put):
                batch.put(effect.database, effect.key, effect.body)
            elif isinstance(effect, Delete):
                batch.delete(effect.database, effect.key)
            elif isinstance(effect, DeleteUnder):
                delete_under(self.store, batch, effect.database, effect.prefix)
            else:
                later.append(effect)
        return later

    # --- a commit that failed ---------------------------------------------------------------------------

    def _handle_again(
        self, error: StoreError, events: list[Event], lost: list[Effect], now: Now
    ) -> list[Effect]:
        """Nothing of the tick is sent; the core is made anew and takes its events again, as the broker does."""
        self._failed_ms = now.mono_ms
        self._failed(error, now)
        again = [event for event in events if not (isinstance(event, Timers) and event.gap_ms)]
        try:
            batch: Batch = Batch()
            later = self._make_core(batch, self.hub)
            later += self._decide_whole(again, batch, now)
            self._commit(batch)
            self._line.reach("tick_handled_again")
        except StoreFull as second:
            self._failed(second, now)
            later = self._one_by_one(again, now)
        self._busy_until_ms = now.mono_ms + REMAKE_MS
        self._timer_ms = now.mono_ms + 1000
        return later + waits_answered(lost, again)

    def _failed(self, error: StoreError, now: Now) -> None:
        if not self.store.writable:
            raise error
        self._checker.forget_tick()
        if isinstance(error, StoreFull):
            self._line.reach("commit_full")
            self._room.was_full(error, now)
        self._line.note("commit_failed", error.code)

    def _decide_whole(self, events: list[Event], batch: Batch, now: Now) -> list[Effect]:
        later = self._decide(events, batch, now)
        return later + self._apply(self.hub.schedule(now, has_room=False), batch)

    def _one_by_one(self, events: list[Event], now: Now) -> list[Effect]:
        later = self._take_over(self.hub)
        for event in events:
            batch: Batch = Batch()
            effects = self._decide_whole([event], batch, now)
            try:
                self._commit(batch)
            except StoreFull as error:
                self._failed(error, now)
                return later + self._take_over(self.hub) + waits_answered(effects, [event])
            later += effects
        return later

    # --- after the commit -------------------------------------------------------------------------------

    def _carry_out(self, effects: list[Effect]) -> None:
        if self.kill_at == "kill_mid_send" and effects:
            self._sends_left = self._rng.randrange(len(effects))
        for effect in effects:
            if self._sends_left == 0:
                self._sends_left = -1
                self._maybe_die("kill_mid_send")
            self._sends_left -= 1
            if isinstance(effect, Send):
                self._send(effect.peer, effect.message)
            elif isinstance(effect, SendAssign):
                self._send_assignment(effect)
            elif isinstance(effect, Read):
                self._answer(effect)
        self._sends_left = -1

    def _send_assignment(self, effect: SendAssign) -> None:
        body = self.store.get("bodies", key_u64(effect.message.task))
        assert body is not None, f"task {effect.message.task} was assigned and has no body"
        self._send(effect.peer, msgspec.structs.replace(effect.message, spec=msgspec.Raw(body)))

    def _answer(self, read: Read) -> None:
        reply: Any
        try:
            reply = m.Reply(id=read.request, value=self._queries.answer(read))
        except Refused as refused:
            reply = m.Error(id=read.request, code=refused.code, message=refused.message, field=refused.field)
        self._send(read.peer, reply)

    def _send(self, peer: int, message: m.FromHub) -> None:
        self._checker.sent(message)
        link = self._links.get(peer)
        if link is not None:
            self._line.note("out", peer, type(message).__name__, _brief(message))
            link.down(m.encode(message), max(self._line.now_ms, self._busy_until_ms))

    def _maybe_die(self, point: str) -> None:
        if self.kill_at == point:
            self.kill_at = None
            raise Killed(point)


def _brief(message: m.FromHub) -> str:
    if isinstance(message, m.Assign | m.ResultAck | m.Cancel):
        return f"{message.task}.{message.attempt} {getattr(message, 'verdict', '')}"
    return message.code if isinstance(message, m.Error) else ""
