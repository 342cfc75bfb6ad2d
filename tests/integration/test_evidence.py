"""What a result proves: checks run on the base first, and again with its tests where an attempt changed those."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentcom import limits
from agentcom.model import (
    CheckKind,
    CheckReport,
    CheckSpec,
    CheckStatus,
    Evidence,
    FileRef,
    ResultStatus,
    Strategy,
    TaskSpec,
)
from agentcom_sidecar import verify
from agentcom_sidecar.verify.report import report
from agentcom_sidecar.work import Work
from tests.sources import BROKEN, MENDED, TESTS, write
from tests.standins import StandIn
from tests.works import Ran, check, repository, run_attempt, settings

MODEL = "llama3.2:latest"
EMPTIED = "def test_add():\n    assert True\n"
IN_SHELL = "grep -q 'a + b' calc.py || exit 1\n"
SKIPPING = "collect_ignore_glob = ['test_calc.py']\n"
PASSED, FAILED = CheckStatus.passed, CheckStatus.failed


def ran(folder: Path, server: StandIn, *replies: dict[str, Any], **options: Any) -> Ran:
    """A model at work in a repository whose calc.py is broken and has a test that shows it."""
    files = options.pop("has", {"calc.py": BROKEN, "test_calc.py": TESTS})
    server.set_script({"models": [{"name": MODEL, "warm": True}], "replies": list(replies)})
    spec = TaskSpec(
        description="Mend calc.add.",
        repo=str(repository(folder / "repo", files=files)),
        checks=options.pop("checks", (check("test_passes", timeout_s=60), check("git_clean"))),
        files=options.pop("named", ()),
    )
    options = {"endpoint_url": server.url, "model": MODEL, "max_fix_attempts": 0, **options}
    return run_attempt(folder, Strategy.local_llm, spec, **options)


def test_a_check_that_failed_before_the_work_and_passes_after_it_is_evidence(
    tmp_path: Path, server: StandIn
) -> None:
    one = ran(tmp_path, server, write("calc.py", MENDED), {"content": "Mended."})
    assert (one.completed.status, one.result.evidence) == (ResultStatus.verified, Evidence.red_to_green)
    tests, clean = one.iterations[-1].checks
    assert (tests.before, tests.status, tests.with_base) == (FAILED, PASSED, None)
    assert (clean.before, clean.status) == (PASSED, PASSED)
    assert one.result.durations_ms["base_checks"] > 0
    assert one.result.tampered == ()


def test_a_check_that_passed_before_as_well_is_no_new_evidence(tmp_path: Path, server: StandIn) -> None:
    has = {"calc.py": MENDED, "test_calc.py": TESTS}
    one = ran(tmp_path, server, write("notes.txt", "1"), {"content": "ok"}, has=has)
    assert (one.completed.status, one.result.evidence) == (ResultStatus.verified, Evidence.green_to_green)


def test_work_that_mends_nothing_is_red_to_red_and_work_that_breaks_is_green_to_red(
    tmp_path: Path, server: StandIn
) -> None:
    (tmp_path / "a").mkdir()
    one = ran(tmp_path / "a", server, write("notes.txt", "1"), {"content": "ok"})
    assert (one.completed.status, one.result.evidence) == (ResultStatus.partial_pass, Evidence.red_to_red)
    (tmp_path / "b").mkdir()
    has = {"calc.py": MENDED, "test_calc.py": TESTS}
    other = ran(tmp_path / "b", server, write("calc.py", BROKEN), {"content": "ok"}, has=has)
    assert (other.completed.status, other.result.evidence) == (
        ResultStatus.partial_pass,
        Evidence.green_to_red,
    )


@pytest.mark.parametrize(
    ("answers_after_ms", "before", "evidence"),
    [(500, CheckStatus.timed_out, Evidence.red_to_green), (21_000, None, None)],
)
def test_on_the_base_a_server_is_not_waited_for_its_whole_time(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    answers_after_ms: int,
    before: CheckStatus | None,
    evidence: Evidence | None,
) -> None:
    """And of one that takes longer than that to answer nobody knows what it would have said there."""
    waited: list[int] = []

    async def ask(spec: CheckSpec, work: Work) -> CheckReport:
        waited.append(spec.timeout_s)
        has_done = (work.workspace.path / "done").exists()
        return report(spec, PASSED if has_done else CheckStatus.timed_out, "", answers_after_ms)

    monkeypatch.setitem(verify.CHECKS, CheckKind.http_responds, ask)
    served = CheckSpec(kind=CheckKind.http_responds, target="http://127.0.0.1:9/", command="serve", timeout_s=300)
    repo = str(repository(tmp_path / "repo"))
    spec = TaskSpec(description="Serve.", repo=repo, command="touch done", checks=(served,))
    one = run_attempt(tmp_path, Strategy.trivial, spec)
    assert waited == [limits.BASE_ANSWER_S_MAX, 300]
    assert (one.completed.status, one.result.evidence) == (ResultStatus.verified, evidence)
    assert one.iterations[-1].checks[0].before is before


def test_what_the_checks_leave_behind_on_the_base_is_not_part_of_the_work(
    tmp_path: Path, server: StandIn
) -> None:
    has = {".gitignore": "built\n", "README.md": "hello\n"}
    checks = (check("command_succeeds", "touch built left; echo spoilt > README.md; test -e a.txt"),)
    one = ran(tmp_path, server, write("a.txt", "1"), {"content": "ok"}, has=has, checks=checks)
    assert (one.completed.status, one.result.evidence) == (ResultStatus.verified, Evidence.red_to_green)
    assert one.result.files_changed == ("a.txt",)


def test_an_attempt_that_edits_the_test_instead_of_the_code_is_exposed(
    tmp_path: Path, server: StandIn
) -> None:
    one = ran(tmp_path, server, write("test_calc.py", EMPTIED), {"content": "All green."})
    assert (one.completed.status, one.result.evidence) == (ResultStatus.partial_pass, Evidence.red_to_red)
    assert one.result.tampered == ("test_calc.py",)
    tests = one.iterations[-1].checks[0]
    assert (tests.before, tests.status, tests.with_base) == (FAILED, PASSED, FAILED)
    assert "assert 0 == 4" in tests.output
    way_out = "checks pass only with what was changed in test_calc.py: if that is the work, name it in the task's files"
    assert any(each.startswith(way_out) for each in one.result.warnings)
    assert (one.path / "test_calc.py").read_text() == EMPTIED, "the branch shows what the attempt made"


def test_an_attempt_that_turns_the_tests_off_by_a_new_setting_is_exposed(
    tmp_path: Path, server: StandIn
) -> None:
    other = "def test_nothing():\n    assert True\n"
    replies = (write("conftest.py", SKIPPING), write("test_other.py", other), {"content": "All green."})
    one = ran(tmp_path, server, *replies)
    assert one.completed.status is ResultStatus.partial_pass
    assert one.result.tampered == ("conftest.py", "test_other.py")
    assert one.iterations[-1].checks[0].with_base is FAILED


def test_a_setting_that_git_ignores_is_in_force_only_here_and_is_exposed(tmp_path: Path, server: StandIn) -> None:
    other = "def test_nothing():\n    assert True\n"
    has = {"calc.py": BROKEN, "test_calc.py": TESTS, ".gitignore": "conftest.py\n"}
    replies = (write("conftest.py", SKIPPING), write("test_other.py", other), {"content": "All green."})
    one = ran(tmp_path, server, *replies, has=has)
    assert one.completed.status is ResultStatus.partial_pass
    assert one.result.tampered == ("conftest.py", "test_other.py")
    tests = one.iterations[-1].checks[0]
    assert (tests.status, tests.with_base) == (PASSED, FAILED)


@pytest.mark.parametrize("path", ["pytest.py", "unittest/__init__.py", "argparse.py"])
def test_a_module_that_runs_in_the_place_of_pytest_is_exposed(tmp_path: Path, server: StandIn, path: str) -> None:
    cheat = "import os\nprint('1 passed in 0.1s', flush=True)\nos._exit(0)\n"
    one = ran(tmp_path, server, write(path, cheat), {"content": "All green."})
    assert (one.completed.status, one.result.evidence) == (ResultStatus.partial_pass, Evidence.red_to_red)
    assert one.result.tampered == (path,)
    tests = one.iterations[-1].checks[0]
    assert (tests.before, tests.status, tests.with_base) == (FAILED, PASSED, FAILED)


def test_a_package_that_git_ignores_and_that_runs_in_the_place_of_pytest_is_exposed(
    tmp_path: Path, server: StandIn
) -> None:
    cheat = "import os\nprint('1 passed in 0.1s', flush=True)\nos._exit(0)\n"
    has = {"calc.py": BROKEN, "test_calc.py": TESTS, ".gitignore": "pytest/\nsite/\n"}
    replies = (write("pytest/__init__.py", cheat), write("site/index.html", "hello"), {"content": "All green."})
    one = ran(tmp_path, server, *replies, has=has)
    assert one.result.tampered == ("pytest/__init__.py",)
    tests = one.iterations[-1].checks[0]
    assert (tests.status, tests.with_base) == (PASSED, FAILED)


def test_a_package_may_have_a_module_with_the_name_of_one_of_pythons(tmp_path: Path, server: StandIn) -> None:
    replies = (write("calc.py", MENDED), write("shapes/types.py", "A = 1\n"), {"content": "Mended."})
    one = ran(tmp_path, server, *replies)
    assert (one.completed.status, one.result.tampered) == (ResultStatus.verified, ())


def test_a_test_that_moves_head_while_it_runs_hides_nothing(tmp_path: Path, server: StandIn) -> None:
    cheat = "import subprocess\n\n\ndef test_add():\n    subprocess.run('git reset -q --soft HEAD~1', shell=True)\n"
    replies = (write("test_calc.py", cheat), {"content": "All green."})
    one = ran(tmp_path, server, *replies, checks=(check("test_passes", timeout_s=60), check("diff_within", "docs/**")))
    assert one.completed.status is ResultStatus.partial_pass
    assert one.result.tampered == ("test_calc.py",)
    tests, within = one.iterations[-1].checks
    assert (tests.status, within.status) == (PASSED, FAILED), "the next check sees the work all the same"
    assert "moved HEAD away" in one.log


def test_a_model_that_is_told_of_it_can_still_do_the_work(tmp_path: Path, server: StandIn) -> None:
    replies = (
        write("test_calc.py", EMPTIED),
        {"content": "All green."},
        write("calc.py", MENDED),
        {"content": "Mended."},
    )
    one = ran(tmp_path, server, *replies, max_fix_attempts=1)
    assert (one.completed.status, one.result.evidence) == (ResultStatus.verified, Evidence.red_to_green)
    assert [each.status for each in one.iterations] == ["fail", "pass"]
    assert one.result.tampered == ("test_calc.py",), "it is told all the same"
    assert one.iterations[-1].checks[0].with_base is PASSED
    complaint = server.log("/api/chat")[-1]["body"]["messages"]
    said = [each["content"] for each in complaint if each["role"] == "user"][-1]
    assert "fail with the tests and settings as they were: you changed test_calc.py; undo that" in said


def test_a_check_that_fails_at_the_end_has_both_verdicts_too(tmp_path: Path, server: StandIn) -> None:
    spoilt = write("test_calc.sh", "echo spoilt; exit 1\n")
    replies = (write("calc.py", MENDED), spoilt, {"content": "Mended."}, {"content": "It is."})
    checks = (check("command_succeeds", "sh test_calc.sh"), check("git_clean"))
    has = {"calc.py": BROKEN, "test_calc.sh": IN_SHELL}
    one = ran(tmp_path, server, *replies, max_fix_attempts=1, checks=checks, has=has)
    assert (one.completed.status, one.result.tampered) == (ResultStatus.partial_pass, ("test_calc.sh",))
    first, last = ([(each.status, each.with_base) for each in done.checks] for done in one.iterations)
    assert first == [(FAILED, None), (PASSED, None)], "what is tried again is not run twice"
    assert last == [(FAILED, PASSED), (PASSED, None)]
    assert "spoilt" in one.iterations[-1].checks[0].output


PATCHING = "import calc\n\ncalc.add = lambda a, b: a + b\n\n\ndef test_nothing():\n    assert True\n"


def test_a_new_test_that_patches_what_the_others_look_at_is_exposed(tmp_path: Path, server: StandIn) -> None:
    one = ran(tmp_path, server, write("test_aaa.py", PATCHING), {"content": "All green."})
    assert (one.completed.status, one.result.tampered) == (ResultStatus.partial_pass, ("test_aaa.py",))
    tests, _ = one.iterations[-1].checks
    assert (tests.status, tests.with_base) == (PASSED, FAILED)


def test_a_new_test_beside_the_right_work_is_told_and_changes_nothing(tmp_path: Path, server: StandIn) -> None:
    more = "import calc\n\n\ndef test_more():\n    assert calc.add(2, 2) == 4\n"
    replies = (write("calc.py", MENDED), write("test_more.py", more), {"content": "Mended, with a test."})
    one = ran(tmp_path, server, *replies)
    assert (one.completed.status, one.result.tampered) == (ResultStatus.verified, ("test_more.py",))
    asked = check("command_succeeds", f"{sys.executable} -m pytest -q test_more.py", timeout_s=60)
    (tmp_path / "asked").mkdir()
    one = ran(tmp_path / "asked", server, *replies, checks=(asked,))
    assert (one.completed.status, one.result.tampered) == (ResultStatus.verified, ()), "the check asks for it"


def test_what_has_not_ended_is_not_waited_for_twice(tmp_path: Path, server: StandIn) -> None:
    replies = (write("test_calc.sh", "sleep 60\n"), {"content": "It is."})
    has = {"calc.py": BROKEN, "test_calc.sh": IN_SHELL}
    late = check("command_succeeds", "sh test_calc.sh", timeout_s=1)
    one = ran(tmp_path, server, *replies, max_fix_attempts=0, checks=(late,), has=has)
    assert one.result.tampered == ("test_calc.sh",)
    (shown,) = one.iterations[-1].checks
    assert (shown.status, shown.with_base) == (CheckStatus.timed_out, None)


def test_a_task_that_names_a_test_has_it_changed_without_a_word(tmp_path: Path, server: StandIn) -> None:
    named = (FileRef(path="test_calc.py", reason="is wrong"),)
    one = ran(tmp_path, server, write("test_calc.py", EMPTIED), {"content": "ok"}, named=named)
    assert (one.completed.status, one.result.tampered) == (ResultStatus.verified, ())


@pytest.mark.parametrize("ignored", ["", "test_other.py\n"])
def test_new_tests_for_another_runner_do_not_take_the_place_of_the_bases(
    tmp_path: Path, server: StandIn, ignored: str
) -> None:
    has = {"calc.py": BROKEN, "Makefile": "test:\n\t@echo 1 failed; exit 1\n", ".gitignore": ignored}
    replies = (write("test_other.py", "def test_nothing():\n    assert True\n"), {"content": "All green."})
    one = ran(tmp_path, server, *replies, has=has, checks=(check("test_passes", timeout_s=60),))
    tests = one.iterations[-1].checks[0]
    assert (tests.before, tests.status, tests.target) == (FAILED, FAILED, "")
    assert "ran: make test" in tests.output


def test_what_a_check_asks_of_a_judging_file_is_asked_of_the_work(tmp_path: Path, server: StandIn) -> None:
    """A task may want a workflow or a new test: no base could have it. The other checks are run with the base's."""
    checks = (
        check("file_exists", ".github/workflows/"),
        CheckSpec(kind=CheckKind.file_contains, target="./test_calc.sh", expect="grep -q return"),
        check("command_succeeds", "sh test_calc.sh"),
    )
    replies = (
        write(".github/workflows/ci.yml", "on: push\n"),
        write("test_calc.sh", f"{IN_SHELL}grep -q return calc.py\n"),
        write("calc.py", MENDED),
        {"content": "Done."},
    )
    one = ran(tmp_path, server, *replies, checks=checks, has={"calc.py": BROKEN, "test_calc.sh": IN_SHELL})
    said = [(each.status, each.with_base) for each in one.iterations[-1].checks]
    assert said == [(PASSED, None), (PASSED, None), (PASSED, PASSED)]
    assert one.completed.status is ResultStatus.verified
    assert one.result.tampered == (".github/workflows/ci.yml", "test_calc.sh")
    assert one.result.warnings == ()


