"""Backups: a compact copy of the live store, verified, named after the last batch in it, the newest few kept.

The copy is made in a child process (`python -m agentcom.store.backup`), since it is a long reader and walks
pages that may be damaged. It gets its name only when it has been checked as thoroughly as a store at start
and is on disk; what a child left unfinished is removed by the next one. Beside each file lies a manifest with
its checksum. The rest of the hub never waits for any of this: see `BackupRun`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import lmdb
import msgspec

from agentcom import lifeline
from agentcom.config import write_private
from agentcom.errors import UNREADABLE, AgentComError, StoreError, StoreFull
from agentcom.model import JsonObject
from agentcom.store.check import (
    DATA_FILE,
    FROM_OUTSIDE,
    OF_DAMAGE,
    CheckReport,
    Condition,
    full_check,
    full_check_here,
    how_ended,
)
from agentcom.store.lmdb_store import DATABASES_MAX, MAP_BYTES
from agentcom.store.migrations import FIRST_VERSION
from agentcom.store.place import NO_ROOM, sync_directory
from agentcom.store.record import SCHEMA_VERSION

KEPT: Final = 3
_NAME: Final = re.compile(r"backup-(\d{20})-(\d{8}T\d{6}Z)\.mdb")
_UNFINISHED: Final = "unfinished-"
_ELSEWHERE: Final = "set backups.folder to another place"
_READABLE: Final = f"see that this user can read and write there, or {_ELSEWHERE}"
_NO_DIRECTORY: Final = f"a file is where a directory should be; move it away, or {_ELSEWHERE}"
_PIECE_BYTES: Final = 2**20


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """A backup and what its manifest says. `verified` is false without a manifest; `time` is RFC 3339;
    `condition` is good or inconsistent, or damaged once a check has found that. One of a format that only a newer
    program knows is `newer` and not verified, as it is of no use here; its manifest stays what it is for that one."""

    path: str
    sequence: int
    time: str
    bytes: int
    checksum: str = ""
    verified: bool = False
    condition: Condition = Condition.good
    format: int = FIRST_VERSION  # what a manifest without it has
    rows: int = 0
    duration_ms: int = 0

    @property
    def is_damaged(self) -> bool:
        return not self.verified and self.condition is Condition.damaged


def make_backup(store: Path | str, folder: Path | str, keep: int = KEPT) -> Backup:
    """Copy the store, which may be in use, check the copy, keep the newest `keep`. Blocks until that is done.

    Raises StoreFull without room, StoreError when the copy fails or is not good; the earlier backups stay.
    """
    run = BackupRun(store, folder, keep)
    run.wait()
    return run.outcome()


class ChildRun:
    """`python -m agentcom.store.backup ARGUMENTS` at work: `turn` or `poll` it, then take its `outcome`. It ends
    with the process that started it."""

    def __init__(self, *arguments: str) -> None:
        self._child: subprocess.Popen[str] = subprocess.Popen(
            lifeline.own_command("agentcom.store.backup", *arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, lifeline.PARENT_PID_VARIABLE: str(os.getpid())},
        )

    def poll(self) -> bool:
        """Whether it has ended; never waits."""
        return self._child.poll() is not None

    turn = poll

    def wait(self) -> None:
        self._child.wait()

    def answer(self) -> str:
        """Its last line; call it once, after the end. StoreFull without room, StoreError when it failed."""
        output, _ = self._child.communicate()
        status = self._child.returncode
        last = output.strip().rpartition("\n")[2]
        if status == 0:
            return last
        if status == _STATUS_FULL:
            raise StoreFull(last)
        how = f"the process that worked on the store {how_ended(status)}"
        if -status in OF_DAMAGE:
            how += ": the store may be damaged"
        elif status < 0:
            how += f"; {FROM_OUTSIDE}; free memory (`dmesg` tells), and try again"
        raise StoreError(last or how)

    def stop(self) -> None:
        """End it; the copy that it was making is removed by the next one."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.communicate()


