"""What goes from a host's disk, and when: by age, by quota, or because somebody asked.

Rules it keeps:
* Only directories of attempts go, never a branch, and never one that an attempt works in.
* What is uncommitted, or neither pushed nor merged, goes only when a person asks for exactly that (`unpushed`).
* Over the quota spare worktrees go first, then the oldest that may go; when that is not enough the host takes no new
  attempts and says so.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from msgspec import Struct

from agentcom import logs
from agentcom.config import Home, Settings
from agentcom.limits import MIB
from agentcom_sidecar import spares, trees
from agentcom_sidecar.git import WorkspaceError
from agentcom_sidecar.trees import Tree

KEPT_NAMED_MAX = 3  # in the reason of a host that is full


class Cleaned(Struct, kw_only=True):
    """What a clean-up did, or (`dry_run`) would do."""

    removed: list[Tree]
    kept: list[Tree]
    dry_run: bool
    bytes: int
    spares: int = 0  # of the removed
    quota_bytes: int | None


class Swept(Struct, frozen=True):
    """After a round: how many went, and why no new attempts are taken; empty when they are."""

    removed: int
    full: str


def running(home: Home) -> Callable[[str], bool]:
    """Whether an attempt works in the directory of that name, or waits there for an answer, by what the sidecar has
    written down."""
    records = [*(home.sidecar / "attempts").glob("*.attempt"), *(home.sidecar / "questions").glob("*.question")]
    return in_use({(int(m[1]), int(m[2])) for each in records if (m := re.match(r"(\d+)-(\d+)\.", each.name))})


def in_use(keys: Iterable[tuple[int, int]]) -> Callable[[str], bool]:
    """The same by the attempts themselves."""
    names = {f"{task}-{attempt}" for task, attempt in keys}
    return lambda name: "-".join(name.split("-")[:2]) in names


async def clean(
    home: Home,
    settings: Settings,
    is_in_use: Callable[[str], bool],
    *,
    older_than_s: int,
    unpushed: bool = False,
    dry_run: bool = False,
) -> Cleaned:
    """Removes what may go and is old enough; with `unpushed` also what is nowhere else but in use by nobody."""
    found = await trees.look(home, settings, is_in_use)
    for one in found:
        one.keep_for(older_than_s)
    removed = [one for one in found if _may_go(one, older_than_s, unpushed=unpushed)]
    unused = spares.older(older_than_s, home)
    if not dry_run:
        for one in removed:
            await trees.remove(Path(one.path), home, settings)
        await spares.drop(unused, home, trees.git_for(home, settings))
        await trees.pack(home, settings)
    kept = [one for one in found if one not in removed]
    used = await asyncio.to_thread(trees.size_bytes, home)
    return Cleaned(
        removed=removed,
        kept=kept,
        dry_run=dry_run,
        bytes=used,
        quota_bytes=_quota(settings),
        spares=len(unused),
    )


async def sweep(home: Home, settings: Settings, is_in_use: Callable[[str], bool]) -> Swept:
    """A round in the background: what is old enough goes, and over the quota what may go, the oldest first."""
    found = await trees.look(home, settings, is_in_use)
    old = [one for one in found if _may_go(one, settings.sidecar.keep_worktrees_s, unpushed=False)]
    for one in old:
        await trees.remove(Path(one.path), home, settings)
    await spares.drop(spares.older(settings.sidecar.keep_worktrees_s, home), home, trees.git_for(home, settings))
    if old:
        await _pack(home, settings)
    left = [one for one in found if one not in old]
    return await _within_quota(home, settings, left, len(old))


async def is_full(home: Home, settings: Settings) -> bool:
    """Whether the quota is passed by now."""
    quota = _quota(settings)
    return quota is not None and await asyncio.to_thread(trees.size_bytes, home) > quota


async def _within_quota(home: Home, settings: Settings, left: list[Tree], removed: int) -> Swept:
    quota = _quota(settings)
    if quota is None:
        return Swept(removed, "")
    used = await asyncio.to_thread(trees.size_bytes, home)
    if used > quota and await spares.drop(spares.made(home), home, trees.git_for(home, settings)):
        used = await asyncio.to_thread(trees.size_bytes, home)
    for one in [one for one in left if one.removable]:
        if used <= quota:
            break
        await trees.remove(Path(one.path), home, settings)
        logs.get().info("worktree_removed_for_quota", name=one.name, why=one.why)
        removed += 1
        left.remove(one)
        used = await asyncio.to_thread(trees.size_bytes, home)
    return Swept(removed, _full(used, quota, left) if used > quota else "")


def _full(used: int, quota: int, left: list[Tree]) -> str:
    needed = [f"{one.name}: {one.why}" for one in left if not one.in_use]
    shown = "; ".join(needed[:KEPT_NAMED_MAX])
    more = f" and {len(needed) - KEPT_NAMED_MAX} more" if len(needed) > KEPT_NAMED_MAX else ""
    kept = f" ({len(needed)} worktrees cannot go: {shown}{more})" if needed else ""
    return f"its worktrees and mirrors take {used // MIB} MiB of sidecar.quota_mib {quota // MIB}{kept}"


def _may_go(tree: Tree, older_than_s: int, *, unpushed: bool) -> bool:
    if tree.in_use or tree.age_s < older_than_s:
        return False
    return tree.removable or (unpushed and tree.branch is not None)


def _quota(settings: Settings) -> int | None:
    return settings.sidecar.quota_mib * MIB or None


async def _pack(home: Home, settings: Settings) -> None:
    try:
        await trees.pack(home, settings)
    except WorkspaceError as error:
        logs.get().warning("mirror_not_packed", reason=error.message)
