"""Opening the store of a hub: check it, repair it if need be, bring it up to its journal, say what was done.

After a clean stop the file is compared with what was noted then; after any other, and after a change of
version, it is checked in full by a child process, and so is a file that is checked within a second. Where all looks
plain (ahead.py) a hub loads meanwhile, and writes and tells nothing before the check is done (`confirm`). A damaged
file is set aside and restored. A journal that goes beyond the store is applied to it; one that does not reach
the store, or has a hole since the newest backup, asks for a new backup (`needs_backup`) before new submits.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec

from agentcom import __version__
from agentcom.config import write_private
from agentcom.errors import UNREADABLE, StoreDamaged, StoreError, StoreFull, StoreVersion
from agentcom.store.ahead import Ahead, ahead_of_check
from agentcom.store.backup import list_backups, newest_verified
from agentcom.store.base import Batch
from agentcom.store.check import (
    DATA_FILE,
    CheckReport,
    Condition,
    Imprint,
    Progress,
    RunningCheck,
    full_check,
    imprint,
    quick_check,
)
from agentcom.store.doubts import NEXT_TASK, Doubts, missing_tasks
from agentcom.store.journal import Journal, reached_of
from agentcom.store.journaled import JournaledStore, tells_only
from agentcom.store.lmdb_store import MAP_BYTES, LmdbStore
from agentcom.store.place import NOTE_FILE, file_system, require_local, take_lock
from agentcom.store.repairs import Repairs
from agentcom.store.restore import (
    ANY_SOUND,
    Checker,
    Need,
    RestoreReport,
    bring_forward,
    quarantine_name,
    restore,
)
from agentcom.store.segments import segments, survey

CHECKED_ALWAYS_BYTES: Final = 16 * 2**20  # a file so small is checked in full at every start: under a second
BEHIND_BYTES: Final = 4 * 2**20  # of batches that the journal alone may have while the hub runs
BEHIND_SHARE: Final = 1 / 64  # of the map at most
_NEVER_USED_BYTES: Final = 64 * 2**10  # a file that was being made when the machine stopped is below that
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class StorePaths(NamedTuple):
    """Where the parts lie. The backups may be a link to another disk."""

    store: Path
    journal: Path
    backups: Path

    @classmethod
    def of_home(cls, home: Path, backups: str = "") -> StorePaths:
        """`backups` is the setting backups.folder: empty for the home's own."""
        return cls(home / "store", home / "store" / "journal", home / (backups or "backups"))


class StartReport(msgspec.Struct, frozen=True, kw_only=True):
    """What opening did. `how`: the store was new, looked at quickly, checked in full, or restored; `applied`
    batches came from the journal; `uncertain` is shown until an operator has seen it; `notes` are for the log."""

    how: Literal["new", "quick", "full", "restored"]
    sequence: int
    applied: int = 0
    check: CheckReport | None = None
    restored: RestoreReport | None = None
    uncertain: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    duration_ms: int = 0

    @property
    def is_degraded(self) -> bool:
        return bool(self.uncertain)


class _Note(msgspec.Struct, frozen=True, kw_only=True):
    """What the last run left beside the store."""

    closed: bool
    version: str
    boot: str
    sequence: int = 0
    file_bytes: int = 0
    meta_checksum: int = 0


class CheckFailed(StoreDamaged):
    """A start went ahead of the check, and that finds something amiss. Nothing was written: whoever started has to let
    go of the store and start anew, the check first."""


