"""json_valid: the file at a path in the worktree is one JSON document."""

from __future__ import annotations

import msgspec

from agentcom.model import CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar.verify.files import content_of
from agentcom_sidecar.verify.report import Stopwatch, report
from agentcom_sidecar.work import Work


async def check(spec: CheckSpec, work: Work) -> CheckReport:
    watch = Stopwatch()
    content = content_of(spec, work, watch)
    if isinstance(content, CheckReport):
        return content
    try:
        msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return report(spec, CheckStatus.failed, f"{spec.target}: {error}", watch.ms)
    return report(spec, CheckStatus.passed, f"{spec.target}: {len(content)} bytes of JSON", watch.ms)
