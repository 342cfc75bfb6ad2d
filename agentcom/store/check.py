"""Is the file what was written? Asked before a store is opened, and of every backup.

A damaged LMDB file can abort the process that maps it, so `full_check` runs in a child: a child that ends by one of
the signals that come of that has found damage too. One that is ended from outside, or fails by itself, has found
nothing: it is begun once more, and then nobody knows (`NotChecked`). It reads the file's structure as plain bytes,
opens it only if that holds, then verifies every record's checksum, the row counts and the agreement between the
databases. Where it was built, `_datafile.pyx` proves structure and checksums; of what it does not believe,
`lmdb.verify` and a walk say what it is.
`quick_check` is for a store that was closed cleanly: it compares the meta pages with what was noted then.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from enum import StrEnum
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Final, NamedTuple

import lmdb
import lmdb.verify
import msgspec

from agentcom import lifeline
from agentcom.errors import UNREADABLE, AgentComError, StoreError, StoreVersion
from agentcom.store import migrations
from agentcom.store.base import PAGE_ROWS, Database, Row
from agentcom.store.crosscheck import OF_EACH, PROBLEMS_MAX, cross_check
from agentcom.store.lmdb_store import DATABASES_MAX, FORMAT_KEY, OWN, OWN_VERSION, STATE_KEY, State
from agentcom.store.place import FILES
from agentcom.store.record import ENVELOPE_BYTES, SCHEMA_VERSION, seed_of, unpack, unpack_all

try:
    from agentcom import _datafile
except ImportError:  # not built here: pages and checksums are looked at in Python
    _datafile = None  # type: ignore[assignment]

DATA_FILE: Final = FILES[0]
META_BYTES: Final = 2 * mmap.PAGESIZE
CHECK_S_MAX: Final = 3600  # a check that takes longer is ended and counts as failed
PROGRESS_ROWS: Final = 50_000
_PROBLEM_CHARS_MAX: Final = 300

# What a process gets of a file that it maps and cannot read, of a check of LMDB's own, or of a walk without end. Any
# other signal is somebody's.
OF_DAMAGE: Final = frozenset(
    {signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGXCPU}
)
FROM_OUTSIDE: Final = "that came from outside, as from the kernel where memory is short, and says nothing of the file"


class Condition(StrEnum):
    """What a check found. `inconsistent`: every record is sound, but they do not agree with each other."""

    good = "good"
    damaged = "damaged"
    inconsistent = "inconsistent"
    newer = "newer"
    missing = "missing"


class NotChecked(StoreError):
    """A check could not be carried out, twice: nothing is known of the file, and nothing was done to it."""


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """`format`, `sequence` and `rows` are as far as they could be read, 0 before that; `problems` are the first
    PROBLEMS_MAX of `problem_count`."""

    condition: Condition
    path: str
    format: int = 0
    sequence: int = 0
    rows: dict[str, int] = {}
    file_bytes: int = 0
    problems: tuple[str, ...] = ()
    problem_count: int = 0
    duration_ms: int = 0


Progress = Callable[[int, int], None]  # rows done, rows in all


def full_check(
    path: Path | str, *, progress: Progress | None = None, cpu_s_max: float = CHECK_S_MAX
) -> CheckReport:
    """Check a store's directory, or a backup's file, in a child process.

    The store may not be written meanwhile. Never raises for what the file holds: that is in the report. NotChecked
    where the child was ended from outside, or failed, and the next one too.
    """
    return RunningCheck(path, cpu_s_max).wait(progress)


class RunningCheck:
    """A full check that has begun in a child process, which ends with the thread that began it. Whoever began it goes
    on, and may not write the store before `wait` has said what it is."""

    def __init__(self, path: Path | str, cpu_s_max: float = CHECK_S_MAX) -> None:
        self._path = Path(path)
        self._cpu_s_max = cpu_s_max
        self._begun = time.monotonic()
        self._found: CheckReport | NotChecked | None = None
        self._child = self._begin()

    def _begin(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            lifeline.own_command("agentcom.store.check", str(self._path), "--json"),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={
                **os.environ,
                "AGENTCOM_CHECK_CPU_S": str(self._cpu_s_max), lifeline.PARENT_PID_VARIABLE: str(os.getpid()),
            },
        )  # fmt: skip

    def wait(self, progress: Progress | None = None) -> CheckReport:
        """What it has found, once it has ended; errors as of `full_check`. Asked again it says the same."""
        if self._found is None:
            self._found = self._answer(progress)
        if isinstance(self._found, NotChecked):
            raise self._found
        return self._found

    def end(self) -> None:
        """Nobody asks any more."""
        with self._child as child:
            child.kill()

    def _answer(self, progress: Progress | None) -> CheckReport | NotChecked:
        found = self._heard(progress)
        if isinstance(found, str):
            self._child = self._begin()
            found = self._heard(progress)
        if not isinstance(found, str):
            return found
        if self._child.returncode < 0:
            why = f"{FROM_OUTSIDE}; nothing was changed; free memory (`dmesg` tells), and try again"
        else:
            why = "that says nothing of the file; nothing was changed; see to what it names, and try again"
        return NotChecked(f"cannot check {self._path}: the checking process {found}, twice; {why}")

    def _heard(self, progress: Progress | None) -> CheckReport | str:
        """The child's report, or how it ended without one where that is no damage."""
        complaint = ""
        with self._child as child:
            assert child.stderr is not None
            assert child.stdout is not None
            for line in child.stderr:
                if not _tell(line, progress):
                    complaint = line.strip()[:_PROBLEM_CHARS_MAX] or complaint
            answer = child.stdout.read()
        try:
            return msgspec.json.decode(answer, type=CheckReport)
        except UNREADABLE:
            how = how_ended(child.returncode) + (f" ({complaint})" if complaint else "")
        if -child.returncode not in OF_DAMAGE:
            return how
        took_ms = int((time.monotonic() - self._begun) * 1000)
        return _report(self._path, Condition.damaged, f"the checking process {how}", duration_ms=took_ms)


