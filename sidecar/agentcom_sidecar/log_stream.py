"""An attempt's output on its way to `task log`: best effort, bounded, redacted.

Pieces that the hub does not get are lost (the result has the output): `offset` shows the gap.
"""

from __future__ import annotations

from collections.abc import Callable

from agentcom import limits, messages
from agentcom.messages import Log
from agentcom.redaction import Stream

PIECES_PER_FLUSH_MAX = 4  # with four flushes a second: 256 KiB/s per attempt at most, the rest is skipped

Send = Callable[[Callable[[bytes], messages.Log]], bool]


class LogStream:
    """The text of one attempt. `offset` counts its bytes (UTF-8, after redaction) from the start."""

    def __init__(self, task: int, attempt: int, send: Send) -> None:
        self._task, self._attempt, self._send = task, attempt, send
        self._pending = bytearray()
        self._offset = 0  # of the first pending byte
        self._redacted = Stream()

    def add(self, text: str) -> None:
        """Keeps `text` until the next flush; above the bound the oldest goes. A word that is not over waits for its
        end: it could be the half of a secret."""
        self._keep(self._redacted.add(text))

    def close(self) -> None:
        """Sends the rest: no more text comes."""
        self._keep(self._redacted.end())
        self.flush()

    def _keep(self, text: str) -> None:
        self._pending += text.encode("utf-8", "replace")
        surplus = len(self._pending) - limits.LOG_TAIL_BYTES_MAX
        if surplus > 0:
            self._drop(surplus)

    def flush(self) -> None:
        """Sends what is pending, the newest pieces only when there is too much; never waits."""
        surplus = len(self._pending) - PIECES_PER_FLUSH_MAX * limits.LOG_CHUNK_BYTES_MAX
        if surplus > 0:
            self._drop(surplus)
        while self._pending:
            piece = _whole_characters(bytes(self._pending[: limits.LOG_CHUNK_BYTES_MAX]))
            text = piece.decode("utf-8", "replace")
            offset = self._offset
            self._send(lambda token, text=text, offset=offset: self._message(token, text, offset))  # type: ignore[misc]
            self._drop(len(piece))

    def _message(self, token: bytes, text: str, offset: int) -> Log:
        return Log(session=token, task=self._task, attempt=self._attempt, offset=offset, text=text)

    def _drop(self, count: int) -> None:
        del self._pending[:count]
        self._offset += count


def _whole_characters(piece: bytes) -> bytes:
    """`piece` without a character that is cut off at its end."""
    for back in range(1, min(4, len(piece)) + 1):
        if piece[-back] >= 0xC0:
            length = 2 + (piece[-back] >= 0xE0) + (piece[-back] >= 0xF0)
            return piece[:-back] or piece if back < length else piece
        if piece[-back] < 0x80:
            break
    return piece
