"""Where an attempt works: a git worktree of its own, or an empty directory.

Rules it keeps (with mirrors.py, where the repositories lie):
* Only worktrees are ever removed, never a branch.
* An isolated command sees the mirror of its repository read-only, and can add objects, and move the branches of its
  own task; the git directories of other worktrees are not there.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from agentcom.config import Home, Settings
from agentcom.limits import MIB
from agentcom.messages import Predecessor, ToVerify
from agentcom.model import FailureClass, Role, TaskSpec
from agentcom.names import slug
from agentcom_sidecar import mirrors, spares
from agentcom_sidecar.apart import place_apart
from agentcom_sidecar.bases import Start, not_here
from agentcom_sidecar.forges.places import git_options
from agentcom_sidecar.git import CUT, Git, Remote, WorkspaceError, allowed_remote, check_branch
from agentcom_sidecar.questions import Kept
from agentcom_sidecar.sandbox import ProcessMark, View
from agentcom_sidecar.worktree_index import (
    Index,
    changed_in,
    files_below,
    files_in,
    index_of,
    nested_in,
    put_back,
)

__all__ = ["Changes", "CommitInfo", "Workspace", "WorkspaceError", "prepare"]

CLONES = "clones"  # folder of clean clones, emptied at each start
SLUG_CHARS_MAX = 40
FILES_LISTED_MAX = 2000  # names in a result; the branch has them all
MESSAGE_CHARS_MAX = 4000
PREPARE_S_MAX = 1800.0  # waiting for the mirror included: others may fetch a large repository first
_HEAD = ("HEAD^{commit}", "HEAD^{tree}")
# What git says where the attempt has left no commit, or something that cannot be committed.
_NO_HEAD = re.compile(r"HEAD|not a git repository|bad object|unknown revision", re.IGNORECASE)
_NOT_ADDED = re.compile(r"permission denied|unable to index|invalid path|adding files failed", re.IGNORECASE)
_NOT_TAKEN = "have the task leave files that it can read, and no repository without a commit"
_ID = re.compile(r"^[0-9a-f]{40}(?:[0-9a-f]{24})?$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class CommitInfo:
    """What an attempt changed: ids of its last commit and tree, the paths that differ from the base."""

    commit: str
    tree: str
    files_changed: tuple[str, ...]


class Changes(NamedTuple):
    """Paths by what became of them: those that the base has, changed or deleted, and new ones. Not `is_whole` when
    there are more than git's output may hold here."""

    changed: tuple[str, ...]
    added: tuple[str, ...]
    is_whole: bool


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """An attempt's directory. Without a repository `branch` and `base_commit` are empty strings.

    `environment` belongs into every command that runs here: who commits, and that no repository above the
    directory is taken for the task's own. `remote` is where its base came from, `outside` runs git apart from it.
    """

    path: Path
    branch: str
    base_commit: str
    has_repository: bool
    git: Git
    mirror: Path | None = None
    git_dir: Path | None = None
    remote: Remote | None = None
    outside: Git | None = None
    base_branch: str = ""
    files: int = 0  # that git has checked out here, where nobody has worked here before
    index: Index | None = None  # as git left it, where nobody has worked here before

    @property
    def environment(self) -> dict[str, str]:
        return {
            "GIT_CEILING_DIRECTORIES": str(self.path.parent),
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_AUTHOR_NAME": "AgentCom",
            "GIT_AUTHOR_EMAIL": "agentcom@localhost",
            "GIT_COMMITTER_NAME": "AgentCom",
            "GIT_COMMITTER_EMAIL": "agentcom@localhost",
        }

    @property
    def view(self) -> View:
        """What a command in here sees where it is isolated, besides the directory itself."""
        if self.mirror is None or self.git_dir is None:
            return View()
        branches = self.mirror / "refs" / "heads" / Path(self.branch).parent
        branches.mkdir(parents=True, exist_ok=True)  # packing branches removes it
        return View(
            readable=(self.mirror,),
            hidden=(self.mirror / "worktrees",),
            writable=(self.git_dir, self.mirror / "objects", branches),
        )

    async def commit(self, message: str, trailers: Sequence[str] = ()) -> CommitInfo | None:
        """Commits all that is not ignored; None when nothing differs from the base (or without a repository). The
        message's trailers are those given and the tree.

        Commits that the attempt made by itself count too. When this returns, the branch lies in the mirror.
        Raises WorkspaceError; `nested_repository` where git would commit a pointer in the place of files.
        """
        if not self.has_repository:
            return None
        try:
            said = await self._git("rev-parse", *_HEAD, "--symbolic-full-name", "HEAD")
        except WorkspaceError as error:
            raise self._by_the_task(error, _NO_HEAD, "head_missing") from error
        head, tree = self._ids_in(said, 2)
        await self._own_index(head)
        try:
            await self._git("add", "--all", "--", ".")
        except WorkspaceError as error:
            raise self._by_the_task(error, _NOT_ADDED, "not_committable", _NOT_TAKEN) from error
        shown = ("--raw", "-z", "--no-renames", "--ignore-submodules=none")
        listed = await self._git("diff", "--cached", *shown, self.base_commit)
        nested = await asyncio.to_thread(nested_in, self.path, listed, is_whole=CUT not in listed)
        for name in nested:
            said = f"{name} is a git repository of its own: its files cannot be committed here; remove {name}/.git"
            raise WorkspaceError(FailureClass.task_error, "nested_repository", said)
        if head == self.base_commit:
            is_changed = listed
        else:
            is_changed = (await self._git("status", "--porcelain", "--untracked-files=no")).strip()
        if is_changed:
            (tree,) = await self._ids("write-tree")
            text = message.strip()[:MESSAGE_CHARS_MAX] or "work"
            text += "\n\n" + "\n".join((*trailers, f"AgentCom-Tree: {tree}"))
            await self._git("commit", "--quiet", "--no-verify", "--cleanup=verbatim", f"--message={text}")
            head, tree = await self._ids("rev-parse", *_HEAD)
        # The attempt may have checked out something else: what it left is what its branch shows.
        if f"refs/heads/{self.branch}" not in said.split("\n"):
            await self._git("update-ref", f"refs/heads/{self.branch}", head)
        if head == self.base_commit:
            return None
        return CommitInfo(commit=head, tree=tree, files_changed=_paths(listed))

    async def head(self) -> CommitInfo:
        """What is checked out here, and what of it differs from the base; nothing is committed."""
        commit, tree = await self._ids("rev-parse", *_HEAD)
        listed = await self._git("diff", "--name-only", "-z", "--no-renames", self.base_commit, commit)
        return CommitInfo(commit=commit, tree=tree, files_changed=_names(listed))

    async def discard(self, *, ignored: bool = False) -> None:
        """Takes back what has changed since the last commit, except ignored files (unless `ignored`): what checks
        left behind must not become part of the work. Does nothing without a repository."""
        if self.has_repository:
            await self._own_index()
            await self._git("reset", "--quiet", "--hard", "HEAD")
            await self._git("clean", "--quiet", "--force", "-d", *(("-x",) if ignored else ()))

    async def changes(self) -> Changes:
        """What the last commit changed since the base."""
        if not self.has_repository:
            return Changes((), (), is_whole=True)
        listed = ("diff", "--name-only", "-z", "--no-renames", self.base_commit, "HEAD")
        changed = await self._git(*listed[:-2], "--diff-filter=a", *listed[-2:])
        added = await self._git(*listed[:-2], "--diff-filter=A", *listed[-2:])
        return Changes(_all_names(changed), _all_names(added), is_whole=CUT not in changed + added)

    async def line_counts(self) -> dict[str, int] | None:
        """Lines added and deleted by the last commit since the base, by path (0 for a binary file); None when there
        are more files than git's output may hold here."""
        listed = await self._git("diff", "--numstat", "-z", "--no-renames", self.base_commit, "HEAD")
        if CUT in listed:
            return None
        rows = [row.split("\t", 2) for row in listed.split("\0") if row.count("\t") >= 2]
        return {path: sum(int(n) for n in (added, deleted) if n.isdigit()) for added, deleted, path in rows}

    async def diff(self) -> str:
        """What the last commit changed since the base, for reading: head and tail where it is long."""
        listed = ("diff", "--no-color", "--no-ext-diff", "--no-textconv", "--stat", "--patch")
        return await self._git(*listed, self.base_commit, "HEAD")

    async def base_content(self, path: str) -> bytes:
        """The file as the base has it; empty where the base does not have it."""
        listed = await self._git("--literal-pathspecs", "ls-tree", "-z", self.base_commit, "--", path)
        blob = _ID.search(listed.split("\t")[0].split(" ")[-1]) if listed else None
        return (await self._git("cat-file", "blob", blob[0])).encode() if blob else b""

    @contextlib.asynccontextmanager
    async def with_base(
        self, restored: Sequence[str], removed: Sequence[str], ignored: Sequence[str] = ()
    ) -> AsyncIterator[None]:
        """The directory with these files as the base has them, or without them; as before when it is left, but for
        ignored files that are taken away. Only after a commit: what was not committed is lost."""
        try:
            if restored:
                await self._git(
                    "--literal-pathspecs", "checkout", "--quiet", self.base_commit, "--", *restored
                )
            if removed:
                await self._git("--literal-pathspecs", "rm", "--quiet", "--force", "--", *removed)
            if ignored:
                await self._git("--literal-pathspecs", "clean", "--quiet", "--force", "-x", "--", *ignored)
            yield
        finally:
            await self.discard()

    async def is_clean(self) -> tuple[bool, str]:
        """Whether no file is uncommitted or untracked, and git's list of those that are."""
        if not self.has_repository:
            return False, "the task names no repository"
        listed = await self._git(
            "status", "--porcelain", "--untracked-files=all", "--ignore-submodules=dirty"
        )
        return not listed.strip(), listed.strip()

    async def files_changed(self) -> tuple[str, ...]:
        """Paths that differ from the base now, committed or not; without a repository: all files. Sorted."""
        if not self.has_repository:
            return await asyncio.to_thread(files_below, self.path, FILES_LISTED_MAX)
        tracked = await self._git("diff", "--name-only", "-z", "--no-renames", self.base_commit, "--", ".")
        untracked = await self._git("ls-files", "-z", "--others", "--exclude-standard")
        return _names(tracked + untracked)

    async def _own_index(self, head: str = "") -> None:
        """What git knows of the files here is what it has seen itself, with the names that `head` has, or HEAD."""
        assert self.git_dir is not None
        await asyncio.to_thread(put_back, self.git_dir, self.index)
        if self.index is None or self.index.commit != head:
            await self._git("read-tree", "-i", "-m", head or "HEAD")

    async def _ids(self, *arguments: str) -> tuple[str, ...]:
        """What a command of git says that prints an id for itself or for each name."""
        return self._ids_in(await self._git(*arguments), max(1, len(arguments) - 1))

    def _ids_in(self, said: str, count: int) -> tuple[str, ...]:
        found = tuple(_ID.findall(said))
        if len(found) != count:
            raise WorkspaceError(
                FailureClass.task_error, "head_missing", f"{self.path}: HEAD names no commit"
            )
        return found

    def _by_the_task(
        self, error: WorkspaceError, words: re.Pattern[str], code: str, remedy: str = ""
    ) -> WorkspaceError:
        """The same as the task's own failure, where git's words are of what a task leaves behind: a host has no part in
        that, and another one would find no more."""
        if error.code != "git_failed" or not words.search(error.said):
            return error
        return WorkspaceError(FailureClass.task_error, code, f"{self.path}: {error.said}", remedy)

    async def git_in(self, *arguments: str) -> str:
        """What git says in here, isolated like any other command; for looking."""
        return await self._git(*arguments)

    async def _git(self, *arguments: str) -> str:
        assert self.mirror is not None
        assert self.git_dir is not None
        if not self.path.is_dir():
            raise WorkspaceError(
                FailureClass.task_error, "workspace_gone", f"{self.path} was removed by the task"
            )
        mirrors.own_configuration(self.mirror)
        place = (f"--git-dir={self.git_dir}", f"--work-tree={self.path}")
        # Or git would ask a file that the attempt may write where configuration, attributes and excludes lie.
        environment = {**self.git.environment, "GIT_COMMON_DIR": str(self.mirror)}
        return await replace(self.git, view=self.view, environment=environment).run(*place, *arguments, cwd=self.path)


