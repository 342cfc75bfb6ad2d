"""Reading the file that a check is about: within the worktree, a regular one, and bounded."""

from __future__ import annotations

import stat
from typing import Final

from agentcom import limits
from agentcom.model import CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar.agentic import confined
from agentcom_sidecar.verify.report import Stopwatch, report
from agentcom_sidecar.work import Work

FILE_BYTES_MAX: Final = 16 * limits.MIB


def content_of(spec: CheckSpec, work: Work, watch: Stopwatch) -> bytes | CheckReport:
    """What the file at `spec.target` holds, or the report that says why it cannot be read."""
    try:
        found = confined.look(work.workspace.path, spec.target)
        if found is None:
            return report(spec, CheckStatus.failed, f"{spec.target} is not there", watch.ms)
        if not stat.S_ISREG(found.st_mode):
            return report(spec, CheckStatus.failed, f"{spec.target} is no regular file", watch.ms)
        content = confined.read(work.workspace.path, spec.target, FILE_BYTES_MAX + 1)
    except confined.PathRefused as error:
        return report(spec, CheckStatus.refused, str(error), watch.ms)
    if content is None:
        return report(spec, CheckStatus.failed, f"{spec.target} is gone", watch.ms)
    if len(content) > FILE_BYTES_MAX:
        said = f"{spec.target} has more than {FILE_BYTES_MAX} bytes"
        return report(spec, CheckStatus.error, said, watch.ms)
    return content
