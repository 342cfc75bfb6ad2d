"""The registry of LLM endpoints: where they are, who sees them, whether they are healthy, what they hold.

`seen_from` 0 is the hub, which probes such an endpoint itself; otherwise the host whose loopback it is on, whose
sidecar probes it and whose agents alone may use it. Two reports of one server are one endpoint. In-flight calls
are counted here per (endpoint, model): the hub is the only dispatcher, and servers do not tell.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator
from functools import lru_cache
from urllib.parse import urlsplit

import msgspec

from agentcom import limits
from agentcom import messages as m
from agentcom.clock import Now
from agentcom.config import Settings
from agentcom.core.circuits import Circuits
from agentcom.core.effects import ProbeEndpoint, key_u64
from agentcom.core.endpoint_view import Barred, endpoint_view
from agentcom.core.loads import Loads
from agentcom.core.measures import add_answer
from agentcom.core.outlet import Outlet
from agentcom.errors import NotFound, Refused
from agentcom.model import (
    EndpointKind,
    EndpointModel,
    EndpointProbe,
    EndpointRecord,
    JsonObject,
    ModelAnswer,
    ModelMeasure,
    TaskError,
    TaskResult,
)

Call = tuple[int, str, int]  # endpoint, canonical model, host of the agent
OwnPlaces = tuple[set[int], set[tuple[str, int]]]  # ports on loopback; other addresses of that machine, with ports
PENALTY_MS = 60_000  # a call that failed counts against the endpoint for this long
NO_ENDPOINT = 0  # in the place of an endpoint's number
UNHEARD_CYCLES = 3  # a host's endpoint that no cycle has reported for so long is not healthy


@lru_cache(maxsize=4096)  # asked for each model of each endpoint that a tick looks at; names are few
def canonical_model(name: str) -> str:
    """An Ollama model name as a key: lower case, default library dropped, tag always there."""
    key = name.strip().lower()
    key = key.rsplit("library/", 1)[-1] if key.startswith("library/") or "/library/" in key else key
    return key if ":" in key.rsplit("/", 1)[-1] else key + ":latest"


def checked_url(url: str) -> tuple[str, bool]:
    """(the URL without a trailing slash, whether it is on loopback); Refused with the reason otherwise."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise Refused("address_refused", f"url: {url!r} is not an address: {error}", field="url") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused("address_refused", f"url: {url!r} is not an http or https address", field="url")
    if parts.query or parts.fragment or parts.username or parts.password:
        raise Refused(
            "address_refused", "url: no user, query or fragment belongs in an endpoint", field="url"
        )
    loopback = _check_host(parts.hostname)
    if parts.hostname == "localhost":
        # One server has one address here: under two names it would get twice its share of work.
        return f"{parts.scheme}://127.0.0.1:{port}{parts.path.rstrip('/')}", True
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/')}", loopback


