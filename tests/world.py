"""Real processes for tests: hubs, sidecars, web processes, commands; each with a home and free ports of its own.

Everything that a `World` starts is ended by it, by process id, and looked for afterwards. Waiting is polling with
a deadline; nothing sleeps for a guessed time.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from agentcom.client import Client
from agentcom.config import Home

T = TypeVar("T")
START_S_MAX = 30.0
ROOT = Path(__file__).resolve().parent.parent
QUICK = {
    "AGENTCOM_HUB_PORT": "0",
    "AGENTCOM_HUB_FEED_PORT": "0",
    "AGENTCOM_HTTP_PORT": "0",
    "AGENTCOM_ENDPOINTS_DISCOVER": "http://127.0.0.1:9",
    "AGENTCOM_ENDPOINTS_PROBE_EVERY_S": "0.5",
    "AGENTCOM_QUEUE_HEARTBEAT_S": "0.5",
    "AGENTCOM_QUEUE_LEASE_S": "4",
    "AGENTCOM_QUEUE_OFFLINE_S": "2",
    "AGENTCOM_QUEUE_BACKOFF_S": "0.2",
    "AGENTCOM_QUEUE_BACKOFF_MAX_S": "0.4",
    "AGENTCOM_QUEUE_PARK_S": "1",
    # Commands leave marks in the test's own directory, where an isolated one sees nothing.
    "AGENTCOM_SANDBOX_MODE": "off",
}


def eventually(what: str, check: Callable[[], T | None], seconds: float = 20.0) -> T:
    """The first true value of `check`; fails with `what` when the deadline passes."""
    deadline = time.monotonic() + seconds
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def clean_environment(home: Path, extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without settings and keys of its user, for the home given."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AGENTCOM_", "ANTHROPIC_"))}
    paths = [str(ROOT), str(ROOT / "sidecar"), str(ROOT / "web")]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "AGENTCOM_HOME": str(home), **QUICK, **(extra or {})}


@dataclass
class Daemon:
    """A started process and its ready line."""

    process: subprocess.Popen[bytes]
    ready: dict[str, Any]
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """As a power cut of the process: SIGKILL, and wait for it."""
        self.process.kill()
        self.process.wait(10)

    def stop(self, seconds: float = 10.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def text(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass
class World:
    """Homes and processes of one test."""

    folder: Path
    daemons: list[Daemon] = field(default_factory=list)
    clients: list[Client] = field(default_factory=list)

    def home(self, name: str) -> Path:
        return self.folder / name

    def start(self, name: str, *arguments: str, **environment: str) -> Daemon:
        """Start `agentcom ARGUMENTS` on the home `name` and wait for its ready line."""
        return self.start_module(name, "agentcom.cli", *arguments, **environment)

    def start_module(self, name: str, module: str, *arguments: str, **environment: str) -> Daemon:
        """Start `python -m MODULE ARGUMENTS` on the home `name` and wait for its ready line."""
        told = arguments or (module.rpartition(".")[2],)
        log = self.folder / f"{name}-{told[0]}-{len(self.daemons)}.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=clean_environment(self.home(name), environment),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        daemon = Daemon(process, {}, log)
        self.daemons.append(daemon)
        daemon.ready = self._ready(daemon, told)
        return daemon

    def hub(self, name: str = "hub", **environment: str) -> Daemon:
        return self.start(name, "hub", **environment)

    def sidecar(self, name: str, **environment: str) -> Daemon:
        return self.start(name, "sidecar", **environment)

    def join(self, name: str, hub: str = "hub", role: str = "host") -> None:
        """Join the home `name` to the hub's, by the commands that people use."""
        made = self.run(hub, "host", "invite", "--role", role, "--name", name, "--json")
        code = json.loads(made.stdout)["code"]
        joined = self.run(name, "join", code)
        assert joined.returncode == 0, joined.stderr

    def run(
        self, name: str, *arguments: str, text_in: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end."""
        return subprocess.run(
            [sys.executable, "-m", "agentcom.cli", *arguments],
            env=clean_environment(self.home(name), environment),
            cwd=self.folder,
            input=text_in,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )

    def json(self, name: str, *arguments: str, **environment: str) -> Any:
        """The one JSON document that a command prints; the command must end well."""
        done = self.run(name, *arguments, "--json", **environment)
        assert done.returncode == 0, f"{arguments}: {done.returncode}\n{done.stderr}"
        return json.loads(done.stdout)

    def client(self, name: str = "hub") -> Client:
        client = Client.connect(Home(self.home(name)), timeout_s=10)
        self.clients.append(client)
        return client

    def close(self) -> None:
        for client in self.clients:
            client.close()
        tree = [p for d in self.daemons for p in _tree(d.pid)]
        for daemon in reversed(self.daemons):
            if daemon.process.poll() is None:
                daemon.process.send_signal(signal.SIGTERM)
        for daemon in self.daemons:
            try:
                daemon.process.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
            assert daemon.process.stdout is not None
            daemon.process.stdout.close()
        _, alive = psutil.wait_procs(tree, timeout=5)
        left = [f"{p.pid} {' '.join(p.cmdline())}" for p in alive if p.is_running() and p.status() != "zombie"]
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        assert not left, f"left behind: {left}"

    def _ready(self, daemon: Daemon, arguments: tuple[str, ...]) -> dict[str, Any]:
        assert daemon.process.stdout is not None
        deadline = time.monotonic() + START_S_MAX
        os.set_blocking(daemon.process.stdout.fileno(), False)
        line = b""
        while not line.endswith(b"\n"):
            line += daemon.process.stdout.readline() or b""
            ended = daemon.process.poll()
            assert ended is None, f"{arguments} ended with {ended}:\n{daemon.text()[-3000:]}"
            assert time.monotonic() < deadline, f"{arguments} was not ready:\n{daemon.text()[-3000:]}"
            if not line.endswith(b"\n"):
                time.sleep(0.02)
        return dict(json.loads(line))


def _tree(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextlib.contextmanager
def world(folder: Path) -> Iterator[World]:
    made = World(folder)
    try:
        yield made
    finally:
        made.close()


def processes_with(mark: str) -> list[int]:
    """Ids of the processes whose command line contains `mark`, zombies not counted."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline", "status"]):
        if process.info["status"] != "zombie" and any(mark in part for part in process.info["cmdline"] or []):
            found.append(process.info["pid"])
    return found


def make_repository(path: Path, files: Mapping[str, str]) -> str:
    """A real repository with one commit on `main`; returns the commit."""
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(content)
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.invalid"]
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *arguments], cwd=path, check=True, capture_output=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=path, check=True, capture_output=True, text=True)
    return head.stdout.strip()
