"""The command line of bubblewrap: what an isolated command sees of this machine, and nothing else.

Rules it keeps:
* Every namespace is the command's own; the network's too, unless its view says otherwise. No further user
  namespace can be made inside, no capability is left, no set-user-id bit counts.
* Key rings, the kernel's log and a hypervisor's sockets belong to no namespace: syscalls.py refuses their calls.
* The root is assembled from nothing: the system's programs (read-only), the few files of /etc that programs
  need, Python for the guard, then what the view names. Not there: homes, /run, /sys, /var, the keys and the store.
* /proc/sys and the like are read-only and kernel secrets empty. bubblewrap covers what it may not write by the
  mode of the directory; a sidecar of root could set kernel.core_pattern through it (seen with 0.8.0).
* No mount point lies in what a command can write.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from agentcom_sidecar import guards, syscalls
from agentcom_sidecar.command import CommandSpec

PROGRAM = "bwrap"
NAME = "agent"  # of the only user inside, and of the host
ID = 1000
SHM_BYTES_MAX = 256 * 1024**2  # /dev/shm and /tmp lie in memory, which no limit of the tree counts
TMP_BYTES_MAX = 512 * 1024**2
SYSTEM = (
    "usr",
    "bin",
    "sbin",
    "lib",
    "lib32",
    "lib64",
    "libx32",
    "nix/store",
    "gnu/store",
    "run/current-system",
)
ETC = (
    "alternatives", "bash.bashrc", "ca-certificates", "crypto-policies", "debian_version", "environment.d", "fonts",
    "gai.conf", "host.conf", "hosts", "inputrc", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime",
    "lsb-release", "manpath.config", "mime.types", "nsswitch.conf", "os-release", "perl", "pki/ca-trust/extracted",
    "pki/tls/cert.pem", "pki/tls/certs", "pki/tls/openssl.cnf", "protocols", "rpc", "services", "ssh/ssh_known_hosts",
    "ssl/cert.pem", "ssl/certs", "ssl/openssl.cnf", "terminfo", "timezone",
)  # fmt: skip
ETC_PATTERNS = ("java-*", "python3*")
PROC_READ_ONLY = ("acpi", "asound", "bus", "driver", "fs", "irq", "scsi", "sys", "sysrq-trigger", "tty")
PROC_EMPTY = ("kcore", "keys", "key-users", "kmsg", "latency_stats", "mtrr", "sched_debug", "timer_list")
NAMESPACES = (
    "--unshare-user", "--disable-userns", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
    "--new-session", "--die-with-parent", "--as-pid-1", "--cap-drop", "ALL", "--uid", str(ID), "--gid", str(ID),
    "--hostname", NAME, "--clearenv", "--setenv", "LC_ALL", "C.UTF-8",
)  # fmt: skip
PASSWD = f"root:x:0:0:root:/root:/bin/sh\n{NAME}:x:{ID}:{ID}:{NAME}:/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"
GROUP = f"root:x:0:\n{NAME}:x:{ID}:\nnogroup:x:65534:\n"


def find() -> str | None:
    """The program's path; None where it is not installed. Never one of a relative PATH entry."""
    path = shutil.which(PROGRAM)
    return path if path and path.startswith("/") else None


def contents() -> dict[str, bytes]:
    """What bubblewrap reads from descriptors, by the option or the path that names one."""
    refused = syscalls.program()
    made = {"/etc/passwd": PASSWD.encode(), "/etc/group": GROUP.encode()}
    return made if refused is None else {"--seccomp": refused, **made}


def arguments(spec: CommandSpec, files: Mapping[str, int]) -> list[str]:
    """Everything that stands before the program: for `--args`. `files` are descriptors with those contents."""
    made = [*NAMESPACES, *_system(guards.program())]
    for name, fd in files.items():
        made += [name, str(fd)] if name.startswith("--") else ["--ro-bind-data", str(fd), name]
    if spec.view.network:
        # Often a link to where a resolver daemon keeps it: the file itself.
        made += ["--ro-bind-try", os.path.realpath("/etc/resolv.conf"), "/etc/resolv.conf"]
    else:
        made.append("--unshare-net")
    for path in _both(spec.view.readable):
        made += ["--ro-bind", path, path]
    hidden = [path for path in _both(spec.view.hidden) if os.path.isdir(path) and is_visible(path, spec)]
    for path in hidden:
        made += ["--tmpfs", path]
    for path in _outermost(writable(spec)):
        made += ["--bind", path, path]
    for path in (*hidden, "/"):
        made += ["--remount-ro", path]
    return [*made, "--chdir", "/"]


