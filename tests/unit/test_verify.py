"""Checks: what counts as evidence, which paths are inside, how reports become a status and stay small."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import msgspec
import pytest

from agentcom import limits
from agentcom.model import (
    Backend,
    CheckKind,
    CheckReport,
    CheckStatus,
    Iteration,
    Judgement,
    ResultStatus,
    TaskResult,
)
from agentcom_sidecar.agentic import confined
from agentcom_sidecar.agentic.file_tools import CONTENT_BYTES_MAX, FileTools
from agentcom_sidecar.agentic.tools import Toolbox, encoded
from agentcom_sidecar.backends.base import ToolCall
from agentcom_sidecar.verify import fix_loop
from agentcom_sidecar.verify.report import cut, fit, iteration_status, result_status, way_out
from agentcom_sidecar.verify.test_passes import passed_count
from agentcom_sidecar.verify.usual_command import found_command

# Counting tests in the output of runners.

COUNTED = {
    "pytest -q": ("....\n4 passed in 0.03s\n", 4),
    "pytest": ("=========== 1 skipped, 12 passed, 2 warnings in 1.20s ===========", 12),
    "pytest in colour": ("\x1b[32m\x1b[32m\x1b[1m3 passed\x1b[0m\x1b[32m in 0.01s\x1b[0m\x1b[0m", 3),
    "unittest": ("...\n-----\nRan 3 tests in 0.001s\n\nOK\n", 3),
    "unittest, one skipped": ("..s\nRan 3 tests in 0.001s\n\nOK (skipped=1)\n", 2),
    "jest": ("Test Suites: 1 passed, 1 total\nTests:       1 skipped, 7 passed, 8 total\n", 7),
    "vitest": (" Test Files  1 passed (1)\n      Tests  2 passed (2)\n", 2),
    "mocha": ("\n  suite\n    ✔ works\n\n  2 passing (5ms)\n", 2),
    "node:test": ("TAP version 13\nok 1 - a\n  ---\nok 2 - b\n1..2\n# tests 2\n# pass 2\n# fail 0\n", 2),
    "node:test, spec": ("✔ a (0.5ms)\nℹ tests 1\nℹ pass 1\nℹ fail 0\n", 1),
    "cargo": (
        "running 2 tests\ntest result: ok. 2 passed; 0 failed; 0 ignored\n"
        "test result: ok. 3 passed; 0 failed\n",
        5,
    ),
    "go -v": (
        "=== RUN TestA\n--- PASS: TestA (0.00s)\n    --- PASS: TestA/b (0.00s)\nPASS\nok  \tx\t0.01s\n",
        2,
    ),
    "go -json": ('{"Time":"t","Action":"pass","Package":"p","Test":"TestA","Elapsed":0}\n', 1),
    "tap": ("1..3\nok 1 - a\nok 2 # SKIP later\nok 3\n", 2),
    "ctest": ("100% tests passed, 0 tests failed out of 6\n", 6),
}
NOTHING = {
    "silence": "",
    "words": "all good, everything passed, ok\n",
    "pytest without tests": "no tests ran in 0.01s\n",
    "pytest, all skipped": "3 skipped in 0.02s\n",
    "unittest without tests": "Ran 0 tests in 0.000s\n\nOK\n",
    "unittest, all skipped": "Ran 2 tests in 0.000s\n\nOK (skipped=2)\n",
    "node:test without tests": "1..0\n# tests 0\n# pass 0\n",
    "cargo without tests": "running 0 tests\ntest result: ok. 0 passed; 0 failed; 0 ignored\n",
    "go without -v": "ok  \texample.org/x\t0.012s\n",
    "go without tests": "?   \texample.org/x\t[no test files]\n",
    "go -json, packages only": '{"Action":"pass","Package":"p","Elapsed":0}\n',
    "tap, all skipped": "1..1\nok 1 # SKIP\n",
    "ctest without tests": "No tests were found!!!\n",
    "a line without end": "1" * 300_000 + " passed in 0.1s",
}


@pytest.mark.parametrize("runner", COUNTED)
def test_the_tests_of_a_runner_are_counted(runner: str) -> None:
    output, count = COUNTED[runner]
    assert passed_count(output) == count


@pytest.mark.parametrize("runner", NOTHING)
def test_output_that_counts_no_passed_test_is_no_evidence(runner: str) -> None:
    assert passed_count(NOTHING[runner]) == 0


# Finding the test command.


def project(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("tests/test_a.py", "", "pytest"),
        ("a_test.py", "", "pytest"),
        ("conftest.py", "", "pytest"),
        ("pyproject.toml", "[tool.pytest.ini_options]\n", "pytest"),
        ("package.json", '{"scripts": {"test": "jest"}}', "npm test"),
        ("Cargo.toml", "", "cargo test"),
        ("go.mod", "module x\n", "go test -v ./..."),
        ("Makefile", "all:\n\ntest: all\n\ttrue\n", "make test"),
        ("Makefile", "check:\n\ttrue\n", "make check"),
    ],
)
def test_the_usual_test_command_is_found(tmp_path: Path, name: str, text: str, command: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    found = found_command(tmp_path)
    assert found is not None
    assert command in found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("README.md", ""),
        ("app.py", ""),
        ("pyproject.toml", "[project]\n"),
        ("package.json", '{"scripts": {"test": "echo \\"Error: no test specified\\" && exit 1"}}'),
        ("package.json", "[1, 2"),
        ("package.json", '{"scripts": 5}'),
        ("package.json", "[" * 100_000),
        ("Makefile", "all:\n\ttrue\ntest := 5\n"),
    ],
)
def test_what_is_no_test_suite_is_not_taken_for_one(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert found_command(tmp_path) is None


def test_a_manifest_that_is_a_pipe_or_a_link_to_the_outside_is_not_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "package.json").write_text('{"scripts": {"test": "jest"}}')
    (root / "package.json").symlink_to("../package.json")
    os.mkfifo(root / "Makefile")
    assert found_command(root) is None


# Paths.


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A worktree with a file, and beside it a secret that every kind of link leads to."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("canary")
    root = tmp_path / "root"
    (root / "src").mkdir(parents=True)
    (root / "src/a.py").write_text("a = 1\n")
    (root / "inside").symlink_to("src")
    (root / "outside").symlink_to("../secret")
    (root / "absolute").symlink_to(tmp_path / "secret/key")
    (root / "magic").symlink_to("/proc/self/root/etc/passwd")
    (root / "dangling").symlink_to("nowhere")
    os.mkfifo(root / "pipe")
    return root


OUTSIDE = [
    "/etc/passwd",
    "../secret/key",
    "src/../../secret/key",
    "outside/key",
    "absolute",
    "magic",
    "",
    "a\0b",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leaves_the_worktree_is_refused(root: Path, path: str) -> None:
    with pytest.raises(confined.PathRefused):
        confined.look(root, path)


@pytest.mark.parametrize("path", OUTSIDE)
def test_without_openat2_the_same_paths_are_refused(
    root: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confined, "_openat2", lambda *_: None)
    try:
        found = confined.look(root, path)
    except confined.PathRefused:
        return
    # The walk follows no link at all: it shows a link itself, which is no file.
    assert found is not None
    assert not os.path.isfile(root / path) or os.path.islink(root / path)


@pytest.mark.parametrize("path", ["src/a.py", "./src//a.py", "inside/a.py"])
def test_a_file_inside_is_found_also_through_a_link_that_stays_inside(root: Path, path: str) -> None:
    found = confined.look(root, path)
    assert found is not None
    assert found.st_size == 6


@pytest.mark.parametrize("path", ["src/b.py", "nowhere/a", "src/a.py/b", "dangling"])
def test_what_is_not_there_is_not_found(root: Path, path: str) -> None:
    assert confined.look(root, path) is None


# The tool write_file.


def wrote(root: Path, arguments: object, name: str = "write_file", fault: str = "") -> dict[str, object]:
    box = Toolbox(FileTools(root, 32_000))
    observation: dict[str, object] = json.loads(encoded(asyncio.run(box.run(ToolCall("1", name, arguments, fault)))))
    return observation


def test_write_file_makes_directories_and_says_what_it_did(root: Path) -> None:
    observation = wrote(root, {"path": "new/deep/ä.txt", "content": "hé\n"})
    assert observation == {"status": "written", "path": "new/deep/ä.txt", "bytes": 4, "created": True}
    assert (root / "new/deep/ä.txt").read_text() == "hé\n"


def test_write_file_replaces_a_file_and_keeps_its_permissions(root: Path) -> None:
    (root / "src/a.py").chmod(0o755)
    assert wrote(root, {"path": "src/a.py", "content": "b"})["created"] is False
    assert (root / "src/a.py").read_text() == "b"
    assert (root / "src/a.py").stat().st_mode & 0o777 == 0o755
    assert os.listdir(root / "src") == ["a.py"]  # nothing temporary is left


@pytest.mark.parametrize(
    "path",
    [
        *(path for path in OUTSIDE if path),
        "inside/b.py",
        "dangling",
        "pipe",
        "src",
        "src/",
        ".git/config",
        "src/.GIT/hooks/pre-commit",
        ".git",
    ],
)
def test_write_file_refuses_a_path_that_leads_elsewhere(root: Path, path: str, tmp_path: Path) -> None:
    assert wrote(root, {"path": path, "content": "x"})["code"] == "path_refused"
    assert (tmp_path / "secret/key").read_text() == "canary"
    assert os.listdir(tmp_path / "secret") == ["key"]


@pytest.mark.parametrize(
    "arguments",
    [
        None,
        "not json",
        5,
        [],
        {},
        {"path": "a"},
        {"path": 1, "content": "x"},
        {"path": "", "content": "x"},
        {"path": "a" * 5000, "content": "x"},
        {"path": "a", "content": "\ud800"},
        {"path": "a", "content": None},
    ],
)
def test_rubbish_arguments_are_an_observation_and_no_crash(root: Path, arguments: object) -> None:
    assert wrote(root, arguments)["code"] == "bad_arguments"
    assert not (root / "a").exists()


def test_arguments_written_as_a_json_text_are_understood(root: Path) -> None:
    assert wrote(root, '{"path": "a", "content": "x"}')["status"] == "written"


def test_a_tool_that_does_not_exist_is_answered(root: Path) -> None:
    assert wrote(root, {}, name="rm_rf")["code"] == "unknown_tool"


def test_a_call_that_was_cut_off_is_not_run(root: Path) -> None:
    assert wrote(root, {"path": "a", "content": "x"}, fault="cut off")["code"] == "not_run"
    assert not (root / "a").exists()


def test_a_file_larger_than_the_limit_is_refused(root: Path) -> None:
    assert wrote(root, {"path": "a", "content": "x" * (CONTENT_BYTES_MAX + 1)})["code"] == "too_large"
    assert not (root / "a").exists()


def test_a_name_that_the_file_system_will_not_have_is_answered(root: Path) -> None:
    assert wrote(root, {"path": "b" * 300, "content": "x"})["code"] == "file_system"
    assert wrote(root, {"path": "src/a.py/b", "content": "x"})["code"] == "file_system"


# Statuses.


def report(status: str, output: str = "", target: str = "t") -> CheckReport:
    return CheckReport(
        kind=CheckKind.command_succeeds, target=target, status=CheckStatus(status), output=output
    )


def iterations(*statuses: str) -> list[Iteration]:
    return [Iteration(n=n + 1, status=each) for n, each in enumerate(statuses)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("is_verified", "is_model", "has_changed", "last", "expected"),
    [
        (False, True, False, "none", "skipped"),
        (False, False, True, "none", "skipped"),
        (True, True, False, "pass", "already_done"),
        (True, True, False, "fail", "no_change"),
        (True, True, False, "none", "no_change"),
        (True, True, True, "none", "unchecked"),
        (True, True, True, "pass", "verified"),
        (True, True, True, "fail", "partial_pass"),
        (True, False, False, "none", "unchecked"),
        (True, False, False, "pass", "verified"),
        (True, False, False, "fail", "partial_pass"),
    ],
)
def test_the_first_status_that_fits_is_the_results(
    is_verified: bool, is_model: bool, has_changed: bool, last: str, expected: str
) -> None:
    status = result_status(
        iterations("fail", last),
        is_verified=is_verified,
        is_model_in_repository=is_model,
        has_changed=has_changed,
    )
    assert status is ResultStatus(expected)


@pytest.mark.parametrize("status", [each for each in CheckStatus if each is not CheckStatus.passed])
def test_one_check_that_is_not_a_pass_fails_the_iteration(status: CheckStatus) -> None:
    assert iteration_status([report("pass"), report(status), report("pass")]) == "fail"


def test_what_passes_only_with_the_changed_tests_has_a_way_out() -> None:
    exposed = msgspec.structs.replace(report("pass"), with_base=CheckStatus.failed)
    again = msgspec.structs.replace(report("pass"), with_base=CheckStatus.passed)
    done = Iteration(n=1, status="fail", checks=(again, exposed))
    paths = [f"test_{n}.py" for n in range(7)]
    (said,) = way_out([done], paths)
    assert "test_4.py and 2 more: if that is the work, name it in the task's files" in said
    assert way_out([msgspec.structs.replace(done, checks=(again, report("fail")))], paths) == ()
    assert way_out([], paths) == ()


# The fix loop, without a model.


def fixed(*rounds: tuple[CheckReport, ...], attempts: int) -> tuple[list[Iteration], list[tuple[str, ...]]]:
    """Plays `rounds` of reports; the iterations, and the statuses that each build was told about."""
    told: list[tuple[str, ...]] = []
    done: list[Iteration] = []
    pending = list(rounds)

    async def build(number: int, failed: Iteration | None) -> tuple[int, int]:
        told.append(tuple(str(each.status) for each in failed.checks) if failed else ())
        return 10 * number, number

    async def verify(_is_last: bool) -> tuple[CheckReport, ...]:
        return pending.pop(0)

    asyncio.run(fix_loop.run(build, verify, attempts, done))
    return done, told


@pytest.mark.parametrize(("spent_after", "expected"), [(9, [False, False, True]), (2, [False, True])])
def test_the_checks_know_whether_no_further_try_comes(spent_after: int, expected: list[bool]) -> None:
    lasts: list[bool] = []
    built: list[int] = []

    async def build(number: int, _failed: Iteration | None) -> tuple[int, int]:
        built.append(number)
        return 0, 0

    async def verify(is_last: bool) -> tuple[CheckReport, ...]:
        lasts.append(is_last)
        return (report("fail"),)

    asyncio.run(fix_loop.run(build, verify, 2, [], lambda: len(built) >= spent_after))
    assert lasts == expected


def test_the_loop_ends_with_the_first_iteration_that_passes() -> None:
    done, told = fixed((report("fail"), report("pass")), (report("pass"), report("pass")), attempts=5)
    assert [each.status for each in done] == ["fail", "pass"]
    assert told == [(), ("fail", "pass")]
    assert [(each.n, each.tokens_in, each.tokens_out) for each in done] == [(1, 10, 1), (2, 20, 2)]


def test_the_loop_ends_when_its_attempts_are_spent() -> None:
    done, _ = fixed(*[(report("fail"),)] * 3, attempts=2)
    assert [each.status for each in done] == ["fail"] * 3


def test_without_fix_attempts_there_is_one_iteration() -> None:
    assert len(fixed((report("fail"),), attempts=0)[0]) == 1


def test_what_no_model_can_change_is_not_tried_again() -> None:
    assert len(fixed((report("refused"), report("error"), report("pass")), attempts=5)[0]) == 1


def test_without_checks_there_is_one_iteration_of_status_none() -> None:
    assert [each.status for each in fixed((), attempts=5)[0]] == ["none"]


# Bounds.


def test_a_text_is_cut_in_its_middle_within_its_bytes() -> None:
    text, dropped = cut("ä" * 1000 + "END", 200)
    assert len(text.encode()) <= 200
    assert text.startswith("ä")
    assert text.endswith("END")
    assert dropped > 1800
    assert f"{dropped} bytes left out" in text


def test_a_text_that_fits_is_left_alone() -> None:
    assert cut("ä" * 100, 200) == ("ä" * 100, 0)


def test_the_largest_result_there_can_be_fits_its_message() -> None:
    checks = tuple(
        report("fail", "x" * limits.CHECK_OUTPUT_BYTES_MAX, "t" * 4000)
        for _ in range(limits.CHECKS_MAX + limits.REPO_CHECKS_MAX)
    )
    rounds = limits.FIX_ATTEMPTS_MAX + 1
    reasons = ("ä" * limits.JUDGE_REASON_CHARS_MAX,) * limits.JUDGE_REASONS_MAX
    judged = Judgement(verdict="fail", model="m", reasons=reasons, note="ä" * limits.REASON_CHARS_MAX)
    result = TaskResult(
        status=ResultStatus.partial_pass,
        output="ä" * limits.OUTPUT_BYTES_MAX,
        backend=Backend.ollama,
        model="m",
        warnings=tuple("w" * 5000 for _ in range(200)),
        files_changed=tuple("f" * limits.PATH_CHARS_MAX for _ in range(5000)),
        tampered=tuple("f" * limits.PATH_CHARS_MAX for _ in range(5000)),
        iterations=tuple(
            Iteration(n=n + 1, status="fail", checks=checks, judgement=judged) for n in range(rounds)
        ),
    )
    smaller = fit(result)
    assert len(msgspec.msgpack.encode(smaller)) <= limits.RESULT_BYTES_MAX
    assert len(smaller.iterations) == rounds
    assert all(each.status is CheckStatus.failed for one in smaller.iterations for each in one.checks)
    assert smaller.output_truncated_bytes > 0
    assert "5000 files changed" in smaller.warnings[-2]


def test_a_small_result_is_not_touched() -> None:
    one = Iteration(n=1, status="fail", checks=(report("fail", "x" * 8000),))
    result = TaskResult(
        status=ResultStatus.partial_pass, output="o", backend=Backend.shell, model="none", iterations=(one,)
    )
    assert fit(result) == result
