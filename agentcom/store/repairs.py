"""What restores have done to a store, by themselves at a start or by hand.

It is kept beside the store for as long as the file that was set aside lies there, so that somebody who comes later
still learns of it, and where the space went.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from agentcom.config import write_private
from agentcom.errors import UNREADABLE
from agentcom.model import JsonObject

FILE: Final = "repairs.json"
REPAIRS_MAX: Final = 100  # the oldest go first
SET_ASIDE_MAX: Final = 1000  # files that are listed
SUFFIX: Final = "set-aside-"


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """One restore, at a time (RFC 3339). `why`: what was wrong, empty where a person asked for it; `backup`:
    the name of the file that was taken, empty where the journal alone was enough; `missing`: what could not be
    got back; `set_aside`: where the old file lies, empty where there was none; `seen`: an operator has said so."""

    at: str
    why: str
    backup: str
    replayed: int
    sequence: int
    missing: tuple[str, ...] = ()
    set_aside: str = ""
    seen: bool = False


class Repairs:
    """Those of the store in the folder. One without an old file is told until the next start: nothing else says
    how long it matters. `just_made`: this start has made the newest."""

    def __init__(self, folder: Path, *, just_made: bool = False) -> None:
        self._folder = folder
        found = _read(folder)
        newest = found[-1:] if just_made else []
        self._found = [one for one in found if one.set_aside or one in newest]

    def view(self) -> list[JsonObject]:
        """The oldest first, without those whose old file is gone."""
        shown = [one for one in self._found if not one.set_aside or Path(one.set_aside).exists()]
        return [msgspec.to_builtins(one) for one in shown]

    def acknowledge(self) -> int:
        """An operator has seen them; how many were not seen before. A disk that takes no file leaves that to this
        process."""
        count = sum(not one.seen for one in self._found)
        if count:
            self._found = [msgspec.structs.replace(one, seen=True) for one in self._found]
            _write(self._folder, self._found)
        return count


def note_repair(folder: Path, repair: Repair) -> None:
    """Keep it, if the disk takes it: a store that was just restored must not fail for that."""
    known = [one for one in _read(folder) if one.set_aside and Path(one.set_aside).exists()]
    _write(folder, [*known, repair][-REPAIRS_MAX:])


def set_aside_in(*folders: Path) -> list[JsonObject]:
    """The files that restores and starts have set aside there, with their sizes. O(files in the folders)."""
    found = sorted(path for folder in folders for path in _set_aside(folder))
    sizes = ((path, _size(path)) for path in found[:SET_ASIDE_MAX])
    return [{"path": str(path), "bytes": size} for path, size in sizes if size is not None]


def _set_aside(folder: Path) -> Iterator[Path]:
    try:
        yield from (path for path in folder.iterdir() if f".{SUFFIX}" in path.name)
    except OSError:
        return


def _size(path: Path) -> int | None:
    """None where it was removed in between."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _write(folder: Path, repairs: list[Repair]) -> None:
    with contextlib.suppress(OSError):
        write_private(folder / FILE, msgspec.json.encode(repairs))


def _read(folder: Path) -> list[Repair]:
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=list[Repair])
    except (*UNREADABLE, OSError):
        return []
