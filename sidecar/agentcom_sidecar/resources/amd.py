"""AMD cards through what their kernel driver shows in sysfs: no ROCm needed."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from agentcom import limits
from agentcom.figures import Gpu
from agentcom_sidecar.resources.reading import Faults, bytes_within, first_int, int_in, text_in, within


class AmdGpus:
    """`drm` is /sys/class/drm."""

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
        cards = [each for each in self._drm.iterdir() if re.fullmatch(r"card\d{1,6}", each.name)]
        cards.sort(key=lambda card: int(card.name[4:]))
        amd = [card for card in cards if (card / "device" / "mem_info_vram_total").exists()]
        return amd[: limits.GPUS_PER_HOST_MAX]

    @staticmethod
    def _read_one(card: Path) -> Gpu:
        device = card / "device"
        sensors = sorted((device / "hwmon").glob("hwmon*"))
        watts = first_int(sensors, "power1_average", "power1_input")
        celsius = first_int(sensors, "temp1_input")
        model = text_in(device / "device") or "unknown"
        return Gpu(
            name=(text_in(device / "product_name") or f"AMD {model}")[:100],
            uuid=(text_in(device / "unique_id") or device.resolve().name)[:100],
            vendor="amd",
            source="sysfs",
            vram_total_bytes=bytes_within(int_in(device / "mem_info_vram_total")),
            vram_used_bytes=bytes_within(int_in(device / "mem_info_vram_used")),
            utilisation_percent=within(int_in(device / "gpu_busy_percent"), 0, 100),
            temperature_c=within(None if celsius is None else celsius / 1000, -50, 200),
            power_w=within(None if watts is None else watts / 1_000_000, 0, 10_000),
        )
