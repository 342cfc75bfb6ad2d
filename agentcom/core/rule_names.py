"""How people write what a rule of the queue is about, and how it is kept.

People give `repo:URL`, `label:LABEL`, `endpoint:NAME`, `host:NAME`, `submitter:NAME`. What can be renamed is kept by
its number, so a rule goes on working under another name. A submitter is whoever has the name: their key or token may
be revoked and another get its name, so it is kept by the number of the first who had it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from agentcom.core.agents import Fleet
from agentcom.core.principals import Principals
from agentcom.core.registry import Registry
from agentcom.errors import NotFound, Refused
from agentcom.model import JsonObject, QueueRule, RuleKind, RuleScope, Tier

SCOPES: dict[RuleKind, tuple[RuleScope, ...]] = {
    RuleKind.pause: (RuleScope.repo, RuleScope.tier, RuleScope.host),
    RuleKind.limit: (RuleScope.repo, RuleScope.label, RuleScope.endpoint),
    RuleKind.weight: (RuleScope.submitter, RuleScope.repo),
}


class Moved(NamedTuple):
    """What was set for a repository that is at another address now, as people see it: what went there with it, and what
    stayed at the old address, since the new one had its own."""

    moved: list[JsonObject]
    stayed: list[JsonObject]


class RuleNames:
    """From names to keys and back."""

    def __init__(self, fleet: Fleet, registry: Registry, principals: Principals) -> None:
        self._fleet = fleet
        self._registry = registry
        self._principals = principals
        self.repo_address: Callable[[str], str] = lambda name: name
        self.check_repo: Callable[[str, str], None] = lambda _name, _field: None

    @staticmethod
    def parsed(kind: RuleKind, key: str) -> tuple[RuleScope, str]:
        """Scope and name of a key as people write it; Refused when such a rule has no such key."""
        scope, colon, name = key.partition(":")
        allowed = SCOPES[kind]
        if not colon or not name or scope not in allowed:
            names = ", ".join(f"{one}:{one.upper()}" for one in allowed)
            raise Refused("invalid", f"key: {key!r} is no key of a {kind}; give one of {names}", field="key")
        return RuleScope(scope), name

    def new_key_of(self, scope: RuleScope, name: str, field: str = "key") -> str:
        """`key_of` for a rule that is set. Refused for a repository that no task may name: it would do nothing."""
        if scope is RuleScope.repo:
            self.check_repo(name, field)
        return self.key_of(scope, name)

    def old_key_of(self, scope: RuleScope, name: str, known: frozenset[str]) -> str:
        """`key_of` for a rule that is taken back. The one that is listed under that very text comes first (`known`: the
        repositories that have such a rule), also where another spelling or nothing is registered by now."""
        return name if scope is RuleScope.repo and name in known else self.key_of(scope, name)

    def key_of(self, scope: RuleScope, name: str) -> str:
        """What a rule is kept under: a number where things can be renamed."""
        if scope is RuleScope.host:
            return str(self._fleet.host_named(name).record.id)
        if scope is RuleScope.repo:
            return self.repo_address(name)
        if scope is RuleScope.endpoint:
            return str(self._registry.named(name).id)
        if scope is RuleScope.tier and name not in set(Tier):
            raise Refused("invalid", f"tier: {name!r} is none of {', '.join(Tier)}", field="tier")
        if scope is RuleScope.submitter:
            number = self._principals.number_named(name)
            if number is None:
                raise NotFound(f"key: nobody is named {name}; see `agentcom token list`", field="key")
            return str(number)
        return name

    def submitter_key(self, submitter: int) -> str:
        """What rules for the submitter of a task are kept under."""
        return str(self._principals.number_of(submitter))

    def key_now(self, scope: str, key: str) -> str:
        """The key of a stored rule as it is kept now: older versions had one for each key and token of a name."""
        return self.submitter_key(int(key)) if scope == RuleScope.submitter else key

    def name_of(self, scope: RuleScope, key: str) -> str:
        """What people call it now; the key itself when it is gone."""
        if scope is RuleScope.host:
            host = self._fleet.hosts.get(int(key))
            return host.record.name if host is not None else key
        if scope is RuleScope.endpoint:
            endpoint = self._registry.endpoints.get(int(key))
            return endpoint.name if endpoint is not None else key
        if scope is RuleScope.submitter:
            principal = self._principals.by_id.get(int(key))
            return principal.name if principal is not None else key
        return key

    def is_of_nothing(self, rule: QueueRule) -> bool:
        """Whether the host or the endpoint that the rule is about is gone."""
        if rule.scope is RuleScope.host:
            return int(rule.key) not in self._fleet.hosts
        return rule.scope is RuleScope.endpoint and int(rule.key) not in self._registry.endpoints
