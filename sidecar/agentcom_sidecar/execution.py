"""One attempt from its assignment to its outcome: run, commit, check, fix, report.

`execute` never raises but asyncio.CancelledError, and then only when everything that it started is dead:
commands die in the sandbox, model calls with their connection. Whatever happens, the outcome says what was
used: a failed attempt carries a partial result with its tokens, cost and iterations.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

from agentcom import limits, logs
from agentcom.endpoint_keys import key_for
from agentcom.errors import AgentComError, ConfigError
from agentcom.messages import ToVerify
from agentcom.model import (
    PAID,
    Backend,
    CheckKind,
    CheckReport,
    CheckStatus,
    Iteration,
    Judgement,
    SignedReport,
    Strategy,
    TaskError,
    TaskResult,
    Tier,
)
from agentcom.redaction import redact_cut, redact_text, redact_values, redacted
from agentcom_sidecar import policy, prices, prompt, pull_requests, push, second_look, trees, verify
from agentcom_sidecar.agentic.command_tools import CommandTools
from agentcom_sidecar.agentic.file_tools import FileTools
from agentcom_sidecar.agentic.loop import Bounds, Hooks, Tally, converse
from agentcom_sidecar.agentic.tools import Toolbox, result_chars_max
from agentcom_sidecar.anthropic_key import KEY_VARIABLE, find_key
from agentcom_sidecar.backends import process, shell
from agentcom_sidecar.backends.base import (
    BackendError,
    Conversation,
    ModelBackend,
    Usage,
    configuration,
    infrastructure,
    task_error,
)
from agentcom_sidecar.backends.ollama import OllamaBackend
from agentcom_sidecar.backends.openai import OpenAIBackend
from agentcom_sidecar.command import CommandResult
from agentcom_sidecar.forges.base import ForgeError
from agentcom_sidecar.isolation import Isolation
from agentcom_sidecar.prices import PriceList
from agentcom_sidecar.purse import Purse, purse_of
from agentcom_sidecar.questions import QUESTION, Kept, questions_of
from agentcom_sidecar.sandbox import isolation_of
from agentcom_sidecar.verify import fix_loop
from agentcom_sidecar.verify.judge import Judge
from agentcom_sidecar.verify.report import Stopwatch, cut, evidence_of, fit, result_status, text_of, way_out
from agentcom_sidecar.work import Outcome, Work
from agentcom_sidecar.workspace import CommitInfo, WorkspaceError

NO_MODEL = "none"
CLAUDE = "agentcom_sidecar.backends.claude"
COMMAND_CHECKS = frozenset({CheckKind.test_passes, CheckKind.command_succeeds, CheckKind.http_responds})
JUDGE_S_MIN = 10.0  # for a judge, also where the work has used up its time; within the overtime of an attempt
SPENT_BUDGET = "the budget of this attempt is spent"
SUBJECT_CHARS_MAX = 72  # of a commit message's first line


@dataclass(slots=True)
class Progress:
    """What an attempt has come to so far; at any moment enough for a result."""

    backend: Backend
    model: str
    isolation: Isolation
    output: str = ""
    output_dropped_bytes: int = 0
    exit_code: int | None = None
    commit: CommitInfo | None = None
    iterations: list[Iteration] = field(default_factory=list)
    before: tuple[CheckStatus, ...] = ()
    tampered: tuple[str, ...] = ()
    said: str = ""  # by the model in its newest try
    has_moved: bool = False  # whether that changed a file
    tries: list[str] = field(default_factory=list)  # that did not pass, a line each
    pushed_branch: str | None = None
    pull_request: str | None = None
    signed: SignedReport | None = None
    tally: Tally = field(default_factory=Tally)
    program: str = ""
    session: str = ""
    failed_starts: tuple[str, ...] = ()
    failed_starts_ms: tuple[int, ...] = ()
    costs: list[float | None] = field(default_factory=list)  # as the program told them, a run each
    durations_ms: dict[str, int] = field(default_factory=dict)
    watch: Stopwatch = field(default_factory=Stopwatch)

    def spend(self, what: str, ms: int) -> None:
        self.durations_ms[what] = self.durations_ms.get(what, 0) + ms


async def execute(work: Work) -> Outcome:
    """Runs one attempt to its end. Raises nothing but asyncio.CancelledError."""
    route = work.assign.route
    is_command = route.strategy is Strategy.trivial
    isolated_by = await isolation_of(work.settings.sandbox.mode)
    progress = Progress(route.backend, NO_MODEL if is_command else route.model, isolated_by)
    error: TaskError | None = None
    try:
        _refuse_unknown_checks(work)
        if work.assign.verifies is not None:
            await _verify_again(work, progress, work.assign.verifies)
        else:
            await _STRATEGIES[route.strategy](work, progress)
            await _publish(work, progress)
    except BackendError as failure:
        error = failure.as_error()
    except WorkspaceError as failure:
        error = failure.as_error()
    except Exception as failure:  # ours: the attempt must still be reported, or its agent would hang
        error = _mistake(work, failure)
    result: TaskResult | None = None
    try:
        result = _result(work, progress)
    except Exception as failure:
        error = error or _mistake(work, failure)
    if error is not None:
        what = "[asks]" if error.code == QUESTION else f"[failed] {error.code}:"
        work.log(f"{what} {error.message}\n")
        return Outcome(outcome="failed", error=error, result=result)
    return Outcome(outcome="completed", result=result)


def _mistake(work: Work, failure: Exception) -> TaskError:
    logs.get(task=work.assign.task, attempt=work.assign.attempt).error("attempt_broke", exc_info=failure)
    said = f"the sidecar made a mistake: {type(failure).__name__}: {failure}"
    return infrastructure("sidecar_error", said).as_error()


# The three strategies. Each leaves what it did in `progress`, also when it raises.


async def _run_command(work: Work, progress: Progress) -> None:
    """trivial: the task's command, then its checks, once."""
    if work.spec.command is None:
        raise configuration("no_command", "a trivial task needs a command, and this one has none")
    _refuse_commands(work)
    await _look_at_base(work, progress)
    result = await shell.run(work, work.spec.command, work.assign.timeout_s)
    progress.output, progress.output_dropped_bytes = text_of(result.output), result.truncated_bytes
    progress.exit_code = result.exit_code
    progress.spend("command", result.duration_ms)
    failure = shell.failure_of(result, work.assign.timeout_s, work.settings.sidecar.silence_s)
    if failure is not None:
        raise failure
    if result.survivors:
        progress.tally.warn(f"processes that outlived the command and were killed: {result.survivors}")

    async def build(_number: int, _before: Iteration | None) -> tuple[int, int]:
        await _commit(work, progress, 1)
        return 0, 0

    await fix_loop.run(build, _timed_checks(work, progress), 0, progress.iterations)


async def _ask_local_model(work: Work, progress: Progress) -> None:
    route, settings = work.assign.route, work.settings
    if route.endpoint_url is None:
        raise configuration("bad_route", "the route names no endpoint for a local model")
    if route.backend is Backend.openai:
        await _ask_model(work, progress, _openai(work, route.endpoint_url))
        return
    backend = OllamaBackend(
        url=route.endpoint_url,
        model=route.model,
        num_ctx=route.num_ctx or settings.models.num_ctx,
        num_predict=settings.sidecar.max_output_tokens,
        first_byte_s=settings.sidecar.first_byte_s,
        idle_s=settings.sidecar.idle_s,
    )
    await _ask_model(work, progress, backend)


def _openai(work: Work, url: str) -> ModelBackend:
    settings = work.settings
    try:
        key = key_for(url, settings.endpoints.key_files)
    except ConfigError as error:
        raise configuration("bad_key", error.message) from error
    return OpenAIBackend(
        url=url,
        model=work.assign.route.model,
        key=key,
        num_ctx=work.assign.route.num_ctx,
        max_tokens=settings.sidecar.max_output_tokens,
        first_byte_s=settings.sidecar.first_byte_s,
        idle_s=settings.sidecar.idle_s,
    )


async def _ask_claude(work: Work, progress: Progress) -> None:
    settings = work.settings
    # The SDK takes seconds to import: never for a host without Claude, and never on the event loop.
    await asyncio.to_thread(importlib.import_module, CLAUDE)
    from agentcom_sidecar.backends.claude import ClaudeBackend

    try:
        key = find_key(settings)
    except ConfigError as error:
        raise configuration("bad_key", error.message) from error
    if key is None:
        raise configuration("no_key", f"this host has no key: set {KEY_VARIABLE} or anthropic.key_file")
    backend = ClaudeBackend(
        key=key,
        base_url=settings.anthropic.base_url,
        model=work.assign.route.model,
        max_tokens=settings.sidecar.max_output_tokens,
        first_byte_s=settings.sidecar.first_byte_s,
        idle_s=settings.sidecar.idle_s,
    )
    await _ask_model(work, progress, backend, _purse(work))


def _purse(work: Work) -> Purse | None:
    """What the attempt may spend, where a budget concerns it: only then must prices be known."""
    if work.assign.budget_usd is None:
        return None
    try:
        found = prices.load(work.settings.anthropic.prices_file)
    except ConfigError as error:
        raise configuration("bad_prices", error.message) from error
    out_max = work.settings.sidecar.max_output_tokens
    return purse_of(work.assign.budget_usd, work.assign.route.model, found, out_max)


async def _run_program(work: Work, progress: Progress) -> None:
    """An agent program works on the task by itself; what fails its checks goes back to it."""
    if work.spec.verify and any(check.kind in COMMAND_CHECKS for check in work.checks):
        _refuse_commands(work)
    program = process.prepared(work)
    progress.program = program.adapter.name
    await _look_at_base(work, progress)
    tally, left_s = progress.tally, float(work.assign.timeout_s)
    task = redact_values(prompt.program_text(_first_message(work)))

    async def build(number: int, failed: Iteration | None) -> tuple[int, int]:
        nonlocal left_s
        text = task
        if failed:
            await work.workspace.discard()
            fix = _fix_text(progress, failed)
            text = fix if program.session and program.adapter.resume else f"{task}\n\n{fix}"
        if is_spent():
            tally.stop("budget", SPENT_BUDGET)
            return 0, 0
        watch = Stopwatch()
        try:
            heard = await program.run(text, number, left_s, _left_usd(work, progress))
        except BackendError as error:
            tally.usages.append(error.usage)
            raise
        finally:
            tally.model_ms += watch.ms
            left_s = max(0.01, left_s - watch.ms / 1000)
            progress.failed_starts, progress.failed_starts_ms = tuple(program.tries), tuple(program.tried_ms)
            progress.session = program.session
        tally.usages.append(heard.usage)
        progress.said = heard.text
        tally.text, tally.stop_reason = heard.text or tally.text, heard.stop_reason
        progress.model = heard.model or progress.model
        progress.costs.append(heard.cost_usd)
        for notice in heard.notices:
            tally.warn(notice)
        await _commit(work, progress, number)
        return heard.usage.prompt, heard.usage.out

    def is_spent() -> bool:
        left_usd = _left_usd(work, progress)
        return left_usd is not None and left_usd <= 0

    checks, tries = _timed_checks(work, progress), work.assign.max_fix_attempts
    await fix_loop.run(build, checks, tries, progress.iterations, is_spent)
    if is_spent() and progress.iterations[-1].status == "fail":
        tally.stop("budget", SPENT_BUDGET)


def _left_usd(work: Work, progress: Progress) -> float | None:
    """What the attempt may still cost; None where no budget concerns it. Runs of unknown cost leave nothing."""
    budget_usd = work.assign.budget_usd
    if budget_usd is None:
        return None
    return 0.0 if None in progress.costs else budget_usd - sum(each or 0.0 for each in progress.costs)


