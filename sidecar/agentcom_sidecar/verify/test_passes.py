"""test_passes: a test command ends with exit code 0 and its output counts at least one test that passed.

A command that ran no test proves nothing: `no_evidence`, whatever its exit code. Without a command the usual
one of the worktree's own tools is taken. The output is a program's that a model may have written: patterns
are applied to lines of bounded length only.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

from agentcom import limits
from agentcom.model import CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar import policy
from agentcom_sidecar.agentic import confined
from agentcom_sidecar.backends import shell
from agentcom_sidecar.sandbox import CommandResult
from agentcom_sidecar.verify.report import output_of_command, report, status_of_command, text_of
from agentcom_sidecar.work import Work

LINE_CHARS_MAX = 1000
MANIFEST_BYTES_MAX = limits.MIB
LISTED_MAX = 5000  # entries of a directory looked at for test files
PYTEST_NOTHING_COLLECTED = 5  # exit code of pytest, and of unittest since Python 3.12
ENVIRONMENT = {"CI": "true"}  # test runners of npm would otherwise watch for changes for ever

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
# One figure per line, summed over the lines of one format.
COUNTED = (
    re.compile(r"^(?:=+ )?(?:\d+ [a-z]+, )*(\d+) passed\b.* in \d"),  # pytest
    re.compile(r"^\s*Tests:?\s+(?:\d+ [a-z]+[,|] ?|[| ])*(\d+) passed\b"),  # jest, vitest
    re.compile(r"^\s+(\d+) passing\b"),  # mocha
    re.compile(r"^(?:#|ℹ) pass (\d+)$"),  # node:test
    re.compile(r"^test result: ok\. (\d+) passed;"),  # cargo
)
# One test per line.
LISTED = (
    re.compile(r"^\s*--- PASS: \S"),  # go test -v
    re.compile(r'^\{(?=.*"Action":"pass")(?=.*"Test":")'),  # go test -json
    re.compile(r"^\s*ok \d+(?: |$)(?!.*# (?:SKIP|TODO))", re.IGNORECASE),  # TAP
)
UNITTEST_RAN = re.compile(r"^Ran (\d+) tests? in \d")
UNITTEST_SKIPPED = re.compile(r"^OK \(.*\bskipped=(\d+)")
CTEST = re.compile(r"^\d+% tests passed, (\d+) tests? failed out of (\d+)")

PYTHON_TESTS = re.compile(r"^(test_.*|.*_test)\.py$")
MAKE_TARGET = re.compile(r"^(test|check)\s*:(?!=)", re.MULTILINE)


async def check(spec: CheckSpec, work: Work) -> CheckReport:
    if refusal := policy.check_commands(work):
        return report(spec, CheckStatus.refused, refusal.message, 0)
    command = spec.target.strip() or found_command(work.workspace.path)
    if not command:
        said = "no test command was given, and no pytest, npm, cargo, go or make tests were found"
        return report(spec, CheckStatus.no_evidence, said, 0)
    result = await shell.run(work, command, spec.timeout_s, env=ENVIRONMENT, is_logged=False)
    status, note = _judged(result)
    if not spec.target.strip():
        note = f"{note}; ran: {command}"
    return report(spec, status, output_of_command(result, note), result.duration_ms)


def _judged(result: CommandResult) -> tuple[CheckStatus, str]:
    text = text_of(result.output)
    count = passed_count(text)
    status = status_of_command(result)
    if status is CheckStatus.passed and not count:
        return CheckStatus.no_evidence, "the command succeeded, but no passed test is counted in its output"
    if result.exit_code == PYTEST_NOTHING_COLLECTED and "no tests ran" in text.lower():
        return CheckStatus.no_evidence, "no tests were found"
    return status, f"{count} tests passed"


def passed_count(output: str) -> int:
    """How many tests passed by the figures of the runners known here; 0 when none of them speaks."""
    lines = [line for line in ESCAPES.sub("", output).splitlines() if len(line) <= LINE_CHARS_MAX]
    counted = [sum(int(found[1][:9]) for line in lines if (found := each.match(line))) for each in COUNTED]
    listed = [sum(1 for line in lines if each.match(line)) for each in LISTED]
    # Several formats may describe the same tests (node:test prints TAP): the largest figure, not the sum.
    return max(*counted, *listed, _unittest(lines), _ctest(lines))


def _unittest(lines: list[str]) -> int:
    ran = sum(int(found[1][:9]) for line in lines if (found := UNITTEST_RAN.match(line)))
    skipped = sum(int(found[1][:9]) for line in lines if (found := UNITTEST_SKIPPED.match(line)))
    return max(0, ran - skipped)


def _ctest(lines: list[str]) -> int:
    return sum(
        max(0, int(found[2][:9]) - int(found[1][:9])) for line in lines if (found := CTEST.match(line))
    )


def found_command(root: Path) -> str | None:
    """The usual test command of what lies in `root`: pytest, npm, cargo, go, make, in this order."""
    if _has_python_tests(root):
        return _python_command()
    if _npm_script(root):
        return "npm test"
    if confined.read(root, "Cargo.toml", 1) is not None:
        return "cargo test"
    if confined.read(root, "go.mod", 1) is not None:
        return "go test -v ./..."  # without -v go counts nothing
    for name in ("GNUmakefile", "makefile", "Makefile"):
        if target := MAKE_TARGET.search(_text(root, name)):
            return f"make {target[1]}"
    return None


def _has_python_tests(root: Path) -> bool:
    if any(confined.read(root, name, 1) is not None for name in ("pytest.ini", "conftest.py")):
        return True
    if "[tool.pytest" in _text(root, "pyproject.toml") or "[tool:pytest]" in _text(root, "setup.cfg"):
        return True
    return any(_holds_python_tests(root / name) for name in ("", "tests", "test"))


def _holds_python_tests(folder: Path) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        return False
    names = (entry.name for entry, _ in zip(folder.iterdir(), range(LISTED_MAX), strict=False))
    return any(PYTHON_TESTS.match(name) for name in names)


def _python_command() -> str:
    """pytest of the command's Python, else that of the sidecar's, else unittest, which every Python has."""
    own = shlex.quote(sys.executable)
    return (
        "if python3 -c 'import pytest' 2>/dev/null; then exec python3 -m pytest -q; "
        f"elif {own} -c 'import pytest' 2>/dev/null; then exec {own} -m pytest -q; "
        "else exec python3 -m unittest discover; fi"
    )


def _npm_script(root: Path) -> bool:
    try:
        manifest = json.loads(_text(root, "package.json") or "null")
        script = manifest["scripts"]["test"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return False
    return isinstance(script, str) and "no test specified" not in script


def _text(root: Path, path: str) -> str:
    return (confined.read(root, path, MANIFEST_BYTES_MAX) or b"").decode("utf-8", "replace")
