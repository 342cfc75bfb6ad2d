"""An endpoint in words, for `agentcom endpoint`: what the registry knows of a server and of each of its models. What is
not known is left out, never shown as 0."""

from __future__ import annotations

from collections.abc import Iterator

from agentcom.cli import output
from agentcom.model import JsonObject

MODEL_HEADERS = (
    "MODEL", "STATE", "DIGEST", "SIZE", "QUANT", "CONTEXT", "CAN", "CALLS", "TOKENS/S", "FIRST BYTE", "LOAD", "NOTE",
)  # fmt: skip
DIGEST_CHARS = 12


def health(each: JsonObject) -> str:
    """Whether it gets work, and if not, why and until when, in a few words."""
    if each.get("draining"):
        return "draining"
    if not each["healthy"]:
        return f"down: {each.get('reason', '')}"
    breaker = each.get("breaker") or {}
    if breaker.get("state", "closed") != "closed":
        return circuit(breaker)
    hangs = ", ".join(f"{one['model']} hangs{_until(one)}" for one in each.get("quarantined") or [])
    unread = f"list of models: {each['list_fault']}" if each.get("list_fault") else ""
    unreached = ", ".join(f"{one['host']}{_until(one)}" for one in each.get("unreachable_from") or [])
    blocked = ", ".join(f"{one['host']}{_until(one)}: {one['reason']}" for one in each.get("blocked_on") or [])
    ways = [f"not from {unreached}" if unreached else "", f"blocked on {blocked}" if blocked else ""]
    return "; ".join(filter(None, [unread, hangs, *ways])) or "ok"


def circuit(one: JsonObject) -> str:
    """A circuit that is not closed: its state, until when nothing is tried, and why."""
    return f"{one['state'].replace('_', '-')}{_until(one)}: {one.get('reason') or ''}"


def _until(one: JsonObject) -> str:
    """Until when it is left alone; nothing where it may be tried."""
    return f" until {one['until']}" if one.get("until") else ""


def lines(each: JsonObject) -> Iterator[tuple[str, object]]:
    """Labelled values of `endpoint show`, without its models."""
    yield "id", each["id"]
    yield "kind", each.get("flavour") or each["kind"]
    yield "url", each["url"]
    yield "seen from", each.get("host") or each.get("seen_from") or "hub"
    reached = each.get("reached_from")
    yield "reached from", None if reached is None else ", ".join(reached) or "no host"
    state = "healthy" if each["healthy"] else f"down: {each.get('reason', '')}"
    yield "health", f"{state}, since {each['since']}" if each.get("since") else state
    yield "list of models", each.get("list_fault")
    yield "checked", f"{output.since(each['checked'])} ago" if each.get("checked") else "never"
    yield "draining", "yes: it goes when its last call has ended" if each.get("draining") else None
    yield from _circuits(each)
    yield "version", each.get("version")
    calls = sum((each.get("in_flight") or {}).values())
    yield "calls", f"{calls} in flight, at most {each.get('cap', 1)} of one model"
    yield "context sent", each.get("num_ctx")
    yield "loading ahead", None if each.get("preload") is None else "yes" if each["preload"] else "no"
    for one in each.get("loading") or []:
        yield "loading", f"{one['model']}{' ahead' if one.get('ahead') else ''} since {one['since']}"
    load = each.get("load") or {}
    yield "its own count", ", ".join(f"{name} {count}" for name, count in load.items() if count is not None)
    limits = each.get("provider_limits") or {}
    yield "provider's limits", ", ".join(f"{name} {value}" for name, value in limits.items())


def _circuits(each: JsonObject) -> Iterator[tuple[str, object]]:
    breaker = each.get("breaker") or {}
    if breaker.get("state", "closed") != "closed":
        yield "circuit", f"{circuit(breaker)} (since {breaker.get('since')}, {breaker.get('failures')} failures)"
    elif breaker.get("failures"):
        yield "circuit", f"closed, {breaker['failures']} failures in a row: {breaker.get('reason') or ''}"
    else:
        yield "circuit", "closed"
    for one in each.get("unreachable_from") or []:
        yield "not reached from", f"{one['host']}, {circuit(one)}"
    for one in each.get("blocked_on") or []:
        yield "blocked on", f"{one['host']}{_until(one)}: {one['reason']}"
    for one in each.get("quarantined") or []:
        yield "quarantined", f"{one['model']}, {circuit(one)}"


def models(each: JsonObject) -> list[tuple[object, ...]]:
    """A row for each model, warm ones first."""
    found = sorted(each.get("models") or [], key=lambda one: (not one.get("warm"), one["name"]))
    return [_model(one, each.get("cap", 1)) for one in found]


def _model(model: JsonObject, cap: int) -> tuple[object, ...]:
    measured = model.get("measured") or {}
    return (
        model["name"],
        _state(model),
        (model.get("digest") or "").removeprefix("sha256:")[:DIGEST_CHARS],
        output.size(model.get("size_bytes")),
        " ".join(filter(None, (model.get("parameter_size"), model.get("quantization")))),
        _context(model),
        " ".join(model.get("capabilities") or []),
        f"{model.get('in_flight', 0)}/{cap}",
        _measured(measured, "tokens_per_s", "rate_samples", ""),
        _measured(measured, "first_byte_ms", "first_byte_samples", " ms"),
        _measured(measured, "load_s", "load_samples", " s"),
        model.get("fault") or ("hangs" if model.get("quarantined") else ""),
    )


def _state(model: JsonObject) -> str:
    if model.get("remote"):
        return "cloud"
    if not model.get("warm"):
        return "cold"
    share = model.get("vram_percent")
    return "warm" if share is None else f"warm, {share}% VRAM"


def _context(model: JsonObject) -> str:
    given, most = model.get("context_length"), model.get("context_max")
    return "/".join(str(count) for count in (given, most) if count)


def _measured(measured: JsonObject, name: str, samples: str, unit: str) -> str:
    value = measured.get(name)
    return "" if value is None else f"{value:.4g}{unit} ({measured[samples]})"
