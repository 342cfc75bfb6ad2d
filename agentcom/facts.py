"""Which capabilities are facts of a machine: what its sidecar found of them counts, whatever its owner declares.

A declared word may add what the sidecar cannot find (`docker`, `zone=eu`, another version of a tool). It never says
other than what was found: `cpus=64` on a machine with 16 would bring it tasks that it cannot run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

SINGLE: Final = ("os:", "arch:")  # a machine has one of each
MEASURED: Final = frozenset({"cpus", "ram_gib", "gpus", "vram_gib"})


def overruled(declared: Iterable[str], found: Iterable[str]) -> tuple[str, ...]:
    """Those of the declared words that say of a fact what was not found, each once."""
    found = frozenset(found)
    facts = {_fact(word) for word in found} - {""}
    if not facts:
        return ()
    return tuple(word for word in dict.fromkeys(declared) if _fact(word) in facts and word not in found)


def _fact(word: str) -> str:
    """The fact that a word is about; empty for none."""
    for kind in SINGLE:
        if word.startswith(kind):
            return kind
    name, is_valued, _ = word.partition("=")
    return name if is_valued and name in MEASURED else ""
