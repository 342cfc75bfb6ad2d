"""What can be asked of the hub: the operations that a `request` carries, with a tag `op` each.

A part of the catalogue in messages.py, from where they are used.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from agentcom import limits
from agentcom.model import (
    AttemptNo,
    BudgetPeriod,
    CheckSpec,
    Count,
    EndpointKind,
    Label,
    Lane,
    Letters,
    Name,
    Reason,
    Role,
    State,
    TaskId,
    TaskSpec,
    Term,
    Tier,
    Url,
)
from agentcom.signed_report import SigningKey

PublicKey = Annotated[str, Meta(min_length=40, max_length=40)]
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


class EventTopic(Term):
    """Of the feed's topics those with events that are kept."""

    task = "task"
    agent = "agent"
    host = "host"
    endpoint = "endpoint"
    queue = "queue"
    hub = "hub"


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
    """The decision of a task that was routed; of others, or with `now`, what stands in the way on each host as of now.
    `cursor` is the `next_cursor` of the page before."""

    task: TaskId
    now: bool = False
    cursor: Count | None = None
    limit: PageLimit = limits.PAGE_MAX


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


class TaskAnswer(Struct, tag_field="op", tag="task_answer", frozen=True, kw_only=True):
    """Answers the question for which a task is held. It goes on in the same worktree on the same host; with `anywhere`
    it begins anew on any."""

    task: TaskId
    text: Annotated[str, Meta(min_length=1, max_length=limits.ANSWER_CHARS_MAX)]
    anywhere: bool = False


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
    """Gives an agent no new work and forgets it when what it does has ended; with `now` that goes back to the queue,
    without spending a retry. One that its host still offers comes back with that host's next hello."""

    agent: Name
    now: bool = False


class HostList(Struct, tag_field="op", tag="host_list", frozen=True, kw_only=True):
    pass


class HostShow(Struct, tag_field="op", tag="host_show", frozen=True, kw_only=True):
    """A host with all that it last told, however old that is (`last_resources`), and its history."""

    host: Name


class HostInvite(Struct, tag_field="op", tag="host_invite", frozen=True, kw_only=True):
    """Makes a one-time key that may enrol one key of `role`; `key` is its public half, made by the caller."""

    key: PublicKey
    role: Role = Role.host
    name: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] = ""


class HostRemove(Struct, tag_field="op", tag="host_remove", frozen=True, kw_only=True):
    """Gives a host no new work, and revokes its key when what it does has ended; with `now` at once: its work goes
    back to the queue without spending a retry."""

    host: Name
    now: bool = False


class HostDrain(Struct, tag_field="op", tag="host_drain", frozen=True, kw_only=True):
    host: Name
    draining: bool = True


class HostAcceptKey(Struct, tag_field="op", tag="host_accept_key", frozen=True, kw_only=True):
    """From now on the host's reports are to be signed with this key (Ed25519, public half as hex), and no longer with
    the one that was known."""

    host: Name
    key: SigningKey


class WorktreeList(Struct, tag_field="op", tag="worktree_list", frozen=True, kw_only=True):
    """What lies in the worktrees of all hosts, or of one, as they told last. Whole hosts, in the order of their ids;
    `cursor` is the `next_cursor` of the page before."""

    host: Name | None = None
    cursor: Annotated[int, Meta(ge=0)] | None = None


class EndpointList(Struct, tag_field="op", tag="endpoint_list", frozen=True, kw_only=True):
    pass


class EndpointShow(Struct, tag_field="op", tag="endpoint_show", frozen=True, kw_only=True):
    """An endpoint as in the list, with the hosts that may call it (`reached_from`)."""

    endpoint: Label


class EndpointAdd(Struct, tag_field="op", tag="endpoint_add", frozen=True, kw_only=True):
    """Registers an LLM server. One on loopback needs `host`, the host that can reach it. `cap` 0 follows what the
    server says of its slots, where it does, and is 1 otherwise."""

    url: Url
    kind: EndpointKind = EndpointKind.ollama
    name: Annotated[str, Meta(max_length=limits.NAME_CHARS_MAX)] = ""
    host: Name | None = None
    cap: Annotated[int, Meta(ge=0, le=1000)] = 0
    num_ctx: Annotated[int, Meta(ge=0, le=10_000_000)] = 0


class EndpointUpdate(Struct, tag_field="op", tag="endpoint_update", frozen=True, kw_only=True):
    endpoint: Label
    name: Name | None = None
    cap: Annotated[int, Meta(ge=1, le=1000)] | None = None
    num_ctx: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    preload: bool | None = None


class EndpointRemove(Struct, tag_field="op", tag="endpoint_remove", frozen=True, kw_only=True):
    """Gives an endpoint no new work and forgets it when the last call has ended; with `now` its work goes back to the
    queue, without spending a retry."""

    endpoint: Label
    now: bool = False


class EndpointProbeNow(Struct, tag_field="op", tag="endpoint_probe", frozen=True, kw_only=True):
    endpoint: Label


class EventList(Struct, tag_field="op", tag="event_list", frozen=True, kw_only=True):
    """The events that were kept, newest first: of all topics, or of one. `cursor` is the `next_cursor` of the page
    before; a page may be short."""

    topic: EventTopic | None = None
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
    number: Annotated[int, Meta(ge=1, le=limits.QUEUE_LIMIT_MAX)] | None = None


