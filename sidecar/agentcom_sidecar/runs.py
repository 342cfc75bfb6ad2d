"""One attempt from its acceptance to its outcome: workspace, execution, wall clock, cancel.

`outcome()` always gives an outcome, whatever happens, and only after everything that the attempt started is
dead. What becomes of the outcome is the daemon's.
"""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from agentcom import logs
from agentcom.config import Home, Settings
from agentcom.messages import Assign, AttemptBeat, ToVerify
from agentcom.model import FailureClass, TaskError, TaskResult, TaskSpec
from agentcom_sidecar import second_look, trees, workspace
from agentcom_sidecar.bases import start_of
from agentcom_sidecar.log_stream import LogStream
from agentcom_sidecar.outbox import Key
from agentcom_sidecar.questions import Kept, questions_of
from agentcom_sidecar.sandbox import ProcessMark
from agentcom_sidecar.session import Session
from agentcom_sidecar.work import Execute, Outcome, Work

OVERTIME_S = 60.0  # beyond the task's own time-out: the execution ends itself, this is for one that hangs


class Run:
    """An attempt that this process works on. `progress` rises with each sign of life of its worker.

    `is_accepted`: its record lies on disk, so the hub may hear of it.
    """

    def __init__(
        self,
        assign: Assign,
        spec: TaskSpec,
        *,
        home: Home,
        settings: Settings,
        session: Session,
        execute: Execute,
        on_process: Callable[[ProcessMark], None],
        sign: Callable[[TaskResult], TaskResult] = lambda result: result,
        on_place: Callable[[workspace.Workspace], None] = lambda place: None,
    ) -> None:
        self.assign = assign
        self.sign = sign
        self.key: Key = (assign.task, assign.attempt)
        self.progress = 0
        self.has_heard = False  # of its model
        self.is_accepted = False
        self.log = LogStream(assign.task, assign.attempt, session.send)
        self._began_s = time.monotonic()  # it is accepted at once
        self.directory = ""  # the name of its workspace, once there is one
        self._spec = spec
        self._home, self._settings, self._session = home, settings, session
        self._execute = execute
        self._on_process = on_process
        self._on_place = on_place
        self.is_placed = False  # it has a directory to work in
        self._ended_as: Literal["cancelled", "interrupted"] = "interrupted"
        self._reason = ""
        self._worker: asyncio.Task[Outcome] | None = None
        self._is_ended = False

    @property
    def beat(self) -> AttemptBeat:
        return AttemptBeat(self.key[0], self.key[1], self.progress, self.has_heard)

    def end(self, ended_as: Literal["cancelled", "interrupted"], reason: str) -> None:
        """Kills everything that the attempt started; its outcome is `ended_as`. Again: without the grace."""
        if not self._is_ended:
            self._ended_as, self._reason, self._is_ended = ended_as, reason, True
        if self._worker is not None:
            self._worker.cancel()

    async def outcome(self) -> Outcome:
        """Runs the attempt; call once."""
        if self._is_ended:
            return self._ended()
        self._worker = asyncio.create_task(self._work())
        try:
            await asyncio.wait({self._worker})
        finally:
            await asyncio.to_thread(shutil.rmtree, self._scratch, ignore_errors=True)
        if self._worker.cancelled():
            return self._ended()
        error = self._worker.exception()
        if error is not None:
            logs.get().error("attempt_broke", task=self.key[0], attempt=self.key[1], exc_info=error)
            return _failed("sidecar_error", f"the sidecar failed: {type(error).__name__}: {error}")
        return self._worker.result()

    @property
    def _scratch(self) -> Path:
        return self._home.sidecar / "scratch" / f"{self.key[0]}-{self.key[1]}"

    def _ended(self) -> Outcome:
        if self._ended_as == "cancelled":
            return Outcome(outcome="cancelled")
        error = TaskError(
            failure_class=FailureClass.infrastructure,
            code="sidecar_stopped",
            message=self._reason or "stopped",
        )
        return Outcome(outcome="interrupted", error=error)

    async def _work(self) -> Outcome:
        if self.assign.verifies is not None:
            return await self._verify(self.assign.verifies)
        try:
            place, kept = await self._place()
        except workspace.WorkspaceError as error:
            return Outcome(outcome="failed", error=error.as_error())
        self.directory = place.path.name
        if place.has_repository:
            await asyncio.to_thread(trees.save, self._home, self.directory, trees.record_of(place))
        return await self._work_at(place, kept)

    async def _verify(self, wanted: ToVerify) -> Outcome:
        """Another host's work, in a clone that is gone afterwards."""
        role, base_branch = self.assign.submitter_role, self._spec.branch or self.assign.base_branch
        try:
            place = await workspace.clone(
                self._spec,
                self.key,
                wanted,
                base_branch,
                self._settings,
                self._home,
                submitter_role=role,
                on_process=self._on_process,
            )
            if place is None:
                return Outcome(outcome="completed", result=second_look.not_there(wanted))
            return await self._work_at(place, None)
        except workspace.WorkspaceError as error:
            return Outcome(outcome="failed", error=error.as_error())
        finally:
            await asyncio.to_thread(shutil.rmtree, workspace.clone_of(self._home, self.key), ignore_errors=True)

    async def _work_at(self, place: workspace.Workspace, kept: Kept | None) -> Outcome:
        self._step()
        self.is_placed = True
        self._on_place(place)
        bound_s = self.assign.timeout_s + self._checks_s + self._push_s + OVERTIME_S
        try:
            async with asyncio.timeout(bound_s) as clock:
                return await self._execute(self._work_in(place, kept))
        except TimeoutError:
            if not clock.expired():
                raise
            return _failed(
                "timed_out", f"the attempt did not end within {bound_s:g} s", FailureClass.task_error
            )

    async def _place(self) -> tuple[workspace.Workspace, Kept | None]:
        """Where an earlier attempt asked its question, if this one goes on there; else a directory of its own."""
        asked = (self.assign.task, self.assign.resume)
        kept = await asyncio.to_thread(questions_of(self._home.sidecar).get, asked) if self.assign.resume else None
        settings, home, role = self._settings, self._home, self.assign.submitter_role
        if kept is not None:
            found = await workspace.reopen(
                self._spec,
                self.key,
                kept,
                settings,
                home,
                self._take_output,
                submitter_role=role,
                on_process=self._on_process,
            )
            if found is not None:
                return found, kept
        if self.assign.resume:
            self.log.add(f"[begins anew] what attempt {self.assign.resume} left is not here any more\n")
        place = await workspace.prepare(
            self._spec,
            *self.key,
            settings,
            home,
            self._take_output,
            submitter_role=role,
            start=start_of(self._spec, self.assign),
            on_process=self._on_process,
        )
        return place, None

    @property
    def _checks_s(self) -> float:
        """What the checks may take by their time-outs: on the base, and after each try, then again with its tests."""
        checks = (*self.assign.repo_checks, *self._spec.checks)
        once_s = min(sum(check.timeout_s for check in checks), self._settings.sidecar.checks_s)
        return float(once_s * (2 * (self.assign.max_fix_attempts + 1) + 1))

    @property
    def _push_s(self) -> float:
        """What the push of its branch may take."""
        return 3 * self._settings.sidecar.fetch_s if self._spec.repo else 0.0

    def _work_in(self, place: workspace.Workspace, kept: Kept | None) -> Work:
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Work(
            assign=self.assign,
            spec=self._spec,
            spec_sha256=hashlib.sha256(bytes(self.assign.spec)).hexdigest(),
            workspace=place,
            settings=self._settings,
            home=self._home,
            log=self.log.add,
            progress=self._step,
            heard=self._hear,
            hub_gate=self._session.hub_gate,
            on_process=self._on_process,
            scratch=self._scratch,
            kept=kept,
            sign=self.sign,
            began_s=self._began_s,
        )

    def _take_output(self, chunk: bytes) -> None:
        self._step()

    def _hear(self) -> None:
        self.has_heard = True

    def _step(self) -> None:
        self.progress += 1


def _failed(code: str, message: str, failure_class: FailureClass = FailureClass.infrastructure) -> Outcome:
    error = TaskError(failure_class=failure_class, code=code, message=message[:3900])
    return Outcome(outcome="failed", error=error)
