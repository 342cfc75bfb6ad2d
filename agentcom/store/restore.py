"""From a damaged store to a sound one: the newest backup that passes, brought forward by the journal.

The new store is built and checked in a folder beside the old one; only then is the old file renamed aside
(never deleted) and the new one put in its place. A crash in between is repaired by the next start, which
finds no store and restores again. What cannot be got back is said, batch by batch.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from agentcom.errors import StoreDamaged, StoreError, StoreFull, StoreLocked, StoreVersion
from agentcom.store.backup import Backup, is_as_written, list_backups, note_check, verify_backup
from agentcom.store.base import Batch
from agentcom.store.check import DATA_FILE, CheckReport, Condition, full_check
from agentcom.store.doubts import NEXT_TASK, missing_tasks
from agentcom.store.journal import Journal
from agentcom.store.lmdb_store import MAP_BYTES, LmdbStore
from agentcom.store.place import FILES, NO_ROOM, NOTE_FILE, sync_directory, take_lock
from agentcom.store.record import SCHEMA_VERSION
from agentcom.store.repairs import SUFFIX, Repair, note_repair
from agentcom.store.segments import Replay, has_first_batch, segments

MERGED_BATCHES_MAX: Final = 1000  # that are brought forward in one commit
MERGED_BYTES_MAX: Final = 16 * 2**20
_BUILDING: Final = "restoring"

# Every record is as it was written. That they disagree is then no damage: the same batches led there.
SOUND: Final = frozenset({Condition.good, Condition.inconsistent})


class Need(NamedTuple):
    """What a restored store must be to take the place of the old one: its condition, and how far it reaches."""

    conditions: frozenset[Condition] = SOUND
    sequence: int = 0


ANY_SOUND: Final = Need()

Checker = Callable[[Path], CheckReport]


class RestoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a restore did. `backup` is empty when the journal alone was enough; `quarantined` is where the old
    file lies; `rejected` says why other backups were not taken; `uncertain` what may be missing."""

    backup: str
    backup_sequence: int
    replayed: int
    sequence: int
    condition: Condition
    quarantined: str = ""
    rejected: tuple[str, ...] = ()
    uncertain: tuple[str, ...] = ()
    duration_ms: int = 0


class _Built(NamedTuple):
    backup: Backup | None
    replay: Replay
    next_task: bytes | None
    condition: Condition
    rejected: tuple[str, ...]


def restore(
    store: Path | str,
    backups: Path | str,
    journal: Path | str,
    *,
    chosen: str | None = None,
    replay: bool = True,
    lock: int | None = None,
    known_sequence: int = 0,
    map_bytes: int = MAP_BYTES,
    checker: Checker = full_check,
    need: Need = ANY_SOUND,
    why: str = "",
) -> RestoreReport:
    """Put a sound store in the place of the one at `store`, which is kept under another name.

    `chosen` is the path of a backup, the newest that passes without it; without `replay` the journal beyond
    the backup is set aside. `lock` is the store's lock if the caller has it; it stays the caller's.
    `known_sequence` is the highest batch that is known to have been acknowledged. `why` says what is wrong with
    the store, where that is the reason.

    Raises StoreLocked while a hub runs on the store, StoreVersion when only a newer program could read the
    backups, StoreFull without room for a second copy, StoreDamaged when nothing passes, NotChecked: each leaves the
    store as it was.
    """
    begun = time.monotonic()
    place, held = Path(store), lock
    if held is None:
        held = _lock_for_restore(place)
    try:
        building = place / _BUILDING
        source = _Source(Path(backups), Path(journal), chosen, replay)
        try:
            built = _build(building, source, map_bytes, checker, need)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        quarantined = _swap(place, building)
        (place / NOTE_FILE).unlink(missing_ok=True)  # it told of the file that was set aside
        _set_backups_aside(Path(backups), built.replay.last)
        uncertain = _set_journal_right(Path(journal), built, known_sequence, replay)
    except OSError as error:
        kind = StoreFull if error.errno in NO_ROOM else StoreError
        raise kind(f"cannot restore {place}: {error}; the old store is in its place or beside it") from error
    finally:
        if lock is None:
            os.close(held)
    start = built.backup.sequence if built.backup else 0
    report = RestoreReport(
        backup=built.backup.path if built.backup else "",
        backup_sequence=start,
        replayed=built.replay.last - start,
        sequence=built.replay.last,
        condition=built.condition,
        quarantined=quarantined,
        rejected=built.rejected,
        uncertain=uncertain,
        duration_ms=int((time.monotonic() - begun) * 1000),
    )
    note_repair(place, _repair_of(report, why))
    return report


