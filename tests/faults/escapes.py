"""What a command could try in order to reach beyond its sandbox (row I18): a table, a name for each case.

A case is a shell text. Its variables name what lies outside, and what it may not reach: SECRET (a file whose text is
SECRET_TEXT), OUTSIDE (a directory), OTHER (another worktree), STATE (a sidecar's home with keys, store and token),
VICTIM (a process), DOOR (this process), PORT, SOCKET and NAME (listeners on loopback, at a path, without a path).

Whether it got out is seen from outside: the secret in the output, a change below OUTSIDE, OTHER or STATE, a dead
victim, a call at a listener, a process that is left. Where a success shows inside only, the text prints OUT.
`harms` are cases that may not run without isolation: they would harm the machine of the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

OUT = "GOT-OUT"


@dataclass(frozen=True)
class Case:
    name: str
    text: str
    harms: bool = False
    limits: tuple[tuple[str, Any], ...] = ()
    timeout_s: float = 20.0


def _python(text: str) -> str:
    return f"\"$PYTHON\" -I -S -c '{text}'"


def _connect(family: str, address: str) -> str:
    return _python(
        f"import os, socket; s = socket.socket(socket.{family}); s.settimeout(3); s.connect({address})"
    )


def _syscall(number: int, first: int, rest: str = "") -> str:
    """By the numbers of x86_64; elsewhere it is another call, and proves nothing."""
    call = f"ctypes.CDLL(None).syscall({number}, {first}{', ' if rest else ''}{rest})"
    return _python(f'import ctypes; {call} >= 0 and print("{OUT}")')


_PTRACE = "import ctypes, os; l = ctypes.CDLL(None, use_errno=True); p = int({pid}); "
_ATTACH = (
    _PTRACE
    + f'r = l.ptrace(16, p, None, None); r == 0 and (os.waitpid(p, 0), l.ptrace(17, p, None, None), print("{OUT}"))'
)

PATHS = (
    Case("read a file by its absolute path", 'cat "$SECRET"'),
    Case("read a file by a relative path", 'cat "$(realpath --relative-to=. "$SECRET")"'),
    Case("read through the link to the own root", 'cat "/proc/self/root$SECRET"'),
    Case("read through the own directory", 'cat "/proc/self/cwd/$(realpath --relative-to=. "$SECRET")"'),
    Case("read through the root of process 1", 'cat "/proc/1/root$SECRET"'),
    Case("read through the root of the parent", 'cat "/proc/$PPID/root$SECRET"'),
    Case("read through the directory of the door", 'cat "/proc/$DOOR/root$SECRET"'),
    Case("list a directory outside", 'ls "$OUTSIDE"'),
    Case("write a new file outside", 'echo x > "$OUTSIDE/new"'),
    Case("append to a file outside", 'echo x >> "$OUTSIDE/kept"'),
    Case("empty a file outside", ': > "$OUTSIDE/kept"'),
    Case("delete a file outside", 'rm -f "$OUTSIDE/kept"'),
    Case("rename a file outside", 'mv "$OUTSIDE/kept" "$OUTSIDE/moved"'),
    Case("change the mode of a file outside", 'chmod 777 "$OUTSIDE/kept"'),
    Case("make a directory outside", 'mkdir "$OUTSIDE/folder"'),
    Case("read another worktree", 'cat "$OTHER/secret"'),
    Case("write into another worktree", 'echo x > "$OTHER/new"'),
    Case("read the host's key", 'cat "$STATE/keys/host.key"'),
    Case("read the hub's store", 'cat "$STATE/store/data.mdb"'),
    Case("read the token", 'cat "$STATE/run/token"'),
    Case("change the settings", 'echo "[sandbox]" >> "$STATE/config.toml"'),
    Case("read the passwords of the machine", f"grep -q '^root:[$!*]' /etc/shadow && echo {OUT}"),
    Case(
        "list private keys of the machine",
        f"ls /etc/ssl/private /etc/ssh/ssh_host_rsa_key && echo {OUT}",
        harms=True,
    ),
    Case(
        "list the homes of people",
        f"ls -d /home/* /root/.[a-z]* 2>/dev/null | grep -v '/root/.pyenv$' && echo {OUT}",
    ),
    Case("list /var", f"ls /var/lib && echo {OUT}"),
    Case("list the sockets of the machine", f"ls /run | grep -v '^agentcom$' && echo {OUT}"),
    Case("write into the root", f"echo x > /written && echo {OUT}", harms=True),
    Case("write into the system", f"echo x > /usr/bin/written && echo {OUT}", harms=True),
    Case("write into /etc", f"echo x >> /etc/passwd && echo {OUT}", harms=True),
    Case("write into the Python of the guard", f'echo x > "$PREFIX/written" && echo {OUT}', harms=True),
    Case("change the guard", f"echo x >> /run/agentcom/guard.py && echo {OUT}", harms=True),
)

LINKS = (
    Case("read through a symbolic link", 'ln -s "$SECRET" link && cat link'),
    Case("read through a linked directory", 'ln -s "$OUTSIDE" way && cat way/secret'),
    Case("write through a linked directory", 'ln -s "$OUTSIDE" way && echo x > way/new'),
    Case("hard-link a file outside", 'ln "$SECRET" hard && cat hard'),
    Case("hard-link into a directory outside", 'echo x > own && ln own "$OUTSIDE/own"'),
    Case("move a file of its own outside", 'echo x > own && mv own "$OUTSIDE/own"'),
    Case("put a link in the place of its worktree", 'cd / && rm -rf "$PLACE" && ln -s "$OUTSIDE" "$PLACE"'),
    Case("move its worktree away", 'cd / && mv "$PLACE" "$PLACE.away"'),
)

KERNEL = (
    Case("see other processes", f'tr "\\0" " " < "/proc/$VICTIM/cmdline" | grep sleep && echo {OUT}'),
    Case("read the environment of the door", 'tr "\\0" "\\n" < "/proc/$DOOR/environ"'),
    Case("read every environment", "cat /proc/[0-9]*/environ | tr '\\0' '\\n'"),
    Case("list what the guard has open", f"ls -l /proc/1/fd && echo {OUT}"),
    Case("read the memory of the guard", f"head -c 1 /proc/1/mem; cat /proc/1/maps | grep . && echo {OUT}"),
    Case(
        "set a program for crashes",
        f"echo '|/bin/true' > /proc/sys/kernel/core_pattern && echo {OUT}",
        harms=True,
    ),
    Case("drop the caches of the machine", f"echo 1 > /proc/sys/vm/drop_caches && echo {OUT}", harms=True),
    Case("set the host name", f"hostname written && echo {OUT}", harms=True),
    Case(
        "set the host name through /proc",
        f"echo written > /proc/sys/kernel/hostname && echo {OUT}",
        harms=True,
    ),
    Case(
        "move an interrupt",
        f"for f in /proc/irq/*/smp_affinity; do echo 1 > $f && echo {OUT}; done",
        harms=True,
    ),
    Case("press a system request key", f"echo h > /proc/sysrq-trigger && echo {OUT}", harms=True),
    Case(
        "write anything in /proc that is not its own",
        "for f in $(find /proc -maxdepth 5 -writable 2>/dev/null | grep -v '^/proc/[0-9]*/\\|self/\\|/pressure/'); "
        f"do [ -f $f ] && echo $f {OUT}; done",
    ),
    Case("read the memory of the kernel", f"head -c 1 /proc/kcore | grep -q . && echo {OUT}", harms=True),
    Case("read the keys of the user", f"grep . /proc/keys && echo {OUT}"),
    Case("see /sys", f"ls /sys/kernel && echo {OUT}"),
    Case("see the control groups", f"ls /sys/fs/cgroup && echo {OUT}"),
    Case("read the kernel's log", f"dmesg | grep -q . && echo {OUT}"),
)

PROCESSES = (
    Case("kill a process outside", 'kill -KILL "$VICTIM"'),
    Case("kill processes by their command line", 'pkill -KILL -f "sleep $MARK"'),
    Case("kill everything", "kill -KILL -1", harms=True),
    Case("signal the door", f'kill -0 "$DOOR" && echo {OUT}'),
    Case("kill the guard", f"kill -KILL 1; sleep 0.1; [ -d /proc/1 ] || echo {OUT}", harms=True),
    Case("stop the guard", "kill -STOP 1", harms=True),
    Case("slow a process outside down", f'renice -n 5 -p "$VICTIM" && echo {OUT}'),
    Case("limit a process outside", f'prlimit --pid "$VICTIM" --nofile=64:64 && echo {OUT}'),
    Case("trace a process outside", _python(_ATTACH.format(pid='os.environ["VICTIM"]'))),
    Case("trace the guard", _python(_ATTACH.format(pid="1")), harms=True),
    Case("leave a process behind", 'sleep "$LEFT" &'),
    Case("leave a process of its own session behind", 'setsid sh -c "sleep $LEFT" &'),
    Case(
        "leave a daemon behind", '(setsid setsid -f sh -c "trap \\"\\" HUP TERM; sleep $LEFT; sleep $LEFT" &)'
    ),
    Case("leave a daemon without an environment behind", '(env -i setsid setsid -f sleep "$LEFT" &)'),
    Case(
        "fork without end", "f() { f | f & }; f; sleep 30", harms=True, limits=(("tree_processes_max", 100),)
    ),
    Case(
        "take all memory",
        _python("a = [bytearray(1 << 20) for _ in range(1 << 12)]; print(len(a))") + f" && echo {OUT}",
        harms=True,
        limits=(("tree_memory_bytes_max", 96 << 20),),
    ),
    Case(
        "fill the disk with one file",
        f"head -c 9000000 /dev/zero > big; [ $(wc -c < big) -gt 1048576 ] && echo {OUT}",
        limits=(("file_bytes_max", 1 << 20),),
        harms=True,
    ),
    Case(
        "fill memory through /dev/shm",
        f"[ $(df -B1 --output=size /dev/shm | tail -1) -gt 300000000 ] && echo {OUT}",
    ),
    Case(
        "fill memory through /tmp", f"[ $(df -B1 --output=size /tmp | tail -1) -gt 600000000 ] && echo {OUT}"
    ),
    Case("fill memory through /dev", f"echo x > /dev/file && echo {OUT}", harms=True),
)

NETWORK = (
    Case("call a port of loopback", _connect("AF_INET", '("127.0.0.1", int(os.environ["PORT"]))')),
    Case(
        "call a port of loopback by IPv6 notation",
        _connect("AF_INET6", '("::ffff:127.0.0.1", int(os.environ["PORT"]))'),
    ),
    Case("call a socket without a path", _connect("AF_UNIX", '"\\0" + os.environ["NAME"]')),
    Case("call a socket at a path", _connect("AF_UNIX", 'os.environ["SOCKET"]')),
    Case("open a raw socket", _python(f'import socket; socket.socket(17, 3, 768); print("{OUT}")')),
    Case("call the hypervisor", _python(f'import socket; socket.socket(40, 1); print("{OUT}")')),
    Case("see the network's devices", f"[ $(grep -c : /proc/net/dev) -gt 1 ] && echo {OUT}"),
    Case("see who is connected", f'grep -i ":$(printf %04X $PORT) " /proc/net/tcp && echo {OUT}'),
)

NAMESPACES = (
    Case("mount a file system", f"mkdir m; mount -t tmpfs none m && echo {OUT}", harms=True),
    Case("mount a directory elsewhere", f"mkdir m; mount --bind / m && echo {OUT}", harms=True),
    Case("make the system writable", f"mount -o remount,rw,bind /usr && echo {OUT}", harms=True),
    Case("take a cover away", f"umount /proc/sys && echo {OUT}", harms=True),
    Case("make a user namespace", f"unshare --user true && echo {OUT}"),
    Case(
        "become root of a namespace of its own", f"unshare --user --map-root-user --mount true && echo {OUT}"
    ),
    Case("make a mount namespace", f"unshare --mount true && echo {OUT}"),
    Case("start a sandbox inside", f"bwrap --ro-bind / / true && echo {OUT}"),
    Case("enter the namespaces of process 1", f"nsenter --target 1 --mount --pid true && echo {OUT}"),
    Case("enter the network of the door", f'nsenter --net="/proc/$DOOR/ns/net" true && echo {OUT}'),
    Case("change its root", f"chroot . /bin/true || chroot / /bin/true && echo {OUT}"),
)

RIGHTS = (
    Case(
        "ask for the kernel's log",
        _python(f'import ctypes; ctypes.CDLL(None).klogctl(10, None, 0) > 0 and print("{OUT}")'),
    ),
    Case("make a ring for the kernel", _syscall(425, 8, "ctypes.create_string_buffer(200)")),
    Case(
        "load a program into the kernel", _syscall(321, 0, "ctypes.create_string_buffer(200), 72"), harms=True
    ),
    Case("catch page faults", _syscall(323, 1)),
    Case(
        "hold a capability",
        f"grep -q 'Cap\\(Eff\\|Prm\\|Bnd\\|Amb\\):.*[1-9a-f]' /proc/self/status && echo {OUT}",
    ),
    Case("become root", _python(f'import os; os.setuid(0); print("{OUT}")')),
    Case("become another user", _python(f'import os; os.setresuid(65534, 65534, 65534); print("{OUT}")')),
    Case("give a file away", f"echo x > own; chown 1:1 own && echo {OUT}"),
    Case("run a set-user-id program", f"grep -q 'NoNewPrivs:.*0' /proc/self/status && echo {OUT}"),
    Case("give a program a capability", f"cp /bin/true own; setcap cap_sys_admin+ep own && echo {OUT}"),
    Case(
        "raise a limit",
        _python(f'import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (1 << 19, 1 << 19)); print("{OUT}")'),
    ),
    Case("make a device", f"mknod disk b 1 0 && echo {OUT}"),
    Case(
        "open a disk",
        f"ls /dev/vd* /dev/sd* /dev/nvme* /dev/loop* /dev/mem /dev/kmsg 2>/dev/null && echo {OUT}",
    ),
    Case("read shared memory of others", 'cat "/dev/shm/$NAME"'),
    Case("see shared segments of others", f'[ $(ipcs -m | grep -c "^0x") -gt 0 ] && echo {OUT}'),
    Case("find a terminal to write to", f"echo x > /dev/tty && echo {OUT}", harms=True),
    Case(
        "type into a terminal",
        _python(
            f'import fcntl, os, termios; fcntl.ioctl(os.open("/dev/tty", 2), termios.TIOCSTI, b"x"); print("{OUT}")'
        ),
        harms=True,
    ),
    Case(
        "use a descriptor that the door has open",
        'for n in 3 4 5 6 7 8 9 10 11 12; do cat "/proc/self/fd/$n"; done',
    ),
    Case(
        "read the key ring of its user's session",
        _python(
            "import ctypes; l = ctypes.CDLL(None); b = ctypes.create_string_buffer(200); "
            'k = l.syscall(250, 10, -3, b"user", b"agentcom-test", 0); '
            "n = l.syscall(250, 11, k, b, 200); print(b.raw[:max(n, 0)])"
        ),
    ),
)

CASES = PATHS + LINKS + KERNEL + PROCESSES + NETWORK + NAMESPACES + RIGHTS
