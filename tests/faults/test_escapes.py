"""I18: every case of escapes.py runs for real through the door; whether it got out is seen from outside.

With isolation off most of those that may run so do get out: that shows that the cases bite.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentcom_sidecar import guard
from agentcom_sidecar.command import CommandLimits, SandboxMode
from agentcom_sidecar.sandbox import CommandResult, CommandSpec, run_command
from tests.faults.escapes import CASES, OUT, Case
from tests.isolating import need_isolation

CASES_MIN = 60
BITES_MIN = 40  # of those that may run without isolation, at least so many get out on every machine
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
CALL_S = 0.05
LEFT_S_MAX = 5.0


class Scene:
    """What lies outside of a command, and what it looked like before."""

    def __init__(self, folder: Path) -> None:
        self.secret = f"canary-{secrets.token_hex(12)}"
        self.mark, self.left = (f"9{secrets.randbelow(10**9)}.{n}" for n in (1, 2))
        self.place = folder / "work" / "1-1"
        self.home = folder / "scratch" / "1-1"
        self.outside, self.other, self.state = folder / "outside", folder / "work" / "2-1", folder / "state"
        for each in (self.place, self.home, self.outside, self.other):
            each.mkdir(parents=True)
        for path in ("keys/host.key", "store/data.mdb", "run/token", "config.toml"):
            (self.state / path).parent.mkdir(parents=True, exist_ok=True)
            (self.state / path).write_text(self.secret)
        for path in (
            self.outside / "secret",
            self.outside / self.secret,
            self.outside / "kept",
            self.other / "secret",
        ):
            path.write_text(self.secret)
        self.name = f"agentcom-{secrets.token_hex(6)}"
        self.shared = Path("/dev/shm", self.name)
        self.shared.write_text(self.secret)
        self.victim = subprocess.Popen(["sleep", self.mark])
        self.listeners = [socket.create_server(("127.0.0.1", 0)), *self._unix_listeners(folder)]
        self.before = self._fingerprint()
        self.core_pattern = CORE_PATTERN.read_text()
        self.host_name = socket.gethostname()

    def _unix_listeners(self, folder: Path) -> Iterator[socket.socket]:
        for address in (str(folder / "outside" / "socket"), f"\0{self.name}"):
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(address)
            listener.listen()
            yield listener

    def environment(self) -> dict[str, str]:
        return {
            "SECRET": str(self.outside / "secret"),
            "OUTSIDE": str(self.outside),
            "OTHER": str(self.other),
            "STATE": str(self.state),
            "PLACE": str(self.place),
            "VICTIM": str(self.victim.pid),
            "DOOR": str(os.getpid()),
            "PORT": str(self.listeners[0].getsockname()[1]),
            "SOCKET": str(self.outside / "socket"),
            "NAME": self.name,
            "MARK": self.mark,
            "LEFT": self.left,
            "PYTHON": sys.executable,
            "PREFIX": sys.base_prefix,
            "VENV": sys.prefix,
        }

    def run(self, case: Case, mode: SandboxMode) -> CommandResult:
        spec = CommandSpec(
            argv=("sh", "-c", case.text),
            cwd=self.place,
            home=self.home,
            timeout_s=case.timeout_s,
            env=self.environment(),
            limits=CommandLimits(**dict(case.limits)),
            grace_s=0.2,
            mode=mode,
        )
        return asyncio.run(run_command(spec))

    def escaped(self, result: CommandResult) -> list[str]:
        """How it got out, by what is seen here."""
        seen = {
            "it read the secret": self.secret.encode() in result.output,
            "it said so": OUT.encode() in result.output,
            "files outside have changed": self._fingerprint() != self.before,
            "its worktree is another": not self.place.is_dir() or self.place.is_symlink(),
            "the victim is dead": self.victim.poll() is not None,
            "a listener was called": any(map(self._was_called, self.listeners)),
            "a process is left": self._is_left(),
            "the kernel's settings have changed": CORE_PATTERN.read_text() != self.core_pattern,
            "the host has another name": socket.gethostname() != self.host_name,
        }
        return [how for how, is_so in seen.items() if is_so]

    def _fingerprint(self) -> list[tuple[str, int, int, bytes]]:
        found = []
        for root in (self.outside, self.other, self.state):
            for path in sorted(root.rglob("*")):
                status = path.lstat()
                content = path.read_bytes() if path.is_file() else b""
                found.append((str(path), status.st_mode, status.st_nlink, content))
        return found

    @staticmethod
    def _was_called(listener: socket.socket) -> bool:
        listener.settimeout(CALL_S)
        try:
            listener.accept()[0].close()
        except TimeoutError:
            return False
        return True

    def _is_left(self) -> bool:
        """Whether a process of the command is left, when what has just been killed has had time to go."""
        give_up_at = time.monotonic() + LEFT_S_MAX
        while any(
            self.left.encode() in _command_line(each.pid) for each in guard.processes().values() if each.runs
        ):
            if time.monotonic() > give_up_at:
                return True
            time.sleep(0.02)
        return False

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        self.shared.unlink(missing_ok=True)
        for listener in self.listeners:
            listener.close()
        if CORE_PATTERN.read_text() != self.core_pattern:
            CORE_PATTERN.write_text(self.core_pattern)


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Scene(tmp_path)
    monkeypatch.setenv("CANARY_API_KEY", made.secret)
    _remember(made.secret)
    with (made.outside / "secret").open("rb") as held:
        os.set_inheritable(held.fileno(), True)
        yield made
    made.close()


def _remember(secret: str) -> None:
    """Puts the secret into this process's session key ring, where the kernel has one."""
    if os.uname().machine == "x86_64":
        add_key = 248
        text = secret.encode()
        ctypes.CDLL(None).syscall(add_key, b"user", b"agentcom-test", text, len(text), -3)


