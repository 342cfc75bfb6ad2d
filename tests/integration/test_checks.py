"""Each kind of check on real files, real commits, a real server."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentcom import limits
from agentcom.model import CheckKind, CheckReport, CheckSpec, CheckStatus, ResultStatus, Strategy, TaskSpec
from agentcom_sidecar.verify.diff_within import pattern_of
from agentcom_sidecar.verify.no_secrets import FORMS, secrets_in
from tests.works import Ran, repository, run_attempt, settings

TOKEN = "ghp_" + "a1B2" * 9  # in the form of one, and none
HAS = {
    "README.md": "# Tool\n\n## Install\n",
    "old.txt": f"token {TOKEN}\nsecond\n",
    "data.json": '{"a": 1}\n',
}
SERVER = f"exec {sys.executable} -m http.server --bind 127.0.0.1"


def ran(folder: Path, command: str, *checks: dict[str, Any]) -> Ran:
    specs = tuple(CheckSpec(**{"timeout_s": 20, **each, "kind": CheckKind(each["kind"])}) for each in checks)
    repo = str(repository(folder / "repo", files=HAS))
    spec = TaskSpec(description="work", command=command, repo=repo, checks=specs)
    return run_attempt(folder, Strategy.trivial, spec)


def reports(folder: Path, command: str, *checks: dict[str, Any]) -> list[CheckReport]:
    return list(ran(folder, command, *checks).iterations[-1].checks)


def statuses(found: list[CheckReport]) -> list[str]:
    return [str(each.status) for each in found]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_file_contains_finds_a_text_as_it_stands_and_says_in_which_line(tmp_path: Path) -> None:
    found = reports(
        tmp_path,
        "ln -s /etc/hostname out",
        {"kind": "file_contains", "target": "README.md", "expect": "## Install"},
        {"kind": "file_contains", "target": "README.md", "expect": ".*"},
        {"kind": "file_contains", "target": "none.md", "expect": "x"},
        {"kind": "file_contains", "target": "out", "expect": ""},
    )
    assert statuses(found) == ["pass", "fail", "fail", "refused"]
    assert found[0].output == "README.md, line 3"


def test_json_valid_wants_one_document(tmp_path: Path) -> None:
    command = "echo '{\"a\": 1,}' > bad.json; printf '%0200000d' 0 | tr 0 '[' > deep.json; mkdir folder"
    found = reports(
        tmp_path,
        command,
        *({"kind": "json_valid", "target": t} for t in ("data.json", "bad.json", "deep.json", "folder")),
    )
    assert statuses(found) == ["pass", "fail", "fail", "fail"]


def test_diff_within_counts_lines_and_looks_at_every_path(tmp_path: Path) -> None:
    command = "mkdir src docs; seq 10 > src/a.py; seq 5 > docs/b.md; rm old.txt"
    found = reports(
        tmp_path,
        command,
        {"kind": "diff_within", "target": "src/** docs/*.md *.txt", "expect": "17"},
        {"kind": "diff_within", "target": "", "expect": "16"},
        {"kind": "diff_within", "target": "src/** docs/**"},
    )
    assert statuses(found) == ["pass", "fail", "fail"]
    assert found[1].output == "17 lines changed, 16 are allowed"
    assert found[2].output == "outside of src/** docs/**: old.txt"


@pytest.mark.parametrize(
    ("glob", "path", "fits"),
    [
        ("src/**", "src/a/b.py", True),
        ("src/*", "src/a/b.py", False),
        ("**/*.py", "a.py", True),
        ("**/*.py", "x/y/a.py", True),
        ("*.py", "x/a.py", False),
        ("a.b", "axb", False),
        ("src/**", "src2/a", False),
        ("?.md", "a.md", True),
        ("**", "any/\nthing", True),
    ],
)
def test_patterns_of_paths_are_those_of_a_shell(glob: str, path: str, fits: bool) -> None:
    assert bool(pattern_of(glob).fullmatch(path)) is fits


def test_no_secrets_finds_what_the_work_adds_and_not_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    found = reports(tmp_path / "a", "echo more >> old.txt; echo fine > new.txt", {"kind": "no_secrets"})
    assert statuses(found) == ["pass"]
    (tmp_path / "b").mkdir()
    command = f"echo 'key = {TOKEN}' > new.txt; echo '{TOKEN} again' >> old.txt"
    found = reports(tmp_path / "b", command, {"kind": "no_secrets"})
    assert statuses(found) == ["fail"]
    assert found[0].output == "old.txt, line 3: GitHub token\nnew.txt, line 1: GitHub token"
    assert TOKEN not in found[0].output


EXAMPLES = {
    "private key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "AWS access key": "AKIA" + "ABCDEFGH" * 2,
    "GitHub token": TOKEN,
    "GitLab token": "glpat-" + "x" * 20,
    "Anthropic key": "sk-ant-" + "x" * 40,
    "OpenAI key": "sk-proj-" + "x" * 40,
    "Google API key": "AIza" + "x" * 35,
    "Slack token": "xoxb-" + "1" * 12,
    "Stripe key": "sk_live_" + "x" * 24,
    "npm token": "npm_" + "x" * 36,
    "PyPI token": "pypi-" + "x" * 60,
    "Hugging Face token": "hf_" + "x" * 34,
    "AgentCom token": "act_" + "x" * 32,
    "JSON web token": f"eyJ{'x' * 12}.eyJ{'y' * 12}.{'z' * 12}",
}


def test_each_form_of_a_secret_is_found_and_prose_is_not() -> None:
    assert set(EXAMPLES) == set(FORMS)
    for kind, example in EXAMPLES.items():
        assert [hit[:2] for hit in secrets_in(f"first\nkey: '{example}',\n".encode())] == [(2, kind)], kind
    prose = (
        b"sk-learn, task-runner-for-everything-there-is, AKIA, ghp_, 3f786850e387550fdab836ed7e6dc881de23001b"
    )
    assert secrets_in(prose) == []


def test_http_responds_starts_the_server_asks_it_and_leaves_nothing(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    found = reports(
        tmp_path,
        "true",
        {"kind": "http_responds", "target": f"{url}/README.md", "command": f"{SERVER} {port}"},
        {"kind": "http_responds", "target": f"{url}/none", "command": f"{SERVER} {port}", "expect": "404"},
        {"kind": "http_responds", "target": f"{url}/none", "command": f"{SERVER} {port}", "timeout_s": 2},
        {"kind": "http_responds", "target": f"{url}/", "command": "echo cannot; exit 3"},
    )
    assert statuses(found) == ["pass", "pass", "timed_out", "fail"]
    assert "## Install" in found[0].output
    assert "the command ended with exit code 3" in found[3].output
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the server is gone"
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert f"--bind 127.0.0.1 {port}" not in listed


def test_a_check_has_its_own_time_and_its_output_a_bound(tmp_path: Path) -> None:
    loud = {"kind": "command_succeeds", "target": "echo FIRST; yes | head -c 3000000; echo LAST; exit 1"}
    slow = {"kind": "command_succeeds", "target": "echo begun; sleep 30", "timeout_s": 1}
    found = reports(tmp_path, "true", loud, slow, {"kind": "file_exists", "target": "README.md"})
    assert statuses(found) == ["fail", "timed_out", "pass"]
    output = found[0].output
    assert output.startswith("FIRST")
    assert "LAST\n[exit code 1]" in output
    assert "bytes left out" in output
    assert len(output.encode()) <= limits.CHECK_OUTPUT_BYTES_MAX
    assert "begun" in found[1].output


def test_all_checks_together_have_a_time_and_what_is_left_then_is_timed_out(tmp_path: Path) -> None:
    given = settings()
    given = msgspec.structs.replace(given, sidecar=msgspec.structs.replace(given.sidecar, checks_s=1))
    checks = (CheckSpec("command_succeeds", "sleep 30"), CheckSpec("file_exists", "a"), CheckSpec("test_passes"))
    spec = TaskSpec(description="work", command="touch a", checks=checks)
    one = run_attempt(tmp_path, Strategy.trivial, spec, given=given)
    assert one.completed.status is ResultStatus.partial_pass
    found = one.iterations[-1].checks
    assert {each.status for each in found} == {CheckStatus.timed_out}
    assert "ended early: all checks together may take 1 s (sidecar.checks_s)" in found[0].output
    assert found[2].output == "not begun: all checks together may take 1 s (sidecar.checks_s)"


def test_guards_pass_before_the_work_as_well_and_are_no_evidence(tmp_path: Path) -> None:
    one = ran(tmp_path, "echo 1 > a.txt", {"kind": "no_secrets"}, {"kind": "diff_within", "expect": "5"})
    assert [each.before for each in one.iterations[-1].checks] == [CheckStatus.passed, CheckStatus.passed]
    assert one.result.evidence is None
