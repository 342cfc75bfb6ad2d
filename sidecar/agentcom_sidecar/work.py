"""What runs an attempt gets and what it gives back: the seam between the daemon and the execution.

The daemon makes a `Work`, calls `execute(work)` and writes the `Outcome` to its outbox. `execute` never
raises but asyncio.CancelledError, and then only after everything that it started is dead.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agentcom.config import Home, Settings
from agentcom.messages import Assign
from agentcom.model import CheckSpec, TaskError, TaskResult, TaskSpec
from agentcom_sidecar.questions import Kept
from agentcom_sidecar.sandbox import ProcessMark
from agentcom_sidecar.workspace import Workspace

Ending = Literal["completed", "failed", "interrupted", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One attempt, ready to run: its workspace is prepared and its record lies on disk.

    `spec_sha256` (hex) is over `assign.spec` as received. `log` streams text to `task log`; `progress` says
    that the worker moved on (a heartbeat shows it), `heard` that the model has begun to answer. `hub_gate`
    returns once the hub has been heard within one lease length: await it before every model call. `on_process`
    writes a command's mark down before the command starts: give it to every `run_command`. `scratch` is a
    private directory, outside the workspace, that serves commands as HOME. `kept` is the work of an earlier attempt
    that asked a question, and goes on in its worktree. `sign` gives a result with its host's signature. `began_s`: when
    the attempt was accepted, on the monotonic clock.
    """

    assign: Assign
    spec: TaskSpec
    spec_sha256: str
    workspace: Workspace
    settings: Settings
    home: Home
    log: Callable[[str], None]
    progress: Callable[[], None]
    heard: Callable[[], None] = lambda: None
    hub_gate: Callable[[], Awaitable[None]]
    on_process: Callable[[ProcessMark], None]
    scratch: Path
    kept: Kept | None = None
    sign: Callable[[TaskResult], TaskResult] = lambda result: result
    began_s: float = field(default_factory=time.monotonic)

    @property
    def checks(self) -> tuple[CheckSpec, ...]:
        """What is verified: what its registered repository asks of every task, then the task's own, if wanted."""
        return (*self.assign.repo_checks, *(self.spec.checks if self.spec.verify else ()))

    @property
    def is_verified(self) -> bool:
        return self.spec.verify or bool(self.assign.repo_checks)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended: `completed` carries a result, `failed` an error (and a partial result)."""

    outcome: Ending
    result: TaskResult | None = None
    error: TaskError | None = None


Execute = Callable[[Work], Awaitable[Outcome]]
