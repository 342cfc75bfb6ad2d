"""The one door for commands, with real processes: how commands end, and that nothing of them is left.

Every test runs without isolation and under bubblewrap, except where what it does is impossible in one of them, with the
compiled guard; and once more with its twin in Python.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentcom_sidecar import guard, guards, isolation, sandbox
from agentcom_sidecar.sandbox import (
    CappedOutput,
    CommandLimits,
    CommandResult,
    CommandSpec,
    Outcome,
    ProcessMark,
    SandboxUnavailable,
    View,
    kill_marked,
    kill_stale,
    mark_of,
    run_command,
)
from tests.isolating import need_isolation

_numbers = itertools.count(1)
_mode: Any = "off"

OFF, ISOLATED, TWIN = "off", "require", "-twin"


def only(*ways: str) -> Callable[[Any], Any]:
    """For a test of what differs."""

    def marked(function: Any) -> Any:
        function.ways = ways
        return function

    return marked


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    ways = getattr(metafunc.function, "ways", (OFF, ISOLATED))
    metafunc.parametrize("way", (*ways, f"{ways[0]}{TWIN}"), indirect=True)


@pytest.fixture(autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The mode in which `spec_of` has commands run."""
    global _mode
    if request.param.endswith(TWIN):
        monkeypatch.setattr(guards, "COMPILED", None)
    _mode = request.param.removesuffix(TWIN)
    if _mode == ISOLATED:
        need_isolation()
    return _mode


@pytest.fixture
def token() -> str:
    """A length of sleep that no other process on this machine has among its arguments."""
    return f"9{os.getpid()}.{next(_numbers)}"


def spec_of(tmp_path: Path, *argv: str, **settings: Any) -> CommandSpec:
    usual = {"cwd": tmp_path, "home": tmp_path / "home", "timeout_s": 60.0, "grace_s": 0.3, "mode": _mode}
    return CommandSpec(argv=argv, **{**usual, **settings})


def run(tmp_path: Path, *argv: str, **settings: Any) -> CommandResult:
    return asyncio.run(run_command(spec_of(tmp_path, *argv, **settings)))


def sh(tmp_path: Path, text: str, **settings: Any) -> CommandResult:
    return run(tmp_path, "sh", "-c", text, **settings)


def running(token: str) -> list[int]:
    """Living processes with the token among their arguments, ourselves apart."""
    found = []
    for process in guard.processes().values():
        try:
            arguments = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        except OSError:
            continue
        if process.runs and process.pid != os.getpid() and token.encode() in arguments:
            found.append(process.pid)
    return found


async def until(holds: Callable[[], bool], within_s: float = 30.0) -> None:
    give_up_at = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < give_up_at, "it did not come true in time"
        await asyncio.sleep(0.01)


