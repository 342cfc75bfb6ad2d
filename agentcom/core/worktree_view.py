"""The worktrees of the fleet, as people and programs see them: what hosts told last, and how long ago that was."""

from __future__ import annotations

from typing import Final

import msgspec

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import Now
from agentcom.core.agents import Fleet, Host
from agentcom.model import JsonObject
from agentcom.worktrees import Worktree

TREES_PER_PAGE: Final = 2 * limits.PAGE_MAX  # a page ends with the host that passes it
HOSTS_PER_PAGE: Final = limits.PAGE_MAX


def worktrees(fleet: Fleet, op: m.WorktreeList, now: Now) -> JsonObject:
    """A page of hosts. One that has told nothing since the hub's start has no age."""
    if op.host is not None:
        hosts = [fleet.host_named(op.host)]
    else:
        hosts = [fleet.hosts[number] for number in sorted(fleet.hosts) if number > (op.cursor or 0)]
    trees: list[JsonObject] = []
    told: list[JsonObject] = []
    for host in hosts:
        if len(trees) >= TREES_PER_PAGE or len(told) >= HOSTS_PER_PAGE:
            break
        told.append(_host(host, now))
        trees += [_tree(host, one, now) for one in (host.worktrees.trees if host.worktrees is not None else ())]
    is_more = len(told) < len(hosts)
    return {"worktrees": trees, "hosts": told, "next_cursor": hosts[len(told) - 1].record.id if is_more else None}


def _host(host: Host, now: Now) -> JsonObject:
    report = host.worktrees
    return {
        "host": host.record.name,
        "state": "online" if host.online else "offline",
        "worktrees": len(report.trees) if report is not None else None,
        "left_out": report.left_out if report is not None else 0,
        "age_s": _age_s(host, now) if report is not None else None,
    }


def _tree(host: Host, one: Worktree, now: Now) -> JsonObject:
    """With the age of what is told of it: on its way, and before."""
    fields: JsonObject = msgspec.to_builtins(one)
    defaults = {name: getattr(one, name) for name in one.__struct_fields__}
    age_s = _age_s(host, now)
    told = {**defaults, **fields, "host": host.record.name, "looked_s": one.looked_s + age_s}
    goes_in_s = None if one.goes_in_s is None else max(0, one.goes_in_s - age_s)
    return {**told, "age_s": one.age_s + age_s, "goes_in_s": goes_in_s}


def _age_s(host: Host, now: Now) -> int:
    return max(0, now.mono_ms - host.worktrees_ms) // 1000
