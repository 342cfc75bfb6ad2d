"""Settings: config.toml in AGENTCOM_HOME, then the environment (AGENTCOM_<SECTION>_<KEY>), checked once.

Every setting is a field of a section Struct with its bounds in the type; an unknown section or key, or a
value out of bounds, is refused by name. `Home` owns the layout of AGENTCOM_HOME and its permissions.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from agentcom import limits, redaction
from agentcom.errors import UNREADABLE, ConfigError

Port = Annotated[int, Meta(ge=0, le=65_535)]
TERM_S_MAX = 100 * 366 * 24 * 3600
Seconds = Annotated[float, Meta(gt=0, le=7 * 24 * 3600)]
Term = Annotated[int, Meta(ge=1, le=TERM_S_MAX)]
Kept = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Hours = Annotated[
    str,
    Meta(
        max_length=40,
        pattern=r"^((mon|tue|wed|thu|fri|sat|sun)(-(mon|tue|wed|thu|fri|sat|sun))? )?"
        r"([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)$(?!\n)",
    ),
]
ForgePlace = Annotated[
    str,
    Meta(max_length=1000, pattern=r"^[^ \n]+ (github|gitea|gitlab) https?://[^ \n]+ [^\n]+$(?!\n)"),
]
Weight = Annotated[int, Meta(ge=0, le=1_000)]  # in percent
CostMs = Annotated[int, Meta(ge=0, le=3_600_000)]
ProgramName = Annotated[str, Meta(max_length=40, pattern=r"^[a-z0-9][a-z0-9._-]*$(?!\n)")]
ProgramLine = Annotated[str, Meta(max_length=4000, pattern=r"^[a-z0-9][a-z0-9._-]{0,39}[ =][^\n\0]*$(?!\n)")]
LaneDelay = Annotated[int, Meta(ge=0, le=TERM_S_MAX)]


class HubSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[hub]: where the hub listens (port 0 takes a free one) and what it stores at most."""

    bind: str = "127.0.0.1"
    port: Port = 7420
    feed_port: Port = 7421
    public_address: str = ""
    map_gib: Annotated[int, Meta(ge=1, le=4096)] = 64
    map_mib: Annotated[int, Meta(ge=0, le=1_000_000)] = 0

    @property
    def map_bytes(self) -> int:
        """The most that the store may grow to."""
        return self.map_mib << 20 if self.map_mib else self.map_gib << 30

    @property
    def map_setting(self) -> str:
        """The name of the setting that says so."""
        return "hub.map_mib" if self.map_mib else "hub.map_gib"


class BackupSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[backups]: how often the hub backs up its store by itself (0: never), how many it keeps, and where. A journal
    longer than `journal_mib` since the newest backup asks for one as well, since only that bounds it."""

    every_s: Annotated[int, Meta(ge=0, le=366 * 24 * 3600)] = 6 * 3600
    keep: Annotated[int, Meta(ge=1, le=1000)] = 3
    folder: str = ""
    journal_mib: Annotated[int, Meta(ge=1, le=1024 * 1024)] = 1024


class CompactionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[compaction]: how often the hub looks whether its file is worth compacting (0: never by itself), and which
    part of it must be free for that."""

    every_s: Annotated[int, Meta(ge=0, le=366 * 24 * 3600)] = 24 * 3600
    free_percent: Annotated[int, Meta(ge=1, le=99)] = 50


class QueueSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[queue]: leases, retries and waits. Seconds throughout."""

    heartbeat_s: Seconds = 5
    lease_s: Seconds = 45
    accept_s: Seconds = 15
    offline_s: Seconds = 15
    max_retries: Annotated[int, Meta(ge=0, le=100)] = 3
    max_losses: Annotated[int, Meta(ge=1, le=100)] = 3
    max_unaccepted: Annotated[int, Meta(ge=1, le=1000)] = 5
    max_infrastructure: Annotated[int, Meta(ge=1, le=1000)] = 20
    max_fix_attempts: Annotated[int, Meta(ge=0, le=20)] = 2
    backoff_s: Seconds = 2
    backoff_max_s: Seconds = 300
    park_s: Seconds = 60
    task_timeout_s: Annotated[int, Meta(ge=1, le=7 * 24 * 3600)] = 1800
    stall_s: Annotated[int, Meta(ge=0, le=7 * 24 * 3600)] = 300
    stall_trivial_s: Annotated[int, Meta(ge=0, le=7 * 24 * 3600)] = 0
    stall_standard_s: Annotated[int, Meta(ge=0, le=7 * 24 * 3600)] = 0
    stall_complex_s: Annotated[int, Meta(ge=0, le=7 * 24 * 3600)] = 0
    ttl_s: Annotated[int, Meta(ge=1, le=TERM_S_MAX)] = 30 * 24 * 3600
    ttl_trivial_s: Annotated[int, Meta(ge=0, le=TERM_S_MAX)] = 0
    ttl_standard_s: Annotated[int, Meta(ge=0, le=TERM_S_MAX)] = 0
    ttl_complex_s: Annotated[int, Meta(ge=0, le=TERM_S_MAX)] = 0
    held_s: Annotated[int, Meta(ge=1, le=TERM_S_MAX)] = 14 * 24 * 3600
    high_delay_s: LaneDelay = 600
    normal_delay_s: LaneDelay = 3600
    low_delay_s: LaneDelay = 4 * 3600


class ModelSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[models]: what a tier runs on when the task names no model; num_ctx is sent with every local call. `cloud_tiers`:
    those whose tasks may be sent to models that a third party runs behind a local server."""

    standard: str = "qwen2.5-coder:7b"
    complex: str = "claude-opus-5-5"
    compare: str = "claude-sonnet-5-5"
    num_ctx: Annotated[int, Meta(ge=512, le=10_000_000)] = 8192
    cloud_tiers: Annotated[tuple[Literal["standard", "complex"], ...], Meta(max_length=2)] = ()


class RoutingSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[routing]: where tasks go that no host can run at all, and after how long."""

    fallback: Literal["none", "up", "down", "both"] = "none"
    wait_s: Annotated[float, Meta(ge=0, le=7 * 24 * 3600)] = 5


class PreloadSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[preload]: a model that ready tasks want and that is loaded nowhere is loaded on a host that is about to be idle:
    expected to be so within `ahead_s` and the time of the load. It may take `load_s`, and is kept for `keep_s`."""

    enabled: bool = True
    ahead_s: Annotated[float, Meta(ge=0, le=7 * 24 * 3600)] = 30
    load_s: Seconds = 300
    keep_s: Annotated[int, Meta(ge=1, le=7 * 24 * 3600)] = 300


class EndpointSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[endpoints]: health checks, and what share of an endpoint's calls may be retries; `discover` lists loopback URLs
    that a sidecar looks at by itself. `key_files` (`URL=PATH`) names the keys of servers that ask for one, on the
    machine that calls them."""

    probe_every_s: Seconds = 10
    probe_timeout_s: Seconds = 5
    retry_percent: Annotated[int, Meta(ge=0, le=100)] = 20
    retry_min: Annotated[int, Meta(ge=1, le=100_000)] = 5
    retry_window_s: Seconds = 60
    discover: tuple[str, ...] = ("http://127.0.0.1:11434",)
    key_files: tuple[str, ...] = ()
    question_s: Seconds = 120
    breaker_failures: Annotated[int, Meta(ge=1, le=1000)] = 5
    cooldown_s: Seconds = 10
    cooldown_max_s: Seconds = 300


class ScoringSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[scoring]: the policy of the scheduler, which is what a way to run a task is said to cost. Expected times where
    nothing was measured, what is added for what a place lacks, and in percent how much the parts of the sum weigh."""

    wait_percent: Weight = 100
    load_percent: Weight = 100
    displaced_percent: Weight = 100
    host_load_percent: Weight = 100
    busy_step_ms: CostMs = 250
    recent_failure_ms: CostMs = 60_000
    unknown_fit_ms: CostMs = 5_000
    eviction_ms: CostMs = 5_000
    preference_ms: CostMs = 20_000
    not_preferred_ms: CostMs = 30_000
    repository_ms: CostMs = 5_000
    shell_ms: CostMs = 1_000
    cloud_ms: CostMs = 30_000
    load_min_ms: CostMs = 2_000
    load_mb_per_s: Annotated[int, Meta(ge=1, le=1_000_000)] = 500
    tokens_expected: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000
    tokens_per_s: Annotated[int, Meta(ge=1, le=100_000)] = 30
    usual_model_mib: Annotated[int, Meta(ge=1, le=4 * 1024 * 1024)] = 4_096
    spill_factor: Annotated[int, Meta(ge=1, le=1_000)] = 4


class SchedulerSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[scheduler]: whether the hub records what its scheduler decides from, and how much of that it keeps: in files of
    `record_file_mib`, of which the oldest go."""

    record: bool = False
    record_mib: Annotated[int, Meta(ge=1, le=65_536)] = 256
    record_file_mib: Annotated[int, Meta(ge=1, le=4_096)] = 16


class BudgetSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[budgets]: money. What an attempt on a paid backend may cost at most where a budget concerns it."""

    attempt_usd: Annotated[float, Meta(gt=0, le=10_000)] = 2


Rounds = Annotated[int, Meta(ge=1, le=200)]  # model calls of one try


class SidecarSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[sidecar]: local to a host. `agents` are made on first start, named after ships."""

    agents: Annotated[int, Meta(ge=1, le=64)] = 2
    name: str = ""
    capabilities: tuple[str, ...] = ()
    resources_s: Annotated[float, Meta(ge=1, le=limits.REPORT_S_MAX)] = 5
    worktrees_s: Annotated[float, Meta(ge=1, le=24 * 3600)] = 60
    tools_s: Annotated[int, Meta(ge=0, le=366 * 24 * 3600)] = 600
    first_byte_s: Seconds = 300
    idle_s: Seconds = 60
    fetch_s: Seconds = 120
    keep_worktrees_s: Annotated[int, Meta(ge=0, le=100 * 366 * 24 * 3600)] = 7 * 24 * 3600
    quota_mib: Annotated[int, Meta(ge=0, le=1024 * 1024 * 1024)] = 0
    spare_worktrees: Annotated[int, Meta(ge=0, le=64)] = 4
    fetch_mib: Annotated[int, Meta(ge=1, le=16 * 1024 * 1024)] = 16 * 1024
    max_output_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    kill_grace_s: Annotated[float, Meta(ge=0, le=60)] = 2
    silence_s: Annotated[float, Meta(ge=0, le=7 * 24 * 3600)] = 0
    quiet_hours: Annotated[tuple[Hours, ...], Meta(max_length=50)] = ()
    preferred: bool = False
    red_first: bool = True
    checks_s: Annotated[int, Meta(ge=1, le=limits.TIMEOUT_S_MAX)] = 4 * 3600
    shares_gpu: bool = False
    preload: Literal["auto", "always", "never"] = "auto"
    rounds_trivial: Rounds = 5
    rounds_standard: Rounds = 10
    rounds_complex: Rounds = 20
    attempt_tokens_max: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 2_000_000


class SandboxSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[sandbox]: local to a host; the hub cannot widen it."""

    mode: Literal["require", "auto", "off"] = "auto"
    accept_unisolated: bool = False
    readable: Annotated[tuple[str, ...], Meta(max_length=50)] = ()
    memory_mib: Annotated[int, Meta(ge=0, le=16 * 1024 * 1024)] = 0
    processes_max: Annotated[int, Meta(ge=8, le=1_000_000)] = 4096
    file_mib: Annotated[int, Meta(ge=1, le=16 * 1024 * 1024)] = 16 * 1024


class PolicySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[policy]: what this host does for whom; local to it, the hub cannot widen it. `trusted` are tasks from `operate`
    and `admin`. Empty lists allow everything; patterns are those of file names."""

    repositories: Annotated[tuple[str, ...], Meta(max_length=200)] = ()
    tiers: Annotated[tuple[Literal["trivial", "standard", "complex"], ...], Meta(max_length=3)] = ()
    models: Annotated[tuple[str, ...], Meta(max_length=200)] = ()
    commands: Literal["all", "trusted", "nobody"] = "all"
    network: Literal["all", "trusted", "nobody"] = "trusted"
    cloud_models: Literal["all", "trusted", "nobody"] = "all"
    programs: Literal["all", "trusted", "nobody"] = "trusted"


class ProgramSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[programs]: agent programs of this host, local to it. `offer` names those that tasks may ask for, `network` those
    that get the network; `credentials` (`NAME VARIABLE`, `NAME VARIABLE=FILE`, `NAME FILE`) is what one is handed,
    `commands` (`NAME=ARGUMENTS`) how one is started that is not known, or otherwise than usual."""

    offer: Annotated[tuple[ProgramName, ...], Meta(max_length=50)] = ()
    network: Annotated[tuple[ProgramName, ...], Meta(max_length=50)] = ()
    credentials: Annotated[tuple[ProgramLine, ...], Meta(max_length=200)] = ()
    commands: Annotated[tuple[ProgramLine, ...], Meta(max_length=50)] = ()
    start_s: Seconds = 30
    silence_s: Annotated[float, Meta(ge=0, le=7 * 24 * 3600)] = 240


class GitSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[git]: local to a host. `push`: branches go to where their base came from before a task is done. `forges`
    (`PREFIX KIND API TOKEN_FILE`) says where pull requests for repositories below a prefix are opened; `pull_requests`
    is for tasks that do not say whether they want one."""

    push: bool = True
    forges: Annotated[tuple[ForgePlace, ...], Meta(max_length=50)] = ()
    pull_requests: bool = True


class AnthropicSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[anthropic]: local to a host. `key_file` is a 0600 file; ANTHROPIC_API_KEY comes first. The key is sent
    to `base_url` only."""

    key_file: str = ""
    base_url: str = "https://api.anthropic.com"
    prices_file: str = ""


class HttpSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[http]: the dashboard and the HTTP API."""

    bind: str = "127.0.0.1"
    port: Port = 7422
    allowed_hosts: tuple[str, ...] = ()
    tls_cert: str = ""
    tls_key: str = ""
    behind_proxy: bool = False


class RetentionSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[retention]: how long, and how many at most, of what is over. Of a finished task first the results and the story
    go, then the task."""

    tasks_s: Term = 90 * 24 * 3600
    tasks_max: Kept = 200_000
    reports_s: Term = 30 * 24 * 3600
    reports_max: Kept = 100_000
    stories_s: Term = 30 * 24 * 3600
    stories_max: Kept = 200_000
    events_s: Term = 90 * 24 * 3600
    events_max: Kept = 50_000
    ledger_s: Annotated[int, Meta(ge=24 * 3600, le=TERM_S_MAX)] = 400 * 24 * 3600


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """[log]"""

    level: Literal["debug", "info", "warning", "error"] = "info"


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All sections with their defaults."""

    hub: HubSettings = HubSettings()
    queue: QueueSettings = QueueSettings()
    backups: BackupSettings = BackupSettings()
    compaction: CompactionSettings = CompactionSettings()
    models: ModelSettings = ModelSettings()
    endpoints: EndpointSettings = EndpointSettings()
    routing: RoutingSettings = RoutingSettings()
    scoring: ScoringSettings = ScoringSettings()
    preload: PreloadSettings = PreloadSettings()
    scheduler: SchedulerSettings = SchedulerSettings()
    budgets: BudgetSettings = BudgetSettings()
    sidecar: SidecarSettings = SidecarSettings()
    sandbox: SandboxSettings = SandboxSettings()
    policy: PolicySettings = PolicySettings()
    programs: ProgramSettings = ProgramSettings()
    git: GitSettings = GitSettings()
    anthropic: AnthropicSettings = AnthropicSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    retention: RetentionSettings = RetentionSettings()


SECTIONS: dict[str, type[Struct]] = {f.name: f.type for f in msgspec.structs.fields(Settings)}
RESERVED_ENVIRONMENT = {"AGENTCOM_HOME", "AGENTCOM_HUB", "AGENTCOM_TOKEN", "AGENTCOM_SCHED", "AGENTCOM_DEBUG"}


def load(home: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of `home`: config.toml, overridden by the environment.

    Raises ConfigError that names the file or variable, the value and the bound.
    """
    environ = os.environ if environment is None else environment
    path = home / "config.toml"
    tables = _tables(path)
    for name in SECTIONS:
        if not isinstance(tables.get(name, {}), dict):
            raise ConfigError(f"{path}: {name} is a section: write [{name}], then its settings below")
    if "anthropic" not in tables and environ.get("ANTHROPIC_BASE_URL"):
        tables["anthropic"] = {}
    for name, section in SECTIONS.items():
        overrides = _from_environment(name, section, environ)
        if overrides:
            tables[name] = {**tables.get(name, {}), **overrides}
    if environ.get("ANTHROPIC_BASE_URL"):
        tables["anthropic"].setdefault("base_url", environ["ANTHROPIC_BASE_URL"])
    try:
        settings = msgspec.convert(tables, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path} or AGENTCOM_* environment: {_explain(error)}") from error
    broken = relation_broken(settings)
    if broken is not None:
        raise ConfigError(f"{_places(path, broken.names, sources(home, environ))}: {broken.reason}")
    return settings


class Broken(NamedTuple):
    """Two settings that do not fit together, by name, and why."""

    reason: str
    names: tuple[str, str]


