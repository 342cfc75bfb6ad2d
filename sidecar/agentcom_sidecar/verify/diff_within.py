"""diff_within: the work stays in its place and its size.

`target` is patterns of paths, apart by spaces, as in a shell (`src/** docs/*.md`; `**` crosses folders); every changed
file must fit one of them. `expect` is how many lines may be changed, added and deleted together. Either may be empty.
"""

from __future__ import annotations

import re

from agentcom.model import CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar.verify.report import Stopwatch, report
from agentcom_sidecar.work import Work

LISTED_MAX = 20


async def check(spec: CheckSpec, work: Work) -> CheckReport:
    watch = Stopwatch()
    if not work.workspace.has_repository:
        return report(spec, CheckStatus.error, "the task has no repository", watch.ms)
    sizes = await work.workspace.line_counts()
    if sizes is None:
        return report(spec, CheckStatus.failed, "more files changed than can be listed", watch.ms)
    allowed = [pattern_of(each) for each in spec.target.split()]
    outside = [path for path in sizes if allowed and not any(each.fullmatch(path) for each in allowed)]
    lines = sum(sizes.values())
    problems = []
    if outside:
        more = f" and {len(outside) - LISTED_MAX} more" if len(outside) > LISTED_MAX else ""
        problems.append(f"outside of {spec.target}: {', '.join(outside[:LISTED_MAX])}{more}")
    if spec.expect and lines > int(spec.expect):
        problems.append(f"{lines} lines changed, {spec.expect} are allowed")
    status = CheckStatus.failed if problems else CheckStatus.passed
    return report(spec, status, "\n".join(problems) or f"{len(sizes)} files, {lines} lines", watch.ms)


def pattern_of(glob: str) -> re.Pattern[str]:
    """A shell's pattern for whole paths: `*` and `?` stay within a folder, `**` crosses folders."""
    pieces = re.split(r"(\*\*/?|\*|\?)", glob)
    words = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return re.compile("".join(words.get(piece) or re.escape(piece) for piece in pieces), re.DOTALL)
