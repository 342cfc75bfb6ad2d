"""The real sidecar, which kills itself (SIGKILL) at one step of the protocol, named by FAULTS_CRASH_AT.

The steps are those of daemon.py: the assignment has come / lies on disk / is accepted, the result is made / lies
on disk / has been sent, the acknowledgement has come / is carried out; and those of a forge (FORGE_STEPS): the branch
is pushed, the pull request is open. `FAULTS_CRASH_ONCE` names a file: a crash makes it, and where it is there nothing
crashes any more.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from agentcom import config
from agentcom import messages as m
from agentcom_sidecar import daemon, push
from agentcom_sidecar.attempts import Attempts
from agentcom_sidecar.forges.github import GitHub
from agentcom_sidecar.outbox import Outbox
from agentcom_sidecar.session import Session

STEPS = (
    "assigned",
    "on_disk",
    "before_accept",
    "after_accept",
    "result_made",
    "result_on_disk",
    "before_result",
    "after_result",
    "before_ack",
    "after_ack",
)
FORGE_STEPS = ("pushed", "opened")
FLUSH_S = 0.05  # libzmq's own thread sends: what was sent has then left

Returned = TypeVar("Returned")


def crash(step: str) -> None:
    once = Path(os.environ["FAULTS_CRASH_ONCE"])
    if os.environ["FAULTS_CRASH_AT"] == step and not once.exists():
        once.write_text(step)
        os.kill(os.getpid(), signal.SIGKILL)


def around(
    method: Callable[..., Returned], before: str, after: str, flush_s: float = 0.0
) -> Callable[..., Returned]:
    """`method`, with a step of the protocol on either side of it."""

    def watched(*arguments: Any) -> Returned:
        crash(before)
        # Before the call: a test that sees what the call does may let the next crash happen at once.
        is_armed = not Path(os.environ["FAULTS_CRASH_ONCE"]).exists()
        returned = method(*arguments)
        if os.environ["FAULTS_CRASH_AT"] == after:
            time.sleep(flush_s)
        if is_armed:
            crash(after)
        return returned

    return watched


def after(method: Callable[..., Awaitable[Returned]], step: str) -> Callable[..., Awaitable[Returned]]:
    """The same for a coroutine that ends with the step."""

    async def watched(*arguments: Any) -> Returned:
        returned = await method(*arguments)
        crash(step)
        return returned

    return watched


def watch() -> None:
    """Put the steps into the real classes."""
    send = Session._put

    def put(session: Session, message: Any) -> bool:
        if isinstance(message, m.Accept):
            return around(send, "before_accept", "after_accept", FLUSH_S)(session, message)
        if isinstance(message, m.Result):
            return around(send, "before_result", "after_result", FLUSH_S)(session, message)
        return send(session, message)

    for owner, name, made in (
        (Attempts, "add", around(Attempts.add, "assigned", "on_disk")),
        (Outbox, "put", around(Outbox.put, "result_made", "result_on_disk")),
        (Outbox, "acknowledge", around(Outbox.acknowledge, "before_ack", "after_ack")),
        (Session, "_put", put),
        (push, "push", after(push.push, "pushed")),
        (GitHub, "create", after(GitHub.create, "opened")),
    ):
        setattr(owner, name, made)


if __name__ == "__main__":
    watch()
    home = config.Home(config.home_path())
    sys.exit(daemon.main(home, config.load(home.path)))
