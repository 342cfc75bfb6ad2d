"""Which core is imported: a build of these very sources, or the sources."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from agentcom import compile_core, compile_statics, compiled
from agentcom.compiled import SUFFIX
from agentcom.model import State


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


STATICS = '''"""A module."""

from agentcom import messages as m
from agentcom.core.effects import key_u64
from agentcom.model import FINAL, State, TaskRow

OPEN = (State.assigned, State.working)
LIMIT = 5


def f(one: TaskRow, State_: int) -> bool:
    if isinstance(one, m.Submit):
        raise ValueError(State.dead)
    key_u64(1)
    found: list[TaskRow] = []
    return one.state in FINAL or one.state is State.ready and LIMIT > 0 and bool(found) is not (OPEN[0] in OPEN)


def g(State: type) -> object:
    return State.ready
'''


def with_statics(text: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """As of a module of that text."""
    made = ModuleType("agentcom.core.made")
    exec(compile(text, "made", "exec"), vars(made))
    monkeypatch.setitem(sys.modules, made.__name__, made)
    return compile_statics.with_statics(text, made.__name__, ("agentcom.core.effects",))


def test_what_never_changes_is_looked_up_once_in_a_module_to_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_statics(STATICS, monkeypatch)
    statics = [line.partition(": ")[::2] for line in found.splitlines() if line.startswith("_static_")]
    assert statics == [
        ("_static_m_Submit", "_Final = m.Submit"),
        ("_static_FINAL", "_Final = FINAL"),
        ("_static_State_ready", "_Final = State.ready"),
    ]
    assert "isinstance(one, _static_m_Submit)" in found
    assert "one.state in _static_FINAL or one.state is _static_State_ready and LIMIT > 0" in found
    assert "OPEN: _Final = (State.assigned, State.working)" in found
    for kept in ("raise ValueError(State.dead)", "key_u64(1)", "found: list[TaskRow] = []", "LIMIT = 5"):
        assert kept in found


def test_a_name_that_a_function_binds_itself_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "def g(State: type) -> object:\n    return State.ready" in with_statics(STATICS, monkeypatch)


def test_a_module_with_statics_does_what_its_source_does(monkeypatch: pytest.MonkeyPatch) -> None:
    text = STATICS.replace("one.state in FINAL or", '"ä" in "ßä" and one.state in FINAL or')
    names: dict[str, Any] = {}
    exec(compile(with_statics(text, monkeypatch), "made", "exec"), names)
    ready, held = SimpleNamespace(state=State.ready), SimpleNamespace(state=State.held)
    assert [names["f"](ready, 0), names["f"](held, 0)] == [True, False]
    assert names["_static_State_ready"] is State.ready


def test_whatever_is_built_is_built_again_when_one_of_its_sources_changes() -> None:
    """Else a checkout that was brought up to date would run modules of before."""
    root = Path(compiled.__file__).parent.parent
    said = re.search(r"^SOURCES := (.*) \$\(wildcard (.*)\)$", (root / "Makefile").read_text(encoding="utf-8"), re.M)
    assert said is not None
    named = {*said[1].split(), *(str(found.relative_to(root)) for each in said[2].split() for found in root.glob(each))}
    globs = ("agentcom/*.pyx", "agentcom/*.pxi", "sidecar/agentcom_sidecar/*.[ch]")
    sources = [found for each in globs for found in root.glob(each)]
    assert len(sources) > 5
    assert {str(one.relative_to(root)) for one in sources} | {"pyproject.toml", "setup.py"} == named
    manifest = (root / "MANIFEST.in").read_text(encoding="utf-8").split()
    assert named - {"pyproject.toml", "setup.py"} <= set(manifest)


@pytest.mark.parametrize("module", sorted(path.stem for path in Path(compiled.__file__).parent.glob("_*.pyx")))
def test_what_is_written_for_the_compiler_is_built_where_it_has_to_be(module: str) -> None:
    """AGENTCOM_REQUIRE_COMPILED=1 says that this machine must have built it; its own tests are skipped without."""
    is_built = importlib.util.find_spec(f"agentcom.{module}") is not None
    assert is_built or os.environ.get("AGENTCOM_REQUIRE_COMPILED") != "1"
