"""A host's last minutes: one point per report, at most one each few seconds, the oldest going first.

Kept in memory, and with the host's record, which is written now and then: a restart of the hub shows what was before.
A point is a wall time in seconds and four percentages; -1 is unknown.
"""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import Final

from agentcom import limits
from agentcom.clock import rfc3339
from agentcom.model import JsonObject, Resources, TrendRecord

FIGURES: Final = ("cpu", "ram", "gpu", "vram")
UNKNOWN: Final = -1
WIDTH: Final = 1 + len(FIGURES)


class Trend:
    """Points in one array, each `WIDTH` numbers; 7 kB at most."""

    __slots__ = ("_points",)

    def __init__(self, record: TrendRecord | None = None) -> None:
        self._points = array("q")
        if record is None:
            return
        at_s = record.start_s
        whole = len(record.percents) // len(FIGURES)
        for n, gap in enumerate(record.gaps_s[-limits.TREND_POINTS_MAX :][:whole]):
            at_s += gap
            self._points.extend((at_s, *record.percents[n * len(FIGURES) : (n + 1) * len(FIGURES)]))

    def __len__(self) -> int:
        return len(self._points) // WIDTH

    def times_s(self) -> array[int]:
        """When each point is of, the oldest first."""
        return self._points[::WIDTH]

    def add(self, resources: Resources, wall_ms: int) -> None:
        """One more point, unless the last one is of just now. After a clock that was set back, and after a silence, the
        line begins anew."""
        at_s = wall_ms // 1000
        if self._points:
            last_s = self._points[-WIDTH]
            if at_s < last_s or at_s - last_s > limits.TREND_S_MAX:
                del self._points[:]
            elif at_s - last_s < limits.TREND_STEP_S:
                return
        percents = (_cpu_percent, _ram_percent, _gpu_percent, _vram_percent)
        self._points.extend((at_s, *(percent(resources) for percent in percents)))
        while len(self) > limits.TREND_POINTS_MAX or at_s - self._points[0] > limits.TREND_S_MAX:
            del self._points[:WIDTH]

    def record(self) -> TrendRecord | None:
        """As it is stored."""
        if not self._points:
            return None
        times = self.times_s()
        percents = [each for n, each in enumerate(self._points) if n % WIDTH]
        gaps = (0, *(later - earlier for earlier, later in pairwise(times)))
        return TrendRecord(start_s=times[0], gaps_s=gaps, percents=tuple(percents))

    def view(self) -> JsonObject:
        """{"at": [moments], "cpu": [percent or null], ...}, the oldest first."""
        found: JsonObject = {"at": [rfc3339(at_s * 1000) for at_s in self._points[::WIDTH]]}
        for n, name in enumerate(FIGURES, start=1):
            found[name] = [None if each == UNKNOWN else each for each in self._points[n::WIDTH]]
        return found

    def short(self, figure: str, points: int) -> list[int | None]:
        """The last points of one figure, for a line a few characters wide."""
        column = self._points[1 + FIGURES.index(figure) :: WIDTH]
        return [None if each == UNKNOWN else each for each in column[-points:]]


def _cpu_percent(resources: Resources) -> int:
    return UNKNOWN if resources.cpu_percent is None else round(resources.cpu_percent)


def _ram_percent(resources: Resources) -> int:
    total, left = resources.ram_total_bytes, resources.ram_available_bytes
    return (total - left) * 100 // total if total and left is not None else UNKNOWN


def _gpu_percent(resources: Resources) -> int:
    """Of the busiest one."""
    known = [gpu.utilisation_percent for gpu in resources.gpus if gpu.utilisation_percent is not None]
    return round(max(known)) if known else UNKNOWN


def _vram_percent(resources: Resources) -> int:
    """Of all GPUs together."""
    total = used = 0
    for gpu in resources.gpus:
        if gpu.vram_total_bytes and gpu.vram_used_bytes is not None:
            total, used = total + gpu.vram_total_bytes, used + gpu.vram_used_bytes
    return used * 100 // total if total else UNKNOWN
