"""What the hub is told of this host's worktrees: looked at now and then, each only as often as it can have changed.

Git is asked about what an attempt works in at each look, about the others when their directory, index or record has
changed, and once in a while all the same, since somebody may have edited a file in one. Bounded in number, in bytes,
and in what is asked in one look, so that a host with much to do does not do this: those in use first, then the newest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
from msgspec import Struct

from agentcom import limits, logs
from agentcom.config import Home, Settings
from agentcom.messages import Worktrees
from agentcom.worktrees import NAMED_CHARS_MAX, Worktree
from agentcom_sidecar import trees
from agentcom_sidecar.git import WorkspaceError
from agentcom_sidecar.trees import Tree

KNOWN_S: Final = 600.0  # how long what git said of one that nobody works in is taken for true
ASKED_MAX: Final = 10  # in one look, about 70 ms of processor time each; the others come in the next
PAUSE_S: Final = 20.0  # between two looks, however much there is to tell
REPORT_BYTES_MAX: Final = limits.REQUEST_BYTES_MAX // 2
Stamp = tuple[int, ...]


class _Known(NamedTuple):
    stamp: Stamp
    looked_at: float
    tree: Tree


class TreeReport:
    """The worktrees of this host, as they were seen last. `in_use` says which attempts are at work; `send` is the
    session's."""

    def __init__(
        self,
        home: Home,
        settings: Settings,
        in_use: Callable[[], Callable[[str], bool]],
        send: Callable[[Callable[[bytes], Struct]], bool],
    ) -> None:
        self._home, self._settings = home, settings
        self._in_use, self._send = in_use, send
        self._known: dict[str, _Known] = {}
        self._stale = asyncio.Event()
        self._left = 0  # that git may still be asked about in this look
        self.asked = 0  # how often git was asked about one

    def hurry(self) -> None:
        """There may be something new to tell."""
        self._stale.set()

    async def run(self) -> None:
        every_s = self._settings.sidecar.worktrees_s
        while True:
            self._stale.clear()
            try:
                told, left_out = await self.look()
                self._send(partial(_message, told, left_out))
            except (OSError, WorkspaceError) as error:
                logs.get().warning("worktrees_not_told", reason=str(error))
            await asyncio.sleep(min(PAUSE_S, every_s))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(every_s):
                    await self._stale.wait()

    async def look(self) -> tuple[tuple[Worktree, ...], int]:
        """What is told, and how many are left out of it."""
        in_use, self._left = self._in_use(), ASKED_MAX
        found = await asyncio.to_thread(trees.directories, self._home)
        paths = sorted(found, key=lambda each: (in_use(each.name), _changed_ns(each)), reverse=True)
        chosen = paths[: limits.WORKTREES_TOLD_MAX]
        self._known = {each.name: self._known[each.name] for each in chosen if each.name in self._known}
        for path in chosen:
            await self._look_at(path, in_use(path.name))
        told = self._told([self._known[path.name] for path in chosen if path.name in self._known])
        return told, len(paths) - len(told)

    async def _look_at(self, path: Path, is_in_use: bool) -> None:
        now, known, stamp = time.monotonic(), self._known.get(path.name), self._stamp(path)
        is_fresh = known is not None and known.stamp == stamp and now - known.looked_at < KNOWN_S
        if is_fresh and known is not None and not is_in_use and not known.tree.in_use:
            return
        if not self._left:
            return
        self._left -= 1
        self.asked += 1
        try:
            tree = await trees.look_at(path, self._home, self._settings, is_in_use)
        except FileNotFoundError:  # it went meanwhile
            self._known.pop(path.name, None)
            return
        self._known[path.name] = _Known(stamp, now, tree)

    def _stamp(self, path: Path) -> Stamp:
        """What changes when somebody commits, pushes or makes files at the top of it."""
        with contextlib.suppress(OSError, ValueError):
            git_dir = Path((path / ".git").read_text()[:4096].removeprefix("gitdir:").strip())
            return tuple(map(_changed_ns, (path, trees.record_path(self._home, path.name), git_dir / "index")))
        return (_changed_ns(path),)

    def _told(self, known: list[_Known]) -> tuple[Worktree, ...]:
        told, left = [], REPORT_BYTES_MAX
        for each in known:
            one = _worktree(each.tree, time.monotonic() - each.looked_at)
            left -= len(msgspec.msgpack.encode(one))
            if left < 0:
                break
            told.append(one)
        return tuple(told)


def _message(told: tuple[Worktree, ...], left_out: int, token: bytes) -> Worktrees:
    return Worktrees(session=token, trees=told, left_out=left_out)


def _worktree(tree: Tree, looked_s: float) -> Worktree:
    fields = {name: getattr(tree, name) for name in Worktree.__struct_fields__ if hasattr(tree, name)}
    for name in ("name", "branch", "base_branch", "pushed_as"):
        fields[name] = fields[name][:NAMED_CHARS_MAX] if fields[name] is not None else None
    fields["repo"] = tree.repo[: limits.URL_CHARS_MAX] if tree.repo is not None else None
    fields["why"] = tree.why[: limits.REASON_CHARS_MAX]
    fields["age_s"] += int(looked_s)
    if tree.goes_in_s is not None:
        fields["goes_in_s"] = max(0, tree.goes_in_s - int(looked_s))
    return Worktree(**fields, looked_s=int(looked_s))


def _changed_ns(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except OSError:
        return 0
