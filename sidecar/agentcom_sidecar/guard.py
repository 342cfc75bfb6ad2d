"""The parent process of every command: while it lives it owns the whole tree, when it ends nothing is left.

Runs as a script of its own (`python -I -S guard.py STATUS_FD JOB_FD`), one per command. Rules it keeps:
* It is a child subreaper: a process that leaves its group or session, or loses its parent, becomes a child
  of the guard, so having no child left (ECHILD) proves that no descendant is left.
* It learns from end-of-file on its control pipe (fd 0) that the sidecar is gone, by kill -9 too, and then
  kills everything. The control and status pipes never reach the command.
* Under bubblewrap it is process 1 of a pid namespace: its command can neither signal, trace nor read it, and
  what it kills or leaves behind is the whole namespace.
* Only builtin or cheap modules (no json, typing, dataclasses, signal, ctypes, __future__): they would triple its start.
The job and status formats are shared with sandbox.py, which imports this module: change both together.
"""

import _signal as signal  # type: ignore[import-not-found]  # what `signal` wraps, without the half of the start time that its enums take
import os
import resource
import select
import sys
import time

GO = b"G"  # start the command
ASK = b"T"  # SIGTERM to the command's group, SIGKILL to what is left after the grace
KILL = b"K"  # SIGKILL to everything now; end-of-file means the same

UP = b"\n"  # first on the status pipe: what goes wrong before it is not the command's

MARKER = "AGENTCOM_GUARD"  # in the command's environment, so that its tree can be found without its guard
ROUND_MS = 10  # pause between two rounds of killing: forks that escaped a round fall in the next
NICENESS = 10  # a command gives way to its guard, the sidecar and people
OOM_SCORE = b"500"  # short of memory, the kernel picks a command before the sidecar; raising needs no right

WATCH_S = 0.1  # between two counts of an isolated tree
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_CHILD_SUBREAPER = 36
KEYCTL_JOIN_SESSION_KEYRING = 1
KEYCTL = {"x86_64": 250, "aarch64": 219, "riscv64": 219, "loongarch64": 219, "ppc64le": 271, "s390x": 280}


class Process:
    """A line of the process table. `start_ticks` (since boot) tells a process from a later one of its pid."""

    __slots__ = ("parent", "pid", "start_ticks", "state")

    def __init__(self, pid: int, parent: int, state: bytes, start_ticks: int) -> None:
        self.pid, self.parent, self.state, self.start_ticks = pid, parent, state, start_ticks

    @property
    def runs(self) -> bool:
        """False for a zombie: it is dead, only not yet waited for."""
        return self.state not in (b"Z", b"X")


