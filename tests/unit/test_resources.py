"""What the host probe reports, and that it reports unknown, not zero, for what it cannot have."""

from __future__ import annotations

import asyncio
import itertools
import math
import os
import threading
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agentcom.figures import Container, Gpu, GpuProcess, Resources
from agentcom_sidecar.resources import ResourceProbe
from agentcom_sidecar.resources.apple import AppleGpu
from agentcom_sidecar.resources.nvidia import RETRY_SAMPLES
from agentcom_sidecar.resources.reading import Faults
from tests.fake_nvml import (
    DRIVER_NOT_LOADED,
    GPU_IS_LOST,
    LIBRARY_NOT_FOUND,
    NO_PERMISSION,
    NOT_SUPPORTED,
    UNKNOWN,
    VERSION_MISMATCH,
    FakeNvml,
)  # fmt: skip

GIB = 1024**3
FIXTURES = Path(__file__).parents[1] / "fixtures"
CpuTimes = namedtuple("CpuTimes", "user nice system idle iowait irq softirq steal guest guest_nice")


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
        nvml=nvml or FakeNvml({("nvmlInit", None): LIBRARY_NOT_FOUND}),
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
    assert sample.cpu_per_logical == (25.0, 100.0)
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
    assert second.cpu_per_logical == ()


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
    for name in Resources.__struct_fields__:
        if name in fields:
            assert not getattr(broken, name)
        else:
            assert getattr(broken, name) == getattr(whole, name)
    assert any("Input/output error" in reason for reason in probe.faults.values())


def test_nvidia_gpus_are_read_through_nvml(tmp_path: Path) -> None:
    nvml = FakeNvml()
    sample = probe_of(tmp_path, nvml).sample()
    assert sample.vram_source == "nvml"
    assert sample.gpus == tuple(
        Gpu(
            name=f"NVIDIA {age} Card", uuid=f"GPU-{n}", vendor="nvidia", source="nvml", vram_total_bytes=24 * GIB,
            vram_used_bytes=(n + 1) * GIB, utilisation_percent=40.0 + n, temperature_c=55.0, power_w=123.456,
        )
        for n, age in enumerate(("Old", "New"))
    )  # fmt: skip


def test_nvml_is_initialised_once(tmp_path: Path) -> None:
    nvml = FakeNvml()
    probe = probe_of(tmp_path, nvml)
    assert nvml.inits == 0
    for _ in range(3):
        probe.sample()
    assert nvml.inits == 1


def test_a_host_without_a_driver_has_no_gpus_and_is_not_asked_again(tmp_path: Path) -> None:
    nvml = FakeNvml({("nvmlInit", None): LIBRARY_NOT_FOUND})
    probe = probe_of(tmp_path, nvml)
    for _ in range(2):
        sample = probe.sample()
        assert (sample.gpus, sample.vram_source) == ((), None)
    assert nvml.inits == 1
    assert probe.faults["nvml"] == "NVMLError_LibraryNotFound: NVML Shared Library Not Found"


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
    broken = probe_of(tmp_path, FakeNvml({(call, 0): NOT_SUPPORTED})).sample().gpus
    assert broken[1] == whole[1]
    for name in Gpu.__struct_fields__:
        expected = ("NVIDIA GPU" if name == "name" else None) if name == field else getattr(whole[0], name)
        assert getattr(broken[0], name) == expected


def test_a_lost_gpu_is_left_out_and_the_other_is_kept(tmp_path: Path) -> None:
    nvml = FakeNvml({("nvmlDeviceGetHandleByIndex", 0): GPU_IS_LOST})
    probe = probe_of(tmp_path, nvml)
    assert [gpu.uuid for gpu in probe.sample().gpus] == ["GPU-1"]
    nvml.fails.clear()
    assert [gpu.uuid for gpu in probe.sample().gpus] == ["GPU-0", "GPU-1"]
    assert "gpu0.handle" not in probe.faults


