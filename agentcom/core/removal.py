"""Removing an endpoint, an agent or a host: first no new work; its record goes when the last attempt has ended.

With `now` its work goes back to the queue at once, which spends no retry: nobody has failed. What is to go is marked in
its record, so that a start of the hub goes on with it; taking the mark back (uncordon, undrain, adding the endpoint
again) keeps it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentcom.clock import Now
from agentcom.core.agents import Agent, Host
from agentcom.core.outlet import Outlet
from agentcom.errors import JOIN_AGAIN
from agentcom.model import EndpointRecord, JsonObject

if TYPE_CHECKING:
    from agentcom.core.hub import Hub

HOST_CHANGED: Final = "host_changed"  # in `meta`: when a person last changed the record of a host


class Removals:
    """What is to go, by id. `finish` lets go of what has nothing to do any more."""

    def __init__(self, hub: Hub, out: Outlet) -> None:
        self._hub = hub
        self._out = out
        self.endpoints: dict[int, None] = {}
        self.agents: dict[int, None] = {}
        self.hosts: dict[int, str] = {}  # and who asked

    def __bool__(self) -> bool:
        return bool(self.endpoints or self.agents or self.hosts)

    def load(self, now: Now) -> None:
        """Go on with what was marked when the hub stopped."""
        hub = self._hub
        self.endpoints = dict.fromkeys(e.id for e in hub.registry.endpoints.values() if e.draining)
        self.agents = dict.fromkeys(n for n, agent in hub.fleet.agents.items() if agent.record.removing)
        self.hosts = {n: host.record.removed_by for n, host in hub.fleet.hosts.items() if host.record.removing}
        self.finish(now)

    def endpoint(self, record: EndpointRecord, now: Now, *, is_now: bool) -> JsonObject:
        record.draining = True
        self.endpoints[record.id] = None
        if is_now:
            self._hub.attempts.withdraw(lambda call, _agent: call is not None and call[0] == record.id, now)
            self._drop_endpoint(record)
        else:
            self._hub.registry.save(record, now)
            self.finish(now)
        return self._answer("endpoint", record.name, record.id not in self._hub.registry.endpoints)

    def agent(self, agent: Agent, now: Now, *, is_now: bool) -> JsonObject:
        record, fleet = agent.record, self._hub.fleet
        record.removing = record.cordoned = True
        self.agents[record.id] = None
        fleet.save_agent(agent)
        fleet.publish_agent(agent, now)
        if is_now:
            self._hub.attempts.withdraw(lambda _call, of: of is agent, now)
        self.finish(now)
        return self._answer("agent", record.name, record.id not in fleet.agents)

    def host(self, host: Host, by: str, now: Now, *, is_now: bool) -> JsonObject:
        record, fleet = host.record, self._hub.fleet
        record.removing = record.draining = True
        record.removed_by = by
        self.hosts[record.id] = by
        if is_now:
            self._drop_host(host, by, now)
        else:
            self._save_host(host, now)
            self.finish(now)
        return self._answer("host", record.name, record.id not in fleet.hosts)

    def drain(self, host: Host, draining: bool, now: Now) -> None:
        """No new work for the host, or work again: then it is to stay, too. Nothing where that is so already."""
        if host.record.draining is draining and (draining or not host.record.removing):
            return
        host.record.draining = draining
        if not draining:
            self.hosts.pop(host.record.id, None)
            host.record.removing = False
        self._save_host(host, now)

    def _save_host(self, host: Host, now: Now) -> None:
        """A person has changed it. What it says of itself lies in the same record and asks for no backup (`tells_only`
        in store/journaled.py), so the batch says beside it that somebody did something."""
        fleet = self._hub.fleet
        fleet.save_host(host)
        self._out.number(HOST_CHANGED, now.wall_ms)
        fleet.publish_host(host, now)
        for agent in fleet.agents_of(host):
            fleet.publish_agent(agent, now)

    def kept_agent(self, agent: Agent) -> None:
        """It is to stay after all."""
        agent.record.removing = False
        self.agents.pop(agent.record.id, None)

    def kept_endpoint(self, record: EndpointRecord) -> None:
        record.draining = False
        self.endpoints.pop(record.id, None)

    def finish(self, now: Now) -> None:
        """Let go of what has nothing to do any more. O(what is to go)."""
        registry, fleet = self._hub.registry, self._hub.fleet
        for number in [n for n in self.endpoints if not registry.calls_on(n)]:
            self._drop_endpoint(registry.endpoints[number])
        for number in list(self.agents):
            agent = fleet.agents.get(number)  # its host may have dropped it meanwhile
            if agent is None or not agent.task:
                del self.agents[number]
            if agent is not None and not agent.task:
                fleet.drop_agent(agent)
        for number in [n for n in self.hosts if not fleet.hosts[n].busy_count]:
            self._drop_host(fleet.hosts[number], self.hosts[number], now)

    def _drop_endpoint(self, record: EndpointRecord) -> None:
        hub = self._hub
        self.endpoints.pop(record.id, None)
        hub.registry.remove(record)
        hub.gates.endpoint_gone(record.id)
        hub.retries.forget(record.id)
        hub.tasks.changed = True

    def _drop_host(self, host: Host, by: str, now: Now) -> None:
        hub, number = self._hub, host.record.id
        self.hosts.pop(number, None)
        hub.attempts.host_gone(host, now)
        for endpoint in [e for e in hub.registry.endpoints.values() if e.seen_from == number]:
            self._drop_endpoint(endpoint)
        hub.registry.circuits.host_gone(number)
        hub.watch.host_gone(number)
        hub.gates.host_gone(number)
        for agent in list(host.agents):
            self.agents.pop(agent, None)
        principal = hub.principals.by_id[host.record.principal]
        if not principal.revoked:
            hub.principals.revoke(principal.name)
            hub.end_sessions(principal.id, "revoked", f"this host was removed from the hub; {JOIN_AGAIN}", now)
        hub.fleet.remove_host(host, by)

    @staticmethod
    def _answer(what: str, name: str, is_gone: bool) -> JsonObject:
        return {what: name, "removed": is_gone, "draining": not is_gone}
