"""How fast the store grows, and when that will matter."""

from __future__ import annotations

from collections import deque
from typing import Final

from agentcom.clock import Now
from agentcom.limits import MIB
from agentcom.room import LESS_KEPT, quota_of

SAMPLES: Final = 60  # one a minute: an hour
RECENT_MIN: Final = 5  # samples by which is judged whether it still grows
HIGH: Final = 0.7  # of the map: people should look
SOON_H: Final = 24.0
HOUR_MS: Final = 3_600_000


class Growth:
    """Samples of the bytes in use over the last hour."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=SAMPLES)

    def look(self, used_bytes: int, now: Now) -> None:
        """Take a sample; called once a minute."""
        self._samples.append((now.mono_ms, used_bytes))

    def bytes_per_h(self) -> int:
        """0 until there are ten minutes of samples: a burst is no trend. After that the lower of two rates, over all
        samples and over the newest quarter of them: a burst that is over is none either."""
        count = len(self._samples)
        if count < SAMPLES // 6:
            return 0
        return min(self._rate_of(count), self._rate_of(max(RECENT_MIN, count // 4)))

    def _rate_of(self, count: int) -> int:
        """Bytes an hour over the newest `count` samples."""
        (first_ms, first), (last_ms, last) = self._samples[-count], self._samples[-1]
        return (last - first) * HOUR_MS // max(1, last_ms - first_ms)

    def warning(self, used_bytes: int, map_bytes: int) -> str:
        """What people should know, or an empty text."""
        share, quota = used_bytes / map_bytes, quota_of(map_bytes)
        if share >= HIGH:
            allowed = f"{share:.0%} of what hub.map_gib allows (or hub.map_mib, where that is set)"
            raised = "or raise that setting and start the hub again"
            return f"the store holds {allowed}; new tasks are refused at {quota:.0%}: {LESS_KEPT}, {raised}"
        rate = self.bytes_per_h()
        left_h = (quota * map_bytes - used_bytes) / rate if rate > 0 else SOON_H
        if left_h < SOON_H:
            pace = f"{rate // MIB} MiB" if rate >= MIB else f"{rate // 1024} KiB"
            return f"at {pace} an hour the store takes no new tasks in {left_h:.0f} h: {LESS_KEPT}"
        return ""
