"""What the commands of the long runs take: a run that tries nothing must not look like one that found nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults import __main__ as faults
from tests.faults.report import Report
from tests.sim import __main__ as sim


def refused_by(
    module: object, arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr("sys.argv", ["it", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        module.main()  # type: ignore[attr-defined]
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The rows that were run."""
    rows: list[str] = []

    def run(row: str) -> Report:
        rows.append(row)
        return Report(row, "nothing")

    found = [(row, lambda _, row=row: run(row)) for row in ("I1", "I1", "I2", "I4", "I22")]
    monkeypatch.setattr(faults, "rows", lambda _seconds, _seed: found)
    return rows


@pytest.mark.parametrize("rows", ["I99", "i4", "I16", "I2,I99", ",", "all,I2"])
def test_a_row_that_is_not_there_is_refused_with_those_that_are(
    rows: str, ran: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = refused_by(faults, f"--rows {rows}", monkeypatch, capsys)
    assert "there are I1, I2, I4, I22, and I3 by way of I1, I8 by way of I22, I10 by way of I22" in text
    assert ran == []


@pytest.mark.parametrize(("rows", "wanted"), [("I3", ["I1", "I1"]), ("I10", ["I22"]), ("I2,I4", ["I2", "I4"])])
def test_a_row_that_another_tries_as_well_runs_that_one(
    rows: str,
    wanted: list[str],
    ran: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr("sys.argv", ["it", "--json", "--rows", rows])
    assert faults.main() == 0
    assert ran == wanted
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["runs"] == len(wanted)


@pytest.mark.parametrize("arguments", ["--minutes -1", "--minutes 0", "--minutes nan", "--minutes inf", "--seed -1"])
def test_a_long_run_of_no_length_is_refused(
    arguments: str, ran: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert arguments.split()[0] in refused_by(faults, arguments, monkeypatch, capsys)
    assert ran == []


@pytest.mark.parametrize(
    "arguments",
    [
        "--seeds -3", "--seeds 0", "--hours -1", "--hours nan", "--minutes -1", "--minutes inf", "--first -1",
        "--seed -1", "--jobs -1", "--steps 0",
    ],
)  # fmt: skip
def test_a_simulation_of_nothing_is_refused(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sim, "run_many", None)
    monkeypatch.setattr(sim, "guarded", None)
    assert arguments.split()[0] in refused_by(sim, arguments, monkeypatch, capsys)
