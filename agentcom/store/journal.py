"""The journal: every batch, written down before the store commits it, so that a backup or a file that was
rolled back can be brought forward to the last batch.

`append` does not sync: either `sync` is called for each batch, or `begin_sync` and later `end_sync`, and that is what
makes it durable, or the store's own commit is, and the journal follows later. If the commit fails the record is taken
out again (`cut_back`). Segments are bounded, and dropped when every kept backup is newer. The open one is filled with
zeros ahead of its end: to sync a file that grows costs half as much again. Beside the segments `reached` says how far
was synced, so that the last record is missed when it cannot be read any more. After an error at the disk the journal
refuses further work, as the kernel may have forgotten what it could not write; after a full disk it goes on where it
was. The note has the counters of what gets a number, too: a number that was given is not given again, whatever is lost.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import zlib
from pathlib import Path
from typing import Final, TypedDict

import msgspec

from agentcom.errors import StoreError, StoreFull
from agentcom.store.base import Batch
from agentcom.store.place import NO_ROOM, sync_directory
from agentcom.store.segments import (
    SEGMENT_HEAD,
    Replay,
    Survey,
    Unreadable,
    read_segment,
    record_head,
    replay,
    segment_head,
    segment_name,
    segments,
    survey,
)

try:
    from agentcom._flusher import Flusher
except ImportError:  # not built here: the loop waits for each flush
    Flusher = None  # type: ignore[assignment, misc]

FILL_BYTES: Final = 2**18  # written ahead of the end at a time
SEGMENT_BYTES: Final = 64 * 2**20  # what a start reads into memory at a time; a new segment begins above it

REACHED_FILE: Final = "reached"
COUNTERS: Final = ("next_task", "next_event")  # of "meta": people and hosts know by their numbers what is counted there
_REACHED: Final = struct.Struct(">QI")
_GIVEN: Final = struct.Struct(f">{len(COUNTERS)}QI")  # behind it, with a checksum of its own
_COUNTER_KEYS: Final = tuple(name.encode() for name in COUNTERS)

_encode = msgspec.msgpack.Encoder().encode


class JournalStats(TypedDict):
    """`covered_from` is the first of the batches that are there without a hole up to `last`; `unsynced_bytes`
    is what a power cut could take."""

    bytes: int
    records: int
    segments: int
    covered_from: int
    last: int
    unsynced_bytes: int


class Journal:
    """The journal in a folder, which is made (0700) when it is missing. One writer; a torn tail is cut off, which is
    all that opening writes. `found` is what `survey` has just said of it, where the caller has asked.

    Raises StoreVersion when a newer program wrote it, StoreError when the disk does not answer.
    """

    def __init__(
        self, folder: Path | str, *, segment_bytes: int = SEGMENT_BYTES, found: Survey | None = None
    ) -> None:
        self.folder = Path(folder)
        self._segment_bytes = segment_bytes
        self._refusal: str | None = None
        self._file: int | None = None
        self._end = 0  # of the open segment
        self.fills = True  # ahead of the end; not where room is short
        self._filled = 0  # with zeros, up to there
        self._path = Path()  # of the open segment
        self._before: tuple[int, int, int] | None = None  # end, last and covered_from before the last append
        self._unsynced: set[int] = set()
        self._unsynced_bytes = 0
        self._is_name_unsynced = False
        self._flusher: Flusher | None = None  # made with the first flush that it is for
        self._flies = False  # whether it has one under way
        try:
            if not self.folder.is_dir():
                self.folder.mkdir(mode=0o700, parents=True)
                sync_directory(self.folder.parent)
        except OSError as error:
            raise self._trouble("make", error) from error
        self._reached = Reached(self.folder)
        self.found: Survey = survey(self.folder) if found is None else found
        self._last = self.found.last
        self._covered_from = self.found.run_first or 1
        self._records = self.found.records
        self._open_newest()

    @property
    def last(self) -> int:
        """The number of the last batch, 0 in a new journal."""
        return self._last

    @property
    def covered_from(self) -> int:
        """The batches from here to `last` are there without a hole; `last + 1` when none is."""
        return self._covered_from

    @property
    def reached(self) -> int:
        """A batch that was synced, as far as the note of that has come; it and those before it must be there."""
        return self._reached.sequence

    @property
    def given(self) -> dict[str, int]:
        """By name in "meta", how far each counter had come, as far as the note of that has come: the next number may be
        that one or a later one, also where the batch that says so is lost."""
        return dict(zip(COUNTERS, self._reached.given, strict=True))

    @property
    def is_usable(self) -> bool:
        """False after an error at the disk."""
        return self._refusal is None

    def append(self, batch: Batch, sequence: int) -> int:
        """Write the batch down, without a sync; the bytes of its record. StoreFull and StoreError leave the journal as
        it was.

        A sequence that does not follow the last one begins a new run: there is a hole before it.
        """
        self.end_sync()
        self._require_usable()
        body = _encode(dict(batch.changes()))
        before = (self._end, self._last, self._covered_from)
        if self._file is None or sequence != self._last + 1 or self._end > self._segment_bytes:
            self._begin_segment(sequence)
            before = (self._end, *before[1:])
        assert self._file is not None
        record = record_head(sequence, body) + body
        if self.fills and self._end + len(record) > self._filled:
            self._fill(self._end + len(record))
        try:
            _write(self._file, record, self._end)
        except OSError as error:
            self._take_back(self._end)
            raise self._trouble("append to", error) from error
        self._before = before
        if sequence != self._last + 1:
            self._covered_from = sequence
        self._end += len(record)
        self._filled = max(self._filled, self._end)
        self._last = sequence
        self._records += 1
        self._reached.count(batch)
        self._unsynced.add(self._file)
        self._unsynced_bytes += self._end - before[0]
        return len(record)

    def cut_back(self) -> None:
        """Take the last append out again, because its batch was not committed."""
        assert not self._flies, "what is made durable stays"
        assert self._before is not None, "there is one append to take back"
        self._take_back(self._before[0])
        if self._refusal:
            raise StoreError(f"cannot cut back {self.folder}: {self._refusal}")
        self._unsynced_bytes -= self._end - self._before[0]
        self._end, self._last, self._covered_from = self._before
        self._before = None
        self._records -= 1

    def skip(self, sequence: int) -> None:
        """The batch was committed and not written down, for want of room. That is a hole, which a new backup
        closes: new submits wait for it."""
        self._leave_segment()
        self._last, self._covered_from, self._before = sequence, sequence + 1, None

    def begin_sync(self) -> bool:
        """Begin to make what was appended durable, and go on: `end_sync` has to follow. False where all was done at
        once, since there is more to it than a file, or no thread for it. Errors as of `sync`."""
        self.end_sync()
        self._require_usable()
        if Flusher is None or self._file is None or self._is_name_unsynced or self._unsynced != {self._file}:
            self.sync()
            return False
        if self._flusher is None:
            self._flusher = Flusher()
        self._flusher.begin(self._file, *self._reached.to_write(self._last))
        self._flies = True
        return True

    @property
    def is_synced(self) -> bool:
        """Whether `end_sync` would not have to wait."""
        return self._flusher is None or self._flusher.is_done()

    def end_sync(self) -> None:
        """Wait for what `begin_sync` began, if anything: what was appended before is durable. Errors as of `sync`."""
        if not self._flies:
            return
        assert self._flusher is not None
        assert self._file is not None
        self._flies = False
        try:
            self._flusher.wait()
        except OSError as error:
            raise self._sync_failed(error) from error
        self._unsynced.discard(self._file)
        self._unsynced_bytes = 0
        self._reached.sequence = self._last  # written by the flusher

    def sync(self) -> None:
        """Make what was appended durable; nothing to do costs nothing. Any failure ends the journal's use."""
        self.end_sync()
        self._require_usable()
        try:
            for descriptor in sorted(self._unsynced):
                os.fdatasync(descriptor)
                if descriptor != self._file:
                    os.close(descriptor)
                self._unsynced.discard(descriptor)
            if self._is_name_unsynced:
                sync_directory(self.folder)
                self._is_name_unsynced = False
        except OSError as error:
            raise self._sync_failed(error) from error
        self._synced()

    def _synced(self) -> None:
        self._unsynced_bytes = 0
        self._reached.note(self._last)

    def _sync_failed(self, error: OSError) -> StoreError:
        self._refusal = f"an earlier sync failed ({error.strerror}); stop and start again"
        return StoreError(f"cannot sync {self.folder}: {error.strerror}; stop and start again")

    def rotate(self) -> None:
        """Begin a new segment with the next batch: called when a backup has been verified."""
        if self._end > SEGMENT_HEAD.size:
            self._leave_segment()

    def drop_through(self, sequence: int) -> int:
        """Delete the segments that hold nothing beyond `sequence`, the batch of the oldest backup that is kept;
        how many."""
        known = segments(self.folder)
        ends = [first - 1 for first, _ in known[1:]]
        dropped = [path for (_, path), end in zip(known, ends, strict=False) if end <= sequence]
        for path in dropped:
            path.unlink()
        if dropped:
            self._is_name_unsynced = True
            self._covered_from = max(self._covered_from, segments(self.folder)[0][0])
        return len(dropped)

    def replay(self, after: int) -> Replay:
        """The batches after `after`, up to the end or the first hole. Segments that end before are not read."""
        return replay(self.folder, after)

    def forget_after(self, sequence: int, suffix: str) -> list[Path]:
        """Set aside, under names that end with `suffix`, what lies beyond `sequence` and cannot be applied:
        later batches take those numbers anew. Returns the files that were kept."""
        self._leave_segment()
        kept = []
        for _, path in segments(self.folder):
            good = SEGMENT_HEAD.size
            beyond = False
            for item in read_segment(path):
                if isinstance(item, Unreadable) or item.sequence > sequence:
                    beyond = True
                    break
                good = item.end
            if beyond:
                kept.append(_set_aside(path, good, suffix))
        sync_directory(self.folder)
        left = survey(self.folder)
        self._last, self._covered_from, self._records = left.last, left.run_first or 1, left.records
        self.go_back(sequence)
        return kept

    def go_back(self, sequence: int) -> None:
        """What was synced beyond that batch is known to be gone, and was told of."""
        if self._reached.sequence > sequence:
            self._reached.note(sequence)

    def bytes_beyond(self, sequence: int) -> int:
        """Bytes of the segments that begin after batch `sequence`; the journal begins one at each backup."""
        return sum(self._size(path) for first, path in segments(self.folder) if first > sequence)

    def _size(self, path: Path) -> int:
        return self._end if path == self._path and self._file is not None else path.stat().st_size

    def stats(self) -> JournalStats:
        sizes = [self._size(path) for _, path in segments(self.folder)]
        return JournalStats(
            bytes=sum(sizes),
            records=self._records,
            segments=len(sizes),
            covered_from=self._covered_from,
            last=self._last,
            unsynced_bytes=self._unsynced_bytes,
        )

    def close(self) -> None:
        """Sync, if that can still be done, and let go of the files."""
        try:
            self.end_sync()
            if not self._refusal:
                self._cut_filling()
                self.sync()
        finally:
            self.let_go()

    def let_go(self) -> None:
        """Of the files, as they are."""
        if self._flusher is not None:
            self._flusher.close()
        self._reached.close()
        for descriptor in self._unsynced | ({self._file} if self._file is not None else set()):
            os.close(descriptor)
        self._unsynced, self._file = set(), None
        self._refusal = self._refusal or "it is closed"

    def _open_newest(self) -> None:
        """Go on in the newest segment if nothing but its tail is unreadable; otherwise leave it as it is."""
        end = self.found.end
        if not end:
            return  # no record in it: it is begun anew when a batch takes its number
        path = segments(self.folder)[-1][1]
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            if self.found.torn_bytes:
                os.ftruncate(self._file, end)
            self._filled = os.fstat(self._file).st_size  # zeros that were written ahead are good for what comes
        except OSError as error:
            raise self._trouble("open", error) from error
        self._end = end
        self._path = path
        self._unsynced.add(self._file)

    def _begin_segment(self, first: int) -> None:
        self._leave_segment()
        path = self.folder / segment_name(first)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise self._trouble("begin a segment of", error) from error
        try:
            _write(descriptor, segment_head(), 0)
        except OSError as error:
            os.close(descriptor)
            raise self._trouble("begin a segment of", error) from error
        self._file, self._end, self._filled, self._path = descriptor, SEGMENT_HEAD.size, SEGMENT_HEAD.size, path
        self._is_name_unsynced = True

    def _leave_segment(self) -> None:
        self.end_sync()
        if self._file is None:
            return
        self._cut_filling()
        if self._file not in self._unsynced:
            os.close(self._file)
        self._file, self._end, self._before = None, 0, None

    def _fill(self, needed: int) -> None:
        """Zeros from the end of the file on; where there is no room for them the append says so."""
        assert self._file is not None
        if self._filled < self._end:
            self._filled = self._end
        with contextlib.suppress(OSError):
            size = needed - self._filled + FILL_BYTES
            self._filled += os.pwrite(self._file, bytes(size), self._filled)

    def _cut_filling(self) -> None:
        """A segment that is left ends with its last record."""
        if self._file is not None and self._filled > self._end:
            with contextlib.suppress(OSError):  # zeros at the end are no harm
                os.ftruncate(self._file, self._end)
            self._filled = self._end
            self._unsynced.add(self._file)

    def _take_back(self, end: int) -> None:
        """Cut the open segment to `end`: cutting needs no room, so it fails only if the disk does."""
        assert self._file is not None
        self._filled = end
        try:
            os.ftruncate(self._file, end)
        except OSError as error:
            self._refusal = f"a record could not be taken back ({error.strerror}); stop and start again"

    def _require_usable(self) -> None:
        if self._refusal:
            raise StoreError(f"cannot write to {self.folder}: {self._refusal}")

    def _trouble(self, operation: str, error: OSError) -> StoreError:
        text = f"cannot {operation} {self.folder}: {error.strerror}"
        if error.errno in NO_ROOM:
            return StoreFull(f"{text}; free disk space")
        self._refusal = f"an earlier write failed ({error.strerror}); stop and start again"
        return StoreError(f"{text}; check the disk")


