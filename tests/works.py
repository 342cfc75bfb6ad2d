"""One attempt as the daemon would hand it over, for tests of what an attempt does: real workspace, real files.

`run_attempt` prepares it and executes it; what the attempt said and did comes back as a `Ran`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from agentcom.config import AnthropicSettings, Home, SandboxSettings, Settings, SidecarSettings
from agentcom.messages import Assign
from agentcom.model import (
    BACKEND_OF,
    Backend,
    CheckKind,
    CheckSpec,
    Iteration,
    Role,
    Route,
    Strategy,
    TaskError,
    TaskResult,
    TaskSpec,
    Tier,
)
from agentcom_sidecar import workspace
from agentcom_sidecar.execution import execute
from agentcom_sidecar.sandbox import ProcessMark
from agentcom_sidecar.work import Outcome, Work

TIERS = {
    Strategy.trivial: Tier.trivial,
    Strategy.local_llm: Tier.standard,
    Strategy.cloud_llm: Tier.complex,
    Strategy.agent_program: Tier.complex,
}


def check(kind: str, target: str = "", timeout_s: int = 20) -> CheckSpec:
    return CheckSpec(kind=CheckKind(kind), target=target, timeout_s=timeout_s)


def settings(
    *,
    first_byte_s: float = 5,
    idle_s: float = 5,
    max_output_tokens: int = 4096,
    base_url: str = "https://api.anthropic.com",
    key_file: str = "",
    prices_file: str = "",
    accept_unisolated: bool = False,
    mode: Any = "auto",
) -> Settings:
    return Settings(
        sidecar=SidecarSettings(
            first_byte_s=first_byte_s, idle_s=idle_s, max_output_tokens=max_output_tokens, kill_grace_s=0.2
        ),
        sandbox=SandboxSettings(mode=mode, accept_unisolated=accept_unisolated),
        anthropic=AnthropicSettings(base_url=base_url, key_file=key_file, prices_file=prices_file),
    )


@dataclass
class Ran:
    """An attempt that was run: its outcome and what it told its daemon meanwhile."""

    path: Path
    outcome: Outcome | None = None
    logged: list[str] = field(default_factory=list)
    marks: list[ProcessMark] = field(default_factory=list)
    steps: int = 0
    gates: int = 0

    @property
    def log(self) -> str:
        return "".join(self.logged)

    @property
    def result(self) -> TaskResult:
        assert self.outcome is not None
        assert self.outcome.result is not None
        return self.outcome.result

    @property
    def error(self) -> TaskError:
        assert self.outcome is not None
        assert self.outcome.error is not None, self.outcome
        return self.outcome.error

    @property
    def iterations(self) -> tuple[Iteration, ...]:
        return self.result.iterations

    @property
    def completed(self) -> TaskResult:
        assert self.outcome is not None
        assert self.outcome.outcome == "completed", self.outcome.error
        return self.result

    @property
    def failed(self) -> TaskError:
        assert self.outcome is not None
        assert self.outcome.outcome == "failed", self.outcome.result
        return self.error


def repository(folder: Path, files: Mapping[str, str] | None = None) -> Path:
    """A user's own repository with one commit on `main`."""
    folder.mkdir()
    for name, text in {"README.md": "hello\n", **(files or {})}.items():
        (folder / name).write_text(text)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        **{f"GIT_{who}_NAME": "Somebody" for who in ("AUTHOR", "COMMITTER")},
        **{f"GIT_{who}_EMAIL": "somebody@example.org" for who in ("AUTHOR", "COMMITTER")},
    }
    for arguments in (
        ("init", "--quiet", "--initial-branch=main"),
        ("add", "--all"),
        ("commit", "--quiet", "-m", "first"),
    ):
        subprocess.run(["git", *arguments], cwd=folder, env=environment, check=True, capture_output=True)
    return folder


async def work_of(
    folder: Path,
    strategy: Strategy,
    spec: TaskSpec,
    *,
    endpoint_url: str | None = None,
    model: str = "none",
    num_ctx: int | None = 8192,
    role: Role = Role.admin,
    max_fix_attempts: int = 2,
    timeout_s: int = 60,
    given: Settings | None = None,
    backend: Backend | None = None,
    remote: bool = False,
    budget_usd: float | None = None,
) -> tuple[Work, Ran]:
    given = given or settings()
    home = Home(folder / "home").prepare()
    place = await workspace.prepare(spec, 7, 1, given, home, submitter_role=role)
    ran = Ran(place.path)

    async def hub_gate() -> None:
        ran.gates += 1

    def step() -> None:
        ran.steps += 1

    encoded = msgspec.msgpack.encode(spec)
    route = Route(
        strategy=strategy,
        backend=backend or BACKEND_OF[strategy],
        agent="Mistake Not",
        host="here",
        model=model,
        endpoint_url=endpoint_url,
        num_ctx=num_ctx,
        reason="test",
        tier=TIERS[strategy],
        remote=remote,
    )
    assign = Assign(
        task=7,
        attempt=1,
        agent="Mistake Not",
        lease_s=45,
        spec=msgspec.Raw(encoded),
        route=route,
        tier=TIERS[strategy],
        submitter="somebody",
        submitter_role=role,
        max_fix_attempts=max_fix_attempts,
        timeout_s=timeout_s,
        budget_usd=budget_usd,
    )
    scratch = folder / "scratch"
    scratch.mkdir(exist_ok=True)
    work = Work(
        assign=assign,
        spec=spec,
        spec_sha256="ab" * 32,
        workspace=place,
        settings=given,
        home=home,
        log=ran.logged.append,
        progress=step,
        hub_gate=hub_gate,
        on_process=ran.marks.append,
        scratch=scratch,
    )
    return work, ran


def run_attempt(folder: Path, strategy: Strategy, spec: TaskSpec, **options: Any) -> Ran:
    """Prepares an attempt in `folder` and executes it to its end."""

    async def run() -> Ran:
        work, ran = await work_of(folder, strategy, spec, **options)
        ran.outcome = await execute(work)
        return ran

    return asyncio.run(run())


def assign_of(spec: TaskSpec, **fields: Any) -> Assign:
    """An assignment of the task as the hub would send it."""
    route = Route(
        strategy=Strategy.trivial,
        backend=Backend.shell,
        agent="Mistake Not",
        host="here",
        model="",
        reason="command",
        tier=Tier.trivial,
    )
    given: dict[str, Any] = {
        "task": 7, "attempt": 1, "agent": "Mistake Not", "lease_s": 45, "route": route, "tier": Tier.trivial,
        "submitter": "admin", "submitter_role": Role.admin, "max_fix_attempts": 0, "timeout_s": 60,
    }  # fmt: skip
    return Assign(spec=msgspec.Raw(msgspec.msgpack.encode(spec)), **{**given, **fields})
