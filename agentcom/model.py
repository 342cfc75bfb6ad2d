"""The nouns of AgentCom, as they lie in the store, cross the wire and appear as JSON.

Every type here is a msgspec Struct with its bounds in the type, so bytes are checked once, when they are
decoded, and trusted afterwards. What people submit is a `TaskSpec`, kept byte for byte; what the hub adds
lives in records of its own. Change a stored Struct only by adding fields with defaults.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

from agentcom import limits
from agentcom.agent_programs import program_of
from agentcom.fields import AttemptNo as AttemptNo
from agentcom.fields import CheckName as CheckName
from agentcom.fields import Count as Count
from agentcom.fields import Label as Label
from agentcom.fields import Moment as Moment
from agentcom.fields import Name as Name
from agentcom.fields import Reason as Reason
from agentcom.fields import Reference as Reference
from agentcom.fields import TaskId as TaskId
from agentcom.fields import Term as Term
from agentcom.fields import Url as Url
from agentcom.fields import Word as Word
from agentcom.figures import Gpu as Gpu
from agentcom.figures import Resources as Resources
from agentcom.second import SecondRecord as SecondRecord
from agentcom.second import SecondVerdict as SecondVerdict
from agentcom.servers import EndpointKind as EndpointKind
from agentcom.servers import EndpointModel as EndpointModel
from agentcom.servers import EndpointProbe as EndpointProbe
from agentcom.servers import EndpointRecord as EndpointRecord
from agentcom.servers import ModelAnswer as ModelAnswer
from agentcom.servers import ModelMeasure as ModelMeasure
from agentcom.signed_report import SignedReport as SignedReport


class Lane(Term):
    urgent = "urgent"
    high = "high"
    normal = "normal"
    low = "low"


class Tier(Term):
    trivial = "trivial"
    standard = "standard"
    complex = "complex"


class TierSource(Term):
    """Where a task's tier came from: the submitter, its command, the heuristic, or checks that failed one below."""

    explicit = "explicit"
    command = "command"
    inferred = "inferred"
    raised = "raised"


class State(Term):
    """A task's state; the last four are final."""

    waiting = "waiting"
    delayed = "delayed"
    ready = "ready"
    assigned = "assigned"
    working = "working"
    held = "held"
    completed = "completed"
    dead = "dead"
    cancelled = "cancelled"
    expired = "expired"


FINAL = frozenset({State.completed, State.dead, State.cancelled, State.expired})
OPEN_ATTEMPT = frozenset({State.assigned, State.working})


class CheckKind(Term):
    """The kinds that every host has. Others come with plugins, under names of their own."""

    file_exists = "file_exists"
    test_passes = "test_passes"
    command_succeeds = "command_succeeds"
    git_clean = "git_clean"
    file_contains = "file_contains"
    json_valid = "json_valid"
    http_responds = "http_responds"
    diff_within = "diff_within"
    no_secrets = "no_secrets"


class CheckStatus(Term):
    passed = "pass"
    failed = "fail"
    no_evidence = "no_evidence"
    timed_out = "timed_out"
    refused = "refused"
    error = "error"


class FailureClass(Term):
    """Who is at fault, which decides what happens next."""

    infrastructure = "infrastructure"
    usage_window = "usage_window"
    task_error = "task_error"
    verification = "verification"
    configuration = "configuration"
    disagreement = "disagreement"


class Evidence(Term):
    """What the checks said on the base and after the work, together. Green to green is no new evidence."""

    red_to_green = "red_to_green"
    green_to_green = "green_to_green"
    red_to_red = "red_to_red"
    green_to_red = "green_to_red"


class ResultStatus(Term):
    skipped = "skipped"
    already_done = "already_done"
    no_change = "no_change"
    unchecked = "unchecked"
    verified = "verified"
    partial_pass = "partial_pass"


class Strategy(Term):
    trivial = "trivial"
    local_llm = "local_llm"
    cloud_llm = "cloud_llm"
    agent_program = "agent_program"


