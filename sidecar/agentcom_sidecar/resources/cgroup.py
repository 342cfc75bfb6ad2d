"""The limits of the control groups that this process is in: both interfaces, the nearest limit wins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from agentcom.figures import Container
from agentcom_sidecar.resources.reading import Faults, bytes_within, field_in, int_in, text_in, within

UNLIMITED_BYTES = 1 << 60  # the old interface writes "no limit" as a huge number


class Quota(NamedTuple):
    """Processors' worth of time that a group may use, and the seconds that it has used so far."""

    processors: float
    used_s: float | None


class Cgroup:
    """Control groups under `mount`, by the membership in /proc/self/cgroup."""

    def __init__(self, mount: Path, membership: Path) -> None:
        self._mount = mount
        self._membership = membership

    def memory(self) -> tuple[int, int] | None:
        """(limit, what is left of it) in bytes: the least of any group; None without a limit."""
        found = [
            *_memory_of(self._groups(""), "memory.max", "memory.current", "inactive_file"),
            *_memory_of(
                self._groups("memory"),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file",
            ),
        ]
        if not found:
            return None
        return min(limit for limit, _ in found), min(left for _, left in found)

    def cpu(self) -> Quota | None:
        """The tightest quota; None without one."""
        found = []
        for group in self._groups(""):
            words = text_in(group / "cpu.max").split()
            if len(words) == 2 and words[0] != "max":
                used_us = field_in(group / "cpu.stat", "usage_usec")
                used_s = None if used_us is None else used_us / 1e6
                found.append(Quota(int(words[0]) / int(words[1]), used_s))
        for group in self._groups("cpu"):
            quota, period = int_in(group / "cpu.cfs_quota_us"), int_in(group / "cpu.cfs_period_us")
            if quota is not None and quota > 0 and period:
                found.append(Quota(quota / period, self._used_s(group)))
        return min(found, key=lambda each: each.processors, default=None)

    def _used_s(self, group: Path) -> float | None:
        """By the old interface, where the count may have a hierarchy of its own."""
        other = self._mount / "cpuacct" / group.relative_to(self._mount / "cpu")
        for place in (group, other):
            used_ns = int_in(place / "cpuacct.usage")
            if used_ns is not None:
                return used_ns / 1e9
        return None

    def _groups(self, controller: str) -> list[Path]:
        """Our group of a controller ("" is the unified interface) and those above it."""
        for line in text_in(self._membership).splitlines():
            _, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if controller in controllers.split(","):
                base = self._mount / controller if controller else self._mount
                inner = base / path.lstrip("/")
                # A container may see its own group as the mount itself, under another path than it is told.
                return [each for each in (inner, *inner.parents) if each.is_relative_to(base)]
        return []


class ContainerReader:
    """The limits and how much of them is used; processor use is the mean since the reading before."""

    def __init__(self, cgroup: Cgroup, faults: Faults, clock: Callable[[], float]) -> None:
        self._cgroup, self._faults, self._clock = cgroup, faults, clock
        self._before: tuple[float, float] | None = None  # when, and the seconds used by then

    def read(self) -> Container | None:
        """None without any limit."""
        memory = self._faults.ask("memory_limit", self._cgroup.memory)
        quota = self._faults.ask("cpu_quota", self._cgroup.cpu)
        if memory is None and quota is None:
            return None
        limit, left = memory if memory is not None else (None, 0)
        return Container(
            cpu_limit=None if quota is None else within(quota.processors, 0.001, 4096),
            cpu_percent=None if quota is None else self._use(quota),
            memory_limit_bytes=bytes_within(limit),
            memory_used_bytes=None if limit is None else bytes_within(limit - left),
        )

    def _use(self, quota: Quota) -> float | None:
        before, now = self._before, self._clock()
        self._before = None if quota.used_s is None else (now, quota.used_s)
        if before is None or quota.used_s is None or now <= before[0] or quota.processors <= 0:
            return None
        used = (quota.used_s - before[1]) / ((now - before[0]) * quota.processors)
        return round(min(100.0, max(0.0, 100 * used)), 1)


def _memory_of(
    groups: Iterable[Path], limit_name: str, usage_name: str, cache_name: str
) -> list[tuple[int, int]]:
    found = []
    for group in groups:
        limit = int_in(group / limit_name)
        if limit is None or limit >= UNLIMITED_BYTES:
            continue
        used = int_in(group / usage_name) or 0
        # Page cache that the kernel drops first is not in use: counted, a build would look out of memory.
        cache = field_in(group / "memory.stat", cache_name) or 0
        found.append((limit, max(0, limit - max(0, used - cache))))
    return found