class QueueWeight(Struct, tag_field="op", tag="queue_weight", frozen=True, kw_only=True):
    """How large a share of the starts `submitter:NAME`, or `repo:URL` among those of its submitter, gets against
    others, who have 1; without a number it is 1 again."""

    key: RuleKey
    number: Annotated[int, Meta(ge=1, le=limits.QUEUE_WEIGHT_MAX)] | None = None


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


BudgetKey = Annotated[str, Meta(min_length=3, max_length=limits.URL_CHARS_MAX + 20)]


class BudgetList(Struct, tag_field="op", tag="budget_list", frozen=True, kw_only=True):
    """All budgets with what is spent, reserved and left of each."""


class BudgetSet(Struct, tag_field="op", tag="budget_set", frozen=True, kw_only=True):
    """Sets what paid work may cost in a period: all of it, or that of `repo:URL` or `submitter:NAME`. None takes the
    budget back."""

    key: BudgetKey
    usd: Annotated[float, Meta(ge=0, le=limits.BUDGET_USD_MAX)] | None
    per: BudgetPeriod = BudgetPeriod.day


RepoName = Annotated[str, Meta(min_length=1, max_length=limits.LABEL_CHARS_MAX)]
RepoBranch = Annotated[str, Meta(max_length=255)]
RepoChecks = Annotated[tuple[CheckSpec, ...], Meta(max_length=limits.REPO_CHECKS_MAX)]
RepoHosts = Annotated[tuple[Name, ...], Meta(max_length=limits.HOSTS_MAX)]


class RepoList(Struct, tag_field="op", tag="repo_list", frozen=True, kw_only=True):
    """The registered repositories by name, with how many of their tasks are not over."""


class RepoShow(Struct, tag_field="op", tag="repo_show", frozen=True, kw_only=True):
    """A registered repository, by its name or its address."""

    repo: Url


class RepoAdd(Struct, tag_field="op", tag="repo_add", frozen=True, kw_only=True):
    """Registers a repository. Its `checks` run for every task in it, beside the task's own; `hosts` may work on it, all
    if none is given; tasks that name no branch start from `default_branch`, or from what its HEAD names."""

    name: RepoName
    url: Url
    default_branch: RepoBranch = ""
    checks: RepoChecks = ()
    hosts: RepoHosts = ()


class RepoUpdate(Struct, tag_field="op", tag="repo_update", frozen=True, kw_only=True):
    """Changes what is given; lists are replaced. The address stays while tasks name it."""

    repo: Url
    name: RepoName | None = None
    url: Url | None = None
    default_branch: RepoBranch | None = None
    checks: RepoChecks | None = None
    hosts: RepoHosts | None = None


class RepoRemove(Struct, tag_field="op", tag="repo_remove", frozen=True, kw_only=True):
    """Forgets a repository. While tasks of it are not over it is refused, unless `force`: they go on without its
    checks, its hosts and its branch."""

    repo: Url
    force: bool = False


class BackupList(Struct, tag_field="op", tag="backup_list", frozen=True, kw_only=True):
    """The backups, the newest first, the schedule, and the last chores on the store with what came of them."""


class BackupNow(Struct, tag_field="op", tag="backup_now", frozen=True, kw_only=True):
    """Begins a backup, or joins the one that runs. The reply has the chore's number; `backup_list` tells its end."""


class BackupVerify(Struct, tag_field="op", tag="backup_verify", frozen=True, kw_only=True):
    """Begins the check of a backup, by its file's name, as thorough as that at a start."""

    backup: Annotated[str, Meta(max_length=limits.LABEL_CHARS_MAX)]


class Compact(Struct, tag_field="op", tag="compact", frozen=True, kw_only=True):
    """Begins to put a compact copy in the place of the store's file; `hub_status` says what that would free."""


class StoreAcknowledge(Struct, tag_field="op", tag="store_acknowledge", frozen=True, kw_only=True):
    """An operator has seen what a start or a restore could not save: it is no longer shown. That it was restored is no
    warning any more."""


Operation = (
    Submit | TaskGet | TaskWait | TaskList | TaskWhy | TaskLog | TaskReports | TaskStory | TaskCancel | TaskRetry
    | TaskHold | TaskRelease | TaskAnswer | DeadList | DeadRetry | DeadPurge | AgentList | AgentCordon | AgentRemove
    | HostList | HostShow | HostInvite | HostRemove | HostDrain | HostAcceptKey | WorktreeList | EndpointList
    | EndpointShow
    | EndpointAdd | EndpointUpdate | EndpointRemove | EndpointProbeNow | EventList | QueueStats | QueuePause
    | QueueLimit | QueueWeight | QueueRules | BudgetList | BudgetSet | RepoList | RepoShow | RepoAdd
    | RepoUpdate | RepoRemove | BackupList | BackupNow | BackupVerify | Compact | StoreAcknowledge | ConfigGet
    | ConfigChange | TokenAdd | TokenList | TokenRevoke | TokenLink | LinkTrade | Whoami | Snapshot | HubStatus
)  # fmt: skip