def how_ended(status: int) -> str:
    """Of a child's return code, behind its name."""
    return f"{'was ended by' if status < 0 else 'ended with'} {lifeline.cause_of_end(status)}"


def _tell(line: str, progress: Progress | None) -> bool:
    """Whether the line was a figure of progress."""
    done, slash, of = line.strip().partition("/")
    if not (slash and done.isdigit() and of.isdigit()):
        return False
    if progress is not None:
        progress(int(done), int(of))
    return True


def full_check_here(path: Path | str, progress: Progress | None = None) -> CheckReport:
    """The check itself, in this process, which a damaged file may abort: see `full_check`."""
    begun = time.monotonic()
    place = Path(path)
    file = place / DATA_FILE if place.is_dir() else place
    try:
        report = _check_file(file, progress)
    except StoreVersion as error:
        report = _report(file, Condition.newer, str(error), version=error.found)
    except (*UNREADABLE, lmdb.Error, lmdb.verify.VerifyError, AgentComError, OSError) as error:
        report = _report(file, Condition.damaged, str(error))
    took_ms = int((time.monotonic() - begun) * 1000)
    return msgspec.structs.replace(report, path=str(path), duration_ms=took_ms)


def _check_file(file: Path, progress: Progress | None) -> CheckReport:
    if not file.exists():
        return _report(file, Condition.missing, "there is no such file")
    proven = is_proven(file)
    problems = [] if proven else lmdb.verify.verify(str(file))  # type: ignore[no-untyped-call]
    if problems:
        return _report(file, Condition.damaged, *problems)
    environment = _open(file)
    try:
        return _check_content(file, environment, progress, proven)
    finally:
        environment.close()


def _open(file: Path) -> lmdb.Environment:
    return lmdb.open(
        str(file), subdir=False, readonly=True, lock=False, max_dbs=DATABASES_MAX, map_size=_map_bytes(file)
    )


