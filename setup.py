"""Builds the compiled scheduling core, and the thread that flushes the journal. All else stands in pyproject.toml.

Without a working C compiler the build goes on: `agentcom.sched` uses the twin in Python, and the hub's loop waits for
each flush. The flags are portable: one wheel must run on every machine of its platform.
"""

from Cython.Build import cythonize
from setuptools import Extension, setup

# -ffp-contract=off: no float decides an order here, and none shall come to differ between machines.
# -g0: a stripped core is a third of the size.
FLAGS = ["-O3", "-ffp-contract=off", "-g0"]

extensions = cythonize(
    [
        Extension(f"agentcom.{name}", [f"agentcom/{name}.pyx"], extra_compile_args=FLAGS)
        for name in ("_fastsched", "_flusher")
    ],
    build_dir="build",  # keeps the generated .c out of the package, so out of the wheel
    compiler_directives={"language_level": "3"},
)
for extension in extensions:
    extension.optional = True  # after cythonize, which drops it

setup(ext_modules=extensions)