@contextlib.asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    """What it may take to prepare a directory; too long, and errors of the disk, are WorkspaceErrors."""
    try:
        async with asyncio.timeout(PREPARE_S_MAX):
            yield
    except TimeoutError as error:
        said = f"no workspace within {PREPARE_S_MAX:g} s"
        raise WorkspaceError(FailureClass.infrastructure, "workspace_timeout", said) from error
    except OSError as error:
        raise WorkspaceError(FailureClass.infrastructure, "workspace_failed", f"cannot prepare: {error}") from error


async def prepare(
    spec: TaskSpec,
    task: int,
    attempt: int,
    settings: Settings,
    home: Home,
    on_output: Callable[[bytes], None] | None = None,
    *,
    submitter_role: Role = Role.submit,
    start: Start | None = None,
    on_process: Callable[[ProcessMark], None] | None = None,
) -> Workspace:
    """The directory in which `attempt` works, when the task names a repository from the fresh base: where `start` says,
    by default at the task's branch.

    Raises WorkspaceError: configuration for a repository or branch that is missing, empty, denied or not
    allowed to `submitter_role`; infrastructure for the network and the disk.
    """
    private = home.sidecar / "scratch" / f"{task}-{attempt}"
    git = Git(
        home=private,
        mode=mirrors.mode_outside(settings),
        grace_s=settings.sidecar.kill_grace_s,
        on_process=on_process,
        on_output=on_output,
    )
    async with _bounded():
        private.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = _free_path(home.sidecar / "work", f"{task}-{attempt}")
        if spec.repo is None:
            path.mkdir(mode=0o700)
            return Workspace(path=path, branch="", base_commit="", has_repository=False, git=git)
        branch = f"agentcom/{task}/{attempt}-{slug(spec.description, SLUG_CHARS_MAX)}"
        start = start or Start(branch=spec.branch or "")
        return await _worktree(spec.repo, start, path, branch, git, settings, home, submitter_role)