class Reached:
    """The number of the last batch that was synced, and the counters up to there, in a file that is overwritten after
    each sync and is not synced itself: it tells nothing that is not so, and after a stop of the machine perhaps nothing
    new. Without it, when the disk takes no such file, all else works as well."""

    def __init__(self, folder: Path) -> None:
        self.sequence, self.given = _noted(folder)
        self._file: int | None = None
        with contextlib.suppress(OSError):
            self._file = os.open(folder / REACHED_FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def count(self, batch: Batch) -> None:
        """Counters never go back, not even where a batch is taken back."""
        rows = batch.rows("meta")
        if rows:
            ahead = (int.from_bytes(rows.get(key) or b"", "big") for key in _COUNTER_KEYS)
            self.given = tuple(map(max, self.given, ahead))

    def note(self, sequence: int) -> None:
        if sequence == self.sequence:
            return
        self.sequence = sequence
        file, note = self.to_write(sequence)
        if note:
            with contextlib.suppress(OSError):
                os.pwrite(file, note, 0)

    def to_write(self, sequence: int) -> tuple[int, bytes]:
        """The file, and what to write at its beginning; nothing where there is no such file."""
        if self._file is None:
            return -1, b""
        given = self.given
        counters = _GIVEN.pack(*given, zlib.crc32(repr(given).encode()))
        return self._file, _REACHED.pack(sequence, zlib.crc32(b"%d" % sequence)) + counters

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def reached_of(folder: Path) -> int:
    """What the note in a journal's folder says; 0 where there is none that can be read. It is at the beginning of its
    file: what lies behind it there no later note would take away."""
    return _noted(folder)[0]


def _noted(folder: Path) -> tuple[int, tuple[int, ...]]:
    """The batch and the counters of the note, each 0 where that part of it cannot be read."""
    try:
        content = (folder / REACHED_FILE).read_bytes()
    except OSError:
        content = b""
    content = content[: _REACHED.size + _GIVEN.size].ljust(_REACHED.size + _GIVEN.size, b"\0")
    sequence, checksum = _REACHED.unpack_from(content)
    *counters, counted = _GIVEN.unpack_from(content, _REACHED.size)
    given = tuple(counters)
    return (
        sequence if checksum == zlib.crc32(b"%d" % sequence) else 0,
        given if counted == zlib.crc32(repr(given).encode()) else (0,) * len(COUNTERS),
    )


def _write(descriptor: int, content: bytes, offset: int) -> None:
    """All of it: a disk that fills up takes a part first and refuses the rest."""
    written = os.pwrite(descriptor, content, offset)
    while written < len(content):
        written += os.pwrite(descriptor, content[written:], offset + written)


def _set_aside(path: Path, good: int, suffix: str) -> Path:
    """Keep the segment under another name, and what is good of it under its own."""
    aside = path.with_name(f"{path.name}.{suffix}")
    path.rename(aside)
    if good > SEGMENT_HEAD.size:
        temporary = path.with_name(f".{path.name}.tmp")
        shutil.copyfile(aside, temporary)
        with temporary.open("r+b") as file:
            file.truncate(good)
            os.fsync(file.fileno())
        temporary.chmod(0o600)
        temporary.rename(path)
    return aside
