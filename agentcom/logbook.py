"""The newest output of running attempts, bounded per attempt and in all; lost at a restart of the hub.

What an attempt printed in the end stands in its result; this is for watching it work.
"""

from __future__ import annotations

from collections import OrderedDict

from agentcom import limits


class LogBook:
    """Tails by (task, attempt); the attempt written to longest ago goes first when room is needed."""

    def __init__(self) -> None:
        self._tails: OrderedDict[tuple[int, int], tuple[int, bytearray]] = OrderedDict()
        self._bytes = 0

    def add(self, task: int, attempt: int, offset: int, text: str) -> None:
        """Append a piece that begins at byte `offset` of the attempt's output. A hole drops what was before
        it; a piece that was seen before changes nothing."""
        piece = text.encode()
        start, tail = self._tails.pop((task, attempt), (offset, bytearray()))
        self._bytes -= len(tail)
        end = start + len(tail)
        if offset > end:
            start, tail = offset, bytearray()
        elif offset < end:
            piece = piece[end - offset :]
        tail += piece
        if len(tail) > limits.LOG_TAIL_BYTES_MAX:
            cut = len(tail) - limits.LOG_TAIL_BYTES_MAX
            start, tail = start + cut, tail[cut:]
        self._tails[task, attempt] = (start, tail)
        self._bytes += len(tail)
        while self._bytes > limits.LOG_TOTAL_BYTES_MAX:
            _, (_, oldest) = self._tails.popitem(last=False)
            self._bytes -= len(oldest)

    def read(self, task: int, attempt: int, offset: int) -> tuple[int, str] | None:
        """(first byte, text) from `offset` on, or None when nothing is kept of that attempt."""
        kept = self._tails.get((task, attempt))
        if kept is None:
            return None
        start, tail = kept
        first = max(start, min(offset, start + len(tail)))
        return first, tail[first - start :].decode(errors="replace")