class BackupRun(ChildRun):
    """A backup under way."""

    def __init__(self, store: Path | str, folder: Path | str, keep: int = KEPT) -> None:
        assert keep >= 1, "at least the new one is kept"
        super().__init__(str(store), str(folder), str(keep))

    def outcome(self) -> Backup:
        """What was made. Errors as of `make_backup`."""
        return msgspec.json.decode(self.answer(), type=Backup)


class CheckRun(ChildRun):
    """A backup's check under way, or a compact copy that is made and checked."""

    @classmethod
    def of_backup(cls, path: Path) -> CheckRun:
        return cls("--verify", str(path))

    @classmethod
    def of_copy(cls, store: Path, target: Path) -> CheckRun:
        return cls("--copy", str(store), str(target))

    def outcome(self) -> CheckReport:
        return msgspec.json.decode(self.answer(), type=CheckReport)


def list_backups(folder: Path | str) -> list[Backup]:
    """All backups in the folder, the newest first (by batch, then time)."""
    try:
        files = [file for file in Path(folder).iterdir() if _named(file) is not None]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot list {folder}: {_in_words(error, named=folder)}") from error
    return sorted(map(_read_manifest, files), key=lambda one: (one.sequence, one.time), reverse=True)


def _in_words(error: OSError | lmdb.Error, named: Path | str = "") -> str:
    """What the system has said, of which path unless that is the one that is `named` already, and what to do."""
    number = getattr(error, "code", None) or getattr(error, "errno", None)
    if isinstance(error, FileExistsError | NotADirectoryError):
        return _NO_DIRECTORY
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename not in (None, str(named)) else ""
        said, remedy = f"{where}{error.strerror or error}", _READABLE
    else:
        said, remedy = str(error), "look at the disk"
    return f"{said}; {f'free disk space, or {_ELSEWHERE}' if number in NO_ROOM else remedy}"


def newest_verified(folder: Path | str) -> int:
    """The last batch of the newest backup that verified when it was made, 0 without one."""
    return max((one.sequence for one in list_backups(folder) if one.verified), default=0)


def oldest_kept(folder: Path | str) -> int:
    """The last batch of the oldest backup: journal segments up to it are of no use. 0 without one."""
    return min((one.sequence for one in list_backups(folder) if one.verified), default=0)


def backup_view(backup: Backup) -> JsonObject:
    """A backup as it is shown; `rows` is null where no manifest says how many."""
    view: JsonObject = msgspec.to_builtins(backup)
    rows = backup.rows if backup.rows or backup.checksum else None
    return {"name": Path(backup.path).name, **view, "rows": rows}


def check_view(report: CheckReport) -> JsonObject:
    """What a check of a backup found, as it is shown; a figure that it could not read is null."""
    view: JsonObject = msgspec.to_builtins(report)
    view |= {"format": report.format or None, "rows": report.rows or None}
    if not report.format or report.condition is Condition.newer:
        view["sequence"] = None  # of a format that is not known nothing further was read
    return {"name": Path(report.path).name, "passes": report.condition in ("good", "inconsistent"), **view}


def verify_backup(path: Path | str) -> CheckReport:
    """Compare the file with its manifest and check it in full, in a child process."""
    file = Path(path)
    report = full_check(file)
    if report.condition not in (Condition.good, Condition.inconsistent):
        return report
    known = _read_manifest(file)
    wrong = ""
    if known.checksum and _checksum(file) != known.checksum:
        wrong = "its bytes are not those that were written: the checksum in its manifest differs"
    elif report.sequence != known.sequence:
        wrong = f"it holds batch {report.sequence}, its name says {known.sequence}"
    if not wrong:
        return report
    problems = (wrong, *report.problems)
    return msgspec.structs.replace(
        report, condition=Condition.damaged, problems=problems, problem_count=len(problems)
    )


