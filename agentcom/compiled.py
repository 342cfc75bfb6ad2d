"""Picks the core: the compiled one where it was built from these very sources, else the sources themselves.

`python -m agentcom.compile_core` (`make core`) builds it, in `_core` beside this file, with a digest of all that it was
made from. A build of other sources is never loaded: it would be another program than the one that is read. Both give
the same answers, so the choice changes speed only. `AGENTCOM_CORE=python` forces the sources, `AGENTCOM_CORE=compiled`
asks for the build and fails without. This runs before anything else of the package is imported, so it imports nothing
of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Final, Literal

SETTING: Final = "AGENTCOM_CORE"
PACKAGE: Final = Path(__file__).parent
FOLDER: Final = PACKAGE / "_core"
NOTE: Final = "built.json"
SHARED: Final = "agentcom__mypyc"  # the library that all compiled modules are in; one small file each leads to it
SUFFIX: Final = EXTENSION_SUFFIXES[0]

IMPLEMENTATION: Literal["compiled", "python"] = "python"
# Why the sources are in use: nothing was built, or for what it does not count; None when compiled.
why_python: str | None = None


class Finder:
    """Finds the compiled modules before their sources are found."""

    def __init__(self, folder: Path, modules: Sequence[str]) -> None:
        self._files = {name: folder / (name + SUFFIX) for name in (*modules, SHARED)}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        file = self._files.get(fullname)
        return spec_from_file_location(fullname, file) if file is not None else None


def digest(package: Path) -> str:
    """Of all sources that a compiled module may have something of: types and constants of others are built in."""
    import hashlib  # only where there is a build: each start of each command would pay for it

    found = hashlib.blake2b(digest_size=16)
    for folder in (package, package / "core", package / "store"):
        for file in sorted(folder.glob("*.py")):
            content = file.read_bytes()
            found.update(f"{file.name}:{len(content)};".encode())
            found.update(content)
    return found.hexdigest()


def use() -> None:
    """Have the compiled modules imported from now on, if there are any that count."""
    global IMPLEMENTATION, why_python
    asked = os.environ.get(SETTING, "")
    if asked == "python":
        why_python = f"{SETTING}=python"
        return
    modules, why_python = built(FOLDER)
    if modules:
        sys.meta_path.insert(0, Finder(FOLDER, modules))
        IMPLEMENTATION = "compiled"
    elif asked == "compiled":
        raise ImportError(f"{SETTING}=compiled: {why_python}")


def built(folder: Path) -> tuple[list[str], str | None]:
    """The modules of a build that counts, or none and why."""
    if not (folder / NOTE).exists():
        return [], "it was not compiled (make core)"
    import json

    try:
        note = json.loads((folder / NOTE).read_text())
        modules, made_from, suffix = list(note["modules"]), note["made_from"], note["suffix"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [], f"{folder / NOTE} cannot be read: {error}"
    if suffix != SUFFIX:
        return [], f"it was compiled for another Python ({suffix})"
    if made_from != digest(PACKAGE):
        return [], "it was compiled from other sources (make core)"
    missing = [name for name in (*modules, SHARED) if not (folder / (name + SUFFIX)).is_file()]
    return ([], f"{missing[0]} is missing") if missing else (modules, None)
