"""What this host has and how busy it is: processors, memory, disk, GPUs, and what is installed.

Rules it keeps:
* A value that cannot be had is None, never 0 and never a guess: the hub treats None as unknown, not as idle.
* Every call into psutil, NVML or sysfs is wrapped alone; one that fails costs its own value only. `faults`
  says which failed and why.
* A container's limits count, not the host's figures behind them.
* A sample may take 100 ms on a busy GPU driver: call it in a worker thread. Samples never overlap.
"""

from __future__ import annotations

import importlib
import math
import os
import platform
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import psutil

GPUS_MAX = 64  # devices read per sample; a host with more reports the first ones
SYSFS_BYTES_MAX = 64 * 1024
UNLIMITED_BYTES = 1 << 60  # the old cgroup interface writes "no limit" as a huge number

TOOLS = ("cargo", "docker", "gh", "git", "go", "make", "node", "npm", "python3")
ARCHITECTURES = {"amd64": "x86_64", "aarch64": "arm64"}
SYSTEMS = {"darwin": "macos", "win32": "windows"}

GpuSource = Literal["nvml", "sysfs"]
T = TypeVar("T")


class Gpu(msgspec.Struct, frozen=True):
    """One GPU. With `vram_is_ram` its memory is the system's: free VRAM and free RAM are the same bytes."""

    name: str | None
    uuid: str | None
    source: GpuSource
    vram_total_bytes: int | None = None
    vram_used_bytes: int | None = None
    vram_is_ram: bool = False
    utilisation_percent: float | None = None
    temperature_c: float | None = None
    power_w: float | None = None


class ResourceSample(msgspec.Struct, frozen=True):
    """One look at the host. Percentages run from 0 to 100.

    `cpu_percent` and `cpu_per_logical` are means since the sample before and cover the whole machine, also
    from inside a container. `logical_cpus` is how many this process may use (affinity and quota, rounded up).
    """

    cpu_percent: float | None = None
    cpu_per_logical: list[float] | None = None
    load_1m: float | None = None
    load_5m: float | None = None
    load_15m: float | None = None
    logical_cpus: int | None = None
    ram_total_bytes: int | None = None
    ram_available_bytes: int | None = None
    swap_total_bytes: int | None = None
    swap_used_bytes: int | None = None
    disk_total_bytes: int | None = None
    disk_free_bytes: int | None = None
    gpus: list[Gpu] = []
    vram_source: GpuSource | None = None