def test_i18_the_list_has_sixty_cases_or_more_and_each_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= CASES_MIN


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_i18_no_isolated_command_gets_out(case: Case, scene: Scene) -> None:
    need_isolation()
    result = scene.run(case, "require")
    assert result.sandbox == "bubblewrap"
    assert (scene.escaped(result), result.unkilled) == ([], 0), result.output.decode(errors="replace")


def test_i18_the_cases_bite_where_nothing_isolates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    harmless = [case for case in CASES if not case.harms]
    got_out = []
    for number, case in enumerate(harmless):
        made = Scene(tmp_path / str(number))
        monkeypatch.setenv("CANARY_API_KEY", made.secret)
        _remember(made.secret)
        try:
            if made.escaped(made.run(case, "off")):
                got_out.append(case.name)
        finally:
            made.close()
            shutil.rmtree(tmp_path / str(number), ignore_errors=True)
    held = sorted({case.name for case in harmless} - set(got_out))
    print(
        f"\nescapes: {len(CASES)} cases; without isolation {len(got_out)} of {len(harmless)} get out; not: {held}"
    )
    record_property("cases", len(CASES))
    assert len(got_out) >= BITES_MIN, held


def test_i21_no_canary_is_in_anything_that_an_isolated_command_can_read(scene: Scene) -> None:
    """Everything but the system's programs and Python is searched: files, variables, command lines."""
    need_isolation()
    (scene.place / "own").write_text(scene.secret)
    everywhere = (
        "roots=/dev/shm; for root in /*; do "
        '  case $root in /usr|/bin|/sbin|/lib*|/nix|/gnu|/proc|/dev) ;; *) roots="$roots $root" ;; esac; '
        "done; "
        'find $roots \\( -path "$PREFIX" -o -path "$VENV" \\) -prune -o -type f -exec grep -l "canar[y]-" "{}" +; '
        'for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do tr "\\0" "\\n" < $file | grep "canar[y]-"; done; '
        "for fd in /proc/self/fd/*; do readlink $fd; done"
    )
    result = scene.run(Case("search", everywhere, timeout_s=60.0), "require")
    assert str(scene.place / "own") in result.output.decode().splitlines(), result  # it finds what is there
    assert result.output.count(b"canary-") == 0
    assert scene.secret.encode() not in result.output
    assert str(scene.outside).encode() not in result.output
