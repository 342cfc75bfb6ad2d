"""Which capabilities are facts of a machine: what its sidecar found of them counts, whatever its owner declares.

A declared word may add what the sidecar cannot find (`docker`, `zone=eu`, another version of a tool). It never says
other than what was found: `cpus=64` on a machine with 16 would bring it tasks that it cannot run. A comparison is what
a task needs, and no capability: `cpus>64`, once declared, would be the very word that is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

SINGLE: Final = ("os:", "arch:")  # a machine has one of each
MEASURED: Final = frozenset({"cpus", "ram_gib", "gpus", "vram_gib"})

_COMPARISON = re.compile(r"[<>]=?\s*v?\d")


def overruled(declared: Iterable[str], found: Iterable[str]) -> tuple[str, ...]:
    """Those of the declared words that count for nothing, each once: comparisons, and what says of a fact what was not
    found."""
    found = frozenset(found)
    facts = {_fact(word) for word in found} - {""}
    return tuple(
        word
        for word in dict.fromkeys(declared)
        if is_comparison(word) or (_fact(word) in facts and word not in found)
    )


def is_comparison(word: str) -> bool:
    """Whether it says what a task needs, with `<`, `>`, `<=` or `>=`."""
    return _COMPARISON.search(word) is not None


def is_of_machine(name: str) -> bool:
    """Whether a capability of this name is a fact, which sidecars find by themselves."""
    return name in MEASURED or name.startswith(SINGLE)


def _fact(word: str) -> str:
    """The fact that a word is about; empty for none."""
    word = word.strip()
    for kind in SINGLE:
        if word.startswith(kind):
            return kind
    name, is_valued, _ = word.partition("=")
    name = name.rstrip()
    return name if is_valued and name in MEASURED else ""
