"""A hub without sockets, clock or disk: the core, a store in memory, callers that are plain objects.

    rig = Rig()
    box = rig.host("box")
    task = rig.admin.submit(shell_task())
    box.accept(box.assigned())

Every event is a tick of its own unless `tick` is given several: handle, schedule, one commit, `end_tick`, in the
order of the broker. After each, `Hub.validate` walks the indexes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from agentcom import limits
from agentcom import messages as m
from agentcom.auth import KeyPair, sha256_hex
from agentcom.clock import ManualClock, Now
from agentcom.config import Settings
from agentcom.core.effects import (
    Delete,
    DeleteUnder,
    Effect,
    Event,
    Incoming,
    PeerGone,
    Probed,
    Publish,
    Put,
    Read,
    Send,
    SendAssign,
    Timers,
    key_u64x2,
)
from agentcom.core.hub import Hub
from agentcom.dead_letters import name_letters
from agentcom.errors import Refused
from agentcom.loading import first_principals, load
from agentcom.logbook import LogBook
from agentcom.lookups import look_up
from agentcom.model import AttemptRecord, EndpointProbe, JsonObject, Role, TaskError, TaskResult, TaskSpec
from agentcom.queries import Queries
from agentcom.retirement import Retirement
from agentcom.store.base import Batch, Store, delete_under
from agentcom.store.memory_store import MemoryStore
from tests import factories

M = TypeVar("M", bound=msgspec.Struct)
ADMIN_KEY = factories.public_key("admin")
WEB_KEY = factories.public_key("web")

# Of the settings that a rig has unless it is given others.
LEASE_MS = 45_000
BACKOFF_MS = 2_000  # the first one at most
ACCEPT_MS = 15_000
BEAT_MS = 5_000


class Rig:
    """One hub over all its starts, its clock and its callers."""

    def __init__(self, settings: Settings | None = None, seed: int = 7, store: Store | None = None) -> None:
        self.settings = settings or factories.settings()
        self.clock = ManualClock()
        self.store: Store = store or MemoryStore()
        self.validates = True  # after every event; O(everything), so not in tests of many tasks
        self.effects: list[Effect] = []
        self.boot = "boot 1"  # of the machine
        self._seed = seed
        self._starts = 0
        self._fresh = 0
        self._peers = 0
        self._callers: dict[int, Caller] = {}
        admin, web = (KeyPair(public=key, secret="") for key in (ADMIN_KEY, WEB_KEY))
        first_principals(self.store, admin, web, self.clock.now())
        self.start()
        self.admin = self.person("admin", ADMIN_KEY)
        self.web = self.person("web", WEB_KEY)

    # --- the hub's process ------------------------------------------------------------------------------

    def start(self) -> None:
        """Start a hub from what the store holds; every session is forgotten."""
        self._starts += 1
        self.hub = Hub(self.settings, random.Random(self._seed), f"epoch{self._starts}", self.boot)
        self.queries = Queries(self.hub, self.store, self.clock, LogBook(), self.clock.now().wall_ms)
        self.retirement = Retirement(self.store)
        self._commit(self.hub.load(load(self.store), self.clock.now()))
        self.hub.end_tick()
        self.hub.validate()

    def twin(self) -> Hub:
        """What a hub that started now would know."""
        made = Hub(self.settings, random.Random(self._seed), "twin", self.boot)
        made.load(load(self.store), self.clock.now())
        return made

    def tick(self, *events: Event) -> list[Effect]:
        """One tick over the events; returns what it did besides records, in order."""
        now = self.clock.now()
        effects: list[Effect] = []
        for event in events:
            effects += self.hub.handle(self._looked_up(event, now), now)
            self._validate()
        effects += self.hub.schedule(now)
        self._validate()
        done = self._commit(effects)
        self.hub.end_tick()
        self.effects = done
        for effect in done:
            self._carry_out(effect)
        return done

    def _validate(self) -> None:
        if self.validates:
            self.hub.validate()

    def retire(self, turns: int = 1) -> int:
        """Turns of retention, a second apart, each with its tick; how many had something to do."""
        worked = 0
        for _ in range(turns):
            self.clock.advance(1_000)
            events = self.retirement.turn(self.hub, self.clock.now())
            worked += len(events)
            self.tick(*events)
        return worked

    def advance(self, ms: int, *, gap: bool = False) -> list[Effect]:
        """Let time pass, then one tick of timers; with `gap` the loop was away all the while."""
        self.clock.advance(ms)
        away = [Timers(drained=False, gap_ms=ms)] if gap else []
        return self.tick(*away, Timers(drained=True))

    def probed(self, endpoint: int, probe: EndpointProbe | None = None) -> list[Effect]:
        return self.tick(Probed(endpoint, probe or factories.endpoint_probe()))

    # --- callers ----------------------------------------------------------------------------------------

    def person(self, name: str, key: str, **hello: Any) -> Caller:
        """A session of a key that is enrolled already."""
        caller = Caller(self, key, self.peer(), process=f"process-of-{name}")
        caller.hello(**hello)
        return caller

    def invited(self, role: Role, name: str) -> str:
        """Enrol a new key of the role; returns it."""
        once, key = factories.public_key(f"once-{name}"), factories.public_key(f"key-{name}")
        self.admin.ask(m.HostInvite(key=once, role=role, name=name))
        joining = Caller(self, once, self.peer())
        joining.send(m.Enrol(name=name, key=key))
        joining.expect(m.Enrolled)
        return key

    def token(self, name: str, secret: str, role: Role = Role.submit) -> int:
        """Register a token, which the web process sends as `bearer`; the id of its record."""
        self.admin.ask(m.TokenAdd(name=name, role=role, token_sha256=sha256_hex(secret)))
        return self.hub.principals.by_name[name].id

    def member(self, role: Role, name: str = "") -> Caller:
        """A new key of the role with a session."""
        name = name or role.value
        return self.person(name, self.invited(role, name))

    def host(self, name: str = "box", agents: int | tuple[m.AgentOffer, ...] = 1, **offer: Any) -> HostEnd:
        """A new host with a session."""
        end = HostEnd(self, self.invited(Role.host, name), self.peer(), process=f"process-of-{name}")
        end.offer = factories.host_offer(name, agents, **offer)
        end.hello()
        return end

    def peer(self) -> int:
        self._peers += 1
        return self._peers

    def incoming(self, peer: int, key: str, message: m.ToHub) -> Incoming:
        """The event of a message, as it comes off the wire."""
        self._fresh += 1
        decoded = m.decode_to_hub(m.encode(message))
        return Incoming(peer, key, decoded, self._fresh.to_bytes(limits.SESSION_TOKEN_BYTES, "big"))

    def listen(self, caller: Caller) -> None:
        self._callers[caller.peer] = caller

    def sent(self, kind: type[M]) -> list[M]:
        """What the last tick sent of that type, to whomever."""
        messages = [e.message for e in self.effects if isinstance(e, Send | SendAssign)]
        return [message for message in messages if isinstance(message, kind)]

    def published(self, *topics: str) -> list[dict[str, Any]]:
        """What the last tick published on those topics, in order."""
        events = [e.event for e in self.effects if isinstance(e, Publish) and e.topic in topics]
        return [event for event in events if event is not None]

    def agent(self, name: str) -> str:
        """The state of an agent."""
        return self.hub.fleet.agent_named(name).state.value

    # --- the shell --------------------------------------------------------------------------------------

    def _looked_up(self, event: Event, now: Now) -> Event:
        if not isinstance(event, Incoming):
            return event
        return look_up(self.hub, self.store, name_letters(event, self.store, now), now)

    def _commit(self, effects: Sequence[Effect]) -> list[Effect]:
        batch = Batch()
        rest: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Put):
                batch.put(effect.database, effect.key, effect.body)
            elif isinstance(effect, Delete):
                batch.delete(effect.database, effect.key)
            elif isinstance(effect, DeleteUnder):
                delete_under(self.store, batch, effect.database, effect.prefix)
            else:
                rest.append(effect)
        if len(batch):
            self.store.commit(batch, self.store.sequence + 1)
        return rest

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Send | SendAssign):
            message: Any = effect.message
        elif isinstance(effect, Read):
            try:
                message = m.Reply(id=effect.request, value=self.queries.answer(effect))
            except Refused as refused:
                message = m.Error(id=effect.request, code=refused.code, message=refused.message)
        else:
            return
        caller = self._callers.get(effect.peer)
        if caller is not None:
            caller.received.append(m.decode_from_hub(m.encode(message)))


@dataclass
class Caller:
    """One connection of a key: what it was sent, and its session once it has said hello."""

    rig: Rig
    key: str
    peer: int
    process: str = "process-1"
    token: bytes = b"\0" * limits.SESSION_TOKEN_BYTES
    received: list[Any] = field(default_factory=list)
    requests: int = 0

    def __post_init__(self) -> None:
        self.rig.listen(self)

    def send(self, message: m.ToHub) -> list[Effect]:
        return self.rig.tick(self.event(message))

    def event(self, message: m.ToHub) -> Incoming:
        return self.rig.incoming(self.peer, self.key, message)

    def expect(self, kind: type[M]) -> M:
        """The oldest message of that type that was not taken yet."""
        found = next((one for one in self.received if isinstance(one, kind)), None)
        assert found is not None, f"no {kind.__name__} among {self.received}"
        self.received.remove(found)
        return found

    def refusal(self, message: m.ToHub) -> m.Error:
        """Send it; it must be answered with an error and nothing else."""
        self.received.clear()
        self.send(message)
        assert [type(one) for one in self.received] == [m.Error], self.received
        return self.expect(m.Error)

    def hello(self, **fields: Any) -> m.Welcome:
        message = m.Hello(
            protocol=fields.pop("protocol", limits.PROTOCOL_VERSION),
            process=fields.pop("process", self.process),
            **fields,
        )
        self.send(message)
        welcome = self.expect(m.Welcome)
        self.token = welcome.session
        return welcome

    def move(self) -> None:
        """Come back under another address, as after a connection that was reset."""
        self.peer = self.rig.peer()
        self.rig.listen(self)

    def request(self, op: m.Operation, bearer: str | None = None) -> m.Request:
        self.requests += 1
        return m.Request(session=self.token, id=self.requests, op=op, bearer=bearer)

    def ask(self, op: m.Operation, bearer: str | None = None) -> Any:
        """The value of the reply; Refused as the hub refused it."""
        request = self.request(op, bearer)
        self.send(request)
        return self.answer(request.id)

    def answer(self, request: int) -> Any:
        for one in self.received:
            if isinstance(one, m.Reply | m.Error) and one.id == request:
                self.received.remove(one)
                if isinstance(one, m.Error):
                    raise Refused(one.code, one.message, field=one.field, retry_after_s=one.retry_after_s)
                return one.value
        raise AssertionError(f"request {request} was not answered: {self.received}")

    def submit(self, *specs: TaskSpec) -> int:
        """Submit a batch; the id of its first task."""
        first: int = self.ask(m.Submit(tasks=specs))["tasks"][0]["id"]
        return first

    def task(self, task: int) -> JsonObject:
        found: JsonObject = self.ask(m.TaskGet(task=task))
        return found

    def state(self, task: int) -> str:
        return str(self.task(task)["state"])

    def leave(self) -> None:
        """Its connection is found to be gone."""
        self.rig.tick(PeerGone(self.peer))


@dataclass
class HostEnd(Caller):
    """A host's sidecar, one method per thing that it says."""

    offer: m.HostOffer = field(default_factory=factories.host_offer)
    beats: int = 0

    def hello(self, **fields: Any) -> m.Welcome:
        offer = msgspec.structs.replace(self.offer, attempts=fields.pop("attempts", ()))
        return super().hello(host=offer, **fields)

    def assigned(self) -> m.Assign:
        return self.expect(m.Assign)

    def accept(self, assign: m.Assign) -> m.Assign:
        self.send(m.Accept(session=self.token, task=assign.task, attempt=assign.attempt))
        return assign

    def take(self) -> m.Assign:
        """Take the next assignment and accept it."""
        return self.accept(self.assigned())

    def beat(self, *assigns: m.Assign, progress: int | None = None, **fields: Any) -> m.Beat:
        """A heartbeat; unless told otherwise each attempt has made progress since the last."""
        self.beats += 1
        moved = self.beats if progress is None else progress
        attempts = tuple(m.AttemptBeat(one.task, one.attempt, moved) for one in assigns)
        self.send(m.Heartbeat(session=self.token, beat=self.beats, attempts=attempts, **fields))
        return self.expect(m.Beat)

    def ended(
        self, assign: m.Assign, outcome: Any, result: TaskResult | None = None, error: TaskError | None = None
    ) -> m.Result:
        """The message, not sent."""
        return m.Result(
            session=self.token,
            task=assign.task,
            attempt=assign.attempt,
            outcome=outcome,
            result=result,
            error=error,
        )

    def report(self, message: m.Result) -> str:
        self.send(message)
        return self.expect(m.ResultAck).verdict

    def complete(self, assign: m.Assign, **result: Any) -> str:
        return self.report(self.ended(assign, "completed", factories.result(**result)))

    def fail(self, assign: m.Assign, error: TaskError | None = None) -> str:
        return self.report(self.ended(assign, "failed", error=error or factories.error()))

    def held(self, assign: m.Assign, state: Any = "running") -> m.AttemptHeld:
        return m.AttemptHeld(task=assign.task, attempt=assign.attempt, state=state)

    def see(self, *sightings: m.EndpointSighting) -> list[Effect]:
        return self.send(m.Endpoints(session=self.token, sightings=sightings or (factories.sighting(),)))


def attempt(rig: Rig, number: int, n: int) -> AttemptRecord:
    """The `n`th attempt of a task as it is stored."""
    stored = rig.store.get("attempts", key_u64x2(number, n))
    assert stored is not None
    return msgspec.msgpack.decode(stored, type=AttemptRecord)


def keep_alive(rig: Rig, box: HostEnd, ms: int, *assigns: m.Assign) -> None:
    """Let time pass with heartbeats of these attempts."""
    for _ in range(ms // BEAT_MS):
        rig.advance(BEAT_MS)
        box.beat(*assigns)
