"""What a power cut can leave of a recorded run: the disk after any of its changes, in four moods.

Content is durable after a sync of its file (or when it was written synchronously), a name after a sync of its
folder: no more than that is taken for granted. Of what was not yet durable the moods keep all, nothing, each
change by lot, or each sector of 512 bytes by lot; names by lot keep their order.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.faults.recorder import Change, Kind

SECTOR = 512


class Mood(StrEnum):
    ALL_KEPT = "all kept"
    UNSYNCED_LOST = "unsynced lost"
    SUBSET = "random subset"
    SECTORS = "random sectors"


@dataclass
class _Pending:
    """A write (`content`) or a cut (None) that is not durable yet, or must be kept since it is."""

    offset: int
    content: bytes | None
    is_durable: bool = False


@dataclass
class _File:
    durable: bytearray = field(default_factory=bytearray)
    pending: list[_Pending] = field(default_factory=list)

    def sync(self) -> None:
        for one in self.pending:
            _carry_out(self.durable, one.offset, one.content)
        self.pending.clear()

    def content(self, mood: Mood, rng: random.Random) -> bytes:
        left = bytearray(self.durable)
        for one in self.pending:
            if one.is_durable or mood is Mood.ALL_KEPT:
                _carry_out(left, one.offset, one.content)
            elif mood is Mood.SUBSET or (mood is Mood.SECTORS and one.content is None):
                if rng.random() < 0.5:
                    _carry_out(left, one.offset, one.content)
            elif mood is Mood.SECTORS and one.content is not None:
                for start, piece in _sectors(one.offset, one.content):
                    if rng.random() < 0.5:
                        _carry_out(left, start, piece)
        return bytes(left)


def _carry_out(content: bytearray, offset: int, piece: bytes | None) -> None:
    if piece is None:
        del content[offset:]
        content.extend(bytes(offset - len(content)))
        return
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(piece)] = piece


def _sectors(offset: int, content: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut at multiples of a sector on the disk."""
    position = 0
    while position < len(content):
        end = position + SECTOR - (offset + position) % SECTOR
        yield offset + position, content[position:end]
        position = end


Names = dict[str, _File]


class Disk:
    """The disk as the run changes it. `begin` a change, take images, then `finish` it: until then the change is
    under way, and a power cut may keep all, some or nothing of it."""

    def __init__(self, durable: Mapping[str, bytes] | None = None) -> None:
        """`durable` is what lay there before the recording began."""
        self._names: Names = {path: _File(bytearray(content)) for path, content in (durable or {}).items()}
        self._durable_names: Names = dict(self._names)
        self._renamings: list[
            tuple[str, Names]
        ] = []  # per change of a name: its folder, and the names after it

    def begin(self, change: Change) -> None:
        match change.kind:
            case Kind.WRITE:
                self._file(change.path).pending.append(_Pending(change.offset, change.content))
            case Kind.CUT:
                self._file(change.path).pending.append(_Pending(change.offset, None))
            case Kind.CREATE:
                self._rename({**self._names, change.path: _File()}, change.path)
            case Kind.UNLINK:
                left = {path: file for path, file in self._names.items() if path != change.path}
                self._rename(left, change.path)
            case Kind.RENAME:
                moved = {path: file for path, file in self._names.items() if path != change.path}
                moved[change.content.decode()] = self._file(change.path)
                self._rename(moved, change.path)
            case Kind.SYNC | Kind.SYNC_FOLDER:
                pass  # they take effect when they return

    def finish(self, change: Change) -> None:
        if change.kind is Kind.WRITE and change.is_synchronous:
            self._file(change.path).pending[-1].is_durable = True
        elif change.kind is Kind.SYNC:
            self._file(change.path).sync()
        elif change.kind is Kind.SYNC_FOLDER:
            self._sync_names(change.path)

    def _file(self, path: str) -> _File:
        if path not in self._names:  # it was there before the recording began
            self._names[path] = self._durable_names[path] = _File()
        return self._names[path]

    def _rename(self, names: Names, path: str) -> None:
        self._names = names
        self._renamings.append((str(Path(path).parent), names))

    def _sync_names(self, folder: str) -> None:
        here = {path: file for path, file in self._names.items() if str(Path(path).parent) == folder}
        elsewhere = {
            path: file for path, file in self._durable_names.items() if str(Path(path).parent) != folder
        }
        self._durable_names = {**elsewhere, **here}
        self._renamings = [one for one in self._renamings if one[0] != folder]

    def image(self, mood: Mood, rng: random.Random) -> dict[str, bytes]:
        """The files that a machine would find after a power cut now."""
        return {path: file.content(mood, rng) for path, file in self._left(mood, rng).items()}

    def _left(self, mood: Mood, rng: random.Random) -> Names:
        if mood is Mood.UNSYNCED_LOST:
            return self._durable_names
        if mood is Mood.ALL_KEPT or not self._renamings:
            return self._names
        steps = [self._durable_names, *(names for _, names in self._renamings)]
        return rng.choice(steps)


def lay_out(place: Path, files: dict[str, bytes]) -> None:
    """A home as a power cut has left it."""
    place.mkdir(mode=0o700)
    (place / "store").mkdir(mode=0o700)
    for name, content in files.items():
        file = place / name
        file.parent.mkdir(exist_ok=True, mode=0o700, parents=True)
        file.write_bytes(content)
        file.chmod(0o600)