def test_a_gpu_that_is_lost_after_its_handle_was_given_is_left_out_and_comes_back(tmp_path: Path) -> None:
    nvml = FakeNvml()
    probe = probe_of(tmp_path, nvml)
    probe.sample()
    nvml.lost = {0}
    assert [gpu.uuid for gpu in probe.sample().gpus] == ["GPU-1"]
    assert probe.faults["gpu0.memory"] == "NVMLError_GpuIsLost: GPU is lost"
    nvml.lost = set()
    assert [gpu.uuid for gpu in probe.sample().gpus] == ["GPU-0", "GPU-1"]
    assert not [name for name in probe.faults if name.startswith("gpu0")]


def test_a_driver_that_was_unloaded_is_begun_anew_when_it_is_back(tmp_path: Path) -> None:
    nvml = FakeNvml()
    probe = probe_of(tmp_path, nvml)
    assert len(probe.sample().gpus) == 2
    nvml.reload_driver()
    assert probe.sample().gpus == ()
    assert probe.faults["nvml.count"] == "NVMLError_Unknown: Unknown Error"
    assert len(probe.sample().gpus) == 2
    assert (nvml.inits, nvml.users) == (2, 1)


def test_a_driver_that_cannot_be_begun_anew_yet_is_tried_again_later(tmp_path: Path) -> None:
    nvml = FakeNvml()
    probe = probe_of(tmp_path, nvml)
    probe.sample()
    nvml.reload_driver()
    nvml.fails = {("nvmlInit", None): DRIVER_NOT_LOADED}
    assert [len(probe.sample().gpus) for _ in range(2)] == [0, 0]
    nvml.fails.clear()
    found = [len(probe.sample().gpus) for _ in range(RETRY_SAMPLES + 1)]
    assert found == [0] * RETRY_SAMPLES + [2]
    assert nvml.users == 1


def test_a_library_that_cannot_be_shut_down_is_initialised_all_the_same(tmp_path: Path) -> None:
    nvml = FakeNvml({("nvmlShutdown", None): UNKNOWN})
    probe = probe_of(tmp_path, nvml)
    probe.sample()
    nvml.reload_driver()
    probe.sample()
    probe.sample()
    assert nvml.inits == 2


def test_a_driver_that_only_counts_its_gpus_is_begun_anew(tmp_path: Path) -> None:
    nvml = FakeNvml()
    probe = probe_of(tmp_path, nvml)
    probe.sample()
    nvml.reload_driver(remembered=("nvmlDeviceGetCount", "nvmlDeviceGetHandleByIndex"))
    assert [len(probe.sample().gpus) for _ in range(2)] == [0, 2]
    assert (nvml.inits, nvml.users) == (2, 1)


def test_gpus_that_beginning_anew_does_not_bring_back_may_come_back_by_themselves(tmp_path: Path) -> None:
    nvml = FakeNvml()
    probe = probe_of(tmp_path, nvml)
    probe.sample()
    nvml.lost = {0, 1}
    assert [len(probe.sample().gpus) for _ in range(3)] == [0, 0, 0]
    nvml.lost = set()
    assert len(probe.sample().gpus) == 2
    assert (nvml.inits, nvml.users) == (2, 1)


@pytest.mark.parametrize("lost", ["its count", "its GPUs"])
def test_a_driver_that_beginning_anew_does_not_mend_is_begun_no_more_often_than_a_missing_one(
    tmp_path: Path, lost: str
) -> None:
    nvml = FakeNvml()
    probe = probe_of(tmp_path, nvml)
    probe.sample()
    if lost == "its count":
        nvml.fails = {("nvmlDeviceGetCount", None): UNKNOWN}
    else:
        nvml.lost = {0, 1}
    inits = []
    for _ in range(2 * RETRY_SAMPLES + 5):
        probe.sample()
        inits.append(nvml.inits)
    begun = [at for at, (before, now) in enumerate(itertools.pairwise(inits), 1) if now > before]
    assert begun == [1, 2 + RETRY_SAMPLES, 3 + 2 * RETRY_SAMPLES]
    assert nvml.users == 1


