"""Every message of the wire protocol, as a msgspec Struct with a `type` tag: the catalogue.

docs/protocol.md and the JSON schemas are generated from this module. Bytes are plain MessagePack. Unknown
fields are ignored by the receiver, except inside a task, where a misspelt field would silently change what
is done; unknown types are answered with `error`. A message whose type or bound is wrong is refused with the
path of the field, and the connection goes on.

After `welcome` every message to the hub carries the session token that `welcome` gave; the hub compares it
with the key that the connection proved. The token is stamped when a message is sent, never stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from agentcom import limits
from agentcom.errors import UNREADABLE, Refused
from agentcom.figures import usable
from agentcom.model import (
    AttemptNo,
    Backend,
    CheckSpec,
    Count,
    EndpointKind,
    EndpointProbe,
    FailureClass,
    Label,
    ModelAnswer,
    Name,
    QuestionAnswer,
    Reason,
    Resources,
    Role,
    Route,
    TaskError,
    TaskId,
    TaskResult,
    TaskSpec,
    Tier,
    Url,
)
from agentcom.operations import *  # noqa: F403
from agentcom.operations import Operation, PublicKey
from agentcom.refusals import refusal_of as refusal_of
from agentcom.refusals import request_id_of as request_id_of
from agentcom.signed_report import SigningKey
from agentcom.worktrees import Worktree

WallMs = Annotated[int, Meta(ge=0, le=253_402_300_799_000)]  # within the year 9999
Token = Annotated[bytes, Meta(min_length=limits.SESSION_TOKEN_BYTES, max_length=limits.SESSION_TOKEN_BYTES)]
ProcessId = Annotated[str, Meta(min_length=8, max_length=64)]
RequestId = Annotated[int, Meta(ge=0, le=2**62)]
CheckFaults = Annotated[tuple[Reason, ...], Meta(max_length=limits.CHECK_FAULTS_MAX)]
ProgramFaults = Annotated[tuple[Reason, ...], Meta(max_length=limits.PROGRAM_FAULTS_MAX)]
Secret = Annotated[str, Meta(min_length=16, max_length=200)]


# --- what a host says of itself -------------------------------------------------------------------------


class AgentOffer(Struct, frozen=True, kw_only=True):
    """An agent that a host runs: the name it goes by there, what it can call, what else it can do."""

    name: Name
    backends: Annotated[tuple[Backend, ...], Meta(max_length=8)]
    capabilities: Annotated[tuple[Label, ...], Meta(max_length=limits.CAPABILITIES_MAX)] = ()


class AttemptHeld(Struct, frozen=True, kw_only=True):
    """An attempt that a host knows of when it says hello.

    `running`: a worker is on it; `finished`: its result lies in the outbox; `interrupted`: the sidecar was
    restarted while it ran; `unknown`: the record is there, what became of it is not; `asked`: it
    has ended with a question, and its worktree and conversation are kept. `agent` is the local name of the
    agent that runs it: it gets nothing else before what is to be killed has ended.
    """

    task: TaskId
    attempt: AttemptNo
    state: Literal["running", "finished", "interrupted", "unknown", "asked"]
    agent: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] = ""


class EndpointSighting(Struct, frozen=True, kw_only=True):
    """An LLM server as a host sees it: one that it looks for by itself on its loopback (`found`), or one that the hub
    asked it to probe."""

    kind: EndpointKind
    url: Url
    probe: EndpointProbe
    found: bool = True


class AccountOffer(Struct, frozen=True, kw_only=True):
    """A cloud account that a host has a key for: where its calls go, and a fingerprint of the key by which hosts with
    the same one are known. The key itself never leaves the host."""

    url: Url
    fingerprint: Annotated[str, Meta(min_length=8, max_length=64)]


class HostOffer(Struct, frozen=True, kw_only=True):
    """What a host says of itself. `preloads`: models may be loaded there ahead of tasks. `check_faults`: plugins for
    checks that cannot be used there, a line each; `program_faults`: agent programs that its owner offers and that
    cannot be used, `NAME: why`. `signing_key`: the public half of the Ed25519 key (hex) with which it signs its
    reports; the hub holds it to the one that it knows."""

    name: Name
    agents: Annotated[tuple[AgentOffer, ...], Meta(max_length=limits.AGENTS_PER_HOST_MAX)]
    capabilities: Annotated[tuple[Label, ...], Meta(max_length=limits.CAPABILITIES_MAX)] = ()
    attempts: Annotated[tuple[AttemptHeld, ...], Meta(max_length=limits.ATTEMPTS_PER_HOST_MAX)] = ()
    resources: Resources | None = None
    sandbox: Annotated[str, Meta(max_length=40)] = ""
    quiet_until_ms: WallMs = 0
    preferred: bool = False
    sandbox_note: Annotated[str, Meta(max_length=limits.REASON_CHARS_MAX)] = ""
    account: AccountOffer | None = None
    preloads: bool = False
    no_room: Reason = ""
    check_faults: CheckFaults = ()
    signing_key: SigningKey | None = None
    program_faults: ProgramFaults = ()


# --- to the hub: connections ----------------------------------------------------------------------------


class Hello(Struct, tag_field="type", tag="hello", frozen=True, kw_only=True):
    """First message on a connection. `process` is random per start of the caller; `host` only for hosts.
    `takes_many`: the hub may put several of its messages into one frame, as a `many`."""

    protocol: Annotated[int, Meta(ge=0, le=65_535)]
    process: ProcessId
    software: Annotated[str, Meta(max_length=100)] = ""
    host: HostOffer | None = None
    takes_many: bool = False


class Enrol(Struct, tag_field="type", tag="enrol", frozen=True, kw_only=True):
    """Sent with a one-time key: registers the caller's own public keys (CURVE as z85, Ed25519 as hex)."""

    name: Name
    key: PublicKey
    signing_key: SigningKey | None = None