class Backend(Term):
    shell = "shell"
    ollama = "ollama"
    claude = "claude"
    openai = "openai"
    program = "program"


BACKEND_OF = {
    Strategy.trivial: Backend.shell,
    Strategy.local_llm: Backend.ollama,
    Strategy.cloud_llm: Backend.claude,
    Strategy.agent_program: Backend.program,
}
BACKENDS_OF = {  # each of them will do; which of the local ones is taken is up to the kind of the endpoint
    Strategy.trivial: (Backend.shell,),
    Strategy.local_llm: (Backend.ollama, Backend.openai),
    Strategy.cloud_llm: (Backend.claude,),
    Strategy.agent_program: (Backend.program,),
}
PAID = frozenset({Backend.claude, Backend.program})  # what their calls cost is somebody's money
STRATEGY_OF = {
    Tier.trivial: Strategy.trivial,
    Tier.standard: Strategy.local_llm,
    Tier.complex: Strategy.cloud_llm,
}


class AgentState(Term):
    offline = "offline"
    idle = "idle"
    assigned = "assigned"
    working = "working"
    blocked = "blocked"


class Role(Term):
    """What a key or a token may do; see `agentcom.auth` for the table of rights."""

    view = "view"
    submit = "submit"
    operate = "operate"
    admin = "admin"
    host = "host"
    web = "web"


class Allowance(Term):
    """What a task lets be done to it: run on a lower tier, go on on a higher one, reach the network, be sent to a model
    that a third party runs behind a local server."""

    down = "lower"
    up = "raise"
    network = "network"
    cloud = "cloud"


class FileRef(Struct, frozen=True, forbid_unknown_fields=True):
    """A file that matters to a task: its path in the repository and why."""

    path: Annotated[str, Meta(min_length=1, max_length=limits.PATH_CHARS_MAX)]
    reason: Reason = ""


class CheckSpec(Struct, frozen=True, forbid_unknown_fields=True):
    """One verification step. `kind` is a CheckKind, which every host has, or that of a plugin. `target` is what is
    looked at, by kind: a path, a command, an address, patterns of paths. `expect` is what shall be found there,
    `command` what starts the server that is asked. `timeout_s` bounds it."""

    kind: CheckName
    target: Annotated[str, Meta(max_length=limits.COMMAND_CHARS_MAX)] = ""
    timeout_s: Annotated[int, Meta(ge=1, le=limits.TIMEOUT_S_MAX)] = 300
    expect: Annotated[str, Meta(max_length=limits.COMMAND_CHARS_MAX)] = ""
    command: Annotated[str, Meta(max_length=limits.COMMAND_CHARS_MAX)] = ""


