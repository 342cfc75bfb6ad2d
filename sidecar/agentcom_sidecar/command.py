"""What a command is to the door (sandbox.py): its bounds before it runs, what it may see, and how it ended."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

GRACE_S = 2.0  # between SIGTERM and SIGKILL
OUTPUT_BYTES_MAX = 256 * 1024  # default for the output kept of one command
OPEN_FILES_MAX = 4096
FILE_BYTES_MAX = 16 * 1024**3  # one file written by a command: a runaway log, not a model's weights
ROOM_BYTES_MIN = 256 * 1024**2  # on the disk of its directory, for the sidecar and all others
PROCESSES_MAX = 4096  # of one isolated command at a time: a parallel build, not a fork bomb

SandboxMode = Literal["auto", "off", "require"]


class SandboxUnavailable(Exception):
    """The settings demand isolation that this host cannot give; nothing was started."""

    code = "sandbox_unavailable"


BY_SIGNAL = 128  # what a shell adds to the signal that has ended what it ran
KILLED = "something killed it, most often the system for want of memory; a bound of the sandbox would be named"
NO_FORK = (b"cannot fork", b"resource temporarily unavailable", b"spawn eagain")
NO_PROCESS = "it may have had all the processes that sandbox.processes_max allows"
TOO_LARGE = (b"file too large", b"file size limit exceeded")  # where the signal is ignored, or a shell tells of it
FILE_FULL = "one of its files seems to have grown larger than sandbox.file_mib allows"
TAIL_BYTES = 4000  # of an output in which the reason of its end is looked for


class Outcome(StrEnum):
    """Why a command is over."""

    EXITED = "exited"  # by itself, or by a signal that the sidecar did not send
    TIMED_OUT = "timed_out"
    SILENT = "silent"  # no output for `silence_s`
    CANCELLED = "cancelled"
    FAILED_TO_START = "failed_to_start"  # no such program, no such directory, no process to be had


@dataclass(frozen=True, slots=True)
class CommandLimits:
    """Kernel limits per process (setrlimit), lowered to the hard limit if that is less. None: as inherited.

    Core dumps are always off. `processes_max` counts all processes of the user, not only this command's. The
    `tree_` ones are of the whole tree of an isolated command: its guard counts, ten times a second, and kills. A
    command during which the disk of its directory comes to have less than `room_bytes_min` is ended.
    """

    open_files_max: int | None = OPEN_FILES_MAX
    file_bytes_max: int | None = FILE_BYTES_MAX
    memory_bytes_max: int | None = None
    processes_max: int | None = None
    tree_processes_max: int | None = PROCESSES_MAX
    tree_memory_bytes_max: int | None = None
    room_bytes_min: int = ROOM_BYTES_MIN

    def by_name(self, *, is_isolated: bool = False) -> dict[str, int]:
        # In a user namespace of its own the kernel counts the processes of this command only (and threads too).
        wanted = {
            "core": 0,
            "nofile": self.open_files_max,
            "fsize": self.file_bytes_max,
            "as": self.memory_bytes_max,
            "nproc": self.tree_processes_max if is_isolated else self.processes_max,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def of_tree(self) -> dict[str, int]:
        wanted = {"processes": self.tree_processes_max, "memory": self.tree_memory_bytes_max}
        return {name: value for name, value in wanted.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What an isolated command sees of this machine besides the system, its directory and its home.

    A path in `hidden` is an empty directory, also where a readable one holds it; `writable` comes last. Paths
    that a command can write may not hold a mount point: a link planted there would say where it goes.
    """

    readable: tuple[Path, ...] = ()
    hidden: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    network: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """What to run and within which bounds. A shell command is `("sh", "-c", text)`.

    `home` becomes HOME; `scratch` becomes TMPDIR and is `home/tmp` (made when absent) by default. `env` is
    added to the cleared environment and may replace what stands there. `timeout_s` is wall time, `silence_s`
    the longest time without output. `output_max` (bytes) is split between head and tail. `view` says what an
    isolated command sees; in mode "off", and in "auto" where nothing isolates, it sees what this user sees.
    """

    argv: tuple[str, ...]
    cwd: Path
    home: Path
    timeout_s: float
    silence_s: float | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    scratch: Path | None = None
    output_max: int = OUTPUT_BYTES_MAX
    limits: CommandLimits = field(default_factory=CommandLimits)
    grace_s: float = GRACE_S
    mode: SandboxMode = "auto"
    view: View = View()

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0]:
            raise ValueError("argv is empty: give at least the program's name")
        if self.mode not in ("auto", "off", "require"):
            raise ValueError(f"mode {self.mode!r} is none of auto, off, require")
        for name, value in (("timeout_s", self.timeout_s), ("silence_s", self.silence_s)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} is {value}: it must be more than 0")
        if self.output_max < 0 or self.grace_s < 0:
            raise ValueError("output_max and grace_s cannot be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    """How a command ended. `output` holds stdout and stderr in the order in which they were written.

    Exactly one of `exit_code` and `signal` is set when the command ran and its end was seen.
    `truncated_bytes` is how much of the middle of the output was dropped; a line in its place says so.
    `survivors` counts processes that were still alive after the command itself had ended, and were killed;
    `unkilled` those that could not be (another user's, or stuck in the kernel). `error` says why there is
    no exit code, or which limit of its tree or of the disk the command was killed for. `sandbox` is what isolated it
    ("bubblewrap" or "none"), `sandbox_reason` why nothing did.
    """

    exit_code: int | None
    signal: int | None
    output: bytes
    truncated_bytes: int
    duration_ms: int
    outcome: Outcome
    sandbox: str = "none"
    sandbox_reason: str = ""
    survivors: int = 0
    unkilled: int = 0
    error: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.outcome is Outcome.EXITED and self.exit_code == 0

    @property
    def hint(self) -> str:
        """Which setting most often is behind such an end; empty where the end says it by itself."""
        if self.error is not None or self.succeeded:
            return ""
        if self.outcome is Outcome.TIMED_OUT:
            return f"it was ended after {self.duration_ms / 1000:.0f} s; a check that needs more has its own timeout_s"
        return self._hint_of_exit if self.outcome is Outcome.EXITED else ""

    @property
    def _hint_of_exit(self) -> str:
        by_signal = self.signal or (self.exit_code or 0) - BY_SIGNAL
        tail = self.output[-TAIL_BYTES:].lower()
        if by_signal == signal.SIGKILL:
            return KILLED
        if by_signal == signal.SIGXFSZ or any(each in tail for each in TOO_LARGE):
            return FILE_FULL
        return NO_PROCESS if any(each in tail for each in NO_FORK) else ""
