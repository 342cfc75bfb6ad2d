"""How often a process makes the disk keep what was written, counted from outside with strace.

A flush is a call of fdatasync, fsync, msync or sync_file_range, and a write to a file that was opened with
O_DSYNC or O_SYNC: LMDB writes its head that way, so that the calls by name are only half of the truth.
Tracing slows a process down, which makes its batches larger: the count only shows whether there are as many as by
design, and those of turns without it are counted in the hub's own files.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

FLUSHES_BY_NAME: Final = ("fdatasync", "fsync", "msync", "sync_file_range")
WRITES: Final = ("pwrite64", "pwritev", "write", "writev")
STOP_S_MAX: Final = 5
_CALL: Final = re.compile(r"^(?:\d+ +)?(\w+)\((\d+)")


class Flushes:
    """A count that is there after the `with` of `flushes_of`."""

    def __init__(self) -> None:
        self.count = 0


def available() -> bool:
    """Whether strace is here and may look at other processes."""
    program = shutil.which("strace")
    if program is None:
        return False
    return subprocess.run([program, "-o", os.devnull, "true"], capture_output=True).returncode == 0


@contextlib.contextmanager
def flushes_of(pid: int, folder: Path) -> Iterator[Flushes]:
    """Count those of all threads of `pid` while the body runs. RuntimeError when it may not be traced."""
    found = Flushes()
    log = folder / f"strace-{pid}.log"
    names = ",".join((*FLUSHES_BY_NAME, *WRITES))
    tracer = subprocess.Popen(
        ["strace", "-f", "-e", f"trace={names}", "-o", str(log), "-p", str(pid)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    try:
        said = tracer.stderr.readline()
        if "attached" not in said:
            raise RuntimeError(f"strace cannot look at process {pid}: {said.strip()}")
        yield found
    finally:
        tracer.send_signal(signal.SIGINT)  # leaves the process as it is
        try:
            tracer.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            tracer.kill()
            tracer.wait()
        tracer.stderr.close()
    synced = synced_files(pid)
    with log.open(errors="replace") as lines:
        found.count = sum(is_flush(line, synced) for line in lines)
    log.unlink()


def is_flush(line: str, synced: frozenset[int]) -> bool:
    """Whether one line of strace is a flush; `synced`: the descriptors to which every write is one."""
    call = _CALL.match(line)
    if call is None:  # the second half of a call that another thread cut in two, or a signal
        return False
    return call[1] in FLUSHES_BY_NAME or int(call[2]) in synced


def synced_files(pid: int) -> frozenset[int]:
    """The process's descriptors that were opened with O_DSYNC or O_SYNC (which contains it)."""
    found = set()
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            flags = re.search(r"^flags:\s*([0-7]+)", entry.read_text(), re.MULTILINE)
            if flags is not None and int(flags[1], 8) & os.O_DSYNC:
                found.add(int(entry.name))
    return frozenset(found)
