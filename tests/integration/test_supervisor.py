"""The supervisor of `agentcom up` with children that are real processes, and `up` itself on a real hub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from agentcom.config import Home
from agentcom.supervisor import StartFailed, Supervisor, bound_log, hub_pid, only_one, read_start

READY = "import json, os; print(json.dumps({'ready': True, 'pid': os.getpid()}), flush=True)\n"
FOLLOW = "from agentcom import lifeline; lifeline.follow_parent()\n"
SLEEP = "import time\nwhile True: time.sleep(0.05)\n"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"


def python(*parts: str) -> list[str]:
    return [sys.executable, "-c", "".join(parts)]


def eventually(true: Callable[[], bool], within_s: float = 20) -> None:
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def supervisor(home: Home, told: list[str]) -> Iterator[Supervisor]:
    made = Supervisor(home, os.environ, told.append)
    yield made
    made.stop()


def test_a_child_is_started_when_it_has_said_that_it_is_ready(supervisor: Supervisor) -> None:
    ready = supervisor.start("one", python("print('loading')\n", READY, SLEEP), 20)
    assert ready["ready"] is True
    assert alive(ready["pid"])


def test_a_child_that_ends_before_it_is_ready_fails_the_start_with_its_last_words(
    supervisor: Supervisor,
) -> None:
    with pytest.raises(StartFailed, match="address in use"):
        supervisor.start("one", python("import sys; sys.exit('address in use')"), 20)


def test_a_child_that_ends_is_started_again_with_what_it_is_to_keep(
    supervisor: Supervisor, home: Home, told: list[str]
) -> None:
    command = python("import os; print(os.environ.get('PORT'), flush=True)\n", READY, SLEEP)
    first = supervisor.start("one", command, 20, PORT="0")
    supervisor.keep("one", PORT="4711")
    os.kill(first["pid"], signal.SIGKILL)
    log = home.logs / "one.log"
    supervisor.run(until=lambda: "4711" in log.read_text())
    assert log.read_text().startswith("0\n")
    assert len(told) == 1
    assert "one ended (SIGKILL); it starts again in 0.5 s" in told[0]


def test_the_wait_before_a_restart_doubles(supervisor: Supervisor, told: list[str], tmp_path: Path) -> None:
    marker = tmp_path / "started"
    once = f"import os, sys\nif os.path.exists({str(marker)!r}): sys.exit(3)\nopen({str(marker)!r}, 'w')\n"
    supervisor.start("one", python(once, READY), 20)
    supervisor.run(until=lambda: len(told) == 3)
    assert [line.split("again in ")[1].split(";")[0] for line in told] == ["0.5 s", "1 s", "2 s"]


def test_a_child_whose_end_is_seen_before_the_end_of_its_output_starts_again(
    supervisor: Supervisor, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The next child's pipe gets the number of the one that is closed, which must not be watched any more.
    supervisor.start("one", python(READY), 20)
    monkeypatch.setattr(supervisor, "_listen", lambda _timeout_s: time.sleep(0.02))
    supervisor.run(until=lambda: len(told) == 2)
    assert all("one ended (exit code 0)" in line for line in told)


def test_a_child_that_ignores_term_is_killed_with_all_of_its_session(home: Home, tmp_path: Path) -> None:
    supervisor = Supervisor(home, os.environ, lambda _line: None)
    grandchild = (
        "import subprocess, sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(p.pid))\n"
    )
    ready = supervisor.start("one", python(STUBBORN, grandchild, READY, SLEEP), 20)
    pid = int((tmp_path / "pid").read_text())
    started = time.monotonic()
    supervisor.stop()
    assert time.monotonic() - started < 3
    eventually(lambda: not alive(pid) and not alive(ready["pid"]))


def test_a_child_ends_when_its_supervisor_is_killed(home: Home) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from agentcom.config import Home\nfrom agentcom.supervisor import Supervisor\n"
        f"s = Supervisor(Home(Path({str(home.path)!r})), os.environ, print)\n"
        f"ready = s.start('one', [sys.executable, '-c', {FOLLOW + READY + SLEEP!r}], 20)\n"
        "print(ready['pid'], flush=True)\ns.run()\n"
    )
    process = subprocess.Popen(python(program), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        child = int(process.stdout.readline())
    assert alive(child)
    process.kill()
    process.wait(10)
    eventually(lambda: not alive(child))


def test_a_log_that_is_too_long_is_moved_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentcom.supervisor.LOG_BYTES_MAX", 10)
    log = tmp_path / "hub.log"
    with log.open("ab") as writer:
        writer.write(b"x" * 11)
        writer.flush()
        bound_log(log)
        writer.write(b"after")
    assert (tmp_path / "hub.log.1").read_bytes() == b"x" * 11
    assert log.read_bytes() == b"after"


def test_only_one_up_runs_on_a_home(home: Home) -> None:
    program = (
        "from pathlib import Path\nfrom agentcom.config import Home\nfrom agentcom.supervisor import only_one\n"
        f"with only_one(Home(Path({str(home.path)!r}))): pass\n"
    )
    with only_one(home):
        done = subprocess.run(python(program), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert f"(process {os.getpid()})" in done.stderr


class Up:
    """`agentcom up` on free ports, without the page, as a process of its own."""

    def __init__(self, home: Path, *arguments: str, cwd: Path | None = None) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AGENTCOM_")}
        self.environment = {**environment, "AGENTCOM_HOME": str(home)}
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "agentcom.cli", "up", "--json", "--no-web", "--hub-port", "0", *arguments],
            env=self.environment,
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.stderr and self.process.stderr.read()
        return dict(json.loads(line))

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "agentcom.cli", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.communicate(timeout=30)
        return self.process.returncode


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    started = Up(tmp_path / "home")
    yield started
    started.end()


def test_up_says_in_one_line_where_everything_is(up: Up, tmp_path: Path) -> None:
    ready = up.ready()
    assert set(ready) == {"ready", "http", "hub", "feed", "home", "pid", "token_file"}
    assert (ready["ready"], ready["pid"], ready["home"]) == (True, up.process.pid, str(tmp_path / "home"))
    assert ready["hub"] != ready["feed"]
    assert Path(ready["token_file"]).stat().st_mode & 0o777 == 0o600
    start = read_start(Home(tmp_path / "home"))
    assert start is not None
    assert start.pid == up.process.pid


def test_no_file_of_the_working_directory_stands_in_for_a_module_of_a_daemon(tmp_path: Path) -> None:
    for name in ("msgspec.py", "zmq.py", "flask.py", "agentcom_sidecar.py"):
        (tmp_path / name).write_text("raise SystemExit('shadowed')\n")
    up = Up(tmp_path / "home", cwd=tmp_path)
    try:
        assert up.ready()["ready"] is True
    finally:
        up.end()


def test_the_first_task_runs_on_the_host_that_up_joined(up: Up) -> None:
    up.ready()
    done = up.cli("demo", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["status"] == "verified"


def test_up_refuses_a_home_on_which_a_hub_runs(up: Up) -> None:
    up.ready()
    second = up.cli("up", "--json")
    assert second.returncode == 1
    assert second.stdout == ""
    assert second.stderr.count("\n") == 1
    assert "runs on" in second.stderr


def test_up_with_a_demo_goes_to_the_hub_that_runs(up: Up) -> None:
    up.ready()
    done = up.cli("up", "--demo")
    assert done.returncode == 0, done.stderr
    assert "verified" in done.stdout


def test_term_ends_all_within_three_seconds_and_what_was_submitted_stays(up: Up, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    up.ready()
    children = psutil.Process(up.process.pid).children(recursive=True)
    assert children
    assert up.cli("submit", "wait for a model").returncode == 0
    token = (home.run / "token").read_text()
    started = time.monotonic()
    assert up.end() == 0
    assert time.monotonic() - started < 3
    assert [
        child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    ] == []
    assert hub_pid(home) is None
    again = Up(tmp_path / "home")
    try:
        again.ready()
        assert (
            json.loads(again.cli("task", "show", "1", "--json").stdout)["description"] == "wait for a model"
        )
        assert (home.run / "token").read_text() == token
    finally:
        again.end()


def test_a_hub_that_is_killed_comes_back_where_it_was(up: Up, tmp_path: Path) -> None:
    ready = up.ready()
    home = Home(tmp_path / "home")
    pid = hub_pid(home)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: hub_pid(home) not in (pid, None))
    done = up.cli("demo", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads((home.run / "hub.json").read_bytes())["hub"] == ready["hub"]


def test_up_once_ends_after_the_demo_with_its_code(tmp_path: Path) -> None:
    once = Up(tmp_path / "home", "--demo", "--once")
    output, errors = once.process.communicate(timeout=120)
    assert once.process.returncode == 0, errors
    assert json.loads(output)["ready"] is True
    assert "verified" in errors
