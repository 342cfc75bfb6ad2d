"""Where an attempt's directory stands while its checks run: they run what the attempt wrote, and that may move it."""

from __future__ import annotations

import os
from typing import Final

from agentcom_sidecar.git import CUT, WorkspaceError
from agentcom_sidecar.verify.watched import BaseJudges, judges_among
from agentcom_sidecar.workspace import Workspace

INITS: Final = ("__init__.py", "__init__.pyc")


async def head_of(place: Workspace) -> str:
    """The commit that the directory is at; empty where that names none."""
    try:
        return (await place.git_in("rev-parse", "--verify", "HEAD^{commit}")).strip()
    except WorkspaceError:
        return ""


async def stand_at(place: Workspace, commit: str) -> None:
    """Be at that commit, on the attempt's branch, with the files as they are: others count as changed then."""
    await place.git_in("symbolic-ref", "HEAD", f"refs/heads/{place.branch}")
    await place.git_in("reset", "--quiet", "--mixed", commit)


async def judges_of_base(place: Workspace) -> BaseJudges:
    """What of the base judges; all of it where it has more files than can be looked at."""
    listed = await place.git_in("ls-tree", "-r", "-z", "--name-only", place.base_commit)
    return BaseJudges() if CUT in listed else judges_among(listed.split("\0"))


async def ignored_files(place: Workspace) -> tuple[str, ...]:
    """Files that git ignores, outside of folders that it ignores as a whole; of those at the root what makes each a
    Python package."""
    if not place.has_repository:
        return ()
    listed = await place.git_in("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory")
    names = [name for name in listed.split("\0") if name]
    packages = [file for name in names if name.endswith("/") for file in _package(place, name)]
    return (*(name for name in names if not name.endswith("/")), *packages)


def _package(place: Workspace, folder: str) -> list[str]:
    """What makes a folder at the root a Python package, which can hide another one of that name."""
    if "/" in folder[:-1]:
        return []
    return [f"{folder}{each}" for each in INITS if os.path.lexists(place.path / folder / each)]
