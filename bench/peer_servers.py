"""The servers that other queues stand on, started here on free loopback ports with folders of their own, and gone
with the run. The programs are those of the system's packages; which are missing is told, not an error.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Final, NamedTuple

from bench.stage import end

START_S_MAX: Final = 10
PACKAGE_FOLDERS: Final = "/usr/sbin:/usr/local/sbin"  # where Debian puts servers; not on everybody's path
_PR_SET_PDEATHSIG: Final = 1


class Server(NamedTuple):
    """`command`: from port and folder. `version`: the arguments with which the program says its own."""

    program: str
    command: Callable[[str, int, Path], list[str]]
    version: tuple[str, ...]


def _redis(program: str, port: int, folder: Path) -> list[str]:
    plain = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(folder), "--save", ""]
    return [program, *plain, "--appendonly", "yes", "--appendfsync", "always"]


def _beanstalkd(program: str, port: int, folder: Path) -> list[str]:
    return [program, "-l", "127.0.0.1", "-p", str(port), "-b", str(folder), "-f0"]


def _nats(program: str, port: int, folder: Path) -> list[str]:
    return [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)]


SERVERS: Final = {
    "redis": Server("redis-server", _redis, ("--version",)),
    "beanstalkd": Server("beanstalkd", _beanstalkd, ("-v",)),
    "nats": Server("nats-server", _nats, ("--version",)),
}


def program_of(server: str) -> str | None:
    program = SERVERS[server].program
    return shutil.which(program) or shutil.which(program, path=PACKAGE_FOLDERS)


def why_missing(server: str | None, library: str | None) -> str:
    """What is to be installed before a peer can be measured; empty when all is here."""
    if server is not None and program_of(server) is None:
        program = SERVERS[server].program
        return f"no {program} here: install the system's package {program}"
    if library is not None and find_spec(library) is None:
        return f"no {library} here: pip install -e '.[peers]'"
    return ""


def version_of(server: str) -> str:
    """What the program says of itself, in one line."""
    program = program_of(server)
    assert program is not None, f"{server} is missing"
    said = subprocess.run([program, *SERVERS[server].version], capture_output=True, text=True)
    return (said.stdout or said.stderr).strip().splitlines()[0]


def start(server: str, folder: Path, stack: contextlib.ExitStack) -> int:
    """The port on which it answers; it ends with `stack`, or with this process."""
    program = program_of(server)
    assert program is not None, f"{server} is missing"
    place = folder / server
    place.mkdir()
    port = free_port()
    libc = ctypes.CDLL(None)
    with (folder / f"{server}.log").open("wb") as log:
        process = subprocess.Popen(
            SERVERS[server].command(program, port, place),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )
    stack.callback(end, process)
    until = time.monotonic() + START_S_MAX
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return port
        time.sleep(0.02)
    raise RuntimeError(
        f"{server} did not answer on port {port}: {(folder / f'{server}.log').read_text()[-2000:]}"
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