class TestHowACommandEnds:
    def test_it_gives_way_to_its_guard_and_to_people(self, tmp_path: Path) -> None:
        usual = os.getpriority(os.PRIO_PROCESS, 0)
        assert int(sh(tmp_path, "nice").output) == min(19, usual + guard.NICENESS)

    def test_one_that_fills_the_disk_is_ended_while_there_is_room_for_others(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        full = tmp_path / "big"
        monkeypatch.setattr(sandbox, "room_of", lambda _folder: 0 if full.exists() else 2**40)
        result = sh(tmp_path, "trap 'exit 7' TERM; echo begun; echo much > big; while :; do sleep 0.1; done")
        assert (result.outcome, result.exit_code, result.signal) == (Outcome.EXITED, None, signal.SIGKILL)
        assert result.error is not None
        assert "less than 256 MiB were left on the disk of its directory; make room there" in result.error
        assert b"begun" in result.output

    def test_one_that_begins_on_a_full_disk_is_not_blamed_for_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sandbox, "room_of", lambda _folder: 0)
        assert sh(tmp_path, "sleep 0.7; echo done").exit_code == 0

    def test_its_exit_code_and_its_output_in_order(self, tmp_path: Path) -> None:
        result = sh(tmp_path, "echo one; echo two >&2; echo three; exit 3")
        assert (result.outcome, result.exit_code, result.signal) == (Outcome.EXITED, 3, None)
        assert result.output == b"one\ntwo\nthree\n"
        assert (result.truncated_bytes, result.survivors, result.unkilled) == (0, 0, 0)
        assert not result.succeeded

    def test_success_is_exit_code_zero(self, tmp_path: Path) -> None:
        assert run(tmp_path, "true").succeeded

    def test_a_signal_of_its_own_is_reported(self, tmp_path: Path) -> None:
        result = sh(tmp_path, "kill -SEGV $$")
        assert (result.outcome, result.exit_code, result.signal) == (Outcome.EXITED, None, signal.SIGSEGV)

    def test_its_duration_is_its_own(self, tmp_path: Path) -> None:
        assert run(tmp_path, "sleep", "0.2").duration_ms >= 200

    def test_a_missing_program_fails_to_start_and_says_so(self, tmp_path: Path) -> None:
        result = run(tmp_path, "no-such-program-here")
        assert (result.outcome, result.exit_code) == (Outcome.FAILED_TO_START, None)
        assert result.error == "cannot start no-such-program-here: No such file or directory"

    def test_a_missing_directory_fails_to_start_and_says_so(self, tmp_path: Path) -> None:
        result = run(tmp_path, "true", cwd=tmp_path / "gone")
        assert result.outcome is Outcome.FAILED_TO_START
        assert str(tmp_path / "gone") in (result.error or "")

    @pytest.mark.parametrize("argument", ["a\0b", "\ud800"])
    def test_an_argument_that_no_kernel_takes_fails_to_start(self, tmp_path: Path, argument: str) -> None:
        result = run(tmp_path, "echo", argument)
        assert result.outcome is Outcome.FAILED_TO_START
        assert result.error

    def test_an_argument_list_beyond_the_kernels_limit_fails_to_start(self, tmp_path: Path) -> None:
        result = run(tmp_path, "echo", "x" * 300_000)
        assert result.outcome is Outcome.FAILED_TO_START
        assert "Argument list too long" in (result.error or "")

    def test_it_runs_in_its_directory_with_no_input(self, tmp_path: Path) -> None:
        assert sh(tmp_path, "pwd; cat").output == f"{tmp_path}\n".encode()

    def test_arguments_and_variables_of_any_bytes_arrive_unchanged(self, tmp_path: Path) -> None:
        odd = "ü \udcff\n'\"="
        result = sh(tmp_path, 'printf %s "$ODD"', env={"ODD": odd})
        assert result.output == os.fsencode(odd)

    @only(OFF)
    def test_without_isolation_its_result_says_so(self, tmp_path: Path) -> None:
        result = run(tmp_path, "true")
        assert (result.sandbox, result.sandbox_reason) == ("none", 'sandbox.mode is "off"')

    @only(ISOLATED)
    def test_with_isolation_its_result_says_what_it_was(self, tmp_path: Path) -> None:
        found = [run(tmp_path, "true", mode=mode) for mode in ("auto", "require")]
        assert [(each.sandbox, each.sandbox_reason) for each in found] == [("bubblewrap", "")] * 2


