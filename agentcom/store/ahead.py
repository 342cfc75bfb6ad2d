"""Whether a start may load from the store while a child still checks it, and what the journal has for it meanwhile.

Only where all is plain: the file is proven here, page by page and record by record, so that opening it is safe; no
backup is ahead of it; and the journal goes from it without a hole or a torn end to the last batch that anybody knows
of. What is left to the check is whether the records agree, which it only reads for. Anything else is checked first.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from agentcom.errors import UNREADABLE, AgentComError
from agentcom.store.backup import newest_verified
from agentcom.store.base import Batch
from agentcom.store.check import proven_sequence
from agentcom.store.journal import reached_of
from agentcom.store.restore import MERGED_BYTES_MAX
from agentcom.store.segments import Survey, replay, survey


class Ahead(NamedTuple):
    """What a start that goes ahead of its check begins with: the store as it is, and over it, in memory alone, what
    `applied` batches of the journal changed, up to batch `last`."""

    found: Survey  # of the journal
    waiting: Batch
    applied: int
    last: int


def ahead_of_check(store: Path, journal: Path, backups: Path, known: int) -> Ahead | None:
    """None where the check has to come first. `known` is the batch that the note of the last stop tells of. Writes
    nothing; O(bytes of store and journal)."""
    try:
        sequence = proven_sequence(store)
        if sequence is None or newest_verified(backups) > sequence:
            return None
        found = survey(journal)
        if found.holes or found.torn_bytes or not found.run_first <= sequence + 1 <= found.last + 1:
            return None
        if found.last < max(known, reached_of(journal)):
            return None
        return _taken(journal, sequence, found)
    except (*UNREADABLE, AgentComError, OSError):
        return None  # the check, or what follows it, has the words for it


def _taken(journal: Path, sequence: int, found: Survey) -> Ahead | None:
    """The batches beyond the store as one; None where they are too many for that."""
    waiting, size_bytes, applied = Batch(), 0, 0
    batches = replay(journal, sequence)
    for _, batch in batches:
        waiting.merge(batch)
        size_bytes += batch.size_bytes
        applied += 1
        if size_bytes > MERGED_BYTES_MAX:
            return None
    return Ahead(found, waiting, applied, batches.last) if batches.last == found.last else None
