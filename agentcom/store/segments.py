"""The files of the journal, as they are read: segments of records, each with its sequence and a checksum.

A segment is named after the first batch in it, and says which schema version the rows in it have; those of an older one
go through the migrations when they are read. A record says how long it is and which batch it holds; its
checksum covers that and the body, so that a record written half is never taken for a whole one. After a
crash the newest segment may end in zeros that were to be overwritten, and its last record may be torn: that is
normal. Anything else that cannot be read is damage, and reading goes on at the next whole record, since what lies
behind may still be of use.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgpack

from agentcom.errors import StoreDamaged, StoreError, StoreVersion
from agentcom.store import migrations
from agentcom.store.base import Batch
from agentcom.store.record import NEWER_REMEDY, SCHEMA_VERSION

SEGMENT_HEAD: Final = struct.Struct(">12sHH")  # what it is, how many schema versions came before, version of the format
RECORD_HEAD: Final = struct.Struct(">4sIQI")  # magic, bytes of the body, sequence, checksum
VERSION: Final = 1
RECORD_BYTES_MAX: Final = 2**30  # above a tick's largest batch; a length beyond it is no length

_SEGMENT_MAGIC: Final = b"agentcom-jrn"
_MAGIC: Final = b"\xacJR\x0a"
_NAME: Final = re.compile(r"journal-(\d{20})\.log")


class Record(NamedTuple):
    """A whole record: the batch's number, the encoded batch, where it ends in its segment, and the schema version of
    its rows."""

    sequence: int
    body: bytes
    end: int
    schema: int


class Unreadable(NamedTuple):
    """Bytes from `start` to `end` that are no record; at the end of a segment they are a torn tail."""

    segment: Path
    start: int
    end: int
    is_tail: bool


def segment_name(first: int) -> str:
    return f"journal-{first:020}.log"


def segments(folder: Path) -> list[tuple[int, Path]]:
    """(first sequence, file) of each segment, the oldest first."""
    try:
        names = [file.name for file in folder.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot list {folder}: {error.strerror}") from error
    found = [(int(match[1]), folder / match[0]) for name in names if (match := _NAME.fullmatch(name))]
    return sorted(found)


def segment_head() -> bytes:
    return SEGMENT_HEAD.pack(_SEGMENT_MAGIC, SCHEMA_VERSION - migrations.FIRST_VERSION, VERSION)


def record_head(sequence: int, body: bytes) -> bytes:
    return RECORD_HEAD.pack(_MAGIC, len(body), sequence, _checksum(sequence, body, SCHEMA_VERSION))


def _checksum(sequence: int, body: bytes | memoryview, schema: int) -> int:
    before = schema - migrations.FIRST_VERSION  # where it starts from: a record is none under another schema version
    return zlib.crc32(body, zlib.crc32(b"%d:%d" % (sequence, len(body)), before))


def read_segment(path: Path) -> Iterator[Record | Unreadable]:
    """What the segment holds, in order. O(bytes) in time and memory, which the writer bounds.

    Raises StoreVersion for a segment of a newer program, StoreError when the disk does not answer.
    """
    try:
        content = memoryview(path.read_bytes())
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error
    position, schemas = _after_head(path, content)
    while position < len(content):
        record = _record_at(content, position, schemas)
        if record is None and not content[position] and not bytes(content[position:]).strip(b"\0"):
            return  # filled with zeros ahead of what was to come
        if record is None:
            start, position = position, _next_record(content, position + 1, schemas)
            yield Unreadable(path, start, position, position == len(content))
        else:
            yield record
            position = record.end


def _after_head(path: Path, content: memoryview) -> tuple[int, Sequence[int]]:
    """Where the records begin, and which schema version they have: 0, so that the search starts there, and any that
    this program knows, when the head itself cannot be read."""
    unknown = 0, range(migrations.FIRST_VERSION, SCHEMA_VERSION + 1)
    if len(content) < SEGMENT_HEAD.size:
        return unknown
    magic, before, version = SEGMENT_HEAD.unpack_from(content)
    if magic != _SEGMENT_MAGIC:
        return unknown
    schema = migrations.FIRST_VERSION + before
    for what, found, known in (("journal version", version, VERSION), ("records of format", schema, SCHEMA_VERSION)):
        if found > known:
            raise StoreVersion(
                f"cannot read {path}: it has {what} {found}, this program knows those up to {known}; {NEWER_REMEDY}"
            )
    return SEGMENT_HEAD.size, (schema,)


def _record_at(content: memoryview, position: int, schemas: Sequence[int]) -> Record | None:
    start = position + RECORD_HEAD.size
    if start > len(content):
        return None
    magic, length, sequence, checksum = RECORD_HEAD.unpack_from(content, position)
    if magic != _MAGIC or length > RECORD_BYTES_MAX or start + length > len(content):
        return None
    body = content[start : start + length]
    for schema in schemas:
        if _checksum(sequence, body, schema) == checksum:
            return Record(sequence, bytes(body), start + length, schema)
    return None


def _next_record(content: memoryview, position: int, schemas: Sequence[int]) -> int:
    """Where the next whole record begins, or the end. The magic is a line's end after bytes that are no text,
    so that what people write into tasks seldom looks like one; the checksum decides."""
    everything: bytes = content.obj if isinstance(content.obj, bytes) else bytes(content)
    while (position := everything.find(_MAGIC, position)) >= 0:
        if _record_at(content, position, schemas) is not None:
            return position
        position += 1
    return len(content)


def decode(record: Record) -> Batch:
    """The batch of a record, its rows as this program has them. Read with another library than it is written with: two
    ends, two codes."""
    steps = migrations.steps_after(record.schema)
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=RECORD_BYTES_MAX)
    unpacker.feed(record.body)
    batch = Batch()
    try:
        for database, rows in unpacker.unpack().items():
            for key, found in rows.items():
                body = found if found is None or not steps else migrations.changed(steps, database, key, found)
                if body is None:
                    batch.delete(database, key)
                else:
                    batch.put(database, key, body)
    except (ValueError, TypeError, AttributeError, msgpack.OutOfData) as error:
        raise StoreDamaged(
            f"batch {record.sequence} of the journal is whole and cannot be understood: {error}; it was not "
            "written by this program"
        ) from error
    return batch


class Survey(NamedTuple):
    """What a journal holds. Batches `run_first` to `last` are there without a hole (0 and 0: none at all);
    `first` is the oldest that can be read, `torn_bytes` what a crash left at the end. `end` is where the last record of
    the newest segment ends: 0 where it has none, where more than its tail cannot be read, or where one is of an older
    schema version: nothing is written behind them."""

    first: int
    run_first: int
    last: int
    records: int
    torn_bytes: int
    holes: tuple[str, ...]
    end: int = 0


def survey(folder: Path) -> Survey:
    """Read every record's checksum. O(bytes of the journal)."""
    first = run_first = last = records = torn = end = 0
    holes: list[str] = []
    for _, path in segments(folder):
        end, is_ours = 0, True
        for item in read_segment(path):
            if isinstance(item, Unreadable):
                torn = item.end - item.start if item.is_tail else 0
                if not item.is_tail:
                    is_ours = False
                    holes.append(f"{path.name}: bytes {item.start} to {item.end} cannot be read")
                continue
            torn = 0
            records += 1
            if item.sequence != last + 1 or not first:
                if first:
                    holes.append(f"{path.name}: batch {item.sequence} follows batch {last}")
                first = first or item.sequence
                run_first = item.sequence
            last, end = item.sequence, item.end
            is_ours = is_ours and item.schema == SCHEMA_VERSION
        end *= is_ours
    return Survey(first, run_first, last, records, torn, tuple(holes), end)


