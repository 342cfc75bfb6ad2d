"""What a plugin for a kind of check builds on; see docs/verification.md. Kept stable: others' code imports it.

    def check(spec: CheckSpec, work: Work) -> CheckReport

A plain function runs in a thread of its own; one that runs commands is `async` and must not block.
"""

from __future__ import annotations

from agentcom import limits
from agentcom.model import CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar import policy
from agentcom_sidecar.agentic import confined
from agentcom_sidecar.backends import shell
from agentcom_sidecar.command import CommandResult
from agentcom_sidecar.verify.plugins import PluginFailed
from agentcom_sidecar.verify.report import report as _report
from agentcom_sidecar.work import Work

__all__ = ["CheckReport", "CheckSpec", "CheckStatus", "CommandResult", "Work", "read", "report", "run"]


def report(spec: CheckSpec, status: CheckStatus, output: str = "") -> CheckReport:
    """How the check ended, with what people (and the model that is to mend it) shall read. The time is measured by the
    sidecar."""
    return _report(spec, status, output, 0)


def read(work: Work, path: str, bytes_max: int = 16 * limits.MIB) -> bytes | None:
    """The beginning of a file in the worktree; None where there is no such file. A path that leads out of the worktree,
    by a link too, fails the check with an error."""
    try:
        return confined.read(work.workspace.path, path, bytes_max)
    except confined.PathRefused as error:
        raise PluginFailed(str(error)) from error


async def run(work: Work, command: str, timeout_s: float) -> CommandResult:
    """Runs a shell command in the worktree, behind the same door as every command of a task; its whole tree is dead
    afterwards. Fails the check with an error where this host runs no commands of the task."""
    if refusal := policy.check_commands(work):
        raise PluginFailed(refusal.message)
    return await shell.run(work, command, timeout_s, is_logged=False)
