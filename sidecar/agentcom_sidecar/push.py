"""The branch of an attempt goes to where its base came from, before the attempt is done.

Rules it keeps:
* It is pushed from a bare repository of the sidecar's own, which no command of a task has ever seen: configuration
  and hooks there are ours, and the objects are read from the mirror. So credentials never meet a worktree.
* Never by force, but where a lease names the commit that is replaced.
* A branch that is there with the same commit is a success: a push that was cut off can be made again. One that is
  there with another gets a numbered neighbour.
* A user's own checkout is never written: only a bare repository on this host is pushed to.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from pathlib import Path

from agentcom.model import FailureClass
from agentcom_sidecar.git import Git, Remote, WorkspaceError
from agentcom_sidecar.sandbox import View

NAMES_TRIED = 5
AGAIN_AFTER_S = (1.0, 4.0)  # when the server cannot be reached
CONFIG = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
[gc]
\tauto = 0
[maintenance]
\tauto = false
"""
# In this order: of two that push one name at the same time the slower one is also "rejected" by the remote.
_RULE = re.compile(r"hook declined|protected branch|pre-receive", re.IGNORECASE)
_IN_THE_WAY = re.compile(r"'refs/heads/([^']+)' exists; cannot create", re.IGNORECASE)
_RACED = re.compile(r"non-fast-forward|fetch first|already exists|stale info|cannot lock ref", re.IGNORECASE)
_REFUSED = re.compile(r"\[remote rejected\]", re.IGNORECASE)
_BY_A_RULE = "a rule of that repository refused the branch: allow agentcom/* there, or mend what it asks for"
_BARE = re.compile(r"^\s*bare\s*=\s*true\s*$", re.MULTILINE | re.IGNORECASE)
_CODES = {
    "repository_denied": (
        FailureClass.configuration,
        "push_denied",
        "give this host the credentials to write there, or set git.push = false in its config.toml; "
        "then release the task",
    ),
    "repository_missing": (
        FailureClass.configuration,
        "push_denied",
        "the repository is gone, or these credentials may not write there",
    ),
    "repository_unreachable": (
        FailureClass.infrastructure,
        "push_unreachable",
        "if that lasts, look at the network",
    ),
    "repository_timeout": (
        FailureClass.infrastructure,
        "push_unreachable",
        "raise sidecar.fetch_s, or look at the network",
    ),
}


def why_not(remote: Remote, *, is_wanted: bool) -> str | None:
    """Why the branch stays on this host, in words for the result; None when it is pushed."""
    if not is_wanted:
        return "git.push is false on this host"
    if remote.protocol == "file" and is_checkout(Path(remote.url)):
        return f"{remote.shown} is somebody's checkout, which is never written"
    if not remote.is_trusted:
        return "this host's credentials serve tasks of operate and admin only"
    return None


def is_checkout(path: Path) -> bool:
    """Whether somebody may work there: it is not gone, and says not of itself that it is bare."""
    if not path.exists():
        return False  # git says so
    try:
        return path.name == ".git" or not _BARE.search((path / "config").read_text(errors="replace"))
    except OSError:
        return True


async def push(mirror: Path, remote: Remote, branch: str, commit: str, git: Git, bound_s: float) -> str:
    """The name under which `commit` lies at `remote` when this returns: `branch`, or a numbered neighbour where
    that is taken by another commit. Raises WorkspaceError with what to do."""
    outgoing = _outgoing(mirror)
    for number in range(1, NAMES_TRIED + 1):
        name = branch if number == 1 else f"{branch}-{number}"
        try:
            await _push(outgoing, mirror, remote, name, commit, git, bound_s)
            return name
        except WorkspaceError as error:
            if error.code != "push_raced":
                raise
            if await _head_of(outgoing, remote, name, git, bound_s) == commit:
                return name
    raise WorkspaceError(
        FailureClass.infrastructure,
        "push_raced",
        f"{remote.shown}: {branch} and its {NAMES_TRIED - 1} numbered neighbours are taken by others; delete "
        "those that nobody needs",
    )


async def push_over(
    mirror: Path, remote: Remote, branch: str, commit: str, expected: str, git: Git, bound_s: float
) -> None:
    """Replaces `expected` by `commit` on `branch`; `push_raced` where it is something else by now."""
    await _push(_outgoing(mirror), mirror, remote, branch, commit, git, bound_s, expected)


def _outgoing(mirror: Path) -> Path:
    """The bare repository that is pushed from; it borrows the objects of the mirror."""
    folder = mirror.parent.with_name("outgoing") / mirror.name
    for each in ("objects/info", "refs"):
        (folder / each).mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, text in (
        ("HEAD", "ref: refs/heads/main\n"),
        ("config", CONFIG),
        ("objects/info/alternates", f"{mirror / 'objects'}\n"),
    ):
        if not (folder / name).exists() or (folder / name).read_text() != text:
            (folder / name).write_text(text)
    return folder


async def _push(
    outgoing: Path,
    mirror: Path,
    remote: Remote,
    branch: str,
    commit: str,
    git: Git,
    bound_s: float,
    expected: str | None = None,
) -> None:
    ref = f"refs/heads/{branch}"
    lease = (f"--force-with-lease={ref}:{expected}",) if expected else ()
    arguments = ("push", "--quiet", "--no-verify", *lease, "--", remote.url, f"{commit}:{ref}")
    reading = replace(git, view=View(readable=(mirror,)))
    for wait_s in (*AGAIN_AFTER_S, None):
        try:
            await reading.run_remote(remote, *arguments, cwd=outgoing, timeout_s=bound_s)
            return
        except WorkspaceError as error:
            told = _told(error)
            # What took all of its time would take it again, and its agent waits.
            if told.code != "push_unreachable" or error.code == "repository_timeout" or wait_s is None:
                raise told from error
            await asyncio.sleep(wait_s)


async def _head_of(outgoing: Path, remote: Remote, branch: str, git: Git, bound_s: float) -> str:
    listed = await git.run_remote(
        remote, "ls-remote", "--", remote.url, f"refs/heads/{branch}", cwd=outgoing, timeout_s=bound_s
    )
    return listed.split("\t")[0].strip()


def _told(error: WorkspaceError) -> WorkspaceError:
    """The same in terms of a push, with what to do."""
    if _RULE.search(error.said):
        return _refused(error, _BY_A_RULE)
    if found := _IN_THE_WAY.search(error.said):
        return _refused(error, f"the branch {found[1]} there lies in the way: rename or delete it")
    if _RACED.search(error.said):
        return WorkspaceError(FailureClass.infrastructure, "push_raced", error.said)
    if _REFUSED.search(error.said):
        return _refused(error, _BY_A_RULE)
    if error.code not in _CODES:
        return error
    failure_class, code, remedy = _CODES[error.code]
    return WorkspaceError(failure_class, code, error.said, remedy)


def _refused(error: WorkspaceError, what_to_do: str) -> WorkspaceError:
    return WorkspaceError(
        FailureClass.configuration, "push_refused", error.said, f"{what_to_do}, then release the task"
    )
