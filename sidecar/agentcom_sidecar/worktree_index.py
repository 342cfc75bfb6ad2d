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
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

_NESTED: Final = re.compile(r":(?!160000)[0-7]{6} 160000 ")  # what git says of a path that has become a repository
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
    """In the place of whatever is there; without one git begins a new one."""
    path, fresh = git_dir / "index", git_dir / "index.fresh"
    for each in (path, fresh, git_dir / "index.lock"):
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        with contextlib.suppress(FileNotFoundError):
            each.unlink()
    if index is not None:
        fresh.write_bytes(index.content)
        os.utime(fresh, ns=(index.changed_ns, index.changed_ns))
        fresh.rename(path)


def nested_in(worktree: Path, listed: str) -> list[str]:
    """Of a raw diff the paths that have become repositories of their own and are no submodules."""
    rows = listed.split("\0")
    nested = [name for row, name in pairwise(rows) if _NESTED.match(row)]
    try:
        known = (worktree / ".gitmodules").read_text() if nested else ""
    except (OSError, UnicodeDecodeError):
        known = ""
    return [name for name in nested if f"path = {name}\n" not in known]


def files_below(path: Path, most: int) -> tuple[str, ...]:
    """Where there is no repository: all files, sorted, so many at most."""
    found: list[str] = []
    for folder, _, files in os.walk(path):
        found += (str((Path(folder) / name).relative_to(path)) for name in files)
        if len(found) >= most:
            break
    return tuple(sorted(found)[:most])
