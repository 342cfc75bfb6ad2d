"""What is stored of a second host: the wait for one, and what the hub found when it compared the two reports."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from agentcom.fields import AttemptNo


class SecondVerdict(Struct, frozen=True, kw_only=True):
    """What the hub found when it compared a second host's report with that of the attempt whose work it verified."""

    attempt: AttemptNo
    verdict: Literal["agrees", "disagrees", "could_not"]
    why: str = ""


class SecondRecord(Struct, frozen=True, kw_only=True):
    """A live task that asks for a second host. `attempt` is the one whose work is verified and waits for that; 0: none
    yet. `tier` is the task's own meanwhile, `excluded` are the names of hosts that could not verify it."""

    task: int
    attempt: int = 0
    host: int = 0
    host_name: str = ""
    agent: str = ""
    commit: str = ""
    tree: str = ""
    base: str = ""
    branch: str = ""
    tier: str = ""
    tries: int = 0
    excluded: tuple[str, ...] = ()
    last: str = ""