class TaskSpec(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A task as its submitter gave it. Only `description` is required.

    `not_before`, `start_by` and `complete_by` are RFC 3339 and follow the wall clock; the other times are durations
    with the unit in the name, and do not. `verify` false asks for no checks to run (`--no-verify`). `needs` must be
    there, what the task `prefers` costs time where it is not. `pull_request` is up to the host
    where it is not given. `base` is where it starts instead of a branch: at what a task that it depends on has made, by
    its number as in `depends_on`, or at that of the only one (`predecessor`). `judge`: when all checks pass, its model
    judges the work by the success criteria as well.
    """

    description: Annotated[str, Meta(min_length=1, max_length=limits.DESCRIPTION_CHARS_MAX)]
    lane: Lane = Lane.normal
    needs: Annotated[tuple[Label, ...], Meta(max_length=limits.NEEDS_MAX)] = ()
    repo: Url | None = None
    branch: Annotated[str, Meta(min_length=1, max_length=255)] | None = None
    files: Annotated[tuple[FileRef, ...], Meta(max_length=limits.FILES_MAX)] = ()
    success_criteria: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=limits.REASON_CHARS_MAX)], ...],
        Meta(max_length=limits.CRITERIA_MAX),
    ] = ()
    checks: Annotated[tuple[CheckSpec, ...], Meta(max_length=limits.CHECKS_MAX)] = ()
    tier: Tier | None = None
    command: Annotated[str, Meta(min_length=1, max_length=limits.COMMAND_CHARS_MAX)] | None = None
    model: Label | None = None
    max_retries: Annotated[int, Meta(ge=0, le=limits.RETRIES_MAX)] | None = None
    max_fix_attempts: Annotated[int, Meta(ge=0, le=limits.FIX_ATTEMPTS_MAX)] | None = None
    timeout_s: Annotated[int, Meta(ge=1, le=limits.TIMEOUT_S_MAX)] | None = None
    stall_s: Annotated[int, Meta(ge=1, le=limits.TIMEOUT_S_MAX)] | None = None
    not_before: Moment | None = None
    start_by: Moment | None = None
    complete_by: Moment | None = None
    ttl_s: Annotated[int, Meta(ge=1, le=limits.TTL_S_MAX)] | None = None
    budget_usd: Annotated[float, Meta(gt=0, le=limits.BUDGET_USD_MAX)] | None = None
    depends_on: Annotated[tuple[Reference, ...], Meta(max_length=limits.DEPENDS_MAX)] = ()
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=limits.KEY_CHARS_MAX)] | None = None
    labels: Annotated[tuple[Label, ...], Meta(max_length=limits.LABELS_MAX)] = ()
    verify: bool = True
    prefers: Annotated[tuple[Label, ...], Meta(max_length=limits.NEEDS_MAX)] = ()
    allow: Annotated[tuple[Allowance, ...], Meta(max_length=len(Allowance))] = ()
    pull_request: bool | None = None
    base: Reference | Literal["predecessor"] | None = None
    judge: bool = False
    second_host: bool = False  # another host has to verify the pushed commit before the task is done


class TaskRow(Struct, array_like=True):
    """The small mutable record of a task; one lies in the store for each task, live or final."""

    id: int
    state: State
    lane: Lane
    group: int
    submitter: int
    tier: Tier
    tier_source: TierSource
    inferred_tier: Tier
    created_ms: int
    order_key: int
    max_retries: int
    attempt: int = 0
    retries_used: int = 0
    losses: int = 0
    parked_count: int = 0
    agent: int = 0
    host: int = 0
    assigned_ms: int = 0
    finished_ms: int = 0
    delay_ms: int = 0
    expires_ms: int = 0
    infra_count: int = 0
    not_before_ms: int = 0
    error_class: str = ""
    error_code: str = ""
    error_message: str = ""
    due_ms: int = 0
    start_by_ms: int = 0
    complete_by_ms: int = 0
    labels: tuple[str, ...] = ()
    unaccepted: int = 0
    stall_s: int = 0
    finished_term_ms: int = 0  # by the clock of terms
    status: str = ""  # of its result, once that is kept no longer
    retired: int = 0  # what is kept no longer: bits of core/retention.py
    budget: int = 0  # of its own, in millionths of a dollar; 0: none
    accepted_ms: int = 0  # of its open attempt; 0: not yet
    shortened_ms: int = 0  # when its notes went, its end's among them; 0: never. Of a final task
    shortened_by: str = ""  # the setting, where that took anything that this row does not tell


class ClockNote(Struct, array_like=True):
    """The clocks of the hub at one moment. `boot` names the start of the machine that `mono_ms` counts from."""

    boot: str
    mono_ms: int
    wall_ms: int
    term_ms: int


class Group(Struct, frozen=True, array_like=True):
    """What a set of tasks asks of a place to run: tasks with equal groups are interchangeable to routing."""

    tier: Tier
    model: str
    needs: tuple[str, ...]
    repo: str
    alone: bool = False
    prefers: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()  # of what concerns its tier: `lower` or `raise`, `cloud`


def strategy_of(group: Group) -> Strategy:
    """How tasks of the group are worked on: as their tier says, or by the agent program that they name."""
    if group.needs and group.tier is not Tier.trivial and program_of(group.needs):
        return Strategy.agent_program
    return STRATEGY_OF[group.tier]


class FallbackWait(Struct, frozen=True, array_like=True):
    """A group of tasks that nobody can run goes on on another tier at `due_ms` (wall); it waits `delay_ms` in all."""

    due_ms: int
    delay_ms: int


class RuleKind(Term):
    """What a rule of the queue does; see core/gates.py."""

    pause = "pause"
    limit = "limit"
    weight = "weight"


class RuleScope(Term):
    """What a rule of the queue is about."""

    repo = "repo"
    tier = "tier"
    host = "host"
    label = "label"
    endpoint = "endpoint"
    submitter = "submitter"


class QueueRule(Struct, frozen=True, kw_only=True):
    """A pause, a limit or a weight. `key` is an id where things can be renamed (host, endpoint), and of a submitter the
    id of the first key or token that had the name."""

    kind: RuleKind
    scope: RuleScope
    key: str
    number: int
    set_by: str = ""
    set_ms: int = 0

    @property
    def record_key(self) -> bytes:
        """Hashed, because an address may be longer than a store's key."""
        place = "\0".join((self.kind, self.scope, self.key))
        return hashlib.blake2b(place.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class BudgetPeriod(Term):
    """What a budget is for; days and months in UTC."""

    day = "day"
    month = "month"
    ever = "ever"


class Letters(Struct, frozen=True, kw_only=True):
    """Which tasks that ended without a result are meant: all that fit every field given. `code` is that of the reason
    (`error.code`), `older_than_s` counts from the end of the task."""

    state: Literal["dead", "expired", "cancelled"] | None = None
    code: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    repo: Url | None = None
    label: Label | None = None
    older_than_s: Annotated[int, Meta(ge=0, le=100 * 366 * 86400)] | None = None


class ScorePart(Struct, frozen=True, omit_defaults=True):
    """One candidate of a routing decision. `cost_us` is the expected finish time; `parts` adds up to it."""

    agent: str
    host: str
    endpoint: str | None = None
    cost_us: int = 0
    parts: dict[str, int] = {}


class Route(Struct, frozen=True, kw_only=True):
    """Where a task was sent and why; stored per attempt, sent with the assignment, published. `remote`: a third party
    runs the model, behind the endpoint."""

    strategy: Strategy
    backend: Backend
    agent: str
    host: str
    model: str
    endpoint: str | None = None
    endpoint_url: str | None = None
    num_ctx: int | None = None
    reason: str
    tier: Tier
    score: ScorePart | None = None
    others: tuple[ScorePart, ...] = ()
    refused: dict[str, int] = {}
    remote: bool = False


class CheckReport(Struct, frozen=True, kw_only=True):
    """How one check ended. `before` is what it said on the base, before any work; `with_base` what it says when the
    files that judge the work (tests, their settings, CI) are as the base has them. Null: it was not asked. `source`
    says whose check it is: of the task, or of the registered repository, which nobody can leave out."""

    kind: CheckName
    target: str
    status: CheckStatus
    output: str = ""
    duration_ms: Count = 0
    before: CheckStatus | None = None
    with_base: CheckStatus | None = None
    source: Literal["task", "repository"] = "task"


class Judgement(Struct, frozen=True, kw_only=True):
    """What a model thinks of work whose checks all pass: an opinion, no evidence. `note` says why it is `unsure` where
    the model gave no verdict. Its tokens are not in those of the iteration, but in those of the result."""

    verdict: Literal["pass", "fail", "unsure"]
    model: str
    reasons: tuple[str, ...] = ()
    note: str = ""
    tokens_in: Count = 0
    tokens_out: Count = 0
    duration_ms: Count = 0


class Iteration(Struct, frozen=True, kw_only=True):
    """One round of work and its checks; `n` counts from 1. `status` is `pass`, `fail` or `none` (no checks): that of
    the checks alone. `judgement` is there where the task asked for one and no check failed."""

    n: Annotated[int, Meta(ge=1, le=1000)]
    status: Literal["pass", "fail", "none"]
    checks: tuple[CheckReport, ...] = ()
    tokens_in: Count = 0
    tokens_out: Count = 0
    duration_ms: Count = 0
    judgement: Judgement | None = None


class TaskResult(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an attempt brought back. Costs are USD; null means unknown, never zero by default.

    `tokens_in` counts the whole prompt, cached tokens included; `tokens_cached` says how many of them were
    read from a cache. `cloud_cost_usd` is what the same tokens would have cost at `cloud_model`.
    `spec_sha256` is over the task's bytes as the sidecar received them. `tampered` are files that judge the work, which
    the task does not name and the attempt has changed. `sandbox` is what isolated its commands ("bubblewrap" or
    "none"), `sandbox_reason` why nothing did, and the remedy. `provider_limits` is what a cloud provider said of its
    own limits with the last answer, as `requests_remaining`. `pushed`: the branch lies where its base
    came from.
    """

    status: ResultStatus
    output: str = ""
    output_truncated_bytes: Count = 0
    backend: Backend
    model: str
    tokens_in: Count = 0
    tokens_out: Count = 0
    tokens_cached: Count = 0
    cost_usd: Annotated[float, Meta(ge=0)] | None = None
    cloud_model: str | None = None
    cloud_cost_usd: Annotated[float, Meta(ge=0)] | None = None
    prices_as_of: str | None = None
    duration_ms: Count = 0
    durations_ms: dict[str, int] = {}
    sandbox: str = "none"
    exit_code: int | None = None
    commit: str | None = None
    tree: str | None = None
    branch: str | None = None
    pull_request: str | None = None
    files_changed: tuple[str, ...] = ()
    context_truncated: bool = False
    stop_reason: str | None = None
    warnings: tuple[str, ...] = ()
    spec_sha256: str | None = None
    provider_limits: Annotated[dict[Word, Count], Meta(max_length=limits.PROVIDER_LIMITS_MAX)] = {}
    iterations: tuple[Iteration, ...] = ()
    evidence: Evidence | None = None
    tampered: tuple[str, ...] = ()
    sandbox_reason: str = ""
    pushed: bool = False
    program: str = ""  # the agent program that worked, by its name
    session: str = ""  # and what it calls its session
    failed_starts: Annotated[tuple[Reason, ...], Meta(max_length=limits.FAILED_STARTS_MAX)] = ()
    base: str | None = None  # the commit from which the work started
    signed: SignedReport | None = None  # what its host has signed of it; null: it has not
    second: SecondVerdict | None = None  # of a report that verifies another attempt's work
    # When each of `failed_starts` was, since the host had accepted the attempt.
    failed_starts_ms: Annotated[tuple[Count, ...], Meta(max_length=limits.FAILED_STARTS_MAX)] = ()


class TaskError(Struct, frozen=True, kw_only=True):
    """Why an attempt failed: its class decides what happens, `message` says what to do."""

    failure_class: FailureClass = field(name="class")
    code: Annotated[str, Meta(max_length=64)]
    message: Annotated[str, Meta(max_length=limits.REASON_CHARS_MAX * 2)]
    retry_after_s: Annotated[float, Meta(ge=0, le=30 * 24 * 3600)] | None = None


class AttemptRecord(Struct, kw_only=True, omit_defaults=True):
    """One lease of a task, written when it has ended; of an open one the task's row tells the same.
    `accepted_ms` is 0 when its host never said that it had begun."""

    task: int
    attempt: int
    agent: str
    host: str
    host_id: int
    started_ms: int
    ended_ms: int = 0
    outcome: str = ""
    error: TaskError | None = None
    late_outcome: str = ""
    accepted_ms: int = 0


class QuestionAnswer(Struct, frozen=True, kw_only=True):
    """What an attempt asked, and what a person said to it."""

    question: Annotated[str, Meta(max_length=limits.REASON_CHARS_MAX * 2)]
    text: Annotated[str, Meta(max_length=limits.ANSWER_CHARS_MAX)]
    by: str = ""
    at_ms: int = 0


class QuestionRecord(Struct, frozen=True, kw_only=True):
    """The last question of a live task and all answers. `host` keeps worktree and conversation of `attempt`; that is 0
    when nothing is kept. `pin` is the need that was added to the task's group so that it goes on there."""

    task: int
    attempt: int
    host: int
    host_name: str
    question: str
    asked_ms: int
    answers: tuple[QuestionAnswer, ...] = ()
    pin: str = ""


class StoryNote(Struct, array_like=True, kw_only=True):
    """One transition of a task that no other record tells; see core/story.py. Times are wall ms, 0 for none.

    `attempt` counts the attempts so far, `is_during` says that the last of them was open; `about` is the attempt
    that the event is of, where that is another one. `progress` is that of a worker that stalled.
    """

    event: str
    attempt: int
    at_ms: int
    cause: str = ""
    by: str = ""
    until_ms: int = 0
    about: int = 0
    is_during: bool = False
    progress: int = 0


BACKEND_OF_KIND = {
    EndpointKind.ollama: Backend.ollama,
    EndpointKind.openai: Backend.openai,
    EndpointKind.anthropic: Backend.claude,
}


class HostRecord(Struct, kw_only=True):
    id: int
    name: str
    principal: int
    created_ms: int = 0
    last_seen_ms: int = 0
    capabilities: tuple[str, ...] = ()
    resources: Resources | None = None
    resources_ms: int = 0
    resources_every_s: int = 5
    software: str = ""
    sandbox: str = ""
    draining: bool = False
    trend: TrendRecord | None = None
    removing: bool = False  # it goes when its last attempt has ended
    removed_by: str = ""
    account: int = 0  # the endpoint that is its cloud account
    sandbox_note: str = ""
    check_faults: tuple[str, ...] = ()  # plugins for checks that cannot be used there, each with the reason
    program_faults: tuple[str, ...] = ()  # agent programs that are offered there and cannot be used, `NAME: why`


class TrendRecord(Struct, frozen=True, array_like=True):
    """A host's figures over the last minutes; see core/trend.py. `gaps_s` lie before each point."""

    start_s: int
    gaps_s: tuple[int, ...]
    percents: tuple[int, ...]


class AgentRecord(Struct, kw_only=True):
    """`local_name` is what its host calls it; `name` is unique on the hub."""

    id: int
    name: str
    local_name: str
    host: int
    backends: tuple[Backend, ...] = ()
    capabilities: tuple[str, ...] = ()
    created_ms: int = 0
    cordoned: bool = False
    completed_count: int = 0
    failed_count: int = 0
    removing: bool = False


class PrincipalRecord(Struct, kw_only=True):
    """Who may call: a CURVE public key (z85) or the SHA-256 of a bearer token, and a role.

    `web_process` binds a page's session to the web process that traded it; it is void with that process.
    """

    id: int
    name: str
    role: Role
    key: str | None = None
    signing_key: str | None = None
    token_sha256: str | None = None
    created_ms: int = 0
    expires_ms: int = 0
    revoked: bool = False
    parent: int = 0
    web_process: str = ""


class InviteRecord(Struct, kw_only=True):
    """A one-time key: its public half, what it may enrol, until when, and whom it has enrolled."""

    id: int
    key: str
    role: Role
    name: str = ""
    created_ms: int = 0
    expires_ms: int = 0
    bound_key: str = ""
    principal: int = 0


class KeptEvent(Struct, kw_only=True):
    """An event of the feed that is kept for people to read later; key: its number. `fields` are the event's own."""

    at_ms: int
    topic: str
    event: str
    fields: dict[str, Any] = {}
    term_ms: int = 0  # by the clock of terms


class SettingRecord(Struct, kw_only=True):
    """A setting that was set at run time, by whom, when (wall ms), and what applied before."""

    value: bool | int | float | str | tuple[str, ...]
    was: bool | int | float | str | tuple[str, ...] | None = None
    by: str = ""
    at_ms: int = 0


JsonObject = dict[str, Any]
