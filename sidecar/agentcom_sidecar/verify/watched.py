"""Files that judge the work: tests, CI, linters, and what runs the tests.

Whoever changes the judge can pass any check. So what an attempt changed of these is listed, and the checks run a
second time with these files as the base has them, so without the new ones: a new file can change how tests are found
or run, and a new test can patch what the others look at. New tests are welcome, and change nothing where the work is
right; where the base has none they are the work.

The tables hold names as a shell would match them, at any depth and in any case: one with `/` at its end is a
directory, all others are files. What is in them has to be worth its price: honest work on such a file fails the second
run unless its task names the file. So what lists the sources of the work (`BUILD`, `meson.build`, `dune`, `go.mod`,
`*.csproj`) is not, and neither are names that much else has too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from agentcom_sidecar.workspace import Changes

_TESTS: Final = """
    test/ tests/ spec/ specs/ testing/ e2e/ fixtures/ testdata/ testfixtures/ test_data/ test-data/ test_utils/
    test-utils/ *.test/ *.tests/ *_tests/ *-tests/ integration_test/ integration-test/ step_definitions/
    __tests__/ __mocks__/ __snapshots__/ features/steps/*.py
    test.* tests.* test_*.* test-*.* *_test.* *_tests.* *-test.* *-tests.* *.test.* *.tests.*
    *_spec.* *-spec.* *.spec.* *_suite.erl *.snap *.e2e.* *.cy.js *.cy.jsx *.cy.ts *.cy.tsx
    *.feature *.robot *.bats *.t *.xctestplan run_tests run-tests runtests runtests.* setuptests.*
"""
# By the case of their letters: `latest.py` and `Contest.java` are no tests, and of `PodSpec.java` nobody can tell.
_TESTS_IN_CAPITALS: Final = re.compile(
    r"[a-z0-9]Test(?:s|Cases?|Suite)?(?:/|\.[^/.]+$)"  # CalcTest.java, CalcTests/, androidTest/
    r"|[a-z0-9]Spec\.(?:scala|groovy|hs)$"
    r"|(?:^|/)Test[A-Z][^/]*\.(?:java|kt|groovy|scala|cs|swift|php|cc|cpp)$"  # TestCalc.java
)
_CI: Final = """
    .github/workflows/ .github/actions/ .gitea/workflows/ .forgejo/workflows/ .gitlab/ci/ .circleci/ .buildkite/
    .woodpecker/ .semaphore/ .tekton/ .teamcity/ .azure-pipelines/ .jenkins/ .ci/ .husky/
    .gitlab-ci.y*ml *.gitlab-ci.y*ml .travis.y*ml .drone.* .woodpecker*.y*ml .cirrus.* .appveyor.y*ml appveyor.y*ml
    bitbucket-pipelines.y*ml azure-pipelines*.y*ml .azure-pipelines*.y*ml cloudbuild*.y*ml cloudbuild*.json
    buildspec*.y*ml jenkinsfile* .pre-commit-config.y*ml lefthook.y*ml .lintstagedrc* codecov.y*ml .codecov.y*ml
"""
_LINT: Final = """
    .editorconfig .flake8 .pylintrc pylintrc ruff.toml .ruff.toml mypy.ini .mypy.ini pyrightconfig.json .isort.cfg
    .bandit .pycodestyle .pydocstyle .style.yapf .importlinter
    .eslintrc* .eslintignore eslintrc* eslint.config.* .prettierrc* .prettierignore prettier.config.*
    .stylelintrc* .stylelintignore stylelint.config.* tslint*.json biome.json*
    .oxlintrc.json .jshintrc .dprint.json dprint.json tsconfig*.json .markdownlint*
    .rubocop* .clang-tidy .clang-format .swiftlint.y*ml .swiftformat checkstyle*.xml pmd*.xml spotbugs*.xml
    detekt*.y*ml .scalafmt.conf .scalafix.conf phpstan*.neon* phpcs*.xml* .phpcs*.xml* .php-cs-fixer* psalm*.xml*
    .golangci.* staticcheck.conf clippy.toml .clippy.toml rustfmt.toml .rustfmt.toml deny.toml .credo.exs
    .formatter.exs .luacheckrc .perlcriticrc analysis_options.yaml
    .shellcheckrc .yamllint* .hadolint.y*ml .ansible-lint* .sqlfluff .semgrep* .gitleaks*
"""
_RUNNERS: Final = """
    conftest.py sitecustomize.py usercustomize.py pytest.ini .pytest.ini pytest.toml .pytest.toml pyproject.toml
    setup.cfg tox.ini tox.toml noxfile.py .coveragerc .stestr.conf behave.ini features/environment.py manage.py
    .npmrc .yarnrc* .mocharc* .nycrc* .c8rc* .babelrc* .swcrc jest.* vitest.* vite.config.* vite.setup.*
    playwright*.config.* playwright.setup.* cypress.config.* cypress.setup.* cypress.json cypress/support/
    karma.conf* karma.config.* babel.config.* ava.config.* wdio*.conf* deno.json* bunfig.toml nx.json turbo.json
    *.mk .justfile rakefile.rb *.rake .rspec mvnw mvnw.cmd .mvn/ gradle.properties gradlew gradlew.bat gradle/wrapper/
    testng*.xml junit-platform.properties .bazelrc cmakepresets.json ctest*.cmake .cargo/ nextest.toml
    phpunit*.xml* pest.php codeception*.y*ml behat*.y*ml directory.build.props directory.build.targets *.runsettings
    xunit.runner.json dart_test.yaml .proverc .gitattributes
"""
# Without one of these there is nothing that could run the tests.
_MANIFESTS: Final = """
    package.json makefile makefile.* gnumakefile justfile taskfile*.y*ml rakefile pom.xml *.gradle *.gradle.kts *.sbt
    cmakelists.txt cargo.toml mix.exs rebar.config composer.json
"""
# `python -m` looks into the current directory first: a module of such a name there runs in the place of the tests'
# runner, or of what that imports. `test` is a name that everybody's tests may have.
_IMPORTED: Final = (
    "pytest", "_pytest", "pluggy", "iniconfig", "packaging", "pygments", "exceptiongroup", "tomli", "xdist", "execnet",
    "pytest_[a-z0-9_]+", "coverage", "hypothesis", "nose", "nose2", "tox", "nox",
)  # fmt: skip
_NAMES: Final = "|".join((*_IMPORTED, *sorted(sys.stdlib_module_names - {"test"})))
_SHADOWS: Final = re.compile(rf"(?:{_NAMES})(?:$|\.(?:py|pyc|so|[^/]+\.so)$|/__init__\.)")


def _matching(table: str) -> re.Pattern[str]:
    """What finds a path that one of the table's names fits."""
    names = (re.escape(name).replace(r"\*", "[^/]*") for name in table.split())
    return re.compile(f"(?:^|/)(?:{'|'.join(n if n.endswith('/') else f'{n}$' for n in names)})", re.IGNORECASE)


_IS_TEST: Final = _matching(_TESTS)
_IS_SETTING: Final = _matching(_CI + _LINT + _RUNNERS + _MANIFESTS)
_IS_MANIFEST: Final = _matching(_MANIFESTS)


class Tampered(NamedTuple):
    """What of the judging files was changed: to be had from the base again, and to be taken away."""

    restored: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()  # to be taken away as well; not in the commit, so only here they would be in force
    is_whole: bool = True  # else the attempt changed more files than could be looked at

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(sorted((*self.restored, *self.removed, *self.ignored)))


class BaseJudges(NamedTuple):
    """What a base has that judges: tests, and manifests."""

    has_tests: bool = True
    has_manifest: bool = True


def judges(path: str) -> bool:
    """Whether the file has a say in what a check finds."""
    return is_test(path) or _configures(path)


def _takes_a_place(path: str, base: BaseJudges) -> bool:
    """Whether a new file can make the base's tests pass: by patching what they test, by standing in its place, or by
    changing how they are run."""
    if is_manifest(path):
        return base.has_tests or base.has_manifest
    return _configures(path) or (base.has_tests and is_test(path))


def _configures(path: str) -> bool:
    """Whether a new file of this name can change how tests are found or run."""
    return bool(_IS_SETTING.search(path) or _SHADOWS.match(path))


def is_manifest(path: str) -> bool:
    return bool(_IS_MANIFEST.search(path))


def is_test(path: str) -> bool:
    return bool(_IS_TEST.search(path) or _TESTS_IN_CAPITALS.search(path))


def judges_among(paths: Iterable[str]) -> BaseJudges:
    """What of these files, those of a base, judges."""
    every = tuple(paths)
    return BaseJudges(any(map(is_test, every)), any(map(is_manifest, every)))


def tampered(
    changes: Changes, named: Collection[str], ignored: Collection[str] = (), base: BaseJudges | None = None
) -> Tampered:
    """Of these changes, and of the files that git ignores, those to files that judge. Files that the task or a check
    names are its work, and not among them; nor is what is new where the base has nothing whose place it could take:
    tests where it has none, and manifests where it has neither."""
    base = base or BaseJudges()
    restored = [path for path in changes.changed if path not in named and judges(path)]
    removed = [path for path in changes.added if path not in named and _takes_a_place(path, base)]
    hidden = [path for path in ignored if path not in named and _configures(path)]
    return Tampered(tuple(restored), tuple(removed), tuple(hidden), changes.is_whole)
