"""`agentcom submit` and `agentcom demo`: a task arrives as given or is refused, and waiting has its exit codes."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import pytest

from agentcom import messages as m
from agentcom.cli import main
from agentcom.cli.demo import usable_repository
from agentcom.errors import Refused
from tests.command_line import complaint, said
from tests.fake_hub_requests import FakeHub, task


def test_a_task_with_all_options_arrives_as_given(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "submit", "fix the parser", "--tier", "standard", "--lane", "high", "--repo", "https://example.org/r.git",
        "--branch", "dev", "--file", "a.py:the bug: here", "--file", "b.py", "--criterion", "it parses",
        "--check", "file_exists=a.py", "--check", "command_succeeds=test 1 = 1", "--check", "git_clean",
        "--needs", "gpu", "--model", "qwen", "--max-retries", "2", "--fix-attempts", "0", "--timeout", "60",
        "--not-before", "2027-01-01T00:00:00Z", "--ttl", "3600", "--key", "k1", "--label", "l1", "--label", "l2",
        "--no-verify", "--json",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert said(capsys)["id"] == 7
    (spec,) = hub.asked_of(m.Submit)[0].tasks
    assert (spec.description, spec.tier, spec.lane, spec.branch) == (
        "fix the parser",
        "standard",
        "high",
        "dev",
    )
    assert [(f.path, f.reason) for f in spec.files] == [("a.py", "the bug: here"), ("b.py", "")]
    assert [(c.kind, c.target) for c in spec.checks] == [
        ("file_exists", "a.py"), ("command_succeeds", "test 1 = 1"), ("git_clean", ""),
    ]  # fmt: skip
    assert (spec.success_criteria, spec.needs, spec.labels) == (("it parses",), ("gpu",), ("l1", "l2"))
    assert (spec.max_retries, spec.max_fix_attempts, spec.timeout_s, spec.ttl_s) == (2, 0, 60, 3600)
    assert (spec.model, spec.idempotency_key, spec.verify) == ("qwen", "k1", False)
    assert (spec.repo, spec.not_before) == ("https://example.org/r.git", "2027-01-01T00:00:00Z")


def test_a_bare_task_needs_only_its_text(hub: FakeHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "say hello"]) == 0
    assert capsys.readouterr().out == "task 7 added: standard, ready\n"
    (spec,) = hub.asked_of(m.Submit)[0].tasks
    assert spec == m.TaskSpec("say hello", idempotency_key=spec.idempotency_key)


@pytest.mark.parametrize(
    ("options", "wanted"), [([], None), (["--pull-request"], True), (["--no-pull-request"], False)]
)
def test_whether_a_pull_request_is_opened_arrives_as_given(
    hub: FakeHub, options: list[str], wanted: bool | None
) -> None:
    assert main(["submit", "x", *options]) == 0
    assert hub.asked_of(m.Submit)[0].tasks[0].pull_request is wanted


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (["--lane", "fast"], "lane"),
        (["--tier", "huge"], "tier"),
        (["--check", "No kind"], "checks[0].kind"),
        (["--max-retries", "-1"], "max_retries"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused_by_field(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], options: list[str], field: str
) -> None:
    assert main(["submit", "x", *options]) == 4
    assert f"refused (invalid): {field}" in complaint(capsys)
    assert hub.asked == []


def test_beside_a_file_of_tasks_an_option_that_says_no_is_refused_too(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "tasks").write_text('{"description": "a"}\n')
    assert main(["submit", "--from", str(tmp_path / "tasks"), "--no-pull-request"]) == 2
    assert not hub.asked_of(m.Submit)


def test_json_lines_are_submitted_as_one_batch(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"description": "a"}\n\n{"description": "b"}\n'))
    )
    assert main(["submit", "--from", "-", "--json"]) == 0
    assert [each["id"] for each in said(capsys)["tasks"]] == [7, 8]
    (batch,) = hub.asked_of(m.Submit)
    assert [spec.description for spec in batch.tasks] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ('{"description": "a"}\n{"description": "b", "lane": "fast"}\n', "line 2: lane"),
        ('{"description": "a"}\n\nnot json\n', "line 3: not JSON"),
        ("[]\n", "line 1: a task is a JSON object"),
        ('{"descriptoin": "a"}\n', "line 1: descri"),
    ],
)
def test_a_bad_line_refuses_the_whole_file_and_is_named(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, part: str
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(text)
    assert main(["submit", "--from", str(file)]) == 4
    line = complaint(capsys)
    assert part in line
    assert "nothing was submitted" in line
    assert hub.asked == []


def test_the_hubs_refusal_of_a_batch_names_the_line(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hub.answers["submit"] = Refused("forbidden", "tasks[1].repo: a local path", field="tasks[1].repo")
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"description": "a"}\n\n{"description": "b", "repo": "/r"}\n')
    assert main(["submit", "--from", str(file)]) == 4
    assert "line 3: tasks[1].repo" in complaint(capsys)


@pytest.mark.parametrize(
    ("found", "code"),
    [
        (task(7), 0),
        (task(7, result={**task()["result"], "status": "already_done"}), 0),
        (task(7, result={**task()["result"], "status": "unchecked"}), 0),
        (task(7, result={**task()["result"], "status": "skipped"}), 0),
        (task(7, result={**task()["result"], "status": "partial_pass"}), 10),
        (task(7, result={**task()["result"], "status": "no_change"}), 10),
        (task(7, state="dead", result=None, error={"class": "task_error", "message": "it broke"}), 11),
        (task(7, state="cancelled", result=None), 11),
        (task(7, state="expired", result=None), 11),
    ],
)
def test_waiting_ends_with_the_code_of_the_result(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], found: dict, code: int
) -> None:
    hub.answers["task_wait"] = found
    assert main(["submit", "x", "--wait", "--json"]) == code
    assert said(capsys) == found


def test_a_task_that_is_held_is_told_once_while_waiting(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = iter([task(7, state="held", result=None), task(7, state="held", result=None), task(7)])
    hub.answers["task_wait"] = lambda op: next(answers)
    assert main(["submit", "x", "--wait", "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("is held") == 1
    assert "this goes on waiting, and Ctrl-C leaves the task held" in captured.err
    assert json.loads(captured.out)["state"] == "completed"


def test_the_demo_ends_with_0_only_when_it_was_verified(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.answers["task_wait"] = task(7)
    assert main(["demo"]) == 0
    assert "verified by Grey Area on box" in capsys.readouterr().out
    hub.answers["task_wait"] = task(7, result={**task()["result"], "status": "partial_pass"})
    assert main(["demo", "--json"]) == 1
    kinds = {check.kind for check in hub.asked_of(m.Submit)[0].tasks[0].checks}
    assert kinds == {"file_exists", "command_succeeds"}


def test_the_demo_says_so_when_the_folder_is_no_repository(
    hub: FakeHub, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    hub.answers["task_wait"] = task(7)
    assert main(["demo", "--repo", str(tmp_path)]) == 0
    assert "not a git repository with a commit, so in an empty workspace" in capsys.readouterr().out
    assert hub.asked_of(m.Submit)[0].tasks[0].repo is None


def test_a_repository_without_a_commit_is_not_usable(tmp_path: Path) -> None:
    os.system(f"git init -q {tmp_path}/r")
    assert usable_repository(tmp_path / "r") is None
    os.system(
        f"git -C {tmp_path}/r -c user.name=a -c user.email=a@example.org commit -q --allow-empty -m one"
    )
    assert usable_repository(tmp_path / "r") == str((tmp_path / "r").resolve())
