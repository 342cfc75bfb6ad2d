"""test_passes: a test command ends with exit code 0 and its output counts at least one test that passed.

A command that ran no test proves nothing: `no_evidence`, whatever its exit code. Without a command as its target the
usual one is taken: that of the base where the check has it (`spec.command`), else of what lies in the worktree. The
output is a program's that a model may have written: patterns are applied to lines of bounded length only.
"""

from __future__ import annotations

import re

from agentcom.model import CheckReport, CheckSpec, CheckStatus
from agentcom_sidecar import policy
from agentcom_sidecar.backends import shell
from agentcom_sidecar.sandbox import CommandResult
from agentcom_sidecar.verify.report import output_of_command, report, status_of_command, text_of
from agentcom_sidecar.verify.usual_command import found_command
from agentcom_sidecar.work import Work

LINE_CHARS_MAX = 1000
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


async def check(spec: CheckSpec, work: Work) -> CheckReport:
    if refusal := policy.check_commands(work):
        return report(spec, CheckStatus.refused, refusal.message, 0)
    command = spec.target.strip() or spec.command or found_command(work.workspace.path)
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
