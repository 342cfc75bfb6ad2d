"""What a host's last figures mean for work there: how much longer it takes, and whether a model fits.

Worked out once per report, read for every candidate. A figure is a step, not a slope: two readings a moment apart must
not decide between equal hosts. What is not known is not idle, and costs something; what a machine has in all does not
change while its figures are old.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple, TypeVar

from agentcom.model import Resources

T = TypeVar("T")

BUSY_PERCENT: Final = 90.0  # of CPU or GPU
RAM_LEFT_PERCENT: Final = 5
SLOW_PERCENT: Final = 50  # by which one figure at its end makes work longer
UNKNOWN_PERCENT: Final = 25


class Load(NamedTuple):
    """In percent by which work takes longer, and in bytes; 0 bytes: not known."""

    work_percent: int = UNKNOWN_PERCENT
    gpu_percent: int = 0
    vram_bytes: int = 0
    memory_bytes: int = 0
    free_bytes: int = -1  # for a model that is to be loaded; -1: not known
    vram_free_bytes: int = -1  # of that on GPUs, their own memory or the machine's

    def aged(self) -> Load:
        """The same once the figures are too old to be trusted."""
        return Load(vram_bytes=self.vram_bytes, memory_bytes=self.memory_bytes)


def load_of(resources: Resources | None, is_ours: bool) -> Load:
    """`is_ours`: the host has worked for the hub since its report before, so what is busy may be that."""
    if resources is None:
        return Load()
    vram, memory = _totals(resources)
    slow = SLOW_PERCENT // 2 if is_ours else SLOW_PERCENT
    work = UNKNOWN_PERCENT if resources.cpu_percent is None else 0
    if resources.cpu_percent is not None and resources.cpu_percent >= BUSY_PERCENT:
        work = slow
    ram_total, ram_free = resources.ram_total_bytes, resources.ram_available_bytes
    if ram_total and ram_free is not None and ram_free * 100 < ram_total * RAM_LEFT_PERCENT:
        work += slow
    gpu = max(_known(gpu.utilisation_percent for gpu in resources.gpus), default=0.0)
    return Load(
        work_percent=work,
        gpu_percent=slow if gpu >= BUSY_PERCENT else 0,
        vram_bytes=vram,
        memory_bytes=memory,
        free_bytes=_free(resources),
        vram_free_bytes=_vram_free(resources),
    )


def _totals(resources: Resources) -> tuple[int, int]:
    """VRAM, and all memory that a model may lie in; 0 where that is not known. Unified memory is there once."""
    vram = sum(_known(gpu.vram_total_bytes for gpu in resources.gpus))
    own = sum(_known(gpu.vram_total_bytes for gpu in resources.gpus if not gpu.vram_is_ram))
    return vram, (own + resources.ram_total_bytes if resources.ram_total_bytes else 0)


def _free(resources: Resources) -> int:
    if resources.ram_available_bytes is None:
        return -1
    own = [gpu for gpu in resources.gpus if not gpu.vram_is_ram]
    gpus = [g for g in own if g.vram_total_bytes is not None and g.vram_used_bytes is not None]
    if len(gpus) < len(own):
        return -1
    left = sum(max(0, (g.vram_total_bytes or 0) - (g.vram_used_bytes or 0)) for g in gpus)
    return left + resources.ram_available_bytes


def _vram_free(resources: Resources) -> int:
    gpus = [g for g in resources.gpus if g.vram_total_bytes is not None and g.vram_used_bytes is not None]
    if not gpus or len(gpus) < len(resources.gpus):
        return -1
    return sum(max(0, (g.vram_total_bytes or 0) - (g.vram_used_bytes or 0)) for g in gpus)


def _known(figures: Iterable[T | None]) -> list[T]:
    return [each for each in figures if each is not None]
