"""The worktrees on this host: what each holds that is nowhere else, and so which of them may go.

Beside each worktree lies a record (`trees/NAME.json`) of where it came from and what of it was pushed. It is the
sidecar's own: commands of a task see the worktree and its git directory, not the record. Without one a worktree is
looked at all the same, against every base that was ever fetched.

A worktree may go when no attempt is on it, nothing in it is uncommitted, and every commit is pushed or merged. Its
branch stays in the mirror whatever happens to the directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
from msgspec import Struct

from agentcom.config import Home, Settings, write_private
from agentcom_sidecar import mirrors, spares
from agentcom_sidecar.git import Git, WorkspaceError
from agentcom_sidecar.mirrors import base_ref_of, git_dir_of, locked, mirror_of, own_configuration
from agentcom_sidecar.sandbox import View
from agentcom_sidecar.workspace import Workspace

CHERRIES_MAX = 50  # commits of a branch that are compared with the base one by one
_STAT = re.compile(r"(\d+) file|(\d+) insertion|(\d+) deletion")


class TreeRecord(Struct, kw_only=True):
    """Where a worktree came from. `repo` is shown without credentials; `base_ref` is the base in the mirror."""

    repo: str
    branch: str
    base_branch: str
    base_ref: str
    base_commit: str
    pushed_as: str = ""
    pushed_commit: str = ""


class Tree(Struct, kw_only=True):
    """One directory of an attempt. `removable` says whether anything in it would be lost, `why` why or why not;
    `goes_in_s` when it is old enough to go by itself, None where it stays."""

    name: str
    path: str
    task: int | None
    attempt: int | None
    repo: str | None = None
    branch: str | None = None
    base_branch: str | None = None
    ahead: int | None = None
    behind: int | None = None
    files_changed: int | None = None
    insertions: int | None = None
    deletions: int | None = None
    uncommitted: int | None = None
    unpushed: int | None = None
    merged: bool = False
    pushed_as: str | None = None
    age_s: int = 0
    in_use: bool = False
    removable: bool = False
    why: str = ""
    goes_in_s: int | None = None

    def keep_for(self, seconds: int) -> None:
        """From when its directory last changed, where it may go at all."""
        self.goes_in_s = max(0, seconds - self.age_s) if self.removable else None


def record_of(place: Workspace) -> TreeRecord:
    assert place.remote is not None, "a worktree has a repository"
    return TreeRecord(
        repo=place.remote.shown,
        branch=place.branch,
        base_branch=place.base_branch,
        base_ref=base_ref_of(place.base_branch),
        base_commit=place.base_commit,
    )


def save(home: Home, name: str, record: TreeRecord) -> None:
    path = record_path(home, name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(path, msgspec.json.encode(record))


def pushed(home: Home, name: str, branch: str, commit: str) -> None:
    """The commit lies at the repository, under that name."""
    record = _record(home, name)
    if record is not None:
        save(home, name, msgspec.structs.replace(record, pushed_as=branch, pushed_commit=commit))


async def look(home: Home, settings: Settings, in_use: Callable[[str], bool]) -> list[Tree]:
    """Every directory of an attempt, the oldest first."""
    paths = sorted(directories(home), key=lambda each: each.lstat().st_mtime)
    return [await look_at(path, home, settings, in_use(path.name)) for path in paths]


def directories(home: Home) -> list[Path]:
    """Those of attempts, in no order."""
    folder = home.sidecar / "work"
    return list(folder.iterdir()) if folder.is_dir() else []


async def remove(path: Path, home: Home, settings: Settings) -> None:
    """Removes the directory and its record; the branch stays in the mirror."""
    mirror = mirror_of(path, home)
    await asyncio.to_thread(shutil.rmtree, path, ignore_errors=True)
    if mirror is not None:
        await spares.prune(mirror, home, git_for(home, settings))
    record_path(home, path.name).unlink(missing_ok=True)


async def pack(home: Home, settings: Settings) -> None:
    """Let git pack the mirrors where that is worth it. Nothing that a branch or a base names is lost."""
    folder, git = home.sidecar / "mirrors", git_for(home, settings)
    for mirror in sorted(folder.glob("*.git")) if folder.is_dir() else ():
        async with locked(mirror):
            own_configuration(mirror)
            await git.run("-c", "gc.auto=2000", "gc", "--auto", "--quiet", cwd=mirror)


def size_bytes(home: Home) -> int:
    """What worktrees and mirrors take on the disk. It walks them: not for the event loop."""
    return sum(size_of(home.sidecar / name) for name in ("work", spares.FOLDER, "mirrors", "outgoing"))


def size_of(path: Path) -> int:
    """The same of one directory; 0 where there is none."""
    total = 0
    for folder, _, files in os.walk(path):
        for each in (*files, "."):
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, each)).st_blocks * 512
    return total


# --- one of them ----------------------------------------------------------------------------------------


async def look_at(path: Path, home: Home, settings: Settings, is_in_use: bool) -> Tree:
    """What one holds. Raises FileNotFoundError when it is gone."""
    task, attempt = _numbers(path.name)
    tree = Tree(
        name=path.name,
        path=str(path),
        task=task,
        attempt=attempt,
        age_s=max(0, int(time.time() - path.lstat().st_mtime)),
        in_use=is_in_use,
    )
    mirror = mirror_of(path, home)
    if (path / ".git").is_file() and mirror is None:
        tree.why = "it is no worktree of a mirror here: look at it, and remove it by hand"
    elif mirror is None:
        tree.removable, tree.why = not is_in_use, "no repository"
    else:
        try:
            await _ask_git(tree, path, mirror, home, settings)
        except (WorkspaceError, OSError, ValueError) as error:
            tree.why = f"git cannot say what is in it: {error}"
    if is_in_use:
        tree.removable, tree.why = False, "an attempt works in it"
    tree.keep_for(settings.sidecar.keep_worktrees_s)
    return tree


async def _ask_git(tree: Tree, path: Path, mirror: Path, home: Home, settings: Settings) -> None:
    record = _record(home, path.name)
    place = _place(path, mirror, record.branch if record else "agentcom/none", home, settings)
    branch = record.branch if record else await _branch_of(place)
    tree.branch = branch or None
    listed = await place.git_in("status", "--porcelain", "--untracked-files=all", "--ignore-submodules=dirty")
    tree.uncommitted = len(listed.splitlines())
    tips = ["HEAD", *([f"refs/heads/{branch}"] if branch else [])]
    known = ["--glob=refs/agentcom/base/*"]
    if record is not None:
        tree.repo, tree.base_branch = record.repo, record.base_branch
        tree.pushed_as = record.pushed_as or None
        known += [record.base_commit, *([record.pushed_commit] if record.pushed_commit else [])]
        both = await place.git_in("rev-list", "--left-right", "--count", f"{record.base_ref}...HEAD")
        tree.behind, tree.ahead = (int(each) for each in both.split())
        stat = await place.git_in("diff", "--shortstat", record.base_commit, "HEAD")
        found = [sum(map(int, filter(None, each))) for each in zip(*_STAT.findall(stat), strict=True)] or [0, 0, 0]
        tree.files_changed, tree.insertions, tree.deletions = found
        made = int(await place.git_in("rev-list", "--count", "HEAD", "--not", record.base_commit))
        tree.merged = made > 0 and await _is_merged(place, record, tree.ahead)
    tree.unpushed = int(await place.git_in("rev-list", "--count", *tips, "--not", *known))
    _judge(tree)


async def _is_merged(place: Workspace, record: TreeRecord, ahead: int) -> bool:
    """By a merge, or commit by commit as a rebase or a squash of one does."""
    if not ahead:
        return True
    if ahead > CHERRIES_MAX:
        return False
    marks = (await place.git_in("cherry", record.base_ref, "HEAD")).splitlines()
    return bool(marks) and all(mark.startswith("-") for mark in marks)


def _judge(tree: Tree) -> None:
    if tree.uncommitted:
        tree.why = f"{tree.uncommitted} uncommitted files"
    elif tree.unpushed and not tree.merged:
        tree.why = f"{tree.unpushed} commits that are neither pushed nor merged"
    else:
        pushed_as = f"pushed as {tree.pushed_as}" if tree.pushed_as else "no commits of its own"
        tree.removable, tree.why = True, "merged" if tree.merged else pushed_as


async def _branch_of(place: Workspace) -> str:
    """What is checked out; empty for no branch."""
    named = (await place.git_in("rev-parse", "--abbrev-ref", "HEAD")).strip()
    return named if named.startswith("agentcom/") else ""


def _place(path: Path, mirror: Path, branch: str, home: Home, settings: Settings) -> Workspace:
    # The tree is a task's: the mode of the settings applies to git in it, as while the attempt ran.
    git = replace(git_for(home, settings), mode=settings.sandbox.mode)
    return Workspace(
        path=path,
        branch=branch,
        base_commit="",
        has_repository=True,
        git=git,
        mirror=mirror,
        git_dir=git_dir_of(path, mirror),
    )


def git_for(home: Home, settings: Settings) -> Git:
    """For what the sidecar asks git by itself, and not for an attempt: it sees all worktrees."""
    work = home.sidecar / "work"
    work.mkdir(mode=0o700, exist_ok=True)
    private = home.sidecar / "scratch" / f"git-{os.getpid()}"
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Git(home=private, mode=mirrors.mode_outside(settings), view=View(readable=(work, spares.place(home))))


def _record(home: Home, name: str) -> TreeRecord | None:
    try:
        return msgspec.json.decode(record_path(home, name).read_bytes(), type=TreeRecord)
    except (OSError, msgspec.MsgspecError):
        return None


def record_path(home: Home, name: str) -> Path:
    """Where the record of a worktree lies."""
    return home.sidecar / "trees" / f"{name}.json"


def _numbers(name: str) -> tuple[int | None, int | None]:
    match = re.match(r"(\d+)-(\d+)(?:-\d+)?\Z", name)
    return (int(match[1]), int(match[2])) if match else (None, None)
