"""How tasks name agent programs (Claude Code, Codex and others that work by themselves): as a need, `program:NAME`."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

PREFIX: Final = "program:"
_NAMED = re.compile(r"\s*program:\s*([a-z0-9][a-z0-9._-]{0,39})\s*(?:[<>=].*)?", re.DOTALL)


@lru_cache(maxsize=1024)
def program_of(needs: tuple[str, ...]) -> str:
    """The program that a task is for, by its needs; empty where it names none. Of several the first."""
    for need in needs:
        if PREFIX in need and (found := _NAMED.fullmatch(need)) is not None:
            return found[1]
    return ""
