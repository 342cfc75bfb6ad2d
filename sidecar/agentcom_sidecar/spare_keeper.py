"""Keeps a spare worktree for each repository that this host works in, so many at most, and none where room is short.

One is made at a time, and none is begun while an attempt waits for its place: after an attempt has got one, and of the
base that it got. What fails costs nobody anything: the next attempt gets a new worktree.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from agentcom import logs
from agentcom.config import Home, Settings
from agentcom.limits import MIB
from agentcom_sidecar import mirrors, spares, trees
from agentcom_sidecar.git import Git
from agentcom_sidecar.sandbox import room_of
from agentcom_sidecar.workspace import Workspace

FILES_MIN: Final = 1000  # in a base: fewer are written while git starts (docs/performance.md has the figures)
ROOM_BYTES_MIN: Final = 1 << 30  # left on the disk; with less none is kept
LOOK_S: Final = 30.0  # between two looks at the room on the disk


class Wanted(NamedTuple):
    """A base, and an attempt's worktree of it."""

    commit: str
    path: Path


class SpareKeeper:
    """`is_starting` says whether an attempt waits for its place just now."""

    def __init__(self, home: Home, settings: Settings, is_starting: Callable[[], bool]) -> None:
        self._home, self._settings = home, settings
        self._most = settings.sidecar.spare_worktrees
        self._is_starting = is_starting
        self._wanted: dict[Path, Wanted] = {}  # by mirror, the last used one last
        self._something = asyncio.Event()

    def handed_out(self, place: Workspace) -> None:
        """An attempt has its place."""
        mirror = place.mirror
        if mirror is not None and place.files >= FILES_MIN and mirror.parent == self._home.sidecar / "mirrors":
            self._wanted.pop(mirror, None)
            self._wanted[mirror] = Wanted(place.base_commit, place.path)
            for each in list(self._wanted)[: -self._most or None]:
                del self._wanted[each]
        self.hurry()

    def hurry(self) -> None:
        """An attempt waits no longer."""
        if self._wanted:
            self._something.set()

    async def run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._something.wait()
            self._something.clear()
            try:
                await self.look()
            except Exception as error:
                logs.get().warning("spare_not_made", reason=f"{type(error).__name__}: {error}")

    async def look(self) -> None:
        """Makes what is wanted, unless an attempt comes to wait, and throws away what is too much."""
        git = self._git()
        await spares.clear(self._home, git)
        while self._wanted and not self._is_starting():
            mirror, wanted = self._wanted.popitem()
            if spares.of(mirror, self._home) is None and await asyncio.to_thread(self._has_room, wanted.path):
                await spares.make(mirror, wanted.commit, self._home, git)
        is_short = room_of(self._home.sidecar) < ROOM_BYTES_MIN
        made = spares.made(self._home)
        await spares.drop(made if is_short else made[: -self._most or None], self._home, git)

    def _has_room(self, like: Path) -> bool:
        """For another one as large, on the disk and in the quota; and whether it can be moved to the others."""
        size = trees.size_of(like)
        quota = self._settings.sidecar.quota_mib * MIB
        folder = spares.place(self._home)
        return (
            size > 0
            and room_of(folder) - size >= 2 * ROOM_BYTES_MIN  # not to be thrown away again at once
            and (not quota or trees.size_bytes(self._home) + size <= quota)
            and os.stat(folder).st_dev == os.stat(like).st_dev
        )

    def _git(self) -> Git:
        private = self._home.sidecar / "scratch" / "spares"
        private.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Git(home=private, mode=mirrors.mode_outside(self._settings), grace_s=0)
