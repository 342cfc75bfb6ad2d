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
from agentcom.model import (
    AttemptNo,
    Backend,
    Count,
    EndpointKind,
    EndpointProbe,
    FailureClass,
    Label,
    Lane,
    Letters,
    Name,
    Reason,
    Resources,
    Role,
    Route,
    State,
    TaskError,
    TaskId,
    TaskResult,
    TaskSpec,
    Tier,
    Url,
)
from agentcom.operations import BackupList as BackupList
from agentcom.operations import BackupNow as BackupNow
from agentcom.operations import BackupVerify as BackupVerify
from agentcom.operations import Compact as Compact
from agentcom.operations import StoreAcknowledge as StoreAcknowledge
from agentcom.refusals import refusal_of as refusal_of
from agentcom.refusals import request_id_of as request_id_of

Token = Annotated[bytes, Meta(min_length=limits.SESSION_TOKEN_BYTES, max_length=limits.SESSION_TOKEN_BYTES)]
ProcessId = Annotated[str, Meta(min_length=8, max_length=64)]
RequestId = Annotated[int, Meta(ge=0, le=2**62)]
PublicKey = Annotated[str, Meta(min_length=40, max_length=40)]
Secret = Annotated[str, Meta(min_length=16, max_length=200)]
SettingName = Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)]
SettingText = Annotated[str, Meta(max_length=limits.SETTING_CHARS_MAX)]
SettingValue = (
    bool
    | int
    | float
    | SettingText
    | Annotated[tuple[SettingText, ...], Meta(max_length=limits.SETTINGS_MAX)]
)
RuleKey = Annotated[str, Meta(min_length=3, max_length=limits.URL_CHARS_MAX + 20)]
PageLimit = Annotated[int, Meta(ge=1, le=limits.PAGE_MAX)]


# --- what a host says of itself -------------------------------------------------------------------------


class AgentOffer(Struct, frozen=True, kw_only=True):
    """An agent that a host runs: the name it goes by there, what it can call, what else it can do."""

    name: Name
    backends: Annotated[tuple[Backend, ...], Meta(max_length=8)]
    capabilities: Annotated[tuple[Label, ...], Meta(max_length=limits.CAPABILITIES_MAX)] = ()


class AttemptHeld(Struct, frozen=True, kw_only=True):
    """An attempt that a host knows of when it says hello.

    `running`: a worker is on it; `finished`: its result lies in the outbox; `interrupted`: the sidecar was
    restarted while it ran; `unknown`: the record is there, what became of it is not. `agent` is the local name of the
    agent that runs it: it gets nothing else before what is to be killed has ended.
    """

    task: TaskId
    attempt: AttemptNo
    state: Literal["running", "finished", "interrupted", "unknown"]
    agent: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] = ""


class EndpointSighting(Struct, frozen=True, kw_only=True):
    """An LLM server as a host sees it: one on its loopback, or one that the hub asked it to probe."""

    kind: EndpointKind
    url: Url
    probe: EndpointProbe


class HostOffer(Struct, frozen=True, kw_only=True):
    name: Name
    agents: Annotated[tuple[AgentOffer, ...], Meta(max_length=limits.AGENTS_PER_HOST_MAX)]
    capabilities: Annotated[tuple[Label, ...], Meta(max_length=limits.CAPABILITIES_MAX)] = ()
    attempts: Annotated[tuple[AttemptHeld, ...], Meta(max_length=limits.ATTEMPTS_PER_HOST_MAX)] = ()
    resources: Resources | None = None
    sandbox: Annotated[str, Meta(max_length=40)] = ""


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
    signing_key: Annotated[str, Meta(min_length=64, max_length=64)] | None = None


class Bye(Struct, tag_field="type", tag="bye", frozen=True, kw_only=True):
    """The caller closes its session. A host's open attempts stay leased until their lease ends."""

    session: Token


# --- to the hub: hosts ----------------------------------------------------------------------------------


class AttemptBeat(Struct, frozen=True, array_like=True):
    """One attempt that is being worked on; `progress` rises whenever its worker makes progress."""

    task: TaskId
    attempt: AttemptNo
    progress: Count = 0


class Heartbeat(Struct, tag_field="type", tag="heartbeat", frozen=True, kw_only=True):
    """Every few seconds: renews the lease of each listed attempt; `resources` now and then."""

    session: Token
    beat: Count
    attempts: Annotated[tuple[AttemptBeat, ...], Meta(max_length=limits.ATTEMPTS_PER_HOST_MAX)] = ()
    resources: Resources | None = None


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
    """What the host's own probes found, one entry per endpoint; sent after each cycle."""

    session: Token
    sightings: Annotated[tuple[EndpointSighting, ...], Meta(max_length=64)]