async def clone(
    spec: TaskSpec,
    key: tuple[int, int],
    wanted: ToVerify,
    base_branch: str,
    settings: Settings,
    home: Home,
    *,
    submitter_role: Role = Role.submit,
    on_process: Callable[[ProcessMark], None] | None = None,
) -> Workspace | None:
    """A clean clone of the task's repository for attempt `key`, at the commit of another host's attempt: nothing that
    this host has of it is used. Where the branch does not have that commit it is at the branch's own; None when there
    is no such branch. It lies in `clone_of(home, key)`, which goes with the attempt.

    Raises WorkspaceError as `prepare` does.
    """
    assert spec.repo is not None, "the hub takes no such task without a repository"
    private, folder = home.sidecar / "scratch" / f"{key[0]}-{key[1]}", clone_of(home, key)
    mode, grace_s = mirrors.mode_outside(settings), settings.sidecar.kill_grace_s
    git = Git(home=private, mode=mode, grace_s=grace_s, on_process=on_process)
    async with _bounded():
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        for each in (private, folder):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        place_apart(folder.parent)
        remote = await _remote_of(spec.repo, submitter_role, settings)
        mirror, path = folder / "repository.git", folder / "tree"
        await mirrors.make_mirror(mirror, git)
        bounded = replace(git, file_bytes_max=settings.sidecar.fetch_mib * MIB)
        fetch = partial(mirrors.fetch, mirror, remote, git=bounded, bound_s=settings.sidecar.fetch_s)
        _, source = await fetch(check_branch(base_branch) if base_branch else None)
        try:
            head, _ = await fetch(check_branch(wanted.branch))
        except WorkspaceError as error:
            if error.code != "branch_missing":
                raise
            return None
        commit = wanted.commit if await mirrors.has(mirror, wanted.commit, git, within=head) else head
        is_from_base = bool(wanted.base) and await mirrors.has(mirror, wanted.base, git, within=commit)
        branch = f"agentcom/{key[0]}/{key[1]}-second-host"
        path.mkdir(mode=0o700)
        await replace(git, view=View(writable=(path,))).run(
            "worktree", "add", "--quiet", "--no-track", "-b", branch, "--", str(path), commit, cwd=mirror
        )
    return Workspace(
        path=path,
        branch=branch,
        base_commit=wanted.base if is_from_base else commit,
        has_repository=True,
        git=replace(git, mode=settings.sandbox.mode, on_output=None),
        mirror=mirror,
        git_dir=mirrors.git_dir_of(path, mirror),
        remote=remote,
        outside=git,
        base_branch=source.removeprefix("refs/heads/"),
        index=index_of(mirrors.git_dir_of(path, mirror), commit),
    )


