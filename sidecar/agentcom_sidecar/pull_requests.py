"""The pull request of a task: one, whatever attempt made it, with the evidence in its body.

Rules it keeps:
* It is found again by a mark in its body (hub and task), so neither a second attempt nor a sidecar that was killed
  between push and report opens another one.
* The branch of an open one is moved to a later attempt's commit only while it is where an attempt of ours left it.
* The work is pushed by then: a forge that refuses costs no attempt, but a warning in the result.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace

from agentcom.auth import read_hub_address
from agentcom.model import CheckReport, ResultStatus, TaskResult
from agentcom.redaction import redact_text
from agentcom.signed_report import fingerprint, signature_in_short
from agentcom_sidecar import push
from agentcom_sidecar.forges.base import Draft, Forge, ForgeError, PullRequest
from agentcom_sidecar.forges.places import place_of
from agentcom_sidecar.git import WorkspaceError
from agentcom_sidecar.stops import STOPS
from agentcom_sidecar.work import Work

TITLE_CHARS_MAX = 120
CHECKS_SHOWN_MAX = 50
BIG_LINES, BIG_FILES = 500, 30
SMALL_LINES, SMALL_FILES = 50, 5
NO_DRAFT = ("this is no finished work, and its pull request is no draft", "convert it to a draft")
STILL_DRAFT = ("this is finished work, and its pull request is still a draft", "mark it as ready for review")
SENSITIVE = re.compile(
    r"(^|/)(\.github|\.gitlab|\.circleci|\.forgejo|\.gitea|migrations|auth|security|deploy|infra)/"
    r"|(^|/)(Dockerfile|Makefile|Jenkinsfile|CODEOWNERS|\.env[^/]*|\.git(attributes|modules)|[^/]*\.(lock|tf|ini|cfg|toml|ya?ml)"
    r"|(package|package-lock|tsconfig)\.json|go\.(mod|sum)|requirements[^/]*\.txt)$"
)


async def open_for(
    work: Work, branch: str, base: str, results: tuple[TaskResult, TaskResult | None], risk: str
) -> tuple[str, str, str]:
    """(branch, URL, warning) of the task's pull request, all empty where its repository has no forge here. `results`:
    that of the work and, where there is one, that of the second host. Raises ForgeError."""
    result, second = results
    remote = work.workspace.remote
    found = place_of(remote.url, work.settings.git.forges) if remote else None
    if found is None or result.commit is None:
        return "", "", ""
    await work.hub_gate()
    forge = found.open()
    try:
        if not await forge.has_branch(base):
            raise ForgeError(f"{found.repository} has no branch {base!r} to merge into", code="forge_missing")
        return await _open(work, forge, branch, base, (result, second), risk)
    finally:
        await forge.api.aclose()


async def _open(
    work: Work, forge: Forge, branch: str, base: str, results: tuple[TaskResult, TaskResult | None], risk: str
) -> tuple[str, str, str]:
    result, second = results
    title, body = redact_text(title_of(work)), redact_text(body_of(work, result, risk, second))
    draft = Draft(branch, base, title, body, is_partial(result))
    made, ours = None, await _find(work, forge, branch)
    if ours is None:
        made = await forge.create(draft)
        ours = made or await _find(work, forge, branch)
    work.progress()  # each call may have waited for a rate limit
    if ours is None:
        raise ForgeError(
            "the forge says that there is one, and shows none: it may be closed, or there is nothing to merge; "
            "the branch is pushed, open it by hand",
            code="forge_refused",
        )
    if ours.branch != branch:
        await _move(work, ours, result.commit or "")
    warning = await _mark(forge, ours, is_draft=draft.is_draft)
    work.progress()
    if warning:
        draft = replace(draft, body=redact_text(f"**Mind:** {warning}.\n\n{body}"))
    if warning or made is None:
        await forge.update(ours.number, draft)
    return ours.branch, ours.url, warning


async def _mark(forge: Forge, ours: PullRequest, *, is_draft: bool) -> str:
    """What a reader must know of its draft flag, where the forge leaves it as it is; empty where it is right."""
    try:
        await forge.mark(ours, is_draft=is_draft)
    except ForgeError as error:
        said, todo = NO_DRAFT if is_draft else STILL_DRAFT
        return f"{said}: {todo} by hand, the forge has not ({error.code}: {_code(error.message)})"
    return ""


async def _find(work: Work, forge: Forge, branch: str) -> PullRequest | None:
    mark = mark_of(work)
    return next(
        (each for each in await forge.open_ones() if each.branch == branch or mark in each.body), None
    )


async def _move(work: Work, ours: PullRequest, commit: str) -> None:
    """Its branch to a later attempt's commit, unless somebody else has worked on it."""
    place = work.workspace
    left = re.search(r"^AgentCom-Commit: ([0-9a-f]{40,64})\r?$", ours.body, re.MULTILINE)
    if left is None or left[1] != ours.commit:
        raise ForgeError(f"{ours.url} has commits of others, and stays as it is", code="forge_refused")
    assert place.mirror is not None
    assert place.remote is not None
    assert place.outside is not None
    bound_s = work.settings.sidecar.fetch_s
    try:
        await push.push_over(
            place.mirror, place.remote, ours.branch, commit, ours.commit, place.outside, bound_s
        )
    except WorkspaceError as error:
        raise ForgeError(f"{ours.url} cannot be moved on: {error.message}", code="forge_refused") from error


# What it says.