def note_check(path: Path | str, report: CheckReport) -> None:
    """Write down beside the backup what a check of it has found: what does not pass counts as verified no longer,
    and does again once it passes. Of one that only a newer program can read its format is all that is known. The file
    stays. A folder that takes no file leaves the manifest as it was."""
    file = Path(path)
    passes = report.condition in (Condition.good, Condition.inconsistent)
    if not file.exists() or report.condition is Condition.missing:
        return
    known = _told(file) or _read_manifest(file)
    noted = msgspec.structs.replace(known, format=report.format or known.format)
    if report.condition is not Condition.newer:  # which is not damaged
        verified = passes and bool(known.checksum)
        noted = msgspec.structs.replace(noted, verified=verified, condition=report.condition)
    if noted == known:
        return
    with contextlib.suppress(OSError):
        write_private(_manifest(file), msgspec.json.encode(noted))


def is_as_written(backup: Backup) -> bool:
    """Whether the file is, byte for byte, the one that was verified when it was made. Cheaper than a check."""
    try:
        return backup.verified and _checksum(Path(backup.path)) == backup.checksum
    except OSError:
        return False


def _read_manifest(file: Path) -> Backup:
    named = _named(file)
    if named is None:
        raise StoreError(f"{file} is not named like a backup: backup-<batch>-<time>.mdb")
    size = file.stat().st_size if file.exists() else 0
    bare = Backup(path=str(file), sequence=named[0], time=_rfc3339(named[1]), bytes=size)
    told = _told(file)
    if told is None:
        return bare
    if told.format > SCHEMA_VERSION:
        return msgspec.structs.replace(bare, format=told.format, rows=told.rows, condition=Condition.newer)
    if (told.sequence, told.bytes) == (bare.sequence, bare.bytes):
        return msgspec.structs.replace(told, path=str(file), time=bare.time)
    return msgspec.structs.replace(bare, condition=Condition.damaged) if told.is_damaged else bare


