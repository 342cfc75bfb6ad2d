"""Agent programs: started in the worktree through the one door, watched, and heard.

Rules it keeps:
* No shell, no stdin, a home of its own for the attempt, own process group; its tree dies with the attempt.
* What this host's owner names for a program reaches it, and nothing else: no key of the sidecar, no setting of a task.
* A start that fails (it cannot be started, it ends badly or stays silent before a sign of life) is tried again after
  START_WAITS_S; then it is this host's failure, which names each try.
* What goes into its files and what comes out is bounded; files are made new, never through a link.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from agentcom import redaction
from agentcom.agent_programs import program_of
from agentcom.config import read_private
from agentcom.errors import AgentComError, ConfigError
from agentcom_sidecar import policy
from agentcom_sidecar.agentic import confined
from agentcom_sidecar.backends.base import BackendError, configuration, infrastructure, task_error
from agentcom_sidecar.backends.shell import WITHOUT_BYTECODE
from agentcom_sidecar.command import View
from agentcom_sidecar.programs import catalogue, generic
from agentcom_sidecar.programs.base import PROMPT_ARGUMENT_BYTES_MAX, Adapter, Heard, event_of
from agentcom_sidecar.sandbox import CommandResult, CommandSpec, Outcome, SandboxUnavailable, run_command
from agentcom_sidecar.work import Work

START_WAITS_S: Final = (5.0, 15.0, 30.0)
LINE_BYTES_MAX: Final = 1024 * 1024  # an event that is longer is left out
TAIL_CHARS: Final = 1000  # of what it printed, in an error
OUTPUT_CHARS_MAX: Final = 64 * 1024  # of what a generic program printed, when it wrote no result file

TOLD: Final = ("task_id", "prompt_file", "task_json_file", "result_file")  # in its environment too

STOPPED: Final = frozenset({"budget", "rounds"})  # a program that ended so has worked, and its work is checked

Sleep = Callable[[float], Awaitable[None]]


class StartFailed(Exception):
    """One start that came to nothing, and why."""


@dataclass(slots=True)
class Program:
    """The program of one attempt; `run` once per iteration. `tries` names each start that failed, `tried_ms` says when
    that was since the attempt began."""

    work: Work
    adapter: Adapter
    path: Path
    sleep: Sleep = asyncio.sleep
    tries: list[str] = field(default_factory=list)
    tried_ms: list[int] = field(default_factory=list)
    session: str = ""
    _env: dict[str, str] = field(default_factory=dict)

    async def run(self, prompt: str, number: int, timeout_s: float, budget_usd: float | None) -> Heard:
        """Lets it work on `prompt` in the worktree to its end. Raises BackendError; what it had used by then is in the
        error."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + timeout_s
        failed: list[str] = []
        for wait_s in (*START_WAITS_S, None):
            await self.work.hub_gate()
            self.work.progress()
            try:
                return await self._once(prompt, number, max(0.01, give_up_at - loop.time()), budget_usd)
            except StartFailed as error:
                told = f"start {len(failed) + 1} of {len(START_WAITS_S) + 1}: {error}"
                failed.append(told)
                self.tries.append(told)
                self.tried_ms.append(int((time.monotonic() - self.work.began_s) * 1000))
                after = f"; again in {wait_s:g} s" if wait_s is not None else ""
                self.work.log(f"[{self.adapter.name}] {told}{after}\n")
            if wait_s is not None:
                await self.sleep(wait_s)
        said = (
            f"{self.adapter.program} could not be started: {'; '.join(failed)}; try its command on this host by hand "
            "(`agentcom doctor` shows it), mend programs.commands, or raise programs.start_s if it is only slow"
        )
        raise infrastructure("program_not_started", said)

    async def _once(self, prompt: str, number: int, timeout_s: float, budget_usd: float | None) -> Heard:
        folder = Path(tempfile.mkdtemp(prefix=f"iteration-{number}-", dir=self.work.scratch))
        values = self._values(folder, prompt, budget_usd)
        _write(folder / "prompt.txt", prompt.encode("utf-8", "replace"))
        _write(folder / "task.json", _task_json(self.work))
        listener = _Listener(self.work, self.adapter)
        spec = self._spec(values, timeout_s)
        result = await self._watched(spec, listener)
        heard = listener.heard
        if self.adapter.read is None:
            self._take_result_file(folder, listener, result)
        self.session = heard.session or self.session
        failure = self._failure_of(result, listener, timeout_s)
        if failure is not None:
            failure.usage = heard.usage
            raise failure
        return heard

    def _values(self, folder: Path, prompt: str, budget_usd: float | None) -> dict[str, str]:
        assign = self.work.assign
        model = "" if assign.route.model == "none" else assign.route.model
        if len(prompt.encode("utf-8", "replace")) > PROMPT_ARGUMENT_BYTES_MAX:
            prompt = f"Read the file {folder / 'prompt.txt'}. It holds your task; do what it says."
        return {
            "task_id": str(assign.task),
            "attempt": str(assign.attempt),
            "prompt": prompt,
            "prompt_file": str(folder / "prompt.txt"),
            "task_json_file": str(folder / "task.json"),
            "result_file": str(folder / "result.json"),
            "model": model,
            "session": self.session,
            "budget_usd": "" if budget_usd is None else f"{budget_usd:.4f}",
            "worktree": str(self.work.workspace.path),
        }

    def _spec(self, values: dict[str, str], timeout_s: float) -> CommandSpec:
        work, programs = self.work, self.work.settings.programs
        own = policy.view(work)
        view = View(
            readable=(*own.readable, *catalogue.seen_by(self.path)),
            hidden=own.hidden,
            writable=own.writable,
            network=own.network or self.adapter.name in programs.network,
        )
        named = {f"AGENTCOM_{name.upper()}": values[name] for name in TOLD}
        try:
            argv = (str(self.path), *self.adapter.argv(values)[1:])
            return CommandSpec(
                argv=argv,
                cwd=work.workspace.path,
                home=work.scratch,
                timeout_s=timeout_s,
                silence_s=programs.silence_s or None,
                env={
                    **work.workspace.environment,
                    **WITHOUT_BYTECODE,
                    **named,
                    **self.adapter.env,
                    **self._env,
                },
                grace_s=work.settings.sidecar.kill_grace_s,
                mode=work.settings.sandbox.mode,
                view=view,
                limits=policy.command_limits(work.settings),
            )
        except ValueError as error:
            raise configuration("bad_setting", f"programs: {error}") from error

    async def _watched(self, spec: CommandSpec, listener: _Listener) -> CommandResult:
        """Runs it; ends it when no sign of life came in time."""
        stop = asyncio.Event()
        start_s = self.work.settings.programs.start_s

        async def watch() -> None:
            try:
                async with asyncio.timeout(start_s):
                    await listener.alive.wait()
            except TimeoutError:
                stop.set()

        watcher = asyncio.create_task(watch())
        try:
            result = await run_command(spec, listener.take, on_start=self.work.on_process, stop=stop)
        except SandboxUnavailable as error:
            raise configuration(error.code, str(error)) from error
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher
        listener.end()
        if stop.is_set() and not listener.alive.is_set():
            raise StartFailed(f"no sign of life within {start_s:g} s (programs.start_s){listener.said}")
        return result

    def _failure_of(
        self, result: CommandResult, listener: _Listener, timeout_s: float
    ) -> BackendError | None:
        heard, name, said = listener.heard, self.adapter.program, listener.said
        if result.outcome is Outcome.FAILED_TO_START:
            raise StartFailed(result.error or "it could not be started")
        if heard.failure is not None:
            return BackendError(*heard.failure)
        match result.outcome:
            case Outcome.TIMED_OUT:
                return task_error(
                    "timed_out", f"{name} was not done within {self.work.assign.timeout_s} s{said}"
                )
            case Outcome.SILENT:
                silence_s = self.work.settings.programs.silence_s
                more = " (programs.silence_s of this host)"
                return task_error("silent", f"{name} was ended after {silence_s:g} s without output{more}{said}")
            case Outcome.CANCELLED:
                return infrastructure("command_killed", f"somebody ended {name}{said}")
        how = f"signal {result.signal}" if result.signal is not None else f"exit code {result.exit_code}"
        if why := result.error or result.hint:
            how = f"{how}: {why}"
        if not result.succeeded and not listener.alive.is_set():
            raise StartFailed(f"it ended with {how}{said}")
        if not result.succeeded and heard.stop_reason not in STOPPED:
            return task_error("program_failed", f"{name} ended with {how}{said}")
        has_answered = heard.is_over if self.adapter.read is None else bool(heard.usage.out)
        if not heard.text.strip() and not has_answered:
            return task_error("empty_answer", f"{name} ended without an answer{said}")
        return None

    def _take_result_file(self, folder: Path, listener: _Listener, result: CommandResult) -> None:
        heard = listener.heard
        try:
            content = confined.read(folder, "result.json", generic.RESULT_BYTES_MAX + 1)
        except confined.PathRefused as error:
            raise task_error("bad_result_file", f"the result file cannot be read: {error}") from error
        if content is None:
            if result.succeeded:
                heard.say(listener.text[-OUTPUT_CHARS_MAX:])
            return
        listener.alive.set()
        fault = generic.read_result(content, heard)
        if fault:
            raise task_error("bad_result_file", fault)


