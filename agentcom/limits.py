"""Every bound in one place: the figure, its unit, why it is what it is, and what happens at the bound.

Settings that people may change have their defaults in config.py; what stands here is fixed, because the two
ends of a connection must agree on it or because memory is reserved by it. Relations between bounds are
asserted when the module is imported.
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

# The wire. Above FRAME_BYTES_MAX libzmq closes the connection without an answer, so clients check first;
# between REQUEST_BYTES_MAX and it the hub refuses with a code and the limit.
PROTOCOL_VERSION: Final = 1
FRAME_BYTES_MAX: Final = 4 * MIB
REQUEST_BYTES_MAX: Final = 256 * KIB
REPLY_BYTES_MAX: Final = 4 * MIB
SESSION_TOKEN_BYTES: Final = 16
PEERS_MAX: Final = 4096  # routing ids the hub remembers; the longest silent one is dropped
SESSIONS_PER_KEY_MAX: Final = 64  # a person with many shells; a 65th hello is refused
MANY_MAX: Final = 1000  # messages in one frame; a frame with more is refused whole
MANY_BYTES_MAX: Final = MIB  # of what the hub puts into one frame; the next frame takes the rest
PEER_OUTBOX_MAX: Final = 1024  # messages kept for a peer that does not read; then its session ends
TICK_MESSAGES_MAX: Final = 1000  # one tick's drain: bounds the batch, so the commit and the reply latency
TICK_DRAIN_MS_MAX: Final = 20
WAITERS_MAX: Final = 4096  # parked `task_wait` requests; above it the request is answered at once
WAIT_S_MAX: Final = 30

# A task as people submit it. The sum must fit REQUEST_BYTES_MAX; each field has its own bound so that the
# error can name the field.
BATCH_TASKS_MAX: Final = 1000
DESCRIPTION_CHARS_MAX: Final = 131_072
NAME_CHARS_MAX: Final = 64
LABEL_CHARS_MAX: Final = 128
URL_CHARS_MAX: Final = 2048
PATH_CHARS_MAX: Final = 4096
COMMAND_CHARS_MAX: Final = 32_768
REASON_CHARS_MAX: Final = 2000
KEY_CHARS_MAX: Final = 200
FILES_MAX: Final = 200
CRITERIA_MAX: Final = 100
CHECKS_MAX: Final = 50
NEEDS_MAX: Final = 32
LABELS_MAX: Final = 32
DEPENDS_MAX: Final = 100
RETRIES_MAX: Final = 100
FIX_ATTEMPTS_MAX: Final = 20
BASE_ANSWER_S_MAX: Final = 20  # for a server before any work: most often there is none yet, and the check failed
TIMEOUT_S_MAX: Final = 7 * 24 * 3600
TTL_S_MAX: Final = 366 * 24 * 3600
AWAY_MS_MAX: Final = 24 * 3600 * 1000  # of the time without a hub: more than that does not count for terms
CLOCK_JUMP_MS: Final = 1000  # between two looks at the wall clock: beyond it the clock was set, not adjusted
CLOCK_LOOK_MS: Final = 1000  # how late a moment on the wall clock may be noticed after the clock was set
CLOCK_NOTE_MS: Final = 10 * 60 * 1000  # how often the clock of terms is written down
KEY_CODES: Final = frozenset({"auth_refused", "bad_key", "billing"})  # a host's key is at fault, not the task
KEY_BLOCK_MS: Final = 15 * 60 * 1000  # a host whose key is at fault is tried again after this, or at a release
PAGE_MAX: Final = 500
SCAN_ROWS_MAX: Final = 5000  # rows one list request may read; the page is then short and has a cursor

SETTINGS_MAX: Final = 200  # settings in one change, and words in one value
SETTING_CHARS_MAX: Final = 2000

# Retention, per tick: rows of tasks looked at, tasks and events that go. Bounds the batch and the time.
RETIRE_ROWS_MIN: Final = 100  # or twice what has finished since the last slice: what comes in goes out
RETIRE_ROWS_MAX: Final = 1000
RETIRE_SCAN_ROWS_MAX: Final = 500  # looked at beyond those that go

# Results and logs. A result must fit one message; outputs are cut (head and tail) to make it fit.
OUTPUT_BYTES_MAX: Final = 64 * KIB
CHECK_OUTPUT_BYTES_MAX: Final = 8 * KIB
RESULT_BYTES_MAX: Final = 224 * KIB
STATEMENT_CHARS_MAX: Final = 40 * KIB  # what a host signs of a result: some 450 for each of 70 checks
SIGNED_BYTES_MAX: Final = STATEMENT_CHARS_MAX + KIB  # with key and signature
SECOND_HOST_TRIES_MAX: Final = 3  # of hosts that could not verify a task's work; then it is held
AFTERWORDS_BYTES_MAX: Final = 16 * KIB  # what a result that is signed may still get: a pull request, warnings
LOG_CHUNK_BYTES_MAX: Final = 16 * KIB
LOG_TAIL_BYTES_MAX: Final = 256 * KIB  # kept by the hub per running attempt; the oldest goes first
LOG_TOTAL_BYTES_MAX: Final = 64 * MIB
HISTORY_OTHERS_MAX: Final = 8

# Hosts and endpoints.
AGENTS_PER_HOST_MAX: Final = 64
ATTEMPTS_PER_HOST_MAX: Final = 256
HOSTS_MAX: Final = 2000
ENDPOINTS_MAX: Final = 2000
MODELS_PER_ENDPOINT_MAX: Final = 500  # of a longer list the first; how many are left out is told (`list_fault`)
SCHEDULED_POOLS_MAX: Final = 512  # that the scheduler's rows follow between ticks; the one used longest ago goes first
SCHEDULED_REPOS_MAX: Final = 10_000  # likewise; beyond that all are found anew
SCHEDULED_AHEAD_MAX: Final = 4096  # tasks of each pool that a tick looks at while those before them wait
CAPABILITIES_MAX: Final = 200
PROCESSORS_MAX: Final = 4096  # of a host; a report with more leaves them out
GPUS_PER_HOST_MAX: Final = 64  # of a host with more the first are reported
GPU_PROCESSES_MAX: Final = 16  # of a GPU: those that hold most of its memory
FIGURES_DROPPED_MAX: Final = 32  # names of figures of one report that could not be used; further ones are not named
REPORT_S_MAX: Final = 3600  # between two reports of a host's resources
TREND_S_MAX: Final = 15 * 60  # of a host's figures that are kept; older points go
TREND_STEP_S: Final = 5  # between two points; a report within it adds none
TREND_POINTS_MAX: Final = TREND_S_MAX // TREND_STEP_S
TREND_SHOWN: Final = 36  # points of a figure in a list of hosts: three minutes at the usual pace
REPORT_SAVE_MS: Final = 60 * 1000  # between two records of one host's figures; a crash takes the reports since then
REPOS_PER_HOST_MAX: Final = 200  # that a host is known to have worked on lately
MODEL_CAPABILITIES_MAX: Final = 16  # of a model, as its server names them; the rest is left out
MODEL_CARDS_MAX: Final = 2000  # what models can do, kept by digest; the oldest goes
WORD_CHARS_MAX: Final = 40
ACCOUNT_CAP: Final = 1000  # calls at once on a cloud account until somebody sets fewer: no bound in practice
FAILED_STARTS_MAX: Final = 32  # of an agent program in one attempt; the first are told
PROVIDER_LIMITS_MAX: Final = 16  # figures of a provider's own limits in one result
BREAKER_REASON_CHARS_MAX: Final = 300
QUESTIONS_MAX: Final = 5  # that the attempts of a task may ask a person; then a model cannot ask any more
ANSWER_CHARS_MAX: Final = 8000
QUESTIONS_PER_BEAT_MAX: Final = 16  # of models that are asked for a token; further ones with the next
PROBE_ANSWER_BYTES_MAX: Final = 4 * MIB
PRELOADS_MAX: Final = 16  # models that are being loaded ahead of tasks, on all endpoints; further ones wait
PRELOADS_PER_HOST_MAX: Final = 8  # the same on one host; what is asked beyond that is refused
PRELOAD_POOLS_MAX: Final = 32  # sets of tasks that are looked at once a second, those first that start first
PRELOAD_AGENTS_MAX: Final = 64  # agents that are free soon, likewise
WORKTREES_TOLD_MAX: Final = 100  # of a host; it says how many more there are
QUIET_ALWAYS_MS: Final = 253_402_300_799_000  # the end of quiet hours that never end: the last moment of the year 9999
PRELOAD_WAIT_MS: Final = 30_000  # after a load that failed, before the next there; doubled each time
PRELOAD_WAIT_MS_MAX: Final = 600_000
PRELOAD_GRACE_MS: Final = 10_000  # for the answer to travel, beyond the time that a load has
INVITES_MAX: Final = 200
QUEUE_LIMIT_MAX: Final = 1_000_000  # at once, of a repository, a label or an endpoint; above it nothing is limited
QUEUE_WEIGHT_MAX: Final = 1000  # shares of a submitter or a repository, where others have 1
BUDGET_USD_MAX: Final = 1_000_000  # above it somebody mistook the unit
PREDECESSORS_MAX: Final = 16  # of a task that its assignment tells of; the base always, then the first
PREDECESSOR_CHARS_MAX: Final = 2000  # of what one of them said, its end
PREDECESSORS_CHARS_MAX: Final = 6000  # of all in a prompt: small models have a context of 8,192 tokens
JUDGE_REASONS_MAX: Final = 8  # of a judgement by a model; the rest is left out
JUDGE_REASON_CHARS_MAX: Final = 300
CHECK_FAULTS_MAX: Final = 20  # plugins of a host that cannot be used and are told of; the rest is left out
PROGRAM_FAULTS_MAX: Final = 20  # agent programs that a host offers and cannot use, the same
REPO_CHECKS_MAX: Final = 20  # of a registered repository, beside those of each task
REPOSITORIES_MAX: Final = 1000  # registered; one more is refused
QUEUE_RULES_MAX: Final = 1000  # pauses, limits and weights together; one more is refused
PRINCIPALS_MAX: Final = 10_000
INVITE_TTL_S: Final = 3600
PAGE_SESSION_TTL_S: Final = 12 * 3600
LINK_TTL_S: Final = 600

# The web process.
SSE_STREAMS_MAX: Final = 48
WEB_THREADS: Final = 64
SNAPSHOT_TASKS_MAX: Final = 500
SNAPSHOT_EVENTS_MAX: Final = 50  # the newest that were kept; the rest is paged

assert REQUEST_BYTES_MAX < FRAME_BYTES_MAX
assert MANY_BYTES_MAX < FRAME_BYTES_MAX
assert REPLY_BYTES_MAX <= FRAME_BYTES_MAX
assert RESULT_BYTES_MAX < REQUEST_BYTES_MAX
assert RESULT_BYTES_MAX > 4 * SIGNED_BYTES_MAX  # which a result that is signed leaves free
assert OUTPUT_BYTES_MAX + CHECK_OUTPUT_BYTES_MAX < RESULT_BYTES_MAX
assert DESCRIPTION_CHARS_MAX < REQUEST_BYTES_MAX
assert CLOCK_NOTE_MS < AWAY_MS_MAX
assert SSE_STREAMS_MAX < WEB_THREADS