class Bye(Struct, tag_field="type", tag="bye", frozen=True, kw_only=True):
    """The caller closes its session. A host's open attempts stay leased until their lease ends."""

    session: Token


# --- to the hub: hosts ----------------------------------------------------------------------------------


class AttemptBeat(Struct, frozen=True, array_like=True):
    """One attempt that is being worked on; `progress` rises whenever its worker makes progress. `heard`: its model has
    begun to answer."""

    task: TaskId
    attempt: AttemptNo
    progress: Count = 0
    heard: bool = False


class Heartbeat(Struct, tag_field="type", tag="heartbeat", frozen=True, kw_only=True):
    """Every few seconds: renews the lease of each listed attempt; `resources` now and then, `capabilities` of the host
    when they have changed since they were told last. `quiet_until_ms`: the end of the host's quiet hours by its clock
    (the last moment of the year 9999: they never end), 0 while it takes work. `no_room`: why its disk takes no new
    attempts, empty while it does. `check_faults` and `program_faults` come with the capabilities, when one
    of them has changed."""

    session: Token
    beat: Count
    attempts: Annotated[tuple[AttemptBeat, ...], Meta(max_length=limits.ATTEMPTS_PER_HOST_MAX)] = ()
    resources: Resources | None = None
    quiet_until_ms: WallMs = 0
    capabilities: Annotated[tuple[Label, ...], Meta(max_length=limits.CAPABILITIES_MAX)] | None = None
    no_room: Reason = ""
    check_faults: CheckFaults | None = None
    program_faults: ProgramFaults | None = None


class Accept(Struct, tag_field="type", tag="accept", frozen=True, kw_only=True):
    """The assignment lies on the host's disk and its worker starts."""

    session: Token
    task: TaskId
    attempt: AttemptNo


class Decline(Struct, tag_field="type", tag="decline", frozen=True, kw_only=True):
    """The host will not run this assignment (its policy, no room); no retry is spent."""

    session: Token
    task: TaskId
    attempt: AttemptNo
    failure_class: FailureClass = FailureClass.infrastructure
    code: Annotated[str, Meta(max_length=64)]
    message: Reason = ""


