"""What worker processes tell the benchmark of the tasks they have done: for each its number, when it was begun there,
and when its end was known to be recorded.

A named pipe, so that a word costs one system call at each end, for every peer the same. A ZeroMQ socket had a thread
more at both, on the cores that are measured.
"""

from __future__ import annotations

import os
import select
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final

WORD_BYTES: Final = 3 * 8
READ_BYTES: Final = 2048 * WORD_BYTES  # whole words, since each write is either all there or not at all
WRITE_BYTES: Final = select.PIPE_BUF // WORD_BYTES * WORD_BYTES


class Inbox:
    """The benchmark's end of the pipe at `path`, which is made; readable by its `fileno`."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)  # also to write: it never ends
        self._poller = select.poll()
        self._poller.register(self._file, select.POLLIN)

    def fileno(self) -> int:
        return self._file

    def poll(self, wait_ms: int) -> bool:
        """Whether there is something within that time."""
        return bool(self._poller.poll(wait_ms))

    def take(self) -> Iterator[tuple[int, int, int]]:
        """What has arrived: the task, when it was begun and when it was done, in monotonic nanoseconds."""
        try:
            found = array("q", os.read(self._file, READ_BYTES))
        except BlockingIOError:
            return iter(())
        return zip(found[::3], found[1::3], found[2::3], strict=True)

    def close(self) -> None:
        os.close(self._file)


class Told:
    """A worker's end; may be used by several threads at once."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def tell(self, words: array[int]) -> None:
        """Numbers in threes, as `Inbox.take` gives them. Waits while the benchmark does not read."""
        content = words.tobytes()
        for begin in range(0, len(content), WRITE_BYTES):
            os.write(self._file, content[begin : begin + WRITE_BYTES])

    def close(self) -> None:
        os.close(self._file)
