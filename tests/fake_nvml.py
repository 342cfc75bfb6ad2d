"""A driver's library as nvidia-ml-py 13 shows it, without a GPU: the same functions, structs and errors.

`fails` maps (function, device index or None) to an error code of NVML; the errors are nvidia-ml-py's own classes, made
as it makes them. As in the real library every call but nvmlInit fails while it is not initialised, and every call about
a lost GPU fails while its handle is still given out. It counts who initialised it, as the real one was seen to do: only
the last nvmlShutdown closes it, and only the nvmlInit after that finds a driver that was loaded anew.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

import pynvml

GIB = 1024**3

NOT_SUPPORTED: int = pynvml.NVML_ERROR_NOT_SUPPORTED
NO_PERMISSION: int = pynvml.NVML_ERROR_NO_PERMISSION
LIBRARY_NOT_FOUND: int = pynvml.NVML_ERROR_LIBRARY_NOT_FOUND
DRIVER_NOT_LOADED: int = pynvml.NVML_ERROR_DRIVER_NOT_LOADED
VERSION_MISMATCH: int = pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH
GPU_IS_LOST: int = pynvml.NVML_ERROR_GPU_IS_LOST
UNINITIALIZED: int = pynvml.NVML_ERROR_UNINITIALIZED
UNKNOWN: int = pynvml.NVML_ERROR_UNKNOWN


class FakeNvml(types.ModuleType):
    """A pynvml with GPUs of 24 GiB. Index n is 40 + n percent busy and holds n + 1 GiB."""

    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
    NVMLError = pynvml.NVMLError
    NVMLError_NotSupported = pynvml.NVMLError_NotSupported

    def __init__(self, fails: dict[tuple[str, int | None], int] | None = None, count: int = 2) -> None:
        super().__init__("pynvml")
        self.fails = fails or {}
        self.count = count
        self.lost: set[int] = set()
        self.inits = 0
        self.users = 0
        self._driver = self._begun_with = 0  # which loading of the driver
        self._remembered: frozenset[str] = frozenset()
        self.processes: dict[int, list[tuple[int, int | None]]] = {}
        self.hangs: Callable[[], object] | None = None

    def reload_driver(self, remembered: Iterable[str] = ()) -> None:
        """From now on all calls fail but the `remembered`, until the library is begun anew."""
        self._driver += 1
        self._remembered = frozenset(remembered)

    def _check(self, call: str, handle: int | None = None) -> None:
        if self.users == 0:
            raise pynvml.NVMLError(UNINITIALIZED)
        if self._begun_with != self._driver and call not in self._remembered:
            raise pynvml.NVMLError(UNKNOWN)
        code = GPU_IS_LOST if handle in self.lost else self.fails.get((call, handle))
        if code is not None:
            raise pynvml.NVMLError(code)
        if self.hangs is not None:
            self.hangs()

    def nvmlInit(self) -> None:
        self.inits += 1
        code = self.fails.get(("nvmlInit", None))
        if code is not None:
            raise pynvml.NVMLError(code)
        if self.users == 0:
            self._begun_with = self._driver
        self.users += 1

    def nvmlShutdown(self) -> None:
        code = UNINITIALIZED if self.users == 0 else self.fails.get(("nvmlShutdown", None))
        if code is not None:
            raise pynvml.NVMLError(code)
        self.users -= 1

    def nvmlDeviceGetCount(self) -> int:
        self._check("nvmlDeviceGetCount")
        return self.count

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        if ("nvmlDeviceGetHandleByIndex", index) in self.fails:
            raise pynvml.NVMLError(self.fails["nvmlDeviceGetHandleByIndex", index])
        self._check("nvmlDeviceGetHandleByIndex")
        return index

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        self._check("nvmlDeviceGetName", handle)
        return b"NVIDIA Old Card" if handle == 0 else "NVIDIA New Card"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        self._check("nvmlDeviceGetUUID", handle)
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        self._check("nvmlDeviceGetMemoryInfo", handle)
        return SimpleNamespace(total=24 * GIB, used=(handle + 1) * GIB, free=(23 - handle) * GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        self._check("nvmlDeviceGetUtilizationRates", handle)
        return SimpleNamespace(gpu=40 + handle, memory=7)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        assert sensor == pynvml.NVML_TEMPERATURE_GPU
        self._check("nvmlDeviceGetTemperature", handle)
        return 55

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        self._check("nvmlDeviceGetPowerUsage", handle)
        return 123_456

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        self._check("nvmlDeviceGetComputeRunningProcesses", handle)
        return [SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in self.processes.get(handle, [])]
