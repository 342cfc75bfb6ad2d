"""What the host probe reports, and that it reports unknown, not zero, for what it cannot have."""

from __future__ import annotations

import asyncio
import os
import types
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentcom_sidecar.resources import Gpu, ResourceProbe, ResourceSample, detect_capabilities

GIB = 1024**3
CpuTimes = namedtuple("CpuTimes", "user nice system idle iowait irq softirq steal guest guest_nice")


class NVMLError(Exception):
    pass


class NVMLError_NotSupported(NVMLError):
    pass


class NVMLError_GpuIsLost(NVMLError):
    pass


class FakeNvml(types.ModuleType):
    """A pynvml with two GPUs; `broken` maps (call, device index or None) to the exception it raises."""

    NVML_TEMPERATURE_GPU = 0
    NVMLError_NotSupported = NVMLError_NotSupported

    def __init__(self, broken: dict[tuple[str, int | None], Exception] | None = None) -> None:
        super().__init__("pynvml")
        self.broken = broken or {}
        self.inits = 0

    def _fail(self, call: str, handle: int | None = None) -> None:
        error = self.broken.get((call, handle))
        if error is not None:
            raise error

    def nvmlInit(self) -> None:
        self.inits += 1
        self._fail("nvmlInit")

    def nvmlDeviceGetCount(self) -> int:
        self._fail("nvmlDeviceGetCount")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self._fail("nvmlDeviceGetHandleByIndex", index)
        return index

    def nvmlDeviceGetName(self, handle: int) -> str | bytes:
        self._fail("nvmlDeviceGetName", handle)
        return b"Old Card" if handle == 0 else "New Card"

    def nvmlDeviceGetUUID(self, handle: int) -> str:
        self._fail("nvmlDeviceGetUUID", handle)
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        self._fail("nvmlDeviceGetMemoryInfo", handle)
        return SimpleNamespace(total=24 * GIB, used=(handle + 1) * GIB, free=0)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        self._fail("nvmlDeviceGetUtilizationRates", handle)
        return SimpleNamespace(gpu=40 + handle, memory=7)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:
        self._fail("nvmlDeviceGetTemperature", handle)
        return 55

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:
        self._fail("nvmlDeviceGetPowerUsage", handle)
        return 123_456


class FakeSystem:
    """A psutil of a host with two processors, 64 GiB of RAM and a disk; times advance per reading."""

    def __init__(self) -> None:
        self.readings = [
            [self.times(busy=10, idle=90), self.times(busy=50, idle=50)],
            [self.times(busy=11, idle=93), self.times(busy=54, idle=50)],
        ]

    @staticmethod
    def times(busy: float, idle: float) -> CpuTimes:
        return CpuTimes(busy, 0, 0, idle, 0, 0, 0, 0, 0, 0)

    def cpu_times(self, percpu: bool) -> list[CpuTimes]:
        assert percpu
        return self.readings.pop(0) if len(self.readings) > 1 else self.readings[0]

    def cpu_count(self) -> int:
        return 1024

    def getloadavg(self) -> tuple[float, float, float]:
        return (1.5, 1.0, 0.5)

    def virtual_memory(self) -> Any:
        return SimpleNamespace(total=64 * GIB, available=48 * GIB)

    def swap_memory(self) -> Any:
        return SimpleNamespace(total=8 * GIB, used=GIB)

    def disk_usage(self, path: str) -> Any:
        return SimpleNamespace(total=1000 * GIB, free=300 * GIB)


def probe_of(tmp_path: Path, nvml: Any = None, system: Any = None) -> ResourceProbe:
    (tmp_path / "proc" / "self").mkdir(parents=True, exist_ok=True)
    return ResourceProbe(
        tmp_path,
        nvml=nvml or FakeNvml({("nvmlInit", None): NVMLError("Library Not Found")}),
        system=system or FakeSystem(),
        sysfs_root=tmp_path / "sys",
        proc_root=tmp_path / "proc",
    )


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


