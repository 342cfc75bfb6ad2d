"""NVIDIA GPUs by NVML (nvidia-ml-py). Not supported is a normal answer: under MIG, on vGPUs, on unified memory."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from agentcom import limits
from agentcom.figures import Gpu, GpuProcess
from agentcom_sidecar.resources.reading import Faults, bytes_within, text_in, within

# A driver that was not there may have been installed: eight minutes, with a sample each four seconds as by default.
RETRY_SAMPLES = 120

T = TypeVar("T")


class Memory(NamedTuple):
    total: int | None = None
    used: int | None = None
    is_ram: bool = False


class NvidiaGpus:
    """`nvml` is the pynvml module by default. It is imported and initialised at the first reading, and shut down only
    to begin anew when it lost its driver: NVML counts its users per process and begins with the first of them."""

    def __init__(self, nvml: Any, faults: Faults, proc_root: Path) -> None:
        self._nvml = nvml
        self._faults = faults
        self._proc = proc_root
        self._is_usable = False
        self._is_initialised = False  # by us, whether it is usable or not
        self._has_read_any = False
        self._wait = 0  # samples before the next try; none while GPUs can be read

    def read(self, ram_total: int | None, ram_available: int | None) -> list[Gpu]:
        """The system's RAM figures stand in for a GPU that has none of its own."""
        if not self._is_usable and not self._begin():
            return []
        count = self._faults.ask("nvml.count", lambda: int(self._nvml.nvmlDeviceGetCount()))
        if count is None:
            self._is_usable = False  # the driver was unloaded or updated
            return []
        gpus = self._read_all(count, ram_total, ram_available)
        if gpus:
            self._has_read_any, self._wait = True, 0
        elif self._has_read_any and self._is_due():
            self._is_usable = False  # what it still counts it may have of a driver that is gone
        return gpus

    def _begin(self) -> bool:
        if not self._is_due():
            return False
        self._is_usable = self._faults.ask("nvml", self._start) is not None
        self._wait = RETRY_SAMPLES
        return self._is_usable

    def _is_due(self) -> bool:
        """Each sample that has to wait asks once."""
        if self._wait == 0:
            return True
        self._wait -= 1
        return False

    def _start(self) -> bool:
        if self._nvml is None:
            self._nvml = importlib.import_module("pynvml")
        if self._is_initialised:
            with contextlib.suppress(Exception):  # it may be past answering this, too
                self._nvml.nvmlShutdown()
            self._is_initialised = False
        self._nvml.nvmlInit()
        self._is_initialised = True
        return True

    def _read_all(self, count: int, ram_total: int | None, ram_available: int | None) -> list[Gpu]:
        ram = Memory()
        if ram_total is not None and ram_available is not None:
            ram = Memory(ram_total, ram_total - ram_available, is_ram=True)
        found = (self._read_one(index, ram) for index in range(min(count, limits.GPUS_PER_HOST_MAX)))
        return [gpu for gpu in found if gpu is not None]

    def _read_one(self, index: int, ram: Memory) -> Gpu | None:
        nvml = self._nvml
        handle = self._faults.ask(f"gpu{index}.handle", lambda: nvml.nvmlDeviceGetHandleByIndex(index))
        if handle is None:
            return None

        def ask(name: str, call: Callable[[], T]) -> T | None:
            return self._faults.ask(f"gpu{index}.{name}", call)

        memory = ask("memory", lambda: self._memory(handle, ram)) or Memory()
        power_mw = ask("power", lambda: float(nvml.nvmlDeviceGetPowerUsage(handle)))
        busy = ask("utilisation", lambda: float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
        temperature = within(ask("temperature", lambda: self._temperature(handle)), -50, 200)
        name = _decoded(ask("name", lambda: nvml.nvmlDeviceGetName(handle)))
        uuid = _decoded(ask("uuid", lambda: nvml.nvmlDeviceGetUUID(handle)))
        if all(each is None for each in (name, uuid, memory.total, busy, temperature, power_mw)):
            return None  # it is lost: its handle is still given out, and every call on it fails
        return Gpu(
            name=name or "NVIDIA GPU",
            uuid=uuid,
            vendor="nvidia",
            source="nvml",
            vram_total_bytes=memory.total,
            vram_used_bytes=memory.used,
            vram_is_ram=memory.is_ram,
            utilisation_percent=within(busy, 0, 100),
            temperature_c=temperature,
            power_w=within(None if power_mw is None else power_mw / 1000, 0, 10_000),
            processes=ask("processes", lambda: self._processes(handle)) or (),
        )

    def _memory(self, handle: Any, ram: Memory) -> Memory:
        not_supported: type[Exception] | tuple[()] = getattr(self._nvml, "NVMLError_NotSupported", ())
        try:
            found = self._nvml.nvmlDeviceGetMemoryInfo(handle)
        except not_supported:  # a GPU that shares the system's memory has none to report
            if ram.used is None:
                raise
            return ram
        return Memory(bytes_within(int(found.total)), bytes_within(int(found.used)))

    def _temperature(self, handle: Any) -> float:
        """The first call is leaving NVML; newer drivers may know the second only."""
        nvml = self._nvml
        try:
            return float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
        except (AttributeError, nvml.NVMLError):
            if not hasattr(nvml, "nvmlDeviceGetTemperatureV"):
                raise
            return float(nvml.nvmlDeviceGetTemperatureV(handle, nvml.NVML_TEMPERATURE_GPU))

    def _processes(self, handle: Any) -> tuple[GpuProcess, ...]:
        """Those that hold most of its memory. How much one holds is not told in containers and under WDDM. One that
        works in several instances of a divided GPU (MIG) may be listed for each, and holds their sum."""
        found: dict[int, int | None] = {}
        for each in self._nvml.nvmlDeviceGetComputeRunningProcesses(handle):
            pid, held = int(each.pid), getattr(each, "usedGpuMemory", None)
            others = found.get(pid, 0)
            found[pid] = None if held is None or others is None else bytes_within(others + int(held))
        largest = sorted(found, key=lambda pid: (-(found[pid] or 0), pid))[: limits.GPU_PROCESSES_MAX]
        return tuple(GpuProcess(pid=pid, name=self._name_of(pid), vram_bytes=found[pid]) for pid in largest)

    def _name_of(self, pid: int) -> str:
        return text_in(self._proc / str(pid) / "comm")[:64]


def _decoded(text: str | bytes | None) -> str | None:
    """Old bindings answer with bytes."""
    found = text.decode(errors="replace") if isinstance(text, bytes) else text
    return found[:100] if found else None
