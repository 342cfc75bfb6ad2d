"""Verification: one file per kind of check. Definitions come from the task, never from a model.

All checks run, in the task's order; none hides the next, whatever happens to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agentcom import logs
from agentcom.errors import AgentComError
from agentcom.model import CheckKind, CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar.verify import command_succeeds, file_exists, git_clean, test_passes
from agentcom_sidecar.verify.report import Stopwatch, report
from agentcom_sidecar.work import Work

CHECKS: dict[CheckKind, Callable[[CheckSpec, Work], Awaitable[CheckReport]]] = {
    CheckKind.file_exists: file_exists.check,
    CheckKind.test_passes: test_passes.check,
    CheckKind.command_succeeds: command_succeeds.check,
    CheckKind.git_clean: git_clean.check,
}
# A command's own bound is spec.timeout_s; killing its tree may take this much longer.
MARGIN_S = 30.0


async def run_checks(work: Work) -> tuple[CheckReport, ...]:
    """The report of every check of the task, in order; empty when the task wants no verification."""
    if not work.spec.verify:
        return ()
    reports = []
    for spec in work.spec.checks:
        one = await _run(spec, work)
        work.progress()
        work.log(f"[check] {spec.kind} {spec.target}: {one.status}\n")
        reports.append(one)
    return tuple(reports)


async def _run(spec: CheckSpec, work: Work) -> CheckReport:
    watch = Stopwatch()
    try:
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
