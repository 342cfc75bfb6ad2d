"""The usual test command of a repository, told by its files: pytest, npm, cargo, go, make, in this order.

Of an attempt it is that of the base, if the base has one: else a first test for another runner would take the place of
those that are there.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from agentcom import limits
from agentcom_sidecar.agentic import confined
from agentcom_sidecar.workspace import Workspace

MANIFEST_BYTES_MAX = limits.MIB
LISTED_MAX = 5000  # entries of a directory looked at for test files
MAKEFILES: Final = ("GNUmakefile", "makefile", "Makefile")
MARKERS: Final[tuple[str, ...]] = (
    "pytest.ini", "conftest.py", "pyproject.toml", "setup.cfg", "package.json", "Cargo.toml", "go.mod", *MAKEFILES,
)  # fmt: skip
TEST_FOLDERS: Final = ("tests", "test")
PYTHON_TESTS = re.compile(r"^(test_.*|.*_test)\.py$")
MAKE_TARGET = re.compile(r"^(test|check)\s*:(?!=)", re.MULTILINE)


def found_command(root: Path) -> str | None:
    """That of what lies in `root`."""
    found = {name: confined.read(root, name, MANIFEST_BYTES_MAX) for name in MARKERS}
    folders = (root, *(root / name for name in TEST_FOLDERS))
    names = (name for folder in folders for name in _names_in(folder))
    return _command_of({name: raw for name, raw in found.items() if raw is not None}, names)


async def command_at_base(place: Workspace) -> str | None:
    """That of the commit from which the work started, whatever lies in its directory by now."""
    listing = ("ls-tree", "-z", "--name-only", place.base_commit)
    at_root = (await place.git_in(*listing)).split("\0")
    below = (await place.git_in(*listing, "--", *(f"{name}/" for name in TEST_FOLDERS))).split("\0")
    texts = {name: await place.base_content(name) for name in MARKERS if name in at_root}
    return _command_of(texts, (path.rpartition("/")[2] for path in (*at_root, *below)))


def _command_of(raw: Mapping[str, bytes], names: Iterable[str]) -> str | None:
    """By the content of the markers that are there, and the names at the root and in the folders of tests."""
    texts = {name: content.decode("utf-8", "replace") for name, content in raw.items()}
    if _is_configured_for_pytest(texts) or any(map(PYTHON_TESTS.match, names)):
        return _python_command()
    if _has_npm_script(texts.get("package.json", "null")):
        return "npm test"
    if "Cargo.toml" in texts:
        return "cargo test"
    if "go.mod" in texts:
        return "go test -v ./..."  # without -v go counts nothing
    targets = (MAKE_TARGET.search(texts.get(name, "")) for name in MAKEFILES)
    return next((f"make {target[1]}" for target in targets if target), None)


def _names_in(folder: Path) -> list[str]:
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [entry.name for entry, _ in zip(folder.iterdir(), range(LISTED_MAX), strict=False)]


def _is_configured_for_pytest(texts: Mapping[str, str]) -> bool:
    if "pytest.ini" in texts or "conftest.py" in texts:
        return True
    return "[tool.pytest" in texts.get("pyproject.toml", "") or "[tool:pytest]" in texts.get("setup.cfg", "")


def _python_command() -> str:
    """pytest of the command's Python, else that of the sidecar's, else unittest, which every Python has."""
    own = shlex.quote(sys.executable)
    return (
        "if python3 -c 'import pytest' 2>/dev/null; then exec python3 -m pytest -q; "
        f"elif {own} -c 'import pytest' 2>/dev/null; then exec {own} -m pytest -q; "
        "else exec python3 -m unittest discover; fi"
    )


def _has_npm_script(manifest: str) -> bool:
    try:
        script = json.loads(manifest)["scripts"]["test"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return False
    return isinstance(script, str) and "no test specified" not in script
