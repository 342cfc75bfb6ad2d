"""Builds the compiled scheduling core, the readers of records, the thread that flushes the journal, the hub's
end of its socket, and the guard of commands. All else stands in pyproject.toml.

Without a working C compiler the build goes on: `agentcom.sched` and the sandbox use the twins in Python, and the hub's
loop waits for each flush. The flags are portable: one wheel must run on every machine of its platform.
"""

import sys
from typing import Any

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# -ffp-contract=off: no float decides an order here, and none shall come to differ between machines.
# -g0: a stripped core is a third of the size.
FLAGS = ["-O3", "-ffp-contract=off", "-g0"]
GUARD = "agentcom_sidecar._guard"


class Build(build_ext):
    """Extensions, and one program: the guard lies beside its twin as `_guard.bin`."""

    def get_ext_filename(self, fullname: str) -> str:
        if fullname.endswith("_guard"):
            return f"{fullname.replace('.', '/')}.bin"
        return str(super().get_ext_filename(fullname))

    def build_extension(self, ext: Any) -> None:
        if ext.name != GUARD:
            super().build_extension(ext)
            return
        objects = self.compiler.compile(ext.sources, output_dir=self.build_temp, extra_postargs=["-O2", "-g0"])
        self.compiler.link_executable(objects, self.get_ext_fullpath(ext.name))


extensions = cythonize(
    [
        Extension(f"agentcom.{name}", [f"agentcom/{name}.pyx"], extra_compile_args=FLAGS)
        for name in ("_datafile", "_fastsched", "_flusher", "_records", "_wire")
    ],
    build_dir="build",  # keeps the generated .c out of the package, so out of the wheel
    compiler_directives={"language_level": "3"},
)
if sys.platform.startswith("linux"):
    header = "sidecar/agentcom_sidecar/_guard_processes.h"
    extensions.append(Extension(GUARD, ["sidecar/agentcom_sidecar/_guard.c"], depends=[header]))
for extension in extensions:
    extension.optional = True  # after cythonize, which drops it

setup(ext_modules=extensions, cmdclass={"build_ext": Build})
