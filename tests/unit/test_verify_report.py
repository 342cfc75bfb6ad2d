"""`agentcom task verify-report` on a file that was saved: with the key that the hub knew, and with one of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentcom.cli import main
from agentcom.model import Backend, CheckKind, CheckReport, CheckStatus, Iteration, ResultStatus, TaskResult
from agentcom.results import whole_result
from agentcom.signed_report import fingerprint, public_half
from agentcom_sidecar.signer import Signer

SEED = b"\3" * 32
KEY = public_half(SEED)


@pytest.fixture
def reports(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "key"
    path.write_text(SEED.hex())
    path.chmod(0o600)
    check = CheckReport(kind=CheckKind.test_passes, target="pytest", status=CheckStatus.passed, output="2 passed")
    result = TaskResult(
        status=ResultStatus.verified,
        backend=Backend.shell,
        model="none",
        commit="c" * 40,
        tree="d" * 40,
        iterations=(Iteration(n=1, status="pass", checks=(check,)),),
    )
    result = Signer(path).signed(result, task=7, attempt=1, host="box")
    view = whole_result(result, is_taken=True)
    return {"task": 7, "attempts": [{"attempt": 1, "host": "box", "host_key": KEY, "result": view}]}


def saved(tmp_path: Path, reports: dict[str, Any]) -> str:
    path = tmp_path / "report.json"
    path.write_text(json.dumps(reports))
    return str(path)


def checked(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status = main(["task", "verify-report", *arguments, "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_a_saved_report_is_verified_without_a_hub(
    tmp_path: Path, reports: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = checked(capsys, saved(tmp_path, reports))
    (attempt,) = found["attempts"]
    assert (status, found["verified"], attempt["said"]) == (0, True, "verified")
    assert (attempt["key"], attempt["commit"]) == (fingerprint(KEY), "c" * 40)
    assert main(["task", "verify-report", saved(tmp_path, reports)]) == 0
    assert "verified" in capsys.readouterr().out


def test_a_verdict_that_was_changed_in_the_stored_bytes_is_found(
    tmp_path: Path, reports: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    reports["attempts"][0]["result"]["iterations"][0]["checks"][0]["output"] = "3 passed"
    status, found = checked(capsys, saved(tmp_path, reports))
    assert (status, found["verified"], found["attempts"][0]["code"]) == (1, False, "report_altered")
    assert "check 1 (test_passes)" in found["attempts"][0]["said"]


def test_a_key_from_elsewhere_is_held_to_whatever_the_hub_says(
    tmp_path: Path, reports: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert checked(capsys, saved(tmp_path, reports), "--key", KEY)[0] == 0
    status, found = checked(capsys, saved(tmp_path, reports), "--key", public_half(b"\4" * 32))
    assert (status, found["attempts"][0]["code"]) == (1, "report_wrong_key")


def test_a_result_that_has_gone_is_said_to_have_gone_and_by_which_settings(
    tmp_path: Path, reports: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {"attempt": 1, "host": "box", "outcome": "failed", "result": None}
    reports["attempts"] = [failed, {"attempt": 2, "host": "box", "outcome": "completed", "result": None}]
    gone = "its result has gone (retention.reports_s, retention.reports_max)"
    status, found = checked(capsys, saved(tmp_path, reports))
    assert (status, found["verified"]) == (1, False)
    assert [(each["attempt"], each["code"], each["said"]) for each in found["attempts"]] == [(2, "", gone)]
    assert main(["task", "verify-report", saved(tmp_path, reports)]) == 1
    assert gone in capsys.readouterr().out


def test_where_no_attempt_has_completed_nothing_is_said_to_have_been_brought(
    tmp_path: Path, reports: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    reports["attempts"] = [{"attempt": 1, "host": "box", "outcome": "failed", "result": None}]
    assert main(["task", "verify-report", saved(tmp_path, reports)]) == 1
    assert capsys.readouterr().out == "no result of any attempt is kept\n"


def test_a_report_from_before_reports_were_signed_is_shown_as_not_signed(
    tmp_path: Path, reports: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    old = reports["attempts"][0]["result"]
    del old["signed"], old["signature"], old["base"]
    status, found = checked(capsys, saved(tmp_path, reports))
    (attempt,) = found["attempts"]
    assert (status, attempt["said"], attempt["code"]) == (1, "not signed", "")


@pytest.mark.parametrize("key", ["zzz", "00", KEY.upper(), KEY + "0"])
def test_what_is_no_public_key_is_refused_before_anything_is_looked_at(
    tmp_path: Path, reports: dict[str, Any], capsys: pytest.CaptureFixture[str], key: str
) -> None:
    assert main(["task", "verify-report", "--key", key, saved(tmp_path, reports)]) == 2
    assert "a public key has 64 hex digits" in capsys.readouterr().err


def test_where_reports_cannot_be_saved_the_place_is_named(
    tmp_path: Path, reports: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "nowhere" / "x.json"
    assert main(["task", "verify-report", "--save", str(there), saved(tmp_path, reports)]) != 0
    assert f"cannot save the reports as {there}: No such file or directory" in capsys.readouterr().err


def test_a_file_that_holds_no_reports_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    for text in ("no json", "[]", "{}"):
        path.write_text(text)
        assert main(["task", "verify-report", str(path)]) != 0
        assert f"{path} holds no reports" in capsys.readouterr().err


def test_a_file_that_cannot_be_read_is_named_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, why in ((tmp_path / "none.json", "No such file or directory"), (tmp_path, "Is a directory")):
        assert main(["task", "verify-report", str(path)]) == 1
        said = capsys.readouterr().err
        assert f"cannot read the reports in {path}: {why}; save them with: agentcom task verify-report ID" in said
        assert "Errno" not in said
