"""Accounts of a cloud provider: the endpoints of kind `anthropic`, known by the hosts that have a key for one.

Two hosts with the same key share one account, so its cap counts the calls of both. Health comes from the calls that
hosts make anyway, never from checks, which would cost; of the provider's own limits it is known what answers say. Where
an account takes no more now, its hosts do not offer Claude for that long.
"""

from __future__ import annotations

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import Now, rfc3339
from agentcom.core.agents import Fleet, Host, block_fields
from agentcom.core.breaker import CircuitState
from agentcom.core.endpoint_view import Barred
from agentcom.core.registry import Registry
from agentcom.errors import Refused
from agentcom.model import Backend, EndpointKind, EndpointRecord


class Accounts:
    """Which account each host uses (in its record, by the endpoint's id), and which take no more calls now."""

    def __init__(self, fleet: Fleet, registry: Registry) -> None:
        self._fleet = fleet
        self._registry = registry
        registry.judge_account = self.judge
        registry.barred = self.barred
        fleet.on_blocks = self.blocks_changed

    def offered(self, host: Host, offer: m.AccountOffer | None, now: Now) -> None:
        """What the host said of its key in hello."""
        record = self._of(offer, now) if offer is not None else None
        number = record.id if record is not None else 0
        if host.record.account != number:
            host.record.account = number
            self._fleet.save_host(host)
        self._judge_host(host)
        if self._fleet.has_blocks:
            self.blocks_changed(host)

    def of(self, host: Host) -> EndpointRecord | None:
        return self._registry.endpoints.get(host.record.account) if host.record.account else None

    def barred(self, record: EndpointRecord) -> Barred | None:
        """Where the account may not be used for a while, since a call of that host was answered so. O(hosts)."""
        if not self._fleet.has_blocks:
            return None
        mine = [host for host in self._fleet.hosts.values() if host.record.account == record.id]
        blocks = [(host, host.blocks.get(Backend.claude)) for host in mine]
        shut = [(host, block) for host, block in blocks if block is not None]
        if not shut:
            return None
        hosts = [{"host": host.record.name, **block_fields(block)} for host, block in shut]
        is_open = any(host.online and block is None for host, block in blocks)
        return Barred(hosts, is_everywhere=not is_open)

    def blocks_changed(self, host: Host) -> None:
        """Who reads the feed sees the account's health with it."""
        record = self.of(host)
        if record is not None:
            self._registry.changed(record)

    def judge(self, endpoint: int) -> None:
        """Something has changed that decides whether the account takes calls. O(hosts)."""
        for host in self._fleet.hosts.values():
            if host.record.account == endpoint:
                self._judge_host(host)

    def judge_all(self) -> None:
        """A cooldown has ended."""
        for host in self._fleet.hosts.values():
            if host.record.account:
                self._judge_host(host)

    def _judge_host(self, host: Host) -> None:
        record = self.of(host)
        shut = self._why_shut(record, host.record.id) if record is not None else ""
        if shut != host.account_shut:
            host.account_shut = shut
            self._fleet.touched.add(host.record.id)
            self._fleet.offers_touched.add(host.record.id)

    def _why_shut(self, record: EndpointRecord, host: int) -> str:
        calls = self._registry.calls_on(record.id)
        if record.draining:
            return f"{record.name} is being removed"
        if calls >= record.cap:
            return f"{record.name} already runs {calls}, its cap"
        circuits = self._registry.circuits
        circuit = circuits.endpoints.circuits.get(record.id)
        if circuit is not None and not circuits.endpoints.room(record.id, 1):
            until = f" until {rfc3339(circuit.until_wall_ms)}" if circuit.state is CircuitState.open else ""
            return f"{record.name} is left alone{until}: {circuit.reason}"
        if not circuits.is_way_open(record.id, host):
            return f"{record.name} cannot be reached: {circuits.ways.circuits[record.id, host].reason}"
        return ""

    def _of(self, offer: m.AccountOffer, now: Now) -> EndpointRecord | None:
        """The account, known by its key's fingerprint whoever reports it. None where no more fit."""
        for record in self._registry.endpoints.values():
            if record.kind is EndpointKind.anthropic and record.account == offer.fingerprint:
                return record
        try:
            return self._registry.add_account(offer.url, offer.fingerprint, limits.ACCOUNT_CAP, now)
        except Refused:
            return None
