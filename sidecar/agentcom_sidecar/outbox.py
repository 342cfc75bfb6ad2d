"""Results on disk until the hub has acknowledged them: one file per attempt, written before anything is sent.

Rules it keeps:
* `put` returns only when the result survives a power cut (file and folder synced, replaced at once).
* What is known as a secret or looks like one is taken out before anything is written or sent.
* No session token is ever stored: it is stamped when a result is sent, so a result outlives hub and session.
* A file that cannot be read is moved aside and logged, never deleted and never in the way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from agentcom import limits, logs, redaction
from agentcom.config import write_private
from agentcom.errors import UNREADABLE
from agentcom.messages import Result
from agentcom.model import FailureClass, TaskError, TaskResult
from agentcom.report_statement import needs_signature

RESEND_S = 1.0  # the first wait for an acknowledgement; doubled up to the maximum, with jitter
RESEND_S_MAX = 30.0
DAMAGED_SUFFIX = ".damaged"

Key = tuple[int, int]
Sign = Callable[[TaskResult], TaskResult]


class Entry(Struct, frozen=True, kw_only=True):
    """What became of one attempt. `held_as` is how hello lists it."""

    task: int
    attempt: int
    outcome: Literal["completed", "failed", "interrupted", "cancelled"]
    result: TaskResult | None = None
    error: TaskError | None = None
    held_as: Literal["finished", "interrupted", "unknown"] = "finished"

    @property
    def key(self) -> Key:
        return self.task, self.attempt

    def message(self, session: bytes) -> Result:
        """The wire message, within the bound of a result."""
        return Result(
            session=session,
            task=self.task,
            attempt=self.attempt,
            outcome=self.outcome,
            result=self.result,
            error=self.error,
        )


class _Waiting:
    """An entry's next turn, on the monotonic clock."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.due_s = 0.0
        self.wait_s = RESEND_S


class Outbox:
    """The results that the hub has not acknowledged. `load` once before anything else."""

    def __init__(self, folder: Path, now: Callable[[], float] = time.monotonic) -> None:
        self.folder = folder
        self._now = now
        self._waiting: dict[Key, _Waiting] = {}  # copied before each walk: `put` adds from another thread

    def load(self) -> None:
        """Reads what an earlier process left; damaged files are moved aside."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(self.folder.glob("*.result")):
            try:
                entry = msgspec.msgpack.decode(path.read_bytes(), type=Entry)
                if path != self._path(entry.key):
                    raise ValueError(f"it holds attempt {entry.attempt} of task {entry.task}")
            except (*UNREADABLE, OSError) as error:
                set_aside(path, str(error))
                continue
            self._waiting[entry.key] = _Waiting(entry)

    def put(self, entry: Entry, sign: Sign | None = None) -> None:
        """Keeps `entry` until it is acknowledged, its result signed as it will be sent. The first result of an attempt
        stands. Blocks on the disk: call it in a thread, never twice at once for one attempt."""
        if entry.key in self._waiting:
            return
        fitting = fit(without_secrets(entry))
        if sign is not None and fitting.result is not None and needs_signature(fitting.result):
            fitting = fit(fitting, limits.RESULT_BYTES_MAX - limits.SIGNED_BYTES_MAX)
            if fitting.result is not None:
                fitting = msgspec.structs.replace(fitting, result=sign(fitting.result))
        write_private(self._path(entry.key), msgspec.msgpack.encode(fitting))
        self._waiting[entry.key] = _Waiting(fitting)

    def acknowledge(self, task: int, attempt: int) -> None:
        """The hub has it: forget it, on disk too."""
        self._path((task, attempt)).unlink(missing_ok=True)
        self._waiting.pop((task, attempt), None)

    def hurry(self, key: Key | None = None) -> None:
        """Makes one entry, or all, due now: the hub is back or asked for it."""
        for each in list(self._waiting.values()):
            if key is None or each.entry.key == key:
                each.due_s, each.wait_s = 0.0, RESEND_S

    def due(self, count_max: int) -> list[Entry]:
        """The entries to send now, the longest waiting first; each is due again after a longer wait."""
        now = self._now()
        ready = sorted(
            (each for each in list(self._waiting.values()) if each.due_s <= now), key=lambda each: each.due_s
        )
        for each in ready[:count_max]:
            each.due_s = now + each.wait_s * random.uniform(0.8, 1.2)  # noqa: S311 - jitter, not a secret
            each.wait_s = min(2 * each.wait_s, RESEND_S_MAX)
        return [each.entry for each in ready[:count_max]]

    def __iter__(self) -> Iterator[Entry]:
        return iter([each.entry for each in list(self._waiting.values())])

    def __contains__(self, key: object) -> bool:
        return key in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def _path(self, key: Key) -> Path:
        return self.folder / f"{key[0]}-{key[1]}.result"


def without_secrets(entry: Entry) -> Entry:
    error = entry.error
    if error is not None:
        message = redaction.redact_text(error.message)[: 2 * limits.REASON_CHARS_MAX]
        error = msgspec.structs.replace(error, message=message)
    result = entry.result
    if result is not None:  # what was signed is of what is redacted, or is signed anew
        bare = redaction.redacted(msgspec.structs.replace(result, signed=None))
        result = msgspec.structs.replace(bare, signed=result.signed)
    return msgspec.structs.replace(entry, result=result, error=error)


def fit(entry: Entry, bytes_max: int = limits.RESULT_BYTES_MAX) -> Entry:
    """`entry` cut to what one message may carry: outputs lose their middle first, then iterations go.

    A result that still does not fit becomes a failure that says so: it must never block the outbox.
    """
    if _size(entry) <= bytes_max or entry.result is None:
        return entry
    result = entry.result
    for output_max, check_max in ((16_384, 2048), (4096, 512), (1024, 128)):
        iterations = tuple(
            msgspec.structs.replace(
                each,
                checks=tuple(
                    msgspec.structs.replace(check, output=_middle_out(check.output, check_max))
                    for check in each.checks
                ),
            )
            for each in result.iterations
        )
        shorter = _middle_out(result.output, output_max)
        lost = len(result.output.encode()) - len(shorter.encode())
        cut = msgspec.structs.replace(
            result,
            output=shorter,
            output_truncated_bytes=result.output_truncated_bytes + max(lost, 0),
            files_changed=result.files_changed[: output_max // 16],
            iterations=iterations,
            warnings=(*result.warnings[:20], "the result was too large for one message and was cut"),
        )
        fitting = msgspec.structs.replace(entry, result=cut)
        if _size(fitting) <= bytes_max:
            return fitting
    error = TaskError(
        failure_class=FailureClass.task_error,
        code="result_too_large",
        message=f"the result has {_size(entry)} bytes, a message takes {bytes_max}",
    )
    return Entry(task=entry.task, attempt=entry.attempt, outcome="failed", error=error)


def _size(entry: Entry) -> int:
    return len(msgspec.msgpack.encode(entry))


def _middle_out(text: str, bytes_max: int) -> str:
    raw = text.encode()
    if len(raw) <= bytes_max:
        return text
    half = bytes_max // 2
    head, tail = raw[:half].decode(errors="ignore"), raw[-half:].decode(errors="ignore")
    return f"{head}\n[... {len(raw) - 2 * half} bytes left out ...]\n{tail}"


def set_aside(path: Path, reason: str) -> Path:
    """Renames a file that cannot be read, for a person to look at, and logs it."""
    target = path.with_name(f"{path.name}{DAMAGED_SUFFIX}")
    path.replace(target)
    logs.get().error("record_damaged", path=str(target), reason=reason)
    return target