class OpenedStore:
    """The store and its journal, to be used by one loop: it commits through `journaled`. `doubts` is what was not
    saved, at this start or an earlier one, and not seen by an operator yet; `repairs` what was restored."""

    def __init__(
        self, paths: StorePaths, store: LmdbStore, journal: Journal, report: StartReport, map_bytes: int = MAP_BYTES
    ) -> None:
        self.paths = paths
        self.map_bytes = map_bytes
        self.doubts = Doubts(paths.store)
        self.doubts.add(report.uncertain)
        self.repairs = Repairs(paths.store, just_made=report.restored is not None)
        self.store = store
        self.journal = journal
        self.journaled = JournaledStore(store, journal, min(BEHIND_BYTES, int(map_bytes * BEHIND_SHARE)))
        self.report = report
        self._newest_backup = newest_verified(paths.backups)
        self._is_damaged = False
        self._has_looked = False  # into the journal, for a change
        self._check: RunningCheck | None = None
        self._progress: Progress | None = None
        self._begun = 0.0

    def check_beside(self, check: RunningCheck, progress: Progress | None, begun: float) -> None:
        """The check goes on: nothing is written before it has said that the store is good."""
        self._check, self._progress, self._begun = check, progress, begun
        self.journaled.hold(self._require_good)

    @property
    def is_confirmed(self) -> bool:
        """Whether all is known of this start: no check goes on."""
        return self._check is None

    def confirm(self) -> None:
        """Wait for the check that goes on beside, if one does. From then on the store is written, and what it holds may
        be told. CheckFailed where it is not good, NotChecked where that stays unknown; what else may have failed
        because of that says so too late."""
        if self._check is None:
            return
        self.journaled.let_write()
        if not self.journaled.settle():
            self.journal.sync()  # what waits for room is told from now on
        self._check = None
        took_ms = int((time.monotonic() - self._begun) * 1000)
        self.report = msgspec.structs.replace(self.report, duration_ms=took_ms)

    def _require_good(self) -> None:
        assert self._check is not None
        report = self._check.wait(self._progress)
        if report.condition is not Condition.good:
            raise CheckFailed(f"{self.paths.store} is {report.condition}: {'; '.join(report.problems[:3])}")
        self.report = msgspec.structs.replace(self.report, check=report)
        _note(self.paths.store, _in_use())

    @property
    def needs_backup(self) -> bool:
        """Whether some batch lies neither in a verified backup nor in the journal: no new submits until then."""
        return self.journal.covered_from > self._newest_backup + 1

    def look_at_backups(self) -> None:
        """A backup was found damaged, or one was put there: `needs_backup` goes by what is there now."""
        self._newest_backup = newest_verified(self.paths.backups)

    def backup_made(self, sequence: int) -> None:
        """A backup up to batch `sequence` has been verified: begin a segment, drop those that no kept backup
        needs."""
        self._newest_backup = max(self._newest_backup, sequence)
        kept = [one.sequence for one in list_backups(self.paths.backups) if one.verified]
        self.journal.rotate()
        self.journal.drop_through(min(kept, default=0))

    def has_changed(self, since: int) -> bool:
        """Whether a batch after that one does more than to tell. What a run before wrote is asked of the journal, once
        and only where this run wrote no such batch: it may have to read a segment. What it cannot say is a change."""
        if self.journaled.changed <= since and not self._has_looked and self.journaled.sequence > since:
            self._has_looked = True
            if not self._tells_only(since):
                self.journaled.changed = self.journaled.sequence
        return self.journaled.changed > since

    def _tells_only(self, since: int) -> bool:
        replay = self.journal.replay(since)
        try:
            return all(tells_only(batch) for _, batch in replay) and replay.last == self.journaled.sequence
        except StoreError:
            return False

    def found_damaged(self) -> None:
        """A record was read that is not as it was written: the next start checks in full, however this one ends."""
        self._is_damaged = True

    def exchange(self, put: Callable[[], None], put_back: Callable[[], None]) -> None:
        """Let another file take the place of the store's: closed, `put`, opened. If that one does not open, the old
        is put back and StoreError raised; the loop goes on with it. The lock is held throughout."""
        lock = self.store.share_lock()
        self.store.close()
        try:
            put()
            self._take(LmdbStore(self.paths.store, map_bytes=self.map_bytes, lock=os.dup(lock)))
        except (StoreError, OSError) as error:
            put_back()
            self._take(LmdbStore(self.paths.store, map_bytes=self.map_bytes, lock=os.dup(lock)))
            raise StoreError(f"the new file of {self.paths.store} cannot be used: {error}") from error
        finally:
            os.close(lock)

    def _take(self, store: LmdbStore) -> None:
        self.store = store
        self.journaled.exchange(store)

    def close(self) -> None:
        """Close both, and note that it was done cleanly, if it was. Without the note, which a full disk may not take
        and a damaged store does not get, the next start checks in full. StoreError when the journal cannot be synced.

        While a check goes on beside, that ends, and the files are left as they are."""
        if self._check is not None:
            self._check.end()
            self.journal.let_go()
            self.store.close()
            return
        try:
            is_settled = self.store.writable and self.journaled.settle()
            self.journal.close()
            if is_settled and not self._is_damaged:
                _note(self.paths.store, _closed_note(self.paths.store, self.store.sequence))
        finally:
            self.store.close()


