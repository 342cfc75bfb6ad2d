"""Verification: one file per kind of check. Definitions come from the task and from its registered repository,
never from a model.

All checks run, the repository's first, then in the task's order; none hides the next, whatever happens to it. They
run on the base first, so that a report can say what the work has changed, and once more with the tests and settings
of the base where the attempt has changed those.
"""

from __future__ import annotations

import asyncio
import math
import posixpath
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from agentcom import limits, logs
from agentcom.errors import AgentComError
from agentcom.model import CheckKind, CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar.verify import (
    command_succeeds,
    diff_within,
    file_contains,
    file_exists,
    git_clean,
    http_responds,
    json_valid,
    no_secrets,
    plugins,
    test_passes,
)
from agentcom_sidecar.verify.plugins import Plugins
from agentcom_sidecar.verify.report import Stopwatch, can_be_fixed, passes, report
from agentcom_sidecar.verify.standing import head_of, ignored_files, judges_of_base, stand_at
from agentcom_sidecar.verify.usual_command import command_at_base
from agentcom_sidecar.verify.watched import Tampered, is_test, judges, tampered
from agentcom_sidecar.work import Work

CHECKS: dict[str, Callable[[CheckSpec, Work], Awaitable[CheckReport]]] = {
    CheckKind.file_exists: file_exists.check,
    CheckKind.test_passes: test_passes.check,
    CheckKind.command_succeeds: command_succeeds.check,
    CheckKind.git_clean: git_clean.check,
    CheckKind.file_contains: file_contains.check,
    CheckKind.json_valid: json_valid.check,
    CheckKind.http_responds: http_responds.check,
    CheckKind.diff_within: diff_within.check,
    CheckKind.no_secrets: no_secrets.check,
}
PLUGGED: Final = Plugins()  # of this process: filled once at its start
GUARDS = frozenset({CheckKind.git_clean, CheckKind.diff_within, CheckKind.no_secrets})
LOOKING = GUARDS | {CheckKind.file_exists, CheckKind.file_contains, CheckKind.json_valid}  # run no command
# A command's own bound is spec.timeout_s; killing its tree may take this much longer.
MARGIN_S = 30.0


async def run_checks(
    work: Work, label: str = "check", specs: Sequence[CheckSpec] | None = None
) -> tuple[CheckReport, ...]:
    """The report of every check of the repository and of the task (or of `specs`), in order; empty when there are none.

    Commands of checks run what an attempt has written: one that moves HEAD could show the next checks, and the look at
    who changed the tests, another commit than the one that is pushed. So it is put back after each.
    """
    reports: list[CheckReport] = []
    until = asyncio.get_running_loop().time() + work.settings.sidecar.checks_s
    place, specs = work.workspace, work.checks if specs is None else specs
    commit = await head_of(place) if place.has_repository and specs else ""
    for spec in specs:
        one = await _run_within(until, spec, work)
        if commit and spec.kind not in LOOKING and await head_of(place) != commit:
            await stand_at(place, commit)
            work.log(f"[{label}] {spec.kind} moved HEAD away from the work; it was put back\n")
        work.progress()
        work.log(f"[{label}] {spec.kind} {spec.target}: {one.status}\n")
        reports.append(one)
    return tuple(reports)


async def look_at_base(work: Work) -> tuple[CheckStatus, ...]:
    """What each check says before any work; nothing without a repository. The worktree is as fresh as before."""
    if not work.workspace.has_repository or not work.settings.sidecar.red_first:
        return ()
    before = await run_checks(work, "check on the base", [_bounded(spec) for spec in work.checks])
    await work.workspace.discard(ignored=True)
    return tuple(report.status for report in before)


def _bounded(spec: CheckSpec) -> CheckSpec:
    """Where no work was done yet there is most often no server that could answer: not worth the whole time."""
    if spec.kind != CheckKind.http_responds:
        return spec
    return msgspec.structs.replace(spec, timeout_s=min(spec.timeout_s, limits.BASE_ANSWER_S_MAX))


def _was(before: CheckStatus | None, report: CheckReport) -> CheckStatus | None:
    """What the check said before; nothing of a server that needs longer to answer than it was given there."""
    is_late = report.duration_ms > limits.BASE_ANSWER_S_MAX * 1000
    if report.kind == CheckKind.http_responds and before is CheckStatus.timed_out and is_late:
        return None
    return before


async def verdict(
    work: Work, before: Sequence[CheckStatus], *, is_last: bool = True
) -> tuple[tuple[CheckReport, ...], Tampered]:
    """The reports of all checks on the committed work, with what they said `before`; where the attempt changed files
    that judge it, also what they say with these as the base has them. And which files those are.

    A run that fails is not worth a second one while the work goes on (not `is_last`)."""
    found = Tampered()
    if work.checks:  # as the attempt left it: what the checks do comes after
        place = work.workspace
        changes, ignored = await place.changes(), await ignored_files(place)
        base = await judges_of_base(place) if any(map(judges, changes.added)) else None
        found = tampered(changes, _named(work, changes.added), ignored, base)
    specs = await _with_usual_command(work)
    reports = _told(await run_checks(work, specs=specs), len(work.assign.repo_checks), before)
    if found.paths and (is_last or all(map(passes, reports)) or not can_be_fixed(reports)):
        reports = await _with_base(work, specs, reports, found)
    return reports, found


