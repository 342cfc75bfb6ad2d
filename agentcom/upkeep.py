"""What a hub does for its store beside the tick: each turn is a bounded slice that changes no task.

The store takes what the journal has, records are verified slice by slice, stale readers of the file are cleared each
minute, backups are made and verified in child processes on a schedule. What is wrong and lasts is an alarm. An
error at the disk in that ends the hub: what was acknowledged is in the journal, and nothing further may be.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from agentcom import logs
from agentcom import messages as m
from agentcom.alarms import Alarms, Told
from agentcom.chores import Chore, Chores
from agentcom.clock import Now, rfc3339
from agentcom.config import Settings
from agentcom.core.succession import NoSubmits
from agentcom.errors import AgentComError, NotFound, StoreError
from agentcom.growth import Growth
from agentcom.limits import MIB
from agentcom.model import JsonObject
from agentcom.room import LEAST_BYTES, LESS_KEPT
from agentcom.store.backup import Backup, BackupRun, CheckRun, backup_view, check_view, list_backups
from agentcom.store.base import StoreStats
from agentcom.store.compact import CompactionRun, remove_leftovers
from agentcom.store.repairs import set_aside_in
from agentcom.store.scrub import Scrubber
from agentcom.store.start import OpenedStore

SYNC_MS: Final = 1000  # for batches that the store took at once, without a flush of the journal
SETTLE_MS: Final = 500  # for so long the journal alone has a batch
SCRUB_MS: Final = 50  # between two slices
SCRUB_PAUSE_MS: Final = 10_000  # between two rounds: of a small store one takes a second
MINUTE_MS: Final = 60_000
FIRST_BACKUP_S: Final = 600  # of a home that has none
AGAIN_S: Final = 600  # after a backup that failed
NEEDED_AGAIN_S: Final = 30  # after one that new tasks wait for
OVERDUE: Final = 2  # schedules that may pass without a backup
DISK_FREE_BYTES: Final = 512 * MIB
WAIT_S: Final = 5.0
COMPACTED_FROM_BYTES: Final = 64 * MIB  # by itself: a smaller file wins little
PAGE_BYTES: Final = 4096
_FIGURE: Final = re.compile(r"\d+")
UNCERTAIN_TOLD: Final = 20  # of what a start could not save, in the history; the list itself has all


class Upkeep:
    """Owns the opened store of a hub; `turn` is called after every tick, `answer` for what people ask of it."""

    def __init__(self, opened: OpenedStore, settings: Settings) -> None:
        self.opened = opened
        self.settings = settings
        self.alarms = Alarms(opened.paths.store)
        self._log = logs.get()
        remove_leftovers(opened.paths.store)
        self._chores = Chores(opened.paths.store)
        self._scrubber = Scrubber(opened.journaled.scan_stored)
        self._growth = Growth()
        self._events: list[Told] = [
            ("store_uncertain", {"text": text}) for text in opened.report.uncertain[:UNCERTAIN_TOLD]
        ]
        self._synced_ms = self._settled_ms = self._scrub_due_ms = self._minute_ms = 0
        self._backups: list[Backup] = []
        self._backups_aside: list[JsonObject] = []
        self._unreadable = ""  # why the folder of backups cannot be read
        self._look_at_backups()
        self._last_error = ""
        self._damage_found = ""  # what was found last
        self._backup_due_ms: int | None = None  # monotonic; None until the first turn
        self._compaction_due_ms: int | None = None
        self._compaction_failed = _why_failed(self._chores.recent[-1]) if self._chores.recent else ""
        self._backed_up = self._newest_sequence
        self._is_journal_long = False

    # --- what the loop calls ----------------------------------------------------------------------------

    def turn(self, now: Now) -> None:
        """One slice. StoreError when the disk failed: the hub must stop."""
        if now.mono_ms - self._synced_ms >= SYNC_MS:
            self._synced_ms = now.mono_ms
            self.opened.journal.sync()
        if now.mono_ms - self._settled_ms >= SETTLE_MS:
            self._settled_ms = now.mono_ms
            self.opened.journaled.settle()
        if now.mono_ms >= self._scrub_due_ms:
            self._scrub(now)
        if not self._minute_ms or now.mono_ms - self._minute_ms >= MINUTE_MS:
            self._minute_ms = now.mono_ms
            self._each_minute(now)
        ended = self._chores.turn(now)
        if ended is not None:
            self._ended(ended, now)
        self.alarms.set("backup_damaged", self._damage_of_backups(), now)
        self.alarms.set("store_damaged", self._damage_of_store(), now)  # of a run before: this start has checked all
        self._begin_what_is_due(now)

    def take_events(self) -> list[Told]:
        """What the feed should tell, since the last call."""
        taken, self._events = self._events + self.alarms.take(), []
        return taken

    def no_submits(self) -> NoSubmits | None:
        """New tasks wait while some batch is neither in a backup nor in the journal: a damaged disk now would
        lose it."""
        if not self.opened.needs_backup:
            return None
        text = "new tasks wait for a backup that closes a hole in the journal; it is being made"
        if self._last_error:
            text = f"new tasks wait for a backup that closes a hole in the journal: {self._last_error}"
        return NoSubmits("backup_required", text, WAIT_S)

    def troubles(self) -> list[str]:
        """What makes the hub degraded: what was not saved, and what is damaged now."""
        return [*(doubt.text for doubt in self.opened.doubts.found), *self._damage()]

    def close(self) -> None:
        """Close store and journal, and note that it was done in order. StoreError as of `OpenedStore.close`."""
        self._chores.close()
        self.opened.close()

    # --- what people ask --------------------------------------------------------------------------------

    def answer(self, op: m.Operation, now: Now) -> JsonObject:
        """The answer to an operation on the store; Refused, StoreError."""
        match op:
            case m.BackupList():
                return self._list(now)
            case m.BackupNow():
                return self._back_up(now).view()
            case m.BackupVerify():
                return self._verify(op.backup, now).view()
            case m.Compact():
                return self._compact(now).view()
            case m.StoreAcknowledge():
                seen = self.opened.doubts.acknowledge()
                self._events.append(("store_acknowledged", {"count": len(seen)}))
                return {"acknowledged": msgspec.to_builtins(seen), "repairs": self.opened.repairs.acknowledge()}
            case _:
                raise AssertionError(f"{type(op).__name__} is not for the store")

    def status(self, now: Now) -> JsonObject:
        """The store's figures: what /stats, `queue stats` and `doctor` show."""
        stats, paths = self.opened.journaled.stats(), self.opened.paths
        self._look_at_limits(stats, now)  # or the figures in the alarms would be of up to a minute ago
        free_bytes = stats["file_bytes"] - stats["used_bytes"]
        return {
            **stats,
            "free_pages": free_bytes // PAGE_BYTES,
            "map_setting": self.settings.hub.map_setting,
            "map_use": stats["used_bytes"] / stats["map_bytes"],
            "journal": self.opened.journal.stats(),
            "backups": self._backup_status(now),
            "scrub": self._scrubber.stats(),
            "compaction": self._compaction_status(free_bytes, now),
            "growth_bytes_per_h": self._growth.bytes_per_h(),
            "start": {"how": self.opened.report.how, "applied": self.opened.report.applied},
            "alarms": self.alarms.view(),
            "uncertain": msgspec.to_builtins(self.opened.doubts.found),
            "repairs": self.opened.repairs.view(),
            "set_aside": [*set_aside_in(paths.store, paths.journal), *self._backups_aside],
        }

    def _list(self, now: Now) -> JsonObject:
        self._look_at_backups()
        return {
            "backups": [backup_view(one) for one in self._backups],
            **self._backup_status(now),
            "chores": [chore.view() for chore in reversed(self._chores.recent)],
        }

    # --- backups ----------------------------------------------------------------------------------------

    def _look_at_backups(self) -> None:
        """Of a folder that cannot be read none is known, and why is told in their place. It may lie on a share, so it
        is not looked at for each status."""
        self._backups_aside = set_aside_in(self.opened.paths.backups)
        self._unreadable = ""
        try:
            self._backups = list_backups(self.opened.paths.backups)
        except StoreError as error:
            self._backups, self._unreadable = [], error.message
            self._log.error("backups_unreadable", error=error.message)

    @property
    def _newest(self) -> Backup | None:
        return next((one for one in self._backups if one.verified), None)

    @property
    def _newest_sequence(self) -> int:
        return self._newest.sequence if self._newest is not None else 0

    @property
    def _damaged(self) -> str:
        """The newest backup if a check has found it damaged and no good one has come after it."""
        for one in self._backups:
            if one.verified:
                break
            if one.is_damaged:
                return Path(one.path).name
        return ""

    def _back_up(self, now: Now, *, by_itself: bool = False) -> Chore:
        paths, keep = self.opened.paths, self.settings.backups.keep
        self.opened.journaled.settle()  # what is acknowledged now is in it
        begin = partial(BackupRun, paths.store, paths.backups, keep)
        return self._chores.start("backup", begin, self._backed_up_to, now, by_itself=by_itself)

    def _backed_up_to(self, made: Backup) -> JsonObject:
        self.opened.backup_made(made.sequence)
        self._backed_up = made.sequence
        self._is_journal_long = False
        return backup_view(made)

    def _verify(self, name: str, now: Now) -> Chore:
        self._look_at_backups()
        path = next((Path(one.path) for one in self._backups if Path(one.path).name == name), None)
        if path is None:
            raise NotFound(f"there is no backup {name}; see `agentcom backup list`", field="backup")
        return self._chores.start("verify", partial(CheckRun.of_backup, path), check_view, now)

    def _ended(self, chore: Chore, now: Now) -> None:
        if not self._is_known(chore):
            self._events += _told_of(chore)
        level = self._log.error if chore.state == "failed" else self._log.info
        level("store_chore", kind=chore.kind, state=chore.state, error=chore.error)
        if chore.kind == "backup":
            self._backup_ended(chore, now)
        if chore.kind == "verify":
            self._look_again()

    def _is_known(self, chore: Chore) -> bool:
        """Whether a compaction by itself has failed once more for the reason that was told: each look at the schedule
        would tell it again. Over a restart if the failed one was the last chore, as alarms do."""
        if chore.kind != "compact":
            return False
        before, self._compaction_failed = self._compaction_failed, _why_failed(chore)
        return chore.by_itself and bool(before) and before == self._compaction_failed

    def _look_again(self) -> None:
        """A check may have found that a backup counts no longer: for the schedule, the journal and new tasks."""
        self._look_at_backups()
        with contextlib.suppress(StoreError):  # a folder that cannot be read: the next backup says so
            self.opened.look_at_backups()
        self._backed_up = self._newest_sequence

    def _backup_ended(self, chore: Chore, now: Now) -> None:
        self._look_at_backups()
        self._last_error = chore.error
        self.alarms.set("backup_failed", f"the last backup failed: {chore.error}" * bool(chore.error), now)
        every_s = self.settings.backups.every_s or AGAIN_S
        wait_s = min(every_s, AGAIN_S) if chore.error else every_s
        if chore.error and (self.opened.needs_backup or self._damaged):
            wait_s = NEEDED_AGAIN_S
        self._backup_due_ms = now.mono_ms + wait_s * 1000

    def _begin_what_is_due(self, now: Now) -> None:
        if self._chores.running is not None:
            return
        if self._backup_due_ms is None:
            self._backup_due_ms = now.mono_ms + self._first_wait_ms(now)
        every_ms = self.settings.backups.every_s * 1000
        if every_ms:
            self._backup_due_ms = min(self._backup_due_ms, now.mono_ms + every_ms)  # it may have been set shorter
        is_due = bool(every_ms) and now.mono_ms >= self._backup_due_ms
        # Also where backups are off: nothing else makes the journal shorter. After a failure the wait applies.
        may_now = not self._last_error or now.mono_ms >= self._backup_due_ms
        is_due |= self._is_journal_long and may_now
        is_needed = (self.opened.needs_backup or bool(self._damaged)) and may_now
        if is_needed or is_due:
            self._backup_due_ms = now.mono_ms + max(every_ms, NEEDED_AGAIN_S * 1000)
            if is_needed or self._is_journal_long or self._has_changed:
                self._begin(now)
        else:
            self._compact_if_worth_it(now)

    @property
    def _has_changed(self) -> bool:
        """Or each backup would ask for the next one, by the event that tells of it."""
        return self.opened.has_changed(self._backed_up)

    def _begin(self, now: Now) -> None:
        try:
            self._back_up(now, by_itself=True)
        except (AgentComError, OSError) as error:  # no process could be started: tried again
            self._last_error = str(error)
            self.alarms.set("backup_failed", f"no backup could be begun: {error}", now)

    def _damage_of_backups(self) -> str:
        name = self._damaged
        return f"{name} is damaged, and there is no newer backup; one is being made" if name else ""

    def _first_wait_ms(self, now: Now) -> int:
        """What is left of the schedule since the newest backup; a home without one gets its first soon."""
        newest = self._newest
        if newest is None:
            return min(self.settings.backups.every_s, FIRST_BACKUP_S) * 1000
        age_s = max(0.0, now.wall_ms / 1000 - _seconds(newest.time))
        return int(max(0.0, self.settings.backups.every_s - age_s) * 1000)

    def _backup_status(self, now: Now) -> JsonObject:
        newest = self._newest
        due = self._backup_due_ms
        return {
            "count": len(self._backups),
            "verified": sum(one.verified for one in self._backups),
            "unreadable": self._unreadable or None,
            "newest": backup_view(newest) if newest is not None else None,
            "age_s": int(max(0, now.wall_ms / 1000 - _seconds(newest.time))) if newest is not None else None,
            "needed": self.opened.needs_backup,
            "error": self._last_error or None,
            "running": self._chores.running.view() if self._chores.running is not None else None,
            "next": rfc3339(now.wall_ms + due - now.mono_ms) if due and self.settings.backups.every_s else None,
            "every_s": self.settings.backups.every_s,
            "keep": self.settings.backups.keep,
            "folder": str(self.opened.paths.backups),
        }

    # --- compaction -------------------------------------------------------------------------------------

    def _compact(self, now: Now, *, by_itself: bool = False) -> Chore:
        begin = partial(CompactionRun, self.opened)
        return self._chores.start("compact", begin, msgspec.to_builtins, now, by_itself=by_itself)

    def _compact_if_worth_it(self, now: Now) -> None:
        """Looked at on a schedule: worth it when enough of a file that is not small is free."""
        every_ms = self.settings.compaction.every_s * 1000
        next_ms = now.mono_ms + every_ms
        if self._compaction_due_ms is None:
            self._compaction_due_ms = next_ms
        if every_ms:
            self._compaction_due_ms = min(self._compaction_due_ms, next_ms)  # it may have been set shorter
        if not every_ms or now.mono_ms < self._compaction_due_ms:
            return
        self._compaction_due_ms = next_ms
        stats = self.opened.journaled.stats()
        free_bytes = stats["file_bytes"] - stats["used_bytes"]
        wanted = self.settings.compaction.free_percent / 100
        if stats["file_bytes"] >= COMPACTED_FROM_BYTES and free_bytes >= wanted * stats["file_bytes"]:
            try:
                self._compact(now, by_itself=True)
            except (AgentComError, OSError) as error:  # no room, or no process could be started: at the next time
                self._ended(self._chores.not_begun("compact", error, now), now)

    def _compaction_status(self, free_bytes: int, now: Now) -> JsonObject:
        due, every_s = self._compaction_due_ms, self.settings.compaction.every_s
        last = next((one for one in reversed(self._chores.recent) if one.kind == "compact"), None)
        return {
            "would_free_bytes": free_bytes,
            "last": last.view() if last is not None else None,
            "next_look": rfc3339(now.wall_ms + due - now.mono_ms) if due and every_s else None,
        }

    # --- looking after it -------------------------------------------------------------------------------

    def _scrub(self, now: Now) -> None:
        rounds = self._scrubber.rounds
        found = self._scrubber.step()
        self._scrub_due_ms = now.mono_ms + (SCRUB_MS if self._scrubber.rounds == rounds else SCRUB_PAUSE_MS)
        if found:
            self.found_damaged(found, now)

    def found_damaged(self, text: str, now: Now) -> None:
        """A record cannot be read. Degraded from now on; the next start finds what else is, and restores."""
        self._log.error("store_damaged", text=text)
        self._damage_found = text
        self.opened.found_damaged()
        self.alarms.set("store_damaged", self._damage_of_store(), now)

    def _damage_of_store(self) -> str:
        return f"a record is damaged: {self._damage_found}" if self._damage_found else ""

    def _damage(self) -> list[str]:
        return [self._damage_found] if self._damage_found else []

    def _each_minute(self, now: Now) -> None:
        self.opened.store.clear_stale_readers()
        stats = self.opened.journaled.stats()
        beyond = self.opened.journal.bytes_beyond(self._backed_up)
        self._is_journal_long = beyond > self.settings.backups.journal_mib * MIB
        self._growth.look(stats["used_bytes"], now)
        self._look_at_limits(stats, now)

    def _look_at_limits(self, stats: StoreStats, now: Now) -> None:
        self.alarms.set("store_growing", self._growth.warning(stats["used_bytes"], stats["map_bytes"]), now)
        self._look_at_disk(now)
        self.alarms.set("backup_overdue", self._overdue(now), now)

    def _look_at_disk(self, now: Now) -> None:
        free = shutil.disk_usage(self.opened.paths.store).free
        text = (
            f"{free // MIB} MiB are free on the disk of the store; new tasks are refused below {LEAST_BYTES // MIB}: "
            f"free some there, or {LESS_KEPT}, then give back what is free in the store's file (`agentcom compact`)"
        )
        self.alarms.set("disk_low", text if free < DISK_FREE_BYTES else "", now)

    def _overdue(self, now: Now) -> str:
        every_s, newest = self.settings.backups.every_s, self._newest
        if not every_s or newest is None:
            return ""
        age_s = now.wall_ms / 1000 - _seconds(newest.time)
        is_overdue = age_s > OVERDUE * every_s + AGAIN_S and self._has_changed
        return f"the newest backup is {age_s / 3600:.1f} h old" if is_overdue else ""


def _seconds(rfc3339_text: str) -> float:
    return datetime.fromisoformat(rfc3339_text).timestamp()


def _why_failed(chore: Chore) -> str:
    """The reason for which a compaction failed; of one that did not, none. With other figures in it it is the same."""
    return _FIGURE.sub("", chore.error) if chore.kind == "compact" else ""


def _told_of(chore: Chore) -> list[Told]:
    """What the history keeps of a chore that has ended; a backup that failed is an alarm."""
    result = chore.result
    if chore.state == "failed":
        return [("compaction_failed", {"reason": chore.error})] if chore.kind == "compact" else []
    if chore.kind == "backup":
        return [("backup_made", {"name": result["name"], "bytes": result["bytes"], "batch": result["sequence"]})]
    if chore.kind == "verify":
        return [("backup_verified", {"name": result["name"], "passes": result["passes"]})]
    return [("store_compacted", dict(result))]
