"""Why a host cannot take a task now, and the smallest change that would let it.

A refusal is (condition, what is the matter, the remedy). The conditions are looked at in the order in which a person
would mend them; the first that fails speaks for the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agentcom import limits
from agentcom.clock import rfc3339
from agentcom.config import Settings
from agentcom.core.agents import Agent, Fleet, Host, offers
from agentcom.core.breaker import Circuit, CircuitState
from agentcom.core.capabilities import lack
from agentcom.core.registry import Registry
from agentcom.core.retries import RetryBudgets
from agentcom.core.wanted import (
    claude_lacks,
    held_model,
    is_offered,
    may_leave,
    missing_need,
    missing_needs,
    model_lacks,
    model_of,
)
from agentcom.model import (
    BACKEND_OF,
    BACKENDS_OF,
    Allowance,
    Backend,
    EndpointKind,
    EndpointModel,
    EndpointRecord,
    Group,
    JsonObject,
    Strategy,
    strategy_of,
)

Refusal = tuple[str, str, str]
Ways = dict[int, list[tuple[EndpointRecord, Refusal | None]]]
ENDPOINT_FULL = "endpoint_full"
NEAREST = (
    ENDPOINT_FULL, "limit_reached", "retry_budget", "endpoint_tripped", "endpoint_unreachable", "model_quarantined",
    "model_too_large", "model_lacks", "cloud_model", "models_unknown", "model_missing", "endpoint_unhealthy",
    "endpoint_draining",
)  # fmt: skip


class Refusals:
    """What stands in the way, from the fleet and the registry as they are now."""

    def __init__(self, fleet: Fleet, registry: Registry, retries: RetryBudgets, settings: Settings) -> None:
        self._fleet = fleet
        self._registry = registry
        self._retries = retries
        self.settings = settings

    def explain(
        self, group: Group, is_retry: bool = False, after: int = 0, at_most: int | None = None
    ) -> list[JsonObject]:
        """Per host: the first condition that fails, and the smallest change that would let the task run. In the order
        of their ids, `at_most` from the one `after` on."""
        ways = self._ways(group, is_retry)
        hosts = sorted(number for number in self._fleet.hosts if number > after)[:at_most]
        return [self._explain_host(group, self._fleet.hosts[number], ways) for number in hosts]

    def conditions(self, group: Group, is_retry: bool) -> Iterator[str]:
        """The condition that fails on each host, empty for none."""
        ways = self._ways(group, is_retry)
        for host in self._fleet.hosts.values():
            refused = self._host_refusal(group, host, ways)
            yield refused[0] if refused is not None else ""

    def conditions_of(
        self, group: Group, is_retry: bool, hosts: Iterable[int], endpoints: Iterable[EndpointRecord]
    ) -> dict[int, str]:
        """The condition that fails on each of these hosts, where they can use these endpoints at most."""
        ways = self._ways(group, is_retry, endpoints)
        found = {}
        for number in hosts:
            host = self._fleet.hosts.get(number)
            refused = self._host_refusal(group, host, ways) if host is not None else None
            if refused is not None:
                found[number] = refused[0]
        return found

    def _ways(
        self, group: Group, is_retry: bool, endpoints: Iterable[EndpointRecord] | None = None
    ) -> Ways:
        """What stands in the way of each endpoint, by where it is seen; asked once for all hosts."""
        ways: Ways = {}
        if strategy_of(group) is not Strategy.local_llm:
            return ways
        model = model_of(group, self.settings)
        for endpoint in self._registry.endpoints.values() if endpoints is None else endpoints:
            if endpoint.kind is not EndpointKind.anthropic:
                home = self._fleet.hosts.get(endpoint.seen_from)
                refused = self.of_endpoint(endpoint, home, group, model, is_retry)
                ways.setdefault(endpoint.seen_from, []).append((endpoint, refused))
        return ways

    def counts(self, group: Group, is_retry: bool) -> dict[str, int]:
        """How many hosts fail which condition."""
        counts: dict[str, int] = {}
        for fails in self.conditions(group, is_retry):
            if fails:
                counts[fails] = counts.get(fails, 0) + 1
        return counts

    def _explain_host(self, group: Group, host: Host, ways: Ways) -> JsonObject:
        fails, message, change = self._host_refusal(group, host, ways) or ("", "it can run here now", "")
        return {
            "id": host.record.id,
            "host": host.record.name,
            "fails": fails,
            "message": message,
            "change": change,
        }

    def _host_refusal(self, group: Group, host: Host, ways: Ways) -> Refusal | None:
        name = host.record.name
        if not host.online:
            return "host_offline", f"{name} is not connected", f"start `agentcom sidecar` on {name}"
        if host.record.draining:
            return "host_draining", f"{name} is draining", f"agentcom host drain {name} --undo"
        if host.quiet_until_ms:
            change = f"change sidecar.quiet_hours on {name}"
            if host.quiet_until_ms == limits.QUIET_ALWAYS_MS:
                return "quiet_hours", f"{name} always has quiet hours", change
            until = rfc3339(host.quiet_until_ms)
            return "quiet_hours", f"{name} has quiet hours until {until}", f"wait, or {change}"
        if host.no_room:
            change = f"agentcom git status on {name}, then push or merge what stays; or raise sidecar.quota_mib there"
            return "disk_quota", f"{name} takes no new attempts: {host.no_room}", change
        if host.paused:
            return "host_paused", f"{name} is paused", f"agentcom queue resume --host {name}"
        if group.repo and not host.may_work_on(group.repo):
            allowed = sorted(self._fleet.only_on(group.repo) or ())
            hosts = " ".join(f"--host {each}" for each in (*allowed, name))
            return (
                "repo_elsewhere",
                f"{group.repo} is worked on by {', '.join(allowed)} only",
                f"wait for one of those, or agentcom repo update {group.repo} {hosts}",
            )
        kept = _kept_free(group, host)
        if kept is not None:
            return kept
        # One that could take it now stands for all: nothing below but what holds for the whole host can refuse it.
        ready = next((a for a in host.agents.values() if a.takes_work and _fits(group, a)), None)
        agents = [ready] if ready is not None else [a for a in host.agents.values() if a.offered]
        backend = BACKEND_OF[strategy_of(group)]
        able = [a for a in agents if any(offers(a, one) for one in BACKENDS_OF[strategy_of(group)])]
        if not able:
            return f"no_{backend}", f"no agent on {name} offers {backend}", _backend_remedy(backend, name)
        block = host.blocks.get(backend)
        if block is not None:
            return (
                "backend_blocked",
                f"{backend} on {name} cannot be used until {rfc3339(block.until_wall_ms)}: {block.reason}",
                "wait, or give another host a key",
            )
        if backend is Backend.claude and host.account_shut:
            change = "wait, or raise its cap: agentcom endpoint update NAME --cap N"
            return "account_shut", f"the cloud account of {name}: {host.account_shut}", change
        fitting = [a for a in able if missing_need(group, a) is None]
        if not fitting:
            nearest, lacks = missing_needs(group, able)
            return lack(lacks, name, nearest.can, host.record.program_faults)
        incapable = claude_lacks(group) if strategy_of(group) is not Strategy.local_llm else ""
        if incapable:
            said = f"no model that this tier runs on can do {incapable}"
            return "model_lacks", said, f"submit it again without --needs model:{incapable}"
        if strategy_of(group) is Strategy.local_llm:
            refused = self._host_endpoint_refusal(host, ways, model_of(group, self.settings))
            if refused is not None:
                return refused
        return self._agents_refusal(name, fitting)

    @staticmethod
    def _agents_refusal(host: str, agents: list[Agent]) -> Refusal | None:
        if any(a.takes_work for a in agents):
            return None
        open_agents = [a for a in agents if not a.record.cordoned]
        if not open_agents:
            first = agents[0].record.name
            return (
                "agent_cordoned",
                f"every fitting agent on {host} is cordoned",
                f"agentcom agent uncordon {first}",
            )
        if all(a.unresponsive for a in open_agents):
            return (
                "agent_unresponsive",
                f"the agents on {host} do not take assignments",
                f"restart the sidecar on {host}",
            )
        tasks = ", ".join(str(a.task) for a in open_agents if a.task)
        return (
            "agents_busy",
            f"every fitting agent on {host} is busy (tasks {tasks})",
            "wait, or add agents (sidecar.agents)",
        )

    def _host_endpoint_refusal(self, host: Host, ways: Ways, model: str) -> Refusal | None:
        refusals = [
            (endpoint, self.of_way(endpoint, host) or refused)
            for place in (0, host.record.id)
            for endpoint, refused in ways.get(place, ())
        ]
        if not refusals:
            add = f"agentcom endpoint add URL --host {host.record.name}, or start Ollama there"
            return "no_endpoint", f"{host.record.name} reaches no LLM endpoint", add
        if any(refused is None for _, refused in refusals):
            return None
        # The endpoint that comes nearest speaks for the host: a full one has all but a slot.
        found = [(_distance(endpoint, r, model), r) for endpoint, r in refusals if r is not None]
        return min(found, key=lambda pair: pair[0])[1]

    def of_way(self, endpoint: EndpointRecord, host: Host) -> Refusal | None:
        """Why the host cannot reach an endpoint that others may reach."""
        if self._registry.circuits.is_way_open(endpoint.id, host.record.id):
            return None
        circuit = self._registry.circuits.ways.circuits[endpoint.id, host.record.id]
        name = host.record.name
        return (
            "endpoint_unreachable",
            f"{name} cannot reach {endpoint.name}: {circuit.reason}; {_tried(circuit)}",
            f"open the way from {name} to {endpoint.url}, or wait",
        )

    def _of_circuits(self, endpoint: EndpointRecord, model: str) -> Refusal | None:
        """Why it is left alone for a while."""
        circuits = self._registry.circuits
        if circuits.endpoints.count_shut and not circuits.endpoints.room(endpoint.id, 1):
            circuit = circuits.endpoints.circuits[endpoint.id]
            return (
                "endpoint_tripped",
                f"{endpoint.name} has failed {circuit.failures} calls in a row: {circuit.reason}; {_tried(circuit)}",
                f"mend the server at {endpoint.url}, or wait",
            )
        if circuits.is_quarantined(endpoint.id, model):
            circuit = circuits.models.circuits[endpoint.id, model]
            return (
                "model_quarantined",
                f"{model} on {endpoint.name} hangs: {circuit.reason}; it is asked for one token now and then",
                f"restart the model's runner at {endpoint.url}; it gets work as soon as it answers",
            )
        return None

    def of_endpoint(
        self, endpoint: EndpointRecord, home: Host | None, group: Group, model: str, is_retry: bool
    ) -> Refusal | None:
        """Why the model cannot be used on the endpoint now. `home` is the host that it is on, where that is known."""
        if endpoint.draining:
            return (
                "endpoint_draining",
                f"{endpoint.name} is being removed: it gets no new work",
                f"agentcom endpoint add {endpoint.url}, to keep it",
            )
        if not endpoint.healthy:
            return (
                "endpoint_unhealthy",
                f"{endpoint.name} is not healthy: {endpoint.reason}",
                f"start the server at {endpoint.url}",
            )
        held = held_model(endpoint, model)
        if held is None and endpoint.list_fault:
            return (
                "models_unknown",
                f"whether {endpoint.name} has {model} is not known: {endpoint.list_fault}",
                f"mend that at {endpoint.url}, whose list of models is asked for again with each check",
            )
        if held is None:
            return (
                "model_missing",
                f"{endpoint.name} does not have {model}",
                f"ollama pull {model} at {endpoint.url}"
                if endpoint.kind is EndpointKind.ollama
                else f"serve {model} at {endpoint.url}, or give the task a model that it serves",
            )
        if held.remote and not may_leave(group, self.settings):
            return _leaves(endpoint, held, group)
        lacks = model_lacks(group, held)
        if lacks:
            return _incapable(held, lacks, f"give the task another model that can do {lacks} (--model)")
        left_alone = self._of_circuits(endpoint, model)
        if left_alone is not None:
            return left_alone
        if home is not None and not held.warm and 0 < home.load.memory_bytes < held.size_bytes:
            return _too_large(home, held)
        if is_retry and endpoint.id in self._retries.spent:
            used, allowed = self._retries.used(endpoint.id)
            return (
                "retry_budget",
                f"{endpoint.name} had {used} retries of {allowed} in {self.settings.endpoints.retry_window_s:g} s",
                f"mend the server at {endpoint.url}, or wait; see endpoints.retry_percent",
            )
        if self._registry.in_flight.get((endpoint.id, model), 0) >= endpoint.cap:
            return (
                ENDPOINT_FULL,
                f"{endpoint.name} already runs {endpoint.cap} of {model}",
                f"wait, or agentcom endpoint update {endpoint.name} --cap {endpoint.cap + 1}",
            )
        if self._registry.is_full(endpoint.id):
            allowed = self._registry.limits[endpoint.id]
            return (
                "limit_reached",
                f"{endpoint.name} already runs {allowed}, its limit",
                f"wait, or agentcom queue limit set endpoint:{endpoint.name} {allowed + 1}",
            )
        return None


def _distance(endpoint: EndpointRecord, refused: Refusal, model: str) -> tuple[int, bool]:
    """How far the endpoint is from serving the model. One that is down and had it comes before one without it."""
    if refused[0] == "endpoint_unhealthy" and held_model(endpoint, model) is not None:
        return NEAREST.index("model_missing"), False
    return NEAREST.index(refused[0]), True


def _incapable(model: EndpointModel, lacks: str, change: str) -> Refusal:
    can = ", ".join(model.capabilities)
    return "model_lacks", f"{model.name} cannot do {lacks}; it can do {can}", change


def _leaves(endpoint: EndpointRecord, model: EndpointModel, group: Group) -> Refusal:
    return (
        "cloud_model",
        f"{model.name} on {endpoint.name} is a cloud model: a third party would get the task and the files it works on",
        f"submit it with --allow {Allowance.cloud}, or let all tasks of the tier: agentcom config set "
        f"models.cloud_tiers {group.tier}; or give it a model that runs there",
    )


def _tried(circuit: Circuit) -> str:
    if circuit.state is CircuitState.open:
        return f"it is tried again at {rfc3339(circuit.until_wall_ms)}"
    return "a trial runs"


def _too_large(host: Host, model: EndpointModel) -> Refusal:
    has, needs = gib(host.load.memory_bytes), gib(model.size_bytes)
    return (
        "model_too_large",
        f"{model.name} needs {needs}, {host.record.name} has {has} of memory in all",
        f"a smaller model or quantisation, or a host with {needs} of memory",
    )


def gib(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / (1 << 30):,.1f} GiB"


def _kept_free(group: Group, host: Host) -> Refusal | None:
    """What tasks that have to run alone mean for the host."""
    name, wait = host.record.name, "wait, or add a host"
    if group.alone:
        if host.busy_count:
            said = f"the task has lost workers and has to run alone, {name} runs others"
            return "host_not_idle", said, wait
        return None
    if host.alone:
        return "host_reserved", f"{name} runs a task that has lost workers, alone", wait
    if host.reserved_for:
        said = (
            f"{name} is kept free for task {host.reserved_for}, which has lost workers and has to run alone"
        )
        return "host_reserved", said, wait
    return None


def _backend_remedy(backend: str, host: str) -> str:
    if backend == "claude":
        return f"set ANTHROPIC_API_KEY or anthropic.key_file on {host} and restart its sidecar"
    if backend == "program":
        return f"name it in programs.offer in the config.toml of {host} (policy.programs), and restart its sidecar"
    return f"restart the sidecar on {host}; it offers {backend} by default"


def _fits(group: Group, agent: Agent) -> bool:
    return is_offered(group, agent) and missing_need(group, agent) is None
