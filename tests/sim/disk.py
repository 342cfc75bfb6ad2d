"""The simulated disk: the store's file, the journal and the backups, and what may befall them.

A commit is what the real ones are: the batch is appended to the journal without a sync, then the store takes all
of it or nothing, with a sync. The disk is full for a while, answers with errors, is slow. In the middle of a commit
the process is killed or the power fails; of what the journal had not synced by then all is kept, or nothing, each
record by lot, or one is torn. Bits of stored records and of backups flip. A start does what a real start does: it
checks every record, restores the newest backup that passes when one does not, and applies the journal.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass
from typing import Literal

from agentcom import retirement
from agentcom.errors import StoreDamaged, StoreError
from agentcom.store import memory_store
from agentcom.store.base import Batch
from agentcom.store.memory_store import Failure, MemoryDisk, MemoryStore, Table
from agentcom.store.record import unpack
from tests.sim.timeline import Timeline

IO_FAILURES = (Failure.SYNC, Failure.COMMIT, Failure.PUT)
JOURNAL_SYNC_MS = 1000
BACKUPS_KEPT = 3
BACKUP_EVERY_MS = (20_000, 60_000, 200_000)
MOODS = ("all_kept", "unsynced_lost", "random_subset", "torn")
CrashKind = Literal["process", "power"]


# A record is checked once and then known: a third of a run went into checksums of what had not changed.
known_unpack = functools.lru_cache(maxsize=1 << 16)(unpack)
memory_store.unpack = known_unpack
# So are the rows that retention looks at once a second, and of which it keeps the numbers only.
retirement._row = functools.lru_cache(maxsize=1 << 12)(retirement._row)


class Crashed(Exception):
    """The process, or the whole machine, ended in the middle of a commit."""


@dataclass
class Record:
    """A batch in the journal."""

    sequence: int
    batch: Batch
    is_synced: bool = False


class SimDisk:
    """What outlives the hub's process. `came_through` is a batch that was under way when the last process ended
    and turned out to be stored: nobody was told, and it counts."""

    def __init__(self, line: Timeline, rng: random.Random) -> None:
        self._line = line
        self._rng = rng
        self._medium = MemoryDisk()
        self._journal: list[Record] = []
        self._backups: list[MemoryDisk] = []
        self._backup_every_ms = rng.choice(BACKUP_EVERY_MS)
        self._backup_ms = self._synced_ms = 0
        self._confirmed = 0  # the last batch whose commit returned
        self._under_way: Record | None = None
        self._unconfirmed: Record | None = None  # the disk did not say so, and has it all the same
        self._is_broken_next = self._is_damaged = False
        self.came_through: Batch | None = None
        self.boot = "boot-0"  # of the machine; another one after the power failed
        self.full_until_ms = 0
        self.slow_until_ms = 0
        self.crash_in_commit: CrashKind | None = None

    # --- a start ----------------------------------------------------------------------------------------

    def open(self) -> MemoryStore:
        """Check, restore if need be, apply what the journal has beyond the store."""
        if not self._is_sound(self._medium):
            self._restore()
        store = MemoryStore(self._medium)
        if self._unconfirmed is not None and self._unconfirmed.sequence == store.sequence + 1:
            store.commit(self._unconfirmed.batch, self._unconfirmed.sequence)
        self._unconfirmed = None
        beyond = [record for record in self._run() if record.sequence > store.sequence]
        if beyond and beyond[0].sequence == store.sequence + 1:
            for record in beyond:
                store.commit(record.batch, record.sequence)
            self._line.reach("journal_applied")
        assert store.sequence in (self._confirmed, self._confirmed + 1), (
            f"batch {self._confirmed} was confirmed, the store is at {store.sequence}"
        )
        self.came_through = None
        if store.sequence > self._confirmed:
            assert self._under_way is not None
            assert self._under_way.sequence == store.sequence
            self.came_through = self._under_way.batch
            self._line.reach("commit_came_through")
        self._confirmed, self._under_way = store.sequence, None
        if not self._is_covered(store.sequence):
            self._line.reach("journal_has_a_hole")
            self._back_up()  # before anything new is taken
        return store

    def _is_covered(self, sequence: int) -> bool:
        """Whether the newest backup and the journal together lead to that batch."""
        return bool(self._backups) and self._leads_to(sequence, self._backups[-1])

    def _leads_to(self, sequence: int, backup: MemoryDisk) -> bool:
        run, have = self._run(), backup.sequence
        return have == sequence or (
            bool(run) and run[-1].sequence == sequence and run[0].sequence <= have + 1
        )

    def _run(self) -> list[Record]:
        """The records at the end of the journal that follow each other."""
        run: list[Record] = []
        for record in reversed(self._journal):
            if run and record.sequence != run[-1].sequence - 1:
                break
            run.append(record)
        return run[::-1]

    def _is_sound(self, medium: MemoryDisk) -> bool:
        try:
            for database, table in medium.tables.items():
                for key, record in table.records.items():
                    memory_store.unpack(database, key, record)
        except StoreDamaged:
            return False
        return True

    def _restore(self) -> None:
        """The newest backup that passes, and the journal from there on."""
        self._line.note("restore")
        self._line.reach("store_restored")
        sound = [backup for backup in reversed(self._backups) if self._is_sound(backup)]
        assert sound, "no backup passes"
        if sound[0] is not self._backups[-1]:
            self._line.reach("damaged_backup_passed_over")
            self._backups = [backup for backup in self._backups if backup in sound]
        self._medium, self._is_damaged = _copy(sound[0]), False

    # --- commits ----------------------------------------------------------------------------------------

    def commit(self, store: MemoryStore, batch: Batch) -> int:
        """Commit the batch; returns how long the sync took in ms. StoreFull or StoreError as the faults say."""
        if self._is_broken_next:
            self._is_broken_next = False
            kind = self._rng.choice(IO_FAILURES)
            store.fail_next(kind, after=self._rng.randrange(len(batch)) if kind is Failure.PUT else 0)
        elif self._line.now_ms < self.full_until_ms and any(body is not None for _, _, body in batch):
            store.fail_next(Failure.FULL)
        record = self._under_way = Record(store.sequence + 1, batch)
        self._journal.append(record)
        try:
            if self.crash_in_commit is not None:
                self._crash(store, record)
            store.commit(batch, record.sequence)
        except StoreError:
            self._journal.pop()  # cut back
            if not store.writable and self._rng.random() < 0.5:
                self._unconfirmed = record
            raise
        self._confirmed = record.sequence
        if self._line.now_ms < self.slow_until_ms:
            self._line.reach("slow_sync")
            return self._rng.choice((20, 400, 1500, 8000))
        return self._rng.randrange(1, 4)

    def _crash(self, store: MemoryStore, record: Record) -> None:
        """In the middle: the journal has the batch, the store has all of it or nothing."""
        kind, self.crash_in_commit = self.crash_in_commit, None
        assert kind is not None
        if self._rng.random() < 0.5:
            store.commit(record.batch, record.sequence)
        if kind == "power":
            self.lose_power()
        raise Crashed(f"crash_in_commit_{kind}")

    def lose_power(self) -> None:
        """Of what the journal had not synced, what the mood leaves."""
        if self._is_damaged:
            return  # both at once may lose the last second, and a real start says so
        self.boot = f"boot-{self._line.now_ms}"
        mood = self._rng.choice(MOODS)
        self._line.note("power", mood)
        self._line.reach(f"power_{mood}")
        synced = [record for record in self._journal if record.is_synced]
        late = self._journal[len(synced) :]
        if mood == "unsynced_lost":
            late = []
        elif mood == "random_subset":
            late = [record for record in late if self._rng.random() < 0.5]
        elif mood == "torn" and late:
            late = late[: self._rng.randrange(len(late))]
        self._journal = synced + late

    def turn(self) -> None:
        """What the hub does for its disk beside the tick: sync the journal, back up now and then."""
        if self._line.now_ms - self._synced_ms >= JOURNAL_SYNC_MS:
            self._synced_ms = self._line.now_ms
            for record in self._journal:
                record.is_synced = True
        if self._line.now_ms - self._backup_ms >= self._backup_every_ms and self._is_sound(self._medium):
            self._back_up()

    def _back_up(self) -> None:
        self._backup_ms = self._line.now_ms
        self._line.reach("backup_made")
        self._backups = [*self._backups, _copy(self._medium)][-BACKUPS_KEPT:]
        oldest = self._backups[0].sequence
        self._journal = [record for record in self._journal if record.sequence > oldest]

    # --- faults -----------------------------------------------------------------------------------------

    def misbehave(self) -> None:
        kind = self._rng.choice(("full", "io", "slow", "flip"))
        self._line.note("disk", kind)
        if kind == "full":
            self.full_until_ms = self._line.now_ms + self._rng.randrange(500, 12_000)
        elif kind == "io":
            self._is_broken_next = True
        elif kind == "flip":
            self._flip()
        else:
            self.slow_until_ms = self._line.now_ms + self._rng.randrange(1000, 30_000)

    def _flip(self) -> None:
        """One bit of the store, while backup and journal can make up for it; of the newest backup too, if the
        one before it can."""
        sequence = self._medium.sequence
        if self._is_damaged or not self._is_covered(sequence):
            return
        self._is_damaged = _flip_in(self._medium, self._rng)
        self._line.reach("bit_flipped")
        is_twofold = len(self._backups) > 1 and self._leads_to(sequence, self._backups[-2])
        if is_twofold and self._rng.random() < 0.3:
            _flip_in(self._backups[-1], self._rng)

    @property
    def is_damaged(self) -> bool:
        return self._is_damaged

    def heal(self) -> None:
        self.full_until_ms = self.slow_until_ms = 0
        self._is_broken_next, self.crash_in_commit = False, None


def _copy(medium: MemoryDisk) -> MemoryDisk:
    made = MemoryDisk()
    made.sequence = medium.sequence
    for database, table in medium.tables.items():
        twin = made.tables[database] = Table()
        twin.keys, twin.records, twin.size = list(table.keys), dict(table.records), table.size
    return made


def _flip_in(medium: MemoryDisk, rng: random.Random) -> bool:
    filled = sorted(str(database) for database, table in medium.tables.items() if table.keys)
    if not filled:
        return False
    table = medium.tables[rng.choice(filled)]
    key = rng.choice(table.keys)
    record = bytearray(table.records[key])
    record[rng.randrange(len(record))] ^= 1 << rng.randrange(8)
    table.records[key] = bytes(record)
    return True
