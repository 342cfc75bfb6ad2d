"""no_secrets: what the work adds holds nothing that looks like a key or a token.

Changed files are read whole; a line that the base has as well is not the work's. Forms are those that the issuers
document: a prefix of their own and a length. A secret without a form is not found, so a pass is no proof.
"""

from __future__ import annotations

import re
from typing import Final

from agentcom import limits
from agentcom.model import CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar.agentic import confined
from agentcom_sidecar.verify.report import Stopwatch, report
from agentcom_sidecar.work import Work

FILE_BYTES_MAX = 4 * limits.MIB
ALL_BYTES_MAX = 128 * limits.MIB
LINE_BYTES_MAX = 4096  # of a line that is looked at: generated code has longer ones
FOUND_MAX = 20

FORMS: Final = {
    "private key": re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"),
    "AWS access key": re.compile(rb"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b"),
    "GitHub token": re.compile(rb"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})"),
    "GitLab token": re.compile(rb"\bgl(?:pat|ptt|rt|dt|cbt)-[A-Za-z0-9_-]{20,}"),
    "Anthropic key": re.compile(rb"\bsk-ant-[A-Za-z0-9_-]{20,}"),
    "OpenAI key": re.compile(rb"\bsk-(?:proj-|svcacct-)?[A-Za-z0-9_-]{32,}"),
    "Google API key": re.compile(rb"\bAIza[A-Za-z0-9_-]{35}\b"),
    "Slack token": re.compile(rb"\bxox[abposr]-[A-Za-z0-9-]{10,}"),
    "Stripe key": re.compile(rb"\b[rs]k_live_[A-Za-z0-9]{20,}"),
    "npm token": re.compile(rb"\bnpm_[A-Za-z0-9]{36}\b"),
    "PyPI token": re.compile(rb"\bpypi-[A-Za-z0-9_-]{50,}"),
    "Hugging Face token": re.compile(rb"\bhf_[A-Za-z0-9]{30,}"),
    "AgentCom token": re.compile(rb"\bac[tsl]_[A-Za-z0-9_-]{16,}|\bacj1\.[A-Za-z0-9_.-]{20,}"),
    "JSON web token": re.compile(rb"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
}


async def check(spec: CheckSpec, work: Work) -> CheckReport:
    watch = Stopwatch()
    if not work.workspace.has_repository:
        return report(spec, CheckStatus.error, "the task has no repository", watch.ms)
    changes = await work.workspace.changes()
    if not changes.is_whole:
        return report(spec, CheckStatus.failed, "more files changed than can be listed", watch.ms)
    found: list[str] = []
    left_bytes = ALL_BYTES_MAX
    for path in (*changes.changed, *changes.added):
        content = _content(work, path)
        left_bytes -= len(content)
        if len(content) > FILE_BYTES_MAX or left_bytes < 0:
            return report(spec, CheckStatus.error, f"{path} is too large to be searched", watch.ms)
        hits = secrets_in(content)
        if hits and path in changes.changed:
            before = set((await work.workspace.base_content(path)).split(b"\n"))
            hits = [hit for hit in hits if hit[2] not in before]
        found += [f"{path}, line {line}: {name}" for line, name, _ in hits]
    # Where, and of which kind: never the secret itself, which would be in the report then.
    listed = "\n".join(found[:FOUND_MAX])
    status = CheckStatus.failed if found else CheckStatus.passed
    return report(spec, status, listed or f"{len(changes.changed) + len(changes.added)} files", watch.ms)


def secrets_in(content: bytes) -> list[tuple[int, str, bytes]]:
    """(number of the line, what it looks like, the line) for each line with something that has the form of a secret."""
    if not any(form.search(content) for form in FORMS.values()):
        return []
    hits = []
    for number, line in enumerate(content.split(b"\n"), 1):
        kind = next((name for name, form in FORMS.items() if form.search(line[:LINE_BYTES_MAX])), None)
        if kind is not None:
            hits.append((number, kind, line))
    return hits


def _content(work: Work, path: str) -> bytes:
    """What is there now; empty for what was deleted, and for a link, which git keeps as a path."""
    try:
        return confined.read(work.workspace.path, path, FILE_BYTES_MAX + 1) or b""
    except confined.PathRefused:
        return b""