class Pong(Struct, tag_field="type", tag="pong", frozen=True, kw_only=True):
    """Answers `ping`: the worker loop of that agent is alive."""

    session: Token
    agent: Name


# --- to the hub: requests -------------------------------------------------------------------------------


class Submit(Struct, tag_field="op", tag="submit", frozen=True, kw_only=True):
    """Adds one task or a batch; a batch is taken whole or refused whole."""

    tasks: Annotated[tuple[TaskSpec, ...], Meta(min_length=1, max_length=limits.BATCH_TASKS_MAX)]


class TaskGet(Struct, tag_field="op", tag="task_get", frozen=True, kw_only=True):
    task: TaskId


class TaskWait(Struct, tag_field="op", tag="task_wait", frozen=True, kw_only=True):
    """Answers with the task when it is final, or as it is after `timeout_s`."""

    task: TaskId
    timeout_s: Annotated[float, Meta(ge=0, le=limits.WAIT_S_MAX)] = limits.WAIT_S_MAX


class TaskList(Struct, tag_field="op", tag="task_list", frozen=True, kw_only=True):
    """Newest first. `cursor` is the `next_cursor` of the page before."""

    state: State | None = None
    lane: Lane | None = None
    tier: Tier | None = None
    repo: Url | None = None
    label: Label | None = None
    cursor: Count | None = None
    limit: PageLimit = 50


class TaskWhy(Struct, tag_field="op", tag="task_why", frozen=True, kw_only=True):
    task: TaskId


class TaskLog(Struct, tag_field="op", tag="task_log", frozen=True, kw_only=True):
    """The output of an attempt (the latest by default) from byte `offset` on."""

    task: TaskId
    attempt: AttemptNo | None = None
    offset: Count = 0


class TaskReports(Struct, tag_field="op", tag="task_reports", frozen=True, kw_only=True):
    task: TaskId


class TaskStory(Struct, tag_field="op", tag="task_story", frozen=True, kw_only=True):
    """Every transition of a task in the order of the hub. `cursor` is the `next_cursor` of the page before."""

    task: TaskId
    cursor: Count | None = None
    limit: PageLimit = limits.PAGE_MAX


class TaskCancel(Struct, tag_field="op", tag="task_cancel", frozen=True, kw_only=True):
    task: TaskId
    reason: Reason = ""


class TaskRetry(Struct, tag_field="op", tag="task_retry", frozen=True, kw_only=True):
    """Puts a dead, cancelled or expired task back into its lane with fresh counters."""

    task: TaskId


class TaskHold(Struct, tag_field="op", tag="task_hold", frozen=True, kw_only=True):
    task: TaskId
    reason: Reason = ""


class TaskRelease(Struct, tag_field="op", tag="task_release", frozen=True, kw_only=True):
    task: TaskId


class DeadList(Letters, tag_field="op", tag="dead_list", frozen=True, kw_only=True):
    """The dead letters: tasks that are dead, expired or cancelled, newest first, with their reasons."""

    cursor: Count | None = None
    limit: PageLimit = 50


class DeadRetry(Letters, tag_field="op", tag="dead_retry", frozen=True, kw_only=True):
    """Retries the dead letters named, or those that fit, oldest first; goes on at the answer's `next_cursor`."""

    tasks: Annotated[tuple[TaskId, ...], Meta(max_length=limits.BATCH_TASKS_MAX)] = ()
    cursor: Count | None = None


class DeadPurge(Letters, tag_field="op", tag="dead_purge", frozen=True, kw_only=True):
    """Removes dead letters for good, as `dead_retry` retries them. Those that others wait for stay: `kept`."""

    tasks: Annotated[tuple[TaskId, ...], Meta(max_length=limits.BATCH_TASKS_MAX)] = ()
    cursor: Count | None = None


class AgentList(Struct, tag_field="op", tag="agent_list", frozen=True, kw_only=True):
    pass


class AgentCordon(Struct, tag_field="op", tag="agent_cordon", frozen=True, kw_only=True):
    """A cordoned agent gets no new work; `cordoned` false takes that back."""

    agent: Name
    cordoned: bool = True


class AgentRemove(Struct, tag_field="op", tag="agent_remove", frozen=True, kw_only=True):
    """Forgets an offline agent."""

    agent: Name


class HostList(Struct, tag_field="op", tag="host_list", frozen=True, kw_only=True):
    pass


class HostInvite(Struct, tag_field="op", tag="host_invite", frozen=True, kw_only=True):
    """Makes a one-time key that may enrol one key of `role`; `key` is its public half, made by the caller."""

    key: PublicKey
    role: Role = Role.host
    name: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] = ""