_STRATEGIES: dict[Strategy, Callable[[Work, Progress], Awaitable[None]]] = {
    Strategy.trivial: _run_command,
    Strategy.local_llm: _ask_local_model,
    Strategy.cloud_llm: _ask_claude,
    Strategy.agent_program: _run_program,
}


async def _ask_model(
    work: Work, progress: Progress, backend: ModelBackend, purse: Purse | None = None
) -> None:
    """The task goes to the model; what fails its checks goes back to it, `max_fix_attempts` times at most."""
    if any(check.kind in COMMAND_CHECKS for check in work.checks):
        _refuse_commands(work)  # before the model has cost anything
    if work.kept is None:
        await _look_at_base(work, progress)
    else:
        progress.before = work.kept.said_before(work.checks)
    resumed = work.kept.conversation(str(backend.name)) if work.kept is not None else None
    conversation = resumed or Conversation(prompt.SYSTEM)
    toolbox = _toolbox(work)
    hooks = Hooks(work.log, work.progress, work.heard, work.hub_gate)
    if purse is not None:
        hooks = replace(hooks, may_spend=purse.refuses)
    tally, bounds = progress.tally, _bounds(work)
    left_s = float(work.assign.timeout_s)

    async def build(number: int, failed: Iteration | None) -> tuple[int, int]:
        nonlocal left_s
        if failed:
            await work.workspace.discard()
        text = redact_values(prompt.answer_text(work.assign.answers) if resumed else _first_message(work))
        if failed:
            text = _fix_text(progress, failed)
        conversation.messages.append(text)
        before, watch = tally.total, Stopwatch()
        said_before, tally.text = tally.text, ""
        try:
            async with asyncio.timeout(left_s):
                await converse(backend, conversation, toolbox, tally, hooks, bounds)
        except TimeoutError as error:
            said = f"the model was not done within {work.assign.timeout_s} s (timeout_s)"
            await _commit(work, progress, number)
            if progress.commit is None and not toolbox.files.written_bytes:
                raise task_error("timed_out", said) from error
            tally.stop("time", said)
        finally:
            left_s = max(0.0, left_s - watch.ms / 1000)
            progress.said, tally.text = tally.text, tally.text or said_before
        await _commit(work, progress, number)
        if tally.question:
            await _keep_question(work, progress, conversation)
        after = tally.total
        return after.prompt - before.prompt, after.out - before.out

    judging = Judge(backend, hooks, tally, bounds, _context(work))

    async def judge(reports: tuple[CheckReport, ...]) -> Judgement | None:
        nonlocal left_s
        is_empty = work.workspace.has_repository and progress.commit is None
        if not work.spec.judge or is_empty:
            return None
        made = await judging.judge(work, reports, max(left_s, JUDGE_S_MIN))
        left_s = max(0.0, left_s - made.duration_ms / 1000)
        return made

    async with backend:
        checks = _timed_checks(work, progress)
        tries = work.assign.max_fix_attempts
        await fix_loop.run(build, checks, tries, progress.iterations, lambda: tally.is_spent, judge)


async def _keep_question(work: Work, progress: Progress, conversation: Conversation) -> None:
    """Writes down what the next attempt needs to go on here, then ends this one with its question."""
    place = work.workspace
    kept = Kept(
        directory=place.path.name,
        branch=place.branch,
        base_commit=place.base_commit,
        base_branch=place.base_branch,
        backend=str(progress.backend),
        system=conversation.system,
        messages=list(conversation.messages),
        before=progress.before,
        checks=work.checks,
    )
    key = (work.assign.task, work.assign.attempt)
    try:
        await asyncio.to_thread(questions_of(work.home.sidecar).put, key, kept)
    except OSError as error:
        raise infrastructure("disk_failed", f"the question cannot be written down: {error}") from error
    raise configuration("question", progress.tally.question)