def test_a_driver_whose_gpus_could_never_be_read_is_not_begun_anew(tmp_path: Path) -> None:
    nvml = FakeNvml({("nvmlDeviceGetHandleByIndex", index): NO_PERMISSION for index in (0, 1)})
    probe = probe_of(tmp_path, nvml)
    for _ in range(RETRY_SAMPLES + 5):
        assert probe.sample().gpus == ()
    assert nvml.inits == 1
    nvml.fails.clear()
    assert len(probe.sample().gpus) == 2


@pytest.mark.parametrize("code", [LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED, VERSION_MISMATCH, NO_PERMISSION])
def test_a_driver_that_is_installed_later_is_found(tmp_path: Path, code: int) -> None:
    nvml = FakeNvml({("nvmlInit", None): code})
    probe = probe_of(tmp_path, nvml)
    probe.sample()
    nvml.fails.clear()
    found = [len(probe.sample().gpus) for _ in range(RETRY_SAMPLES + 1)]
    assert found == [0] * RETRY_SAMPLES + [2]


def test_a_driver_that_hangs_costs_the_gpus_and_nothing_else(tmp_path: Path) -> None:
    nvml = FakeNvml()
    answered = threading.Event()
    nvml.hangs = answered.wait
    (tmp_path / "proc" / "self").mkdir(parents=True)
    probe = ResourceProbe(
        tmp_path,
        nvml=nvml,
        system=FakeSystem(),
        sysfs_root=tmp_path,
        proc_root=tmp_path / "proc",
        answer_s=0.01,
    )
    for reason in ("TimeoutError: no answer within 0.01 s", "TimeoutError: an earlier call has not answered"):
        sample = probe.sample()
        assert (sample.gpus, sample.ram_total_bytes) == ((), 64 * GIB)
        assert probe.faults["gpus"] == reason
    assert [thread.name for thread in threading.enumerate() if thread.daemon and "(run)" in thread.name]
    answered.set()


def test_processes_are_named_with_what_they_hold_the_largest_first(tmp_path: Path) -> None:
    nvml = FakeNvml()
    nvml.processes = {0: [(30, 2 * GIB), (7, 9 * GIB), (8, None)]}
    write(tmp_path / "proc", {"7/comm": "ollama_llama_se", "30/comm": "python3"})
    first, second = probe_of(tmp_path, nvml).sample().gpus
    assert first.processes == (
        GpuProcess(pid=7, name="ollama_llama_se", vram_bytes=9 * GIB),
        GpuProcess(pid=30, name="python3", vram_bytes=2 * GIB),
        GpuProcess(pid=8),
    )
    assert second.processes == ()
    nvml.processes = {0: [(pid, pid) for pid in range(1, 99)]}
    first, _ = probe_of(tmp_path, nvml).sample().gpus
    assert [each.pid for each in first.processes] == list(range(98, 82, -1))


@pytest.mark.parametrize(
    ("listed", "held"),
    [
        ([(7, 2 * GIB), (7, 3 * GIB)], 5 * GIB),
        ([(7, 2 * GIB), (7, None)], None),
        ([(7, None), (7, 2 * GIB)], None),
        ([(7, 2**50), (7, 2**50)], None),  # no machine has that
    ],
)
def test_a_process_that_is_listed_twice_holds_the_sum(
    tmp_path: Path, listed: list[tuple[int, int | None]], held: int | None
) -> None:
    nvml = FakeNvml(count=1)
    nvml.processes = {0: [*listed, (8, 4 * GIB)]}
    (gpu,) = probe_of(tmp_path, nvml).sample().gpus
    assert {each.pid: each.vram_bytes for each in gpu.processes} == {7: held, 8: 4 * GIB}