def process_of(pid: int) -> Process | None:
    """The process with this pid as /proc shows it now; None when there is none (or no /proc)."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as stat:
            # The name stands in parentheses and may itself hold spaces and parentheses.
            fields = stat.read(4096).rpartition(b")")[2].split()
    except OSError:
        return None
    return Process(pid, int(fields[1]), fields[0], int(fields[19])) if len(fields) > 19 else None


def pids() -> list[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def processes() -> dict[int, Process]:
    """Every process that /proc shows, by pid. Not a snapshot of one instant: ask again until it is stable."""
    found = (process_of(pid) for pid in pids())
    return {process.pid: process for process in found if process is not None}


def descendants(root: int) -> list[Process]:
    """Children, their children and so on, zombies included."""
    children: dict[int, list[Process]] = {}
    for process in processes().values():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    pending = [root]
    while pending:
        direct = children.pop(pending.pop(), [])
        found.extend(direct)
        pending.extend(process.pid for process in direct)
    return found


def send_exactly(target: Process, signum: int) -> bool:
    """Signals this very process; False when it has ended, even if its pid has been given to another."""
    if not hasattr(os, "pidfd_open"):
        return _kill_pid(target.pid, signum)
    try:
        pidfd = os.pidfd_open(target.pid)
    except OSError:
        return False
    try:
        # The descriptor pins the process; only now does a comparison of start times prove anything.
        now = process_of(target.pid)
        if now is None or now.start_ticks != target.start_ticks:
            return False
        signal.pidfd_send_signal(pidfd, signum)
    except OSError:
        return False
    finally:
        os.close(pidfd)
    return True


def _kill_pid(pid: int, signum: int) -> bool:
    try:
        os.kill(pid, signum)
    except OSError:
        return False
    return True


class Job:
    """What to run. On the wire: NUL-separated fields, as no argument, path or variable can hold a NUL.

    `tree` bounds the whole tree of an isolated command: `processes`, `memory` (bytes); it is empty elsewhere.
    """

    __slots__ = ("argv", "cwd", "env", "grace_s", "kill_s", "limits", "tree")

    def __init__(
        self,
        argv: list[bytes],
        cwd: bytes,
        env: list[bytes],
        limits: dict[str, int],
        grace_s: float,
        kill_s: float,
        tree: dict[str, int],
    ) -> None:
        self.argv, self.cwd, self.env, self.limits, self.tree = argv, cwd, env, limits, tree
        self.grace_s, self.kill_s = grace_s, kill_s

    def encode(self) -> bytes:
        limits, tree = (
            [f"{name}={value}".encode() for name, value in group.items()]
            for group in (self.limits, self.tree)
        )
        fields = [str(self.grace_s).encode(), str(self.kill_s).encode(), self.cwd]
        for group in (limits, tree, self.argv, self.env):
            fields += [str(len(group)).encode(), *group]
        return b"\0".join(fields)

    @classmethod
    def decode(cls, body: bytes) -> "Job":
        fields = iter(body.split(b"\0"))
        grace_s, kill_s, cwd = float(next(fields)), float(next(fields)), next(fields)
        limits, tree, argv, env = ([next(fields) for _ in range(int(next(fields)))] for _ in range(4))
        return cls(argv, cwd, env, _figures(limits), grace_s, kill_s, _figures(tree))


def _figures(entries: list[bytes]) -> dict[str, int]:
    return {name: int(value) for name, value in (entry.decode().split("=") for entry in entries)}


def _call(function: str, *arguments: int | None) -> None:
    """A function of the C library; nothing happens where it has none of that name. ctypes itself is imported only
    where its core has no such door: it takes as long as the rest of the guard's start."""
    try:
        import _ctypes

        library = _ctypes.dlopen(None, 2)  # type: ignore[arg-type]
        address = _ctypes.dlsym(library, function)
        _ctypes.call_function(address, arguments)
    except OSError:
        return
    except (ImportError, AttributeError):
        import ctypes

        found = getattr(ctypes.CDLL(None), function, None)
        if found is not None:
            found(*arguments)


def _prctl(option: int, value: int) -> None:
    """Linux only; elsewhere the process group is all that can be killed."""
    _call("prctl", option, value, 0, 0, 0)


def _shut_off() -> None:
    """As process 1: what the command could otherwise reach through /proc/1, ptrace and the user's key ring."""
    _prctl(PR_SET_DUMPABLE, 0)
    number = KEYCTL.get(os.uname().machine)
    if number is not None:
        _call("syscall", number, KEYCTL_JOIN_SESSION_KEYRING, None)


def start(job: Job) -> tuple[int, str | None]:
    """Forks the command, in a session of its own: (its pid, None), or (0, why it did not start)."""
    guard = os.getpid()
    reason_in, reason_out = os.pipe()  # closed by a successful exec
    pid = os.fork()
    if pid == 0:
        os.close(reason_in)
        _become(job, guard, reason_out)
    os.close(reason_out)
    with open(reason_in, "rb") as pipe:
        reason = pipe.read()
    if not reason:
        return pid, None
    os.waitpid(pid, 0)
    return 0, reason.decode(errors="replace")


def _become(job: Job, guard: int, reason_out: int) -> None:
    """In the child: turn into the command, or say why not. Never returns."""
    step = "prepare"
    try:
        _prepare(guard)
        step = "enter the working directory " + os.fsdecode(job.cwd)
        os.chdir(job.cwd)
        step = "start " + os.fsdecode(job.argv[0])
        environment = dict(entry.split(b"=", 1) for entry in job.env)
        _limit(job.limits)
        os.execvpe(job.argv[0], job.argv, environment)  # noqa: S606 (a shell is asked for by name)
    except BaseException as error:
        cause = error.strerror if isinstance(error, OSError) else repr(error)
        os.write(reason_out, f"cannot {step}: {cause}".encode(errors="replace")[:4096])
    finally:
        os._exit(127)


def _prepare(guard: int) -> None:
    os.setsid()
    _prctl(PR_SET_DUMPABLE, 1)  # else its own files in /proc are not its own until it has become the command
    # Should the guard itself be killed, at least its direct child goes with it.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != guard:
        os._exit(127)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(1, 2)
    for signum in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these two, and exec would keep that
        signal.signal(signum, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.nice(NICENESS)  # or a thousand processes at once would leave the guard no time to count them
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as score:
            score.write(OOM_SCORE)
    except OSError:
        pass  # a kernel or container without it: only a preference is lost


def _limit(limits: dict[str, int]) -> None:
    for name, wanted in limits.items():
        which = getattr(resource, "RLIMIT_" + name.upper(), None)
        if which is None:
            continue
        hard = resource.getrlimit(which)[1]
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))


