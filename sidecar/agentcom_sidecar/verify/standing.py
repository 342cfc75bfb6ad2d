"""Where an attempt's directory stands while its checks run: they run what the attempt wrote, and that may move it."""

from __future__ import annotations

from agentcom_sidecar.git import WorkspaceError
from agentcom_sidecar.workspace import Workspace


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


async def ignored_files(place: Workspace) -> tuple[str, ...]:
    """Files that git ignores, outside of folders that it ignores as a whole."""
    if not place.has_repository:
        return ()
    listed = await place.git_in("ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory")
    return tuple(name for name in listed.split("\0") if name and not name.endswith("/"))
