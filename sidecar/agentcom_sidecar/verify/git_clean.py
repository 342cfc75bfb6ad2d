"""git_clean: after the sidecar's own commit nothing is uncommitted and nothing untracked.

It looks when its turn comes, so it also sees what the checks before it left behind.
"""

from __future__ import annotations

from agentcom.model import CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar.verify.report import Stopwatch, report
from agentcom_sidecar.work import Work


async def check(spec: CheckSpec, work: Work) -> CheckReport:
    watch = Stopwatch()
    if not work.workspace.has_repository:
        return report(spec, CheckStatus.error, "the task has no repository", watch.ms)
    is_clean, listing = await work.workspace.is_clean()
    status = CheckStatus.passed if is_clean else CheckStatus.failed
    return report(spec, status, listing or "nothing uncommitted, nothing untracked", watch.ms)
