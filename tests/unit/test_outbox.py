"""The outbox and the attempt records: what is on disk survives, what is damaged stands in nobody's way."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from agentcom import limits, messages
from agentcom.model import (
    Backend,
    CheckKind,
    CheckReport,
    CheckStatus,
    FailureClass,
    Iteration,
    ResultStatus,
    TaskResult,
    TaskSpec,
)
from agentcom_sidecar.attempts import Attempts
from agentcom_sidecar.outbox import RESEND_S_MAX, Entry, Outbox
from agentcom_sidecar.sandbox import ProcessMark, mark_of
from tests.fake_hub import assignment


def finished(task: int = 1, attempt: int = 1, output: str = "done") -> Entry:
    result = TaskResult(status=ResultStatus.unchecked, output=output, backend=Backend.shell, model="none")
    return Entry(task=task, attempt=attempt, outcome="completed", result=result)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def outbox(tmp_path: Path, clock: Clock) -> Outbox:
    return reopened(tmp_path, clock)


def reopened(folder: Path, clock: Clock) -> Outbox:
    outbox = Outbox(folder / "outbox", clock)
    outbox.load()
    return outbox


def test_a_result_survives_a_restart_until_it_is_acknowledged(
    outbox: Outbox, tmp_path: Path, clock: Clock
) -> None:
    outbox.put(finished())
    again = reopened(tmp_path, clock)
    assert list(again) == [finished()]
    again.acknowledge(1, 1)
    assert len(again) == 0
    assert len(reopened(tmp_path, clock)) == 0


def test_no_session_token_is_stored_it_is_stamped_when_a_result_is_sent(
    outbox: Outbox, tmp_path: Path
) -> None:
    outbox.put(finished())
    (entry,) = outbox.due(10)
    token = b"0123456789abcdef"
    sent = messages.decode_to_hub(messages.encode(entry.message(token)))
    assert isinstance(sent, messages.Result)
    assert sent.session == token
    assert all(token not in path.read_bytes() for path in (tmp_path / "outbox").iterdir())


def test_a_result_is_due_again_after_a_growing_bounded_wait(outbox: Outbox, clock: Clock) -> None:
    outbox.put(finished())
    assert len(outbox.due(10)) == 1
    waits = []
    for _ in range(9):
        sent_s = clock.now_s
        while not outbox.due(10):
            clock.now_s += 0.1
        waits.append(clock.now_s - sent_s)
    assert waits[0] < 1.4
    assert max(waits) > 10
    assert max(waits) <= 1.2 * RESEND_S_MAX + 0.2


def test_a_hub_that_is_back_gets_everything_at_once(outbox: Outbox) -> None:
    for task in (1, 2, 3):
        outbox.put(finished(task))
    assert len(outbox.due(10)) == 3
    assert outbox.due(10) == []
    outbox.hurry()
    assert len(outbox.due(2)) == 2
    assert len(outbox.due(2)) == 1


def test_the_first_result_of_an_attempt_stands(outbox: Outbox) -> None:
    outbox.put(finished(output="first"))
    outbox.put(finished(output="second"))
    (entry,) = outbox
    assert entry.result is not None
    assert entry.result.output == "first"


@pytest.mark.parametrize("content", [b"", b"\xff\xff", msgspec.msgpack.encode({"task": 1})])
def test_a_damaged_file_is_set_aside_and_the_others_are_delivered(
    outbox: Outbox, tmp_path: Path, clock: Clock, content: bytes
) -> None:
    outbox.put(finished(1))
    outbox.put(finished(2))
    (tmp_path / "outbox" / "1-1.result").write_bytes(content)
    assert [entry.task for entry in reopened(tmp_path, clock)] == [2]
    assert (tmp_path / "outbox" / "1-1.result.damaged").read_bytes() == content


def test_a_file_under_another_attempts_name_is_set_aside(
    outbox: Outbox, tmp_path: Path, clock: Clock
) -> None:
    outbox.put(finished(1))
    (tmp_path / "outbox" / "1-1.result").rename(tmp_path / "outbox" / "1-2.result")
    assert len(reopened(tmp_path, clock)) == 0


def test_a_half_written_file_is_never_read(outbox: Outbox, tmp_path: Path, clock: Clock) -> None:
    outbox.put(finished())
    (tmp_path / "outbox" / ".2-1.result.77.tmp").write_bytes(b"half")
    assert [entry.task for entry in reopened(tmp_path, clock)] == [1]


def test_a_result_that_no_message_can_carry_is_cut_and_says_so(outbox: Outbox) -> None:
    checks = tuple(
        CheckReport(kind=CheckKind.command_succeeds, target="x", status=CheckStatus.failed, output="y" * 9000)
        for _ in range(20)
    )
    result = TaskResult(
        status=ResultStatus.partial_pass,
        output="head " + "x" * 100_000 + " tail",
        backend=Backend.shell,
        model="none",
        iterations=tuple(Iteration(n=n, status="fail", checks=checks) for n in range(1, 4)),
    )
    outbox.put(Entry(task=1, attempt=1, outcome="completed", result=result))
    (entry,) = outbox
    assert len(messages.encode(entry.message(b"0" * 16))) <= limits.REQUEST_BYTES_MAX
    assert entry.result is not None
    assert entry.result.output.startswith("head")
    assert entry.result.output.endswith("tail")
    assert entry.result.output_truncated_bytes > 0
    assert any("cut" in warning for warning in entry.result.warnings)
    assert len(entry.result.iterations) == 3


def test_a_result_that_cannot_be_cut_enough_becomes_a_failure_instead_of_a_stuck_outbox(
    outbox: Outbox,
) -> None:
    result = TaskResult(
        status=ResultStatus.unchecked, backend=Backend.shell, model="none", durations_ms={"x" * 300_000: 1}
    )
    outbox.put(Entry(task=1, attempt=1, outcome="completed", result=result))
    (entry,) = outbox
    assert entry.outcome == "failed"
    assert entry.error is not None
    assert (entry.error.failure_class, entry.error.code) == (FailureClass.task_error, "result_too_large")


def test_an_accepted_attempt_and_its_processes_are_found_after_a_restart(tmp_path: Path) -> None:
    own = mark_of(os.getpid())
    assert own is not None
    attempts = Attempts(tmp_path / "attempts")
    assign = assignment(4, 2, "agent", TaskSpec(description="x"))
    attempts.add(assign)
    attempts.mark((4, 2), own)
    (left,) = Attempts(tmp_path / "attempts").leftovers()
    assert left.key == (4, 2)
    assert left.marks == (own,)
    assert left.assign is not None
    assert bytes(left.assign.spec) == bytes(assign.spec)
    attempts.remove((4, 2))
    assert Attempts(tmp_path / "attempts").leftovers() == []


def test_marks_of_processes_that_have_ended_make_room(tmp_path: Path) -> None:
    own = mark_of(os.getpid())
    assert own is not None
    attempts = Attempts(tmp_path / "attempts")
    attempts.leftovers()
    for pid in range(5):
        attempts.mark((1, 1), ProcessMark(own.pid, own.start_ticks + 1 + pid, own.boot))
    attempts.mark((1, 1), own)
    (left,) = attempts.leftovers()
    assert left.marks == (own,)


def test_a_damaged_attempt_is_listed_without_its_assignment(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path / "attempts")
    attempts.add(assignment(4, 2, "agent", TaskSpec(description="x")))
    (tmp_path / "attempts" / "4-2.attempt").write_bytes(b"\x00damaged")
    (left,) = attempts.leftovers()
    assert (left.key, left.assign) == ((4, 2), None)
    assert (tmp_path / "attempts" / "4-2.attempt.damaged").exists()