def proven_sequence(path: Path) -> int | None:
    """The last batch of a store in the directory that may be opened in this process: its pages and records are proven,
    the rows are as many as were counted, and it is of this program's schema, so that opening it writes nothing. None
    where any of that is not so, or is not known. Whether its records agree is left to a check."""
    file = path / DATA_FILE
    try:
        if not is_proven(file):
            return None
        environment = _open(file)
        try:
            content = _Content(environment, None, is_proven=True)
            content.close()
        finally:
            environment.close()
    except (*UNREADABLE, lmdb.Error, AgentComError, OSError):
        return None
    return content.state.sequence if content.is_current else None


def is_proven(file: Path) -> bool:
    """Whether pages and records are known to be sound, each with its checksum. False where that has to be found out.
    No content of the file can do any harm."""
    if _datafile is None:
        return False
    names = {str(name).encode(): (seed_of(name, SCHEMA_VERSION), SCHEMA_VERSION) for name in Database}
    names[OWN.encode()] = seed_of(OWN, OWN_VERSION), OWN_VERSION
    with file.open("rb") as content:
        return _datafile.is_sound(content.fileno(), os.fstat(content.fileno()).st_size, names)


def _map_bytes(file: Path) -> int:
    return max(2**20, file.stat().st_size)


class _Content:
    """One transaction's view of the rows of a file, verified as they are read unless they have been."""

    def __init__(self, environment: lmdb.Environment, progress: Progress | None, is_proven: bool) -> None:
        self._environment = environment
        self._is_proven = is_proven
        self._transaction = environment.begin()
        self._own = environment.open_db(OWN.encode(), txn=self._transaction, create=False)
        self.version = int.from_bytes(self.own(FORMAT_KEY), "big")
        try:
            migrations.steps_after(self.version)
        except StoreVersion as error:
            error.found = self.version
            raise
        self.state = msgspec.msgpack.decode(self.own(STATE_KEY), type=State)
        self.entries: dict[str, int] = {}
        self._handles: dict[str, lmdb._Database] = {}
        for name in map(str, Database):
            self._open(name)
        self._done, self._of, self._progress = 0, sum(self.entries.values()), progress
        self._seen: set[str] = set()

    @property
    def is_current(self) -> bool:
        """Whether it has all databases of this schema, with as many rows as were counted."""
        return (
            self.version == SCHEMA_VERSION
            and self._handles.keys() == set(map(str, Database))
            and self.entries == self.state.counts
        )

    def own(self, key: bytes) -> bytes:
        record = self._transaction.get(key, db=self._own)
        return unpack(OWN, key, record or b"", OWN_VERSION)

    def _open(self, name: str) -> None:
        try:
            handle = self._environment.open_db(name.encode(), txn=self._transaction, create=False)
        except lmdb.NotFoundError:
            self.entries[name] = 0  # an older program did not have it
            return
        self._handles[name] = handle
        self.entries[name] = self._transaction.stat(handle)["entries"]

    def walk(self, database: str) -> Iterator[Row]:
        handle = self._handles.get(database)
        return iter(()) if handle is None else chain.from_iterable(self._pages(database, handle))

    def _pages(self, database: str, handle: lmdb._Database) -> Iterator[list[Row]]:
        is_first = database not in self._seen
        self._seen.add(database)
        cursor = self._transaction.cursor(handle)
        if self._is_proven and database in OF_EACH:
            yield from self._keys_alone(cursor)
            return
        rows = iter(cursor)
        while page := list(islice(rows, PAGE_ROWS)):
            if self._is_proven:
                yield [(key, record[ENVELOPE_BYTES:]) for key, record in page]
            else:
                yield unpack_all(database, page, self.version)
            if is_first:
                self._tell(len(page))

    def _keys_alone(self, cursor: lmdb.Cursor[bytes]) -> Iterator[list[Row]]:
        """Rows that have only to be there: nobody looks at their bodies, which are proven."""
        keys = cursor.iternext(keys=True, values=False)
        while page := list(islice(keys, PAGE_ROWS)):
            yield list(zip(page, repeat(b"")))
            self._tell(len(page))

    def _tell(self, rows: int) -> None:
        before, self._done = self._done, self._done + rows
        if self._progress is not None and self._done // PROGRESS_ROWS > before // PROGRESS_ROWS:
            self._progress(self._done, self._of)

    def walk_the_rest(self) -> None:
        for database in Database:
            if database not in self._seen:
                for _ in self.walk(database):
                    continue

    def close(self) -> None:
        self._transaction.abort()


