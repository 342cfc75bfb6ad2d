"""The index of a worktree as git left it when it had checked the base out.

The attempt can write the index, and with it hide from git what a file holds: by a flag (skip-worktree,
assume-unchanged) or by the dates and size of an entry. So before git is asked what the attempt has made, the index is
put back that the attempt has never had. Its dates spare reading every file again: no program can set back a file's time
of change.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_ROW: Final = re.compile(r":[0-7]{6} ([0-7]{6}) [0-9a-f]+ [0-9a-f]+ [A-Z]\d*")  # before each path in a raw diff
_POINTER: Final = "160000"  # the mode of a path that is a repository of its own
_COMMON: Final = "../..\n"  # what git writes into `commondir` of a worktree
_HEAD_BYTES: Final = 12  # "DIRC", the version, how many files, four bytes each
INDEX_BYTES_MAX: Final = 64 << 20  # kept in memory; of a larger one git makes another, by reading every file


@dataclass(frozen=True)
class Index:
    """Its bytes, and the time of its last change, by which git knows what may have been changed right after; `commit`
    is what was checked out."""

    content: bytes
    changed_ns: int
    commit: str


def index_of(git_dir: Path, commit: str) -> Index | None:
    """That of a worktree that nobody has worked in yet; None when it is too large to keep."""
    path = git_dir / "index"
    found = path.stat()
    if found.st_size > INDEX_BYTES_MAX:
        return None
    return Index(path.read_bytes(), found.st_mtime_ns, commit)


def files_in(git_dir: Path) -> int:
    """How many files it names."""
    with (git_dir / "index").open("rb") as file:
        return int.from_bytes(file.read(_HEAD_BYTES)[-4:])


def put_back(git_dir: Path, index: Index | None) -> None:
    """In the place of whatever is there; without one git begins a new one. So is the file by which git finds what all
    worktrees share: a command of the checks that asks git must not find settings of the attempt."""
    if stat.S_IMODE(git_dir.stat().st_mode) != 0o700:
        git_dir.chmod(0o700)
    path, fresh, common = git_dir / "index", git_dir / "index.fresh", git_dir / "commondir"
    for each in (path, fresh, git_dir / "index.lock"):
        _remove(each)
    if common.is_symlink() or not common.is_file() or common.read_bytes() != _COMMON.encode():
        _remove(common)
        common.write_text(_COMMON)
    if index is not None:
        fresh.write_bytes(index.content)
        os.utime(fresh, ns=(index.changed_ns, index.changed_ns))
        fresh.rename(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def changed_in(listed: str) -> Iterator[tuple[str, str]]:
    """The paths of a raw diff, each with its mode now. They come in twos, so that no name is taken for a row; what
    a cut has left of a row or a name counts as none."""
    parts = iter(listed.split("\0"))
    for part in parts:
        row = _ROW.fullmatch(part)
        if row is not None:
            yield next(parts, ""), row[1]


def nested_in(worktree: Path, listed: str, *, is_whole: bool) -> list[str]:
    """The paths of a raw diff that git has as repositories of their own though files lie in them: the commit has a
    pointer there and not the files, whatever `.gitmodules` says. A submodule as we check it out is an empty folder.
    Where the diff was cut short the folders are looked at."""
    found = [name for name, mode in changed_in(listed) if mode == _POINTER and _holds_files(worktree / name)]
    if not is_whole:
        found += [
            os.path.relpath(folder, worktree)
            for folder, inner, files in os.walk(worktree)
            if ".git" in inner or (".git" in files and folder != str(worktree))
        ]
    return found


def _holds_files(folder: Path) -> bool:
    try:
        return any(True for _ in os.scandir(folder))
    except FileNotFoundError:
        return False
    except OSError:
        return True  # it hides what it holds


def files_below(path: Path, most: int) -> tuple[str, ...]:
    """Where there is no repository: all files, sorted, so many at most."""
    found: list[str] = []
    for folder, _, files in os.walk(path):
        found += (str((Path(folder) / name).relative_to(path)) for name in files)
        if len(found) >= most:
            break
    return tuple(sorted(found)[:most])
