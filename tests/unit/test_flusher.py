"""The thread that makes a file durable beside the loop, and the note that it writes after that."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from agentcom._flusher import Flusher

_flusher = pytest.importorskip("agentcom._flusher")



@pytest.fixture
def flusher() -> Iterator[Flusher]:
    made = _flusher.Flusher()
    yield made
    made.close()


@pytest.fixture
def note(tmp_path: Path) -> Iterator[int]:
    file = os.open(tmp_path / "note", os.O_RDWR | os.O_CREAT)
    yield file
    os.close(file)


def test_a_note_is_written_once_the_file_is_durable(tmp_path: Path, flusher: Flusher, note: int) -> None:
    with (tmp_path / "file").open("wb") as file:
        for text in (b"as far as 1", b"as far as 2"):
            file.write(b"x")
            file.flush()
            flusher.begin(file.fileno(), note, text)
            flusher.wait()
            assert (flusher.is_done(), (tmp_path / "note").read_bytes()) == (True, text)
        flusher.begin(file.fileno())
        flusher.wait()
    assert (tmp_path / "note").read_bytes() == b"as far as 2"


def test_nothing_is_noted_of_a_file_that_could_not_be_made_durable(tmp_path: Path, flusher: Flusher, note: int) -> None:
    reads, writes = os.pipe()
    flusher.begin(writes, note, b"as far as 1")
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        flusher.wait()
    os.close(reads)
    os.close(writes)
    assert (tmp_path / "note").read_bytes() == b""


def test_a_note_that_cannot_be_written_is_no_failure_of_the_file(tmp_path: Path, flusher: Flusher) -> None:
    with (tmp_path / "file").open("wb") as file:
        flusher.begin(file.fileno(), -1, b"as far as 1")
        flusher.wait()
    assert flusher.is_done()


def test_a_note_that_is_too_long_and_a_closed_thread_are_refused(flusher: Flusher, note: int) -> None:
    with pytest.raises(ValueError, match="32 bytes at most, this one has 33"):
        flusher.begin(note, note, bytes(33))
    flusher.close()
    with pytest.raises(ValueError, match="closed"):
        flusher.begin(note)
