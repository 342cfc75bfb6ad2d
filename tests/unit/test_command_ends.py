"""What a command's end says beside its code: the setting that most often is behind it."""

from __future__ import annotations

from typing import Any

import pytest

from agentcom_sidecar.backends import shell
from agentcom_sidecar.command import FILE_FULL, KILLED, NO_PROCESS, CommandResult, Outcome
from agentcom_sidecar.verify.report import output_of_command


def ended(**fields: Any) -> CommandResult:
    given = {"exit_code": None, "signal": None, "output": b"", "truncated_bytes": 0, "duration_ms": 1}
    return CommandResult(**{**given, "outcome": Outcome.EXITED, **fields})


def test_a_kill_that_no_bound_made_names_no_setting() -> None:
    """A bound says its own name, so its absence tells something."""
    assert "sandbox." not in KILLED


@pytest.mark.parametrize(
    ("result", "hint"),
    [
        (ended(exit_code=0, output=b"Resource temporarily unavailable"), ""),
        (ended(exit_code=1, output=b"1 failed"), ""),
        (ended(exit_code=137), KILLED),
        (ended(signal=9), KILLED),
        (ended(signal=11), ""),
        (ended(signal=25), FILE_FULL),
        (ended(exit_code=153), FILE_FULL),
        (ended(exit_code=1, output=b"OSError: [Errno 27] File too large\n"), FILE_FULL),
        (ended(signal=9, error="killed: more than 12 processes at once (sandbox.processes_max)"), ""),
        (ended(exit_code=2, output=b"sh: 1: Cannot fork\n"), NO_PROCESS),
        (ended(exit_code=1, output=b"BlockingIOError: [Errno 11] Resource temporarily unavailable\n"), NO_PROCESS),
        (ended(exit_code=2, output=b"Cannot fork" + b"." * 9000), ""),
    ],
)
def test_an_end_hints_at_the_setting_behind_it(result: CommandResult, hint: str) -> None:
    assert result.hint == hint
    failure = shell.failure_of(result, 60, 0)
    assert (failure is None) == result.succeeded
    assert failure is None or hint in failure.message
    assert hint in output_of_command(result)
    assert result.error is None or result.error in output_of_command(result)


def test_a_check_over_its_time_names_the_time_and_where_it_is_set() -> None:
    said = output_of_command(ended(outcome=Outcome.TIMED_OUT, output=b"1 of 9", duration_ms=2_004))
    assert said == "1 of 9\n[timed_out: it was ended after 2 s; a check that needs more has its own timeout_s]"


def test_a_secret_that_the_cut_goes_through_is_redacted_all_the_same() -> None:
    secret = "sk-ant-api03-AbCdEf-" + "g" * 40
    failure = shell.failure_of(ended(exit_code=1, output=f"key {secret} {'.' * 970}".encode()), 60, 0)
    assert failure is not None
    assert "ggg" not in failure.message
