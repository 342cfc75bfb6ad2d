"""The one door through which the sidecar runs commands: tasks, checks, git, agent programs.

Rules it keeps:
* Every command has a guard process (guard.py) as its parent. Whatever happens, a normal end, a time-out, a
  cancel or the death of the sidecar, no process of its tree is left.
* The environment is built here from nothing; stdin is /dev/null; no descriptor of the sidecar is passed on.
* Memory is bounded whatever a command prints: head and tail are kept, the middle is counted.
* Where a probe has shown that it works (isolation.py), bubblewrap starts the guard as process 1 of namespaces of
  its own; elsewhere nothing is isolated, every result says so (`sandbox` is "none"), and mode "require" refuses.
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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import msgspec

from agentcom.errors import UNREADABLE
from agentcom_sidecar import bubblewrap, guard, guards, isolation
from agentcom_sidecar.command import (
    CommandLimits,
    CommandResult,
    CommandSpec,
    Outcome,
    SandboxMode,
    SandboxUnavailable,
    View,
)
from agentcom_sidecar.isolation import Isolation

__all__ = [
    "CappedOutput",
    "CommandLimits",
    "CommandResult",
    "CommandSpec",
    "Outcome",
    "ProcessMark",
    "SandboxMode",
    "SandboxUnavailable",
    "View",
    "isolation_of",
    "kill_marked",
    "kill_stale",
    "mark_of",
    "run_command",
]

KILL_S_MAX = 10.0  # how long killing is tried; beyond it only a process stuck in the kernel is left
GUARD_ANSWER_S_MAX = 3.0  # a guard that is later than its bounds by this much is killed with its tree
READ_BYTES = 64 * 1024  # one read of output: the capacity of a pipe
STATUS_BYTES_MAX = 64 * 1024  # a guard's status line; more is not a guard's
EXIT_S_MAX = 1.0  # of a guard whose pipes are closed
ROOM_LOOK_S = 0.5  # between two looks at the room on the disk
ROUND_S = 0.01  # pause between two rounds of killing
REASON_BYTES_MAX = 1000  # of what bubblewrap or Python said when no guard came up
SAFE_PATH = "/usr/local/bin:/usr/bin:/bin"  # when the sidecar itself has no usable PATH


@dataclass(frozen=True, slots=True)
class ProcessMark:
    """One process for ever: a later process with the same pid has another start time or another boot.

    `start_ticks` is field 22 of /proc/PID/stat. An empty `boot` is not compared.
    """

    pid: int
    start_ticks: int
    boot: str = ""


def boot() -> str:
    """Which start of this machine this is; empty where that cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def mark_of(pid: int) -> ProcessMark | None:
    """The mark of a process that runs now; None when it does not, or where there is no /proc."""
    process = guard.process_of(pid)
    if process is None or not process.runs:
        return None
    return ProcessMark(pid, process.start_ticks, boot())


def _marked(mark: ProcessMark) -> guard.Process | None:
    if mark.boot and mark.boot != boot():
        return None
    process = guard.process_of(mark.pid)
    if process is None or process.start_ticks != mark.start_ticks or not process.runs:
        return None
    return process


def _left_of(mark: ProcessMark) -> list[guard.Process]:
    """The tree of a marked guard, and those that carry its marker in their environment."""
    if mark.boot and mark.boot != boot():
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


async def isolation_of(mode: SandboxMode) -> Isolation:
    """What isolates commands of this mode here; the first call in a process tries it out."""
    return await isolation.probed(mode, _run_isolated)


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
    the tree and is raised. Raises SandboxUnavailable in mode "require" where nothing isolates; what the kernel
    would not take (a NUL in an argument, no such directory, no memory for a process) is outcome
    `failed_to_start` with `error`. Call it in a thread that lives as long as the command.
    """
    using = await isolation_of(spec.mode)
    if spec.mode == "require" and not using.holds:
        raise SandboxUnavailable(
            f'sandbox.mode is "require", and nothing isolates commands on this host ({using.note}); '
            'to run them without isolation, set sandbox.mode = "auto"'
        )
    return await _run(spec, using, on_output, on_start, stop)


async def _run_isolated(spec: CommandSpec) -> CommandResult:
    return await _run(spec, isolation.BUBBLEWRAP, None, None, None)


async def _run(
    spec: CommandSpec,
    using: Isolation,
    on_output: Callable[[bytes], None] | None,
    on_start: Callable[[ProcessMark], None] | None,
    stop: asyncio.Event | None,
) -> CommandResult:
    try:
        job = _job_of(spec, using)
        run = _GuardedRun(spec, using, on_output)
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


def _job_of(spec: CommandSpec, using: Isolation) -> guard.Job:
    scratch = spec.scratch or spec.home / "tmp"
    scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
    variables = {
        "PATH": _search_path(spec, using),
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
        limits=spec.limits.by_name(is_isolated=using.holds),
        grace_s=spec.grace_s,
        kill_s=KILL_S_MAX,
        tree=spec.limits.of_tree() if using.holds else {},
    )


def _search_path(spec: CommandSpec, using: Isolation) -> str:
    """The sidecar's own PATH without relative entries: they would mean the worktree, which a model writes."""
    entries = [each for each in os.environ.get("PATH", "").split(os.pathsep) if each.startswith("/")]
    if using.holds:
        entries = [each for each in entries if bubblewrap.is_visible(each, spec)]
    return os.pathsep.join(entries) or SAFE_PATH


