"""/agents, /hosts and /worktrees: who works, on which machines, and what lies there."""

from __future__ import annotations

from flask import Blueprint, Response

from agentcom import messages as m
from agentcom_web.forwarding import answer, body, described, query

fleet = Blueprint("fleet", __name__)


@fleet.get("/agents")
@described("view, operate, admin")
def agents() -> Response:
    """All agents with their states."""
    return answer(query(m.AgentList))


@fleet.post("/agents/<agent>/cordon")
@described("operate, admin")
def cordon(agent: str) -> Response:
    """Give an agent no new work; what it does now goes on."""
    return answer(body(m.AgentCordon, agent=agent, cordoned=True))


@fleet.post("/agents/<agent>/uncordon")
@described("operate, admin")
def uncordon(agent: str) -> Response:
    """Let an agent take work again."""
    return answer(body(m.AgentCordon, agent=agent, cordoned=False))


@fleet.get("/hosts")
@described("view, operate, admin")
def hosts() -> Response:
    """All hosts with their resources; a figure too old to trust is null."""
    return answer(query(m.HostList))


@fleet.get("/hosts/<host>")
@described("view, operate, admin")
def host(host: str) -> Response:
    """A host with what it last told of its resources, however old, and with its last 15 minutes."""
    return answer(query(m.HostShow, host=host))


@fleet.post("/hosts/<host>/drain")
@described("admin", body=(m.HostDrain,), fixed=("host",))
def drain(host: str) -> Response:
    """Give a host no new work; {"draining": false} takes that back."""
    return answer(body(m.HostDrain, host=host))


@fleet.post("/hosts/<host>/accept-key")
@described("admin", body=(m.HostAcceptKey,), fixed=("host",))
def accept_key(host: str) -> Response:
    """Let a host sign its reports with another key than the one that is known."""
    return answer(body(m.HostAcceptKey, host=host))


@fleet.delete("/hosts/<host>")
@described("admin", query=m.HostRemove, fixed=("host",))
def remove(host: str) -> Response:
    """Forget a host and revoke its key when what it does has ended; now=true: at once, its work is queued again."""
    return answer(query(m.HostRemove, host=host))


@fleet.delete("/agents/<agent>")
@described("operate, admin", query=m.AgentRemove, fixed=("agent",))
def remove_agent(agent: str) -> Response:
    """Forget an agent when what it does has ended; now=true: at once, its work is queued again."""
    return answer(query(m.AgentRemove, agent=agent))


@fleet.get("/worktrees")
@described("view, operate, admin", query=m.WorktreeList)
def worktrees() -> Response:
    """What lies in the worktrees of all hosts, or of one: branch, commits, changes, and what is nowhere else."""
    return answer(query(m.WorktreeList))