def require_disk(paths: StorePaths) -> None:
    """StoreError, with what to do, where the store lies on what cannot hold one."""
    require_local(paths.store, file_system(paths.store))


def open_store(
    paths: StorePaths,
    *,
    map_bytes: int = MAP_BYTES,
    progress: Progress | None = None,
    checker: Checker | None = None,
    tell: Callable[[str], None] = lambda _text: None,
    may_go_ahead: bool = False,
) -> OpenedStore:
    """The hub's store, sound and up to date. `tell` hears what takes long, before it is done. With `may_go_ahead` the
    check may still go on when this returns: see `OpenedStore.confirm`.

    Raises StoreLocked when another hub has it, StoreVersion when a newer program wrote it, StoreDamaged when it
    is damaged and nothing can be restored (the file is left in place), NotChecked when its check could not be carried
    out (nothing is changed), StoreFull, StoreError; with `may_go_ahead` CheckFailed.
    """
    begun = time.monotonic()
    require_disk(paths)
    lock: int | None = take_lock(paths.store)
    check = checker or (lambda path: full_check(path, progress=progress))
    try:
        opening = _Opening(paths, map_bytes, check, tell)
        if may_go_ahead:
            opening.begin_check = RunningCheck
        opening.examine(_read_note(paths.store), lock, progress)
        mine, lock = lock, None  # passes to the store, whatever comes
        if opening.beside is not None:
            return opening.go_ahead(mine, progress, begun)
        _note(paths.store, _in_use())
        store = opening.open(mine)
    finally:
        if lock is not None:
            os.close(lock)
    try:
        return opening.catch_up(store, begun)
    except BaseException:
        store.close()
        raise


