"""Work on the store that takes long: one at a time, in child processes, watched by the loop and never waited for.

A caller gets the number of the chore and asks again. The last ones are remembered with what came of them, the last of
all over a restart too: whoever waits for one that a restart has cut off learns that, and no number is given twice.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import msgspec

from agentcom.clock import Now, rfc3339
from agentcom.config import write_private
from agentcom.errors import UNREADABLE, AgentComError, Refused, StoreError
from agentcom.model import JsonObject

FILE: Final = "chore.json"
REMEMBERED: Final = 20
CUT_OFF: Final = "it was cut off by a restart of the hub; ask for it again"
RETRY_S: Final = 5.0
Kind = Literal["backup", "verify", "compact"]


class Run(Protocol):
    """A child at work. `turn` is called after every tick, true when it has ended; `outcome` may then be taken
    once, and raises what went wrong; `stop` ends it."""

    def turn(self) -> bool: ...

    def outcome(self) -> Any: ...

    def stop(self) -> None: ...


class Chore(msgspec.Struct):
    """One of them, as it is shown. One that was cut off has failed at a time that nobody knows."""

    number: int
    kind: Kind
    started_ms: int
    by_itself: bool
    state: Literal["running", "done", "failed"] = "running"
    ended_ms: int = 0
    code: str = ""
    error: str = ""
    result: JsonObject = {}

    def view(self) -> JsonObject:
        return {
            "number": self.number,
            "kind": self.kind,
            "state": self.state,
            "by_itself": self.by_itself,
            "started": rfc3339(self.started_ms),
            "ended": rfc3339(self.ended_ms) if self.ended_ms else None,
            "error": {"code": self.code, "message": self.error} if self.error else None,
            "result": self.result or None,
        }


class Chores:
    """At most one chore at work. The last one is noted in the folder, if the disk takes it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._run: Run | None = None
        self._done: Callable[[Any], JsonObject] = lambda _: {}
        self.recent: list[Chore] = []
        with contextlib.suppress(*UNREADABLE, OSError):
            self.recent.append(msgspec.json.decode(self._file.read_bytes(), type=Chore))
        self._numbers = itertools.count(self.recent[-1].number + 1 if self.recent else 1)
        for one in self.recent:
            if one.state == "running":
                one.state, one.code, one.error = "failed", StoreError.code, CUT_OFF

    @property
    def running(self) -> Chore | None:
        return self.recent[-1] if self._run is not None else None

    def start(
        self,
        kind: Kind,
        begin: Callable[[], Run],
        done: Callable[[Any], JsonObject],
        now: Now,
        *,
        by_itself: bool = False,
    ) -> Chore:
        """Begin one, or join the one of that kind that runs. `done` takes its outcome on the loop and says what is
        shown of it. Refused while another kind is at work; raises what `begin` raises."""
        running = self.running
        if running is not None:
            if running.kind == kind and kind != "verify":
                return running
            raise Refused("busy", f"a {running.kind} is at work on the store; try again", retry_after_s=RETRY_S)
        self._run, self._done = begin(), done
        return self._remember(Chore(next(self._numbers), kind, now.wall_ms, by_itself))

    def not_begun(self, kind: Kind, error: AgentComError | OSError, now: Now) -> Chore:
        """Remember one that was to begin by itself and could not: nobody was there to be refused."""
        code = error.code if isinstance(error, AgentComError) else StoreError.code
        number, at_ms = next(self._numbers), now.wall_ms
        return self._remember(Chore(number, kind, at_ms, True, "failed", at_ms, code, str(error)))

    def _remember(self, chore: Chore) -> Chore:
        self.recent = [*self.recent, chore][-REMEMBERED:]
        self._note(chore)
        return chore

    def turn(self, now: Now) -> Chore | None:
        """One look; the chore that has just ended."""
        if self._run is None:
            return None
        chore = self.recent[-1]
        try:
            if not self._run.turn():
                return None
            chore.result = self._done(self._run.outcome())
            chore.state = "done"
        except AgentComError as error:
            chore.state, chore.code, chore.error = "failed", error.code, error.message
        except OSError as error:  # the disk, while the outcome was taken: that ends the chore, not the hub
            chore.state, chore.code, chore.error = "failed", StoreError.code, f"{error}; look at the disk"
        self._run = None
        chore.ended_ms = now.wall_ms
        self._note(chore)
        return chore

    def _note(self, chore: Chore) -> None:
        with contextlib.suppress(OSError):
            write_private(self._file, msgspec.json.encode(chore))

    def close(self) -> None:
        if self._run is not None:
            self._run.stop()
            self._run = None