def test_an_apple_gpu_has_its_part_of_the_systems_memory(tmp_path: Path) -> None:
    known = {
        "machdep.cpu.brand_string": "Apple M3 Max",
        "iogpu.wired_limit_mb": "0",
        "hw.memsize": str(64 * GIB),
    }
    asked: list[str] = []

    def sysctl(name: str) -> str:
        asked.append(name)
        return known[name]

    gone = FakeNvml({("nvmlInit", None): LIBRARY_NOT_FOUND})
    probe = ResourceProbe(
        tmp_path,
        nvml=gone,
        system=FakeSystem(),
        sysfs_root=tmp_path,
        proc_root=tmp_path,
        sysctl=sysctl,
        is_apple=True,
    )
    sample = probe.sample()
    expected = Gpu(
        name="Apple M3 Max", vendor="apple", source="unified", vram_is_ram=True, vram_total_bytes=48 * GIB,
        vram_used_bytes=16 * GIB,
    )  # fmt: skip
    assert (sample.gpus, sample.vram_source) == ((expected,), "unified")
    probe.sample()
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("limit_mb", "memsize", "total"),
    [
        ("30000", "0", 30000 << 20),
        ("0", str(36 * GIB), 24 * GIB),
        ("?", str(64 * GIB), 48 * GIB),
        ("0", "?", None),
    ],
)
def test_what_an_apple_gpu_may_use_is_set_by_its_owner_or_follows_from_the_memory(
    limit_mb: str, memsize: str, total: int | None
) -> None:
    known = {"iogpu.wired_limit_mb": limit_mb, "hw.memsize": memsize}
    (gpu,) = AppleGpu(known.__getitem__, Faults()).read(64 * GIB, 60 * GIB)
    assert (gpu.vram_total_bytes, gpu.name) == (total, "Apple GPU")
    assert gpu.vram_used_bytes == (4 * GIB if total else None)


def test_a_gpu_that_shares_the_systems_memory_reports_that(tmp_path: Path) -> None:
    nvml = FakeNvml({("nvmlDeviceGetMemoryInfo", 0): NOT_SUPPORTED})
    shared, own = probe_of(tmp_path, nvml).sample().gpus
    assert (shared.vram_total_bytes, shared.vram_used_bytes, shared.vram_is_ram) == (64 * GIB, 16 * GIB, True)
    assert (own.vram_total_bytes, own.vram_is_ram) == (24 * GIB, False)


def test_memory_that_may_not_be_read_is_unknown(tmp_path: Path) -> None:
    nvml = FakeNvml({("nvmlDeviceGetMemoryInfo", 0): NO_PERMISSION})
    gpu = probe_of(tmp_path, nvml).sample().gpus[0]
    assert (gpu.vram_total_bytes, gpu.vram_used_bytes, gpu.vram_is_ram) == (None, None, False)


def test_a_reading_that_cannot_be_true_is_unknown(tmp_path: Path) -> None:
    nvml = FakeNvml()
    nvml.nvmlDeviceGetPowerUsage = lambda handle: 0xFFFFFFFF  # type: ignore[method-assign]
    nvml.nvmlDeviceGetUtilizationRates = lambda handle: SimpleNamespace(gpu=0xFFFFFFFF)  # type: ignore[method-assign]
    gpu = probe_of(tmp_path, nvml).sample().gpus[0]
    assert (gpu.power_w, gpu.utilisation_percent) == (None, None)


def test_a_driver_that_knows_only_the_newer_temperature_call_is_read_by_it(tmp_path: Path) -> None:
    nvml = FakeNvml({("nvmlDeviceGetTemperature", 0): NOT_SUPPORTED})
    nvml.nvmlDeviceGetTemperatureV = lambda handle, sensor: 61  # type: ignore[attr-defined]
    assert [gpu.temperature_c for gpu in probe_of(tmp_path, nvml).sample().gpus] == [61.0, 55.0]


