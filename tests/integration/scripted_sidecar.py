"""A real sidecar process whose attempts do what their task's command says, and nothing else.

`python -m tests.integration.scripted_sidecar` runs on the AGENTCOM_HOME of the environment. It stands for the
whole execution of tasks, so that the daemon is tested by itself. The label `gate` makes an attempt wait for
the hub after its command, as before a model call.
"""

from __future__ import annotations

import sys

from agentcom import config
from agentcom.errors import ConfigError
from agentcom.model import Backend, ResultStatus, TaskResult
from agentcom_sidecar.daemon import main
from agentcom_sidecar.sandbox import CommandSpec, run_command
from agentcom_sidecar.work import Outcome, Work


async def execute(work: Work) -> Outcome:
    def take(chunk: bytes) -> None:
        work.log(chunk.decode(errors="replace"))
        work.progress()

    command = CommandSpec(
        argv=("sh", "-c", work.spec.command or "true"),
        cwd=work.workspace.path,
        home=work.scratch,
        timeout_s=work.assign.timeout_s,
        env=work.workspace.environment,
        grace_s=work.settings.sidecar.kill_grace_s,
        mode=work.settings.sandbox.mode,
        view=work.workspace.view,
    )
    ran = await run_command(command, take, on_start=work.on_process)
    if "gate" in work.spec.labels:
        await work.hub_gate()
    made = await work.workspace.commit(work.spec.description)
    result = TaskResult(
        status=ResultStatus.unchecked,
        output=ran.output.decode(errors="replace"),
        backend=Backend.shell,
        model="none",
        exit_code=ran.exit_code,
        commit=made.commit if made else None,
        branch=work.workspace.branch or None,
        spec_sha256=work.spec_sha256,
    )
    return Outcome(outcome="completed", result=result)


if __name__ == "__main__":
    home = config.Home(config.home_path())
    try:
        sys.exit(main(home, config.load(home.path), execute))
    except ConfigError as error:
        sys.exit(error.message)