def _named(file: Path) -> tuple[int, datetime] | None:
    """Batch and time of a backup by its file's name; None for any other file."""
    match = _NAME.fullmatch(file.name)
    if match is None:
        return None
    try:
        return int(match[1]), datetime.strptime(match[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None


def _told(file: Path) -> Backup | None:
    try:
        return msgspec.json.decode(_manifest(file).read_bytes(), type=Backup)
    except (*UNREADABLE, OSError):
        return None


def _manifest(file: Path) -> Path:
    return file.with_suffix(".json")


def _rfc3339(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


def _checksum(file: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with file.open("rb") as content:
        while piece := content.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


# What the child does.


def _make_here(store: Path, folder: Path, keep: int) -> Backup:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_unfinished(folder)
    unfinished = folder / f"{_UNFINISHED}{os.getpid()}"
    begun = time.monotonic()
    try:
        _copy(store, unfinished)
        report = full_check_here(unfinished)
        if report.condition not in (Condition.good, Condition.inconsistent):
            raise StoreError(f"the copy of {store} is {report.condition}: {'; '.join(report.problems[:3])}")
        made = _name(unfinished, report, int((time.monotonic() - begun) * 1000))
    finally:
        unfinished.unlink(missing_ok=True)
    for old in _superseded(list_backups(folder), keep):
        _manifest(Path(old.path)).unlink(missing_ok=True)
        Path(old.path).unlink(missing_ok=True)
    return made


def _superseded(known: list[Backup], keep: int) -> list[Backup]:
    """All but the newest `keep`, and never the newest whose records agree with each other: a store that has
    gone wrong must not push out the last copy from before that."""
    verified = [one for one in known if one.verified]
    good = next((one for one in verified if one.condition is Condition.good), None)
    return [one for one in verified[keep:] if one is not good]


def _copy(store: Path, target: Path) -> None:
    map_bytes = max(MAP_BYTES, 2 * (store / DATA_FILE).stat().st_size)  # the hub may write meanwhile
    environment = lmdb.open(
        str(store), readonly=True, create=False, max_dbs=DATABASES_MAX, max_spare_txns=0, map_size=map_bytes
    )
    try:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            environment.copyfd(descriptor, compact=True)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    finally:
        environment.close()


def _name(unfinished: Path, report: CheckReport, duration_ms: int) -> Backup:
    """Give the checked copy its name, then write its manifest: without one it counts as not verified."""
    when = datetime.now(UTC)
    while (file := unfinished.with_name(_file_name(report.sequence, when))).exists():
        when += timedelta(seconds=1)  # the one before of the same second stays what it is
    made = Backup(
        path=str(file),
        sequence=report.sequence,
        time=_rfc3339(when),
        bytes=report.file_bytes,
        checksum=_checksum(unfinished),
        verified=True,
        condition=report.condition,
        format=report.format,
        duration_ms=duration_ms,
        rows=sum(report.rows.values()),
    )
    unfinished.rename(file)
    manifest = _manifest(file)
    temporary = manifest.with_name(f"{_UNFINISHED}{os.getpid()}.json")
    with temporary.open("wb") as content:
        content.write(json.dumps(msgspec.to_builtins(made)).encode())
        content.flush()
        os.fsync(content.fileno())
    temporary.chmod(0o600)
    temporary.rename(manifest)
    sync_directory(file.parent)
    return made


def _file_name(sequence: int, when: datetime) -> str:
    return f"backup-{sequence:020}-{when.strftime('%Y%m%dT%H%M%SZ')}.mdb"


def _remove_unfinished(folder: Path) -> None:
    """What a child that was killed has left; a file whose writer still lives is left alone."""
    for file in folder.glob(f"{_UNFINISHED}*"):
        number = file.name.removeprefix(_UNFINISHED).removesuffix(".json")
        is_at_work = number.isdigit() and int(number) != os.getpid() and Path(f"/proc/{number}").exists()
        if not is_at_work:
            file.unlink(missing_ok=True)


_STATUS_FULL: Final = 3
_NICE: Final = 10  # the loop goes first


def _copy_here(store: Path, target: Path) -> CheckReport:
    """A compact copy in a folder of its own, checked."""
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    (target / DATA_FILE).unlink(missing_ok=True)
    _copy(store, target / DATA_FILE)
    return full_check_here(target)


def _do(arguments: list[str]) -> object:
    if arguments[0] == "--verify":
        report = verify_backup(Path(arguments[1]))
        note_check(arguments[1], report)
        return report
    if arguments[0] == "--copy":
        return _copy_here(Path(arguments[1]), Path(arguments[2]))
    return _make_here(Path(arguments[0]), Path(arguments[1]), int(arguments[2]) if len(arguments) == 3 else KEPT)


def _cannot(arguments: list[str]) -> str:
    if arguments[0] == "--verify":
        return f"cannot verify {arguments[1]}"
    if arguments[0] == "--copy":
        return f"cannot copy {arguments[1]} to {arguments[2]}"
    return f"cannot back up {arguments[0]} to {arguments[1]}"


def main(arguments: list[str]) -> int:
    """`python -m agentcom.store.backup STORE FOLDER [KEEP]`: the manifest on stdout, or one line that says why
    not; `--verify BACKUP` and `--copy STORE FOLDER`: the report of the check. Status 0, 1 failed, 2 wrong use, 3 no
    room."""
    if len(arguments) not in (2, 3) or (arguments[0] == "--copy" and len(arguments) != 3):
        print("use: python -m agentcom.store.backup STORE FOLDER [KEEP] | --verify BACKUP | --copy STORE FOLDER")
        return 2
    lifeline.follow_parent()
    os.nice(_NICE)
    try:
        print(json.dumps(msgspec.to_builtins(_do(arguments))))
    except (lmdb.Error, OSError) as error:
        number = getattr(error, "code", None) or getattr(error, "errno", None)
        print(f"{_cannot(arguments)}: {_in_words(error)}")
        return _STATUS_FULL if number in NO_ROOM else 1
    except AgentComError as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
