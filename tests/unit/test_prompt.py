"""What a model is told: the task's own words unchanged, and little beside them."""

from __future__ import annotations

from agentcom import limits
from agentcom.model import CheckKind, CheckReport, CheckSpec, CheckStatus, FileRef, Iteration, TaskSpec
from agentcom_sidecar import prompt

TOKENS_ADDED_MAX = 500
CHARS_PER_TOKEN = 3  # cautious: English has more than four


def first_message(spec: TaskSpec) -> str:
    return prompt.task_text(spec, spec.checks if spec.verify else ())


def tokens_added(spec: TaskSpec) -> float:
    """Our own share of the first request: everything but the words of the task."""
    own = len(spec.description) + sum(map(len, spec.success_criteria))
    own += sum(len(file.path) + len(file.reason) for file in spec.files)
    own += sum(len(check.kind) + len(check.target) for check in spec.checks)
    return (len(prompt.SYSTEM) + len(first_message(spec)) - own) / CHARS_PER_TOKEN


def full_spec() -> TaskSpec:
    kinds = list(CheckKind)
    return TaskSpec(
        description="Do it.",
        success_criteria=tuple(f"criterion {n}" for n in range(limits.CRITERIA_MAX)),
        files=tuple(FileRef(path=f"src/{n}.py", reason=f"reason {n}") for n in range(limits.FILES_MAX)),
        checks=tuple(CheckSpec(kind=kinds[n % 4], target=f"t{n}") for n in range(limits.CHECKS_MAX)),
    )


def test_we_add_fewer_than_500_tokens_to_a_bare_task() -> None:
    assert tokens_added(TaskSpec(description="Say hello.")) < TOKENS_ADDED_MAX


def test_we_add_fewer_than_500_tokens_to_a_task_with_every_list_full() -> None:
    assert tokens_added(full_spec()) < TOKENS_ADDED_MAX


def test_a_bare_task_is_its_description_and_nothing_else() -> None:
    text = "  Füge  hinzu:\n\ttabs, trailing spaces  \n\n"
    assert first_message(TaskSpec(description=text)) == text


def test_every_word_of_a_rich_task_is_there_unchanged() -> None:
    spec = full_spec()
    text = first_message(spec)
    assert text.startswith("Do it.\n")
    assert all(criterion in text.splitlines() for criterion in spec.success_criteria)
    assert all(f"{file.path}: {file.reason}" in text.splitlines() for file in spec.files)
    assert all(f"{check.kind}: {check.target}" in text.splitlines() for check in spec.checks)


def test_checks_that_will_not_run_are_not_announced() -> None:
    spec = TaskSpec(description="d", verify=False, checks=(CheckSpec(kind=CheckKind.git_clean),))
    assert first_message(spec) == "d"


def report(kind: str, target: str, status: str, output: str = "") -> CheckReport:
    return CheckReport(kind=CheckKind(kind), target=target, status=CheckStatus(status), output=output)


def test_failing_checks_go_back_with_their_output_and_passing_ones_are_named_to_be_kept() -> None:
    text = prompt.fix_text(
        [
            report("file_exists", "a.txt", "pass", "12 bytes"),
            report("test_passes", "pytest -q", "fail", "E assert 1 == 2"),
            report("command_succeeds", "make", "timed_out", "..."),
        ]
    )
    failing, kept = text.split("keep them passing:")
    assert "test_passes: pytest -q (fail)\nE assert 1 == 2" in failing
    assert "command_succeeds: make (timed_out)" in failing
    assert "file_exists: a.txt" in kept
    assert "file_exists" not in failing


def test_the_end_of_a_long_output_is_what_the_model_sees() -> None:
    text = prompt.fix_text([report("command_succeeds", "x", "fail", "a" * 100_000 + "THE END")])
    assert text.endswith("THE END")
    assert len(text) < prompt.FAILURE_CHARS_MAX + 300


def test_many_failing_checks_share_one_bound() -> None:
    reports = [report("command_succeeds", f"c{n}", "fail", "a" * 9_000) for n in range(limits.CHECKS_MAX)]
    text = prompt.fix_text(reports)
    assert len(text) < prompt.FAILURES_CHARS_MAX + limits.CHECKS_MAX * 60
    assert all(f"command_succeeds: c{n} (fail)" in text for n in range(limits.CHECKS_MAX))


def test_the_tries_before_are_listed_with_what_was_said_and_what_failed() -> None:
    tests = report("test_passes", "pytest", "fail", "E")
    first = prompt.try_line("I turned\n the sign.", failed(tests, report("git_clean", "", "pass")), has_changed=True)
    second = prompt.try_line("", failed(tests), has_changed=False)
    tried = prompt.fix_text([tests], [first, second]).split("do not repeat it:\n")[1]
    assert tried.splitlines() == [
        "1. I turned the sign. -> failed: test_passes (fail)",
        "2. (nothing was said) -> failed, without a change to any file: test_passes (fail)",
    ]


def test_many_tries_and_long_words_stay_within_their_bound() -> None:
    checks = [report("command_succeeds", f"c{n}", "fail") for n in range(limits.CHECKS_MAX)]
    line = prompt.try_line("word " * 10_000, failed(*checks), has_changed=True)
    assert len(line) < prompt.TRIED_CHARS_MAX + 250
    assert line.endswith(f"and {limits.CHECKS_MAX - prompt.TRIES_SHOWN_MAX} more")
    text = prompt.fix_text([], [line] * limits.FIX_ATTEMPTS_MAX)
    assert text.splitlines()[-1].startswith(f"{limits.FIX_ATTEMPTS_MAX}. ")
    assert text.count("-> failed") == prompt.TRIES_SHOWN_MAX


def failed(*checks: CheckReport) -> Iteration:
    return Iteration(n=1, status="fail", checks=checks)
