"""command_succeeds: `sh -c` in the worktree's root ends with exit code 0."""

from __future__ import annotations

from agentcom.model import CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar import policy
from agentcom_sidecar.backends import shell
from agentcom_sidecar.verify.report import output_of_command, report, status_of_command
from agentcom_sidecar.work import Work


async def check(spec: CheckSpec, work: Work) -> CheckReport:
    if refusal := policy.check_commands(work):
        return report(spec, CheckStatus.refused, refusal.message, 0)
    if not spec.target.strip():
        return report(spec, CheckStatus.error, "command_succeeds needs a command as its target", 0)
    result = await shell.run(work, spec.target, spec.timeout_s, is_logged=False)
    return report(spec, status_of_command(result), output_of_command(result), result.duration_ms)