class TestAHostThatCannotIsolate:
    @pytest.fixture(autouse=True)
    def _without_bubblewrap(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(isolation, "_found", None)
        monkeypatch.setattr(isolation.bubblewrap, "find", lambda: None)

    @only(OFF)
    def test_required_isolation_is_refused_before_anything_starts(self, tmp_path: Path) -> None:
        with pytest.raises(SandboxUnavailable, match=r'not installed.*set sandbox\.mode = "auto"') as refusal:
            run(tmp_path, "touch", "started", mode="require")
        assert refusal.value.code == "sandbox_unavailable"
        assert not (tmp_path / "started").exists()

    @only(OFF)
    def test_in_mode_auto_a_command_runs_and_its_result_says_why_nothing_isolates(self, tmp_path: Path) -> None:
        result = run(tmp_path, "true", mode="auto")
        assert (result.sandbox, result.sandbox_reason) == ("none", "bubblewrap is not installed")


class TestLimits:
    def test_r8_a_command_that_takes_too_long_is_ended(self, tmp_path: Path, token: str) -> None:
        result = sh(tmp_path, f"echo before; sleep {token}", timeout_s=1.5)
        assert result.outcome is Outcome.TIMED_OUT
        assert (result.signal, result.output) == (signal.SIGTERM, b"before\n")
        assert running(token) == []

    def test_r8_a_silent_command_is_ended(self, tmp_path: Path, token: str) -> None:
        result = sh(tmp_path, f"echo before; sleep {token}", silence_s=1.5)
        assert (result.outcome, result.output) == (Outcome.SILENT, b"before\n")
        assert running(token) == []

    def test_output_keeps_the_silence_watchdog_away(self, tmp_path: Path) -> None:
        result = sh(tmp_path, "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.25; done", silence_s=1.5)
        assert result.outcome is Outcome.EXITED
        assert result.duration_ms >= 2000

    def test_a_command_may_tidy_up_within_the_grace(self, tmp_path: Path) -> None:
        text = "trap 'echo tidy; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
        result = sh(tmp_path, text, timeout_s=1.5, grace_s=20.0)
        assert (result.outcome, result.exit_code) == (Outcome.TIMED_OUT, 7)
        assert result.output.endswith(b"tidy\n")

    def test_the_grace_is_the_whole_trees(self, tmp_path: Path) -> None:
        # The shell itself dies of SIGTERM at once; what it started needs a moment.
        inner = "trap 'sleep 0.3; echo tidy; exit' TERM; echo ready; while :; do sleep 0.05; done"
        result = sh(tmp_path, f'sh -c "{inner}"; true', timeout_s=1.5, grace_s=20.0)
        assert result.output.startswith(b"ready\n")
        assert result.output.endswith(b"tidy\n")

    def test_a_command_that_ignores_sigterm_is_killed(self, tmp_path: Path, token: str) -> None:
        text = f'trap "" TERM; echo ready; while :; do sleep {token}; done'
        result = sh(tmp_path, text, timeout_s=1.5)
        assert (result.outcome, result.signal, result.output) == (
            Outcome.TIMED_OUT,
            signal.SIGKILL,
            b"ready\n",
        )
        assert running(token) == []

    def test_a_stopped_command_is_ended(self, tmp_path: Path) -> None:
        result = sh(tmp_path, "kill -STOP $$", timeout_s=1.5)
        assert (result.outcome, result.signal) == (Outcome.TIMED_OUT, signal.SIGTERM)

    def test_the_middle_of_long_output_is_dropped_and_counted(self, tmp_path: Path) -> None:
        result = sh(tmp_path, "echo first; yes | head -c 3000000; echo last", output_max=1000)
        assert result.truncated_bytes == 3_000_011 - 1000
        assert result.output.startswith(b"first\ny\n")
        assert result.output.endswith(b"y\nlast\n")
        assert b"\n[... 2999011 bytes left out ...]\n" in result.output
        assert len(result.output) < 1100

    def test_a_flood_of_output_is_ended_in_time_and_kept_small(self, tmp_path: Path) -> None:
        result = run(tmp_path, "yes", timeout_s=0.5, output_max=4096)
        assert result.outcome is Outcome.TIMED_OUT
        assert result.truncated_bytes > 0
        assert len(result.output) < 4200

    def test_kernel_limits_hold_for_the_command(self, tmp_path: Path) -> None:
        limits = CommandLimits(open_files_max=99, file_bytes_max=4096)
        result = sh(
            tmp_path, "ulimit -n; ulimit -c; head -c 9999 /dev/zero > big; wc -c < big", limits=limits
        )
        assert result.output.split()[:2] == [b"99", b"0"]
        assert (tmp_path / "big").stat().st_size == 4096

    @pytest.mark.parametrize(
        "wrong", [{"timeout_s": 0}, {"silence_s": -1}, {"output_max": -1}, {"grace_s": -1}, {"mode": "maybe"}]
    )
    def test_a_spec_out_of_bounds_is_refused(self, tmp_path: Path, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match=next(iter(wrong))):
            spec_of(tmp_path, "true", **wrong)


class TestWhatACommandSees:
    def test_nothing_of_our_environment(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CANARY_API_KEY", "canary-value")
        result = run(tmp_path, "env", env={"EXTRA": "yes"})
        seen = dict(line.split("=", 1) for line in result.output.decode().splitlines())
        names = {"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TERM", "EXTRA", guard.MARKER}
        assert set(seen) == names
        assert (seen["HOME"], seen["TERM"], seen["EXTRA"]) == (str(tmp_path / "home"), "dumb", "yes")
        assert Path(seen["TMPDIR"]).is_dir()

    @only(OFF)
    def test_nothing_of_our_environment_in_its_parent_either(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CANARY_API_KEY", "canary-value")
        result = sh(tmp_path, "tr '\\0' '\\n' < /proc/$PPID/environ")
        assert result.output == b"LC_ALL=C.UTF-8\n"

    def test_no_program_is_taken_from_the_directory_it_runs_in(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", f".:bin::{os.environ['PATH']}")
        (tmp_path / "id").write_text("#!/bin/sh\necho planted\n")
        (tmp_path / "id").chmod(0o755)
        assert b"planted" not in run(tmp_path, "id").output

    def test_no_descriptor_but_the_three(self, tmp_path: Path) -> None:
        with (tmp_path / "open").open("wb") as ours:
            os.set_inheritable(ours.fileno(), True)
            result = sh(tmp_path, "ls /proc/self/fd; readlink /proc/self/fd/0")
        *numbers, stdin = result.output.decode().split()
        assert numbers == ["0", "1", "2", "3"]  # 3 is the directory that ls reads
        assert stdin == "/dev/null"

    def test_signals_as_a_login_shell_would_have_them(self, tmp_path: Path) -> None:
        # With SIGPIPE ignored, as Python has it, `yes` would end by an error message instead.
        assert sh(tmp_path, "yes | head -n 1").output == b"y\n"

    def test_the_guard_cannot_be_misled_by_modules_of_the_worktree(self, tmp_path: Path) -> None:
        for name in ("os", "signal", "select", "ctypes", "resource"):
            (tmp_path / f"{name}.py").write_text("raise SystemExit('planted')\n")
        assert run(tmp_path, "true").succeeded


class TestWhatAnIsolatedCommandMayHave:
    @only(ISOLATED)
    def test_the_network_when_its_view_has_it(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            call = f"import socket; socket.create_connection(('127.0.0.1', {listener.getsockname()[1]}), 3)"
            found = [
                run(tmp_path, sys.executable, "-I", "-c", call, view=View(network=network)).succeeded
                for network in (False, True)
            ]
        assert found == [False, True]

    @only(ISOLATED)
    def test_paths_that_its_view_names_and_what_is_hidden_in_them_is_empty(self, tmp_path: Path) -> None:
        place = tmp_path / "place"
        for path in ("place", "shown/kept", "shown/own"):
            (tmp_path / path).mkdir(parents=True)
            (tmp_path / path / "file").write_text("text\n")
        shown = tmp_path / "shown"
        view = View(readable=(shown,), hidden=(shown / "kept",), writable=(shown / "own",))
        text = "cat ../shown/own/file; ls ../shown/kept; echo x > ../shown/own/new; echo x > ../shown/new; ls /"
        result = run(tmp_path, "sh", "-c", text, cwd=place, home=tmp_path / "home", view=view)
        assert result.output.startswith(b"text\n")
        assert b"file" not in result.output.replace(b"Read-only file system", b"")
        assert (tmp_path / "shown/own/new").exists()
        assert not (tmp_path / "shown/new").exists()

    @only(ISOLATED)
    def test_no_more_processes_or_memory_than_its_bounds(self, tmp_path: Path) -> None:
        few = CommandLimits(tree_processes_max=12)
        result = sh(tmp_path, "for i in $(seq 40); do sleep 2 & done; wait", limits=few)
        # The kernel refuses the thirteenth to an ordinary user; of root the guard kills them all.
        assert b"fork" in result.output.lower() or (
            result.error == "killed: more than 12 processes at once (sandbox.processes_max)"
        )
        little = CommandLimits(tree_memory_bytes_max=64 << 20)
        text = "a = [bytearray(b'x') * (1 << 20) for _ in range(200)]; import time; time.sleep(30)"
        result = run(tmp_path, sys.executable, "-I", "-c", text, limits=little)
        assert (result.outcome, result.signal) == (Outcome.EXITED, signal.SIGKILL)
        assert result.error == f"killed: more than {64 << 20} bytes of memory at once (sandbox.memory_mib)"


class TestNothingIsLeft:
    def test_children_in_the_background_are_killed_and_counted(self, tmp_path: Path, token: str) -> None:
        result = sh(tmp_path, f"sleep {token} & sleep {token} & echo done")
        assert (result.outcome, result.exit_code, result.survivors) == (Outcome.EXITED, 0, 2)
        assert result.output == b"done\n"
        assert running(token) == []

    def test_a_daemon_that_left_session_and_parent_is_killed(self, tmp_path: Path, token: str) -> None:
        daemon = (
            "import os, sys, time\n"
            "if os.fork(): os._exit(0)\n"
            "os.setsid()\n"
            "if os.fork(): os._exit(0)\n"
            "os.closerange(0, 3); os.chdir('/')\n"
            "open(sys.argv[2], 'w').close()\n"
            "time.sleep(9999)\n"
        )
        flag = tmp_path / "daemon-runs"
        wait = f"while ! test -e '{flag}'; do sleep 0.02; done"
        text = f"'{sys.executable}' -c \"$DAEMON\" {token} '{flag}'; {wait}"
        result = sh(tmp_path, text, env={"DAEMON": daemon})
        assert (result.exit_code, result.survivors) == (0, 1)
        assert running(token) == []

    def test_a_time_out_ends_what_left_the_group_too(self, tmp_path: Path, token: str) -> None:
        text = f"setsid sh -c 'trap \"\" TERM HUP; sleep {token}; sleep {token}' & echo ready; sleep {token}"
        result = sh(tmp_path, text, timeout_s=1.5)
        assert (result.outcome, result.output) == (Outcome.TIMED_OUT, b"ready\n")
        assert running(token) == []

    def test_a_burst_of_forks_that_ignores_sigterm_is_killed(self, tmp_path: Path, token: str) -> None:
        bomb = (
            "import os, signal, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "for generation in range(7):\n"
            "    if os.fork() == 0 and generation % 2: os.setsid()\n"
            "print('up', flush=True)\n"
            "time.sleep(9999)\n"
        )

        async def scene() -> CommandResult:
            is_up = asyncio.Event()
            seen = bytearray()

            def note(chunk: bytes) -> None:
                seen.extend(chunk)
                if seen.count(b"up\n") == 2**7:
                    is_up.set()

            spec = spec_of(tmp_path, sys.executable, "-S", "-c", bomb, token)
            return await run_command(spec, on_output=note, stop=is_up)

        result = asyncio.run(scene())
        assert (result.outcome, result.signal) == (Outcome.CANCELLED, signal.SIGKILL)
        assert running(token) == []

    def test_a_process_that_keeps_forking_away_is_caught(self, tmp_path: Path, token: str) -> None:
        runner = (
            "import os, signal\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "print('running', flush=True)\n"
            "while True:\n"
            "    if os.fork(): os._exit(0)\n"
            "    os.setsid()\n"
        )
        result = sh(
            tmp_path, f"'{sys.executable}' -S -c \"$RUNNER\" {token}; sleep 0.3", env={"RUNNER": runner}
        )
        assert (result.exit_code, result.output, result.unkilled) == (0, b"running\n", 0)
        assert running(token) == []

    def test_adopted_children_do_not_pile_up_as_zombies(self, tmp_path: Path) -> None:
        text = (
            "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0 &) ; done; sleep 0.5; "
            "cat /proc/[0-9]*/stat 2>/dev/null | awk -v g=$PPID '$4 == g && $3 == \"Z\"' | wc -l"
        )
        assert sh(tmp_path, text).output.strip() == b"0"

    @only(OFF)
    def test_a_command_that_stops_its_guard_is_still_ended(self, tmp_path: Path, token: str) -> None:
        result = sh(tmp_path, f"kill -STOP $PPID; echo ready; sleep {token}", timeout_s=1.5)
        assert (result.outcome, result.output) == (Outcome.TIMED_OUT, b"ready\n")
        assert running(token) == []

    @only(ISOLATED)
    def test_an_isolated_command_cannot_reach_its_guard(self, tmp_path: Path) -> None:
        text = "kill -STOP 1; kill -KILL 1; kill -TERM 1; kill -HUP 1; sleep 0.1; echo goes on; exit 5"
        result = sh(tmp_path, text)
        assert (result.outcome, result.exit_code, result.output) == (Outcome.EXITED, 5, b"goes on\n")

    @only(OFF)
    def test_a_command_that_kills_its_guard_is_killed_with_all_it_started(
        self, tmp_path: Path, token: str
    ) -> None:
        text = f"(setsid sleep {token} &); echo ready; sleep 0.2; kill -KILL $PPID; sleep {token}"
        result = sh(tmp_path, text)
        assert (result.outcome, result.exit_code, result.signal) == (Outcome.EXITED, None, signal.SIGKILL)
        assert "guard" in (result.error or "")
        assert running(token) == []

    def test_no_thread_descriptor_or_child_of_ours_is_left(self, tmp_path: Path) -> None:
        def ours() -> tuple[int, int, int]:
            children = [each for each in guard.processes().values() if each.parent == os.getpid()]
            return threading.active_count(), len(os.listdir("/proc/self/fd")), len(children)

        async def several() -> None:
            before = ours()
            await asyncio.gather(*(run_command(spec_of(tmp_path, "true")) for _ in range(5)))
            await run_command(spec_of(tmp_path, "no-such-program-here"))
            await run_command(spec_of(tmp_path, "sleep", "99", timeout_s=0.2))
            assert ours() == before

        asyncio.run(several())


class TestCancel:
    def test_a_stop_ends_the_tree_and_keeps_the_output(self, tmp_path: Path, token: str) -> None:
        async def scene() -> CommandResult:
            stop = asyncio.Event()
            spec = spec_of(tmp_path, "sh", "-c", f"echo before; sleep {token} & sleep {token}")
            running_command = asyncio.ensure_future(run_command(spec, stop=stop))
            await until(lambda: len(running(token)) >= 3)  # the shell and both sleeps
            stop.set()
            return await running_command

        result = asyncio.run(scene())
        assert (result.outcome, result.signal, result.output) == (
            Outcome.CANCELLED,
            signal.SIGTERM,
            b"before\n",
        )
        assert running(token) == []

    @pytest.mark.parametrize("cancels", [1, 2, 5])
    def test_a_cancelled_task_ends_only_after_its_tree(
        self, tmp_path: Path, token: str, cancels: int
    ) -> None:
        async def scene() -> None:
            text = f"trap '' TERM; setsid sleep {token} & while :; do sleep {token}; done"
            task = asyncio.ensure_future(run_command(spec_of(tmp_path, "sh", "-c", text)))
            await until(lambda: len(running(token)) >= 3)
            for _ in range(cancels):
                task.cancel()
                await asyncio.sleep(0.02)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert running(token) == []

        asyncio.run(scene())

    def test_a_second_cancel_skips_the_grace(self, tmp_path: Path, token: str) -> None:
        async def scene() -> None:
            spec = spec_of(
                tmp_path, "sh", "-c", f"trap '' TERM; sleep {token}; sleep {token}", grace_s=3600.0
            )
            task = asyncio.ensure_future(run_command(spec))
            await until(lambda: len(running(token)) >= 2)
            task.cancel()
            await asyncio.sleep(0.05)
            assert not task.done()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(asyncio.shield(task), timeout=60)
            assert running(token) == []

        asyncio.run(scene())

    def test_a_cancel_at_the_very_start_leaves_nothing(self, tmp_path: Path, token: str) -> None:
        async def scene() -> None:
            task = asyncio.ensure_future(run_command(spec_of(tmp_path, "sleep", token)))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert running(token) == []

        asyncio.run(scene())

    def test_an_error_of_the_output_callback_ends_the_tree_and_is_raised(
        self, tmp_path: Path, token: str
    ) -> None:
        def refuse(chunk: bytes) -> None:
            raise RuntimeError(f"cannot take {chunk!r}")

        spec = spec_of(tmp_path, "sh", "-c", f"echo out; sleep {token}")
        with pytest.raises(RuntimeError, match="cannot take b'out"):
            asyncio.run(run_command(spec, on_output=refuse))
        assert running(token) == []

    def test_an_error_of_the_start_callback_means_that_nothing_starts(self, tmp_path: Path) -> None:
        def refuse(mark: ProcessMark) -> None:
            raise RuntimeError("disk full")

        with pytest.raises(RuntimeError, match="disk full"):
            asyncio.run(run_command(spec_of(tmp_path, "touch", "started"), on_start=refuse))
        assert not (tmp_path / "started").exists()

    def test_output_is_handed_on_as_it_comes(self, tmp_path: Path) -> None:
        chunks: list[bytes] = []
        result = asyncio.run(
            run_command(spec_of(tmp_path, "sh", "-c", "echo a; sleep 0.2; echo b"), on_output=chunks.append)
        )
        assert chunks == [b"a\n", b"b\n"]
        assert result.output == b"a\nb\n"


SIDECAR = """
import asyncio, sys
from pathlib import Path
from agentcom_sidecar.sandbox import CommandSpec, run_command

home, token, mode = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
daemon = f"(setsid setsid -f sleep {token} &)"
text = f"trap '' TERM HUP; sleep {token} & {daemon}; sleep {token}; sleep {token}"
spec = CommandSpec(argv=("sh", "-c", text), cwd=home, home=home, timeout_s=9999, mode=mode)

def started(mark):
    (home / "mark").write_text(f"{mark.pid} {mark.start_ticks} {mark.boot}")

asyncio.run(run_command(spec, on_start=started))
"""


class TestDeathOfTheSidecar:
    """A process that stands in for the sidecar runs a command, and is killed without warning."""

    @staticmethod
    def start_sidecar(tmp_path: Path, token: str) -> subprocess.Popen[bytes]:
        roots = [str(Path(sandbox.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(roots)}
        return subprocess.Popen([sys.executable, "-c", SIDECAR, tmp_path, token, _mode], env=environment)

    @staticmethod
    def mark_in(tmp_path: Path) -> ProcessMark:
        pid, ticks, boot = (tmp_path / "mark").read_text().split()
        return ProcessMark(int(pid), int(ticks), boot)

    def test_no_process_outlives_a_sidecar_killed_with_kill_9(self, tmp_path: Path, token: str) -> None:
        sidecar = self.start_sidecar(tmp_path, token)
        try:
            # The stand-in itself, the shell, three sleeps: here, in the background, and daemonised.
            asyncio.run(until(lambda: len(running(token)) >= 5))
        finally:
            sidecar.kill()
            sidecar.wait()
        asyncio.run(until(lambda: running(token) == []))
        asyncio.run(until(lambda: mark_of(self.mark_in(tmp_path).pid) is None))

    @only(OFF)
    def test_a_restarted_sidecar_kills_what_a_stuck_guard_could_not(self, tmp_path: Path, token: str) -> None:
        sidecar = self.start_sidecar(tmp_path, token)
        try:
            asyncio.run(until(lambda: len(running(token)) >= 5))
            mark = self.mark_in(tmp_path)
            os.kill(mark.pid, signal.SIGSTOP)
        finally:
            sidecar.kill()
            sidecar.wait()
        assert running(token)
        assert kill_stale([mark]) == 1
        assert running(token) == []
        assert mark_of(mark.pid) is None
        assert kill_stale([mark]) == 0

    @only(ISOLATED)
    def test_the_mark_of_an_isolated_command_is_enough_to_kill_it(self, tmp_path: Path, token: str) -> None:
        sidecar = self.start_sidecar(tmp_path, token)
        try:
            asyncio.run(until(lambda: len(running(token)) >= 5))
            mark = self.mark_in(tmp_path)
            os.kill(sidecar.pid, signal.SIGSTOP)  # so that it cannot see to the tree itself
            assert kill_marked(mark)
            assert len(running(token)) == 1  # the stopped stand-in
        finally:
            sidecar.kill()
            sidecar.wait()

    @only(OFF)
    def test_a_restarted_sidecar_finds_the_tree_of_a_guard_that_is_gone(
        self, tmp_path: Path, token: str
    ) -> None:
        sidecar = self.start_sidecar(tmp_path, token)
        try:
            asyncio.run(until(lambda: len(running(token)) >= 5))
            mark = self.mark_in(tmp_path)
            os.kill(sidecar.pid, signal.SIGSTOP)  # so that it cannot see to the tree itself
            os.kill(mark.pid, signal.SIGKILL)
        finally:
            sidecar.kill()
            sidecar.wait()
        asyncio.run(until(lambda: mark_of(mark.pid) is None))
        assert running(token)
        assert kill_marked(mark)
        assert running(token) == []

    @pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot": "another-boot"}])
    def test_a_reused_pid_is_never_killed(self, change: dict[str, Any]) -> None:
        bystander = subprocess.Popen(["sleep", "999"])
        try:
            mark = mark_of(bystander.pid)
            assert mark is not None
            fields = {"pid": mark.pid, "start_ticks": mark.start_ticks, "boot": mark.boot, **change}
            assert not kill_marked(ProcessMark(**fields))
            assert bystander.poll() is None
            assert kill_marked(mark)
            assert bystander.wait() == -signal.SIGKILL
        finally:
            bystander.kill()
            bystander.wait()


class TestCappedOutput:
    @pytest.mark.parametrize("chunk_bytes", [1, 3, 7, 1000])
    @pytest.mark.parametrize("bytes_max", [0, 1, 10, 99, 100, 101])
    def test_head_and_tail_are_kept_and_every_byte_is_accounted_for(
        self, chunk_bytes: int, bytes_max: int
    ) -> None:
        stream = bytes(33 + i % 90 for i in range(100))
        output = CappedOutput(bytes_max)
        for start in range(0, len(stream), chunk_bytes):
            output.add(stream[start : start + chunk_bytes])
        assert output.dropped_bytes == max(0, 100 - bytes_max)
        kept = output.render()
        head, tail = bytes_max // 2, bytes_max - bytes_max // 2
        if output.dropped_bytes:
            gap = f"\n[... {output.dropped_bytes} bytes left out ...]\n".encode()
            assert kept == stream[:head] + gap + stream[100 - tail :]
        else:
            assert kept == stream
