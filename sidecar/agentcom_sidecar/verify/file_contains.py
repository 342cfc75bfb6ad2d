"""file_contains: the file at a path in the worktree has a text in it, as it stands."""

from __future__ import annotations

from agentcom.model import CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar.verify.files import content_of
from agentcom_sidecar.verify.report import Stopwatch, report
from agentcom_sidecar.work import Work


async def check(spec: CheckSpec, work: Work) -> CheckReport:
    watch = Stopwatch()
    content = content_of(spec, work, watch)
    if isinstance(content, CheckReport):
        return content
    at = content.find(spec.expect.encode())
    if at < 0:
        said = f"{spec.target} does not contain {spec.expect[:200]!r}"
        return report(spec, CheckStatus.failed, said, watch.ms)
    line = content.count(b"\n", 0, at) + 1
    return report(spec, CheckStatus.passed, f"{spec.target}, line {line}", watch.ms)