def _toolbox(work: Work) -> Toolbox:
    """The tools for this attempt's directory, with commands where this host lets a model run them."""
    refusal = policy.check_model_commands(work)
    chars_max = result_chars_max(_context(work))

    async def run(argv: tuple[str, ...], timeout_s: float, is_logged: bool) -> CommandResult:
        return await shell.run_program(work, argv, timeout_s, is_logged=is_logged)

    commands = CommandTools(work.workspace.path, run, refusal.message if refusal else None, chars_max)
    may_ask = len(work.assign.answers) < limits.QUESTIONS_MAX
    return Toolbox(FileTools(work.workspace.path, chars_max), commands, may_ask=may_ask)


def _context(work: Work) -> int | None:
    """Tokens that the model's context holds; None where it is large."""
    route = work.assign.route
    return (route.num_ctx or work.settings.models.num_ctx) if route.strategy is Strategy.local_llm else None


def _bounds(work: Work) -> Bounds:
    own = work.settings.sidecar
    rounds = {
        Tier.trivial: own.rounds_trivial,
        Tier.standard: own.rounds_standard,
        Tier.complex: own.rounds_complex,
    }
    tier = work.assign.tier
    return Bounds(rounds[tier], own.attempt_tokens_max, f"sidecar.rounds_{tier}")


def _first_message(work: Work) -> str:
    told = prompt.task_text(work.spec, work.checks, work.assign.predecessors)
    return f"{told}\n\n{prompt.answers_text(work.assign.answers)}" if work.assign.answers else told


def _refuse_unknown_checks(work: Work) -> None:
    """Raises, before anything has been done, when this host lacks the plugin for a check: another may have it."""
    if missing := verify.missing_kinds(work.checks):
        said = f"this host has no checks of kind {', '.join(missing)}: install the plugin for it here, or mend the kind"
        raise infrastructure("check_missing", said)


def _refuse_commands(work: Work) -> None:
    """Raises when this host's policy runs no commands of this task."""
    if refusal := policy.check_commands(work):
        raise BackendError(refusal.failure_class, refusal.code, refusal.message)


async def _commit(work: Work, progress: Progress, number: int) -> None:
    subject = work.spec.description.strip().splitlines()[0] if work.spec.description.strip() else "work"
    task, attempt = work.assign.task, work.assign.attempt
    said = f"{redact_text(subject)[:SUBJECT_CHARS_MAX]}\n\nTask {task}, attempt {attempt}, iteration {number}."
    trailers = (f"AgentCom-Task: {task}", f"AgentCom-Attempt: {attempt}")
    before = progress.commit
    progress.commit = await work.workspace.commit(said, trailers)
    progress.has_moved = progress.commit != before


def _fix_text(progress: Progress, failed: Iteration) -> str:
    """What goes back to the model after the newest try has failed its checks."""
    progress.tries.append(prompt.try_line(progress.said, failed, has_changed=progress.has_moved))
    return redact_cut(prompt.fix_text(failed.checks, progress.tries, failed.judgement, progress.tampered))


async def _look_at_base(work: Work, progress: Progress) -> None:
    watch = Stopwatch()
    progress.before = await verify.look_at_base(work)
    if progress.before:
        progress.spend("base_checks", watch.ms)


def _timed_checks(work: Work, progress: Progress) -> fix_loop.Verify:
    async def checks(is_last: bool) -> tuple[CheckReport, ...]:
        watch = Stopwatch()
        try:
            reports, found = await verify.verdict(work, progress.before, is_last=is_last)
            progress.tampered = found.paths
            if not found.is_whole:
                progress.tally.warn("too many files changed to see whether tests are among them")
            return reports
        finally:
            progress.spend("checks", watch.ms)

    return checks


async def _verify_again(work: Work, progress: Progress, wanted: ToVerify) -> None:
    """Another host's work, from a clean clone: no model, nothing committed, nothing pushed."""
    if any(check.kind in COMMAND_CHECKS for check in work.checks):
        _refuse_commands(work)
    refusal = second_look.refusal_of(work.assign, wanted)
    if refusal is not None:
        raise refusal
    progress.commit = await work.workspace.head()
    progress.pushed_branch = wanted.branch
    if progress.commit.commit != wanted.commit:
        progress.tally.warn(f"{wanted.branch} at the repository does not have {wanted.commit}")
        return

    async def build(_number: int, _failed: Iteration | None) -> tuple[int, int]:
        return 0, 0

    await fix_loop.run(build, _timed_checks(work, progress), 0, progress.iterations)
    agrees = progress.commit.tree == wanted.tree and progress.iterations[-1].status == "pass"
    if agrees and wanted.report is not None and _wants_pull_request(work):
        await _ask_to_merge(work, progress, wanted.branch, wanted.report)