def amd_probe(nvml: Any = None) -> ResourceProbe:
    gone = FakeNvml({("nvmlInit", None): LIBRARY_NOT_FOUND})
    trees = {"sysfs_root": FIXTURES / "amdgpu" / "sys", "proc_root": FIXTURES / "nowhere"}
    return ResourceProbe(FIXTURES, nvml=nvml or gone, system=FakeSystem(), **trees)


def test_amd_cards_are_read_from_sysfs() -> None:
    sample = amd_probe().sample()
    assert sample.vram_source == "sysfs"
    assert sample.gpus == (
        Gpu(
            name="AMD 0x744c", uuid="1d5b8a4e7c0f2a31", vendor="amd", source="sysfs", vram_total_bytes=25753026560,
            vram_used_bytes=13958643712, utilisation_percent=83.0, temperature_c=64.0, power_w=201.0,
        ),
        Gpu(
            name="AMD 0x164e", uuid="device", vendor="amd", source="sysfs", vram_total_bytes=536870912,
            vram_used_bytes=402653184, utilisation_percent=4.0, temperature_c=45.0, power_w=32.096,
        ),
    )  # fmt: skip


def test_an_amd_card_without_sensors_has_unknown_values(tmp_path: Path) -> None:
    write(tmp_path / "sys", {"class/drm/card0/device/mem_info_vram_total": str(8 * GIB)})
    (gpu,) = probe_of(tmp_path).sample().gpus
    assert gpu.vram_total_bytes == 8 * GIB
    unknown = (gpu.vram_used_bytes, gpu.utilisation_percent, gpu.temperature_c, gpu.power_w)
    assert unknown == (None, None, None, None)


def test_cards_of_both_makers_are_reported_together() -> None:
    sample = amd_probe(FakeNvml()).sample()
    assert [gpu.source for gpu in sample.gpus] == ["nvml", "nvml", "sysfs", "sysfs"]
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


@pytest.mark.parametrize(
    ("tree", "limit", "used", "processors"),
    [("cgroup-v1", 512 << 20, 166862848 - 52432896, 1.5), ("cgroup-v2", 8 * GIB, 5 * GIB, 2.5)],
)
def test_the_limits_of_a_container_are_reported_and_bound_what_can_be_had(
    tree: str, limit: int, used: int, processors: float
) -> None:
    nvml = FakeNvml({("nvmlInit", None): LIBRARY_NOT_FOUND})
    root = FIXTURES / tree
    probe = ResourceProbe(
        FIXTURES,
        nvml=nvml,
        system=FakeSystem(),
        sysfs_root=root / "sys",
        proc_root=root / "proc",
        clock=lambda: 0.0,
    )
    sample = probe.sample()
    assert sample.container == Container(
        cpu_limit=processors, memory_limit_bytes=limit, memory_used_bytes=used
    )
    assert (sample.ram_total_bytes, sample.ram_available_bytes) == (limit, limit - used)
    assert sample.logical_cpus == min(math.ceil(processors), len(os.sched_getaffinity(0)))


def test_a_container_that_has_used_up_its_quota_is_busy_on_an_idle_machine(tmp_path: Path) -> None:
    write(tmp_path / "proc", {"self/cgroup": "0::/"})
    group = tmp_path / "sys" / "fs" / "cgroup"
    write(group, {"cpu.max": "200000 100000", "cpu.stat": "usage_usec 1000000"})
    seconds = iter((0.0, 10.0, 20.0, 20.0))
    nvml = FakeNvml({("nvmlInit", None): LIBRARY_NOT_FOUND})
    probe = ResourceProbe(
        tmp_path, nvml=nvml, system=FakeSystem(), sysfs_root=tmp_path / "sys", proc_root=tmp_path / "proc",
        clock=lambda: next(seconds),
    )  # fmt: skip
    found = []
    for used_us in (1_000_000, 20_000_000, 35_000_000, 36_000_000):
        write(group, {"cpu.stat": f"usage_usec {used_us}"})
        container = probe.sample().container
        found.append(container.cpu_percent if container else None)
    assert found == [None, 95.0, 75.0, None]


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