def _repair_of(report: RestoreReport, why: str) -> Repair:
    return Repair(
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        why=why,
        backup=Path(report.backup).name if report.backup else "",
        replayed=report.replayed,
        sequence=report.sequence,
        missing=report.uncertain,
        set_aside=report.quarantined,
    )


def bring_forward(store: LmdbStore, batches: Iterator[tuple[int, Batch]]) -> int:
    """Commit the batches, many at a time; how many. Each commit is atomic, so a crash leaves a store that the
    same journal brings forward again."""
    merged, size, last, count, applied = Batch(), 0, 0, 0, 0
    for sequence, batch in batches:
        merged.merge(batch)
        last, size, count, applied = sequence, size + batch.size_bytes, count + 1, applied + 1
        if count >= MERGED_BATCHES_MAX or size >= MERGED_BYTES_MAX:
            store.bring_forward(merged, last)
            merged, size, count = Batch(), 0, 0
    if count:
        store.bring_forward(merged, last)
    return applied


def quarantine_name(moment: datetime | None = None) -> str:
    """The ending of what is set aside: sorts by time and never repeats within a process's life."""
    stamp = (moment or datetime.now(UTC)).strftime("%Y%m%dT%H%M%S")
    return f"{SUFFIX}{stamp}-{time.monotonic_ns() % 10**9:09}"


def _lock_for_restore(place: Path) -> int:
    try:
        return take_lock(place)
    except StoreLocked as error:
        raise StoreLocked(f"cannot restore {place}: a hub runs on it ({error.message})") from None


class _Source(NamedTuple):
    """What to restore from."""

    backups: Path
    journal: Path
    chosen: str | None
    with_journal: bool

    def candidates(self) -> Iterator[Backup | None]:
        """The newest backup first; last, None for an empty store and a journal that has every batch."""
        known = list_backups(self.backups)
        if self.chosen is not None:
            wanted = [one for one in known if self.chosen in (one.path, Path(one.path).name)]
            if not wanted:
                raise StoreError(
                    f"there is no backup {self.chosen} in {self.backups}; see `agentcom backup list`"
                )
            yield from wanted
            return
        yield from known
        if self.with_journal and has_first_batch(self.journal):
            yield None

    def why_nothing(self, rejected: list[str]) -> str:
        """In words, with what to do where there is nothing that could be mended."""
        tried = "; ".join(rejected)
        if self.chosen is not None:
            return f"this backup does not pass: {tried}; without a name the newest that passes is taken"
        if self.with_journal and has_first_batch(self.journal):
            return f"nothing to restore from: neither a backup in {self.backups} nor the journal passes ({tried})"
        journal_missing = ""
        if self.with_journal:
            begins_later = bool(segments(self.journal))
            journal_missing = "the journal does not begin at batch 1" if begins_later else "there is no journal"
            journal_missing = f", and {journal_missing}"
        if tried:
            return f"nothing to restore from: no backup in {self.backups} passes ({tried}){journal_missing}"
        remedy = "if there are some elsewhere, set backups.folder to their place"
        return f"nothing to restore from: there is no backup in {self.backups}{journal_missing}; {remedy}"

    def replay(self, after: int) -> Replay:
        found = segments(self.journal) if self.with_journal else []
        return Replay([path for _, path in found], after)


def _build(building: Path, source: _Source, map_bytes: int, checker: Checker, need: Need) -> _Built:
    """The first candidate that makes a good store, or else, if that is enough, the first whose records merely
    disagree.

    A backup that is, byte for byte, what was verified when it was made needs no second check, nor does the
    store that grows from it: each batch of the journal has its checksum. (A million tasks are checked in 20 s.)
    """
    rejected: list[str] = []
    second: list[Backup | None] = []
    newer = 0
    for backup in source.candidates():
        is_known_good = backup is not None and backup.condition in need.conditions and is_as_written(backup)
        if backup is not None and not is_known_good:
            report = _checked(backup)
            newer += report.condition is Condition.newer
            if report.condition not in SOUND:
                rejected.append(f"{backup.path}: {_in_words(report)}")
                continue
        try:
            run, following = _fill(building, backup, source, map_bytes)
        except StoreVersion:  # its manifest did not say so, unless it is the journal
            if backup is None:
                raise
            report = _checked(backup)
            if report.condition is not Condition.newer:
                raise
            newer += 1
            rejected.append(f"{_name(backup)}: {_in_words(report)}")
            continue
        if run.last < need.sequence:
            rejected.append(f"{_name(backup)}: it leads to batch {run.last} only; {run.missing}")
            continue
        if is_known_good and backup is not None and need.conditions == SOUND:
            return _Built(backup, run, following, backup.condition, tuple(rejected))
        report = checker(building)
        if report.condition is Condition.good:
            return _Built(backup, run, following, report.condition, tuple(rejected))
        rejected.append(f"{_name(backup)}: {report.condition} in the end")
        if report.condition in need.conditions:
            second.append(backup)
    if second:
        run, following = _fill(building, second[0], source, map_bytes)
        return _Built(second[0], run, following, Condition.inconsistent, tuple(rejected))
    text = source.why_nothing(rejected)
    if newer and newer == len(rejected):
        raise StoreVersion(f"{text}; run the newer AgentCom")
    raise StoreDamaged(text)


