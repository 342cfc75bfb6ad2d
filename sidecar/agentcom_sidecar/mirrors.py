"""The bare mirror that a host keeps of each repository: its configuration, its lock, what is fetched into it.

Rules it keeps:
* A mirror holds every branch that an attempt made; a user's own checkout is only read.
* Its configuration is written anew before each command in it or in a worktree, because commands of a task could have
  changed it; worktrees are addressed by their git directory, never through their `.git`.
* One fetch at a time per mirror: an asyncio lock within this process, flock against others.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from weakref import WeakValueDictionary

from agentcom.config import Home, Settings
from agentcom.limits import MIB
from agentcom.model import FailureClass
from agentcom_sidecar.git import Git, Remote, WorkspaceError, configuration
from agentcom_sidecar.sandbox import SandboxMode

LOCK_ROUND_S = 0.05
MIRROR_CONFIG = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
\tlogAllRefUpdates = false
[checkout]
\tworkers = 0
[gc]
\tauto = 0
[maintenance]
\tauto = false
"""
_locks: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()


def mirror_for(remote: Remote, home: Home) -> Path:
    return home.sidecar / "mirrors" / f"{hashlib.sha256(remote.url.encode()).hexdigest()}.git"


def mode_outside(settings: Settings) -> SandboxMode:
    """For git in a mirror: isolated where that works, also in mode `require`, since nobody's program runs there."""
    return "off" if settings.sandbox.mode == "off" else "auto"


@contextlib.asynccontextmanager
async def locked(mirror: Path) -> AsyncIterator[None]:
    """Alone in `mirror`, among this process's attempts and other processes."""
    mirror.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _locks.setdefault(mirror, asyncio.Lock())
    async with lock:
        with mirror.with_suffix(".lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(LOCK_ROUND_S)
            yield


async def make_mirror(mirror: Path, git: Git) -> None:
    if not (mirror / "HEAD").exists():
        shutil.rmtree(mirror, ignore_errors=True)  # a first fetch that died half-way
        fresh = mirror.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        await git.run("init", "--quiet", "--bare", "--template=", "--", str(fresh), cwd=mirror.parent)
        fresh.rename(mirror)
    own_configuration(mirror)


def own_configuration(mirror: Path) -> None:
    """Replaces the mirror's configuration by ours where a task's command has changed it."""
    path = mirror / "config"
    try:
        if path.read_text() == MIRROR_CONFIG and not path.is_symlink():
            return
    except (OSError, UnicodeDecodeError):
        pass  # missing or unreadable: written anew below
    temporary = mirror / f"config.{os.getpid()}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.write_text(MIRROR_CONFIG)
    temporary.replace(path)


async def has(mirror: Path, commit: str, git: Git, within: str = "") -> bool:
    """Whether the mirror has the commit, or `within` comes after it."""
    asked = ("merge-base", "--is-ancestor", commit, within) if within else ("cat-file", "-e", f"{commit}^{{commit}}")
    try:
        await git.run(*asked, cwd=mirror)
    except WorkspaceError as error:
        if error.code != "git_failed":
            raise
        return False
    return True


async def fetch(
    mirror: Path, remote: Remote, wanted: str | None, *, git: Git, bound_s: float
) -> tuple[str, str]:
    """Brings the base branch into the mirror; its commit id, and the name of its ref."""
    listing = await git.run_remote(
        remote,
        "ls-remote",
        "--symref",
        "--",
        remote.url,
        "HEAD",
        "refs/heads/*",
        cwd=mirror,
        timeout_s=bound_s,
    )
    source = _source_ref(listing, wanted, remote)
    kept_as = base_ref_of(source)
    await _bring(
        mirror,
        git,
        remote,
        "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--force",
        "--", remote.url, f"+{source}:{kept_as}",
        bound_s=bound_s,
    )  # fmt: skip
    return (await git.run("rev-parse", "--verify", f"{kept_as}^{{commit}}", cwd=mirror)).split()[-1], source


async def _bring(mirror: Path, git: Git, remote: Remote, *arguments: str, bound_s: float) -> None:
    """A fetch. It comes as one pack (`fetch.unpackLimit`), so the bound of a file bounds it; git says of that only that
    the pack was cut short. What a fetch that failed has left behind goes."""
    try:
        await git.run_remote(remote, *arguments, cwd=mirror, timeout_s=bound_s)
    except WorkspaceError as error:
        halves = [(half, half.stat().st_size) for half in (mirror / "objects" / "pack").glob("tmp_*")]
        for half, _ in halves:
            half.unlink(missing_ok=True)
        if git.file_bytes_max and any(size >= git.file_bytes_max for _, size in halves):
            said = f"{remote.shown} has more to fetch than sidecar.fetch_mib allows, {git.file_bytes_max // MIB} MiB"
            remedy = "raise that on this host, then release the task"
            raise WorkspaceError(FailureClass.configuration, "repository_too_large", said, remedy) from error
        raise


def base_ref_of(source: str) -> str:
    """What the mirror calls a base, by its ref at the repository or its branch."""
    name = source if source == "HEAD" or source.startswith("refs/") else f"refs/heads/{source}"
    return f"refs/agentcom/base/{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _source_ref(listing: str, wanted: str | None, remote: Remote) -> str:
    """Where to start: the wanted branch, else the one that the remote's HEAD names, else HEAD itself."""
    refs = set(re.findall(r"^[0-9a-f]{40,64}\t(\S+)$", listing, re.MULTILINE))
    if not refs:
        said = f"{remote.shown} has no commit yet; push a first one, then release the task"
        raise configuration("repository_empty", said)
    if wanted:
        if f"refs/heads/{wanted}" not in refs:
            said = f"{remote.shown} has no branch {wanted!r}; push it, then release the task, or name another"
            raise configuration("branch_missing", said)
        return f"refs/heads/{wanted}"
    head = re.search(r"^ref: (refs/heads/\S+)\tHEAD$", listing, re.MULTILINE)
    if head and head.group(1) in refs:
        return head.group(1)
    if "HEAD" in refs:
        return "HEAD"
    said = f"the HEAD of {remote.shown} names a branch that is not there; mend it, or name one with --branch"
    raise configuration("branch_missing", said)


async def free_branch(mirror: Path, branch: str, git: Git) -> str:
    """`branch`, with a number where an earlier life of the hub has used the name."""
    taken = await git.run(
        "for-each-ref", "--format=%(refname)", f"refs/heads/{branch.rsplit('/', 1)[0]}/", cwd=mirror
    )
    names = set(taken.split())
    return next(name for name in numbered(branch) if f"refs/heads/{name}" not in names)


def numbered(name: str) -> Iterator[str]:
    """`name`, then with each number that it may get where it is taken."""
    yield name
    yield from (f"{name}-{n}" for n in range(2, 1000))


def git_dir_of(path: Path, mirror: Path) -> Path:
    """The git directory of a worktree, which must lie in its mirror."""
    named = Path((path / ".git").read_text().removeprefix("gitdir:").strip())
    if named.parent.resolve() != (mirror / "worktrees").resolve():
        raise WorkspaceError(
            FailureClass.infrastructure, "git_failed", f"{path} is not a worktree of {mirror}"
        )
    return named


def mirror_of(path: Path, home: Home) -> Path | None:
    """The mirror that a worktree's `.git` names, if that is one of ours."""
    try:
        text = (path / ".git").read_text()
    except (OSError, UnicodeDecodeError):
        return None
    mirror = Path(text.removeprefix("gitdir:").strip()).parent.parent
    return mirror if mirror.parent == home.sidecar / "mirrors" and mirror.is_dir() else None
