"""A host's figures in words, for `agentcom host`. What is unknown is left out, or said to be so; never shown as 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from agentcom.cli import output
from agentcom.model import JsonObject

BARS: Final = "▁▂▃▄▅▆▇█"
GAP: Final = "·"


def load(host: JsonObject) -> tuple[str, str, str]:
    """Processor use, free RAM and GPUs of a host in the list."""
    resources = host.get("resources")
    if not resources:
        age = host.get("resources_age_s")
        return ("" if age is None else f"? {output.seconds(age)} old", "", "")
    cpu = resources.get("cpu_percent")
    return (
        "" if cpu is None else f"{cpu:.0f}%",
        output.size(resources.get("ram_available_bytes")),
        ", ".join(_gpu_short(gpu) for gpu in resources.get("gpus") or []),
    )


def flags(host: JsonObject) -> str:
    """What keeps work from a host, or brings it there."""
    known = [flag for flag in ("removing", "draining", "paused", "preferred") if host.get(flag)]
    known += ["quiet"] if host.get("quiet_until") or host.get("quiet_always") else []
    return " ".join([*known, *(["full"] if host.get("no_room") else [])])


def lines(host: JsonObject) -> Iterator[tuple[str, object]]:
    """Labelled values of `host show`."""
    yield "last seen", output.since(host.get("last_seen"))
    yield "agents", ", ".join(host.get("agents") or [])
    yield "flags", flags(host)
    always = "always: change sidecar.quiet_hours there" if host.get("quiet_always") else None
    yield "quiet until", always or host.get("quiet_until")
    yield "no new attempts", host.get("no_room")
    yield "sandbox", host.get("sandbox")
    for line in host.get("check_faults") or []:
        yield "check not usable", line
    for line in host.get("program_faults") or []:
        yield "program not usable", line
    yield "software", host.get("software")
    age = host.get("resources_age_s")
    if host.get("resources"):
        yield "figures", f"{output.seconds(age)} old"
    elif age is not None:
        yield "figures", f"unknown now; the last ones are {output.seconds(age)} old"
    elif host.get("last_resources"):
        yield "figures", "unknown now; how old the last ones are cannot be told"
    else:
        yield "figures", "none were ever reported"
    yield from _figures(host.get("resources") or host.get("last_resources") or {})
    yield from _vram(host.get("vram") or {})
    trend = host.get("trend") or {}
    for label, name in (("cpu", "cpu"), ("ram", "ram"), ("gpu", "gpu"), ("vram", "vram")):
        yield f"{label}, 15 min", sparkline(trend.get(name) or [])
    yield "capabilities", " ".join(host.get("capabilities") or [])
    yield "declared, not so", " ".join(host.get("overruled") or [])


def _figures(figures: JsonObject) -> Iterator[tuple[str, object]]:
    cpus = figures.get("logical_cpus")
    busy = figures.get("cpu_percent")
    yield "cpu", _joined("" if busy is None else f"{busy:.0f}%", f"of {cpus} processors" if cpus else "")
    yield "each", sparkline(figures.get("cpu_per_logical") or [])
    loads = [figures.get(f"load_{span}m") for span in (1, 5, 15)]
    yield "load", " ".join(f"{each:.2f}" for each in loads if each is not None)
    for label, kind, rest in (("ram", "ram", "available"), ("disk", "disk", "free")):
        left, total = figures.get(f"{kind}_{rest}_bytes"), figures.get(f"{kind}_total_bytes")
        yield label, _joined(f"{output.size(left) or 0} free" if left is not None else "", _of(total))
    swap, swap_total = figures.get("swap_used_bytes"), figures.get("swap_total_bytes")
    yield "swap", _used(swap, swap_total) if swap_total else ""
    yield "container", _container(figures.get("container") or {})
    for n, gpu in enumerate(figures.get("gpus") or []):
        yield f"gpu {n}", _gpu(gpu)
        for each in gpu.get("processes") or []:
            held = output.size(each.get("vram_bytes")) or "?"
            yield f"gpu {n} process", f"{each.get('pid')} {each.get('name', '')} {held}"
    yield "not usable", " ".join(figures.get("dropped") or [])


def _container(container: JsonObject) -> str:
    limit, busy, memory = (container.get(name) for name in ("cpu_limit", "cpu_percent", "memory_limit_bytes"))
    return _joined(
        _joined(f"{limit:g} processors" if limit else "", f"{busy:.0f}% used" if busy is not None else ""),
        _used(container.get("memory_used_bytes"), memory) if memory else "",
        by=", ",
    )


def _used(used: int | None, total: int | None) -> str:
    return _joined(f"{output.size(used) or 0} used" if used is not None else "", _of(total))


def _vram(vram: JsonObject) -> Iterator[tuple[str, object]]:
    if vram:
        used = _used(vram.get("used_bytes"), vram.get("total_bytes"))
        source = vram.get("source")
        yield "vram", f"{used} from {source}" if source else used


def _gpu(gpu: JsonObject) -> str:
    memory = _used(gpu.get("vram_used_bytes"), gpu.get("vram_total_bytes"))
    return _joined(
        str(gpu.get("name", "GPU")),
        _unit(gpu.get("utilisation_percent"), "%"),
        _joined(memory, "shared with RAM" if gpu.get("vram_is_ram") else ""),
        _unit(gpu.get("temperature_c"), " °C"),
        _unit(gpu.get("power_w"), " W"),
        f"from {gpu['source']}" if gpu.get("source") else "",
        by=", ",
    )


def _gpu_short(gpu: JsonObject) -> str:
    busy = gpu.get("utilisation_percent")
    return _joined(str(gpu.get("name", "GPU")), _unit(busy, "%"))


def _unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:.0f}{unit}"


def _of(total: int | None) -> str:
    return f"of {output.size(total)}" if total else ""


def _joined(*parts: str, by: str = " ") -> str:
    return by.join(part for part in parts if part)


def sparkline(percents: Sequence[Any]) -> str:
    """Percentages as bars; a dot where one is not known. Empty when none is."""
    if all(each is None for each in percents):
        return ""
    return "".join(GAP if each is None else BARS[min(7, max(0, int(each * 8 // 100)))] for each in percents)