class Log(Struct, tag_field="type", tag="log", frozen=True, kw_only=True):
    """A piece of an attempt's output. `offset` counts its bytes from the start; lost pieces are not resent."""

    session: Token
    task: TaskId
    attempt: AttemptNo
    offset: Count
    text: Annotated[str, Meta(max_length=limits.LOG_CHUNK_BYTES_MAX)]


class Result(Struct, tag_field="type", tag="result", frozen=True, kw_only=True):
    """What became of an attempt, from the host's outbox; sent again until `result_ack` comes.

    `completed` carries `result`; `failed` and `interrupted` carry `error`, and `result` where there is a
    partial one; `cancelled` says that every process of the attempt has ended.
    """

    session: Token
    task: TaskId
    attempt: AttemptNo
    outcome: Literal["completed", "failed", "interrupted", "cancelled"]
    result: TaskResult | None = None
    error: TaskError | None = None


class Endpoints(Struct, tag_field="type", tag="endpoints", frozen=True, kw_only=True):
    """What the host's own probes found, one entry per endpoint whose check has just ended. `answers` has what models
    said that the hub had asked for a token."""

    session: Token
    sightings: Annotated[tuple[EndpointSighting, ...], Meta(max_length=64)]
    answers: Annotated[tuple[ModelAnswer, ...], Meta(max_length=64)] = ()


class Worktrees(Struct, tag_field="type", tag="worktrees", frozen=True, kw_only=True):
    """What lies in the host's worktrees: every minute, when its last attempt has ended, and once in each session.
    `left_out`: how many more there are."""

    session: Token
    trees: Annotated[tuple[Worktree, ...], Meta(max_length=limits.WORKTREES_TOLD_MAX)] = ()
    left_out: Count = 0


class Pong(Struct, tag_field="type", tag="pong", frozen=True, kw_only=True):
    """Answers `ping`: the worker loop of that agent is alive."""

    session: Token
    agent: Name


# --- to the hub: requests -------------------------------------------------------------------------------


class Request(Struct, tag_field="type", tag="request", frozen=True, kw_only=True):
    """One operation. The reply echoes `id`. `bearer` is set by the web process: the user's token, whose
    roles then apply instead of the web's own."""

    session: Token
    id: RequestId
    op: Operation
    bearer: Annotated[str, Meta(max_length=200)] | None = None


OfSession = Bye | Heartbeat | Accept | Decline | Log | Result | Endpoints | Worktrees | Pong | Request
ToHub = Hello | Enrol | OfSession


# --- from the hub ---------------------------------------------------------------------------------------


class Verdict(Struct, frozen=True, kw_only=True):
    """What to do with an attempt that a host listed in hello."""

    task: TaskId
    attempt: AttemptNo
    verdict: Literal["keep", "kill", "report"]


class Welcome(Struct, tag_field="type", tag="welcome", frozen=True, kw_only=True):
    """Answers hello. `session` goes into every later message; `names` maps local to hub-wide agent names. `kinds` says
    of URLs in `probe` what they are, where that is not an Ollama. All times are by the hub's clock, `wall_ms`."""

    session: Token
    epoch: str
    name: str
    role: Role
    software: str
    heartbeat_s: float
    lease_s: float
    feed: str = ""
    feed_key: str = ""
    verdicts: tuple[Verdict, ...] = ()
    names: dict[str, str] = {}
    probe: tuple[str, ...] = ()
    probe_every_s: float = 10
    kinds: dict[str, EndpointKind] = {}
    wall_ms: Count = 0


def ahead_s(welcome: Welcome, wall_s: float) -> float:
    """How far the hub's clock is ahead of this machine's, which said `wall_s` when it was welcomed."""
    return welcome.wall_ms / 1000 - wall_s if welcome.wall_ms else 0.0


class Pace(Struct, frozen=True, kw_only=True):
    """How often a host is to be heard, and how long its leases last without; from the hub's settings."""

    heartbeat_s: float
    lease_s: float
    probe_every_s: float


class Enrolled(Struct, tag_field="type", tag="enrolled", frozen=True, kw_only=True):
    name: str
    role: Role