def test_a_sample_has_the_hosts_processors_memory_and_disk(tmp_path: Path) -> None:
    sample = probe_of(tmp_path).sample()
    assert sample.cpu_per_logical == [25.0, 100.0]
    assert sample.cpu_percent == 62.5
    assert (sample.load_1m, sample.load_5m, sample.load_15m) == (1.5, 1.0, 0.5)
    assert (sample.ram_total_bytes, sample.ram_available_bytes) == (64 * GIB, 48 * GIB)
    assert (sample.swap_total_bytes, sample.swap_used_bytes) == (8 * GIB, GIB)
    assert (sample.disk_total_bytes, sample.disk_free_bytes) == (1000 * GIB, 300 * GIB)
    assert sample.logical_cpus == len(os.sched_getaffinity(0))


def test_processor_use_is_unknown_when_no_time_has_passed(tmp_path: Path) -> None:
    probe = probe_of(tmp_path)
    probe.sample()
    second = probe.sample()  # the fake's times stand still now
    assert second.cpu_percent is None
    assert second.cpu_per_logical is None


def test_waiting_for_the_disk_is_not_processor_use(tmp_path: Path) -> None:
    system = FakeSystem()
    system.readings = [[CpuTimes(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)], [CpuTimes(30, 0, 0, 20, 50, 0, 0, 0, 10, 0)]]
    # 10 of the 30 seconds of user time are a guest's: counted once, so 30 of 100 are busy.
    assert probe_of(tmp_path, system=system).sample().cpu_percent == 30.0


@pytest.mark.parametrize(
    ("call", "fields"),
    [
        ("cpu_times", ["cpu_percent", "cpu_per_logical"]),
        ("getloadavg", ["load_1m", "load_5m", "load_15m"]),
        ("virtual_memory", ["ram_total_bytes", "ram_available_bytes"]),
        ("swap_memory", ["swap_total_bytes", "swap_used_bytes"]),
        ("disk_usage", ["disk_total_bytes", "disk_free_bytes"]),
    ],
)
def test_a_failing_system_call_costs_its_own_values_only(
    tmp_path: Path, call: str, fields: list[str]
) -> None:
    system = FakeSystem()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(5, "Input/output error")

    setattr(system, call, fail)
    probe = probe_of(tmp_path, system=system)
    broken, whole = probe.sample(), probe_of(tmp_path).sample()
    for name in ResourceSample.__struct_fields__:
        if name in fields:
            assert getattr(broken, name) is None
        else:
            assert getattr(broken, name) == getattr(whole, name)
    assert any("Input/output error" in reason for reason in probe.faults.values())


def test_nvidia_gpus_are_read_through_nvml(tmp_path: Path) -> None:
    nvml = FakeNvml()
    sample = probe_of(tmp_path, nvml).sample()
    assert sample.vram_source == "nvml"
    assert sample.gpus == [
        Gpu("Old Card", "GPU-0", "nvml", 24 * GIB, 1 * GIB, False, 40.0, 55.0, 123.456),
        Gpu("New Card", "GPU-1", "nvml", 24 * GIB, 2 * GIB, False, 41.0, 55.0, 123.456),
    ]


def test_nvml_is_initialised_once(tmp_path: Path) -> None:
    nvml = FakeNvml()
    probe = probe_of(tmp_path, nvml)
    assert nvml.inits == 0
    for _ in range(3):
        probe.sample()
    assert nvml.inits == 1


def test_a_host_without_a_driver_has_no_gpus_and_is_not_asked_again(tmp_path: Path) -> None:
    nvml = FakeNvml({("nvmlInit", None): NVMLError("NVML Shared Library Not Found")})
    probe = probe_of(tmp_path, nvml)
    for _ in range(2):
        sample = probe.sample()
        assert (sample.gpus, sample.vram_source) == ([], None)
    assert nvml.inits == 1
    assert probe.faults["nvml"] == "NVMLError: NVML Shared Library Not Found"


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ("nvmlDeviceGetName", "name"),
        ("nvmlDeviceGetUUID", "uuid"),
        ("nvmlDeviceGetUtilizationRates", "utilisation_percent"),
        ("nvmlDeviceGetTemperature", "temperature_c"),
        ("nvmlDeviceGetPowerUsage", "power_w"),
    ],
)
def test_what_a_gpu_does_not_support_is_unknown_and_the_rest_stays(
    tmp_path: Path, call: str, field: str
) -> None:
    whole = probe_of(tmp_path, FakeNvml()).sample().gpus
    broken = probe_of(tmp_path, FakeNvml({(call, 0): NVMLError_NotSupported("Not Supported")})).sample().gpus
    assert broken[1] == whole[1]
    for name in Gpu.__struct_fields__:
        expected = None if name == field else getattr(whole[0], name)
        assert getattr(broken[0], name) == expected