def relation_broken(settings: Settings) -> Broken | None:
    """What is wrong between two settings that are each within their bounds; None when they fit."""
    queue = settings.queue
    if round(3 * queue.heartbeat_s - queue.lease_s, 6) > 0:  # 3 * 0.2 is a little more than 0.6
        return Broken(
            f"queue.lease_s is {queue.lease_s:g} and queue.heartbeat_s {queue.heartbeat_s:g}: "
            "a lease must outlast three heartbeats",
            ("queue.lease_s", "queue.heartbeat_s"),
        )
    if queue.backoff_s > queue.backoff_max_s:
        return Broken(
            f"queue.backoff_s is {queue.backoff_s:g} and queue.backoff_max_s {queue.backoff_max_s:g}: "
            "the first wait cannot be longer than the longest",
            ("queue.backoff_s", "queue.backoff_max_s"),
        )
    scheduler = settings.scheduler
    if scheduler.record_file_mib > scheduler.record_mib:
        return Broken(
            f"scheduler.record_file_mib is {scheduler.record_file_mib} and scheduler.record_mib "
            f"{scheduler.record_mib}: one file cannot be larger than all of them",
            ("scheduler.record_file_mib", "scheduler.record_mib"),
        )
    return None


def _places(path: Path, names: tuple[str, ...], found: Mapping[str, str]) -> str:
    """Where those of them that are no default stand: the file, and variables by name."""
    places = {
        str(path) if found[name] == "config.toml" else f"AGENTCOM_{name.replace('.', '_')}".upper(): None
        for name in names
        if name in found
    }
    return " and ".join(places)


def sources(home: Path, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Where each setting that is not a default comes from: `config.toml` or `environment`, by `section.key`."""
    environ = os.environ if environment is None else environment
    found = {
        f"{section}.{key}": "config.toml"
        for section, table in _tables(home / "config.toml").items()
        if isinstance(table, dict)
        for key in table
    }
    for name, section in SECTIONS.items():
        found |= {f"{name}.{key}": "environment" for key in _from_environment(name, section, environ)}
    if environ.get("ANTHROPIC_BASE_URL") and "anthropic.base_url" not in found:
        found["anthropic.base_url"] = "environment"
    return found


def _tables(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (*UNREADABLE, OSError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _from_environment(name: str, section: type[Struct], environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for setting in msgspec.structs.fields(section):
        text = environ.get(f"AGENTCOM_{name}_{setting.name}".upper())
        if text is None:
            continue
        found[setting.name] = (
            [t for t in text.split(",") if t] if isinstance(setting.default, tuple) else text
        )
    return found


def _explain(error: Exception) -> str:
    return re.sub(r" - at `\$\.?(.*)`$", r" (setting \1)", str(error))


def home_path() -> Path:
    """AGENTCOM_HOME, or ~/.agentcom."""
    return Path(os.environ.get("AGENTCOM_HOME") or Path.home() / ".agentcom").expanduser().absolute()


class Home:
    """The layout of an AGENTCOM_HOME. Every directory is 0700, every file with a secret 0600."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys = path / "keys"
        self.store = path / "store"
        self.run = path / "run"
        self.logs = path / "logs"
        self.sidecar = path / "sidecar"
        self.backups = path / "backups"
        self.recordings = path / "recordings"

    def prepare(self) -> Home:
        """Make what is missing; refuse a home that others can read or that is not ours, and make nothing in it then."""
        try:
            if self.path.is_dir():
                self.check()
            for folder in (self.path, self.keys, self.store, self.run, self.logs, self.sidecar):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot make {error.filename}: {error.strerror}; set AGENTCOM_HOME") from error
        self.check()
        return self

    def check(self) -> Home:
        """Raise ConfigError, with the remedy, if the home is missing, not ours, or open to others."""
        try:
            found = self.path.stat()
        except FileNotFoundError:
            raise ConfigError(f"{self.path} does not exist; run `agentcom up` or set AGENTCOM_HOME") from None
        if found.st_uid != os.geteuid():
            raise ConfigError(f"{self.path} belongs to user id {found.st_uid}; set AGENTCOM_HOME to your own")
        for folder in (self.path, self.keys):
            if folder.exists() and stat.S_IMODE(folder.stat().st_mode) & 0o077:
                mode = stat.S_IMODE(folder.stat().st_mode)
                raise ConfigError(
                    f"{folder} has mode {mode:04o}, others can read it; run: chmod 700 {folder}"
                )
        return self


def write_private(path: Path, content: bytes) -> None:
    """Write `content` to `path` as 0600, replaced at once and on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_private(path: Path) -> bytes:
    """The content of a secret file; refuses one that others can read. From then on no text of this process shows it."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise ConfigError(f"{path} has mode {mode:04o}, others can read it; run: chmod 600 {path}")
    content = path.read_bytes()
    redaction.learn_file(content)
    return content