def _named(work: Work, added: Sequence[str]) -> set[str]:
    """The files that the task names, and the new ones that a check names by their path: what it asks for."""
    asked = " ".join(f"{spec.target} {spec.command or ''}" for spec in work.checks)
    words = set(re.split(r"[\s'\"=:;]+", asked))
    return {file.path for file in work.spec.files} | {path for path in added if is_test(path) and path in words}


async def _with_usual_command(work: Work) -> tuple[CheckSpec, ...]:
    """The checks; those that take the usual test command with that of the base, if it has one."""
    if not work.workspace.has_repository or not any(map(_takes_the_usual_command, work.checks)):
        return work.checks
    usual = await command_at_base(work.workspace) or ""
    given = (msgspec.structs.replace(s, command=usual) if _takes_the_usual_command(s) else s for s in work.checks)
    return tuple(given)


def _takes_the_usual_command(spec: CheckSpec) -> bool:
    return spec.kind == CheckKind.test_passes and not spec.target.strip()


def _told(
    reports: Sequence[CheckReport], repo_checks: int, before: Sequence[CheckStatus]
) -> tuple[CheckReport, ...]:
    """With where each check comes from and what it said before."""
    sources = ["repository" if number < repo_checks else one.source for number, one in enumerate(reports)]
    said: Sequence[CheckStatus | None] = before or [None] * len(reports)
    each = zip(reports, sources, said, strict=True)
    return tuple(msgspec.structs.replace(one, source=source, before=_was(was, one)) for one, source, was in each)


async def _with_base(
    work: Work, specs: Sequence[CheckSpec], reports: tuple[CheckReport, ...], found: Tampered
) -> tuple[CheckReport, ...]:
    """What is about the work as it is, is not asked again, nor what has not ended: it would take as long once more."""
    work.log(f"[check] changed files that judge the work: {', '.join(found.paths[:20])}\n")
    ended = [one.status is not CheckStatus.timed_out for one in reports]
    places = [n for n, spec in enumerate(specs) if ended[n] and not _is_of_the_work(spec, found)]
    if not places:
        return reports
    await work.workspace.discard()  # what the checks left behind
    async with work.workspace.with_base(found.restored, found.removed, found.ignored):
        again = await run_checks(work, "check with the base's tests", [specs[number] for number in places])
    seconds = dict(zip(places, again, strict=True))
    return tuple(_both(one, seconds.get(number)) for number, one in enumerate(reports))


def _is_of_the_work(spec: CheckSpec, found: Tampered) -> bool:
    """Guards, and checks that look at one of the changed files: what they ask of it, the base could not have."""
    if spec.kind in GUARDS or spec.kind not in LOOKING:
        return spec.kind in GUARDS
    target = posixpath.normpath(spec.target)
    return any(path == target or path.startswith(f"{target}/") for path in found.paths)


def _both(report: CheckReport, again: CheckReport | None) -> CheckReport:
    """Its output is that of the run that says why it does not pass."""
    if again is None:
        return report
    is_exposed = report.status is CheckStatus.passed and again.status is not CheckStatus.passed
    output = again.output if is_exposed else report.output
    duration_ms = report.duration_ms + again.duration_ms
    return msgspec.structs.replace(report, with_base=again.status, output=output, duration_ms=duration_ms)


async def _run_within(until: float, spec: CheckSpec, work: Work) -> CheckReport:
    """One check, in its own time and in what is left of that of all."""
    left_s = math.ceil(until - asyncio.get_running_loop().time())
    if left_s >= spec.timeout_s:
        return await _run(spec, work)
    limit = f"all checks together may take {work.settings.sidecar.checks_s} s (sidecar.checks_s)"
    if left_s <= 0:
        return report(spec, CheckStatus.timed_out, f"not begun: {limit}", 0)
    found = await _run(msgspec.structs.replace(spec, timeout_s=left_s), work)
    if found.status is not CheckStatus.timed_out:
        return found
    return msgspec.structs.replace(found, output=f"{found.output}\n[ended early: {limit}]".lstrip())


async def _run(spec: CheckSpec, work: Work) -> CheckReport:
    watch = Stopwatch()
    try:
        if spec.kind not in CHECKS:
            return await _run_plugged(spec, work, watch)
        async with asyncio.timeout(spec.timeout_s + MARGIN_S):
            return await CHECKS[spec.kind](spec, work)
    except TimeoutError:
        return report(spec, CheckStatus.timed_out, f"no end within {spec.timeout_s} s", watch.ms)
    except AgentComError as error:
        return report(spec, CheckStatus.error, error.message, watch.ms)
    except Exception as error:  # the next check must run; the report says what happened to this one
        logs.get(task=work.assign.task, attempt=work.assign.attempt).warning(
            "check_broke", kind=str(spec.kind), error=repr(error)
        )
        return report(spec, CheckStatus.error, f"{type(error).__name__}: {error}", watch.ms)


async def _run_plugged(spec: CheckSpec, work: Work, watch: Stopwatch) -> CheckReport:
    check = PLUGGED.checks.get(spec.kind)
    if check is None:
        return report(spec, CheckStatus.error, f"this host has no checks of kind {spec.kind}", watch.ms)
    found = await plugins.run(check, spec, work, spec.timeout_s)
    return msgspec.structs.replace(found, duration_ms=watch.ms)


def missing_kinds(checks: Sequence[CheckSpec]) -> list[str]:
    """The kinds among these that this host does not have."""
    return sorted({str(each.kind) for each in checks if each.kind not in CHECKS and each.kind not in PLUGGED.checks})
