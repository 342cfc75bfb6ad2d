"""How long a retry waits, and how many an endpoint gets: a sick one is not hammered by tasks that failed before.

Of the calls that begin on an endpoint within a window, those of tasks that have failed already may be `retry_min` and
`retry_percent` of all. Over that the endpoint is spent: it gets first calls only, retries go to other endpoints or wait
in their place. Counted in ten parts of the window, in memory: a start of the hub begins anew.
"""

from __future__ import annotations

from collections import deque

from agentcom.clock import Now
from agentcom.config import Settings
from agentcom.core.tasks import Jitter

DOUBLINGS_MAX = 16
PARTS = 10


def backoff_ms(settings: Settings, used: int, jitter: Jitter) -> int:
    """Exponential with jitter: between a half and the whole of backoff_s x 2^(used-1), capped."""
    queue = settings.queue
    full_ms = min(
        int(queue.backoff_s * 1000) << min(used - 1, DOUBLINGS_MAX), int(queue.backoff_max_s * 1000)
    )
    return full_ms // 2 + jitter.randrange(full_ms // 2 + 1)


class Window:
    """Calls and retries of one endpoint by part: (part, calls, retries), oldest first."""

    __slots__ = ("calls", "parts", "retries")

    def __init__(self) -> None:
        self.parts: deque[list[int]] = deque()
        self.calls = 0
        self.retries = 0

    def add(self, part: int, is_retry: bool) -> None:
        if not self.parts or self.parts[-1][0] != part:
            self.parts.append([part, 0, 0])
        self.parts[-1][1] += 1
        self.parts[-1][2] += is_retry
        self.calls += 1
        self.retries += is_retry

    def roll(self, part: int) -> None:
        """Forget what began before the window that ends with this part."""
        while self.parts and self.parts[0][0] <= part - PARTS:
            _, calls, retries = self.parts.popleft()
            self.calls -= calls
            self.retries -= retries


class RetryBudgets:
    """`spent`: the endpoints that get no retry now, as of the last `called` or `look`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.spent: set[int] = set()
        self._windows: dict[int, Window] = {}

    def called(self, endpoint: int, is_retry: bool, now: Now) -> None:
        """A call begins on the endpoint."""
        window = self._windows.setdefault(endpoint, Window())
        part = self._part(now)
        window.roll(part)
        window.add(part, is_retry)
        self._judge(endpoint, window)

    def look(self, now: Now) -> bool:
        """Let time pass; True when an endpoint is spent no longer, or anew. O(endpoints called lately)."""
        part, before = self._part(now), set(self.spent)
        for endpoint, window in list(self._windows.items()):
            window.roll(part)
            self._judge(endpoint, window)
            if not window.parts:
                del self._windows[endpoint]
        return before != self.spent

    def next_due_ms(self) -> int | None:
        """When a spent endpoint may get a retry again, in monotonic ms; None when none is spent."""
        firsts = [self._windows[endpoint].parts[0][0] for endpoint in self.spent]
        return (min(firsts) + PARTS) * self._part_ms() if firsts else None

    def used(self, endpoint: int) -> tuple[int, int]:
        """Retries in the window, and how many are allowed."""
        window = self._windows.get(endpoint, Window())
        return window.retries, self._allowed(window)

    def forget(self, endpoint: int) -> None:
        """The endpoint is gone."""
        self._windows.pop(endpoint, None)
        self.spent.discard(endpoint)

    def adopt(self, old: RetryBudgets) -> None:
        """Take over what a core before this one counted."""
        self._windows, self.spent = old._windows, old.spent

    def _judge(self, endpoint: int, window: Window) -> None:
        if window.retries and window.retries >= self._allowed(window):
            self.spent.add(endpoint)
        else:
            self.spent.discard(endpoint)

    def _allowed(self, window: Window) -> int:
        endpoints = self.settings.endpoints
        return endpoints.retry_min + window.calls * endpoints.retry_percent // 100

    def _part_ms(self) -> int:
        return max(1, int(self.settings.endpoints.retry_window_s * 1000) // PARTS)

    def _part(self, now: Now) -> int:
        return now.mono_ms // self._part_ms()
