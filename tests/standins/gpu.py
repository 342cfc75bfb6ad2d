"""A GPU for real daemons on a machine without one: a `pynvml` on their path, whose figures a test writes to a file.

    gpu = StandInGpu(world.folder / "gpu")
    world.sidecar("box", **gpu.environment)
    gpu.set(utilisation=93, vram_used=22 * GIB)
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.world import ROOT

GIB = 1 << 30

_MODULE = '''
import json, pathlib, types

NVML_TEMPERATURE_GPU = 0


class NVMLError(Exception):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


def _figure(name):
    value = json.loads(pathlib.Path(__file__).with_name("figures.json").read_text())[name]
    if value is None:
        raise NVMLError_NotSupported("Not Supported")
    return value


def nvmlInit():
    pass


def nvmlShutdown():
    pass


def nvmlDeviceGetCount():
    return _figure("count")


def nvmlDeviceGetHandleByIndex(index):
    return index


def nvmlDeviceGetName(handle):
    return _figure("name")


def nvmlDeviceGetUUID(handle):
    return f"GPU-{handle}"


def nvmlDeviceGetMemoryInfo(handle):
    return types.SimpleNamespace(total=_figure("vram_total"), used=_figure("vram_used"))


def nvmlDeviceGetUtilizationRates(handle):
    return types.SimpleNamespace(gpu=_figure("utilisation"))


def nvmlDeviceGetTemperature(handle, sensor):
    return _figure("temperature")


def nvmlDeviceGetPowerUsage(handle):
    return _figure("power_mw")


def nvmlDeviceGetComputeRunningProcesses(handle):
    return [types.SimpleNamespace(pid=pid, usedGpuMemory=held) for pid, held in _figure("processes")]
'''


class StandInGpu:
    """One GPU of 24 GiB unless `set` says otherwise; a figure that is None is not supported."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        (folder / "pynvml.py").write_text(_MODULE)
        self._figures: dict[str, Any] = {
            "count": 1, "name": "NVIDIA GeForce RTX 4090", "vram_total": 24 * GIB, "vram_used": 6 * GIB,
            "utilisation": 40, "temperature": 61, "power_mw": 300_000, "processes": [],
        }  # fmt: skip
        self.set()

    @property
    def environment(self) -> dict[str, str]:
        """For the daemon that is to find it."""
        paths = [self._folder, ROOT, ROOT / "sidecar", ROOT / "web"]
        return {"PYTHONPATH": os.pathsep.join(map(str, paths))}

    def set(self, **figures: Any) -> None:
        self._figures |= figures
        written = self._folder / "figures.json.new"
        written.write_text(json.dumps(self._figures))
        written.replace(self._folder / "figures.json")
