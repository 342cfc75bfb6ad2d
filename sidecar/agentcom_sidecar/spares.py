"""A spare worktree of a repository: made while nothing waits for it, so that the next attempt only has to take it.

To write ten thousand files takes as long as a clone, and longer on a disk that has just removed as many. To move them
takes nothing, and what differs in the attempt's base is written by then.

Rules it keeps:
* Only the sidecar makes one, from the mirror, in a folder that no isolated command sees. What an attempt has worked in
  never becomes one, and nobody gets one twice.
* An attempt finds in it exactly what it would have found in a new worktree: git compares what lies there with what it
  wrote, and writes what differs; where anything else lies there, or a folder is not as git makes them, it is not taken.
  Where `.gitattributes` differs, the same content is written in another way, so then it is not taken either.
* What git compares with is the index that it wrote itself, byte for byte: a flag or a date in it could hide a file.
* Whatever is wrong with one, the attempt gets a new worktree, and it is thrown away.
* Whole is what has a record, of this start of the machine: a power cut can lose files behind a record. Who renames the
  record owns the spare, whoever else looks.
* Whatever else lies in the folder stops nobody and goes; of a link only the link.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from agentcom import __version__, logs
from agentcom.config import Home, write_private
from agentcom_sidecar import mirrors
from agentcom_sidecar.apart import place_apart
from agentcom_sidecar.git import CUT, Git, WorkspaceError
from agentcom_sidecar.sandbox import View, boot
from agentcom_sidecar.worktree_index import files_in

FOLDER: Final = "spares"
RECORD, TAKEN, MISSED = "spare.json", "taken.json", "missed"
MIRROR_CHARS: Final = 16  # of a mirror's name, before those of its spares
NICE: Final = 19  # it stands back behind everything that an attempt runs
MAKE_S_MAX: Final = 1800.0  # on a host that has much else to do
TAKE_S_MAX: Final = 30.0  # then a new worktree is sooner
PART_CHANGED_MAX: Final = 0.5  # of its files; where more differ a new worktree is as fast
SAID_CHARS: Final = 200  # of git's own words in the log
SMALL_BYTES_MAX: Final = 4096  # a record, and what names a git directory; what is longer is neither
_told: set[Path] = set()  # what cannot be removed, so that the log says it once


class Spare(Struct, kw_only=True):
    """The record that makes one whole. `mirror` is the name of the folder, `made_by` what must be the same still, as
    the index, of which `index` is the SHA-256."""

    mirror: str
    commit: Annotated[str, Meta(pattern=r"\A[0-9a-f]{40}(?:[0-9a-f]{24})?\Z")]  # git gets it as an argument
    files: Annotated[int, Meta(ge=0)]
    made_by: str
    index: str


class ChangedSince(Exception):
    """It is not what was made."""


class Found(NamedTuple):
    folder: Path
    spare: Spare

    @property
    def tree(self) -> Path:
        return _tree(self.folder)


def place(home: Home) -> Path:
    """Where all of them lie."""
    found = home.sidecar / FOLDER
    found.mkdir(mode=0o700, exist_ok=True)
    return found


def made(home: Home) -> list[Path]:
    """Those that were made to the end, the oldest first."""
    return sorted((each for each in _entries(home) if _is_folder(each) and _is_small(each / RECORD)), key=_made_at)


def of(mirror: Path, home: Home) -> Found | None:
    """The one of that mirror."""
    for folder in (home.sidecar / FOLDER).glob(f"{mirror.stem[:MIRROR_CHARS]}-*"):
        spare = _record(folder)
        if spare is not None and spare.mirror == mirror.name:
            return Found(folder, spare)
    return None


# --- made -----------------------------------------------------------------------------------------------


async def make(mirror: Path, commit: str, home: Home, git: Git) -> None:
    """One of that commit, as whoever waits for nothing. Raises WorkspaceError and OSError; what is left then goes with
    the next `clear`."""
    place_apart(place(home))
    folder = place(home) / f"{mirror.stem[:MIRROR_CHARS]}-{secrets.token_hex(4)}"
    tree = _tree(folder)
    folder.mkdir(mode=0o700)
    tree.mkdir(mode=0o700)
    git = replace(git, view=View(writable=(tree,)))
    async with mirrors.locked(mirror):  # for as long as git takes to write five small files
        mirrors.own_configuration(mirror)
        await git.run(
            "worktree", "add", "--quiet", "--detach", "--no-checkout", "--", str(tree), commit, cwd=mirror
        )
    git_dir = mirrors.git_dir_of(tree, mirror)
    place_of_it = (f"--git-dir={git_dir}", f"--work-tree={tree}")
    slow = replace(git, nice=NICE)
    await slow.run(
        "-c", "checkout.workers=1", *place_of_it, "reset", "--quiet", "--hard", cwd=mirror, timeout_s=MAKE_S_MAX
    )
    _date(git_dir / "index")
    index = await asyncio.to_thread(_sum, git_dir / "index")
    spare = Spare(mirror=mirror.name, commit=commit, files=files_in(git_dir), made_by=_maker(), index=index)
    await asyncio.to_thread(write_private, folder / RECORD, msgspec.json.encode(spare))


def _date(index: Path) -> None:
    """A second after all its files: git counts in whole ones, and reads what was written in the second of the index, as
    all of them were, whenever it looks. Nobody but git has written here."""
    later = time.time() + 1
    os.utime(index, (later, later))


# --- taken ----------------------------------------------------------------------------------------------


async def take(home: Home, mirror: Path, path: Path, branch: str, base: str, git: Git) -> bool:
    """Whether the mirror's spare is now the worktree at `path`, of `base`, on the new branch. The caller holds the
    mirror; nothing is at `path` where it is not."""
    found = of(mirror, home)
    if found is None:
        return False
    try:
        async with asyncio.timeout(TAKE_S_MAX):
            return await _fits(found, mirror, base, git) and await _handed_over(found, mirror, path, branch, base, git)
    except Exception as error:
        forget(found.folder)
        _not_taken(found.folder, f"{type(error).__name__}: {error}")
        return False


async def _fits(found: Found, mirror: Path, base: str, git: Git) -> bool:
    """Whether what differs is little. One that does not fit twice in a row is nobody's any more."""
    if found.spare.commit == base:
        return True
    compared = ("diff-tree", "-r", "-z", "--name-only", "--no-renames", found.spare.commit, base)
    listed = await git.run(*compared, cwd=mirror)
    names = listed.split("\0")
    is_little = CUT not in listed and len(names) <= found.spare.files * PART_CHANGED_MAX
    if is_little and not any(name.rpartition("/")[2] == ".gitattributes" for name in names):
        return True
    if (found.folder / MISSED).exists():
        forget(found.folder)
    else:
        (found.folder / MISSED).touch()
    return False