class Faults:
    """Runs a call and keeps the reason of its failure under a name, until it works again."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def ask(self, name: str, call: Callable[[], T]) -> T | None:
        try:
            value = call()
        except Exception as error:
            self.reasons[name] = f"{type(error).__name__}: {error}"[:200]
            return None
        self.reasons.pop(name, None)
        return value


class ResourceProbe:
    """Samples this host. `disk_path` is where the worktrees lie.

    `nvml` is the pynvml module by default, imported and initialised at the first sample and never shut down:
    NVML counts its users per process. A failed initialisation is final for this process. `system` is psutil.
    """

    def __init__(
        self,
        disk_path: Path,
        *,
        nvml: Any = None,
        system: Any = psutil,
        sysfs_root: Path = Path("/sys"),
        proc_root: Path = Path("/proc"),
    ) -> None:
        self._disk_path = disk_path
        self._system = system
        self._faults = Faults()
        self._cgroup = Cgroup(sysfs_root / "fs" / "cgroup", proc_root / "self" / "cgroup")
        self._nvidia = NvidiaGpus(nvml, self._faults)
        self._amd = AmdGpus(sysfs_root / "class" / "drm", self._faults)
        self._lock = threading.Lock()
        # Kept here because psutil.cpu_percent keeps them per thread: in a pool each new one would report 0.
        self._cpu_times = self._read_cpu_times()

    @property
    def faults(self) -> dict[str, str]:
        """What could not be read last time, and why: for the doctor, not for decisions."""
        with self._lock:
            return dict(self._faults.reasons)

    def sample(self) -> ResourceSample:
        """Never raises for what the host lacks. Thread-safe; a second caller waits for the first."""
        with self._lock:
            per_logical, overall = self._cpu_use()
            load = self._faults.ask("load", self._system.getloadavg) or (None, None, None)
            swap = self._faults.ask("swap", self._system.swap_memory)
            disk = self._faults.ask("disk", lambda: self._system.disk_usage(str(self._disk_path)))
            ram_total, ram_available = self._ram()
            gpus = self._nvidia.read(ram_total, ram_available) + self._amd.read()
            return ResourceSample(
                cpu_percent=overall,
                cpu_per_logical=per_logical,
                load_1m=load[0],
                load_5m=load[1],
                load_15m=load[2],
                logical_cpus=self._logical_cpus(),
                ram_total_bytes=ram_total,
                ram_available_bytes=ram_available,
                swap_total_bytes=None if swap is None else swap.total,
                swap_used_bytes=None if swap is None else swap.used,
                disk_total_bytes=None if disk is None else disk.total,
                disk_free_bytes=None if disk is None else disk.free,
                gpus=gpus,
                vram_source=gpus[0].source if gpus else None,
            )

    def _read_cpu_times(self) -> list[tuple[float, float]] | None:
        """(busy, total) seconds of each logical processor since boot."""
        times = self._faults.ask("cpu", lambda: self._system.cpu_times(percpu=True))
        return None if times is None else [_busy_and_total(each) for each in times]

    def _cpu_use(self) -> tuple[list[float] | None, float | None]:
        before, now = self._cpu_times, self._read_cpu_times()
        self._cpu_times = now
        if not before or not now or len(before) != len(now):  # a processor came or went
            return None, None
        spans = [(b1 - b0, t1 - t0) for (b0, t0), (b1, t1) in zip(before, now, strict=True)]
        total = sum(span for _, span in spans)
        if total <= 0:  # asked twice within one clock tick
            return None, None
        return [_percent(busy, span) for busy, span in spans], _percent(sum(b for b, _ in spans), total)

    def _logical_cpus(self) -> int | None:
        bounds = [
            self._faults.ask("cpu_count", self._system.cpu_count),
            self._faults.ask("affinity", lambda: len(os.sched_getaffinity(0))),
            self._faults.ask("cpu_quota", self._cgroup.cpu_quota),
        ]
        known = [math.ceil(bound) for bound in bounds if bound]
        return min(known) if known else None

    def _ram(self) -> tuple[int | None, int | None]:
        memory = self._faults.ask("ram", self._system.virtual_memory)
        limit = self._faults.ask("ram_limit", self._cgroup.memory)
        if memory is None:
            return None, None
        if limit is None:
            return memory.total, memory.available
        return min(memory.total, limit[0]), min(memory.available, limit[1])


def _busy_and_total(times: Any) -> tuple[float, float]:
    """Guest time is already part of user time on Linux, so it is not added again."""
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return total - times.idle - getattr(times, "iowait", 0.0), total


def _percent(part: float, whole: float) -> float:
    return round(min(100.0, max(0.0, 100.0 * part / whole)), 1) if whole > 0 else 0.0


class Cgroup:
    """The limits of the control groups that this process is in; both interfaces, the nearest limit wins."""

    def __init__(self, mount: Path, membership: Path) -> None:
        self._mount = mount
        self._membership = membership

    def memory(self) -> tuple[int, int] | None:
        """(limit, what is left of it) in bytes of the tightest group; None without a limit."""
        found = [
            *self._memory_of(self._groups(""), "memory.max", "memory.current", "inactive_file"),
            *self._memory_of(
                self._groups("memory"),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            ),
        ]
        if not found:
            return None
        return min(limit for limit, _ in found), min(left for _, left in found)

    @staticmethod
    def _memory_of(
        groups: Iterable[Path], limit_name: str, usage_name: str, cache_name: str
    ) -> list[tuple[int, int]]:
        found = []
        for group in groups:
            limit = _int_in(group / limit_name)
            if limit is None or limit >= UNLIMITED_BYTES:
                continue
            used = _int_in(group / usage_name) or 0
            # Page cache that the kernel drops first is not in use: counted, a build would look out of memory.
            cache = _field_in(group / "memory.stat", cache_name) or 0
            found.append((limit, max(0, limit - max(0, used - cache))))
        return found

    def cpu_quota(self) -> float | None:
        """Processors' worth of time per period; None without a limit."""
        quotas = []
        for group in self._groups(""):
            words = _text_in(group / "cpu.max").split()
            if len(words) == 2 and words[0] != "max":
                quotas.append(int(words[0]) / int(words[1]))
        for group in self._groups("cpu"):
            quota, period = _int_in(group / "cpu.cfs_quota_us"), _int_in(group / "cpu.cfs_period_us")
            if quota is not None and quota > 0 and period:
                quotas.append(quota / period)
        return min(quotas) if quotas else None

    def _groups(self, controller: str) -> list[Path]:
        """Our group of a controller ("" is the unified interface) and those above it."""
        for line in _text_in(self._membership).splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if controller in controllers.split(","):
                base = self._mount / controller if controller else self._mount
                inner = base / path.lstrip("/")
                # A container may see its own group as the mount itself, under another path than it is told.
                return [each for each in (inner, *inner.parents) if each.is_relative_to(base)]
        return []