def mark_of(work: Work) -> str:
    """Names the task among those of all hubs."""
    address = read_hub_address(work.home)
    hub = hashlib.sha256((address.key if address else "").encode()).hexdigest()[:16]
    return f"<!-- agentcom {hub} {work.assign.task} -->"


def is_partial(result: TaskResult) -> bool:
    """Whether a check does not pass, or the work was stopped and no check says that it is whole all the same."""
    is_unproved = result.status is not ResultStatus.verified and result.stop_reason in STOPS
    return is_unproved or result.status is ResultStatus.partial_pass


def title_of(work: Work) -> str:
    lines = work.spec.description.strip().splitlines()
    return (lines[0] if lines else "work")[:TITLE_CHARS_MAX]


def risk_of(lines_by_path: dict[str, int] | None) -> str:
    """`low`, `medium` or `high`, with the reason: by size, and by what the files are for."""
    if lines_by_path is None:
        return "high: too many files to count"
    lines, files = sum(lines_by_path.values()), len(lines_by_path)
    size = f"{files} files, {lines} lines"
    sensitive = sorted(path for path in lines_by_path if SENSITIVE.search(path))
    if sensitive:
        return f"high: {size}; configuration, CI or rights: {', '.join(map(_code, sensitive[:5]))}"
    if lines > BIG_LINES or files > BIG_FILES:
        return f"high: {size}"
    return f"low: {size}" if lines <= SMALL_LINES and files <= SMALL_FILES else f"medium: {size}"


def body_of(work: Work, result: TaskResult, risk: str, second: TaskResult | None = None) -> str:
    """`second`: what this host found when it verified the work of another."""
    assign, first = work.assign, work.assign.verifies
    agent, host, attempt = assign.agent, assign.route.host, assign.attempt
    if first is not None:
        agent, host, attempt = first.agent, first.host, first.attempt
    cost = "unknown" if result.cost_usd is None else f"{result.cost_usd:.4f} USD"
    tampered = ", ".join(map(_code, result.tampered[:20])) or "none"
    rows = [
        f"Status: **{result.status}**{f', {result.evidence}' if result.evidence else ''}",
        f"Risk: {risk}",
        f"Changed tests, CI or lint settings: {tampered}",
        f"Made by {_code(agent)} on {_code(host)} with {_code(result.model)}; "
        f"{result.tokens_in} tokens in, {result.tokens_out} out; {cost}; attempt {attempt}, "
        f"{len(result.iterations)} iterations; isolated by {result.sandbox}",
    ]
    if result.stop_reason in STOPS:
        rows.insert(1, _stopped_row(result))
    rows += _opinion(result)
    checks = result.iterations[-1].checks if result.iterations else ()
    trailers = (
        f"AgentCom-Task: {assign.task}\nAgentCom-Attempt: {attempt}\n"
        f"AgentCom-Commit: {result.commit}\nAgentCom-Tree: {result.tree}"
    )
    if result.signed is not None:
        key, short = fingerprint(result.signed.key), signature_in_short(result.signed)
        rows.append(f"Report signed by {_code(host)}, key {_code(key)}, signature {_code(short)}")
        trailers += f"\nAgentCom-Signature: {short}"
    if second is not None:
        rows.append(_second_row(assign.route.host, second))
    return "\n\n".join(("\n".join(f"* {row}" for row in rows), *_table(checks), mark_of(work), trailers))


def _stopped_row(result: TaskResult) -> str:
    """What has ended the work before its model was done."""
    said = [each.removeprefix("stopped: ") for each in result.warnings if each.startswith("stopped: ")]
    return f"Stopped before it was done, by {_code(str(result.stop_reason))}{f': {_code(said[-1])}' if said else ''}"


def _opinion(result: TaskResult) -> list[str]:
    """What a model thinks of it, marked as that."""
    judged = result.iterations[-1].judgement if result.iterations else None
    if judged is None:
        return []
    said = " ".join(map(_code, judged.reasons)) or _code(judged.note)
    return [f"Judged by {_code(judged.model)}, not proof: {judged.verdict} {said}".rstrip()]


def _second_row(host: str, second: TaskResult) -> str:
    checks = second.iterations[-1].checks if second.iterations else ()
    row = f"Verified again by {_code(host)} from a clean clone: {len(checks)} checks pass; isolated by {second.sandbox}"
    if second.signed is None:
        return row
    key, short = fingerprint(second.signed.key), signature_in_short(second.signed)
    return f"{row}; signed with key {_code(key)}, signature {_code(short)}"


def _table(checks: tuple[CheckReport, ...]) -> list[str]:
    if not checks:
        return ["No checks ran."]
    is_tampered = any(each.with_base for each in checks)
    names = ["check", "before", "after", *(["with the tests and settings of the base"] if is_tampered else [])]
    rows = [names, ["---"] * len(names)]
    for each in checks[:CHECKS_SHOWN_MAX]:
        row = [f"{_of(each)}{each.kind} {_code(each.target)}", each.before or "not looked at", str(each.status)]
        rows.append([*row, each.with_base or "not run"] if is_tampered else row)
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    left = len(checks) - CHECKS_SHOWN_MAX
    return [table, f"{left} more checks ran."] if left > 0 else [table]


def _of(report: CheckReport) -> str:
    return "the repository's " if report.source == "repository" else ""


def _code(text: str) -> str:
    """Inert in Markdown: whatever a task or a file is called."""
    plain = " ".join(text.replace("`", "'").replace("|", "/").split())[:200]
    return f"`{plain}`" if plain else ""
