"""Picks the scheduling core: the compiled one where it was built, else its twin in Python.

Both give the same answers, so the choice changes speed only. `AGENTCOM_SCHED=python` forces the twin.
The hub logs `IMPLEMENTATION` and `why_python` at its start.
"""

import os
from collections.abc import Callable
from typing import Final, Literal, cast

from agentcom import _pyboard, _pysched

SETTING: Final = "AGENTCOM_SCHED"

assign = _pysched.assign
make_scheduler: Callable[[], _pyboard.Scheduler] = _pyboard.Scheduler
IMPLEMENTATION: Literal["cython", "python"] = "python"
# Why the twin is in use: the error of the import, or the setting that asked for it; None when compiled.
why_python: str | None = None

if os.environ.get(SETTING) == "python":
    why_python = f"{SETTING}=python"
else:
    try:
        from agentcom import _fastboard, _fastsched
    except ImportError as error:
        why_python = str(error)
    else:
        assign = _fastsched.assign
        make_scheduler = cast(Callable[[], _pyboard.Scheduler], _fastboard.Scheduler)
        IMPLEMENTATION = "cython"
