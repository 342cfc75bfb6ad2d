"""One look at the host: processors, memory, disk, the container's limits and GPUs, from the readers beside this one.

A sample may take 100 ms on a busy GPU driver: take it in a worker thread. Samples never overlap.
"""

from __future__ import annotations

import math
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from agentcom import limits
from agentcom.figures import Container, Gpu, Resources
from agentcom_sidecar.resources.amd import AmdGpus
from agentcom_sidecar.resources.apple import AppleGpu, Sysctl, system_sysctl
from agentcom_sidecar.resources.cgroup import Cgroup, ContainerReader
from agentcom_sidecar.resources.nvidia import NvidiaGpus
from agentcom_sidecar.resources.reading import Faults, Patience, bytes_within, within

ANSWER_S_MAX = 2.0  # a driver or a disk that takes longer costs its own values of this sample


class ResourceProbe:
    """Samples this host. `disk_path` is where the worktrees lie. `system` is psutil, `nvml` pynvml by default, and
    `sysctl` is asked on an Apple machine, which `is_apple` says that this is."""

    def __init__(
        self,
        disk_path: Path,
        *,
        nvml: Any = None,
        system: Any = psutil,
        sysfs_root: Path = Path("/sys"),
        proc_root: Path = Path("/proc"),
        sysctl: Sysctl = system_sysctl,
        is_apple: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
        answer_s: float = ANSWER_S_MAX,
    ) -> None:
        self._disk_path = disk_path
        self._system = system
        self._faults = Faults()
        cgroup = Cgroup(sysfs_root / "fs" / "cgroup", proc_root / "self" / "cgroup")
        self._container = ContainerReader(cgroup, self._faults, clock)
        self._nvidia = NvidiaGpus(nvml, self._faults, proc_root)
        self._amd = AmdGpus(sysfs_root / "class" / "drm", self._faults)
        self._apple = AppleGpu(sysctl, self._faults)
        self._is_apple = _is_apple() if is_apple is None else is_apple
        self._lock = threading.Lock()
        self._for_gpus, self._for_disk = Patience(answer_s), Patience(answer_s)
        # Kept here because psutil.cpu_percent keeps them per thread: in a pool each new one would report 0.
        self._cpu_times = self._read_cpu_times()

    @property
    def faults(self) -> dict[str, str]:
        """What could not be read last time, and why: for the log, not for decisions."""
        with self._lock:
            return dict(self._faults.reasons)

    def sample(self) -> Resources:
        """Never raises for what the host lacks. Thread-safe; a second caller waits for the first."""
        with self._lock:
            per_logical, machine_percent = self._cpu_use()
            container = self._container.read()
            load = self._faults.ask("load", self._system.getloadavg) or (None, None, None)
            swap = self._faults.ask("swap", self._system.swap_memory)
            ram_total, ram_available = self._ram(container)
            disk = self._faults.ask("disk", lambda: self._for_disk(self._read_disk))
            gpus = self._read_gpus(ram_total, ram_available)
            return Resources(
                cpu_percent=_fuller(machine_percent, container),
                cpu_per_logical=per_logical or (),
                load_1m=within(load[0], 0, 1e6),
                load_5m=within(load[1], 0, 1e6),
                load_15m=within(load[2], 0, 1e6),
                logical_cpus=self._logical_cpus(container),
                ram_total_bytes=bytes_within(ram_total),
                ram_available_bytes=bytes_within(ram_available),
                swap_total_bytes=None if swap is None else bytes_within(swap.total),
                swap_used_bytes=None if swap is None else bytes_within(swap.used),
                disk_total_bytes=None if disk is None else disk[0],
                disk_free_bytes=None if disk is None else disk[1],
                gpus=tuple(gpus[: limits.GPUS_PER_HOST_MAX]),
                vram_source=gpus[0].source if gpus else None,
                container=container,
            )

    def _read_cpu_times(self) -> list[tuple[float, float]] | None:
        """(busy, total) seconds of each logical processor since boot."""
        times = self._faults.ask("cpu", lambda: self._system.cpu_times(percpu=True))
        return None if times is None else [_busy_and_total(each) for each in times]

    def _cpu_use(self) -> tuple[tuple[float, ...] | None, float | None]:
        before, now = self._cpu_times, self._read_cpu_times()
        self._cpu_times = now
        if not before or not now or len(before) != len(now):  # a processor came or went
            return None, None
        spans = [(b1 - b0, t1 - t0) for (b0, t0), (b1, t1) in zip(before, now, strict=True)]
        total = sum(span for _, span in spans)
        if total <= 0:  # asked twice within one clock tick
            return None, None
        per_logical = tuple(_percent(busy, span) for busy, span in spans[: limits.PROCESSORS_MAX])
        return per_logical, _percent(sum(b for b, _ in spans), total)

    def _logical_cpus(self, container: Container | None) -> int | None:
        bounds = [
            self._faults.ask("cpu_count", self._system.cpu_count),
            self._faults.ask("affinity", lambda: len(os.sched_getaffinity(0))),
            container.cpu_limit if container is not None else None,
        ]
        known = [math.ceil(bound) for bound in bounds if bound]
        return min(*known, limits.PROCESSORS_MAX) if known else None

    def _ram(self, container: Container | None) -> tuple[int | None, int | None]:
        memory = self._faults.ask("ram", self._system.virtual_memory)
        if memory is None:
            return None, None
        if container is None or container.memory_limit_bytes is None:
            return memory.total, memory.available
        left = container.memory_limit_bytes - (container.memory_used_bytes or 0)
        return min(memory.total, container.memory_limit_bytes), min(memory.available, left)

    def _read_disk(self) -> tuple[int, int]:
        found = self._system.disk_usage(str(self._disk_path))
        return int(found.total), int(found.free)

    def _read_gpus(self, ram_total: int | None, ram_available: int | None) -> list[Gpu]:
        def read() -> list[Gpu]:
            found = self._nvidia.read(ram_total, ram_available) + self._amd.read()
            return found + (self._apple.read(ram_total, ram_available) if self._is_apple else [])

        return self._faults.ask("gpus", lambda: self._for_gpus(read)) or []


def _is_apple() -> bool:
    return sys.platform == "darwin" and platform.machine() == "arm64"


def _fuller(machine_percent: float | None, container: Container | None) -> float | None:
    """The use of whichever is closer to its end, the machine or what the container may have of it."""
    limited = container.cpu_percent if container is not None else None
    known = [each for each in (machine_percent, limited) if each is not None]
    return max(known) if known else None


def _busy_and_total(times: Any) -> tuple[float, float]:
    """Guest time is already part of user time on Linux, so it is not added again."""
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total


def _percent(part: float, whole: float) -> float:
    return round(min(100.0, max(0.0, 100.0 * part / whole)), 1) if whole > 0 else 0.0
