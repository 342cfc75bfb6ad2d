"""The store as the core takes it over at start, and the first principals of a new home."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Final, TypeVar

import msgspec

from agentcom.auth import KeyPair
from agentcom.clock import Now
from agentcom.core.deadlines import NOTE
from agentcom.core.effects import key_u64, key_u64x2
from agentcom.core.fallbacks import PREFIX as FALLBACK
from agentcom.core.groups import PREFIX as GROUP
from agentcom.core.hub import Loaded
from agentcom.core.ledger import PREFIX as BUDGET
from agentcom.core.outlet import NEXT_EVENT, Outlet
from agentcom.core.principals import Principals
from agentcom.core.questions import PREFIX as QUESTION
from agentcom.core.repositories import PREFIX as REPO
from agentcom.core.rowpage import KINDS, NAMES, REQUIRED, page_of, page_read
from agentcom.core.rows import STATE_CODE, STATES, RowPage
from agentcom.core.second_host import PREFIX as SECOND
from agentcom.core.story import NEXT_NOTE, Noted
from agentcom.core.sums import MOVED
from agentcom.core.sums import PREFIX as SPENT
from agentcom.errors import StoreDamaged
from agentcom.figures import usable
from agentcom.model import (
    FINAL,
    OPEN_ATTEMPT,
    AgentRecord,
    ClockNote,
    EndpointRecord,
    FallbackWait,
    Group,
    HostRecord,
    InviteRecord,
    PrincipalRecord,
    QuestionRecord,
    QueueRule,
    Role,
    Route,
    SecondRecord,
    SettingRecord,
    State,
    StoryNote,
    TaskRow,
)
from agentcom.money import BudgetRecord, LedgerRecord, SpentRecord
from agentcom.repos import RepoRecord
from agentcom.store.base import Batch, Store, after, pages

try:
    from agentcom._records import RowReader
except ImportError:  # not built here: rows are decoded one by one
    RowReader = None  # type: ignore[assignment, misc]

T = TypeVar("T")
NOTHING_GIVEN: Final[Mapping[str, int]] = {}
_row = msgspec.msgpack.Decoder(TaskRow).decode
_note = msgspec.msgpack.Decoder(StoryNote).decode
_read = RowReader(KINDS, REQUIRED, NAMES).read if RowReader is not None else None
STALL_NOTES_MAX: Final = 16  # the newest of an open attempt, among which that of its stall is looked for
LOOKED_AT: Final = frozenset(STATE_CODE[state] for state in FINAL | OPEN_ATTEMPT)


class _RowState(msgspec.Struct, array_like=True):
    """The head of a TaskRow: what counting needs, without decoding the rest."""

    id: int
    state: State


_row_state = msgspec.msgpack.Decoder(_RowState).decode


def load(store: Store, given: Mapping[str, int] = NOTHING_GIVEN) -> Loaded:
    """Everything live. Final tasks are only counted. O(tasks) in time; a page of rows in memory at a time. `given` is
    how far counters had come in batches that may be lost (`Journal.given`): they go on from there."""
    routes: dict[int, Route] = {}
    stalled: dict[int, int] = {}
    finals = dict.fromkeys(FINAL, 0)
    return Loaded(
        groups=[
            (int.from_bytes(key[len(GROUP) :], "big"), msgspec.msgpack.decode(body, type=Group))
            for key, body in store.scan("meta", GROUP, GROUP + b"\xff" * 9)
        ],
        principals=_all(store, "principals", PrincipalRecord, b"p"),
        invites=_all(store, "principals", InviteRecord, b"i"),
        hosts=_hosts(store),
        agents=_all(store, "agents", AgentRecord),
        endpoints=_all(store, "endpoints", EndpointRecord),
        rules=sorted(_all(store, "limits", QueueRule), key=lambda rule: (rule.kind, rule.scope, rule.key)),
        pages=_live_pages(store, routes, stalled, finals),
        live=store.count("lanes"),
        routes=routes,
        stalled=stalled,
        numbers=_numbers(store, given),
        finals=finals,
        config={
            key.decode(): msgspec.msgpack.decode(body, type=SettingRecord)
            for key, body in store.scan("config")
        },
        depends=[
            (int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big"))
            for key, _ in store.scan("depends")
        ],
        clock=_clock(store),
        budgets=[
            msgspec.msgpack.decode(body, type=BudgetRecord)
            for _, body in store.scan("meta", BUDGET, BUDGET + b"\xff" * 17)
        ],
        ledger=_ledger(store),
        repositories=_all(store, "meta", RepoRecord, REPO),
        questions=_all(store, "meta", QuestionRecord, QUESTION),
        seconds=_all(store, "meta", SecondRecord, SECOND),
        spent=_sums(store, SPENT),
        moved=_sums(store, MOVED),
        fallbacks=[
            (int.from_bytes(key[len(FALLBACK) :], "big"), msgspec.msgpack.decode(body, type=FallbackWait))
            for key, body in store.scan("meta", FALLBACK, FALLBACK + b"\xff" * 9)
        ],
    )


def _sums(store: Store, prefix: bytes) -> list[SpentRecord]:
    rows = store.scan("meta", prefix, prefix + b"\xff" * 17)
    return [msgspec.msgpack.decode(body, type=SpentRecord) for _, body in rows]


def _ledger(store: Store) -> Iterator[LedgerRecord]:
    for page in pages(store, "ledger"):
        for _, body in page:
            yield msgspec.msgpack.decode(body, type=LedgerRecord)


def first_principals(store: Store, admin: KeyPair, web: KeyPair, now: Now) -> None:
    """Make the keys of this home known: its admin's and its web process's. Keys that were replaced on disk
    become known at the next start; the old ones stay until they are revoked."""
    known = _all(store, "principals", PrincipalRecord, b"p")
    names = {p.name for p in known if not p.revoked}
    next_id = 1 + max((p.id for p in known), default=0)
    batch = Batch()
    for name, pair, role in (("admin", admin, Role.admin), ("web", web, Role.web)):
        if any(p.key == pair.public for p in known):
            continue
        free = name if name not in names else f"{name}-{next_id}"
        record = PrincipalRecord(id=next_id, name=free, role=role, key=pair.public, created_ms=now.wall_ms)
        batch.put("principals", b"p" + key_u64(next_id), msgspec.msgpack.encode(record))
        next_id += 1
    if len(batch):
        store.commit(batch, store.sequence + 1)


def admitted(store: Store, now: Now) -> tuple[frozenset[str], frozenset[str]]:
    """The keys that may connect, to the hub and to its feed, before the core has been loaded."""
    principals = Principals(Outlet())
    for record in _all(store, "principals", PrincipalRecord, b"p"):
        principals.load(record)
    for invite in _all(store, "principals", InviteRecord, b"i"):
        principals.load_invite(invite)
    return principals.admitted(now)


class _Lanes:
    """The keys of `lanes` in order, taken along with those of `tasks`, so that each is read once."""

    def __init__(self, store: Store) -> None:
        self._pages = pages(store, "lanes")
        self._keys: list[bytes] = []
        self._is_read = False

    def among(self, tasks: list[bytes]) -> list[bytes]:
        """Those up to the last of these tasks, whose rows are next; StoreDamaged for one without a row."""
        while not self._is_read and (not self._keys or self._keys[-1] <= tasks[-1]):
            page = next(self._pages, None)
            self._is_read = page is None
            self._keys += [key for key, _ in page or ()]
        found = self._keys[: bisect_right(self._keys, tasks[-1])]
        self._keys = self._keys[len(found) :]
        if found != tasks:
            rows = set(tasks)
            for key in found:
                if key not in rows:
                    raise _without_row(key)
        return found

    def end(self) -> None:
        """No row is left."""
        left = self._keys or [key for key, _ in next(self._pages, ())]
        if left:
            raise _without_row(left[0])


def _live_pages(
    store: Store, routes: dict[int, Route], stalled: dict[int, int], finals: dict[State, int]
) -> Iterator[RowPage]:
    """The rows whose tasks are in a lane, the routes and stalls of those with an open attempt, and how many final ones
    there are: `tasks` and `lanes` are walked side by side."""
    lanes = _Lanes(store)
    for rows in pages(store, "tasks"):
        keys = [key for key, _ in rows]
        live = lanes.among(keys)
        if live == keys:
            bodies = [body for _, body in rows]
        else:
            in_lane = set(live)
            bodies = [body for key, body in rows if key in in_lane]
            _count_finals([body for key, body in rows if key not in in_lane], finals)
        if bodies:
            page = _page(bodies)
            _look_at_states(store, page, routes, stalled)
            yield page
    lanes.end()


def _count_finals(bodies: list[bytes], finals: dict[State, int]) -> None:
    for body in bodies:
        state = _row_state(body).state
        if state in FINAL:
            finals[state] += 1


def _page(bodies: list[bytes]) -> RowPage:
    found = _read(bodies) if _read is not None else None
    return page_of([_row(body) for body in bodies]) if found is None else page_read(found)


def _look_at_states(store: Store, page: RowPage, routes: dict[int, Route], stalled: dict[int, int]) -> None:
    """None may be final; of those that an agent has the route is read, and whether its work has stalled."""
    states = page.columns["state"]
    if LOOKED_AT.isdisjoint(states):
        return
    for code, task, attempt in zip(states, page.columns["id"], page.columns["attempt"], strict=True):
        state = STATES[code]
        if state in FINAL:
            raise StoreDamaged(f"task {task} is {state} and still in its lane")
        if state in OPEN_ATTEMPT:
            route = store.get("routes", key_u64x2(task, attempt))
            if route is not None:
                routes[task] = msgspec.msgpack.decode(route, type=Route)
            stalled_at = _stalled_at(store, task, attempt)
            if stalled_at is not None:
                stalled[task] = stalled_at


def _stalled_at(store: Store, task: int, attempt: int) -> int | None:
    """The progress at which the open attempt was marked as stalled last; None where it was not."""
    key = key_u64(task)
    for _, body in store.scan("stories", key, after(key), reverse=True, limit=STALL_NOTES_MAX):
        note = _note(body)
        if note.event == Noted.stalled and note.attempt == attempt:
            return note.progress
    return None


def _without_row(key: bytes) -> StoreDamaged:
    return StoreDamaged(f"task {int.from_bytes(key, 'big')} is in its lane and has no row")


def _hosts(store: Store) -> list[HostRecord]:
    """Figures that an older version took, and that no machine has, are left out: they keep no hub from starting."""
    found = []
    for _, body in store.scan("hosts"):
        try:
            found.append(msgspec.msgpack.decode(body, type=HostRecord))
        except msgspec.ValidationError:
            host = msgspec.msgpack.decode(body)
            host["resources"] = msgspec.to_builtins(usable(host.get("resources")))
            found.append(msgspec.convert(host, HostRecord))
    return found


def _clock(store: Store) -> ClockNote | None:
    body = store.get("meta", NOTE)
    return msgspec.msgpack.decode(body, type=ClockNote) if body is not None else None


def _numbers(store: Store, given: Mapping[str, int]) -> dict[str, int]:
    found = dict(given)
    for name in ("next_task", "next_host", NEXT_NOTE, NEXT_EVENT, "paused"):
        body = store.get("meta", name.encode())
        if body is not None:
            found[name] = max(found.get(name, 0), int.from_bytes(body, "big"))
    return found


def _all(store: Store, database: str, kind: type[T], prefix: bytes = b"") -> list[T]:
    stop = prefix + b"\xff" * 9 if prefix else None
    return [msgspec.msgpack.decode(body, type=kind) for _, body in store.scan(database, prefix, stop)]
