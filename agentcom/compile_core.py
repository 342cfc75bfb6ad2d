"""Builds the compiled core: `python -m agentcom.compile_core`. Needs mypy, setuptools and a C compiler.

The modules in which a task spends its time in the hub go through mypyc, with the same meaning: a name that a module
only passes on is imported from where it is made, as mypyc asks for, and what never changes is looked up once (see
compile_statics.py). What comes of it lies in `_core`, with a digest of the sources (compiled.py). It is built aside and
moved there whole, so that a build that fails leaves what was there.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agentcom import compiled
from agentcom.compile_statics import with_statics

CORE: Final = (
    "accounts", "admission", "aftermath", "agents", "attempts", "board", "breaker", "calls", "circuits",
    "complexity", "deadlines", "depends", "dispatch", "effects", "estimates", "evidence", "fallbacks", "flows",
    "gates", "groups", "hub", "interned", "isolation", "lanes", "leases", "ledger", "losses", "outlet",
    "placed", "principals", "progress", "questions", "refusal", "registry", "removal", "repositories",
    "requests", "retention", "retries", "routing", "rows", "score", "second_host", "sessions", "story", "tail", "tally",
    "tasks", "terms", "turns", "waiting", "waits", "wanted",
)  # fmt: skip
# Not what decodes into a struct of its own: a compiled module does not keep what the fields of a class are.
SHELL: Final = (
    "agentcom.broker", "agentcom.clock", "agentcom.feed", "agentcom.intake", "agentcom.lookups", "agentcom.outgoing",
    "agentcom.peers", "agentcom.retirement", "agentcom.room",
    "agentcom.store.base", "agentcom.store.journal", "agentcom.store.journaled", "agentcom.store.record",
)  # fmt: skip
MODULES: Final = (*(f"agentcom.core.{name}" for name in CORE), *SHELL)

# Runs in the folder with the copied sources. The library is one extension of many files, which setuptools would compile
# one after the other.
SCRIPT: Final = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from setuptools import setup
from setuptools._distutils import ccompiler
from mypyc.build import mypycify

def compile_all(self, sources, output_dir=None, macros=None, include_dirs=None, debug=0, extra_preargs=None,
                extra_postargs=None, depends=None):
    macros, objects, extra_postargs, options, build = self._setup_compile(
        output_dir, macros, include_dirs, sources, depends, extra_postargs)
    arguments = self._get_cc_args(options, debug, extra_preargs)
    def compile_one(name):
        self._compile(name, *build[name], arguments, extra_postargs, options)
    with ThreadPoolExecutor(int(os.environ["JOBS"])) as pool:
        list(pool.map(compile_one, [name for name in objects if name in build]))
    return objects

ccompiler.CCompiler.compile = compile_all
paths = sys.argv[1:]
sys.argv[1:] = ["--quiet", "build_ext", "--build-lib", "built", "--build-temp", "objects"]
made = mypycify(["--follow-imports=silent", "--ignore-missing-imports", *paths], opt_level="2", debug_level="0",
                multi_file=True, group_name="agentcom")
for one in made:
    one.extra_compile_args = [each for each in one.extra_compile_args if each != "-Werror"] + ["-g0", "-w"]
setup(name="agentcom-core", ext_modules=made)
"""


def build(jobs: int) -> None:
    """Build, and put it in place. CalledProcessError when a tool refuses."""
    made_from = compiled.digest(compiled.PACKAGE)
    with tempfile.TemporaryDirectory(prefix="agentcom-core-") as name:
        folder = Path(name)
        paths = stage(folder)
        environment = os.environ | {"JOBS": str(jobs), compiled.SETTING: "python"}
        subprocess.run([sys.executable, "-c", SCRIPT, *paths], cwd=folder, env=environment, check=True)
        note = {"modules": MODULES, "made_from": made_from, "suffix": compiled.SUFFIX}
        put_in_place(folder / "built", note)


def put_in_place(made: Path, note: Mapping[str, object]) -> None:
    """Beside the one that is in use, then instead of it."""
    ready = compiled.FOLDER.with_suffix(".new")
    shutil.rmtree(ready, ignore_errors=True)
    ready.mkdir()
    for module in (*MODULES, compiled.SHARED):
        shutil.copy2(made / (module.replace(".", "/") + compiled.SUFFIX), ready / (module + compiled.SUFFIX))
    (ready / compiled.NOTE).write_text(json.dumps(note))
    shutil.rmtree(compiled.FOLDER, ignore_errors=True)
    ready.rename(compiled.FOLDER)


def stage(folder: Path) -> list[str]:
    """Copy the package's sources there; where the modules to compile lie in it."""
    package = folder / "agentcom"
    left_out = shutil.ignore_patterns("__pycache__", "*.so", "*.pyx", "*.pxi", "_core*")
    shutil.copytree(compiled.PACKAGE, package, ignore=left_out)
    paths = [module.replace(".", "/") + ".py" for module in MODULES]
    for module, path in zip(MODULES, paths, strict=True):
        file = folder / path
        file.write_text(with_statics(with_origins(file.read_text(), folder), module, MODULES))
    return paths


def with_origins(text: str, root: Path) -> str:
    """The source with each name imported from the module that makes it."""
    lines = text.splitlines()
    for node in reversed(ast.parse(text).body):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentcom."):
            assert node.module is not None
            by_origin: dict[str, list[str]] = {}
            for name in node.names:
                by_origin.setdefault(_origin(root, node.module, name.name), []).append(ast.unparse(name))
            if set(by_origin) != {node.module}:
                named = [f"from {origin} import {', '.join(names)}" for origin, names in by_origin.items()]
                lines[node.lineno - 1 : node.end_lineno] = named
    return "\n".join(lines) + "\n"


def _origin(root: Path, module: str, name: str) -> str:
    file = root / (module.replace(".", "/") + ".py")
    if not file.exists():
        return module  # a package, whose modules are named
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentcom."):
            for each in node.names:
                if (each.asname or each.name) == name:
                    assert node.module is not None
                    return _origin(root, node.module, each.name)
    return module


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m agentcom.compile_core", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="C compilers at once")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    try:
        build(options.jobs)
    except (subprocess.CalledProcessError, OSError) as error:
        is_compilers = isinstance(error, subprocess.CalledProcessError)
        why = "the compiler refused it, for the reason above" if is_compilers else str(error)
        print(f"the core was not compiled: {why}; the hub runs on its sources", file=sys.stderr)
        return 1
    print(f"compiled {len(MODULES)} modules of the core in {time.monotonic() - begun:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