class _Opening:
    """One start: what was found and done so far."""

    def __init__(
        self, paths: StorePaths, map_bytes: int, check: Checker, tell: Callable[[str], None]
    ) -> None:
        self._paths = paths
        self._map_bytes = map_bytes
        self._check = check
        self._tell = tell
        self._how: Literal["new", "quick", "full", "restored"] = "quick"
        self._report: CheckReport | None = None
        self._restored: RestoreReport | None = None
        self._uncertain: list[str] = []
        self._notes: list[str] = []
        self._note: _Note | None = None
        self._had_journal = paths.journal.exists()
        self.begin_check: Callable[[Path], RunningCheck] | None = None  # where the start may go ahead of it
        self.beside: tuple[RunningCheck, Ahead] | None = None

    def examine(self, note: _Note | None, lock: int | None, progress: Progress | None = None) -> None:
        """Find out what the store is, and restore it if it is damaged or gone. Where the start goes `beside` the check,
        what it is will be known later."""
        self._note = note
        file = self._paths.store / DATA_FILE
        if not file.exists() and not self._has_history():
            self._how = "new"
            return
        if note is not None and self._is_as_it_was_closed(file, note):
            self._bring_back(note.sequence, note, lock)
            return
        self._tell(f"checking {file}")
        self._how, found = "full", self._checked(file, note, progress)
        if found is None:
            return
        self._report = found
        if found.condition is Condition.newer:
            raise StoreVersion("; ".join(found.problems))
        if found.condition is Condition.good:
            self._bring_back(found.sequence, note, lock)
        elif found.condition is Condition.inconsistent:
            # What the journal leads to may agree better; it must not be less.
            need = Need(frozenset({Condition.good}), found.sequence)
            self._repair(f"the store is inconsistent: {found.problems[0]}", found.sequence, note, lock, need)
            if self._restored is None:
                self._uncertain += [f"records disagree: {problem}" for problem in found.problems]
        elif found.condition is Condition.damaged and self._was_never_used(file):
            aside = file.rename(file.with_name(f"{DATA_FILE}.{quarantine_name()}"))
            self._notes.append(f"a store that was never finished was set aside as {aside.name}")
            self._how = "new"
        else:
            text = f"the store is {found.condition}: {'; '.join(found.problems[:3])}"
            self._repair(text, found.sequence, note, lock)

    def _checked(self, file: Path, note: _Note | None, progress: Progress | None) -> CheckReport | None:
        """What the full check says; None where it goes on `beside`."""
        is_large = file.exists() and file.stat().st_size > CHECKED_ALWAYS_BYTES
        if self.begin_check is None or not is_large:
            return self._check(self._paths.store)
        running = self.begin_check(self._paths.store)
        try:
            known = note.sequence if note is not None else 0
            ahead = ahead_of_check(self._paths.store, self._paths.journal, self._paths.backups, known)
        except BaseException:
            running.end()
            raise
        if ahead is None:
            return running.wait(progress)
        self.beside = running, ahead
        return None

    def go_ahead(self, lock: int | None, progress: Progress | None, begun: float) -> OpenedStore:
        """The store as it is, with what the journal has beyond it in memory; CheckFailed where that does not open and
        the check, too, says that it is not good."""
        assert self.beside is not None
        running, ahead = self.beside
        try:
            opened = self._opened_ahead(ahead, lock, begun)
        except Exception as error:
            report = running.wait(progress)
            if report.condition is Condition.good:
                raise
            raise CheckFailed(f"{self._paths.store} is {report.condition}, and does not open: {error}") from error
        except BaseException:
            running.end()
            raise
        opened.check_beside(running, progress, begun)
        return opened

    def _opened_ahead(self, ahead: Ahead, lock: int | None, begun: float) -> OpenedStore:
        store = self.open(lock)
        try:
            journal = Journal(self._paths.journal, found=ahead.found)
            self._note_applied(ahead.applied)
            report = self._told(ahead.last, ahead.applied, begun)
            opened = OpenedStore(self._paths, store, journal, report, self._map_bytes)
        except BaseException:
            store.close()
            raise
        if ahead.applied:
            opened.journaled.wait(ahead.waiting, ahead.last)
        return opened

    def _note_applied(self, applied: int) -> None:
        if applied > 1:
            self._notes.append(f"{applied} batches were in the journal and not in the store; they are now")

    def _bring_back(self, sequence: int, note: _Note | None, lock: int | None) -> None:
        """A sound file that is older than the newest backup, with no journal in between, was put there by
        somebody or something: the backup is nearer to the truth."""
        newest = newest_verified(self._paths.backups)
        if newest <= sequence:
            return
        found = survey(self._paths.journal)
        if found.run_first <= sequence + 1 and found.last >= newest:
            return  # the journal is enough
        text = f"the store is at batch {sequence}, and there is a backup of batch {newest}"
        self._repair(text, max(newest, found.last), note, lock, Need(sequence=sequence + 1))

    def _is_as_it_was_closed(self, file: Path, note: _Note) -> bool:
        if not note.closed or note.version != __version__ or not file.exists():
            return False
        different = quick_check(self._paths.store, Imprint(note.file_bytes, note.meta_checksum))
        if different:
            self._notes.append(different)
        return not different and note.file_bytes > CHECKED_ALWAYS_BYTES

    def _has_history(self) -> bool:
        return bool(segments(self._paths.journal) or list_backups(self._paths.backups))

    def _was_never_used(self, file: Path) -> bool:
        """The journal's folder is made right after the store, before its first batch: without it, nothing was
        ever acknowledged, unless the store is one of a version that had no journal, which is larger."""
        if self._paths.journal.exists() or self._has_history():
            return False
        return file.stat().st_size <= _NEVER_USED_BYTES

    def _repair(
        self, why: str, known: int, note: _Note | None, lock: int | None, need: Need = ANY_SOUND
    ) -> None:
        """Restore. Where the store could go on as it is (`need` asks for something), failing to is told only."""
        self._notes.append(why)
        self._tell(f"{why}; restoring")
        try:
            self._restored = restore(
                self._paths.store,
                self._paths.backups,
                self._paths.journal,
                lock=lock,
                known_sequence=max(known, note.sequence if note is not None else 0, reached_of(self._paths.journal)),
                map_bytes=self._map_bytes,
                checker=self._check,
                need=need,
                why=why,
            )
        except (StoreDamaged, StoreVersion) as error:
            if need is ANY_SOUND:
                raise
            self._notes.append(str(error))
            return
        self._how = "restored"
        self._uncertain += self._restored.uncertain
        if self._restored.condition is not Condition.good:
            self._uncertain.append("records of the restored store disagree; see the next check")

    def open(self, lock: int | None) -> LmdbStore:
        return LmdbStore(self._paths.store, map_bytes=self._map_bytes, lock=lock)

    def catch_up(self, store: LmdbStore, begun: float) -> OpenedStore:
        """Apply what the journal has beyond the store, and set the journal to where the store stands."""
        journal = Journal(self._paths.journal)
        replay = journal.replay(store.sequence)
        waiting: Batch | None = None
        try:
            applied = bring_forward(store, replay)
        except StoreFull as error:
            self._notes.append(f"{error.message}; until there is room, what the journal has is kept in memory")
            waiting, replay, applied = Batch(), journal.replay(store.sequence), 0
            for _, batch in replay:
                waiting.merge(batch)
        sequence = replay.last
        self._note_applied(applied)
        if journal.found.torn_bytes:
            self._notes.append(f"{journal.found.torn_bytes} bytes of a batch cut short ended the journal")
        self._notes += journal.found.holes
        lost = []
        if journal.last > sequence:
            beyond = journal.last
            journal.forget_after(sequence, quarantine_name())
            lost.append(f"batches {sequence + 1} to {beyond}: {replay.missing}")
        lost += self._missing(sequence, journal.found.last, journal.reached)
        if lost:
            following = (waiting or Batch()).rows("meta").get(NEXT_TASK) or store.get("meta", NEXT_TASK)
            lost[-1] += missing_tasks(following, journal.given)
        self._uncertain += lost
        journal.go_back(sequence)
        if journal.last != sequence:
            journal.skip(sequence)
        opened = OpenedStore(self._paths, store, journal, self._told(sequence, applied, begun), self._map_bytes)
        if waiting is not None:
            opened.journaled.wait(waiting, sequence)
            opened.journaled.settle()
        return opened

    def _told(self, sequence: int, applied: int, begun: float) -> StartReport:
        return StartReport(
            how=self._how,
            sequence=sequence,
            applied=applied,
            check=self._report,
            restored=self._restored,
            uncertain=tuple(self._uncertain),
            notes=tuple(self._notes),
            duration_ms=int((time.monotonic() - begun) * 1000),
        )

    def _missing(self, sequence: int, journal_last: int, reached: int) -> Iterator[str]:
        """A file that is whole may be older than it was: the note of a clean stop knows, else the journal, of which
        the end may be unreadable."""
        if self._restored is not None:
            return  # it has told
        if reached > sequence and (self._note is None or reached > self._note.sequence):
            yield (
                f"batches {sequence + 1} to {reached} were acknowledged; the end of the journal that had them cannot "
                "be read, and the store did not have them yet"
            )
            return
        if self._note is not None and self._note.sequence > sequence:
            yield (
                f"batches {sequence + 1} to {self._note.sequence} were there at the last stop and are in neither the "
                "store nor the journal"
            )
        elif self._note is None and self._had_journal and max(journal_last, reached) < sequence:
            yield (
                f"batches after {sequence}, if there were any, are missing: neither the note of the last stop nor the "
                "journal can tell"
            )


