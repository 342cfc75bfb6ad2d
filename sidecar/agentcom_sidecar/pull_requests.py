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
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from agentcom.auth import read_hub_address
from agentcom.config import read_private
from agentcom.errors import ConfigError
from agentcom.model import CheckReport, ResultStatus, TaskResult
from agentcom.redaction import redact_text
from agentcom_sidecar import push
from agentcom_sidecar.forges.base import Draft, Forge, ForgeError, PullRequest
from agentcom_sidecar.forges.gitea import Gitea
from agentcom_sidecar.forges.github import GitHub
from agentcom_sidecar.forges.gitlab import GitLab
from agentcom_sidecar.git import WorkspaceError
from agentcom_sidecar.work import Work

KINDS: dict[str, type[GitHub | GitLab]] = {"github": GitHub, "gitea": Gitea, "gitlab": GitLab}
TITLE_CHARS_MAX = 120
CHECKS_SHOWN_MAX = 50
BIG_LINES, BIG_FILES = 500, 30
SMALL_LINES, SMALL_FILES = 50, 5
SENSITIVE = re.compile(
    r"(^|/)(\.github|\.gitlab|\.circleci|\.forgejo|\.gitea|migrations|auth|security|deploy|infra)/"
    r"|(^|/)(Dockerfile|Makefile|Jenkinsfile|\.gitlab-ci\.yml|[^/]*\.(lock|tf|ini|cfg|toml|ya?ml)|package-lock\.json)$"
)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Place:
    """Which forge serves a repository, as this host's settings say."""

    kind: str
    api: str
    token_file: Path
    repository: str

    def open(self) -> GitHub | GitLab:
        """Raises ForgeError for a token that cannot be used."""
        try:
            token = read_private(self.token_file).decode("ascii").strip()
        except (OSError, UnicodeDecodeError, ConfigError) as error:
            raise ForgeError(
                f"the token in {self.token_file} cannot be read: {error}", code="forge_denied"
            ) from error
        if not token or not token.isprintable() or " " in token:
            raise ForgeError(f"{self.token_file} holds no token: one line of ASCII", code="forge_denied")
        return KINDS[self.kind](self.api, self.repository, token)


def place_of(url: str, entries: tuple[str, ...]) -> Place | None:
    """Where pull requests for `url` go, by entries `PREFIX KIND API TOKEN_FILE`; None where none fits."""
    address = _plain(url)
    for entry in entries:
        prefix, kind, api, token_file = entry.split(" ", 3)
        inside = address.removeprefix(prefix.rstrip("/") + "/")
        if inside == address:
            continue
        parts = urlsplit(api)
        if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
            raise ForgeError(f"git.forges: {api}: a token is sent by https only", code="forge_refused")
        return Place(kind, api, Path(token_file).expanduser(), inside.removesuffix(".git").strip("/"))
    return None


def _plain(url: str) -> str:
    if "://" in url:
        parts = urlsplit(url)
        return f"{parts.hostname or ''}{parts.path}"
    return url if url.startswith("/") else url.rpartition("@")[2].replace(":", "/", 1)


async def open_for(work: Work, branch: str, base: str, result: TaskResult, risk: str) -> tuple[str, str]:
    """(branch, URL) of the task's pull request; ("", "") where its repository has no forge here. Raises ForgeError."""
    remote = work.workspace.remote
    found = place_of(remote.url, work.settings.git.forges) if remote else None
    if found is None or result.commit is None:
        return "", ""
    await work.hub_gate()
    forge = found.open()
    try:
        if not await forge.has_branch(base):
            raise ForgeError(f"{found.repository} has no branch {base!r} to merge into", code="forge_missing")
        return await _open(work, forge, branch, base, result, risk)
    finally:
        await forge.api.aclose()


async def _open(
    work: Work, forge: Forge, branch: str, base: str, result: TaskResult, risk: str
) -> tuple[str, str]:
    title, body = redact_text(title_of(work)), redact_text(body_of(work, result, risk))
    draft = Draft(branch, base, title, body, is_partial(result))
    ours = await _find(work, forge, branch)
    if ours is None:
        made = await forge.create(draft)
        if made is not None:
            return branch, made.url
        ours = await _find(work, forge, branch)
        if ours is None:
            raise ForgeError(
                "the forge says that there is one, and shows none: it may be closed", code="forge_refused"
            )
    if ours.branch != branch:
        await _move(work, ours, result.commit or "")
    await forge.update(ours.number, draft)
    return ours.branch, ours.url


async def _find(work: Work, forge: Forge, branch: str) -> PullRequest | None:
    mark = mark_of(work)
    return next(
        (each for each in await forge.open_ones() if each.branch == branch or mark in each.body), None
    )


async def _move(work: Work, ours: PullRequest, commit: str) -> None:
    """Its branch to a later attempt's commit, unless somebody else has worked on it."""
    place = work.workspace
    left = re.search(r"^AgentCom-Commit: ([0-9a-f]{40,64})$", ours.body, re.MULTILINE)
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
    return result.status is ResultStatus.partial_pass


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


def body_of(work: Work, result: TaskResult, risk: str) -> str:
    assign = work.assign
    cost = "unknown" if result.cost_usd is None else f"{result.cost_usd:.4f} USD"
    tampered = ", ".join(map(_code, result.tampered[:20])) or "none"
    rows = [
        f"Status: **{result.status}**{f', {result.evidence}' if result.evidence else ''}",
        f"Risk: {risk}",
        f"Changed tests, CI or lint settings: {tampered}",
        f"Made by {_code(assign.agent)} on {_code(assign.route.host)} with {_code(result.model)}; "
        f"{result.tokens_in} tokens in, {result.tokens_out} out; {cost}; attempt {assign.attempt}, "
        f"{len(result.iterations)} iterations; isolated by {result.sandbox}",
    ]
    checks = result.iterations[-1].checks if result.iterations else ()
    trailers = (
        f"AgentCom-Task: {assign.task}\nAgentCom-Attempt: {assign.attempt}\n"
        f"AgentCom-Commit: {result.commit}\nAgentCom-Tree: {result.tree}"
    )
    return "\n\n".join(("\n".join(f"* {row}" for row in rows), *_table(checks), trailers, mark_of(work)))


def _table(checks: tuple[CheckReport, ...]) -> list[str]:
    if not checks:
        return ["No checks ran."]
    head = "| check | before | after |\n| --- | --- | --- |"
    rows = [
        f"| {_of(each)}{each.kind} {_code(each.target)} | {each.before or 'not looked at'} | {each.status} |"
        for each in checks[:CHECKS_SHOWN_MAX]
    ]
    return ["\n".join((head, *rows))]


def _of(report: CheckReport) -> str:
    return "the repository's " if report.source == "repository" else ""


def _code(text: str) -> str:
    """Inert in Markdown: whatever a task or a file is called."""
    plain = " ".join(text.replace("`", "'").replace("|", "/").split())[:200]
    return f"`{plain}`" if plain else ""