def clone_of(home: Home, key: tuple[int, int]) -> Path:
    """Where the clean clone of an attempt lies that verifies another one's work."""
    return home.sidecar / CLONES / f"{key[0]}-{key[1]}"


async def reopen(
    spec: TaskSpec,
    key: tuple[int, int],
    kept: Kept,
    settings: Settings,
    home: Home,
    on_output: Callable[[bytes], None] | None = None,
    *,
    submitter_role: Role = Role.submit,
    on_process: Callable[[ProcessMark], None] | None = None,
) -> Workspace | None:
    """The worktree of an earlier attempt, for attempt `key` to go on in it; None when it is not there any more.

    Raises WorkspaceError where the repository is not allowed by now.
    """
    path = home.sidecar / "work" / kept.directory
    private = home.sidecar / "scratch" / f"{key[0]}-{key[1]}"
    if not await asyncio.to_thread(path.is_dir):
        return None
    private.mkdir(mode=0o700, parents=True, exist_ok=True)
    git = Git(
        home=private,
        mode=mirrors.mode_outside(settings),
        grace_s=settings.sidecar.kill_grace_s,
        on_process=on_process,
        on_output=on_output,
    )
    if spec.repo is None:
        return Workspace(path=path, branch="", base_commit="", has_repository=False, git=git)
    remote = await _remote_of(spec.repo, submitter_role, settings)
    mirror = mirrors.mirror_for(remote, home)
    try:
        git_dir = mirrors.git_dir_of(path, mirror)
    except (OSError, WorkspaceError):
        return None
    return Workspace(
        path=path,
        branch=kept.branch,
        base_commit=kept.base_commit,
        has_repository=True,
        git=replace(git, mode=settings.sandbox.mode, on_output=None),
        mirror=mirror,
        git_dir=git_dir,
        remote=remote,
        outside=git,
        base_branch=kept.base_branch,
    )