def _in_use() -> _Note:
    return _Note(closed=False, version=__version__, boot=_boot())


def note_going_back(store: Path, sequence: int) -> None:
    """Leave word for the next start that the store ends at batch `sequence` because somebody wanted that: what came
    after it is not missing."""
    _note(store, _Note(closed=False, version=__version__, boot=_boot(), sequence=sequence))


def _closed_note(path: Path, sequence: int) -> _Note:
    seen = imprint(path)
    return _Note(
        closed=True,
        version=__version__,
        boot=_boot(),
        sequence=sequence,
        file_bytes=seen.file_bytes,
        meta_checksum=seen.meta_checksum,
    )


def _read_note(path: Path) -> _Note | None:
    """None when there is none, or when it cannot be understood: then the store is checked in full."""
    try:
        return msgspec.json.decode((path / NOTE_FILE).read_bytes(), type=_Note)
    except (*UNREADABLE, OSError):
        return None


def _note(path: Path, note: _Note) -> None:
    """Leave the note, or none: a full disk must keep no hub from starting or stopping."""
    try:
        write_private(path / NOTE_FILE, msgspec.json.encode(note))
    except OSError:
        (path / NOTE_FILE).unlink(missing_ok=True)


def _boot() -> str:
    """Changes with every start of the machine; empty where the system does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
