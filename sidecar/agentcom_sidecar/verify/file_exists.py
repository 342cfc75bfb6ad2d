"""file_exists: a file at a path in the worktree; with a slash at the end, a directory."""

from __future__ import annotations

import stat

from agentcom.model import CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar.agentic import confined
from agentcom_sidecar.verify.report import Stopwatch, report
from agentcom_sidecar.work import Work


async def check(spec: CheckSpec, work: Work) -> CheckReport:
    watch = Stopwatch()
    try:
        found = confined.look(work.workspace.path, spec.target)
    except confined.PathRefused as error:
        return report(spec, CheckStatus.refused, str(error), watch.ms)
    wants_directory = spec.target.endswith("/")
    if found is None:
        return report(spec, CheckStatus.failed, f"{spec.target} is not there", watch.ms)
    if stat.S_ISDIR(found.st_mode) != wants_directory:
        is_what = "a directory" if stat.S_ISDIR(found.st_mode) else "no directory"
        return report(spec, CheckStatus.failed, f"{spec.target} is {is_what}", watch.ms)
    if not wants_directory and not stat.S_ISREG(found.st_mode):
        return report(spec, CheckStatus.failed, f"{spec.target} is no regular file", watch.ms)
    said = "a directory" if wants_directory else f"{found.st_size} bytes"
    return report(spec, CheckStatus.passed, f"{spec.target}: {said}", watch.ms)