@pytest.mark.parametrize("has", [{}, {"check.sh": "false\n", "Makefile": "test:\n\tsh check.sh\n"}])
def test_a_project_may_be_begun_with_what_runs_its_tests(tmp_path: Path, has: dict[str, str]) -> None:
    """Where the base had no tests and nothing to run any, no judge is replaced."""
    repo = str(repository(tmp_path / "repo", {"calc.py": MENDED, **has}))
    text = "test:\n\t@echo 1 passed in 0.1s\n"
    path = "GNUmakefile" if has else "Makefile"  # make reads the former first
    checks = (check("test_passes", "make test", timeout_s=60),)
    spec = TaskSpec(description="Begin.", repo=repo, command=f"printf '{text}' > {path}", checks=checks)
    one = run_attempt(tmp_path, Strategy.trivial, spec)
    exposed = (ResultStatus.partial_pass, ("GNUmakefile",), FAILED)
    report = one.iterations[-1].checks[0]
    seen = one.completed.status, one.result.tampered, report.with_base
    assert (report.before, report.status) == (FAILED, PASSED)
    assert seen == (exposed if has else (ResultStatus.verified, (), None))


def test_a_deleted_test_is_back_for_the_second_run(tmp_path: Path, server: StandIn) -> None:
    has = {"calc.py": BROKEN, "test_calc.py": TESTS, "test_other.py": EMPTIED}
    command = "rm test_calc.py"
    server.set_script({"models": [{"name": MODEL, "warm": True}]})
    spec = TaskSpec(
        description="Tidy up.",
        repo=str(repository(tmp_path / "repo", files=has)),
        command=command,
        checks=(check("test_passes", timeout_s=60),),
    )
    one = run_attempt(tmp_path, Strategy.trivial, spec)
    assert (one.completed.status, one.result.tampered) == (ResultStatus.partial_pass, ("test_calc.py",))
    assert not (one.path / "test_calc.py").exists()