class HostRemove(Struct, tag_field="op", tag="host_remove", frozen=True, kw_only=True):
    """Revokes a host's key, ends its sessions and gives its work back to the queue."""

    host: Name


class HostDrain(Struct, tag_field="op", tag="host_drain", frozen=True, kw_only=True):
    host: Name
    draining: bool = True


class EndpointList(Struct, tag_field="op", tag="endpoint_list", frozen=True, kw_only=True):
    pass


class EndpointAdd(Struct, tag_field="op", tag="endpoint_add", frozen=True, kw_only=True):
    """Registers an LLM server. One on loopback needs `host`, the host that can reach it."""

    url: Url
    kind: EndpointKind = EndpointKind.ollama
    name: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] = ""
    host: Name | None = None
    cap: Annotated[int, Meta(ge=1, le=1000)] = 1
    num_ctx: Annotated[int, Meta(ge=0, le=10_000_000)] = 0


class EndpointUpdate(Struct, tag_field="op", tag="endpoint_update", frozen=True, kw_only=True):
    endpoint: Label
    name: Name | None = None
    cap: Annotated[int, Meta(ge=1, le=1000)] | None = None
    num_ctx: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None


class EndpointRemove(Struct, tag_field="op", tag="endpoint_remove", frozen=True, kw_only=True):
    endpoint: Label


class EndpointProbeNow(Struct, tag_field="op", tag="endpoint_probe", frozen=True, kw_only=True):
    endpoint: Label


class EventList(Struct, tag_field="op", tag="event_list", frozen=True, kw_only=True):
    """The events that were kept, newest first: of all topics, or of one. `cursor` is the `next_cursor` of the page
    before; a page may be short."""

    topic: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] = ""
    event: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] = ""
    cursor: Count | None = None
    limit: PageLimit = 50


class QueueStats(Struct, tag_field="op", tag="queue_stats", frozen=True, kw_only=True):
    pass


class QueuePause(Struct, tag_field="op", tag="queue_pause", frozen=True, kw_only=True):
    """Stops dispatch, not submits; survives a restart. `paused` false resumes. With `repo`, `tier` or `host`, one at
    most, only the tasks of that repository or tier, or the agents of that host; without, everything."""

    paused: bool = True
    repo: Url | None = None
    tier: Tier | None = None
    host: Name | None = None


class QueueLimit(Struct, tag_field="op", tag="queue_limit", frozen=True, kw_only=True):
    """How many may run at once of `repo:URL` or `label:LABEL`, or with calls on `endpoint:NAME`; without a number the
    limit is taken back."""

    key: RuleKey
    number: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None


class QueueWeight(Struct, tag_field="op", tag="queue_weight", frozen=True, kw_only=True):
    """How large a share of the starts `submitter:NAME`, or `repo:URL` among those of its submitter, gets against
    others, who have 1; without a number it is 1 again."""

    key: RuleKey
    number: Annotated[int, Meta(ge=1, le=1000)] | None = None


class QueueRules(Struct, tag_field="op", tag="queue_rules", frozen=True, kw_only=True):
    """All pauses, limits and weights, with who set them and what runs under each limit."""


class ConfigGet(Struct, tag_field="op", tag="config_get", frozen=True, kw_only=True):
    """The settings that a hub changes at run time: all, those of a section, or one. Each with its value, where
    that comes from, and by whom and when it was set."""

    name: SettingName = ""


class ConfigChange(Struct, tag_field="op", tag="config_change", frozen=True, kw_only=True):
    """Sets and unsets settings, all or none; in force with the reply, and after a restart. What is unset goes
    back to the environment's, config.toml's or the default value."""

    set: Annotated[dict[SettingName, SettingValue], Meta(max_length=limits.SETTINGS_MAX)] = {}
    unset: Annotated[tuple[SettingName, ...], Meta(max_length=limits.SETTINGS_MAX)] = ()


class TokenAdd(Struct, tag_field="op", tag="token_add", frozen=True, kw_only=True):
    """Registers a bearer token by its SHA-256 (hex); the token itself never reaches the hub."""

    name: Name
    role: Role
    token_sha256: Annotated[str, Meta(min_length=64, max_length=64)]


class TokenList(Struct, tag_field="op", tag="token_list", frozen=True, kw_only=True):
    pass


class TokenRevoke(Struct, tag_field="op", tag="token_revoke", frozen=True, kw_only=True):
    """Revokes a token or a key by its name, and ends what it has open."""

    name: Name


class TokenLink(Struct, tag_field="op", tag="token_link", frozen=True, kw_only=True):
    """Registers a one-time secret (by its SHA-256) that the page may trade for a session of `role`."""

    secret_sha256: Annotated[str, Meta(min_length=64, max_length=64)]
    role: Role | None = None