class Replay(Iterator[tuple[int, Batch]]):
    """The batches after `after`, in order and without a hole. When it has ended, `last` is the last one that it
    gave (or `after`), and `missing` says what lies beyond and cannot be reached, or is empty."""

    def __init__(self, paths: Sequence[Path], after: int) -> None:
        self.last = after
        self.missing = ""
        self._items = self._walk(paths)

    def __next__(self) -> tuple[int, Batch]:
        return next(self._items)

    def _walk(self, paths: Sequence[Path]) -> Iterator[tuple[int, Batch]]:
        for path in paths:
            for item in read_segment(path):
                if isinstance(item, Unreadable) or item.sequence <= self.last:
                    continue
                if item.sequence != self.last + 1:
                    self.missing = (
                        f"the journal has no batch {self.last + 1}: batches {item.sequence} and later in "
                        f"{path.name} and behind it cannot be applied"
                    )
                    return
                self.last += 1
                yield item.sequence, decode(item)


def replay(folder: Path, after: int) -> Replay:
    """The batches after `after`, up to the end or the first hole. Segments that end before are not read."""
    known = segments(folder)
    begins = [first for first, _ in known[1:]]
    ended = sum(1 for begin in begins if begin <= after + 1)
    return Replay([path for _, path in known[ended:]], after)


def has_first_batch(folder: Path) -> bool:
    """Whether the journal begins where the store did: it then leads from an empty store to where it ends."""
    return next(replay(folder, 0), None) is not None