class Supervision:
    """Watches one command until it has ended and no descendant of the guard is left."""

    def __init__(self, leader: int, job: Job, *, started: float, control: int, wake: int) -> None:
        self.leader, self.job, self.started = leader, job, started
        self.control, self.wake = control, wake
        self.ending: tuple[int | None, int | None] | None = None  # the leader's (exit code, signal)
        self.duration_ms = 0
        self.is_stopped = False  # an end was asked for while the command still ran
        self.kill_at: float | None = None
        self.survivors = 0
        self.unkilled = 0
        self.is_init = os.getpid() == 1
        self.exceeded = ""

    def run(self) -> None:
        while not self._is_over():
            self._wait(self.kill_at)
            self._watch()
        self._sweep()

    def _watch(self) -> None:
        """Ends a tree that has outgrown its bounds. Kernel limits do not reach so far: RLIMIT_NPROC does not hold
        for root, and memory is limited per process."""
        if not self.job.tree or self.ending is not None or self.kill_at is not None:
            return
        running = [pid for pid in pids() if pid != 1]
        processes_max, memory_max = self.job.tree.get("processes"), self.job.tree.get("memory")
        if processes_max is not None and len(running) > processes_max:
            self.exceeded = f"more than {processes_max} processes at once (sandbox.processes_max)"
        elif memory_max is not None and sum(map(_memory_of, running)) > memory_max:
            self.exceeded = f"more than {memory_max} bytes of memory at once (sandbox.memory_mib)"
        else:
            return
        self.kill_at = time.monotonic()

    def _is_over(self) -> bool:
        """True when nothing is worth waiting for: the rest is killed."""
        self._reap_strays()
        if self.kill_at is None:
            return self.ending is not None
        if time.monotonic() >= self.kill_at:
            return True
        # A shell dies of SIGTERM at once while its child still tidies up: the grace is the whole tree's.
        return self.ending is not None and not self._others()

    def _note_leader(self) -> None:
        """Looks without reaping: as a zombie the leader keeps its pid, and its group's, from being reused."""
        if self.ending is not None:
            return
        if hasattr(os, "waitid"):
            seen = os.waitid(os.P_PID, self.leader, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if seen is None:
                return
            exited = seen.si_code == os.CLD_EXITED
            self.ending = (seen.si_status, None) if exited else (None, seen.si_status)
        else:
            pid, status = os.waitpid(self.leader, os.WNOHANG)
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            self.ending = (code, None) if code >= 0 else (None, -code)
        self.duration_ms = round((time.monotonic() - self.started) * 1000)

    def _reap_strays(self) -> None:
        """Reaps adopted children that have died: a long command shall not fill the table with zombies."""
        self._note_leader()
        while self.ending is None and hasattr(os, "waitid"):
            dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if dead is None:
                return
            if dead.si_pid == self.leader:
                self._note_leader()
            else:
                os.waitpid(dead.si_pid, 0)

    def _others(self) -> list[Process]:
        """Living descendants besides the leader."""
        me = os.getpid()
        try:
            with open(f"/proc/self/task/{me}/children", "rb", buffering=0) as direct:
                has_only_leader = direct.read(4096).split() == [b"%d" % self.leader]
        except OSError:  # a kernel built without it: walk the process table
            has_only_leader = False
        if has_only_leader and self.ending is not None:
            return []
        return [process for process in descendants(me) if process.runs and process.pid != self.leader]

    def _wait(self, until: float | None) -> None:
        poll = select.poll()
        poll.register(self.wake, select.POLLIN)
        poll.register(self.control, select.POLLIN)
        left_ms = None if until is None else max(0.0, until - time.monotonic()) * 1000 + 1
        if left_ms is None and self.job.tree:
            left_ms = WATCH_S * 1000
        for fd, _ in poll.poll(left_ms):
            word = os.read(fd, 512)
            if fd == self.control:
                self._obey(word)
            elif set(word) - {signal.SIGCHLD}:  # the machine is being shut down
                self._obey(KILL)

    def _obey(self, word: bytes) -> None:
        self._note_leader()
        if self.ending is None:
            self.is_stopped = True
        if not word or KILL in word:
            self.kill_at = time.monotonic()
        elif ASK in word and self.kill_at is None:
            self.kill_at = time.monotonic() + self.job.grace_s
            self._signal_group(signal.SIGTERM)
            self._signal_group(signal.SIGCONT)  # a stopped process would not see the first

    def _signal_group(self, signum: int) -> None:
        try:
            os.killpg(self.leader, signum)
        except OSError:
            pass  # nobody is left in the group

    def _sweep(self) -> None:
        """Kills and reaps until no child is left, or the bound is reached."""
        had_ended = self.ending is not None
        killed: set[tuple[int, int]] = set()
        give_up_at = time.monotonic() + self.job.kill_s
        poll = select.poll()
        poll.register(self.wake, select.POLLIN)
        others = self._others()
        # One call for the whole group is atomic against fork: a fork bomb in it cannot outrun the walk.
        self._signal_group(signal.SIGKILL)
        while True:
            killed |= self._kill_namespace(others) if self.is_init else self._kill(others)
            if not self._reap():
                break
            if time.monotonic() >= give_up_at:  # another user's process, or one stuck in the kernel
                self.unkilled = len(self._others())
                break
            if poll.poll(ROUND_MS):
                os.read(self.wake, 512)
            others = self._others()
        self.survivors = max(0, len(killed) - self.unkilled) if had_ended else 0

    def _kill(self, others: list[Process]) -> set[tuple[int, int]]:
        killed = {(each.pid, each.start_ticks) for each in others if send_exactly(each, signal.SIGKILL)}
        return killed | self._pounce()

    @staticmethod
    def _kill_namespace(others: list[Process]) -> set[tuple[int, int]]:
        """One call that no fork can outrun: it spares only the caller."""
        _kill_pid(-1, signal.SIGKILL)
        return {(each.pid, each.start_ticks) for each in others}

    def _pounce(self) -> set[tuple[int, int]]:
        """Kills adopted children on sight, newest first.

        A process that forks and ends a thousand times a second has moved on before a walk of the whole table
        is over; its parent gone, its newest self is a child of the guard and stands last in the table.
        (With 400 other processes the walk alone took 0.7 s longer to catch one.)
        """
        me, killed = os.getpid(), set()
        for pid in sorted(pids(), reverse=True):
            process = process_of(pid)
            if process is None or process.parent != me or pid == self.leader or not process.runs:
                continue
            if send_exactly(process, signal.SIGKILL):
                killed.add((pid, process.start_ticks))
        return killed

    def _reap(self) -> bool:
        """Waits for what has died; False when no child of any kind is left."""
        try:
            self._reap_strays()
            while self.ending is not None and os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return False
        return True

    def report(self) -> str:
        """The status line: JSON, written by hand because every value is a number or a truth."""
        code, number = self.ending or (None, None)
        return (
            f'{{"exit_code": {_number(code)}, "signal": {_number(number)}, "unkilled": {self.unkilled}, '
            f'"stopped": {str(self.is_stopped).lower()}, "survivors": {self.survivors}, '
            f'"duration_ms": {self.duration_ms}, "exceeded": {_quoted(self.exceeded)}}}\n'
        )


def _memory_of(pid: int) -> int:
    """Bytes that are this process's own, without what it shares; 0 when it has ended."""
    try:
        with open(f"/proc/{pid}/statm", "rb", buffering=0) as statm:
            resident, shared = statm.read(256).split()[1:3]
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * resource.getpagesize()


def _number(value: int | None) -> str:
    return "null" if value is None else str(int(value))


def _wake_fd() -> int:
    """A pipe that becomes readable with the number of each signal that concerns the guard."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    # Process 1 of a namespace listens to no signal from inside; from outside bubblewrap ends it.
    heard = () if os.getpid() == 1 else (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    for signum in (signal.SIGCHLD, *heard):
        signal.signal(signum, lambda *_: None)
    return reader


def _say(status: int, line: str) -> None:
    try:
        os.write(status, line.encode())
    except OSError:
        pass  # the sidecar is gone: nobody is left to tell


def _quoted(text: str) -> str:
    """A JSON string, in ASCII."""
    units = text.encode("utf-16-be", "surrogatepass")
    return '"' + "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)) + '"'


def main(status: int, job_file: int) -> None:
    for fd in (0, status, job_file):
        os.set_inheritable(fd, False)
    if os.getpid() == 1:
        _shut_off()
    _say(status, UP.decode())
    if os.read(0, 1) != GO:  # the sidecar died or changed its mind: nothing has started
        return
    with open(job_file, "rb") as source:
        job = Job.decode(source.read())
    wake = _wake_fd()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    started = time.monotonic()
    leader, reason = start(job)
    if reason is not None:
        _say(status, f'{{"failed": {_quoted(reason)}}}\n')
        return
    supervision = Supervision(leader, job, started=started, control=0, wake=wake)
    supervision.run()
    _say(status, supervision.report())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # no interpreter shutdown: the sidecar waits for these pipes to close