class Question(Struct, frozen=True, kw_only=True):
    """Ask this model for one token, with the context length that its tasks get."""

    kind: EndpointKind
    url: str
    model: str
    num_ctx: int = 0


class Beat(Struct, tag_field="type", tag="beat", frozen=True, kw_only=True):
    """Answers a heartbeat, on the same path as work. `kill` lists attempts of the beat that are not leased.
    `probe` lists further endpoint URLs that this host shall probe, `kinds` what they are where that is not an Ollama.
    `pace` is there when it has changed since `welcome`, and holds from now on. `asks` names models that are thought to
    hang."""

    beat: int
    kill: tuple[AttemptBeat, ...] = ()
    probe: tuple[str, ...] = ()
    pace: Pace | None = None
    kinds: dict[str, EndpointKind] = {}
    asks: tuple[Question, ...] = ()


class Predecessor(Struct, frozen=True, kw_only=True):
    """A task that this one waited for, and what came of it. Without `commit` it changed nothing. `pushed`: its branch
    lies at the repository; otherwise on `host` alone."""

    task: TaskId
    subject: str = ""
    status: str = ""
    summary: str = ""
    checks: tuple[str, ...] = ()
    repo: str = ""
    branch: str = ""
    commit: str = ""
    pushed: bool = False
    host: str = ""


class ToVerify(Struct, frozen=True, kw_only=True):
    """The work of another attempt, on another host, that this one is to verify from a clean clone. `report` is what
    that host has reported, `key` what it signs with; empty: none is known."""

    attempt: AttemptNo
    host: str
    agent: str = ""
    key: str = ""
    commit: str
    tree: str
    base: str = ""
    branch: str
    report: TaskResult | None = None


class Assign(Struct, tag_field="type", tag="assign", kw_only=True, omit_defaults=True):
    """A lease: run this. `spec` is the task's bytes as submitted (a MessagePack `TaskSpec`). `repo_checks` are those of
    its registered repository: they run whatever the task says. `base_branch` is where a task starts that names none."""

    task: TaskId
    attempt: AttemptNo
    agent: str
    lease_s: float
    spec: Raw
    route: Route
    tier: Tier
    submitter: str
    submitter_role: Role
    max_fix_attempts: int
    timeout_s: int
    cloud_model: str = ""
    budget_usd: float | None = None
    repo_checks: tuple[CheckSpec, ...] = ()
    base_branch: str = ""
    predecessors: tuple[Predecessor, ...] = ()
    answers: tuple[QuestionAnswer, ...] = ()
    resume: int = 0  # the attempt whose worktree and conversation this one goes on with; 0: none
    verifies: ToVerify | None = None  # nothing else is to be done then


class Cancel(Struct, tag_field="type", tag="cancel", frozen=True, kw_only=True):
    """End this attempt, its whole process tree, and report `cancelled`."""

    task: TaskId
    attempt: AttemptNo
    reason: str = ""


class Ping(Struct, tag_field="type", tag="ping", frozen=True, kw_only=True):
    agent: str


class Preload(Struct, tag_field="type", tag="preload", frozen=True, kw_only=True):
    """Load this model on the host's own server, with the context length that tasks will ask for, within `load_s`, and
    have it kept for `keep_s`: a task is expected to want it soon. Answered in `endpoints` (`answers`, `is_load`)."""

    url: str
    model: str
    num_ctx: int
    keep_s: int
    load_s: float


class ResultAck(Struct, tag_field="type", tag="result_ack", frozen=True, kw_only=True):
    """The result is committed (or known): take it out of the outbox. `stale`: the attempt was closed before;
    it is kept as evidence and changes nothing. `refused`: its report is not proved to be this host's, of this attempt;
    the attempt has failed."""

    task: TaskId
    attempt: AttemptNo
    verdict: Literal["accepted", "duplicate", "stale", "unknown", "refused"]


class Reply(Struct, tag_field="type", tag="reply", frozen=True, kw_only=True):
    id: RequestId
    value: Any = None