def _check_host(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped  # the same machine in another spelling
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        raise Refused(
            "address_refused", f"url: {host} is a link-local, multicast or unspecified address", field="url"
        )
    return address.is_loopback


def _plain(host: str) -> str:
    """One spelling for each address; a name stays as it is."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def _seen(record: EndpointRecord) -> tuple[object, ...]:
    """What a health check can change of it."""
    return (
        record.healthy, record.reason, record.version, record.models, record.flavour, record.slots, record.list_fault,
    )  # fmt: skip


def _is_same(one: str, other: str) -> bool:
    """Whether two loopback addresses of one host are one server: 127.0.0.1 and ::1 at the same port."""
    first, second = urlsplit(one), urlsplit(other)
    same = (first.scheme, first.port, first.path) == (second.scheme, second.port, second.path)
    return same and _check_host(first.hostname or "")


def _load_of(probe: EndpointProbe) -> JsonObject | None:
    """What the server counts of everybody's calls; None where it counts nothing."""
    if probe.running is None and probe.waiting is None:
        return None
    return {"running": probe.running, "waiting": probe.waiting, "slots": probe.slots or None}


def _still_warm(
    found: tuple[EndpointModel, ...], before: tuple[EndpointModel, ...]
) -> tuple[EndpointModel, ...]:
    """What is loaded could not be asked: a server that loads something answers that late. It is as it was."""
    warm = {model.digest or model.name: model for model in before if model.warm}
    return tuple(
        model if (was := warm.get(model.digest or model.name)) is None else was for model in found
    )


class Registry:
    """Endpoints by id, and what is in flight on them."""

    def __init__(self, out: Outlet, host_name: Callable[[int], str | None], settings: Settings) -> None:
        self._out = out
        self.host_name = host_name
        self.settings = settings
        self.circuits = Circuits(out, host_name, settings)
        self.loads = Loads()
        self.accounts: set[int] = set()  # endpoints that are cloud accounts
        self.judge_account: Callable[[int], None] = lambda _endpoint: None
        self.barred: Callable[[EndpointRecord], Barred | None] = lambda _record: None  # of accounts; see accounts.py
        self.on_gone: Callable[[int], None] = lambda _endpoint: None
        self.provider_limits: dict[int, JsonObject] = {}  # what providers said last of their own limits
        self.seen_load: dict[int, JsonObject | None] = {}  # calls of everybody, as the servers count them
        self._unsaved: set[int] = set()  # endpoints with measures that their records do not have yet
        self.endpoints: dict[int, EndpointRecord] = {}
        self.own: OwnPlaces = (set(), set())  # the shell says it with each request to add an endpoint
        self.touched: set[int] = set()  # endpoints that the scheduler's rows do not follow yet; see board.py
        self.in_flight: dict[tuple[int, str], int] = {}
        self.calls: dict[int, dict[str, int]] = {}  # the same by endpoint: its score is asked for again and again
        self.limits: dict[int, int] = {}  # calls at once on an endpoint, whatever the model; see gates.py
        self.failed_ms: dict[tuple[int, int], int] = {}
        self.heard_ms: dict[int, int] = {}
        self._next = 1

    def load(self, record: EndpointRecord) -> None:
        self.endpoints[record.id] = record
        self.touched.add(record.id)
        if record.kind is EndpointKind.anthropic:
            self.accounts.add(record.id)
        self._next = max(self._next, record.id + 1)

    def begin(self, now: Now) -> None:
        """All endpoints are loaded: models that hung when the hub stopped are first asked for a token."""
        for record in self.endpoints.values():
            for model, reason in record.hung.items():
                self.circuits.models.failed((record.id, model), reason, now)
                self.circuits.models.cool((record.id, model), now)

    def adopt_settings(self, settings: Settings) -> None:
        self.settings = self.circuits.settings = settings

    def adopt(self, old: Registry) -> None:
        """Take over when each endpoint was last heard of, and which calls failed lately."""
        self.own = old.own
        self.heard_ms = {e: ms for e, ms in old.heard_ms.items() if e in self.endpoints}
        self.failed_ms = {place: ms for place, ms in old.failed_ms.items() if place[0] in self.endpoints}
        self.circuits.adopt(old.circuits, lambda endpoint: endpoint in self.endpoints)
        self.loads.adopt(old.loads)
        self.seen_load = dict(old.seen_load)

    def named(self, wanted: str) -> EndpointRecord:
        """By name, else by id, else by URL where only one host reports it."""
        records = list(self.endpoints.values())
        for same in (
            [r for r in records if r.name == wanted],
            [r for r in records if str(r.id) == wanted],
            [r for r in records if r.url == wanted],
        ):
            if len(same) == 1:
                return same[0]
            if same:
                names = ", ".join(r.name for r in same)
                raise Refused(
                    "invalid",
                    f"endpoint: {wanted} is on several hosts; name one of {names}",
                    field="endpoint",
                )
        raise NotFound(f"no endpoint is named {wanted}; see `agentcom endpoint list`", field="endpoint")

    def models_on(self, host: int) -> Iterator[EndpointModel]:
        """What the host's own endpoints hold. O(endpoints)."""
        return (model for e in self.endpoints.values() if e.seen_from == host for model in e.models)

    def add(self, op: m.EndpointAdd, host: int | None, now: Now) -> EndpointRecord:
        url, loopback = checked_url(op.url)
        if op.kind is EndpointKind.anthropic:
            text = "kind: an account of Anthropic is known by the hosts that have its key; it is not added"
            raise Refused("invalid", text, field="kind")
        if self._is_own(url, loopback):
            raise Refused("address_refused", f"url: {url} is a port of the hub itself", field="url")
        if loopback and host is None:
            raise Refused(
                "host_required",
                f"url: {url} is a loopback address; say which host it is on (--host NAME)",
                field="host",
            )
        seen_from = host or 0
        for other in self.endpoints.values():
            if other.url == url and other.seen_from == seen_from:
                if not other.found and not other.draining:
                    raise Refused(
                        "endpoint_known", f"url: {url} is already registered as {other.name}", field="url"
                    )
                other.found, other.cap, other.num_ctx = False, op.cap or other.slots or 1, op.num_ctx
                other.has_own_cap = op.cap > 0
                other.draining = False
                other.name = self._free_name(op.name, other) if op.name else other.name
                self.save(other, now)
                return other
        return self._add(
            op.kind, url, seen_from, op.name, cap=op.cap, num_ctx=op.num_ctx, found=False, now=now
        )

    def _is_own(self, url: str, loopback: bool) -> bool:
        """Whether the hub itself, or its dashboard, listens there."""
        (ports, places), parts = self.own, urlsplit(url)
        return (loopback and parts.port in ports) or (_plain(parts.hostname or ""), parts.port) in places

    def update(self, op: m.EndpointUpdate, now: Now) -> EndpointRecord:
        record = self.named(op.endpoint)
        if op.name is not None and op.name != record.name:
            if any(e.name == op.name for e in self.endpoints.values()):
                raise Refused("name_taken", f"name: an endpoint is already named {op.name}", field="name")
            record.name = op.name
        if op.cap is not None:
            record.cap, record.has_own_cap = op.cap, True
        if op.num_ctx is not None:
            record.num_ctx = op.num_ctx
        if op.preload is not None:
            record.preload = op.preload
        self.save(record, now)
        if record.id in self.accounts:
            self.judge_account(record.id)
        return record

    def remove(self, record: EndpointRecord) -> None:
        del self.endpoints[record.id]
        self.touched.add(record.id)
        self.heard_ms.pop(record.id, None)
        for counted in [k for k in self.in_flight if k[0] == record.id]:
            del self.in_flight[counted]
        self.calls.pop(record.id, None)
        for failed in [k for k in self.failed_ms if k[0] == record.id]:
            del self.failed_ms[failed]
        self.circuits.forget(record.id)
        self.on_gone(record.id)
        self.loads.forget(record.id)
        self.provider_limits.pop(record.id, None)
        if record.id in self.accounts:
            self.accounts.discard(record.id)
            self.judge_account(record.id)
        self.seen_load.pop(record.id, None)
        self._unsaved.discard(record.id)
        self._out.delete("endpoints", key_u64(record.id))
        self._out.publish("endpoint", "endpoint_removed", id=record.id, name=record.name)

    def sighted(self, host: int, host_name: str, sighting: m.EndpointSighting, now: Now) -> None:
        """A host's probe of an endpoint on its own loopback, found by itself or asked for."""
        try:
            url, loopback = checked_url(sighting.url)
        except Refused:
            return
        for record in self.endpoints.values():
            if record.seen_from == host and (record.url == url or (loopback and _is_same(record.url, url))):
                if record.url == url or sighting.probe.healthy:
                    self.probed(record, sighting.probe, now)
                return
        # A host may tell of servers on itself; those elsewhere are for people to add, and one that it was only asked
        # for was removed since.
        is_new = sighting.found and loopback and sighting.kind is not EndpointKind.anthropic
        if is_new and sighting.probe.healthy and len(self.endpoints) < limits.ENDPOINTS_MAX:
            record = self._add(
                sighting.kind,
                url,
                host,
                f"{sighting.kind}-{host_name}",
                cap=0,
                num_ctx=0,
                found=True,
                now=now,
            )
            self.probed(record, sighting.probe, now)

    def probed(self, record: EndpointRecord, probe: EndpointProbe, now: Now) -> None:
        """Take over what a health check found. A model list that could not be read keeps the last one, and so does
        what is warm."""
        self.heard_ms[record.id] = now.mono_ms
        self.touched.add(record.id)
        before = _seen(record)
        if probe.healthy != record.healthy or not record.since_ms:
            record.since_ms = now.wall_ms
        record.healthy = probe.healthy
        record.reason = probe.reason
        record.version = probe.version or record.version
        record.flavour = probe.flavour or record.flavour
        record.slots = probe.slots or record.slots
        if probe.slots and not record.has_own_cap:
            record.cap = probe.slots
        record.list_fault = probe.list_fault
        if probe.models is not None:
            record.models = probe.models if probe.warm_known else _still_warm(probe.models, record.models)
        self._look_at_models(record, now, is_back=probe.healthy and not before[0])
        if before[0] != probe.healthy or not (record.checked_ms or probe.healthy):
            fields = {} if probe.healthy else {"reason": probe.reason}
            event = "endpoint_well" if probe.healthy else "endpoint_sick"
            self._out.publish("endpoint", event, id=record.id, name=record.name, **fields)
        first = not record.checked_ms
        record.checked_ms = now.wall_ms
        load = _load_of(probe)
        if first or before != _seen(record):
            self.seen_load[record.id] = load
            self.save(record, now)
        elif load != self.seen_load.get(record.id):
            self.seen_load[record.id] = load
            self.changed(record)

    def _look_at_models(self, record: EndpointRecord, now: Now, *, is_back: bool) -> None:
        """A server that is well again may be tried at once; what is loaded is not loading any more."""
        if is_back:
            self.circuits.endpoints.cool(record.id, now)
        if self.loads:
            for model in record.models:
                if model.warm:
                    self.loads.heard((record.id, canonical_model(model.name)))

    def away(self, gap_ms: int, now: Now) -> None:
        """The loop was away and heard no check: that says nothing about the servers."""
        for endpoint, heard_ms in self.heard_ms.items():
            self.heard_ms[endpoint] = min(heard_ms + gap_ms, now.mono_ms)

    def reached(self, url: str, host: int) -> EndpointRecord | None:
        """The endpoint at that address as the host sees it: its own before the hub's."""
        at = [e for e in self.endpoints.values() if e.url == url and e.seen_from in (0, host)]
        return max(at, key=lambda e: e.seen_from, default=None)

    def expire(self, probe_every_ms: int, now: Now) -> bool:
        """Mark endpoints whose host has sent no check for three cycles; True if any changed."""
        changed = False
        for record in self.endpoints.values():
            heard = self.heard_ms.setdefault(record.id, now.mono_ms)
            if record.id in self.accounts:
                continue
            if record.healthy and now.mono_ms - heard > UNHEARD_CYCLES * probe_every_ms:
                self.probed(
                    record, EndpointProbe(healthy=False, reason="no health check for three cycles"), now
                )
                changed = True
        return changed

    def call_failed(self, call: Call, error: TaskError, now: Now) -> None:
        """A call ended in an infrastructure error: prefer others for a while, look at the endpoint again now, and leave
        alone what has failed too often."""
        endpoint, model, host = call
        record = self.endpoints.get(endpoint)
        if record is None:
            return
        self.failed_ms[endpoint, host] = now.mono_ms
        if self.circuits.failed(record, model, host, error.code, error.message, now):
            self._note_hung(record, model)
        self._judge(record, now)
        if record.seen_from == 0 and endpoint not in self.accounts:
            self._out.add(ProbeEndpoint(endpoint))

    def call_answered(self, call: Call, now: Now) -> None:
        """The endpoint has answered a call of an agent on the host."""
        endpoint, model, host = call
        record = self.endpoints.get(endpoint)
        if record is not None and self.circuits.succeeded(record, model, host):
            self._note_hung(record, model)
            self._judge(record, now)

    def measured(self, call: Call, result: TaskResult) -> None:
        """What a complete call has shown of its model. It is saved with the next cycle of checks: a record for each
        task would cost more than the figures are worth."""
        endpoint, model, _ = call
        record = self.endpoints.get(endpoint)
        is_cold = self.loads.answered((endpoint, model)) if self.loads else False
        if record is None:
            return
        if result.provider_limits:
            self.provider_limits[endpoint] = dict(result.provider_limits)
        self.touched.add(endpoint)
        self._loaded(record, model)
        measure = record.measures.get(model)
        if measure is None:
            if len(record.measures) >= limits.MODELS_PER_ENDPOINT_MAX:
                return
            measure = record.measures[model] = ModelMeasure()
        add_answer(measure, result.tokens_out, result.durations_ms, is_cold=is_cold)
        self._unsaved.add(endpoint)

    def heard(self, call: Call) -> None:
        """The first byte of an answer has come: the model is loaded."""
        if self.loads and self.loads.heard(call[:2]) and call[0] in self.endpoints:
            self._loaded(self.endpoints[call[0]], call[1])
            self.changed(self.endpoints[call[0]])

    def preloaded(self, record: EndpointRecord, model: str, load_ms: int) -> None:
        """The model was loaded ahead of calls, in so long."""
        self.loads.drop((record.id, model))
        self.touched.add(record.id)
        self._loaded(record, model)
        measure = record.measures.get(model)
        if measure is None and len(record.measures) < limits.MODELS_PER_ENDPOINT_MAX:
            measure = record.measures[model] = ModelMeasure()
        if measure is not None:
            add_answer(measure, 0, {"load": load_ms}, is_cold=True)
            self._unsaved.add(record.id)

    def _loaded(self, record: EndpointRecord, model: str) -> None:
        """A call shows that the model is loaded, with the context that calls ask for; the next check says it anew."""
        if any(one.warm and canonical_model(one.name) == model for one in record.models):
            return
        num_ctx = record.num_ctx or self.settings.models.num_ctx
        self.touched.add(record.id)
        record.models = tuple(
            msgspec.structs.replace(one, warm=True, context_length=min(num_ctx, one.context_max or num_ctx))
            if canonical_model(one.name) == model and record.kind is EndpointKind.ollama
            else one
            for one in record.models
        )

    def answered(self, record: EndpointRecord, answer: ModelAnswer, now: Now) -> bool:
        """A model was asked for a token; True when it may get work again."""
        model = canonical_model(answer.model)
        is_released = self.circuits.answered(record, model, answer.reason, now)
        if is_released:
            self._note_hung(record, model)
        return is_released

    def host_answered(self, host: int, answer: ModelAnswer, now: Now) -> bool:
        """As `answered`, of an endpoint that the host sees."""
        record = next((e for e in self.endpoints.values() if e.seen_from == host and e.url == answer.url), None)
        return record is not None and self.answered(record, answer, now)

    def questions(self, now: Now) -> list[tuple[EndpointRecord, str, int]]:
        """Models that are to be asked for a token now, by the name that their server knows, with the context length
        that their tasks get."""
        found = []
        for endpoint, model in self.circuits.due_questions(now):
            record = self.endpoints[endpoint]
            name = next((one.name for one in record.models if canonical_model(one.name) == model), model)
            found.append((record, name, record.num_ctx or self.settings.models.num_ctx))
        return found

    def save_measures(self, now: Now) -> None:
        """Write what was measured since the last time. O(endpoints that answered)."""
        for endpoint in sorted(self._unsaved):
            self.save(self.endpoints[endpoint], now)

    def _note_hung(self, record: EndpointRecord, model: str) -> None:
        """Keep in the record which models hang."""
        circuit = self.circuits.models.circuits.get((record.id, model))
        hung = {} if circuit is None else {model: circuit.reason}
        if record.hung.get(model) != hung.get(model):
            record.hung = {**{name: why for name, why in record.hung.items() if name != model}, **hung}
            self._out.put("endpoints", key_u64(record.id), record)
        self.changed(record)

    def host_failed(self, host: int, now: Now) -> None:
        """Work that calls no endpoint ended in an infrastructure error there: prefer other hosts for a while."""
        self.failed_ms[NO_ENDPOINT, host] = now.mono_ms

    def penalised(self, endpoint: int, host: int, now: Now) -> bool:
        failed = self.failed_ms.get((endpoint, host))
        if failed is None:
            return False
        if now.mono_ms - failed > PENALTY_MS:
            del self.failed_ms[endpoint, host]
            return False
        return True

    def started(self, endpoint: int, model: str, host: int) -> None:
        calls = self.in_flight.get((endpoint, model), 0) + 1
        self.in_flight[endpoint, model] = self.calls.setdefault(endpoint, {})[model] = calls
        self.touched.add(endpoint)
        self.circuits.began(endpoint, host)
        if endpoint in self.accounts:
            self.judge_account(endpoint)

    def ended(self, endpoint: int, model: str, host: int) -> None:
        left = self.in_flight.get((endpoint, model), 0) - 1
        self.touched.add(endpoint)
        if left > 0:
            self.in_flight[endpoint, model] = self.calls[endpoint][model] = left
        else:
            if self.in_flight.pop((endpoint, model), None) is not None:
                del self.calls[endpoint][model]
                if not self.calls[endpoint]:
                    del self.calls[endpoint]
            if self.loads:
                self.loads.ended((endpoint, model))
        self.circuits.ended(endpoint, host)
        if endpoint in self.accounts:
            self.judge_account(endpoint)

    def calls_on(self, endpoint: int) -> int:
        """Calls in flight on the endpoint, of all models."""
        return sum(self.calls.get(endpoint, {}).values())

    def room(self, endpoint: int, at_most: int) -> int:
        """How many more calls its limit and its circuit allow, `at_most` of them."""
        if self.circuits.endpoints.count_shut:
            at_most = self.circuits.endpoints.room(endpoint, at_most)
        if not self.limits or endpoint not in self.limits:
            return at_most
        return min(at_most, max(0, self.limits[endpoint] - self.calls_on(endpoint)))

    def is_full(self, endpoint: int) -> bool:
        """Whether its limit is reached. Caps by model are apart from that."""
        return not self.room(endpoint, 1)

    def hub_seen(self) -> list[EndpointRecord]:
        """Those that the hub checks itself. Of a cloud account the hosts' calls tell, and nothing else: that costs."""
        return [
            e for e in self.endpoints.values() if e.seen_from == 0 and e.kind is not EndpointKind.anthropic
        ]

    def probe_urls(self, host: int) -> tuple[str, ...]:
        """What a host shall probe beside what it finds by itself."""
        return tuple(e.url for e in self.endpoints.values() if e.seen_from == host)

    def probe_kinds(self, host: int) -> dict[str, EndpointKind]:
        """What of that is no Ollama."""
        mine = [e for e in self.endpoints.values() if e.seen_from == host and e.kind is not EndpointKind.ollama]
        return {e.url: e.kind for e in mine}

    def save(self, record: EndpointRecord, now: Now) -> None:
        self._unsaved.discard(record.id)
        self._out.put("endpoints", key_u64(record.id), record)
        self.changed(record)

    def changed(self, record: EndpointRecord) -> None:
        """Tell who reads the feed, and the scheduler's rows."""
        self.touched.add(record.id)
        view = self.view(record) if self._out.is_read else None
        self._out.publish("endpoint", "endpoint_changed", endpoint=view)

    def view(self, record: EndpointRecord) -> JsonObject:
        return endpoint_view(self, record, canonical_model)

    def add_account(self, url: str, fingerprint: str, cap: int, now: Now) -> EndpointRecord:
        """A cloud account that a host has a key for: healthy until calls say otherwise."""
        kind = EndpointKind.anthropic
        url = checked_url(url)[0]
        record = self._add(kind, url, 0, kind.value, cap=cap, num_ctx=0, found=True, now=now)
        record.account, record.healthy, record.reason, record.since_ms = fingerprint, True, "", now.wall_ms
        self.save(record, now)
        return record

    def _judge(self, record: EndpointRecord, now: Now) -> None:
        """The health of an account is what its calls say."""
        if record.id not in self.accounts:
            return
        circuit = self.circuits.endpoints.circuits.get(record.id)
        reason = circuit.reason if circuit is not None and circuit.state != "closed" else ""
        if record.healthy != (not reason):
            record.healthy, record.reason, record.since_ms = not reason, reason, now.wall_ms
            self.save(record, now)
        self.judge_account(record.id)

    def _add(
        self,
        kind: EndpointKind,
        url: str,
        seen_from: int,
        name: str,
        *,
        cap: int,
        num_ctx: int,
        found: bool,
        now: Now,
    ) -> EndpointRecord:
        if len(self.endpoints) >= limits.ENDPOINTS_MAX:
            raise Refused("limit", f"this hub already has {limits.ENDPOINTS_MAX} endpoints")
        record = EndpointRecord(
            id=self._next,
            name=self._free_name(name or f"{kind}-{self._next}", None),
            kind=kind,
            url=url,
            seen_from=seen_from,
            cap=cap or 1,
            has_own_cap=cap > 0,
            num_ctx=num_ctx,
            found=found,
            created_ms=now.wall_ms,
        )
        self.load(record)
        self.save(record, now)
        self._out.publish("endpoint", "endpoint_added", id=record.id, name=record.name, url=url)
        if seen_from == 0 and kind is not EndpointKind.anthropic:
            self._out.add(ProbeEndpoint(record.id))
        return record

    def _free_name(self, wanted: str, but: EndpointRecord | None) -> str:
        taken = {e.name for e in self.endpoints.values() if e is not but}
        wanted = wanted[: limits.NAME_CHARS_MAX]
        name, n = wanted, 2
        while name in taken:
            name, n = f"{wanted[: limits.NAME_CHARS_MAX - 6]}-{n}", n + 1
        return name