def _wants_pull_request(work: Work) -> bool:
    wanted = work.spec.pull_request
    return work.settings.git.pull_requests if wanted is None else wanted


async def _publish(work: Work, progress: Progress) -> None:
    """The branch goes to where its base came from, before the attempt is done."""
    place, made = work.workspace, progress.commit
    if made is None or place.mirror is None or place.remote is None or place.outside is None:
        return
    if reason := push.why_not(place.remote, is_wanted=work.settings.git.push):
        work.log(f"[not pushed] {reason}\n")
        return
    await work.hub_gate()  # after a lease without the hub, the task may be another's by now
    watch = Stopwatch()
    progress.pushed_branch = await push.push(
        place.mirror, place.remote, place.branch, made.commit, place.outside, work.settings.sidecar.fetch_s
    )
    progress.spend("push", watch.ms)
    await asyncio.to_thread(
        trees.pushed, work.home, place.path.name, progress.pushed_branch, made.commit
    )
    work.log(f"[pushed] {progress.pushed_branch}\n")
    if not _wants_pull_request(work):
        return
    if work.spec.second_host and progress.iterations and progress.iterations[-1].status == "pass":
        work.log("[no pull request yet] the second host opens it when it agrees\n")
        return
    await _ask_to_merge(work, progress, progress.pushed_branch)


async def _ask_to_merge(work: Work, progress: Progress, branch: str, first: TaskResult | None = None) -> None:
    """A pull request for what was pushed; `first` is the report of the host that has, where that is another. The work
    is safe by now: what a forge refuses is a warning."""
    watch = Stopwatch()
    try:
        risk = pull_requests.risk_of(await work.workspace.line_counts())
        own = _sign(work, progress)
        results = (own, None) if first is None else (first, own)
        opened = pull_requests.open_for(work, branch, work.workspace.base_branch, results, risk)
        found, url, warning = await opened
    except (ForgeError, WorkspaceError) as error:
        progress.tally.warn(f"no pull request ({error.code}): {error.message}")
        work.log(f"[no pull request] {error.code}: {error.message}\n")
        return
    if url:
        progress.pushed_branch, progress.pull_request = found, url
        progress.spend("pull_request", watch.ms)
        work.log(f"[pull request] {url}\n")
        if warning:
            progress.tally.warn(warning)
    elif work.spec.pull_request:
        progress.tally.warn("no pull request: git.forges of this host names no forge for this repository")


def _sign(work: Work, progress: Progress) -> TaskResult:
    """The result so far with its signature, which the pull request names: what is signed changes no more, so it is cut
    to leave room for what comes after."""
    room = limits.SIGNED_BYTES_MAX + limits.AFTERWORDS_BYTES_MAX
    result = work.sign(redacted(fit(_result(work, progress), limits.RESULT_BYTES_MAX - room)))
    progress.iterations, progress.tampered = list(result.iterations), result.tampered
    progress.signed = result.signed
    return result


# The result: from whatever there is.


