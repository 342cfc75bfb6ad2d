"""What every benchmark says beside its figures: the machine, the versions, the commit. And its table."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

from agentcom import compiled, sched

LIBRARIES: Final = ("pyzmq", "lmdb", "msgspec")
UNKNOWN: Final = "unknown"
GIT_S_MAX: Final = 10
ROOT: Final = Path(__file__).resolve().parent.parent


def machine() -> str:
    """One line: processor, usable cores, system, Python, and the versions of what decides the speed."""
    libraries = ", ".join(f"{name} {_version(name)}" for name in LIBRARIES)
    system = f"{platform.system()} {platform.release()}"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    parts = f"scheduler {sched.IMPLEMENTATION}, core {compiled.IMPLEMENTATION}"
    return f"{_processor()}, {_cores()} cores, {system}, {python}, {libraries}, {parts}"


def commit() -> str:
    """The commit of this checkout, with `-dirty` when files differ from it; `unknown` outside of one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--match="]
    try:
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=GIT_S_MAX)
    except (OSError, subprocess.TimeoutExpired):
        return UNKNOWN
    return answer.stdout.strip() or UNKNOWN


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Aligned columns: text to the left, numbers to the right with thousands marked."""
    cells = [[str(each) for each in head], *([_cell(each) for each in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(head))]
    is_text = [all(isinstance(row[at], str) for row in rows) for at in range(len(head))]
    lines = [
        "  ".join(
            text.ljust(width) if left else text.rjust(width)
            for text, width, left in zip(row, widths, is_text, strict=True)
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cell(figure: object) -> str:
    if isinstance(figure, bool) or not isinstance(figure, int | float):
        return "-" if figure is None else str(figure)
    if isinstance(figure, int):
        return f"{figure:,}"
    return f"{figure:,.0f}" if abs(figure) >= 1000 else f"{figure:,.3g}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine() or UNKNOWN


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