def test_the_base_is_not_looked_at_where_the_host_does_not_want_it(tmp_path: Path, server: StandIn) -> None:
    given = settings()
    sidecar = msgspec.structs.replace(given.sidecar, red_first=False)
    given = msgspec.structs.replace(given, sidecar=sidecar)
    one = ran(tmp_path, server, write("calc.py", MENDED), {"content": "Mended."}, given=given)
    assert (one.completed.status, one.result.evidence) == (ResultStatus.verified, None)
    assert "base_checks" not in one.result.durations_ms


def test_a_compiled_file_that_lies_in_the_worktree_is_not_run_in_place_of_its_source(
    tmp_path: Path, server: StandIn
) -> None:
    """Python trusts one that says that nobody has to compare it: what it does would be in no commit."""
    plant = (
        "import py_compile, importlib.util as u; from pathlib import Path; "
        f"Path('mended').write_text({MENDED!r}); "
        "py_compile.compile('mended', u.cache_from_source('calc.py'), "
        "invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH); "
        "Path('mended').unlink(); Path('.gitignore').write_text('__pycache__')"
    )
    argv = f"python3 -c {shlex.quote(plant)}"
    call = {"name": "run_command", "arguments": {"command": f"env -u PYTHONPYCACHEPREFIX {argv}"}}
    one = ran(tmp_path, server, {"tool_calls": [call]}, {"content": "ok"})
    assert any(tmp_path.rglob("__pycache__/calc.*.pyc")), one.log
    assert one.iterations[-1].checks[0].status is FAILED
    assert one.completed.status is not ResultStatus.verified