class NvidiaGpus:
    """NVML through pynvml. Not supported is a normal answer: under MIG, on vGPUs, on unified memory."""

    def __init__(self, nvml: Any, faults: Faults) -> None:
        self._nvml = nvml
        self._faults = faults
        self._is_usable: bool | None = None  # None: not tried yet

    def read(self, ram_total: int | None, ram_available: int | None) -> list[Gpu]:
        """The system's RAM figures stand in for a GPU that has none of its own."""
        if self._is_usable is None:
            self._is_usable = self._faults.ask("nvml", self._start) is not None
        if not self._is_usable:
            return []
        count = self._faults.ask("nvml.count", self._nvml.nvmlDeviceGetCount) or 0
        gpus = (self._read_one(index, ram_total, ram_available) for index in range(min(count, GPUS_MAX)))
        return [gpu for gpu in gpus if gpu is not None]

    def _start(self) -> bool:
        if self._nvml is None:
            self._nvml = importlib.import_module("pynvml")
        self._nvml.nvmlInit()
        return True

    def _read_one(self, index: int, ram_total: int | None, ram_available: int | None) -> Gpu | None:
        nvml = self._nvml
        handle = self._faults.ask(f"gpu{index}.handle", lambda: nvml.nvmlDeviceGetHandleByIndex(index))
        if handle is None:
            return None

        def ask(name: str, call: Callable[[], T]) -> T | None:
            return self._faults.ask(f"gpu{index}.{name}", call)

        total, used, is_ram = self._memory(index, handle, ram_total, ram_available)
        power_mw = ask("power", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        temperature = ask("temperature", lambda: self._temperature(handle))
        return Gpu(
            name=_decoded(ask("name", lambda: nvml.nvmlDeviceGetName(handle))),
            uuid=_decoded(ask("uuid", lambda: nvml.nvmlDeviceGetUUID(handle))),
            source="nvml",
            vram_total_bytes=total,
            vram_used_bytes=used,
            vram_is_ram=is_ram,
            utilisation_percent=_within(
                ask("utilisation", lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu), 0, 100
            ),
            temperature_c=_within(temperature, -50, 200),
            power_w=_within(None if power_mw is None else power_mw / 1000, 0, 10_000),
        )

    def _memory(
        self, index: int, handle: Any, ram_total: int | None, ram_available: int | None
    ) -> tuple[int | None, int | None, bool]:
        """(total, used, whether these are the system's)."""
        not_supported: type[Exception] | tuple[()] = getattr(self._nvml, "NVMLError_NotSupported", ())

        def own() -> tuple[int | None, int | None, bool]:
            try:
                memory = self._nvml.nvmlDeviceGetMemoryInfo(handle)
            except not_supported:  # a GPU that shares the system's memory has none to report
                if ram_total is None or ram_available is None:
                    raise
                return ram_total, ram_total - ram_available, True
            return int(memory.total), int(memory.used), False

        return self._faults.ask(f"gpu{index}.memory", own) or (None, None, False)

    def _temperature(self, handle: Any) -> float:
        """The first call is leaving NVML; newer drivers may know the second only."""
        nvml = self._nvml
        try:
            return float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        except Exception:
            if not hasattr(nvml, "nvmlDeviceGetTemperatureV"):
                raise
            return float(nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU))


