"""The directory of a store on disk: who may use it, whether it can hold one, whether there is room in it."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import stat
import tempfile
from pathlib import Path
from typing import Final

from agentcom.errors import StoreError, StoreLocked

LOCK_FILE: Final = "hub.lock"
FILES: Final = ("data.mdb", "lock.mdb")  # LMDB's own names
NOTE_FILE: Final = "state.json"  # what the last run has left beside the store; see start.py
NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# Their locks and shared mappings do not reach other machines as LMDB needs it. Not 9p: that is how virtual
# machines and containers see a disk of their own.
NETWORK_FILE_SYSTEMS: Final = frozenset(
    {"afs", "ceph", "cifs", "davfs", "gcsfuse", "glusterfs", "lustre", "nfs", "nfs4", "rclone", "s3fs"}
    | {"smb3", "smbfs", "sshfs"}  # with or without "fuse." in front
)


def take_lock(path: Path) -> int:
    """Make the directory and lock it; the descriptor that holds the lock. The kernel lets go when the process
    ends, however it ends, so that there is no stale lock."""
    file = path / LOCK_FILE
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _tighten(path, 0o700)
        for name in FILES:
            if (path / name).exists():
                _tighten(path / name, 0o600)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"cannot open {file}: {error.strerror}; check who owns the directory") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").split("\n")[0] or "unknown"
        os.close(descriptor)
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise StoreError(f"cannot lock {file}: {error.strerror}") from error
        raise StoreLocked(f"cannot open {path}: process {holder} has it open; stop that one first") from None
    text = f"{os.getpid()}\n".encode()
    os.pwrite(descriptor, text, 0)  # written over, then cut: a reader in between sees a number, not nothing
    os.ftruncate(descriptor, len(text))
    return descriptor


def require_local(path: Path, kind: str | None) -> None:
    if kind is not None and kind.removeprefix("fuse.") in NETWORK_FILE_SYSTEMS:
        raise StoreError(
            f"cannot open {path}: it lies on a network file system ({kind}), where locks and shared mappings "
            "do not hold; set AGENTCOM_HOME to a directory on a local disk"
        )


def file_system(path: Path, table: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the file system that holds the path (which need not exist), None where the system has no
    such table."""
    try:
        mounts = table.read_text(errors="surrogateescape").splitlines()
    except OSError:
        return None
    place = path.resolve()
    deepest, kind = -1, None
    for mount in mounts:
        left, _, right = mount.partition(" - ")
        point = Path(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left.split(" ")[4]))
        # Of two mounts on one point the later one hides the earlier.
        if place.is_relative_to(point) and len(point.parts) >= deepest:
            deepest, kind = len(point.parts), right.split(" ")[0]
    return kind


def has_room(path: Path, size_bytes: int) -> bool:
    """Whether the files in the directory could grow by so much now: tried, since quotas show in no figure."""
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if limit != resource.RLIM_INFINITY and (path / FILES[0]).stat().st_size + size_bytes > limit:
        return False
    try:
        with tempfile.TemporaryFile(dir=path) as scratch:
            os.posix_fallocate(scratch.fileno(), 0, size_bytes)
    except OSError as error:
        return error.errno not in NO_ROOM
    return True


def sync_directories(path: Path) -> None:
    """Make the names of new files durable: LMDB syncs what is in them only."""
    for directory in (path, path.parent):
        try:
            sync_directory(directory)
        except PermissionError:
            continue  # a parent that we may not read has held our directory before we came
        except OSError as error:
            raise StoreError(f"cannot sync {directory}: {error.strerror}; check the disk") from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable. OSError when that cannot be done."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _tighten(path: Path, mode: int) -> None:
    """Take away what others may do with a file that was there before."""
    if stat.S_IMODE(path.stat().st_mode) & ~mode:
        path.chmod(mode)
