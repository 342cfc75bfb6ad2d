"""Reading one value: from a call that may fail or hang, from a file that may be absent or hold anything."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

FILE_BYTES_MAX = 64 * 1024
REASON_CHARS_MAX = 200

T = TypeVar("T")


class Faults:
    """Runs a call and keeps the reason of its failure under a name, until it works again."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}

    def ask(self, name: str, call: Callable[[], T]) -> T | None:
        try:
            value = call()
        except Exception as error:
            self.reasons[name] = f"{type(error).__name__}: {error}"[:REASON_CHARS_MAX]
            return None
        self.reasons.pop(name, None)
        return value


class Patience:
    """Calls something that may hang (a driver, a network disk) in a thread of its own, and waits for it so long. While
    a call hangs there is no second one, so a sick driver costs one thread and its own values."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._thread: threading.Thread | None = None

    def __call__(self, call: Callable[[], T]) -> T:
        """What the call gives or raises; TimeoutError when there is no answer in time, or none to an earlier call."""
        if self._thread is not None and self._thread.is_alive():
            raise TimeoutError("an earlier call has not answered")
        found: list[T] = []
        failed: list[BaseException] = []

        def run() -> None:
            try:
                found.append(call())
            except BaseException as error:
                failed.append(error)

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        self._thread.join(self._seconds)
        if failed:
            raise failed[0]
        if not found:
            raise TimeoutError(f"no answer within {self._seconds:g} s")
        return found[0]


def text_in(path: Path) -> str:
    """The file's text without the blanks around it; empty when it cannot be read."""
    try:
        with path.open("rb") as source:
            return source.read(FILE_BYTES_MAX).decode(errors="replace").strip()
    except (OSError, ValueError):
        return ""


def int_in(path: Path) -> int | None:
    """None also for the word "max"."""
    text = text_in(path)
    return int(text) if re.fullmatch(r"-?\d{1,20}", text) else None


def field_in(path: Path, name: str) -> int | None:
    """A value in a file of lines with a name and a number."""
    for line in text_in(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name and re.fullmatch(r"\d{1,20}", value):
            return int(value)
    return None


def first_int(folders: Sequence[Path], *names: str) -> int | None:
    values = (int_in(folder / name) for folder in folders for name in names)
    return next((value for value in values if value is not None), None)


def within(value: float | None, lowest: float, highest: float) -> float | None:
    """Drivers answer with all bits set for "not available": what cannot be true is unknown."""
    return float(value) if value is not None and lowest <= value <= highest else None


def bytes_within(value: int | None) -> int | None:
    """A size of memory that a machine can have."""
    return value if value is not None and 0 <= value <= 2**50 else None