async def _handed_over(found: Found, mirror: Path, path: Path, branch: str, base: str, git: Git) -> bool:
    """At its new place only when it is right in its old one: what dies before that has left nothing in the new one."""
    folder, tree = found.folder, found.tree
    _claim(folder)
    try:
        git_dir = _own_git_dir(folder, mirror)
        if await asyncio.to_thread(_sum, git_dir / "index") != found.spare.index:
            raise ChangedSince("its index is not the one that git wrote")
        place_of_it = (f"--git-dir={git_dir}", f"--work-tree={tree}")
        inside = replace(git, view=View(writable=(tree,)))
        await inside.run(
            *place_of_it, "checkout", "--quiet", "--force", "--no-track", "-b", branch, base, "--",
            cwd=mirror, timeout_s=TAKE_S_MAX,
        )  # fmt: skip
        try:
            listed, why = await asyncio.gather(
                inside.run(*place_of_it, "clean", "-n", "-d", "-x", "-ff", cwd=mirror, timeout_s=TAKE_S_MAX),
                asyncio.to_thread(_odd_folder, folder),
            )
            if listed or why:
                raise ChangedSince(why or f"there is more in it than its commit has: {listed[:SAID_CHARS]}")
            _move(tree, path, git_dir)
        except BaseException:
            await _free(branch, base, git_dir, mirror, git)
            raise
    finally:
        with contextlib.suppress(OSError):
            _wipe(folder / TAKEN)
    with contextlib.suppress(OSError):
        folder.rmdir()
    return True


