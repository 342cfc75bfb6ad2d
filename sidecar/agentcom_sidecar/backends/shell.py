"""The task's own command, and every command of a check: `sh -c` in the worktree, through sandbox.py.

No tokens, no model. Output streams to the task's log as it comes; what is kept is bounded by the sandbox.
"""

from __future__ import annotations

import codecs
from collections.abc import Mapping

from agentcom.redaction import redact_text
from agentcom_sidecar import policy
from agentcom_sidecar.backends.base import BackendError, configuration, infrastructure, task_error
from agentcom_sidecar.sandbox import CommandResult, CommandSpec, Outcome, SandboxUnavailable, run_command
from agentcom_sidecar.work import Work

TAIL_CHARS = 1000  # of the output, in the error of a command that failed
# No __pycache__ in what is committed or checked, and none that lies in the worktree is run in place of its source.
WITHOUT_BYTECODE = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": "/dev/null/none"}


async def run(
    work: Work,
    command: str,
    timeout_s: float,
    *,
    env: Mapping[str, str] | None = None,
    is_logged: bool = True,
) -> CommandResult:
    """Runs the shell command `command`; see `run_program`."""
    return await run_program(work, ("sh", "-c", command), timeout_s, env=env, is_logged=is_logged)


async def run_program(
    work: Work,
    argv: tuple[str, ...],
    timeout_s: float,
    *,
    env: Mapping[str, str] | None = None,
    is_logged: bool = True,
) -> CommandResult:
    """Runs a program in the worktree to its end; its whole tree is dead when this returns or raises.

    Raises BackendError `sandbox_unavailable` where this host's settings demand isolation.
    """
    silence_s = work.settings.sidecar.silence_s
    spec = CommandSpec(
        argv=argv,
        cwd=work.workspace.path,
        home=work.scratch,
        timeout_s=timeout_s,
        silence_s=silence_s or None,
        env={**work.workspace.environment, **WITHOUT_BYTECODE, **(env or {})},
        grace_s=work.settings.sidecar.kill_grace_s,
        mode=work.settings.sandbox.mode,
        view=policy.view(work),
        limits=policy.command_limits(work.settings),
    )
    decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def on_output(chunk: bytes) -> None:
        work.progress()
        if is_logged and (text := decoder.decode(chunk)):
            work.log(text)

    try:
        return await run_command(spec, on_output, on_start=work.on_process)
    except SandboxUnavailable as error:
        raise configuration(error.code, str(error)) from error


def failure_of(result: CommandResult, timeout_s: float, silence_s: float) -> BackendError | None:
    """Why the task's command did not succeed; None when it did."""
    if result.succeeded:
        return None
    # Before it is cut: half of a secret is not known as one.
    tail = redact_text(result.output.decode("utf-8", "replace"))[-TAIL_CHARS:].strip()
    said = f"; its output ends with:\n{tail}" if tail else "; it printed nothing"
    why = f": {result.hint}" if result.hint else ""
    match result.outcome:
        case Outcome.TIMED_OUT:
            more = "; a task that needs more time says so with --timeout"
            return task_error("timed_out", f"the command was ended after {timeout_s:g} s{more}{said}")
        case Outcome.SILENT:
            more = " (sidecar.silence_s of this host: raise it, or make the command speak)"
            return task_error("silent", f"the command was ended after {silence_s:g} s without output{more}{said}")
        case Outcome.FAILED_TO_START:
            return infrastructure("command_not_started", f"the command could not be started: {result.error}")
        case Outcome.CANCELLED:
            return infrastructure("command_killed", f"somebody ended the command{said}")
        case Outcome.EXITED if result.signal is not None and result.error is not None:
            return task_error("command_failed", f"the command was {result.error}{said}")
        case Outcome.EXITED if result.signal is not None:
            return task_error("command_failed", f"the command was killed by signal {result.signal}{why}{said}")
        case Outcome.EXITED if result.exit_code is None:
            return infrastructure("command_lost", f"the end of the command was not seen: {result.error}")
        case _:
            return task_error("command_failed", f"the command ended with exit code {result.exit_code}{why}{said}")