async def _remote_of(repo: str, role: Role, settings: Settings) -> Remote:
    """Where the repository lies, with this host's token for it where the task may spend it."""
    remote = await allowed_remote(repo, role, settings.policy.repositories)
    if not remote.is_trusted:
        return remote
    return replace(remote, options=git_options(remote.url, settings.git.forges))


async def _worktree(
    repo: str, start: Start, path: Path, branch: str, git: Git, settings: Settings, home: Home, role: Role
) -> Workspace:
    remote = await _remote_of(repo, role, settings)
    wanted, before = start.wanted, start.branch_before  # refused before git sees them
    mirror = mirrors.mirror_for(remote, home)
    async with mirrors.locked(mirror):
        await mirrors.make_mirror(mirror, git)
        bounded = replace(git, file_bytes_max=settings.sidecar.fetch_mib * MIB)
        fetch = partial(mirrors.fetch, mirror, remote, git=bounded, bound_s=settings.sidecar.fetch_s)
        if start.before is None:
            base, source = await fetch(wanted)
        else:
            base, source = await _from_before(start.before, before, wanted, fetch, mirror, remote, git)
        is_spare = settings.sidecar.spare_worktrees > 0 and await spares.take(home, mirror, path, branch, base, git)
        if not is_spare:
            branch = await _add(mirror, path, branch, base, git)
    git_dir = mirrors.git_dir_of(path, mirror)
    # From here on the tree is the agent's: the mode of the settings applies to every command in it.
    inside = replace(git, mode=settings.sandbox.mode, on_output=None)
    return Workspace(
        path=path,
        branch=branch,
        base_commit=base,
        has_repository=True,
        git=inside,
        mirror=mirror,
        git_dir=git_dir,
        remote=remote,
        outside=git,
        base_branch=source.removeprefix("refs/heads/"),
        files=files_in(git_dir),
        index=index_of(git_dir, base),
    )


async def _add(mirror: Path, path: Path, branch: str, base: str, git: Git) -> str:
    """The worktree; its branch, with a number where an earlier life of the hub has used the name: only where git fails
    it is asked whether that is why."""
    path.mkdir(mode=0o700)  # git takes an empty directory, and an isolated one can make no other
    add = partial(replace(git, view=View(writable=(path,))).run, "worktree", "add", "--quiet", "--no-track", cwd=mirror)
    try:
        await add("-b", branch, "--", str(path), base)
    except WorkspaceError as error:
        free = await mirrors.free_branch(mirror, branch, git) if error.code == "git_failed" else branch
        if free == branch:
            raise
        branch = free
        await add("-b", branch, "--", str(path), base)
    return branch


async def _from_before(
    before: Predecessor,
    pushed: str | None,
    wanted: str | None,
    fetch: Callable[[str | None], Awaitable[tuple[str, str]]],
    mirror: Path,
    remote: Remote,
    git: Git,
) -> tuple[str, str]:
    """What a predecessor has made, as it lies at the repository by now, else as this host has it."""
    if pushed is not None:
        try:
            return await fetch(pushed)
        except WorkspaceError as error:
            if error.code != "branch_missing":
                raise
    base, source = await fetch(wanted)
    if not await mirrors.has(mirror, before.commit, git):
        raise not_here(before, remote.shown)
    is_merged = await mirrors.has(mirror, before.commit, git, within=base)
    return (base if is_merged else before.commit), source


def _free_path(folder: Path, name: str) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    place_apart(folder)
    return next(folder / each for each in mirrors.numbered(name) if not (folder / each).exists())


def _names(listed: str) -> tuple[str, ...]:
    return _all_names(listed)[:FILES_LISTED_MAX]


def _paths(raw_diff: str) -> tuple[str, ...]:
    return tuple(sorted({name for name, _ in changed_in(raw_diff)}))[:FILES_LISTED_MAX]


def _all_names(listed: str) -> tuple[str, ...]:
    # A line of the output's own stands where a very long list lost its middle: no name has both marks.
    return tuple(sorted({name for name in listed.split("\0") if name and not (CUT in name and "\n" in name)}))
