"""The one door through which the sidecar runs commands: tasks, checks, git, agent programs.

Rules it keeps:
* Every command has a guard process (guard.py) as its parent. Whatever happens, a normal end, a time-out, a
  cancel or the death of the sidecar, no process of its tree is left.
* The environment is built here from nothing; stdin is /dev/null; no descriptor of the sidecar is passed on.
* Memory is bounded whatever a command prints: head and tail are kept, the middle is counted.
* Nothing is isolated in this version, and every result says so (`sandbox` is "none"); mode "require" refuses.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from agentcom.errors import UNREADABLE
from agentcom_sidecar import guard

GRACE_S = 2.0  # between SIGTERM and SIGKILL
KILL_S_MAX = 10.0  # how long killing is tried; beyond it only a process stuck in the kernel is left
GUARD_ANSWER_S_MAX = 3.0  # a guard that is later than its bounds by this much is killed with its tree
READ_BYTES = 64 * 1024  # one read of output: the capacity of a pipe
STATUS_BYTES_MAX = 64 * 1024  # a guard's status line; more is not a guard's
OUTPUT_BYTES_MAX = 256 * 1024  # default for the output kept of one command
OPEN_FILES_MAX = 4096
FILE_BYTES_MAX = 16 * 1024**3  # one file written by a command: a runaway log, not a model's weights
ROUND_S = 0.01  # pause between two rounds of killing
SAFE_PATH = "/usr/local/bin:/usr/bin:/bin"  # when the sidecar itself has no usable PATH

SandboxMode = Literal["auto", "off", "require"]


class SandboxUnavailable(Exception):
    """The settings demand isolation that this host cannot give; nothing was started."""

    code = "sandbox_unavailable"


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

    Core dumps are always off. `processes_max` counts all processes of the user, not only this command's.
    """

    open_files_max: int | None = OPEN_FILES_MAX
    file_bytes_max: int | None = FILE_BYTES_MAX
    memory_bytes_max: int | None = None
    processes_max: int | None = None

    def by_name(self) -> dict[str, int]:
        wanted = {
            "core": 0,
            "nofile": self.open_files_max,
            "fsize": self.file_bytes_max,
            "as": self.memory_bytes_max,
            "nproc": self.processes_max,
        }
        return {name: value for name, value in wanted.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandSpec:
    """What to run and within which bounds. A shell command is `("sh", "-c", text)`.

    `home` becomes HOME; `scratch` becomes TMPDIR and is `home/tmp` (made when absent) by default. `env` is
    added to the cleared environment and may replace what stands there. `timeout_s` is wall time, `silence_s`
    the longest time without output. `output_max` (bytes) is split between head and tail.
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
    no exit code.
    """

    exit_code: int | None
    signal: int | None
    output: bytes
    truncated_bytes: int
    duration_ms: int
    outcome: Outcome
    sandbox: str = "none"
    survivors: int = 0
    unkilled: int = 0
    error: str | None = None

    @property
    def succeeded(self) -> bool:
        return self.outcome is Outcome.EXITED and self.exit_code == 0


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """One process for ever: a later process with the same pid has another start time or another boot.

    `start_ticks` is field 22 of /proc/PID/stat. An empty `boot` is not compared.
    """

    pid: int
    start_ticks: int
    boot: str = ""


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def mark_of(pid: int) -> ProcessMark | None:
    """The mark of a process that runs now; None when it does not, or where there is no /proc."""
    process = guard.process_of(pid)
    if process is None or not process.runs:
        return None
    return ProcessMark(pid, process.start_ticks, _boot())


def _marked(mark: ProcessMark) -> guard.Process | None:
    if mark.boot and mark.boot != _boot():
        return None
    process = guard.process_of(mark.pid)
    if process is None or process.start_ticks != mark.start_ticks or not process.runs:
        return None
    return process


def _left_of(mark: ProcessMark) -> list[guard.Process]:
    """The tree of a marked guard, and those that carry its marker in their environment."""
    if mark.boot and mark.boot != _boot():
        return []
    wanted = f"{guard.MARKER}={mark.pid}:{mark.start_ticks}".encode()
    found = {}
    for process in guard.processes().values():
        if not process.runs or process.pid == os.getpid():
            continue
        with contextlib.suppress(OSError):  # another user's process, or one that has just ended
            if wanted in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                found[process.pid] = process
    if _marked(mark) is not None:
        found.update((process.pid, process) for process in guard.descendants(mark.pid) if process.runs)
    return list(found.values())


def _kill_round(mark: ProcessMark) -> bool:
    """Kills what is seen now; False when nothing was left. The guard goes last, or its tree would scatter."""
    root = _marked(mark)
    if root is not None:
        guard.send_exactly(root, signal.SIGSTOP)
    left = _left_of(mark)
    for process in left:
        guard.send_exactly(process, signal.SIGKILL)
    if root is not None and not left:
        guard.send_exactly(root, signal.SIGKILL)
    return root is not None or bool(left)


def kill_marked(mark: ProcessMark) -> bool:
    """Kills a guard and its whole tree, or what is left of the tree. True when there was something to kill.

    For a restarted sidecar and its record of the old one's guards. A reused pid is never touched. Blocks for
    KILL_S_MAX at most. Not found: a process that left the tree, cleared its environment and lost its guard.
    """
    give_up_at = time.monotonic() + KILL_S_MAX
    was_alive = _kill_round(mark)
    is_alive = was_alive
    while is_alive and time.monotonic() < give_up_at:
        time.sleep(ROUND_S)
        is_alive = _kill_round(mark)
    return was_alive


def kill_stale(marks: Iterable[ProcessMark]) -> int:
    """Kills what is left of old attempts; how many marks had something left. Blocks: see kill_marked."""
    return sum(kill_marked(mark) for mark in marks)


class CappedOutput:
    """The head and the tail of a stream in bounded memory: `bytes_max` and one chunk at most."""

    def __init__(self, bytes_max: int) -> None:
        self._head_max = bytes_max // 2
        self._tail_max = bytes_max - self._head_max
        self._head = bytearray()
        self._tail = bytearray()
        self.dropped_bytes = 0

    def add(self, chunk: bytes) -> None:
        room = self._head_max - len(self._head)
        self._head += chunk[:room]
        self._tail += chunk[room:]
        surplus = len(self._tail) - self._tail_max
        if surplus > 0:
            del self._tail[:surplus]
            self.dropped_bytes += surplus

    def render(self) -> bytes:
        """What was kept, with a line in place of what was dropped."""
        gap = f"\n[... {self.dropped_bytes} bytes left out ...]\n".encode() if self.dropped_bytes else b""
        return bytes(self._head) + gap + bytes(self._tail)


async def run_command(
    spec: CommandSpec,
    on_output: Callable[[bytes], None] | None = None,
    *,
    on_start: Callable[[ProcessMark], None] | None = None,
    stop: asyncio.Event | None = None,
) -> CommandResult:
    """Runs one command to its end; when this returns or raises, its whole process tree is gone.

    `on_output` gets each chunk as it comes. `on_start` gets the guard's mark before the command starts: what
    it writes down is enough to kill everything later (kill_marked). Setting `stop` ends the command with
    outcome `cancelled` and its output so far. Cancelling the coroutine ends the tree first (SIGTERM, grace,
    SIGKILL; a second cancel skips the grace) and then raises CancelledError. An exception of a callback ends
    the tree and is raised. Raises SandboxUnavailable in mode "require"; what the kernel would not take (a NUL
    in an argument, no such directory, no memory for a process) is outcome `failed_to_start` with `error`.
    """
    if spec.mode == "require":
        raise SandboxUnavailable(
            'sandbox.mode is "require", but no isolation is available in this version: '
            'set sandbox.mode = "auto" to run commands without it'
        )
    try:
        job = _job_of(spec)
        run = _GuardedRun(spec, on_output)
    except (OSError, ValueError) as error:
        return _not_started(str(error))
    try:
        run.begin(job, on_start)
        limit = await run.until_over(stop)
    finally:
        try:
            await run.end_tree()
        finally:
            run.close()
    if run.broken.done():
        raise run.broken.result()
    return run.result(limit)


def _not_started(reason: str) -> CommandResult:
    return CommandResult(
        exit_code=None,
        signal=None,
        output=b"",
        truncated_bytes=0,
        duration_ms=0,
        outcome=Outcome.FAILED_TO_START,
        error=reason,
    )


def _job_of(spec: CommandSpec) -> guard.Job:
    scratch = spec.scratch or spec.home / "tmp"
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    variables = {
        "PATH": _search_path(),
        "HOME": str(spec.home.absolute()),
        "TMPDIR": str(scratch.absolute()),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        **spec.env,
    }
    for name in variables:
        if not name or "=" in name:
            raise ValueError(f"{name!r} cannot name an environment variable")
    env = [f"{name}={value}" for name, value in variables.items() if name != guard.MARKER]
    cwd = str(spec.cwd.absolute())
    if any("\0" in text for text in (*spec.argv, *env, cwd)):
        raise ValueError("an argument, variable or path holds a NUL character")
    return guard.Job(
        argv=[os.fsencode(each) for each in spec.argv],
        cwd=os.fsencode(cwd),
        env=[os.fsencode(each) for each in env],
        limits=spec.limits.by_name(),
        grace_s=spec.grace_s,
        kill_s=KILL_S_MAX,
    )


def _search_path() -> str:
    """The sidecar's own PATH without relative entries: they would mean the worktree, which a model writes."""
    entries = os.environ.get("PATH", "").split(os.pathsep)
    return os.pathsep.join(each for each in entries if each.startswith("/")) or SAFE_PATH


def _unnamed_file() -> IO[bytes]:
    """In memory where the system has that: variables may be secrets, and disks are read by others later."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("agentcom-job"), "w+b")
    return tempfile.TemporaryFile()


class _Ending(msgspec.Struct):
    """The guard's status line."""

    exit_code: int | None = None
    signal: int | None = None
    duration_ms: int = 0
    stopped: bool = False
    survivors: int = 0
    unkilled: int = 0
    failed: str | None = None


class _GuardedRun:
    """One guard process, its three pipes and what came through them. `ended`: the guard is gone."""

    def __init__(self, spec: CommandSpec, on_output: Callable[[bytes], None] | None) -> None:
        self.spec = spec
        self.on_output = on_output
        self.output = CappedOutput(spec.output_max)
        self.loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self.loop.create_future()
        self.broken: asyncio.Future[Exception] = self.loop.create_future()  # what on_output raised
        self.status = bytearray()
        self.started = self.last_output = self.loop.time()
        self.mark: ProcessMark | None = None
        with contextlib.ExitStack() as undo:
            self.job_file = undo.enter_context(_unnamed_file())
            self.control_fd, self.output_fd, self.status_fd, self.guard = self._spawn(undo)
            undo.pop_all()
        self.loop.add_reader(self.output_fd, self._read_output)
        self.loop.add_reader(self.status_fd, self._read_status)

    def _spawn(self, undo: contextlib.ExitStack) -> tuple[int, int, int, subprocess.Popen[bytes]]:
        """Starts the guard, which waits for its job and the word to go. Closes every pipe if it cannot."""
        ours, theirs = [], []
        with contextlib.ExitStack() as handed_over:
            for is_towards_guard in (True, False, False):
                reader, writer = os.pipe()
                mine, its = (writer, reader) if is_towards_guard else (reader, writer)
                undo.callback(os.close, mine)
                handed_over.callback(os.close, its)
                os.set_blocking(mine, False)
                ours.append(mine)
                theirs.append(its)
            control, output, status = theirs
            job_fd = self.job_file.fileno()
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", guard.__file__, str(status), str(job_fd)],
                stdin=control,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"LC_ALL": "C.UTF-8"},
                pass_fds=(status, job_fd),
                start_new_session=True,
            )
        return ours[0], ours[1], ours[2], process

    def begin(self, job: guard.Job, on_start: Callable[[ProcessMark], None] | None) -> None:
        self.mark = mark_of(self.guard.pid)
        if self.mark is not None:
            job.env.append(f"{guard.MARKER}={self.mark.pid}:{self.mark.start_ticks}".encode())
            if on_start is not None:
                on_start(self.mark)
        self.job_file.write(job.encode())
        self.job_file.seek(0)
        self._say(guard.GO)

    async def until_over(self, stop: asyncio.Event | None) -> Outcome | None:
        """None when the command ended by itself, else the limit that it hit."""
        watched: set[asyncio.Future[Any]] = {self.ended, self.broken}
        stopped = asyncio.ensure_future(stop.wait()) if stop is not None else None
        if stopped is not None:
            watched.add(stopped)
        try:
            while not self.ended.done():
                limit, left_s = self._limit_hit()
                if limit is not None:
                    return limit
                if self.broken.done() or (stop is not None and stop.is_set()):
                    return Outcome.CANCELLED
                await asyncio.wait(watched, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            return None
        finally:
            if stopped is not None:
                stopped.cancel()

    def _limit_hit(self) -> tuple[Outcome | None, float]:
        """The limit that is reached, and the seconds until the next one could be."""
        now = self.loop.time()
        left_s = self.started + self.spec.timeout_s - now
        if left_s <= 0:
            return Outcome.TIMED_OUT, 0.0
        if self.spec.silence_s is None:
            return None, left_s
        quiet_left_s = self.last_output + self.spec.silence_s - now
        return (Outcome.SILENT if quiet_left_s <= 0 else None), min(left_s, max(quiet_left_s, 0.0))

    async def end_tree(self) -> None:
        """Returns when the guard and its tree are gone. A cancel hurries to the next, harder step."""
        is_cancelled = False
        for word, bound_s in (
            (guard.ASK, self.spec.grace_s + KILL_S_MAX + GUARD_ANSWER_S_MAX),
            (guard.KILL, KILL_S_MAX + GUARD_ANSWER_S_MAX),
        ):
            if not self.ended.done():
                self._say(word)
                is_cancelled |= await self._was_cancelled_waiting(bound_s)
        give_up_at = self.loop.time() + KILL_S_MAX
        while self._is_left() and self.loop.time() < give_up_at:
            is_cancelled |= await self._was_cancelled_waiting(ROUND_S)
        if is_cancelled:
            raise asyncio.CancelledError

    async def _was_cancelled_waiting(self, bound_s: float) -> bool:
        try:
            if self.ended.done():
                await asyncio.sleep(bound_s)
            else:
                await asyncio.wait({self.ended}, timeout=bound_s)
        except asyncio.CancelledError:
            return True
        return False

    def _is_left(self) -> bool:
        """Kills for a guard that cannot: one that was itself killed, or stopped, by its command."""
        if self.ended.done() and self._ending() is not None:
            return False
        if self.mark is None:
            self.guard.kill()
            return not self.ended.done()
        return _kill_round(self.mark)

    def _say(self, word: bytes) -> None:
        with contextlib.suppress(OSError):  # the guard has ended: its status says how
            os.write(self.control_fd, word)
            self.guard.send_signal(signal.SIGCONT)  # its command may have stopped it

    def _read_output(self) -> None:
        try:
            chunk = os.read(self.output_fd, READ_BYTES)
        except BlockingIOError:
            return
        if not chunk:
            self.loop.remove_reader(self.output_fd)
            return
        self._take(chunk)

    def _take(self, chunk: bytes) -> None:
        self.last_output = self.loop.time()
        self.output.add(chunk)
        if self.on_output is None or self.broken.done():
            return
        try:
            self.on_output(chunk)
        except Exception as error:  # the caller's: raised by run_command once the tree is gone
            self.broken.set_result(error)

    def _read_status(self) -> None:
        try:
            part = os.read(self.status_fd, STATUS_BYTES_MAX)
        except BlockingIOError:
            return
        self.status += part[: STATUS_BYTES_MAX - len(self.status)]
        if not part:
            self.loop.remove_reader(self.status_fd)
            self._drain_output()
            self.guard.poll()
            if not self.ended.done():
                self.ended.set_result(None)

    def _drain_output(self) -> None:
        """What is still in the pipe: all that was written by those now dead. No wait for its end-of-file,
        which an unkillable process could hold back for ever."""
        self.loop.remove_reader(self.output_fd)
        left = array.array("i", [0])
        fcntl.ioctl(self.output_fd, termios.FIONREAD, left)
        while left[0] > 0:
            chunk = os.read(self.output_fd, min(left[0], READ_BYTES))
            left[0] -= len(chunk)
            self._take(chunk)

    def _ending(self) -> _Ending | None:
        """What the guard said; None when it was lost before it could."""
        try:
            return msgspec.json.decode(bytes(self.status), type=_Ending)
        except UNREADABLE:
            return None

    def result(self, limit: Outcome | None) -> CommandResult:
        ending = self._ending()
        lost = None
        if ending is None:  # nothing was left of the command by then: see end_tree
            since_ms = round((self.loop.time() - self.started) * 1000)
            ending = _Ending(signal=int(signal.SIGKILL), duration_ms=since_ms, stopped=limit is not None)
            lost = "the guard of the command was lost, so its end was not seen; its processes were killed"
        if ending.failed is not None:
            outcome = Outcome.FAILED_TO_START
        elif ending.stopped:
            outcome = limit or Outcome.CANCELLED  # without a limit: somebody else told the guard to end
        else:
            outcome = Outcome.EXITED
        return CommandResult(
            exit_code=ending.exit_code,
            signal=ending.signal,
            output=self.output.render(),
            truncated_bytes=self.output.dropped_bytes,
            duration_ms=ending.duration_ms,
            outcome=outcome,
            survivors=ending.survivors,
            unkilled=ending.unkilled,
            error=ending.failed or lost,
        )

    def close(self) -> None:
        self.loop.remove_reader(self.output_fd)
        self.loop.remove_reader(self.status_fd)
        for fd in (self.control_fd, self.output_fd, self.status_fd):
            os.close(fd)
        self.job_file.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            # Its pipes are closed, so it is in its last microseconds; Popen reaps later one that is not.
            self.guard.wait(timeout=1.0)