def test_a_lost_gpu_is_left_out_and_the_other_is_kept(tmp_path: Path) -> None:
    nvml = FakeNvml({("nvmlDeviceGetHandleByIndex", 0): NVMLError_GpuIsLost("GPU is lost")})
    probe = probe_of(tmp_path, nvml)
    assert [gpu.uuid for gpu in probe.sample().gpus] == ["GPU-1"]
    nvml.broken.clear()
    assert [gpu.uuid for gpu in probe.sample().gpus] == ["GPU-0", "GPU-1"]
    assert "gpu0.handle" not in probe.faults


def test_a_gpu_that_shares_the_systems_memory_reports_that(tmp_path: Path) -> None:
    nvml = FakeNvml({("nvmlDeviceGetMemoryInfo", 0): NVMLError_NotSupported("Not Supported")})
    shared, own = probe_of(tmp_path, nvml).sample().gpus
    assert (shared.vram_total_bytes, shared.vram_used_bytes, shared.vram_is_ram) == (64 * GIB, 16 * GIB, True)
    assert (own.vram_total_bytes, own.vram_is_ram) == (24 * GIB, False)


def test_memory_that_may_not_be_read_is_unknown(tmp_path: Path) -> None:
    nvml = FakeNvml({("nvmlDeviceGetMemoryInfo", 0): NVMLError("Insufficient Permissions")})
    gpu = probe_of(tmp_path, nvml).sample().gpus[0]
    assert (gpu.vram_total_bytes, gpu.vram_used_bytes, gpu.vram_is_ram) == (None, None, False)


def test_a_reading_that_cannot_be_true_is_unknown(tmp_path: Path) -> None:
    nvml = FakeNvml()
    nvml.nvmlDeviceGetPowerUsage = lambda handle: 0xFFFFFFFF  # type: ignore[method-assign]
    nvml.nvmlDeviceGetUtilizationRates = lambda handle: SimpleNamespace(gpu=0xFFFFFFFF)  # type: ignore[method-assign]
    gpu = probe_of(tmp_path, nvml).sample().gpus[0]
    assert (gpu.power_w, gpu.utilisation_percent) == (None, None)


def test_a_driver_that_knows_only_the_newer_temperature_call_is_read_by_it(tmp_path: Path) -> None:
    nvml = FakeNvml({("nvmlDeviceGetTemperature", 0): NVMLError_NotSupported("Not Supported")})
    nvml.nvmlDeviceGetTemperatureV = lambda handle, sensor: 61  # type: ignore[attr-defined]
    assert [gpu.temperature_c for gpu in probe_of(tmp_path, nvml).sample().gpus] == [61.0, 55.0]


AMD_CARD = {
    "class/drm/card1/device/mem_info_vram_total": str(16 * GIB),
    "class/drm/card1/device/mem_info_vram_used": str(3 * GIB),
    "class/drm/card1/device/gpu_busy_percent": "83",
    "class/drm/card1/device/unique_id": "f00dcafe",
    "class/drm/card1/device/device": "0x744c",
    "class/drm/card1/device/hwmon/hwmon4/temp1_input": "64000",
    "class/drm/card1/device/hwmon/hwmon4/power1_average": "201000000",
}


def test_an_amd_card_is_read_from_sysfs(tmp_path: Path) -> None:
    write(tmp_path / "sys", AMD_CARD)
    write(
        tmp_path / "sys",
        {"class/drm/card0/device/device": "0x1234", "class/drm/card1-DP-1/status": "connected"},
    )
    sample = probe_of(tmp_path).sample()
    assert sample.vram_source == "sysfs"
    assert sample.gpus == [
        Gpu("AMD 0x744c", "f00dcafe", "sysfs", 16 * GIB, 3 * GIB, False, 83.0, 64.0, 201.0)
    ]


def test_an_amd_card_without_sensors_has_unknown_values(tmp_path: Path) -> None:
    write(tmp_path / "sys", {"class/drm/card0/device/mem_info_vram_total": str(8 * GIB)})
    (gpu,) = probe_of(tmp_path).sample().gpus
    assert gpu.vram_total_bytes == 8 * GIB
    unknown = (gpu.vram_used_bytes, gpu.utilisation_percent, gpu.temperature_c, gpu.power_w)
    assert unknown == (None, None, None, None)


