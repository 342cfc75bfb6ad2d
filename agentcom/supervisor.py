"""The supervisor behind `agentcom up`: child processes that are started, restarted, and ended together.

A child says that it is ready by one JSON line on its stdout. One that ends is started again after a wait that
doubles; all end when the supervisor does (`lifeline`), even by SIGKILL. Children have sessions of their own,
so a Ctrl-C in the terminal reaches the supervisor alone. Everything here runs in the main thread: the kernel
ties a child's life to the thread that started it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

import msgspec
from msgspec import Struct

from agentcom import limits
from agentcom.config import Home, write_private
from agentcom.errors import UNREADABLE, AgentComError, ConfigError
from agentcom.lifeline import PARENT_PID_VARIABLE, cause_of_end

BACKOFF_S = 0.5
BACKOFF_S_MAX = 30.0
STEADY_S = 60.0  # a child that lived this long starts again at once and with a fresh backoff
LOOK_S = 0.1
TERM_S = 2.0  # then KILL: all has ended within 3 s of the signal
KILL_S = 0.7
LOG_BYTES_MAX = 16 * limits.MIB  # then the file is copied to .1 and emptied
LOG_LOOK_S = 10.0
READY_LINE_BYTES_MAX = 64 * limits.KIB
TAIL_LINES = 5


class StartFailed(AgentComError):
    """A child ended, or did not become ready, before `up` could serve; the message ends with its last words."""

    code = "start_failed"


class Stopped(Exception):
    """SIGINT, SIGTERM or SIGHUP came while the children were still starting."""


class Start(Struct, frozen=True):
    """What a running `up` has started: its ready line, kept in run/up.json."""

    http: str | None
    hub: str
    feed: str
    home: str
    pid: int
    token_file: str


def write_start(home: Home, start: Start) -> None:
    write_private(home.run / "up.json", msgspec.json.encode(start))


def read_start(home: Home) -> Start | None:
    """What the `up` of this home started, or None when none runs."""
    try:
        start = msgspec.json.decode((home.run / "up.json").read_bytes(), type=Start)
        os.kill(start.pid, 0)
    except (*UNREADABLE, FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    return start


def hub_pid(home: Home) -> int | None:
    """The process that holds the lock of this home's store, or None when no hub runs on it."""
    try:
        with (home.store / "hub.lock").open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read(32).split(b"\n")[0]
                return int(text) if text.isdigit() else 0
    except FileNotFoundError:
        return None
    return None


