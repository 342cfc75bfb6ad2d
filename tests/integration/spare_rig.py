"""What the tests of spare worktrees share: a repository that is worth one, and looks at what an attempt got."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from agentcom.config import Home, SandboxSettings, Settings, SidecarSettings
from agentcom.model import Role, TaskSpec
from agentcom_sidecar import spares, trees
from agentcom_sidecar import workspace as workspaces
from agentcom_sidecar.spare_keeper import SpareKeeper
from agentcom_sidecar.workspace import Workspace
from tests.integration.test_workspace import git

T = TypeVar("T")
ROOT = Path(__file__).parents[2]
PLAIN = Settings(sandbox=SandboxSettings(mode="off"))
NEW = Settings(sandbox=SandboxSettings(mode="off"), sidecar=SidecarSettings(spare_worktrees=0))
WITHIN_S = 15.0


def forty_files(folder: Path) -> Path:
    """A repository with so many."""
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    for number in range(40):
        (folder / f"file-{number}.txt").write_text(f"{number}\n")
    committed(folder, "first")
    return folder


def committed(folder: Path, message: str) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", message)
    return git(folder, "rev-parse", "HEAD")


async def prepared(
    home: Home, repo: Path, task: int, settings: Settings = PLAIN, branch: str | None = None
) -> Workspace:
    spec = TaskSpec(description="Greet", repo=str(repo), branch=branch)
    return await workspaces.prepare(spec, task, 1, settings, home, submitter_role=Role.admin)


async def made(home: Home, place: Workspace) -> Path:
    """A spare of what that attempt began with; its folder."""
    assert place.mirror is not None
    await spares.make(place.mirror, place.base_commit, home, trees.git_for(home, PLAIN))
    found = spares.of(place.mirror, home)
    assert found is not None
    return found.folder


def name_of(place: Workspace) -> str:
    """By which the mirror knows the worktree: a spare keeps its own."""
    assert place.git_dir is not None
    return place.git_dir.name


def content(path: Path) -> dict[str, tuple[str, int, str]]:
    """All that lies there, but for `.git`: kind, mode, and what is in it."""
    found = {}
    for each in sorted(path.rglob("*")):
        mode = each.lstat().st_mode
        if stat.S_ISLNK(mode):
            kind, inside = "link", os.readlink(each)
        else:
            kind, inside = ("folder", "") if each.is_dir() else ("file", each.read_bytes().decode("latin-1"))
        found[str(each.relative_to(path))] = (kind, stat.S_IMODE(mode), inside)
    del found[".git"]
    return found


def as_git_sees(place: Workspace) -> tuple[str, ...]:
    asked = (("status", "--porcelain", "--ignored"), ("ls-files", "-s"), ("write-tree",), ("rev-parse", "HEAD"))
    return tuple(git(place.path, *each) for each in asked)


def until(holds: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < give_up_at, f"not within {WITHIN_S} s: {what}"
        time.sleep(0.005)


def goes(home: Home) -> Callable[[], bool]:
    """Whether a start of the sidecar has left nothing in the folder of spares; git may still be dying in there."""

    def none() -> bool:
        spares.begin(home, 4)
        asyncio.run(spares.clear(home, trees.git_for(home, PLAIN)))
        return list((home.sidecar / "spares").iterdir()) == []

    return none


def keeper(home: Home, settings: Settings = PLAIN, *, is_starting: bool = False) -> SpareKeeper:
    return SpareKeeper(home, settings, lambda: is_starting)
