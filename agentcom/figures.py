"""What a host reports of itself: processors, memory, disk, GPUs. Null means that a figure cannot be had there.

Bounds are what no machine reaches. Figures come from drivers and from strangers, so one that is out of its bounds is
never a reason to refuse the message it came in: `usable` keeps the rest and names it in `dropped`.
"""

from __future__ import annotations

import math
import types
import typing
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from agentcom import limits

Percent = Annotated[float, Meta(ge=0, le=100)]
MemoryBytes = Annotated[int, Meta(ge=0, le=2**50)]
DiskBytes = Annotated[int, Meta(ge=0, le=2**62)]
LoadMean = Annotated[float, Meta(ge=0, le=1_000_000)]
Processors = Annotated[float, Meta(gt=0, le=limits.PROCESSORS_MAX)]
Source = Annotated[str, Meta(max_length=20)]

PERCENT_MAX: Final = 100


class GpuProcess(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A process that holds memory of a GPU. `name` is the program's, without its arguments."""

    pid: Annotated[int, Meta(ge=0, le=2**32)]
    name: Annotated[str, Meta(max_length=64)] = ""
    vram_bytes: MemoryBytes | None = None


class Gpu(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One GPU as its host reports it. With `vram_is_ram` its memory is the system's: free VRAM and free RAM are the
    same bytes. `source` is where the figures come from: `nvml`, `sysfs` or `unified`. `processes` are those that hold
    most of its memory, the largest first."""

    name: Annotated[str, Meta(max_length=200)] = "GPU"
    uuid: Annotated[str, Meta(max_length=100)] | None = None
    vendor: Annotated[str, Meta(max_length=20)] = ""
    vram_total_bytes: MemoryBytes | None = None
    vram_used_bytes: MemoryBytes | None = None
    vram_is_ram: bool = False
    utilisation_percent: Percent | None = None
    temperature_c: Annotated[float, Meta(ge=-50, le=250)] | None = None
    power_w: Annotated[float, Meta(ge=0, le=20_000)] | None = None
    source: Source = ""
    processes: Annotated[tuple[GpuProcess, ...], Meta(max_length=limits.GPU_PROCESSES_MAX)] = ()


class Container(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The limits of the control group that the sidecar runs in; null: none. `cpu_limit` is in processors' worth of
    time, `cpu_percent` the use of it. `memory_used_bytes` leaves out cache that the kernel drops first."""

    cpu_limit: Processors | None = None
    cpu_percent: Percent | None = None
    memory_limit_bytes: MemoryBytes | None = None
    memory_used_bytes: MemoryBytes | None = None


class Resources(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A host's resources at one moment. In a container its limits count where they are smaller: `logical_cpus`,
    `ram_total_bytes` and `ram_available_bytes` are what can be had, `cpu_percent` is the use of whichever is closer to
    its end. `cpu_per_logical` and the loads are the machine's.

    `every_s` is how often the host reports. `dropped` names the figures that the hub could not use.
    """

    cpu_percent: Percent | None = None
    cpu_per_logical: Annotated[tuple[Percent, ...], Meta(max_length=limits.PROCESSORS_MAX)] = ()
    logical_cpus: Annotated[int, Meta(ge=0, le=limits.PROCESSORS_MAX)] | None = None
    load_1m: LoadMean | None = None
    load_5m: LoadMean | None = None
    load_15m: LoadMean | None = None
    ram_total_bytes: MemoryBytes | None = None
    ram_available_bytes: MemoryBytes | None = None
    swap_total_bytes: MemoryBytes | None = None
    swap_used_bytes: MemoryBytes | None = None
    disk_total_bytes: DiskBytes | None = None
    disk_free_bytes: DiskBytes | None = None
    gpus: Annotated[tuple[Gpu, ...], Meta(max_length=limits.GPUS_PER_HOST_MAX)] = ()
    vram_source: Source | None = None
    container: Container | None = None
    every_s: Annotated[int, Meta(ge=1, le=limits.REPORT_S_MAX)] = 5
    dropped: Annotated[
        tuple[Annotated[str, Meta(max_length=limits.LABEL_CHARS_MAX)], ...],
        Meta(max_length=limits.FIGURES_DROPPED_MAX),
    ] = ()


_NOT_USABLE: Final = object()
_AT_MOST = (
    ("ram_available_bytes", "ram_total_bytes"),
    ("swap_used_bytes", "swap_total_bytes"),
    ("disk_free_bytes", "disk_total_bytes"),
)


def usable(found: object) -> Resources:
    """What can be used of figures as they came: a percentage above 100 is 100, text is cut, any other value that is not
    within its bounds is left out. A list of figures with one that is not usable is left out whole, since the others
    would move; of a list of things each is looked at alone."""
    dropped: list[str] = []
    kept = _struct(Resources, found, "", dropped)
    if kept is _NOT_USABLE:
        return Resources(dropped=("resources",))
    resources: Resources = msgspec.convert(kept, Resources)
    return msgspec.structs.replace(resources, dropped=_named(dropped))


def plausible(resources: Resources) -> Resources:
    """The same without figures that contradict each other: more in use, or more free, than there is."""
    wrong = [part for part, whole in _AT_MOST if _exceeds(resources, part, whole)]
    gpus = [n for n, gpu in enumerate(resources.gpus) if _exceeds(gpu, "vram_used_bytes", "vram_total_bytes")]
    if not wrong and not gpus:
        return resources
    told = [*resources.dropped, *wrong, *(f"gpus[{n}].vram_used_bytes" for n in gpus)]
    mended = tuple(
        msgspec.structs.replace(gpu, vram_used_bytes=None) if n in gpus else gpu
        for n, gpu in enumerate(resources.gpus)
    )
    nothing: dict[str, Any] = dict.fromkeys(wrong)
    return msgspec.structs.replace(resources, gpus=mended, dropped=_named(told), **nothing)


def _exceeds(figures: Struct, part: str, whole: str) -> bool:
    had, there_is = getattr(figures, part), getattr(figures, whole)
    return had is not None and there_is is not None and had > there_is


def _named(dropped: list[str]) -> tuple[str, ...]:
    names = dict.fromkeys(name[: limits.LABEL_CHARS_MAX] for name in dropped)
    return tuple(names)[: limits.FIGURES_DROPPED_MAX]


def _struct(kind: type[Struct], found: object, at: str, dropped: list[str]) -> Any:
    if not isinstance(found, dict):
        dropped.append(at)
        return _NOT_USABLE
    kept = {}
    for field in msgspec.structs.fields(kind):
        if field.encode_name not in found:
            continue
        where = f"{at}.{field.encode_name}" if at else field.encode_name
        value = _value(field.type, found[field.encode_name], where, dropped)
        if value is not _NOT_USABLE:
            kept[field.encode_name] = value
        elif field.required:
            return _NOT_USABLE
    return kept


def _value(kind: Any, found: object, at: str, dropped: list[str]) -> Any:
    """The value if it is as its type says, else what of it is usable."""
    try:
        msgspec.convert(found, kind)
    except (ValueError, OverflowError):
        base, meta = _base_of(kind)
    else:
        return found
    if typing.get_origin(base) is tuple and isinstance(found, list | tuple):
        return _list(typing.get_args(base)[0], found, meta.max_length or 0, at, dropped)
    if isinstance(base, type) and issubclass(base, Struct):
        return _struct(base, found, at, dropped)
    dropped.append(at)
    if base is str and isinstance(found, str):
        return found[: meta.max_length]
    if (
        kind in (Percent, Percent | None)
        and isinstance(found, int | float)
        and PERCENT_MAX < found < math.inf
    ):
        return float(PERCENT_MAX)
    return _NOT_USABLE


def _list(item: Any, found: Any, length: int, at: str, dropped: list[str]) -> Any:
    if len(found) > length:
        dropped.append(at)
    each = [_value(item, one, f"{at}[{n}]", dropped) for n, one in enumerate(found[:length])]
    kept = [one for one in each if one is not _NOT_USABLE]
    is_of_things = isinstance(item, type) and issubclass(item, Struct)
    return kept if is_of_things or len(kept) == len(found) else _NOT_USABLE


def _base_of(kind: Any) -> tuple[Any, Meta]:
    """What stands in `Annotated[...]`, and its bounds; null aside."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return _base_of(next(each for each in typing.get_args(kind) if each is not types.NoneType))
    if typing.get_origin(kind) is typing.Annotated:
        base, meta = typing.get_args(kind)
        return base, meta
    return kind, Meta()