@contextlib.contextmanager
def only_one(home: Home) -> Iterator[None]:
    """Holds the place of the one `up` of a home; ConfigError names the process that has it."""
    with (home.run / "up.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(32).strip() or "unknown"
            raise ConfigError(
                f"`agentcom up` runs on {home.path} already (process {holder}); stop that one, or set AGENTCOM_HOME"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


class Child:
    """One daemon: its command, its process while there is one, its ready line, its log."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.name = name
        self.command = list(command)
        self.environment = environment
        self.log = log
        self.ready: dict[str, Any] | None = None
        self.process: subprocess.Popen[bytes] | None = None
        self.restart_at: float | None = None
        self._backoff_s = BACKOFF_S
        self._started_at = 0.0
        self._partial = b""
        self._log_from = 0

    def start(self) -> IO[bytes]:
        """Start the process; its stdout, to be read by `heard`."""
        bound_log(self.log)
        self._log_from = self.log.stat().st_size if self.log.exists() else 0
        self.ready, self.restart_at, self._partial = None, None, b""
        self._started_at = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                env={**self.environment, PARENT_PID_VARIABLE: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        return self.process.stdout

    def heard(self, piece: bytes) -> None:
        """Take a piece of the child's stdout: to its log, and the ready line out of it."""
        with contextlib.suppress(OSError), self.log.open("ab") as log:  # a full disk is no end of what runs
            log.write(piece)
        *lines, self._partial = (self._partial + piece).split(b"\n")
        self._partial = self._partial[-READY_LINE_BYTES_MAX:]
        for line in lines:
            with contextlib.suppress(ValueError):
                found = json.loads(line)
                if isinstance(found, dict) and found.get("ready") is True:
                    self.ready = found

    def ended(self, forget: Callable[[IO[bytes]], None]) -> int | None:
        """The exit code of a process that has ended since the last look, else None. `forget` gets its pipe before
        that is closed."""
        if self.process is None or (code := self.process.poll()) is None:
            return None
        if self.process.stdout is not None:
            # Its ready line may lie in the pipe still: then it started, and ended after.
            with contextlib.suppress(BlockingIOError):
                self.heard(os.read(self.process.stdout.fileno(), 65_536))
            forget(self.process.stdout)
            self.process.stdout.close()
        self.process = None
        if time.monotonic() - self._started_at >= STEADY_S:
            self._backoff_s = BACKOFF_S
        self.restart_at = time.monotonic() + self._backoff_s
        return code

    def next_wait_s(self) -> float:
        """The wait before the coming restart; the one after it is twice as long."""
        wait, self._backoff_s = self._backoff_s, min(2 * self._backoff_s, BACKOFF_S_MAX)
        return wait

    def signal(self, number: signal.Signals) -> None:
        """To the child; a KILL to its whole session, because nobody is left to pass it on."""
        if self.process is None or self.process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            if number is signal.SIGKILL:
                os.killpg(self.process.pid, number)
            else:
                self.process.send_signal(number)

    def last_words(self) -> str:
        """What the child said last since it was started, for an error message: its own words for people if
        there are any, else the end of its log."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(self._log_from, self.log.stat().st_size - 4096))
                lines = file.read().decode(errors="replace").strip().splitlines()
        except OSError:
            return ""
        for_people = [line for line in lines if line.startswith("agentcom")]
        return for_people[-1] if for_people else " | ".join(lines[-TAIL_LINES:])


class Supervisor:
    """The children of one home. `tell` gets a line for people whenever a child ends."""

    def __init__(self, home: Home, environment: Mapping[str, str], tell: Callable[[str], None]) -> None:
        self._home = home
        self._environment = dict(environment)
        self._tell = tell
        self._children: dict[str, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._log_look_at = 0.0

    def catch_signals(self) -> None:
        """From now on SIGINT, SIGTERM and SIGHUP end `run`, and `start` with Stopped."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def start(
        self, name: str, command: Sequence[str], timeout_s: float, **environment: str
    ) -> dict[str, Any]:
        """Start a child and give its ready line. StartFailed if it ends first, or is not ready in time: then
        it goes on starting, supervised like the others."""
        child = Child(name, command, {**self._environment, **environment}, self._home.logs / f"{name}.log")
        self._children[name] = child
        self._launch(child)
        until = time.monotonic() + timeout_s
        while child.ready is None:
            self._turn(first=child)
            if self._stopping:
                raise Stopped
            if time.monotonic() >= until:
                raise StartFailed(f"{name} is not ready after {timeout_s:g} s; see {child.log}")
        return child.ready

    def keep(self, name: str, **environment: str) -> None:
        """Give a child's later starts these variables too, such as the port that it took."""
        self._children[name].environment.update(environment)

    def run(self, until: Callable[[], bool] = lambda: False) -> None:
        """Supervise until a signal comes or `until` is true."""
        while not self._stopping and not until():
            self._turn()

    def stop(self) -> None:
        """End all children: TERM, and KILL for those that are left after TERM_S."""
        children = [child for child in self._children.values() if child.process is not None]
        for number, patience_s in ((signal.SIGTERM, TERM_S), (signal.SIGKILL, KILL_S)):
            for child in reversed(children):
                child.signal(number)
            until = time.monotonic() + patience_s
            while any(child.process and child.process.poll() is None for child in children):
                if time.monotonic() >= until:
                    break
                self._listen(0.02)
        # What is left in the sessions of those that have ended (a killed server's workers) goes too.
        for child in children:
            if child.process is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.process.pid, signal.SIGKILL)
        self._selector.close()

    def _launch(self, child: Child) -> None:
        stdout = child.start()
        os.set_blocking(stdout.fileno(), False)
        self._selector.register(stdout, selectors.EVENT_READ, child)

    def _forget(self, stdout: IO[bytes]) -> None:
        """Its descriptor's number is the next child's: what still stood for the closed one would be in its way."""
        with contextlib.suppress(KeyError):  # its end was read already
            self._selector.unregister(stdout)

    def _turn(self, first: Child | None = None) -> None:
        self._listen(LOOK_S)
        for child in self._children.values():
            code = child.ended(self._forget)
            if code is not None and child is first and child.ready is None:
                child.next_wait_s()
                raise StartFailed(
                    f"{child.name} could not start: {child.last_words() or f'exit code {code}'}"
                )
            if code is not None:
                wait_s = child.next_wait_s()
                self._tell(
                    f"{child.name} ended ({cause_of_end(code)}); it starts again in {wait_s:g} s; see {child.log}"
                )
            if (
                child.process is None
                and child.restart_at is not None
                and time.monotonic() >= child.restart_at
            ):
                self._launch(child)
        if time.monotonic() >= self._log_look_at:
            self._log_look_at = time.monotonic() + LOG_LOOK_S
            for child in self._children.values():
                bound_log(child.log)

    def _listen(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            piece = os.read(key.fd, 65_536)
            child: Child = key.data
            if piece:
                child.heard(piece)
            else:
                self._selector.unregister(key.fileobj)


def bound_log(path: Path) -> None:
    """Keep a log below LOG_BYTES_MAX: its content goes to `.1`. Writers append, so they go on at the start."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.with_name(path.name + ".1").write_bytes(path.read_bytes())
            os.truncate(path, 0)
