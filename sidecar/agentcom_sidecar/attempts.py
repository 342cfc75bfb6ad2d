"""Accepted attempts on disk: written before an attempt starts, removed when its result lies in the outbox.

What a restarted sidecar finds here was interrupted. The marks of the processes that it ran lie beside it, so
that whatever is left of them can be killed before anything is reported.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from agentcom import messages
from agentcom.config import write_private
from agentcom.errors import UNREADABLE, AgentComError
from agentcom.messages import Assign
from agentcom_sidecar.outbox import Key, set_aside
from agentcom_sidecar.sandbox import ProcessMark, mark_of

MARKS_MAX = 64  # newest marks kept per attempt; those of guards that have ended go first
_NAME = re.compile(r"^(\d{1,19})-(\d{1,10})\.(?:attempt|marks)$")


class _MarkRecord(Struct, frozen=True, array_like=True):
    pid: int
    start_ticks: int
    boot: str


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """An attempt of an earlier process. `assign` is None when its record is damaged."""

    key: Key
    assign: Assign | None
    marks: tuple[ProcessMark, ...]


class Attempts:
    """The records of running attempts: `N-M.attempt` (the assignment) and `N-M.marks` (its processes)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._marks: dict[Key, list[ProcessMark]] = {}

    def add(self, assign: Assign) -> None:
        """On disk when this returns (it blocks on the disk): only then may the hub hear `accept`."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self._path((assign.task, assign.attempt), "attempt"), messages.encode(assign))

    def mark(self, key: Key, mark: ProcessMark) -> None:
        """Writes down a process before its command starts.

        Not synced: it has to survive this process, and nothing that it names survives a power cut.
        """
        marks = self._marks.setdefault(key, [])
        marks[:] = [each for each in marks if mark_of(each.pid) == each][-(MARKS_MAX - 1) :]
        marks.append(mark)
        records = [_MarkRecord(each.pid, each.start_ticks, each.boot) for each in marks]
        path = self._path(key, "marks")
        temporary = path.with_suffix(".marks-new")
        temporary.write_bytes(msgspec.msgpack.encode(records))
        temporary.replace(path)

    def remove(self, key: Key) -> None:
        self._marks.pop(key, None)
        for kind in ("attempt", "marks"):
            self._path(key, kind).unlink(missing_ok=True)

    def leftovers(self) -> list[Leftover]:
        """What an earlier process left, in the order of task and attempt; damaged files are moved aside."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        named = (_NAME.match(path.name) for path in self.folder.iterdir())
        keys = sorted({(int(match[1]), int(match[2])) for match in named if match})
        return [Leftover(key=key, assign=self._assign(key), marks=self._read_marks(key)) for key in keys]

    def _assign(self, key: Key) -> Assign | None:
        path = self._path(key, "attempt")
        try:
            found = messages.decode_from_hub(path.read_bytes())
        except FileNotFoundError:
            return None
        except (AgentComError, OSError) as error:
            set_aside(path, str(error))
            return None
        if not isinstance(found, Assign) or (found.task, found.attempt) != key:
            set_aside(path, "it holds another attempt")
            return None
        return found

    def _read_marks(self, key: Key) -> tuple[ProcessMark, ...]:
        path = self._path(key, "marks")
        try:
            records = msgspec.msgpack.decode(path.read_bytes(), type=list[_MarkRecord])
        except FileNotFoundError:
            return ()
        except (*UNREADABLE, OSError) as error:
            set_aside(path, str(error))
            return ()
        return tuple(ProcessMark(each.pid, each.start_ticks, each.boot) for each in records)

    def _path(self, key: Key, kind: str) -> Path:
        return self.folder / f"{key[0]}-{key[1]}.{kind}"