def _checked(backup: Backup) -> CheckReport:
    """What a check of it finds, which is written down."""
    report = verify_backup(Path(backup.path))
    note_check(backup.path, report)
    return report


def _in_words(report: CheckReport) -> str:
    if report.condition is Condition.newer:
        known = f" (format {report.format}, this program knows up to {SCHEMA_VERSION})" if report.format else ""
        return f"of a newer version{known}"
    return f"{report.condition}, {'; '.join(report.problems[:2])}"


def _name(backup: Backup | None) -> str:
    return backup.path if backup is not None else "the journal"


def _fill(
    building: Path, backup: Backup | None, source: _Source, map_bytes: int
) -> tuple[Replay, bytes | None]:
    """What was replayed, and NEXT_TASK as it is then."""
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(mode=0o700)
    if backup is not None:
        shutil.copyfile(backup.path, building / DATA_FILE)
    store = LmdbStore(building, map_bytes=map_bytes)
    try:
        run = source.replay(store.sequence)
        bring_forward(store, run)
        following = store.get("meta", NEXT_TASK)
    finally:
        store.close()
    with (building / DATA_FILE).open("rb") as file:
        os.fsync(file.fileno())
    return run, following


def _swap(place: Path, building: Path) -> str:
    """The old file aside, the new one in. Between the two there is no store, which the next start repairs."""
    old, aside = place / DATA_FILE, place / f"{DATA_FILE}.{quarantine_name()}"
    (place / FILES[1]).unlink(missing_ok=True)  # its reader table belongs to the old file
    if old.exists():
        old.rename(aside)
    (building / DATA_FILE).rename(old)
    sync_directory(place)
    shutil.rmtree(building, ignore_errors=True)
    return str(aside) if aside.exists() else ""


def _set_backups_aside(folder: Path, sequence: int) -> None:
    """Backups of batches that the store no longer has: their numbers will be taken anew, so a later restore
    must not start from them."""
    suffix = quarantine_name()
    for one in list_backups(folder):
        if one.sequence > sequence:
            for file in (Path(one.path), Path(one.path).with_suffix(".json")):
                if file.exists():
                    file.rename(file.with_name(f"{file.name}.{suffix}"))


def _set_journal_right(folder: Path, built: _Built, known: int, with_journal: bool) -> tuple[str, ...]:
    """Set aside what the restored store cannot take, and say what is missing."""
    uncertain, run = [], built.replay
    try:
        journal = Journal(folder)
    except StoreVersion as error:  # back to before an upgrade, without the journal that was written since
        names = _set_segments_aside(folder)
        uncertain.append(f"what the journal has is not in the store: {error.message}; kept as {names}")
        journal = Journal(folder)
    try:
        beyond = journal.last
        if beyond > run.last:
            kept = journal.forget_after(run.last, quarantine_name())
            why = run.missing or "going back was asked for"
            names = ", ".join(path.name for path in kept)
            uncertain.append(
                f"batches {run.last + 1} to {beyond} are not in the store: {why}; kept as {names}"
            )
        journal.go_back(run.last)
        if journal.last != run.last:
            journal.skip(run.last)  # and its note says that nothing is missing
    finally:
        journal.close()
    if known > max(run.last, beyond) and with_journal:
        uncertain.append(
            f"batches {max(run.last, beyond) + 1} to {known} were acknowledged and are nowhere to be found"
        )
    if uncertain:
        uncertain[-1] += missing_tasks(built.next_task, journal.given)
    return tuple(uncertain)


def _set_segments_aside(folder: Path) -> str:
    """All of the journal, under other names, which are returned."""
    suffix = quarantine_name()
    kept = [path.rename(path.with_name(f"{path.name}.{suffix}")) for _, path in segments(folder)]
    return ", ".join(path.name for path in kept)
