"""The system calls that an isolated command is refused (EPERM), as a filter for seccomp.

What namespaces do not part, or what is a way into the kernel that no build or test needs: key rings, the kernel's log,
sockets to the hypervisor, typing into a terminal, mounts, modules, tracing of the machine. Written by hand as classic
BPF, since a library for it would be one more thing to install. Processors that have no table here get no filter.
"""

from __future__ import annotations

import functools
import os
import struct
from typing import Final, NamedTuple

AF_VSOCK = 40
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
X32_BIT = 0x4000_0000  # the same calls by other numbers

LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, REFUSE = 0x7FFF_0000, 0x0005_0000 | 1  # 1 is EPERM
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data; an argument has eight bytes


class Table(NamedTuple):
    """One processor: its AUDIT_ARCH, the two calls of which an argument decides, and those that are refused."""

    architecture: int
    socket: int
    ioctl: int
    refused: tuple[int, ...]


# add_key request_key keyctl syslog bpf perf_event_open userfaultfd kexec_load kexec_file_load init_module
# finit_module delete_module open_by_handle_at mount umount2 pivot_root setns; then, by the same numbers everywhere:
# io_uring_setup open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
_EVERYWHERE: Final = (425, 428, 429, 430, 431, 432, 433, 442)
TABLES: Final = {
    "x86_64": Table(
        0xC000_003E, 41, 16,
        (248, 249, 250, 103, 321, 298, 323, 246, 320, 175, 313, 176, 304, 165, 166, 155, 308, *_EVERYWHERE),
    ),
    "aarch64": Table(
        0xC000_00B7, 198, 29,
        (217, 218, 219, 116, 280, 241, 282, 104, 294, 105, 273, 106, 265, 40, 39, 41, 268, *_EVERYWHERE),
    ),
}  # fmt: skip


@functools.cache
def program(machine: str = "") -> bytes | None:
    """The filter for `machine` (this one by default); None where there is no table."""
    table = TABLES.get(machine or os.uname().machine)
    return None if table is None else b"".join(struct.pack("<HBBI", *line) for line in _lines(table))


def _lines(table: Table) -> list[tuple[int, int, int, int]]:
    """(code, jump if true, jump if false, operand); a jump counts the lines that it leaps over."""
    tests = [(AT_LEAST, X32_BIT), *((EQUAL, each) for each in table.refused)]
    # After the tests: 0 allow, 1-3 socket, 4-7 ioctl, 8 refuse.
    tail = [
        (RETURN, 0, 0, ALLOW),
        (LOAD, 0, 0, ARGUMENTS),
        (EQUAL, 5, 0, AF_VSOCK),
        (RETURN, 0, 0, ALLOW),
        (LOAD, 0, 0, ARGUMENTS + 8),
        (EQUAL, 2, 0, TIOCSTI),
        (EQUAL, 1, 0, TIOCLINUX),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, REFUSE),
    ]
    refused = [(code, len(tests) - 1 - at + 8, 0, operand) for at, (code, operand) in enumerate(tests)]
    return [
        (LOAD, 0, 0, ARCHITECTURE),
        (EQUAL, 1, 0, table.architecture),
        (RETURN, 0, 0, REFUSE),
        (LOAD, 0, 0, NUMBER),
        (EQUAL, len(tests) + 2, 0, table.socket),
        (EQUAL, len(tests) + 4, 0, table.ioctl),
        *refused,
        *tail,
    ]
