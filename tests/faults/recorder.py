"""Every change that a program makes to the files of a folder, in order: the shim, compiled and preloaded."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("shim.c")
_HEAD = struct.Struct("=IIqqII")


class Kind(IntEnum):
    """As in shim.c."""

    WRITE = 1
    SYNC = 2
    CUT = 3
    RENAME = 4
    UNLINK = 5
    CREATE = 6
    SYNC_FOLDER = 7


class Change(NamedTuple):
    """One call. `content` is what was written, or the new name of a rename; `offset` the new length of a cut;
    `is_synchronous` says that a write was durable when it returned."""

    kind: Kind
    path: str
    offset: int
    content: bytes
    is_synchronous: bool


def compile_shim(folder: Path) -> Path:
    """The shared object to preload. Fails with what is missing where it cannot be made: then nothing is tried."""
    shim = folder / "shim.so"
    command = ["cc", "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(shim), str(SOURCE), "-ldl"]
    try:
        made = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise AssertionError("the fault rig needs a C compiler named cc for its shim; install gcc") from error
    assert made.returncode == 0, f"the shim of the fault rig does not compile:\n{made.stderr}"
    return shim


def watching(
    shim: Path,
    watched: Path,
    *,
    log: Path | None = None,
    fail: str = "",
    gate: Path | None = None,
    room: Path | None = None,
) -> dict[str, str]:
    """The environment in which a program runs under the shim; see shim.c. On the sources: watched_hub.py puts itself
    between modules, and compiled ones call each other past it."""
    sources = {"AGENTCOM_CORE": "python", "PYTHONDONTWRITEBYTECODE": "1"}
    environment = sources | {"LD_PRELOAD": str(shim), "SHIM_FOLDER": str(watched)}
    given = {"SHIM_LOG": log, "SHIM_FAIL": fail or None, "SHIM_WHILE": gate, "SHIM_ROOM": room}
    return environment | {name: str(value) for name, value in given.items() if value is not None}


def run_watched(
    shim: Path, watched: Path, module: str, *arguments: object, log: Path | None = None, fail: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a module of ours to its end under the shim."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **watching(shim, watched, log=log, fail=fail)}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


def read_log(log: Path) -> Iterator[Change]:
    content = log.read_bytes()
    position = 0
    while position < len(content):
        kind, flags, offset, size, path_size, _ = _HEAD.unpack_from(content, position)
        position += _HEAD.size
        path = content[position : position + path_size].decode()
        position += path_size
        kept = size if kind in (Kind.WRITE, Kind.RENAME) else 0
        yield Change(Kind(kind), path, offset, content[position : position + kept], bool(flags & 1))
        position += kept