def test_cards_of_both_makers_are_reported_together(tmp_path: Path) -> None:
    write(tmp_path / "sys", AMD_CARD)
    sample = probe_of(tmp_path, FakeNvml()).sample()
    assert [gpu.source for gpu in sample.gpus] == ["nvml", "nvml", "sysfs"]
    assert sample.vram_source == "nvml"


def test_a_containers_memory_limit_counts_and_not_the_hosts_ram(tmp_path: Path) -> None:
    write(tmp_path / "proc", {"self/cgroup": "0::/box/inner"})
    write(
        tmp_path / "sys" / "fs" / "cgroup" / "box",
        {
            "memory.max": str(8 * GIB),
            "memory.current": str(6 * GIB),
            "memory.stat": f"anon 17\ninactive_file {GIB}",
            "inner/memory.max": "max",
        },
    )
    sample = probe_of(tmp_path).sample()
    assert (sample.ram_total_bytes, sample.ram_available_bytes) == (8 * GIB, 3 * GIB)


def test_the_old_control_groups_are_understood_too(tmp_path: Path) -> None:
    write(
        tmp_path / "proc",
        {"self/cgroup": "4:memory:/docker/ab12\n2:cpu,cpuacct:/docker/ab12\n1:name=systemd:/"},
    )
    write(
        tmp_path / "sys" / "fs" / "cgroup",
        {
            "memory/memory.limit_in_bytes": str(4 * GIB),
            "memory/memory.usage_in_bytes": str(GIB),
            "cpu/cpu.cfs_quota_us": "50000",
            "cpu/cpu.cfs_period_us": "100000",
        },
    )
    sample = probe_of(tmp_path).sample()
    assert (sample.ram_total_bytes, sample.ram_available_bytes) == (4 * GIB, 3 * GIB)
    assert sample.logical_cpus == 1


def test_a_group_without_limits_leaves_the_hosts_figures(tmp_path: Path) -> None:
    write(tmp_path / "proc", {"self/cgroup": "4:memory:/\n0::/"})
    write(
        tmp_path / "sys" / "fs" / "cgroup",
        {"memory.max": "max", "cpu.max": "max 100000", "memory/memory.limit_in_bytes": "9223372036854771712"},
    )
    assert probe_of(tmp_path).sample().ram_total_bytes == 64 * GIB


def test_a_processor_quota_bounds_the_processors_and_is_rounded_up(tmp_path: Path) -> None:
    write(tmp_path / "proc", {"self/cgroup": "0::/"})
    write(tmp_path / "sys" / "fs" / "cgroup", {"cpu.max": "25000 100000"})
    assert probe_of(tmp_path).sample().logical_cpus == 1


def test_garbage_in_a_control_file_is_no_limit(tmp_path: Path) -> None:
    write(tmp_path / "proc", {"self/cgroup": "0::/"})
    write(tmp_path / "sys" / "fs" / "cgroup", {"memory.max": "lots", "cpu.max": "a b"})
    probe = probe_of(tmp_path)
    assert probe.sample().ram_total_bytes == 64 * GIB
    assert "cpu_quota" in probe.faults


def test_this_very_host_can_be_sampled_from_a_worker_thread(tmp_path: Path) -> None:
    probe = ResourceProbe(tmp_path)
    sample = asyncio.run(asyncio.to_thread(probe.sample))
    assert sample.ram_total_bytes is not None
    assert sample.ram_available_bytes is not None
    assert 0 < sample.ram_available_bytes <= sample.ram_total_bytes
    assert sample.disk_total_bytes is not None
    assert sample.logical_cpus is not None
    assert sample.logical_cpus >= 1


def test_capabilities_name_the_system_its_gpus_and_the_tools_on_the_path(tmp_path: Path) -> None:
    for name in ("git", "go", "unrelated"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "node").write_text("not executable")
    found = detect_capabilities([Gpu("A", None, "nvml"), Gpu("B", None, "sysfs")], path=str(tmp_path))
    assert found == sorted(found)
    assert {"os:linux", "gpu:nvidia", "gpu:amd", "tool:git", "tool:go"} <= set(found)
    assert [each for each in found if each.startswith("tool:")] == ["tool:git", "tool:go"]
    assert not [each for each in detect_capabilities(path=str(tmp_path)) if each.startswith("gpu:")]