def writable(spec: CommandSpec) -> tuple[Path, ...]:
    scratch = () if spec.scratch is None else (spec.scratch,)
    return (spec.cwd, spec.home, *scratch, *spec.view.writable)


def is_visible(path: str, spec: CommandSpec) -> bool:
    """Whether something that is not the command's own can be seen inside, by what it lies in."""
    if _is_of_system(path):
        return True
    real = os.path.realpath(path)
    return any(_is_within(real, root) for root in _both(spec.view.readable))


@functools.lru_cache(maxsize=256)
def _is_of_system(path: str) -> bool:
    """Looked at once: each command asks for every entry of PATH, which took longer than to start it."""
    real = os.path.realpath(path)
    return any(_is_within(real, root) for root in (*(f"/{each}" for each in SYSTEM), *_python()))


@functools.cache
def _system(guard: Path) -> tuple[str, ...]:
    """The part that is the same for every command: system, Python, guard, /etc, /proc, /dev, /tmp."""
    made: list[str] = []
    for name in SYSTEM:
        path = f"/{name}"
        if os.path.islink(path):
            made += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            made += ["--ro-bind", path, path]
    made += ["--ro-bind", str(guard), guards.PLACE]
    for path in _etc():
        made += ["--ro-bind-try", path, path]
    made += ["--proc", "/proc", *_covered_proc(), "--dev", "/dev"]
    made += [*_memory("/dev/shm", SHM_BYTES_MAX), "--remount-ro", "/dev"]  # noqa: S108 (the command's own)
    made += [*_memory("/tmp", TMP_BYTES_MAX), "--symlink", "/tmp", "/var/tmp"]  # noqa: S108 (as above)
    for path in _python():  # after /tmp, below which it may lie
        made += ["--ro-bind", path, path]
    return tuple(made)


def _memory(path: str, bytes_max: int) -> list[str]:
    return ["--perms", "1777", "--size", str(bytes_max), "--tmpfs", path]


def _etc() -> Iterator[str]:
    yield from (f"/etc/{name}" for name in ETC if os.path.exists(f"/etc/{name}"))
    for pattern in ETC_PATTERNS:
        yield from (str(path) for path in sorted(Path("/etc").glob(pattern)))


def _covered_proc() -> Iterator[str]:
    for name in PROC_READ_ONLY:
        if os.path.exists(f"/proc/{name}"):
            yield from ("--ro-bind", f"/proc/{name}", f"/proc/{name}")
    for name in PROC_EMPTY:
        if os.path.exists(f"/proc/{name}"):
            yield from ("--ro-bind", "/dev/null", f"/proc/{name}")


def _python() -> list[str]:
    """Where this Python and its packages lie, outside of the system: programs, no secrets. Never a directory that
    holds a home: without its Python the probe then says that nothing isolates."""
    found = {os.path.realpath(each) for each in (sys.base_prefix, sys.base_exec_prefix)} | {sys.prefix}
    homes = [os.path.realpath(Path.home()), os.path.realpath(os.environ.get("AGENTCOM_HOME") or Path.home())]
    return sorted(
        path
        for path in found
        if not any(_is_within(path, f"/{each}") for each in SYSTEM)
        and not any(_is_within(home, path) for home in homes)
    )


def _both(paths: Iterable[Path]) -> list[str]:
    """Each path as it is named and as it is: git writes down the second."""
    named = [os.path.abspath(path) for path in paths]
    return list(dict.fromkeys(each for path in named for each in (path, os.path.realpath(path))))


def _outermost(paths: Iterable[Path]) -> list[str]:
    every = _both(paths)
    return [path for path in every if not any(path != other and _is_within(path, other) for other in every)]


def _is_within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