class _Listener:
    """What a program prints, line by line: events to its adapter, all of it as progress. `alive` is the first sign."""

    def __init__(self, work: Work, adapter: Adapter) -> None:
        self._work, self._adapter = work, adapter
        self.heard = Heard()
        self.alive = asyncio.Event()
        self.text = ""  # the end of what is no event
        self._line = bytearray()
        self._is_too_long = False
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def said(self) -> str:
        # Before it is cut: half of a secret is not known as one.
        tail = redaction.redact_text(self.text)[-TAIL_CHARS:].strip()
        return f"; it said: {tail}" if tail else ""

    def take(self, chunk: bytes) -> None:
        self._work.progress()
        if self._adapter.read is None:
            self.alive.set()
            self._print(self._decoder.decode(chunk))
            return
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            self._extend(part)
            self._end_line()
        self._extend(rest)

    def end(self) -> None:
        if self._line:
            self._end_line()

    def _extend(self, part: bytes) -> None:
        self._is_too_long |= len(self._line) + len(part) > LINE_BYTES_MAX
        if not self._is_too_long:
            self._line += part

    def _end_line(self) -> None:
        line, is_too_long = bytes(self._line), self._is_too_long
        self._line.clear()
        self._is_too_long = False
        if is_too_long:
            self.alive.set()
            self._work.log(
                f"[{self._adapter.name}] a line of more than {LINE_BYTES_MAX} bytes was left out\n"
            )
            return
        event = event_of(line)
        if event is None:
            self._print(line.decode("utf-8", "replace") + "\n" if line.strip() else "")
            return
        self.alive.set()
        self._work.heard()
        assert self._adapter.read is not None
        shown = self._adapter.read(event, self.heard)
        if shown:
            self._work.log(f"{shown.rstrip()}\n")

    def _print(self, text: str) -> None:
        if text:
            self.text = (self.text + text)[-OUTPUT_CHARS_MAX:]
            self._work.log(text)


