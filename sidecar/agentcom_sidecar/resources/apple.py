"""The GPU of an Apple machine: it shares the system's memory, of which it may use a part.

Its utilisation, temperature and power need root there, so they are unknown.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Final

from agentcom.figures import Gpu
from agentcom_sidecar.resources.reading import Faults

SYSCTL_S_MAX: Final = 2.0
MIB: Final = 1 << 20
SMALL_BYTES: Final = (
    36 << 30
)  # up to here the system lets the GPU have two thirds of it, above three quarters

Sysctl = Callable[[str], str]


def system_sysctl(name: str) -> str:
    """The value of a kernel setting by the system's own program."""
    command = ["/usr/sbin/sysctl", "-n", name]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SYSCTL_S_MAX, check=True
    )
    return done.stdout.strip()


class AppleGpu:
    """Asks for the name and the size once: neither changes while the machine runs."""

    def __init__(self, sysctl: Sysctl, faults: Faults) -> None:
        self._sysctl, self._faults = sysctl, faults
        self._name: str | None = None
        self._total: int | None = None

    def read(self, ram_total: int | None, ram_available: int | None) -> list[Gpu]:
        if self._total is None:
            self._total = self._faults.ask("apple.memory", self._usable_bytes)
            self._name = self._faults.ask("apple.name", lambda: self._sysctl("machdep.cpu.brand_string"))
        used = None if ram_total is None or ram_available is None else ram_total - ram_available
        if self._total is not None and used is not None:
            used = min(self._total, max(0, used))
        return [
            Gpu(
                name=(self._name or "Apple GPU")[:100],
                vendor="apple",
                source="unified",
                vram_total_bytes=self._total,
                vram_used_bytes=used if self._total is not None else None,
                vram_is_ram=True,
            )
        ]

    def _usable_bytes(self) -> int:
        """What its owner has set, else what the system sets by itself."""
        limit = self._faults.ask("apple.limit", lambda: int(self._sysctl("iogpu.wired_limit_mb")))
        if limit is not None and limit > 0:
            return limit * MIB
        memory = int(self._sysctl("hw.memsize"))
        return memory * 2 // 3 if memory <= SMALL_BYTES else memory * 3 // 4