def _check_content(
    file: Path, environment: lmdb.Environment, progress: Progress | None, is_proven: bool
) -> CheckReport:
    content = _Content(environment, progress, is_proven)
    try:
        wrong = [
            f"'{name}' has {rows} rows, {content.state.counts.get(name, 0)} were counted"
            for name, rows in content.entries.items()
            if rows != content.state.counts.get(name, 0)
        ]
        if wrong:
            sequence = content.state.sequence
            return _report(file, Condition.damaged, *wrong, version=content.version, sequence=sequence)
        count, told = cross_check(content.walk) if content.version == SCHEMA_VERSION else (0, [])
        if not is_proven:
            content.walk_the_rest()
        return _report(
            file,
            Condition.inconsistent if count else Condition.good,
            *told,
            version=content.version,
            sequence=content.state.sequence,
            rows=content.entries,
            problem_count=count,
        )
    finally:
        content.close()


def _report(
    file: Path,
    condition: Condition,
    *problems: str,
    version: int = 0,
    sequence: int = 0,
    rows: dict[str, int] | None = None,
    problem_count: int | None = None,
    duration_ms: int = 0,
) -> CheckReport:
    try:
        size = file.stat().st_size
    except OSError:
        size = 0
    return CheckReport(
        condition=condition,
        path=str(file),
        format=version,
        sequence=sequence,
        rows=rows or {},
        file_bytes=size,
        problems=tuple(text[:_PROBLEM_CHARS_MAX] for text in problems[:PROBLEMS_MAX]),
        problem_count=len(problems) if problem_count is None else problem_count,
        duration_ms=duration_ms,
    )


class Imprint(NamedTuple):
    """What a closed file looks like from outside: enough to see that it is the one that was closed."""

    file_bytes: int
    meta_checksum: int


def imprint(path: Path) -> Imprint:
    """Of the store in the directory. Reads two pages as plain bytes; StoreError when they cannot be read."""
    file = path / DATA_FILE
    try:
        with file.open("rb") as content:
            return Imprint(file.stat().st_size, zlib.crc32(content.read(META_BYTES)))
    except OSError as error:
        raise StoreError(f"cannot read {file}: {error.strerror}") from error


def quick_check(path: Path, noted: Imprint) -> str:
    """What is different about a store since it was closed cleanly; empty when nothing is. The store's own
    opening compares counts, the start compares the sequence with the journal."""
    try:
        found = imprint(path)
    except StoreError as error:
        return str(error)
    if found.file_bytes != noted.file_bytes:
        return f"the file has {found.file_bytes} bytes, it had {noted.file_bytes} when it was closed"
    if found.meta_checksum != noted.meta_checksum:
        return "its meta pages are not those that were written when it was closed"
    return ""


def _bound_cpu() -> None:
    """A damaged file must not keep the child busy for ever."""
    seconds = int(float(os.environ.get("AGENTCOM_CHECK_CPU_S", CHECK_S_MAX)))
    resource.setrlimit(resource.RLIMIT_CPU, (max(1, seconds), max(1, seconds) + 5))


def main(arguments: list[str]) -> int:
    """`python -m agentcom.store.check PATH [--json]`: 0 good, 1 not good, 2 wrong use. Progress on stderr."""
    paths = [one for one in arguments if not one.startswith("-")]
    if len(paths) != 1:
        print("use: python -m agentcom.store.check PATH [--json]", file=sys.stderr)
        return 2
    lifeline.follow_parent()
    _bound_cpu()
    report = full_check_here(paths[0], lambda done, of: print(f"{done}/{of}", file=sys.stderr, flush=True))
    if "--json" in arguments:
        print(json.dumps(msgspec.to_builtins(report)))
    else:
        print(f"{report.path}: {report.condition}, batch {report.sequence}, {sum(report.rows.values())} rows")
        print(*report.problems, sep="\n")
    return 0 if report.condition is Condition.good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
