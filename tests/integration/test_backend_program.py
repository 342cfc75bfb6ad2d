"""Agent programs as backend, with real processes: started in the worktree and the sandbox, heard, verified, ended."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from agentcom.config import ProgramSettings, Settings
from agentcom.model import Backend, FailureClass, ResultStatus, Role, Strategy, TaskSpec
from agentcom_sidecar import execution
from agentcom_sidecar.backends import process
from agentcom_sidecar.backends.base import BackendError
from tests.standins import standin
from tests.standins.agent_program import claude_events, install, seen
from tests.works import Ran, check, repository, run_attempt, settings, work_of

KEY = "the-Key-0f-this-program"


def given(folder: Path, name: str, *, mode: Any = "auto", **programs: Any) -> Settings:
    if name not in ("claude-code", "codex"):
        programs.setdefault(
            "commands", (f"{name}={folder / 'bin' / name} {{task_id}} {{prompt_file}} {{result_file}}",)
        )
    programs = {"offer": (name,), "start_s": 20.0, **programs}
    plain = settings(mode=mode, accept_unisolated=True)
    return msgspec.structs.replace(plain, programs=ProgramSettings(**programs))


def spec_of(name: str, **fields: Any) -> TaskSpec:
    return TaskSpec(description="Write calc.add.", needs=(f"program:{name}",), **fields)


def ran(
    folder: Path, name: str, *runs: dict[str, Any], programs: dict[str, Any] | None = None, **fields: Any
) -> Ran:
    install(folder / "bin", "claude" if name == "claude-code" else name, *runs)
    repo = str(repository(folder / "repo"))
    options = {
        each: fields.pop(each)
        for each in ("max_fix_attempts", "role", "timeout_s", "model")
        if each in fields
    }
    settings = given(folder, name, **(programs or {}))
    return run_attempt(
        folder, Strategy.agent_program, spec_of(name, repo=repo, **fields), given=settings, **options
    )


def test_a_generic_program_gets_its_files_and_tells_by_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-canary-of-the-sidecar")
    result = {
        "output": "Done.",
        "model": "mine-1",
        "tokens_in": 90,
        "tokens_cached": 40,
        "tokens_out": 9,
        "cost_usd": 0.25,
    }
    one = ran(
        tmp_path, "mine", {"files": {"calc.py": "x = 1\n"}, "text": "working", "result": result},
        checks=(check("file_exists", "calc.py"), check("git_clean")),
    )  # fmt: skip
    done = one.completed
    assert (done.status, done.backend, done.model) == (ResultStatus.verified, Backend.program, "mine-1")
    assert (done.output, done.tokens_in, done.tokens_cached, done.tokens_out, done.cost_usd) == (
        "Done.",
        90,
        40,
        9,
        0.25,
    )
    assert (done.program, done.files_changed) == ("mine", ("calc.py",))
    assert "working" in one.log
    told = seen(tmp_path / "scratch", 1)
    folder = Path(told["env"]["AGENTCOM_PROMPT_FILE"]).parent
    assert told["argv"] == ["7", str(folder / "prompt.txt"), str(folder / "result.json")]
    assert "Write calc.add." in told["prompt"]
    assert (told["task"]["id"], told["task"]["description"]) == (7, "Write calc.add.")
    assert (told["cwd"], told["stdin"]) == (str(one.path), "")
    assert told["env"]["HOME"] == str(tmp_path / "scratch")
    assert "ANTHROPIC_API_KEY" not in told["env"]
    assert one.marks, "its process is known before it starts"


def test_what_fails_goes_back_into_the_session_until_it_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    one = ran(
        tmp_path, "claude-code",
        {"files": {"calc.py": "41\n"}, "events": claude_events("Wrote it.")},
        {"files": {"calc.py": "42\n"}, "events": claude_events("Mended.", tokens_in=50)},
        checks=(check("command_succeeds", "grep -qx 42 calc.py"),),
    )  # fmt: skip
    assert one.completed.status is ResultStatus.verified
    assert [each.status for each in one.iterations] == ["fail", "pass"]
    assert (one.result.output, one.result.model, one.result.session) == (
        "Mended.",
        "claude-sonnet-5-5",
        "5e55",
    )
    assert (one.result.tokens_in, one.result.tokens_out) == (107 + 57, 20)
    assert one.result.cost_usd == pytest.approx(0.02)
    first, second = seen(tmp_path / "scratch", 1), seen(tmp_path / "scratch", 2)
    assert "--resume" not in first["argv"]
    assert second["argv"][second["argv"].index("--resume") + 1] == "5e55"
    assert "grep -qx 42 calc.py" in second["prompt"]
    assert "Write calc.add." not in second["prompt"], "its session knows the task"
    assert "[Edit]" in one.log


def test_a_program_without_sessions_starts_anew_with_task_and_feedback(tmp_path: Path) -> None:
    one = ran(
        tmp_path, "mine",
        {"files": {"a": "1"}, "result": {"output": "first"}},
        {"files": {"b": "2"}, "result": {"output": "second"}},
        checks=(check("file_exists", "b"),),
    )  # fmt: skip
    assert one.completed.status is ResultStatus.verified
    prompt = seen(tmp_path / "scratch", 2)["prompt"]
    assert "Write calc.add." in prompt
    assert "file_exists: b" in prompt


def started(folder: Path, *runs: dict[str, Any], **programs: Any) -> tuple[list[float], process.Program, Any]:
    """Runs a program directly, on a clock of its own: what it slept, and what came out."""
    install(folder / "bin", "mine", *runs)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def run() -> tuple[process.Program, Any]:
        work, _ = await work_of(
            folder,
            Strategy.agent_program,
            spec_of("mine"),
            given=given(folder, "mine", mode="off", **programs),
        )
        program = process.prepared(work, sleep)
        try:
            return program, await program.run("do it", 1, 30.0, None)
        except BackendError as error:
            return program, error

    program, out = asyncio.run(run())
    return slept, program, out


def test_a_start_that_fails_is_tried_again_after_5_15_and_30_s(tmp_path: Path) -> None:
    slept, program, heard = started(tmp_path, {"exit": 3}, {"exit": 3}, {"result": {"output": "there"}})
    assert slept == [5, 15]
    assert heard.text == "there"
    assert [each.split(":")[0] for each in program.tries] == ["start 1 of 4", "start 2 of 4"]
    assert 0 < program.tried_ms[0] < program.tried_ms[1], "each with its own time since the attempt began"


def test_a_start_that_fails_four_times_is_an_infrastructure_failure_that_names_each(tmp_path: Path) -> None:
    slept, _, error = started(tmp_path, {"exit": 3})
    assert slept == [5, 15, 30]
    assert (error.failure_class, error.code) == (FailureClass.infrastructure, "program_not_started")
    assert all(f"start {n} of 4: it ended with exit code 3" in error.message for n in (1, 2, 3, 4))


def test_no_sign_of_life_in_time_counts_as_a_start_that_failed(tmp_path: Path) -> None:
    slept, program, heard = started(tmp_path, {"before_s": 60}, {"result": {"output": "there"}}, start_s=0.5)
    assert (slept, heard.text) == ([5], "there")
    assert "no sign of life within 0.5 s (programs.start_s)" in program.tries[0]


@pytest.mark.parametrize(
    ("programs", "code", "said"),
    [
        (
            {"commands": ("mine=/nowhere/agent {prompt}",)},
            "program_missing",
            "/nowhere/agent is not on this host",
        ),
        ({"commands": ("mine=",)}, "program_missing", "the command of mine is empty"),
        ({"offer": ()}, "program_not_offered", "programs.offer"),
    ],
)
def test_what_cannot_be_started_fails_at_once_with_what_to_do(
    tmp_path: Path, programs: dict[str, Any], code: str, said: str
) -> None:
    one = run_attempt(
        tmp_path, Strategy.agent_program, spec_of("mine"), given=given(tmp_path, "mine", **programs)
    )
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.configuration, code)
    assert said in one.failed.message


def test_what_the_owner_hands_over_reaches_the_program_and_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE_KEY", KEY)
    key_file = tmp_path / "other.key"
    key_file.write_text("second-Key-of-1t\n")
    key_file.chmod(0o600)
    run = {"text": f"my key is {KEY}, and second-Key-of-1t", "result": {"output": f"I used {KEY}"}}
    named = ("mine MINE_KEY", f"mine OTHER_KEY={key_file}", f"mine {key_file}", "codex CODEX_KEY")
    one = ran(tmp_path, "mine", run, programs={"credentials": named})
    env = seen(tmp_path / "scratch", 1)["env"]
    assert (env["MINE_KEY"], env["OTHER_KEY"]) == (KEY, "second-Key-of-1t")
    assert (tmp_path / "scratch" / "other.key").read_text() == "second-Key-of-1t\n"
    assert "CODEX_KEY" not in env
    from agentcom.redaction import redact_text

    assert redact_text(one.result.output) == "I used [redacted]"
    assert redact_text(one.log).count("[redacted]") == 2


def test_a_program_that_goes_silent_is_ended(tmp_path: Path) -> None:
    one = ran(tmp_path, "mine", {"text": "thinking", "after_s": 60}, programs={"silence_s": 0.5})
    assert (one.failed.failure_class, one.failed.code) == (FailureClass.task_error, "silent")
    assert "thinking" in one.failed.message
    assert "programs.silence_s" in one.failed.message


def test_a_program_that_answers_nothing_fails(tmp_path: Path) -> None:
    assert ran(tmp_path, "mine", {}).failed.code == "empty_answer"


def test_a_notice_makes_no_success_of_a_bad_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    events = [
        {"type": "item.completed", "item": {"type": "agent_message", "text": "half of it"}},
        {"type": "error", "message": "Reconnecting..."},
    ]
    one = ran(tmp_path, "codex", {"events": events, "exit": 1})
    assert (one.failed.code, one.result.output) == ("program_failed", "")


def test_a_credential_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    one = ran(tmp_path, "mine", {"result": {}}, programs={"credentials": ("mine NOT_SET_ANYWHERE",)})
    assert (one.failed.code, "NOT_SET_ANYWHERE is not set" in one.failed.message) == ("bad_key", True)


def test_a_program_may_say_nothing_but_that_it_is_done(tmp_path: Path) -> None:
    one = ran(tmp_path, "mine", {"files": {"a": "1"}, "result": {}}, checks=(check("file_exists", "a"),))
    assert one.completed.status is ResultStatus.verified


def test_an_error_of_the_program_has_its_class(tmp_path: Path) -> None:
    error = {"class": "usage_window", "message": "come back at noon"}
    one = ran(tmp_path, "mine", {"result": {"output": "x", "error": error}})
    assert (one.failed.failure_class, one.failed.message) == (FailureClass.usage_window, "come back at noon")


def test_a_program_that_cannot_be_kept_within_a_budget_is_not_started(tmp_path: Path) -> None:
    install(tmp_path / "bin", "mine", {"result": {"output": "x"}})

    async def run() -> Any:
        work, _ = await work_of(
            tmp_path, Strategy.agent_program, spec_of("mine"), given=given(tmp_path, "mine")
        )
        work.assign.budget_usd = 1.0
        return await execution.execute(work)

    outcome = asyncio.run(run())
    assert outcome.error.code == "budget_unkept"


def test_a_program_that_has_spent_its_budget_is_not_checked_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    install(tmp_path / "bin", "claude", {"files": {"calc.py": "41\n"}, "events": claude_events("Wrote it.")})

    async def run() -> Any:
        checks = (check("command_succeeds", "grep -qx 42 calc.py"),)
        spec = spec_of("claude-code", checks=checks)
        ours = given(tmp_path, "claude-code")
        work, _ = await work_of(tmp_path, Strategy.agent_program, spec, given=ours, budget_usd=0.01)
        return await execution.execute(work)

    outcome = asyncio.run(run())
    assert outcome.error is None, outcome.error
    assert [each.status for each in outcome.result.iterations] == ["fail"]
    assert outcome.result.stop_reason == "budget"
    assert "stopped: the budget of this attempt is spent" in outcome.result.warnings


def test_a_task_of_a_stranger_starts_no_program_where_the_policy_says_so(tmp_path: Path) -> None:
    from agentcom_sidecar.policy import refusal_of

    async def run() -> Any:
        work, _ = await work_of(
            tmp_path, Strategy.agent_program, spec_of("mine"), given=given(tmp_path, "mine"), role=Role.submit
        )
        return refusal_of(work.assign, work.spec, work.settings.policy)

    said = asyncio.run(run())
    assert said is not None
    assert "policy.programs" in said


def test_a_cancel_kills_the_whole_tree_of_a_program(tmp_path: Path) -> None:
    install(tmp_path / "bin", "mine", {"text": "on it", "child": 61.25, "after_s": 60})

    async def run() -> None:
        work, one = await work_of(
            tmp_path, Strategy.agent_program, spec_of("mine"), given=given(tmp_path, "mine", mode="off")
        )
        job = asyncio.create_task(execution.execute(work))
        while "on it" not in one.log:
            assert not job.done()
            await asyncio.sleep(0.02)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job

    asyncio.run(run())
    left = [
        p
        for p in psutil.process_iter(["cmdline"])
        if any("sleep(61.25)" in each for each in p.info["cmdline"] or ())
    ]
    assert left == []


@pytest.mark.agent_program
@pytest.mark.skipif(
    shutil.which("claude") is None,
    reason="Claude Code is not installed (npm install -g @anthropic-ai/claude-code)",
)
def test_claude_code_itself_works_on_a_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real program against the stand-in of its API: it writes a file by its own tool, and is heard."""
    write = {
        "file_path": str(tmp_path / "home/sidecar/work/7-1/calc.py"),
        "content": "def add(a, b):\n    return a + b\n",
    }
    replies = [
        {"tool_calls": [{"name": "Write", "arguments": write}], "tokens_in": 900, "tokens_out": 30},
        {"content": "I wrote calc.add.", "tokens_in": 1000, "tokens_out": 20},
    ]
    with standin("anthropic", {"replies": replies}, key="sk-ant-dummy-0123456789") as server:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-dummy-0123456789")
        key, name = ("claude-code ANTHROPIC_API_KEY",), "claude-code"
        plain = given(tmp_path, name, credentials=key, network=(name,))
        anthropic = msgspec.structs.replace(plain.anthropic, base_url=server.url)
        spec = spec_of(
            name, repo=str(repository(tmp_path / "repo")), checks=(check("file_exists", "calc.py"),)
        )
        one = run_attempt(
            tmp_path, Strategy.agent_program, spec, model="claude-sonnet-5-5",
            given=msgspec.structs.replace(plain, anthropic=anthropic),
        )  # fmt: skip
        calls = server.log("/v1/messages")
    assert one.completed.status is ResultStatus.verified
    assert (one.result.output, one.result.files_changed) == ("I wrote calc.add.", ("calc.py",))
    assert one.result.model.startswith("claude-sonnet-5-5")
    assert one.result.tokens_in >= 1900
    assert one.result.tokens_out >= 50
    assert one.result.cost_usd is not None
    assert one.result.cost_usd > 0
    assert "Write calc.add." in str(calls[0]["body"]["messages"])
    assert "[Write]" in one.log