def _result(work: Work, progress: Progress) -> TaskResult:
    tally, workspace = progress.tally, work.workspace
    is_model = work.assign.route.strategy is not Strategy.trivial
    if is_model:
        progress.output = tally.text
        progress.durations_ms |= {
            "model": tally.model_ms,
            "load": tally.load_ms,
            "first_byte": tally.first_byte_ms,
            "generate": tally.generate_ms,
        }
    costs = _costs(work, progress)
    total = tally.total
    output, dropped = cut(progress.output, limits.OUTPUT_BYTES_MAX)
    return fit(
        TaskResult(
            status=result_status(
                progress.iterations,
                is_verified=work.is_verified,
                is_model_in_repository=is_model and workspace.has_repository,
                has_changed=progress.commit is not None and bool(progress.commit.files_changed),
            ),
            output=output,
            output_truncated_bytes=progress.output_dropped_bytes + dropped,
            backend=progress.backend,
            model=progress.model,
            tokens_in=total.prompt,
            tokens_out=total.out,
            tokens_cached=total.cache_read,
            cost_usd=costs.usd,
            cloud_model=costs.cloud_model,
            cloud_cost_usd=costs.cloud_usd,
            prices_as_of=costs.as_of,
            duration_ms=progress.watch.ms,
            durations_ms=progress.durations_ms,
            sandbox=progress.isolation.name,
            sandbox_reason=progress.isolation.note,
            exit_code=progress.exit_code,
            base=workspace.base_commit or None,
            signed=progress.signed,
            commit=progress.commit.commit if progress.commit else None,
            tree=progress.commit.tree if progress.commit else None,
            branch=progress.pushed_branch or workspace.branch or None,
            pushed=progress.pushed_branch is not None,
            pull_request=progress.pull_request,
            files_changed=progress.commit.files_changed if progress.commit else (),
            context_truncated=tally.context_truncated,
            stop_reason=tally.stop_reason,
            warnings=(*tally.warnings, *way_out(progress.iterations, progress.tampered)),
            spec_sha256=work.spec_sha256,
            provider_limits=tally.provider_limits,
            iterations=tuple(progress.iterations),
            evidence=evidence_of(progress.iterations[-1].checks) if progress.iterations else None,
            tampered=progress.tampered,
            program=progress.program,
            session=progress.session,
            failed_starts=tuple(
                each[: limits.REASON_CHARS_MAX] for each in progress.failed_starts[: limits.FAILED_STARTS_MAX]
            ),
            failed_starts_ms=progress.failed_starts_ms[: limits.FAILED_STARTS_MAX],
        )
    )


@dataclass(frozen=True, slots=True)
class _Costs:
    """USD; None is unknown. `cloud_usd`: the same calls at `cloud_model`, for local work."""

    usd: float | None
    cloud_model: str | None = None
    cloud_usd: float | None = None
    as_of: str | None = None


def _costs(work: Work, progress: Progress) -> _Costs:
    if progress.backend is Backend.shell:
        return _Costs(0.0)
    try:
        price_list = prices.load(work.settings.anthropic.prices_file)
    except AgentComError as error:
        progress.tally.warn(f"costs are unknown: {error.message}")
        price_list = PriceList({})
    if progress.backend is Backend.program and progress.costs and None not in progress.costs:
        return _Costs(sum(each or 0.0 for each in progress.costs))
    if progress.backend in PAID:
        if progress.backend is not Backend.program and progress.tally.total == Usage():
            return _Costs(0.0)  # no call has read or written a token, so none is paid, whatever the price
        usd, as_of = cost_at(price_list, progress.model, progress.tally)
        return _Costs(usd, as_of=as_of)
    cloud_model = work.assign.cloud_model or work.settings.models.compare
    usd, as_of = cost_at(price_list, cloud_model, progress.tally)
    if work.assign.route.remote:
        own, own_as_of = cost_at(price_list, progress.model, progress.tally)
        return _Costs(own, cloud_model, usd, own_as_of or as_of)
    return _Costs(0.0, cloud_model, usd, as_of)


def cost_at(price_list: PriceList, model: str, tally: Tally) -> tuple[float | None, str | None]:
    """What the calls cost at the price of that model, and the day of the price; None where that is not known."""
    price = price_list.of(model)
    if price is None:
        tally.warn(f"the price of {model} is unknown; name it in anthropic.prices_file")
        return None, None
    if tally.total.odd:
        tally.warn("the server gave a number of tokens that cannot be: what its calls have cost is unknown")
        return None, None
    return prices.usd(sum(price.cost(usage) for usage in tally.usages)), price.as_of
