"""Which files judge the work: an attempt that changes one of them is told, and checked again without the change."""

from __future__ import annotations

import inspect
import re

import pytest
from _pytest.config import findpaths

from agentcom_sidecar.verify.watched import BaseJudges, judges, judges_among, tampered
from agentcom_sidecar.workspace import Changes

TESTS = """
    tests.py shop/tests.py src/tests.rs test.js tests/data/a.json test_calc.py calc_test.go calc-test.js calc.test.tsx
    src/CalcTest.java src/TestCalc.java CalcTests.cs BaseTestCase.php Calc.Tests/Helper.cs Calc.UnitTests/Helper.cs
    CalcTests/Helper.swift CalcSpec.scala CalcSpec.hs app/src/androidTest/java/A.kt app/src/testFixtures/B.kt
    calc_spec.rb calc_SUITE.erl calc.cy.ts t/basic.t calc.bats calc.feature features/steps/calc.py __mocks__/fs.js
    calc.js.snap pkg/testdata/in.txt integration_test/app.dart unit_tests/helper.py run_tests.sh runtests.py
"""
CI = """
    .travis.yml .drone.yml appveyor.yml .appveyor.yml bitbucket-pipelines.yml .cirrus.yml .gitlab/ci/build.yml
    .gitlab-ci.yml ci/shared.gitlab-ci.yml azure-pipelines.yml azure-pipelines.yaml cloudbuild.yaml buildspec.yml
    .semaphore/semaphore.yml .tekton/pull.yaml .buildkite/pipeline.yml .circleci/config.yml Jenkinsfile
    .woodpecker.yml .woodpecker/test.yaml .github/workflows/ci.yml .github/actions/test/action.yml codecov.yml
    .pre-commit-config.yaml .husky/pre-push
"""
LINT = """
    .prettierrc .prettierrc.json .stylelintrc.yml .rubocop.yml .rubocop_todo.yml .clang-tidy .clang-format
    checkstyle.xml config/checkstyle/checkstyle.xml .swiftlint.yml .yamllint .yamllint.yaml pyrightconfig.json
    .isort.cfg .mypy.ini mypy.ini .bandit .shellcheckrc tslint.json phpstan.neon phpstan.neon.dist .editorconfig
    .golangci.yml .golangci.toml clippy.toml rustfmt.toml .rustfmt.toml biome.json biome.jsonc .oxlintrc.json
    .eslintrc.cjs eslint.config.mjs .flake8 .pylintrc ruff.toml .ruff.toml tsconfig.base.json .eslintignore
"""
RUNNERS = """
    .nycrc .nycrc.json ava.config.js deno.json deno.jsonc bunfig.toml Rakefile lib/tasks/test.rake build.gradle
    build.gradle.kts pom.xml core/pom.xml .bazelrc Taskfile.yml rules.mk .mocharc.cjs karma.conf.js wdio.conf.ts
    playwright.config.ts cypress.config.js noxfile.py tox.ini jest.config.ts vitest.config.mts vitest.workspace.ts
    Makefile GNUmakefile justfile CMakeLists.txt package.json Cargo.toml .cargo/config.toml Directory.Build.props
    phpunit.xml.dist .rspec manage.py conftest.py pkg/conftest.py .coveragerc .gitattributes
"""
WORK = """
    calc.py src/latest.py src/Contest.java src/Latest.java src/greatest.go src/manifest.json src/inspect.rs
    docs/testing.md README.md attestation.py src/protest/main.c src/Testimony.java src/spec.py src/PodSpec.java
    src/TaskSpec.cs src/builder.js src/linter.py src/pipelines.py src/unittest/types.py contests/a.py
    lang/messages.cy.json src/features/steps/First.tsx office_suite.py src/ab_test/split.py bin/build BUILD src/BUILD
    workspace meson.build dune go.mod Calc.csproj calc.cabal Package.swift rpm/calc.spec .eslintcache .stylelintcache
    src/eslint.js docs/makefile-howto.md src/tasks.py src/cargo.rs
"""


@pytest.mark.parametrize("path", TESTS.split())
def test_a_changed_test_is_told_in_any_language_and_so_is_a_new_one_beside_others(path: str) -> None:
    assert tampered(Changes((path,), (), is_whole=True), ()).restored == (path,)
    assert tampered(Changes((), (path,), is_whole=True), ()).removed == (path,)
    assert tampered(Changes((), (path,), is_whole=True), (), (), BaseJudges(has_tests=False)).paths == ()


@pytest.mark.parametrize("path", [*CI.split(), *LINT.split(), *RUNNERS.split()])
def test_a_changed_or_new_setting_of_ci_linter_or_runner_is_told(path: str) -> None:
    assert tampered(Changes((path,), (), is_whole=True), ()).restored == (path,)
    assert tampered(Changes((), (path,), is_whole=True), ()).removed == (path,)
    assert tampered(Changes((), (), is_whole=True), (), ignored=(path,)).ignored == (path,)


@pytest.mark.parametrize("path", WORK.split())
def test_a_name_that_only_sounds_like_a_judge_is_the_work(path: str) -> None:
    assert not judges(path)


def test_every_file_that_the_installed_pytest_reads_its_settings_from_is_watched() -> None:
    names = re.findall(r'"([.\w]+\.(?:ini|toml|cfg))"', inspect.getsource(findpaths))
    assert {"pytest.ini", "pyproject.toml", "tox.ini"} <= set(names), "pytest keeps them elsewhere now: look there"
    assert [name for name in names if not tampered(Changes((), (name,), is_whole=True), ()).removed] == []


MANIFESTS = "package.json Makefile CMakeLists.txt Cargo.toml pom.xml core/pom.xml build.gradle.kts mix.exs"


@pytest.mark.parametrize("path", MANIFESTS.split())
def test_the_first_manifest_of_a_repository_without_tests_is_the_work(path: str) -> None:
    base = judges_among(("README.md", "src/calc.c", ".github/workflows/ci.yml", ".gitattributes"))
    assert base == (False, False)
    assert judges_among(("README.md", path)) == (False, True), "the next one is told"
    assert judges_among(("README.md", "test_calc.py")) == (True, False)
    found = tampered(Changes((), (path, "conftest.py", "argparse.py"), is_whole=True), (), (), base)
    assert found.paths == ("argparse.py", "conftest.py"), "what needs no manifest to judge stays watched"
    assert tampered(Changes((path,), (), is_whole=True), (), (), base).restored == (path,)


def test_what_the_task_names_is_its_work_and_not_told() -> None:
    changes = Changes((".travis.yml",), ("pom.xml",), is_whole=True)
    assert tampered(changes, {".travis.yml", "pom.xml"}, ()).paths == ()
