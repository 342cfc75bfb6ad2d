"""How a child of ours is started, and its tie to who started it: when that one dies, the child gets SIGTERM.

The supervisor puts its process id into the child's environment; the child asks the kernel for the signal
itself, early, so that nothing has to run between fork and exec. The kernel watches the thread that started
the child: supervisors start children from their main thread only.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import MutableMapping

PARENT_PID_VARIABLE = "AGENTCOM_PARENT_PID"
_PR_SET_PDEATHSIG = 1


def own_command(module: str, *arguments: str) -> list[str]:
    """`python -m MODULE ARGUMENTS` in this Python, for a child. -P: a `msgspec.py` that happens to lie in the working
    directory is not to be run in the place of ours."""
    return [sys.executable, "-P", "-m", module, *arguments]


def cause_of_end(status: int) -> str:
    """Of a child, by what `subprocess` has as its return code: `exit code 1`, `SIGKILL`."""
    if status >= 0:
        return f"exit code {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def follow_parent(environment: MutableMapping[str, str] | None = None) -> bool:
    """End with the process named in AGENTCOM_PARENT_PID; True if there is one to follow.

    The variable is taken out of the environment, so that grandchildren do not follow a process that is not
    their parent. If the parent is already gone SIGTERM is raised at once.
    """
    environ = os.environ if environment is None else environment
    text = environ.pop(PARENT_PID_VARIABLE, "")
    if not text.isdecimal():
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    # The parent may have died before the call above: then no signal ever comes.
    if os.getppid() != int(text):
        signal.raise_signal(signal.SIGTERM)
    return True