class LinkTrade(Struct, tag_field="op", tag="link_trade", frozen=True, kw_only=True):
    """From the web process only: trades a one-time secret for a page session (its SHA-256)."""

    secret_sha256: Annotated[str, Meta(min_length=64, max_length=64)]
    token_sha256: Annotated[str, Meta(min_length=64, max_length=64)]


class Whoami(Struct, tag_field="op", tag="whoami", frozen=True, kw_only=True):
    pass


class Snapshot(Struct, tag_field="op", tag="snapshot", frozen=True, kw_only=True):
    """Counts, agents, hosts, endpoints and the newest tasks, with the feed position they belong to."""

    tasks: Annotated[int, Meta(ge=0, le=limits.SNAPSHOT_TASKS_MAX)] = limits.SNAPSHOT_TASKS_MAX


class HubStatus(Struct, tag_field="op", tag="hub_status", frozen=True, kw_only=True):
    """Version, scheduler in use, start time, store figures: what `doctor` prints."""


Operation = (
    Submit | TaskGet | TaskWait | TaskList | TaskWhy | TaskLog | TaskReports | TaskStory | TaskCancel | TaskRetry
    | TaskHold | TaskRelease | DeadList | DeadRetry | DeadPurge | AgentList | AgentCordon | AgentRemove
    | HostList | HostInvite | HostRemove | HostDrain | EndpointList | EndpointAdd | EndpointUpdate
    | EndpointRemove | EndpointProbeNow | EventList | QueueStats | QueuePause | QueueLimit | QueueWeight
    | QueueRules | BackupList | BackupNow | BackupVerify | Compact | StoreAcknowledge | ConfigGet | ConfigChange
    | TokenAdd | TokenList | TokenRevoke | TokenLink | LinkTrade | Whoami | Snapshot | HubStatus
)  # fmt: skip


class Request(Struct, tag_field="type", tag="request", frozen=True, kw_only=True):
    """One operation. The reply echoes `id`. `bearer` is set by the web process: the user's token, whose
    roles then apply instead of the web's own."""

    session: Token
    id: RequestId
    op: Operation
    bearer: Annotated[str, Meta(max_length=200)] | None = None


ToHub = (
    Hello | Enrol | Bye | Heartbeat | Accept | Decline | Log | Result | Endpoints | Pong | Request
)  # fmt: skip


# --- from the hub ---------------------------------------------------------------------------------------


class Verdict(Struct, frozen=True, kw_only=True):
    """What to do with an attempt that a host listed in hello."""

    task: TaskId
    attempt: AttemptNo
    verdict: Literal["keep", "kill", "report"]


class Welcome(Struct, tag_field="type", tag="welcome", frozen=True, kw_only=True):
    """Answers hello. `session` goes into every later message; `names` maps local to hub-wide agent names."""

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


class Pace(Struct, frozen=True, kw_only=True):
    """How often a host is to be heard, and how long its leases last without; from the hub's settings."""

    heartbeat_s: float
    lease_s: float
    probe_every_s: float


class Enrolled(Struct, tag_field="type", tag="enrolled", frozen=True, kw_only=True):
    name: str
    role: Role


class Beat(Struct, tag_field="type", tag="beat", frozen=True, kw_only=True):
    """Answers a heartbeat, on the same path as work. `kill` lists attempts of the beat that are not leased.
    `probe` lists further endpoint URLs that this host shall probe. `pace` is there when it has changed since
    `welcome`, and holds from now on."""

    beat: int
    kill: tuple[AttemptBeat, ...] = ()
    probe: tuple[str, ...] = ()
    pace: Pace | None = None


class Assign(Struct, tag_field="type", tag="assign", kw_only=True):
    """A lease: run this. `spec` is the task's bytes as submitted (a MessagePack `TaskSpec`)."""

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


class Cancel(Struct, tag_field="type", tag="cancel", frozen=True, kw_only=True):
    """End this attempt, its whole process tree, and report `cancelled`."""

    task: TaskId
    attempt: AttemptNo
    reason: str = ""


class Ping(Struct, tag_field="type", tag="ping", frozen=True, kw_only=True):
    agent: str


class ResultAck(Struct, tag_field="type", tag="result_ack", frozen=True, kw_only=True):
    """The result is committed (or known): take it out of the outbox. `stale`: the attempt was closed before;
    it is kept as evidence and changes nothing."""

    task: TaskId
    attempt: AttemptNo
    verdict: Literal["accepted", "duplicate", "stale", "unknown"]


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


FromHub = Welcome | Enrolled | Beat | Assign | Cancel | Ping | ResultAck | Reply | Error


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