async def _free(branch: str, base: str, git_dir: Path, mirror: Path, git: Git) -> None:
    """The branch that the spare has got goes, for the worktree that is made in its place; not where it has moved."""
    commands = (
        (f"--git-dir={git_dir}", "update-ref", "--no-deref", "HEAD", base),  # git gives no branch to two worktrees
        ("update-ref", "-d", f"refs/heads/{branch}", base),
    )
    for each in commands:
        with contextlib.suppress(WorkspaceError):
            await git.run(*each, cwd=mirror, timeout_s=TAKE_S_MAX)


def _odd_folder(folder: Path) -> str:
    """Which of the folders in its tree is not as one that git makes now; empty where all are: git says nothing of
    their modes."""
    like = folder / "like"
    like.mkdir()
    wanted = like.lstat()
    like.rmdir()
    left = [_tree(folder)]
    while left:
        with os.scandir(left.pop()) as entries:
            for each in entries:
                if each.is_dir(follow_symlinks=False):
                    found = each.stat(follow_symlinks=False)
                    if (found.st_mode, found.st_uid) != (wanted.st_mode, wanted.st_uid):
                        return f"the mode or the owner of a folder is another: {each.name}"
                    left.append(Path(each))
    return ""


def _move(tree: Path, path: Path, git_dir: Path) -> None:
    """git must never miss the directory: it forgets a worktree that it does not find."""
    pointer = git_dir / "gitdir"
    before = pointer.read_bytes()
    pointer.write_bytes(os.fsencode(path.parent.resolve() / path.name / ".git") + b"\n")
    try:
        tree.rename(path)
    except OSError:
        pointer.write_bytes(before)
        raise
    os.utime(path)  # its age is the attempt's


# --- thrown away ----------------------------------------------------------------------------------------


def forget(folder: Path) -> None:
    """From now on nobody takes it, and `clear` removes it."""
    if _is_folder(folder):  # nothing goes through a link
        with contextlib.suppress(OSError):
            _wipe(folder / RECORD)


async def drop(folders: list[Path], home: Home, git: Git) -> int:
    """Removes those of them that nobody takes meanwhile; how many."""
    count = 0
    for folder in folders:
        try:
            _claim(folder)
        except OSError:
            continue
        await _remove(folder, home, git)
        count += 1
    return count


def older(older_than_s: int, home: Home) -> list[Path]:
    """Those that were made so long ago."""
    before = time.time() - older_than_s
    return [folder for folder in made(home) if _made_at(folder) <= before]


def begin(home: Home, most: int) -> None:
    """At the start of a sidecar: what an earlier one was making or handing over is nothing any more, nor what is of
    another start of the machine, nor (with `most` 0) anything."""
    for folder in _entries(home):
        if not _is_folder(folder):
            continue  # `clear` says so, and never looks through a link
        why = _why_not(folder, home)
        if os.path.lexists(folder / TAKEN):
            why = "it was being handed over or removed"
            with contextlib.suppress(OSError):
                _wipe(folder / TAKEN)
        if why:
            _not_taken(folder, why)
        if why or not most or not boot():
            forget(folder)


async def clear(home: Home, git: Git) -> None:
    """Removes what nobody can take, hands over or makes, as where its mirror has gone. Only for whoever makes them
    here, between two of them."""
    _told.intersection_update(_entries(home))
    for folder in _entries(home):
        if _is_folder(folder) and _is_small(folder / TAKEN):
            continue
        why = _why_not(folder, home)
        if not why:
            continue
        if folder not in _told and (os.path.lexists(folder / RECORD) or not _is_folder(folder)):
            _not_taken(folder, why)
        forget(folder)
        await _remove(folder, home, git)


async def _remove(folder: Path, home: Home, git: Git) -> None:
    """With what its mirror knows of it. What cannot be removed costs nothing but a line in the log."""
    try:
        await asyncio.to_thread(_wipe, folder)
        named, dash, _ = folder.name.partition("-")
        for mirror in (home.sidecar / "mirrors").glob("*.git"):
            if dash and len(named) == MIRROR_CHARS and mirror.name.startswith(named):
                await prune(mirror, home, git)
    except (OSError, WorkspaceError) as error:
        if folder not in _told:
            _told.add(folder)
            logs.get().warning("spare_not_removed", name=folder.name, reason=f"{type(error).__name__}: {error}")


