"""The sidecar as a process against a hub on a real socket: what it takes, delivers, kills and survives."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentcom import messages
from agentcom.auth import KeyPair, load_or_make_key
from agentcom.config import Home
from agentcom.messages import Accept, Decline, Endpoints, Heartbeat, Hello, Log, Pong, Result
from agentcom.model import FailureClass, Role, TaskSpec
from agentcom_sidecar import spare_keeper, spares
from tests.fake_hub import FakeHub
from tests.integration.test_workspace import git
from tests.standins.starter import standin

ROOT = Path(__file__).parents[2]
AGENTS = ("First Ship", "Second Ship")
WITHIN_S = 15.0


class Sidecar:
    """A sidecar process on `home`; it is killed when the test ends."""

    def __init__(self, home: Home, **environment: str) -> None:
        paths = os.pathsep.join(str(ROOT / part) for part in (".", "sidecar"))
        self.errors = home.logs / "sidecar.log"
        with self.errors.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.scripted_sidecar"],
                cwd=ROOT,
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(home.path),
                    "PYTHONPATH": paths,
                    "AGENTCOM_HOME": str(home.path),
                    "AGENTCOM_SIDECAR_NAME": "here",
                    "AGENTCOM_SIDECAR_KILL_GRACE_S": "0.3",
                    "AGENTCOM_SANDBOX_MODE": "off",  # commands leave marks that an isolated one cannot
                    "AGENTCOM_ENDPOINTS_DISCOVER": "http://127.0.0.1:1",
                    **environment,
                },
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def ready(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], WITHIN_S)[0], self.errors.read_text()
        line: dict[str, Any] = json.loads(self.process.stdout.readline() or "{}")
        return line

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> float:
        """Seconds that it took to end after SIGTERM."""
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        return time.monotonic() - started


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home").prepare()
    load_or_make_key(home.keys / "host.key")
    (home.sidecar / "agents.json").write_text(json.dumps({"agents": list(AGENTS)}))
    return home


@pytest.fixture
def hub(home: Home) -> Iterator[FakeHub]:
    with FakeHub(home) as hub:
        yield hub


@pytest.fixture
def start(home: Home) -> Iterator[Callable[..., Sidecar]]:
    started: list[Sidecar] = []

    def one(**environment: str) -> Sidecar:
        started.append(Sidecar(home, **environment))
        return started[-1]

    yield one
    for sidecar in started:
        with contextlib.suppress(ProcessLookupError):
            sidecar.process.kill()
        sidecar.process.wait(10)
        assert sidecar.process.stdout is not None
        sidecar.process.stdout.close()


def shell(command: str, **fields: Any) -> TaskSpec:
    return TaskSpec(description="Do it", command=command, **fields)


def until(holds: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < give_up_at, f"not within {WITHIN_S} s: {what}"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def sleeper(folder: Path) -> str:
    """A command that leaves its own session, writes its pid down and stays; `pid_of` reads that."""
    return (
        f"setsid sh -c 'echo $$ > {folder}/pid.new; mv {folder}/pid.new {folder}/pid; exec sleep 300' & wait"
    )


def pid_of(folder: Path) -> int:
    until((folder / "pid").exists, "the command has started")
    return int((folder / "pid").read_text())


def test_an_assignment_is_accepted_run_reported_and_forgotten_after_the_acknowledgement(
    home: Home, hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    sidecar = start()
    hello = hub.expect(Hello)
    assert hello.host is not None
    assert [agent.name for agent in hello.host.agents] == list(AGENTS)
    assert (hello.host.sandbox, hello.host.sandbox_note.split(":")[0]) == ("none", 'sandbox.mode is "off"')
    assert sidecar.ready() == {
        "ready": True,
        "host": "here",
        "agents": [f"here/{name}" for name in AGENTS],
        "pid": sidecar.process.pid,
    }
    spec = shell("echo hello")
    hub.assign(1, 1, f"here/{AGENTS[0]}", spec)
    accept = hub.expect(Accept)
    assert (accept.task, accept.attempt) == (1, 1)
    result = hub.expect(Result)
    assert result.outcome == "completed"
    assert result.result is not None
    assert result.result.output == "hello\n"
    assert result.result.spec_sha256 == hashlib.sha256(messages.encode(spec)).hexdigest()
    assert hub.expect(Log).text == "hello\n"
    assert (home.sidecar / "outbox" / "1-1.result").exists()
    assert not list((home.sidecar / "attempts").iterdir())
    hub.acknowledge(result)
    until(lambda: not list((home.sidecar / "outbox").iterdir()), "the outbox is empty")


def test_r1_a_result_is_sent_again_until_it_is_acknowledged(
    hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    start()
    hub.expect(Hello)
    hub.assign(1, 1, AGENTS[0], shell("true"))
    first, second, third = (hub.expect(Result) for _ in range(3))
    assert first == second == third


def test_an_attempt_is_on_disk_before_it_is_accepted(
    home: Home, hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    start()
    hub.expect(Hello)
    hub.assign(1, 1, AGENTS[0], shell("sleep 300"))
    hub.expect(Accept)
    assert (home.sidecar / "attempts" / "1-1.attempt").exists()


def test_heartbeats_list_each_running_attempt_and_its_progress(
    hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    start()
    hub.expect(Hello)
    hub.assign(1, 1, AGENTS[0], shell("while sleep 0.05; do echo tick; done"))
    early = hub.expect(Heartbeat, matching=lambda beat: any(each.progress > 1 for each in beat.attempts))
    later = hub.expect(
        Heartbeat,
        matching=lambda beat: any(each.progress > early.attempts[0].progress for each in beat.attempts),
    )
    assert (later.attempts[0].task, later.attempts[0].attempt) == (1, 1)
    assert later.beat > early.beat


def test_an_agent_that_is_busy_or_unknown_declines(hub: FakeHub, start: Callable[..., Sidecar]) -> None:
    start()
    hub.expect(Hello)
    hub.assign(1, 1, AGENTS[0], shell("sleep 300"))
    hub.expect(Accept)
    hub.assign(2, 1, AGENTS[0], shell("true"))
    assert hub.expect(Decline).code == "agent_busy"
    hub.assign(3, 1, "Nobody", shell("true"))
    declined = hub.expect(Decline)
    assert (declined.task, declined.code) == (3, "unknown_agent")
    hub.assign(4, 1, AGENTS[1], shell("true"))
    assert hub.expect(Result).task == 4


def test_an_assignment_that_comes_twice_runs_once(
    tmp_path: Path, hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    start()
    hub.expect(Hello)
    spec = shell(f"echo run >> {tmp_path}/runs; sleep 0.3")
    hub.assign(1, 1, AGENTS[0], spec)
    hub.assign(1, 1, AGENTS[0], spec)
    result = hub.expect(Result)
    hub.assign(1, 1, AGENTS[0], spec)
    assert hub.expect(Result) == result
    assert (tmp_path / "runs").read_text() == "run\n"


def test_r8_a_cancel_kills_the_whole_tree_and_is_answered(
    tmp_path: Path, hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    start()
    hub.expect(Hello)
    hub.assign(1, 1, AGENTS[0], shell(sleeper(tmp_path)))
    pid = pid_of(tmp_path)
    hub.send(messages.Cancel(task=1, attempt=1))
    assert hub.expect(Result).outcome == "cancelled"
    assert not is_alive(pid)


def test_a_cancel_of_what_is_not_here_is_answered_too(hub: FakeHub, start: Callable[..., Sidecar]) -> None:
    start()
    hub.expect(Hello)
    hub.send(messages.Cancel(task=9, attempt=3))
    result = hub.expect(Result)
    assert (result.task, result.attempt, result.outcome) == (9, 3, "cancelled")


def test_the_next_attempt_of_a_large_repository_works_in_the_spare_that_was_made_meanwhile(
    tmp_path: Path, home: Home, hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    repo = tmp_path / "repo"
    repo.mkdir()
    git(repo, "init", "--quiet", "-b", "main")
    for number in range(spare_keeper.FILES_MIN):
        (repo / f"file-{number}.txt").write_text(f"{number}\n")
    git(repo, "add", "--all")
    git(repo, "commit", "--quiet", "-m", "first")
    spec = shell("basename $(git rev-parse --git-dir); git status --short", repo=str(repo))

    def worktree_of(task: int) -> str:
        hub.assign(task, 1, AGENTS[0], spec, submitter_role=Role.admin)
        result = hub.expect(Result, matching=lambda each: each.task == task)
        hub.acknowledge(result)
        assert result.result is not None
        return result.result.output

    def spare() -> str:
        until(lambda: len(spares.made(home)) == 1, "a spare is there")
        return f"{spares.made(home)[0].name}\n"

    sidecar = start()
    hub.expect(Hello)
    assert worktree_of(1) == "1-1\n"
    first = spare()
    assert worktree_of(2) == first
    second = spare()
    assert second != first
    sidecar.kill()
    start()
    hub.expect(Hello)
    assert worktree_of(3) == second, "it outlives the sidecar"


def test_a_heartbeats_answer_ends_an_attempt_that_is_no_longer_leased(
    tmp_path: Path, hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    start()
    hub.expect(Hello)
    hub.assign(1, 1, AGENTS[0], shell(sleeper(tmp_path)))
    pid = pid_of(tmp_path)
    hub.kill = (messages.AttemptBeat(task=1, attempt=1),)
    hub.expect(Result, matching=lambda result: result.outcome == "cancelled")
    assert not is_alive(pid)


def test_a_new_pace_is_kept_from_the_heartbeat_on_whose_answer_told_it(
    hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    """At the old pace the second heartbeat would come in an hour."""
    hub.heartbeat_s, hub.lease_s = 3600, 10_800
    hub.pace = messages.Pace(heartbeat_s=0.05, lease_s=2, probe_every_s=10)
    start()
    hub.expect(Hello)
    assert [hub.expect(Heartbeat).beat for _ in range(3)] == [1, 2, 3]


def test_r4_a_hub_that_forgot_the_session_is_greeted_again_and_told_what_runs(
    hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    start()
    first = hub.expect(Hello)
    hub.assign(1, 1, AGENTS[0], shell("sleep 300"))
    hub.expect(Accept)
    hub.forget_session()
    again = hub.expect(Hello)
    assert again.process == first.process
    assert again.host is not None
    assert [(held.task, held.attempt, held.state) for held in again.host.attempts] == [(1, 1, "running")]
    assert again.host.attempts[0].agent == AGENTS[0]
    hub.expect(Heartbeat, matching=lambda beat: len(beat.attempts) == 1)


def test_a_hub_that_is_busy_with_the_process_before_is_asked_again(
    hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    hub.refusal = messages.Error(
        code="busy", message="another process of this key is here", retry_after_s=0.1
    )
    sidecar = start()
    hub.expect(Hello)
    hub.expect(Hello)
    hub.refusal = None
    assert sidecar.ready()["host"] == "here"


def test_a_hub_that_no_longer_answers_is_given_up_and_greeted_on_a_new_connection(
    hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    start()
    hub.expect(Hello)
    hub.answers_beats = False
    assert hub.expect(Hello, within_s=30).host is not None


@pytest.mark.parametrize("is_moved", [False, True], ids=["same address", "another address"])
def test_a_result_made_while_the_hub_was_down_is_delivered_when_it_is_back(
    tmp_path: Path, home: Home, start: Callable[..., Sidecar], is_moved: bool
) -> None:
    key = KeyPair.make()
    with FakeHub(home, key=key) as hub:
        start()
        hub.expect(Hello)
        hub.assign(1, 1, AGENTS[0], shell(f"until test -e {tmp_path}/go; do sleep 0.02; done; echo made"))
        hub.expect(Accept)
        port = hub.port
    (tmp_path / "go").touch()
    until((home.sidecar / "outbox" / "1-1.result").exists, "the result is in the outbox")
    with FakeHub(home, key=key, port=0 if is_moved else port) as hub:
        hello = hub.expect(Hello, within_s=30)
        assert hello.host is not None
        assert [held.state for held in hello.host.attempts] == ["finished"]
        result = hub.expect(Result)
        assert result.result is not None
        assert result.result.output == "made\n"


def test_an_attempt_that_goes_on_through_a_restart_of_the_hub_is_kept(
    tmp_path: Path, home: Home, start: Callable[..., Sidecar]
) -> None:
    key = KeyPair.make()
    with FakeHub(home, key=key) as hub:
        start()
        hub.expect(Hello)
        hub.assign(1, 1, AGENTS[0], shell(f"until test -e {tmp_path}/go; do sleep 0.02; done; echo made"))
        hub.expect(Accept)
        port = hub.port
    with FakeHub(home, key=key, port=port) as hub:
        hello = hub.expect(Hello)
        assert hello.host is not None
        assert [held.state for held in hello.host.attempts] == ["running"]
        (tmp_path / "go").touch()
        assert hub.expect(Result).outcome == "completed"


def test_a_verdict_to_kill_ends_the_attempt(
    tmp_path: Path, home: Home, start: Callable[..., Sidecar]
) -> None:
    def kill(held: messages.AttemptHeld) -> messages.Verdict:
        return messages.Verdict(task=held.task, attempt=held.attempt, verdict="kill")

    with FakeHub(home, verdict=kill) as hub:
        start()
        hub.expect(Hello)
        hub.assign(1, 1, AGENTS[0], shell(sleeper(tmp_path)))
        pid = pid_of(tmp_path)
        hub.forget_session()
        until(lambda: not is_alive(pid), "the attempt's process is dead")


def test_nothing_survives_a_killed_sidecar_and_the_next_start_reports_interrupted(
    tmp_path: Path, home: Home, hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    sidecar = start()
    first = hub.expect(Hello)
    hub.assign(1, 1, AGENTS[0], shell(sleeper(tmp_path)))
    pid = pid_of(tmp_path)
    sidecar.kill()
    until(lambda: not is_alive(pid), "the attempt's process is dead")
    start()
    hello = hub.expect(Hello)
    assert hello.process != first.process
    assert hello.host is not None
    assert [(held.task, held.attempt, held.state) for held in hello.host.attempts] == [(1, 1, "interrupted")]
    assert [agent.name for agent in hello.host.agents] == list(AGENTS)
    result = hub.expect(Result)
    assert result.outcome == "interrupted"
    assert result.error is not None
    assert (result.error.failure_class, result.error.code) == (
        FailureClass.infrastructure,
        "sidecar_restarted",
    )
    assert not list((home.sidecar / "attempts").iterdir())


def test_what_a_killed_guard_left_behind_is_killed_at_the_next_start(
    tmp_path: Path, hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    """The guard dies with its sidecar here, so that nobody but the record on disk knows of its tree."""
    sidecar = start()
    hub.expect(Hello)
    hub.assign(1, 1, AGENTS[0], shell(sleeper(tmp_path)))
    pid = pid_of(tmp_path)
    sidecar.process.send_signal(signal.SIGSTOP)
    until(lambda: psutil.Process(sidecar.process.pid).status() == psutil.STATUS_STOPPED, "the sidecar is stopped")
    # From here on it takes note of no child that ends, so that each number is still that child's.
    for each in Path(f"/proc/{sidecar.process.pid}/task/{sidecar.process.pid}/children").read_text().split():
        os.kill(int(each), signal.SIGKILL)
    sidecar.kill()
    assert is_alive(pid)
    start()
    hub.expect(Result, matching=lambda result: result.outcome == "interrupted")
    assert not is_alive(pid)


def test_a_stop_ends_what_runs_tells_the_hub_and_takes_less_than_three_seconds(
    tmp_path: Path, hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    sidecar = start()
    hub.expect(Hello)
    stubborn = f"trap '' TERM; {sleeper(tmp_path)}; sleep 300"
    hub.assign(1, 1, AGENTS[0], shell(stubborn))
    pid = pid_of(tmp_path)
    assert sidecar.stop() < 3
    assert sidecar.process.returncode == 0
    assert not is_alive(pid)
    result = hub.expect(Result)
    assert result.error is not None
    assert (result.outcome, result.error.code) == ("interrupted", "sidecar_stopped")
    hub.expect(messages.Bye)


def test_no_model_is_called_while_the_hub_has_been_silent_for_a_lease(
    tmp_path: Path, home: Home, start: Callable[..., Sidecar]
) -> None:
    key = KeyPair.make()
    with FakeHub(home, key=key, lease_s=0.8) as hub:
        start()
        hub.expect(Hello)
        command = f"until test -e {tmp_path}/go; do sleep 0.02; done; sleep 1; touch {tmp_path}/done"
        hub.assign(1, 1, AGENTS[0], shell(command, labels=("gate",)))
        hub.expect(Accept)
        port = hub.port
    (tmp_path / "go").touch()
    until((tmp_path / "done").exists, "the command has ended, a lease length after the hub")
    time.sleep(0.5)
    assert not (home.sidecar / "outbox" / "1-1.result").exists()
    with FakeHub(home, key=key, port=port, lease_s=0.8) as hub:
        assert hub.expect(Result).outcome == "completed"


def test_the_work_of_an_attempt_is_a_branch_in_the_mirror(
    tmp_path: Path, home: Home, hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    git(checkout, "init", "--quiet", "--initial-branch=main")
    (checkout / "file.txt").write_text("one\n")
    git(checkout, "add", "--all")
    git(checkout, "commit", "--quiet", "-m", "first")
    start()
    hub.expect(Hello)
    hub.assign(5, 2, AGENTS[0], shell("echo two >> file.txt", repo=str(checkout)))
    result = hub.expect(Result).result
    assert result is not None
    assert result.branch == "agentcom/5/2-do-it"
    (mirror,) = (home.sidecar / "mirrors").glob("*.git")
    assert git(mirror, "rev-parse", result.branch) == result.commit
    assert git(mirror, "show", f"{result.branch}:file.txt") == "one\ntwo"


def test_r3_heartbeats_go_on_while_an_attempt_waits_for_its_repository_and_a_cancel_ends_the_wait(
    tmp_path: Path, home: Home, hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    (tmp_path / "repository").mkdir()
    name = hashlib.sha256(str(tmp_path / "repository").encode()).hexdigest()
    (home.sidecar / "mirrors").mkdir()
    with (home.sidecar / "mirrors" / f"{name}.lock").open("w") as mirror:
        fcntl.flock(mirror, fcntl.LOCK_EX)
        start()
        hub.expect(Hello)
        hub.assign(1, 1, AGENTS[0], shell("true", repo=str(tmp_path / "repository")))
        for _ in range(3):
            hub.expect(Heartbeat, matching=lambda beat: len(beat.attempts) == 1)
        hub.send(messages.Cancel(task=1, attempt=1))
        assert hub.expect(Result).outcome == "cancelled"


def test_a_repository_that_the_submitter_may_not_name_fails_as_configuration(
    tmp_path: Path, hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    start()
    hub.expect(Hello)
    hub.assign(1, 1, AGENTS[0], shell("true", repo=str(tmp_path)), submitter_role=Role.submit)
    error = hub.expect(Result).error
    assert error is not None
    assert (error.failure_class, error.code) == (FailureClass.configuration, "repository_refused")


def test_a_ping_is_answered(hub: FakeHub, start: Callable[..., Sidecar]) -> None:
    start()
    hub.expect(Hello)
    hub.send(messages.Ping(agent=AGENTS[1]))
    assert hub.expect(Pong).agent == AGENTS[1]


def test_a_model_server_on_loopback_is_reported_and_one_that_never_answered_is_not(
    hub: FakeHub, start: Callable[..., Sidecar]
) -> None:
    with standin(
        "ollama", script={"models": [{"name": "small:1b", "warm": True}, {"name": "large:9b"}]}
    ) as ollama:
        start(AGENTCOM_ENDPOINTS_DISCOVER=f"http://127.0.0.1:1,{ollama.url}")
        hub.expect(Hello)
        (sighting,) = hub.expect(Endpoints).sightings
        assert sighting.url == ollama.url
        assert sighting.probe.models is not None
        assert {(model.name, model.warm) for model in sighting.probe.models} == {
            ("small:1b", True),
            ("large:9b", False),
        }
        hub.probe = ("http://127.0.0.1:1", "http://10.0.0.1:11434")
        reasons: dict[str, str] = {}
        while len(reasons) < 2:
            told = hub.expect(Endpoints).sightings
            reasons |= {each.url: each.probe.reason for each in told if not each.probe.healthy}
        assert set(reasons) == {"http://127.0.0.1:1", "http://10.0.0.1:11434"}
        assert "loopback" in reasons["http://10.0.0.1:11434"]


def test_a_second_sidecar_on_the_same_home_is_refused(hub: FakeHub, start: Callable[..., Sidecar]) -> None:
    first = start()
    hub.expect(Hello)
    second = start()
    assert second.process.wait(WITHIN_S) == 1
    assert "already runs on" in second.errors.read_text()
    assert str(first.process.pid) in second.errors.read_text()


def test_a_home_that_joined_no_hub_is_told_to_join(tmp_path: Path) -> None:
    home = Home(tmp_path / "fresh").prepare()
    sidecar = Sidecar(home)
    assert sidecar.process.wait(WITHIN_S) == 1
    assert "agentcom join CODE" in sidecar.errors.read_text()
    assert sidecar.process.stdout is not None
    sidecar.process.stdout.close()


def test_a_sidecar_that_was_replaced_stops_and_says_why(hub: FakeHub, start: Callable[..., Sidecar]) -> None:
    sidecar = start()
    hub.expect(Hello)
    hub.send(messages.Error(code="replaced", message="another process"))
    assert sidecar.process.wait(WITHIN_S) == 4
    assert "must not share a key" in sidecar.errors.read_text()


def test_a_message_that_cannot_be_read_does_no_harm(hub: FakeHub, start: Callable[..., Sidecar]) -> None:
    start()
    hub.expect(Hello)
    hub.send_raw(b"\xff\x00not a message")
    hub.send(messages.Error(code="storage_full", message="no room"))
    hub.assign(1, 1, AGENTS[0], shell("true"))
    assert hub.expect(Result).outcome == "completed"
