"""An endpoint as people and programs see it: what is registered, what checks found, what calls taught."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from agentcom.clock import rfc3339
from agentcom.model import EndpointModel, EndpointRecord, JsonObject, ModelMeasure

if TYPE_CHECKING:
    from agentcom.core.registry import Registry


class Barred(NamedTuple):
    """The hosts that may not use their account now, and whether no host that is there may."""

    hosts: list[JsonObject]
    is_everywhere: bool


def endpoint_view(registry: Registry, record: EndpointRecord, canonical: Callable[[str], str]) -> JsonObject:
    in_flight = dict(registry.calls.get(record.id, {}))
    return {
        "id": record.id,
        "name": record.name,
        "kind": record.kind.value,
        "flavour": record.flavour or None,
        "url": record.url,
        "seen_from": "hub" if not record.seen_from else "host",
        "host": registry.host_name(record.seen_from) if record.seen_from else None,
        "healthy": record.healthy,
        "reason": record.reason,
        "since": rfc3339(record.since_ms) if record.since_ms else None,
        "checked": rfc3339(record.checked_ms) if record.checked_ms else None,
        "version": record.version,
        "list_fault": record.list_fault or None,
        "cap": record.cap,
        "num_ctx": record.num_ctx or None,
        "found": record.found,
        "preload": record.preload,
        "draining": record.draining,
        "provider_limits": registry.provider_limits.get(record.id),
        "in_flight": in_flight,
        "models": [_model_view(registry, record, model, canonical(model.name)) for model in record.models],
        "load": registry.seen_load.get(record.id),
        "loading": registry.loads.view(record.id),
        "measured": {model: measure_view(one) for model, one in sorted(record.measures.items())},
        **registry.circuits.view(record.id),
        **_barred_view(registry, record),
    }


def _barred_view(registry: Registry, record: EndpointRecord) -> JsonObject:
    """Of an account: the hosts whose calls said that it may not be used, and its health where none is left. Nothing of
    that is in the record: a block ends with its time, and with the next start of the hub."""
    barred = registry.barred(record) if record.id in registry.accounts else None
    if barred is None:
        return {"blocked_on": []}
    if not (record.healthy and barred.is_everywhere):
        return {"blocked_on": barred.hosts}
    first = min(barred.hosts, key=lambda one: str(one["until"]))
    reason = f"blocked on {first['host']} until {first['until']}: {first['reason']}"
    others = len(barred.hosts) - 1
    reason += f" (and on {others} more)" if others else ""
    since = max(str(one["since"]) for one in barred.hosts)
    return {"blocked_on": barred.hosts, "healthy": False, "reason": reason, "since": since}


def _model_view(registry: Registry, record: EndpointRecord, model: EndpointModel, key: str) -> JsonObject:
    """All fields, known or not, which part of what is loaded lies on GPUs, and what its calls do and taught. Calls are
    counted by the canonical name, `key`, which readers need not know how to make."""
    fields = {name: getattr(model, name) for name in model.__struct_fields__}
    share = model.vram_bytes * 100 // model.loaded_bytes if model.loaded_bytes else None
    measure = record.measures.get(key)
    return {
        **fields,
        "vram_percent": min(share, 100) if share is not None else None,
        "in_flight": registry.in_flight.get((record.id, key), 0),
        "measured": measure_view(measure) if measure is not None else None,
        "quarantined": registry.circuits.is_quarantined(record.id, key),
    }


def measure_view(one: ModelMeasure) -> JsonObject:
    """Averages with their counts of samples; null where there is none."""
    return {
        "tokens_per_s": one.tokens_per_ks / 1000 if one.rate_samples else None,
        "rate_samples": one.rate_samples,
        "first_byte_ms": one.first_byte_ms if one.first_byte_samples else None,
        "first_byte_samples": one.first_byte_samples,
        "load_s": one.load_ms / 1000 if one.load_samples else None,
        "load_samples": one.load_samples,
    }
