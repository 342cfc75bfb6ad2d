"""Which core is imported: a build of these very sources, or the sources."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentcom import compile_core, compiled
from agentcom.compiled import SUFFIX


def note(folder: Path, **changed: object) -> Path:
    """A build that counts, but for what is changed."""
    folder.mkdir(exist_ok=True)
    said = {"modules": ["agentcom.core.hub"], "made_from": compiled.digest(compiled.PACKAGE), "suffix": SUFFIX}
    (folder / compiled.NOTE).write_text(json.dumps(said | changed))
    for name in ("agentcom.core.hub", compiled.SHARED):
        (folder / (name + SUFFIX)).write_bytes(b"")
    return folder


def test_a_build_of_these_sources_counts(tmp_path: Path) -> None:
    assert compiled.built(note(tmp_path)) == (["agentcom.core.hub"], None)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"made_from": "0" * 32}, "other sources"),
        ({"suffix": ".cpython-39-other.so"}, "another Python"),
        ({"modules": ["agentcom.core.hub", "agentcom.core.gone"]}, "agentcom.core.gone is missing"),
        ({"modules": None}, "cannot be read"),
    ],
)
def test_any_other_build_does_not_and_why_is_said(
    tmp_path: Path, changed: dict[str, object], why: str
) -> None:
    modules, said = compiled.built(note(tmp_path, **changed))
    assert (modules, why in str(said)) == ([], True)


def test_where_nothing_was_built_the_sources_are_imported(tmp_path: Path) -> None:
    assert compiled.built(tmp_path) == ([], "it was not compiled (make core)")


def test_a_changed_source_changes_the_digest(tmp_path: Path) -> None:
    for name in ("core", "store"):
        (tmp_path / name).mkdir()
    (tmp_path / "core" / "hub.py").write_text("A = 1\n")
    before = compiled.digest(tmp_path)
    (tmp_path / "core" / "hub.py").write_text("A = 2\n")
    assert compiled.digest(tmp_path) != before


def test_the_finder_knows_the_modules_of_the_build_and_no_others(tmp_path: Path) -> None:
    finder = compiled.Finder(tmp_path, ["agentcom.core.hub"])
    spec = finder.find_spec("agentcom.core.hub", None)
    assert spec is not None
    assert spec.origin == str(tmp_path / ("agentcom.core.hub" + SUFFIX))
    assert finder.find_spec("agentcom.core.tasks", None) is None


def test_asking_for_a_build_that_is_not_there_fails(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, agentcom.compiled as c\n"
        f"c.FOLDER = pathlib.Path({str(tmp_path)!r})\n"
        "os.environ['AGENTCOM_CORE'] = 'compiled'\n"
        "c.use()"
    )
    environment = os.environ | {"AGENTCOM_CORE": "python"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert "AGENTCOM_CORE=compiled: it was not compiled" in done.stderr


def test_a_name_that_a_module_only_passes_on_is_imported_from_where_it_is_made() -> None:
    text = "from agentcom.model import State, Term\nfrom agentcom.core import invariants\n\nA = 1\n"
    wanted = "from agentcom.model import State\nfrom agentcom.fields import Term\n"
    found = compile_core.with_origins(text, compiled.PACKAGE.parent)
    assert found == wanted + "from agentcom.core import invariants\n\nA = 1\n"


def test_every_module_that_is_compiled_is_there() -> None:
    root = compiled.PACKAGE.parent
    assert [m for m in compile_core.MODULES if not (root / (m.replace(".", "/") + ".py")).is_file()] == []
