"""What goes in through the one door (events) and what comes out (effects): plain values, no behaviour.

Events carry everything that a decision needs: who sent it, fresh random bytes, records that the shell looked
up because `Hub.lookups` asked for them. Effects are carried out by the shell in the order of the tick: records
first, in one transaction; only then sends, reads, publications.

What a task causes a dozen times is a Struct: it is made in a third of the time that a NamedTuple takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from msgspec import Struct

from agentcom.config import Settings
from agentcom.messages import Assign, FromHub, Operation, ToHub
from agentcom.model import EndpointProbe, ModelAnswer

RecordKey = tuple[str, bytes]


class Incoming(NamedTuple):
    """A decoded message. `peer` is the shell's number for the connection, `key` the public key it proved,
    `fresh` 16 random bytes in case a token has to be made."""

    peer: int
    key: str
    message: ToHub
    fresh: bytes
    found: Mapping[RecordKey, bytes] = {}


class PeerGone(NamedTuple):
    """A send to the peer failed for good: its session ends."""

    peer: int


class Probed(NamedTuple):
    """A health check by the hub itself has ended."""

    endpoint: int
    probe: EndpointProbe


class Answered(NamedTuple):
    """A model was asked for a token, and what came of it."""

    endpoint: int
    answer: ModelAnswer


class Noticed(NamedTuple):
    """The shell has seen something that readers of the feed are to be told: a backup, an alarm of the store. Where it
    told them itself, since there was no room for a record, `told_ms` is when, and `term_ms` the same as terms count."""

    topic: str
    event: str
    fields: Mapping[str, Any]
    told_ms: int = 0
    term_ms: int = 0


class Over(NamedTuple):
    """How many are kept beyond what `retention.*` allows; 0 and below: none."""

    tasks: int = 0
    results: int = 0
    notes: int = 0
    events: int = 0

    @property
    def is_any(self) -> bool:
        """Whether tasks, or what belongs to them, are too many."""
        return self.tasks > 0 or self.results > 0 or self.notes > 0


class Kept(NamedTuple):
    """How many records of a final task retention counts: `earlier` are the results of attempts before its last,
    `untold` the notes that tell more than its row."""

    results: int = 0
    earlier: int = 0
    notes: int = 0
    untold: int = 0


class Retire(NamedTuple):
    """A slice of the oldest, of which something may be due to go: final tasks, numbers of kept events, and paid
    attempts as (task, attempt). `found` has each task's row, body and last result, and what the attempts cost; `kept`
    is by task."""

    tasks: tuple[int, ...]
    events: tuple[int, ...]
    over: Over
    found: Mapping[RecordKey, bytes]
    kept: Mapping[int, Kept]
    ledger: tuple[tuple[int, int], ...] = ()


class Timers(NamedTuple):
    """Time has passed. `drained` says that the socket was read empty before, so that no unread heartbeat can
    be overlooked; `gap_ms` is how long the loop was away beyond its own tick."""

    drained: bool
    gap_ms: int = 0


Event = Incoming | PeerGone | Probed | Answered | Noticed | Retire | Timers


class Put(Struct, frozen=True, gc=False):
    database: str
    key: bytes
    body: bytes


class Delete(Struct, frozen=True, gc=False):
    database: str
    key: bytes


class DeleteUnder(NamedTuple):
    """Every record whose key begins with the prefix, those that this tick put included: which there are, only
    the store knows."""

    database: str
    prefix: bytes


class Send(Struct, frozen=True, gc=False):
    peer: int
    message: FromHub


class SendAssign(Struct, frozen=True, gc=False):
    """An assignment whose task body the shell reads from the store when it sends it. `route` is the message's, as it is
    stored: it is encoded once."""

    peer: int
    message: Assign
    route: bytes


class Read(NamedTuple):
    """A request that only reads: answered by the shell after the commit. `principal` limits what is shown to
    the tasks of that submitter, unless it is 0."""

    peer: int
    request: int
    op: Operation
    principal: int


class Publish(Struct, frozen=True, gc=False):
    """An event for the feed, whole; None where nobody reads and only the sequence has to rise."""

    topic: str
    event: dict[str, Any] | None


class TaskChanged(Struct, frozen=True, gc=False):
    """A task whose brief the feed should show anew (coalesced by the shell)."""

    task: int


class LogPiece(NamedTuple):
    task: int
    attempt: int
    offset: int
    text: str


class EndSession(NamedTuple):
    """Forget the peer after what was sent to it."""

    peer: int


class KeysChanged(NamedTuple):
    """The sets of admitted keys have changed; `revoked` asks for the feed's subscribers to be cut off."""

    revoked: bool


class SettingsChanged(NamedTuple):
    """What applies from now on, for the parts of the shell that read settings."""

    settings: Settings


class ProbeEndpoint(NamedTuple):
    endpoint: int


class AskModel(NamedTuple):
    """Ask a model for one token, by the name that its server knows."""

    endpoint: int
    model: str
    num_ctx: int


class LoadModel(NamedTuple):
    """Load a model, by the name that its server knows, and have it kept for so long."""

    endpoint: int
    model: str
    num_ctx: int
    keep_s: int
    load_s: float


Effect = (
    Put
    | Delete
    | DeleteUnder
    | Send
    | SendAssign
    | Read
    | Publish
    | TaskChanged
    | LogPiece
    | EndSession
    | KeysChanged
    | ProbeEndpoint
    | AskModel
    | LoadModel
    | SettingsChanged
)


def key_u64(number: int) -> bytes:
    """A record key that sorts by number."""
    return number.to_bytes(8, "big")


def key_u64x2(first: int, second: int) -> bytes:
    return first.to_bytes(8, "big") + second.to_bytes(8, "big")
