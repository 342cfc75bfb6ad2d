"""Picks the scheduler: the compiled one where it was built, else its twin in Python.

Both give the same answers, so the choice changes speed only. `AGENTCOM_SCHED=python` forces the twin.
The hub logs `IMPLEMENTATION` and `why_python` at its start.
"""

import os
from collections.abc import Callable
from typing import Final, Literal, cast

from agentcom import _pysched

SETTING: Final = "AGENTCOM_SCHED"

make_scheduler: Callable[[], _pysched.Scheduler] = _pysched.Scheduler
IMPLEMENTATION: Literal["cython", "python"] = "python"
# Why the twin is in use: the error of the import, or the setting that asked for it; None when compiled.
why_python: str | None = None

if os.environ.get(SETTING) == "python":
    why_python = f"{SETTING}=python"
else:
    try:
        from agentcom._fastsched import Scheduler
    except ImportError as error:  # not built here, or from an older source
        why_python = str(error)
    else:
        make_scheduler = cast(Callable[[], _pysched.Scheduler], Scheduler)
        IMPLEMENTATION = "cython"
