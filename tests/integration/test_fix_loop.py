"""Build, verify, fix with a scripted model on a real repository: it really mends its work, or the report says not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentcom.model import CheckStatus, FailureClass, ResultStatus, Role, Strategy, TaskSpec
from tests.sources import BROKEN, MENDED, TESTS, write
from tests.standins import StandIn
from tests.works import Ran, check, repository, run_attempt, settings

MODEL = "llama3.2:latest"


def ran(folder: Path, server: StandIn, *replies: dict[str, Any], **options: Any) -> Ran:
    server.set_script({"models": [{"name": MODEL, "warm": True}], "replies": list(replies)})
    checks = options.pop("checks", ())
    repo = str(repository(folder / "repo")) if options.pop("has_repository", True) else None
    spec = TaskSpec(
        description="Write calc.add.", repo=repo, checks=checks, verify=options.pop("verify", True)
    )
    options = {"endpoint_url": server.url, "model": MODEL, **options}
    return run_attempt(folder, Strategy.local_llm, spec, **options)


def user_messages(server: StandIn) -> list[str]:
    messages = server.log("/api/chat")[-1]["body"]["messages"]
    return [message["content"] for message in messages if message["role"] == "user"]


def test_a_model_mends_its_work_on_the_second_try(tmp_path: Path, server: StandIn) -> None:
    checks = (check("test_passes", timeout_s=60), check("file_exists", "calc.py"), check("git_clean"))
    one = ran(
        tmp_path,
        server,
        write("test_calc.py", TESTS),
        write("calc.py", BROKEN),
        {"content": "Done."},
        write("calc.py", MENDED),
        {"content": "Mended."},
        checks=checks,
    )
    assert one.completed.status is ResultStatus.verified
    first, second = one.iterations
    failed, passed = CheckStatus.failed, CheckStatus.passed
    assert (first.status, [each.status for each in first.checks]) == ("fail", [failed, passed, passed])
    assert (second.status, [each.status for each in second.checks]) == ("pass", [passed] * 3)
    assert "assert 0 == 4" in first.checks[0].output
    assert "1 tests passed" in second.checks[0].output
    assert one.result.files_changed == ("calc.py", "test_calc.py")
    assert one.result.output == "Mended."
    assert first.tokens_in + second.tokens_in == one.result.tokens_in
    assert first.tokens_out + second.tokens_out == one.result.tokens_out
    assert 0 < first.tokens_out < one.result.tokens_out
    task, complaint = user_messages(server)
    assert task.startswith("Write calc.add.")
    failing, kept = complaint.split("keep them passing:")
    assert "assert 0 == 4" in failing
    assert "file_exists: calc.py" in kept
    assert complaint.endswith("do not repeat it:\n1. Done. -> failed: test_passes (fail)")


def test_work_that_stays_broken_ends_as_a_partial_pass_with_every_iteration(
    tmp_path: Path, server: StandIn
) -> None:
    checks = (check("command_succeeds", "echo no; false"), check("file_exists", "a.txt"))
    one = ran(tmp_path, server, write("a.txt", "1"), {"content": "ok"}, checks=checks, max_fix_attempts=3)
    assert one.completed.status is ResultStatus.partial_pass
    assert [each.n for each in one.iterations] == [1, 2, 3, 4]
    assert {each.status for each in one.iterations} == {"fail"}


def test_every_try_before_is_listed_in_the_message_to_fix_it(tmp_path: Path, server: StandIn) -> None:
    replies = (write("a.txt", "1"), {"content": "First idea."}, {"content": "Second idea."}, {"content": "Third."})
    ran(tmp_path, server, *replies, checks=(check("file_exists", "b.txt"),))
    tried = user_messages(server)[-1].split("do not repeat it:\n")[1]
    assert tried.splitlines() == [
        "1. First idea. -> failed: file_exists (fail)",
        "2. Second idea. -> failed, without a change to any file: file_exists (fail)",
    ]


def test_without_fix_attempts_the_model_is_asked_once(tmp_path: Path, server: StandIn) -> None:
    checks = (check("file_exists", "b.txt"),)
    one = ran(tmp_path, server, write("a.txt", "1"), {"content": "ok"}, checks=checks, max_fix_attempts=0)
    assert one.completed.status is ResultStatus.partial_pass
    assert len(one.iterations) == 1


def test_a_model_that_changes_no_file_and_fails_its_checks_made_no_change(
    tmp_path: Path, server: StandIn
) -> None:
    one = ran(tmp_path, server, {"content": "All fine."}, checks=(check("file_exists", "b.txt"),))
    assert one.completed.status is ResultStatus.no_change
    assert len(one.iterations) == 3  # it was asked to fix it, and did nothing again
    assert (one.result.commit, one.result.files_changed) == (None, ())


def test_a_model_that_changes_no_file_because_all_passes_found_it_already_done(
    tmp_path: Path, server: StandIn
) -> None:
    one = ran(tmp_path, server, {"content": "Nothing to do."}, checks=(check("file_exists", "README.md"),))
    assert one.completed.status is ResultStatus.already_done


def test_a_model_that_writes_what_was_there_changed_nothing(tmp_path: Path, server: StandIn) -> None:
    one = ran(tmp_path, server, write("README.md", "hello\n"), {"content": "Done."})
    assert one.completed.status is ResultStatus.no_change


def test_without_a_repository_an_answer_alone_is_unchecked(tmp_path: Path, server: StandIn) -> None:
    one = ran(tmp_path, server, {"content": "42"}, has_repository=False)
    assert (one.completed.status, one.result.output) == (ResultStatus.unchecked, "42")
    assert (one.result.branch, one.result.commit) == (None, None)


def test_checks_that_were_waived_are_not_run_and_nothing_is_fixed(tmp_path: Path, server: StandIn) -> None:
    one = ran(
        tmp_path, server, write("a", "1"), {"content": "ok"}, checks=(check("git_clean"),), verify=False
    )
    assert one.completed.status is ResultStatus.skipped
    assert [(each.status, each.checks) for each in one.iterations] == [("none", ())]


def test_a_server_that_fails_during_a_fix_leaves_what_was_done_in_the_report(
    tmp_path: Path, server: StandIn
) -> None:
    replies = (write("a.txt", "1"), {"content": "ok"}, {"fault": "503"})
    one = ran(tmp_path, server, *replies, checks=(check("file_exists", "b.txt"),))
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.infrastructure, "endpoint_busy")
    assert [each.status for each in one.iterations] == ["fail"]
    assert one.result.status is ResultStatus.partial_pass
    assert one.result.files_changed == ("a.txt",)


def test_a_check_that_no_model_can_change_is_not_sent_back(tmp_path: Path, server: StandIn) -> None:
    one = ran(tmp_path, server, write("a", "1"), {"content": "ok"}, checks=(check("file_exists", "../x"),))
    assert one.completed.status is ResultStatus.partial_pass
    assert [each.status for each in one.iterations[0].checks] == [CheckStatus.refused]
    assert len(one.iterations) == 1


def test_a_submitters_command_checks_are_refused_before_the_model_costs_anything(
    tmp_path: Path, server: StandIn
) -> None:
    before = len(server.log("/api/chat"))
    checks = (check("command_succeeds", "true"),)
    one = ran(
        tmp_path, server, checks=checks, role=Role.submit, has_repository=False, given=settings(mode="off")
    )
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.configuration, "unisolated_refused")
    assert len(server.log("/api/chat")) == before


def test_a_submitters_task_without_commands_runs(tmp_path: Path, server: StandIn) -> None:
    replies = (write("a.txt", "1"), {"content": "ok"})
    checks = (check("file_exists", "a.txt"),)
    one = ran(tmp_path, server, *replies, checks=checks, role=Role.submit, has_repository=False)
    assert one.completed.status is ResultStatus.verified


def test_a_test_command_that_runs_no_test_is_no_evidence(tmp_path: Path, server: StandIn) -> None:
    checks = (check("test_passes", "echo all tests passed"), check("test_passes", "echo 2 passed in 0.1s"))
    replies = (write("a.txt", "1"), {"content": "ok"})
    one = ran(tmp_path, server, *replies, checks=checks, max_fix_attempts=0)
    assert one.completed.status is ResultStatus.partial_pass
    found = [each.status for each in one.iterations[0].checks]
    assert found == [CheckStatus.no_evidence, CheckStatus.passed]


def test_what_a_check_leaves_behind_is_seen_by_git_clean(tmp_path: Path, server: StandIn) -> None:
    checks = (check("git_clean"), check("command_succeeds", "echo junk > junk.txt"), check("git_clean"))
    replies = (write("a.txt", "1"), {"content": "ok"})
    one = ran(tmp_path, server, *replies, checks=checks, max_fix_attempts=0)
    found = [each.status for each in one.iterations[0].checks]
    assert found == [CheckStatus.passed, CheckStatus.passed, CheckStatus.failed]
    assert "junk.txt" in one.iterations[0].checks[2].output


def test_what_checks_leave_behind_does_not_become_part_of_the_work(tmp_path: Path, server: StandIn) -> None:
    checks = (check("command_succeeds", "touch litter.log; echo spoilt > a.txt; test -e b.txt"),)
    one = ran(
        tmp_path,
        server,
        write("a.txt", "1"),
        {"content": "ok"},
        write("b.txt", "2"),
        {"content": "ok"},
        checks=checks,
    )
    assert one.completed.status is ResultStatus.verified
    assert one.result.files_changed == ("a.txt", "b.txt")