class Error(Struct, tag_field="type", tag="error", frozen=True, kw_only=True, omit_defaults=True):
    """`id` where it answers a request. `field` is the path of the field at fault."""

    code: str
    message: str
    id: RequestId | None = None
    field: str | None = None
    retry_after_s: float | None = None


FromHub = Welcome | Enrolled | Beat | Assign | Cancel | Ping | Preload | ResultAck | Reply | Error


class ManyToHub(Struct, tag_field="type", tag="many", frozen=True, kw_only=True):
    """Several messages in one frame, each as it would stand alone: a frame costs both ends more than a small
    message. They are decoded or refused together, and then handled one after the other."""

    messages: Annotated[tuple[ToHub, ...], Meta(min_length=1, max_length=limits.MANY_MAX)]


class ManyFromHub(Struct, tag_field="type", tag="many", frozen=True, kw_only=True):
    """Several messages of the hub in one frame, in order; only to a caller whose hello said `takes_many`."""

    messages: tuple[FromHub, ...]


class _ManyEncoded(Struct, tag_field="type", tag="many", frozen=True, gc=False):
    """As `ManyFromHub`, of messages that are encoded already."""

    messages: list[Raw]


def with_usable_figures(body: bytes | memoryview) -> bytes:
    """The frame with what is usable of the resources in it: a host with a broken sensor goes on beating."""
    frame = msgspec.msgpack.decode(body)
    many = frame.get("messages") if isinstance(frame, dict) and frame.get("type") == "many" else [frame]
    for message in many if isinstance(many, list) else ():
        place = message.get("host") if isinstance(message, dict) and message.get("type") == "hello" else message
        if isinstance(place, dict) and place.get("resources") is not None:
            place["resources"] = usable(place["resources"])
    return _encoder.encode(frame)


_M = TypeVar("_M")
_encoder = msgspec.msgpack.Encoder()
_to_hub: msgspec.msgpack.Decoder[ToHub | ManyToHub] = msgspec.msgpack.Decoder(ToHub | ManyToHub)
_from_hub: msgspec.msgpack.Decoder[FromHub | ManyFromHub] = msgspec.msgpack.Decoder(FromHub | ManyFromHub)
_spec: msgspec.msgpack.Decoder[TaskSpec] = msgspec.msgpack.Decoder(TaskSpec)


def encode(message: Struct) -> bytes:
    return _encoder.encode(message)


def encode_many(bodies: Sequence[bytes]) -> bytes:
    """Encoded messages as one frame, in order."""
    return _encoder.encode(_ManyEncoded([Raw(body) for body in bodies]))


def read_to_hub(body: bytes | memoryview) -> tuple[ToHub, ...]:
    """The messages in a frame; raises Refused with code, field path and reason."""
    try:
        found = _to_hub.decode(body)
    except UNREADABLE as error:
        try:
            found = _to_hub.decode(with_usable_figures(body))
        except UNREADABLE:
            raise refusal_of(error) from error
    return found.messages if isinstance(found, ManyToHub) else (found,)


def read_from_hub(body: bytes | memoryview) -> tuple[FromHub, ...]:
    """The messages in a frame; raises Refused with code, field path and reason."""
    try:
        found = _from_hub.decode(body)
    except UNREADABLE as error:
        raise refusal_of(error) from error
    return found.messages if isinstance(found, ManyFromHub) else (found,)


def decode_to_hub(body: bytes | memoryview) -> ToHub:
    """The only message in a frame; Refused as of `read_to_hub`."""
    return _only(read_to_hub(body))


def decode_from_hub(body: bytes | memoryview) -> FromHub:
    """The only message in a frame, for callers whose hello did not say `takes_many`; Refused as of
    `read_from_hub`."""
    return _only(read_from_hub(body))


def _only(found: tuple[_M, ...]) -> _M:
    if len(found) != 1:
        raise Refused("malformed", f"{len(found)} messages in a frame, one is expected")
    return found[0]


def decode_spec(body: bytes | memoryview) -> TaskSpec:
    """The task in `body`; raises Refused with code, field path and reason."""
    try:
        return _spec.decode(body)
    except UNREADABLE as error:
        raise refusal_of(error) from error