def prepared(work: Work, sleep: Sleep = asyncio.sleep) -> Program:
    """The program that the task names, ready to run: found, allowed, with what this host hands over to it. Raises
    BackendError (configuration) with what to install or to set."""
    name, settings = program_of(work.spec.needs), work.settings.programs
    if not name:
        raise configuration(
            "program_not_named", "the task names no program; submit it with --needs program:NAME"
        )
    if name not in settings.offer:
        said = f"this host does not offer {name}: add it to programs.offer in its config.toml"
        raise configuration("program_not_offered", said)
    if refusal := policy.check_model_commands(work):
        raise BackendError(refusal.failure_class, refusal.code, refusal.message)
    try:
        adapter = catalogue.adapter_of(name, settings)
        path = catalogue.find(adapter)
    except ConfigError as error:
        raise configuration("program_missing", error.message) from error
    if work.assign.budget_usd is not None and not adapter.mentions("budget_usd"):
        said = f"a budget concerns the task, and {name} cannot be kept within one: take another program, or say in "
        raise configuration("budget_unkept", f"{said}programs.commands how it is told {{budget_usd}}")
    return Program(work, adapter, path, sleep, _env=_handed_over(work, adapter))


def _handed_over(work: Work, adapter: Adapter) -> dict[str, str]:
    """The variables that this host's owner names for the program; files are copied into its home."""
    found: dict[str, str] = {}
    if adapter.takes_base_url:
        found["ANTHROPIC_BASE_URL"] = work.settings.anthropic.base_url
    if policy.isolation_of(work).holds:
        found |= adapter.env_isolated
    for entry in work.settings.programs.credentials:
        name, _, what = entry.partition(" ")
        if name != adapter.name:
            continue
        try:
            if what.startswith(("/", "~")):
                _copy(Path(what).expanduser(), work.scratch)
            elif "=" in what:
                variable, _, path = what.partition("=")
                found[variable] = read_private(Path(path).expanduser()).decode().strip()
            elif what in os.environ:
                found[what] = os.environ[what]
                redaction.learn(os.environ[what])
            else:
                raise ConfigError(f"{what} is not set in the environment of this host's sidecar")
        except (OSError, UnicodeDecodeError, AgentComError) as error:
            raise configuration("bad_key", f"programs.credentials {entry}: {error}") from error
    return found


def _copy(source: Path, home: Path) -> None:
    """Into the program's home, at the place that it has in this user's."""
    content = read_private(source)
    user_home = Path.home()
    inside = source.relative_to(user_home) if source.is_relative_to(user_home) else Path(source.name)
    target = home / inside
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(target, content)


def _write(path: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)


def _task_json(work: Work) -> bytes:
    """The task as it was submitted, with its number, attempt and tier."""
    spec = msgspec.to_builtins(work.spec)
    told = {"id": work.assign.task, "attempt": work.assign.attempt, "tier": work.assign.tier.value, **spec}
    return redaction.redact_values(msgspec.json.encode(told).decode()).encode()