class AmdGpus:
    """AMD cards through what their kernel driver shows in sysfs: no ROCm needed."""

    def __init__(self, drm: Path, faults: Faults) -> None:
        self._drm = drm
        self._faults = faults

    def read(self) -> list[Gpu]:
        cards = self._faults.ask("amd", self._cards) or []
        gpus = (self._faults.ask(f"amd.{card.name}", partial(self._read_one, card)) for card in cards)
        return [gpu for gpu in gpus if gpu is not None]

    def _cards(self) -> list[Path]:
        if not self._drm.is_dir():
            return []
        cards = [each for each in self._drm.iterdir() if re.fullmatch(r"card\d+", each.name)]
        cards.sort(key=lambda card: int(card.name[4:]))
        return [card for card in cards if (card / "device" / "mem_info_vram_total").exists()][:GPUS_MAX]

    def _read_one(self, card: Path) -> Gpu:
        device = card / "device"
        sensors = sorted((device / "hwmon").glob("hwmon*"))
        watts = _first(sensors, "power1_average", "power1_input")
        celsius = _first(sensors, "temp1_input")
        model = _text_in(device / "device") or "unknown"
        return Gpu(
            name=_text_in(device / "product_name") or f"AMD {model}",
            uuid=_text_in(device / "unique_id") or device.resolve().name,
            source="sysfs",
            vram_total_bytes=_int_in(device / "mem_info_vram_total"),
            vram_used_bytes=_int_in(device / "mem_info_vram_used"),
            utilisation_percent=_within(_int_in(device / "gpu_busy_percent"), 0, 100),
            temperature_c=_within(None if celsius is None else celsius / 1000, -50, 200),
            power_w=_within(None if watts is None else watts / 1_000_000, 0, 10_000),
        )


def _first(folders: Sequence[Path], *names: str) -> int | None:
    values = (_int_in(folder / name) for folder in folders for name in names)
    return next((value for value in values if value is not None), None)


def _text_in(path: Path) -> str:
    """The file's text without the blanks around it; empty when it cannot be read."""
    try:
        with path.open("rb") as source:
            return source.read(SYSFS_BYTES_MAX).decode(errors="replace").strip()
    except OSError:
        return ""


def _int_in(path: Path) -> int | None:
    """None also for the word "max"."""
    text = _text_in(path)
    return int(text) if re.fullmatch(r"-?\d{1,20}", text) else None


def _field_in(path: Path, name: str) -> int | None:
    for line in _text_in(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and value.isdigit():
            return int(value)
    return None


def _within(value: float | None, lowest: float, highest: float) -> float | None:
    """Drivers answer with all bits set for "not available": what cannot be true is unknown."""
    return float(value) if value is not None and lowest <= value <= highest else None


def _decoded(text: str | bytes | None) -> str | None:
    """Old NVML bindings answer with bytes."""
    return text.decode(errors="replace") if isinstance(text, bytes) else text


def detect_capabilities(gpus: Iterable[Gpu] = (), path: str | None = None) -> list[str]:
    """What tasks may ask for with `needs`, sorted: `os:linux`, `arch:x86_64`, `gpu:nvidia`, `tool:git` ...

    `path` is searched for tools instead of PATH. Give the GPUs of a sample.
    """
    machine = platform.machine().lower()
    arch = ARCHITECTURES.get(machine, machine)
    found = {f"os:{SYSTEMS.get(sys.platform, sys.platform)}", f"arch:{arch}"}
    found |= {"gpu:nvidia" if gpu.source == "nvml" else "gpu:amd" for gpu in gpus}
    if sys.platform == "darwin" and arch == "arm64":
        found.add("gpu:apple")
    found |= {f"tool:{tool}" for tool in TOOLS if shutil.which(tool, path=path) is not None}
    return sorted(found)
