"""Files of what the scheduler decided from: written by the hub as it goes, read for a replay.

A file begins with a magic word; then come frames, each with its length and a CRC-32 before it, the first of them a
`Start`. Frames are appended and never synced: a hub that is killed leaves a last frame that is cut, and all before it
reads. Each file stands for itself; the oldest go when all together would be larger than allowed.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final, NamedTuple

import msgspec

from agentcom import logs
from agentcom.config import SchedulerSettings
from agentcom.core.recording import FORMAT, Recorder, Start, Turn
from agentcom.errors import UNREADABLE, AgentComError
from agentcom.limits import MIB

MAGIC: Final = b"ACSCHED\n"
SUFFIX: Final = ".sched"
_HEAD: Final = struct.Struct("<II")
_format = msgspec.msgpack.Decoder(list[object]).decode
_start = msgspec.msgpack.Decoder(Start).decode
_turn = msgspec.msgpack.Decoder(Turn).decode


class RecordingError(AgentComError):
    """A file is no recording, or not one that can be read."""

    code = "recording"


class Recordings:
    """The folder of recordings of a hub. A disk that takes no more ends the recording, never the hub."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[bytes] | None = None
        self._path = folder
        self._size = 0
        self._others: list[tuple[Path, int]] = []  # older files and their sizes, the oldest first
        self._number = 0
        self.failed = ""  # why nothing is recorded, though it should be

    @property
    def is_open(self) -> bool:
        return self._file is not None or bool(self.failed)

    def turn(self, recorder: Recorder | None, settings: SchedulerSettings, wall_ms: int) -> str:
        """Write what was recorded in this tick. Why that has failed, once: then nothing is recorded until it is
        switched off and on again."""
        if recorder is None:
            self.close()
            self.failed = ""
            return ""
        frames = recorder.take()
        if not frames or self.failed:
            return ""
        try:
            for is_start, frame in frames:
                self._write(is_start, frame, settings, wall_ms)
        except OSError as error:
            self.close()
            self.failed = f"{self._folder}: {error.strerror or error}"
            logs.get().error("recording_failed", error=self.failed)
            return self.failed
        if self._file is None or self._size > settings.record_file_mib * MIB:
            recorder.begin_anew()
        return ""

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, is_start: bool, frame: bytes, settings: SchedulerSettings, wall_ms: int) -> None:
        if is_start:
            self._begin(wall_ms)
        if self._file is None:
            return  # without a start before it a turn says nothing
        self._file.write(_HEAD.pack(len(frame), zlib.crc32(frame)) + frame)
        self._size += _HEAD.size + len(frame)
        self._trim(settings.record_mib * MIB)

    def _begin(self, wall_ms: int) -> None:
        self.close()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._number += 1
        self._path = self._folder / f"{wall_ms:013d}-{self._number:06d}{SUFFIX}"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file = os.fdopen(descriptor, "wb", buffering=0)
        self._file.write(MAGIC)
        self._size = len(MAGIC)
        others = [path for path in recordings_in(self._folder) if path != self._path]
        self._others = [(path, path.stat().st_size) for path in others]

    def _trim(self, at_most: int) -> None:
        """Drop the oldest files; the one that is written, too, where it alone is too large."""
        total = self._size + sum(size for _, size in self._others)
        while total > at_most and self._others:
            path, size = self._others.pop(0)
            path.unlink(missing_ok=True)
            total -= size
        if total > at_most:
            self.close()
            self._path.unlink(missing_ok=True)


def recordings_in(folder: Path) -> list[Path]:
    """The oldest first."""
    return sorted(folder.glob(f"*{SUFFIX}"))


class Recorded(NamedTuple):
    """What a file holds. `cut`: what is wrong with its end, where the hub was killed; empty for a whole file."""

    start: Start
    turns: list[Turn]
    cut: str


def read(path: Path) -> Recorded:
    """RecordingError that says what is wrong and where."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from error
    if not content.startswith(MAGIC):
        raise RecordingError(f"{path}: this is not a recording of the scheduler (see scheduler.record)")
    frames = _frames(path, content)
    try:
        first = next(frames)
    except StopIteration:
        raise RecordingError(f"{path}: nothing was recorded before the hub stopped") from None
    start = _checked_start(path, first[1])
    turns: list[Turn] = []
    cut = ""
    for number, (at, frame) in enumerate(frames, 1):
        if frame is None:
            cut = f"the last frame, at byte {at}, is cut: {len(turns)} turns before it were read"
            break
        try:
            turns.append(_turn(frame))
        except UNREADABLE as error:
            raise RecordingError(f"{path}: frame {number} at byte {at} does not read: {error}") from error
    return Recorded(start, turns, cut)


def _frames(path: Path, content: bytes) -> Iterator[tuple[int, bytes | None]]:
    """(where, the frame); None for a last one that is cut."""
    at, number = len(MAGIC), 0
    while at < len(content):
        if at + _HEAD.size > len(content):
            yield at, None
            return
        length, checksum = _HEAD.unpack_from(content, at)
        frame = content[at + _HEAD.size : at + _HEAD.size + length]
        if len(frame) < length:
            yield at, None
            return
        if zlib.crc32(frame) != checksum:
            raise RecordingError(
                f"{path}: frame {number} at byte {at} is damaged: its checksum does not fit; take another file"
            )
        yield at, frame
        at, number = at + _HEAD.size + length, number + 1


def _checked_start(path: Path, frame: bytes | None) -> Start:
    if frame is None:
        raise RecordingError(f"{path}: it is cut within its first frame: nothing of it can be read")
    try:
        found = _format(frame)
        written = found[0]
        if isinstance(written, int) and written > FORMAT:
            raise RecordingError(
                f"{path}: it has format {written}, this version reads up to {FORMAT}: use the agentcom that wrote it"
            )
        return _start(frame)
    except (*UNREADABLE, IndexError) as error:
        raise RecordingError(f"{path}: its first frame does not read: {error}") from error
