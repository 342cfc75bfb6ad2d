"""Trivial tasks on real processes and real repositories: the command, its checks, its result."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import msgspec
import pytest

from agentcom import limits
from agentcom.config import Settings
from agentcom.model import Backend, CheckStatus, FailureClass, ResultStatus, Role, Strategy, TaskSpec
from agentcom_sidecar import isolation
from agentcom_sidecar.execution import execute
from tests.isolating import need_isolation
from tests.works import Ran, check, repository, run_attempt, settings, work_of

POLL_S = 0.02
DEADLINE_S = 20.0


def ran(folder: Path, command: str, **fields: object) -> Ran:
    options = {name: fields.pop(name) for name in ("role", "given", "timeout_s") if name in fields}
    spec = TaskSpec(description="Run it.", command=command, **fields)  # type: ignore[arg-type]
    return run_attempt(folder, Strategy.trivial, spec, **options)


@pytest.mark.parametrize("mode", ["off", "require"])
def test_a_command_in_a_repository_is_committed_and_verified(tmp_path: Path, mode: str) -> None:
    if mode == "require":
        need_isolation()
    repo = repository(tmp_path / "repo")
    checks = (
        check("file_exists", "out.txt"),
        check("command_succeeds", "grep -q hi out.txt"),
        check("git_clean"),
    )
    given = settings(mode=mode)
    one = ran(tmp_path, "echo hi > out.txt; echo said", repo=str(repo), checks=checks, given=given)
    result = one.completed
    assert result.status is ResultStatus.verified
    assert [each.status for each in one.iterations[0].checks] == [CheckStatus.passed] * 3
    assert (result.backend, result.model, result.tokens_in, result.tokens_out) == (
        Backend.shell,
        "none",
        0,
        0,
    )
    assert (result.cost_usd, result.cloud_cost_usd, result.prices_as_of) == (0.0, None, None)
    assert (result.exit_code, result.output) == (0, "said\n")
    expected = ("bubblewrap", "") if mode == "require" else ("none", isolation.OFF.note)
    assert (result.sandbox, result.sandbox_reason) == expected
    assert result.files_changed == ("out.txt",)
    assert result.spec_sha256 == "ab" * 32
    assert result.branch is not None
    assert len(result.commit or "") == 40
    assert len(result.tree or "") == 40
    assert {"command", "checks"} <= result.durations_ms.keys()
    assert "said\n" in one.log
    assert one.steps > 0
    assert one.gates == 0  # no model call, so nobody has to ask for the hub
    assert len(one.marks) >= 2


def test_a_command_that_changes_nothing_is_never_no_change(tmp_path: Path) -> None:
    repo = repository(tmp_path / "repo")
    one = ran(tmp_path, "true", repo=str(repo), checks=(check("file_exists", "README.md"),))
    assert one.completed.status is ResultStatus.verified
    assert (one.result.commit, one.result.files_changed) == (None, ())


def test_without_checks_a_result_is_unchecked(tmp_path: Path) -> None:
    assert ran(tmp_path, "true").completed.status is ResultStatus.unchecked


def test_checks_that_were_waived_are_skipped_and_do_not_run(tmp_path: Path) -> None:
    one = ran(tmp_path, "true", verify=False, checks=(check("command_succeeds", "touch ran"),))
    assert one.completed.status is ResultStatus.skipped
    assert not (one.path / "ran").exists()


def test_all_checks_run_and_none_hides_the_next(tmp_path: Path) -> None:
    checks = (
        check("command_succeeds", "echo broken; exit 3"),
        check("command_succeeds", "sleep 60", timeout_s=1),
        check("test_passes"),
        check("git_clean"),
        check("command_succeeds", "echo fine"),
    )
    one = ran(tmp_path, "true", checks=checks)
    assert one.completed.status is ResultStatus.partial_pass
    found = [each.status for each in one.iterations[0].checks]
    failed, timed_out = CheckStatus.failed, CheckStatus.timed_out
    assert found == [failed, timed_out, CheckStatus.no_evidence, CheckStatus.error, CheckStatus.passed]
    assert one.iterations[0].checks[0].output == "broken\n[exit code 3]"
    assert len(one.iterations) == 1  # a command has no model that could fix anything


def test_a_command_that_fails_is_a_task_error_with_the_end_of_its_output(tmp_path: Path) -> None:
    one = ran(
        tmp_path, "echo before; echo the reason >&2; exit 7", checks=(check("command_succeeds", "true"),)
    )
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.task_error, "command_failed")
    assert "exit code 7" in one.failed.message
    assert "the reason" in one.failed.message
    assert (one.result.exit_code, one.result.output) == (7, "before\nthe reason\n")
    assert one.iterations == ()


def test_a_command_that_takes_too_long_is_ended_with_its_whole_tree(tmp_path: Path) -> None:
    command = "setsid sleep 300 & echo $! > pid; echo started; sleep 300"
    one = ran(tmp_path, command, timeout_s=1, given=settings(mode="off"))
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.task_error, "timed_out")
    assert one.result.output == "started\n"
    assert not Path(f"/proc/{(one.path / 'pid').read_text().strip()}").exists()


def test_an_attempt_that_a_bound_of_its_host_has_ended_names_the_setting(tmp_path: Path) -> None:
    given = settings(mode="off")
    given = msgspec.structs.replace(given, sidecar=msgspec.structs.replace(given.sidecar, silence_s=0.3))
    one = ran(tmp_path, "echo before; sleep 60", given=given)
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.task_error, "silent")
    assert "after 0.3 s without output (sidecar.silence_s of this host: raise it" in one.failed.message
    (tmp_path / "check").mkdir()
    one = ran(tmp_path / "check", "true", checks=(check("command_succeeds", "echo before; sleep 60"),), given=given)
    assert one.iterations[0].checks[0].output == "before\n[silent: no output for sidecar.silence_s of this host]"


def bounded(**bounds: int) -> Settings:
    given = settings(mode="require")
    return msgspec.structs.replace(given, sandbox=msgspec.structs.replace(given.sandbox, **bounds))


HOG = "exec python3 -I -c 'import time; a = [bytearray(b\"x\") * (1 << 20) for _ in range(300)]; time.sleep(60)'"
FORKS = "for i in $(seq 40); do sleep 3 & done; wait"


@pytest.mark.parametrize(
    ("command", "bounds", "setting"),
    [(HOG, {"memory_mib": 64}, "sandbox.memory_mib"), (FORKS, {"processes_max": 12}, "sandbox.processes_max")],
)
def test_too_much_memory_and_too_many_processes_name_the_setting(
    tmp_path: Path, command: str, bounds: dict[str, int], setting: str
) -> None:
    """Of a task's command as of a check's. Where the kernel refuses a process first, the command says so itself."""
    need_isolation()
    one = ran(tmp_path, command, given=bounded(**bounds))
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.task_error, "command_failed")
    assert setting in one.failed.message
    (tmp_path / "check").mkdir()
    checks = (check("command_succeeds", command),)
    one = ran(tmp_path / "check", "true", checks=checks, given=bounded(**bounds))
    assert setting in one.iterations[0].checks[0].output


def test_no_key_of_the_sidecar_is_in_a_commands_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-canary-000000000000")
    one = ran(tmp_path, "env", checks=(check("command_succeeds", "env"),))
    text = str(msgspec.to_builtins(one.completed)) + one.log
    assert "PATH=" in text
    assert "canary" not in text


def test_a_huge_output_keeps_its_head_and_tail_and_the_result_fits_its_message(tmp_path: Path) -> None:
    command = "echo first; yes 'äöü' | head -c 3000000; echo; echo last"
    checks = tuple(check("command_succeeds", "yes x | head -c 100000; exit 1") for _ in range(40))
    one = ran(tmp_path, command, checks=checks)
    assert one.completed.output.startswith("first\n")
    assert one.result.output.endswith("last\n")
    assert "bytes left out" in one.result.output
    assert one.result.output_truncated_bytes > 2_900_000
    assert len(msgspec.msgpack.encode(one.result)) <= limits.RESULT_BYTES_MAX
    assert [each.status for each in one.iterations[0].checks] == [CheckStatus.failed] * 40


def test_commands_of_a_submitter_are_refused_while_nothing_is_isolated(tmp_path: Path) -> None:
    one = ran(tmp_path, "touch ran", role=Role.submit, given=settings(mode="off"))
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.configuration, "unisolated_refused")
    assert not (one.path / "ran").exists()


def test_an_isolated_command_of_a_submitter_runs(tmp_path: Path) -> None:
    need_isolation()
    one = ran(tmp_path, "touch ran", role=Role.submit)
    assert one.completed.sandbox == "bubblewrap"
    assert (one.path / "ran").exists()


def test_a_host_that_accepts_the_risk_runs_commands_of_a_submitter(tmp_path: Path) -> None:
    given = settings(mode="off", accept_unisolated=True)
    one = ran(tmp_path, "touch ran", role=Role.submit, given=given)
    assert one.completed.status is ResultStatus.unchecked
    assert (one.path / "ran").exists()


def test_a_host_that_requires_isolation_and_has_none_runs_no_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(isolation, "_found", None)
    monkeypatch.setattr(isolation.bubblewrap, "find", lambda: None)
    one = ran(tmp_path, "touch ran", given=settings(mode="require"))
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.configuration, "sandbox_unavailable")
    assert not (one.path / "ran").exists()


def test_a_cancelled_attempt_leaves_no_process(tmp_path: Path) -> None:
    async def run() -> int:
        spec = TaskSpec(description="d", command="sleep 300 & echo $! > pid; wait")
        work, one = await work_of(tmp_path, Strategy.trivial, spec, given=settings(mode="off"))
        attempt = asyncio.create_task(execute(work))
        deadline = time.monotonic() + DEADLINE_S
        while not (one.path / "pid").is_file() or not (one.path / "pid").read_text().strip():
            assert time.monotonic() < deadline, "the command did not start"
            await asyncio.sleep(POLL_S)
        attempt.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attempt
        return int((one.path / "pid").read_text())

    pid = asyncio.run(run())
    assert not os.path.exists(f"/proc/{pid}")
