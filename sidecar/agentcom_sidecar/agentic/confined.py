"""Paths that a model or a task names, opened so that they cannot leave the worktree.

Everything goes through directory descriptors, so a link or a rename between the check and the use changes
nothing. Reading follows links inside the worktree, where the kernel can keep them inside (openat2 with
RESOLVE_BENEATH); elsewhere, and for every write, a path with a link in it is refused. Sizes are not bounded
here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

Kind = Literal["file", "directory", "link"]

SYS_OPENAT2 = 437  # the same number on every architecture that Linux has given it to
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_BENEATH = 0x08
GIT_DIRECTORY = ".git"  # compared without regard to case: some file systems are
TEMPORARY_PREFIX = ".agentcom-"


class PathRefused(Exception):
    """The path leaves the worktree, or names what may not be touched; nothing was done."""


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def parts_of(path: str) -> tuple[str, ...]:
    """The components of a relative path. PathRefused for an absolute one, `..`, NUL, or none at all."""
    if not path or "\0" in path:
        raise PathRefused("a path inside the worktree is needed")
    if path.startswith("/"):
        raise PathRefused(f"{path!r} is absolute; give a path relative to the worktree's root")
    parts = tuple(part for part in path.split("/") if part not in ("", "."))
    if ".." in parts:
        raise PathRefused(f"{path!r} leaves the worktree")
    return parts


def look(root: Path, path: str) -> os.stat_result | None:
    """What `path` in `root` is, links followed; None when it is not there. PathRefused when it leaves it."""
    parts = parts_of(path)
    if not parts:
        return os.stat(root)
    try:
        descriptor = _open(root, parts, os.O_PATH)  # a descriptor to look at: it opens no FIFO and no device
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)


def read(root: Path, path: str, bytes_max: int) -> bytes | None:
    """The first `bytes_max` bytes of a regular file; None when there is none at `path` that can be read."""
    parts = parts_of(path)
    try:
        # Without O_NONBLOCK a FIFO would hold the sidecar up until somebody writes to it.
        descriptor = _open(root, parts, os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, PathRefused):
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
        return file.read(bytes_max)


def entries(root: Path, path: str) -> list[tuple[str, Kind, int]] | None:
    """(name, kind, bytes) of all in the directory `path`, sorted; None when it is none. No link is followed."""
    parts = parts_of(path)
    try:
        with _directory(root, parts, make=False) as directory, os.scandir(directory) as found:
            return sorted((each.name, _kind_of(each), _bytes_of(each)) for each in found)
    except (FileNotFoundError, NotADirectoryError):
        return None


def is_gits_own(path: str) -> bool:
    """Whether the path names git's directory or something in it."""
    return any(part.lower() == GIT_DIRECTORY for part in path.split("/"))


def write(root: Path, path: str, content: bytes) -> bool:
    """Put `content` at `path` in `root`, whole or not at all, making directories; True when it is new.

    A file's permissions are kept. Raises PathRefused, and OSError when the file system will not have it.
    """
    parts = parts_of(path)
    if not parts or path.endswith("/"):
        raise PathRefused(f"{path!r} names a directory")
    if is_gits_own(path):
        raise PathRefused(f"{path!r} is git's own")
    with _directory(root, parts[:-1]) as directory:
        mode = _mode_of(directory, parts[-1], path)
        _replace(directory, parts[-1], content, 0o644 if mode is None else mode)
    return mode is None


def _kind_of(entry: os.DirEntry[str]) -> Kind:
    if entry.is_symlink():
        return "link"
    return "directory" if entry.is_dir(follow_symlinks=False) else "file"


def _bytes_of(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat(follow_symlinks=False).st_size
    except OSError:  # it went meanwhile
        return 0


def _open(root: Path, parts: tuple[str, ...], flags: int) -> int:
    flags |= os.O_CLOEXEC
    base = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = _openat2(base, "/".join(parts), flags)
    finally:
        os.close(base)
    if descriptor is not None:
        return descriptor
    with _directory(root, parts[:-1], make=False) as directory:
        return os.open(parts[-1], flags | os.O_NOFOLLOW, dir_fd=directory)


def _openat2(base: int, path: str, flags: int) -> int | None:
    """openat2 beneath `base`; None where this kernel (or a seccomp filter above it) does not have it."""
    if sys.platform != "linux" or platform.machine().startswith("alpha"):
        return None
    how = _OpenHow(flags, 0, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(
        ctypes.c_long(SYS_OPENAT2),
        ctypes.c_int(base),
        ctypes.c_char_p(os.fsencode(path)),
        ctypes.byref(how),
        ctypes.c_size_t(ctypes.sizeof(how)),
    )
    if descriptor >= 0:
        return int(descriptor)
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
        return None
    if number in (errno.EXDEV, errno.ELOOP, errno.EAGAIN):
        raise PathRefused(f"{path!r} leads out of the worktree")
    raise OSError(number, os.strerror(number), path)


@contextlib.contextmanager
def _directory(root: Path, parts: tuple[str, ...], *, make: bool = True) -> Iterator[int]:
    """A descriptor of the directory, reached component by component without following a link."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    current = os.open(root, flags)
    try:
        for part in parts:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=current)
            following = _step(current, part, flags)
            os.close(current)
            current = following
        yield current
    finally:
        os.close(current)


def _step(directory: int, part: str, flags: int) -> int:
    try:
        return os.open(part, flags | os.O_NOFOLLOW, dir_fd=directory)
    except OSError:
        # With O_DIRECTORY a link answers ENOTDIR, like a file: tell them apart for the message.
        if stat.S_ISLNK(os.lstat(part, dir_fd=directory).st_mode):
            raise PathRefused(f"{part!r} is a link; paths through links are refused") from None
        raise


def _mode_of(directory: int, name: str, path: str) -> int | None:
    """The permissions of the file that is there, None when there is none."""
    try:
        found = os.lstat(name, dir_fd=directory).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(found):
        raise PathRefused(f"{path!r} exists and is no regular file")
    return stat.S_IMODE(found) & 0o777


def _replace(directory: int, name: str, content: bytes, mode: int) -> None:
    temporary = f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise
