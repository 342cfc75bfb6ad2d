"""The tools that look at files and change them: everything goes through confined.py, nothing leaves the worktree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from agentcom import limits
from agentcom_sidecar.agentic import confined
from agentcom_sidecar.agentic.arguments import EditFile, ListDirectory, ReadFile, WriteFile
from agentcom_sidecar.agentic.observations import (
    Edited,
    Entry,
    Failed,
    Listed,
    Observation,
    Read,
    Written,
    failed,
)

CONTENT_BYTES_MAX = limits.MIB  # one written file: beyond the output limit of any model
WRITTEN_BYTES_MAX = 64 * limits.MIB  # all that one attempt writes with tools; then it is told to stop
READ_BYTES_MAX = 8 * limits.MIB  # of a file that is read or edited; a model has use for a small part of it
ENTRIES_MAX = 400  # shown of a directory; the rest is counted
ENTRIES_SEEN_MAX = 20_000  # then the counting stops too
PLACES_SHOWN_MAX = 10
LOOK_AROUND: Final = "list_directory shows what is there"


class FileTools:
    """Files below `root`. `result_chars_max` bounds what one reading shows."""

    def __init__(self, root: Path, result_chars_max: int) -> None:
        self._root, self._chars_max = root, result_chars_max
        self.written_bytes = 0

    def read(self, given: ReadFile) -> Observation:
        text = self._text(given.path)
        if isinstance(text, Failed):
            return text
        lines = text.splitlines(keepends=True)
        first = given.first_line - 1
        if lines and first >= len(lines):
            return failed("not_found", f"{given.path} has {len(lines)} lines", "ask for an earlier first_line")
        wanted = lines[first : first + given.lines] if given.lines else lines[first:]
        shown = _fitting(wanted, self._chars_max)
        content = "".join(wanted[:shown]) if shown or not wanted else wanted[0][: self._chars_max]
        shown = shown or min(1, len(wanted))  # one line alone that is too long is cut
        following = first + shown
        return Read(given.path, given.first_line, shown, content, following + 1 if following < len(lines) else 0)

    def write(self, given: WriteFile) -> Observation:
        return self._put(given.path, given.content.encode())

    def edit(self, given: EditFile) -> Observation:
        if given.old_text == given.new_text:
            return failed("unchanged", "old_text and new_text are the same", "give what shall stand there instead")
        text = self._text(given.path)
        if isinstance(text, Failed):
            return text
        count = text.count(given.old_text)
        if count == 0:
            return failed("no_match", f"old_text does not stand in {given.path}", _why_no_match(text, given.old_text))
        if count > 1 and not given.replace_all:
            places = ", ".join(map(str, _lines_of(text, given.old_text)))
            more = f" and {count - PLACES_SHOWN_MAX} more" if count > PLACES_SHOWN_MAX else ""
            return failed(
                "not_unique",
                f"old_text stands in {given.path} {count} times, at lines {places}{more}",
                "give more of the lines around it, or set replace_all",
            )
        content = text.replace(given.old_text, given.new_text).encode()
        done = self._put(given.path, content)
        return Edited(given.path, count, len(content)) if isinstance(done, Written) else done

    def list(self, given: ListDirectory) -> Observation:
        path = given.path.strip("/") or "."
        try:
            if confined.is_gits_own(given.path):
                raise confined.PathRefused(f"{given.path!r} is git's own")
            top = confined.entries(self._root, given.path)
        except confined.PathRefused as error:
            return failed("path_refused", error, LOOK_AROUND)
        except OSError as error:
            return failed("file_system", f"{given.path[:200]}: {error.strerror or error}")
        if top is None:
            return failed("not_found", f"there is no directory {given.path[:200]!r}", LOOK_AROUND)
        shown: list[Entry] = []
        seen = 0
        for seen, entry in enumerate(self._below(path, given.depth), 1):
            if seen <= ENTRIES_MAX:
                shown.append(entry)
            if seen >= ENTRIES_SEEN_MAX:
                break
        return Listed(path, tuple(shown), seen - len(shown))

    def _below(self, path: str, depth: int) -> Iterator[Entry]:
        """What lies in the directory, each directory before what is in it."""
        try:
            found = confined.entries(self._root, path)
        except (OSError, confined.PathRefused):
            return
        for name, kind, size in found or ():
            if confined.is_gits_own(name):
                continue
            below = name if path == "." else f"{path}/{name}"
            below = below.encode("utf-8", "replace").decode()  # a name need not be text
            yield Entry(below, kind, size if kind == "file" else 0)
            if kind == "directory" and depth > 1:
                yield from self._below(below, depth - 1)

    def _text(self, path: str) -> str | Failed:
        """The whole file as text."""
        try:
            if confined.is_gits_own(path):
                raise confined.PathRefused(f"{path!r} is git's own")
            found = confined.look(self._root, path)
        except confined.PathRefused as error:
            return failed("path_refused", error, LOOK_AROUND)
        except (OSError, ValueError) as error:
            return failed("file_system", f"{path[:200]}: {error}")
        raw = confined.read(self._root, path, READ_BYTES_MAX + 1) if found is not None else None
        if raw is None:
            return failed("not_found", f"there is no file {path[:200]!r}", LOOK_AROUND)
        if len(raw) > READ_BYTES_MAX:
            return failed(
                "too_large", f"{path} has more than {READ_BYTES_MAX} bytes", "look for lines of it with search_files"
            )
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return failed("not_text", f"{path} is no text in UTF-8", "leave it as it is")

    def _put(self, path: str, content: bytes) -> Observation:
        if len(content) > CONTENT_BYTES_MAX:
            said = f"{len(content)} bytes; a file may have {CONTENT_BYTES_MAX}"
            return failed("too_large", said, "write a smaller file")
        if self.written_bytes + len(content) > WRITTEN_BYTES_MAX:
            said = f"this attempt has written {WRITTEN_BYTES_MAX} bytes, its limit"
            return failed("too_large", said, "finish with what there is")
        try:
            created = confined.write(self._root, path, content)
        except confined.PathRefused as error:
            return failed("path_refused", error, "give a path inside the working directory, not through a link")
        except (OSError, ValueError) as error:
            return failed("file_system", f"{path[:200]}: {getattr(error, 'strerror', None) or error}")
        self.written_bytes += len(content)
        return Written(path, len(content), created)


def _fitting(lines: list[str], chars_max: int) -> int:
    """How many of the lines, from the first, have at most so many characters together."""
    total = 0
    for number, line in enumerate(lines):
        total += len(line)
        if total > chars_max:
            return number
    return len(lines)


def _lines_of(text: str, piece: str) -> Iterator[int]:
    """The lines at which the piece begins, the first few."""
    at = -1
    for _ in range(PLACES_SHOWN_MAX):
        at = text.find(piece, at + 1)
        if at < 0:
            return
        yield text.count("\n", 0, at) + 1


def _why_no_match(text: str, old: str) -> str:
    if "\r\n" in text and "\r\n" not in old and old.replace("\n", "\r\n") in text:
        return "the file has lines that end with \\r\\n; write them so in old_text and new_text"
    if " ".join(old.split()) in " ".join(text.split()):
        return "only its white space differs; read_file shows the file as it is"
    return "read_file shows the file as it is; copy the lines from there"
