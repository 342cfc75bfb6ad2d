"""Files that judge the work: tests, what configures them, linters and CI.

Whoever changes the judge can pass any check. So what an attempt changed of these is listed, and the checks run a
second time with these files as the base has them. New tests are welcome and stay; a new file that can change how
tests are found or run is taken away for that run.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection
from typing import Final, NamedTuple

from agentcom_sidecar.workspace import Changes

_TESTS: Final = re.compile(
    r"(?:^|/)(?:tests?|spec|specs|__tests__|testing|e2e|fixtures|__snapshots__)/"
    r"|(?:^|/)(?:test_[^/]*|[^/]*_tests?|[^/]*[._-](?:test|spec|snap))\.[^/.]+(?:\.snap)?$",
    re.IGNORECASE,
)
_SETTINGS: Final = re.compile(
    r"(?:^|/)(?:conftest\.py|sitecustomize\.py|usercustomize\.py|pytest\.ini|tox\.ini|noxfile\.py|setup\.cfg|"
    r"pyproject\.toml|\.coveragerc|mypy\.ini|\.?ruff\.toml|\.flake8|\.pylintrc|package\.json|\.npmrc|\.mocharc[^/]*|"
    r"(?:jest|vitest|vite|playwright|cypress|karma|babel)\.(?:config|setup)\.[^/]+|\.?eslint[^/]*|tsconfig[^/]*\.json|"
    r"biome\.jsonc?|\.golangci\.[^/]+|\.cargo/config(?:\.toml)?|clippy\.toml|rustfmt\.toml|(?:gnu)?makefile|justfile|"
    r"cmakelists\.txt|phpunit\.xml[^/]*|\.rspec|\.gitlab-ci\.yml|\.pre-commit-config\.yaml|azure-pipelines\.yml|"
    r"jenkinsfile|\.gitattributes)$"
    r"|(?:^|/)(?:\.github/workflows|\.circleci|\.buildkite|\.woodpecker|\.forgejo/workflows|\.gitea/workflows|\.ci)/",
    re.IGNORECASE,
)
# `python -m` looks into the current directory first: a module of such a name there runs in the place of the tests'
# runner, or of what that imports. `test` is a name that everybody's tests may have.
_RUNNERS: Final = (
    "pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "exceptiongroup", "tomli", "xdist", "execnet",
    "pytest_[a-z0-9_]+", "coverage", "hypothesis", "nose", "nose2", "tox", "nox",
)  # fmt: skip
_NAMES: Final = "|".join((*_RUNNERS, *sorted(sys.stdlib_module_names - {"test"})))
_SHADOWS: Final = re.compile(rf"(?:{_NAMES})(?:$|\.(?:py|pyc|so|[^/]+\.so)$|/__init__\.)")


class Tampered(NamedTuple):
    """What of the judging files was changed: to be had from the base again, and to be taken away."""

    restored: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()  # to be taken away as well; not in the commit, so only here they would be in force
    is_whole: bool = True  # else the attempt changed more files than could be looked at

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(sorted((*self.restored, *self.removed, *self.ignored)))


def judges(path: str) -> bool:
    """Whether the file has a say in what a check finds."""
    return bool(_TESTS.search(path) or _configures(path))


def _configures(path: str) -> bool:
    """Whether a new file of this name can change how tests are found or run."""
    return bool(_SETTINGS.search(path) or _SHADOWS.match(path))


def tampered(changes: Changes, named: Collection[str], ignored: Collection[str] = ()) -> Tampered:
    """Of these changes, and of the files that git ignores, those to files that judge. Files that the task names are its
    work, and not among them."""
    restored = [path for path in changes.changed if path not in named and judges(path)]
    removed = [path for path in changes.added if path not in named and _configures(path)]
    hidden = [path for path in ignored if path not in named and _configures(path)]
    return Tampered(tuple(restored), tuple(removed), tuple(hidden), changes.is_whole)