async def prune(mirror: Path, home: Home, git: Git) -> None:
    """The mirror forgets the worktrees that are gone."""
    seen = (home.sidecar / "work", place(home))  # git forgets every one that it does not see
    async with mirrors.locked(mirror):
        mirrors.own_configuration(mirror)
        await replace(git, view=View(readable=tuple(each for each in seen if each.is_dir()))).run(
            "worktree", "prune", cwd=mirror
        )


# --- on the disk ----------------------------------------------------------------------------------------


def _tree(folder: Path) -> Path:
    return folder / folder.name  # git calls it by the last part


def _entries(home: Home) -> list[Path]:
    """Whatever lies there."""
    try:
        return list(place(home).iterdir())
    except OSError:
        return []


def _why_not(folder: Path, home: Home) -> str:
    """Why nobody can take it; empty where it is whole."""
    if not _is_folder(folder):
        return "it is no folder"
    if not os.path.lexists(folder / RECORD):
        return "it was not made to the end, or given up"
    spare = _read(folder)
    if spare is None:
        return "its record cannot be read"
    if spare.made_by != _maker():
        return "it is from before a restart of the machine, or of another version"
    return "" if _is_of(spare.mirror, folder, home) else "its mirror has gone"


def _is_of(name: str, folder: Path, home: Home) -> bool:
    """Whether it is a worktree of the mirror of that name."""
    mirror = home.sidecar / "mirrors" / Path(name).name
    try:
        return _own_git_dir(folder, mirror).is_dir() and mirror.suffix == ".git"
    except (OSError, ValueError, WorkspaceError, ChangedSince):
        return False


def _own_git_dir(folder: Path, mirror: Path) -> Path:
    """Where git has it. Raises ChangedSince where a link lies in the way, or it would be that of another one."""
    tree = _tree(folder)
    if not (_is_folder(folder) and _is_folder(tree) and _is_small(tree / ".git")):
        raise ChangedSince("it is a link or somebody else's, or it is no worktree")
    git_dir = mirrors.git_dir_of(tree, mirror)
    if git_dir.name != folder.name or not _is_folder(git_dir):
        raise ChangedSince("it says that it is another worktree, or git has forgotten it")
    return git_dir


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_folder(path: Path) -> bool:
    """One of this user's own, and no link."""
    try:
        found = path.lstat()
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _is_small(path: Path) -> bool:
    """A file that can be read at once: no link, no pipe, nothing large."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size <= SMALL_BYTES_MAX


def _wipe(path: Path) -> None:
    """Whatever it is; of a link only the link. Raises OSError where something stays."""
    if not path.is_symlink() and path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            _open(path)
            shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open(path: Path) -> None:
    """Its user can remove what lies in it, whatever its folders allow by now."""
    with contextlib.suppress(OSError):
        path.chmod(0o700)
    for folder, names, _ in os.walk(path):
        for each in (Path(folder) / name for name in names):
            if not each.is_symlink():
                with contextlib.suppress(OSError):
                    each.chmod(0o700)


def _not_taken(folder: Path, why: str) -> None:
    logs.get().warning("spare_not_taken", name=folder.name, reason=why)


def _claim(folder: Path) -> None:
    """Raises FileNotFoundError where somebody else was sooner, and OSError where it is no spare."""
    (folder / RECORD).rename(folder / TAKEN)


def _record(folder: Path) -> Spare | None:
    found = _read(folder)
    return found if found is not None and found.made_by == _maker() else None


def _read(folder: Path) -> Spare | None:
    if not _is_folder(folder) or not _is_small(folder / RECORD):
        return None
    try:
        return msgspec.json.decode((folder / RECORD).read_bytes(), type=Spare)
    except (OSError, msgspec.MsgspecError):
        return None


def _made_at(folder: Path) -> float:
    try:
        return (folder / RECORD).lstat().st_mtime
    except OSError:
        return 0.0


def _maker() -> str:
    return f"{__version__} {boot()}"