def _unnamed_file(content: bytes = b"") -> IO[bytes]:
    """In memory where the system has that: variables may be secrets, and disks are read by others later."""
    number = os.memfd_create("agentcom-job") if hasattr(os, "memfd_create") else _file_without_name()
    file: IO[bytes] = os.fdopen(number, "w+b")
    file.write(content)
    file.seek(0)
    return file


def _file_without_name() -> int:
    number, path = tempfile.mkstemp()
    os.unlink(path)
    return number


def room_of(folder: Path) -> int:
    """Bytes that this user may still write on the folder's disk; many where the folder is gone."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return sys.maxsize
    return found.f_bavail * found.f_frsize


class _Ending(msgspec.Struct):
    """The guard's status line."""

    exit_code: int | None = None
    signal: int | None = None
    duration_ms: int = 0
    stopped: bool = False
    survivors: int = 0
    unkilled: int = 0
    exceeded: str = ""
    failed: str | None = None


class _GuardedRun:
    """One guard process, its three pipes and what came through them. `ended`: the guard is gone."""

    def __init__(
        self, spec: CommandSpec, using: Isolation, on_output: Callable[[bytes], None] | None
    ) -> None:
        self.spec = spec
        self.using = using
        self.on_output = on_output
        self.output = CappedOutput(spec.output_max)
        self.loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self.loop.create_future()
        self.broken: asyncio.Future[Exception] = self.loop.create_future()  # what on_output raised
        self.status = bytearray()
        self.started = self.last_output = self.loop.time()
        self.mark: ProcessMark | None = None
        self.exceeded: str | None = None  # what this process ended it for
        self.has_room = room_of(spec.cwd) >= spec.limits.room_bytes_min  # else it is not this command that took it
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
            command, files = self._guard_command(status, handed_over)
            process = subprocess.Popen(
                command,
                stdin=control,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"LC_ALL": "C.UTF-8"},
                pass_fds=(status, *files),
                start_new_session=True,
            )
        return ours[0], ours[1], ours[2], process

    def _guard_command(self, status: int, handed_over: contextlib.ExitStack) -> tuple[list[str], list[int]]:
        """The guard's command line, and the descriptors that it names besides the status pipe."""
        job = self.job_file.fileno()
        program = bubblewrap.find() if self.using.holds else None
        if program is None:
            if self.using.holds:
                raise OSError("bubblewrap was removed after it had been tried out: install it again")
            return guards.command(status, job, is_isolated=False), [job]
        # In files without a name: nothing to clean up, and the list of processes does not show what lies where.
        files = {
            name: handed_over.enter_context(_unnamed_file(content)).fileno()
            for name, content in bubblewrap.contents().items()
        }
        options = "\0".join(bubblewrap.arguments(self.spec, files))
        listed = handed_over.enter_context(_unnamed_file(os.fsencode(options))).fileno()
        command = [program, "--args", str(listed), "--", *guards.command(status, job, is_isolated=True)]
        return command, [job, listed, *files.values()]

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
        if self.has_room:
            if room_of(self.spec.cwd) < self.spec.limits.room_bytes_min:
                left = f"less than {self.spec.limits.room_bytes_min // 2**20} MiB were left"
                self.exceeded = f"{left} on the disk of its directory; make room there (agentcom git gc)"
                return Outcome.EXITED, 0.0
            left_s = min(left_s, ROOM_LOOK_S)
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
        is_cancelled |= await self._was_cancelled_until_exit()
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

    async def _was_cancelled_until_exit(self) -> bool:
        """Its pipes are closed, so it is in its last microseconds, bubblewrap in its last milliseconds."""
        if self.guard.poll() is not None or not hasattr(os, "pidfd_open"):
            return False
        gone: asyncio.Future[None] = self.loop.create_future()
        pidfd = os.pidfd_open(self.guard.pid)

        def note() -> None:
            self.loop.remove_reader(pidfd)
            gone.set_result(None)

        self.loop.add_reader(pidfd, note)
        try:
            await asyncio.wait({gone}, timeout=EXIT_S_MAX if self.ended.done() else 0)
        except asyncio.CancelledError:
            return True
        finally:
            self.loop.remove_reader(pidfd)
            os.close(pidfd)
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

    def _why_not_up(self) -> str | None:
        """What was said instead when no guard came up by itself; None when one did."""
        if self.status.startswith(guard.UP):
            return None
        said = self.output.render()[-REASON_BYTES_MAX:].decode("utf-8", "replace").strip()
        return f"its guard did not start: {said or 'nothing was said'}"

    def result(self, limit: Outcome | None) -> CommandResult:
        ending = self._ending()
        lost = None
        if ending is None and limit is None and (why := self._why_not_up()) is not None:
            ending = _Ending(failed=why)
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
        if self.exceeded is not None and ending.stopped:
            ending.exit_code, ending.signal, ending.exceeded = None, int(signal.SIGKILL), self.exceeded
        return CommandResult(
            exit_code=ending.exit_code,
            signal=ending.signal,
            output=self.output.render(),
            truncated_bytes=self.output.dropped_bytes,
            duration_ms=ending.duration_ms,
            outcome=outcome,
            sandbox=self.using.name,
            sandbox_reason=self.using.reason,
            survivors=ending.survivors,
            unkilled=ending.unkilled,
            error=ending.failed or (f"killed: {ending.exceeded}" if ending.exceeded else lost),
        )

    def close(self) -> None:
        self.loop.remove_reader(self.output_fd)
        self.loop.remove_reader(self.status_fd)
        for fd in (self.control_fd, self.output_fd, self.status_fd):
            os.close(fd)
        self.job_file.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.guard.wait(timeout=EXIT_S_MAX)  # Popen reaps later one that is not over by then
