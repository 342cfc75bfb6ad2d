"""Picks the guard of a command: the compiled one (_guard.c) where it was built, else its twin in Python (guard.py).

Both do the same, so the choice changes the time to start only: a Python takes longer to come up than bubblewrap does.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final, Literal

from agentcom_sidecar import guard

COMPILED: Path | None = Path(__file__).with_name("_guard.bin")  # None: the twin; for tests
PLACE: Final = "/run/agentcom/guard"  # inside


def program() -> Path:
    """The guard's file on this machine."""
    return COMPILED if COMPILED is not None and os.access(COMPILED, os.X_OK) else Path(guard.__file__)


def kind() -> Literal["compiled", "python"]:
    return "python" if program().suffix == ".py" else "compiled"


def command(status_fd: int, job_fd: int, *, is_isolated: bool) -> list[str]:
    """The guard's command line, here or as it is seen inside. It inherits the descriptors."""
    file = PLACE if is_isolated else str(program())
    if kind() == "compiled":
        return [file, str(status_fd), str(job_fd)]
    python = os.path.realpath(sys.executable) if is_isolated else sys.executable
    return [python, "-I", "-S", file, str(status_fd), str(job_fd)]
